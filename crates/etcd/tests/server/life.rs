//! A single member: it outlives the agent, comes back when it dies, and is never there twice.

use crate::rig::{World, etcds, get, measured, pid, put, signal, until};
use etcd::server::cluster::{Error, bootstrap, wait_ready};
use etcd::server::{Cause, LockError, Server, StartError, State, Stopped};
use std::process::Command;
use std::time::{Duration, Instant};

#[tokio::test]
async fn it_outlives_the_agent_and_the_next_one_adopts_it() {
    let world = World::new();
    let begun = Instant::now();
    let server = world.first().await;
    measured("bootstrap", begun.elapsed());
    put(&server, "k", "v").await;
    let (config, etcd) = (server.config().clone(), pid(&server));
    let stat = std::fs::read_to_string(format!("/proc/{etcd}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!(fields[3], etcd.to_string(), "it leads a session of its own");
    assert_eq!(fields[16], "-10", "with priority, as root");

    drop(server);
    let adopts = async |how: &str| {
        let begun = Instant::now();
        let server = Server::start(config.clone()).await.unwrap();
        measured("adoption", begun.elapsed());
        let adopted = State::Running {
            pid: etcd,
            adopted: true,
            restarts: 0,
        };
        assert_eq!(server.state(), adopted, "{how}");
        assert_eq!(server.outdated(), Vec::<String>::new());
        server
    };
    drop(adopts("by its record").await);
    std::fs::remove_file(&config.record).unwrap();
    drop(adopts("by its lock").await);
    std::fs::write(&config.record, "{").unwrap();
    let server = adopts("with a damaged record").await;
    assert_eq!(get(&server, "k").await.as_deref(), Some("v"));
    assert_eq!(etcds(world.folder.path()).len(), 1);

    let mut other = config.clone();
    other.profile = model::Profile::Stock;
    drop(server);
    let server = Server::start(other).await.unwrap();
    assert_eq!(
        server.outdated(),
        ["--heartbeat-interval=100", "--election-timeout=1000"]
    );
    server.restart(Duration::from_secs(10)).await.unwrap();
    assert_eq!(server.outdated(), Vec::<String>::new());
    wait_ready(&server, crate::rig::PATIENCE).await.unwrap();
    assert_eq!(get(&server, "k").await.as_deref(), Some("v"));
}

/// Another process that starts etcd and ends, as an agent does: run by the test below.
#[tokio::test]
#[ignore = "the other half of the test below"]
async fn an_earlier_agent() {
    let Some(folder) = std::env::var_os("EARLIER_AGENT_FOLDER") else {
        return;
    };
    let config: Vec<String> = std::fs::read_to_string(std::path::Path::new(&folder).join("config"))
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    let mut made = etcd::server::Config::new(
        "a",
        folder.as_ref(),
        config[1].parse().unwrap(),
        config[2].parse().unwrap(),
    );
    made.address = config[0].parse().unwrap();
    drop(bootstrap(made).await.unwrap());
}

#[tokio::test]
async fn the_etcd_of_an_agent_that_is_gone_is_adopted_watched_and_started_again() {
    let world = World::new();
    let mut config = world.config("a", 0);
    let folder = config.data_dir.parent().unwrap().to_path_buf();
    config.profile = model::Profile::Lan;
    std::fs::create_dir_all(&folder).unwrap();
    let text = format!("{}\n{}\n{}\n", config.address, config.client_port, config.peer_port);
    std::fs::write(folder.join("config"), text).unwrap();
    let earlier = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "life::an_earlier_agent"])
        .env("EARLIER_AGENT_FOLDER", &folder)
        .output()
        .unwrap();
    assert!(earlier.status.success(), "{}", String::from_utf8_lossy(&earlier.stdout));

    let server = Server::start(config).await.unwrap();
    assert!(
        matches!(server.state(), State::Running { adopted: true, .. }),
        "{:?}",
        server.state()
    );
    put(&server, "k", "v").await;
    let first = pid(&server);
    let mut state = server.watch();
    state.mark_unchanged();
    signal(first, "KILL");
    let begun = Instant::now();
    state.changed().await.unwrap();
    measured("death noticed", begun.elapsed());
    until("it is started again", async || {
        matches!(
            server.state(),
            State::Running {
                adopted: false,
                restarts: 1,
                ..
            }
        )
    })
    .await;
    wait_ready(&server, crate::rig::PATIENCE).await.unwrap();
    measured("dead until it serves again", begun.elapsed());
    assert_ne!(pid(&server), first);
    assert_eq!(
        get(&server, "k").await.as_deref(),
        Some("v"),
        "what was acknowledged is there"
    );
}

#[tokio::test]
async fn one_that_hangs_is_not_doubled_and_is_killed_when_it_is_to_stop() {
    let world = World::new();
    let server = world.first().await;
    let (config, etcd) = (server.config().clone(), pid(&server));
    signal(etcd, "STOP");
    drop(server);
    let server = Server::start(config.clone()).await.unwrap();
    assert_eq!(pid(&server), etcd, "it hangs, but it has the data");
    let stopped = server.stop(Duration::from_millis(300)).await.unwrap();
    assert!(matches!(stopped, Some(Stopped::Killed(_))), "{stopped:?}");
    assert_eq!(etcds(world.folder.path()), []);
    assert!(!config.record.exists());

    let server = Server::start(config).await.unwrap();
    wait_ready(&server, crate::rig::PATIENCE).await.unwrap();
    let begun = Instant::now();
    let stopped = server.stop(Duration::from_secs(10)).await.unwrap();
    measured("polite stop", begun.elapsed());
    assert!(matches!(stopped, Some(Stopped::Asked(_))), "{stopped:?}");
}

#[tokio::test]
async fn two_agents_at_once_start_one_etcd() {
    let world = World::new();
    let config = world.config("a", 0);
    let starts = (0..6).map(|_| tokio::spawn(Server::start(config.clone())));
    let mut servers = Vec::new();
    for start in starts.collect::<Vec<_>>() {
        match start.await.unwrap() {
            Ok(server) => servers.push(server),
            // The other one holds the lock and has not executed etcd yet.
            Err(StartError::Lock(LockError::Held { .. })) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(etcds(world.folder.path()).len(), 1);
    let pids: Vec<u32> = servers.iter().map(pid).collect();
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
}

#[tokio::test]
async fn data_that_somebody_elses_etcd_has_open_are_refused() {
    let world = World::new();
    let server = world.first().await;
    let mut config = server.config().clone();
    server.stop(Duration::from_secs(10)).await.unwrap();
    // Started by hand, say, on other ports.
    let by_hand = world.config("a", 5);
    let mut arguments = by_hand.arguments();
    arguments.push(format!("--data-dir={}", config.data_dir.display()));
    let mut child = Command::new("etcd")
        .args(&arguments)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let database = config.data_dir.join("member/snap/db");
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(database).unwrap()).to_string();
    until("it has its database open", async || {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks
            .lines()
            .any(|line| line.contains("FLOCK") && line.contains(&format!(":{inode} ")))
    })
    .await;
    config.client_port += 20;
    config.peer_port += 20;
    let refused = Server::start(config).await.unwrap_err();
    assert!(
        matches!(&refused, StartError::Lock(LockError::Held { holder: Some(pid), .. }) if *pid == child.id()),
        "{refused}"
    );
    assert!(refused.hint().unwrap().contains(&format!("ps -fp {}", child.id())));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn what_makes_a_start_hopeless_is_told_with_its_remedy() {
    let world = World::new();
    let mut taken = world.config("a", 0);
    let listener = std::net::TcpListener::bind((taken.address, taken.client_port)).unwrap();
    let error = bootstrap(taken.clone()).await.unwrap_err();
    assert!(
        matches!(&error, Error::Died { because, .. } if because.cause == Cause::PortTaken),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("ss -ltnp"), "{:?}", error.hint());
    drop(listener);
    assert_eq!(etcds(world.folder.path()), [], "nothing is left running");

    taken = world.config("a", 1);
    let server = bootstrap(taken).await.unwrap();
    let config = server.config().clone();
    assert!(matches!(bootstrap(config.clone()).await, Err(Error::HasData { .. })));
    server.stop(Duration::from_secs(10)).await.unwrap();
    let wal = std::fs::read_dir(config.data_dir.join("member/wal")).unwrap().flatten();
    for file in wal.filter(|file| file.path().extension().is_some_and(|kind| kind == "wal")) {
        let mut bytes = std::fs::read(file.path()).unwrap();
        bytes[100..400].fill(0xaa);
        std::fs::write(file.path(), bytes).unwrap();
    }
    let server = Server::start(config).await.unwrap();
    let mut state = server.watch();
    let failed = state.wait_for(|state| matches!(state, State::Failed { .. }));
    let failed = tokio::time::timeout(crate::rig::PATIENCE, failed)
        .await
        .unwrap()
        .unwrap()
        .clone();
    let State::Failed { because } = failed else {
        unreachable!()
    };
    assert_eq!(because.cause, Cause::Damaged, "{because}");
    assert!(because.hint().unwrap().contains("backup"));
}

#[tokio::test]
async fn a_second_of_measuring_proposes_a_timing_for_this_machine() {
    use etcd::server::measure::{SPAN, measure};
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let peer = std::net::SocketAddr::from((crate::rig::address(), 9));
    let begun = Instant::now();
    let found = measure(disk.path(), &[peer], SPAN).await.unwrap();
    assert!(begun.elapsed() < SPAN * 4, "a slow sync at the end comes on top");
    eprintln!("measured: {found:?}");
    let proposal = etcd::server::propose(&found);
    eprintln!("measured: {proposal:?}");
    assert_eq!(
        proposal.fits,
        etcd::server::misfits(&found, proposal.profile).is_empty()
    );
    assert!(found.disk.p50 <= found.disk.p99 && found.disk.p99 <= found.disk.max);

    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let found = measure(memory.path(), &[], Duration::from_millis(20)).await.unwrap();
    assert!(found.volatile);
}
