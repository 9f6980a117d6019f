//! Cgroups with processes, and an agent that renews by hand.

use crate::bench::{Bench, Guard, kill, until};
use guard::client::{Client, Receiver};
use guard::fence::protocol::{Armament, Reply, SelfTest, What};
use guard::fence::words::{Policy, State};
use guard::fence::{Cgroup, cgroup, mark};
use model::{Epoch, Mark, Millis, ServiceName, SlotId, Timing};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Far longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// An agent that does nothing; the test plays the one that counts.
pub(crate) const BYSTANDER: &str = "echo $$ >> starts; exec sleep 600";
pub(crate) const SESSION: u64 = 7;

/// Soft and hard deadline in milliseconds.
pub(crate) fn timing(soft: u64, hard: u64) -> Timing {
    Timing {
        soft_deadline: Millis(soft),
        hard_deadline: Millis(hard),
        kill_budget: Millis(2_000),
        ..model::Profile::Lan.timing()
    }
}

pub(crate) fn slot(number: u32) -> SlotId {
    SlotId {
        service: ServiceName::new("db").unwrap(),
        slot: number,
    }
}

/// A name that no other test uses.
pub(crate) fn unique(what: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Stops a process and waits until each of its threads stands still: the one that takes the signal may be the last to be scheduled.
pub(crate) fn stop(pid: u32) {
    kill("STOP", pid);
    let stands = |task: &Path| fs::read_to_string(task.join("stat")).is_ok_and(|stat| stat.contains(") T "));
    until("it is stopped", || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        tasks.flatten().all(|task| stands(&task.path()))
    });
}

/// A cgroup of its own with what runs in it; killed with the test.
pub(crate) struct Group {
    pub(crate) path: PathBuf,
    children: Vec<Child>,
}

impl Group {
    pub(crate) fn new() -> Self {
        let path = cgroup::mount_point().unwrap().join(unique("understudy-test"));
        fs::create_dir(&path).expect("a cgroup can be made: this test needs root");
        Self {
            path,
            children: Vec::new(),
        }
    }

    /// Runs a shell script in it, from its first instruction on.
    pub(crate) fn run(&mut self, script: &str) {
        let join = format!("echo $$ > {}/cgroup.procs; {script}", self.path.display());
        let mut sh = Command::new("sh");
        let child = sh
            .args(["-c", &join])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    /// A tree that forks all the time: each process outlives its parent for a moment.
    pub(crate) fn fork_for_ever(&mut self, stamp: &Path) {
        let stamp = stamp.display();
        self.run(&format!(
            "(sleep 600 & sleep 600 &) ; while :; do (: ; sleep 0.05) & echo x >> {stamp}; sleep 0.005; done"
        ));
        until("the tree has grown", || self.processes() >= 5);
    }

    pub(crate) fn processes(&self) -> usize {
        fs::read_to_string(self.path.join("cgroup.procs")).map_or(0, |text| text.lines().count())
    }

    pub(crate) fn events(&self) -> cgroup::Events {
        Cgroup::open(&self.path).unwrap().events().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = guard::fence::kill_now([self.path.as_path()]);
        for child in &mut self.children {
            let _ = child.wait();
        }
        let begun = std::time::Instant::now();
        while fs::remove_dir(&self.path).is_err() && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A guard that fences, in a folder with a bystander for an agent.
pub(crate) struct Fenced {
    // Dropped first: it would start the agent again.
    pub(crate) guard: Guard,
    pub(crate) bench: Bench,
    pub(crate) cluster: String,
}

impl Fenced {
    pub(crate) fn new(options: &[&str]) -> Self {
        Self::with_agent(BYSTANDER, options)
    }

    pub(crate) fn with_agent(agent: &str, options: &[&str]) -> Self {
        let bench = Bench::new(agent);
        let cluster = unique("t");
        let guard = start(&bench, &cluster, options);
        Self { bench, guard, cluster }
    }

    /// Another guard in the place of this one, which is dead.
    pub(crate) fn restart(&mut self) {
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        let _ = fs::remove_file(self.bench.path("guard.sock"));
        self.guard = start(&self.bench, &self.cluster, &[]);
    }

    pub(crate) fn agent(&self, incarnation: u64) -> Agent {
        let (client, receiver) = Client::connect(&self.bench.path("guard.sock"), incarnation).unwrap();
        Agent { client, receiver }
    }

    /// An agent with timing and session, and what the guard said of itself.
    pub(crate) fn agent_with(&self, timing: Timing) -> (Agent, SelfTest) {
        let mut agent = self.agent(1);
        agent.registered();
        agent.client.timing(timing).unwrap();
        let test = agent.self_test();
        agent.open_session();
        (agent, test)
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        // It may be about to make its table.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        let _ = guard::gates::Gates::remove(&self.cluster);
    }
}

fn start(bench: &Bench, cluster: &str, options: &[&str]) -> Guard {
    let guard = bench.guard(&[&["--fence", cluster], options].concat());
    let socket = bench.path("guard.sock");
    until("the guard listens", || socket.exists());
    guard
}

/// The agent, played by hand.
pub(crate) struct Agent {
    pub(crate) client: Client,
    receiver: Receiver,
}

impl Agent {
    pub(crate) fn next(&mut self) -> Reply {
        let reply = self.receiver.receive(Some(PATIENCE)).expect("the guard lives");
        reply.expect("the guard says something")
    }

    /// What the guard says within a span, if anything.
    pub(crate) fn within(&mut self, span: Duration) -> Option<Reply> {
        self.receiver.receive(Some(span)).expect("the guard lives")
    }

    pub(crate) fn receiver(&mut self) -> &mut Receiver {
        &mut self.receiver
    }

    pub(crate) fn registered(&mut self) -> Vec<(SlotId, State)> {
        match self.next() {
            Reply::Registered { slots, .. } => slots.into_iter().map(|slot| (slot.slot, slot.state)).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn self_test(&mut self) -> SelfTest {
        match self.next() {
            Reply::SelfTest(test) => test,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn open_session(&mut self) -> Mark {
        self.open(SESSION)
    }

    pub(crate) fn open(&mut self, session: u64) -> Mark {
        let sent = mark();
        self.client.session(session, sent).unwrap();
        match self.next() {
            Reply::Done { .. } => sent,
            other => panic!("{other:?}"),
        }
    }

    /// A renewal that is acknowledged at once.
    pub(crate) fn renew(&self) -> Mark {
        let sent = mark();
        self.client.renewed(SESSION, sent).unwrap();
        sent
    }

    pub(crate) fn arm(&mut self, armament: Armament) -> State {
        self.client.arm(armament).unwrap();
        match self.next() {
            Reply::Armed { state, .. } => state,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn refused(&mut self) -> String {
        match self.next() {
            Reply::Refused { why, .. } => why,
            other => panic!("{other:?}"),
        }
    }

    /// Which slot is frozen next.
    pub(crate) fn frozen(&mut self) -> SlotId {
        match self.next() {
            Reply::Event {
                slot,
                what: What::Frozen,
                ..
            } => slot,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn event(&mut self) -> What {
        match self.next() {
            Reply::Event { what, .. } => what,
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn armament(number: u32, epoch: u64, group: &Group) -> Armament {
    Armament {
        slot: slot(number),
        epoch: Epoch(epoch),
        policy: Policy::Freeze,
        frozen_max: Millis(0),
        cgroup: group.path.clone(),
        ports: Vec::new(),
        addresses: Vec::new(),
        floating: None,
        exchanged: None,
    }
}
