//! `quartet serve`, the program itself, as a process of its own.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::FileExt,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    database::Database,
    error::{BenchError, Doing},
    http::{self, Connection},
    stubs::Stubs,
    usage,
    wait::wait_until,
};

/// API key of the client that the load generator is.
pub const API_KEY: &str = "qk_bench_client_0123456789abcdef0123456789";
/// Seals the client's signing secret, the same in every process.
pub const MASTER_KEY: &str = "cXVhcnRldF9iZW5jaF9tYXN0ZXJfa2V5XzMyYnl0ZXM=";
const READY: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(40);
/// Most of its output that an error shows.
const OUTPUT: u64 = 4096;

/// Below the ports that systems give to outgoing connections.
const PORTS: std::ops::Range<u16> = 10_000..15_000;
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A running `quartet serve`; killed when dropped.
pub struct Serve {
    child: Child,
    address: SocketAddr,
    output: File,
}

impl Serve {
    /// Starts it with this role and with `settings` over the defaults, and waits until it is ready.
    pub async fn start(
        database: &Database,
        stubs: &Stubs,
        role: &str,
        settings: &[(&str, &str)],
    ) -> Result<Self, BenchError> {
        let address = free_address().doing("find a free port")?;
        let output = tempfile::tempfile().doing("create a file for the output")?;
        let own = [
            ("DATABASE_URL", database.url().to_owned()),
            ("QUARTET_HTTP__LISTEN", address.to_string()),
            ("QUARTET_THIRD_PARTY__BASE_URL", stubs.base_url()),
            ("QUARTET_WEBHOOK__SECRETS", stubs.secret.reveal()),
            ("QUARTET_SECRETS__MASTER_KEY", MASTER_KEY.to_owned()),
            ("QUARTET_DEFAULT_CLIENT__NAME", "bench".to_owned()),
            ("QUARTET_DEFAULT_CLIENT__API_KEY", API_KEY.to_owned()),
            ("QUARTET_DEFAULT_CLIENT__CALLBACK_URL", stubs.callback_url()),
            ("QUARTET_DEFAULT_CLIENT__SIGNING_SECRET", stubs.secret.reveal()),
            ("QUARTET_NOTIFY__ALLOWED_NETWORKS", "127.0.0.0/8".to_owned()),
        ];
        let child = Command::new(env!("CARGO_BIN_EXE_quartet"))
            .args(["serve", "--role", role])
            .env_clear()
            .envs(own)
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().doing("share the output's file")?)
            .stderr(output.try_clone().doing("share the output's file")?)
            .spawn()
            .doing("start `quartet serve`")?;
        let mut serve = Self { child, address, output };
        wait_until("`quartet serve` is ready", READY, async || {
            if let Some(status) = serve.child.try_wait().doing("look after `quartet serve`")? {
                return Err(BenchError::ServeEnded { status, output: serve.output() });
            }
            Ok(serve.is_ready().await)
        })
        .await?;
        stubs.webhooks_to(address);
        Ok(serve)
    }

    async fn is_ready(&self) -> bool {
        let request = http::request("GET /health/ready", "", "");
        match Connection::open(self.address).await {
            Ok(mut connection) => {
                connection.send(&request).await.is_ok_and(|answer| answer.status == 200)
            }
            Err(_) => false,
        }
    }

    /// Where its API is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// CPU seconds since it began.
    pub fn cpu(&self) -> Result<f64, BenchError> {
        usage::of_process(self.child.id())
    }

    /// Begins anew to look for the most memory it has.
    pub fn reset_peak_memory(&self) -> Result<(), BenchError> {
        usage::reset_peak_memory(self.child.id())
    }

    /// The most resident memory since then, in MB.
    pub fn peak_memory_mb(&self) -> Result<f64, BenchError> {
        usage::peak_memory_mb(self.child.id())
    }

    /// Asks it to end, and waits for that; an end that was not good is an error.
    pub async fn stop(mut self) -> Result<(), BenchError> {
        let pid = i32::try_from(self.child.id()).map_err(io::Error::other);
        let pid = Pid::from_raw(pid.doing("name the process")?);
        kill(pid, Signal::SIGTERM).map_err(io::Error::from).doing("stop `quartet serve`")?;
        let mut ended = None;
        wait_until("`quartet serve` ends", STOP, async || {
            ended = self.child.try_wait().doing("look after `quartet serve`")?;
            Ok(ended.is_some())
        })
        .await?;
        match ended {
            Some(status) if !status.success() => {
                Err(BenchError::ServeEnded { status, output: self.output() })
            }
            _ => Ok(()),
        }
    }

    /// The end of what it wrote.
    fn output(&self) -> String {
        let length = self.output.metadata().map(|file| file.len()).unwrap_or_default();
        let mut text = vec![0; usize::try_from(length.min(OUTPUT)).unwrap_or_default()];
        // At an offset: the position is shared with the writing process.
        let read =
            self.output.read_at(&mut text, length.saturating_sub(OUTPUT)).unwrap_or_default();
        String::from_utf8_lossy(&text[..read]).into_owned()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> io::Result<SocketAddr> {
    for _ in PORTS {
        let port = PORTS.start + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % 5_000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}
