//! What the members say of themselves and of each other, at one time.

use crate::client::{Alarm, AlarmKind, Member, Status};

/// A follower that is this many entries behind is not fit to lead, nor to be counted on: ordinary ones are a handful behind.
const BEHIND_MAX: u64 = 1_000;

/// The cluster at one time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// Its members, by name.
    pub members: Vec<Seen>,
    /// The alarms that are raised.
    pub alarms: Vec<Alarm>,
}

/// A member, and what it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// As the cluster knows it.
    pub member: Member,
    /// What it says of itself, or why it did not.
    pub status: Result<Status, String>,
}

impl Seen {
    /// For people: its name, or where it is if it was never started.
    pub fn name(&self) -> &str {
        match (self.member.name.as_str(), self.member.peer_urls.first()) {
            ("", Some(url)) => url,
            ("", None) => "a member without a name",
            (name, _) => name,
        }
    }

    /// Whether it has a vote.
    pub fn votes(&self) -> bool {
        !self.member.learner
    }

    /// Whether it answers and follows a leader (or is it).
    pub fn healthy(&self) -> bool {
        self.status.as_ref().is_ok_and(|status| status.leader.is_some())
    }

    /// Bytes of its database that a defragmentation would give back; 0 if it does not answer.
    pub fn reclaimable(&self) -> u64 {
        let status = self.status.as_ref();
        status.map_or(0, |status| status.db_bytes.saturating_sub(status.db_used_bytes))
    }

    /// Where it is asked.
    pub fn endpoint(&self) -> Option<&str> {
        self.member.client_urls.first().map(String::as_str)
    }
}

impl View {
    /// The members with a vote.
    pub fn voters(&self) -> impl Iterator<Item = &Seen> {
        self.members.iter().filter(|seen| seen.votes())
    }

    /// How many voters must be well for anything to be decided.
    pub fn quorum(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// Whether it answers and follows the leader that the newest of them follow. One that just came back may answer, but still wait for
    /// the leader to reach it: until then it is no help if another one is lost.
    pub fn well(&self, seen: &Seen) -> bool {
        let newest = self.newest().and_then(|status| status.leader);
        newest.is_some() && seen.status.as_ref().is_ok_and(|status| status.leader == newest)
    }

    /// How many voters are well.
    pub fn healthy_voters(&self) -> usize {
        self.voters().filter(|seen| self.well(seen)).count()
    }

    /// Whether anything can be decided.
    pub fn has_quorum(&self) -> bool {
        self.healthy_voters() >= self.quorum()
    }

    /// Who leads: whom the members of the highest term name, if it answers.
    pub fn leader(&self) -> Option<&Seen> {
        let newest = self.newest()?;
        self.members
            .iter()
            .find(|seen| Some(seen.member.id) == newest.leader && seen.status.is_ok())
    }

    /// What a member of the highest term says.
    fn newest(&self) -> Option<&Status> {
        let answers = self.members.iter().filter_map(|seen| seen.status.as_ref().ok());
        answers.max_by_key(|status| (status.raft_term, status.leader.is_some()))
    }

    /// A member by its name.
    pub fn find(&self, name: &str) -> Option<&Seen> {
        self.members.iter().find(|seen| seen.name() == name)
    }

    /// How many entries of the log it is behind the one that is furthest.
    pub fn behind(&self, seen: &Seen) -> Option<u64> {
        let answers = self.members.iter().filter_map(|seen| seen.status.as_ref().ok());
        let furthest = answers.map(|status| status.raft_index).max()?;
        Some(furthest.saturating_sub(seen.status.as_ref().ok()?.raft_applied))
    }

    /// Whether it is well and has nearly all that the others have.
    pub fn up_to_date(&self, seen: &Seen) -> bool {
        self.well(seen) && self.behind(seen).is_some_and(|behind| behind <= BEHIND_MAX)
    }

    /// Whether some member's database is full.
    pub fn is_full(&self) -> bool {
        self.alarms.iter().any(|alarm| alarm.kind == AlarmKind::NoSpace)
    }

    /// The names of all members.
    pub fn names(&self) -> Vec<String> {
        self.members.iter().map(|seen| seen.name().to_owned()).collect()
    }
}

/// Made-up clusters for the tests of what is decided from a view.
#[cfg(test)]
pub(super) mod made_up {
    use super::*;
    use model::Revision;

    /// `a*` leads, `b` follows, `c!` does not answer, `d?` is a learner.
    pub(in super::super) fn view(members: &str) -> View {
        let words: Vec<&str> = members.split_ascii_whitespace().collect();
        let leader = words.iter().position(|word| word.ends_with('*')).map(|n| n as u64 + 1);
        let seen = words.iter().zip(1..).map(|(word, id)| {
            let name = word.trim_end_matches(['*', '!', '?']).to_owned();
            let learner = word.ends_with('?');
            let member = Member {
                id,
                peer_urls: vec![format!("http://{name}:2380")],
                client_urls: vec![format!("http://{name}:2379")],
                name,
                learner,
            };
            let status = if word.ends_with('!') {
                Err("connection refused".into())
            } else {
                Ok(status(&member, leader))
            };
            Seen { member, status }
        });
        View {
            members: seen.collect(),
            alarms: Vec::new(),
        }
    }

    fn status(member: &Member, leader: Option<u64>) -> Status {
        Status {
            endpoint: member.client_urls[0].clone(),
            cluster: 7,
            member: member.id,
            version: "3.4.23".into(),
            db_bytes: 20 << 20,
            db_used_bytes: 18 << 20,
            leader,
            raft_term: 3,
            raft_index: 5_000,
            raft_applied: 5_000,
            revision: Revision(900),
            learner: member.learner,
            errors: Vec::new(),
        }
    }

    impl View {
        pub(in super::super) fn change(mut self, name: &str, change: impl Fn(&mut Status)) -> Self {
            let seen = self.members.iter_mut().find(|seen| seen.member.name == name);
            change(seen.unwrap().status.as_mut().unwrap());
            self
        }

        pub(in super::super) fn full(mut self, name: &str) -> Self {
            let member = self.find(name).unwrap().member.id;
            self.alarms.push(Alarm {
                member,
                kind: AlarmKind::NoSpace,
            });
            self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::made_up::view;

    #[test]
    fn quorum_and_leader_are_counted_from_what_the_voters_say() {
        let three = view("a* b c!");
        assert_eq!(
            (three.quorum(), three.healthy_voters(), three.has_quorum()),
            (2, 2, true)
        );
        assert_eq!(three.leader().unwrap().name(), "a");
        let with_learner = view("a* b! c?");
        assert_eq!((with_learner.quorum(), with_learner.healthy_voters()), (2, 1));
        let split = view("a b! c!");
        assert!(
            split.leader().is_none() && !split.has_quorum(),
            "one that knows no leader is not healthy"
        );
        let old_news = view("a b* c!").change("a", |status| {
            status.raft_term = 2;
            status.leader = Some(1);
        });
        assert_eq!(old_news.leader().unwrap().name(), "b", "the highest term counts");
        assert_eq!(
            old_news.healthy_voters(),
            1,
            "whoever follows a leader of the past does not count"
        );
    }

    #[test]
    fn one_that_is_far_behind_is_not_up_to_date() {
        let view = view("a* b c").change("b", |status| status.raft_applied = 3_000);
        let fit: Vec<bool> = view.members.iter().map(|seen| view.up_to_date(seen)).collect();
        assert_eq!(fit, [true, false, true]);
    }
}
