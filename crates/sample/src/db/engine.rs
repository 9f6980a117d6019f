//! The one thread that changes the log. All that changes comes through its queue, in one order: writes of clients,
//! records copied from an active, promotions and demotions. Reads do not: they look at [`View`].
//!
//! ```text
//!            promote(epoch above all seen)
//!  standby ────────────────────────────────► active
//!     ▲  copies records from the active        │  makes records durable, waits for followers, then answers
//!     └────────────────────────────────────────┘
//!            demote
//! ```
//! A change becomes visible to readers only when it is durable here and on every follower in sync, so nobody has seen
//! what a failover could take back.

use super::followers::{Followers, Membership};
use super::log::{self, AppendError, Contents, Lock, Log, Op};
use crate::witness::Witness;
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::{mpsc, oneshot};

/// A change that a client asks for.
#[derive(Debug)]
pub(crate) enum Write {
    Put(String, Bytes),
    Delete(String),
    Count,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) counter: u64,
    pub(crate) existed: bool,
}

/// Why something was not done, for the one who asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this db is a standby; the active one takes reads and writes")]
    NotActive,
    #[error("this db is the active at epoch {epoch}; demote it before it follows another")]
    Active { epoch: u64 },
    #[error("epoch {asked} was asked for, but epoch {seen} was already seen here: another one was promoted since")]
    OldEpoch { asked: u64, seen: u64 },
    #[error("the log could not be written, and nothing was changed: {problem}")]
    NotWritten { problem: String },
    #[error("the witness file could not be written: {problem}")]
    Witness { problem: String },
    #[error("what was sent does not continue the log here")]
    DoesNotFit,
    #[error("another `follow` or `promote` came in between")]
    Overtaken,
    #[error("this db is ending")]
    Ending,
}

pub(crate) type Answer<T> = oneshot::Sender<Result<T, Refused>>;

/// Something for the engine to do.
pub(crate) enum Command {
    Write(Write, Answer<Written>),
    Promote {
        epoch: u64,
        answer: Answer<()>,
    },
    Demote(Answer<()>),
    /// Begins to follow. What is sent later carries the number that comes back, and is refused once another one began.
    Follow(Answer<FollowStart>),
    Receive {
        follow: u64,
        what: Received,
        answer: Answer<u64>,
    },
    /// Somebody wants to follow us.
    Attach {
        peer: String,
        theirs: Place,
        answer: Answer<Attached>,
    },
    /// Answered as soon as the queue has moved: the engine lives and the disk answers.
    Ping(Answer<()>),
}

/// How far a log is, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) position: u64,
    pub(crate) chain: u64,
    pub(crate) epoch: u64,
}

pub(crate) struct FollowStart {
    pub(crate) follow: u64,
    pub(crate) place: Place,
}

/// From the active that is followed. Answered with the position up to which all is durable.
pub(crate) enum Received {
    SnapshotBegin,
    Records(Vec<u8>),
    SnapshotEnd,
}

pub(crate) struct Attached {
    pub(crate) membership: Membership,
    pub(crate) file: Arc<File>,
    /// Where to send from; `None`: everything, as a snapshot.
    pub(crate) from: Option<u64>,
}

/// What readers see.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) active: bool,
    pub(crate) contents: Contents,
    pub(crate) position: u64,
}

pub(crate) struct Shared {
    view: RwLock<View>,
    pub(crate) followers: Followers,
    pub(crate) witness: Option<Arc<Witness>>,
}

impl Shared {
    pub(crate) fn new(contents: Contents, log: &Log, witness: Option<Arc<Witness>>) -> Self {
        Self {
            view: RwLock::new(View {
                active: false,
                contents,
                position: log.end(),
            }),
            followers: Followers::new(log.end()),
            witness,
        }
    }

    pub(crate) fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads as the active, or says that this is none. The witness sees the moment.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Contents) -> T) -> Result<T, Refused> {
        let view = self.view();
        if !view.active {
            return Err(Refused::NotActive);
        }
        self.stamp();
        Ok(read(&view.contents))
    }

    fn change<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        change(&mut self.view.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn stamp(&self) {
        if let Some(witness) = &self.witness {
            witness.stamp();
        }
    }
}

/// Commands that wait. More than clients can have under way through 1,000 connections; then they wait outside.
const QUEUE_MAX: usize = 1024;
/// Writes that share one fsync. All that can wait in the queue.
const BATCH_MAX: usize = QUEUE_MAX;

pub(crate) fn queue() -> (mpsc::Sender<Command>, mpsc::Receiver<Command>) {
    mpsc::channel(QUEUE_MAX)
}

pub(crate) struct Engine {
    log: Log,
    shared: Arc<Shared>,
    /// Counts the `Follow`s.
    follow: u64,
    /// A snapshot that is being received.
    incoming: Option<(Log, Contents)>,
    _lock: Lock,
}

impl Engine {
    pub(crate) fn new(lock: Lock, log: Log, shared: Arc<Shared>) -> Self {
        Self {
            log,
            shared,
            follow: 0,
            incoming: None,
            _lock: lock,
        }
    }

    /// Works until the queue is closed. An error is the end of this process: nobody knows what is on the disk.
    pub(crate) fn run(mut self, mut queue: mpsc::Receiver<Command>) -> io::Result<()> {
        let mut next = queue.blocking_recv();
        while let Some(command) = next.take() {
            match command {
                Command::Write(write, answer) => {
                    let mut batch = vec![(write, answer)];
                    while batch.len() < BATCH_MAX && !is_full(&batch) {
                        match queue.try_recv() {
                            Ok(Command::Write(write, answer)) => batch.push((write, answer)),
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.write(batch)?;
                }
                Command::Promote { epoch, answer } => reply(answer, self.promote(epoch)?),
                Command::Demote(answer) => {
                    self.demote();
                    reply(answer, Ok(()));
                }
                Command::Follow(answer) => reply(answer, self.follow()),
                Command::Receive { follow, what, answer } => {
                    reply(answer, self.receive(follow, what)?);
                }
                Command::Attach { peer, theirs, answer } => {
                    reply(answer, self.attach(peer, theirs)?);
                }
                Command::Ping(answer) => reply(answer, Ok(())),
            }
            if next.is_none() {
                next = queue.blocking_recv();
            }
        }
        self.demote();
        Ok(())
    }

    fn write(&mut self, batch: Vec<(Write, Answer<Written>)>) -> io::Result<()> {
        let (mut ops, mut results) = (Vec::new(), Vec::new());
        {
            let view = self.shared.view();
            if !view.active {
                batch
                    .into_iter()
                    .for_each(|(_, answer)| reply(answer, Err(Refused::NotActive)));
                return Ok(());
            }
            let mut counter = view.contents.counter;
            for (write, answer) in batch {
                let existed = match &write {
                    Write::Put(key, _) | Write::Delete(key) => exists(key, &ops, &view.contents),
                    Write::Count => true,
                };
                ops.push(match write {
                    Write::Put(key, value) => Op::Put(key, value),
                    Write::Delete(key) => Op::Delete(key),
                    Write::Count => {
                        counter += 1;
                        Op::Counter(counter)
                    }
                });
                results.push((answer, Written { counter, existed }));
            }
        }
        let outcome = match self.log.append(&ops) {
            Ok(()) => Ok(()),
            Err(AppendError::Refused(error)) => Err(Refused::NotWritten {
                problem: error.to_string(),
            }),
            Err(AppendError::Unknown(error)) => {
                // The writers get no answer, which is the truth: their connections break.
                return Err(error);
            }
        };
        if outcome.is_ok() {
            self.commit();
            self.shared.change(|view| {
                ops.into_iter().for_each(|op| view.contents.apply(op));
                view.position = self.log.end();
            });
            self.shared.stamp();
        }
        for (answer, written) in results {
            reply(answer, outcome.clone().map(|()| written));
        }
        Ok(())
    }

    fn commit(&self) {
        for peer in self.shared.followers.commit(self.log.end()) {
            eprintln!("the follower at {peer} did not confirm a write in time and is out of sync");
        }
    }

    fn promote(&mut self, epoch: u64) -> io::Result<Result<(), Refused>> {
        let (active, seen) = {
            let view = self.shared.view();
            (view.active, view.contents.epoch)
        };
        if active && epoch == seen {
            // The one who asked before did not get our answer.
            return Ok(Ok(()));
        }
        if epoch <= seen {
            return Ok(Err(Refused::OldEpoch { asked: epoch, seen }));
        }
        match self.log.append(&[Op::Epoch(epoch)]) {
            Ok(()) => {}
            Err(AppendError::Refused(error)) => {
                let problem = error.to_string();
                return Ok(Err(Refused::NotWritten { problem }));
            }
            Err(AppendError::Unknown(error)) => return Err(error),
        }
        self.incoming = None;
        self.follow += 1;
        self.commit();
        if let Some(witness) = &self.shared.witness {
            witness.end();
            if let Err(error) = witness.begin(epoch) {
                self.demote();
                let problem = error.to_string();
                return Ok(Err(Refused::Witness { problem }));
            }
        }
        self.shared.change(|view| {
            view.contents.epoch = epoch;
            view.position = self.log.end();
            view.active = true;
        });
        eprintln!("promoted: active at epoch {epoch}");
        Ok(Ok(()))
    }

    fn demote(&mut self) {
        let was_active = self.shared.change(|view| std::mem::replace(&mut view.active, false));
        if let Some(witness) = &self.shared.witness {
            witness.end();
        }
        if was_active {
            self.shared.followers.dismiss();
            eprintln!("demoted: standby");
        }
    }

    fn follow(&mut self) -> Result<FollowStart, Refused> {
        let view = self.shared.view();
        if view.active {
            return Err(Refused::Active {
                epoch: view.contents.epoch,
            });
        }
        self.follow += 1;
        self.incoming = None;
        Ok(FollowStart {
            follow: self.follow,
            place: Place {
                position: self.log.end(),
                chain: self.log.chain(),
                epoch: view.contents.epoch,
            },
        })
    }

    fn receive(&mut self, follow: u64, what: Received) -> io::Result<Result<u64, Refused>> {
        if follow != self.follow {
            return Ok(Err(Refused::Overtaken));
        }
        let received = match what {
            Received::SnapshotBegin => self.begin_snapshot(),
            Received::Records(records) => match self.incoming.take() {
                Some(incoming) => self.add_to_snapshot(incoming, &records),
                None => match self.log.append_records(&records) {
                    Ok(Some(ops)) => {
                        self.shared.change(|view| {
                            ops.into_iter().for_each(|op| view.contents.apply(op));
                            view.position = self.log.end();
                        });
                        Ok(())
                    }
                    Ok(None) => Err(Refused::DoesNotFit),
                    Err(AppendError::Refused(error)) => Err(not_written(&error)),
                    Err(AppendError::Unknown(error)) => return Err(error),
                },
            },
            Received::SnapshotEnd => match self.incoming.take() {
                Some((log, contents)) => return self.end_snapshot(log, contents),
                None => Err(Refused::DoesNotFit),
            },
        };
        Ok(received.map(|()| self.log.end()))
    }

    fn begin_snapshot(&mut self) -> Result<(), Refused> {
        let log = Log::create(&log::beside(self.log.path())).map_err(|error| not_written(&error))?;
        self.incoming = Some((log, Contents::default()));
        Ok(())
    }

    fn add_to_snapshot(&mut self, (mut log, mut contents): (Log, Contents), records: &[u8]) -> Result<(), Refused> {
        let ops = log.collect_records(records).map_err(|error| not_written(&error))?;
        let ops = ops.ok_or(Refused::DoesNotFit)?;
        ops.into_iter().for_each(|op| contents.apply(op));
        self.incoming = Some((log, contents));
        Ok(())
    }

    fn end_snapshot(&mut self, mut log: Log, contents: Contents) -> io::Result<Result<u64, Refused>> {
        let seen = self.shared.view().contents.epoch;
        if contents.epoch < seen {
            return Ok(Err(Refused::OldEpoch {
                asked: contents.epoch,
                seen,
            }));
        }
        let target = self.log.path().to_owned();
        log.install(&target)?;
        self.log = log;
        self.shared.change(|view| {
            view.contents = contents;
            view.position = self.log.end();
        });
        Ok(Ok(self.log.end()))
    }

    fn attach(&mut self, peer: String, theirs: Place) -> io::Result<Result<Attached, Refused>> {
        let view = self.shared.view();
        if !view.active {
            return Ok(Err(Refused::NotActive));
        }
        let seen = view.contents.epoch;
        if theirs.epoch > seen {
            return Ok(Err(Refused::OldEpoch {
                asked: seen,
                seen: theirs.epoch,
            }));
        }
        let continues = self.log.begins_with(theirs.position, theirs.chain)?;
        Ok(Ok(Attached {
            membership: self.shared.followers.join(peer),
            file: self.log.file(),
            from: continues.then_some(theirs.position),
        }))
    }
}

fn reply<T>(answer: Answer<T>, result: Result<T, Refused>) {
    // Whoever asked may have gone away.
    answer.send(result).ok();
}

fn not_written(error: &io::Error) -> Refused {
    Refused::NotWritten {
        problem: error.to_string(),
    }
}

fn exists(key: &str, before: &[Op], contents: &Contents) -> bool {
    let in_batch = before.iter().rev().find_map(|op| match op {
        Op::Put(put, _) if put == key => Some(true),
        Op::Delete(deleted) if deleted == key => Some(false),
        _ => None,
    });
    in_batch.unwrap_or_else(|| contents.entries.contains_key(key))
}

fn is_full(batch: &[(Write, Answer<Written>)]) -> bool {
    let bytes: usize = batch
        .iter()
        .map(|(write, _)| match write {
            Write::Put(key, value) => key.len() + value.len(),
            Write::Delete(key) => key.len(),
            Write::Count => 8,
        })
        .sum();
    bytes > log::BATCH_BYTES_FULL
}
