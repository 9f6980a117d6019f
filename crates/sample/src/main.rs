//! The samples without the rest, for this crate's tests, which kill them; everybody else runs `understudy sample …`.
//!
//! ```text
//! understudy-sample web PORT [DB]
//! understudy-sample db PORT DATA [WITNESS]
//! understudy-sample sleeper
//! ```

use sample::{DbConfig, Identity, ServeError, WebConfig};
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: understudy-sample web PORT [DB] | db PORT DATA [WITNESS] | sleeper";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["sleeper"] => sample::sleeper(),
        ["web", port, db @ ..] if db.len() < 2 => match address(port) {
            Some(listen) => web(listen, db.first()).await,
            None => return usage(),
        },
        ["db", port, data, witness @ ..] if witness.len() < 2 => match address(port) {
            Some(listen) => db(listen, data, witness.first()).await,
            None => return usage(),
        },
        _ => return usage(),
    };
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    eprint!("{error}");
    let mut source = error.source();
    while let Some(error) = source {
        eprint!(": {error}");
        source = error.source();
    }
    eprintln!();
    ExitCode::FAILURE
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn address(port: &str) -> Option<SocketAddr> {
    Some((Ipv4Addr::LOCALHOST, port.parse().ok()?).into())
}

async fn web(listen: SocketAddr, db: Option<&&str>) -> Result<(), ServeError> {
    sample::web(WebConfig {
        listen,
        db: db.map(|db| (*db).to_owned()),
        start_delay: Duration::ZERO,
        answer_delay: Duration::ZERO,
        identity: Identity::from_env(),
    })
    .await
}

async fn db(listen: SocketAddr, data: &str, witness: Option<&&str>) -> Result<(), ServeError> {
    sample::db(DbConfig {
        listen,
        data: data.into(),
        witness: witness.map(Into::into),
        identity: Identity::from_env(),
    })
    .await
}
