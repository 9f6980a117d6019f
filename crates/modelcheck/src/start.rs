//! Where a world begins: every node has a session, opened and renewed by the product's own holder.

use crate::config::{Config, Start};
use crate::store::{Instance as Record, Slot, Store};
use crate::world::{Agent, Held, Instance, Node, World};
use decisions::lease::HolderEvent;
use model::Revision;
use std::collections::BTreeSet;

impl World {
    pub(crate) fn begin_with(config: &Config) -> Self {
        let nothing = Slot {
            modified: Revision(1),
            holder: None,
            epoch: 0,
            attempt: (0, 0),
        };
        let unannounced = Record {
            modified: Revision(1),
            session: Revision(0),
            bound: None,
        };
        let down = Node {
            clock: 0,
            agent: Agent::Down,
            boot: 0,
            incarnation: 0,
            saved: None,
            guard: None,
            unheard_fire: false,
            instance: Instance::None,
            stalled: false,
            request: None,
            delayed: None,
            flights: Vec::new(),
            answers: Vec::new(),
            truth: None,
            unheard: 0,
        };
        let nodes = usize::from(config.nodes);
        let mut world = Self {
            tick: 0,
            beginning: true,
            timed: config.ticks.is_some(),
            outage: false,
            store: Store {
                revision: Revision(1),
                sessions: vec![None; nodes],
                slots: vec![nothing; usize::from(config.slots)],
                instances: vec![unannounced; nodes],
                parked: vec![None; usize::from(config.slots)],
            },
            nodes: vec![down; nodes],
            left: config.budget,
            started: BTreeSet::new(),
            killed: BTreeSet::new(),
            broken: BTreeSet::new(),
        };
        for node in config.node_ids() {
            let view = world.store.clone();
            world.node_mut(node).start_agent(&view);
            world.think(node, HolderEvent::FastWanted(true), config);
            world.think(node, HolderEvent::GuardReady(true), config);
            world.tell_empty(node, config);
            world.agent_tick(node, config);
            // Opened, then renewed, each answered at once.
            for _ in 0..2 {
                world.left.session[usize::from(node)] += 1;
                world.act(crate::Action::CommitSession(node), config);
                if !config.quick {
                    world.act(crate::Action::Hear(node, 0), config);
                }
            }
            let session = world.store.created(node);
            world.store.instances[usize::from(node)].session = session;
        }
        if config.start == Start::Held {
            let session = world.store.created(0);
            let held = Held {
                slot: 0,
                epoch: 1,
                session,
            };
            world.store.slots[0].holder = Some((0, session));
            world.store.slots[0].epoch = 1;
            world.store.instances[0].bound = Some(0);
            let node = world.node_mut(0);
            node.instance = Instance::Running(held);
            node.guard = Some(0);
            if let Some(brain) = node.brain_mut() {
                brain.last_epoch[0] = 1;
            }
            world.started.insert((0, 1));
            world.tell_empty(0, config);
        }
        for node in config.node_ids() {
            world.look(node, config);
        }
        world.outage = config.outage;
        world.beginning = false;
        world
    }
}
