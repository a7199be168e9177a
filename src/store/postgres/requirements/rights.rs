//! What the role may do.

use sqlx::PgConnection;

use super::{Finding, StoreError, server::Facts};
use crate::store::postgres::migration_files;

const EXTENSIONS: &str = "extensions";
const RIGHTS: &str = "rights";
const OWNERS: &str = "owners";

/// More missing grants than that are replaced by those on whole schemas.
const MANY: usize = 4;
/// As in `docs/database.md`.
const ALL_GRANTS: [&str; 4] = [
    "GRANT USAGE ON SCHEMA public, apalis, operator",
    "GRANT SELECT ON ALL TABLES IN SCHEMA operator",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public, apalis",
    "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public, operator",
];

/// A function that writes with the rights of its owner, who has none: as where the tables were
/// given to another role, and the functions were not. What calls one of them fails.
pub(super) async fn owners(conn: &mut PgConnection) -> Result<Option<Finding>, StoreError> {
    let strange = sqlx::query!(
        r#"
        SELECT
            pg_proc.oid::regprocedure::text AS "function!",
            quote_ident(writer.rolname) AS "writer!",
            quote_ident(owner.rolname) AS "owner!",
            format('%s.%I', written.relnamespace::regnamespace, written.relname) AS "table!"
        FROM pg_proc
        JOIN pg_roles AS writer ON writer.oid = proowner
        JOIN pg_class AS written ON written.relnamespace = pronamespace
            AND written.relname IN ('ambiguous_creates', 'queue_floor_resets')
        JOIN pg_roles AS owner ON owner.oid = written.relowner
        WHERE pronamespace = to_regnamespace('public') AND proname LIKE 'quartet\_%' AND prosecdef
            AND NOT has_table_privilege(writer.oid, written.oid, 'INSERT')
        ORDER BY 1, 4
        LIMIT 1
        "#
    )
    .fetch_optional(conn)
    .await?;
    Ok(strange.map(|row| {
        Finding::error(
            OWNERS,
            format!(
                "the function {} belongs to {}, who may not write {}",
                row.function, row.writer, row.table
            ),
            format!("ALTER FUNCTION {} OWNER TO {}", row.function, row.owner),
        )
    }))
}

/// For `quartet migrate`: it creates what is missing, and alters what it owns.
pub(super) async fn check_migrate(
    conn: &mut PgConnection,
    facts: &Facts,
) -> Result<Vec<Finding>, StoreError> {
    let mut findings = vec![extensions(conn, facts, true).await?];
    findings.push(match missing_to_create(conn, facts).await? {
        missing if missing.is_empty() => match foreign_owner(conn).await? {
            None => Finding::ok(RIGHTS, format!("{} may migrate", facts.role)),
            Some((owner, tables)) => Finding::error(
                RIGHTS,
                format!("{} does not own {tables}, which belong to {owner}", facts.role),
                format!("run `quartet migrate` as {owner}, or GRANT {owner} TO {}", facts.role),
            ),
        },
        missing => Finding::error(
            RIGHTS,
            format!("the role {} may not create what `quartet migrate` creates", facts.role),
            missing.join("; "),
        ),
    });
    Ok(findings)
}

/// The grants that are missing to create schemas, tables and functions.
async fn missing_to_create(
    conn: &mut PgConnection,
    facts: &Facts,
) -> Result<Vec<String>, StoreError> {
    let may = sqlx::query!(
        r#"
        SELECT
            to_regnamespace('apalis') IS NOT NULL AND to_regnamespace('operator') IS NOT NULL
                OR has_database_privilege(current_database(), 'CREATE') AS "schemas!",
            to_regnamespace('public') IS NOT NULL AS "has_public!",
            COALESCE(
                has_schema_privilege(to_regnamespace('public')::oid, 'USAGE')
                AND has_schema_privilege(to_regnamespace('public')::oid, 'CREATE'), false
            ) AS "public!",
            COALESCE(
                has_schema_privilege(to_regnamespace('apalis')::oid, 'USAGE')
                AND has_schema_privilege(to_regnamespace('apalis')::oid, 'CREATE'), true
            ) AS "apalis!",
            COALESCE(
                has_schema_privilege(to_regnamespace('operator')::oid, 'USAGE')
                AND has_schema_privilege(to_regnamespace('operator')::oid, 'CREATE'), true
            ) AS "operator!"
        "#
    )
    .fetch_one(conn)
    .await?;
    let (role, database) = (&facts.role, &facts.database);
    let schema = |name| format!("GRANT USAGE, CREATE ON SCHEMA {name} TO {role}");
    let missing = [
        (may.schemas, format!("GRANT CREATE ON DATABASE {database} TO {role}")),
        (may.has_public, "CREATE SCHEMA public".to_owned()),
        (may.public, schema("public")),
        (may.apalis, schema("apalis")),
        (may.operator, schema("operator")),
    ];
    Ok(missing.into_iter().filter_map(|(may, grant)| (!may).then_some(grant)).collect())
}

/// Another owner of what migrations alter, and what belongs to it.
async fn foreign_owner(conn: &mut PgConnection) -> Result<Option<(String, String)>, StoreError> {
    let foreign = sqlx::query!(
        r#"
        SELECT
            pg_get_userbyid(relowner)::regrole::text AS "owner!",
            string_agg(
                format('%s.%I', relnamespace::regnamespace, relname), ', ' ORDER BY relname
            ) AS "tables!"
        FROM pg_class
        WHERE relkind IN ('r', 'v') AND NOT pg_has_role(relowner, 'USAGE') AND (
            relnamespace = to_regnamespace('public')
                AND relname = ANY($1::text[] || '{_sqlx_migrations}'::text[])
            OR relnamespace = to_regnamespace('apalis')
            OR relnamespace = to_regnamespace('operator')
        )
        GROUP BY relowner
        ORDER BY count(*) DESC
        LIMIT 1
        "#,
        &migration_files::tables(),
    )
    .fetch_optional(conn)
    .await?;
    Ok(foreign.map(|foreign| (foreign.owner, foreign.tables)))
}

/// For `quartet serve` and the commands. Where the schema is not there yet, only what can be said.
pub(super) async fn check_serve(
    conn: &mut PgConnection,
    facts: &Facts,
) -> Result<Vec<Finding>, StoreError> {
    let role = &facts.role;
    let mut findings = vec![extensions(conn, facts, false).await?];
    let (needed, advised) = missing_to_serve(conn, role).await?;
    findings.push(if !needed.is_empty() {
        let found = format!("the role {role} lacks rights that `quartet serve` needs");
        Finding::error(RIGHTS, found, needed.join("; "))
    } else if !advised.is_empty() {
        let found = format!("the role {role} lacks rights that retention and operators need");
        Finding::warning(RIGHTS, found, advised.join("; "))
    } else {
        Finding::ok(RIGHTS, format!("{role} may serve"))
    });
    Ok(findings)
}

/// The grants that are missing: those without which nothing works, and the others.
async fn missing_to_serve(
    conn: &mut PgConnection,
    role: &str,
) -> Result<(Vec<String>, Vec<String>), StoreError> {
    let missing = sqlx::query!(
        r#"
        WITH tables AS (
            SELECT
                pg_class.oid, format('%s.%I', relnamespace::regnamespace, relname) AS name,
                pg_class.relname IN ('jobs', 'workers', 'transactions') AS changes,
                CASE
                    WHEN relkind = 'v' OR relname = '_sqlx_migrations' THEN '{SELECT}'::text[]
                    ELSE '{SELECT,INSERT,UPDATE,DELETE}'::text[]
                END AS privileges
            FROM pg_class
            WHERE
                relnamespace = to_regnamespace('public') AND relkind = 'r'
                    AND relname = ANY($1::text[] || '{_sqlx_migrations}'::text[])
                OR relnamespace = to_regnamespace('apalis') AND relkind = 'r'
                    AND relname IN ('jobs', 'workers')
                OR relnamespace = to_regnamespace('operator') AND relkind = 'v'
        )
        SELECT
            format('GRANT %s ON %s TO ', string_agg(privilege, ', '), name) AS "grant!",
            bool_or(
                privilege IN ('SELECT', 'INSERT') OR changes AND privilege = 'UPDATE'
            ) AS "needed!"
        FROM tables, unnest(privileges) AS privilege
        WHERE NOT has_table_privilege(oid, privilege)
        GROUP BY name
        UNION ALL
        SELECT format('GRANT EXECUTE ON FUNCTION %s TO ', oid::regprocedure), true
        FROM pg_proc
        WHERE NOT has_function_privilege(oid, 'EXECUTE') AND (
            pronamespace = to_regnamespace('public') AND proname LIKE 'quartet\_%'
            OR pronamespace = to_regnamespace('operator')
        )
        UNION ALL
        SELECT format('GRANT USAGE ON SCHEMA %I TO ', nspname), true
        FROM pg_namespace
        WHERE nspname IN ('public', 'apalis', 'operator')
            AND NOT has_schema_privilege(oid, 'USAGE')
        ORDER BY 1
        "#,
        &migration_files::tables(),
    )
    .fetch_all(conn)
    .await?;
    let (needed, advised): (Vec<_>, Vec<_>) = missing.into_iter().partition(|row| row.needed);
    if needed.len() > MANY {
        let grants = ALL_GRANTS.map(|grant| format!("{grant} TO {role}"));
        return Ok((grants.into(), Vec::new()));
    }
    let needed = needed.into_iter().map(|row| row.grant + role).collect();
    let advised = advised.into_iter().map(|row| row.grant + role).collect();
    Ok((needed, advised))
}

/// `hstore`, which job rows need, and `pgcrypto`, which apalis's old migrations need.
async fn extensions(
    conn: &mut PgConnection,
    facts: &Facts,
    creates: bool,
) -> Result<Finding, StoreError> {
    let extensions = sqlx::query!(
        r#"
        SELECT
            wanted.name AS "name!",
            extnamespace IS NOT NULL AS "is_installed!",
            quote_ident(nspname) AS schema,
            COALESCE(has_schema_privilege(extnamespace, 'USAGE'), true) AS "may_use!",
            EXISTS (
                SELECT FROM pg_available_extensions WHERE name = wanted.name
            ) AS "is_available!",
            (
                SELECT rolsuper FROM pg_roles WHERE rolname = current_user
            ) OR has_database_privilege(current_database(), 'CREATE') AND EXISTS (
                SELECT FROM pg_available_extension_versions
                WHERE name = wanted.name AND trusted
            ) AS "may_create!"
        FROM unnest('{hstore,pgcrypto}'::text[]) AS wanted (name)
        LEFT JOIN pg_extension ON pg_extension.extname = wanted.name
        LEFT JOIN pg_namespace ON pg_namespace.oid = pg_extension.extnamespace
        WHERE $1::bool OR wanted.name = 'hstore'
        ORDER BY 1
        "#,
        creates,
    )
    .fetch_all(conn)
    .await?;
    let mut found = Vec::new();
    for extension in extensions {
        let name = &extension.name;
        match &extension.schema {
            Some(schema) if !extension.may_use => {
                return Ok(Finding::error(
                    EXTENSIONS,
                    format!(
                        "the extension {name} is in the schema {schema}, which {} may not use",
                        facts.role
                    ),
                    format!("GRANT USAGE ON SCHEMA {schema} TO {}", facts.role),
                ));
            }
            Some(schema) => found.push(format!("{name} is in the schema {schema}")),
            None if !extension.is_available => {
                return Ok(Finding::error(
                    EXTENSIONS,
                    format!("the server does not have the extension {name}"),
                    "install PostgreSQL's contrib modules (Debian and Ubuntu have them with the \
                     server; elsewhere the package postgresql-contrib)",
                ));
            }
            None if creates && extension.may_create => {
                found.push(format!("{name} will be created"));
            }
            None if extension.may_create => {
                return Ok(Finding::error(
                    EXTENSIONS,
                    format!("the extension {name} is missing in the database {}", facts.database),
                    "run `quartet migrate`, which creates it".to_owned(),
                ));
            }
            None => {
                return Ok(Finding::error(
                    EXTENSIONS,
                    format!("the extension {name} is missing in the database {}", facts.database),
                    format!(
                        "CREATE EXTENSION {name}, by a superuser; or GRANT CREATE ON DATABASE {} \
                         TO the role that runs `quartet migrate`",
                        facts.database
                    ),
                ));
            }
        }
    }
    Ok(Finding::ok(EXTENSIONS, found.join(", ")))
}
