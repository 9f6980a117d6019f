//! Is there such a service, instance or node? If not: did you mean …?

use api::Status;

/// What a name may stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A service.
    Service,
    /// An instance.
    Instance,
    /// A node.
    Node,
}

/// A name that is not there.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no {} `{name}` in cluster `{cluster}`", kinds(wanted))]
pub(crate) struct Unknown {
    name: String,
    cluster: String,
    wanted: Vec<Kind>,
    hint: Option<String>,
}

impl Unknown {
    /// What was meant, most likely.
    pub(crate) fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

/// Which of the wanted kinds the name is.
pub(crate) fn find(status: &Status, name: &str, wanted: &[Kind]) -> Result<Kind, Unknown> {
    let known = |kind: &&Kind| all(status, **kind).contains(&name);
    if let Some(kind) = wanted.iter().find(known) {
        return Ok(*kind);
    }
    Err(Unknown {
        name: name.to_owned(),
        cluster: status.cluster.clone(),
        wanted: wanted.to_vec(),
        hint: hint(status, name, wanted),
    })
}

/// The nearest of some names, if one is near enough to be meant.
pub(crate) fn nearest<'a>(name: &str, among: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (score, best) = among
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(name, candidate), candidate))
        .max_by(|one, other| one.0.total_cmp(&other.0))?;
    (score >= 0.5).then_some(best)
}

fn hint(status: &Status, name: &str, wanted: &[Kind]) -> Option<String> {
    // A name of another kind is the likelier slip: `logs a`, `drain db`.
    for (kind, noun) in [
        (Kind::Service, "a service"),
        (Kind::Instance, "an instance"),
        (Kind::Node, "a node"),
    ] {
        if !wanted.contains(&kind) && all(status, kind).contains(&name) {
            return Some(match among(status, name, kind, wanted) {
                Some(own) => format!("`{name}` is {noun}; {own}"),
                None => format!("`{name}` is {noun}"),
            });
        }
    }
    let names: Vec<&str> = wanted.iter().flat_map(|kind| all(status, *kind)).collect();
    if let Some(nearest) = nearest(name, names.iter().copied()) {
        return Some(format!("did you mean `{nearest}`?"));
    }
    // More than this is no longer a hint.
    const LISTED_MAX: usize = 10;
    match names.len() {
        0 => None,
        1..=LISTED_MAX => Some(format!(
            "there {}: {}",
            if names.len() == 1 { "is" } else { "are" },
            names.join(", ")
        )),
        _ => Some("`understudy status` lists what there is".into()),
    }
}

/// What belongs to a name of another kind: the instances of a service, the service of an instance, what runs on a node.
fn among(status: &Status, name: &str, kind: Kind, wanted: &[Kind]) -> Option<String> {
    let service = match kind {
        Kind::Service => status.services.iter().find(|service| service.name == name)?,
        Kind::Instance => status
            .services
            .iter()
            .find(|service| service.instances.iter().any(|instance| instance.id == name))?,
        Kind::Node => return None,
    };
    let instances: Vec<&str> = service.instances.iter().map(|instance| instance.id.as_str()).collect();
    match kind {
        Kind::Service if wanted.contains(&Kind::Instance) => {
            Some(format!("its instances are {}", instances.join(", ")))
        }
        Kind::Instance if wanted.contains(&Kind::Service) => Some(format!("its service is `{}`", service.name)),
        _ => None,
    }
}

fn all(status: &Status, kind: Kind) -> Vec<&str> {
    match kind {
        Kind::Service => status.services.iter().map(|service| service.name.as_str()).collect(),
        Kind::Instance => status
            .services
            .iter()
            .flat_map(|service| &service.instances)
            .map(|instance| instance.id.as_str())
            .collect(),
        Kind::Node => status.nodes.iter().map(|node| node.name.as_str()).collect(),
    }
}

fn kinds(wanted: &[Kind]) -> String {
    let nouns: Vec<&str> = wanted
        .iter()
        .map(|kind| match kind {
            Kind::Service => "service",
            Kind::Instance => "instance",
            Kind::Node => "node",
        })
        .collect();
    match nouns.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => nouns.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample_status;

    fn refused(name: &str, wanted: &[Kind]) -> String {
        let unknown = find(&sample_status(), name, wanted).unwrap_err();
        format!("{unknown}; {}", unknown.hint().unwrap_or_default())
    }

    #[test]
    fn a_slip_of_the_finger_gets_the_right_name() {
        assert_eq!(
            refused("dv", &[Kind::Service]),
            "there is no service `dv` in cluster `shop`; did you mean `db`?"
        );
        assert_eq!(
            refused("wbe-1", &[Kind::Service, Kind::Instance]),
            "there is no service or instance `wbe-1` in cluster `shop`; did you mean `web-1`?"
        );
    }

    #[test]
    fn a_name_of_another_kind_is_called_what_it_is() {
        assert!(refused("db", &[Kind::Instance]).ends_with("; `db` is a service; its instances are db-1, db-2"));
        assert!(refused("db-1", &[Kind::Service]).ends_with("; `db-1` is an instance; its service is `db`"));
        assert!(refused("a", &[Kind::Service]).ends_with("; `a` is a node"));
    }

    #[test]
    fn a_name_like_no_other_gets_the_list() {
        assert!(refused("zzzzzz", &[Kind::Node]).ends_with("; there are: a, b"));
        assert_eq!(
            find(&sample_status(), "b", &[Kind::Service, Kind::Node]),
            Ok(Kind::Node)
        );
    }
}
