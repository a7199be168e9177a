//! What is promised does not depend on how the database, the role or the environment are set.

mod copied;
mod default_client;
mod environment;
mod migrate;
mod refusals;
mod restore;
mod schemas;
mod sessions;
mod weak_tokens;

use std::time::Duration;

use quartet::{
    config::Role,
    sandbox::{Profile, SandboxConfig},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use url::Url;
use uuid::Uuid;

use crate::support::{
    Client, TestApp, World,
    command::{self, Ended},
    postgres::TestDatabase,
    process::ProcessBuilder,
    transaction, wait_until,
    world::set,
};

const BOUND: Duration = Duration::from_secs(60);

/// A superuser's connection to a database.
struct Admin(PgConnection);

impl Admin {
    async fn of(url: &str) -> Self {
        Self(PgConnection::connect(url).await.unwrap())
    }

    async fn run(&mut self, statements: impl AsRef<str>) {
        let statements = statements.as_ref();
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))
            .execute(&mut self.0)
            .await
            .unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    async fn texts(&mut self, query: &str) -> Vec<String> {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_all(&mut self.0).await.unwrap()
    }
}

/// A database of a test's own and a role of its own, which are removed by [`Scratch::drop`].
struct Scratch {
    database: TestDatabase,
    admin: Admin,
    /// The role's name.
    role: String,
    /// The database as this role sees it.
    url: String,
}

impl Scratch {
    /// With Quartet's tables; the role has the rights that `quartet serve` needs.
    async fn migrated() -> Self {
        let mut scratch = Self::with_role().await;
        let role = &scratch.role;
        scratch
            .admin
            .run(format!(
                "GRANT USAGE ON SCHEMA public, apalis, operator TO {role};
                 GRANT SELECT ON ALL TABLES IN SCHEMA operator TO {role};
                 GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public, apalis
                    TO {role};"
            ))
            .await;
        scratch
    }

    /// Without anything; the role owns the database.
    async fn empty() -> Self {
        let mut scratch = Self::with_role().await;
        let owner = format!(
            "DROP SCHEMA operator CASCADE; DROP SCHEMA apalis CASCADE; DROP SCHEMA public CASCADE;
             CREATE SCHEMA public AUTHORIZATION {role};
             ALTER DATABASE {database} OWNER TO {role}",
            role = scratch.role,
            database = name_of(&scratch.url),
        );
        scratch.admin.run(owner).await;
        scratch
    }

    async fn with_role() -> Self {
        let database = TestDatabase::create().await;
        let mut admin = Admin::of(database.url()).await;
        let role = format!("{}_relay", name_of(database.url()));
        admin.run(format!("CREATE ROLE {role} LOGIN PASSWORD 'relay'")).await;
        let url = url_as(database.url(), &role, "relay");
        Self { database, admin, role, url }
    }

    /// Removes the role, which belongs to the whole server, once its sessions are gone with what
    /// they had.
    async fn drop(mut self) {
        let (role, name) = (&self.role, name_of(&self.url));
        let end = format!(
            "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE usename = '{role}'"
        );
        wait_until("the role has no session", BOUND, async || {
            self.admin.texts(&end).await.is_empty()
        })
        .await;
        let own = format!(
            "ALTER DATABASE {name} OWNER TO CURRENT_USER; REASSIGN OWNED BY {role} TO CURRENT_USER;
             DROP OWNED BY {role}; DROP ROLE {role}"
        );
        self.admin.run(own).await;
        drop(self.database);
    }
}

fn name_of(url: &str) -> String {
    let url: Url = url.parse().unwrap();
    url.path().trim_start_matches('/').to_owned()
}

fn url_as(url: &str, role: &str, password: &str) -> String {
    let mut url: Url = url.parse().unwrap();
    url.set_username(role).unwrap();
    url.set_password(Some(password)).unwrap();
    url.into()
}

fn faultless() -> SandboxConfig {
    SandboxConfig { profile: Profile::faultless(), ..SandboxConfig::default() }
}

/// An app on this database.
async fn spawn_on(url: &str) -> TestApp {
    World::on_database(url, faultless()).await.app().spawn().await
}

/// Posts until it is accepted: a busy machine may refuse for a moment.
async fn accept(client: &Client) -> Uuid {
    let id = Uuid::now_v7();
    post(client, id).await;
    id
}

async fn post(client: &Client, id: Uuid) {
    wait_until("the post is accepted", BOUND, async || {
        let answer = client.post_transaction(&transaction(id)).await;
        assert!(matches!(answer.status, 200 | 202 | 503), "{}", answer.text);
        answer.status != 503
    })
    .await;
}

/// A process in this world whose leases a busy machine does not lose.
fn patient(world: &World, role: Role) -> ProcessBuilder {
    let process = world.process(role);
    process.set("QUARTET_WORKER__HEARTBEAT", "1s").set("QUARTET_WORKER__DEAD_AFTER", "5s")
}

/// `quartet migrate` as a process, with further arguments.
async fn migrate(url: &str, more: &[&str]) -> Ended {
    let mut settings = Vec::new();
    set(&mut settings, "DATABASE_URL", url);
    command::run(&[&["migrate"], more].concat(), &settings, "").await
}
