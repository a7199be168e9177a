use std::fs;

use tempfile::TempDir;

use super::*;
use crate::{
    config::{Config, Role},
    profiles::Shipped,
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    directory
}

fn load(directory: &TempDir, settings: &[(&str, &str)]) -> Result<Config, String> {
    let env = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let own = [
        (DIRECTORY.to_owned(), directory.path().display().to_string()),
        ("DATABASE_URL".to_owned(), "postgres://localhost/x".to_owned()),
    ];
    Config::load_for(Role::All, own.into_iter().chain(env), None).map_err(|error| error.to_string())
}

fn name(text: &str) -> ThirdPartyName {
    ThirdPartyName::parse(text).unwrap()
}

#[test]
fn a_file_has_the_same_settings_with_the_same_defaults() {
    let directory = directory(&[
        ("a.toml", "base_url = 'http://a'"),
        (
            "b-2.toml",
            "base_url = 'http://b/'\ncreate_retries = 5\ntimeout = '7s'\ncreate_path = '/c'",
        ),
        // Neither of these is a third party.
        ("x.profile.toml", "nonsense"),
        ("x.profile.cases.toml", "nonsense"),
        ("README.md", ""),
        ("..data/c.toml", "nonsense"),
    ]);
    let secrets = [
        ("QUARTET_THIRD_PARTIES__SECRETS__A__WEBHOOK", SECRET),
        ("QUARTET_THIRD_PARTIES__SECRETS__B_2__WEBHOOK", SECRET),
    ];
    let config = load(&directory, &secrets).unwrap();
    let named = &config.third_parties.named;
    assert_eq!(named.keys().map(ThirdPartyName::as_str).collect::<Vec<_>>(), ["a", "b-2"]);
    let base_url = named[&name("a")].settings.base_url.clone();
    let defaults = ThirdParty { base_url, ..Config::default().third_party };
    assert_eq!(named[&name("a")].settings, defaults);
    let b = &named[&name("b-2")].settings;
    assert_eq!((b.create_retries, b.timeout.as_secs()), (5, 7));
    assert_eq!(b.create_url().unwrap(), "http://b/c");
    let secrets = named[&name("a")].webhook_secrets.as_ref().unwrap().get();
    assert_eq!(secrets.len(), 1);
    assert!(!format!("{config:?}").contains(&SECRET[6..]));

    // The one without a name is there where it has an address.
    assert!(!config.has_unnamed_third_party());
    let names = |config: &Config| {
        config.all_third_parties().map(|(name, _)| name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&config), ["a", "b-2"]);
    let more = [
        ("QUARTET_THIRD_PARTIES__SECRETS__A__WEBHOOK", SECRET),
        ("QUARTET_THIRD_PARTIES__SECRETS__B_2__WEBHOOK", SECRET),
        ("QUARTET_THIRD_PARTY__BASE_URL", "http://unnamed"),
        ("QUARTET_WEBHOOK__SECRETS", SECRET),
    ];
    assert_eq!(names(&load(&directory, &more).unwrap()), ["third-party", "a", "b-2"]);
    let address = "127.0.0.1:80".parse().unwrap();
    let url = config.webhook_url_of(&name("b-2"), address);
    assert_eq!(url, "http://127.0.0.1:80/v1/webhooks/b-2");
}

#[test]
fn everything_that_is_wrong_is_named_with_its_file_at_once() {
    let directory = directory(&[
        ("a.toml", "base_url = 'ftp://a'\ntimeout = 5\nretires = 3\n"),
        ("b.toml", "timeout = '1s'\n[secrets]\ntoken = 'hush'\n"),
        ("Wrong.toml", ""),
        ("third-party.toml", "base_url = 'http://x'"),
        ("c.toml", "base_url = "),
        ("d.toml", "profile = 'paypall'"),
        ("e.toml", "profile = 'paystack'\ncreate_path = '/x'\n[vars]\nx = 'y'\n"),
    ]);
    let error = load(
        &directory,
        &[
            ("QUARTET_THIRD_PARTIES__SECRETS__A__WEBHOOK", "hush"),
            ("QUARTET_THIRD_PARTIES__SECRETS__Z__TOKEN", "hush"),
            ("QUARTET_THIRD_PARTIES__SECRETS__E__TOKENS", "hush"),
        ],
    )
    .unwrap_err();
    let file = |name: &str| directory.path().join(name).display().to_string();
    for expected in [
        format!("`base_url` in {}: \"ftp://a\" must be an absolute", file("a.toml")),
        format!("`timeout` in {}: \"5\" has no unit", file("a.toml")),
        format!("`retires` in {} is no setting", file("a.toml")),
        "QUARTET_THIRD_PARTIES__SECRETS__A__WEBHOOK: the value".to_owned(),
        format!("`base_url` in {} is not set", file("b.toml")),
        format!("`secrets` in {}: a secret must not be in this file", file("b.toml")),
        "set QUARTET_THIRD_PARTIES__SECRETS__B__TOKEN".to_owned(),
        format!("the name of the file {} must be 1 to 64", file("Wrong.toml")),
        format!("the name of the file {} must not be third-party", file("third-party.toml")),
        format!("{} is not valid TOML, line 1", file("c.toml")),
        format!("`profile` in {}: \"paypall\" must be one of", file("d.toml")),
        format!("`create_path` in {}: \"/x\" is not used with `profile`", file("e.toml")),
        "QUARTET_THIRD_PARTIES__SECRETS__E__TOKEN is not set; it must be the profile's secret"
            .to_owned(),
        "QUARTET_THIRD_PARTIES__SECRETS__E__TOKENS: the value is no secret".to_owned(),
        format!("`vars.x` in {}", file("e.toml")),
        "QUARTET_THIRD_PARTIES__SECRETS__Z__TOKEN: the value is the secret of no".to_owned(),
    ] {
        assert!(error.contains(&expected), "{expected}\n{error}");
    }
    // Keys of the files are not called by variables that mean another third party.
    let of_unnamed = error.matches("QUARTET_THIRD_PARTY__").count();
    let is_explained = error.matches("QUARTET_THIRD_PARTY__…").count();
    assert!(!error.contains("hush") && of_unnamed == is_explained, "{error}");
}

#[test]
fn a_key_in_another_case_is_named_as_it_stands_in_the_file() {
    let text = "base_url = 'http://a'\n[Vars]\nCountry = 'x'\n[vars]\nX = 'y'\n";
    let directory = directory(&[("a.toml", text)]);
    let error = load(&directory, &[]).unwrap_err();
    let file = directory.path().join("a.toml").display().to_string();
    for (key, read) in [("Vars.Country", "vars.country"), ("vars.X", "vars.x")] {
        let expected = format!("`{key}` in {file} is no setting; did you mean `{read}`?");
        assert!(error.contains(&expected), "{expected}\n{error}");
    }
}

#[test]
fn a_profile_and_secrets_may_stand_beside_the_file() {
    let own =
        Shipped::named("paystack").unwrap().text.replace("name = \"paystack\"", "name = \"own\"");
    let directory = directory(&[
        ("a.toml", "base_url = 'http://a'\nprofile = 'own.profile.toml'\nsecrets_directory = 'a'"),
        ("own.profile.toml", &own),
        ("a/token", "sk_1\n"),
        ("a/webhook", "sk_2\n"),
        ("b.toml", "base_url = 'http://b'\nsecrets_directory = 'b'"),
        ("b/webhook", SECRET),
    ]);
    let config = load(&directory, &[]).unwrap();
    let profile = config.third_parties.named[&name("a")].settings.profile.as_ref().unwrap();
    assert_eq!(profile.values.get().secrets["token"].expose(), "sk_1");
    assert_eq!(profile.profile.name(), "own");
    let b = config.third_parties.named[&name("b")].webhook_secrets.as_ref().unwrap();
    assert_eq!(b.get().len(), 1);

    let error = load(
        &directory,
        &[("QUARTET_THIRD_PARTY__PROFILE", "mtn-momo"), ("QUARTET_DEFAULT_CLIENT__NAME", "x")],
    )
    .unwrap_err();
    // The one without a name is described by its own settings as before.
    assert!(error.contains("QUARTET_THIRD_PARTY__SECRETS__SUBSCRIPTION_KEY"), "{error}");
}

#[test]
fn the_secret_of_webhooks_and_the_default_clients_third_party_must_be_there() {
    let directory =
        directory(&[("a.toml", "base_url = 'http://a'"), ("b.toml", "base_url = 'http://b'")]);
    let client = [
        ("QUARTET_DEFAULT_CLIENT__NAME", "x"),
        ("QUARTET_DEFAULT_CLIENT__API_KEY", "qk_0123456789abcdef"),
        ("QUARTET_DEFAULT_CLIENT__CALLBACK_URL", "https://example.com/x"),
        ("QUARTET_DEFAULT_CLIENT__SIGNING_SECRET", SECRET),
        ("QUARTET_THIRD_PARTIES__SECRETS__A__WEBHOOK", SECRET),
    ];
    let error = load(&directory, &client).unwrap_err();
    assert!(error.contains("QUARTET_THIRD_PARTIES__SECRETS__B__WEBHOOK is not set"), "{error}");
    assert!(error.contains("QUARTET_DEFAULT_CLIENT__THIRD_PARTY"), "{error}");
    let more = |more: &[(&'static str, &'static str)]| {
        let mut settings = client.to_vec();
        settings.push(("QUARTET_THIRD_PARTIES__SECRETS__B__WEBHOOK", SECRET));
        settings.extend(more);
        load(&directory, &settings)
    };
    let config = more(&[
        ("QUARTET_DEFAULT_CLIENT__THIRD_PARTY", "b"),
        ("QUARTET_DEFAULT_CLIENT__OTHER_THIRD_PARTIES", "a"),
    ]);
    let own = config.unwrap().default_client.unwrap();
    assert_eq!(
        (own.third_party, own.other_third_parties),
        (Some(name("b")), Some(vec![name("a")]))
    );
    let error = more(&[
        ("QUARTET_DEFAULT_CLIENT__THIRD_PARTY", "a"),
        ("QUARTET_DEFAULT_CLIENT__OTHER_THIRD_PARTIES", "c"),
    ]);
    let error = error.unwrap_err();
    assert!(error.contains("OTHER_THIRD_PARTIES") && error.contains("a, b"), "{error}");
}

#[test]
fn the_default_clients_third_party_is_not_derived_from_what_is_configured() {
    let directory = directory(&[("a.toml", "base_url = 'http://a'")]);
    let load = |role, more: &[(&str, &str)]| {
        let path = directory.path().display().to_string();
        let client = [
            ("DATABASE_URL", "postgres://localhost/x"),
            (DIRECTORY, &*path),
            ("QUARTET_DEFAULT_CLIENT__NAME", "x"),
            ("QUARTET_DEFAULT_CLIENT__API_KEY", "qk_0123456789abcdef"),
            ("QUARTET_DEFAULT_CLIENT__CALLBACK_URL", "https://example.com/x"),
            ("QUARTET_DEFAULT_CLIENT__SIGNING_SECRET", SECRET),
            ("QUARTET_THIRD_PARTIES__SECRETS__A__WEBHOOK", SECRET),
        ];
        let env = client.iter().chain(more).map(|(name, value)| (*name, *value));
        let env: Vec<_> = env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Config::load_for(role, env, None).map_err(|error| error.to_string())
    };
    for role in [Role::All, Role::Api, Role::Worker] {
        let error = load(role, &[]).unwrap_err();
        for variable in ["QUARTET_DEFAULT_CLIENT__THIRD_PARTY is not set", "__BASE_URL", DIRECTORY]
        {
            assert!(error.contains(variable), "{role:?}: {error}");
        }
        let said = load(role, &[("QUARTET_DEFAULT_CLIENT__THIRD_PARTY", "a")]).unwrap();
        assert_eq!(said.default_client.unwrap().third_party, Some(name("a")));
        let unnamed = [
            ("QUARTET_THIRD_PARTY__BASE_URL", "http://unnamed"),
            ("QUARTET_WEBHOOK__SECRETS", SECRET),
        ];
        let unsaid = load(role, &unnamed).unwrap().default_client.unwrap();
        assert_eq!((unsaid.third_party, unsaid.other_third_parties), (None, None));
    }
    // The secrets of its webhooks say that there is one without a name, which only the API may
    // leave without an address.
    let secrets = [("QUARTET_WEBHOOK__SECRETS", SECRET)];
    assert!(load(Role::Api, &secrets).unwrap().has_unnamed_third_party());
    for role in [Role::All, Role::Worker] {
        let error = load(role, &secrets).unwrap_err();
        assert!(error.contains("QUARTET_THIRD_PARTY__BASE_URL is not set"), "{error}");
    }
    let others = |text| {
        let unnamed = ("QUARTET_THIRD_PARTY__BASE_URL", "http://unnamed");
        let more = [unnamed, secrets[0], ("QUARTET_DEFAULT_CLIENT__OTHER_THIRD_PARTIES", text)];
        load(Role::All, &more).map(|config| config.default_client.unwrap().other_third_parties)
    };
    assert_eq!(others("-"), Ok(Some(Vec::new())));
    assert_eq!(others("a, third-party").unwrap().unwrap().len(), 2);
    assert!(others("a,").is_err() && others(",").is_err());
}

#[test]
fn an_entry_that_cannot_be_read_is_not_passed_over() {
    let directory = directory(&[("a.toml", "base_url = 'http://a'"), ("d.toml/x", "")]);
    let path = |name: &str| directory.path().join(name);
    std::os::unix::fs::symlink(path("nowhere"), path("b.toml")).unwrap();
    std::os::unix::fs::symlink(path("nowhere"), path(".hidden.toml")).unwrap();
    let error = load(&directory, &[("QUARTET_THIRD_PARTIES__SECRETS__A__WEBHOOK", SECRET)]);
    let error = error.unwrap_err();
    assert!(error.contains(&format!("{} cannot be read", path("b.toml").display())), "{error}");
    assert!(error.contains(&format!("{} must be a file", path("d.toml").display())), "{error}");
    assert!(!error.contains("hidden"), "{error}");
}

#[test]
fn a_deadline_of_polls_is_longer_than_the_wait_for_the_first_one() {
    let secret = [("QUARTET_THIRD_PARTIES__SECRETS__A__WEBHOOK", SECRET)];
    let with = |deadline: &str| {
        let text = format!("base_url = 'http://a'\npoll_deadline = '{deadline}'");
        load(&directory(&[("a.toml", &text)]), &secret)
    };
    let config = with("3d").unwrap();
    assert_eq!(config.poll_deadline(&name("a")).as_secs(), 3 * 24 * 60 * 60);
    assert_eq!(config.poll_deadline(&name("other")), config.poll.deadline);
    let error = with("200ms").unwrap_err();
    let must = "must hold a.toml with a `poll_deadline` (200ms) that is longer than \
                QUARTET_POLL__FIRST (200ms)";
    assert!(error.contains(must), "{error}");
}

#[test]
fn an_empty_directory_has_no_third_party() {
    let error = load(&directory(&[]), &[]).unwrap_err();
    assert!(error.contains("there is no third party"), "{error}");
}
