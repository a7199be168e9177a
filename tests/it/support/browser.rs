//! A real browser: headless Chromium behind chromedriver, as Debian packages them.
//!
//! Each [`Browser`] is a chromedriver and a Chromium of its own with a profile of its own. Both end
//! when it is dropped, also by a panic. Beyond WebDriver it speaks to the browser's own protocol:
//! for dark mode, narrow screens, pages without script, and what the browser's console says.

use std::{
    env,
    ffi::OsString,
    fs,
    ops::Deref,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use fantoccini::{Client, ClientBuilder, Locator, elements::Element};
use hyper_util::client::legacy::connect::HttpConnector;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::wait_for;

/// For anything that a page does: the machine may be busy.
pub const BOUND: Duration = Duration::from_secs(20);

const ARGUMENTS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    // Containers have little of it.
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// A browser, to be driven by WebDriver.
pub struct Browser {
    client: Client,
    http: reqwest::Client,
    session: String,
    driver: Driver,
}

impl Deref for Browser {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Browser {
    /// Starts one.
    pub async fn start() -> Self {
        // reqwest is built without a TLS provider; a second installation is refused, which is fine.
        rustls::crypto::ring::default_provider().install_default().ok();
        let chromium = find("CHROMIUM", &["chromium", "chromium-browser", "google-chrome"]);
        let driver = Driver::start().await;
        let profile = format!("--user-data-dir={}", driver.profile.path().display());
        let arguments: Vec<&str> = ARGUMENTS.into_iter().chain([profile.as_str()]).collect();
        let capabilities = json!({
            "goog:chromeOptions": { "binary": chromium, "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        // A map, as it was just written.
        let Value::Object(capabilities) = capabilities else { unreachable!() };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&driver.url)
            .await
            .expect("Chromium starts");
        let session = client.session_id().await.unwrap().expect("there is a session");
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let browser = Self { client, http, session, driver };
        browser.set_width(1280).await;
        browser
    }

    /// A command of the driver that WebDriver does not have.
    async fn command(&self, path: &str, body: Value) -> Value {
        let url = format!("{}/session/{}/{path}", self.driver.url, self.session);
        let answer = self.http.post(url).body(body.to_string()).send().await.unwrap();
        let text = answer.text().await.unwrap();
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        assert!(answer["value"]["error"].is_null(), "{path}: {text}");
        answer["value"].take()
    }

    /// A command of the browser's own protocol.
    async fn browser_command(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.command("goog/cdp/execute", body).await
    }

    /// Makes the screen this wide.
    pub async fn set_width(&self, width: u32) {
        self.set_size(width, 900).await;
    }

    async fn set_size(&self, width: u32, height: u64) {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.browser_command("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// Prefers dark pages, or light ones.
    pub async fn set_dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] });
        self.browser_command("Emulation.setEmulatedMedia", features).await;
    }

    /// Lets pages run their scripts, or not.
    pub async fn set_scripts(&self, run: bool) {
        let disabled = json!({ "value": !run });
        self.browser_command("Emulation.setScriptExecutionDisabled", disabled).await;
    }

    /// What the browser's console said since the last time, errors and warnings alone.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.command("se/log", json!({ "type": "browser" })).await;
        let entries = log.as_array().unwrap().iter();
        entries
            .filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING")
            .map(|entry| entry["message"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Runs a script in the page and returns what it returns.
    pub async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    /// Waits for an element.
    pub async fn element(&self, css: &str) -> Element {
        self.find(css, Locator::Css(css)).await
    }

    /// Waits for an element; what was in the way is in the output of a test that waits in vain.
    async fn find(&self, name: &str, locator: Locator<'_>) -> Element {
        let mut said = String::new();
        wait_for(&format!("{name} is on the page"), BOUND, async || {
            let error = match self.client.find(locator).await {
                Ok(element) => return Some(element),
                Err(error) => error.to_string(),
            };
            if error != said {
                println!("{name}: {error}; at {:?}", self.client.current_url().await);
                said = error;
            }
            None
        })
        .await
    }

    /// Clicks a link or button, by its whole text as it is shown.
    pub async fn click(&self, text: &str) {
        let path =
            format!("//*[self::a or self::button or self::summary][normalize-space()='{text}']");
        let element = self.find(text, Locator::XPath(&path)).await;
        element.click().await.unwrap();
    }

    /// Fills a field in.
    pub async fn fill(&self, css: &str, text: &str) {
        self.element(css).await.send_keys(text).await.unwrap();
    }

    /// The page's text, as it is shown.
    pub async fn text(&self) -> String {
        self.element("main").await.text().await.unwrap_or_default()
    }

    /// Waits until the page shows a text.
    pub async fn wait_text(&self, text: &str) {
        wait_for(&format!("the page shows {text:?}"), BOUND, async || {
            self.text().await.contains(text).then_some(())
        })
        .await;
    }

    /// A picture of the whole page at this width.
    pub async fn picture(&self, width: u32) -> Vec<u8> {
        self.set_size(width, 900).await;
        let height = self.run("return document.documentElement.scrollHeight").await;
        self.set_size(width, height.as_u64().unwrap().clamp(600, 6_000)).await;
        let picture = self.client.screenshot().await.unwrap();
        self.set_size(width, 900).await;
        picture
    }
}

/// A running chromedriver.
struct Driver {
    child: Child,
    url: String,
    profile: TempDir,
}

impl Driver {
    async fn start() -> Self {
        let chromedriver = find("CHROMEDRIVER", &["chromedriver"]);
        let profile = tempfile::tempdir().unwrap();
        let output = profile.path().join("chromedriver.log");
        let child = Command::new(chromedriver)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(fs::File::create(&output).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut driver = Self { child, url: String::new(), profile };
        let port = wait_for("chromedriver says its port", BOUND, async || {
            let said = fs::read_to_string(&output).unwrap();
            let (_, rest) = said.split_once("started successfully on port ")?;
            rest.split_once('.').map(|(port, _)| port.to_owned())
        })
        .await;
        driver.url = format!("http://127.0.0.1:{port}");
        driver
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Chromium is a child of chromedriver, and outlives it: end the whole family, by id.
        let family = descendants(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        for process in family {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(process.try_into().unwrap()), Signal::SIGKILL);
        }
    }
}

/// All processes below one.
fn descendants(ancestor: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let parents: Vec<(u32, u32)> = processes
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // `pid (name) state ppid …`, and the name may hold anything.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((id, parent))
        })
        .collect();
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
        next += 1;
    }
    found.split_off(1)
}

/// A program, by the variable that names it or on the PATH.
fn find(variable: &str, names: &[&str]) -> PathBuf {
    if let Some(named) = env::var_os(variable) {
        return named.into();
    }
    let path = env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin"));
    let candidates = env::split_paths(&path)
        .flat_map(|directory| names.iter().map(move |name| directory.join(name)));
    let mut installed = candidates.filter(|candidate| candidate.is_file());
    installed.next().unwrap_or_else(|| {
        panic!(
            "the tests of the console need a browser: apt install chromium chromium-driver \
             (no {} on the PATH, and {variable} is not set)",
            names[0]
        )
    })
}
