//! From nothing to a working agent: lock, store, what still runs, proxy, API.

use crate::agent::Agent;
use crate::clock;
use crate::cluster;
use crate::executor::Executor;
use crate::folder;
use crate::fronts::Fronts;
use crate::http;
use crate::input::Input;
use crate::journal::{Inputs, Journal};
use crate::keeper::{Keeper, guard_pid};
use crate::memo::{Memo, is_launched_from};
use crate::proxy_link::ProxyLink;
use crate::revisions::{Worked, read_worked};
use crate::slots::known_slot;
use crate::{Config, EXIT_REFUSED};
use api::layout::Layout;
use api::record::{self, Applied, Meta};
use decisions::{Adopted, Core, Event, Reason, Recovered, SlotKnown};
use drivers::logs::Rotator;
use drivers::process::{self, Driver};
use model::{Cluster, Epoch, InstanceId, NodeName, Revision, RunId, ServiceName, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::{Embedded, Op, Store, Txn};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// Logs are looked at this often; a service that writes 10 MB/s overshoots its bound by 50 MB.
const ROTATE_EVERY: Duration = Duration::from_secs(5);

/// A verdict is written down once a second at most.
const VERDICT_SLACK: Duration = Duration::from_millis(1_500);

/// Why an agent cannot work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("failed to make the folder `{}`", path.display())]
    MakeFolder { path: PathBuf, source: io::Error },

    #[error("this cluster has an agent already, or none can be")]
    Lock(#[from] guard::LockError),

    #[error(transparent)]
    Store(#[from] store::FileError),

    #[error("failed to read the store")]
    ReadStore(#[from] store::Error),

    #[error("the record `{key}` of the store cannot be understood")]
    Record { key: String, source: serde_json::Error },

    #[error("the store's records have format {found}, this version knows {}", record::FORMAT)]
    Format { found: u32 },

    #[error("failed to get ready for processes")]
    Driver(#[from] process::DriverError),

    #[error("failed to adopt an instance")]
    Adopt(#[source] process::AdoptError),

    #[error("failed to look for processes of an earlier agent")]
    Sweep(#[from] process::SweepError),

    #[error("failed to answer at {at}")]
    Listen { at: String, source: io::Error },

    #[error("failed to show the dashboard at {at}")]
    Dashboard { at: String, source: io::Error },

    #[error("failed to find the path of this program")]
    Exe(#[source] io::Error),

    #[error("failed to listen for signals")]
    Signals(#[source] io::Error),

    #[error("failed to draw an identity for the cluster")]
    Random(#[source] io::Error),

    #[error(transparent)]
    Node(#[from] api::node::Error),

    #[error("this machine is a node of a cluster, and `{}` is gone", path.display())]
    NodeFileGone { path: PathBuf },

    #[error("the store is not that of this cluster: this node belongs to {ours}, the store says {found}")]
    OtherCluster { ours: String, found: String },

    #[error("the certificates in `{}` are those of {what}, and this machine is of {ours}", folder.display())]
    OtherCertificates {
        folder: PathBuf,
        what: String,
        ours: String,
    },

    #[error("failed to join the others: {0}")]
    Join(String),

    /// Not a failure: an operator wanted it while the store did not answer.
    #[error("the node is down")]
    Down,

    #[error("services of this cluster run and their records in `{}` are gone: nobody can say which of them is active. What runs is {}", path.display(), what.join(", "))]
    RecordsLost { path: PathBuf, what: Vec<String> },
}

impl StartError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            StartError::Store(error) => Some(error.hint().into()),
            StartError::ReadStore(error) => error.hint().map(Into::into),
            StartError::MakeFolder { .. } | StartError::Lock(guard::LockError::Io { .. }) => {
                Some("choose another folder with `--state-dir`, or run as the user it belongs to".into())
            }
            StartError::Lock(guard::LockError::Held { .. }) => {
                Some("`understudy status` asks it; `understudy down` ends it".into())
            }
            StartError::Record { .. } => Some("put a backup of the store in its place".into()),
            StartError::Format { .. } => Some("run the version that wrote it, or a newer one".into()),
            StartError::Listen { .. } => Some("choose another address with `--api`".into()),
            StartError::Dashboard { .. } => Some("choose another address with `--dashboard`, or `--dashboard off`".into()),
            StartError::OtherCluster { .. } => Some(
                "it was wiped, or put back from another one: `understudy cluster restore FILE` puts a backup back, `understudy cluster join` joins the new one".into(),
            ),
            StartError::NodeFileGone { path } | StartError::Node(api::node::Error::Damaged { path, .. }) => Some(format!(
                "put `{}` back from a backup of this machine; or, with services of it ended and its folder put aside, take the node out on another \
                 one with `understudy cluster remove` and let it `join` again",
                path.display()
            )),
            StartError::OtherCertificates { folder, .. } => Some(format!(
                "nothing was touched. Put this machine's own `{}` back; or take the node out on another one with `understudy cluster remove`, put its folder \
                 aside and let it `join` again",
                folder.display()
            )),
            StartError::RecordsLost { .. } => Some(
                "nothing was touched. Put the folder back; or end these processes by hand, and start again".into(),
            ),
            _ => None,
        }
    }

    pub(crate) fn exit_code(&self) -> i32 {
        match self {
            StartError::Store(
                store::FileError::InUse { .. } | store::FileError::DiskFull { .. } | store::FileError::Io { .. },
            ) => 1,
            StartError::Store(_)
            | StartError::Record { .. }
            | StartError::Format { .. }
            | StartError::Node(api::node::Error::Damaged { .. })
            | StartError::RecordsLost { .. }
            | StartError::NodeFileGone { .. }
            | StartError::OtherCertificates { .. }
            | StartError::OtherCluster { .. } => EXIT_REFUSED,
            StartError::Down => 0,
            _ => 1,
        }
    }
}

/// What the store and the machine say.
struct Found {
    applied: Option<Applied>,
    applied_at: Revision,
    /// The last file that worked: that one, or one before it.
    worked: Option<Applied>,
    slots: Vec<SlotKnown>,
    instances: BTreeMap<InstanceId, record::Instance>,
    numbers: Vec<(ServiceName, u32)>,
    paused: Option<record::Paused>,
    /// Slots that nobody shall hold.
    parks: Vec<(model::SlotId, record::Parked)>,
    /// Versions that are given up.
    given_up: crate::given_up::Versions,
    /// Nodes that an operator took away, and how.
    away: Vec<(NodeName, String)>,
    /// There are other nodes, whose instances are none of ours.
    several: bool,
}

/// Brings an agent up to the point where it takes events in.
pub(crate) async fn start(config: Config) -> Result<(Agent, mpsc::UnboundedReceiver<Input>), StartError> {
    let layout = Layout::new(&config.base, &config.cluster);
    let had_records = layout.instances().is_dir();
    for folder in [
        layout.root().to_owned(),
        layout.run(),
        layout.logs(),
        layout.instances(),
    ] {
        make_folder(&folder)?;
    }
    let before = guard::locked_by(&layout.agent_lock()).filter(|before| !before.is_empty());
    let mut lock = guard::lock(&layout.agent_lock())?;
    let had_records = move_old_records(&layout) || had_records;
    let exe = own_path().map_err(StartError::Exe)?;
    let node = api::node::Node::read(&layout.node())?;
    if node.is_none() && layout.pki().exists() {
        return Err(StartError::NodeFileGone { path: layout.node() });
    }
    let connected = match &node {
        Some(node) => match cluster::start::connect(node, &layout).await {
            Ok(connected) => Some(connected),
            Err(error) => {
                if matches!(error, StartError::Down)
                    && let Err(error) = guard::write_lock(&mut lock, guard::ENDED)
                {
                    tracing::warn!(%error, "cannot note that the agent ends in order; its guard may start it again");
                }
                return Err(error);
            }
        },
        None => None,
    };
    let store = match &connected {
        Some(connected) => Arc::clone(&connected.ways.store) as Arc<dyn Store>,
        None => open_embedded(&layout).await?,
    };
    let meta = meta(store.as_ref(), node.as_ref()).await?;
    let mut found = read(store.as_ref()).await?;
    let driver = Arc::new(Driver::new(process::Config::new(&*meta.cluster_id))?);
    let (kind, why) = driver.tree_kind();
    tracing::info!(?kind, why, "processes are held together by");
    if !had_records {
        refuse_what_nobody_knows(&driver, &layout).await?;
    }

    let (inputs, mut queue) = mpsc::unbounded_channel();
    let mut journal = Journal::open(layout.root().join("events.jsonl"));
    if before.is_some_and(|before| before != guard::ENDED) {
        journal.tell(
            api::Severity::Warning,
            "agent-back",
            "the agent is back; until now nobody looked after what runs here".into(),
            "the one before it did not end in order: it died, hung and was killed, or the machine went down".into(),
        );
    }
    let nodes = match &node {
        Some(node) => vec![node.node.clone()],
        None => node_names(config.nodes),
    };
    let mut executor = Executor::new(
        layout.clone(),
        exe.clone(),
        meta.cluster_id.clone(),
        Arc::clone(&store),
        Arc::clone(&driver),
        inputs.clone(),
    );
    let empty = Cluster {
        name: config.cluster.clone(),
        services: BTreeMap::new(),
        alerts: model::Alerts::default(),
        site: model::Site::default(),
    };
    let cluster = Arc::new(found.applied.as_ref().map_or(empty, |applied| applied.cluster.clone()));
    let folder = found
        .applied
        .as_ref()
        .and_then(|applied| Agent::folder_of(&applied.path));
    executor.declare(Arc::clone(&cluster), folder);
    let state = appstate::AppState::new(Arc::clone(&store), appstate::Limits::default());
    executor.give_state(state.clone());
    let joined = match node.as_ref().zip(connected.as_ref()) {
        Some((node, connected)) => {
            Some(cluster::start::join(node, &layout, connected, &inputs, &mut queue, &mut executor).await?)
        }
        None => None,
    };
    if node.is_some() {
        found.several = true;
        // Others start and stop what is theirs.
        found.instances.retain(|_, record| nodes.contains(&record.node));
    }
    if let Some(worked) = &found.worked {
        executor.know_earlier(&worked.cluster, Agent::folder_of(&worked.path).as_deref());
    }
    let adopted = adopt(&driver, &layout, &cluster, &found, &nodes, &mut executor).await?;
    executor.sweep_addresses().await;
    let mut fronts = Fronts::default();
    let (routes, routed_epoch) = adopt_proxy(&layout, &mut fronts).await;
    let seen = adopted
        .iter()
        .filter_map(|instance| instance.promoted)
        .chain(routed_epoch)
        .max();
    let generation = generation(store.as_ref(), &meta, &found.slots, seen).await?;
    if joined.is_some()
        && let Err(error) = api::node::Node::note_generation(&layout.node(), generation)
    {
        tracing::warn!(error = %crate::executor::chain(&error), "the generation of epochs is not noted on this node");
    }
    let attempt = clock::wall_now().0.unsigned_abs() * 1_000;
    let mut core = match &joined {
        Some(joined) => {
            let stagger = joined.cluster.timing.rank_stagger.duration();
            // Attempts tell the writes of different nodes apart.
            let attempt = attempt.wrapping_mul(64) ^ seed(&joined.cluster.node.machine);
            let me = joined.cluster.me.clone();
            Core::clustered(seed(&meta.cluster_id), attempt, generation, me, stagger)
        }
        None => Core::new(seed(&meta.cluster_id), attempt, generation, nodes.clone()),
    };
    if let Err(failed) = fronts.open(&cluster) {
        for (service, error) in failed {
            let error = crate::executor::chain(&error);
            tracing::error!(%service, error, "clients cannot come: its address is not to be had");
            fronts.told(service, Some(error));
        }
    }
    let recovered = Recovered {
        cluster: (*cluster).clone(),
        worked: found.worked.as_ref().map(|worked| Box::new(worked.cluster.clone())),
        slots: found.slots,
        instances: adopted,
        numbers: found.numbers,
        routes,
        elsewhere: joined
            .as_ref()
            .map(super::cluster::start::Joined::elsewhere)
            .unwrap_or_default(),
    };
    if let Some(joined) = &joined {
        let session = joined.cluster.session;
        let event = decisions::ClusterEvent::OwnSession(session);
        core.handle(Event::Cluster(event), clock::now());
    }
    // What the operator wished is not forgotten with the agent; and it comes first, so that nothing is begun against it.
    let node_file = node.as_ref();
    for (node, how) in found.away {
        if cluster::leave::is_own_wish(&how, &node, node_file) {
            // It went down in order, and is back.
            store
                .txn(Txn::new().then(Op::delete(format!("{}{node}", record::NODES))))
                .await?;
            continue;
        }
        let event = match how.as_str() {
            _ if node_file.is_some() => Event::NodeDrained { node },
            "drained" => Event::NodeDrained { node },
            _ => Event::NodeLost {
                node,
                because: Reason::DrillAsked,
            },
        };
        core.handle(event, clock::now());
    }
    if let Some(paused) = &found.paused {
        core.handle(Event::Paused(Some(crate::pauses::known_pause(paused))), clock::now());
    }
    for (slot, parked) in &found.parks {
        let (slot, parked) = (slot.clone(), Some(crate::parks::known_park(parked)));
        core.handle(Event::Parked { slot, parked }, clock::now());
    }
    core.stood(journal.stood());
    let in_force = found.applied.as_ref().map(|applied| applied.revision);
    for (service, given_up) in found.given_up.of(in_force) {
        let given_up = Some(given_up);
        core.handle(Event::GivenUp { service, given_up }, clock::now());
    }
    core.handle(Event::Recovered(recovered), clock::now());
    executor.check_all();

    let keeper = Keeper {
        exe: exe.clone(),
        base: config.base.clone(),
        cluster: config.cluster.clone(),
        nodes: config.nodes,
        api: config.api,
        dashboard: config.dashboard,
        layout: layout.clone(),
        // In a cluster nothing exclusive runs without one: there it is missed also if it was gone before we came.
        guarded: joined.is_some()
            || guard_pid(&layout.guard_lock()).is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists()),
    };
    keeper.watch(&inputs);
    let changed = watch::Sender::new(0);
    let settled = watch::Sender::new(false);
    let none = || StartError::Join("a machine pretends to be one node at least".into());
    let me = nodes.first().cloned().ok_or_else(none)?;
    let desk = Arc::new(
        crate::dashboard::Desk::open(&config.cluster, me, &layout, node.as_ref()).map_err(StartError::Random)?,
    );
    let (feed, waiting) = crate::dashboard::Feed::new();
    let measures = crate::measure::Measures::start(&layout, &inputs, Arc::clone(&store));
    let door = http::Door {
        inputs: inputs.clone(),
        changed: changed.subscribe(),
        settled: settled.subscribe(),
        news: journal.news(),
        store: Arc::clone(&store),
        state: state.clone(),
        desk: Arc::clone(&desk),
        feed,
        measures: measures.clone(),
        analyses: crate::analysis::Answers::default(),
        papers: joined
            .as_ref()
            .map(|joined| Arc::clone(&joined.cluster.papers))
            .unwrap_or_default(),
        standing: joined
            .as_ref()
            .map(|joined| Arc::clone(&joined.cluster.standing))
            .unwrap_or_default(),
    };
    waiting.start(door.clone());
    tokio::spawn(crate::outlook::keep(door.clone()));
    let room = crate::loopback::Room::default();
    crate::dashboard::listen(
        room.clone(),
        config.dashboard,
        &layout.dashboard_address(),
        &desk,
        http::app(door.clone()),
    )?;
    if let Some((connected, joined)) = connected.as_ref().zip(joined.as_ref()) {
        cluster::start::open_door(connected, door.clone(), Arc::clone(&joined.cluster.papers)).await?;
    }
    folder::keep(&layout, &door).await?;
    http::listen(room, config.api, door)?;
    let link = ProxyLink::start(&layout, &exe, inputs.clone());
    watch_signals(&inputs)?;
    let (clustered, started) = joined.map(cluster::start::Joined::split).unzip();
    // Among several machines the guard hears of the main loop with all the rest.
    let pulse = clustered
        .is_none()
        .then(|| crate::keeper::Pulse::new(layout.heartbeat()))
        .flatten();
    let mut agent = Agent {
        name: config.cluster,
        lock,
        layout,
        core,
        executor,
        journal,
        fronts,
        link,
        store,
        inputs: inputs.clone(),
        cluster,
        worked: match (&found.worked, &found.applied) {
            (Some(worked), Some(applied)) if worked.revision == applied.revision => Worked::Written,
            _ => Worked::NotYet,
        },
        given_up: found.given_up,
        applied: found.applied,
        applied_at: found.applied_at,
        applying: false,
        changed,
        settled,
        keeper,
        switchovers: BTreeMap::new(),
        next_request: 1,
        down: Vec::new(),
        down_by: None,
        proxy_is_up: false,
        farewell: None,
        ending: None,
        pulse,
        clustered,
        outlook: Arc::default(),
        hardware: model::hardware::Hardware::default(),
        history: Arc::default(),
        measures,
    };
    crate::hardware::watch(&agent.layout, inputs.clone());
    agent.begin_with_others(started);
    tokio::spawn(rotate_logs(inputs));
    Ok((agent, queue))
}

/// Records were kept in `run/` once, which anyone might empty.
fn move_old_records(layout: &Layout) -> bool {
    let old = layout.run().join("instances");
    let mut moved = old.is_dir();
    for path in record_files(&old) {
        let to = layout.instances().join(path.file_name().unwrap_or_default());
        if let Err(error) = std::fs::rename(&path, &to) {
            tracing::error!(%error, path = %path.display(), "a record stays where it is not looked for");
            moved = false;
        }
    }
    let _ = std::fs::remove_dir(&old);
    moved
}

/// Whatever runs without a record is a start that was cut off, and is ended. But where the whole folder is gone it may be everything.
async fn refuse_what_nobody_knows(driver: &Driver, layout: &Layout) -> Result<(), StartError> {
    let runs = driver.strays(&BTreeSet::new()).await?;
    if runs.is_empty() {
        return Ok(());
    }
    let path = layout.instances();
    // The next try must find it missing as well.
    let _ = std::fs::remove_dir(&path);
    let shown = |swept: process::Swept| format!("{} (processes {:?})", swept.what, swept.pids);
    Err(StartError::RecordsLost {
        path,
        what: runs.into_iter().map(shown).collect(),
    })
}

pub(crate) fn make_folder(path: &Path) -> Result<(), StartError> {
    // What services write may be secret: only its owner looks in.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(|source| StartError::MakeFolder {
            path: path.into(),
            source,
        })
}

/// The path by which this program was found; after an upgrade the same path leads to the new one.
fn own_path() -> io::Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let text = exe.to_string_lossy();
    Ok(match text.strip_suffix(" (deleted)") {
        Some(path) => PathBuf::from(path),
        None => exe,
    })
}

async fn open_embedded(layout: &Layout) -> Result<Arc<dyn Store>, StartError> {
    let store_path = layout.store();
    // Instances with data had slots and epochs: a store that is gone is recovered, never begun anew.
    let options = store::Options {
        create: !layout.root().join("data").exists(),
        ..store::Options::default()
    };
    match tokio::task::spawn_blocking(move || Embedded::open(&store_path, &options)).await {
        Ok(opened) => Ok(Arc::new(opened?)),
        Err(error) => Err(StartError::Exe(io::Error::other(error))),
    }
}

async fn meta(store: &dyn Store, node: Option<&api::node::Node>) -> Result<Meta, StartError> {
    if let Some(entry) = store.get(record::META).await? {
        let meta: Meta = parse(record::META, &entry.value)?;
        if meta.format > record::FORMAT {
            return Err(StartError::Format { found: meta.format });
        }
        if let Some(node) = node.filter(|node| node.cluster_id != meta.cluster_id) {
            return Err(StartError::OtherCluster {
                ours: node.cluster_id.clone(),
                found: meta.cluster_id,
            });
        }
        return Ok(meta);
    }
    // Of several machines it was written when the first of them began the cluster: one without it was wiped.
    if let Some(node) = node {
        return Err(StartError::OtherCluster {
            ours: node.cluster_id.clone(),
            found: "nothing".into(),
        });
    }
    let mut random = [0_u8; 16];
    io::Read::read_exact(
        &mut File::open("/dev/urandom").map_err(StartError::Random)?,
        &mut random,
    )
    .map_err(StartError::Random)?;
    let cluster_id = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let meta = Meta {
        cluster_id,
        generation: 0,
        format: record::FORMAT,
    };
    let value = serde_json::to_vec(&meta).map_err(|source| StartError::Record {
        key: record::META.into(),
        source,
    })?;
    store.txn(Txn::new().then(Op::put(record::META, value))).await?;
    Ok(meta)
}

/// A store that knows less than what runs was put back from an older copy: its epochs would be given out a second time. A new
/// generation puts every epoch above all that anybody saw.
async fn generation(
    store: &dyn Store,
    meta: &Meta,
    slots: &[SlotKnown],
    seen: Option<Epoch>,
) -> Result<u32, StartError> {
    let kept = slots.iter().map(|slot| slot.epoch).max().unwrap_or_default();
    let Some(seen) = seen.filter(|seen| *seen > kept) else {
        return Ok(meta.generation);
    };
    let raised = Meta {
        generation: meta.generation.max(seen.generation()) + 1,
        ..meta.clone()
    };
    tracing::warn!(%kept, %seen, generation = raised.generation, "the store is older than what runs; all epochs begin a new generation");
    let value = serde_json::to_vec(&raised).map_err(|source| StartError::Record {
        key: record::META.into(),
        source,
    })?;
    store.txn(Txn::new().then(Op::put(record::META, value))).await?;
    Ok(raised.generation)
}

async fn read(store: &dyn Store) -> Result<Found, StartError> {
    let current = store.get(record::CURRENT).await?;
    let applied_at = current.as_ref().map(|entry| entry.modified).unwrap_or_default();
    let applied = current.map(|entry| parse(record::CURRENT, &entry.value)).transpose()?;
    let worked = match read_worked(store).await?.last_key_value() {
        Some((revision, _)) => store.get(&record::history_key(*revision)).await?,
        None => None,
    };
    let worked = worked.map(|entry| parse(&entry.key, &entry.value)).transpose()?;
    let mut slots = Vec::new();
    for entry in store.list(record::SLOTS).await?.0 {
        let _: record::Slot = parse(&entry.key, &entry.value)?;
        slots.extend(record::slot_of_key(&entry.key).and_then(|slot| known_slot(&slot, &entry)));
    }
    let mut instances = BTreeMap::new();
    for entry in store.list(record::INSTANCES).await?.0 {
        let record: record::Instance = parse(&entry.key, &entry.value)?;
        if let Some(id) = entry
            .key
            .strip_prefix(record::INSTANCES)
            .and_then(|id| id.parse::<InstanceId>().ok())
        {
            instances.insert(id, record);
        }
    }
    let mut numbers = Vec::new();
    for entry in store.list(record::NUMBERS).await?.0 {
        let service = entry
            .key
            .strip_prefix(record::NUMBERS)
            .and_then(|name| name.parse().ok());
        let number = String::from_utf8(entry.value)
            .ok()
            .and_then(|number| number.parse().ok());
        numbers.extend(service.zip(number));
    }
    let paused = store.get(record::PAUSED).await?;
    let paused = paused.map(|entry| crate::pauses::read_pause(&entry.value));
    let mut parks = Vec::new();
    for entry in store.list(record::PARKS).await?.0 {
        let parked: record::Parked = parse(&entry.key, &entry.value)?;
        parks.extend(record::park_of_key(&entry.key).map(|slot| (slot, parked)));
    }
    let given_up = crate::given_up::Versions::read(store.list(record::GIVEN_UP).await?.0);
    let wish = |entry: store::Entry| {
        let node = entry.key.strip_prefix(record::NODES)?.parse().ok()?;
        Some((node, String::from_utf8(entry.value).ok()?))
    };
    let away = store
        .list(record::NODES)
        .await?
        .0
        .into_iter()
        .filter_map(wish)
        .collect();
    Ok(Found {
        applied,
        applied_at,
        worked,
        slots,
        instances,
        numbers,
        paused,
        parks,
        given_up,
        away,
        several: false,
    })
}

fn parse<T: serde::de::DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, StartError> {
    serde_json::from_slice(value).map_err(|source| StartError::Record {
        key: key.into(),
        source,
    })
}

/// What still runs is adopted, what runs and is not known is ended.
async fn adopt(
    driver: &Driver,
    layout: &Layout,
    cluster: &Cluster,
    found: &Found,
    nodes: &[NodeName],
    executor: &mut Executor,
) -> Result<Vec<Adopted>, StartError> {
    // Numbers of starts only rise, also over the memory of an agent: from here on by the clock.
    let base = RunId(clock::wall_now().0.unsigned_abs());
    let mut instances: BTreeMap<InstanceId, Adopted> = BTreeMap::new();
    for (id, record) in &found.instances {
        if !cluster.services.contains_key(id.service()) {
            continue;
        }
        executor.know_port(id, record.port);
        let node = if nodes.contains(&record.node) {
            record.node.clone()
        } else {
            nodes[0].clone()
        };
        let adopted = Adopted {
            instance: id.clone(),
            node,
            run: base,
            running: false,
            current: true,
            promoted: None,
            acts: None,
            served: false,
            followed: None,
            stands_by: None,
            healthy: true,
            since: None,
        };
        instances.insert(id.clone(), adopted);
    }
    let mut known = BTreeSet::new();
    for path in record_files(&layout.instances()) {
        match driver.adopt(&path).await {
            Ok(process::Adopted::Running(process)) => {
                let (id, run) = (process.instance(), process.run());
                let memo = Memo::read(process.memo());
                let Some(service) = cluster.services.get(id.service()) else {
                    // The file in force does not declare it: it should have been stopped.
                    if let Err(error) = process.kill().await {
                        tracing::error!(instance = %id, error = %crate::executor::chain(&error), "cannot end what is not declared");
                    }
                    continue;
                };
                if found.several && !found.instances.contains_key(&id) {
                    // It was replaced elsewhere while this agent was away.
                    if let Err(error) = process.kill().await {
                        tracing::error!(instance = %id, error = %crate::executor::chain(&error), "cannot end what is assigned to this node no more");
                    }
                    continue;
                }
                let entry = instances.entry(id.clone()).or_insert_with(|| Adopted {
                    instance: id.clone(),
                    node: nodes[0].clone(),
                    run,
                    running: true,
                    current: true,
                    promoted: None,
                    acts: None,
                    served: false,
                    followed: None,
                    stands_by: None,
                    healthy: true,
                    since: None,
                });
                entry.run = run;
                entry.running = true;
                entry.current = is_launched_from(&memo.launch, service);
                entry.promoted = memo.promoted;
                entry.acts = memo.acts;
                entry.served = memo.served;
                entry.followed = memo.followed;
                entry.stands_by = memo.stands_by.map(|(passed, at)| passed && is_fresh(service, at));
                entry.healthy = service.check.is_none() || memo.healthy;
                entry.since = memo.since.map(clock::ago);
                known.insert((id.clone(), run));
                let node = entry.node.clone();
                executor.adopt(&id, node, run, process, memo);
            }
            Ok(process::Adopted::Gone(gone)) => {
                tracing::info!(instance = %gone.instance, because = ?gone.because, "an instance is gone");
                let memo = Memo::read(gone.memo);
                let service = cluster.services.get(gone.instance.service());
                // What it ran from matters while nobody knows whether the file in force works.
                if let (Some(entry), Some(service)) = (instances.get_mut(&gone.instance), service) {
                    entry.current = memo.launch.is_empty() || is_launched_from(&memo.launch, service);
                }
            }
            Err(process::AdoptError::Record(error @ process::ReadError::Damaged { .. })) => {
                tracing::warn!(error = %crate::executor::chain(&error), "a damaged record; its process is ended as a stray");
                let _ = std::fs::remove_file(&path);
            }
            // Killed processes that hang in the kernel run no code of their own any more: they keep only their slot.
            Err(process::AdoptError::Leftovers(error)) => {
                tracing::error!(error = %crate::executor::chain(&error), "processes hang in the kernel");
            }
            // Without a look at it nobody may end or replace what may run well: the guard tries again.
            Err(error) => return Err(StartError::Adopt(error)),
        }
    }
    match driver.sweep(&known).await {
        Ok(swept) => {
            for swept in swept {
                tracing::warn!(what = swept.what, pids = ?swept.pids, "ended processes of an earlier agent that nobody knows");
            }
        }
        // As above; one process that hangs must not keep all other services without an agent.
        Err(error @ process::SweepError::Stuck { .. }) => {
            tracing::error!(error = %crate::executor::chain(&error), "strays hang in the kernel");
        }
        Err(error) => return Err(error.into()),
    }
    if instances.values().all(|instance| !instance.running) {
        spread(&mut instances, nodes);
    }
    Ok(instances.into_values().collect())
}

/// Whether a standby check is recent enough to say something about an active that may have died since.
fn is_fresh(service: &model::Service, at: Timestamp) -> bool {
    let bound = service.standby_check.as_ref().map_or(Duration::ZERO, |check| {
        (check.every.duration() + check.timeout.duration()) * 2 + VERDICT_SLACK
    });
    clock::now().since(at) <= bound
}

/// Nothing runs, so nothing has to stay where it was: a cluster that comes up on more pretend nodes than before uses them.
/// Their data lie on this machine whichever node it pretends.
fn spread(instances: &mut BTreeMap<InstanceId, Adopted>, nodes: &[NodeName]) {
    let mut services: BTreeMap<ServiceName, Vec<&mut Adopted>> = BTreeMap::new();
    for (id, instance) in instances {
        services.entry(id.service().clone()).or_default().push(instance);
    }
    for (offset, copies) in services.into_values().enumerate() {
        let used: BTreeSet<&NodeName> = copies.iter().map(|instance| &instance.node).collect();
        if used.len() >= copies.len().min(nodes.len()) {
            continue;
        }
        for (index, instance) in copies.into_iter().enumerate() {
            instance.node = nodes[(offset + index) % nodes.len()].clone();
        }
    }
}

pub(crate) fn record_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    paths
}

/// The sockets and routes of a proxy that outlived the last agent.
async fn adopt_proxy(layout: &Layout, fronts: &mut Fronts) -> (Vec<(ServiceName, u64)>, Option<Epoch>) {
    let socket = layout.proxy_socket();
    let greeting = proxy::client::ProxyClient::connect(&socket);
    // One that hangs is replaced later; nothing waits for it here.
    match tokio::time::timeout(Duration::from_secs(1), greeting).await {
        Ok(Ok((_, hello))) => {
            let routes = hello
                .fronts
                .iter()
                .map(|(front, _)| (front.service.clone(), front.revision))
                .collect();
            let targets = hello.fronts.iter().flat_map(|(front, _)| &front.targets);
            let epoch = targets.map(|target| target.epoch).max();
            fronts.adopt(hello.fronts);
            (routes, epoch)
        }
        _ => (Vec::new(), None),
    }
}

/// `a`, `b`, … `z`.
fn node_names(count: u32) -> Vec<NodeName> {
    ('a'..='z')
        .take(count.clamp(1, 26) as usize)
        .filter_map(|name| NodeName::new(name).ok())
        .collect()
}

fn seed(cluster_id: &str) -> u64 {
    u64::from_str_radix(cluster_id.get(..16).unwrap_or("0"), 16).unwrap_or(0)
}

fn watch_signals(inputs: &Inputs) -> Result<(), StartError> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).map_err(StartError::Signals)?;
        let inputs = inputs.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                let _ = inputs.send(Input::Terminate);
            }
        });
    }
    // A terminal that goes away is none of our business.
    let mut hangup = signal(SignalKind::hangup()).map_err(StartError::Signals)?;
    tokio::spawn(async move { while hangup.recv().await.is_some() {} });
    Ok(())
}

async fn rotate_logs(inputs: Inputs) {
    let mut told = BTreeSet::new();
    loop {
        tokio::time::sleep(ROTATE_EVERY).await;
        let (answer, logs) = tokio::sync::oneshot::channel();
        if inputs
            .send(Input::Request(crate::input::Request::Rotations(answer)))
            .is_err()
        {
            return;
        }
        let Ok(logs) = logs.await else { return };
        let failed = tokio::task::spawn_blocking(move || {
            let rotate = |(path, max_bytes, keep): (PathBuf, u64, u32)| {
                let error = Rotator { max_bytes, keep }.check(&path).err()?;
                Some((path, error))
            };
            logs.into_iter().filter_map(rotate).collect::<Vec<_>>()
        });
        for (path, error) in failed.await.unwrap_or_default() {
            if told.insert(path) {
                tracing::warn!(error = %crate::executor::chain(&error), "a log grows beyond its bound");
            }
        }
    }
}
