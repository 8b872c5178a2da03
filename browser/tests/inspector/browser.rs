//! A headless Chromium, driven over WebDriver.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};

/// The maximum time that a test waits for the browser.
const PATIENCE: Duration = Duration::from_secs(20);

/// A browser that closes when the value is dropped.
pub(crate) struct Browser {
    pub(crate) client: Client,
    driver: Child,
}

/// The differences from a wide, light browser with JavaScript.
#[derive(Clone, Copy, Default)]
pub(crate) struct Options {
    pub(crate) is_dark: bool,
    pub(crate) is_narrow: bool,
    pub(crate) without_javascript: bool,
}

impl Browser {
    pub(crate) async fn open(options: Options) -> Self {
        let (mut driver, port) = start_driver();
        let mut args = vec![
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--window-size=1440,1100",
        ];
        let scheme = if options.is_dark {
            "--blink-settings=preferredColorScheme=0"
        } else {
            "--blink-settings=preferredColorScheme=1"
        };
        args.push(scheme);
        let mut chrome = json!({ "args": args });
        if options.without_javascript {
            chrome["prefs"] = json!({ "profile.managed_default_content_settings.javascript": 2 });
        }
        if options.is_narrow {
            chrome["mobileEmulation"] =
                json!({ "deviceMetrics": { "width": 360, "height": 800, "pixelRatio": 1 } });
        }
        let Value::Object(capabilities) = json!({ "goog:chromeOptions": chrome }) else {
            unreachable!()
        };
        let started = Instant::now();
        let client = loop {
            let mut builder =
                ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new());
            match builder
                .capabilities(capabilities.clone())
                .connect(&format!("http://127.0.0.1:{port}"))
                .await
            {
                Ok(client) => break client,
                Err(error) if started.elapsed() > Duration::from_secs(30) => {
                    let _ = driver.kill();
                    panic!("the browser doesn't start: {error}");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        Self { client, driver }
    }

    pub(crate) async fn go(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    /// Returns the text of each element that matches.
    pub(crate) async fn texts(&self, selector: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for element in self.client.find_all(Locator::Css(selector)).await.unwrap() {
            // A live list may replace an element at any time.
            texts.push(element.text().await.unwrap_or_default());
        }
        texts
    }

    pub(crate) async fn text(&self, selector: &str) -> String {
        self.texts(selector).await.join("\n")
    }

    pub(crate) async fn click(&self, selector: &str) {
        self.click_on(Locator::Css(selector)).await;
    }

    /// Clicks the link or the button with this text.
    pub(crate) async fn press(&self, text: &str) {
        self.click_on(Locator::XPath(&with_text(text))).await;
    }

    /// Clicks the link or the button with this text, and waits for the next page.
    pub(crate) async fn follow(&self, text: &str) {
        self.follow_to(Locator::XPath(&with_text(text))).await;
    }

    /// Clicks the element, and waits for the next page.
    pub(crate) async fn follow_element(&self, selector: &str) {
        self.follow_to(Locator::Css(selector)).await;
    }

    async fn follow_to(&self, locator: Locator<'_>) {
        let page = self.client.find(Locator::Css("html")).await.unwrap();
        self.click_on(locator).await;
        let started = Instant::now();
        // The old page's element is gone once the browser shows the next page.
        while page.tag_name().await.is_ok() {
            assert!(started.elapsed() < PATIENCE, "{locator:?} leads to no page");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.client
            .wait()
            .at_most(PATIENCE)
            .for_element(Locator::Css("footer"))
            .await
            .unwrap();
    }

    /// A live list may replace the element between the search and the click, so this tries again.
    async fn click_on(&self, locator: Locator<'_>) {
        let started = Instant::now();
        loop {
            let clicked = match self.client.find(locator).await {
                Ok(element) => element.click().await,
                Err(error) => Err(error),
            };
            match clicked {
                Ok(()) => return,
                Err(error) => assert!(started.elapsed() < PATIENCE, "{locator:?}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn fill(&self, selector: &str, text: &str) {
        self.client
            .find(Locator::Css(selector))
            .await
            .unwrap()
            .send_keys(text)
            .await
            .unwrap();
    }

    pub(crate) async fn select(&self, selector: &str, label: &str) {
        let field = self.client.find(Locator::Css(selector)).await.unwrap();
        field.select_by_label(label).await.unwrap();
    }

    pub(crate) async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    /// Waits until the text of the elements contains `part`.
    pub(crate) async fn until(&self, selector: &str, part: &str) {
        let started = Instant::now();
        loop {
            let text = self.text(selector).await;
            if text.contains(part) {
                return;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "{selector} has no {part:?}: {text}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns a picture of the visible part of the page in the format WebP, as Base64.
    pub(crate) async fn picture(&self) -> String {
        let params = json!({ "format": "webp", "quality": 60 });
        let command = DevTools(json!({ "cmd": "Page.captureScreenshot", "params": params }));
        let answer = self.client.issue_cmd(command).await.unwrap();
        answer["data"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn close(self) {
        self.client.clone().close().await.unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn start_driver() -> (Child, u16) {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let driver = Command::new("chromedriver")
        .arg(format!("--port={port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let driver = driver.unwrap_or_else(|error| {
        panic!(
            "can't start chromedriver: {error}; on Debian, install `chromium` and `chromium-driver`"
        )
    });
    (driver, port)
}

/// A command of Chromium's developer tools.
#[derive(Debug)]
struct DevTools(Value);

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(
        &self,
        base_url: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base_url.join(&format!(
            "session/{}/goog/cdp/execute",
            session.unwrap_or_default()
        ))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.0.to_string()))
    }
}

/// Returns the path of the link, the button or the summary with this text.
fn with_text(text: &str) -> String {
    format!("//*[(self::a or self::button or self::summary) and contains(., {text:?})]")
}
