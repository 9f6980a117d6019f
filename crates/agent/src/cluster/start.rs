//! An agent of a cluster comes up: its store, its session, what the others do.

use super::clocks::Clocks;
use super::deeds::{Deeds, Generation};
use super::fence::Fence;
use super::hear::{place_of, report_of};
use super::mirror::{self, Seen};
use super::own_etcd::{self, OwnEtcd};
use super::papers::{Papers, Troubles};
use super::reach::Ways;
use super::session::{News, Noted, PROTOCOL, SessionLink, Setup};
use super::upkeep::{self, Wanted};
use super::waiting::{Out, Waiting};
use super::{Clustered, clock};
use super::{publish, renewals, standing};
use crate::agent::Agent;
use crate::executor::Executor;
use crate::input::Input;
use crate::journal::Inputs;
use crate::recover::StartError;
use crate::slots::known_slot;
use api::layout::Layout;
use api::node::Node;
use api::record;
use decisions::lease::Observer;
use decisions::{ClusterEvent, Presence, Scoped};
use model::{NodeName, Revision, Timing};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use store::session::{self, Record};
use store::{Entry, Store};
use tokio::sync::{mpsc, watch};

/// A store that does not answer when the agent comes up is asked again after this long, for as long as that takes.
const STORE_RETRY: Duration = Duration::from_millis(500);
/// A store takes a moment to come up; after this long people are told.
const TOLD_AFTER: Duration = Duration::from_secs(3);
/// While it waits, voters are asked this often whether this node still belongs to them.
const ASK_EVERY: Duration = Duration::from_secs(10);
const RENEWED: &str = "the certificates of this node were due, or not valid yet, and were renewed";
/// What an agent that comes up sees of its own earlier session within this decides whether what runs goes on.
const SESSION_WAIT_MIN: Duration = Duration::from_secs(2);

/// A cluster's agent before it has begun.
pub(crate) struct Joined {
    pub(crate) cluster: Clustered,
    entries: Vec<Entry>,
    from: Revision,
    /// What arrived meanwhile.
    stash: Vec<Input>,
}

/// What an agent has before it knows anything: ways to the store, and the member of it that this node runs.
pub(crate) struct Connected {
    pub(crate) ways: Arc<Ways>,
    pub(crate) etcd: Option<Arc<OwnEtcd>>,
}

/// The store of a cluster, once it answers. What this node runs of it is started first, or found running.
pub(crate) async fn connect(node: &Node, layout: &Layout) -> Result<Connected, StartError> {
    let place = membership::Place {
        layout: layout.clone(),
        node: node.clone(),
    };
    are_ours(&place)?;
    // Without valid certificates etcd's members do not speak with each other, and there is no store to note it in.
    match membership::renew_alone(&place) {
        Ok(true) => tracing::info!(RENEWED),
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(error = %crate::executor::chain(&error), "the certificates of this node cannot be looked at");
        }
    }
    let etcd = match membership::server_config(node, layout) {
        Some(config) => Some(OwnEtcd::start(config, &place).await?),
        None => None,
    };
    let mut with = options(node, layout)?;
    let began = tokio::time::Instant::now();
    let mut waiting: Option<Waiting> = None;
    let mut told = false;
    let mut asked: Option<tokio::time::Instant> = None;
    loop {
        super::fence::spare_frozen(layout);
        let connected = match etcd::Etcd::connect(with.clone()).await {
            Ok(store) => store.revision().await.map(|_| store).map_err(|error| error.to_string()),
            Err(error) => Err(crate::executor::chain(&error)),
        };
        let error = match connected {
            Ok(store) => {
                let ways = Ways::new(node.clone(), layout.clone(), store);
                let ways = ways.map_err(|error| StartError::Join(crate::executor::chain(&error)))?;
                return Ok(Connected {
                    ways: Arc::new(ways),
                    etcd,
                });
            }
            Err(error) => error,
        };
        if !told && began.elapsed() >= TOLD_AFTER {
            told = true;
            tracing::error!(
                error,
                "the store does not answer; what runs goes on, and this agent waits for the store"
            );
            waiting = Waiting::begin(&layout.api_socket(), error);
        } else if let Some(waiting) = &waiting {
            waiting.say(&error);
            if asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY) {
                asked = Some(tokio::time::Instant::now());
                tokio::spawn(ask_around(place.clone(), waiting.out()));
            }
        }
        let down = async {
            match &waiting {
                Some(waiting) => waiting.down().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = down => {
                super::leave::end_all(node, layout).await?;
                return Err(StartError::Down);
            }
            () = tokio::time::sleep(STORE_RETRY) => {}
        }
        // The clock may have been set right meanwhile by which they were renewed, or they ended.
        if membership::renew_alone(&place).unwrap_or(false) {
            tracing::info!(RENEWED);
            with = options(node, layout)?;
        }
    }
}

/// Whoever was removed while it was down, or left behind, waits for a store in vain, and is told so by others.
async fn ask_around(place: membership::Place, told: Out) {
    match membership::look_around(&place, None, true).await {
        Ok(around) => {
            let problem = around.out.map(|told| standing::out(&place, &told));
            *told.lock().unwrap_or_else(PoisonError::into_inner) = problem.map(|problem| (problem.text, problem.hint));
        }
        Err(error) => {
            tracing::warn!(error = %crate::executor::chain(&error), "the others cannot be asked how this node stands");
        }
    }
}

/// Certificates that were put here from elsewhere lead nowhere, and nobody would say why.
fn are_ours(place: &membership::Place) -> Result<(), StartError> {
    // What cannot be read at all is told when it is used.
    let Some(tls) = place.folder().ok().and_then(|folder| identity::Tls::load(&folder).ok()) else {
        return Ok(());
    };
    let (node, folder) = (&place.node, place.layout.pki());
    let found = tls.cluster().to_string().replace('-', "");
    if found != node.cluster_id {
        let (what, ours) = (
            format!("the cluster {found}"),
            format!("the cluster {}", node.cluster_id),
        );
        return Err(StartError::OtherCertificates { folder, what, ours });
    }
    let own = tls.own();
    match own.as_ref().and_then(|peer| peer.node()) {
        Some((name, _)) if *name != node.node => Err(StartError::OtherCertificates {
            folder,
            what: format!("node {name}"),
            ours: format!("node {}", node.node),
        }),
        _ => Ok(()),
    }
}

/// Begins to answer other machines, and to look after this node's certificates.
pub(crate) async fn open_door(
    connected: &Connected,
    door: crate::http::Door,
    troubles: Troubles,
) -> Result<(), StartError> {
    let failed = |error: &dyn std::error::Error| StartError::Join(crate::executor::chain(error));
    let ways = &connected.ways;
    let place = ways.place();
    let folder = place.folder().map_err(|error| failed(&error))?;
    let tls = identity::Tls::load(&folder).map_err(|error| failed(&error))?;
    let papers = Papers::new(Arc::clone(ways), tls.clone(), connected.etcd.clone(), troubles);
    tokio::spawn(papers.map_err(StartError::Join)?.run());
    let people = Arc::clone(&door.desk);
    door.measures.peers.meet(tls.clone());
    let app = super::door::app(door);
    let at = std::net::SocketAddr::new(place.node.host, place.node.agent_port).to_string();
    super::door::open(Arc::clone(ways), app, tls, people)
        .await
        .map_err(|source| StartError::Listen { at, source })
}

fn options(node: &Node, layout: &Layout) -> Result<etcd::Options, StartError> {
    membership::etcd_options(node, layout).map_err(|error| StartError::Join(crate::executor::chain(&error)))
}

/// Begins the session, and reads what the others do. Comes back when it is clear whether an earlier session goes on.
pub(crate) async fn join(
    node: &Node,
    layout: &Layout,
    Connected { ways, etcd }: &Connected,
    inputs: &Inputs,
    queue: &mut mpsc::UnboundedReceiver<Input>,
    executor: &mut Executor,
) -> Result<Joined, StartError> {
    let timing = node.timing();
    timing.check().map_err(|error| StartError::Join(error.to_string()))?;
    let boot = boot_id();
    let noted = Noted::read(&layout.session(), &boot);
    let setup = Setup {
        node: node.node.clone(),
        timing,
        record: own_record(node, &timing, boot),
        noted: layout.session(),
        disk: layout.root().to_owned(),
        inputs: inputs.clone(),
    };
    let fence = Fence::start(layout, &timing).map_err(StartError::Join)?;
    let link = SessionLink::start(setup, fence, Arc::clone(&ways.renewals) as Arc<dyn Store>);
    let link = link.map_err(|error| StartError::Join(error.to_string()))?;
    let (upkeep, wanted) = watch::channel(Wanted::default());
    let store_trouble = upkeep::Trouble::default();
    tokio::spawn(upkeep::run(Arc::clone(ways), wanted, Arc::clone(&store_trouble)));
    let how_it_stands = Troubles::default();
    tokio::spawn(standing::run(
        Arc::clone(ways),
        Arc::clone(&store_trouble),
        Arc::clone(&how_it_stands),
    ));
    let own_trouble = upkeep::Trouble::default();
    if let Some(own) = etcd {
        let trouble = Arc::clone(&own_trouble);
        tokio::spawn(own_etcd::keep_usable(Arc::clone(ways), Arc::clone(own), trouble));
    }
    let store: &Arc<dyn Store> = &(Arc::clone(&ways.store) as Arc<dyn Store>);
    executor.join(node.host, link.clone(), timing.hard_deadline);
    let (publisher, told) = mpsc::unbounded_channel();
    tokio::spawn(publish::run(Arc::clone(store), node.node.clone(), told));
    let (entries, from) = mirror::list(store.as_ref(), &node.node).await?;
    let mut cluster = Clustered {
        me: node.node.clone(),
        boot: boot_id(),
        timing,
        observer: Observer::new(timing),
        scoped: Scoped::default(),
        scopes: watch::Sender::new(Scoped::default()),
        scoped_for: (None, true),
        presence: Presence::default(),
        presence_written: None,
        early: BTreeMap::new(),
        look_at: None,
        link,
        publisher,
        store_trouble,
        own_trouble,
        session: None,
        session_lost: crate::clock::now(),
        sessions: BTreeMap::new(),
        heard: BTreeMap::new(),
        expired: BTreeSet::new(),
        members: BTreeMap::new(),
        hardware: BTreeMap::new(),
        drained: BTreeSet::new(),
        rebalancing: BTreeSet::new(),
        deeds: Deeds::open(layout.told(), &node.cluster_id, from, Generation::of(&entries)),
        paused: false,
        lives: BTreeMap::new(),
        assigned: BTreeMap::new(),
        slots: BTreeMap::new(),
        counted: BTreeMap::new(),
        published: BTreeMap::new(),
        controller: None,
        elected_before: entries
            .iter()
            .find(|entry| entry.key == record::CONTROLLER)
            .map_or(Revision(0), |entry| entry.modified),
        elect_at: None,
        fencing: Err("the guard has not said yet whether it can fence".into()),
        fencing_since: crate::clock::now(),
        clocks: Clocks::default(),
        frozen: None,
        thawed_at: None,
        answering: super::silence::Answering::new(crate::clock::now()),
        commits: super::commits::Commits::default(),
        taken: None,
        told_fast: None,
        told_empty: None,
        beat_at: model::Timestamp(0),
        upkeep,
        awaited: BTreeMap::new(),
        next_ask: clock::mark().boot_ns,
        papers: Troubles::default(),
        standing: how_it_stands,
        power: super::power::Power::new(node.node.clone()),
        leaving: None,
        node: node.clone(),
    };
    let mut stash = Vec::new();
    if noted.is_some() {
        // What runs under it is an active if it still holds, and not if it does not.
        let wait = (timing.soft_deadline.duration() * 2).max(SESSION_WAIT_MIN);
        let deadline = tokio::time::Instant::now() + wait;
        while let Ok(Some(input)) = tokio::time::timeout_at(deadline, queue.recv()).await {
            match &input {
                Input::Session(News::Renewed { session, .. }) => {
                    cluster.session = Some(*session);
                    cluster.link.decides_under(Some(*session));
                    stash.push(input);
                    break;
                }
                Input::Session(News::Lost { .. }) => {
                    stash.push(input);
                    break;
                }
                _ => stash.push(input),
            }
        }
    } else {
        // Nothing exclusive of an earlier session can run: whatever does is ended before the next one begins.
        tracing::info!("no session of this boot is known");
    }
    Ok(Joined {
        cluster,
        entries,
        from,
        stash,
    })
}

impl Joined {
    /// What the others do, for decisions that are about to begin.
    pub(crate) fn elsewhere(&self) -> Vec<ClusterEvent> {
        let me = &self.cluster.me;
        let mut first = Vec::new();
        let mut then = Vec::new();
        for entry in &self.entries {
            let key = entry.key.as_str();
            let node = |prefix: &str| key.strip_prefix(prefix).and_then(|node| NodeName::new(node).ok());
            if let Some(node) = node(session::SESSIONS).filter(|node| node != me) {
                first.push(ClusterEvent::Session {
                    node,
                    session: Some(entry.create),
                });
            } else if let Some(node) = node(store::fence::FENCES) {
                if let Ok(record) = store::fence::read(entry) {
                    first.push(ClusterEvent::Proven {
                        node,
                        session: record.proven,
                    });
                }
            } else if let Some(node) = node(record::MEMBERS) {
                if let Ok(member) = serde_json::from_slice::<record::Member>(&entry.value) {
                    first.push(ClusterEvent::Member {
                        node,
                        runs_services: member.runs_services,
                        member: true,
                        place: place_of(&member),
                    });
                }
            } else if let Some(id) = key.strip_prefix(record::INSTANCES).and_then(|id| id.parse().ok()) {
                if let Ok(assigned) = serde_json::from_slice::<record::Instance>(&entry.value) {
                    then.push(ClusterEvent::Assigned {
                        instance: id,
                        node: assigned.node,
                        retiring: assigned.retiring,
                        placed: entry.create,
                    });
                }
            } else if let Some(slot) = record::slot_of_key(key)
                && let Some(known) = known_slot(&slot, entry)
            {
                then.push(ClusterEvent::Slot(known));
            }
        }
        let lives = self.entries.iter().filter_map(|entry| {
            let id = entry.key.strip_prefix(record::LIVES)?.parse().ok()?;
            let live: record::Live = serde_json::from_slice(&entry.value).ok()?;
            (live.node != *me).then(|| ClusterEvent::Reported(report_of(&id, &live)))
        });
        first.into_iter().chain(then).chain(lives).collect()
    }
}

impl Agent {
    /// Takes in what was read when it came up, and hears of everything from then on.
    pub(crate) fn begin_with_others(&mut self, joined: Option<Started>) {
        let Some(started) = joined else { return };
        let now = crate::clock::now();
        if let Some(cluster) = &self.clustered {
            let _ = cluster.publisher.send(publish::Publish::Session(cluster.session));
        }
        // Read before the scope was ever asked for; whoever watches lists again if it is another one by now.
        let opened = Scoped::default().opened();
        let entries = started.entries;
        self.hear_store(Seen::All { opened, entries }, now);
        // What came first is taken in first: it must not come after what came since.
        for input in started.stash {
            self.take(input);
        }
        self.core.tell_all();
        self.rescope();
        let (store, inputs) = (Arc::clone(&self.store), self.inputs.clone());
        if let Some(cluster) = &self.clustered {
            let (me, scopes) = (cluster.me.clone(), cluster.scopes.subscribe());
            tokio::spawn(renewals::run(
                Arc::clone(&store),
                cluster.scopes.subscribe(),
                inputs.clone(),
            ));
            let listed = mirror::Listed {
                opened,
                revision: started.from,
            };
            tokio::spawn(mirror::follow(store, me, listed, scopes, inputs));
        }
    }
}

/// What was read when an agent came up.
pub(crate) struct Started {
    entries: Vec<Entry>,
    from: Revision,
    stash: Vec<Input>,
}

impl Joined {
    /// The agent's own part, and what it has to take in first.
    pub(crate) fn split(self) -> (Clustered, Started) {
        let started = Started {
            entries: self.entries,
            from: self.from,
            stash: self.stash,
        };
        (self.cluster, started)
    }
}

fn own_record(node: &Node, timing: &Timing, boot: String) -> Record {
    Record {
        machine: node.machine.clone(),
        boot,
        agent: format!("{}-{}", std::process::id(), clock::mark().boot_ns),
        lease_ms: timing.lease,
        kill_ms: timing.kill_budget,
        renew_ms: timing.renew,
        protocol: PROTOCOL,
        seq: 0,
        wall: None,
    }
}

/// Another one after each boot.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
