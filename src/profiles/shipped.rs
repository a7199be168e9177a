//! The profiles that come with the program, each with its recorded cases. They were written from
//! public documentation and official libraries; none is endorsed by its provider.

use super::{Cases, Profile, ProfileError};

/// A profile that comes with the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shipped {
    pub name: &'static str,
    pub text: &'static str,
    pub cases: &'static str,
}

macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        &[$(Shipped {
            name: $name,
            text: include_str!(concat!("shipped/", $name, ".toml")),
            cases: include_str!(concat!("shipped/", $name, ".cases.toml")),
        }),+]
    };
}

/// All of them, by name.
pub const SHIPPED: &[Shipped] = shipped![
    "gocardless-outbound",
    "mollie",
    "mtn-momo",
    "pawapay",
    "paystack",
    "quartet",
    "stripe-payouts",
];

impl Shipped {
    pub fn named(name: &str) -> Option<&'static Self> {
        SHIPPED.iter().find(|shipped| shipped.name == name)
    }

    pub fn profile(&self) -> Result<Profile, ProfileError> {
        Profile::parse(&format!("{}.toml", self.name), self.text)
    }

    pub fn recorded_cases(&self, profile: &Profile) -> Result<Cases, ProfileError> {
        Cases::of(profile, Some((&format!("{}.cases.toml", self.name), self.cases)))
    }
}
