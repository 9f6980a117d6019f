//! Who gets in, asked without a browser: a browser would not even send most of this.

use crate::{PROGRAM, link};
use bench::rig::{self, Rig};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// Sends a request as it is; status and answer.
fn send(to: SocketAddr, line: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut request = format!(
        "{line} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("\r\n{body}"));
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    (status, answer)
}

#[test]
fn nobody_passes_who_may_not() {
    let file =
        "name = \"quiet\"\n[service.sleeper]\ncommand = [\"{understudy}\", \"sample\", \"sleeper\"]\nstandby = 0\n";
    let rig = Rig::up(Path::new(PROGRAM), "quiet", file).unwrap();
    let link = link(&rig);
    let address: SocketAddr = link
        .local
        .as_deref()
        .unwrap()
        .strip_prefix("http://")
        .unwrap()
        .parse()
        .unwrap();
    let host = address.to_string();
    let origin = format!("http://{address}");
    let here = ("host", host.as_str());
    let json = ("content-type", "application/json");
    let own = ("x-understudy", "1");
    let from_here = ("origin", origin.as_str());
    let get = |path: &str, headers: &[(&str, &str)]| send(address, &format!("GET {path}"), headers, "");
    let post = |path: &str, headers: &[(&str, &str)], body: &str| send(address, &format!("POST {path}"), headers, body);

    // The page may be seen, and tells browsers to run nothing but ours.
    let (status, page) = get("/ui/", &[here]);
    assert_eq!(status, 200);
    let head = page.to_ascii_lowercase();
    for wanted in [
        "content-security-policy: default-src 'self'",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
    ] {
        assert!(head.contains(wanted), "{wanted} is missing: {head}");
    }
    assert!(
        !head.contains("unsafe-inline") && !head.contains("access-control-allow"),
        "{head}"
    );
    assert_eq!(get("/v1/status", &[here]).0, 200);

    // A name that was made to resolve to this machine.
    for evil in ["evil.example", &format!("evil.example:{}", address.port())] {
        for path in ["/", "/ui/", "/v1/status", "/v1/stream"] {
            assert_eq!(get(path, &[("host", evil)]).0, 403, "{evil} {path}");
        }
    }
    // Secrets and everything that only the owner does.
    assert_eq!(get("/v1/logs/sleeper-1", &[here]).0, 401);
    assert_eq!(get("/v1/history", &[here]).0, 403);
    for path in ["/v1/apply", "/v1/down", "/v1/rollback", "/v1/dashboard"] {
        assert_eq!(post(path, &[here, from_here, own, json], "{}").0, 403, "{path}");
    }
    assert_eq!(post("/v1/pause", &[here, from_here, own, json], "null").0, 401);
    assert_eq!(post("/ui/pass", &[here, from_here, own, json], "null").0, 401);

    // Signed in: only our own page acts.
    let pass = format!("{{\"pass\":\"{}\"}}", link.pass);
    assert_eq!(
        post(
            "/ui/sign-in",
            &[here, ("origin", "http://evil.example"), own, json],
            &pass
        )
        .0,
        403
    );
    let (status, answer) = post("/ui/sign-in", &[here, from_here, own, json], &pass);
    assert_eq!(status, 200, "{answer}");
    let cookie = answer
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .unwrap();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
        "{cookie}"
    );
    let cookie = ("cookie", cookie.split(';').next().unwrap());
    assert_eq!(
        post("/v1/pause", &[here, cookie, from_here, json], "null").0,
        403,
        "without our header"
    );
    assert_eq!(
        post("/v1/pause", &[here, cookie, own, json], "null").0,
        403,
        "without an origin"
    );
    assert_eq!(
        post(
            "/v1/pause",
            &[here, cookie, ("origin", "http://127.0.0.1:1"), own, json],
            "null"
        )
        .0,
        403
    );
    assert!(rig.status().unwrap().paused.is_none(), "somebody got through");
    assert_eq!(post("/v1/pause", &[here, cookie, from_here, own, json], "null").0, 200);
    assert!(rig.status().unwrap().paused.is_some());
    assert_eq!(get("/v1/logs/sleeper-1", &[here, cookie]).0, 200);
    assert_eq!(
        get("/v1/history", &[here, cookie]).0,
        403,
        "files may have secrets in them"
    );

    // Bad input is told and harms nothing.
    for body in [
        "",
        "{",
        "{\"pass\":1}",
        &format!("{{\"pass\":\"{}\"}}", "x".repeat(3_000)),
    ] {
        let (status, _) = post("/ui/sign-in", &[here, from_here, own, json], body);
        assert!((400..500).contains(&status), "{status} for {body:.40}");
    }
    assert_eq!(
        post("/ui/sign-in", &[here, from_here, own, json], &"x".repeat(100_000)).0,
        413
    );
    assert_eq!(get("/v1/preview?action=explode&name=db", &[here]).0, 400);
    assert_eq!(get("/v1/preview?action=drain&name=nobody", &[here]).0, 404);
    assert_eq!(get("/v1/explain/sleeper?if_dies=nobody", &[here]).0, 404);
    assert_eq!(get("/ui/../store.redb", &[here]).0, 403);

    // The session is over when one signs out, also for whoever has copied it.
    assert_eq!(
        post("/ui/sign-out", &[here, cookie, from_here, own, json], "null").0,
        200
    );
    assert_eq!(post("/v1/resume", &[here, cookie, from_here, own, json], "null").0, 401);
}

#[test]
fn an_agent_that_comes_back_is_found_at_the_same_place_with_the_same_sessions() {
    let file =
        "name = \"quiet\"\n[service.sleeper]\ncommand = [\"{understudy}\", \"sample\", \"sleeper\"]\nstandby = 0\n";
    let rig = Rig::up(Path::new(PROGRAM), "quiet", file).unwrap();
    let before = link(&rig).local;
    bench::process::signal(rig.own().unwrap().agent, rustix::process::Signal::KILL).unwrap();
    rig.wait_for("the agent", crate::HEAL, |_| true).unwrap();
    assert_eq!(link(&rig).local, before);
}

#[test]
fn it_is_where_one_wants_it_or_nowhere() {
    let file =
        "name = \"quiet\"\n[service.sleeper]\ncommand = [\"{understudy}\", \"sample\", \"sleeper\"]\nstandby = 0\n";
    let wanted = rig::free_address().unwrap().to_string();
    let there = Rig::up_with(Path::new(PROGRAM), "quiet", file, &["--dashboard", &wanted]).unwrap();
    assert_eq!(link(&there).local, Some(format!("http://{wanted}")));
    let nowhere = Rig::up_with(Path::new(PROGRAM), "quiet", file, &["--dashboard", "off"]).unwrap();
    assert_eq!(link(&nowhere).local, None);
    let output = nowhere
        .run(&["up", "/nowhere.toml", "--dashboard", "0.0.0.0:7400"])
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("without TLS"), "{said}");
}
