//! A scenario as a script in the operator's words, and its transcript.
//!
//! ```text
//! nodes    a b
//! service  db  active 1  standby 1  exclusive  hooks
//! kill     db-1
//! advance  2s
//! ```
//! Setup comes first: `nodes`, `service`, `start shown`. Then everything is started, and unless the start is to be shown, the
//! transcript and its clock begin when all is well. Everything takes its usual time, so a script has one transcript.

mod declare;
mod words;

use crate::fault::{Ailment, Fault, HookTrouble, Patient, StoreTrouble};
use crate::invariants::healed;
use crate::pace::Pace;
use crate::transcript::Transcript;
use crate::world::proxy::Clients;
use crate::world::{Setup, World};
use crate::{Violation, script::words::Words};
use model::{Cluster, HookKind, NodeName, ServiceName};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What came of a script.
#[derive(Debug, Clone)]
pub struct Played {
    /// What happened, one line each.
    pub transcript: String,
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
}

/// A script that cannot be played.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `{text}`: {problem}; {help}")]
pub struct ScriptError {
    /// Counted from 1.
    pub line: usize,
    /// The line.
    pub text: String,
    /// What is wrong with it.
    pub problem: String,
    /// What would be right.
    pub help: String,
}

/// What every line may begin with.
const VERBS: &str = "known are: nodes, service, start shown, advance, kill, hang, unhang, ail, cure, hook, store, switchover, change, \
                     remove, drain, undrain, node, agent, proxy, suspect, pause, resume, retry, down, clients, status";
/// A start that takes longer than this in virtual time does not come to an end.
const START_WITHIN: Duration = Duration::from_secs(60);
const LINES_MAX: usize = 10_000;
/// Nobody reads more than that, and a typing error must not take for ever.
const ADVANCE_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Plays a script.
pub fn play(script: &str) -> Result<Played, ScriptError> {
    let mut player = Player::default();
    for (index, text) in script.lines().enumerate() {
        let text = text.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        let words = Words::new(text);
        player.line(words).map_err(|wrong| ScriptError {
            line: index + 1,
            text: text.into(),
            problem: wrong.problem,
            help: wrong.help,
        })?;
    }
    Ok(player.end())
}

/// What is wrong with a line.
#[derive(Debug)]
struct Wrong {
    problem: String,
    help: String,
}

fn wrong<T>(problem: impl Into<String>, help: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong {
        problem: problem.into(),
        help: help.into(),
    })
}

#[derive(Debug, Default)]
struct Player {
    nodes: Vec<NodeName>,
    services: BTreeMap<ServiceName, model::Service>,
    shows_start: bool,
    world: Option<World>,
}

impl Player {
    fn line(&mut self, mut words: Words<'_>) -> Result<(), Wrong> {
        let verb = words.next().unwrap_or_default();
        let sets_up = matches!(verb, "nodes" | "service" | "start");
        if sets_up && self.world.is_some() {
            return wrong(
                format!("`{verb}` comes too late: everything runs already"),
                "put it before the first line that does something; `change` declares anew",
            );
        }
        match verb {
            "nodes" => {
                while let Some(name) = words.next() {
                    self.nodes.push(name.parse().map_err(|error: model::InvalidName| Wrong {
                        problem: error.to_string(),
                        help: "call it `a`".into(),
                    })?);
                }
            }
            "service" => {
                let name: ServiceName = words.name()?;
                let port = 7_000 + u16::try_from(self.services.len()).unwrap_or_default();
                let mut service = crate::blueprint::plain(port);
                declare::keys(&mut service, &mut words)?;
                self.services.insert(name, service);
            }
            "start" => {
                words.expect("shown")?;
                self.shows_start = true;
            }
            verb => self.act(verb, &mut words)?,
        }
        words.end()
    }

    fn act(&mut self, verb: &str, words: &mut Words<'_>) -> Result<(), Wrong> {
        let fault = match verb {
            "advance" => {
                let span = words.span()?;
                if span > ADVANCE_MAX {
                    return wrong("that is longer than a day", "advance by less");
                }
                let world = self.world()?;
                world.run_until(world.truth.now + span);
                return Ok(());
            }
            "clients" => return self.note_clients(),
            "status" => return self.note_status(),
            "change" | "remove" => self.apply(verb, words)?,
            "kill" => kill(words)?,
            "hang" => Fault::Hang {
                instance: words.name()?,
            },
            "unhang" => Fault::Unhang {
                instance: words.name()?,
            },
            "ail" => ail(words)?,
            "cure" => Fault::Cure {
                patient: patient(words)?,
            },
            "hook" => hook(words)?,
            "store" => store(words)?,
            "switchover" => Fault::Switchover {
                service: words.name()?,
                slot: None,
                to: words.optional_name()?,
            },
            "drain" => Fault::Drain {
                node: words.name()?,
                span: None,
            },
            "undrain" => Fault::NodeBack { node: words.name()? },
            "node" => node(words)?,
            "agent" => agent(words)?,
            "proxy" => {
                words.expect("dies")?;
                Fault::ProxyDies { back: words.span()? }
            }
            "suspect" => Fault::Suspect {
                instance: words.name()?,
            },
            "pause" => Fault::Pause { span: None },
            "resume" => Fault::Resume,
            "retry" => Fault::Retry {
                instance: words.name()?,
            },
            "down" => Fault::Shutdown,
            other => return wrong(format!("nothing is called `{other}`"), VERBS),
        };
        let what = fault.to_string();
        if !self.world()?.inject(fault) {
            return wrong(
                format!("it cannot happen that {what}"),
                "look whether it runs at that moment, and whether the agent does",
            );
        }
        Ok(())
    }

    /// The world, which begins with the first line that needs it.
    fn world(&mut self) -> Result<&mut World, Wrong> {
        if self.world.is_none() {
            let world = self.begin()?;
            self.world = Some(world);
        }
        match &mut self.world {
            Some(world) => Ok(world),
            None => wrong("there is no service", "declare one first: `service db`"),
        }
    }

    fn begin(&self) -> Result<World, Wrong> {
        if self.services.is_empty() {
            return wrong("there is no service", "declare one first: `service db`");
        }
        let unknown = self.services.values().flat_map(|service| &service.needs);
        if let Some(unknown) = unknown.into_iter().find(|need| !self.services.contains_key(*need)) {
            return wrong(format!("there is no service `{unknown}` to need"), "declare it too");
        }
        let mut nodes = self.nodes.clone();
        if nodes.is_empty() {
            nodes.extend(NodeName::new("a").ok());
        }
        let mut world = World::new(Setup {
            seed: 1,
            cluster: Cluster {
                name: "scenario".into(),
                services: self.services.clone(),
                alerts: model::Alerts::default(),
                site: model::Site::default(),
            },
            nodes,
            pace: Pace::fixed(),
            schedule: Vec::new(),
            broken: None,
            transcript: Transcript::new(LINES_MAX, false),
        });
        if self.shows_start {
            return Ok(world);
        }
        let deadline = world.truth.now + START_WITHIN;
        while healed::missing(&world.truth, world.view().as_ref()).is_some() && world.truth.now < deadline {
            world.run_until(world.truth.now + Duration::from_millis(100));
        }
        let now = world.truth.now;
        world.transcript.begin_here(now);
        for clients in world.truth.proxy.clients.values_mut() {
            *clients = Clients {
                last: now,
                ..Clients::default()
            };
        }
        Ok(world)
    }

    fn apply(&mut self, verb: &str, words: &mut Words<'_>) -> Result<Fault, Wrong> {
        let name: ServiceName = words.name()?;
        self.world()?;
        let Some(service) = self.services.get_mut(&name) else {
            return wrong(format!("there is no service `{name}`"), "`service` declares one");
        };
        if verb == "remove" {
            self.services.remove(&name);
        } else {
            declare::keys(service, words)?;
        }
        let cluster = Cluster {
            name: "scenario".into(),
            services: self.services.clone(),
            alerts: model::Alerts::default(),
            site: model::Site::default(),
        };
        Ok(Fault::Apply {
            cluster: Box::new(cluster),
        })
    }

    fn note_clients(&mut self) -> Result<(), Wrong> {
        let world = self.world()?;
        let now = world.truth.now;
        let services: Vec<ServiceName> = world.truth.declared.keys().cloned().collect();
        for service in services {
            world.truth.count_clients(&service);
            if let Some(clients) = world.truth.proxy.clients.remove(&service) {
                let (ok, held, failed) = (clients.ok, clients.held, clients.failed);
                let line = format!("requests to {service}: {ok} answered, {held} held, {failed} failed");
                world.transcript.note(now, line);
                world.truth.proxy.clients.entry(service).or_default().last = now;
            }
        }
        Ok(())
    }

    fn note_status(&mut self) -> Result<(), Wrong> {
        let world = self.world()?;
        let now = world.truth.now;
        let Some(view) = world.view() else {
            world.transcript.note(now, "no agent runs".into());
            return Ok(());
        };
        for service in view.services {
            let mut parts = vec![format!("{} is {}", service.name, service.state)];
            for slot in &service.slots {
                if let Some(holder) = &slot.instance {
                    parts.push(format!("{holder} holds slot {} at epoch {}", slot.slot, slot.epoch));
                }
            }
            for instance in &service.instances {
                let ready = match &instance.ready {
                    Ok(()) => "ready".to_owned(),
                    Err(why) => format!("not ready ({why})"),
                };
                let (id, role, node) = (&instance.id, instance.role, &instance.node);
                parts.push(format!("{id} on {node} is {role}, {ready}"));
            }
            world.transcript.note(now, parts.join("; "));
        }
        Ok(())
    }

    fn end(self) -> Played {
        let Some(world) = self.world else {
            return Played {
                transcript: String::new(),
                violation: None,
            };
        };
        let mut lines = world.transcript.last(LINES_MAX);
        lines.extend(world.violation.as_ref().map(ToString::to_string));
        Played {
            transcript: lines.join("\n"),
            violation: world.violation,
        }
    }
}

fn kill(words: &mut Words<'_>) -> Result<Fault, Wrong> {
    if words.next_is("node") {
        return Ok(Fault::NodeLost {
            node: words.name()?,
            span: None,
        });
    }
    let child_survives = words.next_is("main");
    Ok(Fault::Kill {
        instance: words.name()?,
        child_survives,
    })
}

fn patient(words: &mut Words<'_>) -> Result<Patient, Wrong> {
    let Some(word) = words.next() else {
        return wrong("somebody is missing", "name an instance or a service");
    };
    let instance = word.parse().map(Patient::Instance);
    let service = || word.parse().map(Patient::Service);
    instance
        .or_else(|_| service())
        .map_err(|error: model::InvalidName| Wrong {
            problem: error.to_string(),
            help: "name an instance or a service".into(),
        })
}

fn ail(words: &mut Words<'_>) -> Result<Fault, Wrong> {
    let patient = patient(words)?;
    let ailment = match words.next().unwrap_or_default() {
        "sick" => Ailment::Sick,
        "ignores-stop" => Ailment::IgnoresStop,
        "slow-kill" => Ailment::SlowKill,
        "start-fails" => Ailment::StartFails,
        "exits-at-once" => Ailment::ExitsAtOnce,
        "crashes" => Ailment::Crashes,
        "never-healthy" => Ailment::NeverHealthy,
        "slow-start" => Ailment::SlowStart,
        "prepare-fails" => Ailment::PrepareFails,
        "standby-check-fails" => Ailment::StandbyCheckFails,
        other => {
            let help = "known are: sick, ignores-stop, slow-kill, start-fails, exits-at-once, crashes, never-healthy, \
                        slow-start, prepare-fails, standby-check-fails";
            return wrong(format!("no ailment is called `{other}`"), help);
        }
    };
    let span = words.span()?;
    Ok(Fault::Ail { patient, ailment, span })
}

fn hook(words: &mut Words<'_>) -> Result<Fault, Wrong> {
    let service = words.name()?;
    let hook = match words.next().unwrap_or_default() {
        "promote" => Some(HookKind::Promote),
        "demote" => Some(HookKind::Demote),
        "follow" => Some(HookKind::Follow),
        "any" => None,
        other => {
            return wrong(
                format!("no hook is called `{other}`"),
                "known are: promote, demote, follow, any",
            );
        }
    };
    let trouble = match words.next().unwrap_or_default() {
        "fails" => HookTrouble::Fails,
        "hangs" => HookTrouble::Hangs,
        "slow" => HookTrouble::Slow,
        other => return wrong(format!("a hook cannot be `{other}`"), "known are: fails, hangs, slow"),
    };
    let span = words.span()?;
    Ok(Fault::Hooks {
        service,
        hook,
        trouble,
        span,
    })
}

fn store(words: &mut Words<'_>) -> Result<Fault, Wrong> {
    let trouble = match words.next().unwrap_or_default() {
        "works" => return Ok(Fault::StoreHealed),
        "full" => StoreTrouble::Fails,
        "unclear" => StoreTrouble::Unclear,
        "conflicts" => StoreTrouble::Conflicts,
        "slow" => StoreTrouble::Slow,
        other => {
            return wrong(
                format!("the store cannot be `{other}`"),
                "known are: full, unclear, conflicts, slow, works",
            );
        }
    };
    let span = words.span()?;
    Ok(Fault::Store { trouble, span })
}

fn node(words: &mut Words<'_>) -> Result<Fault, Wrong> {
    let node = words.name()?;
    match words.next().unwrap_or_default() {
        "lost" => Ok(Fault::NodeLost { node, span: None }),
        "back" => Ok(Fault::NodeBack { node }),
        other => wrong(format!("a node cannot be `{other}`"), "known are: lost, back"),
    }
}

fn agent(words: &mut Words<'_>) -> Result<Fault, Wrong> {
    match words.next().unwrap_or_default() {
        "dies" => Ok(Fault::AgentDies {
            decisions: 0,
            back: None,
        }),
        "back" => Ok(Fault::AgentBack),
        "stops" => Ok(Fault::AgentStops { span: words.span()? }),
        other => wrong(format!("the agent cannot be `{other}`"), "known are: dies, back, stops"),
    }
}

impl fmt::Display for Played {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.transcript)
    }
}
