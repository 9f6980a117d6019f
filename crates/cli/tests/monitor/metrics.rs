//! `/metrics` by promtool and a real Prometheus; rules and dashboard that are shipped; history and samples.

use super::world::{Other, PROGRAM, SOON, encoded, get, get_tcp, json, relay, socket, until};
use bench::load::{self, Plan};
use bench::rig::{self, Rig};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

fn shop(web: SocketAddr, tcp: SocketAddr) -> String {
    format!(
        r#"
name = "shop"

[service.web]
command = ["{{understudy}}", "sample", "web", "--port", "{{port}}"]
active = 2
listen = "{web}"
protocol = "http"
check = {{ http = "/healthz", every = "200ms" }}
objective = {{ availability = "99.9%", latency = "200ms", distance = 2, failover = "10s" }}

[service.plain]
command = ["{{understudy}}", "sample", "web", "--port", "{{port}}"]
listen = "{tcp}"
"#
    )
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs/monitoring")
        .join(name)
}

fn promtool(arguments: &[&str], input: Option<&str>) -> String {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(shipped(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of Debian's package prometheus");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.unwrap_or_default().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_history_and_what_is_shipped_hold_together() {
    let (web, tcp) = (rig::free_address().unwrap(), rig::free_address().unwrap());
    let rig = Rig::up(Path::new(PROGRAM), "shop", &shop(web, tcp)).unwrap();
    let socket = socket(&rig, "shop");
    for (target, rate) in [(web, 100.0), (tcp, 20.0)] {
        load::run(Plan {
            duration: Duration::from_secs(3),
            ..Plan::get(target, "/", rate)
        })
        .await
        .unwrap();
    }
    // One that is taken over gives failovers and their times.
    let (_, pid) = rig::holder(&rig.status().unwrap(), "web", 0).unwrap();
    bench::process::signal(pid, rustix::process::Signal::KILL).unwrap();

    history(&socket);
    let page = until("failovers in the metrics", SOON, || {
        let (status, kind, page) = get(&socket, "/metrics", "text/plain");
        assert_eq!(
            (status, kind.as_str()),
            (200, "text/plain; version=0.0.4; charset=utf-8")
        );
        page.contains("understudy_service_failovers_total{service=\"web\",result=\"done\"} 1")
            .then_some(page)
    });
    assert_eq!(promtool(&["check", "metrics"], Some(&page)), "");
    for line in [
        "understudy_service_up{service=\"web\"} 1",
        "understudy_service_need{service=\"web\"} 2",
        "understudy_agent_quorum 1",
        "understudy_agent_leader 1",
        "understudy_node_up{node=\"a\"} 1",
        "understudy_proxy_requests_total{service=\"web\",code=\"2xx\"} 300",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    let predicted = "understudy_service_predicted_unavailability{service=\"web\",assumed=\"true\"} ";
    let share = page
        .lines()
        .find_map(|line| line.strip_prefix(predicted)?.parse::<f64>().ok());
    assert!(
        share.is_some_and(|share| share > 0.0 && share < 0.1),
        "{share:?} in\n{page}"
    );
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(&socket, path, "*/*").0, 200, "{path}");
    }
    promtool(&["check", "rules", "understudy.rules.yml"], None);
    promtool(&["test", "rules", "understudy.rules.test.yml"], None);
    prometheus(&rig, relay(&socket), &page);
}

/// The values of one series of so many that the agent told.
fn values(series: &Value, name: &str, node: Option<&str>, instance: bool) -> Vec<f64> {
    let all = series["series"].as_array().unwrap();
    let one = all
        .iter()
        .find(|one| one["name"] == name && one["node"].as_str() == node && one["instance"].is_string() == instance)
        .unwrap_or_else(|| panic!("no {name} in {series}"));
    assert_eq!(one["step_ms"], 1_000);
    let values = one["values"].as_array().unwrap();
    values.iter().filter_map(Value::as_f64).collect()
}

/// An hour at one second, and the newest second.
fn history(socket: &Path) {
    // Rates by the second, one for each report, whose seconds are not of one length: their sum gives the requests back within a fifth. A report may be a second late on a busy machine.
    let series = until("all 300 requests in the history", SOON, || {
        let series = json(socket, "/v1/series?service=web");
        let requests: f64 = values(&series, "requests_per_second", None, false).iter().sum();
        assert!(requests < 375.0, "{requests} of 300");
        (requests > 240.0).then_some(series)
    });
    let find = |name: &str, node: Option<&str>, instance: bool| values(&series, name, node, instance);
    assert!(find("latency_p99_ms", None, false).iter().any(|ms| *ms > 0.0));
    assert!(find("cpu_cores", Some("a"), true).iter().any(|cores| *cores > 0.0));
    assert!(find("memory_bytes", Some("a"), true).iter().all(|bytes| *bytes > 1e6));
    let samples = json(socket, "/v1/samples");
    let ages: Vec<u64> = samples["samples"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["age_ms"].as_u64())
        .collect();
    assert!(ages.len() > 20 && ages.iter().any(|age| *age < 3_000), "{samples}");
    let since = series["now_ms"].as_i64().unwrap() - 2_000;
    let few = json(socket, &format!("/v1/series?service=web&name=inflight&since={since}"));
    for one in few["series"].as_array().unwrap() {
        assert_eq!(one["name"], "inflight");
        assert!(one["values"].as_array().unwrap().len() < 10, "{one}");
    }
}

/// A real Prometheus reads the real agent, in its own choice of format, and every expression that is shipped finds its metrics.
fn prometheus(rig: &Rig, agent: SocketAddr, page: &str) {
    let folder = tempfile::tempdir().unwrap();
    let at = rig::free_address().unwrap();
    let rules = shipped("understudy.rules.yml");
    let config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [\"{}\"]\nscrape_configs: [{{ job_name: understudy, static_configs: [{{ targets: [\"{agent}\"] }}] }}]\n",
        rules.display()
    );
    std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let arguments = [
        format!("--config.file={}", path("prometheus.yml")),
        format!("--storage.tsdb.path={}", path("data")),
        format!("--web.listen-address={at}"),
    ];
    let _prometheus = Other::start("prometheus", &arguments, &folder.path().join("log"));
    let query = |expression: &str| get_tcp(at, &format!("/api/v1/query?query={}", encoded(expression)));
    until("Prometheus to read the agent", SOON, || {
        let answer = query("up{job=\"understudy\"} == 1 and on() understudy_service_up{service=\"web\"} == 1")?;
        answer["data"]["result"]
            .as_array()
            .filter(|found| !found.is_empty())
            .map(drop)
    });
    let declared: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    for (of, expression) in expressions() {
        let answer = query(&expression).unwrap_or_else(|| panic!("{of}: Prometheus refuses {expression}"));
        assert_eq!(answer["status"], "success", "{of}: {expression}");
        for name in names(&expression) {
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(&name);
            assert!(
                declared.contains(base) || declared.contains(name.as_str()),
                "{of}: {name} is no metric of ours"
            );
        }
    }
    let rules = until("rules to be judged", SOON, || {
        let answer = get_tcp(at, "/api/v1/rules")?;
        let groups = answer["data"]["groups"].as_array()?.clone();
        let rules: Vec<Value> = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap().clone())
            .collect();
        (!rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok")).then_some(rules)
    });
    assert!(rules.len() >= 10, "{rules:?}");
    drop(rig.status().unwrap());
}

/// Every expression of the dashboard, with its variables filled in.
fn expressions() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(shipped("understudy.grafana.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36 && dashboard["uid"].is_string());
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert!(
        variables
            .iter()
            .any(|one| one["type"] == "datasource" && one["query"] == "prometheus")
    );
    let mut found = Vec::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap().to_owned();
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "two panels of one id: {title}"
        );
        let place = &panel["gridPos"];
        assert!(
            place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24,
            "{title}"
        );
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let filled = expression
                .replace("$service", "web")
                .replace("$cluster", "shop")
                .replace("$__rate_interval", "1m");
            assert!(!filled.contains('$'), "{title}: {filled}");
            found.push((title.clone(), filled));
        }
    }
    assert!(found.len() >= 15);
    found
}

fn names(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("understudy_"))
        .map(str::to_owned)
        .collect()
}
