//! Reconciliation asks each third party about its own transactions alone, and names those that it
//! cannot ask.

use std::{sync::Arc, time::Duration};

use quartet::{
    config::Role,
    domain::{ReportedStatus, Seen, ThirdPartyName},
    store::{
        self, Target,
        reconcile::{self, Action, LateStoring, Terms},
    },
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{BOUND, Several, post};
use crate::support::command::{Ended, run};

#[tokio::test]
async fn an_answer_about_anothers_transaction_settles_nothing() {
    let several = Several::new().await;
    let app = several.app().role(Role::Api).spawn().await;
    let id = post(&app, "acme").await;
    let target = Target::new(several.world.database_url(), false).unwrap();
    let pool = store::connect(&target, 2, BOUND, &Arc::default());
    let terms = Terms {
        deadline: BOUND,
        recheck: BOUND,
        late: Some(LateStoring { possible_for: BOUND, give_up_after: BOUND }),
        retry_after: Duration::ZERO,
        dry_run: false,
    };
    let record = async |asked: &str, seen: Seen| {
        let asked = ThirdPartyName::parse(asked).unwrap();
        reconcile::record(&pool, id, &asked, seen, None, &terms).await.unwrap().action
    };
    let completed = || Seen::Found(Some(ReportedStatus::Completed));
    for asked in ["pay", "third-party"] {
        assert_eq!(record(asked, completed()).await, Action::Skipped);
        assert_eq!(record(asked, Seen::Absent).await, Action::Skipped);
    }
    assert_eq!(app.client().get_transaction(id).await.expect(200)["status"], "pending");
    let findings = "SELECT count(*) FROM reconcile_findings WHERE transaction_id = $1";
    let findings: i64 = sqlx::query_scalar(findings).bind(id).fetch_one(&app.pool).await.unwrap();
    assert_eq!(findings, 0, "it was not looked up");
    assert_eq!(record("acme", completed()).await, Action::Settled);
    assert_eq!(app.client().get_transaction(id).await.expect(200)["status"], "completed");
}

fn report(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:#?}"))
}

#[tokio::test]
async fn what_is_open_at_one_that_cannot_be_asked_does_not_starve_the_others() {
    let several = Several::new().await;
    let app = several.app().role(Role::Api).spawn().await;
    for _ in 0..3 {
        post(&app, "acme").await;
    }
    let unnamed: Uuid = app.client().accept().await;
    let age = "UPDATE transactions SET created_at = created_at - interval '1 hour'";
    sqlx::query(age).execute(&app.pool).await.unwrap();

    // Where it is not configured.
    let without = several.world.settings();
    let sweep = ["reconcile", "--since", "2h", "--limit", "1", "--json"];
    let swept = run(&sweep, &without, "").await;
    let said = report(&swept);
    assert_eq!(said["items"][0]["transaction_id"], json!(unnamed), "{said}");
    assert_eq!((&said["looked_up"], &said["at_limit"]), (&json!(1), &json!(false)), "{said}");
    assert_eq!(said["not_configured"], json!({ "acme": 3 }));
    let shortfall = swept.expect_failure();
    assert!(shortfall.contains("3 transactions are pending at acme"), "{shortfall}");
    let doctor = run(&["doctor"], &without, "").await.stdout;
    assert!(doctor.contains("3 transactions are pending at acme, which is not"), "{doctor}");
    // None of them began since then: all that was asked for was looked up.
    let recent = ["reconcile", "--since", "10m", "--json"];
    let swept = run(&recent, &without, "").await;
    assert_eq!(swept.expect_json()["not_configured"], json!({}));

    // Where its circuit is open.
    let open = "INSERT INTO circuits (name, opened_at, open_until, open_for, reason, trips)
        VALUES ('acme', now(), now() + interval '1 hour', 3600, 'test', 1)
        ON CONFLICT (name) DO UPDATE SET opened_at = excluded.opened_at,
            open_until = excluded.open_until, open_for = excluded.open_for,
            reason = excluded.reason, trips = 1";
    sqlx::query(open).execute(&app.pool).await.unwrap();
    let with = several.with(several.world.settings());
    let swept = run(&sweep, &with, "").await;
    let said = report(&swept);
    assert_eq!(said["items"][0]["transaction_id"], json!(unnamed), "{said}");
    assert_eq!(said["not_configured"], json!({}));
    let shortfall = swept.expect_failure();
    assert!(shortfall.contains("circuit is open"), "{shortfall}");
    assert!(shortfall.contains("acme"), "{shortfall}");
    // Nothing to look up there began since then.
    let swept = run(&recent, &with, "").await;
    assert_eq!(swept.expect_json()["postponed"], Value::Null);
    // Before the doctor, which asks for an id that does not exist.
    assert!(several.acme.0.asked("GET", "/transaction").is_empty());
    let doctor = run(&["doctor"], &with, "").await.stdout;
    assert!(doctor.contains("3 transactions are pending at acme: until"), "{doctor}");
}
