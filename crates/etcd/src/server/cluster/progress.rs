//! How far a join is, and how long it may go on.

use super::Error;
use std::fmt;
use std::time::{Duration, Instant};

/// Between two tries: short beside what people notice, long beside a request.
pub(super) const AGAIN: Duration = Duration::from_millis(50);

/// A member applies the removal of another one only when what it was sending that is sent, or given up: etcd's limit for that is 5 s.
pub(super) const LETS_GO: Duration = Duration::from_secs(6);

/// How far a join or a removal is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The cluster does not take a new member yet.
    Waiting {
        /// Why.
        because: String,
    },
    /// The cluster knows it, without a vote.
    Added,
    /// Its process runs.
    Started {
        /// Its number.
        pid: u32,
    },
    /// It copies what the others have.
    CatchingUp {
        /// Entries of the log that it lacks, if it answers.
        behind: Option<u64>,
    },
    /// A member that is silent is taken out when the others have given up what they were sending it.
    LettingGo,
    /// It has a vote.
    Promoted {
        /// Since the join began.
        took: Duration,
    },
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Progress::Waiting { because } => write!(f, "waiting until the cluster takes a new member ({because})"),
            Progress::Added => f.write_str("added, without a vote as yet"),
            Progress::Started { pid } => write!(f, "etcd runs as process {pid}"),
            Progress::CatchingUp { behind: Some(behind) } => write!(f, "catching up, {behind} entries behind"),
            Progress::CatchingUp { behind: None } => f.write_str("catching up"),
            Progress::LettingGo => write!(
                f,
                "it does not answer: taken out in {} s, when nobody waits to send it anything, or the store would stand still",
                LETS_GO.as_secs()
            ),
            Progress::Promoted { took } => write!(f, "it has a vote now, after {:.1}s", took.as_secs_f64()),
        }
    }
}

/// A join under way.
pub(super) struct Attempt<'a> {
    pub(super) name: String,
    pub(super) begun: Instant,
    pub(super) patience: Duration,
    pub(super) told: Option<Progress>,
    pub(super) tell: &'a mut (dyn FnMut(Progress) + Send + Sync),
}

impl Attempt<'_> {
    /// Says everything once.
    pub(super) fn tell(&mut self, progress: Progress) {
        if self.told.as_ref() != Some(&progress) {
            (self.tell)(progress.clone());
            self.told = Some(progress);
        }
    }

    pub(super) async fn again(&self, last: String) -> Result<(), Error> {
        if self.begun.elapsed() >= self.patience {
            return Err(Error::NotJoined {
                name: self.name.clone(),
                waited: self.begun.elapsed(),
                last,
            });
        }
        tokio::time::sleep(AGAIN).await;
        Ok(())
    }
}
