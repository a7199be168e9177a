//! The operators' console at `/console`: pages for a browser on the same functions as the API.
//!
//! Server-rendered (askama escapes whatever is put into a page), with one style sheet and one small
//! script embedded in the binary; it works without the script. Every page but the sign-in needs a
//! session (`session`), every form carries that session's token, and nothing on a page comes from
//! another site or stands inline (`guard`). An action answers with a redirect to a page with
//! its result, or with the reason and an error status.
//!
//! Live updates are the page itself, fetched again every two seconds by the script, which swaps the
//! parts marked `data-live`. A crash leaves nothing behind: there is no state but the cookie, and
//! in the database which sessions were signed out.

mod assets;
mod audit;
mod charts;
mod dead_letter_actions;
mod dead_letters;
mod evidence;
mod fields;
mod format;
mod guard;
mod jobs;
mod layout;
mod overview;
mod page_error;
mod quantiles;
mod queues;
mod rejected_webhooks;
mod session;
mod sign_in;
mod transactions;

use std::sync::Arc;

use poem::{Endpoint, EndpointExt, Response, Route, get, post};

use self::{session::Sessions, sign_in::SignInGate};
use super::ApiState;

/// What the console works with, besides what all requests do.
#[derive(Debug)]
struct Console {
    /// `None` where no operator token is configured: the console is closed.
    sessions: Option<Sessions>,
    gate: SignInGate,
    /// Whether browsers reach this process by https.
    public_is_https: bool,
    /// The public URL's origin, `https://host`; `None` where no public URL is set.
    public_origin: Option<String>,
}

/// All pages, below `/console`.
pub fn routes(state: &ApiState) -> impl Endpoint<Output = Response> + use<> {
    let console = Console {
        sessions: Sessions::new(state.operator_tokens.hashes()),
        gate: SignInGate::default(),
        public_is_https: state.public_is_https,
        public_origin: state.public_origin.clone(),
    };
    Route::new()
        .at("/sign-in", get(sign_in::show_form).post(sign_in::sign_in))
        .at("/sign-out", post(sign_in::sign_out))
        .at("/assets/:hash/:name", get(assets::show_asset))
        .at("/", get(overview::show_overview))
        .at("/transactions", get(transactions::list_transactions))
        .at("/transactions/:id", get(transactions::show_transaction))
        .at("/dead-letters", get(dead_letters::list_dead_letters))
        .at("/dead-letters/:id", get(dead_letters::show_dead_letter))
        .at("/dead-letters/confirm", get(dead_letter_actions::confirm_action))
        .at("/dead-letters/act", post(dead_letter_actions::act))
        .at("/dead-letters/result", get(dead_letter_actions::show_result))
        .at("/jobs", get(jobs::list_jobs))
        .at("/jobs/:id", get(jobs::show_job))
        .at("/jobs/:id/:action", get(jobs::show_job_of_action).post(jobs::act_on_job))
        .at("/queues", get(queues::list_queues))
        .at("/queues/:queue/:change", get(queues::confirm_change).post(queues::change_queue))
        .at("/rejected-webhooks", get(rejected_webhooks::list_rejected_webhooks))
        .at("/audit", get(audit::list_actions))
        .around(guard::call)
        .data(Arc::new(console))
        .map_to_response()
}
