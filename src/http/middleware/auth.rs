//! Who is calling: clients by API key, operators by token. Both are checked before a body is read.
//!
//! API keys are stored as SHA-256, and looked up by it; the key's entropy makes a slow hash
//! unnecessary. A client may have several for a while, after a rotation with an overlap. Operator
//! tokens are compared by their SHA-256, in constant time. A wrong key and no key look the same
//! (401). A client's key on an operator's call is 403.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use poem::{
    Request,
    http::{StatusCode, header},
};
use poem_openapi::{SecurityScheme, auth::Bearer};
use subtle::{Choice, ConstantTimeEq};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{
    domain::ClientThirdParties,
    http::{
        ApiState,
        problem::{FieldProblem, Problem},
        read_turns::Reader,
    },
    secrets::hash_token,
    store::clients::{self, FoundClient},
};

/// The header in which operators say who they are.
const OPERATOR_NAME: &str = "Operator-Name";
/// Most characters of that name.
const MAX_OPERATOR_NAME: usize = 100;
/// Longest bearer key or token, in bytes. A longer one is nobody's, and is not even hashed.
const MAX_KEY_BYTES: usize = 4_096;
/// Most look-ups at the same time of keys that were not found before: wrong keys then leave
/// connections to the database to those that are right.
const UNKNOWN_KEY_PLACES: usize = 2;
/// Most keys that are remembered; then all are looked up again.
const MAX_KNOWN_KEYS: usize = 100_000;

/// A new API key, `qk_` and 32 random bytes.
pub fn generate_api_key() -> String {
    format!("qk_{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))
}

/// A client's API key: `Authorization: Bearer qk_…`.
#[derive(SecurityScheme)]
#[oai(ty = "bearer", rename = "ClientKey", checker = "check_client")]
pub struct ClientAuth(pub Caller);

/// Your API key, sent as `Authorization: Bearer …`.
// For posts: it may have been looked up a while ago, so the statement that writes the post checks
// it again.
#[derive(SecurityScheme)]
#[oai(ty = "bearer", rename = "ClientKey", checker = "check_poster")]
pub struct PosterAuth(pub Caller);

/// A client, by the key that it called with.
#[derive(Debug)]
pub struct Caller {
    /// The client's id.
    pub id: Uuid,
    pub api_key_hash: [u8; 32],
    /// The third parties that it may use, as they were when the key was looked up.
    pub third_parties: Arc<ClientThirdParties>,
}

impl Caller {
    /// Whose reads these are.
    pub(in crate::http) fn reader(&self) -> Reader {
        Some(self.api_key_hash)
    }

    /// Whether the key is the client's now.
    pub async fn is_still_known(&self, state: &ApiState) -> Result<bool, Problem> {
        Ok(self.refreshed(state).await?.is_some())
    }

    /// The third parties that the client may use now; `None` where the key is not its own any more.
    pub async fn refreshed(
        &self,
        state: &ApiState,
    ) -> Result<Option<Arc<ClientThirdParties>>, Problem> {
        let found = clients::find_by_api_key_hash(&state.pool, &self.api_key_hash);
        let found = state.read(self.reader(), found).await?.filter(|found| found.id == self.id);
        let Some(found) = found else {
            state.known_keys.forget(&self.api_key_hash);
            return Ok(None);
        };
        Ok(Some(state.known_keys.add(self.api_key_hash, found).third_parties))
    }
}

/// A client that a key has found.
#[derive(Debug, Clone)]
pub(in crate::http) struct KnownClient {
    id: Uuid,
    third_parties: Arc<ClientThirdParties>,
}

impl KnownClient {
    fn calls_by(self, api_key_hash: [u8; 32]) -> Caller {
        Caller { id: self.id, api_key_hash, third_parties: self.third_parties }
    }
}

/// Clients by the hash of their API key. As many as there are keys in use.
#[derive(Debug)]
pub(in crate::http) struct KnownKeys {
    clients: Mutex<HashMap<[u8; 32], KnownClient>>,
    unknown: Semaphore,
}

impl Default for KnownKeys {
    fn default() -> Self {
        Self { clients: Mutex::default(), unknown: Semaphore::new(UNKNOWN_KEY_PLACES) }
    }
}

impl KnownKeys {
    fn find(&self, hash: &[u8; 32]) -> Option<KnownClient> {
        self.keys().get(hash).cloned()
    }

    fn add(&self, hash: [u8; 32], found: FoundClient) -> KnownClient {
        let known = KnownClient { id: found.id, third_parties: Arc::new(found.third_parties) };
        let mut keys = self.keys();
        if keys.len() >= MAX_KNOWN_KEYS {
            keys.clear();
        }
        keys.insert(hash, known.clone());
        known
    }

    fn forget(&self, hash: &[u8; 32]) {
        self.keys().remove(hash);
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<[u8; 32], KnownClient>> {
        // Nothing that is done under the lock can panic half-way through a change.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
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

    pub(in crate::http) fn hashes(&self) -> &[[u8; 32]] {
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
pub(in crate::http) fn known_client(state: &ApiState, request: &Request) -> Option<Uuid> {
    Some(state.known_keys.find(&bearer_hash(request)?)?.id)
}

/// The hash of a request's bearer key that is neither an operator's nor a client's that is known.
pub(in crate::http) fn unknown_key(state: &ApiState, request: &Request) -> Option<[u8; 32]> {
    let hash = bearer_hash(request)?;
    let is_known = state.operator_tokens.contain(&hash) || state.known_keys.find(&hash).is_some();
    (!is_known).then_some(hash)
}

/// Whose post a request is, as far as that is known here. An unknown key counts as a client of its own
/// (the nil UUID) if it can be looked up at once.
pub(in crate::http) fn poster(state: &ApiState, request: &Request) -> Option<Uuid> {
    known_client(state, request).or_else(|| {
        unknown_key(state, request)?;
        (state.known_keys.unknown.available_permits() > 0).then_some(Uuid::nil())
    })
}

/// Looks a key up, unless that was done meanwhile, so that its client is known from now on.
pub(in crate::http) async fn learn(state: &ApiState, hash: &[u8; 32]) {
    if state.known_keys.find(hash).is_none() {
        // Where the database does not say, the next request asks again.
        let _ = find_client(state, hash).await;
    }
}

/// The hash of a request's bearer key; `None` where there is none, or one that is nobody's.
fn bearer_hash(request: &Request) -> Option<[u8; 32]> {
    let (scheme, key) = request.header(header::AUTHORIZATION)?.split_once(' ')?;
    let key = scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())?;
    hash(key)
}

/// `None` for a key that is longer than any.
fn hash(key: &str) -> Option<[u8; 32]> {
    (key.len() <= MAX_KEY_BYTES).then(|| hash_token(key))
}

async fn check_client(request: &Request, bearer: Bearer) -> poem::Result<Caller> {
    let api_key_hash = hash(&bearer.token).ok_or_else(Problem::unauthorized)?;
    let found = find_client(ApiState::of(request), &api_key_hash).await?;
    Ok(found.ok_or_else(Problem::unauthorized)?.calls_by(api_key_hash))
}

async fn check_poster(request: &Request, bearer: Bearer) -> poem::Result<Caller> {
    let api_key_hash = hash(&bearer.token).ok_or_else(Problem::unauthorized)?;
    if let Some(known) = ApiState::of(request).known_keys.find(&api_key_hash) {
        return Ok(known.calls_by(api_key_hash));
    }
    check_client(request, bearer).await
}

async fn check_operator(request: &Request, bearer: Bearer) -> poem::Result<String> {
    let state = ApiState::of(request);
    let hash = hash(&bearer.token).ok_or_else(Problem::unauthorized)?;
    if state.operator_tokens.contain(&hash) {
        // UTF-8, which HTTP's own reading of a header would drop.
        let name = request.headers().get(OPERATOR_NAME).map_or(&b""[..], |name| name.as_bytes());
        let name = std::str::from_utf8(name).ok().and_then(operator_name);
        return name.ok_or_else(|| {
            let detail = "must be at most 100 printable characters, in UTF-8";
            Problem::invalid(vec![FieldProblem::parameter(OPERATOR_NAME, detail)]).into()
        });
    }
    match find_client(state, &hash).await? {
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

/// Looks a key up, and remembers the result.
async fn find_client(state: &ApiState, hash: &[u8; 32]) -> Result<Option<KnownClient>, Problem> {
    let found = state.within_limit(async {
        let _place = match state.known_keys.find(hash) {
            Some(_) => None,
            // It is never closed.
            None => state.known_keys.unknown.acquire().await.ok(),
        };
        state.read(Some(*hash), clients::find_by_api_key_hash(&state.pool, hash)).await
    });
    let found = found.await?;
    if found.is_none() {
        state.known_keys.forget(hash);
    }
    Ok(found.map(|found| state.known_keys.add(*hash, found)))
}
