//! One member: the connection to it, and how it has done lately.

use super::dial::{Line, Target};
use super::failure::{Cause, Failure};
use super::keeper::Bell;
use crate::pb::maintenance_client::MaintenanceClient;
use crate::pb::{StatusRequest, StatusResponse};
use model::Revision;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::ServerError;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

// A member that is down refuses at once, so the first tries may come quickly.
const BACK_OFF_FIRST: Duration = Duration::from_millis(5);
// A member that hangs takes connections all the same, as its kernel does it, and has to go through all of them when it goes on: a new one every
// half a second from every agent would keep it busy for seconds just then.
const MUTE_MAX: Duration = Duration::from_secs(30);

/// A member, as a client knows it.
pub(crate) struct Link {
    pub(crate) target: Target,
    state: Mutex<State>,
    /// Held while connecting: one connection per member, and one attempt at it. An attempt outlives who began it.
    dialing: tokio::sync::Mutex<JoinSet<Result<(Line, StatusResponse), Cause>>>,
    reconnect: Duration,
    /// Rung when a connection ends.
    bell: Arc<Bell>,
}

#[derive(Default)]
struct State {
    up: Option<Up>,
    failed: Option<Failed>,
    /// It did not answer in time, and has not answered since.
    suspect: bool,
    /// Its id, once it was told.
    member: u64,
}

struct Failed {
    cause: Cause,
    until: Instant,
    pause: Duration,
}

/// A connection to a member that has said who it is.
#[derive(Clone)]
pub(crate) struct Up {
    pub(crate) line: Line,
    /// It has shown that it is not behind what was seen before.
    pub(crate) current: Arc<AtomicBool>,
}

/// How a member has done lately, for choosing whom to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) member: u64,
    pub(crate) connected: bool,
    pub(crate) failing: bool,
    pub(crate) suspect: bool,
}

impl Standing {
    /// Whether nothing speaks against it.
    pub(crate) fn is_fine(self) -> bool {
        !self.failing && !self.suspect
    }
}

impl Link {
    pub(crate) fn new(target: Target, reconnect: Duration, bell: Arc<Bell>) -> Self {
        Self {
            target,
            state: Mutex::default(),
            dialing: tokio::sync::Mutex::default(),
            reconnect,
            bell,
        }
    }

    /// The connection, made now if there is none. `identify` says whether whoever answered is whom we want.
    pub(crate) async fn up(
        &self,
        limit: Duration,
        identify: impl Fn(&StatusResponse) -> Result<(), ServerError>,
    ) -> Result<Up, Failure> {
        if let Some(up) = self.connected() {
            return Ok(up);
        }
        let mut dialing = self.dialing.lock().await;
        if let Some(up) = self.connected() {
            return Ok(up);
        }
        if let Some(cause) = self.resting() {
            return Err(Failure::certain(&self.target.name, cause));
        }
        if dialing.is_empty() {
            dialing.spawn(dial(self.target.clone(), Arc::clone(&self.bell), limit));
        }
        let made = match timeout(limit, dialing.join_next()).await {
            Ok(Some(Ok(made))) => made,
            Ok(Some(Err(error))) => Err(Cause::Connect(error.to_string())),
            // It is still waited for when somebody asks again.
            Ok(None) | Err(_) => Err(Cause::TimedOut),
        };
        let made = made.and_then(|(line, status)| {
            if line.condemned() {
                return Err(Cause::Connect("closed by the other side".into()));
            }
            identify(&status).map_err(Cause::Server)?;
            let current = Arc::new(AtomicBool::new(false));
            let member = status.header.map_or(0, |header| header.member_id);
            Ok((Up { line, current }, member))
        });
        let mut state = self.state();
        match made {
            Ok((up, member)) => {
                state.member = member;
                state.failed = None;
                state.suspect = false;
                state.up = Some(up.clone());
                tracing::debug!(endpoint = self.target.name, "connected to etcd");
                Ok(up)
            }
            Err(cause) => {
                let last = state.failed.as_ref().map(|failed| failed.pause);
                let pause = last.map_or(BACK_OFF_FIRST, |pause| pause * 2).min(self.reconnect);
                state.failed = Some(Failed {
                    cause: cause.clone(),
                    until: Instant::now() + pause,
                    pause,
                });
                Err(Failure::certain(&self.target.name, cause))
            }
        }
    }

    fn connected(&self) -> Option<Up> {
        self.state().live().cloned()
    }

    fn resting(&self) -> Option<Cause> {
        let state = self.state();
        let failed = state.failed.as_ref()?;
        (Instant::now() < failed.until).then(|| failed.cause.clone())
    }

    /// It answered.
    pub(crate) fn fine(&self) {
        self.state().suspect = false;
    }

    /// It did not answer in time: others are asked before it from now on.
    pub(crate) fn suspect(&self) {
        self.state().suspect = true;
    }

    /// What keeps us from it, if something does.
    pub(crate) fn problem(&self) -> Option<String> {
        let state = self.state();
        match (&state.failed, state.suspect) {
            (Some(failed), _) if state.live().is_none() => Some(failed.cause.to_string()),
            (_, true) => Some("no answer in time".into()),
            _ => None,
        }
    }

    pub(crate) fn standing(&self) -> Standing {
        let state = self.state();
        Standing {
            member: state.member,
            connected: state.live().is_some(),
            failing: state.live().is_none() && state.failed.is_some(),
            suspect: state.suspect,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a plain assignment, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The connection, unless it has ended.
    fn live(&self) -> Option<&Up> {
        self.up.as_ref().filter(|up| !up.line.condemned())
    }
}

impl Up {
    pub(crate) fn is_current(&self) -> bool {
        self.current.load(Ordering::Acquire)
    }

    pub(crate) fn set_current(&self) {
        self.current.store(true, Ordering::Release);
    }
}

/// Makes a connection, and asks who is behind it.
async fn dial(target: Target, bell: Arc<Bell>, limit: Duration) -> Result<(Line, StatusResponse), Cause> {
    let ask = async {
        let (line, impatience) = target.dial(bell, limit).await?;
        let mut member = MaintenanceClient::new(line.channel.clone());
        let status = member.status(StatusRequest {}).await.map_err(|status| {
            let failure = Failure::from_status(&target.name, None, &status);
            target.tls_reason(&line).unwrap_or(match failure.cause {
                Cause::Lost(reason) => Cause::Connect(format!("closed by the other side: {reason}")),
                cause => cause,
            })
        })?;
        let ended = impatience.end();
        ended.map_err(|error| Cause::Connect(error.to_string()))?;
        Ok((line, status.into_inner()))
    };
    timeout(MUTE_MAX, ask).await.unwrap_or(Err(Cause::TimedOut))
}

/// Whom to ask, best first: who answers before who does not, then the leader, then who answered last.
pub(crate) fn order(standings: &[Standing], leader: u64, last_good: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..standings.len()).collect();
    order.sort_by_key(|&index| {
        let standing = standings[index];
        let leads = leader != 0 && standing.member == leader;
        (
            standing.failing || standing.suspect,
            standing.failing,
            !leads,
            index != last_good,
            !standing.connected,
            index,
        )
    });
    order
}

/// Whether a revision that a member answers with is one it should have by now.
pub(crate) fn not_back(endpoint: &str, known: u64, found: u64) -> Result<(), ServerError> {
    if found < known {
        return Err(ServerError::WentBack {
            endpoint: endpoint.to_owned(),
            known: Revision(known),
            found: Revision(found),
        });
    }
    Ok(())
}

/// Whether we know this version of etcd: 3.4 and later of 3.x.
pub(crate) fn known_version(endpoint: &str, version: &str) -> Result<(), ServerError> {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(3), Some(minor)) if minor >= 4 => Ok(()),
        _ => Err(ServerError::Version {
            endpoint: endpoint.to_owned(),
            version: version.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Standing = Standing {
        member: 0,
        connected: true,
        failing: false,
        suspect: false,
    };

    #[test]
    fn the_leader_is_asked_first_unless_it_does_not_answer() {
        let member = |member| Standing { member, ..FINE };
        let mut standings = [member(1), member(2), member(3)];
        assert_eq!(order(&standings, 0, 0), [0, 1, 2]);
        assert_eq!(order(&standings, 0, 2), [2, 0, 1], "who answered last");
        assert_eq!(
            order(&standings, 2, 2),
            [1, 2, 0],
            "the leader before who answered last"
        );
        standings[1].suspect = true;
        assert_eq!(order(&standings, 2, 2), [2, 0, 1]);
        standings[2].failing = true;
        assert_eq!(order(&standings, 2, 2), [0, 1, 2], "a slow one before one that is down");
        standings[0].connected = false;
        assert_eq!(order(&standings, 0, 7)[0], 0);
    }

    #[test]
    fn versions_from_3_4_on_are_known() {
        for version in ["3.4.0", "3.4.23", "3.5.28", "3.6.9", "3.17.0-rc.1"] {
            assert_eq!(known_version("e", version), Ok(()), "{version}");
        }
        for version in ["3.3.27", "2.3.8", "4.0.0", "", "3", "x.4.1", "3.x"] {
            assert!(known_version("e", version).is_err(), "{version}");
        }
    }

    #[test]
    fn a_revision_may_not_go_back() {
        assert_eq!(not_back("e", 7, 7), Ok(()));
        assert!(matches!(not_back("e", 7, 6), Err(ServerError::WentBack { .. })));
    }
}
