//! The second third party, `other`, of which each seed simulates another one with an interface of
//! its own.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use quartet::sandbox::{Interface, Sandbox, SandboxConfig};

/// Its name.
pub const NAME: &str = "other";
/// They can be looked up by our id: a create that a restored backup does not know is found.
const PROFILES: [&str; 3] = ["mtn-momo", "pawapay", "paystack"];

/// The second third party.
pub struct Other {
    pub sandbox: Sandbox,
    directory: PathBuf,
}

impl Other {
    /// Starts it with the faults of `config`; its settings are kept below `directory`.
    pub async fn start(config: SandboxConfig, directory: &Path) -> Self {
        let name = PROFILES[(config.seed % PROFILES.len() as u64) as usize];
        let interface: Interface = name.parse().expect("the sandbox simulates it");
        println!("chaos: the third party {NAME:?} speaks {name}");
        let sandbox = Sandbox::start(SandboxConfig { interface, ..config }).await;
        Self { sandbox: sandbox.expect("the sandbox starts"), directory: directory.join(NAME) }
    }

    pub fn address(&self) -> SocketAddr {
        self.sandbox.address()
    }

    /// What its transactions need beside what others have.
    pub fn metadata(&self) -> &'static [(&'static str, &'static str)] {
        self.sandbox.config().interface.metadata()
    }

    /// Writes its settings for one process, which calls it at `base_url`; returns the directory.
    pub fn write_settings(
        &self,
        process: &str,
        base_url: &str,
        create_backoff: Duration,
    ) -> PathBuf {
        let directory = self.directory.join(process);
        let secrets = directory.join("secrets");
        fs::create_dir_all(&secrets).expect("a directory for the settings");
        let mut vars = String::new();
        for (name, value) in self.sandbox.provider_values() {
            let name = name.to_ascii_lowercase();
            match name.split_once("__") {
                Some(("secrets", name)) => fs::write(secrets.join(name), value).expect("a secret"),
                Some(("vars", name)) => vars += &format!("{name} = {value:?}\n"),
                _ => panic!("{name} is neither a secret nor a variable"),
            }
        }
        let profile = self.sandbox.config().interface.name();
        let backoff = humantime::format_duration(create_backoff);
        let settings = format!(
            "profile = {profile:?}\nbase_url = {base_url:?}\nsecrets_directory = 'secrets'\n\
             timeout = '1500ms'\nlookup_timeout = '500ms'\ncreate_backoff = '{backoff}'\n\
             [vars]\n{vars}"
        );
        fs::write(directory.join(format!("{NAME}.toml")), settings).expect("the settings");
        directory
    }
}
