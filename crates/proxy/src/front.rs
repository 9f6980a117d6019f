//! One service on one worker: its route, what waits for it, and what is said about it.

use crate::area::Area;
use crate::control::Event;
use crate::counters::{Counters, Stay};
use crate::flag::{Flag, Watch};
use crate::target::{InFlight, Shared, Target};
use api::proxy::{FromProxy, Leaving};
use model::{InstanceId, Protocol, ServiceName};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc::UnboundedSender};

/// What an operator can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) protocol: Protocol,
    pub(crate) hold_timeout: Duration,
    pub(crate) hold_max: u32,
    /// Clients are asked to come back on new connections.
    pub(crate) parting: bool,
}

/// A route on its way to the workers.
#[derive(Clone)]
pub(crate) struct NewRoute {
    pub(crate) targets: Vec<(api::proxy::Target, Arc<Shared>)>,
    pub(crate) leaving: Vec<Leaving>,
}

/// See the module.
pub(crate) struct Front {
    pub(crate) service: ServiceName,
    settings: Cell<Settings>,
    pub(crate) counters: Arc<Counters>,
    /// How many wait on all workers.
    pub(crate) holding: Arc<AtomicU32>,
    /// Woken, first come first served, when there is a new route.
    pub(crate) rerouted: Notify,
    worker: usize,
    /// Bounded by what is sent: once per target, per 100 ms and target, or per leaving instance.
    events: UnboundedSender<Event>,
    targets: RefCell<Rc<[Rc<Target>]>>,
    /// Targets that are none any more, until nothing is under way to them.
    retired: RefCell<Vec<Rc<Target>>>,
    /// Leaving instances of which the agent wants to hear `Drained`.
    awaited: RefCell<BTreeSet<InstanceId>>,
    turn: Cell<usize>,
    /// Clients connected to this worker.
    open: Cell<u32>,
    emptied: Notify,
    closing: Rc<Flag>,
    /// Another one each time that it is over.
    parting: RefCell<Rc<Flag>>,
    closed: Rc<Flag>,
}

impl Front {
    pub(crate) fn new(
        service: ServiceName,
        settings: Settings,
        counters: Arc<Counters>,
        holding: Arc<AtomicU32>,
        worker: usize,
        events: UnboundedSender<Event>,
    ) -> Self {
        let parting = Flag::default();
        if settings.parting {
            parting.raise();
        }
        Self {
            service,
            settings: Cell::new(settings),
            counters,
            holding,
            rerouted: Notify::new(),
            worker,
            events,
            targets: RefCell::new(Rc::new([])),
            retired: RefCell::default(),
            awaited: RefCell::default(),
            turn: Cell::new(0),
            open: Cell::new(0),
            emptied: Notify::new(),
            closing: Rc::default(),
            parting: RefCell::new(Rc::new(parting)),
            closed: Rc::default(),
        }
    }

    pub(crate) fn settings(&self) -> Settings {
        self.settings.get()
    }

    /// Goes by other settings from now on.
    pub(crate) fn set(&self, settings: Settings) {
        self.settings.set(settings);
        if settings.parting {
            self.parting.borrow().raise();
        } else if self.parting.borrow().is_raised() {
            self.parting.replace(Rc::default());
        }
    }

    /// Counts a client for as long as the value lives.
    pub(crate) fn opened(self: &Rc<Self>, caller: Option<Arc<Area>>) -> Open {
        self.counters.connections.add(1);
        self.counters.open.add(1);
        self.open.set(self.open.get() + 1);
        Open {
            front: Rc::clone(self),
            caller,
        }
    }

    /// Counts a request or connection as under way for as long as the value lives.
    pub(crate) fn stay(&self, caller: Option<&Arc<Area>>, arrived: Instant) -> Stay {
        Stay::begin(&self.counters, caller, arrived)
    }

    /// Completes when no client is connected.
    pub(crate) async fn emptied(&self) {
        while self.open.get() > 0 {
            self.emptied.notified().await;
        }
    }

    /// How many targets there are.
    pub(crate) fn target_count(&self) -> usize {
        self.targets.borrow().len()
    }

    /// The target with the least under way that `usable` allows; those that failed lately come last, equals take turns.
    pub(crate) fn pick(&self, usable: impl Fn(&Rc<Target>) -> bool) -> Option<InFlight> {
        let targets = self.targets.borrow();
        let count = targets.len();
        let turn = self.turn.get();
        let mut best: Option<(usize, (bool, u32))> = None;
        for offset in 0..count {
            let index = (turn + offset) % count;
            let target = &targets[index];
            if !usable(target) {
                continue;
            }
            let cost = (target.is_avoided(), target.in_flight());
            if best.is_none_or(|(_, least)| cost < least) {
                best = Some((index, cost));
            }
        }
        let (index, _) = best?;
        self.turn.set((index + 1) % count);
        // A connection is no request: those of tcp are told apart as bytes go to and fro.
        Some(targets[index].begin(self.settings.get().protocol == Protocol::Http))
    }

    /// Puts a route in force: nothing new goes by the one before.
    pub(crate) fn reroute(self: &Rc<Self>, route: &NewRoute) {
        let before = Rc::clone(&self.targets.borrow());
        let targets: Rc<[Rc<Target>]> = route
            .targets
            .iter()
            .map(|(target, shared)| match before.iter().find(|known| known.is(shared)) {
                Some(known) => Rc::clone(known),
                None => Rc::new(Target::new(target, Arc::clone(shared), Rc::downgrade(self))),
            })
            .collect();
        self.turn.set(0);
        *self.targets.borrow_mut() = Rc::clone(&targets);
        let stays = |target: &Rc<Target>| targets.iter().any(|kept| Rc::ptr_eq(kept, target));
        self.retired
            .borrow_mut()
            .extend(before.iter().filter(|target| !stays(target)).cloned());
        let now = Instant::now();
        let retired = self.retired.borrow().clone();
        for target in &retired {
            let leaving = route.leaving.iter().find(|l| l.instance == target.instance);
            let drain = leaving.map_or(Duration::ZERO, |l| l.drain.duration());
            target.leave(now + drain);
        }
        self.awaited
            .borrow_mut()
            .extend(route.leaving.iter().map(|l| l.instance.clone()));
        self.report_drained();
        self.rerouted.notify_waiters();
    }

    /// Called when nothing is under way to a leaving target any more.
    pub(crate) fn drained(&self, target: &Target) {
        debug_assert!(target.is_leaving());
        self.report_drained();
    }

    /// Passes a message on to the agent, if there is one.
    pub(crate) fn say(&self, message: FromProxy) {
        // No receiver: the process is about to end.
        let _ = self.events.send(Event::Say(message));
    }

    /// Takes nothing new; idle clients are sent away, the others when their answer is complete.
    pub(crate) fn close(&self) {
        self.closing.raise();
    }

    /// Cuts every client that is left.
    pub(crate) fn cut(&self) {
        self.closed.raise();
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_raised()
    }

    /// Whether a client shall not use its connection for another request.
    pub(crate) fn sends_away(&self) -> bool {
        self.is_closing() || self.settings.get().parting
    }

    /// Raised while clients are asked to come back on new connections, and if that is over as long as nobody watches anew.
    pub(crate) fn watch_parting(&self) -> Watch {
        self.parting.borrow().watch()
    }

    pub(crate) fn watch_closing(&self) -> Watch {
        self.closing.watch()
    }

    pub(crate) fn watch_cut(&self) -> Watch {
        self.closed.watch()
    }

    /// Closes connections to actives that were idle for too long.
    pub(crate) fn sweep(&self) {
        let targets = Rc::clone(&self.targets.borrow());
        for target in targets.iter() {
            target.sweep();
        }
    }

    fn report_drained(&self) {
        let mut gone = Vec::new();
        self.retired.borrow_mut().retain(|target| {
            let stays = target.in_flight_here() > 0;
            if !stays {
                gone.push((target.instance.clone(), target.were_cut()));
            }
            stays
        });
        let retired = self.retired.borrow();
        self.awaited.borrow_mut().retain(|instance| {
            let stays = retired.iter().any(|target| target.instance == *instance);
            if !stays {
                let cut = gone
                    .iter()
                    .filter(|(gone, _)| gone == instance)
                    .map(|(_, cut)| cut)
                    .sum();
                let _ = self.events.send(Event::Drained {
                    worker: self.worker,
                    service: self.service.clone(),
                    instance: instance.clone(),
                    cut,
                });
            }
            stays
        });
    }
}

/// A client that is connected.
pub(crate) struct Open {
    front: Rc<Front>,
    caller: Option<Arc<Area>>,
}

impl Open {
    /// Where the requests of this client are summed up, if it was asked who it is.
    pub(crate) fn caller(&self) -> Option<&Arc<Area>> {
        self.caller.as_ref()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let front = &self.front;
        front.counters.open.sub(1);
        front.open.set(front.open.get() - 1);
        if front.open.get() == 0 {
            front.emptied.notify_waiters();
        }
    }
}
