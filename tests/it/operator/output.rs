//! What the commands print: tables that fit, pages that read well, counts that are true, and who
//! acted.

use quartet::sandbox::SendWebhook;
use serde_json::json;
use sqlx::Row;
use uuid::Uuid;

use super::audit;
use crate::support::{
    TestApp,
    command::{self, Ended},
    spawn_api_at_rest,
    world::set,
};

/// Columns of a table where no terminal says how wide it is.
const WIDTH: usize = 120;

async fn quartet(app: &TestApp, args: &[&str]) -> Ended {
    command::run(args, &app.settings(), "").await
}

/// Everything that a table may hold is long.
async fn fill(app: &TestApp) -> (Uuid, String, String) {
    let name = "a client whose name is as long as a name of a client may be, which is not short ";
    let name = format!("{name:x<100}");
    let url = format!("https://callbacks.shop.example/{}", "path/".repeat(40));
    let add = ["clients", "add", &name, "--callback-url", &url];
    quartet(app, &add).await.expect();
    quartet(app, &["clients", "rotate-key", &name, "--overlap", "24h"]).await.expect();
    quartet(app, &["clients", "rotate-secret", &name, "--overlap", "24h"]).await.expect();
    quartet(app, &["clients", "disable", &name]).await.expect();
    let id = app.client().accept().await;
    app.send_webhook(SendWebhook::new(id, "completed")).await;
    app.send_webhook(SendWebhook::new(id, "declined")).await;
    app.send_webhook(SendWebhook::new(Uuid::now_v7(), "declined")).await;
    let long = "
        UPDATE failed_jobs SET reason = repeat('a reason of many words, ', 40),
            attempts = jsonb_build_array(jsonb_build_object('attempt', 1, 'at', now(),
                'error', repeat('no answer ', 50)));
        UPDATE clients SET name = name;
        UPDATE apalis.jobs SET last_result = jsonb_build_object('Err', repeat('an error ', 60)),
            attempts = 3;
        INSERT INTO transaction_events (transaction_id, kind, source, detail)
        SELECT id, 'poll_status', 'update_status',
            jsonb_build_object('answer', repeat('x', 300), 'words', repeat('many words ', 30))
        FROM transactions;";
    sqlx::raw_sql(long).execute(&app.pool).await.unwrap();
    let note = "a note that says why, and says it in very many words ".repeat(15);
    let pause = ["queues", "pause", "notify_client", "--note", note.trim()];
    quartet(app, &pause).await.expect();
    let letter = "SELECT id::text FROM failed_jobs WHERE kind = 'status_conflict'";
    let letter: String = sqlx::query(letter).fetch_one(&app.pool).await.unwrap().get(0);
    let job = "SELECT id FROM apalis.jobs WHERE job_type = 'notify_client'";
    let job: String = sqlx::query(job).fetch_one(&app.pool).await.unwrap().get(0);
    (id, letter, job)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_table_fits_120_columns_and_breaks_no_id() {
    let app = spawn_api_at_rest().await;
    let (id, letter, job) = fill(&app).await;
    let of = id.to_string();
    for (args, whole) in [
        (&["clients", "list"][..], &[][..]),
        (&["dead-letters", "list"], &[letter.as_str(), &of][..]),
        (&["dead-letters", "show", &letter], &[&letter, &of]),
        (&["dead-letters", "replay", "--all", "--dry-run"], &[&letter, &of]),
        (&["dead-letters", "replay", &letter, "--dry-run"], &[&letter]),
        (&["jobs", "list"], &[&job, &of]),
        (&["jobs", "show", &job], &[&job, &of]),
        (&["queues", "list"], &["create_at_third_party", "notify_client"]),
        (&["audit"], &[]),
        (&["explain", &of], &[&letter, "create_at_third_party"]),
        (&["reconcile", "--since", "2h", "--dry-run"], &[]),
        (&["circuit"], &[]),
    ] {
        let ended = quartet(&app, args).await;
        let text = ended.expect();
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{args:?}: {line}");
        }
        for whole in whole {
            assert!(text.contains(*whole), "{args:?} breaks {whole}: {text}");
        }
        // The same for machines has all of it.
        let json = quartet(&app, &[args, &["--json"]].concat()).await;
        json.expect_json();
    }
    let json = quartet(&app, &["dead-letters", "show", &letter, "--json"]).await.expect_json();
    assert!(json["reason"].as_str().unwrap().len() > 900, "{json}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_and_a_job_are_pages_and_with_json_they_are_json() {
    let app = spawn_api_at_rest().await;
    let (id, letter, job) = fill(&app).await;
    let page = quartet(&app, &["dead-letters", "show", &letter]).await;
    let text = page.expect();
    assert!(!text.starts_with('{'), "{text}");
    let first = format!("Dead letter {letter}: status_conflict, open");
    assert_eq!(text.lines().next(), Some(first.as_str()), "{text}");
    for part in [
        format!("Transaction:  {id}"),
        "Client:       default".to_owned(),
        "Reason:       a reason of many words".to_owned(),
        "reported: declined".to_owned(),
        "What the third party said last".to_owned(),
        "no answer".to_owned(),
        "Evidence about its transaction".to_owned(),
        "accepted".to_owned(),
        format!("quartet dead-letters replay|resolve|discard {letter}"),
    ] {
        assert!(text.contains(&part), "{part}: {text}");
    }
    let resolve = ["dead-letters", "resolve", &letter, "--note", "their ledger"];
    quartet(&app, &resolve).await.expect();
    let page = quartet(&app, &["dead-letters", "show", &letter]).await;
    for part in ["Closed by:", "Note:         their ledger", "What operators did", "resolve"] {
        assert!(page.expect().contains(part), "{part}: {}", page.stdout);
    }
    assert!(!page.stdout.contains("To decide"), "{}", page.stdout);

    let page = quartet(&app, &["jobs", "show", &job]).await;
    let first = format!("Job {job} of notify_client, ");
    assert!(page.expect().starts_with(&first), "{}", page.stdout);
    for part in [format!("Transaction:  {id}"), "Attempts:     3 of ".to_owned()] {
        assert!(page.stdout.contains(&part), "{part}: {}", page.stdout);
    }
}

/// Stopped notifications of this many transactions, as the runner leaves them.
async fn stopped(app: &TestApp, count: usize) {
    for _ in 0..count {
        app.client().accept().await;
    }
    let stop = "
        WITH stopped AS (
            UPDATE apalis.jobs SET status = 'Failed', done_at = now()
            WHERE job_type = 'notify_client'
            RETURNING id, job_type, idempotency_key
        )
        INSERT INTO failed_jobs
            (kind, cause, transaction_id, client_id, job_id, queue, job, reason)
        SELECT 'exhausted', 'job:' || stopped.id, transactions.id, client_id, stopped.id, job_type,
            '{}', 'it stopped'
        FROM stopped JOIN transactions ON transactions.id::text = stopped.idempotency_key";
    let stopped = sqlx::query(stop).execute(&app.pool).await.unwrap();
    assert_eq!(stopped.rows_affected(), count as u64);
}

/// 144 are open, and a call replays at most 100.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_is_of_all_that_match_and_says_what_the_limit_leaves() {
    let app = spawn_api_at_rest().await;
    stopped(&app, 144).await;
    let all = ["dead-letters", "replay", "--all"];
    let dry = quartet(&app, &[&all[..], &["--dry-run"]].concat()).await;
    let said = "144 match, the first 100 would be replayed (--limit). Nothing was done.";
    assert!(dry.expect().contains(said), "{}", dry.stdout);
    assert!(dry.stdout.contains("--confirm 100"), "{}", dry.stdout);
    let nobody = Uuid::now_v7().to_string();
    for more in [&[][..], &["--dry-run"], &["--dry-run", "--json"]] {
        let ended = quartet(&app, &[&["dead-letters", "replay", &nobody], more].concat()).await;
        assert!(ended.expect_failure().contains("no dead letter with this id"), "{ended:?}");
    }
    let dry = quartet(&app, &[&all[..], &["--dry-run", "--json"]].concat()).await.expect_json();
    assert_eq!((&dry["matched"], &dry["replayed"]), (&json!(144), &json!(0)));
    assert_eq!(dry["items"].as_array().unwrap().len(), 100);
    // What matches is not what would be replayed.
    let wrong = quartet(&app, &[&all[..], &["--confirm", "144"]].concat()).await;
    let said = wrong.expect_failure();
    assert!(said.contains("144 dead letters match and the first 100 would be replayed"), "{said}");
    assert!(said.contains("--confirm 100"), "{said}");
    let done = quartet(&app, &[&all[..], &["--confirm", "100"]].concat()).await;
    let said = "100 of 144 replayed. 44 more match and were left (--limit): run it again for them.";
    assert!(done.expect().contains(said), "{}", done.stdout);
    // Over HTTP the same.
    let path = "/v1/operator/dead-letters/replay";
    let body = json!({ "dry_run": true, "limit": 10 });
    let dry = app.operator().post(path, &body).await;
    assert_eq!(dry.expect(200)["matched"], 44);
    assert_eq!(dry.body["items"].as_array().unwrap().len(), 10);
    let body = json!({ "limit": 10, "confirm": 44 });
    let answer = app.operator().post(path, &body).await;
    let problem = answer.expect_problem(409);
    assert!(problem["detail"].as_str().unwrap().contains("confirm 10"), "{problem}");
    let body = json!({ "limit": 10, "confirm": 10 });
    let done = app.operator().post(path, &body).await;
    let done = done.expect(200);
    assert_eq!((&done["matched"], &done["replayed"]), (&json!(44), &json!(10)));
    let rest = quartet(&app, &[&all[..], &["--confirm", "34"]].concat()).await;
    assert!(rest.expect().contains("34 of 34 replayed."), "{}", rest.stdout);
    assert!(!rest.stdout.contains("left"), "{}", rest.stdout);
    // Nothing is a count as well.
    let none = quartet(&app, &[&all[..], &["--confirm", "0"]].concat()).await;
    assert!(none.expect().contains("0 of 0 replayed."), "{}", none.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_says_that_there_is_more_and_goes_on_at_its_cursor() {
    let app = spawn_api_at_rest().await;
    stopped(&app, 3).await;
    for action in ["pause", "resume", "pause"] {
        quartet(&app, &["queues", action, "notify_client"]).await.expect();
    }
    for list in
        [&["dead-letters", "list"][..], &["jobs", "list", "--queue", "notify_client"], &["audit"]]
    {
        let page = async |more: &[&str]| {
            let page = quartet(&app, &[list, more, &["--json"]].concat()).await.expect_json();
            let items = page["items"].as_array().unwrap().clone();
            (items, page["next_cursor"].as_str().map(str::to_owned))
        };
        let (whole, next) = page(&[]).await;
        assert_eq!((whole.len(), next), (3, None), "{list:?}");
        let (mut paged, next) = page(&["--limit", "2"]).await;
        assert_eq!(paged.len(), 2, "{list:?}");
        let (rest, next) = page(&["--limit", "2", "--cursor", &next.unwrap()]).await;
        assert_eq!((rest.len(), next), (1, None), "{list:?}");
        paged.extend(rest);
        assert_eq!(paged, whole, "{list:?}");

        let table = quartet(&app, &[list, &["--limit", "2"]].concat()).await;
        table.expect();
        let said = "The first 2 are listed; there are more (--limit, or --cursor ";
        assert!(table.stderr.contains(said), "{table:?}");
        let table = quartet(&app, &[list, &["--limit", "3"]].concat()).await;
        table.expect();
        assert!(!table.stderr.contains("there are more"), "{table:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_names_the_systems_account_whatever_the_environment_says() {
    let app = spawn_api_at_rest().await;
    let newest = async |args: &[&str], environment: &[(&str, &str)]| {
        let mut settings = app.settings();
        for (name, value) in environment {
            set(&mut settings, name, value);
        }
        let args = [args, &["queues", "pause", "notify_client"][..]].concat();
        command::run(&args, &settings, "").await.expect();
        let resume = ["queues", "resume", "notify_client"];
        let paused = audit(&app).await[0]["operator"].clone();
        command::run(&resume, &app.settings(), "").await.expect();
        paused
    };
    let account = command::operator(None);
    assert_eq!(newest(&[], &[]).await, json!(account));
    let other = [("USER", "somebody-else"), ("LOGNAME", "somebody-else")];
    assert_eq!(newest(&[], &other).await, json!(account));
    let grace = command::operator(Some("Grace Hopper"));
    assert_eq!(newest(&["--operator", "Grace Hopper"], &[]).await, json!(grace));
    let named = [("QUARTET_OPERATOR_NAME", "Grace Hopper")];
    assert_eq!(newest(&[], &named).await, json!(grace));
    let ada = command::operator(Some("Ada"));
    assert_eq!(newest(&["--operator", "Ada"], &named).await, json!(ada));
    for wrong in ["", "a\u{7}b", &"x".repeat(101)] {
        let args = ["queues", "pause", "notify_client", "--operator", wrong];
        let refused = quartet(&app, &args).await;
        assert!(refused.expect_failure().contains("--operator"), "{refused:?}");
    }
}
