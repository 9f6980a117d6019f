//! Whether everybody who has a session is seen by those who do not watch the sessions themselves.
//!
//! Agents of before open their sessions without a word beside it (`there/NODE`). While one of them has a session, everybody has to watch all.
//! Who does so already sees it; who does not is told:
//!
//! ```text
//! an agent of before opens its session ──► the controller, who watches all, sees it ──► writes `whole` ──► all watch all
//!                                    └───► or becomes the controller itself ──► of a session that nobody told of: all list and watch all
//! ```
//! There is no third way: somebody is the controller, or is about to be. The last of them gone, the controller deletes `whole`.

/// What is known of it, beside the sessions that are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Presence {
    /// The controller says that there are agents of before.
    told: bool,
    /// The controller itself is nobody who told that he is there.
    doubted: bool,
}

impl Presence {
    /// The controller's word (`whole`) is there, or is not.
    pub fn told(&mut self, is_there: bool) {
        self.told = is_there;
    }

    /// Whether that word is there, as far as is known.
    pub fn is_told(&self) -> bool {
        self.told
    }

    /// Another controller was heard of, and whether its session was before.
    pub fn controller(&mut self, is_known: bool) {
        self.doubted = !is_known;
    }

    /// Everything was listed for what is watched now: whoever is there is known.
    pub fn listed(&mut self) {
        self.doubted = false;
    }

    /// Whether all that have a session say so, where `of_before` says that a session is known of an agent that does not.
    pub fn all_tell(&self, of_before: bool) -> bool {
        !(of_before || self.told || self.doubted)
    }

    /// What a controller has to write: that the word is there, or that it is not; nothing if that is so.
    pub fn to_write(&self, of_before: bool) -> Option<bool> {
        (of_before != self.told).then_some(of_before)
    }
}

#[cfg(test)]
mod tests {
    use super::Presence;

    #[test]
    fn who_sees_an_agent_of_before_or_is_told_of_one_watches_all() {
        let mut presence = Presence::default();
        assert!(presence.all_tell(false));
        assert!(!presence.all_tell(true));
        presence.told(true);
        assert!(!presence.all_tell(false));
        presence.told(false);
        assert!(presence.all_tell(false));
    }

    #[test]
    fn a_controller_that_nobody_knew_is_looked_for_until_everything_was_listed() {
        let mut presence = Presence::default();
        presence.controller(false);
        assert!(!presence.all_tell(false));
        presence.listed();
        assert!(presence.all_tell(false), "it was of our kind, and its word was late");
        assert!(!presence.all_tell(true), "it is of before");
    }

    #[test]
    fn the_controller_writes_what_is_not_told_yet_and_takes_it_back() {
        let mut presence = Presence::default();
        assert_eq!((presence.to_write(false), presence.to_write(true)), (None, Some(true)));
        presence.told(true);
        assert_eq!((presence.to_write(true), presence.to_write(false)), (None, Some(false)));
    }
}
