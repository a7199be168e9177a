//! Reading settings by name: the environment first, then the file; every mistake is kept.
//!
//! Each `read` names a variable, its default as text, what it means and how to parse it. The names
//! collected in this way separate known from unknown settings and make the reference page, so
//! neither can fall behind the code.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use toml::{Table, Value};

use super::{
    error::{ConfigError, Problem},
    service_links::is_service_link,
    value::Parsed,
    variable::{PREFIX, TEST_PREFIX, key_of, variable_of},
};

/// Messages cut a longer value.
const MAX_VALUE_CHARS: usize = 80;
/// Keys of a third party's own file have this prefix here, and none in the file.
const THIRD_PARTY_PREFIX: &str = "third_party.";

/// One setting, as the reference describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettingDoc {
    /// The environment variable.
    pub variable: &'static str,
    /// The default as it would be written; empty where there is none.
    pub default: &'static str,
    /// What it is for, with its unit and limits.
    pub meaning: &'static str,
}

/// A value as given, with its place.
struct Given {
    /// The text; or, from the file, what makes it no single value.
    text: Result<String, &'static str>,
    from_file: bool,
}

pub(super) struct Settings {
    env: BTreeMap<String, String>,
    file: BTreeMap<String, Value>,
    file_name: String,
    docs: Vec<SettingDoc>,
    secrets: BTreeSet<&'static str>,
    /// What the names of settings begin with whose rest is free, and whether they are secrets.
    families: Vec<(&'static str, bool)>,
    problems: Vec<Problem>,
    /// Whether the file holds the settings of one third party alone.
    is_of_file: bool,
}

impl Settings {
    pub(super) fn new(
        env: impl IntoIterator<Item = (String, String)>,
        file: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        let mut values = BTreeMap::new();
        if let Some(path) = file {
            flatten("", read_table(path)?, &mut values);
        }
        Ok(Self {
            env: env.into_iter().collect(),
            file: values,
            file_name: file.map(|path| path.display().to_string()).unwrap_or_default(),
            docs: Vec::new(),
            secrets: BTreeSet::new(),
            families: Vec::new(),
            problems: Vec::new(),
            is_of_file: false,
        })
    }

    /// Settings of one third party from its own file, with its secrets from the environment.
    pub(super) fn of_file(
        secrets: impl IntoIterator<Item = (String, String)>,
        file: BTreeMap<String, Value>,
        file_name: String,
    ) -> Self {
        Self {
            env: secrets.into_iter().collect(),
            file,
            file_name,
            docs: Vec::new(),
            secrets: BTreeSet::new(),
            families: Vec::new(),
            problems: Vec::new(),
            is_of_file: true,
        }
    }

    /// Whether these are of one third party's own file, whose problems are put into its words.
    pub(super) fn is_of_file(&self) -> bool {
        self.is_of_file
    }

    /// Adds a problem in words of its own, which is about `variable`.
    pub(super) fn add_problem(&mut self, variable: &str, message: String) {
        self.problems.push(Problem { variable: variable.to_owned(), message });
    }

    /// A setting with a default, which is parsed like any other text.
    pub(super) fn read<T>(
        &mut self,
        variable: &'static str,
        default: &'static str,
        parse: impl Fn(&str) -> Parsed<T>,
        meaning: &'static str,
    ) -> T {
        self.docs.push(SettingDoc { variable, default, meaning });
        self.parse(variable, &parse).unwrap_or_else(|| {
            // Defaults are constants of this crate; a test reads every one of them.
            parse(default).expect("the default is an allowed value")
        })
    }

    /// A setting without a default.
    pub(super) fn optional<T>(
        &mut self,
        variable: &'static str,
        parse: impl Fn(&str) -> Parsed<T>,
        meaning: &'static str,
    ) -> Option<T> {
        self.docs.push(SettingDoc { variable, default: "", meaning });
        self.parse(variable, &parse)
    }

    /// A setting without a default whose value no message shows.
    pub(super) fn secret<T>(
        &mut self,
        variable: &'static str,
        parse: impl Fn(&str) -> Parsed<T>,
        meaning: &'static str,
    ) -> Option<T> {
        self.secrets.insert(variable);
        self.optional(variable, parse, meaning)
    }

    /// Settings whose names begin with `prefix`, by the rest of the name in lower case. `example`
    /// is the name that documents them. No message shows the value of a secret.
    pub(super) fn family(
        &mut self,
        example: &'static str,
        prefix: &'static str,
        is_secret: bool,
        meaning: &'static str,
    ) -> BTreeMap<String, String> {
        self.docs.push(SettingDoc { variable: example, default: "", meaning });
        self.families.push((prefix, is_secret));
        let of_env = self.env.keys().filter_map(|variable| variable.strip_prefix(prefix));
        let key = key_of(prefix);
        let of_file = self.file.keys().filter_map(|name| name.strip_prefix(key.as_str()));
        let names: BTreeSet<String> =
            of_env.chain(of_file).map(str::to_ascii_lowercase).filter(|n| !n.is_empty()).collect();
        let value = |name: String| {
            let text = self.text(&format!("{prefix}{}", name.to_ascii_uppercase()))?;
            Some((name, text))
        };
        names.into_iter().filter_map(value).collect()
    }

    fn is_of_family(&self, variable: &str) -> bool {
        let is_plain = !variable.contains(|c: char| c.is_ascii_lowercase());
        is_plain && self.families.iter().any(|(prefix, _)| variable.starts_with(prefix))
    }

    fn parse<T>(
        &mut self,
        variable: &'static str,
        parse: &impl Fn(&str) -> Parsed<T>,
    ) -> Option<T> {
        let given = self.given(variable)?;
        let parsed = match &given.text {
            Ok(text) => parse(text),
            Err(allowed) => Err((*allowed).to_owned()),
        };
        parsed.map_err(|allowed| self.refuse(variable, &allowed)).ok()
    }

    /// The value as given; none if it is nowhere or empty.
    fn given(&self, variable: &str) -> Option<Given> {
        let from_env = self.env.get(variable).map(|text| text.trim());
        if let Some(text) = from_env.filter(|text| !text.is_empty()) {
            return Some(Given { text: Ok(text.to_owned()), from_file: false });
        }
        let text = scalar(self.file.get(&key_of(variable))?).map(|text| text.trim().to_owned());
        (text != Ok(String::new())).then_some(Given { text, from_file: true })
    }

    /// Whether something was given for the setting, right or wrong.
    pub(super) fn is_given(&self, variable: &str) -> bool {
        self.given(variable).is_some()
    }

    /// The setting as text, where one was given.
    pub(super) fn text(&self, variable: &str) -> Option<String> {
        self.given(variable)?.text.ok()
    }

    /// Gives a setting that has no value this one, as the environment would.
    pub(super) fn set_default(&mut self, variable: &str, value: String) {
        if !self.is_given(variable) {
            self.env.insert(variable.to_owned(), value);
        }
    }

    pub(super) fn env(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    /// Whether the setting is among those found wrong.
    pub(super) fn is_refused(&self, variable: &str) -> bool {
        self.problems.iter().any(|problem| problem.variable == variable)
    }

    /// Records that the setting is wrong; `allowed` goes on "it … ".
    pub(super) fn refuse(&mut self, variable: &str, allowed: &str) {
        let message = match self.given(variable) {
            None => {
                let default = self.docs.iter().find(|doc| doc.variable == variable);
                match default.map(|doc| doc.default).filter(|default| !default.is_empty()) {
                    Some(default) => format!("{variable} ({default} by default) {allowed}"),
                    None => format!("{variable} is not set; it {allowed}"),
                }
            }
            Some(given) => {
                let place = if given.from_file && !self.is_of_file {
                    format!("`{}` in {} ({variable})", key_of(variable), self.file_name)
                } else {
                    variable.to_owned()
                };
                match given.text {
                    Ok(text) if !self.is_secret(variable, &text) => {
                        format!("{place}: {} {allowed}", quoted(&text))
                    }
                    _ => format!("{place}: the value {allowed}"),
                }
            }
        };
        self.problems.push(Problem { variable: variable.to_owned(), message });
    }

    /// Secrets, and what looks like one in the wrong place: a URL's password, a signing secret.
    fn is_secret(&self, variable: &str, text: &str) -> bool {
        let is_secret_family =
            self.families.iter().any(|(prefix, secret)| *secret && variable.starts_with(prefix));
        self.secrets.contains(variable)
            || is_secret_family
            || text.contains('@')
            || text.contains("whsec_")
    }

    /// Adds every name that no setting has; call it when all are read.
    pub(super) fn refuse_unknown(&mut self) {
        let known: BTreeSet<&str> = self.docs.iter().map(|doc| doc.variable).collect();
        let mut problems = Vec::new();
        for (variable, value) in &self.env {
            let ours = variable.starts_with(PREFIX) && !variable.starts_with(TEST_PREFIX);
            let is_known = known.contains(variable.as_str()) || self.is_of_family(variable);
            let is_unknown = ours && !is_known;
            if is_unknown && !is_service_link(variable, value) {
                let hint = nearest(variable, &known).map(|name| format!("; did you mean {name}?"));
                let message = format!("{variable} is no setting{}", hint.unwrap_or_default());
                problems.push(Problem { variable: variable.clone(), message });
            }
        }
        let keys: BTreeSet<String> = known.iter().map(|variable| key_of(variable)).collect();
        for key in self.file.keys().filter(|key| !keys.contains(*key)) {
            let variable = variable_of(key);
            if self.is_of_family(&variable) {
                // A key in another spelling is not read.
                let read = key_of(&variable);
                if read != *key {
                    let message = self.misspelt(key, &read);
                    problems.push(Problem { variable, message });
                }
                continue;
            }
            let hint = nearest(&variable, &known)
                .map(|name| format!("; did you mean `{}` ({name})?", key_of(name)));
            let message = if self.is_of_file {
                let hint = nearest(&variable, &known).map(|name| format!("; did you mean {name}?"));
                format!("{variable} is no setting{}", hint.unwrap_or_default())
            } else {
                let hint = hint.unwrap_or_default();
                format!("`{key}` in {} is no setting{hint}", self.file_name)
            };
            problems.push(Problem { variable, message });
        }
        self.problems.append(&mut problems);
    }

    /// What to say of a key of the file that is read by another spelling, as in lower case.
    fn misspelt(&self, key: &str, read: &str) -> String {
        // The file of one third party has its settings at the top.
        let section = if self.is_of_file { THIRD_PARTY_PREFIX } else { "" };
        let [key, read] = [key, read].map(|key| key.strip_prefix(section).unwrap_or(key));
        format!("`{key}` in {} is no setting; did you mean `{read}`?", self.file_name)
    }

    pub(super) fn docs(&self) -> &[SettingDoc] {
        &self.docs
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

pub(super) fn read_table(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
        ConfigError::Syntax { path: path.to_owned(), line, reason: error.message().to_owned() }
    })
}

/// Tables become dotted keys; every other value is kept under its key.
pub(super) fn flatten(prefix: &str, table: Table, into: &mut BTreeMap<String, Value>) {
    for (key, value) in table {
        let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(table) => flatten(&key, table, into),
            value => {
                into.insert(key, value);
            }
        }
    }
}

/// The text that the environment would hold for this value. A list becomes its comma-separated
/// entries: a setting that is no list refuses the comma.
fn scalar(value: &Value) -> Result<String, &'static str> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(truth) => Ok(truth.to_string()),
        Value::Array(entries) => {
            let texts: Option<Vec<&str>> = entries.iter().map(Value::as_str).collect();
            Ok(texts.ok_or("must be a list of strings")?.join(","))
        }
        Value::Datetime(_) | Value::Table(_) => Err("must be a string, a number or a list"),
    }
}

/// The known variable that was probably meant, if one is near enough.
fn nearest<'a>(variable: &str, known: &BTreeSet<&'a str>) -> Option<&'a str> {
    let key = key_of(variable);
    let (distance, name) = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&key, &key_of(name)), *name))
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= 1.max(key.chars().count() / 4)).then_some(name)
}

fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_VALUE_CHARS) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
