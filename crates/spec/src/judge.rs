//! What does not fit together: within a service, and between services.

use crate::build;
use crate::diagnostic::Diagnostic;
use crate::mend;
use crate::placeholders::{self, Listening};
use crate::site;
use crate::source::{Source, shown};
use crate::tree::{Data, Entry, Table, Value};
use model::{Addressing, CheckKind, Protocol, Service, Spread, StandbyMode};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

/// A service with the table it was made from.
pub(crate) struct Declared<'a> {
    pub(crate) name: &'a str,
    pub(crate) name_span: &'a Range<usize>,
    pub(crate) table: &'a Table,
    pub(crate) service: Service,
}

/// Makes the services, and notes all that does not fit together.
pub(crate) fn services<'a>(
    entries: &'a [Entry],
    externals: &BTreeSet<&str>,
    source: &Arc<Source>,
    found: &mut Vec<Diagnostic>,
) -> Vec<Declared<'a>> {
    let mut declared = Vec::new();
    for entry in entries {
        let Data::Table(table) = &entry.value.data else {
            continue;
        };
        let use_of_port = placeholders::use_of_port(table, source);
        let mut service = build::service(table, use_of_port.is_some());
        let is_external = |need: &model::ServiceName| externals.contains(need.as_str());
        let beyond = service.needs.iter().filter(|need| is_external(need));
        service.reliability.externals = beyond.map(ToString::to_string).collect();
        service.needs.retain(|need| !is_external(need));
        site::judge_rate(table, &entry.name_span, source, found);
        let mut judge = Judge {
            source,
            table,
            service: &service,
            found,
        };
        judge.counts();
        judge.address();
        judge.places();
        judge.port(use_of_port);
        judge.without_effect();
        judge.standbys();
        judge.restart();
        declared.push(Declared {
            name: &entry.name,
            name_span: &entry.name_span,
            table,
            service,
        });
    }
    let listening: Listening<'_> = declared
        .iter()
        .map(|one| {
            (
                one.name,
                one.service.listen.is_some() || one.table.is_troubled("listen"),
            )
        })
        .collect();
    for one in &declared {
        placeholders::check(one.table, source, &listening, found);
    }
    unknown_needs(&declared, externals, source, found);
    cyclic_needs(&declared, source, found);
    shared_addresses(&declared, source, found);
    shared_floating_addresses(&declared, source, found);
    declared
}

struct Judge<'a> {
    source: &'a Arc<Source>,
    table: &'a Table,
    service: &'a Service,
    found: &'a mut Vec<Diagnostic>,
}

impl Judge<'_> {
    fn counts(&mut self) {
        const INSTANCES_MAX: u32 = 10_000;
        let Service {
            active, standby, need, ..
        } = *self.service;
        if self.is_sound(&["active", "need"]) && need > active {
            let error = self.at("need", format!("`need` is {need}, but only {active} are active"));
            let error = match self.table.given("active") {
                Some(active) => error.related(&active.span, "the actives"),
                None => error,
            };
            self.found
                .push(error.help(format!("write a `need` of at most {active}, or raise `active`")));
        }
        if self.is_sound(&["active", "standby"]) && active + standby > INSTANCES_MAX {
            let key = if self.table.given("standby").is_some() {
                "standby"
            } else {
                "active"
            };
            let problem = format!("`active` and `standby` are {} together", active + standby);
            self.found.push(
                self.at(key, problem)
                    .help(format!("at most {INSTANCES_MAX} instances are possible")),
            );
        }
    }

    /// One address can be in one place only, and only whoever is fenced is sure not to have it any more.
    fn address(&mut self) {
        if self.service.address.is_none() {
            return;
        }
        if self.is_sound(&["exclusive"]) && !self.service.exclusive {
            let problem = "`address` needs `exclusive = true`".into();
            let error = self.at("address", problem);
            let error = match self.table.given("exclusive") {
                Some(exclusive) => error.related(&exclusive.span, "it is not exclusive"),
                None => error,
            };
            self.found.push(error.help(
                "an address must be on one host at a time, so the old holder has to be stopped for certain before the next takes over: add \
                 `exclusive = true`, or use `listen` in place of `address`",
            ));
        }
        let active = self.service.active;
        if self.is_sound(&["active"]) && active > 1 {
            let error = self
                .at(
                    "address",
                    format!("`address` needs `active = 1`, but {active} are active"),
                )
                .related(&self.table.span_of("active"), "the actives");
            self.found.push(error.help(
                "an address leads to one host, so the other actives would never be reached: write `active = 1`, or use `listen`, which \
                 spreads clients over all actives",
            ));
        }
    }

    /// Whether there can be a place for all instances at all.
    fn places(&mut self) {
        let Service { nodes, avoid, .. } = self.service;
        if !self.is_sound(&["nodes", "avoid"]) {
            return;
        }
        if let Some(node) = nodes.intersection(avoid).next() {
            let error = self
                .at("avoid", format!("`{node}` is in `nodes` and in `avoid`"))
                .related(&self.table.span_of("nodes"), "its instances may be there");
            self.found.push(error.help(format!(
                "with `nodes` no other node is used anyway: take `{node}` out of one of the two"
            )));
            return;
        }
        let wanted = self.service.wanted() as usize;
        if self.service.spread != Spread::Prefer && !nodes.is_empty() && nodes.len() < wanted {
            let problem = format!(
                "{wanted} instances that keep apart do not fit on {} node{}",
                nodes.len(),
                if nodes.len() == 1 { "" } else { "s" }
            );
            let error = self
                .at("nodes", problem)
                .related(&self.table.span_of("spread"), "they keep apart");
            self.found
                .push(error.help("name more nodes, declare fewer instances, or write `spread = \"prefer\"`"));
        }
    }

    /// Whatever needs a port of the instances, where they have none.
    fn port(&mut self, use_of_port: Option<(String, Range<usize>)>) {
        if self.service.addressing == Addressing::Port || !self.is_sound(&["port", "listen"]) {
            return;
        }
        let off = self.table.given("port").map(|port| port.span.clone());
        let mut needing: Vec<(Range<usize>, String)> = Vec::new();
        if let Some((name, span)) = use_of_port {
            needing.push((span, format!("`{{{name}}}` has no value")));
        }
        if let Some(listen) = self.table.given("listen") {
            needing.push((listen.span.clone(), "`listen` has nowhere to send clients".into()));
        }
        let checks = [
            ("check", &self.service.check),
            ("standby_check", &self.service.standby_check),
        ];
        for (key, check) in checks {
            let what = match check.as_ref().map(|check| &check.kind) {
                Some(CheckKind::Tcp) => "tcp",
                Some(CheckKind::Http { .. }) => "http",
                Some(CheckKind::Grpc { .. }) => "grpc",
                Some(CheckKind::Exec { .. }) | None => continue,
            };
            needing.push((
                self.table.span_of(key),
                format!("the `{what}` check has nothing to connect to"),
            ));
        }
        if self.service.protocol == Protocol::Http {
            needing.push((
                self.table.span_of("protocol"),
                "`protocol = \"http\"` has no effect".into(),
            ));
        }
        for (span, what) in needing {
            let error = Diagnostic::new(self.source, &span, format!("{what}: the instances have no port"));
            self.found.push(match &off {
                Some(off) => error.related(off, "turned off here").help("leave out `port = false`"),
                None => error.help("add `listen`, or `port = true`, or use `{port}` in `command`"),
            });
        }
    }

    /// What is given and can never matter.
    fn without_effect(&mut self) {
        let table = self.table;
        if self.service.listen.is_none() && self.is_sound(&["listen"]) {
            let is_refused = self.service.addressing == Addressing::None;
            for key in ["protocol", "drain_timeout", "hold"] {
                let is_told_already = key == "protocol" && is_refused && self.service.protocol == Protocol::Http;
                if table.given(key).is_some() && !is_told_already {
                    let warning = self.at(key, format!("`{key}` has no effect without `listen`"));
                    self.found.push(warning.help("add `listen`, or leave it out").warning());
                }
            }
        }
        if self.service.standby == 0 && self.is_sound(&["standby"]) {
            for key in ["on_follow", "standby_check", "standby_mode"] {
                if table.given(key).is_some() {
                    let warning = self.at(key, format!("`{key}` has no effect: there is no standby"));
                    self.found
                        .push(warning.help("add a `standby`, or leave it out").warning());
                }
            }
        } else if self.service.standby_mode == StandbyMode::Cold && self.is_sound(&["standby_mode"]) {
            for key in ["on_follow", "standby_check"] {
                if table.given(key).is_some() {
                    let warning = self.at(key, format!("`{key}` has no effect: cold standbys do not run"));
                    self.found.push(
                        warning
                            .help("write `standby_mode = \"warm\"`, or leave it out")
                            .warning(),
                    );
                }
            }
        }
    }

    fn standbys(&mut self) {
        let service = self.service;
        let may_act = service.exclusive
            && service.standby > 0
            && service.standby_mode == StandbyMode::Warm
            && service.on_promote.is_none();
        if may_act && self.is_sound(&["standby_mode", "on_promote", "on_follow", "exclusive", "standby"]) {
            let key = ["standby_mode", "on_follow"]
                .into_iter()
                .find(|key| self.table.given(key).is_some());
            let problem =
                "a running standby of an exclusive service could act as if it were active: nothing tells it when it is";
            let warning = self.at(key.unwrap_or("exclusive"), problem.into());
            let help = "add `on_promote`, or write `standby_mode = \"cold\"`";
            self.found.push(warning.help(help).warning());
        }
        let copies = service.standby > 0
            && service.standby_mode == StandbyMode::Warm
            && service.on_follow.is_some()
            && service.standby_check.is_none();
        if copies && self.is_sound(&["standby_mode", "on_follow", "standby_check", "standby"]) {
            let problem = "standbys follow the active, and nothing tells when one has all that it has: one that still copies may take over, and \
                           what it lacks is lost";
            let warning = self.at("on_follow", problem.into());
            let help = "add a `standby_check` that passes when a standby has everything";
            self.found.push(warning.help(help).warning());
        }
    }

    fn restart(&mut self) {
        let restart = &self.service.restart;
        if let Some(table) = self.table.table("restart")
            && restart.backoff > restart.backoff_max
        {
            let problem = format!(
                "`backoff` is {}, longer than `backoff_max`, {}",
                restart.backoff, restart.backoff_max
            );
            let error = Diagnostic::new(self.source, &table.span_of("backoff"), problem);
            let help = format!("write `backoff_max = \"{}\"` or longer", restart.backoff);
            self.found.push(error.help(help));
        }
    }

    fn at(&self, key: &str, problem: String) -> Diagnostic {
        Diagnostic::new(self.source, &self.table.span_of(key), problem)
    }

    fn is_sound(&self, keys: &[&str]) -> bool {
        !keys.iter().any(|key| self.table.is_troubled(key))
    }
}

fn unknown_needs(
    declared: &[Declared<'_>],
    externals: &BTreeSet<&str>,
    source: &Arc<Source>,
    found: &mut Vec<Diagnostic>,
) {
    let names: BTreeSet<&str> = declared.iter().map(|one| one.name).collect();
    for one in declared {
        let mut seen = BTreeSet::new();
        let alone = one.table.array("needs").iter().filter(|need| need.as_text().is_some());
        let grouped = one.table.array("needs").iter().flat_map(Value::as_array);
        let used = one.table.array("uses").iter();
        let all = alone
            .map(|need| (need, "needs"))
            .chain(grouped.map(|need| (need, "group")));
        for (need, how) in all.chain(used.map(|need| (need, "uses"))) {
            let Some(name) = need.as_text() else { continue };
            let error = |problem| Diagnostic::new(source, &need.span, problem);
            if name == one.name {
                let why = if how == "uses" {
                    "uses itself"
                } else {
                    "needs itself, so it could never start"
                };
                found.push(error(format!("`{name}` {why}")).help("leave it out"));
            } else if !names.contains(name) && !externals.contains(name) {
                let others = names
                    .iter()
                    .chain(externals)
                    .copied()
                    .filter(|other| *other != one.name);
                let help = match mend::similar(name, others) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!(
                        "declare it, `[service.{0}]` or `[external.{0}]`, or leave it out",
                        shown(name)
                    ),
                };
                let what = if how == "uses" || !externals.is_empty() {
                    "service or external"
                } else {
                    "service"
                };
                found.push(error(format!("there is no {what} `{}`", shown(name))).help(help));
            } else if how != "group" && !seen.insert(name) {
                found.push(
                    error(format!("`{name}` is there twice"))
                        .help("leave one of them out")
                        .warning(),
                );
            }
        }
    }
}

/// Services that wait for each other. What needs nothing is taken away until nothing more can be: in the rest, going
/// from need to need ends in a circle.
fn cyclic_needs(declared: &[Declared<'_>], source: &Arc<Source>, found: &mut Vec<Diagnostic>) {
    let index: BTreeMap<&str, usize> = declared.iter().enumerate().map(|(at, one)| (one.name, at)).collect();
    let needs: Vec<Vec<(usize, &Range<usize>)>> = declared
        .iter()
        .enumerate()
        .map(|(at, one)| {
            let named = one.table.array("needs").iter();
            let known = named.filter_map(|need| Some((*index.get(need.as_text()?)?, &need.span)));
            known.filter(|(need, _)| *need != at).collect()
        })
        .collect();
    let mut needed_by: Vec<Vec<usize>> = vec![Vec::new(); declared.len()];
    for (at, needs) in needs.iter().enumerate() {
        needs.iter().for_each(|(need, _)| needed_by[*need].push(at));
    }
    let mut waiting: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut free: VecDeque<usize> = (0..needs.len()).filter(|at| waiting[*at] == 0).collect();
    while let Some(at) = free.pop_front() {
        for by in &needed_by[at] {
            waiting[*by] -= 1;
            if waiting[*by] == 0 {
                free.push_back(*by);
            }
        }
    }
    let mut seen = vec![false; needs.len()];
    for start in 0..needs.len() {
        let mut path: Vec<(usize, &Range<usize>)> = Vec::new();
        let mut at = start;
        while waiting[at] > 0 && !seen[at] {
            seen[at] = true;
            let Some((need, span)) = needs[at].iter().find(|(need, _)| waiting[*need] > 0) else {
                break;
            };
            path.push((at, span));
            at = *need;
        }
        if let Some(first) = path.iter().position(|(on_path, _)| *on_path == at) {
            found.push(cycle(&path[first..], declared, source));
        }
    }
}

fn cycle(path: &[(usize, &Range<usize>)], declared: &[Declared<'_>], source: &Arc<Source>) -> Diagnostic {
    const SHOWN_MAX: usize = 8;
    let first = path
        .iter()
        .enumerate()
        .min_by_key(|(_, (_, span))| span.start)
        .map_or(0, |(at, _)| at);
    let mut steps: Vec<_> = path[first..].iter().chain(&path[..first]).collect();
    let count = steps.len();
    steps.truncate(SHOWN_MAX);
    let mut names: Vec<&str> = steps.iter().map(|(at, _)| declared[*at].name).collect();
    if count > SHOWN_MAX {
        names.push("…");
    }
    names.extend(names.first().copied());
    let problem = format!("services that need each other: {}", names.join(" -> "));
    let mut error = Diagnostic::new(source, steps[0].1, problem);
    for (at, span) in &steps[1..] {
        error = error.related(span, format!("needed by `{}`", declared[*at].name));
    }
    error.help("none of them could start first; take one out of `needs`")
}

/// Services that want the same address. One that listens on all addresses of the machine shares with each.
fn shared_addresses(declared: &[Declared<'_>], source: &Arc<Source>, found: &mut Vec<Diagnostic>) {
    let mut by_port: BTreeMap<u16, Vec<(SocketAddr, &Declared<'_>)>> = BTreeMap::new();
    let mut in_order: Vec<&Declared<'_>> = declared.iter().collect();
    in_order.sort_by_key(|one| one.name_span.start);
    for one in in_order {
        let Some(listen) = one.service.listen else { continue };
        let others = by_port.entry(listen.port()).or_default();
        if let Some((address, other)) = others.iter().find(|(address, _)| overlap(*address, listen)) {
            let problem = if *address == listen {
                format!("`{}` and `{}` cannot both listen on {listen}", other.name, one.name)
            } else {
                format!(
                    "`{}` cannot listen on {listen}: `{}` has {address}",
                    one.name, other.name
                )
            };
            let error = Diagnostic::new(source, &one.table.span_of("listen"), problem)
                .related(&other.table.span_of("listen"), format!("taken by `{}`", other.name))
                .help("give one of them another port");
            found.push(error);
        }
        others.push((listen, one));
    }
}

/// Services that want the same floating address, with whatever prefix.
fn shared_floating_addresses(declared: &[Declared<'_>], source: &Arc<Source>, found: &mut Vec<Diagnostic>) {
    let mut holders: BTreeMap<std::net::IpAddr, &Declared<'_>> = BTreeMap::new();
    let mut in_order: Vec<&Declared<'_>> = declared.iter().collect();
    in_order.sort_by_key(|one| one.name_span.start);
    for one in in_order {
        let Some(address) = &one.service.address else { continue };
        let Some(other) = holders.get(&address.ip) else {
            holders.insert(address.ip, one);
            continue;
        };
        let problem = format!(
            "`{}` and `{}` cannot both have the address {}",
            other.name, one.name, address.ip
        );
        let error = Diagnostic::new(source, &one.table.span_of("address"), problem)
            .related(&other.table.span_of("address"), format!("taken by `{}`", other.name))
            .help("they may be active on different hosts: give one of them another address");
        found.push(error);
    }
}

fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (a, b) = (a.ip(), b.ip());
    // On Linux `[::]` takes IPv4 in as well, `0.0.0.0` no IPv6.
    let takes_in =
        |all: std::net::IpAddr, one: std::net::IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    a.to_canonical() == b.to_canonical() || takes_in(a, b) || takes_in(b, a)
}
