//! The first node of a cluster.

use crate::check;
use crate::error::Error;
use crate::place::{make_folders, now, put_leftovers_aside, server_config};
use crate::records::{REVOKED, TRUST, encode, issued_key, member_key};
use crate::{Place, Progress, etcd_options};
use api::layout::Layout;
use api::node::{Member as StoreMember, Node, StorePlace};
use api::record::{self, Meta};
use etcd::server::binary::Etcd;
use etcd::server::config::Initial;
use etcd::server::{PATIENCE, Server, measure, propose};
use identity::rotation::TrustRecord;
use identity::{
    Authority, Bundle, Folder, Issued, Keys, Lifetime, NODE_LIFETIME, NodeRole, Purpose, Registrar, RevocationList,
};
use model::{NodeName, Profile, WallTime};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use store::{Compare, Op, Store, Txn};

/// How long is measured before a timing is proposed.
pub(crate) const MEASURE: Duration = Duration::from_secs(1);
/// A first member of etcd answers in half a second; a slow disk takes longer.
pub(crate) const ETCD_UP: Duration = Duration::from_secs(30);
/// One that runs already answers at once, or after an election.
const ETCD_ANSWERS: Duration = Duration::from_secs(10);
pub(crate) const ETCD_LOOK: Duration = Duration::from_millis(50);

/// What the first node is to be.
#[derive(Debug, Clone)]
pub struct Init {
    /// Name of the cluster.
    pub cluster: String,
    /// Folder of the clusters of this machine.
    pub base: PathBuf,
    /// Name of the node.
    pub node: NodeName,
    /// Its place.
    pub zone: String,
    /// Where the others reach it.
    pub host: IpAddr,
    /// Port of its agent; etcd takes the next two.
    pub port: u16,
    /// The timing; measured and proposed if not given.
    pub profile: Option<Profile>,
    /// Endpoints of an etcd that is not ours to run.
    pub etcd: Vec<String>,
    /// Certificates for it: CA, certificate, key.
    pub etcd_tls: Option<(PathBuf, PathBuf, PathBuf)>,
    /// User and the file of the password for it.
    pub etcd_login: Option<(String, PathBuf)>,
    /// Before every key.
    pub prefix: String,
    /// Whether such an etcd may be reached without TLS over a network.
    pub in_the_open: bool,
    /// How long certificates are valid; all that is signed later lasts as long.
    pub lifetime: Option<Lifetime>,
}

/// Makes a cluster of this machine. Afterwards its agent can be started.
pub async fn init(init: &Init, tell: Progress<'_>) -> Result<Place, Error> {
    let layout = Layout::new(&init.base, &init.cluster);
    refuse_if_taken(&layout, &init.cluster)?;
    let managed = init.etcd.is_empty();
    check::address(init.host, init.port, managed)?;
    if managed {
        Etcd::find(None)?;
    } else {
        check::endpoints(&init.etcd, init.in_the_open)?;
    }
    if let Some(note) = check::note_on_address(init.host, &[]) {
        tell(&note);
    }
    make_folders(&layout)?;
    if let Some(aside) = put_leftovers_aside(&layout)? {
        tell(&format!(
            "an earlier attempt was cut off; what it left is in {}",
            aside.display()
        ));
    }
    tell("measuring disk and scheduling");
    let measured = measure::measure(layout.root(), &[], MEASURE).await?;
    let proposal = propose(&measured);
    let (profile, because) = match init.profile {
        Some(profile) => (profile, "the operator asked for it".to_owned()),
        None => (proposal.profile, proposal.because),
    };
    profile.timing().check()?;
    tell(&format!("timing `{profile}`: {because}"));

    let at = now();
    let authority = Authority::create(at)?;
    let trust = TrustRecord::first(&authority);
    let revoked = RevocationList::first(&authority, at)?;
    let folder = Folder::create(layout.pki())?;
    let keys = Keys::generate()?;
    let hosts = vec![init.host.to_string()];
    let request = keys.request(None, &init.node, Some(NodeRole::Member), &hosts)?;
    let registrar = Registrar {
        authorities: std::slice::from_ref(&authority),
        trust: &trust,
        revoked: &revoked,
        endpoints: &[],
        profile: &serde_json::Value::Null,
        lifetime: init.lifetime.unwrap_or(NODE_LIFETIME),
    };
    let bundle = registrar.enrol(&init.node, NodeRole::Member, &request, at)?;
    authority.save(&folder)?;
    bundle.save(&folder, &keys)?;
    let store = if managed {
        let client = SocketAddr::new(init.host, init.port + 1);
        StorePlace {
            endpoints: vec![format!("https://{client}")],
            prefix: init.prefix.clone(),
            member: Some(StoreMember {
                client,
                peer: SocketAddr::new(init.host, init.port + 2),
            }),
            user: None,
            tls: true,
        }
    } else {
        bring_certificates(init, &folder)?;
        StorePlace {
            endpoints: init.etcd.clone(),
            prefix: init.prefix.clone(),
            member: None,
            user: init.etcd_login.as_ref().map(|(user, _)| user.clone()),
            tls: init.etcd_tls.is_some(),
        }
    };
    let cluster_id = authority.cluster_id().to_string().replace('-', "");
    let node = Node {
        cluster: init.cluster.clone(),
        cluster_id: cluster_id.clone(),
        node: init.node.clone(),
        zone: init.zone.clone(),
        host: init.host,
        agent_port: init.port,
        runs_services: true,
        machine: machine(),
        profile,
        because,
        timing: None,
        store,
        watchdog: None,
        whole_up_to: None,
        generation: 0,
        left_behind: Vec::new(),
    };
    let place = Place { layout, node };
    let server = match server_config(&place.node, &place.layout) {
        Some(mut config) => {
            config.initial = Initial::New;
            tell("starting etcd");
            // Dropped, it goes on; the agent adopts it.
            Some(Server::start(config).await?)
        }
        None => None,
    };
    let begun = begin(&place, &authority, &trust, &revoked, &bundle, at).await;
    match (begun, server) {
        (Ok(()), _) => {}
        (Err(error), None) => return Err(error),
        (Err(error), Some(server)) => {
            // Nothing of it is a cluster yet, and the next attempt needs the ports.
            if let Err(error) = server.stop(PATIENCE).await {
                tell(&format!("etcd could not be stopped: {error}"));
            }
            put_leftovers_aside(&place.layout)?;
            return Err(error);
        }
    }
    place.node.write(&place.layout.node())?;
    Ok(place)
}

/// The first records. Another cluster's are left alone.
async fn begin(
    place: &Place,
    authority: &Authority,
    trust: &TrustRecord,
    revoked: &RevocationList,
    bundle: &Bundle,
    at: WallTime,
) -> Result<(), Error> {
    let store = etcd_up(place).await?;
    let (node, cluster_id) = (&place.node.node, &place.node.cluster_id);
    let meta = Meta {
        cluster_id: cluster_id.clone(),
        generation: 0,
        format: record::FORMAT,
    };
    let issued = {
        let mut issued = Issued::default();
        issued.add(bundle.certificates.issue, bundle.certificates.not_after, at);
        issued
    };
    let member = member_record(&place.node, true);
    let txn = Txn::new()
        .when(Compare::absent(record::META))
        .then(Op::put(record::META, encode(record::META, &meta)?))
        .then(Op::put(
            TRUST,
            encode(TRUST, &authority.seal(Purpose::Trust, TRUST, trust)?)?,
        ))
        .then(Op::put(
            REVOKED,
            encode(REVOKED, &authority.seal(Purpose::Revocation, REVOKED, revoked)?)?,
        ))
        .then(Op::put(issued_key(node), encode("issued", &issued)?))
        .then(Op::put(member_key(node), encode("member", &member)?))
        .otherwise(Op::get(record::META));
    let result = store.txn(txn).await?;
    if !result.succeeded {
        let found: Option<Meta> = result
            .reads
            .into_iter()
            .flatten()
            .next()
            .and_then(|entry| serde_json::from_slice(&entry.value).ok());
        return Err(Error::StoreTaken {
            found: found.map_or_else(|| "of an unknown kind".into(), |meta| meta.cluster_id),
            prefix: place.node.store.prefix.clone(),
        });
    }
    Ok(())
}

pub(crate) fn refuse_if_taken(layout: &Layout, cluster: &str) -> Result<(), Error> {
    if let Some(node) = Node::read(&layout.node())? {
        return Err(Error::AlreadyNode {
            node: node.node,
            cluster: cluster.into(),
            path: layout.node(),
        });
    }
    if layout.store().exists() {
        return Err(Error::OneMachine {
            cluster: cluster.into(),
            path: layout.store(),
        });
    }
    Ok(())
}

fn bring_certificates(init: &Init, folder: &Folder) -> Result<(), Error> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|source| Error::Io {
            doing: "read",
            path: path.into(),
            source,
        })
    };
    if let Some((ca, cert, key)) = &init.etcd_tls {
        folder.write_public("etcd-ca.pem", &read(ca)?)?;
        folder.write_public("etcd-client.pem", &read(cert)?)?;
        folder.write_secret("etcd-client.key", &identity::Secret::new(read(key)?))?;
    }
    if let Some((_, password)) = &init.etcd_login {
        folder.write_secret("etcd-password", &identity::Secret::new(read(password)?))?;
    }
    Ok(())
}

/// Waits until the store answers.
pub(crate) async fn etcd_up(place: &Place) -> Result<etcd::Etcd, Error> {
    let options = etcd_options(&place.node, &place.layout)?;
    let managed = place.node.store.member.is_some();
    let patience = if managed { ETCD_UP } else { ETCD_ANSWERS };
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        let last = match etcd::Etcd::connect(options.clone()).await {
            Ok(store) => match store.revision().await {
                Ok(_) => return Ok(store),
                Err(error) => error.to_string(),
            },
            // It will not become another one while we wait.
            Err(error @ etcd::Error::Server(_)) if !managed => return Err(error.into()),
            Err(error) => crate::call::chain(&error),
        };
        if tokio::time::Instant::now() >= deadline {
            if !managed {
                return Err(Error::NoEtcd {
                    endpoints: place.node.store.endpoints.clone(),
                    seconds: patience.as_secs(),
                    last,
                });
            }
            return Err(Error::NotUp {
                seconds: ETCD_UP.as_secs(),
                last,
                log: place.layout.own_log("etcd"),
            });
        }
        tokio::time::sleep(ETCD_LOOK).await;
    }
}

pub(crate) fn member_record(node: &Node, votes: bool) -> record::Member {
    record::Member {
        zone: node.zone.clone(),
        host: node.host,
        agent_port: node.agent_port,
        runs_services: node.runs_services,
        votes,
        machine: node.machine.clone(),
        joined: now(),
        cpu_percent: processors(),
        memory_bytes: memory(),
    }
}

/// Processors of this machine, in percent of one; 0 if it does not say.
fn processors() -> u32 {
    std::thread::available_parallelism().map_or(0, |count| u32::try_from(count.get()).unwrap_or(0).saturating_mul(100))
}

/// Memory of this machine in bytes; 0 if it does not say.
fn memory() -> u64 {
    let told = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = told.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1_024)
}

/// Another one for each machine that ever joined: a copy of a machine's disk is the same one, and is told apart by its boot.
pub(crate) fn machine() -> String {
    identity_hex().unwrap_or_else(|| format!("{}", now().0))
}

fn identity_hex() -> Option<String> {
    let mut random = [0_u8; 16];
    let mut file = std::fs::File::open("/dev/urandom").ok()?;
    std::io::Read::read_exact(&mut file, &mut random).ok()?;
    Some(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
