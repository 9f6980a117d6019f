//! Clients that do everything at once and write down what they asked and what they were told.

use super::wgl::{Call, History, KEYS, Operation, Reply};
use client::{Client, Condition, Error, Transaction, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Calls of each client.
    pub calls: usize,
    /// What they choose is drawn from it.
    pub seed: u64,
    /// Pauses between calls, up to this.
    pub pause: Duration,
}

/// A history and what was told of revisions beside it.
#[derive(Debug, Default)]
pub struct Recorded {
    /// Calls and answers.
    pub history: History,
    /// Which revision each value was read at, or acknowledged with.
    pub revisions: Vec<(u32, u64)>,
}

/// One client's part.
struct Actor {
    number: usize,
    client: Client,
    random: fastrand::Rng,
    /// Order of all calls and answers.
    ticks: Arc<AtomicU64>,
    /// Values, none twice.
    values: Arc<AtomicU32>,
    /// What was last known of each key.
    known: [Option<(u32, u64)>; KEYS],
    recorded: Recorded,
}

/// Lets `clients`, at most 8 of them, do as planned on keys that nobody else uses and that do not exist yet.
pub async fn record(clients: Vec<Client>, plan: Plan) -> Recorded {
    assert!(clients.len() <= 8, "the search grows with the number of clients");
    let ticks = Arc::new(AtomicU64::new(0));
    let values = Arc::new(AtomicU32::new(1));
    let mut running = tokio::task::JoinSet::new();
    for (number, client) in clients.into_iter().enumerate() {
        let mut actor = Actor {
            number,
            client,
            random: fastrand::Rng::with_seed(plan.seed * 8 + number as u64),
            ticks: Arc::clone(&ticks),
            values: Arc::clone(&values),
            known: [None; KEYS],
            recorded: Recorded::default(),
        };
        running.spawn(async move {
            for _ in 0..plan.calls {
                actor.step().await;
                let micros = u64::try_from(plan.pause.as_micros()).unwrap_or(0);
                tokio::time::sleep(Duration::from_micros(actor.random.u64(..=micros))).await;
            }
            actor.recorded
        });
    }
    let mut all = Recorded::default();
    for one in running.join_all().await {
        all.history.extend(one.history);
        all.revisions.extend(one.revisions);
    }
    all
}

/// Whether each value was made by one revision and each revision made one value: says where not.
pub fn revisions_agree(recorded: &Recorded) -> Result<(), String> {
    let mut of_value: BTreeMap<u32, u64> = BTreeMap::new();
    let mut of_revision: BTreeMap<u64, u32> = BTreeMap::new();
    for (value, revision) in &recorded.revisions {
        let known = *of_value.entry(*value).or_insert(*revision);
        let made = *of_revision.entry(*revision).or_insert(*value);
        if known != *revision || made != *value {
            return Err(format!(
                "value {value} has revision {revision}, before it was revision {known}, and that revision made value {made}"
            ));
        }
    }
    Ok(())
}

impl Actor {
    async fn step(&mut self) {
        let key = self.random.usize(..KEYS);
        let value = self.values.fetch_add(1, Ordering::Relaxed);
        let call = match (self.random.u8(..100), self.known[key]) {
            (0..25, _) => Call::Get(key),
            (25..35, _) => Call::List,
            (35..50, _) => Call::Put(key, value),
            (50..58, _) => Call::Delete(key),
            (58..65, _) | (_, None) => Call::Cas(key, None, value),
            (65..85, Some((was, _))) => Call::Cas(key, Some(was), value),
            (_, Some((was, _))) => Call::Move([key, (key + 1) % KEYS, (key + 2) % KEYS], was, value),
        };
        let called = self.ticks.fetch_add(1, Ordering::SeqCst);
        let outcome = self.ask(&call).await;
        let answered = self.ticks.fetch_add(1, Ordering::SeqCst);
        let (answered, reply) = match outcome {
            Ok(reply) => (Some(answered), Some(reply)),
            Err(Error::Unknown { .. }) => (None, None),
            // Nothing was changed and nothing was told.
            Err(Error::NotReached { .. }) => return,
            Err(Error::Refused { code, .. }) if code == "busy" => return,
            Err(error) => panic!("{call:?}: {error:?}"),
        };
        self.recorded.history.push(Operation {
            client: self.number,
            called,
            answered,
            call,
            reply,
        });
    }

    async fn ask(&mut self, call: &Call) -> Result<Reply, Error> {
        let client = self.client.clone();
        Ok(match call {
            Call::Get(key) => {
                let value = client.get(name(*key)).await?;
                Reply::Value(self.learn(*key, value.as_ref()))
            }
            Call::List => {
                let page = client.list("", None, 100).await?;
                Reply::All(self.learn_all(|key| page.values.iter().find(|value| value.key == name(key))))
            }
            Call::Put(key, value) => {
                let revision = client.put(name(*key), value.to_string()).await?;
                self.wrote(*key, *value, revision);
                Reply::Done
            }
            Call::Delete(key) => {
                self.known[*key] = None;
                Reply::Deleted(client.delete(name(*key)).await?)
            }
            Call::Cas(key, was, value) => {
                let swapped = match self.known[*key].filter(|(known, _)| Some(*known) == *was) {
                    Some((_, revision)) => client.cas(name(*key), value.to_string(), revision).await,
                    None => client.create(name(*key), value.to_string()).await,
                };
                match swapped {
                    Ok(revision) => {
                        self.wrote(*key, *value, revision);
                        Reply::Done
                    }
                    Err(Error::Mismatch { .. }) => {
                        self.known[*key] = None;
                        Reply::Mismatch
                    }
                    Err(error) => return Err(error),
                }
            }
            Call::Move(keys, _, value) => self.shift(&client, *keys, *value).await?,
        })
    }

    async fn shift(&mut self, client: &Client, keys: [usize; 3], value: u32) -> Result<Reply, Error> {
        let [from, to, other] = keys;
        let revision = self.known[from].map_or(0, |(_, revision)| revision);
        let transaction = Transaction {
            conditions: vec![Condition::Revision {
                key: name(from).into(),
                is: revision,
            }],
            then: vec![
                client::Operation::Delete { key: name(from).into() },
                client::Operation::Put {
                    key: name(to).into(),
                    value: value.to_string().into(),
                },
                client::Operation::Get {
                    key: name(other).into(),
                },
            ],
            otherwise: (0..KEYS).map(|key| name(key).into()).collect(),
        };
        self.known[from] = None;
        let done = client.transact(&transaction).await?;
        if !done.succeeded {
            return Ok(Reply::All(self.learn_all(|key| done.reads[key].as_ref())));
        }
        self.wrote(to, value, done.revision);
        Ok(Reply::Moved(self.learn(other, done.reads[0].as_ref())))
    }

    fn learn(&mut self, key: usize, value: Option<&Value>) -> Option<u32> {
        self.known[key] = None;
        let value = value?;
        let number = std::str::from_utf8(&value.value).ok()?.parse().ok()?;
        self.wrote(key, number, value.revision);
        Some(number)
    }

    fn learn_all<'a>(&mut self, of: impl Fn(usize) -> Option<&'a Value>) -> [Option<u32>; KEYS] {
        let mut all = [None; KEYS];
        for (key, value) in all.iter_mut().enumerate() {
            *value = self.learn(key, of(key));
        }
        all
    }

    fn wrote(&mut self, key: usize, value: u32, revision: u64) {
        self.known[key] = Some((value, revision));
        self.recorded.revisions.push((value, revision));
    }
}

fn name(key: usize) -> &'static str {
    ["a", "b", "c"][key]
}
