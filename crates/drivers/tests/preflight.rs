//! What is found before anything is started, on a real file system and real ports.

#![expect(clippy::unwrap_used, reason = "a test helper that panics is a failing test")]

use drivers::preflight::{Finding, PreflightEnv, check, cold_ready};
use model::{
    Addressing, Check, CheckKind, Hook, Limits, Logs, Millis, Protocol, Restart, Service, Spread, StandbyMode, Stop,
    StopSignal,
};
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

#[test]
fn a_service_that_can_run_has_no_findings() {
    let place = Place::new();
    let mut service = service(&["./bin/web", "--port", "{port}"]);
    place.program("bin/web", "#!/usr/bin/env sh\n");
    fs::create_dir(place.path("data")).unwrap();
    service.on_promote = Some(hook(&["true"]));
    service.check = Some(exec_check(&["{data}/../bin/web"]));
    service.dir = Some(place.path("bin").display().to_string());
    service.listen = Some(free_address());
    service.limits = Limits {
        open_files: Some(16),
        core_bytes: Some(0),
        ..Limits::default()
    };
    assert_eq!(place.check(&service), []);
    assert_eq!(place.cold_ready(&service), None);
}

#[test]
fn programs_that_cannot_be_run_are_found_for_every_command() {
    let place = Place::new();
    place.file("plain", "", 0o644);
    let mut service = service(&["no-such-program"]);
    service.env.insert("PATH".into(), "{data}/bin:/bin".into());
    service.on_promote = Some(hook(&["./plain"]));
    service.on_demote = Some(hook(&["/no/such/demote"]));
    service.on_follow = Some(hook(&["./"]));
    service.check = Some(exec_check(&["{nonsense}"]));
    service.standby_check = Some(exec_check(&["lib/check"]));
    let base = place.0.path().display();
    let expected = [
        finding(
            "command",
            format!("`no-such-program` is in none of the folders of PATH ({base}/data/bin:/bin)"),
            "install `no-such-program`, write its full path, or set PATH in `env`",
        ),
        finding(
            "on_promote",
            format!("`{base}/plain` is not executable"),
            &format!("allow it: chmod a+rx {base}/plain"),
        ),
        finding(
            "on_demote",
            "`/no/such/demote` does not exist".into(),
            "its folder `/no/such` does not exist either: check the path",
        ),
        finding(
            "on_follow",
            format!("`{base}/` is a folder, not a file"),
            "name the program itself",
        ),
        finding("check", "there is no `nonsense`".into(), "correct the placeholder"),
        finding(
            "standby_check",
            format!("`{base}/lib/check` does not exist"),
            &format!("its folder `{base}/lib` does not exist either: check the path"),
        ),
    ];
    assert_eq!(place.check(&service), expected);
    assert_eq!(place.cold_ready(&service).as_ref(), expected.first());
    service.command = vec!["sh".into()];
    assert_eq!(
        place.cold_ready(&service).as_ref(),
        expected.get(1),
        "it could not be promoted"
    );
}

#[test]
fn files_that_the_kernel_would_refuse_are_found() {
    let place = Place::new();
    let problem = |content: &[u8]| {
        fs::write(place.path("program"), content).unwrap();
        fs::set_permissions(place.path("program"), Permissions::from_mode(0o755)).unwrap();
        let findings = place.check(&service(&["./program"]));
        let prefix = format!("`{}` ", place.path("program").display());
        findings.first().map(|finding| {
            finding
                .problem
                .strip_prefix(&prefix)
                .expect("names the file")
                .to_owned()
        })
    };
    assert_eq!(problem(b"#!/bin/sh -e\necho\n"), None);
    assert_eq!(problem(b"#! /usr/bin/env -S LANG=C sh -e\n"), None);
    assert_eq!(
        problem(b"#!/usr/bin/python9\n").unwrap(),
        "needs an interpreter that cannot be run: `/usr/bin/python9` does not exist"
    );
    assert!(
        problem(b"#!/usr/bin/env python9\n")
            .unwrap()
            .contains("`python9` is in none of the folders of PATH")
    );
    assert_eq!(
        problem(b"#!/bin/sh\r\necho\r\n").unwrap(),
        "has Windows line ends, so that its interpreter is not found"
    );
    assert_eq!(problem(b"#!\n").unwrap(), "names no interpreter after `#!`");
    if fs::read_dir("/proc/sys/fs/binfmt_misc").map_or(0, Iterator::count) <= 2 {
        assert_eq!(problem(b"").unwrap(), "is empty");
        assert_eq!(
            problem(b"echo hello\n").unwrap(),
            "is neither a program nor a script that begins with `#!`"
        );
    }

    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    assert_eq!(problem(&own), None);
    let mut elsewhere = own.clone();
    elsewhere[18..20].copy_from_slice(&22u16.to_le_bytes()); // s390
    let found = problem(&elsewhere).unwrap();
    assert!(
        found.starts_with("is built for another processor, and this machine is "),
        "{found}"
    );
    if let Some(at) = own.windows(11).position(|window| window == b"/lib64/ld-l") {
        let mut loader = own;
        loader[at + 1] = b'L';
        let found = problem(&loader).unwrap();
        assert!(
            found.starts_with("needs the loader `/Lib64/ld-l") && found.ends_with("`, which does not exist"),
            "{found}"
        );
    }
    // Cut off in the middle, as after a failed copy: nothing to say, and no panic.
    assert_eq!(problem(b"\x7fELF\x02\x01"), None);
}

#[test]
fn the_user_must_exist_and_be_allowed_to_run_the_program() {
    let place = Place::new();
    place.program("web", "#!/bin/sh\n");
    let mut service = service(&["./web"]);
    service.user = Some("no-such-user".into());
    let findings = place.check(&service);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].key, "user");
    assert_eq!(findings[0].problem, "there is no user `no-such-user` on this machine");
    assert_eq!(place.cold_ready(&service).as_ref(), findings.first());

    service.user = Some("nobody".into());
    let base = place.0.path();
    fs::set_permissions(base, Permissions::from_mode(0o700)).unwrap();
    let findings = place.check(&service);
    if !rustix::process::geteuid().is_root() {
        assert_eq!(findings[0].problem, "only root may run programs as user `nobody`");
        return;
    }
    let expected = format!(
        "user `nobody` may not enter `{}`, where `{}` lies",
        base.display(),
        place.path("web").display()
    );
    assert_eq!(
        findings,
        [finding(
            "command",
            expected,
            &format!("allow it: chmod a+x {}", base.display())
        )]
    );
    fs::set_permissions(base, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(place.check(&service), []);
    fs::set_permissions(place.path("web"), Permissions::from_mode(0o750)).unwrap();
    let expected = format!("user `nobody` may not execute `{}`", place.path("web").display());
    assert_eq!(place.check(&service)[0].problem, expected);
}

#[test]
fn the_working_directory_must_be_there() {
    let place = Place::new();
    place.file("file", "", 0o644);
    let mut service = service(&["sh"]);
    let mut problem = |dir: PathBuf| {
        service.dir = Some(dir.display().to_string());
        place
            .check(&service)
            .pop()
            .map(|finding| (finding.key, finding.problem))
    };
    let base = place.0.path().display();
    assert_eq!(
        problem(place.path("none")),
        Some(("dir", format!("`{base}/none` does not exist")))
    );
    assert_eq!(
        problem(place.path("file")),
        Some(("dir", format!("`{base}/file` is not a folder")))
    );
    assert_eq!(problem(place.path("")), None);
    assert_eq!(problem("{data}".into()), None, "it is made with the instance");
    assert_eq!(
        problem("{nonsense}/x".into()),
        Some(("dir", "there is no `nonsense`".into()))
    );
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(place.0.path(), Permissions::from_mode(0o700)).unwrap();
        service.user = Some("nobody".into());
        service.dir = Some(base.to_string());
        let found = place.check(&service).pop().unwrap();
        assert_eq!(found.problem, format!("user `nobody` may not enter `{base}`"));
    }
}

#[test]
fn an_address_in_use_is_found_with_its_holder() {
    let place = Place::new();
    let mut service = service(&["sh"]);
    let mut findings = |address: &str| {
        service.listen = Some(address.parse().unwrap());
        place.check(&service)
    };
    for listener in [
        TcpListener::bind("127.0.0.1:0").unwrap(),
        TcpListener::bind("[::]:0").unwrap(),
    ] {
        let port = listener.local_addr().unwrap().port();
        let found = findings(&format!("127.0.0.1:{port}")).pop().expect("the port is taken");
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        let expected = format!(
            "127.0.0.1:{port} is in use by `{}` (process {})",
            name.trim(),
            std::process::id()
        );
        assert_eq!((found.key, found.problem), ("listen", expected));
        drop(listener);
        assert_eq!(findings(&format!("127.0.0.1:{port}")), []);
    }
    let found = findings("192.0.2.77:8080").pop().unwrap();
    assert_eq!(found.problem, "192.0.2.77 is not an address of this machine");
}

#[test]
fn our_own_listener_is_no_finding() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut service = service(&["sh"]);
    service.listen = Some(address);
    assert_eq!(place.check(&service).len(), 1);
    assert_eq!(place.check_with(&service, &[address]), []);
}

#[test]
fn the_data_folder_must_be_writable() {
    let place = Place::new();
    let service = service(&["sh"]);
    let problem = |data: &Path| {
        let found = check(&service, place.env(data, &BTreeSet::new())).pop();
        found.map(|finding| (finding.key, finding.problem))
    };
    assert_eq!(problem(&place.path("not/made/yet")), None);
    place.file("file", "", 0o644);
    let base = place.0.path().display();
    let expected = format!("the data folder `{base}/file/db-1` cannot be made: `{base}/file` is not a folder");
    assert_eq!(problem(&place.path("file/db-1")), Some(("data", expected)));
    // Nobody writes into /proc, not even root; it says so in different words to each.
    let (key, _) = problem(Path::new("/proc/understudy")).expect("it is not writable");
    assert_eq!(key, "data");
    if !rustix::process::geteuid().is_root() {
        let expected = "understudy may not write into the data folder `/`".into();
        assert_eq!(problem(Path::new("/understudy-test")), Some(("data", expected)));
    }
}

#[test]
fn limits_above_what_is_possible_are_found() {
    let place = Place::new();
    let mut service = service(&["sh"]);
    service.limits.open_files = Some(u64::MAX);
    let found = place.check(&service).pop().unwrap();
    assert_eq!(found.key, "limits.open_files");
    assert!(
        found.problem.starts_with("18446744073709551615 is more than "),
        "{}",
        found.problem
    );
    let most = found
        .help
        .strip_prefix("ask for at most ")
        .unwrap()
        .split(',')
        .next()
        .unwrap();
    service.limits.open_files = Some(most.parse().unwrap());
    assert_eq!(place.check(&service), []);
}

/// A folder for a test, with the operator's file in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn program(&self, name: &str, content: &str) {
        self.file(name, content, 0o755);
    }

    fn file(&self, name: &str, content: &str, mode: u32) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    fn check(&self, service: &Service) -> Vec<Finding> {
        self.check_with(service, &[])
    }

    fn check_with(&self, service: &Service, ours: &[SocketAddr]) -> Vec<Finding> {
        let ours = ours.iter().copied().collect();
        self.with(&ours, |env| check(service, env))
    }

    fn cold_ready(&self, service: &Service) -> Option<Finding> {
        self.with(&BTreeSet::new(), |env| cold_ready(service, env).err())
    }

    fn with<T>(&self, skip_listen: &BTreeSet<SocketAddr>, work: impl FnOnce(PreflightEnv<'_>) -> T) -> T {
        let data = self.path("data");
        let expand = |word: &str| match word.replace("{data}", &data.display().to_string()) {
            word if word.contains("{nonsense}") => Err("there is no `nonsense`".to_owned()),
            word => Ok(word),
        };
        work(PreflightEnv {
            base: Some(self.0.path()),
            data: &data,
            skip_listen,
            expand: &expand,
        })
    }

    fn env<'a>(&'a self, data: &'a Path, skip_listen: &'a BTreeSet<SocketAddr>) -> PreflightEnv<'a> {
        PreflightEnv {
            base: Some(self.0.path()),
            data,
            skip_listen,
            expand: &|word| Ok(word.to_owned()),
        }
    }
}

fn finding(key: &'static str, problem: String, help: &str) -> Finding {
    Finding {
        key,
        problem,
        help: help.into(),
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn hook(command: &[&str]) -> Hook {
    Hook {
        command: words(command),
        timeout: Millis(1000),
    }
}

fn exec_check(command: &[&str]) -> Check {
    let kind = CheckKind::Exec {
        command: words(command),
    };
    Check {
        kind,
        every: Millis(1000),
        timeout: Millis(1000),
        fail_after: 2,
        pass_after: 1,
    }
}

fn service(command: &[&str]) -> Service {
    Service {
        command: words(command),
        active: 1,
        standby: 1,
        need: 1,
        exclusive: false,
        standby_mode: StandbyMode::Cold,
        listen: None,
        address: None,
        protocol: Protocol::Tcp,
        addressing: Addressing::Port,
        check: None,
        standby_check: None,
        needs: BTreeSet::new(),
        spread: Spread::Prefer,
        nodes: BTreeSet::new(),
        avoid: BTreeSet::new(),
        reserve: model::Reserve::default(),
        on_promote: None,
        on_demote: None,
        on_follow: None,
        env: Default::default(),
        dir: None,
        user: None,
        limits: Limits::default(),
        start_timeout: Millis(1000),
        stop: Stop {
            signal: StopSignal::Term,
            timeout: Millis(1000),
        },
        restart: Restart {
            backoff: Millis(1000),
            backoff_max: Millis(1000),
            replace_after: 3,
            give_up_after: 3,
            retry_after: Millis(1000),
        },
        logs: Logs {
            max_bytes: 1 << 20,
            keep: 1,
        },
        drain_timeout: Millis(1000),
        hold_timeout: Millis(1000),
        hold_max: 1000,
        objective: None,
        fence: model::FenceBy::default(),
        reliability: model::Reliability::default(),
    }
}
