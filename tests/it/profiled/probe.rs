//! `quartet third-party probe`: what it says of third parties that are as their profile says, and of
//! those that break its rules.

use std::{collections::HashMap, fs};

use quartet::{
    config::Config,
    operations::probes,
    sandbox::{Profile as Faults, Sandbox, SandboxConfig},
    store::{self, Target},
};
use sqlx::Connection;

use super::*;
use crate::support::{
    command::{Ended, run},
    ports::free_address,
    world::set,
};

/// A probe with `--json`: its verdicts by check.
struct Probed {
    verdicts: HashMap<String, String>,
    ended: Ended,
}

impl Probed {
    fn of(ended: Ended) -> Self {
        for secret in ["hush", WEBHOOK_SECRET] {
            assert!(!ended.stdout.contains(secret) && !ended.stderr.contains(secret), "{ended:?}");
        }
        let report: Value = serde_json::from_str(&ended.stdout)
            .unwrap_or_else(|error| panic!("{error}: {ended:#?}"));
        let checks = report["checks"].as_array().unwrap().iter();
        let text = |check: &Value, field: &str| check[field].as_str().unwrap().to_owned();
        let verdicts = checks.map(|check| (text(check, "check"), text(check, "verdict")));
        let probed = Self { verdicts: verdicts.collect(), ended };
        let is_difference =
            |verdict: &&String| ["differs", "dangerous"].contains(&verdict.as_str());
        let differences = probed.verdicts.values().filter(is_difference).count();
        assert_eq!(report["differences"], differences, "{report}");
        assert_eq!(probed.ended.success, differences == 0, "{:#?}", probed.ended);
        probed
    }

    /// Asserts that these checks came out so, and all others well.
    #[track_caller]
    fn expect(&self, unusual: &[(&str, &str)]) {
        let mut unusual: HashMap<&str, &str> = unusual.iter().copied().collect();
        for (check, verdict) in &self.verdicts {
            let expected = unusual.remove(check.as_str()).unwrap_or("ok");
            assert_eq!(verdict, expected, "{check}: {}", self.ended.stdout);
        }
        assert!(unusual.is_empty(), "not checked: {unusual:?}: {}", self.ended.stdout);
    }
}

fn owned(settings: &[(&str, String)]) -> Vec<(String, String)> {
    settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// Probes a peer; a transaction is awaited for `wait`.
async fn probe(peer: &Peer, profile: &str, live: Option<&str>) -> Probed {
    let mut args = vec!["third-party", "probe", profile, "--json"];
    if let Some(wait) = live {
        args.extend(["--live", "--yes", "--wait", wait]);
    }
    Probed::of(run(&args, &owned(&settings(peer, profile)), "").await)
}

/// One that is asked without our key.
fn has_key(asked: &Asked) -> bool {
    asked.header("authorization") == Some(&format!("Bearer {TOKEN}"))
}

fn unauthorized() -> Reply {
    // It repeats what it was asked with, as some do.
    Reply::Answer(401, json!({ "status": false, "message": format!("Invalid key {TOKEN}") }))
}

fn not_found(code: &str) -> Reply {
    Reply::Answer(404, json!({ "status": false, "code": code }))
}

/// A Paystack as it should be, but for what `change` answers itself.
async fn paystack(change: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static) -> Peer {
    let transfers = Paystack::default();
    Peer::start(move |asked| {
        if let Some(reply) = change(asked) {
            return reply;
        }
        match asked.path.as_str() {
            _ if !has_key(asked) => unauthorized(),
            Paystack::CREATE if transfers.has(&asked.json()["reference"]) => {
                let body = json!({ "status": false, "code": "duplicate_transfer_reference" });
                Reply::Answer(400, body)
            }
            path if path == Paystack::CREATE || path.starts_with("/transfer/verify/") => {
                transfers.answer(asked)
            }
            _ => not_found("no_such_route"),
        }
    })
    .await
}

/// With each simulated third party, read-only and live, webhooks included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_party_that_is_as_its_profile_says_passes() {
    let listed = run(&["third-party", "list"], &[], "").await;
    let names: Vec<String> = listed.expect().lines().map(str::to_owned).collect();
    assert!(names.len() > 6, "{names:?}");
    for name in names {
        let webhooks = free_address();
        let webhook_url = format!("http://{webhooks}/webhook");
        let latency = Duration::from_millis(50);
        let profile = Faults {
            webhook_latency_min: latency,
            webhook_latency_max: latency,
            ..Faults::faultless()
        };
        let config = SandboxConfig {
            interface: name.parse().unwrap(),
            api_key: Some(TOKEN.to_owned()),
            webhook_url: Some(webhook_url.clone()),
            profile,
            idempotent: true,
            ..SandboxConfig::default()
        };
        let sandbox = Sandbox::start(config).await.unwrap();
        let mut settings = vec![("QUARTET_THIRD_PARTY__BASE_URL".to_owned(), sandbox.base_url())];
        for (value_name, value) in sandbox.provider_values() {
            settings.push((format!("QUARTET_THIRD_PARTY__{value_name}"), value));
        }
        // What a server needs beside is not asked for.
        settings.push(("QUARTET_DEFAULT_CLIENT__CALLBACK_URL".to_owned(), "x".to_owned()));
        let args = ["third-party", "probe", &name, "--json"];
        // By Quartet's own contract any 404 is an absence.
        let wrong: &[(&str, &str)] = match name.as_str() {
            "quartet" => &[
                ("wrong path", "dangerous"),
                ("misspelt path", "dangerous"),
                ("wrong key", "not tried"),
            ],
            _ => &[],
        };
        Probed::of(run(&args, &settings, "").await).expect(wrong);
        let stats = sandbox.stats().third_party;
        assert_eq!((stats.creates_received, stats.creates_malformed), (0, 0), "{name}");

        let listen = webhooks.to_string();
        let live = ["--live", "--yes", "--listen", &listen, "--webhook-url", &webhook_url];
        let probed = Probed::of(run(&[&args, &live[..]].concat(), &settings, "").await);
        let hints = ["mtn-momo", "mollie", "gocardless-outbound"].contains(&name.as_str());
        let flipped: &[_] = if hints { &[("flipped byte", "not tried")] } else { &[] };
        probed.expect(&[wrong, flipped].concat());
        for check in ["create", "shows", "same again", "other amount", "still one", "webhook"] {
            assert!(probed.verdicts.contains_key(check), "{name}: {:?}", probed.verdicts);
        }
        assert!(!probed.ended.stdout.contains("\"create_backoff_seconds\":null"), "{name}");
        let stats = sandbox.stats().third_party;
        assert_eq!((stats.creates_received, stats.creates_stored), (3, 1), "{name}");
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn one_that_says_the_same_to_everything_is_dangerous() {
    let peer = paystack(|_| Some(not_found("transfer_not_found"))).await;
    let dangerous = ["wrong path", "misspelt path", "wrong key"].map(|check| (check, "dangerous"));
    probe(&peer, "paystack", None).await.expect(&dangerous);
    assert!(peer.asked("POST", "").is_empty());

    // Without a body that says so it is no absence.
    let peer = paystack(|_| Some(Reply::Answer(404, json!({})))).await;
    probe(&peer, "paystack", None).await.expect(&[("unknown id", "differs")]);
}

#[tokio::test]
async fn a_wrong_key_that_reads_as_an_absence_is_dangerous() {
    let lenient = |asked: &Asked| {
        let is_lookup = asked.path.starts_with("/transfer/verify/");
        (is_lookup && !has_key(asked)).then(|| not_found("transfer_not_found"))
    };
    let peer = paystack(lenient).await;
    probe(&peer, "paystack", None).await.expect(&[("wrong key", "dangerous")]);
}

#[tokio::test]
async fn one_that_doubles_is_dangerous() {
    let no_webhook = ("webhook", "differs");
    // It takes the same reference as often as it is sent.
    let taken = |asked: &Asked| {
        let data =
            json!({ "transfer_code": format!("TRF_{}", Uuid::new_v4()), "status": "pending" });
        let answer = json!({ "status": true, "data": data });
        let is_create = asked.path == Paystack::CREATE && has_key(asked);
        // It is remembered by the second one, which answers.
        (is_create && asked.json()["amount"] == 2).then_some(Reply::Answer(200, answer))
    };
    let peer = paystack(taken).await;
    let probed = probe(&peer, "paystack", Some("1s")).await;
    probed.expect(&[("other amount", "dangerous"), no_webhook]);
    assert_eq!(peer.asked("POST", Paystack::CREATE).len(), 3);
    let [first, again] = [0, 1].map(|nth| peer.asked("POST", Paystack::CREATE)[nth].body.clone());
    assert_eq!(first, again, "byte for byte");

    // It goes by no key at all: each create is a payout of its own.
    let payouts = Arc::new(Mutex::new(HashMap::new()));
    let peer = Peer::start(move |asked: &Asked| {
        let unknown = || Reply::Answer(404, json!({ "error": { "code": "resource_missing" } }));
        if !has_key(asked) {
            return Reply::Answer(401, json!({ "error": { "type": "invalid_request_error" } }));
        }
        let mut payouts = payouts.lock().unwrap();
        if asked.method == "POST" {
            let payout = Stripe::payout(asked.header("idempotency-key").unwrap(), "pending");
            let id = format!("po_{}", payouts.len());
            let mut payout = payout;
            payout["id"] = id.clone().into();
            payouts.insert(id, payout.clone());
            return Reply::Answer(200, payout);
        }
        let id = asked.path.strip_prefix("/v1/payouts/");
        let found = id.and_then(|id| payouts.get(id).cloned());
        found.map_or_else(unknown, |payout| Reply::Answer(200, payout))
    })
    .await;
    let dangerous = ["same again", "other amount"].map(|check| (check, "dangerous"));
    probe(&peer, "stripe-payouts", Some("1s"))
        .await
        .expect(&[&dangerous[..], &[no_webhook]].concat());
}

#[tokio::test]
async fn a_repeat_that_reads_as_refused_is_dangerous() {
    let refused = Arc::new(Mutex::new(HashSet::new()));
    let other_error = move |asked: &Asked| {
        let is_create = asked.path == Paystack::CREATE && has_key(asked);
        let is_new =
            is_create && refused.lock().unwrap().insert(asked.json()["reference"].to_string());
        let error = json!({ "status": false, "code": "invalid_params" });
        (is_create && !is_new).then_some(Reply::Answer(400, error))
    };
    let peer = paystack(other_error).await;
    let dangerous = ["same again", "other amount"].map(|check| (check, "dangerous"));
    let probed = probe(&peer, "paystack", Some("1s")).await;
    probed.expect(&[&dangerous[..], &[("webhook", "differs")]].concat());
}

#[tokio::test]
async fn a_transaction_that_does_not_show_is_reported_and_one_that_is_refused_ends_it() {
    let hidden = |asked: &Asked| {
        let is_lookup = asked.path.starts_with("/transfer/verify/");
        (is_lookup && has_key(asked)).then(|| not_found("transfer_not_found"))
    };
    let peer = paystack(hidden).await;
    let probed = probe(&peer, "paystack", Some("1s")).await;
    probed.expect(&[("shows", "differs"), ("still one", "differs"), ("webhook", "differs")]);
    assert!(probed.ended.stdout.contains("\"create_backoff_seconds\":null"), "{:?}", probed.ended);

    let too_small = |asked: &Asked| {
        let error = json!({ "status": false, "code": "amount_too_small" });
        (asked.path == Paystack::CREATE).then_some(Reply::Answer(400, error))
    };
    let peer = paystack(too_small).await;
    probe(&peer, "paystack", Some("1s")).await.expect(&[("create", "differs")]);
    assert_eq!(peer.asked("POST", "").len(), 1);
}

/// The first create is answered with 504, and shows later.
#[tokio::test]
async fn a_create_without_an_answer_is_looked_up_until_it_shows() {
    let (transfers, lookups) = (Paystack::default(), Arc::new(Mutex::new(0)));
    let late = move |asked: &Asked| {
        let is_first = asked.path == Paystack::CREATE && !transfers.has(&asked.json()["reference"]);
        if is_first {
            transfers.answer(asked);
            return Some(Reply::Answer(504, json!({})));
        }
        let id = asked.path.strip_prefix("/transfer/verify/").unwrap_or_default();
        let is_later = transfers.has(&id.into()) && has_key(asked);
        let mut lookups = lookups.lock().unwrap();
        *lookups += u32::from(is_later);
        is_later
            .then(|| match *lookups {
                1..=2 => not_found("transfer_not_found"),
                _ => transfers.answer(asked),
            })
            .or_else(|| {
                let exists = json!({ "status": false, "code": "duplicate_transfer_reference" });
                (asked.path == Paystack::CREATE).then_some(Reply::Answer(400, exists))
            })
    };
    let peer = paystack(late).await;
    let probed = probe(&peer, "paystack", Some("5s")).await;
    probed.expect(&[("create", "inconclusive"), ("webhook", "differs")]);
    let text = &probed.ended.stdout;
    assert!(text.contains("2 lookups before read as absent"), "{text}");
}

/// What may move money is asked about before anything is called.
#[tokio::test]
async fn nothing_is_created_by_mistake() {
    let settings = |base_url: &str| {
        owned(&[
            ("QUARTET_THIRD_PARTY__BASE_URL", base_url.to_owned()),
            ("QUARTET_THIRD_PARTY__SECRETS__TOKEN", "live_hush".to_owned()),
        ])
    };
    // Reserved for documentation: nothing answers there.
    let elsewhere = settings("http://192.0.2.1:9");
    let live = ["third-party", "probe", "paystack", "--live"];
    let ended = run(&live, &elsewhere, "").await;
    assert!(ended.expect_failure().contains("--metadata recipient=…"), "{ended:?}");
    let live = [&live[..], &["--metadata", "recipient=RCP_1"]].concat();
    let ended = run(&[&live[..], &["--yes"]].concat(), &elsewhere, "").await;
    let said = ended.expect_failure();
    assert!(said.contains("192.0.2.1 does not say that it is a sandbox"), "{said}");
    assert!(said.contains("--i-know-this-moves-money"), "{said}");
    // Nobody types there.
    let ended = run(&[&live[..], &["--i-know-this-moves-money"]].concat(), &elsewhere, "").await;
    assert!(ended.expect_failure().contains("confirm it with --yes"), "{ended:?}");

    let peer = paystack(|_| None).await;
    let ended =
        run(&["third-party", "probe", "paystack", "--yes"], &settings(&peer.url()), "").await;
    assert!(ended.expect_failure().contains("--live"), "{ended:?}");
    let nowhere = run(&["third-party", "probe", "paystack"], &settings(""), "").await;
    assert!(nowhere.expect_failure().contains("BASE_URL is not set"), "{nowhere:?}");
    assert!(peer.asked("", "").is_empty());
}

#[tokio::test]
async fn one_that_cannot_be_reached_or_refuses_the_key_is_named() {
    let away = owned(&[
        ("QUARTET_THIRD_PARTY__BASE_URL", format!("http://{}", free_address())),
        ("QUARTET_THIRD_PARTY__SECRETS__TOKEN", TOKEN.to_owned()),
    ]);
    let args = ["third-party", "probe", "paystack", "--json"];
    Probed::of(run(&args, &away, "").await).expect(&[("reachable", "differs")]);

    let peer = paystack(|_| Some(unauthorized())).await;
    let probed = probe(&peer, "paystack", Some("1s")).await;
    probed.expect(&[("unknown id", "differs")]);
    assert!(peer.asked("POST", "").is_empty(), "nothing is created with a key that is refused");

    // A token that is not issued.
    let peer = Peer::start(|_| Reply::Answer(401, json!({}))).await;
    probe(&peer, "mtn-momo", None).await.expect(&[("token", "differs")]);
}

/// The page's example is run as it stands there, at free ports and with short waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_example_prints_what_it_says() {
    let page = fs::read_to_string(format!("{}/docs/third-party.md", env!("CARGO_MANIFEST_DIR")));
    let page = page.unwrap();
    let section = page.split("\n## Connect your third party in fifteen minutes\n").nth(1).unwrap();
    // Headings of its output are in it.
    let section = section.split("\n## Third parties").next().unwrap();
    let blocks = |fence: &str| -> Vec<&str> {
        let fence = format!("```{fence}\n");
        section.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
    };
    let [third_party, webhooks] = [free_address(), free_address()].map(|at| at.to_string());
    let placed = |text: &str| {
        text.replace("127.0.0.1:9090", &third_party).replace("127.0.0.1:9091", &webhooks)
    };
    let lines: Vec<String> = blocks("sh")
        .iter()
        .flat_map(|block| block.replace("\\\n", " ").lines().map(placed).collect::<Vec<_>>())
        .collect();
    let settings: Vec<(String, String)> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let quartet = |start: &str| -> Vec<Vec<&str>> {
        let found = lines.iter().filter_map(|line| line.strip_prefix("quartet "));
        let found = found.filter(|line| line.starts_with(start));
        found.map(|line| line.split_whitespace().collect()).collect()
    };
    let sandbox = quartet("sandbox ");
    // Of the words for an end one has the length of the word before it.
    let short = "--create-latency-max 250ms --webhook-latency-min 1s --declined-rate 0";
    let short: Vec<&str> = short.split(' ').collect();
    let args = [&sandbox[0][..], &short, &["--webhook-latency-max", "2s"]].concat();
    let mut sandbox = command_at(&args);
    crate::support::wait_until("the sandbox listens", BOUND, async || {
        std::net::TcpStream::connect(&third_party).is_ok()
    })
    .await;
    let commands = quartet("third-party ");
    let texts = blocks("text");
    assert_eq!((commands.len(), texts.len()), (3, 3), "check, probe, and probe --live");
    for (args, expected) in commands.iter().zip(texts) {
        let ended = run(args, &settings, "").await;
        assert_eq!(cells(ended.expect()), cells(&placed(expected)), "{args:?}: {}", ended.stdout);
    }
    sandbox.kill().unwrap();
    sandbox.wait().unwrap();
}

fn command_at(args: &[&str]) -> std::process::Child {
    use std::process::Stdio;
    let mut command =
        crate::support::command::command(crate::support::command::QUARTET.as_ref(), args, &[]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The text of an output, cell by cell: without white space, ids, times, and words that depend on
/// the moment.
fn cells(text: &str) -> Vec<String> {
    let mut rows: Vec<Vec<String>> = vec![Vec::new()];
    for line in text.lines() {
        if line.starts_with('+') || line.starts_with("|-") {
            rows.push(Vec::new());
            continue;
        }
        let row = rows.last_mut().unwrap();
        for (nth, cell) in line.trim_matches('|').split('|').enumerate() {
            row.resize(row.len().max(nth + 1), String::new());
            row[nth].extend(cell.chars().filter(|character| !character.is_whitespace()));
        }
    }
    rows.into_iter().flatten().map(|cell| masked(&cell)).collect()
}

fn masked(cell: &str) -> String {
    // What is suggested depends on what was measured.
    let mut text = cell.split("BACKOFF=").next().unwrap_or_default().to_owned();
    for word in ["success", "failed", "pending"] {
        text = text.replace(word, "WORD");
    }
    // Runs of hex digits, dashes and points with a digit in them: ids, and times.
    let mut out = String::new();
    let mut run = String::new();
    for character in text.chars().chain(['\0']) {
        if character.is_ascii_hexdigit() || "-.".contains(character) {
            run.push(character);
            continue;
        }
        let is_number = run.chars().any(|character| character.is_ascii_digit()) && run.len() > 3;
        out.push_str(if is_number { "#" } else { &run });
        run.clear();
        out.push(character);
    }
    out.trim_end_matches('\0').to_owned()
}

/// Until a probe has passed with the profile as it is now, a server and `doctor` say that nothing
/// shows it to be right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_that_has_passed_no_probe_is_warned_of() {
    let world = World::new().await;
    let peer = paystack(|_| None).await;
    // The server's third party is not on this machine.
    let with = |profile: &str| {
        let mut settings = world.settings();
        for (name, value) in self::settings(&peer, profile) {
            set(&mut settings, name, value);
        }
        set(&mut settings, "QUARTET_THIRD_PARTY__BASE_URL", "https://api.paystack.example");
        settings
    };
    let at = |peer: &Peer| {
        let mut settings = with("paystack");
        set(&mut settings, "QUARTET_THIRD_PARTY__BASE_URL", peer.url());
        settings
    };
    let doctor = async |settings: &[(String, String)]| {
        let ended = run(&["doctor", "--json"], settings, "").await;
        let report: Value = serde_json::from_str(&ended.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["check"] == "profiles");
        finding.unwrap_or_else(|| panic!("{report}"))["level"].as_str().unwrap().to_owned()
    };
    let server_warns = async || {
        let process = ProcessBuilder::new(world.clone(), Role::Api);
        let process = with("paystack")
            .iter()
            .filter(|(name, _)| name.starts_with("QUARTET_THIRD_PARTY__"))
            .fold(process, |process, (name, value)| process.set(name, value));
        process.spawn().await.output().contains("quartet third-party probe")
    };

    assert_eq!(doctor(&with("paystack")).await, "warning");
    assert!(server_warns().await);

    let args = ["third-party", "probe", "paystack", "--json"];
    Probed::of(run(&args, &at(&peer), "").await).expect(&[]);
    let here = doctor(&with("paystack")).await;
    assert_eq!(here, "warning", "one of a simulation shows nothing of the real one");

    let config = Config::load(with("paystack"), None).unwrap();
    let profile = config.third_party.profile.unwrap().profile;
    let pool = Target::new(world.database_url(), false).unwrap();
    let pool = store::connect(&pool, 1, BOUND, &Arc::default());
    probes::record(&pool, &profile.hash(), profile.name(), false).await.unwrap();
    assert_eq!(doctor(&with("paystack")).await, "ok");
    assert!(!server_warns().await);

    let directory = tempfile::tempdir().unwrap();
    let changed = directory.path().join("changed.toml");
    let shown = run(&["third-party", "show", "paystack"], &[], "").await;
    fs::write(&changed, format!("# Changed.\n{}", shown.expect())).unwrap();
    assert_eq!(doctor(&with(changed.to_str().unwrap())).await, "warning");

    // It starts all the same.
    let mut owner = sqlx::PgConnection::connect(world.database_url()).await.unwrap();
    sqlx::query("ALTER TABLE passed_probes RENAME TO elsewhere").execute(&mut owner).await.unwrap();
    assert!(!server_warns().await);
}
