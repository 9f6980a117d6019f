//! One call: whom to ask, for how long, and when to ask somebody else.

use super::wire::{Headed, Rpc};
use super::{Cause, Failure, Kind, Link, Reach, Shared, Up, Wire};
use crate::Error;
use crate::keys::Prefix;
use crate::options::Class;
use crate::pb::RangeRequest;
use model::Revision;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

const PAUSE_FIRST: Duration = Duration::from_millis(5);

impl Shared {
    /// Sends a call until a member answers it, its time is over, or nobody would answer otherwise.
    pub(crate) async fn call<R: Rpc>(self: &Arc<Self>, class: Class, kind: Kind, rpc: &R) -> Result<R::Answer, Error> {
        self.keeper.ensure(self);
        let end = Instant::now() + class.total;
        let mut pause = PAUSE_FIRST;
        loop {
            if let Some(error) = self.distrusted() {
                return Err(error);
            }
            let failures = match self.round(class, kind, rpc).await {
                Ok(answer) => return Ok(answer),
                Err(failures) => failures,
            };
            let hopeless = failures.iter().any(|failure| failure.cause.reach() == Reach::Cluster)
                || failures.iter().all(|failure| failure.cause.reach() == Reach::Member);
            let unknown = kind.changes() && !class.hedge && failures.iter().any(|failure| failure.unknown);
            if hopeless || unknown || Instant::now() + pause >= end {
                return Err(self.verdict(kind, &failures));
            }
            sleep(pause).await;
            pause = (pause * 2).min(self.options.reconnect);
        }
    }

    /// Asks the members, one after the other, until one answers.
    pub(super) async fn round<R: Rpc>(
        self: &Arc<Self>,
        class: Class,
        kind: Kind,
        rpc: &R,
    ) -> Result<R::Answer, Vec<Failure>> {
        let repeatable = !kind.changes() || class.hedge;
        let order = self.order();
        let mut failures = Vec::new();
        let mut next = 0;
        while let Some(&index) = order.get(next) {
            next += 1;
            let link = &self.links[index];
            let outcome = match order.get(next) {
                Some(&second) if class.hedge => {
                    let (outcome, second_used) = self.hedged(link, &self.links[second], class, kind, rpc).await;
                    next += usize::from(second_used);
                    outcome
                }
                _ => self
                    .attempt(link, class, kind, rpc)
                    .await
                    .map_err(|failure| vec![failure]),
            };
            match outcome {
                Ok(answer) => return Ok(answer),
                Err(failed) => failures.extend(failed),
            }
            let enough =
                |failure: &Failure| failure.cause.reach() == Reach::Cluster || (failure.unknown && !repeatable);
            if failures.iter().any(enough) {
                break;
            }
        }
        Err(failures)
    }

    /// Asks `first`, and `second` too if `first` takes its time. Also tells whether `second` was asked.
    pub(super) async fn hedged<R: Rpc>(
        self: &Arc<Self>,
        first: &Link,
        second: &Link,
        class: Class,
        kind: Kind,
        rpc: &R,
    ) -> (Result<R::Answer, Vec<Failure>>, bool) {
        let mut one = pin!(self.attempt(first, class, kind, rpc));
        tokio::select! {
            biased;
            outcome = &mut one => return (outcome.map_err(|failure| vec![failure]), false),
            () = sleep(class.attempt / 2) => {}
        }
        let mut other = pin!(self.attempt(second, class, kind, rpc));
        let outcome = tokio::select! {
            biased;
            outcome = &mut one => match outcome {
                Ok(answer) => Ok(answer),
                Err(failure) => other.await.map_err(|later| vec![failure, later]),
            },
            outcome = &mut other => match outcome {
                Ok(answer) => {
                    first.suspect();
                    Ok(answer)
                }
                Err(failure) => one.await.map_err(|later| vec![failure, later]),
            },
        };
        (outcome, true)
    }

    /// Asks one member, once.
    pub(crate) async fn attempt<R: Rpc>(
        self: &Arc<Self>,
        link: &Link,
        class: Class,
        kind: Kind,
        rpc: &R,
    ) -> Result<R::Answer, Failure> {
        let deadline = Instant::now() + class.attempt;
        let late = |_| {
            link.suspect();
            Failure::certain(&link.target.name, Cause::TimedOut)
        };
        let mut asked_again = false;
        loop {
            // Until here nothing is sent, so whatever goes wrong changes nothing.
            let (up, wire) = timeout_at(deadline, self.ready(link, kind, deadline))
                .await
                .map_err(late)??;
            let seen = self.highest.load(Ordering::Acquire);
            let failure = match timeout_at(deadline, rpc.send(&wire)).await {
                Err(_) => {
                    link.suspect();
                    self.keeper.look();
                    return Err(Failure::unknown(&link.target.name, Cause::TimedOut));
                }
                Ok(Ok(response)) => {
                    let answer = response.into_inner();
                    self.believe(link, &up, kind, seen, answer.header())?;
                    return Ok(answer);
                }
                Ok(Err(status)) => self.failure(link, &up, &status),
            };
            if failure.cause == Cause::Token && !asked_again && self.login.user().is_some() {
                asked_again = true;
                continue;
            }
            if failure.cause == Cause::TimedOut {
                link.suspect();
            }
            self.keeper.look();
            return Err(failure);
        }
    }

    /// A member to which the call may be sent: the right cluster, logged in, and not behind.
    pub(crate) async fn ready(
        self: &Arc<Self>,
        link: &Link,
        kind: Kind,
        deadline: Instant,
    ) -> Result<(Up, Wire), Failure> {
        let up = self.connect(link).await?;
        let wire = self.wire(link, &up, deadline).await?;
        if kind == Kind::Write && !up.is_current() {
            // Whoever is behind this new connection shows with a read that it was not wiped or restored.
            let seen = self.highest.load(Ordering::Acquire);
            let request = RangeRequest {
                key: Prefix::new(&self.options.prefix).probe(),
                keys_only: true,
                ..RangeRequest::default()
            };
            let response = request
                .send(&wire)
                .await
                .map_err(|status| Failure::certain(&link.target.name, self.failure(link, &up, &status).cause))?;
            let header = response.into_inner().header;
            self.believe(link, &up, Kind::Read, seen, header.as_ref())?;
        }
        Ok((up, wire))
    }

    /// The connection to a member that has said who it is.
    pub(crate) async fn connect(self: &Arc<Self>, link: &Link) -> Result<Up, Failure> {
        link.up(self.connect_limit(), |status| self.identify(link, status))
            .await
    }

    /// Where to send a request, and what to send with it.
    pub(crate) async fn wire(&self, link: &Link, up: &Up, deadline: Instant) -> Result<Wire, Failure> {
        let token = self.login.token(link, up).await?;
        Ok(Wire::new(up.line.channel.clone(), token, Some(deadline)))
    }

    /// The same, for a request that may take as long as it likes.
    pub(crate) async fn wire_without_deadline(&self, link: &Link, up: &Up) -> Result<Wire, Failure> {
        let token = self.login.token(link, up).await?;
        Ok(Wire::new(up.line.channel.clone(), token, None))
    }

    /// What it means that `link` answered with `status`.
    pub(crate) fn failure(&self, link: &Link, up: &Up, status: &tonic::Status) -> Failure {
        let failure = Failure::from_status(&link.target.name, self.login.user(), status);
        match failure.cause {
            Cause::Token => self.login.forget(),
            Cause::Lost(_) | Cause::Connect(_) => up.line.condemn(),
            _ => {}
        }
        self.with_reason(link, up, failure)
    }

    /// What it means that `link` gave `status` as a reason; its connection is as good as before.
    pub(crate) fn meaning(&self, link: &Link, status: &tonic::Status) -> Failure {
        Failure::from_status(&link.target.name, self.login.user(), status)
    }

    /// Why it broke, when TLS knows better.
    pub(super) fn with_reason(&self, link: &Link, up: &Up, failure: Failure) -> Failure {
        match (&failure.cause, link.target.tls_reason(&up.line)) {
            (Cause::Lost(_) | Cause::Connect(_), Some(cause)) => Failure { cause, ..failure },
            _ => failure,
        }
    }

    /// What to tell the caller when all of `failures` happened.
    pub(super) fn verdict(&self, kind: Kind, failures: &[Failure]) -> Error {
        // Whatever others said later: one of them may have done it.
        let perhaps = |failure: &&Failure| failure.unknown && failure.cause.reach() == Reach::Passing;
        if kind.changes()
            && let Some(failure) = failures.iter().find(perhaps)
        {
            return failure.clone().into_error();
        }
        let decisive = |failure: &&Failure| failure.cause.reach() == Reach::Cluster;
        if let Some(failure) = failures.iter().find(decisive) {
            return match &failure.cause {
                Cause::Compacted => Error::Compacted { oldest: Revision(0) },
                _ => failure.clone().into_error(),
            };
        }
        if let Some(error) = self.gone_back(failures) {
            return error;
        }
        if let [first, ..] = failures
            && failures.iter().all(|failure| failure.cause.reach() == Reach::Member)
        {
            return first.clone().into_error();
        }
        let each: Vec<String> = failures
            .iter()
            .map(|failure| format!("{}: {}", failure.endpoint, failure.cause))
            .collect();
        Error::Unavailable {
            reason: each.join("; "),
        }
    }
}
