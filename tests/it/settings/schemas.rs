//! One set of tables, whatever the `search_path` says.

use quartet::store::{
    self, Target,
    postgres::requirements::{self, Finding, Level, Purpose},
};

use super::{BOUND, Scratch, migrate, refusals::start_refused, spawn_on};

/// What the checks say to a role that serves.
pub(super) async fn findings(url: &str) -> Vec<Finding> {
    let target = Target::new(url, false).unwrap();
    let database = store::connect(&target, 1, BOUND, &Default::default());
    let findings = requirements::check_database(&database, Purpose::Serve).await.unwrap();
    database.close().await;
    findings
}

/// The one finding of this check that is not good.
pub(super) async fn finding(url: &str, check: &str) -> Finding {
    let mut findings = findings(url).await;
    findings.retain(|finding| finding.check == check && finding.level != Level::Ok);
    assert_eq!(findings.len(), 1, "{check}: {findings:?}");
    findings.remove(0)
}

/// A schema that is named like the role, and one that the role's `search_path` names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tables_are_in_public_whatever_comes_first_in_the_search_path() {
    let mut scratch = Scratch::empty().await;
    let role = scratch.role.clone();
    scratch
        .admin
        .run(format!(
            "CREATE SCHEMA {role} AUTHORIZATION {role}; CREATE SCHEMA app AUTHORIZATION {role}"
        ))
        .await;
    let schemas = "SELECT DISTINCT schemaname::text FROM pg_tables
        WHERE tablename IN ('transactions', '_sqlx_migrations', 'clients') ORDER BY 1";
    migrate(&scratch.url, &[]).await.expect();
    assert_eq!(scratch.admin.texts(schemas).await, ["apalis", "public"]);

    scratch.admin.run(format!("ALTER ROLE {role} SET search_path TO app")).await;
    migrate(&scratch.url, &[]).await.expect();
    assert_eq!(scratch.admin.texts(schemas).await, ["apalis", "public"]);
    let app = spawn_on(&scratch.url).await;
    let id = app.client().accept().await;
    app.wait_told(id, BOUND).await;
    let rows = "SELECT id::text FROM public.transactions";
    assert_eq!(scratch.admin.texts(rows).await, [id.to_string()]);
    drop(app);
    scratch.drop().await;
}

/// What a release that followed the `search_path` has left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_in_another_schema_are_named_with_the_statements_that_move_them() {
    let mut scratch = Scratch::migrated().await;
    scratch
        .admin
        .run(
            "CREATE SCHEMA \"Old one\";
             DO $$
             DECLARE item record;
             BEGIN
                 FOR item IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
                     EXECUTE format('ALTER TABLE public.%I SET SCHEMA \"Old one\"', item.tablename);
                 END LOOP;
                 ALTER FUNCTION public.quartet_uuid(text) SET SCHEMA \"Old one\";
                 ALTER FUNCTION public.quartet_wake() SET SCHEMA \"Old one\";
             END
             $$",
        )
        .await;
    let said = start_refused(&scratch.url).await;
    assert!(said.contains("Quartet's tables are in the schema \"Old one\""), "{said}");
    let said = migrate(scratch.database.url(), &[]).await;
    assert!(said.expect_failure().contains("\"Old one\""), "{said:?}");

    let finding = finding(&scratch.url, "schema").await;
    assert_eq!(finding.level, Level::Error);
    scratch.admin.run(finding.remedy.unwrap()).await;
    migrate(scratch.database.url(), &[]).await.expect();
    let app = spawn_on(&scratch.url).await;
    let id = app.client().accept().await;
    app.wait_told(id, BOUND).await;
    drop(app);
    scratch.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_set_of_tables_is_refused_while_it_holds_what_was_accepted() {
    let mut scratch = Scratch::migrated().await;
    let role = scratch.role.clone();
    scratch
        .admin
        .run(format!(
            "CREATE SCHEMA {role};
             CREATE TABLE {role}._sqlx_migrations (LIKE public._sqlx_migrations);
             CREATE TABLE {role}.transactions (LIKE public.transactions INCLUDING ALL);
             GRANT USAGE ON SCHEMA {role} TO {role};
             GRANT SELECT ON ALL TABLES IN SCHEMA {role} TO {role};"
        ))
        .await;
    // Nothing is in it: it is in nobody's way.
    let unused = finding(&scratch.url, "schema").await;
    assert_eq!(unused.level, Level::Warning);
    drop(spawn_on(&scratch.url).await);

    scratch
        .admin
        .run(format!(
            "INSERT INTO {role}.transactions (id, client_id, content_hash)
             VALUES (gen_random_uuid(), gen_random_uuid(), sha256('x'))"
        ))
        .await;
    let said = start_refused(&scratch.url).await;
    assert!(said.contains("a second set of tables in the schema"), "{said}");
    assert!(said.contains("(1 of its first 1000)"), "{said}");
    scratch.admin.run(unused.remedy.unwrap()).await;
    drop(spawn_on(&scratch.url).await);
    scratch.drop().await;
}
