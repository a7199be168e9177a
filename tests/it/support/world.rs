//! What surrounds the app in a test: its database, the simulated peers, its settings.

use std::{sync::Arc, time::Duration};

use quartet::{
    config::Role,
    sandbox::{Profile, Sandbox, SandboxConfig},
    secrets::MasterKeys,
};
use sqlx::PgPool;

use super::{
    app::AppBuilder,
    invariants::{self, Expected},
    postgres::TestDatabase,
    process::ProcessBuilder,
};
use uuid::Uuid;

/// API key of the default client.
pub const API_KEY: &str = "qk_test_client_0123";
/// Token of the operator API.
pub const OPERATOR_TOKEN: &str = "test_operator_0123";
/// What seals signing secrets: `quartet_test_master_key_32_bytes`.
pub const MASTER_KEY: &str = "cXVhcnRldF90ZXN0X21hc3Rlcl9rZXlfMzJfYnl0ZXM=";

/// Durations that suit a test; each can be overridden.
const FAST: [(&str, &str); 16] = [
    // However slowly the machine writes, posts are not refused for it.
    ("QUARTET_HTTP__MAX_QUEUE_DELAY", "1s"),
    ("QUARTET_DATABASE__MAX_CONNECTIONS", "15"),
    ("QUARTET_THIRD_PARTY__TIMEOUT", "1s"),
    ("QUARTET_THIRD_PARTY__LOOKUP_TIMEOUT", "500ms"),
    ("QUARTET_THIRD_PARTY__CREATE_BACKOFF", "300ms"),
    // Tests of other things make the third party fail as they like.
    ("QUARTET_CIRCUIT__MIN_CALLS", "1000000000"),
    ("QUARTET_POLL__MAX_DELAY", "500ms"),
    ("QUARTET_POLL__DEADLINE", "10s"),
    ("QUARTET_NOTIFY__BASE", "50ms"),
    ("QUARTET_NOTIFY__MAX_DELAY", "1s"),
    ("QUARTET_NOTIFY__TIMEOUT", "1s"),
    // The simulated client is on this machine.
    ("QUARTET_NOTIFY__ALLOWED_NETWORKS", "127.0.0.0/8"),
    ("QUARTET_WORKER__CONCURRENCY", "100"),
    ("QUARTET_WORKER__HEARTBEAT", "200ms"),
    ("QUARTET_WORKER__DEAD_AFTER", "600ms"),
    ("QUARTET_WORKER__SHUTDOWN_GRACE", "2s"),
];

/// Shared by everything that runs in one test.
#[derive(Clone)]
pub struct World {
    pub sandbox: Arc<Sandbox>,
    pub pool: PgPool,
    database_url: String,
    /// Dropped with the last clone; `None` on a server of the test's own.
    _database: Option<Arc<TestDatabase>>,
}

impl World {
    /// A new database and a sandbox without faults.
    pub async fn new() -> Self {
        let profile = Profile::faultless();
        Self::with_sandbox(SandboxConfig { profile, ..SandboxConfig::default() }).await
    }

    /// A new database and this sandbox.
    pub async fn with_sandbox(config: SandboxConfig) -> Self {
        let database = TestDatabase::create().await;
        let sandbox = Sandbox::start(config).await.unwrap();
        Self {
            sandbox: Arc::new(sandbox),
            pool: database.pool(),
            database_url: database.url().to_owned(),
            _database: Some(Arc::new(database)),
        }
    }

    /// This migrated database, which the caller keeps, and this sandbox.
    pub async fn on_database(url: &str, config: SandboxConfig) -> Self {
        let sandbox = Sandbox::start(config).await.unwrap();
        Self {
            sandbox: Arc::new(sandbox),
            pool: super::postgres::pool(url),
            database_url: url.to_owned(),
            _database: None,
        }
    }

    /// The same peers with another database, which the caller keeps.
    pub fn moved_to(&self, url: &str) -> Self {
        Self {
            sandbox: self.sandbox.clone(),
            pool: super::postgres::pool(url),
            database_url: url.to_owned(),
            _database: None,
        }
    }

    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// An app in this world.
    pub fn app(&self) -> AppBuilder {
        AppBuilder::new(self.clone())
    }

    /// `quartet serve` as a process in this world.
    pub fn process(&self, role: Role) -> ProcessBuilder {
        ProcessBuilder::new(self.clone(), role)
    }

    /// Waits until no job runs or waits any more.
    pub async fn wait_at_rest(&self, bound: Duration) {
        super::wait_until("no job runs or waits", bound, async || {
            let busy =
                "SELECT count(*) FROM apalis.jobs WHERE status IN ('Pending', 'Queued', 'Running')";
            sqlx::query_scalar::<_, i64>(busy).fetch_one(&self.pool).await.unwrap() == 0
        })
        .await;
    }

    /// Asserts DESIGN section 5 on the database at rest; `accepted` are the ids answered 2xx.
    pub async fn assert_invariants(&self, accepted: &[Uuid]) {
        invariants::assert_held(&self.pool, &self.sandbox, &Expected::new(accepted)).await;
    }

    /// The settings of everything that runs in this world.
    pub fn settings(&self) -> Vec<(String, String)> {
        let config = self.sandbox.config();
        let own = [
            ("DATABASE_URL", self.database_url.clone()),
            ("QUARTET_OPERATOR_TOKEN", OPERATOR_TOKEN.to_owned()),
            ("QUARTET_SECRETS__MASTER_KEY", MASTER_KEY.to_owned()),
            ("QUARTET_THIRD_PARTY__BASE_URL", self.sandbox.base_url()),
            ("QUARTET_WEBHOOK__SECRETS", config.webhook_secret.reveal()),
            ("QUARTET_DEFAULT_CLIENT__NAME", "default".to_owned()),
            ("QUARTET_DEFAULT_CLIENT__API_KEY", API_KEY.to_owned()),
            ("QUARTET_DEFAULT_CLIENT__CALLBACK_URL", self.sandbox.callback_url()),
            ("QUARTET_DEFAULT_CLIENT__SIGNING_SECRET", config.client_secret.reveal()),
        ];
        let fast = FAST.map(|(variable, value)| (variable, value.to_owned()));
        let settings = own.into_iter().chain(fast);
        settings.map(|(variable, value)| (variable.to_owned(), value)).collect()
    }
}

/// Sets `variable`, in place of an earlier value.
pub fn set(settings: &mut Vec<(String, String)>, variable: &str, value: impl ToString) {
    settings.retain(|(name, _)| name != variable);
    settings.push((variable.to_owned(), value.to_string()));
}

/// From now on each batch of posts takes this long, at least.
pub async fn slow_accepts(pool: &PgPool, by: Duration) {
    let function = format!(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_sleep({}); RETURN NULL; END $$",
        by.as_secs_f64()
    );
    let trigger = "CREATE TRIGGER slow BEFORE INSERT ON transactions
         FOR EACH STATEMENT EXECUTE FUNCTION slow()";
    sqlx::query(sqlx::AssertSqlSafe(function)).execute(pool).await.unwrap();
    sqlx::query(trigger).execute(pool).await.unwrap();
}

/// Registers another client, with the secret and URL of the default one; returns its API key.
pub async fn add_client(pool: &PgPool, name: &str) -> String {
    let key = format!("qk_test_{name}");
    let keys: MasterKeys = MASTER_KEY.parse().unwrap();
    let default = "SELECT signing_secret FROM clients WHERE name = 'default'";
    let default: String = sqlx::query_scalar(default).fetch_one(pool).await.unwrap();
    let sealed = keys.seal(name, &keys.open("default", &default).unwrap());
    let insert = "INSERT INTO clients (name, api_key_hash, callback_url, signing_secret)
        SELECT $1, sha256(convert_to($2, 'UTF8')), callback_url, $3
        FROM clients WHERE name = 'default'";
    sqlx::query(insert).bind(name).bind(&key).bind(sealed).execute(pool).await.unwrap();
    key
}
