//! What time brings: whatever is due at a moment, and when the next thing will be.

use super::{Covered, Holder, HolderAction, Lease, Outstanding, Probe, State, Still};
use model::Mark;
use std::time::Duration;

impl Holder {
    pub(super) fn notice_lateness(&mut self, now: Mark) {
        let Some((from, wait)) = self.asked else { return };
        let by = now.held_for(from).saturating_sub(wait);
        if by > self.options.late_after {
            self.actions.push_back(HolderAction::Late { by });
        }
    }

    /// Does all that is due at `now`.
    pub(super) fn advance(&mut self, now: Mark) {
        self.rearm();
        self.give_up_waiting(now);
        self.freeze_or_thaw(now);
        if matches!(self.state, State::Emptying) && self.empty {
            self.state = State::Absent;
        }
        if self.may_open(now) && self.since_last_open(now) >= self.timing.renew.duration() {
            self.open(now);
        }
        self.hedge(now);
        self.probe_or_renew(now);
    }

    /// How long from `now` until something is due, as far as time alone brings it. Never zero after [`Self::advance`].
    pub(super) fn wait(&self, now: Mark) -> Option<Duration> {
        let timeout = self.timing.request_timeout.duration();
        let left = |span: Duration, since: Mark| span.saturating_sub(now.held_for(since));
        let mut waits = Vec::new();
        match &self.state {
            State::Absent if self.may_open(now) => {
                waits.push(self.timing.renew.duration().saturating_sub(self.since_last_open(now)));
            }
            State::Opening { sent, .. } => waits.push(left(timeout, *sent)),
            State::Open(lease) => {
                if !lease.frozen
                    && !self.empty
                    && let Some(acked) = lease.acked
                {
                    waits.push(left(self.timing.soft_deadline.duration(), acked));
                }
                if let Some(outstanding) = lease.outstanding {
                    let until = if outstanding.hedged { timeout } else { timeout / 2 };
                    waits.push(left(until, outstanding.sent));
                } else if let Probe::Sent(sent) = lease.probe {
                    waits.push(left(timeout, sent));
                } else {
                    waits.push(self.until_next_request(lease, now));
                }
            }
            State::Absent | State::Emptying | State::Closed => {}
        }
        // What is due and yet not done waits for an event: a good probe of the disk, say.
        waits.into_iter().filter(|wait| !wait.is_zero()).min()
    }

    /// A guard that has fired stands again once all it killed is gone and a guard is ready.
    fn rearm(&mut self) {
        if self.fired && self.empty && self.guard_ready {
            self.fired = false;
            if let State::Open(lease) = &mut self.state {
                lease.frozen = false;
            }
        }
    }

    fn give_up_waiting(&mut self, now: Mark) {
        let timeout = self.timing.request_timeout.duration();
        match &mut self.state {
            State::Opening { sent, .. } if now.held_for(*sent) >= timeout => self.state = State::Absent,
            State::Open(lease) => {
                lease.missed(|outstanding| now.held_for(outstanding.sent) >= timeout);
                if matches!(lease.probe, Probe::Sent(sent) if now.held_for(sent) >= timeout) {
                    lease.probe = Probe::None;
                }
            }
            _ => {}
        }
    }

    fn freeze_or_thaw(&mut self, now: Mark) {
        let covered = self.covered(now);
        let empty = self.empty;
        let State::Open(lease) = &mut self.state else { return };
        let still = match covered {
            // Nothing to freeze; and whatever is started meanwhile is started only if covered.
            Covered::TooOld | Covered::NoGuard if empty => return,
            Covered::TooOld => Still::NoRenewal,
            Covered::NoGuard if lease.acked.is_some() => Still::NoGuard,
            Covered::Yes if lease.frozen => {
                lease.frozen = false;
                self.actions.push_back(HolderAction::Thawed);
                return;
            }
            _ => return,
        };
        if !lease.frozen {
            lease.frozen = true;
            self.actions.push_back(HolderAction::Frozen { why: still });
        }
    }

    fn may_open(&self, now: Mark) -> bool {
        matches!(self.state, State::Absent) && self.empty && self.guard_ready && !self.fired && self.is_healthy(now)
    }

    fn since_last_open(&self, now: Mark) -> Duration {
        self.last_open.map_or(Duration::MAX, |last| now.held_for(last))
    }

    fn open(&mut self, now: Mark) {
        self.attempts += 1;
        let attempt = self.attempts;
        self.last_open = Some(now);
        self.state = State::Opening { attempt, sent: now };
        self.actions.push_back(HolderAction::Open { attempt });
    }

    fn hedge(&mut self, now: Mark) {
        let half = self.timing.request_timeout.duration() / 2;
        if let State::Open(Lease {
            outstanding: Some(outstanding),
            ..
        }) = &mut self.state
            && !outstanding.hedged
            && now.held_for(outstanding.sent) >= half
        {
            outstanding.hedged = true;
            self.actions.push_back(HolderAction::Hedge {
                attempt: outstanding.attempt,
            });
        }
    }

    fn probe_or_renew(&mut self, now: Mark) {
        let healthy = self.is_healthy(now);
        let due = match &self.state {
            State::Open(lease) => self.until_next_request(lease, now).is_zero(),
            _ => return,
        };
        let slow = self.is_slow();
        let State::Open(lease) = &mut self.state else { return };
        if lease.outstanding.is_some() || matches!(lease.probe, Probe::Sent(_)) {
            return;
        }
        // An answered probe is worth one renewal, now or never.
        let answered = lease.probe == Probe::Answered;
        lease.probe = Probe::None;
        if !healthy {
            return;
        }
        let in_doubt = lease.doubt || lease.frozen;
        if in_doubt && !answered {
            if due {
                lease.probe = Probe::Sent(now);
                lease.last_probe = Some(now);
                self.actions.push_back(HolderAction::Probe);
            }
            return;
        }
        if !(due || in_doubt) {
            return;
        }
        self.attempts += 1;
        lease.seq += 1;
        lease.hurry = false;
        lease.last_renew = Some(now);
        lease.outstanding = Some(Outstanding {
            attempt: self.attempts,
            sent: now,
            hedged: false,
        });
        self.actions.push_back(HolderAction::Renew {
            attempt: self.attempts,
            session: lease.id,
            seq: lease.seq,
            lease: if slow {
                self.options.idle_lease
            } else {
                self.timing.lease
            },
            sent: now,
        });
    }

    /// Until the next probe if in doubt, else until the next renewal.
    fn until_next_request(&self, lease: &Lease, now: Mark) -> Duration {
        let renew = self.timing.renew.duration();
        let (every, last) = if lease.doubt || lease.frozen {
            (renew, lease.last_probe)
        } else if lease.hurry {
            (Duration::ZERO, None)
        } else if self.is_slow() {
            (self.options.idle_renew.duration(), lease.last_renew)
        } else {
            (renew, lease.last_renew)
        };
        last.map_or(Duration::ZERO, |last| every.saturating_sub(now.held_for(last)))
    }

    fn is_slow(&self) -> bool {
        self.empty && !self.fast
    }

    /// A disk that has not taken a write for A may have left the node's data behind.
    fn is_healthy(&self, now: Mark) -> bool {
        self.healthy
            .is_some_and(|at| now.held_for(at) < self.timing.soft_deadline.duration())
    }
}
