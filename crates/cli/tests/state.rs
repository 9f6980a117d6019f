//! State for applications through the real agent, which is killed with signal 9 all the while.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use appstate::testing::{Plan, Verdict, check, record, revisions_agree};
use bench::process;
use bench::rig::Rig;
use client::{Client, LockOptions, Patience};
use rustix::process::Signal;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_understudy");
const FILE: &str = "name = \"nap\"\n[service.nap]\ncommand = [\"{understudy}\", \"sample\", \"sleeper\"]\n";
/// For an agent to be back, on a busy machine.
const BACK: Duration = Duration::from_secs(20);

/// curl, perhaps as another user.
fn curl(as_nobody: bool, words: &[&str]) -> Output {
    let mut command = match as_nobody {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--", "curl"]);
            command
        }
        false => Command::new("curl"),
    };
    command
        .args(["-sS", "--fail-with-body", "--max-time", "10"])
        .args(words)
        .output()
        .expect("curl or setpriv is missing: apt-get install --no-install-recommends curl util-linux")
}

/// Asks the operator's socket for a token.
fn issue(folder: &Path, service: &str, holder: &str) -> String {
    let socket = folder.join("run/api.sock");
    let url = format!("http://localhost/v1/state/tokens/{service}/{holder}");
    let output = curl(false, &["--unix-socket", socket.to_str().unwrap(), "-X", "POST", &url]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)));
    answer["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_are_told_is_linearizable_while_the_agent_is_killed_and_a_lock_is_kept() {
    let rig = Rig::up(Path::new(PROGRAM), "nap", FILE).unwrap();
    let token = issue(&rig.folder().join("nap"), "nap", "test");
    let url = format!("unix:{}", rig.folder().join("nap/run/state.sock").display());
    let client = Client::new([url.as_str()], &token).unwrap().with_patience(Patience {
        each: Duration::from_secs(2),
        total: BACK,
    });
    let lock = client
        .acquire("leader", &LockOptions::new("nap-1", BACK))
        .await
        .unwrap();
    let plan = Plan {
        calls: 60,
        seed: 1,
        pause: Duration::from_millis(60),
    };
    let recording = tokio::spawn(record(vec![client.clone(); 6], plan));
    let mut killed = 0;
    while !recording.is_finished() {
        let own = rig.own().unwrap();
        process::signal(own.agent, Signal::KILL).unwrap();
        killed += 1;
        let begun = Instant::now();
        while !rig.own().is_ok_and(|now| now.agent != own.agent && now.proxy.is_some()) {
            assert!(begun.elapsed() < BACK, "not back within {BACK:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let recorded = recording.await.unwrap();
    assert!(killed >= 3, "killed only {killed} times");
    assert!(recorded.history.len() > 200, "only {} calls", recorded.history.len());
    revisions_agree(&recorded).unwrap();
    assert_eq!(
        check(&recorded.history),
        Verdict::Linearizable,
        "{:#?}",
        recorded.history
    );
    client.put_if("last", "1", &[lock.held()]).await.unwrap();
    assert!(lock.still_mine());
}

#[test]
fn other_users_reach_the_state_with_a_token_and_nothing_else() {
    let rig = Rig::up(Path::new(PROGRAM), "nap", FILE).unwrap();
    let folder = &rig.folder().join("nap");
    // The test's own folder is the owner's alone; that of a cluster lets others pass.
    let mut path = folder.as_path();
    while path
        .parent()
        .is_some_and(|parent| parent != Path::new("/tmp") && parent != Path::new("/"))
    {
        path = path.parent().unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let token = issue(folder, "nap", "nap-1");
    let (state, api) = (folder.join("run/state.sock"), folder.join("run/api.sock"));
    let (state, api) = (state.to_str().unwrap(), api.to_str().unwrap());
    let bearer = format!("Authorization: Bearer {token}");
    let put = curl(
        true,
        &[
            "--unix-socket",
            state,
            "-H",
            &bearer,
            "-X",
            "PUT",
            "-d",
            "x",
            "http://localhost/v1/state/kv/a",
        ],
    );
    assert!(put.status.success(), "{put:?}");
    let without = curl(true, &["--unix-socket", state, "http://localhost/v1/state/kv/a"]);
    assert!(
        String::from_utf8_lossy(&without.stdout).contains("token_missing"),
        "{without:?}"
    );
    let more = curl(
        true,
        &[
            "--unix-socket",
            state,
            "-X",
            "POST",
            "http://localhost/v1/state/tokens/nap/thief",
        ],
    );
    assert!(!more.status.success(), "{more:?}");
    let status = curl(true, &["--unix-socket", state, "http://localhost/v1/status"]);
    assert!(!status.status.success(), "{status:?}");
    let owner = curl(
        true,
        &["--unix-socket", api, "-H", &bearer, "http://localhost/v1/state/kv/a"],
    );
    assert!(!owner.status.success() && owner.stdout.is_empty(), "{owner:?}");
    let own = curl(
        false,
        &["--unix-socket", api, "-H", &bearer, "http://localhost/v1/state/kv/a"],
    );
    assert_eq!(own.stdout, b"x");
}
