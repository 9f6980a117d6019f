//! What is told of the machines and of what services hang on: made from the tables, and judged.

use crate::diagnostic::Diagnostic;
use crate::mend;
use crate::source::{Source, shown};
use crate::tree::{Data, Entry, Table, Value};
use crate::{build, fence};
use model::{NodeName, Place, Rate, RateKind, Reliability, Share, Site, Switch};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// Makes the site, and notes all that does not fit together in it.
pub(crate) fn site(file: &Table, source: &Arc<Source>, found: &mut Vec<Diagnostic>) -> Site {
    let mut judge = Judge { source, found };
    let feeds: BTreeSet<&str> = names(file, "feed");
    let switches: BTreeSet<&str> = names(file, "switch");
    let mut site = Site {
        zones: judge.rates(file, "zone"),
        feeds: judge.rates(file, "feed"),
        externals: judge.rates(file, "external"),
        ..Site::default()
    };
    for (entry, table) in tables(file, "node") {
        judge.known(table, "feeds", "feed", &feeds);
        judge.known(table, "switches", "switch", &switches);
        let place = Place {
            zone: table.text("zone").map(str::to_owned),
            feeds: texts(table.array("feeds")),
            switches: texts(table.array("switches")),
            rate: judge.rate(table, &entry.name_span),
            fence: build::fence(table),
            after_fence: build::after_fence(table),
        };
        for device in fence::devices(table) {
            judge.known(device, "feeds", "feed", &feeds);
        }
        if let Ok(name) = NodeName::new(&entry.name) {
            site.nodes.insert(name, place);
        }
    }
    for (entry, table) in tables(file, "switch") {
        judge.known(table, "uplink", "switch", &switches);
        for uplink in table
            .array("uplink")
            .iter()
            .filter(|uplink| uplink.as_text() == Some(&entry.name))
        {
            let problem = format!("the switch `{}` hangs on itself", shown(&entry.name));
            judge.error(&uplink.span, problem, "leave it out".into());
        }
        let switch = Switch {
            uplinks: texts(table.array("uplink")),
            rate: judge.rate(table, &entry.name_span),
        };
        site.switches.insert(entry.name.clone(), switch);
    }
    judge.zones(file, &site);
    if let Some(rates) = file.table("rates") {
        site.rates = judge.rates_of_kinds(rates);
        let coverage = rates.text("coverage").and_then(Share::parse);
        site.coverage_ppm = coverage.map(|share| share.0);
        site.by_hand = rates.duration("by_hand");
    }
    site
}

/// What a service depends on and has to keep. What it needs is sorted by [`externals`] when all names are known.
pub(crate) fn reliability(table: &Table) -> Reliability {
    let groups = table.array("needs").iter().filter_map(|need| match &need.data {
        Data::Array(group) => Some(texts(group)),
        _ => None,
    });
    let objective = table.table("objective");
    Reliability {
        externals: BTreeSet::new(),
        any_of: groups.collect(),
        uses: texts(table.array("uses")),
        unavailable_ppb_max: objective
            .and_then(|objective| objective.text("availability"))
            .and_then(Share::parse)
            .map(|share| u64::from(Share::ALL - share.0) * 1_000),
        distance_min: objective
            .and_then(|objective| objective.integer("distance"))
            .and_then(|distance| u32::try_from(distance).ok()),
        rate: Rate {
            mttf: table.duration("mttf"),
            mttr: table.duration("mttr"),
        },
    }
}

/// The names of external things.
pub(crate) fn externals(file: &Table) -> BTreeSet<&str> {
    names(file, "external")
}

/// Whether a rate has sense, noted if not.
pub(crate) fn judge_rate(table: &Table, span: &Range<usize>, source: &Arc<Source>, found: &mut Vec<Diagnostic>) {
    Judge { source, found }.rate(table, span);
}

/// External things that are called like services: a name in `needs` would mean both.
pub(crate) fn judge_names(file: &Table, source: &Arc<Source>, found: &mut Vec<Diagnostic>) {
    let services = names(file, "service");
    for entry in file
        .map("external")
        .iter()
        .filter(|entry| services.contains(entry.name.as_str()))
    {
        let problem = format!("`{}` is a service already", shown(&entry.name));
        let error = Diagnostic::new(source, &entry.name_span, problem);
        found
            .push(error.help("a service that is run here is no external thing: leave it out, or give it another name"));
    }
}

struct Judge<'a> {
    source: &'a Arc<Source>,
    found: &'a mut Vec<Diagnostic>,
}

impl Judge<'_> {
    fn error(&mut self, span: &Range<usize>, problem: String, help: String) {
        self.found.push(Diagnostic::new(self.source, span, problem).help(help));
    }

    fn rates(&mut self, file: &Table, key: &str) -> BTreeMap<String, Rate> {
        tables(file, key)
            .map(|(entry, table)| (entry.name.clone(), self.rate(table, &entry.name_span)))
            .collect()
    }

    /// A thing that takes longer to mend than it lasts is down most of the time: the two were mixed up.
    fn rate(&mut self, table: &Table, span: &Range<usize>) -> Rate {
        let rate = Rate {
            mttf: table.duration("mttf"),
            mttr: table.duration("mttr"),
        };
        if let (Some(mttf), Some(mttr)) = (rate.mttf, rate.mttr)
            && mttr >= mttf
        {
            let at = table.given("mttr").map_or(span.clone(), |value| value.span.clone());
            let problem = format!("`mttr` is {mttr}, not less than `mttf`, {mttf}: it would be down most of the time");
            self.error(
                &at,
                problem,
                "`mttf` is the time between failures, `mttr` the time to repair one".into(),
            );
        }
        rate
    }

    fn rates_of_kinds(&mut self, rates: &Table) -> BTreeMap<RateKind, Rate> {
        const KINDS: [(&str, RateKind); 7] = [
            ("process", RateKind::Process),
            ("node", RateKind::Node),
            ("zone", RateKind::Zone),
            ("feed", RateKind::Feed),
            ("switch", RateKind::Switch),
            ("external", RateKind::External),
            ("software", RateKind::Software),
        ];
        KINDS
            .into_iter()
            .filter_map(|(key, kind)| {
                let table = rates.table(key)?;
                Some((kind, self.rate(table, &table.span)))
            })
            .collect()
    }

    fn known(&mut self, table: &Table, key: &str, kind: &str, names: &BTreeSet<&str>) {
        for value in table.array(key) {
            let Some(name) = value.as_text().filter(|name| !names.contains(name)) else {
                continue;
            };
            let help = match mend::similar(name, names.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("declare it: a line `[{kind}.{}]` is enough", shown(name)),
            };
            self.error(&value.span, format!("there is no {kind} `{}`", shown(name)), help);
        }
    }

    fn zones(&mut self, file: &Table, site: &Site) {
        let used: BTreeSet<&str> = site.nodes.values().filter_map(|node| node.zone.as_deref()).collect();
        for entry in file.map("zone") {
            let path = entry.name.as_str();
            let lies_in =
                |zone: &&str| *zone == path || zone.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
            if !used.iter().any(lies_in) {
                let help = match mend::similar(path, used.iter().copied()) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("give a node `zone = \"{}\"`, or leave it out", shown(path)),
                };
                self.error(
                    &entry.name_span,
                    format!("no node lies in the zone `{}`", shown(path)),
                    help,
                );
            }
        }
    }
}

pub(crate) fn tables<'a>(file: &'a Table, key: &str) -> impl Iterator<Item = (&'a Entry, &'a Table)> {
    file.map(key).iter().filter_map(|entry| match &entry.value.data {
        Data::Table(table) => Some((entry, table)),
        _ => None,
    })
}

fn names<'a>(file: &'a Table, key: &str) -> BTreeSet<&'a str> {
    file.map(key).iter().map(|entry| entry.name.as_str()).collect()
}

fn texts(values: &[Value]) -> BTreeSet<String> {
    values.iter().filter_map(Value::as_text).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use model::Millis;

    fn told(text: &str) -> String {
        let text = format!("[service.web]\ncommand = [\"web\"]\n{text}");
        let errors = crate::parse(&text, "x.toml").unwrap_err();
        errors.to_string()
    }

    fn site(text: &str) -> model::Cluster {
        let text = format!("{text}\n[service.web]\ncommand = [\"web\"]\n");
        crate::parse(&text, "x.toml")
            .unwrap_or_else(|errors| panic!("{errors}"))
            .cluster
    }

    #[test]
    fn a_site_is_read() {
        let cluster = site(
            "[node.a]\nzone = \"dc1/r1\"\nfeeds = [\"ups\"]\nmttf = \"100d\"\n[feed.ups]\n[rates]\nnode = { mttr = \"2h\" }\ncoverage = \"99%\"",
        );
        let (name, node) = cluster.site.nodes.first_key_value().unwrap();
        assert_eq!((name.as_str(), node.zone.as_deref()), ("a", Some("dc1/r1")));
        assert_eq!(node.rate.mttf, Some(Millis(100 * 86_400_000)));
        assert_eq!(cluster.site.rates[&model::RateKind::Node].mttr, Some(Millis(7_200_000)));
        assert_eq!(cluster.site.coverage_ppm, Some(990_000));
    }

    #[test]
    fn what_a_service_needs_is_sorted() {
        let text = "[external.pay]\n[service.a]\ncommand = [\"a\"]\nneeds = [\"b\", \"pay\", [\"c\", \"d\"]]\nuses = [\"c\"]\nobjective = { availability = \"99.9%\" }\n\
                    [service.b]\ncommand = [\"b\"]\n[service.c]\ncommand = [\"c\"]\n[service.d]\ncommand = [\"d\"]\n";
        let cluster = crate::parse(text, "x.toml").unwrap().cluster;
        let a = cluster.services.values().next().unwrap();
        assert_eq!(
            a.needs.iter().map(model::ServiceName::as_str).collect::<Vec<_>>(),
            ["b"]
        );
        assert_eq!(a.reliability.externals.iter().collect::<Vec<_>>(), ["pay"]);
        assert_eq!(a.reliability.any_of.len(), 1);
        assert_eq!(a.reliability.unavailable_ppb_max, Some(1_000_000));
    }

    #[test]
    fn what_does_not_fit_together_is_told_with_its_place() {
        for (text, message) in [
            (
                "uses = [\"dbb\"]\n[service.db]\ncommand = [\"db\"]",
                "x.toml:3:9: there is no service or external `dbb`; did you mean `db`?",
            ),
            (
                "needs = [[\"web\"]]",
                "x.toml:3:11: `web` needs itself, so it could never start; leave it out",
            ),
            (
                "needs = [[\"pay\"]]",
                "x.toml:3:11: there is no service `pay`; declare it, `[service.pay]` or `[external.pay]`, or leave it out",
            ),
            (
                "[node.a]\nfeeds = [\"ups-1\"]\n[feed.ups-2]",
                "x.toml:4:10: there is no feed `ups-1`; did you mean `ups-2`?",
            ),
            (
                "[node.a]\nswitches = [\"s\"]",
                "x.toml:4:13: there is no switch `s`; declare it: a line `[switch.s]` is enough",
            ),
            (
                "[switch.s]\nuplink = [\"s\"]",
                "x.toml:4:11: the switch `s` hangs on itself; leave it out",
            ),
            (
                "[external.web]",
                "x.toml:3:11: `web` is a service already; a service that is run here is no external thing: leave it out, or give it another name",
            ),
            (
                "[node.a]\nzone = \"dc1/r1\"\n[zone.\"dc1/r2\"]",
                "x.toml:5:7: no node lies in the zone `dc1/r2`; did you mean `dc1/r1`?",
            ),
            (
                "mttf = \"1h\"\nmttr = \"2h\"",
                "x.toml:4:8: `mttr` is 2h, not less than `mttf`, 1h: it would be down most of the time; `mttf` is the time between failures, `mttr` the time to repair one",
            ),
            (
                "[node.a]\nzone = \"dc1//r\"",
                "x.toml:4:8: `zone` has an empty part; for example `\"dc1/rack3\"`: the widest domain first",
            ),
        ] {
            assert_eq!(told(text), message, "{text}");
        }
    }
}
