use std::{fs, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{domain::EgressPolicy, telemetry::LogFormat};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OTHER_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn pairs(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load(settings: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::load(pairs(settings), None)
}

/// A file of its own for one test, removed at its end.
struct File(std::path::PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("quartet-{}-{name}", std::process::id()));
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn load(&self, settings: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::load(pairs(settings), Some(&self.0))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The variables found wrong, in the order they are reported.
fn wrong(result: Result<Config, ConfigError>) -> Vec<String> {
    let error = result.expect_err("the configuration is wrong");
    error.problems().iter().map(|problem| problem.variable.clone()).collect()
}

#[test]
fn defaults_are_those_of_the_design() {
    let (ms, s) = (Duration::from_millis, Duration::from_secs);
    let day = 24 * 3600;
    // Every field is named: a new setting does not compile without its default here.
    let expected = Config {
        database: Database {
            url: None,
            pooler: Pooler::None,
            direct_url: None,
            max_connections: 20,
        },
        http: Http {
            listen: "127.0.0.1:8080".parse().unwrap(),
            public_url: None,
            max_body: 64 * 1024,
            tls: None,
        },
        intake: Intake {
            max_connections: 4096,
            max_in_flight: 1024,
            max_queue_delay: ms(150),
            head_timeout: s(10),
            body_timeout: s(10),
            idle_timeout: s(75),
        },
        limits: Limits { rate: 0, burst: None },
        operator_tokens: vec![],
        operator_name: None,
        secrets: Secrets { master_keys: crate::secrets::MasterKeys::default() },
        third_party: ThirdParty {
            base_url: None,
            create_path: "/transaction".to_owned(),
            lookup_path: "/transaction/{id}".to_owned(),
            timeout: s(35),
            lookup_timeout: s(5),
            create_retries: 3,
            create_backoff: s(120),
            late_storing: s(120),
            poll_deadline: None,
            max_in_flight: 1000,
            max_calls: None,
            profile: None,
        },
        third_parties: ThirdParties::default(),
        circuit: Circuit {
            failure_ratio: 0.5,
            window: s(60),
            min_calls: 20,
            open_for: s(15),
            max_open_for: s(120),
        },
        webhook: Webhook { secrets: vec![], tolerance: s(300) },
        poll: Poll {
            first: ms(200),
            second: ms(10),
            factor: 2.0,
            max_delay: s(60),
            deadline: s(15 * 60),
        },
        notify: Notify {
            first: ms(200),
            max_attempts: 15,
            base: s(1),
            max_delay: s(3600),
            timeout: s(10),
            host_failures: 5,
            egress: EgressPolicy {
                allowed_networks: ["127.0.0.0/8", "::1/128"].map(|net| net.parse().unwrap()).into(),
                allowed_ports: vec![],
                https_only: false,
            },
        },
        dns: Dns { servers: vec![] },
        worker: Worker {
            concurrency: 1000,
            poll_interval: ms(22),
            heartbeat: s(5),
            dead_after: s(15),
            shutdown_grace: s(30),
        },
        reconcile: Reconcile { interval: s(300), rate: 10 },
        retention: Retention {
            jobs: s(7 * day),
            evidence: s(90 * day),
            webhooks: s(30 * day),
            dead_letters: s(90 * day),
            interval: s(600),
        },
        default_client: None,
        log: Log { filter: "info".to_owned(), format: LogFormat::Human },
        traces: Traces { endpoint: None, sample_ratio: 1.0 },
    };
    assert_eq!(load(&[]).unwrap(), expected);
    assert_eq!(Config::default(), expected);
}

#[test]
fn the_files_of_a_certificate_are_checked_every_10_s_by_default() {
    let files = [("QUARTET_HTTP__TLS_CERTIFICATE", "a.pem"), ("QUARTET_HTTP__TLS_KEY", "b.pem")];
    let tls =
        Tls { certificate: "a.pem".into(), key: "b.pem".into(), reload: Duration::from_secs(10) };
    assert_eq!(load(&files).unwrap().http.tls, Some(tls));
}

#[test]
fn every_wrong_value_is_printed_with_its_variable() {
    let cases = [
        ("QUARTET_DATABASE__MAX_CONNECTIONS", "0"),
        ("QUARTET_HTTP__LISTEN", "localhost"),
        ("QUARTET_HTTP__PUBLIC_URL", "quartet.example"),
        ("QUARTET_HTTP__PUBLIC_URL", "ftp://quartet.example"),
        ("QUARTET_HTTP__PUBLIC_URL", "https://quartet.example/?a=b"),
        ("QUARTET_HTTP__MAX_BODY", "0"),
        ("QUARTET_HTTP__MAX_BODY", "64 parsecs"),
        ("QUARTET_HTTP__MAX_BODY", "99999999999999999999KiB"),
        ("QUARTET_HTTP__MAX_BODY", "2GiB"),
        ("QUARTET_THIRD_PARTY__BASE_URL", "/relative"),
        ("QUARTET_THIRD_PARTY__BASE_URL", "https://"),
        ("QUARTET_THIRD_PARTY__CREATE_PATH", "transaction"),
        ("QUARTET_THIRD_PARTY__CREATE_PATH", "/transaction/{id}"),
        ("QUARTET_THIRD_PARTY__LOOKUP_PATH", "/transaction"),
        ("QUARTET_THIRD_PARTY__LOOKUP_PATH", "transaction/{id}"),
        ("QUARTET_THIRD_PARTY__LOOKUP_PATH", "/{id}/{id}"),
        ("QUARTET_THIRD_PARTY__TIMEOUT", "0s"),
        ("QUARTET_THIRD_PARTY__TIMEOUT", "35"),
        ("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "-5s"),
        ("QUARTET_THIRD_PARTY__CREATE_RETRIES", "-1"),
        ("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "soon"),
        ("QUARTET_THIRD_PARTY__MAX_IN_FLIGHT", "0"),
        ("QUARTET_THIRD_PARTY__MAX_CALLS_PER_SECOND", "0"),
        ("QUARTET_THIRD_PARTY__MAX_CALLS_PER_SECOND", "2.5"),
        ("QUARTET_THIRD_PARTY__POLL_DEADLINE", "0s"),
        ("QUARTET_THIRD_PARTY__POLL_DEADLINE", "200ms"),
        ("QUARTET_CIRCUIT__FAILURE_RATIO", "0"),
        ("QUARTET_CIRCUIT__FAILURE_RATIO", "1.01"),
        ("QUARTET_CIRCUIT__FAILURE_RATIO", "NaN"),
        ("QUARTET_CIRCUIT__WINDOW", "0s"),
        ("QUARTET_CIRCUIT__MIN_CALLS", "0"),
        ("QUARTET_CIRCUIT__OPEN_FOR", "15"),
        ("QUARTET_CIRCUIT__MAX_OPEN_FOR", "never"),
        ("QUARTET_WEBHOOK__TOLERANCE", "500ms"),
        ("QUARTET_POLL__FIRST", "11years"),
        ("QUARTET_POLL__SECOND", "0ms"),
        ("QUARTET_POLL__FACTOR", "0.5"),
        ("QUARTET_POLL__FACTOR", "NaN"),
        ("QUARTET_POLL__MAX_DELAY", "5ms"),
        ("QUARTET_POLL__DEADLINE", "200ms"),
        ("QUARTET_NOTIFY__MAX_ATTEMPTS", "0"),
        ("QUARTET_NOTIFY__BASE", "0s"),
        ("QUARTET_NOTIFY__MAX_DELAY", "10ms"),
        ("QUARTET_NOTIFY__TIMEOUT", "0"),
        ("QUARTET_NOTIFY__HOST_FAILURES", "0"),
        ("QUARTET_DNS__SERVERS", "ns.example"),
        ("QUARTET_DNS__SERVERS", "10.0.0.53, 10.0.0.54:dns"),
        ("QUARTET_WORKER__CONCURRENCY", "many"),
        ("QUARTET_WORKER__POLL_INTERVAL", "0s"),
        ("QUARTET_WORKER__HEARTBEAT", "0s"),
        ("QUARTET_WORKER__DEAD_AFTER", "9s"),
        ("QUARTET_WORKER__SHUTDOWN_GRACE", "30"),
        ("QUARTET_RECONCILE__INTERVAL", "0s"),
        ("QUARTET_RECONCILE__RATE", "0"),
        ("QUARTET_RETENTION__JOBS", "0d"),
        ("QUARTET_RETENTION__EVIDENCE", "6d"),
        ("QUARTET_RETENTION__WEBHOOKS", "599s"),
        ("QUARTET_RETENTION__DEAD_LETTERS", "0s"),
        ("QUARTET_RETENTION__INTERVAL", "5"),
        ("QUARTET_LOG", "quartet=loud"),
        ("QUARTET_LOG", "warning"),
        ("QUARTET_LOG", "info,debgu"),
        ("QUARTET_LOG", "warn, info"),
        ("QUARTET_LOG", "info;quartet=debug"),
        ("QUARTET_LOG", "info,sqlx;quartet=debug"),
        ("QUARTET_LOG", "quartt=debug"),
        ("QUARTET_LOG", "[request]=debug"),
        ("QUARTET_LOG", ","),
        ("QUARTET_LOG_FORMAT", "xml"),
        ("QUARTET_TRACES__ENDPOINT", "127.0.0.1:4318"),
        ("QUARTET_TRACES__SAMPLE_RATIO", "1.5"),
    ];
    for (variable, value) in cases {
        let error = load(&[(variable, value)]).expect_err(variable);
        let [problem] = error.problems() else { panic!("{variable}={value}: {error}") };
        assert_eq!(problem.variable, variable);
        assert!(problem.message.starts_with(&format!("{variable}: {value:?} ")), "{problem}");
    }
}

#[test]
fn a_log_filter_is_a_level_with_levels_of_targets() {
    for filter in [
        "off",
        "ERROR",
        "3",
        "info,",
        "quartet",
        "quartet=debug",
        "info,quartet=off",
        "warn,quartet::jobs",
        "quartet::jobs=debug",
        "info,quartet::jobs=trace,sqlx=warn,hyper_util=off",
        "error,[request]=debug",
        "error,quartet[job{queue=notify_client}]=trace",
    ] {
        assert_eq!(load(&[("QUARTET_LOG", filter)]).expect(filter).log.filter, filter);
    }
    for filter in ["verbose", "fatal", "debgu", "sqlx=debug"] {
        let error = load(&[("QUARTET_LOG", filter)]).expect_err(filter).to_string();
        assert!(
            error.contains("must be a level (off, error, warn, info, debug or trace)"),
            "{error}"
        );
    }
}

#[test]
fn a_missing_unit_is_named_as_the_reason() {
    let error = load(&[("QUARTET_POLL__FIRST", "200")]).unwrap_err();
    let message = "QUARTET_POLL__FIRST: \"200\" has no unit; \
                   it must be a duration with its unit, such as 200ms, 15m or 7d";
    assert_eq!(error.problems()[0].message, message);
}

#[test]
fn months_and_years_are_no_units() {
    for (text, unit) in [
        ("15M", "M"),
        ("1h 15 M", "M"),
        ("1.5M", "M"),
        ("2months", "months"),
        ("1y", "y"),
        ("1year 2d", "year"),
    ] {
        let error = load(&[("QUARTET_POLL__DEADLINE", text)]).expect_err(text);
        let [problem] = error.problems() else { panic!("{text}: {error}") };
        let expected = format!("QUARTET_POLL__DEADLINE: {text:?} has the unit {unit}: months and");
        assert!(problem.message.starts_with(&expected), "{problem}");
        assert!(problem.message.contains("such as 200ms, 15m or 7d"), "{problem}");
    }
    for (text, seconds) in [("15m", 900), ("1h 30min", 5_400), ("2w", 14 * 24 * 3_600)] {
        let deadline = load(&[("QUARTET_POLL__DEADLINE", text)]).expect(text).poll.deadline;
        assert_eq!(deadline.as_secs(), seconds, "{text}");
    }
}

#[test]
fn messages_name_durations_that_are_allowed() {
    for (jobs, named) in [("65d", "65days"), ("400d 2h", "400days 2h"), ("29d", "29days")] {
        let settings = [("QUARTET_RETENTION__JOBS", jobs), ("QUARTET_RETENTION__EVIDENCE", "8d")];
        let error = load(&settings).unwrap_err();
        let expected = format!("must be at least QUARTET_RETENTION__JOBS ({named})");
        assert!(error.problems()[0].message.ends_with(&expected), "{error}");
        assert_eq!(duration(named), duration(jobs));
    }
}

#[test]
fn a_trace_endpoint_may_be_given_with_or_without_its_path() {
    assert_eq!(load(&[]).unwrap().traces.settings(), None);
    for given in ["http://collector:4318", "http://collector:4318/v1/traces"] {
        let config = load(&[("QUARTET_TRACES__ENDPOINT", given)]).unwrap();
        let settings = config.traces.settings().unwrap();
        assert_eq!(settings.endpoint, "http://collector:4318/v1/traces", "{given}");
        assert_eq!(settings.sample_ratio, 1.0);
    }
}

#[test]
fn several_errors_are_reported_at_once() {
    let settings = [
        ("QUARTET_POLL__FACTOR", "0"),
        ("QUARTET_WORKER__HEARTBEAT", "10s"),
        ("QUARTET_NOTIFY__TIMEOUT", "10"),
        ("QUARTET_THIRD_PARTY__BASE_URL", "nowhere"),
        ("QUARTET_TYPO", "1"),
    ];
    let expected = [
        "QUARTET_THIRD_PARTY__BASE_URL",
        "QUARTET_POLL__FACTOR",
        "QUARTET_NOTIFY__TIMEOUT",
        "QUARTET_WORKER__DEAD_AFTER",
    ];
    let error = load(&settings).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("QUARTET_WORKER__DEAD_AFTER (15s by default) must be at least twice"));
    assert!(text.contains("\n  - QUARTET_TYPO is no setting"), "{text}");
    assert_eq!(wrong(Err(error))[..4], expected);

    // Wrong and missing together; what is wrong is not called missing as well.
    let result = Config::load_for(Role::All, pairs(&settings), None);
    let mut all = expected.to_vec();
    let missing = ["DATABASE_URL", "QUARTET_WEBHOOK__SECRETS"];
    all.extend(missing);
    all.push("QUARTET_TYPO");
    assert_eq!(wrong(result), all);
}

#[test]
fn loopback_callbacks_are_allowed_to_a_process_that_listens_there_alone() {
    const NETWORKS: &str = "QUARTET_NOTIFY__ALLOWED_NETWORKS";
    let allowed =
        |settings: &[(&str, &str)]| load(settings).unwrap().notify.egress.allowed_networks;
    assert_eq!(allowed(&[("QUARTET_HTTP__LISTEN", "[::1]:80")]).len(), 2);
    assert_eq!(allowed(&[("QUARTET_HTTP__LISTEN", "0.0.0.0:80")]), []);
    assert_eq!(allowed(&[(NETWORKS, "none")]), []);
    assert_eq!(allowed(&[(NETWORKS, "10.0.0.0/8")]), ["10.0.0.0/8".parse().unwrap()]);
}

#[test]
fn name_servers_have_a_port_or_the_usual_one() {
    let servers = |text| load(&[("QUARTET_DNS__SERVERS", text)]).unwrap().dns.servers;
    let read = servers("10.0.0.53,10.0.0.54:5353, fd00::53, [fd00::54], [fd00::55]:5353");
    let read: Vec<String> = read.iter().map(ToString::to_string).collect();
    let expected =
        ["10.0.0.53:53", "10.0.0.54:5353", "[fd00::53]:53", "[fd00::54]:53", "[fd00::55]:5353"];
    assert_eq!(read, expected);
}

#[test]
fn a_value_that_could_not_be_read_breaks_no_relation() {
    let settings = [("QUARTET_POLL__SECOND", "ten"), ("QUARTET_POLL__MAX_DELAY", "1ms")];
    assert_eq!(wrong(load(&settings)), ["QUARTET_POLL__SECOND"]);
}

#[test]
fn the_environment_goes_over_the_file() {
    let file = File::new(
        "over.toml",
        r#"
        database_url = "postgres://file/db"
        log_format = "json"
        [http]
        listen = "0.0.0.0:9000"
        max_body = 1000
        [third_party]
        create_backoff = "7s"
        base_url = ""
        [poll]
        factor = 1.5
        "#,
    );
    let config =
        file.load(&[("QUARTET_HTTP__LISTEN", "[::1]:1"), ("QUARTET_POLL__FACTOR", "")]).unwrap();
    assert_eq!(config.http.listen.to_string(), "[::1]:1");
    assert_eq!(config.http.max_body, 1000);
    assert_eq!(config.third_party.create_backoff, Duration::from_secs(7));
    assert_eq!(config.third_party.base_url, None);
    assert_eq!(config.poll.factor, 1.5);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.database.url, Some("postgres://file/db".to_owned().into()));
}

#[test]
fn an_empty_value_counts_as_unset() {
    let blank: Vec<_> = Config::reference().iter().map(|doc| (doc.variable, " ")).collect();
    assert_eq!(load(&blank).unwrap(), Config::default());
}

#[test]
fn secrets_come_as_a_list_or_with_commas() {
    let list = format!("[webhook]\nsecrets = [\"{SECRET}\", \"{OTHER_SECRET}\"]");
    let file = File::new("secrets.toml", &list);
    let from_file = file.load(&[]).unwrap();
    let text = format!("{SECRET}, {OTHER_SECRET},");
    let from_env = load(&[("QUARTET_WEBHOOK__SECRETS", &text)]).unwrap();
    assert_eq!(from_file.webhook.secrets.len(), 2);
    assert_eq!(from_file, from_env);
}

#[test]
fn values_of_the_file_are_named_by_key_and_variable() {
    let file = File::new(
        "named.toml",
        "[poll]\nfactor = 0.5\nfirst = 200\n[http]\nlisten = [1]\n[webhook]\nsecrets = 5",
    );
    let error = file.load(&[]).unwrap_err();
    let name = file.0.display();
    let messages: Vec<_> = error.problems().iter().map(ToString::to_string).collect();
    let expected = [
        format!("`http.listen` in {name} (QUARTET_HTTP__LISTEN): the value must be a list of str"),
        format!("`webhook.secrets` in {name} (QUARTET_WEBHOOK__SECRETS): the value is wrong in "),
        format!("`poll.first` in {name} (QUARTET_POLL__FIRST): \"200\" has no unit"),
        format!("`poll.factor` in {name} (QUARTET_POLL__FACTOR): \"0.5\" must be a number from 1"),
    ];
    assert_eq!(messages.len(), expected.len(), "{messages:?}");
    for (message, expected) in messages.iter().zip(expected) {
        assert!(message.starts_with(&expected), "{message}\n{expected}");
    }
}

#[test]
fn unknown_names_are_refused_with_a_suggestion() {
    let file = File::new(
        "unknown.toml",
        "[third_party]\ncreate_back_off = \"1s\"\n[poll.first]\nx = 1\n[weather]\nrain = true",
    );
    let error = file
        .load(&[
            ("QUARTET_HTTP_LISTEN", "127.0.0.1:1"),
            ("QUARTET_DATABASE_URL", "postgres://a:hidden@b/c"),
            ("QUARTET_TEST_DATABASE", "postgres"),
            ("UNRELATED", "x"),
        ])
        .unwrap_err();
    let name = file.0.display();
    let expected = [
        "QUARTET_DATABASE_URL is no setting; did you mean DATABASE_URL?".to_owned(),
        "QUARTET_HTTP_LISTEN is no setting; did you mean QUARTET_HTTP__LISTEN?".to_owned(),
        format!(
            "`poll.first.x` in {name} is no setting; \
             did you mean `poll.first` (QUARTET_POLL__FIRST)?"
        ),
        format!(
            "`third_party.create_back_off` in {name} is no setting; \
             did you mean `third_party.create_backoff` (QUARTET_THIRD_PARTY__CREATE_BACKOFF)?"
        ),
        format!("`weather.rain` in {name} is no setting"),
    ];
    let messages: Vec<_> = error.problems().iter().map(ToString::to_string).collect();
    assert_eq!(messages, expected);
}

#[test]
fn a_secret_or_variable_in_another_case_is_refused_rather_than_ignored() {
    let file = File::new(
        "case.toml",
        "[third_party]\nprofile = \"paystack\"\n\
         [third_party.secrets]\ntoken = \"sk_hidden_1\"\nToken = \"sk_hidden_2\"\n\
         Webhook_Next = \"sk_hidden_3\"\n\
         [third_party.vars]\nCountry = \"hidden\"\n\
         [third_parties.secrets]\nmtn_momo__token = \"sk_hidden_4\"\n",
    );
    let error = file.load(&[]).unwrap_err();
    let name = file.0.display();
    let expected = [
        ("third_parties.secrets.mtn_momo__token", "third_parties.secrets.mtn_momo.token"),
        ("third_party.secrets.Token", "third_party.secrets.token"),
        ("third_party.secrets.Webhook_Next", "third_party.secrets.webhook_next"),
        ("third_party.vars.Country", "third_party.vars.country"),
    ]
    .map(|(key, read)| format!("`{key}` in {name} is no setting; did you mean `{read}`?"));
    let messages: Vec<_> = error.problems().iter().map(ToString::to_string).collect();
    assert_eq!(messages, expected);
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let missing = Config::load([], Some(Path::new("/nowhere/quartet.toml"))).unwrap_err();
    assert!(missing.to_string().contains("/nowhere/quartet.toml"));

    let file = File::new("syntax.toml", "[http]\noperator_token = \"top-secret-value");
    let error = file.load(&[]).unwrap_err();
    assert!(error.to_string().contains("syntax.toml is not valid TOML, line 2: "), "{error}");
    assert!(!format!("{error} {error:?}").contains("top-secret"), "{error:?}");
}

/// `hidden_master_key_of_32_bytes_12`.
const MASTER_KEY: &str = "aGlkZGVuX21hc3Rlcl9rZXlfb2ZfMzJfYnl0ZXNfMTI=";

const SECRETIVE: [(&str, &str); 8] = [
    ("DATABASE_URL", "postgres://quartet:hidden-db@localhost/quartet"),
    ("QUARTET_OPERATOR_TOKEN", "hidden-operator-1"),
    ("QUARTET_WEBHOOK__SECRETS", SECRET),
    ("QUARTET_DEFAULT_CLIENT__NAME", "shop"),
    ("QUARTET_DEFAULT_CLIENT__API_KEY", "hidden-key-of-shop"),
    ("QUARTET_DEFAULT_CLIENT__CALLBACK_URL", "https://shop.example/callback?kind=x"),
    ("QUARTET_DEFAULT_CLIENT__SIGNING_SECRET", OTHER_SECRET),
    ("QUARTET_SECRETS__MASTER_KEY", MASTER_KEY),
];

fn assert_hides_secrets(text: &str) {
    for part in ["hidden", &SECRET[6..], &OTHER_SECRET[6..], MASTER_KEY] {
        assert!(!text.contains(part), "{text}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let config = load(&SECRETIVE).unwrap();
    let token = crate::secrets::hash_token("hidden-operator-1");
    assert_eq!(config.operator_tokens, [token.into()]);
    assert_eq!(config.default_client.as_ref().unwrap().signing_secret.reveal(), OTHER_SECRET);
    let printed = format!("{config:?} {config:#?}");
    assert_hides_secrets(&printed);
    // Nor the hash, which the console's sessions are derived from.
    assert!(!printed.contains(&format!("{}, {}, {}", token[0], token[1], token[2])), "{printed}");
}

#[test]
fn operator_tokens_are_long_and_may_be_several() {
    let hash = |token: &str| Redacted::from(crate::secrets::hash_token(token));
    let load = |tokens: &str| load(&[("QUARTET_OPERATOR_TOKEN", tokens)]);
    let two = load("sixteen-letters-1, sixteen-letters-2,").unwrap();
    assert_eq!(two.operator_tokens, [hash("sixteen-letters-1"), hash("sixteen-letters-2")]);
    assert!(load("exactly-sixteen-").is_ok());
    for (tokens, entry) in [("with letters", 1), ("some-16-or-more-letters,with letters", 2)] {
        let error = load(tokens).unwrap_err().to_string();
        let expected = format!("the value is wrong: entry {entry} has white space in it");
        assert!(error.contains(&expected) && !error.contains("letters"), "{error}");
    }
}

#[test]
fn messages_show_no_secret() {
    let bad_secret = format!("{SECRET},{OTHER_SECRET}***");
    let error = load(&[
        ("DATABASE_URL", "mysql://quartet:hidden-db@localhost/quartet"),
        ("QUARTET_OPERATOR_TOKEN", "long-enough-hidden,hidden operator"),
        ("QUARTET_SECRETS__MASTER_KEY", &MASTER_KEY[..40]),
        ("QUARTET_WEBHOOK__SECRETS", &bad_secret),
        ("QUARTET_THIRD_PARTY__BASE_URL", "https://user:hidden@bank.example"),
        ("QUARTET_POLL__FIRST", SECRET),
        ("QUARTET_DEFAULT_CLIENT__API_KEY", "hidden key"),
        ("QUARTET_DEFAULT_CLIENT__SIGNING_SECRET", "hidden"),
    ])
    .unwrap_err();
    assert_eq!(error.problems().len(), 10, "{error}");
    assert_hides_secrets(&format!("{error} {error:?}"));
}

#[test]
fn a_default_client_is_whole_or_absent() {
    assert!(load(&SECRETIVE).unwrap().default_client.is_some());
    let error = load(&SECRETIVE[..5]).unwrap_err();
    let expected =
        ["QUARTET_DEFAULT_CLIENT__CALLBACK_URL", "QUARTET_DEFAULT_CLIENT__SIGNING_SECRET"];
    assert!(error.to_string().contains("__CALLBACK_URL is not set; it must be set when another"));
    assert_eq!(wrong(Err(error)), expected);

    let mut same = SECRETIVE;
    same[4].1 = same[1].1;
    let error = load(&same).unwrap_err();
    assert_hides_secrets(&error.to_string());
    assert_eq!(wrong(Err(error)), ["QUARTET_DEFAULT_CLIENT__API_KEY"]);
}

#[test]
fn each_role_has_its_required_settings() {
    let missing = |role| {
        let error = Config::default().validate_for(role).unwrap_err();
        wrong(Err(error))
    };
    let (database, secrets, base_url) =
        ("DATABASE_URL", "QUARTET_WEBHOOK__SECRETS", "QUARTET_THIRD_PARTY__BASE_URL");
    assert_eq!(missing(Role::All), [database, secrets, base_url]);
    assert_eq!(missing(Role::Api), [database, secrets]);
    assert_eq!(missing(Role::Worker), [database, base_url]);

    let mut config = load(&SECRETIVE).unwrap();
    config.third_party.base_url = Some(BaseUrl::parse("http://127.0.0.1:9").unwrap());
    config.validate_for(Role::All).unwrap();
    config.worker.dead_after = Duration::from_secs(6);
    let error = config.validate_for(Role::Api).unwrap_err();
    let message = "QUARTET_WORKER__DEAD_AFTER: \"6s\" must be at least twice \
                   QUARTET_WORKER__HEARTBEAT (5s)";
    assert_eq!(error.problems()[0].message, message);
}

#[test]
fn urls_are_joined_without_doubled_slashes() {
    let config = load(&[
        ("QUARTET_THIRD_PARTY__BASE_URL", "https://bank.example/api//"),
        ("QUARTET_THIRD_PARTY__LOOKUP_PATH", "/find?id={id}"),
    ])
    .unwrap();
    let third_party = &config.third_party;
    assert_eq!(third_party.create_url().unwrap(), "https://bank.example/api/transaction");
    assert_eq!(third_party.lookup_url("7").unwrap(), "https://bank.example/api/find?id=7");
}

#[test]
fn the_webhook_url_is_below_the_public_url_or_the_address() {
    let url = |config: &Config, address: &str| config.webhook_url(address.parse().unwrap());
    let config = Config::default();
    assert_eq!(url(&config, "127.0.0.1:81"), "http://127.0.0.1:81/v1/webhooks/third-party");
    assert_eq!(url(&config, "0.0.0.0:81"), "http://127.0.0.1:81/v1/webhooks/third-party");
    assert_eq!(url(&config, "[::]:81"), "http://[::1]:81/v1/webhooks/third-party");
    let config = load(&[("QUARTET_HTTP__PUBLIC_URL", "https://q.example/")]).unwrap();
    assert_eq!(url(&config, "0.0.0.0:81"), "https://q.example/v1/webhooks/third-party");
}

#[test]
fn scaling_divides_the_long_waits_down_to_their_floors() {
    let (ms, config) = (Duration::from_millis, Config::default());
    let fast = config.scaled(100.0);
    assert_eq!(fast.third_party.timeout, ms(350));
    assert_eq!(fast.third_party.lookup_timeout, ms(250));
    assert_eq!(fast.third_party.create_backoff, ms(1200));
    assert_eq!(fast.circuit.window, ms(1000));
    assert_eq!(fast.circuit.open_for, ms(150));
    assert_eq!(fast.circuit.max_open_for, ms(1200));
    assert_eq!(fast.poll.max_delay, ms(600));
    assert_eq!(fast.poll.deadline, ms(9000));
    assert_eq!(fast.notify.base, ms(50));
    assert_eq!(fast.notify.max_delay, ms(36_000));
    assert_eq!((fast.poll.first, fast.poll.second), (config.poll.first, config.poll.second));
    assert_eq!(fast.notify.first, config.notify.first);
    assert_eq!(fast.worker, config.worker);
    for speed in [1.0, 0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(config.scaled(speed), config);
    }
}

#[test]
fn the_reference_lists_every_setting_once() {
    let reference = Config::reference();
    let page = reference_page();
    for doc in &reference {
        assert_eq!(reference.iter().filter(|other| other.variable == doc.variable).count(), 1);
        let row = format!("| `{}` |", doc.variable);
        assert_eq!(page.lines().filter(|line| line.starts_with(&row)).count(), 1);
        assert!(!doc.meaning.contains('|') && !doc.meaning.contains('\n'));
    }
    assert!(page.contains("| `QUARTET_POLL__DEADLINE` | `15m` |"));
    for heading in ["HTTP", "Third party", "Log", "Default client"] {
        let heading = format!("\n## {heading}\n");
        assert_eq!(page.matches(&heading).count(), 1, "{heading}");
    }
}

proptest! {
    /// No text makes loading panic, and what it accepts holds together.
    #[test]
    fn load_never_panics(
        settings in proptest::collection::vec(
            (
                0..Config::reference().len(),
                prop_oneof![
                    ".*",
                    "-?[0-9]{0,22}(\\.[0-9]{0,3})? ?(ms|s|m|h|d|y|years|KiB|GB|ns)?",
                    "(https?|postgres)://[a-z@:/?#\\[\\]0-9{}]{0,20}",
                    "/[a-z{}/]{0,8}(\\{id\\})?",
                ],
            ),
            0..12,
        )
    ) {
        let reference = Config::reference();
        let env = settings
            .into_iter()
            .map(|(index, value)| (reference[index].variable.to_owned(), value));
        match Config::load(env, None) {
            Ok(config) => prop_assert!(check::relations(&config).is_empty()),
            Err(error) => {
                prop_assert!(!error.problems().is_empty());
                let _ = format!("{error} {error:?}");
            }
        }
    }

    /// No name makes loading panic.
    #[test]
    fn unknown_names_never_panic(name in "QUARTET_.{0,40}", value in ".*") {
        let _ = Config::load([(name, value)], None);
    }

    /// Scaling keeps the relations between settings.
    #[test]
    fn scaling_keeps_the_relations(
        speed in prop_oneof![1e-9..1.0, 1.0..1e9],
        first in 0u64..5_000,
        second in 1u64..60_000,
        base in 1u64..60_000,
    ) {
        let mut config = Config::default();
        config.poll.first = Duration::from_millis(first);
        config.poll.second = Duration::from_millis(second);
        config.notify.base = Duration::from_millis(base);
        config.circuit.open_for = Duration::from_millis(base);
        prop_assert!(check::relations(&config.scaled(speed)).is_empty());
    }
}
