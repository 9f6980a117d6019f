//! Which frames the bridge drops: faults of the network as rules of nftables. Pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Something that the bridge does to frames. Ends are the names of ports: of hosts, or `client`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// Nothing goes from one to the other; the other way it does.
    Drop { from: String, to: String },
    /// Nothing goes in or out, and yet the link is up.
    Isolate { end: String },
    /// So many of a thousand frames are lost, each way.
    Lose { end: String, permille: u16 },
}

/// Between any two that lie in different parts, nothing passes. Who is in no part reaches all.
pub(crate) fn partition(parts: &[BTreeSet<String>]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let others = parts.iter().enumerate().filter(|(other, _)| *other != number);
        for (from, to) in
            others.flat_map(|(_, other)| part.iter().flat_map(move |from| other.iter().map(move |to| (from, to))))
        {
            rules.push(Rule::Drop {
                from: from.clone(),
                to: to.clone(),
            });
        }
    }
    rules
}

/// The whole table, replacing the one that is there in one step.
pub(crate) fn script<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> String {
    let mut text = String::from(
        "table bridge cuts\ndelete table bridge cuts\ntable bridge cuts {\nchain forward {\ntype filter hook forward priority 0\n",
    );
    let rules: BTreeSet<&Rule> = rules.into_iter().collect();
    for rule in rules {
        // Writing to a `String` cannot fail.
        match rule {
            Rule::Drop { from, to } => writeln!(text, "iifname \"{from}\" oifname \"{to}\" drop"),
            Rule::Isolate { end } => writeln!(text, "iifname \"{end}\" drop\noifname \"{end}\" drop"),
            Rule::Lose { end, permille } => ["iifname", "oifname"]
                .iter()
                .try_for_each(|side| writeln!(text, "{side} \"{end}\" numgen random mod 1000 < {permille} drop")),
        }
        .ok();
    }
    text.push_str("}\n}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_partition_cuts_every_pair_across_it_both_ways_and_no_other() {
        let rules = partition(&[set(&["a"]), set(&["b", "client"])]);
        let pairs: BTreeSet<(String, String)> = rules
            .into_iter()
            .map(|rule| match rule {
                Rule::Drop { from, to } => (from, to),
                other => panic!("{other:?}"),
            })
            .collect();
        let wanted = [("a", "b"), ("a", "client"), ("b", "a"), ("client", "a")];
        let wanted = wanted.map(|(from, to)| (from.to_owned(), to.to_owned()));
        assert_eq!(pairs, wanted.into_iter().collect());
    }

    #[test]
    fn rules_are_written_once_each_and_none_is_an_empty_chain() {
        let isolate = Rule::Isolate { end: "a".into() };
        let text = script([&isolate, &isolate]);
        assert_eq!(text.matches("iifname \"a\" drop").count(), 1, "{text}");
        assert_eq!(text.matches("oifname \"a\" drop").count(), 1, "{text}");
        assert!(!script([]).contains("drop"));
    }
}
