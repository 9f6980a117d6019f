//! Witness and client, on real hosts: what they say is what was done.

use crate::{rig, wait_until};
use hosts::client::{Client, Plan};
use hosts::outage::{Rule, outage};
use hosts::witness::{self, Limits, Verdict, judge};
use hosts::{Command, Fault, Host, Rig, now_ns};
use std::net::SocketAddr;
use std::time::Duration;

const SERVER: &str = env!("CARGO_BIN_EXE_tokenserver");
const CONTROL: &str = "/run/token.sock";

fn serve(rig: &Rig, host: &Host, more: &[&str]) -> u32 {
    let rings = rig.shared();
    let words = [
        SERVER,
        "serve",
        "--name",
        host.name(),
        "--listen",
        "0.0.0.0:80",
        "--control",
        CONTROL,
        "--rings",
    ];
    let words = words
        .into_iter()
        .chain([rings.to_str().unwrap()])
        .chain(more.iter().copied());
    let pid = host.start_daemon(Command::new(words), "token").unwrap();
    wait_until("the server", || {
        let check = host.run(Command::new([SERVER, "check", "127.0.0.1:80"])).unwrap();
        check.ended.is_success() || check.stderr.contains("standby")
    });
    pid
}

fn promote(host: &Host, epoch: &str) {
    host.check(Command::new([SERVER, "promote", "--control", CONTROL, epoch]))
        .unwrap();
}

fn demote(host: &Host) {
    host.check(Command::new([SERVER, "demote", "--control", CONTROL]))
        .unwrap();
}

fn verdict(rig: &Rig) -> Verdict {
    judge(&witness::read_all(&rig.shared()).unwrap(), Limits::default())
}

/// The program says the same: its status, and what it printed.
fn witness_says(rig: &Rig) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_witness"));
    let output = command.arg(rig.shared()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

#[test]
fn a_handover_in_order_is_clean_and_an_injected_overlap_is_caught() {
    let rig = rig(&["a", "b"]);
    let [a, b] = ["a", "b"].map(|name| rig.host(name).unwrap());
    assert_eq!(witness_says(&rig).0, Some(2), "nobody stamped, which is no proof");
    serve(&rig, a, &["--epoch", "1"]);
    serve(&rig, b, &[]);
    pause(50);
    demote(a);
    promote(b, "2");
    pause(50);
    let clean = verdict(&rig);
    assert!(clean.is_clean(), "{clean}");
    // A busy machine makes several spans of one activation.
    let mut actors: Vec<(&str, u64)> = clean.spans.iter().map(|span| (span.who.as_str(), span.epoch)).collect();
    actors.dedup();
    assert_eq!(actors, [("a", 1), ("b", 2)]);
    assert_eq!(witness_says(&rig).0, Some(0));
    // Now a acts again, and nobody stopped b.
    let from = now_ns();
    promote(a, "3");
    pause(100);
    demote(a);
    let to = now_ns();
    let caught = verdict(&rig);
    assert!(!caught.overlaps.is_empty(), "{caught}");
    let dual = caught.dual_ns();
    assert!(dual > 90_000_000 && dual <= to - from, "{dual} of {} ns", to - from);
    let (status, said) = witness_says(&rig);
    assert!(status == Some(1) && said.contains("at once for"), "{said}");
    assert!(
        caught
            .overlaps
            .iter()
            .all(|overlap| from < overlap.from_ns && overlap.to_ns < to)
    );
}

#[test]
fn a_stopped_or_paused_active_stamps_nothing_and_betrays_itself_when_it_goes_on() {
    let rig = rig(&["a", "b"]);
    let [a, b] = ["a", "b"].map(|name| rig.host(name).unwrap());
    for paused in [false, true] {
        let pid = fresh(&rig, a, b);
        let fault = match paused {
            false => Fault::Stop { host: "a".into(), pid },
            true => Fault::Pause { host: "a".into() },
        };
        pause(50);
        rig.begin(&fault).unwrap();
        let stopped = now_ns();
        promote(b, "2");
        pause(100);
        let during = verdict(&rig);
        let last = during
            .spans
            .iter()
            .filter(|span| span.who == "a")
            .map(|span| span.to_ns)
            .max()
            .unwrap();
        assert!(
            last <= stopped,
            "{fault}: a stamp {} ns after it stopped",
            last - stopped
        );
        assert!(during.is_clean(), "{during}");
        let healed = now_ns();
        rig.heal(&fault).unwrap();
        pause(100);
        let after = verdict(&rig);
        let late = |span: &witness::Span| span.who == "a" && span.from_ns >= healed;
        assert!(
            after.overlaps.iter().any(|overlap| late(&overlap.other)),
            "{fault}: {after}"
        );
        assert!(!after.faults.is_empty(), "{fault}: {after}");
    }
}

/// New processes with new rings, `a` active at epoch 1.
fn fresh(rig: &Rig, a: &Host, b: &Host) -> u32 {
    for host in [a, b] {
        host.shell("pkill -9 tokenserver; while pgrep tokenserver; do sleep 0.01; done")
            .unwrap();
    }
    for ring in std::fs::read_dir(rig.shared()).unwrap() {
        std::fs::remove_file(ring.unwrap().path()).unwrap();
    }
    serve(rig, b, &[]);
    serve(rig, a, &["--epoch", "1"])
}

#[test]
fn the_client_measures_an_outage_as_long_as_it_was_over_new_and_over_kept_connections() {
    let rig = rig(&["a"]);
    let a = rig.host("a").unwrap();
    let pid = serve(&rig, a, &["--epoch", "7"]);
    let plan = Plan::new(SocketAddr::from((a.address(), 80)));
    for plan in [plan, plan.kept()] {
        let client = Client::start(rig.client(), plan).unwrap();
        pause(300);
        let stop = Fault::Stop { host: "a".into(), pid };
        rig.begin(&stop).unwrap();
        let began = now_ns();
        pause(600);
        rig.heal(&stop).unwrap();
        let healed = now_ns();
        pause(800);
        let attempts = client.stop().unwrap();
        let found = outage(&attempts, began, Rule::default());
        // Requests of the last 200 ms are answered in time after the thaw.
        let was = Duration::from_nanos(healed - began);
        let length = found.length.unwrap();
        let bounds = was.saturating_sub(Duration::from_millis(300))..was;
        assert!(bounds.contains(&length), "{length:?} of {was:?}: {found:?}");
        assert!((40..=120).contains(&found.failed) && found.backwards == 0, "{found:?}");
        let epochs: std::collections::BTreeSet<Option<u64>> = attempts
            .iter()
            .filter_map(|attempt| match &attempt.outcome {
                hosts::client::Outcome::Answered { epoch, name } => {
                    assert_eq!(name.as_deref(), Some("a"));
                    Some(*epoch)
                }
                _ => None,
            })
            .collect();
        assert_eq!(epochs.into_iter().collect::<Vec<_>>(), [Some(7)]);
        // Open loop: none is missing for the pause.
        let planned = attempts.windows(2).map(|pair| pair[1].planned_ns - pair[0].planned_ns);
        assert!(planned.into_iter().all(|apart| apart == 5_000_000));
    }
}
