//! A headless Chromium, driven as W3C WebDriver says: what a user of a page sees and does.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::PATIENCE;
use crate::http::connect;

/// A browser with one window; it ends when this is dropped.
pub struct Browser {
    driver: Child,
    address: String,
    session: String,
}

impl Browser {
    /// Starts one; `None` if Chromium or its driver is not installed.
    ///
    /// # Panics
    /// If the driver is there and does not start.
    pub fn start() -> Option<Self> {
        let mut driver = Command::new("chromedriver");
        driver.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = driver.spawn().ok()?;
        let stdout = BufReader::new(driver.stdout.take().expect("its standard output is a pipe"));
        let port = stdout.lines().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        });
        let address = format!("127.0.0.1:{}", port.expect("the driver says its port"));
        let mut browser = Self { driver, address, session: String::new() };
        // Tests may run as root, and in containers with little shared memory.
        let arguments =
            ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
        let options = json!({ "args": arguments });
        let wanted =
            json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": options } } });
        let session = browser.ask("POST", "/session", &wanted).ok()?;
        browser.session = format!("/session/{}", session["sessionId"].as_str()?);
        Some(browser)
    }

    /// Makes the window look like a screen of this size, in CSS pixels.
    ///
    /// # Panics
    /// If the browser does not do it.
    pub fn resize(&self, width: u32, height: u32, is_phone: bool) {
        let screen =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone });
        let command = json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": screen });
        self.command("/goog/cdp/execute", &command);
    }

    /// Opens a page and waits until it is there.
    ///
    /// # Panics
    /// If the browser does not do it.
    pub fn open(&self, url: &str) {
        self.command("/url", &json!({ "url": url }));
    }

    /// Types into a field.
    ///
    /// # Panics
    /// If the browser does not do it.
    pub fn type_into(&self, selector: &str, text: &str) {
        let path = format!("/element/{}/value", self.find(selector));
        self.command(&path, &json!({ "text": text }));
    }

    /// Clicks, and waits for the page that this leads to.
    ///
    /// # Panics
    /// If there is no such element, or no other page comes.
    pub fn click(&self, selector: &str) {
        self.run("window.isLeft = true");
        let path = format!("/element/{}/click", self.find(selector));
        self.command(&path, &json!({}));
        let deadline = Instant::now() + PATIENCE;
        while self.run("return window.isLeft || document.readyState !== 'complete'") == true {
            assert!(Instant::now() < deadline, "{selector} leads to no other page");
        }
    }

    /// What a function body of JavaScript returns.
    ///
    /// # Panics
    /// If the browser does not do it.
    pub fn run(&self, script: &str) -> Value {
        self.command("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// The text of a page, as it is seen.
    ///
    /// # Panics
    /// If the browser does not do it.
    pub fn text(&self) -> String {
        self.run("return document.body.innerText").as_str().expect("a text").to_owned()
    }

    /// What the browser has to complain about since it was asked last: scripts and styles that the page's
    /// policy keeps out, and what can't be loaded.
    ///
    /// # Panics
    /// If the browser does not do it.
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.command("/se/log", &json!({ "type": "browser" }));
        let entries = entries.as_array().expect("a list").iter();
        entries.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    fn find(&self, selector: &str) -> String {
        let found =
            self.command("/element", &json!({ "using": "css selector", "value": selector }));
        let found = found.as_object().and_then(|element| element.values().next()?.as_str());
        found.expect("an element").to_owned()
    }

    fn command(&self, path: &str, body: &Value) -> Value {
        let answer = self.ask("POST", &format!("{}{path}", self.session), body);
        answer.unwrap_or_else(|error| panic!("{path} {body}: {error}"))
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, Value> {
        let mut stream = connect(&self.address);
        let (body, address) = (body.to_string(), &self.address);
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\
             Content-Type: application/json\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("the driver reads");
        let mut answer = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") && answer.read_line(&mut head).expect("it answers") > 0 {}
        for (name, value) in head.lines().filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().expect("a number");
            }
        }
        let mut body = vec![0; length];
        answer.read_exact(&mut body).expect("the driver answers");
        let mut body: Value = serde_json::from_slice(&body).expect("the driver answers in JSON");
        match head.split(' ').nth(1) {
            Some("200") => Ok(body["value"].take()),
            _ => Err(body),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.ask("DELETE", &self.session, &json!({}));
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
