//! Who is signed in: a signed cookie that every API process accepts, without state.
//!
//! The cookie holds when it expires, a nonce, and the name that the operator gave; an HMAC-SHA256
//! over them proves that it was given out here. The key is derived from the operator token: another
//! token ends all sessions at once. What it does not give is an early end of one session: signing
//! out removes the cookie from the browser, and a stolen copy lives for [`LIFETIME`] at most.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::http::auth;

/// The cookie's name.
pub const COOKIE: &str = "quartet_console";
/// How long a session lasts.
pub const LIFETIME: TimeDelta = TimeDelta::hours(8);

/// Gives sessions out and knows its own.
#[derive(Clone)]
pub struct Sessions {
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
}

impl Sessions {
    /// From the SHA-256 of the operator token, which is all that a process keeps of it.
    pub fn new(token_hash: [u8; 32]) -> Self {
        let key = sign(&token_hash, "quartet console session v1");
        Self { token_hash, key }
    }

    /// Whether this is the hash of the operator token.
    pub fn is_token(&self, hash: &[u8; 32]) -> bool {
        self.token_hash.ct_eq(hash).into()
    }

    /// A new session's cookie value.
    pub fn begin(&self, name: &str, now: DateTime<Utc>) -> String {
        let expires = (now + LIFETIME).timestamp();
        let nonce = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>());
        let signed = format!("{expires}.{nonce}.{}", URL_SAFE_NO_PAD.encode(name));
        let mac = URL_SAFE_NO_PAD.encode(sign(&self.key, &signed));
        format!("{signed}.{mac}")
    }

    /// The session of a cookie's value; `None` where it is not one of ours or is over.
    pub fn resume(&self, value: &str, now: DateTime<Utc>) -> Option<Session> {
        let (signed, mac) = value.rsplit_once('.')?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        if !bool::from(sign(&self.key, signed).ct_eq(mac.as_slice())) {
            return None;
        }
        let (expires, rest) = signed.split_once('.')?;
        if expires.parse::<i64>().ok()? <= now.timestamp() {
            return None;
        }
        let (_, name) = rest.split_once('.')?;
        let name = String::from_utf8(URL_SAFE_NO_PAD.decode(name).ok()?).ok()?;
        let csrf = URL_SAFE_NO_PAD.encode(sign(&self.key, &format!("csrf {value}")));
        Some(Session { name, csrf })
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

    /// The name to show.
    pub fn shown(&self) -> &str {
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

    #[test]
    fn a_session_lasts_for_its_lifetime() {
        let sessions = Sessions::new([7; 32]);
        let cookie = sessions.begin("Ada", now());
        let session = sessions.resume(&cookie, now() + LIFETIME - TimeDelta::seconds(1)).unwrap();
        assert_eq!((session.name.as_str(), session.operator().as_str()), ("Ada", "operator (Ada)"));
        assert!(sessions.resume(&cookie, now() + LIFETIME).is_none());
    }

    #[test]
    fn another_token_ends_all_sessions() {
        let cookie = Sessions::new([7; 32]).begin("", now());
        assert!(Sessions::new([8; 32]).resume(&cookie, now()).is_none());
    }

    #[test]
    fn each_session_has_a_csrf_token_of_its_own() {
        let sessions = Sessions::new([7; 32]);
        let [one, other] =
            [(); 2].map(|()| sessions.resume(&sessions.begin("", now()), now()).unwrap());
        assert!(one.is_csrf_token(&one.csrf));
        assert!(!one.is_csrf_token(&other.csrf) && !one.is_csrf_token(""));
    }

    proptest! {
        #[test]
        fn a_changed_cookie_is_refused(position in 0usize..120, byte in b'!'..=b'~') {
            let sessions = Sessions::new([7; 32]);
            let cookie = sessions.begin("Ada", now());
            let mut changed = cookie.clone().into_bytes();
            let position = position % changed.len();
            changed[position] = byte;
            let changed = String::from_utf8(changed).unwrap();
            prop_assert!(changed == cookie || sessions.resume(&changed, now()).is_none());
        }

        #[test]
        fn arbitrary_text_is_refused_without_panic(text in ".*") {
            prop_assert!(Sessions::new([7; 32]).resume(&text, now()).is_none());
        }
    }
}
