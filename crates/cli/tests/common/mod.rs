//! A fake agent on a Unix socket, and the program run against it.
//!
//! The fake is a table of canned answers; it notes every request, so that a test sees what was really sent.

#![expect(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

pub mod pty;
pub mod sample;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the fake answers.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A status and a body.
    Json(u16, String),
    /// A body of a done thing, after some time.
    Late(Duration, String),
    /// Server-sent events, then the stream stays open.
    Stream(Vec<String>),
    /// Server-sent events, then the connection is cut in the middle of the body.
    CutStream(Vec<String>),
    /// The connection is closed without an answer.
    HangUp,
}

type Routes = Arc<Mutex<BTreeMap<String, Reply>>>;

/// A cluster folder with an agent that is not one.
pub struct Fake {
    pub folder: tempfile::TempDir,
    pub cluster: String,
    routes: Routes,
    requests: Arc<Mutex<Vec<(String, String)>>>,
}

impl Fake {
    /// A cluster `shop` that answers `/v1/status`.
    pub fn shop() -> Self {
        let fake = Self::new("shop");
        fake.on("GET /v1/status", Reply::Json(200, sample::status().to_string()));
        fake
    }

    /// A cluster that answers nothing yet.
    pub fn new(cluster: &str) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), cluster)
    }

    /// A cluster in a folder that is there already.
    pub fn in_folder(folder: tempfile::TempDir, cluster: &str) -> Self {
        let routes = Routes::default();
        let requests = Arc::default();
        listen(folder.path(), cluster, &routes, &requests);
        Self {
            folder,
            cluster: cluster.into(),
            routes,
            requests,
        }
    }

    /// A second cluster in the same folder, answering the same.
    pub fn beside(&self, cluster: &str) {
        listen(self.folder.path(), cluster, &self.routes, &self.requests);
    }

    /// Answers a call from now on. A call is written `GET /v1/status`, with its query if it matters.
    pub fn on(&self, call: &str, reply: Reply) -> &Self {
        self.routes.lock().unwrap().insert(call.into(), reply);
        self
    }

    /// What was asked with a body, and the bodies.
    pub fn posts(&self) -> Vec<(String, String)> {
        self.requests
            .lock()
            .unwrap()
            .iter()
            .filter(|(call, _)| call.starts_with("POST"))
            .cloned()
            .collect()
    }

    /// All that was asked.
    pub fn calls(&self) -> Vec<String> {
        self.requests
            .lock()
            .unwrap()
            .iter()
            .map(|(call, _)| call.clone())
            .collect()
    }

    /// Runs the program against it.
    pub fn run(&self, args: &[&str]) -> Ran {
        run_in(self.folder.path(), args)
    }

    /// A file beside the cluster.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// It was done, and said this.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:#?}");
        &self.stdout
    }

    /// It was refused or failed, and said this; the answer stayed empty.
    #[track_caller]
    pub fn failed(&self) -> &str {
        assert_eq!(self.code, Some(1), "{self:#?}");
        &self.stderr
    }
}

/// Runs the program with a state folder, without a terminal.
pub fn run_in(folder: &Path, args: &[&str]) -> Ran {
    ran(command(folder).args(args).stdin(Stdio::null()).output().unwrap())
}

/// The program, with nothing of our own environment that it looks at.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
    for name in ["NO_COLOR", "UNDERSTUDY_STATE_DIR", "UNDERSTUDY_LOG", "SUDO_USER"] {
        command.env_remove(name);
    }
    command
        .env("TZ", "UTC")
        .env("TERM", "xterm")
        .env("UNDERSTUDY_STATE_DIR", folder);
    command
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn listen(folder: &Path, cluster: &str, routes: &Routes, requests: &Arc<Mutex<Vec<(String, String)>>>) {
    let run = folder.join(cluster).join("run");
    std::fs::create_dir_all(&run).unwrap();
    let listener = UnixListener::bind(run.join("api.sock")).unwrap();
    let (routes, requests) = (Arc::clone(routes), Arc::clone(requests));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (routes, requests) = (Arc::clone(&routes), Arc::clone(&requests));
            std::thread::spawn(move || serve(stream, &routes, &requests));
        }
    });
}

/// One request per connection, as the program sends them. `None` when the other side went away.
fn serve(stream: UnixStream, routes: &Routes, requests: &Mutex<Vec<(String, String)>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let call = format!("{} {}", words.next()?, words.next()?);
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    requests
        .lock()
        .unwrap()
        .push((call.clone(), String::from_utf8(body).ok()?));
    let reply = {
        let routes = routes.lock().unwrap();
        let without_query = call.split('?').next()?;
        routes.get(&call).or_else(|| routes.get(without_query)).cloned()
    };
    answer(
        stream,
        reply.unwrap_or_else(|| Reply::Json(404, sample::refusal(&format!("no route {call}"), None))),
    )
}

fn answer(mut stream: UnixStream, reply: Reply) -> Option<()> {
    let chunk = |data: &str| format!("{:x}\r\n{data}\r\n", data.len());
    match reply {
        Reply::Json(status, body) => {
            write!(
                stream,
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            )
            .ok()
        }
        Reply::Late(after, body) => {
            std::thread::sleep(after);
            answer(stream, Reply::Json(200, body))
        }
        Reply::HangUp => None,
        Reply::Stream(ref events) | Reply::CutStream(ref events) => {
            write!(stream, "HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").ok()?;
            for event in events {
                // A comment, and one event in two pieces: a reader must not depend on how bytes arrive.
                let text = format!(": hello\n\nevent: x\ndata: {event}\n\n");
                let (one, other) = text.split_at(text.len() / 2);
                write!(stream, "{}{}", chunk(one), chunk(other)).ok()?;
                stream.flush().ok()?;
            }
            if matches!(reply, Reply::Stream(_)) {
                // Until the program hangs up.
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).ok()?;
            }
            Some(())
        }
    }
}
