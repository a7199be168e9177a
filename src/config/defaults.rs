//! Generated defaults, as for `quartet dev`. The environment and the file override them.

use std::path::Path;

use super::{Config, ConfigError, settings::Settings};

/// The environment and the file, over defaults.
pub struct WithDefaults<'a> {
    file: Option<&'a Path>,
    settings: Settings,
}

impl<'a> WithDefaults<'a> {
    pub fn new(
        env: impl IntoIterator<Item = (String, String)>,
        file: Option<&'a Path>,
    ) -> Result<Self, ConfigError> {
        Ok(Self { file, settings: Settings::new(env, file)? })
    }

    /// Gives a setting this value, unless it has one, right or wrong.
    pub fn set(&mut self, variable: &str, value: String) {
        self.settings.set_default(variable, value);
    }

    /// A setting as text, where it has one. [`Config`] keeps only hashes of some.
    pub fn text(&self, variable: &str) -> Option<String> {
        self.settings.text(variable)
    }

    /// The configuration as it is now.
    pub fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.settings.env().clone(), self.file)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const FIRST: &str = "QUARTET_POLL__FIRST";

    /// The first poll that is configured over a default of 3 s.
    fn first_poll(env: &[(&str, &str)], file: &str) -> Result<u64, ConfigError> {
        let mut written = tempfile::NamedTempFile::new().unwrap();
        written.write_all(file.as_bytes()).unwrap();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut settings = WithDefaults::new(env, Some(written.path()))?;
        settings.set(FIRST, "3s".to_owned());
        let (text, config) = (settings.text(FIRST).unwrap(), settings.load()?);
        assert_eq!(text, format!("{}s", config.poll.first.as_secs()));
        Ok(config.poll.first.as_secs())
    }

    #[test]
    fn the_environment_wins_over_the_file_and_both_over_a_default() {
        let file = "[poll]\nfirst = \"2s\"";
        assert_eq!(first_poll(&[], "").unwrap(), 3);
        assert_eq!(first_poll(&[(FIRST, " ")], "[poll]\nfirst = \"\"").unwrap(), 3);
        assert_eq!(first_poll(&[], file).unwrap(), 2);
        assert_eq!(first_poll(&[(FIRST, "")], file).unwrap(), 2);
        assert_eq!(first_poll(&[(FIRST, "1s")], file).unwrap(), 1);
        assert_eq!(first_poll(&[(FIRST, "1s")], "").unwrap(), 1);
    }

    #[test]
    fn a_default_hides_no_mistake() {
        let error = first_poll(&[], "[poll]\nfirst = true").unwrap_err();
        assert_eq!(error.problems()[0].variable, FIRST);
    }
}
