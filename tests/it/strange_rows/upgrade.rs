//! Constraints that are added to a database with rows in it; and queries that need none of them.

use std::collections::HashMap;

use serde_json::Value;

use super::{ADDED, drop_added_checks, set_metadata};
use crate::support::{TestApp, spawn_api};

/// The constraints that are there, `true` where they are valid.
async fn checks(app: &TestApp) -> HashMap<String, bool> {
    let names: Vec<&str> = ADDED.iter().map(|(_, name)| *name).collect();
    let there = "SELECT conname::text, convalidated FROM pg_constraint WHERE conname = ANY ($1)";
    let there: Vec<(String, bool)> =
        sqlx::query_as(there).bind(names).fetch_all(&app.pool).await.unwrap();
    there.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_is_not_blocked_by_a_row_that_breaks_a_new_constraint() {
    let app = spawn_api().await;
    let id = app.client().accept().await;
    let all = checks(&app).await;
    assert_eq!(all.len(), ADDED.len(), "{all:?}");
    assert!(all.values().all(|is_valid| *is_valid), "{all:?}");

    // As before the upgrade, with a row that an operator had changed by hand.
    drop_added_checks(&app.pool).await;
    let before = "DROP FUNCTION quartet_add_check; DROP FUNCTION quartet_validate_check;
        DROP VIEW operator.transactions;
        DELETE FROM _sqlx_migrations WHERE version BETWEEN 20261129000020 AND 20261129000029;";
    sqlx::raw_sql(before).execute(&app.pool).await.unwrap();
    set_metadata(&app, id, r#"{"a": ["x"]}"#).await;

    quartet::store::migrate(app.database_url()).await.unwrap();
    let there = checks(&app).await;
    assert_eq!(there.len(), ADDED.len() - 1, "{there:?}");
    assert!(!there.contains_key("transactions_metadata_is_strings"), "{there:?}");
    assert!(there.values().all(|is_valid| *is_valid), "{there:?}");

    // What docs/database.md says to do about it.
    set_metadata(&app, id, r#"{"a": "x"}"#).await;
    let page = include_str!("../../../docs/database.md");
    let (_, page) = page.split_once("## A row that cannot be read").unwrap();
    let (_, statements) = page.split_once("```sql\n").unwrap();
    let (statements, _) = statements.split_once("```").unwrap();
    sqlx::raw_sql(statements).execute(&app.pool).await.unwrap();
    assert_eq!(checks(&app).await.get("transactions_metadata_is_strings"), Some(&true));
    for metadata in [r#"{"a": 1}"#, r#"{"a": ["x"]}"#, r#"{"a": "x", "b": null}"#] {
        let set = "UPDATE transactions SET metadata = $2::jsonb WHERE id = $1";
        let refused = sqlx::query(set).bind(id).bind(metadata).execute(&app.pool).await;
        let refused = refused.unwrap_err();
        let name = refused.as_database_error().and_then(|error| error.constraint());
        assert_eq!(name, Some("transactions_metadata_is_strings"), "{metadata}");
    }
    for metadata in ["{}", r#"{"a": ""}"#] {
        set_metadata(&app, id, metadata).await;
    }
}

/// A new query cannot bring the fault back: what sqlx decodes by itself fails, or panics, on a
/// value that Postgres holds and the Rust type does not.
#[test]
fn every_query_reads_times_and_json_leniently() {
    let lenient = ["AnyJson", "Column<", "MaybeJson", "MaybeTime", "Metadata", "Time"];
    let mut columns = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.sqlx")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let query: Value = serde_json::from_str(&text).unwrap();
        for column in query["describe"]["columns"].as_array().unwrap() {
            let is_strange = ["Timestamp", "Json"]
                .iter()
                .any(|name| column["type_info"].as_str().is_some_and(|info| info.contains(name)));
            if is_strange {
                columns += 1;
                let name = column["name"].as_str().unwrap();
                let read_as = name.split_once(": ").map_or("", |(_, read_as)| read_as);
                assert!(
                    lenient.iter().any(|lenient| read_as.starts_with(lenient)),
                    "read `{name}` as a type of `store::postgres::columns`: {}",
                    query["query"],
                );
            }
        }
    }
    assert!(columns > 50, "{columns}");
}
