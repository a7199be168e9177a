//! The tables: one set of them, in `public`, kept and visible, with sequences that are ahead of
//! their rows.

use sqlx::{AssertSqlSafe, PgConnection};

use super::{Finding, StoreError};
use crate::store::postgres::migration_files;

const SCHEMA: &str = "schema";
/// Rows of a second set that are compared with the first.
const COMPARED: i64 = 1_000;
/// A row with a larger number did not get it from the sequence, and says nothing of how far that
/// is: set behind it, the sequence would be at its end.
const LARGEST_NUMBER: i64 = i64::MAX / 2;

pub(super) async fn check(conn: &mut PgConnection) -> Result<Vec<Finding>, StoreError> {
    let mut findings = one_set(conn).await?;
    findings.push(kept(conn).await?);
    findings.push(row_security(conn).await?);
    findings.push(sequences(conn).await?);
    Ok(findings)
}

/// Another program's tables, with the names of ours or with migrations of its own.
pub(super) async fn others(conn: &mut PgConnection) -> Result<Option<Finding>, StoreError> {
    let is_readable = sqlx::query_scalar!(
        r#"
        SELECT EXISTS (
            SELECT FROM pg_class
            WHERE relnamespace = to_regnamespace('public') AND relname = '_sqlx_migrations'
                AND has_schema_privilege(relnamespace, 'USAGE')
                AND has_table_privilege(oid, 'SELECT')
        ) AS "is_readable!"
        "#
    );
    let is_readable = is_readable.fetch_one(&mut *conn).await?;
    // Not a checked query: sqlx's own table is no part of the schema that queries are checked with.
    let has_migrations = is_readable
        && sqlx::query_scalar("SELECT EXISTS (SELECT FROM public._sqlx_migrations)")
            .fetch_one(&mut *conn)
            .await?;
    // Looked at last: the first migration writes its row and its tables at the same time.
    let found = sqlx::query!(
        r#"
        SELECT
            EXISTS (
                SELECT FROM pg_class
                JOIN pg_attribute ON attrelid = pg_class.oid AND NOT attisdropped
                WHERE relnamespace = to_regnamespace('public') AND relname = 'transactions'
                    AND attname = 'notified_version'
            ) AS "is_ours!",
            ARRAY(
                SELECT format('public.%I', relname) FROM pg_class
                WHERE relnamespace = to_regnamespace('public')
                    AND relkind IN ('r', 'p', 'v', 'm', 'f') AND relname = ANY($1::text[])
                ORDER BY relname
            ) AS "tables!"
        "#,
        &migration_files::tables(),
    )
    .fetch_one(conn)
    .await?;
    let mut tables = found.tables;
    if has_migrations && tables.is_empty() {
        tables.push("public._sqlx_migrations".to_owned());
    }
    if found.is_ours || tables.is_empty() {
        return Ok(None);
    }
    Ok(Some(Finding::error(
        SCHEMA,
        format!("the schema public holds another program's tables: {}", tables.join(", ")),
        "give Quartet a database of its own",
    )))
}

/// A release that followed the `search_path` may have put tables into another schema than `public`.
async fn one_set(conn: &mut PgConnection) -> Result<Vec<Finding>, StoreError> {
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
        return Ok(vec![Finding::ok(SCHEMA, "there is one set of tables, in the schema public")]);
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
                SCHEMA,
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
                SCHEMA,
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
                SCHEMA,
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

/// Logical replication and copies by table bring rows and leave the sequences where they are. An
/// insert then gets a number that another row has.
async fn sequences(conn: &mut PgConnection) -> Result<Finding, StoreError> {
    const CHECK: &str = "sequences";

    let numbered = sqlx::query!(
        r#"
        SELECT
            format('public.%I', pg_class.relname) AS "table!",
            quote_ident(attname) AS "column!",
            CASE
                WHEN has_sequence_privilege(objid, 'SELECT')
                THEN format('SELECT last_value - (NOT is_called)::int FROM %s', objid::regclass)
                -- Null where it has given no number yet.
                ELSE format('SELECT COALESCE(pg_sequence_last_value(%L), 0)', objid::regclass)
            END AS "last!"
        FROM pg_class
        JOIN pg_attribute ON attrelid = pg_class.oid AND attidentity <> ''
        JOIN pg_depend ON refclassid = 'pg_class'::regclass AND refobjid = pg_class.oid
            AND refobjsubid = attnum AND classid = 'pg_class'::regclass AND deptype = 'i'
        JOIN pg_class AS sequence ON sequence.oid = objid
        WHERE pg_class.relnamespace = to_regnamespace('public') AND pg_class.relkind = 'r'
            AND pg_class.relname = ANY($1::text[])
            -- What may not be read is another check's. A table that somebody has locked is left
            -- out: nothing here waits.
            AND has_schema_privilege(pg_class.relnamespace, 'USAGE')
            AND has_table_privilege(pg_class.oid, 'SELECT')
            AND CASE WHEN sequence.relkind = 'S'
                THEN has_sequence_privilege(sequence.oid, 'SELECT, USAGE') ELSE false
            END
            AND NOT row_security_active(pg_class.oid)
            AND NOT EXISTS (
                SELECT FROM pg_locks
                WHERE relation = pg_class.oid AND mode = 'AccessExclusiveLock'
                    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            )
        ORDER BY 1
        "#,
        &migration_files::tables(),
    )
    .fetch_all(&mut *conn)
    .await?;
    let (mut behind, mut remedies) = (Vec::new(), Vec::new());
    for row in numbered {
        let (table, column, last) = (row.table, row.column, row.last);
        // The rows are read as of the statement's begin: what others insert meanwhile has numbers
        // that the sequence has given.
        let largest =
            format!("(SELECT max({column}) FROM {table} WHERE {column} < {LARGEST_NUMBER})");
        let is_behind = format!("SELECT COALESCE({largest} > ({last}), false)");
        if sqlx::query_scalar(AssertSqlSafe(is_behind)).fetch_one(&mut *conn).await? {
            remedies.push(format!(
                "SELECT setval(pg_get_serial_sequence('{table}', '{column}'), {largest})"
            ));
            behind.push(format!("{table}.{column}"));
        }
    }
    if behind.is_empty() {
        return Ok(Finding::ok(CHECK, "every sequence is ahead of its rows"));
    }
    Ok(Finding::error(
        CHECK,
        format!(
            "the sequences of {} are behind their rows, as after logical replication or a copy by \
             table: inserts fail",
            behind.join(", ")
        ),
        remedies.join("; "),
    ))
}
