//! A made-up system of services in virtual time: requests that queue for processors, locks, disks, workers and connections, and call
//! other services. It reports the same windows as a real one, and knows the truth.

use bottleneck::{Call, Instance, Service, Window};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

/// Something that serves so many at a time, first come first served.
pub(crate) struct Resource {
    pub(crate) servers: usize,
    pub(crate) duty: Duty,
    busy: usize,
    waiting: VecDeque<usize>,
    /// Server-seconds and seconds with anybody in it or waiting, and waiter-seconds, in this window.
    used: f64,
    stalled: f64,
    waited: f64,
    since: f64,
}

/// What using it looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Uses a processor each.
    Processor,
    /// Others sleep in futex while one holds it, who sleeps too.
    SleepingLock,
    /// The same, but the holder runs.
    SpinningLock,
    /// A disk.
    Disk,
    /// A bound that nothing outside shows.
    Workers,
    /// Connections to a service.
    Connections,
    /// Time passes, nobody waits.
    Delay,
}

impl Resource {
    pub(crate) fn new(servers: usize, duty: Duty) -> Self {
        Self {
            servers,
            duty,
            busy: 0,
            waiting: VecDeque::new(),
            used: 0.0,
            stalled: 0.0,
            waited: 0.0,
            since: 0.0,
        }
    }

    fn pass(&mut self, now: f64) {
        let span = now - self.since;
        self.since = now;
        self.used += span * self.busy as f64;
        self.waited += span * self.waiting.len() as f64;
        if self.busy > 0 {
            self.stalled += span;
        }
    }
}

/// What a request does in a service, one after the other.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// Takes one of a resource, until `Release`.
    Take(usize),
    /// Keeps what it has busy for a random time of this mean, seconds.
    Work(f64),
    /// Gives one back.
    Release(usize),
    /// Calls services at once and waits for all.
    Call(Vec<usize>),
}

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) managed: bool,
    pub(crate) script: Vec<Stage>,
    /// Processors that it may use.
    pub(crate) cpu_limit: f64,
    /// Threads that wait in futex while it is idle.
    pub(crate) idle_threads: f64,
    /// Threads that it has at most; 0 for one a request.
    pub(crate) threads: f64,
}

/// Sums of one window.
#[derive(Default, Clone)]
struct Sums {
    arrivals: f64,
    completions: f64,
    inside: f64,
    area: f64,
    most: f64,
    since: f64,
}

impl Sums {
    fn pass(&mut self, now: f64) {
        self.area += (now - self.since) * self.inside;
        self.since = now;
    }

    fn enter(&mut self, now: f64) {
        self.pass(now);
        self.inside += 1.0;
        self.most = self.most.max(self.inside);
        self.arrivals += 1.0;
    }

    fn leave(&mut self, now: f64) {
        self.pass(now);
        self.inside -= 1.0;
        self.completions += 1.0;
    }

    fn take(&mut self, now: f64) -> Sums {
        self.pass(now);
        let taken = self.clone();
        *self = Sums {
            inside: self.inside,
            most: self.inside,
            since: now,
            ..Sums::default()
        };
        taken
    }
}

struct Job {
    service: usize,
    stage: usize,
    parent: Option<usize>,
    /// Calls that it waits for.
    pending: usize,
}

/// See the module.
pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) resources: Vec<Resource>,
    /// To which service a resource belongs.
    pub(crate) owner: Vec<usize>,
    random: fastrand::Rng,
    now: f64,
    events: BinaryHeap<Reverse<(u64, u64, usize)>>,
    number: u64,
    jobs: Vec<Option<Job>>,
    free: Vec<usize>,
    sums: Vec<Sums>,
    edges: BTreeMap<(usize, usize), Sums>,
}

const ARRIVAL: usize = usize::MAX;

impl World {
    pub(crate) fn new(nodes: Vec<Node>, resources: Vec<(usize, Resource)>, seed: u64) -> Self {
        let (owner, resources) = resources.into_iter().unzip();
        Self {
            sums: nodes.iter().map(|_| Sums::default()).collect(),
            nodes,
            resources,
            owner,
            random: fastrand::Rng::with_seed(seed),
            now: 0.0,
            events: BinaryHeap::new(),
            number: 0,
            jobs: Vec::new(),
            free: Vec::new(),
            edges: BTreeMap::new(),
        }
    }

    /// Sends requests to service 0 at a rate for so many seconds; what was seen in each.
    pub(crate) fn run(&mut self, rate: f64, seconds: usize) -> Vec<Window> {
        let end = self.now + seconds as f64;
        let mut windows = Vec::new();
        let first = self.now + self.exponential(1.0 / rate);
        self.at(first, ARRIVAL);
        let mut next_window = self.now + 1.0;
        while let Some(Reverse((at, _, what))) = self.events.pop() {
            let at = f64::from_bits(at);
            while next_window <= at {
                self.now = next_window;
                windows.push(self.window());
                next_window += 1.0;
            }
            if at >= end {
                // The stream ends; what is inside goes on in the next run.
                self.at(at, what);
                self.events.retain(|Reverse((_, _, what))| *what != ARRIVAL);
                break;
            }
            self.now = at;
            if what == ARRIVAL {
                self.start(0, None);
                let next = self.now + self.exponential(1.0 / rate);
                self.at(next, ARRIVAL);
            } else {
                self.go_on(what);
            }
        }
        self.now = end;
        windows.truncate(seconds);
        windows
    }

    fn start(&mut self, service: usize, parent: Option<usize>) {
        self.sums[service].enter(self.now);
        if let Some(caller) = parent.and_then(|parent| Some(self.jobs[parent].as_ref()?.service)) {
            self.edges.entry((caller, service)).or_default().enter(self.now);
        }
        let job = Job {
            service,
            stage: 0,
            parent,
            pending: 0,
        };
        let id = self.free.pop().unwrap_or_else(|| {
            self.jobs.push(None);
            self.jobs.len() - 1
        });
        self.jobs[id] = Some(job);
        self.step(id);
    }

    /// The stage of a job is over.
    fn go_on(&mut self, id: usize) {
        if let Some(job) = &mut self.jobs[id] {
            job.stage += 1;
        }
        self.step(id);
    }

    fn step(&mut self, id: usize) {
        loop {
            let Some(job) = &self.jobs[id] else { return };
            let service = job.service;
            let Some(stage) = self.nodes[service].script.get(job.stage).cloned() else {
                return self.finish(id);
            };
            match stage {
                Stage::Take(index) => {
                    let resource = &mut self.resources[index];
                    resource.pass(self.now);
                    if resource.busy == resource.servers {
                        resource.waiting.push_back(id);
                        return;
                    }
                    resource.busy += 1;
                }
                Stage::Release(index) => {
                    let resource = &mut self.resources[index];
                    resource.pass(self.now);
                    match resource.waiting.pop_front() {
                        // Handed on.
                        Some(next) => self.at(self.now, next),
                        None => resource.busy -= 1,
                    }
                }
                Stage::Work(mean) => {
                    let until = self.now + self.exponential(mean);
                    return self.at(until, id);
                }
                Stage::Call(callees) => {
                    if let Some(job) = &mut self.jobs[id] {
                        job.pending = callees.len();
                    }
                    for callee in callees {
                        self.start(callee, Some(id));
                    }
                    return;
                }
            }
            if let Some(job) = &mut self.jobs[id] {
                job.stage += 1;
            }
        }
    }

    fn finish(&mut self, id: usize) {
        let Some(job) = self.jobs[id].take() else { return };
        self.free.push(id);
        self.sums[job.service].leave(self.now);
        let Some(parent) = job.parent else { return };
        let Some(caller) = &mut self.jobs[parent] else { return };
        caller.pending -= 1;
        let is_last = caller.pending == 0;
        let edge = (caller.service, job.service);
        self.edges.entry(edge).or_default().leave(self.now);
        if is_last {
            // In an event of its own, so that depth of calls is no depth of our stack.
            self.at(self.now, parent);
        }
    }

    fn at(&mut self, when: f64, what: usize) {
        self.number += 1;
        // Positive floats keep their order as bits.
        self.events.push(Reverse((when.to_bits(), self.number, what)));
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.random.f64()).ln()
    }

    fn window(&mut self) -> Window {
        let now = self.now;
        let mut services = BTreeMap::new();
        let sums: Vec<_> = self.sums.iter_mut().map(|sums| sums.take(now)).collect();
        for resource in &mut self.resources {
            resource.pass(now);
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let sum = &sums[index];
            let (mut cpu, mut io, mut futex) = (0.0, 0.0_f64, 0.0);
            for (resource, owner) in self.resources.iter().zip(&self.owner) {
                if *owner != index {
                    continue;
                }
                match resource.duty {
                    Duty::Processor => cpu += resource.used,
                    Duty::SpinningLock => {
                        cpu += resource.used;
                        futex += resource.waited;
                    }
                    Duty::SleepingLock => futex += resource.waited,
                    Duty::Disk => io = io.max(resource.stalled),
                    Duty::Workers | Duty::Connections | Duty::Delay => {}
                }
            }
            let instance = Instance {
                completions: sum.completions,
                in_flight: sum.area,
                cpu,
                cpu_limit: node.cpu_limit,
                io_some: io,
                threads: if node.threads > 0.0 {
                    node.threads
                } else {
                    sum.area.max(node.idle_threads)
                },
                futex: futex + (node.idle_threads - sum.area).max(0.0),
                ..Instance::default()
            };
            let calls: BTreeMap<_, _> = self
                .edges
                .iter_mut()
                .filter(|((from, _), _)| *from == index)
                .map(|((_, to), edge)| {
                    let most = edge.most;
                    let edge = edge.take(now);
                    let rate = Some(edge.completions).filter(|_| self.nodes[*to].managed);
                    (
                        self.nodes[*to].name.clone(),
                        Call {
                            rate,
                            in_flight: edge.area,
                            in_flight_max: most,
                        },
                    )
                })
                .collect();
            if !node.managed {
                continue;
            }
            let service = Service {
                managed: true,
                arrivals: sum.arrivals,
                completions: sum.completions,
                errors: 0.0,
                in_flight: sum.area,
                calls,
                instances: [(format!("{}-1", node.name), instance)].into(),
            };
            services.insert(node.name.clone(), service);
        }
        for resource in &mut self.resources {
            (resource.used, resource.stalled, resource.waited) = (0.0, 0.0, 0.0);
        }
        Window {
            span: Duration::from_secs(1),
            services,
        }
    }
}
