//! Mistakes: each is told clearly with exit code 1, and the other services are not touched.

use super::{HEAL, PROGRAM, text};
use bench::rig::{self, Rig};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

/// A cluster with one service that must not be touched, whatever else is asked for.
struct Calm {
    rig: Rig,
    pids: std::collections::BTreeMap<String, u32>,
}

const SLEEPER: &str = "name = \"calm\"\n[service.sleeper]\ncommand = [\"sleep\", \"1000\"]\n";

impl Calm {
    fn up() -> Self {
        let rig = Rig::up(Path::new(PROGRAM), "calm", SLEEPER).unwrap();
        let pids = rig::pids(&rig.status().unwrap());
        Self { rig, pids }
    }

    /// Applies the calm file with more in it.
    fn apply(&self, more: &str) -> Output {
        let path = self.rig.folder().join("new.toml");
        std::fs::write(&path, format!("{SLEEPER}{more}")).unwrap();
        self.rig.run(&["apply", path.to_str().unwrap(), "--yes"]).unwrap()
    }

    fn refuses(&self, more: &str, says: &[&str]) {
        let output = self.apply(more);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{more}\n{said}");
        for words in says {
            assert!(said.contains(words), "`{words}` is missing in:\n{said}");
        }
        self.is_untouched();
    }

    fn is_untouched(&self) {
        let status = self.rig.status().unwrap();
        let service = rig::service(&status, "sleeper").unwrap();
        assert_eq!(service.state, "redundant");
        let mut now = rig::pids(&status);
        now.retain(|id, _| id.starts_with("sleeper"));
        assert_eq!(now, self.pids);
    }
}

#[test]
fn mistakes_in_the_file_are_refused_with_their_place() {
    let calm = Calm::up();
    calm.refuses(
        "[service.web]\ncomand = [\"sleep\", \"1\"]\n",
        &["new.toml:5", "comand", "did you mean `command`"],
    );
    calm.refuses(
        "[service.web]\ncommand = [\"sleep\", \"1\"]\nactive = \"two\"\n",
        &["new.toml:6", "active", "two"],
    );
    calm.refuses("[service.a]\ncommand = [\"sleep\", \"1\"]\nneeds = [\"b\"]\n[service.b]\ncommand = [\"sleep\", \"1\"]\nneeds = [\"a\"]\n", &["a", "b", "needs"]);
    calm.refuses(
        "[service.a]\ncommand = [\"sleep\", \"1\"]\nlisten = \"127.0.0.1:7001\"\n[service.b]\ncommand = [\"sleep\", \"1\"]\nlisten = \"127.0.0.1:7001\"\n",
        &["127.0.0.1:7001"],
    );
    calm.refuses(
        "[service.web]\ncommand = [\"no-such-program\"]\n",
        &["no-such-program", "PATH"],
    );
    calm.refuses(
        "[service.web]\ncommand = [\"/etc/passwd\"]\n",
        &["/etc/passwd", "not executable"],
    );
    calm.refuses(
        "[service.web]\ncommand = [\"sleep\", \"1\"]\nuser = \"nobody-at-all\"\n",
        &["nobody-at-all"],
    );
    calm.refuses("this is not toml", &["new.toml"]);
}

#[test]
fn an_address_in_use_is_refused_with_its_holder() {
    let calm = Calm::up();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    calm.refuses(
        &format!("[service.web]\ncommand = [\"sleep\", \"1\"]\nlisten = \"{address}\"\n"),
        &["in use", &address.to_string()],
    );
}

#[test]
fn a_service_that_exits_at_once_is_given_up_loudly_and_tried_again_when_asked() {
    let calm = Calm::up();
    let more = "[service.bad]\ncommand = [\"sh\", \"-c\", \"echo the reason is here; exit 3\"]\nstandby = 0\n\
                restart = { backoff = \"10ms\", backoff_max = \"20ms\", replace_after = 2, give_up_after = 1 }\n";
    assert!(calm.apply(more).status.success());
    let failed = |status: &api::Status| status.problems.iter().any(|problem| problem.code == "given-up");
    let (status, _) = calm.rig.wait_for("giving up", HEAL, failed).unwrap();
    let bad = rig::service(&status, "bad").unwrap();
    assert_eq!(bad.state, "down");
    let instance = bad.instances[0].clone();
    assert!(
        instance
            .last_failure
            .clone()
            .is_some_and(|last| last.contains("exit code 3")),
        "{instance:?}"
    );
    let logs = calm.rig.run(&["logs", &instance.id]).unwrap();
    assert!(
        text(&logs.stdout).contains("the reason is here"),
        "{}",
        text(&logs.stdout)
    );
    assert!(calm.rig.run(&["retry", &instance.id]).unwrap().status.success());
    calm.is_untouched();
}

#[test]
fn a_promote_hook_that_hangs_is_ended_and_told() {
    let calm = Calm::up();
    let more = "[service.bad]\ncommand = [\"sleep\", \"1000\"]\nexclusive = true\non_promote = { command = [\"sleep\", \"1000\"], timeout = \"200ms\" }\n";
    assert!(calm.apply(more).status.success());
    let told = || {
        let events = calm.rig.run(&["events", "--json", "-n", "1000"]).unwrap();
        text(&events.stdout).contains("had not ended after 200ms")
    };
    let begun = std::time::Instant::now();
    while !told() {
        assert!(begun.elapsed() < HEAL, "nothing is said about the hook");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    calm.is_untouched();
}

#[test]
fn a_damaged_store_is_refused_and_not_touched() {
    let calm = Calm::up();
    let store = calm.rig.folder().join("calm/store.redb");
    assert!(calm.rig.run(&["down", "--yes"]).unwrap().status.success());
    let mut bytes = std::fs::read(&store).unwrap();
    let half = bytes.len() / 2;
    bytes.truncate(half);
    std::fs::write(&store, &bytes).unwrap();
    let path = calm.rig.folder().join("file.toml");
    let refused = calm.rig.run(&["up", path.to_str().unwrap(), "--detach"]).unwrap();
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("damaged") && said.contains("store.redb"), "{said}");
    assert_eq!(std::fs::read(&store).unwrap(), bytes, "it was written to");
}

#[test]
fn commands_without_a_cluster_say_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    for words in [&["status"][..], &["switchover", "db"], &["events"], &["down"]] {
        let output = Command::new(PROGRAM)
            .arg("--state-dir")
            .arg(folder.path())
            .args(words)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(
            text(&output.stderr).contains(&format!("understudy --state-dir {} up FILE", folder.path().display())),
            "{}",
            text(&output.stderr)
        );
    }
    let usage = Command::new(PROGRAM).arg("swichover").output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}

/// Redb and the services share a disk; when it is full nothing is lost and all goes on when there is room again.
#[test]
fn a_full_disk_is_told_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
        .arg(folder.path())
        .status()
        .unwrap();
    assert!(
        mounted.success(),
        "this test mounts a small file system: run it as root"
    );
    let _unmount = Unmount(folder.path());
    let file = folder.path().join("file.toml");
    let text_of = |marker: &str| {
        format!(
            "name = \"full\"\n[service.sleeper]\ncommand = [\"sleep\", \"1000\"]\nenv = {{ MARKER = \"{marker}\" }}\n\
             [service.db]\ncommand = [\"sleep\", \"1000\"]\nexclusive = true\nactive = 1\nstandby = 1\n"
        )
    };
    std::fs::write(&file, text_of("one")).unwrap();
    let run = |words: &[&str]| {
        Command::new(PROGRAM)
            .arg("--state-dir")
            .arg(folder.path())
            .args(words)
            .output()
            .unwrap()
    };
    let up = run(&["up", file.to_str().unwrap(), "--detach"]);
    assert!(up.status.success(), "{}", text(&up.stderr));
    let before = rig::pids(&serde_json::from_slice(&run(&["status", "--json"]).stdout).unwrap());
    // Fill it to the last byte.
    let filler = folder.path().join("filler");
    let _ = Command::new("dd")
        .args(["if=/dev/zero", "bs=4096"])
        .arg(format!("of={}", filler.display()))
        .output();
    let big = format!("{}# {}\n", text_of("two"), "x".repeat(650_000));
    let other = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(other.path(), big).unwrap();
    let refused = run(&["apply", other.path().to_str().unwrap(), "--yes"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("space"), "{said}");
    let after = rig::pids(&serde_json::from_slice(&run(&["status", "--json"]).stdout).unwrap());
    assert_eq!(before, after);
    // Slots change hands all the same: as an operator wants it, and when an active dies.
    let settled = || {
        let begun = std::time::Instant::now();
        loop {
            let output = run(&["status", "--json"]);
            let status: api::Status = serde_json::from_slice(&output.stdout).unwrap();
            let db = status.services.iter().find(|service| service.name == "db").unwrap();
            if db.state == "redundant" {
                return rig::holder(&status, "db", 0).unwrap();
            }
            assert!(begun.elapsed() < HEAL, "{}", text(&output.stdout));
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    let (first, _) = settled();
    let moved = run(&["switchover", "db"]);
    assert!(moved.status.success(), "{}", text(&moved.stderr));
    let (second, active) = settled();
    assert_ne!(first, second);
    super::kill(active);
    assert_ne!(settled().1, active);
    std::fs::remove_file(&filler).unwrap();
    let applied = run(&["apply", other.path().to_str().unwrap(), "--yes"]);
    assert!(applied.status.success(), "{}", text(&applied.stderr));
    assert!(run(&["down", "--yes"]).status.success());
}

/// A file's `env` may hold a password: other users of the machine may pass through the folder to their data, and read none of it.
#[test]
fn other_users_of_the_machine_read_no_secret_of_a_file() {
    const SECRET: &str = "pa55-of-the-database";
    let file = format!(
        "name = \"private\"\n[service.sleeper]\ncommand = [\"sleep\", \"1000\"]\nenv = {{ PASSWORD = \"{SECRET}\" }}\n"
    );
    let api = rig::free_address().unwrap();
    let rig = Rig::up_with(Path::new(PROGRAM), "private", &file, &["--api", &api.to_string()]).unwrap();
    for (path, answer) in [
        ("/v1/status", "200"),
        ("/v1/history", "403"),
        ("/v1/logs/sleeper-1", "403"),
    ] {
        let said = get(api, path);
        assert!(said.starts_with(&format!("HTTP/1.1 {answer} ")), "{path}: {said}");
        assert!(!said.contains(SECRET), "{path}: {said}");
    }
    let (mut told, mut seen) = (Vec::new(), 0);
    let mut folders = vec![rig.folder().join("private")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            if meta.is_dir() {
                folders.push(path);
            } else if meta.is_file() {
                let has_it = std::fs::read(&path)
                    .unwrap()
                    .windows(SECRET.len())
                    .any(|window| window == SECRET.as_bytes());
                seen += usize::from(has_it);
                if has_it && meta.permissions().mode() & 0o077 != 0 {
                    told.push(format!("{} has mode {:o}", path.display(), meta.permissions().mode()));
                }
            }
        }
    }
    assert!(
        seen >= 2,
        "it is at least in the store and in the record of the process"
    );
    assert_eq!(told, Vec::<String>::new());
    rig.down().unwrap();
}

fn get(at: std::net::SocketAddr, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(at).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        for pid in bench::process::belonging_to(self.0) {
            bench::process::signal(pid, rustix::process::Signal::KILL).ok();
        }
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}
