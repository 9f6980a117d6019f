//! The files that the benchmarks run.

use std::net::SocketAddr;
use std::path::Path;

/// Two web servers and a warm one.
pub(crate) fn web(name: &str, listen: SocketAddr) -> String {
    format!("name = \"{name}\"\n{}", web_service(listen))
}

/// A database and its standby.
pub(crate) fn db(name: &str, listen: SocketAddr) -> String {
    format!("name = \"{name}\"\n{}", db_service(listen))
}

/// Both.
pub(crate) fn web_and_db(name: &str, web: SocketAddr, db: SocketAddr) -> String {
    format!("name = \"{name}\"\n{}{}", web_service(web), db_service(db))
}

/// So many processes that do nothing.
pub(crate) fn sleepers(name: &str, active: u32, standby: u32) -> String {
    format!(
        r#"
name = "{name}"
[service.sleeper]
command = ["{{understudy}}", "sample", "sleeper"]
active = {active}
standby = {standby}
"#
    )
}

/// nginx behind http and behind tcp, and an echo server, all on `core`, one instance each.
pub(crate) fn backends(
    name: &str,
    core: usize,
    program: &Path,
    http: SocketAddr,
    tcp: SocketAddr,
    echo: SocketAddr,
) -> String {
    let program = program.display();
    let nginx = nginx_service("http", "http", core, http) + &nginx_service("tcp", "tcp", core, tcp);
    format!(
        r#"
name = "{name}"
{nginx}
[service.echo]
command = ["taskset", "-c", "{core}", "{program}", "echo", "--listen", "{{host}}:{{port}}"]
standby = 0
listen = "{echo}"
check = {{ tcp = true, every = "1s" }}
"#
    )
}

fn web_service(listen: SocketAddr) -> String {
    format!(
        r#"
[service.web]
command = ["{{understudy}}", "sample", "web", "--port", "{{port}}"]
active = 2
standby = 1
need = 1
listen = "{listen}"
protocol = "http"
check = {{ http = "/healthz", every = "200ms", timeout = "200ms", fail_after = 2 }}
"#
    )
}

fn db_service(listen: SocketAddr) -> String {
    format!(
        r#"
[service.db]
command = ["{{understudy}}", "sample", "db", "--port", "{{port}}", "--data", "{{data}}"]
active = 1
standby = 1
exclusive = true
listen = "{listen}"
protocol = "http"
check = {{ http = "/healthz", every = "200ms", timeout = "200ms", fail_after = 2 }}
standby_check = {{ http = "/ready", every = "200ms" }}
on_promote = ["{{understudy}}", "sample", "promote", "--port", "{{port}}", "--epoch", "{{epoch}}"]
on_demote = ["{{understudy}}", "sample", "demote", "--port", "{{port}}"]
on_follow = ["{{understudy}}", "sample", "follow", "--port", "{{port}}", "--active", "{{active.host}}:{{active.port}}"]
"#
    )
}

fn nginx_service(name: &str, protocol: &str, core: usize, listen: SocketAddr) -> String {
    format!(
        r#"
[service.{name}]
command = ["sh", "-c", '''
cat > nginx.conf <<END
daemon off;
pid {{data}}/nginx.pid;
error_log stderr error;
worker_processes 1;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 10m;
    client_body_temp_path {{data}}/client;
    proxy_temp_path {{data}}/proxy;
    fastcgi_temp_path {{data}}/fastcgi;
    uwsgi_temp_path {{data}}/uwsgi;
    scgi_temp_path {{data}}/scgi;
    server {{
        listen {{host}}:{{port}} backlog=4096;
        location / {{ return 200 "hello, this is a small static body\n"; }}
    }}
}}
END
PATH=$PATH:/usr/sbin
exec taskset -c {core} nginx -e stderr -p {{data}} -c nginx.conf
''']
standby = 0
listen = "{listen}"
protocol = "{protocol}"
check = {{ tcp = true, every = "1s" }}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_one_that_the_product_takes() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let program = Path::new("/bin/true");
        for text in [
            web("b", address(1)),
            db("b", address(1)),
            web_and_db("b", address(1), address(2)),
            sleepers("b", 90, 10),
            backends("b", 1, program, address(1), address(2), address(3)),
        ] {
            parse(&text);
        }
    }

    #[test]
    fn so_are_the_examples() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            parse(&std::fs::read_to_string(&path).unwrap());
            names.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
        }
        for name in ["shop", "redis", "nginx"] {
            assert!(
                names.iter().any(|found| found == name),
                "{name}.toml is not among {names:?}"
            );
        }
    }

    fn parse(text: &str) {
        match spec::parse(text, "file.toml") {
            Ok(parsed) => assert!(parsed.warnings.is_empty(), "{:?}\n{text}", parsed.warnings),
            Err(errors) => panic!("{errors}\n{text}"),
        }
    }
}
