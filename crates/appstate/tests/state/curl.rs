//! The examples of `docs/state.md`, carried out as they stand there, with curl.

use super::{Agent, named};
use std::process::{Command, Stdio};

/// Every command of a `console` block and what it shows must be what really happens, in order, on a fresh store.
#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_documentation_do_what_it_says() {
    let there = Command::new("curl").arg("--version").stdout(Stdio::null()).status();
    assert!(
        there.is_ok_and(|status| status.success()),
        "needs curl: apt-get install --no-install-recommends curl"
    );
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/state.md")).unwrap();
    let examples = examples(&page);
    assert!(examples.len() > 20, "only {} examples were found", examples.len());

    let agent = Agent::alone();
    let token = agent.state.issue(&named("db"), "db-1").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    token.save(&token_file, None).unwrap();
    token.save(&token_file, None).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&token_file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    // One shell for all, so that what an example sets is there for the next.
    let mut script = String::from("exec 2>&1\n");
    for (command, _) in &examples {
        script.push_str(&format!("{command}\nprintf '\\n<<end>>\\n'\n"));
    }
    let output = Command::new("timeout")
        .args(["60", "bash", "-c", &script])
        .env("UNDERSTUDY_STATE_URL", agent.url())
        .env("UNDERSTUDY_STATE_TOKEN_FILE", &token_file)
        .current_dir(folder.path())
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let shown: Vec<&str> = shown.split("<<end>>\n").collect();
    assert_eq!(shown.len(), examples.len() + 1, "{shown:#?}");
    for ((command, expected), shown) in examples.iter().zip(shown) {
        let lines = |text: &str| -> Vec<String> {
            text.lines()
                .map(|line| line.trim_end().to_owned())
                .filter(|line| !line.is_empty())
                .collect()
        };
        assert_eq!(lines(expected), lines(shown), "after `{command}`");
    }
}

/// Commands (after `$ `, continued by a backslash or inside single quotes) and what is shown after each.
fn examples(page: &str) -> Vec<(String, String)> {
    let mut examples: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    let mut continued = false;
    for line in page.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
            continue;
        }
        if !inside {
            continue;
        }
        match (continued, line.strip_prefix("$ "), examples.last_mut()) {
            (true, _, Some((command, _))) => {
                command.push('\n');
                command.push_str(line);
                continued = goes_on(command);
            }
            (false, Some(command), _) => {
                examples.push((command.into(), String::new()));
                continued = goes_on(command);
            }
            (_, _, Some((_, shown))) => {
                shown.push_str(line);
                shown.push('\n');
            }
            _ => panic!("output before any command: {line}"),
        }
    }
    examples
}

fn goes_on(command: &str) -> bool {
    command.ends_with('\\') || command.matches('\'').count() % 2 == 1
}
