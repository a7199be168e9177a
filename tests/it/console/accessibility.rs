//! Every page, light and dark, wide and narrow: axe-core finds nothing, nothing scrolls sideways,
//! and the browser's console stays silent. Run with `QUARTET_TEST_SCREENSHOTS=DIRECTORY`, it leaves
//! pictures of the pages there.

use std::{env, fs, path::PathBuf};

use serde_json::Value;

use super::{
    browser::{open, sign_in},
    data,
};
use crate::support::{TestApp, browser::Browser, spawn_api};

const AXE: &str = include_str!("axe.min.js");

/// What axe found, each with where.
const FINDINGS: &str = "
    const done = arguments[arguments.length - 1];
    axe.run(document, { resultTypes: ['violations'] }).then((result) => done(
        result.violations.map((rule) => rule.id + ': ' + rule.nodes.map((node) =>
            node.html + ' (' + node.any.concat(node.all, node.none).map((check) => check.message)
                .join('; ') + ')').join(' | '))),
        (error) => done([String(error)]));";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_is_accessible_and_fits_a_phone() {
    let app = spawn_api().await;
    let browser = Browser::start().await;
    let pictures = env::var_os("QUARTET_TEST_SCREENSHOTS").map(PathBuf::from);
    let mut faults = Vec::new();

    check(&browser, &app, &pictures, "sign-in", "/console/sign-in", &mut faults).await;
    sign_in(&browser, &app).await;
    check(&browser, &app, &pictures, "empty-overview", "/console", &mut faults).await;
    data::fill(&app.pool, 300).await;
    for (name, path) in pages(&app).await {
        check(&browser, &app, &pictures, name, &path, &mut faults).await;
    }
    assert_eq!(browser.complaints().await, [] as [String; 0]);
    // A missing page is a complaint of the browser's own.
    let missing = "/console/dead-letters/0195f3a2-7b1c-7e9a-8d4f-2c6b5a1e9f03";
    check(&browser, &app, &pictures, "refused", missing, &mut faults).await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// One of each page, by the name of its picture.
async fn pages(app: &TestApp) -> Vec<(&'static str, String)> {
    let id = async |query: &'static str| {
        sqlx::query_scalar::<_, String>(query).fetch_one(&app.pool).await.unwrap()
    };
    let transaction = id("SELECT id::text FROM transactions WHERE status = 'completed'
        AND metadata IS NOT NULL ORDER BY created_at DESC LIMIT 1")
    .await;
    let stuck = id("SELECT transaction_id::text FROM failed_jobs WHERE state = 'open'
        AND kind = 'creation_failure' ORDER BY opened_at LIMIT 1")
    .await;
    let letter = id("SELECT id::text FROM failed_jobs WHERE state = 'open'
        AND kind = 'creation_failure' ORDER BY opened_at LIMIT 1")
    .await;
    let closed = id("SELECT id::text FROM failed_jobs WHERE state = 'replayed'
        AND queue IS NOT NULL LIMIT 1")
    .await;
    let conflict = id("SELECT id::text FROM failed_jobs WHERE state = 'open'
        AND kind = 'status_conflict' LIMIT 1")
    .await;
    let job = id("SELECT id FROM apalis.jobs WHERE status = 'Failed'
        AND job_type = 'create_at_third_party' LIMIT 1")
    .await;
    let many = id("SELECT string_agg('id=' || id, '&') FROM (SELECT id FROM failed_jobs
        WHERE state = 'open' ORDER BY opened_at DESC LIMIT 8) AS chosen")
    .await;
    vec![
        ("overview", "/console".to_owned()),
        ("transactions", "/console/transactions".to_owned()),
        ("transaction", format!("/console/transactions/{transaction}")),
        ("transaction-stuck", format!("/console/transactions/{stuck}")),
        ("dead-letters", "/console/dead-letters".to_owned()),
        ("dead-letter", format!("/console/dead-letters/{letter}")),
        ("dead-letter-closed", format!("/console/dead-letters/{closed}")),
        ("confirm-replay", format!("/console/dead-letters/confirm?action=replay&{many}")),
        ("confirm-resolve", format!("/console/dead-letters/confirm?action=resolve&id={conflict}")),
        ("result", format!("/console/dead-letters/result?action=replay&{many}")),
        ("jobs", "/console/jobs".to_owned()),
        ("job", format!("/console/jobs/{job}")),
        ("queues", "/console/queues".to_owned()),
        ("queue-pause", "/console/queues/update_status/pause".to_owned()),
        ("audit", "/console/audit".to_owned()),
    ]
}

async fn check(
    browser: &Browser,
    app: &TestApp,
    pictures: &Option<PathBuf>,
    name: &str,
    path: &str,
    faults: &mut Vec<String>,
) {
    open(browser, app, path).await;
    // Opened, so that what is inside is looked at too.
    browser.run("for (const one of document.querySelectorAll('details')) one.open = true").await;
    browser.run(AXE).await;
    // Each width and each mode once: what depends on the width does not depend on the colours.
    for (width, dark) in [(1280, false), (390, true)] {
        browser.set_width(width).await;
        browser.set_dark(dark).await;
        let found = browser.execute_async(FINDINGS, Vec::new()).await.unwrap();
        let found: Vec<String> = serde_json::from_value(found).unwrap();
        let mode = if dark { "dark" } else { "light" };
        faults.extend(found.iter().map(|fault| format!("{name} {width} {mode}: {fault}")));
        let overflow = browser
            .run(
                "const wide = document.documentElement.clientWidth;
                if (document.documentElement.scrollWidth <= wide) return null;
                return [...document.querySelectorAll('body *')].filter((one) =>
                    one.getBoundingClientRect().right > wide + 0.5).map((one) =>
                    one.tagName + '.' + one.className).slice(0, 5).join(', ')",
            )
            .await;
        if overflow != Value::Null {
            faults.push(format!("{name} {width}: scrolls sideways: {overflow}"));
        }
    }
    if let Some(directory) = pictures {
        fs::create_dir_all(directory).unwrap();
        browser
            .run("for (const one of document.querySelectorAll('details')) one.open = false")
            .await;
        for (width, dark) in [(1280, false), (1280, true), (390, false), (390, true)] {
            browser.set_dark(dark).await;
            let mode = if dark { "-dark" } else { "" };
            let file = directory.join(format!("{name}-{width}{mode}.png"));
            fs::write(file, browser.picture(width).await).unwrap();
        }
    }
    browser.set_dark(false).await;
    browser.set_width(1280).await;
}
