//! The tables: one set of them, in `public`, kept and visible.

use sqlx::{AssertSqlSafe, PgConnection};

use super::{Finding, StoreError};
use crate::store::postgres::migration_files;

/// Rows of a second set that are compared with the first.
const COMPARED: i64 = 1_000;

pub(super) async fn check(conn: &mut PgConnection) -> Result<Vec<Finding>, StoreError> {
    let mut findings = one_set(conn).await?;
    findings.push(kept(conn).await?);
    findings.push(row_security(conn).await?);
    Ok(findings)
}

/// A release that followed the `search_path` may have put tables into another schema than `public`.
async fn one_set(conn: &mut PgConnection) -> Result<Vec<Finding>, StoreError> {
    const CHECK: &str = "schema";

    let ours = migration_files::tables();
    let elsewhere = sqlx::query!(
        r#"
        SELECT
            quote_ident(namespace.nspname) AS "schema!",
            (
                SELECT array_agg(quote_ident(relname) ORDER BY relname) FROM pg_class
                WHERE relnamespace = namespace.oid AND relkind = 'r'
                    AND relname = ANY($1::text[] || '{_sqlx_migrations}'::text[])
            ) AS "tables!",
            ARRAY(
                SELECT oid::regprocedure::text FROM pg_proc
                WHERE pronamespace = namespace.oid AND proname LIKE 'quartet\_%'
                ORDER BY 1
            ) AS "functions!",
            has_schema_privilege(namespace.oid, 'USAGE')
                AND has_table_privilege(transactions.oid, 'SELECT') AS "readable!"
        FROM pg_class AS transactions
        JOIN pg_namespace AS namespace ON namespace.oid = transactions.relnamespace
        WHERE transactions.relname = 'transactions' AND transactions.relkind = 'r'
            AND namespace.nspname <> 'public'
            -- Ours, and not another program's table of that name.
            AND 2 = (
                SELECT count(*) FROM pg_attribute
                WHERE attrelid = transactions.oid AND NOT attisdropped
                    AND attname IN ('content_hash', 'notified_version')
            )
            -- And no copy of one table.
            AND EXISTS (
                SELECT FROM pg_class
                WHERE relnamespace = namespace.oid AND relname = '_sqlx_migrations'
            )
        ORDER BY 1
        "#,
        &ours,
    )
    .fetch_all(&mut *conn)
    .await?;
    if elsewhere.is_empty() {
        return Ok(vec![Finding::ok(CHECK, "there is one set of tables, in the schema public")]);
    }
    let is_in_public = sqlx::query_scalar!(
        r#"
        SELECT EXISTS (
            SELECT FROM pg_class
            WHERE relnamespace = to_regnamespace('public') AND relname = 'transactions'
        ) AS "is_in_public!"
        "#
    )
    .fetch_one(&mut *conn)
    .await?;
    let mut findings = Vec::new();
    for set in elsewhere {
        let schema = set.schema;
        if !is_in_public {
            let mut moves: Vec<_> = (set.tables.iter())
                .map(|table| format!("ALTER TABLE {schema}.{table} SET SCHEMA public; "))
                .collect();
            let functions = set.functions.iter();
            moves
                .extend(functions.map(|name| format!("ALTER FUNCTION {name} SET SCHEMA public; ")));
            findings.push(Finding::error(
                CHECK,
                format!("Quartet's tables are in the schema {schema} and belong into public"),
                format!("BEGIN; {}COMMIT", moves.concat()),
            ));
            continue;
        }
        let unseen = if set.readable { unseen(conn, &schema).await? } else { 0 };
        let tables: Vec<_> = set.tables.iter().map(|table| format!("{schema}.{table}")).collect();
        let drop = format!("DROP TABLE {} CASCADE", tables.join(", "));
        findings.push(if unseen > 0 {
            Finding::error(
                CHECK,
                format!(
                    "there is a second set of tables in the schema {schema}, with transactions \
                     that were accepted and are not in public ({unseen} of its first {COMPARED})"
                ),
                format!(
                    "have these posted again by their clients or copy them into \
                     public.transactions, keep a copy (pg_dump -n {schema}), then {drop}"
                ),
            )
        } else {
            Finding::warning(
                CHECK,
                format!(
                    "there is a second set of tables in the schema {schema}, which nothing uses"
                ),
                drop,
            )
        });
    }
    Ok(findings)
}

/// How many of the first transactions in `schema` are not in `public`.
async fn unseen(conn: &mut PgConnection, schema: &str) -> Result<i64, StoreError> {
    let unseen = format!(
        "SELECT count(*) FROM (SELECT id FROM {schema}.transactions LIMIT {COMPARED}) AS second
         WHERE NOT EXISTS (SELECT FROM public.transactions AS first WHERE first.id = second.id)"
    );
    Ok(sqlx::query_scalar(AssertSqlSafe(unseen)).fetch_one(conn).await?)
}

/// An unlogged table is empty after a crash.
async fn kept(conn: &mut PgConnection) -> Result<Finding, StoreError> {
    const CHECK: &str = "logged_tables";

    let unlogged = sqlx::query_scalar!(
        r#"
        SELECT format('%s.%I', relnamespace::regnamespace, relname) AS "table!" FROM pg_class
        WHERE relkind = 'r' AND relpersistence <> 'p' AND (
            relnamespace = to_regnamespace('public') AND relname = ANY($1::text[])
            OR relnamespace = to_regnamespace('apalis') AND relname IN ('jobs', 'workers')
        )
        ORDER BY 1
        "#,
        &migration_files::tables(),
    )
    .fetch_all(conn)
    .await?;
    let Some(first) = unlogged.first() else {
        return Ok(Finding::ok(CHECK, "every table is logged"));
    };
    Ok(Finding::error(
        CHECK,
        format!("unlogged, and so emptied by a crash: {}", unlogged.join(", ")),
        format!("ALTER TABLE {first} SET LOGGED"),
    ))
}

/// Row security hides rows without an error from a role that is neither owner nor exempt.
async fn row_security(conn: &mut PgConnection) -> Result<Finding, StoreError> {
    const CHECK: &str = "row_security";

    let hidden = sqlx::query_scalar!(
        r#"
        SELECT format('%s.%I', relnamespace::regnamespace, relname) AS "table!" FROM pg_class
        WHERE relkind = 'r' AND relrowsecurity AND row_security_active(oid) AND (
            relnamespace = to_regnamespace('public') AND relname = ANY($1::text[])
            OR relnamespace = to_regnamespace('apalis') AND relname IN ('jobs', 'workers')
        )
        ORDER BY 1
        "#,
        &migration_files::tables(),
    )
    .fetch_all(conn)
    .await?;
    let Some(first) = hidden.first() else {
        return Ok(Finding::ok(CHECK, "row-level security hides nothing"));
    };
    Ok(Finding::error(
        CHECK,
        format!("row-level security hides rows of {} from this role", hidden.join(", ")),
        format!("ALTER TABLE {first} DISABLE ROW LEVEL SECURITY"),
    ))
}
