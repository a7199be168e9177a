//! Recorded cases: answers with what they must mean, and requests as they must be sent. They stand
//! in the profile or in a file beside it, `NAME.cases.toml`, and run offline.
//!
//! Cases about webhooks belong to the webhook section.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};

use super::{
    Profile, ProfileError, ThirdParty,
    answer::{Answer, Reading},
    auth::TokenRequest,
    error::Faults,
    keywords::not_allowed,
    recorded_case::{AnswerCase, CaseCall, CasesFile, RequestCase, SampleSection},
    request::{Header, Request},
    rule::{CreateMeans, LookupMeans},
    signing::Signing,
    values::{Inputs, RenderError, SecretText, Values},
};
use crate::domain::{Content, ReportedStatus};

/// The cases of a profile.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cases {
    sample: SampleSection,
    answers: Vec<AnswerCase>,
    requests: Vec<RequestCase>,
}

/// What the cases of a profile showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// How many were run.
    pub cases: usize,
    /// One line each, or more for requests.
    pub differences: Vec<String>,
}

impl Cases {
    /// Those in the profile itself, and those of the file beside it.
    pub fn of(profile: &Profile, beside: Option<(&str, &str)>) -> Result<Self, ProfileError> {
        let definition = &profile.definition;
        let mut cases = Self {
            sample: definition.sample.clone().unwrap_or_default(),
            answers: definition.test.clone(),
            requests: definition.request.clone(),
        };
        if let Some((file, text)) = beside {
            let read: CasesFile = toml::from_str(text).map_err(|error| {
                let mut faults = Faults::new(file, text);
                faults.add_toml(&error);
                faults.into_error()
            })?;
            cases.sample = read.sample.unwrap_or(cases.sample);
            cases.answers.extend(read.test);
            cases.requests.extend(read.request);
        }
        Ok(cases)
    }

    /// The metadata of the transaction that the cases are about.
    pub fn sample_metadata(&self) -> &BTreeMap<String, String> {
        &self.sample.metadata
    }

    /// Its currency.
    pub fn sample_currency(&self) -> &str {
        &self.sample.currency
    }

    /// The requests as they would go out, secrets masked: the create's and the lookup's.
    pub fn show_requests(&self, profile: &Profile) -> [Result<String, RenderError>; 2] {
        let values = profile.names().masks();
        let token = SecretText::from("<token>".to_owned());
        let credentials = profile.credential_headers(&values, Some(&token));
        self.with_inputs(profile, &values, |inputs| {
            [profile.create_request(inputs), profile.lookup_request(inputs)].map(|request| {
                let (mut request, credentials) = (request?, credentials.clone()?);
                if let Some(signer) = profile.signer() {
                    let base_url = profile.base_url().unwrap_or_default();
                    let (now, nonce, is_repeat) = (inputs.now, "<nonce>", false);
                    let with = Signing { base_url, values: &values, now, nonce, is_repeat };
                    signer.sign(&mut request, &with)?;
                }
                Ok(show(&request, &request.target(), &credentials))
            })
        })
    }

    /// The request for a token as it would go out, secrets masked; `None`: none is needed.
    pub fn show_token_request(&self, profile: &Profile) -> Option<Result<String, RenderError>> {
        let asked = profile.token_request(&profile.names().masks()).transpose()?;
        Some(asked.map(|TokenRequest { url, request }| show(&request, &url, &[])))
    }

    fn with_inputs<T>(
        &self,
        profile: &Profile,
        values: &Values,
        then: impl FnOnce(&Inputs<'_>) -> T,
    ) -> T {
        let mut metadata = self.sample.metadata.clone();
        for key in profile.metadata_keys() {
            metadata.entry(key.clone()).or_insert_with(|| format!("<metadata {key}>"));
        }
        let content = Content {
            amount: Some(self.sample.amount),
            currency: Some(self.sample.currency.clone()),
            reference: Some(self.sample.reference.clone()),
            metadata: Some(metadata),
        };
        let webhook_url = match &self.sample.webhook_url {
            Some(url) => url.clone(),
            None => format!("https://quartet.example/v1/webhooks/{}", profile.name()),
        };
        // Any instant will do; it is the same in each run.
        let now = DateTime::<Utc>::from_timestamp(1_767_225_600, 0).unwrap_or_default();
        then(&Inputs {
            id: self.sample.id,
            content: &content,
            provider_id: Some(&self.sample.provider_id),
            created_at: now,
            now,
            webhook_url: &webhook_url,
            values,
        })
    }

    /// Runs them all.
    pub fn run(&self, profile: &Profile) -> Checked {
        let values = profile.names().masks();
        let mut differences = Vec::new();
        self.with_inputs(profile, &values, |inputs| {
            for (nth, case) in self.answers.iter().enumerate() {
                if let Some(difference) = case.difference(profile, inputs) {
                    differences.push(format!("test {}: {difference}", nth + 1));
                }
            }
        });
        let [create, lookup] = self.show_requests(profile);
        for case in &self.requests {
            let found = match case.call {
                CaseCall::Create => &create,
                CaseCall::Lookup => &lookup,
            };
            let found = match found {
                Ok(found) => found.clone(),
                Err(why) => why.to_string(),
            };
            if found.trim_end() != case.is.trim_end() {
                differences.push(format!(
                    "the {} request differs; expected:\n{}\nfound:\n{}",
                    case.call,
                    case.is.trim_end(),
                    found.trim_end()
                ));
            }
        }
        Checked { cases: self.answers.len() + self.requests.len(), differences }
    }
}

impl AnswerCase {
    fn difference(&self, profile: &Profile, inputs: &Inputs<'_>) -> Option<String> {
        let answer = Answer { code: self.code, body: Ok(&self.body) };
        match self.call {
            CaseCall::Create => {
                if !CreateMeans::WORDS.contains(&self.means.as_str()) {
                    return Some(not_allowed(&self.means, CreateMeans::WORDS));
                }
                self.compare(profile.read_create(inputs.id, &answer), |means| means.as_str())
            }
            CaseCall::Lookup => {
                if !LookupMeans::WORDS.contains(&self.means.as_str()) {
                    return Some(not_allowed(&self.means, LookupMeans::WORDS));
                }
                let since = self.since_create.map(|period| period.0);
                let read = profile.read_lookup(inputs, &answer, since);
                self.compare(read, |means| means.as_str())
            }
        }
    }

    /// What is left out of a case is not compared.
    fn compare<M>(&self, read: Reading<M>, word: fn(&M) -> &'static str) -> Option<String> {
        let status = read.status.as_ref().map(|status| status.reported());
        let found = word(&read.means);
        let differs = found != self.means
            || self.status.is_some_and(|expected| Some(expected) != status)
            || self.provider_id.is_some() && self.provider_id != read.provider_id
            || self.reason.is_some() && self.reason != read.reason;
        differs.then(|| {
            let expected = Meaning {
                means: &self.means,
                status: self.status,
                provider_id: self.provider_id.as_deref(),
                reason: self.reason.as_deref(),
            };
            let found = Meaning {
                means: found,
                status,
                provider_id: read.provider_id.as_deref(),
                reason: read.reason.as_deref(),
            };
            format!(
                "a {} answered {} must be {expected}, and is {found}, by {}",
                self.call, self.code, read.decided_by
            )
        })
    }
}

/// What is compared, as a text.
struct Meaning<'a> {
    means: &'a str,
    status: Option<ReportedStatus>,
    provider_id: Option<&'a str>,
    reason: Option<&'a str>,
}

impl fmt::Display for Meaning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.means)?;
        let status = self.status.map(ReportedStatus::as_str);
        let fields =
            [("status", status), ("provider_id", self.provider_id), ("reason", self.reason)];
        for (name, value) in fields {
            if let Some(value) = value {
                write!(f, ", {name} {value}")?;
            }
        }
        Ok(())
    }
}

/// A request, as text.
fn show(request: &Request, target: &str, credentials: &[Header]) -> String {
    let mut text = format!("{} {target}\n", request.method);
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name}: {value}\n"));
    for Header { name, value, .. } in credentials {
        line(name, &readable(value));
    }
    if let Some(content_type) = request.content_type() {
        line("Content-Type", content_type);
    }
    for Header { name, value, .. } in &request.headers {
        line(name, &readable(value));
    }
    if !request.body.is_empty() {
        text.push('\n');
        text.push_str(&String::from_utf8_lossy(&request.body));
        text.push('\n');
    }
    text
}

/// The masks in a header of Basic authentication can only be read without their encoding.
fn readable(value: &str) -> Cow<'_, str> {
    let plain = value
        .strip_prefix("Basic ")
        .and_then(|encoded| BASE64_STANDARD.decode(encoded).ok())
        .and_then(|plain| String::from_utf8(plain).ok());
    match plain {
        Some(plain) => format!("Basic base64({plain})").into(),
        None => value.into(),
    }
}
