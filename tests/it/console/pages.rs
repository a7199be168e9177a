//! What pages answer: their headers, hostile content, an empty database, keyset pages, assets.

use quartet::sandbox::SendWebhook;
use serde_json::json;
use uuid::Uuid;

use super::{data, visitor::Visitor};
use crate::support::spawn_api;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_has_the_strict_headers_and_nothing_inline() {
    let app = spawn_api().await;
    let letter = data::unknown_transaction(&app).await;
    let visitor = Visitor::signed_in(&app).await;
    let stranger = Visitor::new(&app);
    let mut pages = vec![
        stranger.get("/console/sign-in").await,
        stranger.get("/console").await,
        visitor.get("/console/nothing").await,
        visitor.post_plain("/console/queues/notify_client/pause", &[]).await,
    ];
    for path in data::paths(&letter) {
        pages.push(visitor.get(&path).await);
    }
    for page in pages {
        for (name, value) in [
            ("content-security-policy", POLICY),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "same-origin"),
            ("cache-control", "no-store"),
            ("x-frame-options", "DENY"),
        ] {
            assert_eq!(page.header(name), value, "{name}: {}", page.html);
        }
        let html = &page.html;
        for inline in ["<style", " style=", " onclick=", "javascript:", "http://", "https://"] {
            assert!(!html.contains(inline), "{inline}: {html}");
        }
        assert_eq!(html.matches("<script").count(), html.matches("<script src=").count());
        assert!(html.is_empty() || html.contains(r#"<html lang="en">"#), "{html}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn assets_are_kept_by_their_hash() {
    let app = spawn_api().await;
    let visitor = Visitor::new(&app);
    let html = visitor.get("/console/sign-in").await.html;
    let mut urls: Vec<&str> =
        html.split('"').filter(|text| text.starts_with("/console/assets/")).collect();
    urls.sort_unstable();
    urls.dedup();
    assert_eq!(urls.len(), 3, "{urls:?}");
    for url in urls {
        let asset = visitor.get(url).await;
        assert!(!asset.expect(200).is_empty());
        assert_eq!(asset.header("cache-control"), "public, max-age=31536000, immutable");
        assert_eq!(asset.header("x-content-type-options"), "nosniff");
        let name = url.rsplit('/').next().unwrap();
        let media_type = match name.rsplit('.').next().unwrap() {
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            _ => "image/svg+xml",
        };
        assert_eq!(asset.header("content-type"), media_type);
        // Of another version, during an upgrade: answered, and not kept.
        let other = visitor.get(&format!("/console/assets/other/{name}")).await;
        assert_eq!((other.status, other.header("cache-control")), (200, "no-store"));
    }
    visitor.get("/console/assets/x/mod.rs").await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_content_stays_text() {
    let app = spawn_api().await;
    const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>";
    let id = Uuid::now_v7();
    let posted = json!({
        "id": id, "reference": HOSTILE, "metadata": { HOSTILE: HOSTILE },
    });
    app.client().post_transaction(&posted).await.expect(202);
    app.send_webhook(SendWebhook::new(id, "completed")).await;
    app.send_webhook(SendWebhook::new(id, "declined")).await;
    for statement in [
        "UPDATE failed_jobs SET reason = $1, detail = jsonb_build_object($1, $1),
            attempts = jsonb_build_array(jsonb_build_object('attempt', 1, 'error', $1))",
        "UPDATE transaction_events SET detail = jsonb_build_object($1, $1), source = $1",
        "UPDATE clients SET name = $1",
        "UPDATE apalis.jobs SET last_result = jsonb_build_object('Err', $1,
            'errors', jsonb_build_array(jsonb_build_object('attempt', 1, 'at', $1, 'error', $1)))",
    ] {
        sqlx::query(statement).bind(HOSTILE).execute(&app.pool).await.unwrap();
    }
    let visitor = {
        let mut visitor = Visitor::new(&app);
        let token = crate::support::world::OPERATOR_TOKEN;
        visitor.sign_in(&[("token", token), ("name", HOSTILE)]).await;
        visitor
    };
    let letter = app.operator().open_dead_letters(id).await.remove(0);
    let letter = letter["id"].as_str().unwrap();
    let note = [("note", HOSTILE)];
    visitor.post("/console/queues/notify_client/pause", &note).await.location();
    let job = app.job("notify_client", id).await.id;
    let mut paths = data::paths(letter);
    paths.extend([
        format!("/console/transactions/{id}"),
        format!("/console/jobs/{job}"),
        format!("/console/dead-letters?transaction={id}"),
        "/console/sign-in?to=%22%3E%3Cscript%3Ealert(1)%3C/script%3E".to_owned(),
        "/console/queues?done=%3Cscript%3Ealert(1)%3C/script%3E".to_owned(),
        "/console/transactions?status=%3Cscript%3Ealert(1)%3C/script%3E".to_owned(),
        "/console/jobs?transaction=%3Cscript%3Ealert(1)%3C/script%3E".to_owned(),
    ]);
    let mut shown = 0;
    for path in paths {
        let html = visitor.get(&path).await.html;
        assert!(!html.contains("<script>") && !html.contains("<img src=x"), "{path}: {html}");
        shown += html.matches("&#60;script&#62;alert(1)").count();
    }
    assert!(shown > 20, "it is shown as text: {shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_database_has_pages_that_say_what_to_do() {
    let app = spawn_api().await;
    let visitor = Visitor::signed_in(&app).await;
    for (path, text) in [
        ("/console", "start <code>quartet serve</code>"),
        ("/console/transactions", "No transaction was accepted yet"),
        ("/console/transactions?status=failed", "No transaction matches"),
        ("/console/dead-letters", "Nothing is open"),
        ("/console/dead-letters?state=replayed", "There is none in this state"),
        ("/console/dead-letters?kind=poison", "No dead letter matches"),
        ("/console/jobs", "There are no jobs"),
        ("/console/jobs?state=failed", "No job matches"),
        ("/console/queues", "notify_client"),
        ("/console/audit", "No operator has acted yet"),
    ] {
        let page = visitor.get(path).await;
        assert!(page.expect(200).contains(text), "{path}: {}", page.html);
    }
    let id = Uuid::now_v7();
    let search = visitor.get(&format!("/console/transactions?q={id}")).await;
    assert!(search.expect(200).contains(&format!("Nothing found for “{id}”")), "{}", search.html);
    let page = visitor.get(&format!("/console/transactions/{id}")).await;
    assert!(page.expect(404).contains(&format!("there is no transaction {id}")), "{}", page.html);
    visitor.get(&format!("/console/dead-letters/{id}")).await.expect(404);
    visitor.get("/console/jobs/none").await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_filters_are_named() {
    let app = spawn_api().await;
    let visitor = Visitor::signed_in(&app).await;
    for (path, text) in [
        ("/console/transactions?status=done", "status must be one of pending"),
        ("/console/transactions?third_party=mtn_momo", "third_party must be 1 to 64"),
        ("/console/transactions?third_party=%00", "third_party must be 1 to 64"),
        ("/console/transactions?cursor=x", "cursor"),
        ("/console/dead-letters?kind=x", "kind must be one of exhausted"),
        ("/console/dead-letters?age=2d", "age must be one of 15m"),
        ("/console/jobs?queue=x", "queue must be one of create_transaction"),
        ("/console/audit?before=x", "before must be a number"),
        ("/console/dead-letters/confirm?action=x&id=1", "action must be one of replay"),
    ] {
        let page = visitor.get(path).await;
        assert!(page.expect(422).contains(text), "{path}: {}", page.html);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_paged_by_keyset_without_gap_or_repeat() {
    let app = spawn_api().await;
    data::fill(&app.pool, 200).await;
    let visitor = Visitor::signed_in(&app).await;
    for (list, of, marker, expected) in [
        ("/console/transactions", "transactions", "/console/transactions/", 200),
        ("/console/transactions?status=completed", "completed", "/console/transactions/", 140),
        ("/console/dead-letters?state=any", "letters", "/console/dead-letters/", 42),
        ("/console/jobs", "jobs", "/console/jobs/", 800),
    ] {
        let (mut path, mut seen) = (list.to_owned(), Vec::new());
        loop {
            let page = visitor.get(&path).await;
            let html = page.expect(200);
            let rows = html.split("<tr data-key=\"").skip(1);
            let ids: Vec<_> = rows
                .map(|row| {
                    assert!(row.contains(marker), "{of}: {row}");
                    row.split('"').next().unwrap().to_owned()
                })
                .collect();
            assert!(!ids.is_empty() && ids.len() <= 50, "{of}: {}", ids.len());
            seen.extend(ids);
            let Some((_, next)) = html.split_once(r#"rel="next" href=""#) else { break };
            path = next.split('"').next().unwrap().replace("&#38;", "&");
        }
        let mut unique = seen.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!((seen.len(), unique.len()), (expected, expected), "{of}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_cannot_be_there_is_no_page() {
    let app = spawn_api().await;
    let visitor = Visitor::signed_in(&app).await;
    visitor.get("/console/jobs/%00").await.expect(404);
    visitor.get("/console/jobs/none").await.expect(404);
    // A reload after an action that was refused leads back to the job.
    let answer = visitor.get("/console/jobs/a%20b%3F/retry").await;
    assert_eq!(answer.location(), "/console/jobs/a%20b%3F");
}
