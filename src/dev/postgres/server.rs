//! One PostgreSQL server: its data directory, its process, its port. Blocking; driven by the
//! keeper thread, which is the parent of each process started here.
//!
//! `initdb` works in `data.new`, renamed when complete, so that a killed start leaves no half
//! database. The server is ready when `postmaster.pid` says so in line 8; that line belongs to
//! our process only if line 1 is its id. On Linux the processes get a signal when their parent
//! thread dies, and the postmaster takes its children along.
//!
//! Dropping a [`Server`] halts it immediately and then removes a temporary directory.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Seek, SeekFrom, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::{
        fs::{OpenOptionsExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    Account, Error, Installation, Options,
    directory::Directory,
    password,
    process::{end_with_parent, last_lines, send_signal, wait_for_exit},
};

const READY_TIMEOUT: Duration = Duration::from_secs(30);
const READY_POLL: Duration = Duration::from_millis(10);
/// A fast halt writes a checkpoint; an immediate one gives the children 5 s before it kills them.
const FAST_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
const IMMEDIATE_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a predecessor may take to die, or another socket to free our port at a resume.
const SUCCESSION_TIMEOUT: Duration = Duration::from_secs(10);
const PORT_TRIES: u32 = 20;

/// Below the ports that systems give to outgoing connections (Linux: from 32768). A client that
/// reconnects while the database is away could otherwise be given the database's own port,
/// connect to itself, and keep the server from coming back.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// Fit for a small machine; `fsync` and `synchronous_commit` keep their default, on.
const SETTINGS: [(&str, &str); 6] = [
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    ("max_connections", "200"),
    ("shared_buffers", "128MB"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
];

/// How a server is ended.
#[derive(Clone, Copy, Debug)]
pub enum Halt {
    /// Sessions are ended and everything is written out.
    Fast,
    /// Like a crash: nothing is written, and the next start recovers from the log.
    Immediate,
}

/// What a launch of the process led to, other than a ready server.
enum LaunchError {
    /// Another socket has the port.
    PortTaken {
        log: String,
    },
    Other(Error),
}

/// The version that made the database in this directory; `None` where there is none yet.
pub fn major_version(directory: &Path) -> Option<u32> {
    let text = fs::read_to_string(directory.join("data/PG_VERSION")).ok()?;
    text.trim().split('.').next()?.parse().ok()
}

pub struct Server {
    installation: Installation,
    account: Option<Account>,
    options: Options,
    directory: Option<Directory>,
    /// Chosen at the first launch and kept from then on.
    port: Option<u16>,
    process: Option<Child>,
}

impl Server {
    pub fn new(installation: Installation, account: Option<Account>, options: Options) -> Self {
        Self { installation, account, options, directory: None, port: None, process: None }
    }

    /// Takes the directory and creates the database in it unless it has one. Returns the
    /// superuser's password.
    pub fn prepare(&mut self) -> Result<String, Error> {
        let account = self.account.as_ref();
        let directory = match &self.options.data_dir {
            Some(path) => Directory::named(path, account)?,
            None => Directory::temporary(account)?,
        };
        let temporary = directory.is_temporary();
        self.directory = Some(directory);
        if !self.path("data").exists() {
            self.init_database(temporary)?;
        }
        fs::read_to_string(self.path("password")).map_err(|error| self.directory_error(error))
    }

    /// Starts the process unless it runs, and waits until it is ready. Returns the port.
    pub fn launch(&mut self) -> Result<u16, Error> {
        if let (Some(port), Some(process)) = (self.port, self.process.as_mut())
            && process.try_wait().map_err(Error::Stop)?.is_none()
        {
            return Ok(port);
        }
        self.await_predecessor();
        match self.port {
            Some(port) => self.launch_again(port),
            None => self.launch_first(),
        }
    }

    /// Ends the process, by force if need be, and waits until it is gone.
    pub fn halt(&mut self, halt: Halt) -> Result<(), Error> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        let steps = [
            (Signal::SIGINT, FAST_SHUTDOWN_TIMEOUT),
            (Signal::SIGQUIT, IMMEDIATE_SHUTDOWN_TIMEOUT),
            (Signal::SIGKILL, IMMEDIATE_SHUTDOWN_TIMEOUT),
        ];
        let first = match halt {
            Halt::Fast => 0,
            Halt::Immediate => 1,
        };
        for (signal, patience) in &steps[first..] {
            send_signal(&process, *signal);
            if wait_for_exit(&mut process, *patience).map_err(Error::Stop)?.is_some() {
                return Ok(());
            }
            tracing::warn!(%signal, ?patience, "PostgreSQL did not end");
        }
        Err(Error::Stop(io::ErrorKind::TimedOut.into()))
    }

    /// Gives a temporary directory up, now rather than when the server is dropped.
    pub fn remove_temporary(&mut self) {
        self.directory = None;
    }

    /// A path in the server's directory.
    fn path(&self, name: &str) -> PathBuf {
        // Without a directory there is nothing to launch: `prepare` comes first.
        let directory = self.directory.as_ref().map(Directory::path);
        directory.unwrap_or("/nonexistent".as_ref()).join(name)
    }

    fn directory_error(&self, source: io::Error) -> Error {
        Error::Directory { path: self.path(""), source }
    }

    fn init_database(&self, temporary: bool) -> Result<(), Error> {
        let (new, verifier_file) = (self.path("data.new"), self.path("verifier"));
        match fs::remove_dir_all(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.directory_error(error));
            }
            _ => {}
        }
        let password = password::generate();
        password::verifier(&password)
            .map_err(io::Error::other)
            .and_then(|verifier| {
                self.write_private_file("password", &password)?;
                self.write_private_file("verifier", &verifier)?;
                self.give_to_account("verifier")?;
                self.create_private_dir("data.new")
            })
            .map_err(|error| self.directory_error(error))?;

        // SIGKILL, because initdb goes on after a SIGQUIT; its own children end with its pipe.
        let mut initdb = self.command("initdb", Signal::SIGKILL);
        initdb
            .args(["-U", "postgres", "-E", "UTF8", "--locale=C"])
            .arg("--auth=scram-sha-256")
            .arg("--pwfile")
            .arg(&verifier_file)
            .arg("-D")
            .arg(&new);
        if temporary {
            // A temporary database need not survive the machine's own crash.
            initdb.arg("--no-sync");
        }
        let output = initdb.output().map_err(|source| Error::Spawn {
            program: self.installation.bin_dir.join("initdb"),
            source,
        })?;
        if !output.status.success() {
            let text = [output.stdout, output.stderr].concat();
            return Err(Error::Initdb {
                status: output.status.to_string(),
                output: last_lines(&String::from_utf8_lossy(&text)),
            });
        }
        fs::remove_file(verifier_file)
            .and_then(|()| fs::rename(&new, self.path("data")))
            .map_err(|error| self.directory_error(error))
    }

    fn create_private_dir(&self, name: &str) -> io::Result<()> {
        fs::create_dir(self.path(name))?;
        fs::set_permissions(self.path(name), Permissions::from_mode(0o700))?;
        self.give_to_account(name)
    }

    fn write_private_file(&self, name: &str, text: &str) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(self.path(name))?;
        file.write_all(text.as_bytes())
    }

    fn give_to_account(&self, name: &str) -> io::Result<()> {
        match &self.account {
            Some(account) => chown(self.path(name), Some(account.uid), Some(account.gid)),
            None => Ok(()),
        }
    }

    /// A program of the installation, run as the right user; `orphaned` is sent to it when its
    /// parent dies.
    fn command(&self, program: &str, orphaned: Signal) -> Command {
        let mut command = Command::new(self.installation.bin_dir.join(program));
        // The caller's settings for its own PostgreSQL (PGDATA, PGOPTIONS, …) are not for ours.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        // LC_ALL: messages are recognised by their English text. Own process group: Ctrl-C goes
        // to a terminal's whole group and would take the database away before us.
        command.env("LC_ALL", "C").current_dir(self.path("")).stdin(Stdio::null()).process_group(0);
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        end_with_parent(&mut command, orphaned);
        command
    }

    fn launch_first(&mut self) -> Result<u16, Error> {
        let mut log = String::new();
        for _ in 0..PORT_TRIES {
            let port = rand::random_range(PORTS);
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
                continue;
            }
            match self.launch_on(port) {
                Ok(()) => {
                    self.port = Some(port);
                    return Ok(port);
                }
                // Taken since we looked.
                Err(LaunchError::PortTaken { log: taken }) => log = taken,
                Err(LaunchError::Other(error)) => return Err(error),
            }
        }
        Err(Error::NoPort { tries: PORT_TRIES, log })
    }

    fn launch_again(&mut self, port: u16) -> Result<u16, Error> {
        let deadline = Instant::now() + SUCCESSION_TIMEOUT;
        let mut tries = 1;
        loop {
            match self.launch_on(port) {
                Ok(()) => return Ok(port),
                Err(LaunchError::PortTaken { .. }) if Instant::now() < deadline => {
                    sleep(Duration::from_millis(100));
                    tries += 1;
                }
                Err(LaunchError::PortTaken { log }) => return Err(Error::NoPort { tries, log }),
                Err(LaunchError::Other(error)) => return Err(error),
            }
        }
    }

    fn launch_on(&mut self, port: u16) -> Result<(), LaunchError> {
        let other = LaunchError::Other;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(self.path("postgres.log"))
            .and_then(|log| Ok((log.metadata()?.len(), log.try_clone()?, log)));
        let (log_start, log, log_too) = log.map_err(|error| other(self.directory_error(error)))?;

        let mut postgres = self.command("postgres", Signal::SIGQUIT);
        postgres.arg("-D").arg(self.path("data"));
        let settings = SETTINGS.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        for (name, value) in settings
            .chain(self.options.settings.iter().cloned())
            .chain([("port".to_owned(), port.to_string())])
        {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        let process = postgres.stdout(log).stderr(log_too).spawn().map_err(|source| {
            other(Error::Spawn { program: self.installation.bin_dir.join("postgres"), source })
        })?;
        // From here on `halt`, or the drop, ends it whatever comes.
        let process = self.process.insert(process);
        let id = process.id();

        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let exit = self.process.as_mut().map(Child::try_wait).transpose();
            if let Some(status) = exit.map_err(|error| other(Error::Stop(error)))?.flatten() {
                self.process = None;
                return Err(self.explain_exit(status, log_start));
            }
            if self.is_ready(id) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let log = self.log_tail(log_start);
                self.halt(Halt::Immediate).map_err(other)?;
                return Err(other(Error::NotReady { seconds: READY_TIMEOUT.as_secs(), log }));
            }
            sleep(READY_POLL);
        }
    }

    fn explain_exit(&self, status: ExitStatus, log_start: u64) -> LaunchError {
        let log = self.log_tail(log_start);
        if log.contains("could not create any TCP/IP sockets") {
            return LaunchError::PortTaken { log };
        }
        LaunchError::Other(Error::Ended { status: status.to_string(), log })
    }

    fn is_ready(&self, id: u32) -> bool {
        let text = fs::read_to_string(self.path("data/postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines();
        lines.next().and_then(|line| line.trim().parse().ok()) == Some(id)
            // A standby takes connections, too.
            && lines.nth(6).is_some_and(|line| matches!(line.trim(), "ready" | "standby"))
    }

    /// A killed owner's server takes a moment to die, and PostgreSQL refuses to start beside it.
    /// Whether it really is one is for PostgreSQL to decide: the id may be another's by now.
    fn await_predecessor(&self) {
        let deadline = Instant::now() + SUCCESSION_TIMEOUT;
        let is_alive = || {
            let text = fs::read_to_string(self.path("data/postmaster.pid")).unwrap_or_default();
            let id = text.lines().next().and_then(|line| line.trim().parse().ok());
            // A signal of `None` only asks whether it exists.
            id.is_some_and(|id: i32| kill(Pid::from_raw(id), None).is_ok())
        };
        while is_alive() && Instant::now() < deadline {
            sleep(READY_POLL);
        }
    }

    /// The last lines of what was logged since the log was `start` bytes long.
    fn log_tail(&self, start: u64) -> String {
        let mut text = Vec::new();
        let read = File::open(self.path("postgres.log")).and_then(|mut log| {
            log.seek(SeekFrom::Start(start))?;
            log.read_to_end(&mut text)
        });
        match read {
            Ok(_) => last_lines(&String::from_utf8_lossy(&text)),
            Err(error) => format!("(the log cannot be read: {error})"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.halt(Halt::Immediate) {
            tracing::error!(%error, "PostgreSQL may be left running");
        }
    }
}
