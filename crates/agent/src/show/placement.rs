//! Why an instance is where it is, and not elsewhere. The rule itself is `core/src/reconcile/count.rs`; here it is told.

use super::Known;
use crate::clock::shown;
use api::Answer;
use decisions::{InstanceView, NodeState, NodeView, ServiceView, View};
use model::Spread;

/// "why here", "why not there".
pub(crate) fn answers(service: &ServiceView, instance: &InstanceView, known: &Known<'_>) -> Vec<Answer> {
    let nodes = &known.view.nodes;
    let here = nodes.iter().find(|node| node.name == instance.node);
    let mut why = vec![format!(
        "an instance goes where the service has the fewest copies, then where the fewest instances are, then to the first by name{}",
        match service.declared.spread {
            Spread::Node => "; `spread = \"node\"` allows one copy on a node",
            Spread::Zone => "; `spread = \"zone\"` allows one copy in a zone",
            Spread::Prefer => "",
        }
    )];
    why.extend(here.map(|node| {
        format!(
            "{}: {}; it has been {} since {}",
            node.name,
            crowd(service, node, known, Some(instance)),
            state(node),
            shown(node.since)
        )
    }));
    why.push(match here.map(|node| node.state) {
        Some(NodeState::Drained) => "it leaves as soon as its replacement is ready: the node is drained".into(),
        Some(NodeState::Offline) => {
            "its node is lost: it is replaced elsewhere, and comes back only if it has the only copy of the data".into()
        }
        _ => "who runs is never moved to tidy up: only a drain, a loss, a change of the file or `understudy rebalance` moves it".into(),
    });
    let mut answers = vec![Answer {
        question: "why here".into(),
        lines: why,
    }];
    let others = nodes.iter().filter(|node| node.name != instance.node);
    let lines: Vec<String> = others.map(|node| not_there(service, node, instance, known)).collect();
    let only = vec![match known.pace {
        Some(_) => "there is no other node; `understudy cluster token` lets one in".to_owned(),
        None => "there is no other node: all is on this machine. `understudy up --nodes 3` pretends three, a cluster has them".to_owned(),
    }];
    answers.push(Answer {
        question: "why not there".into(),
        lines: if lines.is_empty() { only } else { lines },
    });
    answers
}

fn not_there(service: &ServiceView, node: &NodeView, instance: &InstanceView, known: &Known<'_>) -> String {
    let copies = copies(service, node, None);
    let why = match node.state {
        NodeState::Offline => format!("it is offline since {}, because {}", shown(node.since), node.because),
        NodeState::Drained => format!("it is drained since {}, because {}", shown(node.since), node.because),
        NodeState::Online if copies > 0 && service.declared.spread == Spread::Node => {
            format!(
                "it has a copy of {} already, and `spread = \"node\"` allows one",
                service.name
            )
        }
        NodeState::Online if !service.declared.nodes.is_empty() && !service.declared.nodes.contains(&node.name) => {
            "`nodes` does not name it".into()
        }
        NodeState::Online if service.declared.avoid.contains(&node.name) => "`avoid` names it".into(),
        NodeState::Online => {
            let here = known.view.nodes.iter().find(|here| here.name == instance.node);
            let better = here.is_some_and(|here| {
                let rank = |node: &NodeView| (copies_of(service, node, instance), load(node, known, instance));
                rank(node) < rank(here)
            });
            let crowd = crowd(service, node, known, None);
            match better {
                true => format!("{crowd}: by the rule it would go there today, and nothing is moved to tidy up"),
                false => format!("{crowd}: no better than where it is"),
            }
        }
    };
    format!("{}: {why}", node.name)
}

fn state(node: &NodeView) -> &'static str {
    match node.state {
        NodeState::Online => "online",
        NodeState::Drained => "drained",
        NodeState::Offline => "offline",
    }
}

fn crowd(service: &ServiceView, node: &NodeView, known: &Known<'_>, except: Option<&InstanceView>) -> String {
    let own = copies(service, node, except);
    let all = known
        .view
        .services
        .iter()
        .map(|service| copies(service, node, except))
        .sum::<usize>();
    let other = if except.is_some() { "other " } else { "" };
    let copies = if own == 1 { "copy" } else { "copies" };
    let instances = if all == 1 { "instance" } else { "instances" };
    format!(
        "{own} {other}{copies} of {} and {all} {other}{instances} in all",
        service.name
    )
}

fn copies(service: &ServiceView, node: &NodeView, except: Option<&InstanceView>) -> usize {
    let there = service.instances.iter().filter(|instance| instance.node == node.name);
    there
        .filter(|one| except.is_none_or(|except| except.id != one.id))
        .count()
}

fn copies_of(service: &ServiceView, node: &NodeView, except: &InstanceView) -> usize {
    copies(service, node, Some(except))
}

fn load(node: &NodeView, known: &Known<'_>, except: &InstanceView) -> usize {
    let services = known.view.services.iter();
    services.map(|service| copies_of(service, node, except)).sum()
}

/// How instances come to a node that may run some again, where they stay elsewhere.
pub(crate) fn way_back_to(node: &model::NodeName, view: &View) -> Option<String> {
    let stays_elsewhere = |service: &&ServiceView| {
        let is_there = |instance: &decisions::InstanceView| instance.node == *node;
        let may_move = !service.removed && !service.instances.is_empty() && service.declared.may_be_on(node);
        may_move && !service.instances.iter().any(is_there)
    };
    let elsewhere: Vec<String> = view
        .services
        .iter()
        .filter(stays_elsewhere)
        .map(|service| format!("`understudy rebalance {}`", service.name))
        .collect();
    let (first, others) = elsewhere.split_first()?;
    let also = match others {
        [] => String::new(),
        [one] => format!(", and {one}"),
        [one, more @ ..] => format!(", {one} and so on ({} more services)", more.len()),
    };
    Some(format!(
        "{first}{also} moves instances to where they would be put today, node {node} among them"
    ))
}

#[cfg(test)]
mod tests {
    use super::way_back_to;
    use decisions::{Core, Event};
    use model::{NodeName, Timestamp};

    #[test]
    fn what_brings_instances_back_to_a_node_is_named_where_they_stay_elsewhere() {
        let node = |name| NodeName::new(name).unwrap_or_else(|error| panic!("{error}"));
        let text = "name = \"shop\"\n[service.web]\ncommand = [\"true\"]\nactive = 1\n";
        let file = spec::parse(text, "shop.toml").unwrap_or_else(|errors| panic!("{errors}"));
        let mut core = Core::new(0, 0, 0, [node("a"), node("b")]);
        core.handle(Event::NodeDrained { node: node("b") }, Timestamp(0));
        core.handle(Event::Applied(file.cluster), Timestamp(0));
        let view = core.view(Timestamp(0));
        assert_eq!(
            way_back_to(&node("b"), &view).as_deref(),
            Some("`understudy rebalance web` moves instances to where they would be put today, node b among them")
        );
        assert_eq!(way_back_to(&node("a"), &view), None);
    }
}
