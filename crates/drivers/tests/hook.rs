//! Hooks, with real processes.

#![expect(clippy::unwrap_used, reason = "a test helper that panics is a failing test")]

use drivers::hook::{self, HookCommand, HookDone, HookError};
use std::path::Path;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_hook_sees_only_what_it_was_given() {
    let mut hook = command(&["env"]);
    hook.env = [("UNDERSTUDY_EPOCH", "7"), ("EMPTY", "")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    let done = hook::run(hook.clone()).await.unwrap();
    let names = |output: &str| {
        sorted(output)
            .iter()
            .map(|line| line.split('=').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(&done.output),
        ["EMPTY", "HOME", "LANG", "LOGNAME", "PATH", "UNDERSTUDY_EPOCH", "USER"]
    );
    assert!(done.output.contains("UNDERSTUDY_EPOCH=7\n") && done.output.contains("EMPTY=\n"));
    assert!(
        done.output
            .contains(&format!("PATH={}\n", drivers::environment::search_path()))
    );
    hook.env.insert("PATH".into(), "/usr/bin:/bin".into());
    let done = hook::run(hook).await.unwrap();
    assert!(done.output.contains("PATH=/usr/bin:/bin\n"));
}

#[tokio::test]
async fn both_outputs_are_kept_in_order_and_the_directory_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let mut hook = shell("echo one; echo two >&2; echo three; pwd; readlink /proc/self/fd/0");
    hook.dir = Some(dir.path().canonicalize().unwrap());
    let done = hook::run(hook).await.unwrap();
    let expected = format!(
        "one\ntwo\nthree\n{}\n/dev/null\n",
        dir.path().canonicalize().unwrap().display()
    );
    assert_eq!(done.output, expected);
}

#[tokio::test]
async fn a_relative_program_is_taken_from_the_directory() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("promote");
    std::fs::write(&script, "#!/bin/sh\necho \"$1\"\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut hook = command(&["./promote", "{literal}"]);
    hook.dir = Some(dir.path().into());
    assert_eq!(hook::run(hook).await.unwrap().output, "{literal}\n");
}

#[tokio::test]
async fn a_failure_tells_the_command_the_code_and_the_last_line() {
    let error = hook::run(shell("echo first; echo 'no such replica' >&2; exit 3"))
        .await
        .unwrap_err();
    assert!(matches!(&error, HookError::Failed { code: 3, output, .. } if output == "first\nno such replica\n"));
    let text = error.to_string();
    assert!(
        text.starts_with(
            "`sh -c 'echo first; echo '\\''no such replica'\\'' >&2; exit 3'` ended with exit code 3 after "
        ),
        "{text}"
    );
    assert!(text.ends_with("ms: no such replica"), "{text}");

    let error = hook::run(shell("kill -TERM $$")).await.unwrap_err();
    assert!(
        matches!(&error, HookError::Killed { signal, last_line: None, .. } if signal == "SIGTERM"),
        "{error}"
    );
}

#[tokio::test]
async fn a_hook_that_does_not_start_tells_why() {
    let why = async |hook: HookCommand| hook::run(hook).await.unwrap_err().to_string();
    assert_eq!(
        why(command(&["no-such-program", "x"])).await,
        format!(
            "failed to start `no-such-program x`: `no-such-program` is in none of the folders of PATH ({})",
            drivers::environment::search_path()
        )
    );
    let plain = tempfile::NamedTempFile::new().unwrap();
    let plain = plain.path().display().to_string();
    assert_eq!(
        why(command(&[&plain])).await,
        format!("failed to start `{plain}`: `{plain}` is not executable")
    );
    assert_eq!(
        why(command(&["./promote"])).await,
        "failed to start `./promote`: `./promote` is a relative path, and there is no folder to take it from"
    );
    assert_eq!(
        why(command(&[])).await,
        "failed to start ``: the command names no program"
    );
    let mut hook = command(&["true"]);
    hook.dir = Some("/no/such/folder".into());
    assert_eq!(
        why(hook).await,
        "failed to start `true`: the working directory `/no/such/folder` does not exist"
    );
    let mut hook = command(&["true"]);
    hook.user = Some("no-such-user".into());
    assert_eq!(
        why(hook).await,
        "failed to start `true`: there is no user `no-such-user` on this machine"
    );
}

#[tokio::test]
async fn at_the_deadline_the_whole_group_is_killed_even_if_it_ignores_signals() {
    let dir = tempfile::tempdir().unwrap();
    let mut hook = shell(
        "trap '' TERM INT HUP
         sh -c 'trap \"\" TERM INT HUP; echo $$ > grandchild; while :; do sleep 1; done' &
         echo $$ > child; echo waiting for the disk
         while :; do sleep 1; done",
    );
    hook.dir = Some(dir.path().into());
    hook.timeout = Duration::from_millis(900);
    let begun = Instant::now();
    let error = hook::run(hook).await.unwrap_err();
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(900) && took < Duration::from_secs(5),
        "{took:?}"
    );
    assert!(matches!(&error, HookError::TimedOut { .. }));
    let text = error.to_string();
    assert!(
        text.ends_with("had not ended after 900ms and was killed: waiting for the disk"),
        "{text}"
    );
    for name in ["child", "grandchild"] {
        gone(pid_in(&dir.path().join(name)).await).await;
    }
}

#[tokio::test]
async fn what_a_hook_leaves_in_the_background_neither_delays_it_nor_is_killed() {
    let begun = Instant::now();
    let HookDone { output, .. } = hook::run(shell("sleep 60 & echo $!")).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    let left: u32 = output.trim().parse().unwrap();
    assert!(runs(left), "it was killed");
    kill(left);
}

#[tokio::test]
async fn of_huge_output_the_end_is_kept() {
    let done = hook::run(shell("head -c 30000000 /dev/zero | tr '\\0' x; echo; echo the end"))
        .await
        .unwrap();
    assert_eq!(done.output.len(), 4096);
    assert!(done.output.ends_with("xxx\nthe end\n"));
}

#[tokio::test]
async fn a_flood_of_output_does_not_outrun_the_deadline() {
    let mut hook = command(&["yes"]);
    hook.timeout = Duration::from_millis(200);
    let begun = Instant::now();
    let error = hook::run(hook).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(matches!(error, HookError::TimedOut { last_line: Some(line), .. } if line == "y"));
}

#[tokio::test]
async fn a_flood_left_in_the_background_does_not_hold_up_the_end() {
    let begun = Instant::now();
    let done = hook::run(shell("(sleep 0.2; exec yes) & echo $!; sleep 0.4"))
        .await
        .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(done.output.ends_with("y\n") || done.output.ends_with('y'));
    // With nobody to read it any more, it ends by itself.
}

#[tokio::test]
async fn binary_output_is_shown_as_text() {
    let done = hook::run(shell(r"printf 'a\377\000b\033[2J\n'")).await.unwrap();
    assert_eq!(done.output, "a\u{fffd}\\u{0}b\\u{1b}[2J\n");
}

#[tokio::test]
async fn a_hook_nobody_waits_for_any_more_is_killed_and_leaves_no_zombie() {
    let dir = tempfile::tempdir().unwrap();
    let mut hook = shell("echo $$ > child; exec sleep 60");
    hook.dir = Some(dir.path().into());
    let running = tokio::spawn(hook::run(hook));
    let pid = pid_in(&dir.path().join("child")).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    until(|| !Path::new(&format!("/proc/{pid}")).exists()).await;
}

#[tokio::test]
async fn another_user_is_switched_to_with_its_groups_or_refused() {
    let mut hook = shell("id -u; id -g; id -G");
    hook.user = Some("nobody".into());
    let result = hook::run(hook).await;
    if rustix::process::geteuid().is_root() {
        let account = drivers::account::Account::find("nobody").unwrap();
        let groups: Vec<String> = account.groups.iter().map(u32::to_string).collect();
        assert_eq!(
            result.unwrap().output,
            format!("{}\n{}\n{}\n", account.uid, account.gid, groups.join(" "))
        );
    } else {
        assert!(matches!(result, Err(HookError::Start { .. })));
    }
}

fn command(argv: &[&str]) -> HookCommand {
    HookCommand {
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: Default::default(),
        dir: None,
        user: None,
        timeout: Duration::from_secs(20),
    }
}

fn shell(script: &str) -> HookCommand {
    command(&["sh", "-c", script])
}

fn sorted(output: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = output.lines().collect();
    lines.sort_unstable();
    lines
}

async fn pid_in(file: &Path) -> u32 {
    let read = || std::fs::read_to_string(file).ok().filter(|text| text.ends_with('\n'));
    until(|| read().is_some()).await;
    read().unwrap().trim().parse().unwrap()
}

async fn gone(pid: u32) {
    until(|| !runs(pid)).await;
}

/// Whether a process runs; one that waits to be reaped does not.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit(") ").next().unwrap().starts_with(['Z', 'X']))
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

async fn until(condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not happen within 10 s");
}
