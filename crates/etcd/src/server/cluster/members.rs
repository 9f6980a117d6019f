//! Members come and go: the first, further ones, the replacement of dead ones.

use super::judge::Refusal;
use super::progress::{AGAIN, Attempt, Progress};
use super::removal::insist;
use super::view::View;
use super::{Cluster, Error};
use crate::client::{Client, Member};
use crate::server::config::Initial;
use crate::server::{Config, PATIENCE, Server, State};
use crate::{MemberError, Options, Password, Tls};
use std::path::Path;
use std::time::{Duration, Instant};

/// A first member serves within a second; one with a large database on a slow disk takes longer.
pub const READY_PATIENCE: Duration = Duration::from_secs(60);
/// A new member copies the whole database, of up to 8 GiB.
pub const JOIN_PATIENCE: Duration = Duration::from_secs(300);
/// One that died so often while it was waited for will not come.
const DEATHS_MAX: u32 = 3;

impl Config {
    /// How clients reach this member, with this node's own certificate.
    pub fn client_options(&self) -> Result<Options, Error> {
        let options = Options::new([self.client_url()]);
        let Some(tls) = &self.tls else {
            return Ok(options);
        };
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| Error::Certificate {
                path: path.into(),
                source,
            })
        };
        Ok(options.tls(Tls {
            ca: read(&tls.ca)?,
            identity: Some((read(&tls.cert)?, Password::from(read(&tls.key)?))),
        }))
    }
}

/// Makes the first member of a new cluster, and waits until it serves.
pub async fn bootstrap(mut config: Config) -> Result<Server, Error> {
    refuse_data(&config)?;
    config.initial = Initial::New;
    let server = Server::start(config).await?;
    match wait_ready(&server, READY_PATIENCE).await {
        Ok(_) => Ok(server),
        Err(error) => {
            let _ = server.stop(PATIENCE).await;
            Err(error)
        }
    }
}

/// Waits until a member knows a leader and has caught up with what it knew itself; returns how long that took.
pub async fn wait_ready(server: &Server, patience: Duration) -> Result<Duration, Error> {
    let begun = Instant::now();
    let mut last = String::from("it does not answer yet");
    while begun.elapsed() < patience {
        check_alive(server)?;
        match status(server.config()).await {
            Ok(Some(_)) => return Ok(begun.elapsed()),
            Ok(None) => last = "it knows no leader".into(),
            Err(error) => last = error,
        }
        tokio::time::sleep(AGAIN).await;
    }
    Err(Error::NotReady {
        name: server.config().name.clone(),
        waited: begun.elapsed(),
        last,
    })
}

impl Cluster {
    /// Makes a node a member: adds it without a vote, starts it, waits until it has caught up, and gives it its vote.
    ///
    /// If it fails it is taken out again, because a learner that nobody promotes keeps all others out, and what it had copied
    /// so far is moved aside, so that it can simply be tried once more. A join that was interrupted, by the end of the agent
    /// say, is taken up where it was.
    pub async fn join(
        &mut self,
        mut config: Config,
        patience: Duration,
        tell: &mut (dyn FnMut(Progress) + Send + Sync),
    ) -> Result<Server, Error> {
        config.check().map_err(crate::server::StartError::from)?;
        let mut attempt = Attempt {
            name: config.name.clone(),
            begun: Instant::now(),
            patience,
            told: None,
            tell,
        };
        let view = self.look().await?;
        let id = match Standing::of(&view, &config) {
            Standing::Stranger => {
                refuse_data(&config)?;
                let id = self.add(&config, &mut attempt).await?;
                attempt.tell(Progress::Added);
                id
            }
            Standing::Added(id) => id,
            Standing::Member(id) if config.has_data() => id,
            Standing::Member(_) => return Err(Error::NameTaken { name: config.name }),
        };
        let data_dir = config.data_dir.clone();
        let joined = async {
            config.initial = Initial::Join(self.others(id).await?);
            let server = Server::start(config).await?;
            if let State::Running { pid, .. } = server.state() {
                attempt.tell(Progress::Started { pid });
            }
            match self.promote(id, &server, &mut attempt).await {
                Ok(()) => Ok(server),
                Err(error) => {
                    let _ = server.stop(PATIENCE).await;
                    Err(error)
                }
            }
        };
        let joined = joined.await;
        match &joined {
            Ok(_) => attempt.tell(Progress::Promoted {
                took: attempt.begun.elapsed(),
            }),
            Err(_) => {
                if self.take_out(id).await {
                    clear(&data_dir);
                }
            }
        }
        joined
    }

    /// Removes a member that is dead and makes another node (or the same one, set up anew) a member in its place. One
    /// that answers is not dead: it is refused unless the operator typed its name.
    pub async fn replace(
        &mut self,
        dead: &str,
        force: Option<&str>,
        config: Config,
        patience: Duration,
        tell: &mut (dyn FnMut(Progress) + Send + Sync),
    ) -> Result<Server, Error> {
        refuse_data(&config)?;
        let view = self.look().await?;
        if view.find(dead).is_some_and(|seen| seen.status.is_ok()) {
            insist(Refusal::Lives { name: dead.into() }, dead, force)?;
        }
        self.remove(dead, force, tell).await?;
        self.join(config, patience, tell).await
    }

    /// Makes this node's own member anew when its data cannot be used any more, or are gone: takes its vote, moves what is left of the
    /// data aside, and lets it join again. Refused where the others could not decide anything without it. What was cut off in between is
    /// taken up where it was.
    pub async fn make_anew(
        &mut self,
        config: Config,
        patience: Duration,
        tell: &mut (dyn FnMut(Progress) + Send + Sync),
    ) -> Result<Server, Error> {
        let view = self.look().await?;
        match Standing::of(&view, &config) {
            Standing::Stranger => {}
            // What a learner has copied is as worthless, and its id must not come back with less than it had.
            Standing::Added(id) if config.has_data() => {
                self.take_out(id).await;
            }
            Standing::Added(_) => {}
            Standing::Member(id) => {
                // A name is not enough: it may be another machine's by now.
                let url = config.peer_url();
                let seen = view.members.iter().find(|seen| seen.member.id == id);
                if seen.is_some_and(|seen| seen.status.is_ok() || !seen.member.peer_urls.contains(&url)) {
                    return Err(Refusal::Lives {
                        name: config.name.clone(),
                    }
                    .into());
                }
                self.remove(&config.name, None, tell).await?;
            }
        }
        if config.has_data() {
            let kept =
                crate::server::restore::move_aside(&config.data_dir, "unusable").map_err(|source| Error::Aside {
                    dir: config.data_dir.clone(),
                    what: source.to_string(),
                })?;
            tracing::warn!(kept = %kept.display(), "the data of etcd that cannot be used were moved aside");
        }
        self.join(config, patience, tell).await
    }

    /// Adds it, as soon as there is no other learner and all members are connected.
    async fn add(&mut self, config: &Config, attempt: &mut Attempt<'_>) -> Result<u64, Error> {
        let urls = [config.peer_url()];
        loop {
            let because = match self.client.admin().add(&urls, true).await {
                Ok(id) if id != 0 => return Ok(id),
                Ok(_) => "etcd told no id".to_owned(),
                // The answer of an earlier try was lost.
                Err(crate::Error::Member(MemberError::Exists)) | Err(crate::Error::Unknown { .. }) => {
                    if let Standing::Added(id) = Standing::of(&self.look().await?, config) {
                        return Ok(id);
                    }
                    "whether it was added is not known yet".to_owned()
                }
                Err(crate::Error::Member(because @ (MemberError::TooManyLearners | MemberError::Unhealthy { .. }))) => {
                    because.to_string()
                }
                // etcd makes the id of the address and the second. Who was removed in this same second has it, and for good.
                Err(crate::Error::Member(MemberError::NotFound)) => {
                    "it was taken out a moment ago, and its number is not given twice".into()
                }
                Err(because @ crate::Error::Unavailable { .. }) => because.to_string(),
                Err(error) => return Err(Error::etcd("add a member")(error)),
            };
            attempt.tell(Progress::Waiting {
                because: because.clone(),
            });
            attempt.again(because).await?;
        }
    }

    /// Gives it its vote, as soon as it has caught up.
    async fn promote(&mut self, id: u64, server: &Server, attempt: &mut Attempt<'_>) -> Result<(), Error> {
        loop {
            check_alive(server)?;
            let because = match self.client.admin().promote(id).await {
                // An earlier answer may have been lost.
                Ok(()) | Err(crate::Error::Member(MemberError::NotLearner)) => break,
                Err(
                    because @ (crate::Error::Member(MemberError::NotReady | MemberError::Unhealthy { .. })
                    | crate::Error::Unavailable { .. }
                    | crate::Error::Unknown { .. }),
                ) => because.to_string(),
                Err(error) => return Err(Error::etcd("give a member its vote")(error)),
            };
            attempt.tell(Progress::CatchingUp {
                behind: self.behind(id).await,
            });
            attempt.again(because).await?;
        }
        // It has a vote, but serves only when it knows so itself.
        wait_ready(server, READY_PATIENCE).await.map(drop)
    }

    async fn behind(&mut self, id: u64) -> Option<u64> {
        let view = self.look().await.ok()?;
        let seen = view.members.iter().find(|seen| seen.member.id == id)?;
        view.behind(seen)
    }

    /// Name and peer URL of all others. Those that have never started have no name, and etcd knows them by their URL alone.
    async fn others(&self, id: u64) -> Result<Vec<(String, String)>, Error> {
        let named = |member: Member| {
            let url = member.peer_urls.first()?.clone();
            let name = match member.name.as_str() {
                "" => format!("unnamed-{:x}", member.id),
                name => name.to_owned(),
            };
            Some((name, url))
        };
        let members = self.members().await?;
        Ok(members
            .into_iter()
            .filter(|member| member.id != id)
            .filter_map(named)
            .collect())
    }

    /// A learner that failed to join is removed: while it is there nobody else can join. One with a vote stays. Returns whether
    /// it was removed.
    async fn take_out(&mut self, id: u64) -> bool {
        let members = self.members().await.unwrap_or_default();
        if !members.iter().any(|member| member.id == id && member.learner) {
            return false;
        }
        match self.client.admin().remove(id).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "a learner that failed to join could not be removed again");
                false
            }
        }
    }
}

/// What a learner that was taken out again had copied is of no use to anybody: it never voted, and its disk may be full.
fn clear(data_dir: &Path) {
    let copied = data_dir.join("member");
    if copied.exists()
        && let Err(error) = std::fs::remove_dir_all(&copied)
    {
        tracing::warn!(%error, "the data of a failed join are in the way of the next one");
    }
}

/// What the cluster knows of a node that wants to join.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Stranger,
    /// A join of it was begun: it is a learner, started or not.
    Added(u64),
    /// There is one of its name, with a vote.
    Member(u64),
}

impl Standing {
    fn of(view: &View, config: &Config) -> Self {
        let url = config.peer_url();
        let known = view.members.iter().find(|seen| {
            let member = &seen.member;
            member.name == config.name || (member.name.is_empty() && member.peer_urls.contains(&url))
        });
        match known {
            None => Standing::Stranger,
            Some(seen) if seen.member.learner && seen.member.peer_urls.contains(&url) => {
                Standing::Added(seen.member.id)
            }
            Some(seen) => Standing::Member(seen.member.id),
        }
    }
}

fn refuse_data(config: &Config) -> Result<(), Error> {
    match config.has_data() {
        true => Err(Error::HasData {
            dir: config.data_dir.clone(),
        }),
        false => Ok(()),
    }
}

/// The leader it knows, if it answers.
async fn status(config: &Config) -> Result<Option<u64>, String> {
    let options = config.client_options().map_err(|error| error.to_string())?;
    let client = Client::new(options).map_err(|error| error.to_string())?;
    let status = client.admin().status(&config.client_url()).await;
    status.map(|status| status.leader).map_err(|error| error.to_string())
}

fn check_alive(server: &Server) -> Result<(), Error> {
    let died = |because| {
        Err(Error::Died {
            name: server.config().name.clone(),
            because,
        })
    };
    match server.state() {
        State::Failed { because } => died(because),
        State::Restarting { because, after } if after >= Duration::from_millis(100) * 2_u32.pow(DEATHS_MAX) => {
            died(because)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::made_up::view;
    use super::*;

    #[test]
    fn a_join_that_was_interrupted_is_taken_up_and_a_name_in_use_is_seen() {
        let config = |name: &str| {
            let mut config = Config::new(name, Path::new("/d"), 2379, 2380);
            config.address = "10.0.0.9".parse().unwrap();
            config
        };
        let mut cluster = view("a* b c?");
        assert_eq!(Standing::of(&cluster, &config("d")), Standing::Stranger);
        assert_eq!(Standing::of(&cluster, &config("b")), Standing::Member(2));
        assert_eq!(
            Standing::of(&cluster, &config("c")),
            Standing::Member(3),
            "a learner of this name elsewhere"
        );
        cluster.members[2].member.name.clear();
        cluster.members[2].member.peer_urls = vec![config("d").peer_url()];
        assert_eq!(
            Standing::of(&cluster, &config("d")),
            Standing::Added(3),
            "added, never started"
        );
        cluster.members[2].member.name = "d".into();
        assert_eq!(
            Standing::of(&cluster, &config("d")),
            Standing::Added(3),
            "started, not promoted"
        );
    }
}
