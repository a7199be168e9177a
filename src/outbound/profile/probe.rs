//! The calls of `quartet third-party probe`: those of the jobs, and lookups that are wrong on
//! purpose, which must not read as an absence.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{CallError, How, PreparedCreate, ProfileClient, RenderError, read_answer};
use crate::{
    config,
    domain::{DatabaseClock, Subject},
    outbound::{CallTurn, LeaseGuard, SetupError},
    profiles::{
        CreateMeans, Inputs, LookupMeans, Profile, Reading, Request, SecretText, ThirdParty,
        Values, WEBHOOK_SECRETS,
    },
};

/// What is put into a path that must lead nowhere.
const NOWHERE: &str = "quartet-probe";
/// The start of a wrong secret that stays as it is: what kind of secret it is.
const KEPT: usize = 3;

/// Calls a third party as its profile says, to find out whether it does what the profile says.
#[derive(Debug)]
pub struct Probe {
    client: ProfileClient,
    /// This machine's: there is no database.
    clock: DatabaseClock,
    /// The transactions for which a create was sent.
    sent: Mutex<BTreeSet<Uuid>>,
}

/// What is wrong with a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    Nothing,
    /// Its path has another first part, as one of another product or version.
    Start,
    /// The part of its path before the id is misspelt.
    Middle,
    /// Its credentials are not ours.
    Key,
}

/// An answer as the profile reads it.
#[derive(Debug)]
pub struct Replied<M> {
    pub reading: Reading<M>,
    /// From sending to the end of the answer.
    pub took: Duration,
}

impl Probe {
    /// `None`: the third party has no profile.
    pub fn new(
        settings: &config::ThirdParty,
        dns: &config::Dns,
        webhook_url: String,
    ) -> Result<Option<Self>, SetupError> {
        let Some(profile) = &settings.profile else { return Ok(None) };
        let client = ProfileClient::new(settings, dns, profile, webhook_url)?;
        Ok(Some(Self { client, clock: DatabaseClock::default(), sent: Mutex::default() }))
    }

    pub fn profile(&self) -> &Profile {
        self.client.profile()
    }

    /// Whether a call has credentials that could be wrong.
    pub fn has_key(&self) -> bool {
        !keys(&self.values()).is_empty()
    }

    /// Asks for an OAuth2 token; `None` where the profile needs none.
    pub async fn token(&self) -> Option<Result<(), String>> {
        let values = self.client.settings.values.get();
        let senders = self.client.connections.with(&values);
        match self.client.token(&values, &senders, &self.clock).await {
            Ok(None) => None,
            Ok(Some(_)) => Some(Ok(())),
            Err(error) => Some(Err(error.reason)),
        }
    }

    /// Looks a transaction up. `Err`: why there is no answer.
    pub async fn look_up(
        &self,
        id: Uuid,
        subject: &Subject,
        wrong: Wrong,
    ) -> Result<Replied<LookupMeans>, String> {
        let values = self.client.settings.values.get();
        let with = if wrong == Wrong::Key { wrong_values(&values) } else { (*values).clone() };
        let inputs = self.client.inputs(id, subject, &with, &self.clock);
        let profile = self.client.profile();
        let mut request = profile.lookup_request(&inputs).map_err(|why| why.to_string())?;
        lead_astray(&mut request, wrong);
        let began = Instant::now();
        let answered = if wrong == Wrong::Key {
            let needs_token =
                profile.token_request(&with).map_err(|why| why.to_string())?.is_some();
            let token = needs_token.then(|| SecretText::from(NOWHERE.to_owned()));
            let (how, token) = (How::Lookup, token.as_ref());
            let signed = self.client.authenticated(&request, how, &with, token, &self.clock);
            let signed = signed.map_err(|why| why.to_string())?;
            let senders = self.client.connections.with(&values);
            let sent = self.client.send(&senders, &signed, How::Lookup, &CallTurn::default()).await;
            let response = sent.map_err(|error| error.reason())?;
            read_answer(response, &values, &signed.headers, &self.clock).await
        } else {
            let turn = CallTurn::default();
            let call = self.client.call(&request, How::Lookup, &turn, |_| false, &self.clock).await;
            call.map_err(CallError::into_reason)?
        };
        let read =
            answered.read(|answer| profile.read_lookup(&inputs, answer, subject.since_create));
        Ok(Replied { reading: read, took: began.elapsed() })
    }

    /// The request that creates a transaction.
    pub fn prepare(&self, id: Uuid, subject: &Subject) -> Result<PreparedCreate, RenderError> {
        self.client.prepare(id, subject, &self.clock)
    }

    /// Sends a create. `Err`: why there is no answer; it may have gone through.
    pub async fn create(
        &self,
        id: Uuid,
        prepared: &PreparedCreate,
    ) -> Result<Replied<CreateMeans>, String> {
        let always: LeaseGuard = std::sync::Arc::new(|| true);
        let is_first = self.sent.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        let prepared = PreparedCreate { is_repeat: !is_first, ..prepared.clone() };
        let began = Instant::now();
        let how = How::Create(&prepared, &always);
        let turn = CallTurn::default();
        let call = self.client.call(&prepared.request, how, &turn, |_| false, &self.clock).await;
        let answered = call.map_err(CallError::into_reason)?;
        let reading = answered.read(|answer| self.client.profile().read_create(id, answer));
        Ok(Replied { reading, took: began.elapsed() })
    }

    /// The values of the profile.
    pub fn values(&self) -> std::sync::Arc<Values> {
        self.client.settings.values.get()
    }

    /// What requests about a transaction are rendered from.
    pub fn inputs<'a>(&'a self, id: Uuid, subject: &'a Subject, values: &'a Values) -> Inputs<'a> {
        self.client.inputs(id, subject, values, &self.clock)
    }
}

impl CallError {
    fn into_reason(self) -> String {
        match self {
            Self::Send(error) => error.reason(),
            Self::Token(error) => error.reason,
            Self::Render(why) => why.to_string(),
        }
    }
}

/// The secrets that calls are made with.
fn keys(values: &Values) -> Vec<&String> {
    values.secrets.keys().filter(|name| !WEBHOOK_SECRETS.contains(&name.as_str())).collect()
}

/// The values with other secrets of the same form.
fn wrong_values(values: &Values) -> Values {
    let mut wrong = values.clone();
    for name in keys(values) {
        let secret = values.secrets[name].expose();
        let other = secret.chars().enumerate().map(|(nth, character)| match character {
            _ if nth < KEPT => character,
            'z' => 'a',
            'Z' => 'A',
            '9' => '0',
            _ if character.is_ascii_alphanumeric() => char::from(character as u8 + 1),
            _ => character,
        });
        let other: String = other.collect();
        // One that is too short to be changed.
        let other = if other == secret { NOWHERE.to_owned() } else { other };
        wrong.secrets.insert(name.clone(), other.into());
    }
    wrong
}

/// Sends a lookup to a path that is not there.
fn lead_astray(request: &mut Request, wrong: Wrong) {
    let path = &request.path;
    request.path = match (wrong, path.rsplit_once('/')) {
        (Wrong::Start, _) => format!("/{NOWHERE}{path}"),
        // The last part is the id, unless that is in the query.
        (Wrong::Middle, Some((before, id))) if !before.is_empty() && request.query.is_empty() => {
            format!("{before}-{NOWHERE}/{id}")
        }
        (Wrong::Middle, _) => format!("{path}-{NOWHERE}"),
        (Wrong::Nothing | Wrong::Key, _) => return,
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profiles::Shipped;

    #[test]
    fn a_wrong_secret_has_the_form_of_the_right_one() {
        let mut values = Values::default();
        for (name, secret) in [("token", "sk_test_Zz9"), ("pin", "12"), ("webhook", "w")] {
            values.secrets.insert(name.to_owned(), secret.to_owned().into());
        }
        let wrong = wrong_values(&values);
        assert_eq!(wrong.secrets["token"].expose(), "sk_uftu_Aa0");
        assert_eq!(wrong.secrets["pin"].expose(), NOWHERE);
        assert_eq!(wrong.secrets["webhook"].expose(), "w");
        assert_eq!(keys(&values).len(), 2);
    }

    #[test]
    fn a_wrong_path_is_near_the_right_one() {
        let profile = Shipped::named("pawapay").unwrap().profile().unwrap();
        let (values, content) = (Values::default(), Default::default());
        let inputs = Inputs {
            id: Uuid::nil(),
            content: &content,
            provider_id: None,
            created_at: chrono::DateTime::UNIX_EPOCH,
            now: chrono::DateTime::UNIX_EPOCH,
            webhook_url: "",
            values: &values,
        };
        let path = |wrong, in_query: bool| {
            let mut request = profile.lookup_request(&inputs).unwrap();
            if in_query {
                request.path = "/v2/payouts".to_owned();
                request.query.push(("id".to_owned(), Uuid::nil().to_string()));
            }
            lead_astray(&mut request, wrong);
            request.path
        };
        let id = Uuid::nil();
        assert_eq!(path(Wrong::Nothing, false), format!("/v2/payouts/{id}"));
        assert_eq!(path(Wrong::Start, false), format!("/quartet-probe/v2/payouts/{id}"));
        assert_eq!(path(Wrong::Middle, false), format!("/v2/payouts-quartet-probe/{id}"));
        assert_eq!(path(Wrong::Middle, true), "/v2/payouts-quartet-probe");
    }
}
