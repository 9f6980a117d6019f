//! The check by command: passes with exit code 0.

use super::attempt::Trouble;
use super::patience::{Over, Patience};
use super::{ExecEnv, late, shown};
use crate::command::{self, Command, Done, End, Error};
use std::time::Duration;

/// The reason of a failure is in its last words.
const OUTPUT_BYTES: usize = 1024;

pub(super) async fn run(
    argv: &[String],
    exec_env: &ExecEnv,
    timeout: Duration,
    patience: Patience,
) -> Result<(), Trouble> {
    let to_run = Command {
        argv,
        env: &exec_env.env,
        dir: exec_env.dir.as_deref(),
        user: exec_env.user.as_deref(),
        input: None,
        keep_bytes: OUTPUT_BYTES,
        // Run every second, a check that leaves something behind would fill the machine.
        kill_leftovers: true,
    };
    let Done { end, output, .. } = command::run(to_run, patience.over())
        .await
        .map_err(|error| match error {
            Error::Start(error) if error.is_ours() => Trouble::Ours(format!("cannot start the check: {error}")),
            Error::Start(error) => Trouble::Instance(format!("cannot start the check: {error}")),
            Error::Lost(error) => Trouble::Ours(format!("lost sight of the check: {error}")),
        })?;
    let what = match end {
        End::Exited(status) if status.success() => return Ok(()),
        End::Exited(status) => command::describe(status),
        End::Killed(Over::Late { by }) => return Err(late(by)),
        End::Killed(Over::InTime) => format!("still running after {}", shown(timeout)),
    };
    Err(Trouble::Instance(match output.last_line() {
        Some(line) => format!("{what}: {line}"),
        None => what,
    }))
}
