//! The webhook of the transaction that was created: awaited, verified, and verified once more with
//! a byte flipped.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use chrono::Utc;
use poem::{
    Body, EndpointExt, Request, Response, Route, Server, handler,
    http::{Method, StatusCode},
    listener::TcpAcceptor,
    web::Data,
};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use uuid::Uuid;

use super::{
    super::CliError,
    report::{Report, Verdict, seconds},
};
use crate::{
    domain::Subject,
    outbound::{probe::is_this_machine, profile::probe::Probe},
    profiles::{
        WEBHOOK_SECRETS,
        webhook::{
            About, Event, Headers, Incoming, Keys, MAX_BODY, OkAnswer, Receiver, Rejection, Trust,
        },
    },
};

/// Webhooks that wait to be read.
const QUEUE_CAPACITY: usize = 64;

/// A request as it arrived.
struct Arrived {
    method: String,
    /// The URL that the third party called, with its query.
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// Takes webhooks while the probe runs.
pub(super) struct Listener {
    url: Option<String>,
    arrived: mpsc::Receiver<Arrived>,
}

impl Listener {
    /// Listens there, and answers `ok`. The third party reaches it at `url`, or on this machine.
    pub async fn bind(
        address: SocketAddr,
        url: Option<&str>,
        base_url: &str,
        ok: Option<OkAnswer>,
    ) -> Result<Self, CliError> {
        let failed = |error: std::io::Error| {
            CliError::Failed(format!("--listen {address} cannot be listened on: {error}"))
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let here = || format!("http://{address}/webhook");
        let url = url.map(str::to_owned);
        let url = url.or_else(|| is_this_machine(base_url).then(here));
        let (sender, arrived) = mpsc::channel(QUEUE_CAPACITY);
        let acceptor = TcpAcceptor::from_tokio(listener).map_err(failed)?;
        let shared = Shared { sender, url: url.clone().unwrap_or_default(), ok };
        // It ends with the process, which the command ends.
        tokio::spawn(async move {
            let app = Route::new().at("/*path", take).data(shared);
            let served = Server::new_with_acceptor(acceptor).run(app).await;
            served.inspect_err(|error| tracing::warn!(%error, "webhooks are not received"))
        });
        Ok(Self { url, arrived })
    }

    /// Where the third party sends them; `None`: nobody said, and it is not on this machine.
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }

    /// Waits for a webhook about this transaction.
    pub async fn check(
        &mut self,
        probe: &Probe,
        id: Uuid,
        subject: &Subject,
        wait: Duration,
        report: &mut Report,
    ) {
        let check = "webhook";
        let profile = probe.profile();
        let Some(webhook) = profile.webhook() else { return };
        let values = probe.values();
        // The configuration was refused otherwise.
        let Ok(receiver) = webhook.receiver(&values.vars) else { return };
        let expected = match receiver.trust {
            Trust::Settle => "one that is proved, with a word of [status]",
            Trust::Hint => "one that names the transaction",
        };
        if self.url.is_none() {
            return report.not_tried(check, expected, "add --webhook-url and --listen");
        }
        let mut keys = Keys::default();
        for name in WEBHOOK_SECRETS {
            let secret = values.secrets.get(name).filter(|_| receiver.needs_key());
            if let Some(key) = secret.and_then(|secret| receiver.read_key(secret.expose()).ok()) {
                keys.add(None, key);
            }
        }
        if receiver.needs_key() && keys.is_empty() {
            let why = "QUARTET_THIRD_PARTY__SECRETS__WEBHOOK is not set";
            return report.not_tried(check, expected, why);
        }
        let (began, mut last) = (Instant::now(), "none arrived".to_owned());
        while let Some(left) = wait.checked_sub(began.elapsed())
            && let Ok(Some(arrived)) = timeout(left, self.arrived.recv()).await
        {
            let events = match verify(&receiver, &keys, &arrived) {
                Ok(events) => events,
                Err(rejection) => {
                    last = format!("one that is rejected: {rejection}");
                    continue;
                }
            };
            let is_ours = |event: &&Event| is_about(event, id, subject.provider_id.as_deref());
            let Some(event) = events.iter().find(is_ours) else {
                last = format!("one about something else, with {} events", events.len());
                continue;
            };
            let inputs = probe.inputs(id, subject, &values);
            let (observed, verdict) = match judge(probe, &receiver, event, &inputs) {
                Ok(observed) => (observed, Verdict::Ok),
                Err(why) => (why, Verdict::Differs),
            };
            report.add(check, expected, observed, verdict, began.elapsed());
            flip_a_byte(&receiver, &keys, arrived, id, subject.provider_id.as_deref(), report);
            return;
        }
        let observed = format!("{last}, within {}", seconds(wait));
        report.add(check, expected, observed, Verdict::Differs, None);
    }
}

#[derive(Clone)]
struct Shared {
    sender: mpsc::Sender<Arrived>,
    url: String,
    ok: Option<OkAnswer>,
}

#[handler]
async fn take(request: &Request, body: Body, Data(shared): Data<&Shared>) -> Response {
    if request.method() == Method::HEAD {
        return Response::default();
    }
    let Ok(body) = body.into_bytes_limit(MAX_BODY).await else {
        return Response::builder().status(StatusCode::PAYLOAD_TOO_LARGE).finish();
    };
    let headers = request.headers().iter();
    let query = request.original_uri().query();
    let arrived = Arrived {
        method: request.method().to_string(),
        url: match query {
            Some(query) => format!("{}?{query}", shared.url),
            None => shared.url.clone(),
        },
        headers: headers
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
            .collect(),
        body: body.to_vec(),
    };
    // Of a flood the rest is dropped: one is enough.
    shared.sender.try_send(arrived).ok();
    let Some(OkAnswer { code, body }) = &shared.ok else { return Response::default() };
    let code = StatusCode::from_u16(*code).unwrap_or(StatusCode::OK);
    Response::builder().status(code).body(body.clone().unwrap_or_default())
}

fn verify(receiver: &Receiver, keys: &Keys, arrived: &Arrived) -> Result<Vec<Event>, Rejection> {
    let headers: Vec<(&str, &[u8])> =
        arrived.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    let (method, url) = (arrived.method.as_str(), arrived.url.as_str());
    let incoming = Incoming { method, url, headers: Headers(&headers), body: &arrived.body };
    receiver.verify(&incoming, keys, Utc::now())
}

fn is_about(event: &Event, id: Uuid, provider_id: Option<&str>) -> bool {
    event.report.as_ref().is_ok_and(|report| match &report.about {
        About::Id(given) => *given == id,
        About::ProviderId(given) => Some(given.as_str()) == provider_id,
        About::Both { id: given, .. } => *given == id,
    })
}

/// What it says, or how that differs from the profile.
fn judge(
    probe: &Probe,
    receiver: &Receiver,
    event: &Event,
    inputs: &crate::profiles::Inputs<'_>,
) -> Result<String, String> {
    let profile = probe.profile();
    let Ok(report) = &event.report else { return Err("an event without an id".to_owned()) };
    let status = profile.read_event(report);
    let said = profile.event_rule(status.as_ref());
    if let Some(contradiction) = profile.contradiction(inputs, None, &event.claims) {
        return Err(format!("{said}, but {contradiction}"));
    }
    let is_known = status.is_some_and(|status| status.meaning.is_some());
    match receiver.trust {
        Trust::Settle if !is_known => Err(format!("{said}: nothing would be settled")),
        _ => Ok(said),
    }
}

/// Verifies it with one byte changed, in the id if that can be found: some sign only a part.
fn flip_a_byte(
    receiver: &Receiver,
    keys: &Keys,
    mut arrived: Arrived,
    id: Uuid,
    provider_id: Option<&str>,
    report: &mut Report,
) {
    let (check, expected) = ("flipped byte", "refused");
    if receiver.trust == Trust::Hint {
        return report.not_tried(check, expected, "its webhooks are hints: they settle nothing");
    }
    let id = id.to_string();
    let place = [Some(id.as_str()), provider_id].into_iter().flatten().find_map(|id| {
        arrived.body.windows(id.len()).position(|part| part.eq_ignore_ascii_case(id.as_bytes()))
    });
    let place = place.unwrap_or(arrived.body.len() / 2);
    match arrived.body.get_mut(place) {
        Some(byte) => *byte ^= 1,
        None => return report.not_tried(check, expected, "it has no body"),
    }
    match verify(receiver, keys, &arrived) {
        Err(rejection) => {
            report.add(check, expected, format!("refused: {rejection}"), Verdict::Ok, None);
        }
        Ok(_) => report.add(check, expected, "taken", Verdict::Dangerous, None),
    }
}
