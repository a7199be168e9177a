//! Whether a refusal (401, 403 or 407) is about our credentials or about one transaction.
//!
//! Refused credentials are no transaction's fault: the third party's queues are held, no attempt
//! and no deadline is used, until a call is answered otherwise. A refusal of one transaction alone
//! must hold nothing, and must not be repeated for ever.
//!
//! For a lookup the process finds out: it looks up an id that was never used. If that is refused
//! too, the credentials are at fault; if it is answered, the refusal was about the first id.
//!
//! For a create there is no such harmless call. It is judged by the others: where none was taken
//! lately the credentials are at fault. Where some were, the refused one waits and is tried again;
//! refused a third time, while others are still taken, it is that transaction's.
//!
//! A refused OAuth2 token is never about one transaction, because the request for it names none.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::outbound::{
    ThirdPartyClient,
    third_party::{LookupError, LookupErrorKind},
};

/// How long the answer to a lookup of an unused id is believed.
const VERDICT_LIFETIME: Duration = Duration::from_secs(1);
/// For so long the credentials are taken to be as good as when another call was answered.
const LATELY: Duration = Duration::from_secs(60);
/// A create that was refused this often before, while others were taken, is refused for itself.
const REFUSALS_BEFORE: u32 = 2;

/// What this process knows of refusals.
#[derive(Debug, Default)]
pub struct Credentials {
    /// When an unused id was last looked up, and whether that was refused. Held while it is asked:
    /// of many lookups that are refused together one asks.
    verdict: tokio::sync::Mutex<Option<(Instant, bool)>>,
    /// When a create was last answered with anything but a refusal.
    create_taken: Mutex<Option<Instant>>,
    /// The same of a lookup.
    lookup_taken: Mutex<Option<Instant>>,
}

impl Credentials {
    /// Whether lookups are refused whatever they ask for, after one was with `error`. Where an unused
    /// id cannot be looked up, they are unless another call was taken lately: waiting does no harm,
    /// but one transaction that is refused for itself must not stop all others.
    pub async fn are_refused(&self, error: &LookupError, third_party: &ThirdPartyClient) -> bool {
        if error.kind == LookupErrorKind::NoToken {
            return true;
        }
        let mut verdict = self.verdict.lock().await;
        if let Some((at, refused)) = *verdict
            && at.elapsed() < VERDICT_LIFETIME
        {
            return refused;
        }
        if !third_party.can_look_up_nothing() {
            return ![&self.create_taken, &self.lookup_taken].into_iter().any(was_lately);
        }
        let refused = match third_party.look_up_nothing().await {
            Ok(_) => false,
            Err(error) => error.is_unauthorized() || error.is_outage(),
        };
        *verdict = Some((Instant::now(), refused));
        refused
    }

    /// A lookup was answered, and not with a refusal of our credentials.
    pub fn lookup_taken(&self) {
        *self.lookup_taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// A create was answered, and not with a refusal of our credentials.
    pub fn create_taken(&self) {
        *self.create_taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// What a refused create means that was refused `before` times in a row, at least `backoff`
    /// apart.
    pub fn judge_create(&self, before: u32, backoff: Duration) -> CreateRefusal {
        let taken = *self.create_taken.lock().unwrap_or_else(PoisonError::into_inner);
        // This create's three refusals span at least two backoffs. So if another create was
        // accepted less than two backoffs ago, it was accepted after the first of them.
        if taken.is_none_or(|at| at.elapsed() >= backoff * 2) {
            CreateRefusal::Credentials
        } else if before < REFUSALS_BEFORE {
            CreateRefusal::Unclear
        } else {
            CreateRefusal::Transaction
        }
    }
}

fn was_lately(taken: &Mutex<Option<Instant>>) -> bool {
    let taken = *taken.lock().unwrap_or_else(PoisonError::into_inner);
    taken.is_some_and(|at| at.elapsed() < LATELY)
}

/// What the refusal of a create is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateRefusal {
    /// Our credentials.
    Credentials,
    /// Either; it is tried again.
    Unclear,
    /// This transaction.
    Transaction,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[tokio::test]
    async fn a_refused_token_is_the_credentials_fault_whatever_else_is_taken() {
        let url = "http://127.0.0.1:9".to_owned();
        let settings = [("QUARTET_THIRD_PARTY__BASE_URL".to_owned(), url)];
        let config = Config::load(settings, None).unwrap();
        let client = ThirdPartyClient::new(&config.third_party, &config.dns, String::new());
        let (client, credentials) = (client.unwrap(), Credentials::default());
        // An unused id was just looked up, and that was answered.
        *credentials.verdict.lock().await = Some((Instant::now(), false));
        let error = |kind| LookupError { reason: String::new(), retry_after: None, kind };
        assert!(!credentials.are_refused(&error(LookupErrorKind::Unauthorized), &client).await);
        assert!(credentials.are_refused(&error(LookupErrorKind::NoToken), &client).await);
    }

    #[test]
    fn a_create_is_refused_for_itself_only_while_others_are_taken() {
        let (credentials, hour) = (Credentials::default(), Duration::from_secs(3_600));
        assert_eq!(credentials.judge_create(10, hour), CreateRefusal::Credentials);
        credentials.create_taken();
        let verdicts = [0, 1, 2].map(|before| credentials.judge_create(before, hour));
        use CreateRefusal::{Transaction, Unclear};
        assert_eq!(verdicts, [Unclear, Unclear, Transaction]);
        assert_eq!(credentials.judge_create(2, Duration::ZERO), CreateRefusal::Credentials);
    }
}
