//! What goes wrong when, drawn from a seed. A draw names nobody: whom it hits is decided when it happens, so that leaving
//! some out of a schedule leaves the others meaningful.

use crate::blueprint;
use crate::fault::{Ailment, Fault, FaultKind, HookTrouble, Patient, StoreTrouble};
use crate::world::truth::{Node, Truth};
use fastrand::Rng;
use model::{HookKind, InstanceId, NodeName, ServiceName, Timestamp};
use std::time::Duration;

/// A fault to come.
#[derive(Debug, Clone)]
pub(crate) struct Draw {
    pub(crate) at: Timestamp,
    pub(crate) kind: FaultKind,
    /// Decides whom it hits and how long.
    pub(crate) dice: u64,
}

/// A schedule of so many faults, of a random choice of kinds and at a random pace.
pub(crate) fn random(rng: &mut Rng, faults: usize) -> Vec<Draw> {
    let mut kinds: Vec<FaultKind> = FaultKind::ALL.iter().copied().filter(|_| rng.bool()).collect();
    if kinds.iter().all(|kind| kind.is_operator()) {
        kinds.push(FaultKind::Kill);
    }
    // Some runs are stormy, some give each fault the time to be dealt with.
    let gap_us = [10_000, 50_000, 200_000, 500_000, 1_000_000, 2_000_000][rng.usize(0..6)];
    // Some begin while everything is still being started.
    let mut at = if rng.u32(0..4) == 0 { 1_000 } else { 8_000_000 };
    (0..faults)
        .map(|_| {
            if rng.u32(0..4) > 0 {
                at += rng.u64(0..=gap_us * 2);
            }
            Draw {
                at: Timestamp(at),
                kind: kinds[rng.usize(0..kinds.len())],
                dice: rng.u64(..),
            }
        })
        .collect()
}

impl Draw {
    /// Whom it hits. Nothing if there is nobody.
    pub(crate) fn resolve(&self, truth: &Truth) -> Option<Fault> {
        let rng = &mut Rng::with_seed(self.dice);
        let span = Duration::from_millis([50, 300, 1_000, 3_000, 8_000][rng.usize(0..5)]);
        let fault = match self.kind {
            FaultKind::Kill => Fault::Kill {
                instance: running(truth, rng)?,
                child_survives: false,
            },
            FaultKind::KillMain => Fault::Kill {
                instance: running(truth, rng)?,
                child_survives: true,
            },
            FaultKind::Hang => Fault::Hang {
                instance: running(truth, rng)?,
            },
            FaultKind::Sick => ail(truth, rng, Ailment::Sick, span)?,
            FaultKind::IgnoresStop => ail(truth, rng, Ailment::IgnoresStop, span)?,
            FaultKind::SlowKill => ail(truth, rng, Ailment::SlowKill, span)?,
            FaultKind::StartFails => ail(truth, rng, Ailment::StartFails, span)?,
            FaultKind::ExitsAtOnce => ail(truth, rng, Ailment::ExitsAtOnce, span)?,
            FaultKind::Crashes => ail(truth, rng, Ailment::Crashes, span)?,
            FaultKind::NeverHealthy => ail(truth, rng, Ailment::NeverHealthy, span)?,
            FaultKind::SlowStart => ail(truth, rng, Ailment::SlowStart, span)?,
            FaultKind::PrepareFails => ail(truth, rng, Ailment::PrepareFails, span)?,
            FaultKind::StandbyCheckFails => ail(truth, rng, Ailment::StandbyCheckFails, span)?,
            FaultKind::HookFails => hooks(truth, rng, HookTrouble::Fails, span)?,
            FaultKind::HookHangs => hooks(truth, rng, HookTrouble::Hangs, span)?,
            FaultKind::HookSlow => hooks(truth, rng, HookTrouble::Slow, span)?,
            FaultKind::StoreFails => store(StoreTrouble::Fails, span),
            FaultKind::StoreUnclear => store(StoreTrouble::Unclear, span),
            FaultKind::StoreConflicts => store(StoreTrouble::Conflicts, span),
            FaultKind::StoreSlow => store(StoreTrouble::Slow, span),
            FaultKind::AgentDies => Fault::AgentDies {
                decisions: rng.u32(0..12),
                back: Some(span / 4),
            },
            FaultKind::AgentStops => Fault::AgentStops { span },
            FaultKind::ProxyDies => Fault::ProxyDies { back: span / 4 },
            FaultKind::ProxySlow => Fault::ProxySlow { span },
            FaultKind::Suspect => Fault::Suspect {
                instance: running(truth, rng)?,
            },
            FaultKind::NodeLost => Fault::NodeLost {
                node: node(truth, rng)?,
                span: Some(span * 2),
            },
            FaultKind::Drain => Fault::Drain {
                node: node(truth, rng)?,
                span: Some(span * 3),
            },
            FaultKind::Switchover => switchover(truth, rng)?,
            FaultKind::Apply => Fault::Apply {
                cluster: Box::new(blueprint::changed(&truth.cluster(), truth.nodes.len(), rng)),
            },
            FaultKind::Pause => Fault::Pause { span: Some(span) },
            FaultKind::Retry => Fault::Retry {
                instance: anybody(truth, rng)?,
            },
        };
        Some(fault)
    }
}

/// Actives are hit more often than chance would have it: more depends on them.
fn running(truth: &Truth, rng: &mut Rng) -> Option<InstanceId> {
    let runs = |acting: bool| {
        let processes = truth.instances.iter().filter(move |(_, instance)| {
            instance
                .process
                .as_ref()
                .is_some_and(|process| process.main && (!acting || process.acting.is_some()))
        });
        processes.map(|(id, _)| id.clone()).collect::<Vec<InstanceId>>()
    };
    let actives = runs(true);
    if rng.bool() && !actives.is_empty() {
        return pick(&actives, rng);
    }
    pick(&runs(false), rng)
}

fn anybody(truth: &Truth, rng: &mut Rng) -> Option<InstanceId> {
    let all: Vec<InstanceId> = truth.instances.keys().cloned().collect();
    pick(&all, rng)
}

fn service(truth: &Truth, rng: &mut Rng) -> Option<ServiceName> {
    let all: Vec<ServiceName> = truth.declared.keys().cloned().collect();
    pick(&all, rng)
}

fn node(truth: &Truth, rng: &mut Rng) -> Option<NodeName> {
    let online = truth.nodes.iter().filter(|(_, state)| **state == Node::Online);
    let online: Vec<NodeName> = online.map(|(name, _)| name.clone()).collect();
    pick(&online, rng)
}

fn pick<T: Clone>(all: &[T], rng: &mut Rng) -> Option<T> {
    if all.is_empty() {
        return None;
    }
    all.get(rng.usize(0..all.len())).cloned()
}

fn ail(truth: &Truth, rng: &mut Rng, ailment: Ailment, span: Duration) -> Option<Fault> {
    let patient = if rng.u32(0..4) == 0 {
        Patient::Service(service(truth, rng)?)
    } else {
        Patient::Instance(anybody(truth, rng)?)
    };
    Some(Fault::Ail { patient, ailment, span })
}

fn hooks(truth: &Truth, rng: &mut Rng, trouble: HookTrouble, span: Duration) -> Option<Fault> {
    let hook = [
        None,
        Some(HookKind::Promote),
        Some(HookKind::Demote),
        Some(HookKind::Follow),
    ][rng.usize(0..4)];
    Some(Fault::Hooks {
        service: service(truth, rng)?,
        hook,
        trouble,
        span,
    })
}

fn store(trouble: StoreTrouble, span: Duration) -> Fault {
    Fault::Store { trouble, span }
}

fn switchover(truth: &Truth, rng: &mut Rng) -> Option<Fault> {
    let service = service(truth, rng)?;
    let slots = truth.declared.get(&service)?.active;
    let candidates: Vec<InstanceId> = truth.of(&service).map(|(id, _)| id.clone()).collect();
    Some(Fault::Switchover {
        slot: rng.bool().then(|| rng.u32(0..slots)),
        to: if rng.bool() { pick(&candidates, rng) } else { None },
        service,
    })
}
