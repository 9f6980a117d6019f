//! Is there such a service, instance or node? If not: did you mean …?

use api::Status;

/// What a name may stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A service.
    Service,
    /// A slot: `db/0`.
    Slot,
    /// An instance.
    Instance,
    /// A node.
    Node,
}

/// A name that is not there.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{said}")]
pub(crate) struct Unknown {
    said: String,
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
    let known = |kind: &&Kind| all(status, **kind).iter().any(|known| known == name);
    if let Some(kind) = wanted.iter().find(known) {
        return Ok(*kind);
    }
    Err(Unknown {
        said: format!("there is no {} `{name}` in cluster `{}`", kinds(wanted), status.cluster),
        hint: hint(status, name, wanted),
    })
}

/// An instance that is there is one of this service.
pub(crate) fn must_be_of(status: &Status, instance: &str, service: &str) -> Result<(), Unknown> {
    let own = status.services.iter().filter(|one| one.name == service);
    let own: Vec<&str> = own.flat_map(|one| &one.instances).map(|one| one.id.as_str()).collect();
    if own.contains(&instance) {
        return Ok(());
    }
    Err(Unknown {
        said: format!("`{instance}` is no instance of `{service}`"),
        hint: (!own.is_empty()).then(|| format!("its instances are {}", own.join(", "))),
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
        (Kind::Slot, "a slot"),
        (Kind::Instance, "an instance"),
        (Kind::Node, "a node"),
    ] {
        if !wanted.contains(&kind) && all(status, kind).iter().any(|known| known == name) {
            return Some(match among(status, name, kind, wanted) {
                Some(own) => format!("`{name}` is {noun}; {own}"),
                None => format!("`{name}` is {noun}"),
            });
        }
    }
    if wanted.contains(&Kind::Slot)
        && let Some(slots) = slots_of(status, name)
    {
        return Some(slots);
    }
    // Slots are not listed: whoever knows of them finds them by their service.
    let kinds = wanted.iter().filter(|kind| **kind != Kind::Slot);
    let names: Vec<String> = kinds.flat_map(|kind| all(status, *kind)).collect();
    if let Some(nearest) = nearest(name, names.iter().map(String::as_str)) {
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

/// What slots there are of a service, if it is one of its that is not there.
fn slots_of(status: &Status, name: &str) -> Option<String> {
    let (service, _) = name.split_once('/')?;
    let service = status.services.iter().find(|one| one.name == service)?;
    let name = &service.name;
    match service.slots.as_slice() {
        [] => None,
        [only] => Some(format!("its only slot is `{name}/{}`", only.slot)),
        [first, .., last] => Some(format!(
            "its slots are `{name}/{}` to `{name}/{}`",
            first.slot, last.slot
        )),
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
        Kind::Slot => {
            let (service, number) = name.split_once('/')?;
            let service = status.services.iter().find(|one| one.name == service)?;
            let slot = service.slots.iter().find(|slot| slot.slot.to_string() == number)?;
            return Some(match &slot.instance {
                Some(holder) if wanted.contains(&Kind::Instance) => format!("it is held by `{holder}`"),
                None if wanted.contains(&Kind::Instance) => "nobody holds it".into(),
                _ => format!("its service is `{}`", service.name),
            });
        }
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

fn all(status: &Status, kind: Kind) -> Vec<String> {
    match kind {
        Kind::Service => status.services.iter().map(|service| service.name.clone()).collect(),
        Kind::Slot => {
            let slots = status.services.iter().flat_map(|service| {
                let slots = service.slots.iter();
                slots.map(|slot| format!("{}/{}", service.name, slot.slot))
            });
            slots.collect()
        }
        Kind::Instance => status
            .services
            .iter()
            .flat_map(|service| &service.instances)
            .map(|instance| instance.id.clone())
            .collect(),
        Kind::Node => status.nodes.iter().map(|node| node.name.clone()).collect(),
    }
}

fn kinds(wanted: &[Kind]) -> String {
    let nouns: Vec<&str> = wanted
        .iter()
        .map(|kind| match kind {
            Kind::Service => "service",
            Kind::Slot => "slot",
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
    fn a_slot_is_found_or_named_as_what_it_is() {
        let kinds = [Kind::Service, Kind::Slot, Kind::Instance, Kind::Node];
        assert_eq!(find(&sample_status(), "db/0", &kinds), Ok(Kind::Slot));
        assert!(refused("db/7", &kinds).ends_with("`db/7` in cluster `shop`; its only slot is `db/0`"));
        assert!(refused("db/0", &[Kind::Instance]).ends_with("; `db/0` is a slot; it is held by `db-1`"));
        assert!(refused("db/0", &[Kind::Service]).ends_with("; `db/0` is a slot; its service is `db`"));
    }

    #[test]
    fn an_instance_of_another_service_is_no_heir() {
        assert_eq!(must_be_of(&sample_status(), "db-2", "db"), Ok(()));
        let unknown = must_be_of(&sample_status(), "web-1", "db").unwrap_err();
        assert_eq!(unknown.to_string(), "`web-1` is no instance of `db`");
        assert_eq!(unknown.hint().as_deref(), Some("its instances are db-1, db-2"));
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
