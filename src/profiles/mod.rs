//! Third parties as data: a profile is one TOML file that says how a third party is asked to create
//! a transaction and to look one up, and what its answers mean. No expressions, no loops: texts
//! with placeholders ([`Template`]), JSON pointers, exact matches.
//!
//! Pure. A profile renders requests and reads answers; sending them, retries, the circuit and
//! evidence are the caller's. Imports `domain` and `signature` alone.
//!
//! [`Profile::parse`] reads a file strictly and refuses, with the key and the reason, what would
//! lose or double money (`safety`). `interpreter` reads answers; every one is decided by a rule
//! that is named ([`DecidedBy`]). `plan` says what a create does next: those rules are the same
//! for every profile. `shipped` are the profiles in the program; `quartet` is the contract that
//! holds without a profile. `recorded` runs a profile's cases.

mod amount;
mod answer;
mod auth;
mod body;
mod definition;
mod error;
mod fields;
mod interpreter;
mod keywords;
mod period;
mod plan;
mod pointer;
mod reading;
mod recorded;
mod recorded_case;
mod request;
mod rule;
mod safety;
mod scalar;
mod shipped;
mod signing;
mod stored_request;
mod template;
mod values;
pub mod webhook;
mod webhook_events;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, time::Duration};

use chrono::DateTime;
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub use self::{
    amount::AmountError,
    answer::{Answer, Call, CreateAnswer, DecidedBy, LookupAnswer, ReadStatus, Reading},
    auth::{Token, TokenError, TokenRequest, read_token},
    definition::{Definition, LookupBy, Rate, Repeat},
    error::{Fault, ProfileError},
    plan::{CreateStep, Sent},
    recorded::{Cases, Checked},
    request::{Header, Request},
    rule::{CreateMeans, LookupMeans},
    shipped::{SHIPPED, Shipped},
    signing::Signing,
    stored_request::StoredRequest,
    template::Template,
    values::{Inputs, Names, RenderError, SecretText, Values},
    webhook_events::WEBHOOK_SECRETS,
};
use self::{
    auth::Credentials, error::Faults, template::Source, values::Renderer, webhook::WebhookProfile,
};
use crate::domain::Content;

/// Builds requests to a third party, and reads its answers. Pure.
pub trait ThirdParty: Send + Sync {
    /// The request that creates a transaction.
    fn create_request(&self, inputs: &Inputs<'_>) -> Result<Request, RenderError>;

    /// What the answer to it means for the transaction `id`.
    fn read_create(&self, id: Uuid, answer: &Answer<'_>) -> CreateAnswer;

    /// The request that looks a transaction up.
    fn lookup_request(&self, inputs: &Inputs<'_>) -> Result<Request, RenderError>;

    /// What the answer to it means. `since_create`: how long ago the last create was sent that may
    /// have gone through.
    fn read_lookup(
        &self,
        inputs: &Inputs<'_>,
        answer: &Answer<'_>,
        since_create: Option<Duration>,
    ) -> LookupAnswer;
}

/// Signs a request that is complete but for its signature, as some third parties ask. Pure.
pub trait Signer: Send + Sync {
    /// Adds the headers.
    fn sign(&self, request: &mut Request, with: &Signing<'_>) -> Result<(), RenderError>;
}

/// A profile that was read and found safe.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    definition: Definition,
    credentials: Credentials,
    hash: [u8; 32],
}

impl Profile {
    /// Reads the text of a file. `file` is its name, for errors.
    pub fn parse(file: &str, text: &str) -> Result<Self, ProfileError> {
        let mut faults = Faults::new(file, text);
        let mut definition: Definition = match toml::from_str(text) {
            Ok(definition) => definition,
            Err(error) => {
                faults.add_toml(&error);
                return Err(faults.into_error());
            }
        };
        safety::check(&definition, &mut faults);
        faults.finish()?;
        definition.lookup.widen_times();
        let credentials = Credentials::of(&definition.auth);
        Ok(Self { definition, credentials, hash: Sha256::digest(text).into() })
    }

    pub fn name(&self) -> &str {
        &self.definition.name
    }

    /// SHA-256 of the file's text, for evidence: what a transaction was created by.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Where the third party is, unless the deployment says otherwise. Without a slash at its end.
    pub fn base_url(&self) -> Option<&str> {
        self.definition.base_url.as_deref()
    }

    /// Longest wait for the answer to a create.
    pub fn timeout(&self) -> Option<Duration> {
        self.definition.timeout.map(|period| period.0)
    }

    /// Longest wait for the answer to a lookup.
    pub fn lookup_timeout(&self) -> Option<Duration> {
        self.definition.lookup_timeout.map(|period| period.0)
    }

    pub fn rate(&self) -> Option<Rate> {
        self.definition.rate
    }

    pub fn lookup_by(&self) -> LookupBy {
        self.definition.lookup.by
    }

    pub fn repeat(&self) -> Repeat {
        self.definition.create.repeat
    }

    /// The `[webhook]` section.
    pub fn webhook(&self) -> Option<&WebhookProfile> {
        self.definition.webhook.as_ref()
    }

    /// How long the same request may be sent again, from the first one on.
    pub fn repeat_within(&self) -> Duration {
        self.definition.repeat_within()
    }

    /// Whether what it does next, or what it sends, depends on when its creates were sent.
    pub fn depends_on_sent_creates(&self) -> bool {
        let Definition { create, lookup, sign, .. } = &self.definition;
        lookup.by == LookupBy::ProviderId
            || create.repeat == Repeat::NewTransaction
            || lookup.settle_after.is_some()
            || sign.as_ref().is_some_and(|sign| sign.names_repeats())
    }

    /// Whether a create that got no answer is repeated, so that its request has to be kept.
    pub fn repeats_creates(&self) -> bool {
        let Definition { create, lookup, .. } = &self.definition;
        lookup.by == LookupBy::ProviderId && create.repeat != Repeat::NewTransaction
    }

    /// How a try to create begins.
    pub fn begin_create(&self, sent: &Sent) -> CreateStep {
        self.definition.begin(sent)
    }

    /// How a try to create goes on after its lookup.
    pub fn after_lookup(&self, sent: &Sent, means: LookupMeans) -> CreateStep {
        self.definition.after_lookup(sent, means)
    }

    /// How a try to create ends. `sent` are the creates before it.
    pub fn after_create(&self, sent: &Sent, means: CreateMeans) -> CreateStep {
        self.definition.after_create(sent, means)
    }

    /// The variables and secrets that it uses. Those of webhooks count as optional: a process that
    /// receives none does without.
    pub fn names(&self) -> Names {
        let signing = self.definition.sign.iter().flat_map(|sign| sign.templates());
        let signing: Vec<Template> = signing.collect();
        let mut names = Names::collect(self.templates().into_iter().chain(&signing));
        names.vars.extend(self.webhook().map(WebhookProfile::vars).unwrap_or_default());
        names.optional_vars.retain(|name| !names.vars.contains(name));
        if self.needs_webhook_secret() {
            let secrets = WEBHOOK_SECRETS.map(str::to_owned);
            let others = secrets.into_iter().filter(|name| !names.secrets.contains(name));
            names.optional_secrets.extend(others);
        }
        names
    }

    /// The keys of the metadata that it uses.
    pub fn metadata_keys(&self) -> BTreeSet<String> {
        let keys = self.templates().into_iter().flat_map(Template::placeholders);
        keys.filter_map(|placeholder| match &placeholder.source {
            Source::MetadataEntry(key) => Some(key.clone()),
            _ => None,
        })
        .collect()
    }

    fn templates(&self) -> Vec<&Template> {
        let Definition { create, lookup, auth, headers, .. } = &self.definition;
        let pairs = [
            headers,
            &create.query,
            &create.headers,
            &lookup.query,
            &lookup.headers,
            &auth.headers,
        ];
        let pairs = pairs.into_iter().flat_map(|pairs| &pairs.0).map(|(_, template)| template);
        let mut templates = vec![&create.path, &lookup.path];
        templates.extend(pairs);
        templates.extend(create.body.iter().flat_map(|body| body.templates()));
        templates.extend(self.credentials.templates());
        templates.extend(auth.tls.iter().flat_map(|tls| [&tls.certificate, &tls.key]));
        templates
    }

    fn renderer<'a>(&'a self, inputs: &Inputs<'a>) -> Renderer<'a> {
        Renderer { inputs: *inputs, exponents: &self.definition.exponents }
    }

    /// For what depends on no transaction.
    fn renderer_of<'a>(&'a self, values: &'a Values) -> Renderer<'a> {
        static NOTHING: Content =
            Content { amount: None, currency: None, reference: None, metadata: None };
        self.renderer(&Inputs {
            id: Uuid::nil(),
            content: &NOTHING,
            provider_id: None,
            created_at: DateTime::UNIX_EPOCH,
            now: DateTime::UNIX_EPOCH,
            webhook_url: "",
            values,
        })
    }

    /// The headers that authenticate a call; with OAuth2, by `token`.
    pub fn credential_headers(
        &self,
        values: &Values,
        token: Option<&SecretText>,
    ) -> Result<Vec<Header>, RenderError> {
        self.renderer_of(values).credentials(&self.credentials, token)
    }

    /// The request for an OAuth2 token; `None` where none is needed.
    pub fn token_request(&self, values: &Values) -> Result<Option<TokenRequest>, RenderError> {
        let renderer = self.renderer_of(values);
        let shared = renderer.headers(&self.definition.headers)?;
        let own = renderer.headers(&self.definition.auth.headers)?;
        renderer.token_request(&self.credentials, shared, own)
    }

    /// What signs its requests, after their credentials are added; `None`: nothing does.
    pub fn signer(&self) -> Option<&dyn Signer> {
        self.definition.sign.as_ref().map(|sign| sign as &dyn Signer)
    }

    /// How long before its end a token is renewed.
    pub fn renew_token_early(&self) -> Duration {
        auth::renew_early(&self.definition.auth)
    }

    /// The PEM texts of the client certificate and its key, where there is one.
    pub fn client_certificate(
        &self,
        values: &Values,
    ) -> Result<Option<[SecretText; 2]>, RenderError> {
        let Some(tls) = &self.definition.auth.tls else { return Ok(None) };
        let renderer = self.renderer_of(values);
        let [certificate, key] =
            [&tls.certificate, &tls.key].map(|template| renderer.text(template));
        Ok(certificate?.zip(key?).map(|(certificate, key)| [certificate.into(), key.into()]))
    }
}

impl ThirdParty for Profile {
    fn create_request(&self, inputs: &Inputs<'_>) -> Result<Request, RenderError> {
        let create = &self.definition.create;
        let renderer = self.renderer(inputs);
        let mut headers = renderer.headers(&self.definition.headers)?;
        headers.extend(renderer.headers(&create.headers)?);
        let body = create.body.as_ref().map(|body| renderer.body(body, create.content));
        Ok(Request {
            method: create.method,
            path: renderer.path(&create.path)?,
            query: renderer.query(&create.query)?,
            headers,
            content: body.as_ref().map(|_| create.content),
            body: body.transpose()?.unwrap_or_default(),
        })
    }

    fn read_create(&self, id: Uuid, answer: &Answer<'_>) -> CreateAnswer {
        self.definition.read_create(id, answer)
    }

    fn lookup_request(&self, inputs: &Inputs<'_>) -> Result<Request, RenderError> {
        let lookup = &self.definition.lookup;
        let renderer = self.renderer(inputs);
        let mut headers = renderer.headers(&self.definition.headers)?;
        headers.extend(renderer.headers(&lookup.headers)?);
        Ok(Request {
            method: lookup.method,
            path: renderer.path(&lookup.path)?,
            query: renderer.query(&lookup.query)?,
            headers,
            content: None,
            body: Vec::new(),
        })
    }

    fn read_lookup(
        &self,
        inputs: &Inputs<'_>,
        answer: &Answer<'_>,
        since_create: Option<Duration>,
    ) -> LookupAnswer {
        self.definition.read_lookup(inputs, answer, since_create)
    }
}
