//! How the cluster is, in plain words.

use super::super::binary::Version;
use super::maintain::Policy;
use super::view::{Seen, View};
use crate::client::AlarmKind;
use std::fmt;

/// How the cluster is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether it works, and how much may still fail.
    pub level: Level,
    /// In one sentence: how many are well, and who leads.
    pub headline: String,
    /// A line for each member.
    pub members: Vec<String>,
    /// What is not as it should be, and what to do about it; the most urgent first.
    pub findings: Vec<Finding>,
}

/// Whether it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Well,
    /// It works, but something needs care.
    Care,
    /// Nothing can be written.
    Down,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

impl Health {
    /// Sums a view up.
    pub fn of(view: &View, policy: &Policy) -> Self {
        let mut findings = Vec::new();
        quorum(view, &mut findings);
        space(view, policy, &mut findings);
        for seen in &view.members {
            member(view, seen, &mut findings);
        }
        versions(view, &mut findings);
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        let level = findings
            .iter()
            .map(|finding| finding.level)
            .max()
            .unwrap_or(Level::Well);
        Self {
            level,
            headline: headline(view),
            members: view.members.iter().map(|seen| line(view, seen, policy)).collect(),
            findings,
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.headline)?;
        for line in &self.members {
            writeln!(f, "  {line}")?;
        }
        for finding in &self.findings {
            writeln!(f, "{}: {}", finding.what, finding.advice)?;
        }
        Ok(())
    }
}

fn headline(view: &View) -> String {
    let (healthy, voters, quorum) = (view.healthy_voters(), view.voters().count(), view.quorum());
    let leader = match view.leader() {
        Some(leader) => format!("`{}` leads", leader.name()),
        None => "nobody leads".into(),
    };
    let may_fail = match healthy.checked_sub(quorum) {
        None => "nothing can be decided".to_owned(),
        Some(0) => "no further one may fail".to_owned(),
        Some(n) => format!("{n} more may fail"),
    };
    format!("{healthy} of {voters} members are well, {quorum} are needed: {may_fail}; {leader}")
}

fn line(view: &View, seen: &Seen, policy: &Policy) -> String {
    let name = seen.name();
    let role = match (seen.votes(), view.leader()) {
        (false, _) => "learner",
        (true, Some(leader)) if leader.member.id == seen.member.id => "leader",
        (true, _) => "follower",
    };
    match &seen.status {
        Ok(status) => format!(
            "{name}: {role}, etcd {}, database {} of {} ({} %)",
            status.version,
            size(status.db_bytes),
            size(policy.quota_bytes),
            policy.percent(status.db_bytes),
        ),
        Err(why) => format!("{name}: does not answer ({why})"),
    }
}

fn quorum(view: &View, findings: &mut Vec<Finding>) {
    let (healthy, voters) = (view.healthy_voters(), view.voters().count());
    if !view.has_quorum() {
        findings.push(Finding {
            level: Level::Down,
            what: format!("the majority is lost ({healthy} of {voters})"),
            advice: "start the other members; if they are lost for good, recover from the one that is left".into(),
        });
    } else if voters == 1 {
        findings.push(Finding {
            level: Level::Care,
            what: "there is one member only".into(),
            advice: "let two more nodes join, then any one may fail".into(),
        });
    } else if voters.is_multiple_of(2) {
        findings.push(Finding {
            level: Level::Care,
            what: format!("{voters} members survive no more failures than {} do", voters - 1),
            advice: "let one more node join, a witness will do".into(),
        });
    }
}

fn space(view: &View, policy: &Policy, findings: &mut Vec<Finding>) {
    if view.is_full() {
        findings.push(Finding {
            level: Level::Down,
            what: "the database is full, etcd takes no writes".into(),
            advice: "maintenance makes room by itself; if this stays, delete keys or raise the quota of every member"
                .into(),
        });
        return;
    }
    let fullest = view
        .members
        .iter()
        .filter_map(|seen| Some((seen, seen.status.as_ref().ok()?.db_bytes)));
    if let Some((seen, bytes)) = fullest.max_by_key(|(_, bytes)| *bytes)
        && policy.percent(bytes) >= policy.tell_at_percent
    {
        findings.push(Finding {
            level: Level::Care,
            what: format!(
                "the database of `{}` has {} % of its quota",
                seen.name(),
                policy.percent(bytes)
            ),
            advice: "at 100 % nothing can be written: see what fills it, or raise the quota of every member".into(),
        });
    }
}

fn member(view: &View, seen: &Seen, findings: &mut Vec<Finding>) {
    let name = seen.name();
    let mut care = |what: String, advice: &str| {
        findings.push(Finding {
            level: Level::Care,
            what,
            advice: advice.into(),
        });
    };
    let corrupt = |alarm: &&crate::client::Alarm| alarm.member == seen.member.id && alarm.kind == AlarmKind::Corrupt;
    if view.alarms.iter().any(|alarm| corrupt(&alarm)) {
        care(
            format!("the data of `{name}` differ from the others'"),
            "replace this member: it gets its data from the others",
        );
    }
    match &seen.status {
        Err(why) if seen.member.name.is_empty() => care(
            format!("a member at `{name}` was added but has never started ({why})"),
            "let its node join again, or remove it",
        ),
        Err(why) => care(
            format!("`{name}` does not answer ({why})"),
            "start its node; if it is lost, replace the member",
        ),
        Ok(_) if !seen.votes() => care(
            format!("`{name}` has no vote yet"),
            "it is promoted when it has caught up; if nobody waits for that, let it join again",
        ),
        Ok(status) if status.leader.is_none() => care(
            format!("`{name}` knows no leader"),
            "if the others do, look at the network between them",
        ),
        Ok(_) if !view.up_to_date(seen) => care(
            format!("`{name}` is {} entries behind", view.behind(seen).unwrap_or(0)),
            "look at its disk and its network if this stays",
        ),
        Ok(_) => {}
    }
}

fn versions(view: &View, findings: &mut Vec<Finding>) {
    let mut versions: Vec<&str> = view
        .members
        .iter()
        .filter_map(|seen| Some(seen.status.as_ref().ok()?.version.as_str()))
        .collect();
    versions.sort_unstable();
    versions.dedup();
    if versions.len() > 1 {
        findings.push(Finding {
            level: Level::Care,
            what: format!("the members run different versions: {}", versions.join(", ")),
            advice: "that is for an upgrade only: bring all to the newest".into(),
        });
    }
    let doubt = versions.iter().find_map(|version| Version::parse(version)?.doubt());
    if let Some(doubt) = doubt {
        findings.push(Finding {
            level: Level::Well,
            what: doubt,
            advice: "upgrade when there is occasion".into(),
        });
    }
}

fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1024.0 * 1024.0))
}

#[cfg(test)]
mod tests {
    use super::super::view::made_up::view;
    use super::*;

    #[test]
    fn one_of_three_is_dead_and_the_operator_reads_what_to_do() {
        let health = Health::of(&view("a b* c!"), &Policy::default());
        assert_eq!(health.level, Level::Care);
        assert_eq!(
            health.to_string(),
            "2 of 3 members are well, 2 are needed: no further one may fail; `b` leads\n  \
             a: follower, etcd 3.4.23, database 20.0 MiB of 512.0 MiB (3 %)\n  \
             b: leader, etcd 3.4.23, database 20.0 MiB of 512.0 MiB (3 %)\n  \
             c: does not answer (connection refused)\n\
             `c` does not answer (connection refused): start its node; if it is lost, replace the member\n\
             etcd 3.4.23 may answer reads with old values after a pause of its process; takeovers do not rely on reads, so this is safe. \
             3.5.28 or 3.6.9 and later do not: upgrade when there is occasion\n"
        );
    }

    #[test]
    fn each_trouble_is_found_and_the_worst_comes_first() {
        let quota = Policy {
            quota_bytes: 30 << 20,
            ..Policy::default()
        };
        let first = |view: &View| {
            let health = Health::of(view, &quota);
            (
                health.level,
                health
                    .findings
                    .first()
                    .map(|finding| finding.what.clone())
                    .unwrap_or_default(),
            )
        };
        let new = |members: &str| {
            let mut view = view(members);
            for seen in &mut view.members {
                if let Ok(status) = &mut seen.status {
                    status.version = "3.6.9".into();
                    status.db_bytes = 1 << 20;
                }
            }
            view
        };
        assert_eq!(first(&new("a* b c")), (Level::Well, String::new()));
        assert_eq!(
            first(&new("a b! c!")),
            (Level::Down, "the majority is lost (0 of 3)".into())
        );
        assert_eq!(first(&new("a*")), (Level::Care, "there is one member only".into()));
        assert_eq!(
            first(&new("a* b")),
            (Level::Care, "2 members survive no more failures than 1 do".into())
        );
        assert_eq!(first(&new("a* b c d?")), (Level::Care, "`d` has no vote yet".into()));
        assert_eq!(
            first(&new("a* b c").full("b")),
            (Level::Down, "the database is full, etcd takes no writes".into())
        );
        let large = new("a* b c").change("b", |status| status.db_bytes = 19 << 20);
        assert_eq!(
            first(&large),
            (Level::Care, "the database of `b` has 63 % of its quota".into())
        );
        let mixed = new("a* b c").change("c", |status| status.version = "3.5.28".into());
        assert_eq!(
            first(&mixed),
            (Level::Care, "the members run different versions: 3.5.28, 3.6.9".into())
        );
    }
}
