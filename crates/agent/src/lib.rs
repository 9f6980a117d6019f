//! Where all meet: the node daemon.
//!
//! ```text
//!  operators ── http ──┐                          ┌── executor ── drivers: processes, hooks, checks
//!                      ▼      Event      Decision │
//!  proxy, guard ──► agent ──────► core ───────────┼── fronts, proxy_link ── proxy
//!  (Input)            ▲                           └── store: slots, file in force
//!                     └──────── what came of it ──┘
//! ```
//! [`run`] is the process `understudy agent`. It may be killed at any moment: services, proxy and guard go on, and the next
//! agent adopts them (`recover`).

mod addresses;
mod agent;
mod analysis;
mod apply;
mod clock;
mod cluster;
mod dashboard;
mod executor;
mod folder;
mod fronts;
mod given_up;
mod hardware;
mod http;
mod input;
mod journal;
mod keeper;
mod last_words;
mod loopback;
mod measure;
mod memo;
mod outlook;
mod parks;
mod partings;
mod pauses;
mod ports;
mod preflight;
mod proxy_link;
mod recover;
mod revisions;
mod show;
mod slots;
mod took;
mod wishes;
mod words;

pub use dashboard::Place as DashboardPlace;
pub use drivers::preflight::Finding;
pub use http::openapi;
pub use preflight::{Here, preflight};

use std::net::SocketAddr;
use std::path::PathBuf;

/// What an agent is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of the clusters of this machine.
    pub base: PathBuf,
    /// Name of the cluster.
    pub cluster: String,
    /// How many nodes this machine pretends to be, 1 to 26; named `a`, `b`, …
    pub nodes: u32,
    /// A loopback address on which the API may be read, beside the Unix socket.
    pub api: Option<SocketAddr>,
    /// Where the dashboard is on this machine.
    pub dashboard: DashboardPlace,
}

/// Exit code of an agent whose store or configuration must be mended first: starting it again would not help.
pub const EXIT_REFUSED: i32 = guard::EXIT_REFUSED;

/// The API writes its last answer within this.
const ANSWER_FLUSH: std::time::Duration = std::time::Duration::from_millis(100);

/// Runs the agent until `down` (0), a polite signal (143), or something that keeps it from working (1, or [`EXIT_REFUSED`]).
pub fn run(config: Config) -> i32 {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // One thread for the decisions, one for what takes longer.
        .worker_threads(2)
        .thread_name("agent")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the agent cannot start its threads: {error}");
            return 1;
        }
    };
    let code = runtime.block_on(async {
        match recover::start(config).await {
            Ok((agent, queue)) => match tokio::spawn(agent.run(queue)).await {
                Ok(code) => code,
                Err(error) => {
                    eprintln!("error: the agent's loop ended by a bug of ours: {error}");
                    70
                }
            },
            Err(recover::StartError::Down) => 0,
            Err(error) => {
                eprintln!("error: {}", executor::chain(&error));
                if let Some(hint) = error.hint() {
                    eprintln!("hint: {hint}");
                }
                error.exit_code()
            }
        }
    });
    if code == 0 {
        // The answer to `down` is on its way through the API.
        std::thread::sleep(ANSWER_FLUSH);
    }
    // Tasks that still wait (for a process's end, say) must not keep us.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    code
}
