//! Administration: members, status, alarms, compaction, snapshots, users.
//!
//! What concerns the cluster goes to whichever member can do it; what concerns one member names its endpoint.

use super::failure::{Cause, Failure};
use super::link::Link;
use super::wire::{ANSWER_BYTES_MAX, Rpc};
use super::{Kind, Shared};
use crate::Error;
use crate::options::{Class, Password};
use crate::pb::maintenance_client::MaintenanceClient;
use crate::pb::{self, authpb};
use model::Revision;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

// A defragmentation rewrites the database, which is at most 8 GiB; the member serves nobody meanwhile.
const DEFRAGMENT_MAX: Duration = Duration::from_secs(300);
// Chunks of a snapshot follow each other closely, unless the member is gone.
const CHUNK_WAIT: Duration = Duration::from_secs(10);

/// Administration through a [`Client`](super::Client).
#[derive(Clone, Copy)]
pub struct Admin<'a> {
    shared: &'a Arc<Shared>,
}

/// A member, as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Its name; empty until it was started.
    pub name: String,
    /// Where the other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it was started.
    pub client_urls: Vec<String>,
    /// Whether it only follows and has no vote.
    pub learner: bool,
}

/// How a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The endpoint that was asked.
    pub endpoint: String,
    /// Id of the cluster.
    pub cluster: u64,
    /// Id of the member.
    pub member: u64,
    /// Its version: `3.4.23`.
    pub version: String,
    /// Size of its database on disk.
    pub db_bytes: u64,
    /// Of which in use; the rest goes back with a defragmentation.
    pub db_used_bytes: u64,
    /// Id of the leader, if it knows one.
    pub leader: Option<u64>,
    /// The term of that leader.
    pub raft_term: u64,
    /// The last entry of the log that is committed.
    pub raft_index: u64,
    /// The last one that it has carried out.
    pub raft_applied: u64,
    /// The revision it is at.
    pub revision: Revision,
    /// Whether it only follows and has no vote.
    pub learner: bool,
    /// What it complains about: alarms, no leader.
    pub errors: Vec<String>,
}

/// An alarm that a member has raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alarm {
    /// Id of the member.
    pub member: u64,
    /// What about.
    pub kind: AlarmKind,
}

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlarmKind {
    /// The database has reached its quota.
    NoSpace,
    /// The data differs from that of the others.
    Corrupt,
    /// One that we do not know.
    Other(i32),
}

/// What a role may do with the keys under a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Read them.
    Read,
    /// Write them.
    Write,
    /// Both.
    ReadWrite,
}

impl<'a> Admin<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>) -> Self {
        Self { shared }
    }

    /// All members. From etcd 3.5 on a majority confirms the list; before, and with a `local` list, a member tells what
    /// it knows, which works without a majority too.
    pub async fn members(&self, local: bool) -> Result<Vec<Member>, Error> {
        let ask = pb::MemberListRequest { linearizable: !local };
        Ok(members(self.any(Kind::Local, &ask).await?.members))
    }

    /// Adds a member that will listen for the others at `peer_urls`, and returns its id. As a learner it has no vote
    /// until it is promoted, so nothing depends on it while it catches up.
    pub async fn add(&self, peer_urls: &[String], learner: bool) -> Result<u64, Error> {
        let ask = pb::MemberAddRequest {
            peer_ur_ls: peer_urls.to_vec(),
            is_learner: learner,
        };
        let answer = self.any(Kind::Admin, &ask).await?;
        Ok(answer.member.map_or(0, |member| member.id))
    }

    /// Gives a learner its vote. [`MemberError::NotReady`](crate::MemberError::NotReady) until it has caught up.
    pub async fn promote(&self, id: u64) -> Result<(), Error> {
        let ask = pb::MemberPromoteRequest { id };
        self.any(Kind::Admin, &ask).await.map(drop)
    }

    /// Removes a member, running or not.
    pub async fn remove(&self, id: u64) -> Result<(), Error> {
        let ask = pb::MemberRemoveRequest { id };
        self.any(Kind::Admin, &ask).await.map(drop)
    }

    /// Tells the cluster that a member listens for the others elsewhere.
    pub async fn update(&self, id: u64, peer_urls: &[String]) -> Result<(), Error> {
        let ask = pb::MemberUpdateRequest {
            id,
            peer_ur_ls: peer_urls.to_vec(),
        };
        self.any(Kind::Admin, &ask).await.map(drop)
    }

    /// How the member at `endpoint` is. It answers by itself, also without a leader.
    pub async fn status(&self, endpoint: &str) -> Result<Status, Error> {
        let ask = pb::StatusRequest {};
        let class = Class {
            attempt: self.shared.connect_limit(),
            ..self.shared.options.admin
        };
        let answer = self.one(endpoint, class, Kind::Local, &ask).await?;
        Ok(status(endpoint, answer))
    }

    /// Hands the leadership over to the voting member `to`. Takes milliseconds; no election is waited for.
    pub async fn move_leader(&self, to: u64) -> Result<(), Error> {
        // Only the leader can; the others refuse, and the next one is asked.
        let ask = pb::MoveLeaderRequest { target_id: to };
        self.any(Kind::Admin, &ask).await.map(drop)
    }

    /// Rewrites the database of the member at `endpoint` without its holes. It serves nobody meanwhile: one at a time.
    pub async fn defragment(&self, endpoint: &str) -> Result<(), Error> {
        let ask = pb::DefragmentRequest {};
        let class = Class {
            attempt: DEFRAGMENT_MAX,
            ..self.shared.options.admin
        };
        self.one(endpoint, class, Kind::Admin, &ask).await.map(drop)
    }

    /// Copies the database of the member at `endpoint` to `into`, and returns how many bytes that were.
    ///
    /// As with `etcdctl snapshot save`, the last 32 bytes are the SHA-256 of all before them: `etcdctl snapshot restore`
    /// checks it. Sync what was written before relying on it.
    pub async fn snapshot(&self, endpoint: &str, into: &mut (impl AsyncWrite + Unpin)) -> Result<u64, Error> {
        let link = self.link(endpoint)?;
        let failed = |failure: Failure| Error::Unavailable {
            reason: format!("{}: {}", failure.endpoint, failure.cause),
        };
        let up = self.shared.connect(link).await.map_err(Failure::into_error)?;
        let late = || failed(Failure::certain(endpoint, Cause::TimedOut));
        // Without a deadline as a whole: a large database takes long.
        let wire = timeout(CHUNK_WAIT, self.shared.wire_without_deadline(link, &up))
            .await
            .map_err(|_| late())?
            .map_err(Failure::into_error)?;
        let status_of = |status: tonic::Status| self.shared.failure(link, &up, &status);
        let asked = MaintenanceClient::new(wire.channel())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .snapshot(wire.local(pb::SnapshotRequest {}))
            .await;
        let mut chunks = asked.map_err(|status| failed(status_of(status)))?.into_inner();
        let mut bytes = 0;
        loop {
            let chunk = timeout(CHUNK_WAIT, chunks.message()).await.map_err(|_| late())?;
            let Some(chunk) = chunk.map_err(|status| failed(status_of(status)))? else {
                break;
            };
            into.write_all(&chunk.blob).await.map_err(|error| write_error(&error))?;
            bytes += chunk.blob.len() as u64;
        }
        into.flush().await.map_err(|error| write_error(&error))?;
        Ok(bytes)
    }

    /// Forgets what revisions before `oldest` changed. With `physical` it returns when the space can be used again.
    pub async fn compact(&self, oldest: Revision, physical: bool) -> Result<(), Error> {
        // A key that was removed at the very revision of a compaction is told by some versions and by others not.
        let revision = i64::try_from(oldest.0.saturating_sub(1)).unwrap_or(i64::MAX);
        let ask = pb::CompactionRequest { revision, physical };
        match self.any(Kind::Admin, &ask).await {
            // It is forgotten already.
            Err(Error::Compacted { .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    /// The alarms that are raised.
    pub async fn alarms(&self) -> Result<Vec<Alarm>, Error> {
        let ask = pb::AlarmRequest::default();
        Ok(alarms(&self.any(Kind::Local, &ask).await?))
    }

    /// Ends an alarm. Remove its cause first: a full database raises it again with the next write.
    pub async fn disarm(&self, alarm: Alarm) -> Result<(), Error> {
        let ask = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Deactivate.into(),
            member_id: alarm.member,
            alarm: alarm.kind.number(),
        };
        self.any(Kind::Admin, &ask).await.map(drop)
    }

    /// Adds a user who logs in with a password.
    pub async fn add_user(&self, user: &str, password: &Password) -> Result<(), Error> {
        let ask = pb::AuthUserAddRequest {
            name: user.into(),
            password: password.expose().into(),
        };
        self.any(Kind::Admin, &ask).await.map(drop)
    }

    /// Removes a user.
    pub async fn remove_user(&self, user: &str) -> Result<(), Error> {
        let ask = pb::AuthUserDeleteRequest { name: user.into() };
        self.any(Kind::Admin, &ask).await.map(drop)
    }

    /// Gives a user another password. Tokens of the old one end.
    pub async fn set_password(&self, user: &str, password: &Password) -> Result<(), Error> {
        let ask = pb::AuthUserChangePasswordRequest {
            name: user.into(),
            password: password.expose().into(),
        };
        self.any(Kind::Admin, &ask).await.map(drop)
    }

    /// Adds a role that may do nothing yet.
    pub async fn add_role(&self, role: &str) -> Result<(), Error> {
        let ask = pb::AuthRoleAddRequest { name: role.into() };
        self.any(Kind::Admin, &ask).await.map(drop)
    }

    /// Lets a role do something with all keys under `prefix` (all there are if it is empty).
    pub async fn permit(&self, role: &str, permission: Permission, prefix: &str) -> Result<(), Error> {
        let (key, range_end) = crate::keys::range_of(prefix.as_bytes());
        let perm = authpb::Permission {
            perm_type: permission.number(),
            key,
            range_end,
        };
        let ask = pb::AuthRoleGrantPermissionRequest {
            name: role.into(),
            perm: Some(perm),
        };
        self.any(Kind::Admin, &ask).await.map(drop)
    }

    /// Gives a user a role. The role `root` may do anything.
    pub async fn grant(&self, user: &str, role: &str) -> Result<(), Error> {
        let ask = pb::AuthUserGrantRoleRequest {
            user: user.into(),
            role: role.into(),
        };
        self.any(Kind::Admin, &ask).await.map(drop)
    }

    /// From now on everybody has to log in. There has to be a user `root` with the role `root`.
    pub async fn enable_login(&self) -> Result<(), Error> {
        let ask = pb::AuthEnableRequest {};
        self.any(Kind::Admin, &ask).await.map(drop)
    }

    /// From now on nobody has to log in.
    pub async fn disable_login(&self) -> Result<(), Error> {
        let ask = pb::AuthDisableRequest {};
        self.any(Kind::Admin, &ask).await.map(drop)
    }

    async fn any<R: Rpc>(&self, kind: Kind, rpc: &R) -> Result<R::Answer, Error> {
        self.shared.call(self.shared.options.admin, kind, rpc).await
    }

    async fn one<R: Rpc>(&self, endpoint: &str, class: Class, kind: Kind, rpc: &R) -> Result<R::Answer, Error> {
        let link = self.link(endpoint)?;
        let asked = self.shared.attempt(link, class, kind, rpc).await;
        asked.map_err(|failure| match kind {
            // Nothing was to be changed, so nothing about it is unknown.
            Kind::Local => Failure {
                unknown: false,
                ..failure
            }
            .into_error(),
            _ => failure.into_error(),
        })
    }

    fn link(&self, endpoint: &str) -> Result<&'a Link, Error> {
        let named = |link: &&Link| link.target.name == endpoint;
        self.shared.links.iter().find(named).ok_or_else(|| Error::Option {
            option: "endpoint",
            reason: format!("`{endpoint}` is not among the endpoints"),
        })
    }
}

fn members(members: Vec<pb::Member>) -> Vec<Member> {
    let member = |member: pb::Member| Member {
        id: member.id,
        name: member.name,
        peer_urls: member.peer_ur_ls,
        client_urls: member.client_ur_ls,
        learner: member.is_learner,
    };
    members.into_iter().map(member).collect()
}

fn status(endpoint: &str, answer: pb::StatusResponse) -> Status {
    let header = answer.header.unwrap_or_default();
    Status {
        endpoint: endpoint.to_owned(),
        cluster: header.cluster_id,
        member: header.member_id,
        version: answer.version,
        db_bytes: u64::try_from(answer.db_size).unwrap_or(0),
        db_used_bytes: u64::try_from(answer.db_size_in_use).unwrap_or(0),
        leader: (answer.leader != 0).then_some(answer.leader),
        raft_term: answer.raft_term,
        raft_index: answer.raft_index,
        raft_applied: answer.raft_applied_index,
        revision: Revision(u64::try_from(header.revision).unwrap_or(0)),
        learner: answer.is_learner,
        errors: answer.errors,
    }
}

fn alarms(answer: &pb::AlarmResponse) -> Vec<Alarm> {
    let alarm = |alarm: &pb::AlarmMember| Alarm {
        member: alarm.member_id,
        kind: match alarm.alarm() {
            pb::AlarmType::Nospace => AlarmKind::NoSpace,
            pb::AlarmType::Corrupt => AlarmKind::Corrupt,
            pb::AlarmType::None => AlarmKind::Other(alarm.alarm),
        },
    };
    answer.alarms.iter().map(alarm).collect()
}

fn write_error(error: &std::io::Error) -> Error {
    Error::Write {
        reason: error.to_string(),
    }
}

impl AlarmKind {
    fn number(self) -> i32 {
        match self {
            AlarmKind::NoSpace => pb::AlarmType::Nospace.into(),
            AlarmKind::Corrupt => pb::AlarmType::Corrupt.into(),
            AlarmKind::Other(number) => number,
        }
    }
}

impl Permission {
    fn number(self) -> i32 {
        match self {
            Permission::Read => authpb::permission::Type::Read,
            Permission::Write => authpb::permission::Type::Write,
            Permission::ReadWrite => authpb::permission::Type::Readwrite,
        }
        .into()
    }
}
