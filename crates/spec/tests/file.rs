//! Files that are right: what they come to, and what changes between two of them.

use model::{
    Addressing, Check, CheckKind, FloatingAddress, Millis, Protocol, Service, Spread, StandbyMode, StopSignal,
};
use std::collections::BTreeSet;

const SHOP: &str = r#"
name = "shop"

[service.db]
command    = ["redis-server", "--port", "{port}", "--dir", "{data}"]
active     = 1
standby    = 1
exclusive  = true
listen     = "127.0.0.1:6379"
check      = { tcp = true, every = "200ms", fail_after = 2 }
on_promote = ["redis-cli", "-p", "{port}", "replicaof", "no", "one"]
on_follow  = ["redis-cli", "-p", "{port}", "replicaof", "{active.host}", "{active.port}"]

[service.web]
command = ["./web", "--port", "{port}", "--db", "{service.db.address}"]
active  = 2
standby = 1
listen  = "127.0.0.1:8080"
check   = { http = "/healthz", status = [200, 204], body = "ok" }
protocol = "http"
needs   = ["db"]
spread  = "node"
limits.memory = "512MiB"

[service.web.stop]
signal = "SIGINT"
timeout = "1m30s"
"#;

#[test]
fn the_example_of_the_design() {
    let parsed = spec::parse(SHOP, "files/shop.toml").unwrap();
    // It has standbys follow, and does not say how to tell whether one has everything.
    let warnings: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("one that still copies may take over"),
        "{warnings:?}"
    );
    let cluster = parsed.cluster;
    assert_eq!(cluster.name, "shop");
    let order: Vec<&str> = cluster.start_order().iter().map(|name| name.as_str()).collect();
    assert_eq!(order, ["db", "web"]);

    let db = service(SHOP, "db");
    assert_eq!(db.command, ["redis-server", "--port", "{port}", "--dir", "{data}"]);
    assert_eq!((db.active, db.standby, db.need, db.exclusive), (1, 1, 1, true));
    assert_eq!(db.standby_mode, StandbyMode::Warm);
    assert_eq!(db.listen, Some("127.0.0.1:6379".parse().unwrap()));
    assert_eq!(
        db.check,
        Some(Check {
            kind: CheckKind::Tcp,
            every: Millis(200),
            timeout: Millis(200),
            fail_after: 2,
            pass_after: 1
        })
    );
    let hook = db.on_promote.unwrap();
    assert_eq!(hook.command.last().unwrap(), "one");
    assert_eq!(hook.timeout, Millis(10_000));

    let web = service(SHOP, "web");
    let kind = CheckKind::Http {
        path: "/healthz".into(),
        status: BTreeSet::from([200, 204]),
        body: Some("ok".into()),
    };
    assert_eq!(web.check.unwrap().kind, kind);
    assert_eq!((web.protocol, web.spread), (Protocol::Http, Spread::Node));
    assert_eq!(web.limits.memory_bytes, Some(512 << 20));
    assert_eq!((web.stop.signal, web.stop.timeout), (StopSignal::Int, Millis(90_000)));
}

#[test]
fn what_is_not_said_is_filled_in() {
    let service = service("[service.a]\ncommand = [\"a\"]\n", "a");
    assert_eq!((service.active, service.standby, service.need), (1, 1, 1));
    assert_eq!(service.standby_mode, StandbyMode::Warm);
    assert_eq!(service.addressing, Addressing::None);
    assert_eq!(service.check, None);
    assert_eq!(service.start_timeout, Millis(30_000));
    assert_eq!(
        (service.stop.signal, service.stop.timeout),
        (StopSignal::Term, Millis(10_000))
    );
    assert_eq!(
        (service.restart.backoff, service.restart.backoff_max),
        (Millis(250), Millis(30_000))
    );
    assert_eq!((service.restart.replace_after, service.restart.give_up_after), (5, 3));
    assert_eq!(service.restart.retry_after, Millis(300_000));
    assert_eq!((service.logs.max_bytes, service.logs.keep), (10_000_000, 3));
    assert_eq!(service.drain_timeout, Millis(10_000));
    assert_eq!((service.hold_timeout, service.hold_max), (Millis(5_000), 1024));
}

#[test]
fn a_floating_address_is_written_alone_or_with_its_interface() {
    let of = |value: &str| {
        let text = format!("[service.a]\ncommand = [\"a\"]\nexclusive = true\naddress = {value}\n");
        service(&text, "a").address.unwrap()
    };
    let address = |ip: &str, prefix, interface: Option<&str>| FloatingAddress {
        ip: ip.parse().unwrap(),
        prefix,
        interface: interface.map(str::to_owned),
    };
    assert_eq!(of(r#""10.0.0.100/24""#), address("10.0.0.100", 24, None));
    assert_eq!(of(r#""fd00::64/64""#), address("fd00::64", 64, None));
    assert_eq!(
        of(r#"{ ip = "10.0.0.100/24", interface = "eth0" }"#),
        address("10.0.0.100", 24, Some("eth0"))
    );
}

#[test]
fn a_port_is_given_where_one_is_used() {
    let of = |more: &str| service(&format!("[service.a]\n{more}"), "a");
    let by_command = of("command = [\"a\", \"--port={port}\"]");
    assert_eq!(by_command.addressing, Addressing::Port);
    assert_eq!(by_command.check.unwrap().kind, CheckKind::Tcp);
    for more in [
        "listen = \"[::1]:80\"",
        "env = { PORT = \"{port}\" }",
        "check = { exec = [\"c\", \"{port}\"] }",
        "on_demote = [\"c\", \"{port}\"]",
        "on_follow = { command = [\"c\", \"{active.port}\"] }",
        "port = true",
    ] {
        assert_eq!(
            of(&format!("command = [\"a\"]\n{more}")).addressing,
            Addressing::Port,
            "{more}"
        );
    }
    assert_eq!(of("command = [\"a\", \"{{port}}\"]").addressing, Addressing::None);
    assert_eq!(of("command = [\"a\"]\nport = true\ncheck = false").check, None);
}

#[test]
fn placeholders_are_known_in_paths_and_bodies_of_checks() {
    let told = |check: &str| {
        let text = format!("[service.a]\ncommand = [\"a\"]\nport = true\ncheck = {{ {check} }}\n");
        match spec::parse(&text, "a.toml") {
            Ok(_) => String::new(),
            Err(errors) => errors[0].problem.clone(),
        }
    };
    assert_eq!(
        told(r#"http = "/health/{instance}?port={port}", body = '{"ok":{}}'"#),
        ""
    );
    assert_eq!(told(r#"http = "/{what}""#), "unknown placeholder `{what}`");
    assert_eq!(told(r#"http = "/", body = "{ok}""#), "unknown placeholder `{ok}`");
    assert_eq!(
        told(r#"http = "/{What}""#),
        "`http` contains '{', which cannot be in the path of a request"
    );
    assert_eq!(
        told(r#"http = "/a b""#),
        "`http` contains ' ', which cannot be in the path of a request"
    );
}

#[test]
fn a_check_waits_no_longer_than_until_the_next() {
    let timeout = |check: &str| {
        service(
            &format!("[service.a]\ncommand = [\"a\"]\nport = true\ncheck = {{ tcp = true, {check} }}"),
            "a",
        )
        .check
        .unwrap()
        .timeout
    };
    assert_eq!(timeout("every = \"10ms\""), Millis(100));
    assert_eq!(timeout("every = \"300ms\""), Millis(300));
    assert_eq!(timeout("every = \"1m\""), Millis(1_000));
    assert_eq!(timeout("every = \"1m\", timeout = \"20s\""), Millis(20_000));
}

#[test]
fn standbys_of_an_exclusive_service_wait_cold_unless_something_tells_them_their_role() {
    let mode = |more: &str| {
        service(
            &format!("[service.a]\ncommand = [\"a\"]\nexclusive = true\n{more}"),
            "a",
        )
        .standby_mode
    };
    assert_eq!(mode(""), StandbyMode::Cold);
    assert_eq!(mode("on_promote = [\"p\"]"), StandbyMode::Warm);
    assert_eq!(mode("on_follow = [\"f\"]"), StandbyMode::Warm);
    assert_eq!(mode("on_promote = [\"p\"]\nstandby_mode = \"cold\""), StandbyMode::Cold);
}

#[test]
fn the_file_names_the_cluster_if_it_does_not_itself() {
    let name = |path: &str| {
        spec::parse("[service.a]\ncommand = [\"a\"]", path)
            .unwrap()
            .cluster
            .name
    };
    assert_eq!(name("conf/shop.toml"), "shop");
    assert_eq!(name("shop"), "shop");
    assert_eq!(name("My Shop.toml"), "understudy");
    assert_eq!(name(""), "understudy");
}

#[test]
fn a_mark_at_the_beginning_and_windows_line_ends_do_no_harm() {
    let text = format!("\u{feff}{}", SHOP.replace('\n', "\r\n"));
    assert_eq!(
        spec::parse(&text, "shop.toml").unwrap().cluster,
        spec::parse(SHOP, "shop.toml").unwrap().cluster
    );
    let errors = spec::parse(&text.replace("active     = 1", "active     = 0"), "shop.toml").unwrap_err();
    assert_eq!((errors[0].line, errors[0].column), (6, 14));
}

#[test]
fn later_checks_point_at_the_line_too() {
    let parsed = spec::parse(SHOP, "shop.toml").unwrap();
    let place = |service: &str, key: &str| {
        let one = parsed.diagnostic(service, key, "is missing".into(), Some("install it".into()));
        format!("{} {}", one, one.value)
    };
    assert_eq!(
        place("db", "command.0"),
        "shop.toml:5:15: is missing; install it \"redis-server\""
    );
    assert_eq!(
        place("db", "check.every"),
        "shop.toml:10:36: is missing; install it \"200ms\""
    );
    assert_eq!(
        place("web", "stop.signal"),
        "shop.toml:26:10: is missing; install it \"SIGINT\""
    );
    // What is not in the file is shown by what it would belong to.
    assert_eq!(
        place("web", "user"),
        "shop.toml:14:1: is missing; install it [service.web]"
    );
    assert_eq!(
        place("web", "restart.backoff"),
        "shop.toml:14:1: is missing; install it [service.web]"
    );
    assert_eq!(place("nobody", "user"), "shop.toml:4:2: is missing; install it service");
}

#[test]
fn errors_are_json_for_programs() {
    let errors = spec::parse("[service.a]\ncommand = [\"a\"]\nactiv = 1\n", "a.toml").unwrap_err();
    insta::assert_snapshot!(serde_json::to_string_pretty(&errors).unwrap(), @r#"
    [
      {
        "path": "a.toml",
        "line": 3,
        "column": 1,
        "severity": "error",
        "problem": "unknown key `activ`",
        "value": "activ",
        "help": "did you mean `active`?",
        "related": []
      }
    ]
    "#);
}

#[test]
fn colour_repeats_what_the_words_say() {
    let errors = spec::parse("a = 1", "a.toml").unwrap_err();
    let colored = errors.render(true);
    assert!(colored.contains("\u{1b}["));
    assert!(!errors.render(false).contains('\u{1b}'));
}

#[test]
fn places_far_apart_are_told_without_a_picture() {
    let between = "# nothing\n".repeat(10_000);
    let service = |name| format!("[service.{name}]\ncommand = [\"a\"]\nlisten = \"127.0.0.1:80\"\n");
    let text = format!("{}{between}{}", service("a"), service("b"));
    insta::assert_snapshot!(spec::parse(&text, "a.toml").unwrap_err().render(false), @r"
    error: `a` and `b` cannot both listen on 127.0.0.1:80
    --> a.toml:10006:10
     = note: a.toml:3:10: taken by `a`
     = help: give one of them another port
    ");
}

#[test]
fn a_file_that_is_no_text_or_too_large_is_refused() {
    let told = |bytes: &[u8]| spec::parse_bytes(bytes, "a.toml").unwrap_err().to_string();
    assert_eq!(
        told(b"name = \"a\"\nx = \"caf\xe9\"\n"),
        "a.toml:2:9: the byte 0xE9 is not text: the file must be UTF-8; save the file as UTF-8"
    );
    assert_eq!(
        told(&[0xff; 3]),
        "a.toml:1:1: the byte 0xFF is not text: the file must be UTF-8; save the file as UTF-8"
    );
    assert_eq!(
        told(&vec![b'#'; spec::FILE_BYTES_MAX + 1]),
        "a.toml:1:1: the file is larger than 1024 KiB, the most that is read; is it the right file?"
    );
    // Who reads no more than that may have cut a letter in two.
    assert!(
        told(
            "é".repeat(spec::FILE_BYTES_MAX)
                .as_bytes()
                .split_at(spec::FILE_BYTES_MAX + 1)
                .0
        )
        .contains("is larger than")
    );
    let deep = format!("a = {}", "[".repeat(100_000));
    assert!(spec::parse(&deep, "a.toml").is_err());
}

#[test]
fn a_cycle_among_thousands_of_services_is_found() {
    let services = 5_000;
    let text: String = (0..services)
        .map(|at| {
            format!(
                "[service.s{at}]\ncommand = [\"a\"]\nneeds = [\"s{}\"]\n",
                (at + 1) % services
            )
        })
        .collect();
    let errors = spec::parse(&text, "a.toml").unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(
        errors[0].problem,
        "services that need each other: s0 -> s1 -> s2 -> s3 -> s4 -> s5 -> s6 -> s7 -> … -> s0"
    );
}

#[test]
fn addresses_that_overlap_are_one_address() {
    let clash = |a: &str, b: &str| {
        let text = format!(
            "[service.a]\ncommand = [\"a\"]\nlisten = \"{a}\"\n[service.b]\ncommand = [\"b\"]\nlisten = \"{b}\"\n"
        );
        spec::parse(&text, "a.toml").is_err()
    };
    assert!(clash("127.0.0.1:80", "127.0.0.1:80"));
    assert!(clash("127.0.0.1:80", "0.0.0.0:80"));
    assert!(clash("[::]:80", "127.0.0.1:80"));
    assert!(clash("[::ffff:127.0.0.1]:80", "127.0.0.1:80"));
    assert!(!clash("127.0.0.1:80", "127.0.0.2:80"));
    assert!(!clash("127.0.0.1:80", "127.0.0.1:81"));
    assert!(!clash("0.0.0.0:80", "[::1]:80"));
}

#[test]
fn the_difference_between_two_files() {
    let new = SHOP
        .replace("active  = 2", "active  = 3")
        .replace("512MiB", "1GiB")
        .replace("\"/healthz\", status = [200, 204]", "\"/ready\"")
        .replace("127.0.0.1:6379", "127.0.0.1:6380")
        + "[service.mail]\ncommand = [\"mail\"]\nexclusive = true\n";
    let old = format!("{SHOP}[service.old]\ncommand = [\"old\"]\nstandby = 0\n");
    let told = |old: &str, new: &str| {
        let parse = |text| spec::parse(text, "shop.toml").unwrap().cluster;
        let mut out = String::new();
        for diff in spec::diff(&parse(old), &parse(new)) {
            let relaunch = if diff.relaunch { ", relaunch" } else { "" };
            out += &format!("{} {:?}{relaunch}\n", diff.service, diff.kind);
            diff.lines.iter().for_each(|line| out += &format!("  {line}\n"));
        }
        out
    };
    insta::assert_snapshot!(told(&old, &new), @r#"
    db Changed
      listen: 127.0.0.1:6379 -> 127.0.0.1:6380
    mail Added
      command: ["mail"]
      active: 1
      standby: 1
      exclusive: true
    old Removed
      command: ["old"]
      active: 1
      standby: 0
    web Changed, relaunch
      active: 2 -> 3
      need: 2 -> 3
      check: http "/healthz" -> http "/ready"
      check.status: [200, 204] -> none
      limits.memory: 512MiB -> 1GiB
    "#);
    assert_eq!(told(&old, &old), "");
    let moved = SHOP.replace("127.0.0.1:6379", "127.0.0.1:6380");
    insta::assert_snapshot!(told(SHOP, &moved), @r"
    db Changed
      listen: 127.0.0.1:6379 -> 127.0.0.1:6380
      running instances of web know the old address until they are started anew
    ");
}

fn service(text: &str, name: &str) -> Service {
    let cluster = match spec::parse(text, "x.toml") {
        Ok(parsed) => parsed.cluster,
        Err(errors) => panic!("{errors}"),
    };
    let mut named = cluster.services.into_iter().filter(|(one, _)| one.as_str() == name);
    named.next().expect("the service is in the file").1
}
