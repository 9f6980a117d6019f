//! Whatever the text: an answer, never a panic, and every place that is named lies in the file.

use proptest::prelude::ProptestConfig;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};

const FILE: &str = r#"name = "shop"
[service.db]
command = ["redis-server", "--port", "{port}", "--dir", "{data}", "é{{x}}"]
exclusive = true
listen = "127.0.0.1:6379"
check = { tcp = true, every = "200ms", fail_after = 2 }
on_promote = { command = ["redis-cli", "-p", "{port}"], timeout = "1.5s" }
on_follow = ["redis-cli", "{active.host}", "{active.port}"]
standby_check = { exec = ["redis-cli", "ping"] }
env = { A = "b" }
limits = { memory = "512MiB", open_files = 1024 }
# a remark
[service.web]
command = [
  "./web", "--db", "{service.db.address}",
  'awk {print $1}',
]
active = 2
standby = 1
listen = "[::1]:8080"
check = { http = "/healthz", status = [200, 204] }
needs = ["db"]
[service.web.stop]
signal = "SIGTERM"
"#;

const PIECES: [&str; 40] = [
    "[service.db]",
    "[service.web]",
    "[[service]]",
    "[",
    "]",
    "{",
    "}",
    "=",
    ",",
    ".",
    "\n",
    "\r\n",
    "\"",
    "'",
    "\"\"\"",
    "#",
    " ",
    "\u{0}",
    "é",
    "\u{feff}",
    "\u{202e}",
    "\\",
    "command",
    "active",
    "needs",
    "listen",
    "check",
    "service",
    "name",
    "\"{port}\"",
    "\"{\"",
    "[\"db\"]",
    "[\"web\"]",
    "0",
    "-1",
    "99999999999999999999999",
    "1.5",
    "true",
    "1979-05-27",
    "{ tcp = true }",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        answers(&bytes);
    }

    #[test]
    fn random_lines(lines in proptest::collection::vec(line(), 0..12)) {
        answers(lines.join("\n").as_bytes());
    }

    #[test]
    fn random_pieces(pieces in proptest::collection::vec(proptest::sample::select(&PIECES[..]), 0..60)) {
        answers(pieces.concat().as_bytes());
    }

    #[test]
    fn a_valid_file_with_changes(changes in proptest::collection::vec(change(), 1..6)) {
        let mut bytes = FILE.as_bytes().to_vec();
        for (at, remove, insert) in changes {
            let at = at % (bytes.len() + 1);
            let end = (at + remove).min(bytes.len());
            bytes.splice(at..end, insert);
        }
        answers(&bytes);
    }
}

#[test]
fn the_file_is_valid_before_it_is_changed() {
    let parsed = spec::parse(FILE, "shop.toml").unwrap();
    assert_eq!(parsed.warnings, []);
}

#[test]
fn a_valid_file_cut_off_anywhere() {
    for end in 0..FILE.len() {
        answers(&FILE.as_bytes()[..end]);
    }
}

fn line() -> impl Strategy<Value = String> {
    let key = proptest::sample::select(
        &[
            "command",
            "active",
            "standby",
            "need",
            "listen",
            "port",
            "check",
            "check.every",
            "standby_check",
            "needs",
            "env",
            "env.A",
            "dir",
            "stop",
            "restart.backoff",
            "hold",
            "spread",
            "protocol",
            "on_follow",
            "scale",
            "name",
            "servce",
        ][..],
    );
    let value = proptest::sample::select(
        &[
            "1",
            "0",
            "-5",
            "true",
            "false",
            "\"1s\"",
            "\"a\"",
            "[]",
            "[\"a\", \"{port}\"]",
            "[\"{active.host}\"]",
            "{}",
            "{ tcp = true }",
            "{ http = \"/\", body = 1 }",
            "\"127.0.0.1:80\"",
            "\"http\"",
            "[[1]]",
            "07:32:00",
            "nan",
            "\"\\u0000\"",
            "\"\"\"\n{port\"\"\"",
            "0xFFFFFFFFFFFFFFFFFFFF",
            "[\"db\", \"web\"]",
            "{ command = [] }",
        ][..],
    );
    prop_oneof![
        12 => (key, value).prop_map(|(key, value)| format!("{key} = {value}")),
        6 => proptest::sample::select(&["[service.db]", "[service.web]", "[service]", "[service.Bad]", "[db]"][..])
            .prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn change() -> impl Strategy<Value = (usize, usize, Vec<u8>)> {
    let insert = prop_oneof![
        Just(Vec::new()),
        proptest::sample::select(&PIECES[..]).prop_map(|piece| piece.as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 1..4),
    ];
    (0..FILE.len(), 0..20_usize, insert)
}

/// Parses, draws and prints; checks that every place lies in the file.
fn answers(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.split('\n').collect();
    let (found, parsed) = match spec::parse_bytes(bytes, "shop.toml") {
        Ok(parsed) => (parsed.warnings.clone(), Some(parsed)),
        Err(errors) => {
            assert!(!errors.is_empty());
            assert!(!errors.render(true).is_empty());
            (errors.into_iter().collect(), None)
        }
    };
    for one in &found {
        let line = lines
            .get(one.line - 1)
            .unwrap_or_else(|| panic!("{one} of {} lines", lines.len()));
        assert!((1..=line.chars().count() + 1).contains(&one.column), "{one}");
        assert!(
            one.render(false).contains(&format!("shop.toml:{}:", one.line)),
            "{}",
            one.render(false)
        );
        assert!(!one.to_string().contains(['\n', '\u{0}', '\u{202e}']), "{one:?}");
        for related in &one.related {
            assert!((1..=lines.len()).contains(&related.line), "{one}");
        }
        assert!(serde_json::to_string(one).is_ok());
    }
    if let Some(parsed) = parsed {
        assert!(!parsed.cluster.services.is_empty());
        assert!(spec::diff(&parsed.cluster, &parsed.cluster).is_empty());
    }
}
