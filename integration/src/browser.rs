//! A headless Chromium, driven by its DevTools protocol.
//!
//! Flows in: addresses, scripts, keys. Flows out: values, pictures, and everything that a page complained about or asked for.
//! It runs in the network namespace of the thread that starts it and is killed when dropped.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::client::fetch;
use crate::edged::{LIMIT, until};
use crate::websocket::{Opcode, read_frame, write_frame};

/// Debian's name, then those of others.
const PROGRAMS: [&str; 3] = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

pub struct Browser {
    child: Child,
    _profile: TempDir,
    runtime: Runtime,
    stream: BufReader<TcpStream>,
    calls: u64,
    /// Events that were not looked at yet.
    events: Vec<Value>,
}

/// What pages have said and done.
#[derive(Debug, Default)]
pub struct Heard {
    /// Errors, refusals of the policy, exceptions.
    pub complaints: Vec<String>,
    pub requests: Vec<String>,
}

pub fn available() -> Result<PathBuf, String> {
    let found = PROGRAMS.iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| "chromium is not installed (make packages)".to_owned())
}

impl Browser {
    /// A window of that size. `dark`: what the page is told that its user prefers.
    pub fn start(width: u32, height: u32, dark: bool) -> Self {
        let profile = tempfile::Builder::new().prefix("edge-browser-").tempdir().unwrap();
        let mut command = Command::new(available().unwrap());
        command
            .args(["--headless=new", "--remote-debugging-port=0", "--no-sandbox", "--no-first-run", "--disable-gpu"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-pings"])
            .args(["--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio", "--ignore-certificate-errors"])
            .args(["--force-color-profile=srgb", "--lang=en"])
            .arg(format!("--window-size={width},{height}"))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let port: u16 = until("the browser listens", || {
            let text = std::fs::read_to_string(profile.path().join("DevToolsActivePort")).ok()?;
            text.lines().next()?.parse().ok()
        });
        let address = ([127, 0, 0, 1], port).into();
        let path = until("the browser has a page", || {
            let pages = runtime.block_on(fetch(address, None, "localhost", "/json/list")).ok()?.json();
            let page = pages.as_array()?.iter().find(|page| page["type"] == "page")?;
            let url = page["webSocketDebuggerUrl"].as_str()?;
            Some(url.splitn(4, '/').nth(3)?.to_owned())
        });
        let stream = runtime.block_on(async {
            let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
            let head = format!(
                "GET /{path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                assert!(stream.read_line(&mut line).await.unwrap() > 0, "the browser hangs up");
            }
            stream
        });
        let mut browser = Self { child, _profile: profile, runtime, stream, calls: 0, events: Vec::new() };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        let scheme = if dark { "dark" } else { "light" };
        browser.prefer(&[("prefers-color-scheme", scheme)]);
        browser.call(
            "Emulation.setDeviceMetricsOverride",
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}),
        );
        browser
    }

    /// What its user is said to prefer from now on.
    pub fn prefer(&mut self, features: &[(&str, &str)]) {
        let features: Vec<Value> = features.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// One command and its result.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let (id, events, stream) = (self.calls, &mut self.events, &mut self.stream);
        let text = json!({"id": id, "method": method, "params": parameters}).to_string();
        let answered = async {
            write_frame(stream, Opcode::Text, text.as_bytes(), Some([1, 2, 3, 4])).await.unwrap();
            loop {
                let message: Value = serde_json::from_slice(&read_frame(stream).await.unwrap().payload).unwrap();
                if message["id"] == id {
                    return message;
                }
                events.push(message);
            }
        };
        // The clock is that of the runtime, so it is asked within.
        let answer = self.runtime.block_on(async { tokio::time::timeout(LIMIT, answered).await });
        let answer = answer.unwrap_or_else(|_| panic!("the browser does not answer {method}"));
        assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        answer["result"].clone()
    }

    pub fn open(&mut self, url: &str) {
        let result = self.call("Page.navigate", json!({ "url": url }));
        assert!(result["errorText"].is_null(), "{url}: {}", result["errorText"]);
    }

    /// The value of an expression; a promise is waited for.
    pub fn value(&mut self, script: &str) -> Value {
        let parameters = json!({"expression": script, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", parameters);
        assert!(result["exceptionDetails"].is_null(), "{script}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub fn wait(&mut self, script: &str) {
        let start = Instant::now();
        while self.value(&format!("Boolean({script})")) != true {
            if start.elapsed() > LIMIT {
                let text = self.value("document.body.innerText");
                panic!("not within {LIMIT:?}: {script}\n{}", text.as_str().unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// All text that can be seen.
    pub fn text(&mut self) -> String {
        self.value("document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    /// Presses a key: a character, or a name such as `ArrowDown`.
    pub fn press(&mut self, key: &str) {
        let code = match key {
            "ArrowDown" => 40,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowLeft" => 37,
            "Enter" => 13,
            "Escape" => 27,
            "Tab" => 9,
            "Home" => 36,
            "End" => 35,
            _ => 0,
        };
        let text = if key.chars().count() == 1 {
            json!(key)
        } else if key == "Enter" {
            json!("\r")
        } else {
            Value::Null
        };
        let mut down = json!({"type": "keyDown", "key": key, "windowsVirtualKeyCode": code});
        if !text.is_null() {
            down["text"] = text;
        }
        self.call("Input.dispatchKeyEvent", down);
        self.call("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": code}));
    }

    /// Types where the focus is.
    pub fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// What was heard since it was asked last.
    pub fn heard(&mut self) -> Heard {
        self.value("0");
        let mut heard = Heard::default();
        for event in self.events.drain(..) {
            let parameters = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Runtime.exceptionThrown" => heard.complaints.push(parameters["exceptionDetails"].to_string()),
                "Runtime.consoleAPICalled"
                    if matches!(parameters["type"].as_str(), Some("error" | "warning" | "assert")) =>
                {
                    heard.complaints.push(parameters["args"].to_string());
                }
                "Log.entryAdded" if matches!(parameters["entry"]["level"].as_str(), Some("error" | "warning")) => {
                    heard.complaints.push(parameters["entry"].to_string());
                }
                "Network.requestWillBeSent" => {
                    heard.requests.push(parameters["request"]["url"].as_str().unwrap_or_default().to_owned());
                }
                _ => {}
            }
        }
        heard
    }

    /// What can be seen, as a PNG file.
    pub fn picture(&mut self, path: &Path) {
        let shot = self.call("Page.captureScreenshot", json!({"format": "png", "optimizeForSpeed": false}));
        std::fs::write(path, STANDARD.decode(shot["data"].as_str().unwrap()).unwrap()).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
