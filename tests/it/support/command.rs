//! The binary's commands that run to their end.

use std::{
    io::{Seek, SeekFrom, Write},
    path::Path,
    process::{Command, Output, Stdio},
};

use nix::unistd::{User, getuid};
use serde_json::Value;

/// The binary under test.
pub const QUARTET: &str = env!("CARGO_BIN_EXE_quartet");

/// What a command did.
#[derive(Debug)]
pub struct Ended {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Asserts success and returns what it printed.
    #[track_caller]
    pub fn expect(&self) -> &str {
        assert!(self.success, "{self:#?}");
        &self.stdout
    }

    /// The same as JSON.
    #[track_caller]
    pub fn expect_json(&self) -> Value {
        serde_json::from_str(self.expect()).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// Asserts failure and returns what it says.
    #[track_caller]
    pub fn expect_failure(&self) -> &str {
        assert!(!self.success, "{self:#?}");
        &self.stderr
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            success: output.status.success(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Who the audit says acted on the command line: the account of this process, which the commands
/// inherit, and before it the name that was given.
pub fn operator(name: Option<&str>) -> String {
    let uid = getuid();
    let account = match User::from_uid(uid).unwrap() {
        Some(user) => format!("{}, uid {uid}", user.name),
        None => format!("uid {uid}"),
    };
    let name = name.map(|name| format!("{name}; ")).unwrap_or_default();
    format!("operator ({name}{account}, command line)")
}

/// A command of `binary` with these settings and nothing else in its environment but `PATH`.
pub fn command(binary: &Path, args: &[&str], settings: &[(String, String)]) -> Command {
    let mut command = Command::new(binary);
    command.args(args).env_clear().envs(settings.iter().map(|(name, value)| (name, value)));
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// Runs a command of the binary to its end.
pub async fn run(args: &[&str], settings: &[(String, String)], stdin: &str) -> Ended {
    let mut input = tempfile::tempfile().unwrap();
    input.write_all(stdin.as_bytes()).unwrap();
    input.seek(SeekFrom::Start(0)).unwrap();
    let mut command = command(QUARTET.as_ref(), args, settings);
    command.stdin(Stdio::from(input));
    let output = tokio::task::spawn_blocking(move || command.output());
    output.await.unwrap().unwrap().into()
}
