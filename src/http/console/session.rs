//! Who is signed in: a signed cookie that every API process accepts.
//!
//! The cookie holds when it expires, a nonce, and the name that the operator gave; an HMAC-SHA256
//! over them proves that it was given out here. The key is derived from the operator token that was
//! given: a token that is taken out of the configuration ends its sessions at once. Signing out
//! ends one session, copies of its cookie included: the database remembers those that were ended
//! before their time. A copy that nobody signs out lives for [`LIFETIME`] at most.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::{http::middleware::auth, secrets::hash_token};

/// The cookie's name.
pub const COOKIE: &str = "quartet_console";
/// How long a session lasts.
pub const LIFETIME: TimeDelta = TimeDelta::hours(8);

/// Gives sessions out and knows its own.
#[derive(Clone)]
pub struct Sessions(Vec<SessionKey>);

/// What sessions that began with one token are signed with.
#[derive(Clone)]
struct SessionKey {
    token_hash: [u8; 32],
    key: [u8; 32],
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions([redacted])")
    }
}

/// A signed-in operator.
#[derive(Debug, Clone)]
pub struct Session {
    /// The name given at sign-in, for the audit; empty where none was.
    pub name: String,
    /// What every form of this session must carry.
    pub csrf: String,
    /// Names it, and is no secret.
    pub id: [u8; 32],
    pub expires_at: DateTime<Utc>,
}

impl Sessions {
    /// From the SHA-256 of each operator token, which is all that a process keeps of it. `None`
    /// without a token: nobody can sign in.
    pub fn new(token_hashes: &[[u8; 32]]) -> Option<Self> {
        let key = |token_hash: &[u8; 32]| SessionKey {
            token_hash: *token_hash,
            key: sign(token_hash, "quartet console session v1"),
        };
        (!token_hashes.is_empty()).then(|| Self(token_hashes.iter().map(key).collect()))
    }

    /// A new session's cookie value; `None` where this is not the hash of an operator token.
    pub fn begin(&self, token_hash: &[u8; 32], name: &str, now: DateTime<Utc>) -> Option<String> {
        // Each is compared, so that the time does not say which one it is.
        let key = self.0.iter().fold(None, |found, key| {
            let is_given = bool::from(key.token_hash.ct_eq(token_hash));
            is_given.then_some(key.key).or(found)
        })?;
        let expires = (now + LIFETIME).timestamp();
        let nonce = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>());
        let signed = format!("{expires}.{nonce}.{}", URL_SAFE_NO_PAD.encode(name));
        let mac = URL_SAFE_NO_PAD.encode(sign(&key, &signed));
        Some(format!("{signed}.{mac}"))
    }

    /// The session of a cookie's value; `None` where it is not one of ours or has expired. It may
    /// have been signed out.
    pub fn resume(&self, value: &str, now: DateTime<Utc>) -> Option<Session> {
        let (signed, mac) = value.rsplit_once('.')?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        let signs = |key: &&SessionKey| bool::from(sign(&key.key, signed).ct_eq(mac.as_slice()));
        let SessionKey { key, .. } = self.0.iter().find(signs)?;
        let (expires, rest) = signed.split_once('.')?;
        let expires_at = DateTime::from_timestamp(expires.parse().ok()?, 0)?;
        if expires_at <= now {
            return None;
        }
        let (_, name) = rest.split_once('.')?;
        let name = String::from_utf8(URL_SAFE_NO_PAD.decode(name).ok()?).ok()?;
        let csrf = URL_SAFE_NO_PAD.encode(sign(key, &format!("csrf {value}")));
        Some(Session { name, csrf, id: hash_token(signed), expires_at })
    }
}

impl Session {
    /// Whether a form carried this session's token.
    pub fn is_csrf_token(&self, given: &str) -> bool {
        self.csrf.as_bytes().ct_eq(given.as_bytes()).into()
    }

    /// Who acts, as the audit has it.
    pub fn operator(&self) -> String {
        // The sign-in took no other name.
        auth::operator_name(&self.name).unwrap_or_else(|| "operator".to_owned())
    }

    /// The name on the pages.
    pub fn display_name(&self) -> &str {
        if self.name.is_empty() { "operator" } else { &self.name }
    }
}

fn sign(key: &[u8; 32], text: &str) -> [u8; 32] {
    // HMAC takes a key of any length: `new_from_slice` cannot fail for it.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000, 0).unwrap()
    }

    const TOKEN: [u8; 32] = [7; 32];

    fn sessions() -> Sessions {
        Sessions::new(&[TOKEN]).unwrap()
    }

    #[test]
    fn a_session_lasts_for_its_lifetime() {
        let sessions = sessions();
        let cookie = sessions.begin(&TOKEN, "Ada", now()).unwrap();
        let session = sessions.resume(&cookie, now() + LIFETIME - TimeDelta::seconds(1)).unwrap();
        assert_eq!((session.name.as_str(), session.operator().as_str()), ("Ada", "operator (Ada)"));
        assert!(sessions.resume(&cookie, now() + LIFETIME).is_none());
    }

    #[test]
    fn a_token_that_is_taken_away_ends_its_sessions_alone() {
        const OTHER: [u8; 32] = [8; 32];
        let both = Sessions::new(&[TOKEN, OTHER]).unwrap();
        let [one, other] = [TOKEN, OTHER].map(|token| both.begin(&token, "", now()).unwrap());
        assert!(both.resume(&one, now()).is_some() && both.resume(&other, now()).is_some());
        let rest = Sessions::new(&[OTHER]).unwrap();
        assert!(rest.resume(&one, now()).is_none());
        assert!(rest.resume(&other, now()).is_some());
        assert!(rest.begin(&TOKEN, "", now()).is_none());
        assert!(Sessions::new(&[]).is_none());
    }

    #[test]
    fn each_session_has_an_id_and_a_csrf_token_of_its_own() {
        let sessions = sessions();
        let [one, other] = [(); 2]
            .map(|()| sessions.resume(&sessions.begin(&TOKEN, "", now()).unwrap(), now()).unwrap());
        assert_ne!(one.id, other.id);
        assert!(one.is_csrf_token(&one.csrf));
        assert!(!one.is_csrf_token(&other.csrf) && !one.is_csrf_token(""));
    }

    proptest! {
        #[test]
        fn a_changed_cookie_is_refused(position in 0usize..120, byte in b'!'..=b'~') {
            let sessions = sessions();
            let cookie = sessions.begin(&TOKEN, "Ada", now()).unwrap();
            let mut changed = cookie.clone().into_bytes();
            let position = position % changed.len();
            changed[position] = byte;
            let changed = String::from_utf8(changed).unwrap();
            prop_assert!(changed == cookie || sessions.resume(&changed, now()).is_none());
        }

        #[test]
        fn arbitrary_text_is_refused_without_panic(text in ".*") {
            prop_assert!(sessions().resume(&text, now()).is_none());
        }
    }
}
