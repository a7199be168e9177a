//! Which third party a transaction is created at.

use std::{borrow::Cow, fmt, ops::Deref};

use serde::{Deserialize, Serialize};

/// The name of the third party that has none: that of `QUARTET_THIRD_PARTY__…`.
pub const DEFAULT_THIRD_PARTY: &str = "third-party";
/// Most characters of a name.
pub const MAX_THIRD_PARTY_NAME: usize = 64;

/// Why an event with another id of the third party is not about the transaction.
pub fn other_provider_id(known: &str, given: &str) -> String {
    format!(
        "it names the third party's id {given:?}, but that was {known:?} before: there may be two"
    )
}

/// What a job says that waits for its turn in its third party's budget of calls, after that one's
/// name.
pub const OVER_BUDGET: &str = "is called as often as its budget allows";

/// The name of a third party.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ThirdPartyName(Cow<'static, str>);

impl ThirdPartyName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the one without a name.
    pub fn is_default(&self) -> bool {
        self.0 == DEFAULT_THIRD_PARTY
    }

    /// The setting that configures it.
    pub fn setting(&self) -> &'static str {
        match self.is_default() {
            true => "QUARTET_THIRD_PARTY__BASE_URL",
            false => "QUARTET_THIRD_PARTIES__DIRECTORY",
        }
    }

    /// Reads the name of a further third party. The error says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::check(text)?;
        Ok(text.to_owned().into())
    }

    /// Whether this may be the name of a third party. The error says what is allowed.
    pub fn check(text: &str) -> Result<(), String> {
        let is_word = |word: &str| {
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            !word.is_empty() && word.bytes().all(is_plain)
        };
        if text.len() > MAX_THIRD_PARTY_NAME || !text.split('-').all(is_word) {
            return Err(format!(
                "must be 1 to {MAX_THIRD_PARTY_NAME} of the characters a-z, 0-9 and, between \
                 others, one `-` at a time"
            ));
        }
        Ok(())
    }
}

impl Default for ThirdPartyName {
    fn default() -> Self {
        Self(Cow::Borrowed(DEFAULT_THIRD_PARTY))
    }
}

impl From<String> for ThirdPartyName {
    fn from(name: String) -> Self {
        if name == DEFAULT_THIRD_PARTY { Self::default() } else { Self(Cow::Owned(name)) }
    }
}

impl From<ThirdPartyName> for String {
    fn from(name: ThirdPartyName) -> Self {
        name.0.into_owned()
    }
}

impl Deref for ThirdPartyName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ThirdPartyName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for ThirdPartyName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, formatter)
    }
}

/// Where a transaction goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub third_party: ThirdPartyName,
    /// Whether the client chose it, in place of its default at that time.
    pub is_chosen: bool,
}

impl Route {
    /// Whether it is that of a deployment with one third party.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The third parties that a client may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientThirdParties {
    /// Where its transactions go that name none.
    pub default: ThirdPartyName,
    /// Those that it may name besides.
    pub allowed: Vec<ThirdPartyName>,
}

impl ClientThirdParties {
    /// As they are stored.
    pub fn stored(default: String, allowed: Vec<String>) -> Self {
        let allowed = allowed.into_iter().map(ThirdPartyName::from).collect();
        Self { default: default.into(), allowed }
    }

    /// All of them, the default first.
    pub fn all(&self) -> impl Iterator<Item = &ThirdPartyName> {
        let others = self.allowed.iter().filter(|name| **name != self.default);
        std::iter::once(&self.default).chain(others)
    }

    /// Where a post goes that names `third_party`; `None` where the client may not use it.
    pub fn route(&self, third_party: Option<&str>) -> Option<Route> {
        let Some(name) = third_party else {
            return Some(Route { third_party: self.default.clone(), is_chosen: false });
        };
        let third_party = self.all().find(|allowed| allowed.as_str() == name)?.clone();
        let is_chosen = third_party != self.default;
        Some(Route { third_party, is_chosen })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_strict() {
        for name in ["a", "mtn-momo", "stripe2", "0", "third-party", &"x".repeat(64)] {
            assert_eq!(ThirdPartyName::parse(name).unwrap().as_str(), name);
        }
        for name in ["", "A", "a_b", "-a", "a-", "a--b", "a.b", "ä", "a b", &"x".repeat(65)] {
            assert!(ThirdPartyName::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn leaving_it_out_equals_naming_the_default() {
        let name = |text: &str| ThirdPartyName::parse(text).unwrap();
        let own = ClientThirdParties { default: name("a"), allowed: vec![name("b"), name("a")] };
        assert_eq!(own.route(None), own.route(Some("a")));
        let chosen = own.route(Some("b")).unwrap();
        assert!(chosen.is_chosen && chosen.third_party == name("b"));
        assert_eq!(own.route(Some("c")), None);
        assert_eq!(own.all().count(), 2);
        assert!(ClientThirdParties::default().route(None).unwrap().is_default());
    }
}
