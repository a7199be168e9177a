//! Who is calling: clients by API key, operators by token. Both are checked before a body is read.
//!
//! API keys are stored as SHA-256, and looked up by it; the key's entropy makes a slow hash
//! unnecessary. A client may have several for a while, after a rotation with an overlap. Operator
//! tokens are compared by their SHA-256, in constant time. A wrong key and no key look the same
//! (401). A client's key on an operator's call is 403.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use poem::{
    Request,
    http::{StatusCode, header},
};
use poem_openapi::{SecurityScheme, auth::Bearer};
use subtle::{Choice, ConstantTimeEq};
use uuid::Uuid;

use super::{
    ApiState,
    problem::{FieldProblem, Problem},
};
use crate::{secrets::hash_token, store::clients};

/// The header in which operators say who they are.
const OPERATOR_NAME: &str = "Operator-Name";
/// Most characters of that name.
const MAX_OPERATOR_NAME: usize = 100;
/// Most keys that are remembered; then all are looked up again.
const MOST_KNOWN_KEYS: usize = 100_000;

/// A new API key, `qk_` and 32 random bytes.
pub fn generate_api_key() -> String {
    format!("qk_{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))
}

/// A client's API key: `Authorization: Bearer qk_…`.
#[derive(SecurityScheme)]
#[oai(ty = "bearer", rename = "ClientKey", checker = "check_client")]
pub struct ClientAuth(
    /// The client's id.
    pub Uuid,
);

/// Your API key, sent as `Authorization: Bearer …`.
// For posts: it may have been looked up a while ago, so the statement that writes the post checks it
// again.
#[derive(SecurityScheme)]
#[oai(ty = "bearer", rename = "ClientKey", checker = "check_poster")]
pub struct PosterAuth(pub Poster);

/// A client that posts.
#[derive(Debug)]
pub struct Poster {
    /// The client's id.
    pub id: Uuid,
    pub api_key_hash: [u8; 32],
}

impl Poster {
    /// Whether the key is the client's now.
    pub async fn is_still_known(&self, state: &ApiState) -> Result<bool, Problem> {
        let found = clients::find_by_api_key_hash(&state.pool, &self.api_key_hash);
        let is_known = state.within_limit(found).await? == Some(self.id);
        if !is_known {
            state.known_keys.forget(&self.api_key_hash);
        }
        Ok(is_known)
    }
}

/// Clients by the hash of their API key. As many as there are keys in use.
#[derive(Debug, Default)]
pub(super) struct KnownKeys(Mutex<HashMap<[u8; 32], Uuid>>);

impl KnownKeys {
    fn find(&self, hash: &[u8; 32]) -> Option<Uuid> {
        self.keys().get(hash).copied()
    }

    fn add(&self, hash: [u8; 32], client_id: Uuid) {
        let mut keys = self.keys();
        if keys.len() >= MOST_KNOWN_KEYS {
            keys.clear();
        }
        keys.insert(hash, client_id);
    }

    fn forget(&self, hash: &[u8; 32]) {
        self.keys().remove(hash);
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<[u8; 32], Uuid>> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The operator tokens of the configuration, by their SHA-256.
#[derive(Clone, Default)]
pub struct OperatorTokens(Vec<[u8; 32]>);

impl OperatorTokens {
    pub fn new(hashes: impl IntoIterator<Item = [u8; 32]>) -> Self {
        Self(hashes.into_iter().collect())
    }

    /// Whether one of them has this hash, in a time that says nothing about which.
    fn contain(&self, hash: &[u8; 32]) -> bool {
        self.0.iter().fold(Choice::from(0), |found, token| found | token.ct_eq(hash)).into()
    }

    pub(super) fn hashes(&self) -> &[[u8; 32]] {
        &self.0
    }
}

impl fmt::Debug for OperatorTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The console's sessions are derived from the hashes.
        write!(f, "OperatorTokens([redacted]; {})", self.0.len())
    }
}

/// An operator token of the configuration: `Authorization: Bearer …`.
#[derive(SecurityScheme)]
#[oai(ty = "bearer", rename = "OperatorToken", checker = "check_operator")]
pub struct OperatorAuth(
    /// Who acts, as it is written into the audit, evidence and dead letters: `operator`, with the
    /// name of the `Operator-Name` header in brackets.
    pub String,
);

/// The client that a request names, as far as its key is known here already: nobody is asked, and
/// the key may have been withdrawn since.
pub(super) fn known_client(state: &ApiState, request: &Request) -> Option<Uuid> {
    let (scheme, key) = request.header(header::AUTHORIZATION)?.split_once(' ')?;
    let is_bearer = scheme.eq_ignore_ascii_case("bearer");
    is_bearer.then(|| state.known_keys.find(&hash_token(key.trim())))?
}

/// The hash of a request's bearer key, whether anybody has that key or not; zeros without one.
pub(super) fn key_hash(request: &Request) -> [u8; 32] {
    let bearer = request.header(header::AUTHORIZATION).and_then(|value| value.split_once(' '));
    let key = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    key.map(|(_, key)| hash_token(key.trim())).unwrap_or_default()
}

async fn check_client(request: &Request, bearer: Bearer) -> poem::Result<Uuid> {
    let (known_keys, hash) = (&ApiState::of(request).known_keys, hash_token(&bearer.token));
    match find_client(request, &bearer).await? {
        Some(id) => {
            known_keys.add(hash, id);
            Ok(id)
        }
        None => {
            known_keys.forget(&hash);
            Err(Problem::unauthorized().into())
        }
    }
}

async fn check_poster(request: &Request, bearer: Bearer) -> poem::Result<Poster> {
    let known_keys = &ApiState::of(request).known_keys;
    let api_key_hash = hash_token(&bearer.token);
    if let Some(id) = known_keys.find(&api_key_hash) {
        return Ok(Poster { id, api_key_hash });
    }
    let id = check_client(request, bearer).await?;
    Ok(Poster { id, api_key_hash })
}

async fn check_operator(request: &Request, bearer: Bearer) -> poem::Result<String> {
    if ApiState::of(request).operator_tokens.contain(&hash_token(&bearer.token)) {
        // UTF-8, which HTTP's own reading of a header would drop.
        let name = request.headers().get(OPERATOR_NAME).map_or(&b""[..], |name| name.as_bytes());
        let name = std::str::from_utf8(name).ok().and_then(operator_name);
        return name.ok_or_else(|| {
            let detail = "must be at most 100 printable characters, in UTF-8";
            Problem::invalid(vec![FieldProblem::parameter(OPERATOR_NAME, detail)]).into()
        });
    }
    match find_client(request, &bearer).await? {
        Some(_) => {
            let detail = "a client's key is not valid for operator calls";
            Err(Problem::new(StatusCode::FORBIDDEN, detail).into())
        }
        None => Err(Problem::unauthorized().into()),
    }
}

/// Who acts: `operator`, or `operator (name)`. The token says that it is an operator, the name only
/// which one they say they are. `None` where the name is none that the audit takes.
pub fn operator_name(name: &str) -> Option<String> {
    let name = name.trim();
    if name.is_empty() {
        return Some("operator".to_owned());
    }
    let allowed = name.chars().count() <= MAX_OPERATOR_NAME && !name.chars().any(char::is_control);
    allowed.then(|| format!("operator ({name})"))
}

async fn find_client(request: &Request, bearer: &Bearer) -> Result<Option<Uuid>, Problem> {
    let state = ApiState::of(request);
    let hash = hash_token(&bearer.token);
    state.within_limit(clients::find_by_api_key_hash(&state.pool, &hash)).await
}
