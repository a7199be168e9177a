//! `quartet serve` as a process of its own, to be killed.

use std::{
    fs::File,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use quartet::config::Role;

use super::{
    client::Client,
    ports, wait_for, wait_until,
    world::{API_KEY, OPERATOR_TOKEN, World, set},
};

const READY: Duration = Duration::from_secs(20);

/// How a process is started.
#[derive(Clone)]
pub struct ProcessBuilder {
    role: Role,
    settings: Vec<(String, String)>,
    output: Option<Arc<File>>,
}

impl ProcessBuilder {
    pub fn new(world: World, role: Role) -> Self {
        let mut settings = world.settings();
        set(&mut settings, "QUARTET_HTTP__LISTEN", ports::free_address());
        Self { role, settings, output: None }
    }

    /// Overrides a setting by its variable.
    pub fn set(mut self, variable: &str, value: impl ToString) -> Self {
        set(&mut self.settings, variable, value);
        self
    }

    /// Keeps what it writes in this file, opened to append; by default in one that nobody finds.
    #[allow(dead_code)] // The tests look through `Process::output`; `tests/chaos` keeps it.
    pub fn output(self, file: File) -> Self {
        Self { output: Some(Arc::new(file)), ..self }
    }

    /// Starts it; does not wait.
    pub fn launch(self) -> Process {
        Process::launch(self)
    }

    /// Starts it and waits until it is ready.
    pub async fn spawn(self) -> Process {
        let mut process = self.launch();
        process.wait_ready().await;
        process
    }
}

/// A running `quartet serve`; killed when dropped.
pub struct Process {
    builder: ProcessBuilder,
    child: Child,
    client: Client,
    /// What it wrote to stdout and stderr.
    output: Arc<File>,
}

impl Process {
    /// Starts it; does not wait.
    fn launch(builder: ProcessBuilder) -> Self {
        let kept = builder.output.clone();
        let output = kept.unwrap_or_else(|| Arc::new(tempfile::tempfile().unwrap()));
        let role = match builder.role {
            Role::All => "all",
            Role::Api => "api",
            Role::Worker => "worker",
        };
        let child = Command::new(env!("CARGO_BIN_EXE_quartet"))
            .args(["serve", "--role", role])
            .env_clear()
            .envs(builder.settings.iter().map(|(variable, value)| (variable, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output.try_clone().unwrap())
            .spawn()
            .unwrap();
        let listen = builder.settings.iter().find(|(name, _)| name == "QUARTET_HTTP__LISTEN");
        let client = Client::new(listen.unwrap().1.parse().unwrap());
        Self { builder, child, client, output }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

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

    /// CPU time that it has used.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        // After the name, which may hold spaces; utime and stime are fields 14 and 15.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    pub async fn wait_ready(&mut self) {
        wait_until("the process is ready", READY, async || {
            if let Some(status) = self.ended() {
                panic!("the process ended ({status}):\n{}", self.output());
            }
            self.is_ready().await
        })
        .await;
    }

    pub async fn is_ready(&self) -> bool {
        let answer = self.client.try_send(reqwest::Method::GET, "/health/ready", &[], "").await;
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// How it ended, where it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// `kill -9`; returns when it is gone.
    pub fn kill_9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it ends by itself; returns how.
    pub async fn wait_ended(&mut self, bound: Duration) -> ExitStatus {
        wait_for("the process ends", bound, async || self.ended()).await
    }

    /// Sends a signal: SIGSTOP and SIGCONT freeze and thaw it.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id().try_into().unwrap()), signal).unwrap();
    }

    /// SIGTERM; returns how it ended, within `bound`.
    pub async fn terminate(&mut self, bound: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_ended(bound).await
    }

    /// Starts it again with the same settings and waits until it is ready.
    pub async fn restart(mut self) -> Self {
        self.relaunch();
        self.wait_ready().await;
        self
    }

    /// Starts it again with the same settings; does not wait.
    pub fn relaunch(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        *self = self.builder.clone().launch();
    }

    /// The same, with more in its environment until the next start.
    #[allow(dead_code)] // For `tests/chaos`.
    pub fn relaunch_with(&mut self, environment: &[(&str, String)]) {
        let own = self.builder.clone();
        for (variable, value) in environment {
            set(&mut self.builder.settings, variable, value);
        }
        self.relaunch();
        self.builder = own;
    }

    /// What it wrote so far.
    pub fn output(&self) -> String {
        use std::os::unix::fs::FileExt;
        let mut text = vec![0; self.output.metadata().unwrap().len() as usize];
        // At an offset: the position is shared with the writing process.
        let read = self.output.read_at(&mut text, 0).unwrap();
        text.truncate(read);
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("output of quartet serve:\n{}", self.output());
        }
    }
}
