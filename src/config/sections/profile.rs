//! The profile of the third party, and the values that it uses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::super::{
    DEFAULT_THIRD_PARTY,
    settings::Settings,
    value::{Parsed, directory, without_byte_order_mark},
};
use crate::profiles::{Names, Profile, SHIPPED, SecretText, Shipped, Values, WEBHOOK_SECRETS};

const PROFILE: &str = "QUARTET_THIRD_PARTY__PROFILE";
const DIRECTORY: &str = "QUARTET_THIRD_PARTY__SECRETS_DIRECTORY";
const SECRETS: &str = "QUARTET_THIRD_PARTY__SECRETS__";
const VARS: &str = "QUARTET_THIRD_PARTY__VARS__";
/// Longest file that is read.
const MAX_FILE: u64 = 1024 * 1024;
/// How often the files are looked at for changes, while the values are used.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// `QUARTET_THIRD_PARTY__PROFILE` with its variables and secrets.
#[derive(Debug, Clone)]
pub struct ThirdPartyProfile {
    pub profile: Arc<Profile>,
    pub values: Arc<LiveValues>,
}

impl PartialEq for ThirdPartyProfile {
    fn eq(&self, other: &Self) -> bool {
        self.profile == other.profile && self.values == other.values
    }
}

impl ThirdPartyProfile {
    pub(in crate::config) fn read(settings: &mut Settings) -> Option<Self> {
        let profile = settings.optional(
            PROFILE,
            parse_profile,
            "How the third party is called: the name of a profile that comes with the program, or \
             a file, `FILE.toml`. Unset, it speaks Quartet's own contract",
        );
        let directory = settings.optional(
            DIRECTORY,
            directory,
            "Directory with a file for each secret of the profile, by its name; a file that \
             changes is read again",
        );
        let secrets = settings.family(
            "QUARTET_THIRD_PARTY__SECRETS__NAME",
            SECRETS,
            true,
            "The profile's secret `NAME`, unless it is a file in \
             `QUARTET_THIRD_PARTY__SECRETS_DIRECTORY`",
        );
        let vars = settings.family(
            "QUARTET_THIRD_PARTY__VARS__NAME",
            VARS,
            false,
            "The profile's variable `NAME`",
        );
        let Some(profile) = profile else {
            if !settings.is_refused(PROFILE) {
                for variable in secrets
                    .keys()
                    .map(|name| variable(SECRETS, name))
                    .chain(vars.keys().map(|name| variable(VARS, name)))
                {
                    settings.refuse(&variable, &format!("is used with {PROFILE} alone"));
                }
            }
            return None;
        };
        let names = profile.names();
        let from_settings = Values {
            vars,
            secrets: secrets.into_iter().map(|(name, text)| (name, text.into())).collect(),
        };
        refuse_unknown(settings, &names, &from_settings);
        let values = LiveValues::new(directory, &names, from_settings);
        match values.read() {
            Ok(values) => {
                refuse_missing(settings, &names, &values);
                refuse_webhook_secrets(settings, &profile, &values);
            }
            Err(why) => settings.refuse(DIRECTORY, &why),
        }
        Some(Self { profile: Arc::new(profile), values: Arc::new(values) })
    }

    /// The secret without which no webhook could be verified, as its setting, where there is none.
    pub(in crate::config) fn missing_webhook_secret(&self) -> Option<String> {
        let [required, _] = WEBHOOK_SECRETS;
        let is_missing = self.profile.needs_webhook_secret()
            && !self.values.get().secrets.contains_key(required);
        is_missing.then(|| variable(SECRETS, required))
    }
}

fn variable(prefix: &str, name: &str) -> String {
    format!("{prefix}{}", name.to_ascii_uppercase())
}

fn refuse_unknown(settings: &mut Settings, names: &Names, values: &Values) {
    let unknown = |given: Vec<&String>, used: [&BTreeSet<String>; 2]| {
        let unknown = given.into_iter().filter(|name| !used.iter().any(|set| set.contains(*name)));
        unknown.cloned().collect::<Vec<_>>()
    };
    let list = |sets: [&BTreeSet<String>; 2]| {
        let names: Vec<&str> = sets.into_iter().flatten().map(String::as_str).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    let secrets = [&names.secrets, &names.optional_secrets];
    for name in unknown(values.secrets.keys().collect(), secrets) {
        let allowed = format!("is no secret of the profile, which uses {}", list(secrets));
        settings.refuse(&variable(SECRETS, &name), &allowed);
    }
    let vars = [&names.vars, &names.optional_vars];
    for name in unknown(values.vars.keys().collect(), vars) {
        let allowed = format!("is no variable of the profile, which uses {}", list(vars));
        settings.refuse(&variable(VARS, &name), &allowed);
    }
}

fn refuse_missing(settings: &mut Settings, names: &Names, values: &Values) {
    for name in names.secrets.iter().filter(|name| !values.secrets.contains_key(*name)) {
        let allowed = format!(
            "must be the profile's secret `{name}`, or that must be the file `{name}` in \
             {DIRECTORY}"
        );
        settings.refuse(&variable(SECRETS, name), &allowed);
    }
    for name in names.vars.iter().filter(|name| !values.vars.contains_key(*name)) {
        let allowed = format!("must be the profile's variable `{name}`");
        settings.refuse(&variable(VARS, name), &allowed);
    }
}

/// What is there of the webhooks' secrets must be keys as the profile writes them.
fn refuse_webhook_secrets(settings: &mut Settings, profile: &Profile, values: &Values) {
    let Some(webhook) = profile.webhook() else { return };
    if profile.name() == DEFAULT_THIRD_PARTY && !settings.is_of_file() {
        let problem = format!(
            "must not be a profile with the name {DEFAULT_THIRD_PARTY} and a [webhook] section: these \
             webhooks have the path of Quartet's own contract"
        );
        settings.refuse(PROFILE, &problem);
    }
    // Without a variable it cannot be built; that was refused.
    let Ok(receiver) = webhook.receiver(&values.vars) else { return };
    for name in WEBHOOK_SECRETS {
        let Some(secret) = values.secrets.get(name) else { continue };
        if profile.needs_webhook_secret()
            && let Err(why) = receiver.read_key(secret.expose())
        {
            let problem = format!("holds no key of the profile's webhooks: it {why}");
            settings.refuse(&variable(SECRETS, name), &problem);
        }
    }
}

fn parse_profile(text: &str) -> Parsed<Profile> {
    if text.ends_with(".toml") || text.contains('/') {
        let read = read_file(Path::new(text)).map_err(|why| format!("cannot be read: {why}"))?;
        let read = read.ok_or("must be a file that is there")?;
        return Profile::parse(text, &read).map_err(|why| format!("cannot be used:\n{why}"));
    }
    let shipped = Shipped::named(text).ok_or_else(|| {
        let names: Vec<&str> = SHIPPED.iter().map(|shipped| shipped.name).collect();
        format!("must be one of {}, or a file, such as ./own.toml", names.join(", "))
    })?;
    shipped.profile().map_err(|why| format!("cannot be used:\n{why}"))
}

/// The text of a file; `None`: there is none.
fn read_file(path: &Path) -> Result<Option<String>, String> {
    match fs::metadata(path) {
        Ok(file) if file.len() > MAX_FILE => {
            return Err(format!("it is longer than {MAX_FILE} bytes"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    Ok(Some(without_byte_order_mark(text)))
}

/// The variables and secrets of a profile, as they are now. Secrets that are files are read again
/// when these change; where one cannot be read the values stay as they were.
#[derive(Debug)]
pub struct LiveValues {
    directory: Option<PathBuf>,
    /// The secrets that may be files.
    names: BTreeSet<String>,
    from_settings: Values,
    present: Mutex<Option<Present>>,
}

#[derive(Debug)]
struct Present {
    values: Arc<Values>,
    files: Files,
    looked_at: Instant,
}

/// When each file was changed, and its length.
type Files = BTreeMap<String, Option<(SystemTime, u64)>>;

impl PartialEq for LiveValues {
    /// Whether the settings are the same.
    fn eq(&self, other: &Self) -> bool {
        self.directory == other.directory && self.from_settings == other.from_settings
    }
}

impl LiveValues {
    pub(super) fn new(directory: Option<PathBuf>, names: &Names, from_settings: Values) -> Self {
        let names = names.secrets.union(&names.optional_secrets);
        let names = names.filter(|name| !from_settings.secrets.contains_key(*name));
        Self {
            directory,
            names: names.cloned().collect(),
            from_settings,
            present: Mutex::default(),
        }
    }

    /// The values as they are now. The same `Arc` where nothing has changed.
    pub fn get(&self) -> Arc<Values> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(present) = &*present
            && (self.directory.is_none() || present.looked_at.elapsed() < LOOK_EVERY)
        {
            return present.values.clone();
        }
        let mut files = self.files();
        let before = present.take();
        let values = match &before {
            Some(before) if before.files == files => before.values.clone(),
            _ => {
                match (self.read().and_then(|values| complete(values, before.as_ref())), &before) {
                    (Ok(values), Some(before)) if values == *before.values => before.values.clone(),
                    (Ok(values), Some(_)) => {
                        tracing::info!("the third party's secrets were read again");
                        Arc::new(values)
                    }
                    (Ok(values), None) => Arc::new(values),
                    (Err(why), Some(before)) => {
                        tracing::warn!(why, "the third party's secrets stay as they were");
                        // Whatever makes them readable need not change what was compared.
                        files.clone_from(&before.files);
                        before.values.clone()
                    }
                    (Err(why), None) => {
                        tracing::warn!(why, "the third party's secrets cannot be read");
                        Arc::new(self.from_settings.clone())
                    }
                }
            }
        };
        *present = Some(Present { values: values.clone(), files, looked_at: Instant::now() });
        values
    }

    fn files(&self) -> Files {
        let state = |name: &String| {
            let metadata = fs::metadata(self.directory.as_ref()?.join(name)).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        self.names.iter().map(|name| (name.clone(), state(name))).collect()
    }

    fn read(&self) -> Result<Values, String> {
        let mut values = self.from_settings.clone();
        let Some(directory) = &self.directory else { return Ok(values) };
        for name in &self.names {
            let path = directory.join(name);
            let text = read_file(&path)
                .map_err(|why| format!("has the file `{name}`, which cannot be read: {why}"))?;
            let Some(text) = text else { continue };
            // Editors end a file with a line break, which is no part of the secret, and no header
            // can end with a blank.
            let text = text.trim_end();
            if !text.is_empty() {
                values.secrets.insert(name.clone(), SecretText::from(text.to_owned()));
            }
        }
        Ok(values)
    }
}

/// A file that has gone takes no secret away: it may be about to be replaced.
fn complete(values: Values, before: Option<&Present>) -> Result<Values, String> {
    let known = before.into_iter().flat_map(|before| before.values.secrets.keys());
    match known.into_iter().find(|name| !values.secrets.contains_key(*name)) {
        Some(name) => Err(format!("the file `{name}` has gone, or is empty")),
        None => Ok(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, Role},
        domain::CallRate,
    };

    fn load(settings: &[(&str, &str)]) -> Result<Config, String> {
        let env = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(env, None).map_err(|error| error.to_string())
    }

    #[test]
    fn a_profile_brings_its_timeouts_and_needs_its_values() {
        let error = load(&[(PROFILE, "mtn-momo")]).unwrap_err();
        for name in ["SECRETS__SUBSCRIPTION_KEY", "SECRETS__CLIENT_ID", "VARS__TARGET_ENVIRONMENT"]
        {
            assert!(error.contains(&format!("QUARTET_THIRD_PARTY__{name}")), "{error}");
        }
        let error = load(&[(PROFILE, "paypal")]).unwrap_err();
        assert!(error.contains("mtn-momo") && error.contains(PROFILE), "{error}");
        let error = load(&[
            (PROFILE, "paystack"),
            ("QUARTET_THIRD_PARTY__SECRETS__TOKEN", "sk_hush_1"),
            ("QUARTET_THIRD_PARTY__SECRETS__TOKENS", "sk_hush_2"),
            ("QUARTET_THIRD_PARTY__CREATE_PATH", "/x"),
        ]);
        let error = error.unwrap_err();
        assert!(error.contains("SECRETS__TOKENS") && error.contains("uses token"), "{error}");
        assert!(error.contains("CREATE_PATH") && !error.contains("hush"), "{error}");
        let error = load(&[("QUARTET_THIRD_PARTY__SECRETS__TOKEN", "sk_hush_1")]).unwrap_err();
        assert!(error.contains(PROFILE) && !error.contains("hush"), "{error}");
    }

    #[test]
    fn a_profile_says_how_many_calls_are_allowed_unless_the_setting_does() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("slow.toml");
        let text = Shipped::named("quartet").unwrap().text;
        fs::write(&file, format!("rate = \"60/m\"\n{text}")).unwrap();
        let profile = (PROFILE, file.to_str().unwrap());
        let max_calls = |settings: &[_]| load(settings).unwrap().third_party.max_calls;
        let rate = max_calls(&[profile]).unwrap();
        assert_eq!((rate.calls, rate.per), (60, Duration::from_secs(60)));
        let setting = ("QUARTET_THIRD_PARTY__MAX_CALLS_PER_SECOND", "25");
        assert_eq!(max_calls(&[profile, setting]), Some(CallRate::per_second(25)));
        assert_eq!(max_calls(&[(PROFILE, "quartet")]), None);
        let error = load(&[profile, (setting.0, "0")]).unwrap_err();
        assert!(error.contains(setting.0), "{error}");
    }

    #[test]
    fn the_key_of_webhooks_is_needed_where_they_arrive() {
        let load_for = |role, settings: &[(&str, &str)]| {
            let env = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            Config::load_for(role, env, None).map_err(|error| error.to_string())
        };
        let settings = |profile, token, webhook| {
            [
                ("DATABASE_URL", "postgres://localhost/x"),
                ("QUARTET_THIRD_PARTY__BASE_URL", "http://localhost"),
                (PROFILE, profile),
                ("QUARTET_THIRD_PARTY__SECRETS__TOKEN", token),
                ("QUARTET_THIRD_PARTY__SECRETS__WEBHOOK", webhook),
            ]
        };
        let error = load_for(Role::Api, &settings("paystack", "t", "")).unwrap_err();
        assert!(error.contains("QUARTET_THIRD_PARTY__SECRETS__WEBHOOK is not set"), "{error}");
        assert!(error.contains("the file `webhook`"), "{error}");
        load_for(Role::Worker, &settings("paystack", "t", "")).unwrap();
        load_for(Role::All, &settings("paystack", "t", "hush")).unwrap();
        // Its webhooks are not signed.
        let error = load_for(Role::Api, &settings("mollie", "t", "hush")).unwrap_err();
        assert!(error.contains("SECRETS__WEBHOOK") && error.contains("no secret of"), "{error}");
        let error = load_for(Role::Api, &settings("quartet", "", "hush")).unwrap_err();
        assert!(error.contains("must begin with `whsec_`") && !error.contains("hush"), "{error}");
        let error = load_for(Role::Api, &settings("pawapay", "t", "hush")).unwrap_err();
        assert!(error.contains("public key") && !error.contains("hush"), "{error}");
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_secret_or_a_profile() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let text = Shipped::named("paystack").unwrap().text;
        let text = text.replace("name = \"paystack\"", "name = \"own\"");
        fs::write(path("own.toml"), format!("\u{feff}{text}")).unwrap();
        fs::write(path("token"), "\u{feff}sk_1\r\n").unwrap();
        let config = load(&[(PROFILE, &path("own.toml")), (DIRECTORY, &path(""))]).unwrap();
        let values = config.third_party.profile.unwrap().values;
        assert_eq!(values.get().secrets["token"].expose(), "sk_1");
        // A file with nothing else in it has no secret.
        fs::write(path("token"), "\u{feff}\n").unwrap();
        let error = load(&[(PROFILE, &path("own.toml")), (DIRECTORY, &path(""))]).unwrap_err();
        assert!(error.contains("the file `token`"), "{error}");
    }

    #[test]
    fn a_file_that_changes_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        let settings = [(PROFILE, "paystack"), (DIRECTORY, directory.path().to_str().unwrap())];
        assert!(load(&settings).unwrap_err().contains("the file `token`"));
        fs::write(&file, "one\n").unwrap();
        let config = load(&settings).unwrap();
        let values = config.third_party.profile.unwrap().values;
        let token = |values: &Values| values.secrets["token"].expose().to_owned();
        assert_eq!(token(&values.get()), "one");
        fs::write(&file, "another\n").unwrap();
        values.present.lock().unwrap().as_mut().unwrap().looked_at -= LOOK_EVERY;
        assert_eq!(token(&values.get()), "another");
        fs::remove_file(&file).unwrap();
        values.present.lock().unwrap().as_mut().unwrap().looked_at -= LOOK_EVERY;
        assert_eq!(token(&values.get()), "another");
        assert!(!format!("{values:?}").contains("another"));
    }
}
