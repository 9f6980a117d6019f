//! Without root: no cgroups of our own, and all the same no process is left behind.

use super::{PROGRAM, text};
use bench::{process, rig};
use rustix::process::Signal;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

#[test]
fn up_failover_and_down_work_for_a_user_without_root() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    // The binary lies where only root may go; a user has a copy.
    let program = folder.path().join("understudy");
    std::fs::copy(PROGRAM, &program).unwrap();
    let listen = rig::free_address().unwrap();
    let file = folder.path().join("user.toml");
    let text_of_file = format!(
        "name = \"user\"\n[service.web]\ncommand = [\"{{understudy}}\", \"sample\", \"web\", \"--port\", \"{{port}}\"]\nlisten = \"{listen}\"\nprotocol = \"http\"\ncheck = {{ http = \"/healthz\", every = \"200ms\", fail_after = 2 }}\n"
    );
    std::fs::write(&file, text_of_file).unwrap();
    for path in [folder.path(), &home] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::os::unix::fs::chown(&home, Some(65534), Some(65534)).unwrap();
    let run = |words: &[&str]| -> Output {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(&program)
            .args(words);
        command
            .env_clear()
            .env("HOME", &home)
            .env("PATH", "/usr/bin:/bin")
            .current_dir(&home);
        command
            .output()
            .expect("setpriv is missing: apt-get install util-linux")
    };
    let up = run(&["up", file.to_str().unwrap(), "--detach"]);
    assert!(up.status.success(), "{}", text(&up.stderr));
    let status = || -> api::Status { serde_json::from_slice(&run(&["status", "--json"]).stdout).unwrap() };
    let (_, pid) = rig::holder(&status(), "web", 0).unwrap();
    process::signal(pid, Signal::KILL).unwrap();
    let begun = Instant::now();
    while !rig::redundant_without(&status(), "web", &[pid]) {
        assert!(begun.elapsed() < super::HEAL, "not healed: {:?}", status());
        std::thread::sleep(Duration::from_millis(50));
    }
    let down = run(&["down", "--yes"]);
    assert!(down.status.success(), "{}", text(&down.stderr));
    let begun = Instant::now();
    while !process::belonging_to(&home).is_empty() {
        assert!(
            begun.elapsed() < super::HEAL,
            "left: {:?}",
            process::belonging_to(&home)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
