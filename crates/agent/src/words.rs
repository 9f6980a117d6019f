//! Fills in the placeholders of commands, checks and environments.

use api::layout::Layout;
use model::template::{expand, placeholders};
use model::{CheckKind, Cluster, Epoch, InstanceId, NodeName, Role};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// What the placeholders of one instance stand for.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) layout: &'a Layout,
    /// Path of our own binary.
    pub(crate) exe: &'a Path,
    pub(crate) instance: &'a InstanceId,
    pub(crate) node: &'a NodeName,
    /// Where instances of this node are reached.
    pub(crate) host: IpAddr,
    pub(crate) port: Option<u16>,
    pub(crate) role: Option<Role>,
    pub(crate) epoch: Option<Epoch>,
    /// Where the active listens that it shall follow.
    pub(crate) active: Option<SocketAddr>,
}

impl Words<'_> {
    /// Fills in one word; the error is a sentence.
    pub(crate) fn fill(&self, text: &str) -> Result<String, String> {
        expand(text, &mut |name| self.value(name)).map_err(|error| error.to_string())
    }

    /// Fills in a command.
    pub(crate) fn argv(&self, command: &[String]) -> Result<Vec<String>, String> {
        command.iter().map(|word| self.fill(word)).collect()
    }

    /// Fills in a check.
    pub(crate) fn check(&self, kind: &CheckKind) -> Result<CheckKind, String> {
        Ok(match kind {
            CheckKind::Exec { command } => CheckKind::Exec {
                command: self.argv(command)?,
            },
            CheckKind::Http { path, status, body } => CheckKind::Http {
                path: self.fill(path)?,
                status: status.clone(),
                body: body.as_deref().map(|body| self.fill(body)).transpose()?,
            },
            other => other.clone(),
        })
    }

    /// The environment of its processes, hooks and checks.
    pub(crate) fn env(&self, declared: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
        let mut env = BTreeMap::new();
        for (name, value) in declared {
            env.insert(name.clone(), self.fill(value)?);
        }
        env.insert("UNDERSTUDY_CLUSTER".into(), self.cluster.name.clone());
        env.insert("UNDERSTUDY_SERVICE".into(), self.instance.service().to_string());
        env.insert("UNDERSTUDY_NAME".into(), self.instance.to_string());
        env.insert("UNDERSTUDY_NODE".into(), self.node.to_string());
        env.insert("UNDERSTUDY_HOST".into(), self.host.to_string());
        if let Some(port) = self.port {
            env.insert("UNDERSTUDY_PORT".into(), port.to_string());
        }
        if let Some(role) = self.role {
            env.insert("UNDERSTUDY_ROLE".into(), role.to_string());
        }
        if let Some(epoch) = self.epoch {
            env.insert("UNDERSTUDY_EPOCH".into(), epoch.to_string());
        }
        Ok(env)
    }

    fn value(&self, name: &str) -> Option<String> {
        match name {
            "port" => self.port.map(|port| port.to_string()),
            "host" => Some(self.host.to_string()),
            "data" => Some(self.layout.data(self.instance).display().to_string()),
            "instance" => Some(self.instance.to_string()),
            "service" => Some(self.instance.service().to_string()),
            "node" => Some(self.node.to_string()),
            "cluster" => Some(self.cluster.name.clone()),
            "understudy" => Some(self.exe.display().to_string()),
            "epoch" => self.epoch.map(|epoch| epoch.to_string()),
            "role" => self.role.map(|role| role.to_string()),
            "active.host" => self.active.map(|active| active.ip().to_string()),
            "active.port" => self.active.map(|active| active.port().to_string()),
            other => self.of_service(other.strip_prefix("service.")?),
        }
    }

    /// `db.address`, `db.host`, `db.port`: where the clients of another service go.
    fn of_service(&self, name: &str) -> Option<String> {
        let (service, _) = name.rsplit_once('.')?;
        let (service, declared) = self
            .cluster
            .services
            .iter()
            .find(|(name, _)| name.as_str() == service)?;
        address_part(name, &BTreeMap::from([(service.to_string(), declared.listen?)]))
    }
}

/// Writes the addresses of services into whatever names them, so that a service whose neighbour moves is seen to change.
pub(crate) fn with_addresses(mut cluster: Cluster) -> Cluster {
    let listens: BTreeMap<String, SocketAddr> = cluster
        .services
        .iter()
        .filter_map(|(name, service)| Some((name.to_string(), service.listen?)))
        .collect();
    let fill = |text: &mut String| {
        // The file was checked: every placeholder is well formed and names a service that listens.
        let found = placeholders(text).unwrap_or_default();
        for placeholder in found.into_iter().rev() {
            let value = placeholder
                .name
                .strip_prefix("service.")
                .and_then(|name| address_part(name, &listens));
            if let Some(value) = value {
                text.replace_range(placeholder.range, &value);
            }
        }
    };
    for service in cluster.services.values_mut() {
        service.command.iter_mut().for_each(fill);
        service.env.values_mut().for_each(fill);
        service.dir.iter_mut().for_each(fill);
        for hook in [&mut service.on_promote, &mut service.on_demote, &mut service.on_follow]
            .into_iter()
            .flatten()
        {
            hook.command.iter_mut().for_each(fill);
        }
        for check in [&mut service.check, &mut service.standby_check].into_iter().flatten() {
            if let CheckKind::Exec { command } = &mut check.kind {
                command.iter_mut().for_each(fill);
            }
        }
    }
    cluster
}

/// `db.address`, `db.host`, `db.port`.
fn address_part(name: &str, listens: &BTreeMap<String, SocketAddr>) -> Option<String> {
    let (service, part) = name.rsplit_once('.')?;
    let listen = listens.get(service)?;
    match part {
        "address" => Some(listen.to_string()),
        "host" => Some(listen.ip().to_string()),
        "port" => Some(listen.port().to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_in_and_other_placeholders_stay() {
        let file = "[service.db]\ncommand = [\"sleep\", \"1\"]\nlisten = \"127.0.0.1:6380\"\n\
                    [service.web]\ncommand = [\"web\", \"{service.db.address}\", \"{port}:{service.db.port}\", \"{{port}}\"]\n";
        let parsed = spec::parse(file, "shop.toml").unwrap();
        let cluster = with_addresses(parsed.cluster);
        let web = &cluster.services[&model::ServiceName::new("web").unwrap()];
        assert_eq!(web.command, ["web", "127.0.0.1:6380", "{port}:6380", "{{port}}"]);
    }
}
