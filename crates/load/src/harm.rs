//! Whether somebody suffers from a test that did not before.

use api::Status;
use std::collections::BTreeMap;

/// How things stand, as far as a test may harm them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    services: BTreeMap<String, Service>,
    instances: BTreeMap<String, Instance>,
    nodes_online: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Service {
    state: String,
    serving: u32,
    /// Who holds each slot, with the epoch.
    holders: Vec<(Option<String>, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Instance {
    health: String,
    restarts: u32,
}

impl From<&Status> for Standing {
    fn from(status: &Status) -> Self {
        let mut standing = Self::default();
        for service in &status.services {
            standing.services.insert(
                service.name.clone(),
                Service {
                    state: service.state.clone(),
                    serving: service
                        .slots
                        .iter()
                        .map(|slot| u32::from(slot.state == "serving"))
                        .sum(),
                    holders: service
                        .slots
                        .iter()
                        .map(|slot| (slot.instance.clone(), slot.epoch))
                        .collect(),
                },
            );
            for instance in &service.instances {
                let known = Instance {
                    health: instance.health.clone(),
                    restarts: instance.restarts,
                };
                standing.instances.insert(instance.id.clone(), known);
            }
        }
        let online = status.nodes.iter().filter(|node| node.state == api::NodeState::Online);
        standing.nodes_online = u32::try_from(online.count()).unwrap_or(u32::MAX);
        standing
    }
}

impl Standing {
    /// What became worse since, a sentence; `None` as long as nothing did. What stood badly before is not the test's doing.
    pub fn harm_since(&self, before: &Standing) -> Option<String> {
        if self.nodes_online < before.nodes_online {
            return Some("a node went offline".into());
        }
        for (name, then) in &before.services {
            let Some(now) = self.services.get(name) else {
                return Some(format!("{name} is not there any more"));
            };
            if rank(&now.state) > rank(&then.state) {
                return Some(format!("{name} went from {} to {}", then.state, now.state));
            }
            if now.serving < then.serving {
                return Some(format!("{name} lost a slot: {} serve of {}", now.serving, then.serving));
            }
            if now.holders != then.holders {
                return Some(format!("a slot of {name} changed hands"));
            }
        }
        for (name, then) in &before.instances {
            let Some(now) = self.instances.get(name) else {
                return Some(format!("{name} is not there any more"));
            };
            if now.restarts > then.restarts {
                return Some(format!("{name} had to be started again"));
            }
            if then.health == "healthy" && now.health != "healthy" {
                return Some(format!("{name} is {}: its checks fail", now.health));
            }
        }
        None
    }
}

fn rank(state: &str) -> u8 {
    match state {
        "redundant" => 0,
        "degraded" => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(state: &str, serving: u32, health: &str, restarts: u32) -> Standing {
        let service = Service {
            state: state.into(),
            serving,
            holders: vec![(Some("web-1".into()), 3)],
        };
        Standing {
            services: [("web".to_owned(), service)].into(),
            instances: [(
                "web-1".to_owned(),
                Instance {
                    health: health.into(),
                    restarts,
                },
            )]
            .into(),
            nodes_online: 1,
        }
    }

    #[test]
    fn what_got_worse_is_named() {
        let before = standing("redundant", 1, "healthy", 0);
        assert_eq!(before.harm_since(&before), None);
        for (now, said) in [
            (
                standing("degraded", 1, "healthy", 0),
                "web went from redundant to degraded",
            ),
            (standing("redundant", 0, "healthy", 0), "web lost a slot: 0 serve of 1"),
            (
                standing("redundant", 1, "unhealthy", 0),
                "web-1 is unhealthy: its checks fail",
            ),
            (standing("redundant", 1, "healthy", 1), "web-1 had to be started again"),
            (
                Standing {
                    nodes_online: 1,
                    ..Standing::default()
                },
                "web is not there any more",
            ),
        ] {
            assert_eq!(now.harm_since(&before).as_deref(), Some(said));
        }
    }

    #[test]
    fn what_stood_badly_before_is_no_harm() {
        let before = standing("degraded", 1, "unhealthy", 2);
        assert_eq!(standing("redundant", 1, "healthy", 2).harm_since(&before), None);
        assert_eq!(before.harm_since(&before), None);
    }
}
