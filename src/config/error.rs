//! What is wrong with a configuration, all of it at once.

use std::{fmt, io, path::PathBuf};

/// Why there is no configuration. No text here holds a secret's value.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration file {} could not be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Holds the parser's words instead of its error, which quotes the line and so may quote a
    /// secret.
    #[error("the configuration file {} is not valid TOML, line {line}: {reason}", path.display())]
    Syntax { path: PathBuf, line: usize, reason: String },
    #[error("the configuration is wrong:{}", list(.0))]
    Invalid(Vec<Problem>),
}

impl ConfigError {
    /// The problems, if values are what is wrong.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid(problems) => problems,
            Self::Read { .. } | Self::Syntax { .. } => &[],
        }
    }
}

/// One setting that is wrong or missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The environment variable; for an unknown key in the file, the one it would have.
    pub variable: String,
    /// A whole sentence: where the value stands, the value unless it is secret, what is allowed.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  - {problem}")).collect()
}
