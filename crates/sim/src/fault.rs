//! What may go wrong, and what operators may want meanwhile.

use model::{Cluster, HookKind, InstanceId, NodeName, ServiceName};
use std::fmt;
use std::time::Duration;

/// Something done to the cluster.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// SIGKILL to the main process; its children may outlive it.
    Kill { instance: InstanceId, child_survives: bool },
    /// SIGSTOP, or a program that accepts and never answers.
    Hang { instance: InstanceId },
    /// The opposite.
    Unhang { instance: InstanceId },
    /// Something is wrong with an instance, or with all of a service, for a while.
    Ail {
        patient: Patient,
        ailment: Ailment,
        span: Duration,
    },
    /// Nothing is wrong any more.
    Cure { patient: Patient },
    /// Hooks of a service misbehave.
    Hooks {
        service: ServiceName,
        hook: Option<HookKind>,
        trouble: HookTrouble,
        span: Duration,
    },
    /// The store misbehaves.
    Store { trouble: StoreTrouble, span: Duration },
    /// The store works again.
    StoreHealed,
    /// kill -9 of the agent when it has carried out so many more decisions; it comes back later.
    AgentDies { decisions: u32, back: Option<Duration> },
    /// The agent is started again.
    AgentBack,
    /// SIGSTOP and SIGCONT of the agent.
    AgentStops { span: Duration },
    /// kill -9 of the proxy.
    ProxyDies { back: Duration },
    /// Its messages take long.
    ProxySlow { span: Duration },
    /// The proxy could not reach an instance, it says.
    Suspect { instance: InstanceId },
    /// A node is lost with all that runs on it.
    NodeLost { node: NodeName, span: Option<Duration> },
    /// A node runs again.
    NodeBack { node: NodeName },
    /// The operator empties a node.
    Drain { node: NodeName, span: Option<Duration> },
    /// The operator moves a slot.
    Switchover {
        service: ServiceName,
        slot: Option<u32>,
        to: Option<InstanceId>,
    },
    /// The operator applies another file.
    Apply { cluster: Box<Cluster> },
    /// The operator stops automatic actions.
    Pause { span: Option<Duration> },
    /// And lets them go on.
    Resume,
    /// The operator wants an instance tried again.
    Retry { instance: InstanceId },
    /// The operator stops everything.
    Shutdown,
}

/// Who ails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Patient {
    Instance(InstanceId),
    Service(ServiceName),
}

impl fmt::Display for Patient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Patient::Instance(id) => id.fmt(f),
            Patient::Service(name) => name.fmt(f),
        }
    }
}

/// What an instance may suffer from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ailment {
    /// Its checks fail, its process lives.
    Sick,
    /// It takes no notice of the polite signal.
    IgnoresStop,
    /// Its tree is slow to end even after SIGKILL.
    SlowKill,
    /// It cannot be started.
    StartFails,
    /// It exits as soon as it was started.
    ExitsAtOnce,
    /// It works for a moment, then exits.
    Crashes,
    /// Once started it never answers.
    NeverHealthy,
    /// It takes long until it answers.
    SlowStart,
    /// A cold standby could not be started.
    PrepareFails,
    /// It could not take over, says its standby check.
    StandbyCheckFails,
}

/// How hooks misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HookTrouble {
    Fails,
    Hangs,
    Slow,
}

/// How the store misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreTrouble {
    /// Nothing is written.
    Fails,
    /// Written or not, the answer is an error.
    Unclear,
    /// Somebody else touches the slot first.
    Conflicts,
    /// It takes long.
    Slow,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident => $words:literal,)*) => {
        /// The kinds of faults of a random run.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultKind {
            $(#[doc = $words] $kind,)*
        }

        impl FaultKind {
            /// All of them.
            pub const ALL: &[FaultKind] = &[$(FaultKind::$kind,)*];
        }

        impl fmt::Display for FaultKind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(FaultKind::$kind => $words,)* })
            }
        }
    };
}

kinds! {
    Kill => "process killed",
    KillMain => "process killed, a child survives",
    Hang => "process hangs",
    Sick => "checks fail",
    IgnoresStop => "stop signal ignored",
    SlowKill => "slow to die",
    StartFails => "start fails",
    ExitsAtOnce => "exits at once",
    Crashes => "crash loop",
    NeverHealthy => "never healthy",
    SlowStart => "slow start",
    PrepareFails => "cold standby not startable",
    StandbyCheckFails => "standby check fails",
    HookFails => "hook fails",
    HookHangs => "hook hangs",
    HookSlow => "slow hook",
    StoreFails => "store fails",
    StoreUnclear => "store answers an error, written or not",
    StoreConflicts => "store conflict",
    StoreSlow => "slow store",
    AgentDies => "agent killed",
    AgentStops => "agent stopped for a while",
    ProxyDies => "proxy killed",
    ProxySlow => "slow proxy",
    Suspect => "false suspicion",
    NodeLost => "node lost",
    Drain => "operator: drain",
    Switchover => "operator: switchover",
    Apply => "operator: another file",
    Pause => "operator: pause",
    Retry => "operator: retry",
}

impl FaultKind {
    /// Whether it is an operator who does it: not counted as a fault.
    pub fn is_operator(self) -> bool {
        self >= FaultKind::Drain
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lasting = |span: &Duration| model::Millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        match self {
            Fault::Kill {
                instance,
                child_survives: false,
            } => write!(f, "{instance} is killed"),
            Fault::Kill { instance, .. } => write!(f, "the main process of {instance} is killed, a child survives"),
            Fault::Hang { instance } => write!(f, "{instance} hangs"),
            Fault::Unhang { instance } => write!(f, "{instance} runs on"),
            Fault::Ail { patient, ailment, span } => {
                let what = match ailment {
                    Ailment::Sick => "fails its checks",
                    Ailment::IgnoresStop => "ignores the stop signal",
                    Ailment::SlowKill => "is slow to die",
                    Ailment::StartFails => "cannot be started",
                    Ailment::ExitsAtOnce => "exits at once",
                    Ailment::Crashes => "crashes again and again",
                    Ailment::NeverHealthy => "starts and never answers",
                    Ailment::SlowStart => "starts slowly",
                    Ailment::PrepareFails => "could not be started as it is",
                    Ailment::StandbyCheckFails => "fails its standby check",
                };
                write!(f, "{patient} {what} for {}", lasting(span))
            }
            Fault::Cure { patient } => write!(f, "{patient} is well again"),
            Fault::Hooks {
                service,
                hook,
                trouble,
                span,
            } => {
                let hook = hook.map_or_else(|| "every hook".to_owned(), |hook| hook.to_string());
                let what = match trouble {
                    HookTrouble::Fails => "fails",
                    HookTrouble::Hangs => "hangs",
                    HookTrouble::Slow => "is slow",
                };
                write!(f, "{hook} of {service} {what} for {}", lasting(span))
            }
            Fault::Store { trouble, span } => {
                let what = match trouble {
                    StoreTrouble::Fails => "cannot be written",
                    StoreTrouble::Unclear => "answers errors, whether it wrote or not",
                    StoreTrouble::Conflicts => "is written by somebody else too",
                    StoreTrouble::Slow => "is slow",
                };
                write!(f, "the store {what} for {}", lasting(span))
            }
            Fault::StoreHealed => f.write_str("the store works again"),
            Fault::AgentDies { decisions: 0, .. } => f.write_str("the agent is killed"),
            Fault::AgentDies { decisions, .. } => {
                write!(f, "the agent will be killed after {decisions} more decisions")
            }
            Fault::AgentBack => f.write_str("the agent is started"),
            Fault::AgentStops { span } => write!(f, "the agent is stopped for {}", lasting(span)),
            Fault::ProxyDies { back } => write!(f, "the proxy is killed, back in {}", lasting(back)),
            Fault::ProxySlow { span } => write!(f, "the proxy is slow for {}", lasting(span)),
            Fault::Suspect { instance } => write!(f, "the proxy could not reach {instance}"),
            Fault::NodeLost { node, .. } => write!(f, "node {node} is lost"),
            Fault::NodeBack { node } => write!(f, "node {node} is back"),
            Fault::Drain { node, .. } => write!(f, "the operator drains node {node}"),
            Fault::Switchover { service, slot, to } => {
                write!(f, "the operator moves {service}")?;
                if let Some(slot) = slot {
                    write!(f, "/{slot}")?;
                }
                match to {
                    Some(to) => write!(f, " to {to}"),
                    None => Ok(()),
                }
            }
            Fault::Apply { .. } => f.write_str("the operator applies another file"),
            Fault::Pause { .. } => f.write_str("the operator pauses automatic actions"),
            Fault::Resume => f.write_str("the operator lets automatic actions go on"),
            Fault::Retry { instance } => write!(f, "the operator wants {instance} tried again"),
            Fault::Shutdown => f.write_str("the operator takes everything down"),
        }
    }
}
