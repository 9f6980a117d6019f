//! `check`: the file alone, and the file on this machine.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Fake, Reply, run_in, sample};
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};

fn file(folder: &tempfile::TempDir, text: &str) -> String {
    let path = folder.path().join("shop.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_good_file_is_summed_up() {
    let folder = tempfile::tempdir().unwrap();
    let good = file(
        &folder,
        &format!(
            "{}standby = 2\nlisten = \"127.0.0.1:1\"\ncheck = {{ tcp = true }}\n",
            sample::FILE
        ),
    );
    let ran = run_in(folder.path(), &["check", &good]);
    assert!(
        ran.ok().starts_with("ok: cluster `shop`, 1 service\n"),
        "{}",
        ran.stdout
    );
    for part in ["web", "127.0.0.1:1", "tcp every"] {
        assert!(ran.stdout.contains(part), "{part} is missing in\n{}", ran.stdout);
    }
    let json: Value = serde_json::from_str(run_in(folder.path(), &["check", &good, "--json"]).ok()).unwrap();
    assert_eq!(
        (&json["ok"], &json["cluster"]["services"]["web"]["standby"]),
        (&true.into(), &2.into())
    );
}

#[test]
fn every_error_is_told_at_once_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let bad = file(
        &folder,
        "name = \"shop\"\n[service.web]\ncommand = [\"sleep\", \"1\"]\nstandbi = 1\nactive = \"two\"\n",
    );
    let ran = run_in(folder.path(), &["check", &bad]);
    for part in ["shop.toml:4", "standbi", "standby", "shop.toml:5", "has 2 errors"] {
        assert!(ran.failed().contains(part), "{part} is missing in\n{}", ran.stderr);
    }
    assert_eq!(ran.stdout, "");
    let ran = run_in(folder.path(), &["check", &bad, "--json"]);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (ran.code, &json["ok"], json["errors"][0]["line"].as_u64()),
        (Some(1), &false.into(), Some(4))
    );
}

#[test]
fn files_that_are_none_are_errors_and_not_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("binary.toml");
    std::fs::write(&path, b"name = \"\xff\"\n").unwrap();
    assert!(
        run_in(folder.path(), &["check", path.to_str().unwrap()])
            .failed()
            .contains("UTF-8")
    );
    assert!(
        run_in(folder.path(), &["check", folder.path().to_str().unwrap()])
            .failed()
            .contains("is a folder, and no file")
    );
    let huge = std::fs::File::create(&path).unwrap();
    huge.set_len(1 << 34).unwrap();
    assert!(
        run_in(folder.path(), &["check", path.to_str().unwrap()])
            .failed()
            .contains("the file is larger than 1024 KiB")
    );
}

#[test]
fn what_is_no_file_is_refused_and_what_is_handed_over_is_read() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody writes to it: whoever opens it waits for ever.
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let socket = folder.path().join("socket");
    let _held = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (path, what) in [
        (pipe.to_str().unwrap(), "a named pipe"),
        (socket.to_str().unwrap(), "a socket"),
        ("/dev/zero", "a device"),
    ] {
        for command in [
            &["check", path][..],
            &["check", path, "--json"],
            &["plan", path],
            &["analyze", path],
        ] {
            let ran = run_in(folder.path(), command);
            assert!(
                ran.failed().contains(&format!("is {what}, and no file")),
                "{command:?}: {}",
                ran.stderr
            );
        }
        let ran = run_in(folder.path(), &["analyze", "--open-psa", path]);
        assert!(
            ran.failed().contains(&format!("is {what}, and no file")),
            "{}",
            ran.stderr
        );
    }
    let mut check = Command::new(env!("CARGO_BIN_EXE_understudy"))
        .args(["check", "/dev/stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(sample::FILE.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stdout.starts_with(b"ok: cluster"),
        "{output:?}"
    );
}

#[test]
fn a_port_that_another_has_is_told_while_a_cluster_of_that_name_runs() {
    let fake = Fake::shop();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let path = fake.file("shop.toml", &format!("{}listen = \"{taken}\"\n", sample::FILE));
    let ran = fake.run(&["check", path.to_str().unwrap(), "--here"]);
    assert!(
        ran.failed().contains(&format!("{taken} is in use by")),
        "{}",
        ran.stderr
    );
    // What the running cluster listens on is its own.
    let mut status = sample::status();
    status["services"][0]["listen"] = taken.to_string().into();
    fake.on("GET /v1/status", Reply::Json(200, status.to_string()));
    fake.run(&["check", path.to_str().unwrap(), "--here"]).ok();
}

#[test]
fn a_program_that_is_not_here_is_a_warning_and_an_error_where_this_machine_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, &sample::FILE.replace("sleep", "no-such-program-anywhere"));
    let ran = run_in(folder.path(), &["check", &path]);
    assert!(ran.ok().starts_with("ok: cluster `shop`"), "{}", ran.stdout);
    for part in [
        "warning: on this machine `no-such-program-anywhere`",
        "shop.toml:5",
        "`apply` refuses",
        "1 warning",
    ] {
        assert!(ran.stderr.contains(part), "{part} is missing in\n{}", ran.stderr);
    }
    let json = run_in(folder.path(), &["check", &path, "--json"]);
    let value: Value = serde_json::from_str(json.ok()).unwrap();
    assert_eq!(
        (&value["ok"], value["warnings"][0]["line"].as_u64()),
        (&true.into(), Some(5))
    );
    let ran = run_in(folder.path(), &["check", &path, "--here"]);
    assert!(
        ran.failed().contains("no-such-program-anywhere") && ran.stderr.contains("shop.toml:5"),
        "{}",
        ran.stderr
    );
    let json = run_in(folder.path(), &["check", &path, "--here", "--json"]);
    let value: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.code, value["here"][0]["line"].as_u64()), (Some(1), Some(5)));
    let good = file(&folder, sample::FILE);
    assert!(
        run_in(folder.path(), &["check", &good, "--here"])
            .ok()
            .contains("nothing on this machine stands in its way")
    );
}

#[test]
fn the_schema_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let schema: Value = serde_json::from_str(run_in(folder.path(), &["check", "--schema"]).ok()).unwrap();
    assert!(schema["$schema"].as_str().unwrap().contains("json-schema.org"));
    assert!(schema["properties"]["service"].is_object());
}
