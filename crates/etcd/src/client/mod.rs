//! A thin client: one connection per member, and the rules by which its answers are believed.
//!
//! ```text
//! call ─► order of members ─► attempt (deadline T) ─► answer ─► cluster id, revision, term ─► caller
//!              ▲                  │ failure
//!              └── nothing done ──┤
//!                                 └── perhaps done ─► a read goes on with the next, a write ends as unknown
//! ```

mod admin;
mod call;
mod dial;
mod failure;
mod keeper;
mod link;
mod login;
mod trust;
pub(crate) mod wire;

pub use admin::{Admin, Alarm, AlarmKind, Member, Permission, Status};
pub(crate) use failure::{Cause, Failure, Reach};
pub(crate) use link::{Link, Up};
pub(crate) use wire::Wire;

use crate::Error;
use crate::options::{Known, Options};
use dial::{Target, connector};
use keeper::Keeper;
use link::order;
use login::Login;
use model::Revision;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use store::ServerError;

/// The way to an etcd cluster. Clones share everything.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) links: Vec<Link>,
    login: Arc<Login>,
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
    keeper: Keeper,
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
        let keeper = Keeper::default();
        let links: Result<Vec<Link>, Error> = options
            .endpoints
            .iter()
            .map(|endpoint| {
                Ok(Link::new(
                    Target::new(endpoint, tls.as_ref())?,
                    options.reconnect,
                    keeper.bell(),
                ))
            })
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
                keeper,
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

    pub(crate) fn forget_login(&self) {
        self.login.forget();
    }

    /// Something is not as it was: have a look at the members.
    pub(crate) fn look(&self) {
        self.keeper.look();
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
