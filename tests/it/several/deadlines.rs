//! Each third party's transactions are polled for as long as it may take to end them.

use quartet::config::Role;
use serde_json::json;

use super::{BOUND, Several, post};
use crate::support::{command::run, wait_until, world::set};

#[tokio::test]
async fn polling_ends_by_the_deadline_of_the_third_party() {
    let several = Several::new().await;
    several.write("acme.toml", &several.acme_settings("poll_deadline = '400ms'\n"));
    let app = several.app().set("QUARTET_POLL__DEADLINE", "1h").spawn().await;
    // Both say that it is pending, however often they are asked.
    let (impatient, patient) = (post(&app, "acme").await, post(&app, "pay").await);

    let letter = app.wait_dead_letter(impatient).await;
    assert_eq!(letter["kind"], "deadline", "{letter}");
    let reason = letter["reason"].as_str().unwrap();
    assert!(reason.starts_with("no final status within 400ms, after "), "{reason}");
    let polls = || several.pay.asked("GET", "/").len();
    let before = polls();
    wait_until("the other one is polled on", BOUND, async || polls() > before).await;
    assert!(app.operator().open_dead_letters(patient).await.is_empty());
}

#[tokio::test]
async fn reconciliation_looks_up_what_is_late_at_its_own_third_party() {
    let several = Several::new().await;
    several.write("acme.toml", &several.acme_settings("poll_deadline = '5m'\n"));
    let app = several.app().role(Role::Api).spawn().await;
    let late = post(&app, "acme").await;
    post(&app, "pay").await;
    app.client().accept().await;
    let age = "UPDATE transactions SET created_at = created_at - interval '10 minutes'";
    sqlx::query(age).execute(&app.pool).await.unwrap();

    let mut settings = several.with(several.world.settings());
    set(&mut settings, "QUARTET_POLL__DEADLINE", "15m");
    let swept = run(&["reconcile", "--since", "1h", "--dry-run", "--json"], &settings, "").await;
    let said = swept.expect_json();
    let looked_up = said["items"].as_array().unwrap();
    let looked_up: Vec<_> = looked_up.iter().map(|item| &item["transaction_id"]).collect();
    assert_eq!(looked_up, [&json!(late)], "{said}");
}
