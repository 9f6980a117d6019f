//! Real etcd: clusters of members that die with the test, on addresses of its own.

use etcd::{Client, Etcd, Options};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Far longer than anything takes here, so that what does not happen fails the test rather than hangs it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

static CLUSTERS: AtomicU16 = AtomicU16::new(0);

/// How a cluster is started.
#[derive(Clone)]
pub(crate) struct Recipe {
    pub(crate) members: usize,
    pub(crate) heartbeat_ms: u32,
    pub(crate) election_ms: u32,
    pub(crate) token: String,
    pub(crate) flags: Vec<String>,
    pub(crate) https: bool,
    disk_mib: Option<u32>,
}

/// Some members of etcd.
pub(crate) struct Cluster {
    recipe: Recipe,
    pub(crate) members: Vec<Member>,
    folder: TempDir,
}

/// One of them.
pub(crate) struct Member {
    name: String,
    pub(crate) client: SocketAddr,
    pub(crate) peer: SocketAddr,
    data: PathBuf,
    child: Option<Child>,
}

impl Recipe {
    pub(crate) fn members(members: usize) -> Self {
        Self {
            members,
            heartbeat_ms: 50,
            election_ms: 500,
            token: "tests".into(),
            flags: Vec::new(),
            https: false,
            disk_mib: None,
        }
    }

    /// With a disk of this size for all data, which takes root to make.
    pub(crate) fn on_disk_of_mib(mut self, mib: u32) -> Self {
        self.disk_mib = Some(mib);
        self
    }

    pub(crate) fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(ToString::to_string));
        self
    }

    pub(crate) fn start(self) -> Cluster {
        let folder = tempfile::tempdir().expect("a folder for etcd");
        if let Some(mib) = self.disk_mib {
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]);
            let mounted = mount.arg(folder.path()).status().expect("mount is there");
            assert!(mounted.success(), "mounting a small file system takes root");
        }
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let members = (0..self.members)
            .map(|index| {
                let port = 2379 + number * 20 + 2 * u16::try_from(index).expect("few members");
                Member {
                    name: format!("m{index}"),
                    client: address(port),
                    peer: address(port + 1),
                    data: folder.path().join(format!("m{index}")),
                    child: None,
                }
            })
            .collect();
        let mut cluster = Cluster {
            recipe: self,
            members,
            folder,
        };
        for index in 0..cluster.members.len() {
            cluster.start(index);
        }
        cluster
    }
}

impl Cluster {
    pub(crate) fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|index| self.endpoint(index)).collect()
    }

    pub(crate) fn endpoint(&self, index: usize) -> String {
        format!("{}://{}", self.scheme(), self.members[index].client)
    }

    fn scheme(&self) -> &'static str {
        match self.recipe.https {
            true => "https",
            false => "http",
        }
    }

    /// Options that find it, with deadlines for a machine that has other work.
    pub(crate) fn options(&self) -> Options {
        Options::new(self.endpoints()).deadlines(Duration::from_millis(400), Duration::from_secs(10))
    }

    /// A store on it, once it answers.
    pub(crate) async fn store(&self, prefix: &str) -> Etcd {
        let store = Etcd::new(self.options().prefix(prefix)).expect("good options");
        until("etcd answers", async || store::Store::revision(&store).await.is_ok()).await;
        store
    }

    /// Index of the member that leads, once all that run agree on it.
    pub(crate) async fn leader(&self, client: &Client) -> usize {
        let mut leader = None;
        until("there is a leader", async || {
            let mut seen = Vec::new();
            for index in (0..self.members.len()).filter(|&index| self.members[index].child.is_some()) {
                seen.push(client.admin().status(&self.endpoint(index)).await.map(|status| {
                    if status.leader == Some(status.member) {
                        leader = Some(index);
                    }
                    status.leader
                }));
            }
            matches!(&seen[0], Ok(Some(_))) && seen.iter().all(|other| *other == seen[0]) && leader.is_some()
        })
        .await;
        leader.expect("there is one")
    }

    pub(crate) fn start(&mut self, index: usize) {
        let initial: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("{}=http://{}", member.name, member.peer))
            .collect();
        let scheme = self.scheme();
        let member = &mut self.members[index];
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("{}.log", member.name)))
            .expect("a log");
        let (client, peer) = (
            format!("{scheme}://{}", member.client),
            format!("http://{}", member.peer),
        );
        // It ends with the thread of the test, whatever becomes of that.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd", "--logger", "zap", "--name", &member.name])
            .arg("--data-dir")
            .arg(&member.data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args([
                "--initial-cluster",
                &initial.join(","),
                "--initial-cluster-token",
                &self.recipe.token,
            ])
            .args(["--heartbeat-interval", &self.recipe.heartbeat_ms.to_string()])
            .args(["--election-timeout", &self.recipe.election_ms.to_string(), "--pre-vote"])
            .args(&self.recipe.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("setpriv or etcd is missing: apt-get install util-linux etcd-server");
        member.child = Some(child);
    }

    /// Kills a member and waits for its end.
    pub(crate) fn kill(&mut self, index: usize) {
        self.members[index].end();
    }

    /// Removes all that a member, killed before, knew.
    pub(crate) fn wipe(&mut self, index: usize) {
        std::fs::remove_dir_all(&self.members[index].data).expect("its data is there");
    }

    pub(crate) fn set_token(&mut self, token: &str) {
        self.recipe.token = token.into();
    }

    pub(crate) fn stop(&self, index: usize) {
        self.members[index].signal("STOP");
    }

    pub(crate) fn resume(&self, index: usize) {
        self.members[index].signal("CONT");
    }
}

impl Member {
    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id();
        let status = Command::new("kill")
            .args([&format!("-{name}"), &pid.to_string()])
            .status();
        assert!(status.expect("kill is there").success());
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.members.clear();
        if self.recipe.disk_mib.is_some() {
            // If it is not there any more, that is fine too.
            let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.end();
    }
}

/// An address of this process alone: the loopback network has sixteen million.
pub(crate) fn address(port: u16) -> SocketAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 64 | (high & 63), middle, low], port))
}

/// Waits until `holds`.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
