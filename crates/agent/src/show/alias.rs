//! What is meant by an address, or by the cluster's name: the thing behind it, and how it is reached there.

use super::Known;
use decisions::{NodeState, ServiceView, View};
use model::ServiceState;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// What an address leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meant {
    /// A service, an instance or a node of this name; and, as a sentence, what the address is of it.
    Thing { name: String, how: String },
    /// Several, a line each.
    Several(Vec<String>),
}

/// What an address leads to: a service's (`10.0.0.5:80`, or floating, with or without its network), an instance's, a node's.
pub(super) fn of_address(text: &str, known: &Known<'_>) -> Option<Meant> {
    let doors: Vec<Door> = doors(known).collect();
    one_of(text, &doors)
}

/// Something that is reached at an address.
#[derive(Debug, Clone)]
struct Door {
    ip: IpAddr,
    port: Option<u16>,
    name: String,
    how: String,
}

fn doors<'a>(known: &'a Known<'_>) -> impl Iterator<Item = Door> + 'a {
    let view = known.view;
    let nodes = known.hosts.iter().map(|(node, host)| Door {
        ip: *host,
        port: None,
        name: node.to_string(),
        how: format!("is where node {node} is reached"),
    });
    view.services.iter().flat_map(of_service).chain(nodes).chain(
        view.services
            .iter()
            .flat_map(|service| &service.instances)
            .filter_map(|instance| {
                let at = known.executor.address(&instance.id)?;
                Some(Door {
                    ip: at.ip(),
                    port: Some(at.port()),
                    name: instance.id.to_string(),
                    how: format!(
                        "is the address of {} on {}; clients come by that of the service",
                        instance.id, instance.node
                    ),
                })
            }),
    )
}

fn of_service(service: &ServiceView) -> Vec<Door> {
    let name = service.name.to_string();
    let listen = service.declared.listen.map(|listen| Door {
        ip: listen.ip(),
        port: Some(listen.port()),
        name: name.clone(),
        how: format!("is where the clients of {name} come in"),
    });
    let floating = service.declared.address.as_ref().map(|address| {
        let holders = service.slots.iter().filter_map(|slot| slot.instance.as_ref());
        let at: Vec<String> = holders
            .filter_map(|id| service.instances.iter().find(|instance| instance.id == *id))
            .map(|instance| format!("{} on {}", instance.id, instance.node))
            .collect();
        let who = match at.as_slice() {
            [] => "nobody holds the slot now".into(),
            _ => format!("it is with the active, {}", at.join(", ")),
        };
        Door {
            ip: address.ip,
            port: None,
            name: name.clone(),
            how: format!("is the floating address of {name}: {who}"),
        }
    });
    floating.into_iter().chain(listen).collect()
}

fn one_of(text: &str, doors: &[Door]) -> Option<Meant> {
    // A network after an address adds nothing to it.
    let text = text.split_once('/').map_or(text, |(address, _)| address);
    if let Ok(at) = text.parse::<SocketAddr>() {
        let with_port = doors.iter().filter(|door| door.port == Some(at.port()));
        let exact = with_port.clone().find(|door| door.ip == at.ip());
        // Who listens on all addresses is reached at each.
        let any = || with_port.clone().find(|door| door.ip.is_unspecified());
        return exact.or_else(any).map(|door| Meant::Thing {
            name: door.name.clone(),
            how: format!("{at} {}", door.how),
        });
    }
    let ip: IpAddr = text.parse().ok()?;
    let here = doors.iter().filter(|door| door.ip == ip);
    if let Some(door) = here.clone().find(|door| door.port.is_none()) {
        return Some(Meant::Thing {
            name: door.name.clone(),
            how: format!("{ip} {}", door.how),
        });
    }
    let mut lines: BTreeMap<u16, String> = BTreeMap::new();
    for door in here {
        lines.extend(door.port.map(|port| (port, format!("{ip}:{port} {}", door.how))));
    }
    (!lines.is_empty()).then(|| Meant::Several(lines.into_values().collect()))
}

/// The cluster as a whole: a sentence, and a line for each service and for its nodes.
pub(super) fn of_cluster(name: &str, view: &View) -> (String, Vec<String>) {
    let count = |state: ServiceState| view.services.iter().filter(|service| service.state == state).count();
    let states = [ServiceState::Down, ServiceState::Degraded, ServiceState::Redundant];
    let states = states.map(|state| (count(state), state));
    let of_states: Vec<String> = states
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, state)| format!("{count} {state}"))
        .collect();
    let online = view.nodes.iter().filter(|node| node.state == NodeState::Online).count();
    let services = match of_states.as_slice() {
        [] => "no services are declared".into(),
        _ => format!("services: {}", of_states.join(", ")),
    };
    let summary = format!(
        "{name} is the whole cluster; {services}; {online} of {} nodes online",
        view.nodes.len()
    );
    let of_service = |service: &ServiceView| {
        format!(
            "{} is {} since {}, because {}",
            service.name,
            service.state,
            crate::clock::shown(service.since),
            service.because
        )
    };
    let mut facts: Vec<String> = view.services.iter().map(of_service).collect();
    let away = view.nodes.iter().filter(|node| node.state != NodeState::Online);
    facts.extend(away.map(|node| {
        let state = if node.state == NodeState::Drained {
            "drained"
        } else {
            "offline"
        };
        format!(
            "node {} is {state} since {}, because {}",
            node.name,
            crate::clock::shown(node.since),
            node.because
        )
    }));
    (summary, facts)
}

#[cfg(test)]
mod tests {
    use super::{Door, Meant, one_of};

    fn door(ip: &str, port: Option<u16>, name: &str) -> Door {
        Door {
            ip: ip.parse().unwrap(),
            port,
            name: name.into(),
            how: format!("is of {name}"),
        }
    }

    fn meant(text: &str) -> String {
        let doors = [
            door("10.0.0.100", None, "db"),
            door("10.0.0.1", Some(80), "web"),
            door("0.0.0.0", Some(81), "log"),
            door("10.0.0.7", None, "a"),
            door("10.0.0.1", Some(4000), "web-1"),
        ];
        match one_of(text, &doors) {
            Some(Meant::Thing { how, .. }) => how,
            Some(Meant::Several(lines)) => lines.join("; "),
            None => "nothing".into(),
        }
    }

    #[test]
    fn an_address_leads_to_what_is_reached_there() {
        assert_eq!(meant("10.0.0.100"), "10.0.0.100 is of db");
        assert_eq!(meant("10.0.0.100/24"), "10.0.0.100 is of db");
        assert_eq!(meant("10.0.0.1:80"), "10.0.0.1:80 is of web");
        assert_eq!(meant("10.0.0.1:4000"), "10.0.0.1:4000 is of web-1");
        assert_eq!(meant("10.0.0.7"), "10.0.0.7 is of a");
        assert_eq!(meant("10.0.0.9:81"), "10.0.0.9:81 is of log", "it listens everywhere");
        assert_eq!(meant("10.0.0.1"), "10.0.0.1:80 is of web; 10.0.0.1:4000 is of web-1");
        assert_eq!(meant("10.0.0.9"), "nothing");
        assert_eq!(meant("10.0.0.1:82"), "nothing");
        assert_eq!(meant("web"), "nothing");
    }
}
