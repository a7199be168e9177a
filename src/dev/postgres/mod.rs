//! An embedded PostgreSQL for `quartet demo`, `quartet dev` and the tests.
//!
//! Uses the machine's own binaries (see [`Search`]) and downloads some when there are none.
//! Each server has its own directory, port and password and listens on 127.0.0.1 only. As root
//! it runs as `postgres` or `nobody`, since PostgreSQL refuses root.
//!
//! A thread per server, the keeper, forks `initdb` and `postgres` and carries out orders one at
//! a time. It lives as long as the [`EmbeddedPostgres`]: Linux sends `PR_SET_PDEATHSIG` when the
//! *thread* that forked dies, and test threads die early.
//!
//! Guarantees: `fsync` and `synchronous_commit` stay on, so that a [`crash`] loses nothing that
//! was committed. Nothing is left running after [`stop`], a drop or, on Linux, `kill -9` of this
//! process. A killed process leaves its temporary directory behind, which the next start
//! removes. Elsewhere than on Linux a killed process leaves the server too: one in a temporary
//! directory stops by itself within a minute of that directory's removal.
//!
//! [`crash`]: EmbeddedPostgres::crash
//! [`stop`]: EmbeddedPostgres::stop

mod account;
mod directory;
mod download;
mod password;
mod process;
mod search;
mod server;

use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

pub use account::Account;
pub use search::{Candidate, Installation, Search, Skipped};

use directory::DirectoryError;
use server::{Halt, Server};

/// How to start an [`EmbeddedPostgres`].
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where the data is kept from one start to the next; created if absent, and used by one
    /// process at a time. Default: a temporary directory, removed at the end.
    pub data_dir: Option<PathBuf>,
    /// Server settings, as in `postgres -c name=value`; they override the built-in ones.
    pub settings: Vec<(String, String)>,
}

/// Why an embedded PostgreSQL could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable binaries here, and none could be downloaded. The text names the download's
    /// cause because it is one of several things tried, not *the* cause.
    #[error("{}", search::not_found_text(.searched, .download))]
    NotFound { searched: Vec<Skipped>, download: String },
    #[error("PG_BIN_DIR={} cannot be used: {}", .0.dir.display(), .0.reason)]
    BinDir(Skipped),
    #[error(
        "PostgreSQL refuses to run as root, and there is neither a user `postgres` nor `nobody` to run it as"
    )]
    NoAccount,
    #[error("could not look up the user to run PostgreSQL as")]
    Account(#[source] nix::Error),
    #[error(
        "the data directory {} is in use by another process; stop it, or choose another directory", .0.display()
    )]
    DirectoryInUse(PathBuf),
    #[error(
        "the user `{account}`, which PostgreSQL runs as because this process is root, cannot enter {}; choose a data directory outside root's home", .path.display()
    )]
    DirectoryClosed { path: PathBuf, account: String },
    #[error("could not prepare the data directory {}", .path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("could not run {}", .program.display())]
    Spawn {
        program: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("initdb failed ({status}):\n{output}")]
    Initdb { status: String, output: String },
    #[error("no free port on 127.0.0.1 after {tries} tries; the last log lines:\n{log}")]
    NoPort { tries: u32, log: String },
    #[error("PostgreSQL ended while starting ({status}); its last log lines:\n{log}")]
    Ended { status: String, log: String },
    #[error("PostgreSQL was not ready after {seconds} s; its last log lines:\n{log}")]
    NotReady { seconds: u64, log: String },
    #[error("could not stop PostgreSQL")]
    Stop(#[source] std::io::Error),
    #[error("could not start the thread that keeps PostgreSQL")]
    Thread(#[source] std::io::Error),
    #[error("the thread that keeps PostgreSQL has ended")]
    KeeperGone,
}

impl From<DirectoryError> for Error {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::InUse(path) => Self::DirectoryInUse(path),
            DirectoryError::Closed { path, account } => Self::DirectoryClosed { path, account },
            DirectoryError::Io { path, source } => Self::Directory { path, source },
        }
    }
}

/// A running PostgreSQL server that ends with this value, or with the process.
pub struct EmbeddedPostgres {
    port: u16,
    password: String,
    keeper: Keeper,
}

impl EmbeddedPostgres {
    /// Finds or downloads binaries, creates the data directory if needed and starts a server.
    /// Returns when it accepts connections.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let account = Account::for_server()?;
        let major = options.data_dir.as_deref().and_then(server::major_version);
        let installation = find_or_download(account.as_ref(), major).await?;
        tracing::debug!(bin_dir = %installation.bin_dir.display(), "starting PostgreSQL");
        let keeper = Keeper::start(Server::new(installation, account, options))?;
        let (port, password) = keeper
            .order(|server| {
                let password = server.prepare()?;
                server.launch().map(|port| (port, password))
            })
            .await??;
        Ok(Self { port, password, keeper })
    }

    /// The connection URL of `database`, which is put in as it is: a plain name. At first there
    /// is only `postgres`. The user is a superuser, the password random.
    pub fn url(&self, database: &str) -> String {
        let Self { port, password, .. } = self;
        format!("postgres://postgres:{password}@127.0.0.1:{port}/{database}")
    }

    /// The TCP port on 127.0.0.1; the same for this value's whole life.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends all sessions, stops the server in good order and removes a temporary directory.
    /// Returns when the server is gone.
    pub async fn stop(self) -> Result<(), Error> {
        self.keeper
            .order(|server| {
                let halted = server.halt(Halt::Fast);
                server.remove_temporary();
                halted
            })
            .await?
    }

    /// Takes the database away as a crash does: no checkpoint, all sessions cut. Returns when
    /// the server is gone; does nothing if it is away already.
    pub async fn crash(&mut self) -> Result<(), Error> {
        self.keeper.order(|server| server.halt(Halt::Immediate)).await?
    }

    /// Brings the database back on the same port and data after a [`crash`](Self::crash).
    /// Returns when it accepts connections; does nothing if it is there.
    pub async fn resume(&mut self) -> Result<(), Error> {
        self.keeper.order(Server::launch).await?.map(drop)
    }

    /// [`crash`](Self::crash) and [`resume`](Self::resume).
    pub async fn restart_immediate(&mut self) -> Result<(), Error> {
        self.crash().await?;
        self.resume().await
    }
}

impl fmt::Debug for EmbeddedPostgres {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("EmbeddedPostgres")
            .field("port", &self.port)
            .field("password", &"[redacted]")
            .finish_non_exhaustive()
    }
}

/// An explicit `PG_BIN_DIR` is binding: to fall back on other binaries would hide a typo.
async fn find_or_download(
    account: Option<&Account>,
    major: Option<u32>,
) -> Result<Installation, Error> {
    let cache = download::cache_dir(account.is_some());
    let search = Search::from_environment(account.cloned(), cache.as_deref());
    let search = Search { major, ..search };
    let searched = match search.find() {
        Ok(installation) => return Ok(installation),
        Err(searched) => searched,
    };
    if search.explicit
        && let Some(skipped) = searched.first()
    {
        return Err(Error::BinDir(skipped.clone()));
    }
    let outcome = match cache {
        Some(cache) => download::download(&cache).await,
        None => Err(download::DownloadError::NoCacheDir),
    };
    outcome
        .and_then(|bin_dir| {
            Search::inspect(&bin_dir, account).map_err(download::DownloadError::Unusable)
        })
        .map_err(|error| Error::NotFound { searched, download: error.to_string() })
}

type Order = Box<dyn FnOnce(&mut Server) + Send>;

/// The thread that owns a [`Server`]; it ends, and the server with it, when this is dropped.
struct Keeper {
    /// `None` only while being dropped.
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    fn start(mut server: Server) -> Result<Self, Error> {
        let (orders, inbox) = mpsc::channel::<Order>();
        let thread = thread::Builder::new()
            .name("postgres-keeper".to_owned())
            .spawn(move || {
                for order in inbox {
                    order(&mut server);
                }
            })
            .map_err(Error::Thread)?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    async fn order<T: Send + 'static>(
        &self,
        order: impl FnOnce(&mut Server) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let order: Order = Box::new(move |server| {
            // The asker may have given up waiting; the order is carried out all the same.
            let _ = answer.send(order(server));
        });
        self.orders.as_ref().and_then(|orders| orders.send(order).ok()).ok_or(Error::KeeperGone)?;
        answered.await.map_err(|_| Error::KeeperGone)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Ends the thread's loop; the server's own drop bounds how long the join takes.
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that kept PostgreSQL panicked");
        }
    }
}
