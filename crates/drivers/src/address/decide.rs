//! What to do about a change of link or address: decided from what was seen before and what is seen now.

use super::Event;

/// Whether the interface can carry the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkState {
    Gone,
    Down,
    Up,
}

/// The state of interface and address at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sight {
    pub(crate) link: LinkState,
    /// Number and Ethernet address of the interface: another one may have come under its name.
    pub(crate) identity: (u32, Option<[u8; 6]>),
    pub(crate) is_there: bool,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Tell(Event),
    /// Open the socket for announcements anew.
    Reopen,
    PutBack,
    /// Begin the announcements anew.
    Announce,
}

/// What to do, in order. `needs_link`: the kernel takes the address off a link that goes down (IPv6), and it must be up to get it back.
pub(crate) fn decide(before: Sight, now: Sight, needs_link: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if before.link != now.link {
        steps.push(Step::Tell(match now.link {
            LinkState::Gone => Event::InterfaceGone,
            LinkState::Down => Event::LinkDown,
            LinkState::Up => Event::LinkUp,
        }));
    }
    if now.link == LinkState::Gone {
        return steps;
    }
    let is_other = before.identity != now.identity;
    if is_other || before.link == LinkState::Gone {
        steps.push(Step::Reopen);
    }
    let can_have_it = now.link == LinkState::Up || !needs_link;
    let is_missing = !now.is_there && can_have_it;
    if is_missing {
        if before.is_there && before.link == now.link && !is_other {
            steps.push(Step::Tell(Event::Removed));
        }
        steps.push(Step::PutBack);
    }
    if now.link == LinkState::Up && (is_missing || is_other || before.link != LinkState::Up) {
        steps.push(Step::Announce);
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use LinkState::{Down, Gone, Up};
    use Step::{Announce, PutBack, Reopen, Tell};

    fn sight(link: LinkState, is_there: bool) -> Sight {
        Sight {
            link,
            identity: (2, Some([2; 6])),
            is_there,
        }
    }

    #[test]
    fn what_is_removed_is_put_back_and_announced() {
        let steps = decide(sight(Up, true), sight(Up, false), true);
        assert_eq!(steps, [Tell(Event::Removed), PutBack, Announce]);
        assert_eq!(decide(sight(Up, true), sight(Up, true), true), []);
    }

    #[test]
    fn a_link_that_comes_back_is_announced_on() {
        assert_eq!(
            decide(sight(Up, true), sight(Down, true), false),
            [Tell(Event::LinkDown)]
        );
        assert_eq!(
            decide(sight(Down, true), sight(Up, true), false),
            [Tell(Event::LinkUp), Announce]
        );
    }

    #[test]
    fn what_the_kernel_takes_off_a_link_that_is_down_waits_for_it() {
        assert_eq!(
            decide(sight(Up, true), sight(Down, false), true),
            [Tell(Event::LinkDown)]
        );
        assert_eq!(decide(sight(Down, false), sight(Down, false), true), []);
        let back = decide(sight(Down, false), sight(Up, false), true);
        assert_eq!(back, [Tell(Event::LinkUp), PutBack, Announce]);
    }

    #[test]
    fn removed_while_the_link_is_down_it_is_put_back_and_announced_later() {
        let steps = decide(sight(Down, true), sight(Down, false), false);
        assert_eq!(steps, [Tell(Event::Removed), PutBack]);
    }

    #[test]
    fn an_interface_made_anew_gets_the_address_again() {
        assert_eq!(
            decide(sight(Up, true), sight(Gone, false), false),
            [Tell(Event::InterfaceGone)]
        );
        let other = Sight {
            identity: (3, Some([3; 6])),
            ..sight(Up, false)
        };
        let steps = decide(sight(Gone, false), other, false);
        assert_eq!(steps, [Tell(Event::LinkUp), Reopen, PutBack, Announce]);
        assert_eq!(decide(sight(Up, true), other, false), [Reopen, PutBack, Announce]);
    }

    #[test]
    fn a_new_ethernet_address_is_announced() {
        let other = Sight {
            identity: (2, Some([9; 6])),
            ..sight(Up, true)
        };
        assert_eq!(decide(sight(Up, true), other, false), [Reopen, Announce]);
    }
}
