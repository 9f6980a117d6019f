//! A thin client: one connection per member, and the rules by which its answers are believed.
//!
//! ```text
//! call ─► order of members ─► attempt (deadline T) ─► answer ─► cluster id, revision, term ─► caller
//!              ▲                  │ failure
//!              └── nothing done ──┤
//!                                 └── perhaps done ─► a read goes on with the next, a write ends as unknown
//! ```

mod admin;
mod dial;
mod failure;
mod keeper;
mod link;
mod login;
pub(crate) mod wire;

pub use admin::{Admin, Alarm, AlarmKind, Member, Permission, Status};
pub(crate) use failure::{Cause, Failure, Reach};
pub(crate) use link::{Link, Up};
pub(crate) use wire::{Headed, Wire};

use crate::Error;
use crate::keys::Prefix;
use crate::options::{Class, Known, Options};
use crate::pb::{RangeRequest, ResponseHeader, StatusResponse};
use dial::{Target, connector};
use link::{known_version, not_back, order};
use login::Login;
use model::Revision;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use store::ServerError;
use tokio::time::{Instant, sleep, timeout_at};
use wire::Rpc;

const PAUSE_FIRST: Duration = Duration::from_millis(5);

/// The way to an etcd cluster. Clones share everything.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) links: Vec<Link>,
    login: Login,
    /// Id of the cluster; 0 until it is known.
    cluster: AtomicU64,
    /// The highest revision that any answer told.
    highest: AtomicU64,
    term: AtomicU64,
    /// Member id of the leader; 0 if it is not known.
    leader: AtomicU64,
    last_good: AtomicUsize,
    /// Set once the store was seen to have gone back: nothing it says is believed any more.
    distrust: OnceLock<ServerError>,
    keeper: keeper::Keeper,
}

/// What an endpoint is like now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointState {
    /// As it was given.
    pub endpoint: String,
    /// Id of the member, once it was told.
    pub member: Option<u64>,
    /// Whether it leads, as far as we know.
    pub leads: bool,
    /// What keeps us from it.
    pub problem: Option<String>,
}

/// Whether a call changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No: it may be sent as often as one likes, and its answer shows the latest revision.
    Read,
    /// No, and the member answers from what it has.
    Local,
    /// Yes: an outcome that is unknown is told.
    Write,
    /// Yes, in the cluster itself: as with `Write`, but the answer tells no revision.
    Admin,
}

impl Kind {
    fn changes(self) -> bool {
        matches!(self, Kind::Write | Kind::Admin)
    }

    fn tells_revision(self) -> bool {
        matches!(self, Kind::Read | Kind::Write)
    }
}

impl Client {
    /// A client that connects when it is first used.
    pub fn new(options: Options) -> Result<Self, Error> {
        if options.endpoints.is_empty() {
            return Err(Error::Option {
                option: "endpoints",
                reason: "there is none".into(),
            });
        }
        let tls = options.tls.as_ref().map(connector).transpose()?;
        let links: Result<Vec<Link>, Error> = options
            .endpoints
            .iter()
            .map(|endpoint| Ok(Link::new(Target::new(endpoint, tls.as_ref())?, options.reconnect)))
            .collect();
        let known = options.known;
        Ok(Self {
            shared: Arc::new(Shared {
                links: links?,
                login: Login::new(options.login.clone()),
                cluster: AtomicU64::new(known.map_or(0, |known| known.cluster)),
                highest: AtomicU64::new(known.map_or(0, |known| known.revision.0)),
                term: AtomicU64::new(0),
                leader: AtomicU64::new(0),
                last_good: AtomicUsize::new(0),
                distrust: OnceLock::new(),
                keeper: keeper::Keeper::default(),
                options,
            }),
        })
    }

    /// A client, and the proof that a member of the right cluster answers and that none of another one does.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let client = Self::new(options)?;
        client.shared.reach_all().await?;
        Ok(client)
    }

    /// Members, status, alarms, snapshots, users.
    pub fn admin(&self) -> Admin<'_> {
        Admin::new(&self.shared)
    }

    /// What to remember, so that another store in its place is noticed after a restart. None before the first answer.
    pub fn known(&self) -> Option<Known> {
        let cluster = self.shared.cluster.load(Ordering::Acquire);
        (cluster != 0).then(|| Known {
            cluster,
            revision: Revision(self.shared.highest.load(Ordering::Acquire)),
        })
    }

    /// Each endpoint as it is now, in the order they were given.
    pub fn endpoints(&self) -> Vec<EndpointState> {
        let leader = self.shared.leader.load(Ordering::Acquire);
        let state = |link: &Link| {
            let standing = link.standing();
            EndpointState {
                endpoint: link.target.name.clone(),
                member: (standing.member != 0).then_some(standing.member),
                leads: leader != 0 && standing.member == leader,
                problem: link.problem(),
            }
        };
        self.shared.links.iter().map(state).collect()
    }

    /// Begins to connect. Within a tokio runtime.
    pub fn warm(&self) {
        self.shared.keeper.ensure(&self.shared);
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Shared {
    /// Asks every member who it is, and refuses a list of endpoints with members of several clusters.
    async fn reach_all(self: &Arc<Self>) -> Result<(), Error> {
        let limit = self.connect_limit();
        let all = self.links.iter().map(|link| async move {
            let up = link.up(limit, |status| self.identify(link, status)).await;
            up.map(|_| ())
        });
        let outcomes = futures_util::future::join_all(all).await;
        let failures: Vec<Failure> = outcomes.iter().filter_map(|outcome| outcome.clone().err()).collect();
        if let Some(stranger) = failures
            .iter()
            .find(|failure| matches!(failure.cause, Cause::Server(ServerError::OtherCluster { .. })))
        {
            return Err(stranger.clone().into_error());
        }
        if failures.len() == outcomes.len() {
            return Err(self.verdict(Kind::Read, &failures));
        }
        Ok(())
    }

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
    async fn round<R: Rpc>(self: &Arc<Self>, class: Class, kind: Kind, rpc: &R) -> Result<R::Answer, Vec<Failure>> {
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
    async fn hedged<R: Rpc>(
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

    /// What it means that `link` gave `status` as a reason; its connection is as good as before.
    pub(crate) fn meaning(&self, link: &Link, status: &tonic::Status) -> Failure {
        Failure::from_status(&link.target.name, self.login.user(), status)
    }

    pub(crate) fn forget_login(&self) {
        self.login.forget();
    }

    /// Why the store is not believed any more, if it is not.
    pub(crate) fn distrusted(&self) -> Option<Error> {
        self.distrust.get().cloned().map(Error::Server)
    }

    /// Something is not as it was: have a look at the members.
    pub(crate) fn look(&self) {
        self.keeper.look();
    }

    /// What it means that `link` answered with `status`.
    pub(crate) fn failure(&self, link: &Link, up: &Up, status: &tonic::Status) -> Failure {
        let failure = Failure::from_status(&link.target.name, self.login.user(), status);
        match failure.cause {
            Cause::Token => self.login.forget(),
            Cause::Lost(_) | Cause::Connect(_) => link.drop_line(&up.line, "it broke"),
            _ => {}
        }
        self.with_reason(link, up, failure)
    }

    /// Why it broke, when TLS knows better.
    fn with_reason(&self, link: &Link, up: &Up, failure: Failure) -> Failure {
        match (&failure.cause, link.target.tls_reason(&up.line)) {
            (Cause::Lost(_) | Cause::Connect(_), Some(cause)) => Failure { cause, ..failure },
            _ => failure,
        }
    }

    /// Whether whoever answered on a new connection is a member of our cluster, of a version we know.
    fn identify(&self, link: &Link, status: &StatusResponse) -> Result<(), ServerError> {
        known_version(&link.target.name, &status.version)?;
        let header = status.header.unwrap_or_default();
        self.same_cluster(link, header.cluster_id)?;
        self.note_term(header.raft_term);
        self.note_leader(status.leader, header.raft_term);
        Ok(())
    }

    fn same_cluster(&self, link: &Link, found: u64) -> Result<(), ServerError> {
        // Whoever answers first says which cluster is ours, unless it is known from before.
        let expected = match self
            .cluster
            .compare_exchange(0, found, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => found,
            Err(expected) => expected,
        };
        if found != expected {
            return Err(ServerError::OtherCluster {
                endpoint: link.target.name.clone(),
                expected,
                found,
            });
        }
        Ok(())
    }

    /// Takes in what an answer says about the store, and refuses one that cannot be right. `seen` is the highest
    /// revision that was known when the request was sent.
    pub(crate) fn believe(
        &self,
        link: &Link,
        up: &Up,
        kind: Kind,
        seen: u64,
        header: Option<&ResponseHeader>,
    ) -> Result<(), Failure> {
        // Some answers about the cluster itself do not say whose they are; who is behind the connection was asked before.
        if !kind.tells_revision() && header.is_none() {
            return Ok(());
        }
        let header = header.copied().unwrap_or_default();
        let refuse = |error: ServerError| {
            link.drop_line(&up.line, "its answer cannot be right");
            Failure {
                endpoint: link.target.name.clone(),
                cause: Cause::Server(error),
                unknown: kind.changes(),
            }
        };
        self.same_cluster(link, header.cluster_id).map_err(refuse)?;
        let found = u64::try_from(header.revision).unwrap_or(0);
        if kind.tells_revision() {
            if let Err(error) = not_back(&link.target.name, seen, found) {
                if kind == Kind::Write {
                    // Written by a majority, so this is no old answer.
                    self.doubt(&error);
                }
                return Err(refuse(error));
            }
            up.set_current();
            if let Some(index) = self.links.iter().position(|other| std::ptr::eq(other, link)) {
                self.last_good.store(index, Ordering::Release);
            }
        }
        self.highest.fetch_max(found, Ordering::AcqRel);
        self.note_term(header.raft_term);
        link.fine();
        Ok(())
    }

    fn note_term(&self, term: u64) {
        if self.term.fetch_max(term, Ordering::AcqRel) < term {
            self.leader.store(0, Ordering::Release);
            self.keeper.look();
        }
    }

    fn note_leader(&self, leader: u64, term: u64) {
        if term >= self.term.load(Ordering::Acquire) {
            self.leader.store(leader, Ordering::Release);
        }
    }

    fn doubt(&self, error: &ServerError) {
        if self.distrust.set(error.clone()).is_ok() {
            tracing::error!(%error, "the store is not believed any more");
        }
    }

    /// Whether `failures` say that the store went back. Nothing is believed any more if a majority of members says so: one
    /// alone may have answered from an old state.
    pub(crate) fn gone_back(&self, failures: &[Failure]) -> Option<Error> {
        let back = failures.iter().filter_map(|failure| match &failure.cause {
            Cause::Server(error @ ServerError::WentBack { .. }) => Some(error),
            _ => None,
        });
        let first = back.clone().next()?;
        if back.count() * 2 > self.links.len() {
            self.doubt(first);
        }
        Some(Error::Server(first.clone()))
    }

    /// What to tell the caller when all of `failures` happened.
    fn verdict(&self, kind: Kind, failures: &[Failure]) -> Error {
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
        if kind.changes()
            && let Some(failure) = failures.iter().find(|failure| failure.unknown)
        {
            return failure.clone().into_error();
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

    pub(crate) fn order(&self) -> Vec<usize> {
        let standings: Vec<_> = self.links.iter().map(Link::standing).collect();
        order(
            &standings,
            self.leader.load(Ordering::Acquire),
            self.last_good.load(Ordering::Acquire),
        )
    }

    pub(crate) fn connect_limit(&self) -> Duration {
        // A connection, its handshake and the first answer are three round trips.
        (self.options.read.attempt * 2).max(Duration::from_millis(500))
    }
}
