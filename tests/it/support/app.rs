//! The app in the test's own process: built and run as `main` does.

use std::{net::SocketAddr, ops::Deref, sync::Arc, time::Duration};

use quartet::{
    app::{App, AppError},
    config::{Config, Role},
    jobs::JobDefinition,
    sandbox::SendWebhook,
};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    client::Client,
    ports, wait_until,
    world::{API_KEY, OPERATOR_TOKEN, World, set},
};

const READY: Duration = Duration::from_secs(10);
/// How long a graceful stop may take: the grace of the settings, and some more.
const STOP: Duration = Duration::from_secs(10);

/// An app with everything on a faultless sandbox.
pub async fn spawn_app() -> TestApp {
    World::new().await.app().spawn().await
}

/// The same with the workers off: what is written stays as it is.
pub async fn spawn_api() -> TestApp {
    World::new().await.app().role(Role::Api).spawn().await
}

/// The same, and no poll falls due between two looks at its job.
pub async fn spawn_api_at_rest() -> TestApp {
    let app = World::new().await.app().role(Role::Api);
    app.set("QUARTET_POLL__FIRST", "1h").set("QUARTET_POLL__DEADLINE", "2h").spawn().await
}

type Map = Arc<dyn Fn(JobDefinition) -> JobDefinition + Send + Sync>;

/// How an app is started.
#[derive(Clone)]
pub struct AppBuilder {
    world: World,
    role: Role,
    settings: Vec<(String, String)>,
    map: Option<Map>,
    waits: bool,
}

impl AppBuilder {
    pub fn new(world: World) -> Self {
        let mut settings = world.settings();
        set(&mut settings, "QUARTET_HTTP__LISTEN", ports::free_address());
        Self { world, role: Role::All, settings, map: None, waits: true }
    }

    pub fn role(self, role: Role) -> Self {
        Self { role, ..self }
    }

    /// Overrides a setting by its variable.
    pub fn set(mut self, variable: &str, value: impl ToString) -> Self {
        set(&mut self.settings, variable, value);
        self
    }

    /// Changes how kinds of jobs are run.
    pub fn map_definitions(
        self,
        map: impl Fn(JobDefinition) -> JobDefinition + Send + Sync + 'static,
    ) -> Self {
        Self { map: Some(Arc::new(map)), ..self }
    }

    /// Does not wait until the app is ready.
    pub fn without_waiting(self) -> Self {
        Self { waits: false, ..self }
    }

    /// Builds and runs it, and waits until it is ready.
    pub async fn spawn(self) -> TestApp {
        let running = self.run().await;
        let app =
            TestApp { client: Client::new(running.address), running: Some(running), builder: self };
        if app.builder.waits {
            app.wait_ready().await;
        }
        app
    }

    async fn run(&self) -> Running {
        let config = Config::load(self.settings.iter().cloned(), None).unwrap();
        let mut app = App::build(config, self.role).await.unwrap();
        if let Some(map) = self.map.clone() {
            app = app.map_definitions(move |definition| map(definition));
        }
        let address = app.address();
        let stop = CancellationToken::new();
        let task = tokio::spawn(app.run(stop.clone()));
        Running { address, stop, task }
    }
}

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<(), AppError>>,
}

/// A running app. Dropping it tells it to stop; [`stop`](Self::stop) waits for that.
pub struct TestApp {
    client: Client,
    builder: AppBuilder,
    running: Option<Running>,
}

impl Deref for TestApp {
    type Target = World;

    fn deref(&self) -> &World {
        &self.builder.world
    }
}

impl TestApp {
    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        self.client.base_url()
    }

    /// Calls as the default client.
    pub fn client(&self) -> Client {
        self.client.with_key(API_KEY)
    }

    /// Calls as the operator.
    pub fn operator(&self) -> Client {
        self.client.with_key(OPERATOR_TOKEN)
    }

    /// Calls without a key.
    pub fn anonymous(&self) -> Client {
        self.client.clone()
    }

    /// Another app on the same database and sandbox; webhooks go to this one.
    pub fn sibling(&self) -> AppBuilder {
        self.builder.world.app().set("QUARTET_HTTP__PUBLIC_URL", self.url())
    }

    pub fn webhook_url(&self) -> String {
        format!("{}/v1/webhooks/third-party", self.url())
    }

    /// A webhook of the sandbox's third party to this app; answers status code and body.
    pub async fn send_webhook(&self, webhook: SendWebhook) -> (u16, Value) {
        let webhook = webhook.url(self.webhook_url());
        self.sandbox.third_party().send_webhook(webhook).await.unwrap()
    }

    pub async fn wait_ready(&self) {
        wait_until("the app is ready", READY, async || {
            self.anonymous().get("/health/ready").await.status == 200
        })
        .await;
    }

    /// Stops it gracefully and asserts that it ended well.
    pub async fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.stop.cancel();
        let ended = tokio::time::timeout(STOP, running.task).await;
        ended.expect("the app stops in time").unwrap().expect("the app ends well");
    }

    /// Runs it again after a stop, at the same address with the same settings.
    pub async fn start(&mut self) {
        assert!(self.running.is_none(), "the app runs already");
        self.running = Some(self.builder.run().await);
        if self.builder.waits {
            self.wait_ready().await;
        }
    }

    /// Sends what clients are told from now on to `url`, past the check of where it leads.
    pub async fn set_callback_url(&self, url: &str) {
        let update = "UPDATE clients SET callback_url = $1";
        sqlx::query(update).bind(url).execute(&self.pool).await.unwrap();
    }

    /// Waits until a transaction has a final status that the client has heard.
    pub async fn wait_told(&self, id: Uuid, bound: Duration) -> Value {
        super::wait_for(&format!("the client hears the end of {id}"), bound, async || {
            let answer = self.client().get_transaction(id).await;
            // 503 while the database is away; anything else is no transaction to look at.
            if answer.status != 200 {
                return None;
            }
            let transaction = answer.body;
            let told = transaction["notified_version"] == transaction["version"];
            (transaction["status"] != "pending" && told).then_some(transaction)
        })
        .await
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.stop.cancel();
        }
    }
}
