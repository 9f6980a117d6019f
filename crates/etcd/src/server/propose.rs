//! Chooses the timing that a machine and its network can keep, and says why.
//!
//! A profile fits if each figure leaves the room that etcd and the session protocol need. The bounds follow from its timing:
//!
//! | figure | bound | why |
//! |---|---|---|
//! | round trip, p99 | 2/5 of etcd's heartbeat | a heartbeat and its answer are back before the next, twice over; the election timeout is then at least 18 round trips (etcd asks for 10) |
//! | sync, p99 | 1/15 of the election timeout | the leader sends no heartbeat while its log is being synced: fifteen slow syncs in a row must not look like its death. With 20/150 ms, means of 9 to 27 ms led to elections |
//! | scheduling, p99 | 1/4 of the heartbeat | a heartbeat that is due is sent before the next one is |
//! | sync or scheduling, longest | 1/3 of the election timeout | a single stall must leave two thirds of it for the heartbeats lost |
//! | a commit: 2 round trips + sync + scheduling, p99 each | half the request timeout | a renewal is tried at a second member after half of it, and should be through by then |

use super::measure::{Measurements, Spread};
use model::{Profile, Timing};
use std::fmt::Write;
use std::time::Duration;

/// A timing for the operator to accept or to override.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The quickest that fits; the slowest if none does.
    pub profile: Profile,
    /// Whether it fits, and every peer could be asked.
    pub fits: bool,
    /// In a sentence or two: what kept quicker ones from fitting, or what fits.
    pub because: String,
}

/// Proposes a profile.
pub fn propose(measured: &Measurements) -> Proposal {
    let mut refused: Option<(Profile, Vec<String>)> = None;
    let mut found = None;
    for profile in Profile::ALL {
        let misfits = misfits(measured, profile);
        if misfits.is_empty() {
            found = Some(profile);
            break;
        }
        refused = Some((profile, misfits));
    }
    let all_answered = measured.peers.iter().all(|peer| peer.rtt.is_some());
    let fits = found.is_some();
    let profile = found.unwrap_or(Profile::Wan);
    let mut because = match (&refused, fits) {
        (None, _) => format!("everything fits `{profile}`: {}", figures(measured)),
        (Some((quicker, misfits)), true) => format!("`{quicker}` does not fit: {}", misfits.join("; ")),
        (Some((_, misfits)), false) => format!(
            "not even `{profile}` fits, expect elections without cause: {}",
            misfits.join("; ")
        ),
    };
    add_doubts(&mut because, measured);
    Proposal {
        profile,
        fits: fits && all_answered,
        because,
    }
}

/// What of the measurements does not fit a profile, in words; empty if all does. For a warning when the world has changed, too.
pub fn misfits(measured: &Measurements, profile: Profile) -> Vec<String> {
    let bounds = Bounds::of(&profile.timing());
    let (disk, scheduling) = (&measured.disk, &measured.scheduling);
    let mut misfits = Vec::new();
    let mut check = |what: &str, found: Duration, bound: Duration| {
        if found > bound {
            misfits.push(format!("{what} takes {}, at most {} is good", ms(found), ms(bound)));
        }
    };
    check("a sync of the disk (p99)", disk.p99, bounds.sync);
    check("the longest sync of the disk", disk.max, bounds.stall);
    check("waking up late (p99)", scheduling.p99, bounds.scheduling);
    check("the longest late wake-up", scheduling.max, bounds.stall);
    let mut commit = disk.p99 + scheduling.p99;
    if let Some((address, rtt)) = slowest(measured) {
        check(&format!("a round trip to {address} (p99)"), rtt.p99, bounds.rtt);
        commit += rtt.p99 * 2;
    }
    check("a commit as a whole", commit, bounds.commit);
    misfits
}

/// The table above, for one timing.
struct Bounds {
    rtt: Duration,
    sync: Duration,
    scheduling: Duration,
    stall: Duration,
    commit: Duration,
}

impl Bounds {
    fn of(timing: &Timing) -> Self {
        let heartbeat = timing.store_heartbeat.duration();
        let election = timing.store_election_timeout.duration();
        Self {
            rtt: heartbeat * 2 / 5,
            sync: election / 15,
            scheduling: heartbeat / 4,
            stall: election / 3,
            commit: timing.request_timeout.duration() / 2,
        }
    }
}

fn slowest(measured: &Measurements) -> Option<(std::net::SocketAddr, Spread)> {
    let answered = measured.peers.iter().filter_map(|peer| Some((peer.address, peer.rtt?)));
    answered.max_by_key(|(_, rtt)| rtt.p99)
}

fn figures(measured: &Measurements) -> String {
    let mut text = format!(
        "a sync of the disk takes {} (p99; longest {}), waking up is late by {} (longest {})",
        ms(measured.disk.p99),
        ms(measured.disk.max),
        ms(measured.scheduling.p99),
        ms(measured.scheduling.max),
    );
    if let Some((address, rtt)) = slowest(measured) {
        let _ = write!(text, ", the slowest peer {address} answers in {}", ms(rtt.p99));
    }
    text
}

/// What the figures cannot tell.
fn add_doubts(because: &mut String, measured: &Measurements) {
    if measured.volatile {
        because.push_str(". The folder is in memory: its data end with the machine, so put it on a disk");
    }
    if measured.peers.is_empty() {
        because.push_str(". No peer was measured: measure again when there is one");
    }
    for peer in measured.peers.iter().filter(|peer| peer.rtt.is_none()) {
        let _ = write!(
            because,
            ". {} did not answer, so nothing is known of the way to it",
            peer.address
        );
    }
    let lossy = measured
        .peers
        .iter()
        .filter(|peer| peer.rtt.is_some() && peer.unanswered > 0);
    for peer in lossy {
        let attempts = peer.unanswered + peer.rtt.map_or(0, |rtt| rtt.samples);
        let _ = write!(
            because,
            ". {} of {attempts} attempts to reach {} had no answer",
            peer.unanswered, peer.address
        );
    }
}

/// As people read it: `0.25 ms`, `12.4 ms`, `250 ms`.
fn ms(span: Duration) -> String {
    let ms = span.as_secs_f64() * 1_000.0;
    match ms {
        ..10.0 => format!("{ms:.2} ms"),
        ..100.0 => format!("{ms:.1} ms"),
        _ => format!("{ms:.0} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::measure::Peer;
    use super::*;

    #[test]
    fn the_profile_is_the_quickest_that_every_figure_fits() {
        // Microseconds: sync p99 and longest, scheduling p99 and longest, round trip p99.
        let table = [
            (
                "a good local network",
                [400, 3_000, 200, 2_000, 300],
                Profile::Fast,
                true,
            ),
            (
                "at fast's bounds",
                [10_000, 50_000, 5_000, 50_000, 8_000],
                Profile::Fast,
                true,
            ),
            (
                "a sync a little too slow",
                [10_001, 50_000, 200, 2_000, 300],
                Profile::Lan,
                true,
            ),
            (
                "one long stall of the disk",
                [400, 50_001, 200, 2_000, 300],
                Profile::Lan,
                true,
            ),
            ("a busy processor", [400, 3_000, 5_001, 9_000, 300], Profile::Lan, true),
            (
                "one long stall of the processor",
                [400, 3_000, 200, 60_000, 300],
                Profile::Lan,
                true,
            ),
            (
                "a building further",
                [400, 3_000, 200, 2_000, 8_001],
                Profile::Lan,
                true,
            ),
            (
                "a spinning disk",
                [40_000, 120_000, 200, 2_000, 300],
                Profile::Stock,
                true,
            ),
            ("a city further", [400, 3_000, 200, 2_000, 30_000], Profile::Stock, true),
            // Each alone would fit `stock`; a commit of 2 · 40 + 60 + 20 ms would not be through in half its request timeout.
            (
                "all a little slow",
                [60_000, 120_000, 20_000, 40_000, 40_000],
                Profile::Wan,
                true,
            ),
            ("an ocean", [400, 3_000, 200, 2_000, 90_000], Profile::Wan, true),
            (
                "the other side of the world",
                [400, 3_000, 200, 2_000, 280_000],
                Profile::Wan,
                false,
            ),
            (
                "a failing disk",
                [900_000, 4_000_000, 200, 2_000, 300],
                Profile::Wan,
                false,
            ),
        ];
        for (what, [sync, sync_max, late, late_max, rtt], profile, fits) in table {
            let proposal = propose(&measured(&[rtt], sync, sync_max, late, late_max));
            assert_eq!(
                (proposal.profile, proposal.fits),
                (profile, fits),
                "{what}: {}",
                proposal.because
            );
        }
    }

    #[test]
    fn the_reason_names_the_figure_and_its_bound() {
        let because = |measured: &Measurements| propose(measured).because;
        assert_eq!(
            because(&measured(&[300], 31_000, 40_000, 200, 2_000)),
            "`fast` does not fit: a sync of the disk (p99) takes 31.0 ms, at most 10.0 ms is good"
        );
        assert_eq!(
            because(&measured(&[300, 900], 400, 3_000, 200, 2_000)),
            "everything fits `fast`: a sync of the disk takes 0.40 ms (p99; longest 3.00 ms), waking up is late by 0.20 ms (longest 2.00 ms), \
             the slowest peer 127.0.0.2:1 answers in 0.90 ms"
        );
    }

    #[test]
    fn what_the_figures_cannot_tell_is_said() {
        let mut alone = measured(&[], 400, 3_000, 200, 2_000);
        alone.volatile = true;
        let because = propose(&alone).because;
        assert!(
            because.contains("in memory") && because.contains("No peer was measured"),
            "{because}"
        );

        let mut lossy = measured(&[300], 400, 3_000, 200, 2_000);
        lossy.peers[0].unanswered = 2;
        assert!(
            propose(&lossy)
                .because
                .ends_with("2 of 12 attempts to reach 127.0.0.1:1 had no answer")
        );

        lossy.peers[0].rtt = None;
        let proposal = propose(&lossy);
        assert!(
            !proposal.fits && proposal.because.contains("127.0.0.1:1 did not answer"),
            "{proposal:?}"
        );
        assert_eq!(proposal.profile, Profile::Fast, "the others decide");
    }

    fn measured(rtts: &[u64], sync: u64, sync_max: u64, late: u64, late_max: u64) -> Measurements {
        let peers = rtts.iter().zip(1..).map(|(rtt, n)| Peer {
            address: format!("127.0.0.{n}:1").parse().unwrap(),
            rtt: Some(spread(*rtt, *rtt)),
            unanswered: 0,
        });
        Measurements {
            disk: spread(sync, sync_max),
            volatile: false,
            scheduling: spread(late, late_max),
            peers: peers.collect(),
        }
    }

    fn spread(p99: u64, max: u64) -> Spread {
        Spread {
            samples: 10,
            p50: Duration::from_micros(p99 / 2),
            p99: Duration::from_micros(p99),
            max: Duration::from_micros(max),
        }
    }
}
