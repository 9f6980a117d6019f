//! Power fencing: what does not fit together in the devices of nodes, and between them and the services that lean on them.

use crate::diagnostic::Diagnostic;
use crate::judge::Declared;
use crate::site::tables;
use crate::source::{Source, shown};
use crate::tree::{Data, Entry, Table, Value};
use model::{FenceBy, Place, Site};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// What says where a device is reached.
const ADDRESSES: [&str; 2] = ["ip", "ipaddr"];

/// The devices of a node's table, one or several.
pub(crate) fn devices(node: &Table) -> Vec<&Table> {
    match node.get("fence").map(|value| &value.data) {
        Some(Data::Table(device)) => vec![device],
        Some(Data::Array(devices)) => devices.iter().filter_map(Value::as_table).collect(),
        _ => Vec::new(),
    }
}

/// Notes all that is wrong with them.
pub(crate) fn judge(
    file: &Table,
    declared: &[Declared<'_>],
    site: &Site,
    source: &Arc<Source>,
    found: &mut Vec<Diagnostic>,
) {
    for (entry, node) in tables(file, "node") {
        for device in devices(node) {
            agent(device, source, found);
            parameters(device, source, found);
            same_power(entry, node, device, source, found);
            floating(device, declared, source, found);
        }
    }
    for service in declared.iter().filter(|one| one.service.fence == FenceBy::Power) {
        needs_exclusive(service, source, found);
        needs_devices(service, site, source, found);
    }
}

fn agent(device: &Table, source: &Arc<Source>, found: &mut Vec<Diagnostic>) {
    let Some(agent) = device.text("agent") else { return };
    let is_path = agent.contains('/');
    if agent.is_empty() || (is_path && !agent.starts_with('/')) {
        let problem = format!(
            "`agent` is `{}`, which is no name of a program and no absolute path",
            shown(agent)
        );
        let error = Diagnostic::new(source, &device.span_of("agent"), problem);
        found.push(error.help("write `agent = \"fence_ipmilan\"`, or the whole path of a program of your own"));
    }
}

/// What is written here is kept in the store and shown to whoever may read the file.
fn parameters(device: &Table, source: &Arc<Source>, found: &mut Vec<Diagnostic>) {
    let mut names = BTreeSet::new();
    for entry in device.map("parameters").iter().chain(device.map("secrets")) {
        let name = entry.name.as_str();
        let mut error = |problem: String, help: String| {
            found.push(Diagnostic::new(source, &entry.name_span, problem).help(help));
        };
        if matches!(name, "action" | "option") {
            error(
                format!("`{name}` says what the device is to do, which is not for the file to say"),
                "leave it out".into(),
            );
        } else if !names.insert(name) {
            error(
                format!("`{}` is given as a parameter and as a secret", shown(name)),
                "leave one of them out".into(),
            );
        } else if let Some(value) = entry.value.as_text() {
            if is_secret(name) {
                let file = "{ file = \"/etc/understudy/fence\" }";
                error(
                    format!("`{name}` is a secret, and this file is kept and shown"),
                    format!(
                        "put it into a file of its own, and write `secrets = {{ {name} = {file} }}` in place of it"
                    ),
                );
            } else if value.contains(['\n', '\r']) {
                error(
                    format!(
                        "`{}` has more than one line, and parameters are told by lines",
                        shown(name)
                    ),
                    "write it in one line".into(),
                );
            }
        }
    }
}

fn is_secret(name: &str) -> bool {
    let told = [
        "passw",
        "secret",
        "token",
        "community",
        "apikey",
        "api_key",
        "access_key",
    ];
    !name.ends_with("_script") && told.iter().any(|part| name.contains(part))
}

/// A device that loses its power with its node cannot say that the node is off.
fn same_power(entry: &Entry, node: &Table, device: &Table, source: &Arc<Source>, found: &mut Vec<Diagnostic>) {
    let of = |table: &'_ Table| -> BTreeSet<String> {
        let names = table.array("feeds").iter().filter_map(Value::as_text);
        names.map(str::to_owned).collect()
    };
    let (own, of_node) = (of(device), of(node));
    if own.is_empty() || of_node.is_empty() || !own.is_subset(&of_node) {
        return;
    }
    let problem = format!(
        "the device is without power whenever node `{}` is: nobody could then say that the node is off",
        shown(&entry.name)
    );
    let warning = Diagnostic::new(source, &device.span_of("feeds"), problem).warning();
    let warning = match node.given("feeds") {
        Some(feeds) => warning.related(&feeds.span, "the feeds of the node"),
        None => warning,
    };
    found.push(warning.help("give the device a feed that the node does not have"));
}

/// A floating address is on the node of an active: on the very node that is lost, for one.
fn floating(device: &Table, declared: &[Declared<'_>], source: &Arc<Source>, found: &mut Vec<Diagnostic>) {
    for entry in device.map("parameters") {
        let address = entry.value.as_text().and_then(|text| text.parse::<IpAddr>().ok());
        let Some(address) = address.filter(|_| ADDRESSES.contains(&entry.name.as_str())) else {
            continue;
        };
        let has = |one: &&Declared<'_>| {
            one.service
                .address
                .as_ref()
                .is_some_and(|floating| floating.ip == address)
        };
        if let Some(service) = declared.iter().find(has) {
            let problem = format!(
                "the device is reached at {address}, the floating address of `{}`: that is on one of the nodes, and lost with it",
                service.name
            );
            let warning = Diagnostic::new(source, &entry.value.span, problem).warning();
            found.push(warning.help("name the address of the device itself"));
        }
    }
}

fn needs_exclusive(service: &Declared<'_>, source: &Arc<Source>, found: &mut Vec<Diagnostic>) {
    if service.service.exclusive || service.table.is_troubled("exclusive") {
        return;
    }
    let error = Diagnostic::new(
        source,
        &service.table.span_of("fence"),
        "`fence = \"power\"` needs `exclusive = true`",
    );
    let error = match service.table.given("exclusive") {
        Some(exclusive) => error.related(&exclusive.span, "it is not exclusive"),
        None => error,
    };
    found.push(error.help(
        "whoever may have several actives of one slot at once gains nothing by fencing: add `exclusive = true`, or leave `fence` out",
    ));
}

/// Of a node without a device nobody could ever take the slot.
fn needs_devices(service: &Declared<'_>, site: &Site, source: &Arc<Source>, found: &mut Vec<Diagnostic>) {
    let has = |place: Option<&Place>| place.is_some_and(|place| !place.fence.is_empty());
    let named: Vec<String> = match service.service.nodes.is_empty() {
        false => {
            let nodes = service.service.nodes.iter();
            nodes
                .filter(|node| !has(site.nodes.get(*node)))
                .map(ToString::to_string)
                .collect()
        }
        true if site.nodes.values().any(|place| has(Some(place))) => {
            let nodes = site.nodes.iter().filter(|(node, _)| service.service.may_be_on(node));
            nodes
                .filter(|(_, place)| !has(Some(place)))
                .map(|(node, _)| node.to_string())
                .collect()
        }
        true => vec!["NAME".to_owned()],
    };
    let Some(first) = named.first() else { return };
    let problem = match first.as_str() {
        "NAME" => format!(
            "`{}` leans on power fencing, and no node has a device",
            shown(service.name)
        ),
        _ => format!(
            "`{}` may be on {}, whose power nothing could take away",
            shown(service.name),
            named.join(", ")
        ),
    };
    let error = Diagnostic::new(source, &service.table.span_of("fence"), problem);
    found.push(error.help(format!(
        "declare it: `[node.{first}.fence]`, and below it `agent = \"fence_ipmilan\"`"
    )));
}

#[cfg(test)]
mod tests {
    use model::{AfterFence, FenceBy, Millis, Secret};

    fn told(text: &str) -> String {
        crate::parse(text, "x.toml").unwrap_err().to_string()
    }

    const SERVICE: &str = "[service.db]\ncommand = [\"db\"]\nexclusive = true\nfence = \"power\"\n";

    #[test]
    fn devices_are_read() {
        let text = format!(
            "{SERVICE}[node.a.fence]\nagent = \"fence_ipmilan\"\nparameters = {{ ip = \"10.0.9.1\" }}\n\
             secrets = {{ password = {{ file = \"/etc/bmc\" }}, community = {{ env = \"C\" }} }}\ntimeout = \"10s\"\n\
             [node.b]\nafter_fence = \"stay-off\"\n[[node.b.fence]]\nagent = \"/x/one\"\n[[node.b.fence]]\nagent = \"/x/two\"\n"
        );
        let cluster = crate::parse(&text, "x.toml")
            .unwrap_or_else(|errors| panic!("{errors}"))
            .cluster;
        assert_eq!(cluster.services.values().next().unwrap().fence, FenceBy::Power);
        let nodes: Vec<_> = cluster.site.nodes.values().collect();
        let device = &nodes[0].fence[0];
        assert_eq!(
            (device.agent.as_str(), device.timeout),
            ("fence_ipmilan", Millis(10_000))
        );
        assert_eq!(device.parameters["ip"], "10.0.9.1");
        assert_eq!(device.secrets["password"], Secret::File("/etc/bmc".into()));
        assert_eq!(device.secrets["community"], Secret::Env("C".into()));
        assert_eq!(nodes[0].after_fence, AfterFence::On);
        let agents: Vec<_> = nodes[1].fence.iter().map(|device| device.agent.as_str()).collect();
        assert_eq!(
            (agents, nodes[1].after_fence),
            (vec!["/x/one", "/x/two"], AfterFence::StayOff)
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let node = |inner: &str| format!("[service.a]\ncommand = [\"a\"]\n[node.a.fence]\n{inner}\n");
        for (text, message) in [
            (
                node("agent = \"f\"\nparameters = { password = \"x\" }"),
                "x.toml:5:16: `password` is a secret, and this file is kept and shown; put it into a file of its own",
            ),
            (
                node("agent = \"f\"\nparameters = { action = \"off\" }"),
                "x.toml:5:16: `action` says what the device is to do",
            ),
            (
                node("agent = \"./f\""),
                "x.toml:4:9: `agent` is `./f`, which is no name of a program",
            ),
            (
                node("agent = \"f\"\nsecrets = { password = { file = \"/a\", env = \"B\" } }"),
                "x.toml:5:",
            ),
            (
                node("agent = \"f\"\nfeeds = [\"ups\"]"),
                "x.toml:5:10: there is no feed `ups`",
            ),
            (
                SERVICE.into(),
                "x.toml:4:9: `db` leans on power fencing, and no node has a device; declare it",
            ),
            (
                format!("{SERVICE}nodes = [\"a\", \"b\"]\n[node.a.fence]\nagent = \"f\"\n"),
                "x.toml:4:9: `db` may be on b, whose power nothing could take away; declare it: `[node.b.fence]`",
            ),
            (
                "[service.db]\ncommand = [\"db\"]\nfence = \"power\"\n[node.a.fence]\nagent = \"f\"\n".into(),
                "x.toml:3:9: `fence = \"power\"` needs `exclusive = true`",
            ),
        ] {
            let told = told(&text);
            assert!(told.contains(message), "{told}");
        }
    }

    #[test]
    fn a_device_that_is_dark_with_its_node_or_behind_it_is_warned_of() {
        let text = "[service.db]\ncommand = [\"db\"]\nexclusive = true\naddress = \"10.0.0.100/24\"\n[feed.x]\n[feed.y]\n\
                    [node.a]\nfeeds = [\"x\", \"y\"]\nfence = { agent = \"f\", feeds = [\"x\"], parameters = { ip = \"10.0.0.100\" } }\n";
        let warnings = crate::parse(text, "x.toml")
            .unwrap_or_else(|errors| panic!("{errors}"))
            .warnings;
        let told: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert!(told[0].contains("without power whenever node `a` is"), "{told:?}");
        assert!(told[1].contains("the floating address of `db`"), "{told:?}");
        let other = text
            .replace("feeds = [\"x\"]", "feeds = []")
            .replace("ip = \"10.0.0.100\"", "ip = \"10.0.0.9\"");
        assert!(crate::parse(&other, "x.toml").unwrap().warnings.is_empty());
    }
}
