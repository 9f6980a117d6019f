//! What a service finds at its start, and every way in which a start fails.

use crate::world::{World, both, launch, marked};
use drivers::process::{Launch, StartError};
use drivers::program;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

both! {
    a_service_starts_from_a_clean_slate
    folder_environment_and_limits_are_as_asked
    a_service_runs_as_its_user
    what_is_wrong_with_a_program_is_named
    what_is_wrong_with_the_surroundings_is_named
}

async fn a_service_starts_from_a_clean_slate(world: &World) {
    // An agent with everything that could leak: a descriptor without close-on-exec, ignored and blocked signals (Rust ignores
    // SIGPIPE by itself), a place in the queue of the OOM killer.
    let leak = rustix::io::fcntl_dupfd_cloexec(fs::File::open("/dev/null").unwrap().as_fd(), 50).unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    fs::write("/proc/self/oom_score_adj", "100").unwrap();
    assert!(status_of("self", "SigIgn:").contains("1000"), "SIGPIPE is ignored here");
    let script = "grep -E '^Sig(Ign|Blk)' /proc/self/status; echo oom $(cat /proc/self/oom_score_adj) nice $(nice) umask $(umask); \
        for fd in /proc/$$/fd/*; do [ -L $fd ] && echo $fd $(readlink $fd); done; ps -o pid=,sid=,pgid= -p $$; env | sort; cat; echo end";
    let process = world.sh(script).await;
    let log = world.log("end\n").await;
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[..2], ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"]);
    assert_eq!(lines[2], "oom 0 nice 0 umask 0022");
    let (pid, log) = (process.pid(), world.launch(&[]).log);
    let descriptors: Vec<String> = [(0, Path::new("/dev/null")), (1, &log), (2, &log)]
        .map(|(fd, path)| format!("/proc/{pid}/fd/{fd} {}", path.display()))
        .to_vec();
    assert_eq!(lines[3..6], descriptors);
    let ids: Vec<u32> = lines[6].split_whitespace().map(|id| id.parse().unwrap()).collect();
    assert_eq!(ids, [pid; 3], "a session and group of its own");
    let names: Vec<&str> = lines[7..lines.len() - 1]
        .iter()
        .map(|line| line.split('=').next().unwrap())
        .collect();
    // PWD and the like are made by the shell.
    let given: Vec<&str> = names
        .into_iter()
        .filter(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name))
        .collect();
    assert_eq!(
        given,
        ["HOME", "LANG", "LOGNAME", "PATH", "UNDERSTUDY_INSTANCE", "USER"]
    );
    process.kill().await.unwrap();
}

async fn folder_environment_and_limits_are_as_asked(world: &World) {
    let folder = world.dir.path().join("it's here");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("tool"), "#!/bin/sh\necho tool \"$@\" in \"$PWD\"; echo $HOME $EXTRA; ulimit -n; ulimit -Hn; ulimit -c; ulimit -v; echo end\n").unwrap();
    fs::set_permissions(folder.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut wanted = world.launch(&["./tool", "a b", ""]);
    wanted.dir = folder.clone();
    wanted.env = [
        ("HOME", "/elsewhere"),
        ("EXTRA", "x=y"),
        ("UNDERSTUDY_INSTANCE", "forged"),
    ]
    .map(|(n, v)| (n.into(), v.into()))
    .into();
    wanted.limits = model::Limits {
        open_files: Some(123),
        processes: None,
        memory_bytes: Some(1 << 30),
        core_bytes: Some(0),
    };
    let process = world.driver.start(wanted).await.unwrap();
    let log = world.log("end\n").await;
    assert_eq!(
        log,
        format!(
            "tool a b  in {}\n/elsewhere x=y\n123\n123\n0\n{}\nend\n",
            folder.display(),
            1 << 20
        )
    );
    process.reap_tree().await.unwrap();
}

async fn a_service_runs_as_its_user(world: &World) {
    let dir = world.dir.path();
    if !is_root() {
        let mut wanted = world.launch(&["true"]);
        wanted.user = Some("root".into());
        let error = world.driver.start(wanted).await.unwrap_err();
        assert!(matches!(error, StartError::NotRoot { .. }), "{error}");
        return;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let mut wanted = world.launch(&[
        "sh",
        "-c",
        "id -u; id -g; id -G; echo $USER $HOME; cat /etc/shadow; echo end",
    ]);
    wanted.user = Some("nobody".into());
    let process = world.driver.start(wanted.clone()).await.unwrap();
    let log = world.log("end\n").await;
    assert!(log.starts_with("65534\n65534\n65534\nnobody /nonexistent\n"), "{log}");
    assert!(log.contains("Permission denied"), "{log}");
    process.reap_tree().await.unwrap();

    // It may not enter every folder that root may.
    let private = dir.join("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    let error = world
        .driver
        .start(Launch {
            dir: private.clone(),
            ..wanted.clone()
        })
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StartError::Dir { user, .. } if user == "nobody"),
        "{error}"
    );
    fs::copy("/bin/true", private.join("tool")).unwrap();
    let command = vec![private.join("tool").display().to_string()];
    let error = world
        .driver
        .start(Launch {
            command: command.clone(),
            ..wanted.clone()
        })
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StartError::NotExecutable { user, .. } if user == "nobody"),
        "{error}"
    );
    chown(&private, Some(65534), None).unwrap();
    let process = world
        .driver
        .start(Launch {
            command,
            dir: private,
            ..wanted
        })
        .await
        .unwrap();
    process.exited().await;
    process.reap_tree().await.unwrap();
}

async fn what_is_wrong_with_a_program_is_named(world: &World) {
    let dir = world.dir.path();
    let file = |name: &str, text: &[u8], mode| {
        fs::write(dir.join(name), text).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    file("plain", b"text", 0o755);
    file("locked", b"#!/bin/sh\n", 0o644);
    file("odd", b"#!/no/such/interpreter\n", 0o755);
    file("broken", b"\x7fELF garbage", 0o755);

    let mut wanted = world.launch(&["no-such-program"]);
    wanted.env.insert("PATH".into(), "/bin:/opt/none".into());
    let error = fails(world, wanted).await;
    assert_eq!(
        error.to_string(),
        "`no-such-program` is in none of the folders of PATH (/bin:/opt/none)"
    );
    let command = |words: &[&str]| fails(world, world.launch(words));
    assert!(matches!(
        command(&["/no/such"]).await,
        StartError::Program(program::Error::Missing { .. })
    ));
    assert!(matches!(
        command(&["./locked"]).await,
        StartError::Program(program::Error::NotExecutable { .. })
    ));
    assert!(matches!(
        command(&["/tmp"]).await,
        StartError::Program(program::Error::NotAFile { .. })
    ));
    assert!(matches!(command(&[]).await, StartError::Program(program::Error::Empty)));
    assert!(matches!(command(&["./plain"]).await, StartError::NotAProgram { .. }));
    assert!(matches!(command(&["./broken"]).await, StartError::NotAProgram { .. }));
    assert!(matches!(command(&["./odd"]).await, StartError::NoInterpreter { .. }));
    assert!(matches!(
        command(&["true", &"x".repeat(8 << 20)]).await,
        StartError::TooLong { .. }
    ));
    assert!(matches!(command(&["true", "a", "b\0c"]).await, StartError::Nul { what } if what == "argument 2"));
    let with_variable = |name: &str, value: &str| {
        let mut wanted = world.launch(&["true"]);
        wanted.env.insert(name.into(), value.into());
        fails(world, wanted)
    };
    assert!(matches!(with_variable("A=B", "").await, StartError::VariableName { name } if name == "A=B"));
    assert!(matches!(with_variable("A", "\0").await, StartError::Nul { what } if what == "the variable `A`"));
}

async fn what_is_wrong_with_the_surroundings_is_named(world: &World) {
    let wanted = || world.launch(&["sleep", "1000"]);
    let path = |name: &str| world.dir.path().join(name);
    fs::write(path("file"), "").unwrap();

    let error = fails(
        world,
        Launch {
            dir: path("none"),
            ..wanted()
        },
    )
    .await;
    assert!(matches!(error, StartError::NoDir { .. }), "{error}");
    let command = vec!["/bin/true".to_owned()];
    let error = fails(
        world,
        Launch {
            dir: path("file"),
            command,
            ..wanted()
        },
    )
    .await;
    assert!(matches!(error, StartError::Dir { .. }), "{error}");
    let error = fails(
        world,
        Launch {
            user: Some("no-such-user".into()),
            ..wanted()
        },
    )
    .await;
    assert!(matches!(error, StartError::User(_)), "{error}");
    let error = fails(
        world,
        Launch {
            log: path("file/log"),
            ..wanted()
        },
    )
    .await;
    assert!(matches!(error, StartError::Log { .. }), "{error}");
    let error = fails(
        world,
        Launch {
            record: path("file/record"),
            ..wanted()
        },
    )
    .await;
    assert!(matches!(error, StartError::Record { .. }), "{error}");
    let limits = model::Limits {
        open_files: Some(u64::MAX - 1),
        ..Default::default()
    };
    let error = fails(world, Launch { limits, ..wanted() }).await;
    assert!(matches!(error, StartError::Limit { name: "open_files", .. }), "{error}");
    if is_root() {
        // More users than the kernel can count.
        let error = fails(
            world,
            Launch {
                user: Some("4294967295".into()),
                ..wanted()
            },
        )
        .await;
        assert!(matches!(error, StartError::Identity { .. }), "{error}");
    }
    if world.has_cgroups() {
        // An earlier process with the same number still runs: what was not said to be gone is not started over.
        let process = world.start(&["sleep", "1000"]).await;
        let error = world
            .driver
            .start(Launch {
                record: path("other"),
                ..wanted()
            })
            .await
            .unwrap_err();
        assert!(matches!(error, StartError::Cgroup { doing: "make", .. }), "{error}");
        process.kill().await.unwrap();
    }
}

/// A start that fails leaves nothing behind.
async fn fails(world: &World, wanted: Launch) -> StartError {
    let record = wanted.record.clone();
    let error = world.driver.start(wanted).await.unwrap_err();
    assert!(!record.exists(), "no record");
    assert_eq!(marked(&world.cluster_id), [0; 0], "no process");
    error
}

/// A full disk is a small file system of its own, where we may mount one.
#[tokio::test]
async fn a_full_disk_is_named() {
    let world = World::new(false);
    let small = world.dir.path().join("small");
    fs::create_dir(&small).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4k,nr_inodes=2", "none"])
        .arg(&small)
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: not allowed to mount");
        return;
    }
    fs::write(small.join("taken"), [0; 4096]).unwrap();
    let log = fails(
        &world,
        Launch {
            log: small.join("log"),
            ..world.launch(&["sleep", "1000"])
        },
    )
    .await;
    let record = fails(
        &world,
        Launch {
            record: small.join("record"),
            ..world.launch(&["sleep", "1000"])
        },
    )
    .await;
    let unmounted = std::process::Command::new("umount").arg(&small).status().unwrap();
    assert!(matches!(log, StartError::DiskFull { .. }), "{log}");
    assert!(matches!(record, StartError::DiskFull { .. }), "{record}");
    assert!(unmounted.success());
}

/// In a process of its own, since the limit holds for all of it.
#[tokio::test]
async fn too_many_open_files_are_named() {
    let world = World::new(false);
    let process = world.start(&["sleep", "1000"]).await;
    let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let mut hoard = Vec::new();
    let few = rustix::process::Rlimit {
        current: Some(64),
        maximum: before.maximum,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
    while let Ok(file) = fs::File::open("/dev/null") {
        hoard.push(file);
    }
    let mut other = launch(world.dir.path(), "web-2", &["sleep", "1000"]);
    other.dir = "/".into();
    let error = world.driver.start(other).await.unwrap_err();
    drop(hoard);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, before).unwrap();
    assert!(matches!(error, StartError::TooManyFiles { limit: 64 }), "{error}");
    process.kill().await.unwrap();
}

fn status_of(pid: &str, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find(|line| line.starts_with(field)).unwrap().to_owned()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
