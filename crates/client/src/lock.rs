//! Locks: acquired, renewed in the background, given back.

use crate::kv::encode;
use crate::transport::{Call, escaped};
use crate::{Client, Condition, Error, Lease, clock};
use http::Method;
use serde::Deserialize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Longest wait that one request may ask for; a longer wish is asked again.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A wish for a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockOptions {
    /// Who asks: shown to the others.
    pub owner: String,
    /// How long after it sent what was acknowledged last the holder may go on: 200 ms to an hour. Another one gets the
    /// lock a little later than that after the holder is gone.
    pub ttl: Duration,
    /// How long to wait for it.
    pub wait: Duration,
}

/// A lock that somebody holds, as the store has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Held {
    /// Its name.
    pub name: String,
    /// Who holds it.
    pub owner: String,
    /// Larger than that of every holder before.
    pub token: u64,
    /// Time to live in milliseconds.
    pub ttl_ms: u64,
    /// The revision of the last renewal.
    pub renewed: u64,
}

/// A lock that this process has, until its time is up. Renewed in the background; given back when dropped, if there is
/// a runtime and the agent answers, else when its time is up.
pub struct Lock {
    client: Client,
    name: String,
    token: u64,
    lease: Arc<Mutex<Lease>>,
    over: watch::Receiver<bool>,
    renewing: tokio::task::JoinHandle<()>,
    released: bool,
}

#[derive(Deserialize)]
struct Released {
    released: bool,
}

impl LockOptions {
    /// A wish that does not wait.
    pub fn new(owner: impl Into<String>, ttl: Duration) -> Self {
        Self {
            owner: owner.into(),
            ttl,
            wait: Duration::ZERO,
        }
    }

    /// The same wish with a wait.
    #[must_use]
    pub fn waiting(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }
}

impl Client {
    /// Acquires a lock. [`Error::Held`] if somebody else has it at the end of the wait.
    pub async fn acquire(&self, name: &str, options: &LockOptions) -> Result<Lock, Error> {
        let mut attempt = [0; 8];
        getrandom::fill(&mut attempt).map_err(|error| Error::NotConfigured {
            problem: format!("the kernel gives no random numbers: {error}"),
        })?;
        let attempt = format!("{:016x}", u64::from_le_bytes(attempt));
        let until = tokio::time::Instant::now() + options.wait;
        let (held, sent) = loop {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            let sent = clock::now();
            match self.ask_for(name, options, &attempt, left.min(WAIT_MAX)).await {
                Ok(held) => break (held, sent),
                Err(Error::Held { .. }) if left > WAIT_MAX => {}
                Err(error) => return Err(error),
            }
        };
        let mut lease = Lease::new(options.ttl, sent);
        // The wait was part of the request, so its sending says little: the first renewal says more.
        if clock::now().held_for(sent) > options.ttl / 4 {
            let sent = clock::now();
            self.renew(name, held.token, options.ttl).await?;
            lease = Lease::new(options.ttl, sent);
        }
        Ok(Lock::keep(self.clone(), name, held.token, lease))
    }

    /// Who holds a lock now. Its time may be up all the same.
    pub async fn lock(&self, name: &str) -> Result<Option<Held>, Error> {
        let call = self.request(Method::GET, format!("/v1/state/locks/{}", escaped(name, false)));
        match self.ask(&call).await {
            Ok(held) => Ok(Some(held)),
            Err(Error::Refused { code, .. }) if code == "not_found" => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn ask_for(&self, name: &str, options: &LockOptions, attempt: &str, wait: Duration) -> Result<Held, Error> {
        let mut call = self.lock_call(name, "acquire");
        call.body = encode(&serde_json::json!({
            "owner": options.owner,
            "ttl_ms": millis(options.ttl),
            "wait_ms": millis(wait),
            "attempt": attempt,
        }))?;
        call.each += wait;
        call.total += wait;
        self.ask(&call).await
    }

    /// Renews once, at whichever agent answers, within the time of the lease.
    async fn renew(&self, name: &str, token: u64, within: Duration) -> Result<(), Error> {
        let mut call = self.lock_call(name, "renew");
        call.body = encode(&serde_json::json!({ "token": token }))?;
        // One agent that hangs must leave time for the next.
        call.each = call.each.min(within / 3);
        call.total = call.total.min(within);
        self.ask::<Held>(&call).await.map(drop)
    }

    /// Acquiring with an attempt, renewing and releasing twice is the same as once.
    fn lock_call(&self, name: &str, what: &str) -> Call {
        let mut call = self.request(Method::POST, format!("/v1/state/locks/{}/{what}", escaped(name, false)));
        call.repeatable = true;
        call
    }
}

impl Lock {
    fn keep(client: Client, name: &str, token: u64, lease: Lease) -> Self {
        let lease = Arc::new(Mutex::new(lease));
        let (told, over) = watch::channel(false);
        let keeper = Keeper {
            client: client.clone(),
            name: name.into(),
            token,
            lease: Arc::clone(&lease),
        };
        let renewing = tokio::spawn(async move {
            keeper.run().await;
            told.send_replace(true);
        });
        Self {
            client,
            name: name.into(),
            token,
            lease,
            over,
            renewing,
            released: false,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Larger than that of every holder before: hand it to whatever should refuse a holder that was replaced.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// The condition that this lock is held, for writes: checked where the write is made.
    pub fn held(&self) -> Condition {
        Condition::Lock {
            name: self.name.clone(),
            token: self.token,
        }
    }

    /// How long this process may go on without another renewal. Zero: it must have stopped, and this never changes again.
    pub fn remaining(&self) -> Duration {
        let mut lease = locked(&self.lease);
        let now = clock::now();
        lease.settle(now);
        lease.remaining(now)
    }

    /// Whether this process may still act as the holder, now. A moment later it may not: for what must never be done by
    /// two, give [`Lock::held`] or [`Lock::token`] along.
    pub fn still_mine(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Returns when the lock is lost. After a pause of the whole process this may be late, [`Lock::still_mine`] is not.
    pub async fn lost(&self) {
        let mut over = self.over.clone();
        // An error means that the keeper is gone, and with it the lock.
        let _ = over.wait_for(|over| *over).await;
    }

    /// Gives the lock back. Stop what it protects before. Returns whether it was held until now.
    pub async fn release(mut self) -> Result<bool, Error> {
        self.released = true;
        self.renewing.abort();
        locked(&self.lease).end();
        release(&self.client, &self.name, self.token).await
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.renewing.abort();
        let ended = locked(&self.lease).settle(clock::now());
        locked(&self.lease).end();
        if self.released || ended {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (client, name, token) = (self.client.clone(), self.name.clone(), self.token);
            runtime.spawn(async move {
                // If it fails the lock ends when its time is up.
                let _ = release(&client, &name, token).await;
            });
        }
    }
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lock")
            .field("name", &self.name)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

async fn release(client: &Client, name: &str, token: u64) -> Result<bool, Error> {
    let mut call = client.lock_call(name, "release");
    call.body = encode(&serde_json::json!({ "token": token }))?;
    Ok(client.ask::<Released>(&call).await?.released)
}

/// Renews a lock until it is lost.
struct Keeper {
    client: Client,
    name: String,
    token: u64,
    lease: Arc<Mutex<Lease>>,
}

impl Keeper {
    async fn run(&self) {
        let every = locked(&self.lease).ttl() / 4;
        let mut answered = true;
        loop {
            let left = self.left();
            if left.is_zero() {
                return;
            }
            // After a renewal without an answer the next one follows soon, if a question is answered first: a holder that
            // can only send would keep the lock from everybody for ever and not have it itself.
            let pause = if answered { every } else { every / 4 };
            tokio::time::sleep(pause.min(left)).await;
            let left = self.left();
            if left.is_zero() {
                return;
            }
            if !answered {
                match tokio::time::timeout(left, self.client.lock(&self.name)).await {
                    Ok(Ok(Some(held))) if held.token == self.token => {}
                    Ok(Ok(_)) => return locked(&self.lease).end(),
                    Ok(Err(_)) | Err(_) => continue,
                }
            }
            let sent = clock::now();
            answered = match self.client.renew(&self.name, self.token, self.left()).await {
                Ok(()) => {
                    locked(&self.lease).acknowledge(sent, clock::now());
                    true
                }
                Err(Error::Lost { .. }) => return locked(&self.lease).end(),
                Err(_) => false,
            };
        }
    }

    /// How long the holder may go on; once it is nothing it stays so.
    fn left(&self) -> Duration {
        let mut lease = locked(&self.lease);
        let now = clock::now();
        lease.settle(now);
        lease.remaining(now)
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A lease is never left half-changed.
fn locked(lease: &Mutex<Lease>) -> MutexGuard<'_, Lease> {
    lease.lock().unwrap_or_else(PoisonError::into_inner)
}
