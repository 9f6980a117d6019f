//! Keeps any program as the guard keeps the agent.
//!
//! `guard FOLDER [OPTION...] -- PROGRAM [ARGUMENT...]`: locks, socket and logs lie in the folder. Options: `--watch PID`,
//! `--fence CLUSTER`, `--agent-timeout MS`, `--watchdog PATH`, `--ordinary` (no real-time scheduling).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn main() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    match config() {
        Some((config, Some(fence))) => std::process::exit(guard::run_fencing(&config, fence)),
        Some((config, None)) => std::process::exit(guard::run(&config)),
        None => {
            eprintln!("usage: guard FOLDER [OPTION...] -- PROGRAM [ARGUMENT...]");
            std::process::exit(2);
        }
    }
}

fn config() -> Option<(guard::Config, Option<guard::fence::Config>)> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = PathBuf::from(arguments.next()?);
    let mut options = Options::default();
    loop {
        let option = arguments.next()?;
        if option == "--" {
            break;
        }
        options.take(option.to_str()?, &mut arguments)?;
    }
    let agent: Vec<OsString> = arguments.collect();
    let config = guard::Config {
        lock: folder.join("guard.lock"),
        agent_lock: folder.join("agent.lock"),
        heartbeat: folder.join("guard.beat"),
        agent_log: folder.join("agent.log"),
        agent,
        watch: options.watch,
    };
    (!config.agent.is_empty()).then(|| (config, options.fence(&folder)))
}

#[derive(Default)]
struct Options {
    watch: Option<u32>,
    cluster: Option<String>,
    agent_timeout: Option<Duration>,
    watchdog: Option<PathBuf>,
    ordinary: bool,
}

impl Options {
    fn take(&mut self, option: &str, rest: &mut impl Iterator<Item = OsString>) -> Option<()> {
        if option == "--ordinary" {
            self.ordinary = true;
            return Some(());
        }
        let value = rest.next()?.into_string().ok()?;
        match option {
            "--watch" => self.watch = Some(value.parse().ok()?),
            "--fence" => self.cluster = Some(value),
            "--agent-timeout" => self.agent_timeout = Some(Duration::from_millis(value.parse().ok()?)),
            "--watchdog" => self.watchdog = Some(value.into()),
            _ => return None,
        }
        Some(())
    }

    fn fence(self, folder: &Path) -> Option<guard::fence::Config> {
        let mut fence = guard::fence::Config::new(folder.join("guard.sock"), self.cluster?);
        fence.agent_timeout = self.agent_timeout.unwrap_or(fence.agent_timeout);
        fence.realtime = !self.ordinary;
        fence.watchdog = self.watchdog.map(|path| guard::fence::watchdog::Config {
            path,
            timeout: Duration::from_secs(2),
        });
        Some(fence)
    }
}
