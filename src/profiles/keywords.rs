//! The fixed words of a profile: read strictly, and an error lists those that are allowed.

/// `'sometimes' is not allowed: refused, same-answer or new-transaction`.
pub(super) fn not_allowed(found: &str, allowed: &[&str]) -> String {
    format!("'{found}' is not allowed: {}", alternatives(allowed))
}

/// `a, b or c`.
pub(super) fn alternatives(words: &[&str]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// Declares an enum that a profile writes as one of a few fixed words.
macro_rules! keywords {
    (
        $(#[$doc:meta])*
        $name:ident {
            $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)?
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            /// Every word, in the order of declaration.
            pub const WORDS: &[&str] = &[$($word),+];

            /// The word that a profile writes.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let word = String::deserialize(from)?;
                match word.as_str() {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(serde::de::Error::custom(
                        crate::profiles::keywords::not_allowed(&word, Self::WORDS),
                    )),
                }
            }
        }
    };
}
pub(super) use keywords;
