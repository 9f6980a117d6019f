//! Every alert there is, once.

use api::Severity;

/// Which alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// Fewer actives serve than are needed.
    ServiceDown,
    /// The store has no majority: nothing can be decided.
    QuorumLost,
    /// Nodes that were left behind go on beside the cluster.
    TwoClusters,
    /// The budget of an objective burns so fast that somebody must look now.
    BudgetBurnsFast,
    /// Promotions fail.
    FailoverFailed,
    /// A node is gone.
    NodeLost,
    /// Exclusive actives stand still, or may not run.
    NotFenced,
    /// Clients cannot come.
    NotServed,
    /// The proxy is gone.
    ProxyDown,
    /// Fewer failures can be borne than is wanted.
    DistanceBelowTarget,
    /// A failover took too long.
    FailoverSlow,
    /// The budget of an objective burns faster than it should.
    BudgetBurns,
    /// Nobody could take over.
    StandbyNotPromotable,
    /// Some instances are missing.
    NotRedundant,
    /// An instance ends, or is ended, again and again.
    Flapping,
    /// An instance was given up.
    GivenUp,
    /// What is known is too old to be judged by.
    DataTooOld,
    /// A disk is nearly full.
    DiskNearlyFull,
    /// Automatic actions are paused for long.
    PausedForLong,
    /// What a node's clock shows is not what the others' show.
    ClockWrong,
    /// Anything else that `status` tells as an error.
    OtherProblem,
}

/// What is said of an alert.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Which.
    pub code: Code,
    /// Its name in JSON and labels.
    pub name: &'static str,
    /// In a few words.
    pub title: &'static str,
    /// How bad.
    pub severity: Severity,
    /// It must have been so for this long, in seconds: what heals by itself within it wakes nobody.
    pub after_s: u64,
    /// What it means for users.
    pub meaning: &'static str,
    /// What the manager does about it.
    pub manager: &'static str,
    /// What to do. `SERVICE` and `INSTANCE` stand for names: [`Wrong::action`](super::Wrong::action) puts them in.
    pub action: &'static str,
}

/// All of them, the worst first.
pub const CATALOGUE: [Entry; 21] = [
    Entry {
        code: Code::ServiceDown,
        name: "service-down",
        title: "service is down",
        severity: Severity::Error,
        after_s: 3,
        meaning: "Its clients wait for an answer, and get an error when they have waited too long.",
        manager: "It starts and promotes whatever can still serve, and goes on trying.",
        action: "`understudy explain SERVICE` says what keeps it from serving; `understudy logs SERVICE` what the program says.",
    },
    Entry {
        code: Code::QuorumLost,
        name: "quorum-lost",
        title: "the store has no majority",
        severity: Severity::Error,
        after_s: 3,
        meaning: "What runs goes on, but nothing is failed over; exclusive actives stand still when their sessions run out.",
        manager: "It goes on asking, and takes up its work when the store answers.",
        action: "`understudy cluster status` names the members that are missing: bring a majority of them back.",
    },
    Entry {
        code: Code::TwoClusters,
        name: "two-clusters",
        title: "what was left behind goes on beside the cluster",
        severity: Severity::Error,
        after_s: 0,
        meaning: "Services may run twice, exclusive ones too, each side with data of its own; a floating address may be on both.",
        manager: "It ends nothing on either side: which one is right nobody but you can know. Each side tells it for as long as it hears of the other.",
        action: "Decide which side goes on, and stop the other one: `understudy down --etcd --force` on its nodes, put their folders aside, and let them join anew.",
    },
    Entry {
        code: Code::BudgetBurnsFast,
        name: "budget-burns-fast",
        title: "too many requests fail or are slow",
        severity: Severity::Error,
        after_s: 0,
        meaning: "At this rate the budget of 30 days is used up within days.",
        manager: "It fails over what fails its checks; it does not judge answers.",
        action: "Look at the errors and latencies of the service since this began, and at what was changed then: `understudy events --service SERVICE`.",
    },
    Entry {
        code: Code::FailoverFailed,
        name: "failover-failed",
        title: "a failover failed",
        severity: Severity::Error,
        after_s: 0,
        meaning: "A slot has no active, or had none for a while: with one active the service is down then, with more of them it has less capacity.",
        manager: "It tries the next standby, with growing waits between promotions that kill.",
        action: "`understudy explain SERVICE` says why each promotion failed; look at the output of `on_promote`.",
    },
    Entry {
        code: Code::NodeLost,
        name: "node-lost",
        title: "a node is lost",
        severity: Severity::Error,
        after_s: 5,
        meaning: "Services that ran there were failed over; they can bear fewer failures now.",
        manager: "It failed over what was active there and starts standbys elsewhere, if there is room.",
        action: "Bring the machine back, or `understudy cluster remove NODE` if it does not come back.",
    },
    Entry {
        code: Code::NotFenced,
        name: "not-fenced",
        title: "exclusive actives stand still or may not run",
        severity: Severity::Error,
        after_s: 5,
        meaning: "Services that must never run twice do not run on this node.",
        manager: "It lets them go on as soon as that is safe; other nodes take over meanwhile.",
        action: "`understudy status` says what keeps the node from it.",
    },
    Entry {
        code: Code::NotServed,
        name: "not-served",
        title: "clients cannot come",
        severity: Severity::Error,
        after_s: 10,
        meaning: "The address of the service does not answer on this node.",
        manager: "It tries to have the address every few seconds.",
        action: "Free the address: another program has it, or the machine lacks it.",
    },
    Entry {
        code: Code::ProxyDown,
        name: "proxy-down",
        title: "there is no proxy",
        severity: Severity::Error,
        after_s: 3,
        meaning: "Clients of this node wait at the door.",
        manager: "It starts the proxy again, with growing waits.",
        action: "`run/proxy.log` says why it ended.",
    },
    Entry {
        code: Code::DistanceBelowTarget,
        name: "distance-below-target",
        title: "fewer failures can be borne than is wanted",
        severity: Severity::Warning,
        after_s: 60,
        meaning: "Nothing yet: it serves. So many more failures take it down as the text says.",
        manager: "It starts and replaces instances until the declared number is there.",
        action: "`understudy explain SERVICE` says what is missing and whether it heals by itself.",
    },
    Entry {
        code: Code::FailoverSlow,
        name: "failover-slow",
        title: "a failover took longer than it may",
        severity: Severity::Warning,
        after_s: 0,
        meaning: "Clients waited, and some may have got an error.",
        manager: "Nothing: it is over. The alert ends after an hour.",
        action: "`understudy events --failovers` shows which step took the time.",
    },
    Entry {
        code: Code::BudgetBurns,
        name: "budget-burns",
        title: "the budget of an objective will not last",
        severity: Severity::Warning,
        after_s: 0,
        meaning: "Few notice, but for 30 days it is too much.",
        manager: "Nothing.",
        action: "Look in working hours at which requests fail or are slow.",
    },
    Entry {
        code: Code::StandbyNotPromotable,
        name: "standby-not-promotable",
        title: "no standby could take over",
        severity: Severity::Warning,
        after_s: 60,
        meaning: "Nothing yet; if the active fails now, the service is down until a standby is ready.",
        manager: "It goes on checking them, and starts those that died.",
        action: "`understudy explain SERVICE` says of each standby what it lacks: a failing check, or data that lag behind.",
    },
    Entry {
        code: Code::NotRedundant,
        name: "not-redundant",
        title: "instances are missing",
        severity: Severity::Warning,
        after_s: 120,
        meaning: "Nothing yet; it can bear fewer failures.",
        manager: "It starts what is missing where there is room.",
        action: "`understudy explain SERVICE` says what is under way, and what waits for you.",
    },
    Entry {
        code: Code::Flapping,
        name: "flapping",
        title: "an instance does not stay up",
        severity: Severity::Warning,
        after_s: 0,
        meaning: "It died, or was ended because its checks or promotions failed: three times within a minute. Each time costs its requests under way.",
        manager: "It restarts it with growing waits, prefers others in the failover order, and replaces it after some tries.",
        action: "`understudy explain INSTANCE` says why it ended, `understudy logs INSTANCE` shows what it said before.",
    },
    Entry {
        code: Code::GivenUp,
        name: "given-up",
        title: "an instance or a new version was given up",
        severity: Severity::Error,
        after_s: 0,
        meaning: "One place of the service stays empty, or the service goes on with the version that worked before.",
        manager: "It tries again after `restart.retry_after`; with the version that worked before, if a new one was given up.",
        action: "Of a new version `understudy rollback`, or apply a mended file. Else mend what its output complains of, then `understudy retry INSTANCE`.",
    },
    Entry {
        code: Code::DataTooOld,
        name: "data-too-old",
        title: "a node is not heard of",
        severity: Severity::Warning,
        after_s: 15,
        meaning: "Nothing is known of it: neither good nor bad. What its proxy serves is not judged.",
        manager: "It goes on asking. If the node's session runs out, its work is taken over.",
        action: "Look whether its agent runs and can be reached from the other nodes: `understudy cluster status`.",
    },
    Entry {
        code: Code::DiskNearlyFull,
        name: "disk-nearly-full",
        title: "a disk is nearly full",
        severity: Severity::Warning,
        after_s: 60,
        meaning: "When it is full, instances cannot write, and neither can the store.",
        manager: "It rotates logs within their bounds, nothing else.",
        action: "Make room on the disk that has the folder of the cluster.",
    },
    Entry {
        code: Code::PausedForLong,
        name: "paused-for-long",
        title: "automatic actions are paused",
        severity: Severity::Warning,
        after_s: 900,
        meaning: "If something fails now, nobody takes over.",
        manager: "Nothing, as was asked.",
        action: "`understudy resume`, when the work is done that it was paused for.",
    },
    Entry {
        code: Code::ClockWrong,
        name: "clock-wrong",
        title: "a node's clock is wrong",
        severity: Severity::Warning,
        after_s: 10,
        meaning: "Leases and takeovers do not go by it. Certificates do: more than an hour apart, nodes refuse each other's new ones. Logs of nodes cannot be \
                  compared.",
        manager: "It compares what renewals of sessions say, and tells when the clock is right again; it sets no clock.",
        action: "See on that node whether its time service runs: `timedatectl`, `chronyc tracking`.",
    },
    Entry {
        code: Code::OtherProblem,
        name: "problem",
        title: "something needs attention",
        severity: Severity::Error,
        after_s: 30,
        meaning: "A problem that has no entry of its own here; its text names what is wrong and what that does.",
        manager: "It tells it for as long as it stands, and ends the alert when it is over.",
        action: "The hint of the problem says what to do: `understudy status` shows it with its text.",
    },
];

impl Code {
    /// What is said of it.
    pub fn entry(self) -> &'static Entry {
        // Every code has an entry: tested.
        CATALOGUE
            .iter()
            .find(|entry| entry.code == self)
            .unwrap_or(&CATALOGUE[CATALOGUE.len() - 1])
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.entry().name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_code_is_there_once_and_says_all() {
        let codes: BTreeSet<Code> = CATALOGUE.iter().map(|entry| entry.code).collect();
        let names: BTreeSet<&str> = CATALOGUE.iter().map(|entry| entry.name).collect();
        assert_eq!((codes.len(), names.len()), (CATALOGUE.len(), CATALOGUE.len()));
        // The last code of all: none was added without an entry.
        assert_eq!(Code::OtherProblem as usize + 1, CATALOGUE.len());
        for entry in &CATALOGUE {
            assert_eq!(entry.code.entry().name, entry.name);
            assert!(
                entry.meaning.ends_with('.') && entry.manager.ends_with('.') && entry.action.ends_with('.'),
                "{}",
                entry.name
            );
        }
    }
}
