//! A real browser: headless Chromium, driven through chromedriver.

use fantoccini::key::Key;
use fantoccini::wd::{WebDriverCompatibleCommand, WindowHandle};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use super::process::{Directory, Process};
use super::{eventually, within_deadline};

/// What makes Chromium run without a screen, without privileges, and without a word to anybody but the pages' server.
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
];

/// One browser with a profile of its own. Its drop ends it.
pub struct Browser {
    client: Client,
    /// Chromium belongs to the driver's process group, which ends before the directory goes.
    _driver: Process,
    _directory: Directory,
}

impl Browser {
    pub async fn start() -> Browser {
        let directory = Directory::new("browser");
        let home = directory.path().to_str().expect("a path in UTF-8");
        let driver = program("CHROMEDRIVER", "/usr/bin/chromedriver");
        let env = [("HOME", home), ("TMPDIR", home)];
        let mut driver = Process::start(&driver, &["--port=0", "--allowed-ips=127.0.0.1"], &env);
        let line = driver.says("started successfully on port").await;
        let port = line.trim_end_matches('.').rsplit(' ').next().expect("words");

        let profile = format!("--user-data-dir={home}/profile");
        let flags: Vec<&str> = FLAGS.iter().copied().chain([profile.as_str()]).collect();
        let capabilities = json!({
            "goog:chromeOptions": { "binary": program("CHROMIUM", "/usr/bin/chromium"), "args": flags },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("it was written as an object") };
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities);
        let url = format!("http://127.0.0.1:{port}");
        let client = within_deadline("Chromium starts", builder.connect(&url)).await.expect("a browser");
        Browser { client, _driver: driver, _directory: directory }
    }

    /// The window that the browser started with, on the page at `url`.
    pub async fn open(&self, url: &str) -> Page<'_> {
        let window = self.client.window().await.expect("a window");
        self.show(window, url).await
    }

    /// A window of its own, on the page at `url`.
    pub async fn open_another(&self, url: &str) -> Page<'_> {
        let window = self.client.new_window(false).await.expect("a new window").handle;
        self.show(window, url).await
    }

    async fn show(&self, window: WindowHandle, url: &str) -> Page<'_> {
        let page = Page { browser: self, window };
        page.focus().await;
        within_deadline("the page loads", self.client.goto(url)).await.expect("a page");
        page
    }

    /// What the console has said since the last call: errors of scripts, violations of the policy, failed requests.
    pub async fn console(&self) -> Vec<String> {
        let entries = self.command("se/log", json!({ "type": "browser" })).await;
        let entries = entries.as_array().cloned().unwrap_or_else(|| panic!("no list of entries: {entries}"));
        entries.iter().map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// A command of the Chrome DevTools Protocol.
    async fn devtools(&self, command: &str, parameters: Value) {
        self.command("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await;
    }

    /// A command that chromedriver has beyond the WebDriver standard.
    async fn command(&self, path: &'static str, body: Value) -> Value {
        let command = ChromeCommand { path, body };
        within_deadline(path, self.client.issue_cmd(command)).await.expect("chromedriver obeys")
    }
}

/// Warren's page in one window. Each method brings its window to the front.
pub struct Page<'a> {
    browser: &'a Browser,
    window: WindowHandle,
}

impl Page<'_> {
    async fn focus(&self) {
        self.browser.client.switch_to_window(self.window.clone()).await.expect("the window is open");
    }

    /// The value of a JavaScript expression.
    pub async fn value(&self, expression: &str) -> Value {
        self.focus().await;
        let script = format!("return {expression};");
        within_deadline(expression, self.browser.client.execute(&script, vec![])).await.expect("a valid expression")
    }

    /// What an asynchronous script hands to the function that is its last argument.
    pub async fn script_value(&self, script: &str) -> Value {
        self.focus().await;
        within_deadline(script, self.browser.client.execute_async(script, vec![])).await.expect("a valid script")
    }

    pub async fn text_of(&self, selector: &str) -> String {
        let text = self.value(&format!("document.querySelector({selector:?}).textContent")).await;
        text.as_str().unwrap_or_else(|| panic!("{selector} has no text")).to_owned()
    }

    /// What stands in the field for the message.
    pub async fn draft(&self) -> String {
        self.value("document.getElementById('text').value").await.as_str().expect("a text").to_owned()
    }

    /// The messages on show, from the top.
    pub async fn messages(&self) -> Vec<String> {
        let texts = self.value("[...document.querySelectorAll('#messages .payload')].map((e) => e.textContent)").await;
        serde_json::from_value(texts).expect("a list of texts")
    }

    pub async fn shows(&self, expected: &[&str]) {
        eventually(&format!("the page shows {expected:?}"), || async { self.messages().await == expected }).await;
    }

    /// Waits for one of the page's states: `connecting`, `open`, `waiting`, `closed`.
    pub async fn is(&self, state: &str) {
        let now = "document.getElementById('status').dataset.state";
        eventually(&format!("the page is {state}"), || async { self.value(now).await == state }).await;
    }

    /// Waits until the notice contains `words`.
    pub async fn notices(&self, words: &str) {
        eventually(&format!("the notice says {words:?}"), || async { self.text_of("#notice").await.contains(words) })
            .await;
    }

    /// Clicks into the field and types.
    pub async fn types(&self, keys: &str) {
        self.focus().await;
        let field = self.browser.client.find(Locator::Id("text")).await.expect("the field");
        field.send_keys(keys).await.expect("the field takes keys");
    }

    /// Clicks on what a selector finds.
    pub async fn clicks(&self, selector: &str) {
        self.focus().await;
        let element = self.browser.client.find(Locator::Css(selector)).await.expect("it is there");
        element.click().await.expect("it can be clicked");
    }

    /// Writes into a field, in place of what stood there.
    pub async fn writes(&self, selector: &str, text: &str) {
        self.focus().await;
        let field = self.browser.client.find(Locator::Css(selector)).await.expect("the field");
        field.clear().await.expect("the field can be cleared");
        field.send_keys(text).await.expect("the field takes keys");
    }

    /// Waits until the element is there and its text contains `words`.
    pub async fn says(&self, selector: &str, words: &str) {
        let text = format!("document.querySelector({selector:?})?.textContent ?? ''");
        eventually(&format!("{selector} says {words:?}"), || async {
            self.value(&text).await.as_str().is_some_and(|text| text.contains(words))
        })
        .await;
    }

    /// Joins a topic, or what is written like several, and waits until they are in force.
    pub async fn joins(&self, written: &str, count: usize) {
        self.writes("#topic", written).await;
        self.clicks("#join").await;
        self.has_joined(count).await;
    }

    /// Waits until so many topics are in force.
    pub async fn has_joined(&self, count: usize) {
        let joined = "document.querySelectorAll('#joined li[data-state=joined]').length";
        eventually(&format!("{count} topics are joined"), || async { self.value(joined).await == count }).await;
    }

    /// Waits until the page shows so many gaps.
    pub async fn has_gaps(&self, count: usize) {
        let gaps = "document.querySelectorAll('#messages .gap').length";
        eventually(&format!("{count} gaps are shown"), || async { self.value(gaps).await == count }).await;
    }

    pub async fn sends(&self, text: &str) {
        self.types(text).await;
        self.presses(Key::Enter).await;
    }

    /// Presses a key wherever the focus is.
    pub async fn presses(&self, key: Key) {
        self.types_where_the_focus_is(&String::from(char::from(key))).await;
    }

    pub async fn types_where_the_focus_is(&self, keys: &str) {
        self.focus().await;
        let element = self.browser.client.active_element().await.expect("something has the focus");
        element.send_keys(keys).await.expect("it takes keys");
    }

    /// The id of the element with the focus.
    pub async fn focused(&self) -> String {
        self.value("document.activeElement.id").await.as_str().expect("a text").to_owned()
    }

    /// Makes the window a phone's, so many CSS pixels wide.
    pub async fn becomes_a_phone(&self, width: u32) {
        self.focus().await;
        let metrics = json!({ "width": width, "height": 640, "deviceScaleFactor": 2, "mobile": true });
        self.browser.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// Sets what the visitor prefers: `light` or `dark`.
    pub async fn prefers(&self, scheme: &str) {
        self.focus().await;
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.browser.devtools("Emulation.setEmulatedMedia", features).await;
    }
}

#[derive(Debug)]
struct ChromeCommand {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for ChromeCommand {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &url::Url) -> (hyper::Method, Option<String>) {
        (hyper::Method::POST, Some(self.body.to_string()))
    }
}

/// A program that an environment variable names, or else its usual place.
fn program(variable: &str, usual: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| usual.to_owned())
}
