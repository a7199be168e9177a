//! Further third parties, each a file in a directory.
//!
//! `NAME.toml` holds the deployment's own settings of the third party NAME: those that
//! `QUARTET_THIRD_PARTY__…` has for the one without a name, under the same names in lower case and
//! with the same defaults. No secret is in such a file. `NAME.profile.toml` and `NAME.cases.toml`
//! may stand beside it: a profile, and its recorded cases.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use toml::Value;

use super::{
    super::{
        credentials,
        settings::{Settings, flatten, read_table},
        value::{Parsed, directory},
    },
    LiveValues, ThirdParty,
};
use crate::{
    domain::{DEFAULT_THIRD_PARTY, ThirdPartyName},
    profiles::{Names, Values, WEBHOOK_SECRETS},
    signature::Secret,
};

const DIRECTORY: &str = "QUARTET_THIRD_PARTIES__DIRECTORY";
const SECRETS: &str = "QUARTET_THIRD_PARTIES__SECRETS__";
/// What the settings of the one without a name begin with.
const ONE: &str = "QUARTET_THIRD_PARTY__";
/// What stands beside the files, and is none of them.
const BESIDE: [&str; 2] = [".profile.toml", ".cases.toml"];

/// `QUARTET_THIRD_PARTIES__…`: the third parties beside the one without a name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ThirdParties {
    /// Where their files are, if there may be others.
    pub directory: Option<PathBuf>,
    pub named: BTreeMap<ThirdPartyName, NamedThirdParty>,
}

/// A third party that has a file.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedThirdParty {
    pub settings: ThirdParty,
    /// What verifies its webhooks, where it speaks Quartet's own contract.
    pub webhook_secrets: Option<Arc<LiveSecrets>>,
}

impl ThirdParties {
    pub(in crate::config) fn read(settings: &mut Settings) -> Self {
        let directory = settings.optional(
            DIRECTORY,
            directory,
            "Directory with a file `NAME.toml` for each further third party. The one without a \
             name then exists only where its base URL, its profile or `QUARTET_WEBHOOK__SECRETS` \
             is set",
        );
        let secrets = settings.family(
            "QUARTET_THIRD_PARTIES__SECRETS__NAME__SECRET",
            SECRETS,
            true,
            "The secret `SECRET` of the third party `NAME` (`mtn-momo` is `MTN_MOMO`), unless it \
             is a file in its `secrets_directory`",
        );
        let mut secrets = Secrets(secrets);
        let mut named = BTreeMap::new();
        if let Some(directory) = &directory {
            for path in files(settings, directory) {
                if let Some((name, third_party)) =
                    read_file(settings, directory, &path, &mut secrets)
                {
                    named.insert(name, third_party);
                }
            }
        }
        secrets.refuse_rest(settings, &directory, &named);
        Self { directory, named }
    }
}

/// Secrets of the environment that no third party has taken yet.
struct Secrets(BTreeMap<String, String>);

impl Secrets {
    /// Those of this third party, by their names.
    fn take(&mut self, name: &ThirdPartyName) -> Vec<(String, String)> {
        let mut taken = Vec::new();
        // A variable's levels are parted by `__`, a file's by a dot.
        for prefix in ["__", "."].map(|level| format!("{}{level}", variable_part(name))) {
            let prefix = prefix.to_ascii_lowercase();
            self.0.retain(|key, value| match key.strip_prefix(&prefix) {
                Some(secret) => {
                    taken.push((secret.to_owned(), std::mem::take(value)));
                    false
                }
                None => true,
            });
        }
        taken
    }

    fn refuse_rest(
        self,
        settings: &mut Settings,
        directory: &Option<PathBuf>,
        named: &BTreeMap<ThirdPartyName, NamedThirdParty>,
    ) {
        for key in self.0.into_keys() {
            let names: Vec<String> = named.keys().map(|name| variable_part(name)).collect();
            let allowed = match directory {
                None => format!("is used with {DIRECTORY} alone"),
                Some(_) => format!(
                    "is the secret of no third party that has a file; the names are {}",
                    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
                ),
            };
            settings.refuse(&format!("{SECRETS}{}", key.to_ascii_uppercase()), &allowed);
        }
    }
}

/// `mtn-momo` → `MTN_MOMO`, which no other name becomes: none has a `_`.
fn variable_part(name: &str) -> String {
    name.replace('-', "_").to_ascii_uppercase()
}

/// The files, in the order of their names.
fn files(settings: &mut Settings, directory: &Path) -> Vec<PathBuf> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            settings.refuse(DIRECTORY, &format!("cannot be read: {error}"));
            return Vec::new();
        }
    };
    let mut paths = BTreeSet::new();
    for entry in entries {
        match entry {
            Ok(entry) => {
                paths.insert(entry.path());
            }
            Err(error) => settings.refuse(DIRECTORY, &format!("cannot be read: {error}")),
        }
    }
    let is_named_as_one = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        // Mounted volumes have hidden entries beside the files.
        name.ends_with(".toml")
            && !name.starts_with('.')
            && !BESIDE.iter().any(|ending| name.ends_with(ending))
    };
    let mut files = Vec::new();
    for path in paths.into_iter().filter(is_named_as_one) {
        // A link that leads nowhere, for one: without it the third party would silently be missing.
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => {
                settings.add_problem(DIRECTORY, format!("{} must be a file", path.display()))
            }
            Ok(_) => files.push(path),
            Err(error) => {
                let path = path.display();
                settings.add_problem(DIRECTORY, format!("{path} cannot be read: {error}"));
            }
        }
    }
    files
}

fn read_file(
    settings: &mut Settings,
    directory: &Path,
    path: &Path,
    secrets: &mut Secrets,
) -> Option<(ThirdPartyName, NamedThirdParty)> {
    let file = path.display().to_string();
    let stem = path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    let name = ThirdPartyName::parse(&stem).and_then(|name| match name.is_default() {
        true => Err(format!(
            "must not be {DEFAULT_THIRD_PARTY}, which is the name of the one that {ONE}… describes"
        )),
        false => Ok(name),
    });
    let name = match name {
        Ok(name) => name,
        Err(allowed) => {
            settings.add_problem(DIRECTORY, format!("the name of the file {file} {allowed}"));
            return None;
        }
    };
    let secrets = secrets.take(&name);
    let table = match read_table(path) {
        Ok(table) => table,
        Err(error) => {
            let error = crate::domain::with_causes(&error);
            settings.add_problem(DIRECTORY, error);
            return None;
        }
    };
    let mut values = BTreeMap::new();
    flatten("third_party", table, &mut values);
    let mut problems = Vec::new();
    values.retain(|key, _| {
        let Some(secret) = key.strip_prefix("third_party.secrets") else { return true };
        if secret.starts_with('_') {
            return true;
        }
        let secret = secret.trim_start_matches('.').to_ascii_uppercase();
        let secret = if secret.is_empty() { "SECRET".to_owned() } else { secret };
        problems.push(format!(
            "`secrets` in {file}: a secret must not be in this file; set {SECRETS}{}__{secret}, or \
             put it into a file in `secrets_directory`",
            variable_part(&name)
        ));
        false
    });
    for key in ["third_party.profile", "third_party.secrets_directory"] {
        if let Some(Value::String(text)) = values.get_mut(key)
            && (text.ends_with(".toml") || text.contains('/') || key.ends_with("directory"))
        {
            // Beside the file; an absolute path stays as it is.
            *text = directory.join(&*text).display().to_string();
        }
    }

    let has_profile = values.contains_key("third_party.profile");
    let (for_webhooks, for_profile): (Vec<_>, Vec<_>) = secrets
        .into_iter()
        .partition(|(secret, _)| !has_profile && WEBHOOK_SECRETS.contains(&secret.as_str()));
    let env = for_profile
        .into_iter()
        .map(|(secret, value)| (format!("{ONE}SECRETS__{}", secret.to_ascii_uppercase()), value));
    let mut own = Settings::of_file(env, values, file.clone());
    let read = ThirdParty::read(&mut own);
    if read.base_url.is_none() && !own.is_refused(BASE_URL) && !own.is_refused(PROFILE) {
        own.refuse(BASE_URL, "must be the third party's absolute http:// or https:// URL");
    }
    let webhook_secrets = (!has_profile).then(|| {
        let directory = own.text("QUARTET_THIRD_PARTY__SECRETS_DIRECTORY").map(PathBuf::from);
        Arc::new(LiveSecrets::new(directory, for_webhooks))
    });
    if let Some(Err(why)) = webhook_secrets.as_ref().map(|secrets| secrets.read()) {
        problems.push(format!("{SECRETS}{}__WEBHOOK: the value {why}", variable_part(&name)));
    }
    own.refuse_unknown();
    problems.extend(own.into_problems().into_iter().map(|problem| problem.message));
    for problem in problems {
        settings.add_problem(DIRECTORY, in_words_of_file(&problem, &name, &file));
    }
    Some((name, NamedThirdParty { settings: read, webhook_secrets }))
}

const BASE_URL: &str = "QUARTET_THIRD_PARTY__BASE_URL";
const PROFILE: &str = "QUARTET_THIRD_PARTY__PROFILE";

/// A problem that names settings of the third party without a name, with what stands for them here:
/// keys of the file, and variables with the name in them.
fn in_words_of_file(problem: &str, name: &str, file: &str) -> String {
    let mut text = String::new();
    let mut rest = problem;
    while let Some(at) = rest.find(ONE) {
        let (before, from) = rest.split_at(at);
        let from = &from[ONE.len()..];
        let is_part = |c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        let (setting, after) = from.split_at(from.find(is_part).unwrap_or(from.len()));
        text.push_str(before);
        match setting.strip_prefix("SECRETS__") {
            Some(secret) => {
                text.push_str(&format!("{SECRETS}{}__{secret}", variable_part(name)));
            }
            None => {
                let key = setting.replace("__", ".").to_ascii_lowercase();
                text.push_str(&format!("`{key}` in {file}"));
            }
        }
        rest = after;
    }
    text + rest
}

impl NamedThirdParty {
    /// The secret without which no webhook could be verified, as its variable, where there is none.
    pub(in crate::config) fn missing_webhook_secret(
        &self,
        name: &ThirdPartyName,
    ) -> Option<String> {
        let is_missing = match (&self.settings.profile, &self.webhook_secrets) {
            (Some(profile), _) => profile.missing_webhook_secret().is_some(),
            (None, Some(secrets)) => secrets.get().is_empty(),
            (None, None) => false,
        };
        is_missing.then(|| format!("{SECRETS}{}__WEBHOOK", variable_part(name)))
    }
}

/// The Standard Webhooks secrets of a third party, as they are now.
#[derive(Debug)]
pub struct LiveSecrets {
    values: LiveValues,
    present: Mutex<Option<Present>>,
}

/// What was read last, and what it was made of.
#[derive(Debug)]
struct Present {
    values: Arc<Values>,
    secrets: Arc<Vec<Secret>>,
}

impl PartialEq for LiveSecrets {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl LiveSecrets {
    fn new(directory: Option<PathBuf>, secrets: Vec<(String, String)>) -> Self {
        let secrets = secrets.into_iter().map(|(name, text)| (name, text.into()));
        let given = Values { secrets: secrets.collect(), ..Values::default() };
        let optional_secrets = WEBHOOK_SECRETS.map(str::to_owned).into();
        let names = Names { optional_secrets, ..Names::default() };
        Self { values: LiveValues::new(directory, &names, given), present: Mutex::default() }
    }

    fn read(&self) -> Parsed<Vec<Secret>> {
        read_secrets(&self.values.get())
    }

    /// The secrets as they are now, each of which verifies. Where a new one cannot be read, they
    /// stay as they were.
    pub fn get(&self) -> Arc<Vec<Secret>> {
        let values = self.values.get();
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &*present {
            Some(seen) if Arc::ptr_eq(&seen.values, &values) => return seen.secrets.clone(),
            before => before.as_ref().map(|before| before.secrets.clone()),
        };
        let secrets = match read_secrets(&values) {
            Ok(secrets) => Arc::new(secrets),
            Err(why) => {
                tracing::warn!(why, "the secrets of webhooks stay as they were");
                before.unwrap_or_default()
            }
        };
        *present = Some(Present { values, secrets: secrets.clone() });
        secrets
    }
}

fn read_secrets(values: &Values) -> Parsed<Vec<Secret>> {
    let mut secrets = Vec::new();
    for name in WEBHOOK_SECRETS {
        if let Some(secret) = values.secrets.get(name) {
            secrets.extend(credentials::secrets(secret.expose())?);
        }
    }
    Ok(secrets)
}

#[cfg(test)]
#[path = "third_parties_tests.rs"]
mod tests;
