//! A real Chromium, driven over the DevTools protocol: requests and answers as JSON, each ended by a zero byte, over two pipes.
//!
//! A request that Chromium does not answer within [`ANSWER`] is an error; so is a page that throws, see [`Page::complaints`].

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{CWD, FileType, Mode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Chromium answers within milliseconds; it starts within seconds, on a busy machine within many.
const ANSWER: Duration = Duration::from_secs(30);
/// Between two looks at a page.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A browser with a profile of its own. Dropped, it is gone.
pub struct Browser {
    child: Child,
    wire: Arc<Wire>,
    _profile: TempDir,
}

/// A tab.
pub struct Page {
    wire: Arc<Wire>,
    session: String,
}

struct Wire {
    to: Mutex<File>,
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, Sender<Value>>>,
    /// What pages complained about: session and text.
    complaints: Mutex<Vec<(String, String)>>,
}

impl Browser {
    /// Starts it where the calling thread is: its network namespace, say.
    pub fn start() -> Result<Self> {
        let profile = tempfile::Builder::new().prefix("understudy-browser-").tempdir()?;
        let (to, from) = (profile.path().join("to"), profile.path().join("from"));
        for pipe in [&to, &from] {
            rustix::fs::mknodat(CWD, pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        }
        // Chromium reads descriptor 3 and writes descriptor 4; the shell waits for us at the other end of each.
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec 3<\"$TO\" 4>\"$FROM\"; exec chromium \"$@\"", "sh"])
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--no-default-browser-check",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-extensions",
                "--disable-background-timer-throttling",
                "--disable-renderer-backgrounding",
                "--disable-backgrounding-occluded-windows",
                "--force-device-scale-factor=1",
                "--hide-scrollbars",
                "--window-size=1280,900",
                "--remote-debugging-pipe",
            ])
            .arg(format!("--user-data-dir={}", profile.path().join("profile").display()))
            .arg("about:blank")
            .env("TO", &to)
            .env("FROM", &from)
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().context("failed to start sh")?;
        let to = File::options().write(true).open(&to)?;
        let from = File::open(&from)?;
        let wire = Arc::new(Wire {
            to: Mutex::new(to),
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            complaints: Mutex::default(),
        });
        let hearing = Arc::clone(&wire);
        std::thread::Builder::new()
            .name("browser".into())
            .spawn(move || hearing.hear(from))?;
        let browser = Self {
            child,
            wire,
            _profile: profile,
        };
        browser
            .wire
            .call(None, "Browser.getVersion", json!({}))
            .context("chromium does not answer; `apt-get install chromium`")?;
        Ok(browser)
    }

    /// A new tab at an address.
    pub fn open(&self, url: &str) -> Result<Page> {
        let target = self
            .wire
            .call(None, "Target.createTarget", json!({"url": "about:blank"}))?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = self.wire.call(None, "Target.attachToTarget", attach)?;
        let session = attached["sessionId"].as_str().context("no session")?.to_owned();
        let page = Page {
            wire: Arc::clone(&self.wire),
            session,
        };
        for domain in ["Page.enable", "Runtime.enable", "Log.enable", "Network.enable"] {
            page.call(domain, json!({}))?;
        }
        page.go(url)?;
        Ok(page)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.wire.send(None, 0, "Browser.close", &json!({}));
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(LOOK_EVERY);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Wire {
    fn hear(&self, mut from: File) {
        let mut buffer = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut chunk) {
            buffer.extend_from_slice(&chunk[..read]);
            while let Some(end) = buffer.iter().position(|byte| *byte == 0) {
                let message: Vec<u8> = buffer.drain(..=end).collect();
                if let Ok(message) = serde_json::from_slice::<Value>(&message[..end]) {
                    self.take(message);
                }
            }
        }
        // Nobody is left to answer.
        lock(&self.waiting).clear();
    }

    fn take(&self, message: Value) {
        if let Some(id) = message["id"].as_u64() {
            if let Some(waiting) = lock(&self.waiting).remove(&id) {
                let _ = waiting.send(message);
            }
            return;
        }
        let params = &message["params"];
        let text = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => {
                let details = &params["exceptionDetails"];
                let what = details["exception"]["description"]
                    .as_str()
                    .or(details["text"].as_str());
                Some(format!("threw: {}", what.unwrap_or("something")))
            }
            Some("Runtime.consoleAPICalled") if params["type"] == "error" => {
                Some(format!("console: {}", params["args"]))
            }
            // What failed to load while the agent was away is told here too: only what the browser refused is a fault of the page.
            Some("Log.entryAdded") if params["entry"]["source"] == "security" => {
                Some(format!("refused: {}", params["entry"]["text"]))
            }
            _ => None,
        };
        if let (Some(text), Some(session)) = (text, message["sessionId"].as_str()) {
            lock(&self.complaints).push((session.to_owned(), text));
        }
    }

    fn send(&self, session: Option<&str>, id: u64, method: &str, params: &Value) -> Result<()> {
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        lock(&self.to).write_all(&bytes).context("chromium is gone")
    }

    #[expect(clippy::needless_pass_by_value, reason = "what is sent is handed over")]
    fn call(&self, session: Option<&str>, method: &str, params: Value) -> Result<Value> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (told, answer) = channel();
        lock(&self.waiting).insert(id, told);
        self.send(session, id, method, &params)?;
        let mut answer = answer
            .recv_timeout(ANSWER)
            .map_err(|_| anyhow!("chromium did not answer {method} within {ANSWER:?}"))?;
        if let Some(error) = answer.get("error") {
            bail!("{method}: {error}");
        }
        Ok(answer["result"].take())
    }
}

impl Page {
    /// Any request of the protocol.
    pub fn call(&self, method: &str, params: Value) -> Result<Value> {
        self.wire.call(Some(&self.session), method, params)
    }

    /// Goes to an address.
    pub fn go(&self, url: &str) -> Result<()> {
        let gone = self.call("Page.navigate", json!({"url": url}))?;
        if let Some(error) = gone["errorText"].as_str() {
            bail!("{url}: {error}");
        }
        Ok(())
    }

    /// What an expression, or a promise, comes to.
    pub fn eval(&self, expression: &str) -> Result<Value> {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", params)?;
        if let Some(details) = answer.get("exceptionDetails") {
            bail!("`{expression}` threw: {}", details["exception"]["description"]);
        }
        Ok(answer["result"]["value"].take())
    }

    /// The same as text.
    pub fn text(&self, expression: &str) -> Result<String> {
        Ok(self.eval(expression)?.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until an expression is true; how long it took.
    pub fn until(&self, expression: &str, within: Duration) -> Result<Duration> {
        let begun = Instant::now();
        loop {
            // While a page is being exchanged for another there is nobody to ask.
            if self.eval(&format!("!!({expression})")).is_ok_and(|value| value == true) {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > within {
                let shown = self.text("document.body ? document.body.innerText.slice(0, 3000) : ''");
                let said = self.complaints();
                bail!(
                    "waited {within:?} in vain for `{expression}`; complaints {said:?}; the page shows:\n{}",
                    shown.unwrap_or_default()
                );
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Clicks with the mouse in the middle of what a selector finds.
    pub fn click(&self, selector: &str) -> Result<()> {
        let quoted = serde_json::to_string(selector)?;
        let find = format!(
            "(() => {{ const e = document.querySelector({quoted}); if (!e) return null; e.scrollIntoView({{block: 'center'}}); \
             const r = e.getBoundingClientRect(); return r.width ? [r.x + r.width / 2, r.y + r.height / 2] : null; }})()"
        );
        let at = self.eval(&find)?;
        let (Some(x), Some(y)) = (at[0].as_f64(), at[1].as_f64()) else {
            bail!("nothing to click at `{selector}`");
        };
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", params)?;
        }
        Ok(())
    }

    /// Presses a key: a letter, `Tab`, `Enter`, `Escape`, `ArrowDown`, …
    pub fn key(&self, key: &str) -> Result<()> {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            "ArrowLeft" => 37,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            _ => 0,
        };
        let mut down = json!({"type": "keyDown", "key": key, "windowsVirtualKeyCode": code});
        match key {
            "Enter" => down["text"] = "\r".into(),
            one if one.chars().count() == 1 => down["text"] = one.into(),
            _ => {}
        }
        self.call("Input.dispatchKeyEvent", down)?;
        let up = json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": code});
        self.call("Input.dispatchKeyEvent", up).map(drop)
    }

    /// Types a text into what has the focus.
    pub fn type_in(&self, text: &str) -> Result<()> {
        self.call("Input.insertText", json!({"text": text})).map(drop)
    }

    /// Pretends a screen.
    pub fn screen(&self, width: u32, height: u32, phone: bool) -> Result<()> {
        let params = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone});
        self.call("Emulation.setDeviceMetricsOverride", params).map(drop)
    }

    /// What the system prefers: `("prefers-color-scheme", "dark")`.
    pub fn prefers(&self, features: &[(&str, &str)]) -> Result<()> {
        let features: Vec<Value> = features
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        self.call("Emulation.setEmulatedMedia", json!({"features": features}))
            .map(drop)
    }

    /// Takes certificates of an authority that this browser does not know.
    pub fn trust_all(&self) -> Result<()> {
        self.call("Security.setIgnoreCertificateErrors", json!({"ignore": true}))
            .map(drop)
    }

    /// Writes a picture of what is shown, of the whole page if `whole`.
    pub fn picture(&self, path: &Path, whole: bool) -> Result<()> {
        let shot = json!({"format": "png", "captureBeyondViewport": whole, "optimizeForSpeed": false});
        let shot = self.call("Page.captureScreenshot", shot)?;
        let data = shot["data"].as_str().context("no picture")?;
        let bytes = data_encoding::BASE64.decode(data.as_bytes())?;
        std::fs::write(path, bytes).with_context(|| format!("failed to write {}", path.display()))
    }

    /// What this page threw, logged as an error, or was refused by the browser.
    pub fn complaints(&self) -> Vec<String> {
        let complaints = lock(&self.wire.complaints);
        let mine = complaints.iter().filter(|(session, _)| *session == self.session);
        mine.map(|(_, text)| text.clone()).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
