//! A TCP check sees whether an instance takes connections, or the kernel does in its place.

use crate::world::{World, both, eventually};
use drivers::probe::{ExecEnv, ProbeResult, probe};
use drivers::process::Process;
use model::CheckKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

both! {
    one_that_is_stopped_fails
    one_that_hangs_as_a_whole_fails
    one_that_works_at_something_else_passes
    one_that_wakes_now_and_then_passes
    one_that_sleeps_for_long_passes
    one_that_waits_for_a_file_passes
    one_that_waits_for_its_clients_passes
    one_that_waits_for_the_first_bytes_passes
}

const TIMEOUT: Duration = Duration::from_millis(200);

/// Listens, says where, and then does what the rest says.
async fn server(world: &World, rest: &str) -> (Process, SocketAddr) {
    let script = format!(
        "import socket, time, threading
listener = socket.create_server(('127.0.0.1', 0))
print('listens at %d.' % listener.getsockname()[1], flush=True)
{rest}"
    );
    let process = world.start(&["python3", "-c", &script]).await;
    let log = world.log(".").await;
    let port = log.split("listens at ").nth(1).unwrap().split('.').next().unwrap();
    (process, format!("127.0.0.1:{port}").parse().unwrap())
}

const ACCEPTS: &str = "
while True: listener.accept()";

async fn ask(process: &Process, target: SocketAddr) -> ProbeResult {
    let env = ExecEnv::default();
    loop {
        let result = probe(&CheckKind::Tcp, Some(target), TIMEOUT, &env, Some(process)).await;
        // On a machine so busy that the probe doubts itself it is asked again.
        if !matches!(result, ProbeResult::Unsure { .. }) {
            return result;
        }
    }
}

async fn assert_fails(process: &Process, target: SocketAddr) {
    let result = ask(process, target).await;
    let words = "connection not taken within 200ms, and nothing of it ran meanwhile";
    assert!(
        matches!(&result, ProbeResult::Fail { what, took } if what == words && *took >= TIMEOUT),
        "{result:?}"
    );
}

/// Once it waits for good: a busy machine takes its time until then.
async fn assert_fails_at_last(process: &Process, target: SocketAddr) {
    let begun = Instant::now();
    while matches!(ask(process, target).await, ProbeResult::Pass { .. }) {
        assert!(begun.elapsed() < Duration::from_secs(10), "it passes for ever");
    }
    assert_fails(process, target).await;
}

async fn assert_passes(process: &Process, target: SocketAddr) {
    let result = ask(process, target).await;
    assert!(matches!(result, ProbeResult::Pass { .. }), "{result:?}");
}

async fn one_that_is_stopped_fails(world: &World) {
    let (process, target) = server(world, ACCEPTS).await;
    let pid = rustix::process::Pid::from_raw(process.pid() as i32).unwrap();
    for _ in 0..3 {
        assert_passes(&process, target).await;
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        // Until it stands still it may take another one.
        let stat = format!("/proc/{}/stat", process.pid());
        eventually("it stands still", || {
            std::fs::read_to_string(&stat).ok().filter(|stat| stat.contains(") T "))
        })
        .await;
        assert_fails(&process, target).await;
        assert_fails(&process, target).await;
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    }
    process.kill().await.unwrap();
}

async fn one_that_hangs_as_a_whole_fails(world: &World) {
    let hangs = "
lock = threading.Lock()
lock.acquire()
threading.Thread(target=lock.acquire).start()
time.sleep(0.1)
lock.acquire()";
    let (process, target) = server(world, hangs).await;
    assert_fails_at_last(&process, target).await;
    process.kill().await.unwrap();
}

/// Slow is not dead: it comes to the connection when it has done what it does.
async fn one_that_works_at_something_else_passes(world: &World) {
    let computes = "
while True: pass";
    let (process, target) = server(world, computes).await;
    assert_passes(&process, target).await;
    process.kill().await.unwrap();
}

async fn one_that_wakes_now_and_then_passes(world: &World) {
    let ticks = "
while True: time.sleep(0.02)";
    let (process, target) = server(world, ticks).await;
    assert_passes(&process, target).await;
    process.kill().await.unwrap();
}

async fn one_that_sleeps_for_long_passes(world: &World) {
    let (process, target) = server(world, "time.sleep(1000)").await;
    tokio::time::sleep(TIMEOUT).await;
    assert_passes(&process, target).await;
    process.kill().await.unwrap();
}

async fn one_that_waits_for_a_file_passes(world: &World) {
    let fifo = world.dir.path().join("fifo");
    let path = fifo.to_str().unwrap();
    let waits = format!("import os\nos.mkfifo('{path}')\nopen(os.open('{path}', os.O_RDWR)).read(1)");
    let (process, target) = server(world, &waits).await;
    tokio::time::sleep(TIMEOUT).await;
    assert_passes(&process, target).await;
    process.kill().await.unwrap();
}

/// It has as many clients as it takes, and hears them.
async fn one_that_waits_for_its_clients_passes(world: &World) {
    let full = "
import select, os
ours, theirs = os.pipe()
select.select([ours], [], [])";
    let (process, target) = server(world, full).await;
    tokio::time::sleep(TIMEOUT).await;
    assert_passes(&process, target).await;
    process.kill().await.unwrap();
}

/// The kernel wakes it when the first bytes are there (`TCP_DEFER_ACCEPT`), which a check does not send.
async fn one_that_waits_for_the_first_bytes_passes(world: &World) {
    let deferred = format!("listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5){ACCEPTS}");
    let (process, target) = server(world, &deferred).await;
    tokio::time::sleep(TIMEOUT).await;
    assert_passes(&process, target).await;
    drop(TcpStream::connect(target).unwrap());
    process.kill().await.unwrap();
}
