//! An agent that came up anew, beside a guard that knows the session of the earlier one.

use super::*;
use guard::fence::protocol::{Request, SelfTest};
use guard::fence::words::State;
use model::Profile;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, recv, send,
    socket_with,
};
use std::os::fd::OwnedFd;

#[tokio::test]
async fn what_stands_still_is_kept_only_past_the_hard_deadline_of_the_renewal_that_the_guard_knows() {
    let hard = timing().hard_deadline.duration();
    assert!(
        !kept_by_a_new_agent(Duration::ZERO).await,
        "the guard has yet to kill what is not frozen"
    );
    assert!(!kept_by_a_new_agent(hard / 2).await);
    assert!(kept_by_a_new_agent(hard + GUARD_ACTS).await);
}

/// An agent comes up anew and loses the session before it has renewed it, this long after the last renewal of the earlier agent.
async fn kept_by_a_new_agent(after: Duration) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(folder.path(), "shop");
    std::fs::create_dir_all(layout.run()).unwrap();
    play_the_guard(&layout.guard_socket(), after);
    let mut fence = Fence::start(&layout, &timing()).unwrap();
    goes_on(&mut fence, |fence| fence.ready).await;
    let (answer, _armed) = oneshot::channel();
    let cgroup = folder.path().join("cgroup");
    fence.arm(&"db-1".parse().unwrap(), &slot(), Epoch(1), &cgroup, &[], answer);
    goes_on(&mut fence, |fence| fence.frozen.contains(&slot())).await;
    fence.keep()
}

async fn goes_on(fence: &mut Fence, until: impl Fn(&Fence) -> bool) {
    for _ in 0..500 {
        if until(fence) {
            return;
        }
        // What it says is of no interest here.
        let _ = tokio::time::timeout(Duration::from_millis(10), fence.next()).await;
    }
    panic!("the guard was not heard");
}

/// A guard that knows a session, and freezes at once what it is asked to arm.
fn play_the_guard(path: &Path, renewed_before: Duration) {
    let flags = SocketFlags::CLOEXEC;
    let listening = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    bind(&listening, &SocketAddrUnix::new(path).unwrap()).unwrap();
    listen(&listening, 1).unwrap();
    let ago = u64::try_from(renewed_before.as_nanos()).unwrap();
    std::thread::spawn(move || {
        let agent = accept(&listening).unwrap();
        let mut buffer = vec![0; 64 * 1024];
        while let Ok((length @ 1.., _)) = recv(&agent, &mut buffer[..], RecvFlags::empty()) {
            match serde_json::from_slice(&buffer[..length]).unwrap() {
                Request::Register { .. } => {
                    let now = mark();
                    let renewed = Mark {
                        boot_ns: now.boot_ns - ago,
                        raw_ns: now.raw_ns - ago,
                    };
                    let session = Some((7, renewed));
                    // Of no process: nobody is to be ended by a test.
                    let (guard, slots) = (0, Vec::new());
                    say(&agent, &Reply::Registered { guard, session, slots });
                }
                Request::Timing(_) => say(
                    &agent,
                    &Reply::SelfTest(SelfTest {
                        ok: true,
                        why_not: Vec::new(),
                        gates_unavailable: None,
                        kill_us: None,
                    }),
                ),
                Request::Arm(Armament { slot, epoch, .. }) => {
                    let (state, what, late_us) = (State::Armed, What::Frozen, None);
                    let armed = slot.clone();
                    say(
                        &agent,
                        &Reply::Armed {
                            slot: armed,
                            epoch,
                            state,
                        },
                    );
                    say(
                        &agent,
                        &Reply::Event {
                            slot,
                            epoch,
                            what,
                            late_us,
                        },
                    );
                }
                _ => {}
            }
        }
    });
}

fn say(agent: &OwnedFd, reply: &Reply) {
    send(agent, &serde_json::to_vec(reply).unwrap(), SendFlags::NOSIGNAL).unwrap();
}

fn slot() -> SlotId {
    SlotId {
        service: "db".parse().unwrap(),
        slot: 0,
    }
}

fn timing() -> Timing {
    Profile::Lan.timing()
}
