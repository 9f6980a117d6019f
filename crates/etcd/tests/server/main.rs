//! Members that Understudy runs itself, with real etcd: their life, the cluster they make, its backups.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod backup;
mod cluster;
mod life;
mod rig;
mod secure;
