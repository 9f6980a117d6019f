//! Pacemaker on corosync: a group of an address and the service, started on one host and watched there.

use super::contender::{Active, Break, Contender, PORT, floating, need, pids, tokenserver, wait_for};
use anyhow::Result;
use bench::report::first_line;
use hosts::{Command, Host, Rig};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) struct Pacemaker {
    /// Milliseconds until a silent host counts as lost, whatever the number of hosts; corosync's own 3 s, and 0.65 s for a third host, otherwise.
    token_ms: Option<u32>,
    /// Between looks at the service, seconds.
    monitor_s: u32,
    program: PathBuf,
}

/// A cluster elects its coordinator only after 20 s if hosts come up one by one.
const UP_WITHIN: Duration = Duration::from_secs(90);
const AGENT: &str = "/usr/lib/ocf/resource.d/bench/token";

impl Pacemaker {
    pub(crate) fn new(token_ms: Option<u32>, monitor_s: u32) -> Result<Self> {
        need(&[
            ("pacemakerd", "pacemaker"),
            ("corosync", "corosync"),
            ("cibadmin", "pacemaker-cli-utils"),
            ("ocf-tester", "resource-agents"),
        ])?;
        Ok(Self {
            token_ms,
            monitor_s,
            program: tokenserver()?,
        })
    }

    /// For an answer of the service.
    fn patience_ms(&self) -> u32 {
        if self.monitor_s > 1 { 900 } else { 300 }
    }

    fn corosync(&self, rig: &Rig) -> String {
        let token = self
            .token_ms
            .map(|token| format!("    token: {token}\n    token_coefficient: 0\n"))
            .unwrap_or_default();
        let mut text = format!(
            "totem {{\n    version: 2\n    cluster_name: bench\n    transport: knet\n{token}}}\nquorum {{\n    provider: corosync_votequorum\n}}\n\
             logging {{\n    to_logfile: yes\n    to_syslog: no\n    logfile: /var/log/corosync/corosync.log\n    timestamp: hires\n}}\nnodelist {{\n"
        );
        for (host, id) in rig.hosts().zip(1..) {
            let (name, address) = (host.name(), host.address());
            // Writing to a `String` cannot fail.
            writeln!(
                text,
                "    node {{\n        ring0_addr: {address}\n        name: {name}\n        nodeid: {id}\n    }}"
            )
            .ok();
        }
        text.push_str("}\n");
        text
    }

    /// The service as a resource. It ends by SIGKILL at once: no agent could do it faster.
    fn agent(&self, rig: &Rig) -> String {
        let (program, rings) = (self.program.display(), rig.shared());
        let (rings, patience_ms) = (rings.display(), self.patience_ms());
        format!(
            r#"#!/bin/sh
pid() {{ cat /run/token.pid 2>/dev/null; }}
runs() {{ [ -n "$(pid)" ] && kill -0 "$(pid)" 2>/dev/null; }}
answers() {{ {program} check 127.0.0.1:{PORT} --timeout-ms {patience_ms} >/dev/null 2>&1; }}
case "$1" in
meta-data)
    cat <<'END'
<?xml version="1.0"?>
<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
<resource-agent name="token" version="1.0"><version>1.0</version>
<longdesc lang="en">tokenserver</longdesc><shortdesc lang="en">tokenserver</shortdesc><parameters/>
<actions><action name="start" timeout="20s"/><action name="stop" timeout="20s"/>
<action name="monitor" timeout="20s" interval="10s" depth="0"/><action name="meta-data" timeout="5s"/></actions></resource-agent>
END
    exit 0 ;;
start)
    runs && answers && exit 0
    setsid {program} serve --name "$(hostname)" --listen 0.0.0.0:{PORT} --epoch now --every-us 1000 --rings {rings} </dev/null >>/var/log/token.log 2>&1 &
    echo $! >/run/token.pid
    for _ in $(seq 200); do answers && exit 0; runs || exit 1; sleep 0.02; done
    exit 1 ;;
stop)
    runs && kill -9 "$(pid)"
    while runs; do sleep 0.01; done
    rm -f /run/token.pid
    exit 0 ;;
monitor)
    runs || exit 7
    answers && exit 0
    exit 1 ;;
*)
    exit 3 ;;
esac
"#
        )
    }

    fn resources(&self, rig: &Rig) -> String {
        let (address, every) = (floating(rig), self.monitor_s);
        let pair = |of: &str, name: &str, value: &str| {
            format!("<nvpair id=\"{of}-{name}\" name=\"{name}\" value=\"{value}\"/>")
        };
        let monitor = |of: &str| {
            format!(
                "<operations><op id=\"{of}-monitor\" name=\"monitor\" interval=\"{every}s\" timeout=\"20s\"/></operations>"
            )
        };
        let parameters = [
            ("ip", address.to_string()),
            ("cidr_netmask", "24".into()),
            ("nic", "eth0".into()),
        ];
        let parameters: String = parameters.iter().map(|(name, value)| pair("ip", name, value)).collect();
        format!(
            "<group id=\"service\">\
             <primitive id=\"ip\" class=\"ocf\" provider=\"heartbeat\" type=\"IPaddr2\"><instance_attributes id=\"ip-all\">{parameters}</instance_attributes>{}</primitive>\
             <primitive id=\"token\" class=\"ocf\" provider=\"bench\" type=\"token\">{}</primitive></group>",
            monitor("ip"),
            monitor("token"),
        )
    }

    fn start_manager(&self, host: &Host) -> Result<()> {
        host.shell(
            "install -d -o hacluster -g haclient -m 750 /run/crm && install -d /run/resource-agents /var/lib/corosync && rm -f /var/lib/corosync/*",
        )?;
        host.start_daemon(Command::new(["corosync", "-f"]), "corosync")?;
        let up = || {
            Ok(host
                .run(Command::new(["corosync-cfgtool", "-s"]))?
                .ended
                .is_success()
                .then_some(()))
        };
        wait_for("corosync", Duration::from_secs(20), up)?;
        host.start_daemon(Command::new(["pacemakerd", "-f"]), "pacemaker")?;
        Ok(())
    }
}

impl Contender for Pacemaker {
    fn name(&self) -> String {
        let word = |program: &str, arguments: &[&str], place: usize| {
            let line = first_line(program, arguments);
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            words
                .get(place)
                .map_or(line.clone(), |word| word.trim_matches(['\'', ',']).to_owned())
        };
        let (pacemaker, corosync) = (word("pacemakerd", &["--version"], 1), word("corosync", &["-v"], 4));
        format!("pacemaker {pacemaker}, corosync {corosync}")
    }

    fn settings(&self) -> String {
        let token = self.token_ms.map_or("token of its own (3 s)".to_owned(), |token| {
            format!("token {token} ms and no more for a third host")
        });
        format!("{token}, monitor each {} s, no fencing, stickiness 100", self.monitor_s)
    }

    fn setup(&self, rig: &Rig) -> Result<SocketAddr> {
        let (corosync, agent) = (self.corosync(rig), self.agent(rig));
        for host in rig.hosts() {
            host.write("/etc/corosync/corosync.conf", &corosync)?;
            host.write(AGENT, &agent)?;
            host.shell(&format!("chmod 755 {AGENT}"))?;
            self.start_manager(host)?;
        }
        let Some(first) = rig.hosts().next() else {
            return Ok(SocketAddr::from((floating(rig), PORT)));
        };
        let all = rig.hosts().count();
        let online = || {
            let said = first.run(Command::new(["crm_mon", "-1", "--as-xml"]))?.stdout;
            Ok(
                (said.matches("online=\"true\"").count() >= all && said.contains("<current_dc present=\"true\""))
                    .then_some(()),
            )
        };
        wait_for("pacemaker", UP_WITHIN, online)?;
        for (kind, name, value) in [
            ("crm_config", "stonith-enabled", "false"),
            ("rsc_defaults", "resource-stickiness", "100"),
            // Or a service that died a few times is banned from its host.
            ("rsc_defaults", "migration-threshold", "0"),
        ] {
            first.check(Command::new([
                "crm_attribute",
                "--type",
                kind,
                "--name",
                name,
                "--update",
                value,
            ]))?;
        }
        first.check(Command::new([
            "cibadmin",
            "--create",
            "--scope",
            "resources",
            "--xml-text",
            &self.resources(rig),
        ]))?;
        Ok(SocketAddr::from((floating(rig), PORT)))
    }

    fn booted(&self, _rig: &Rig, host: &Host) -> Result<()> {
        self.start_manager(host)
    }

    fn manager(&self, host: &Host) -> Result<Vec<u32>> {
        pids(host, "^(pacemaker|corosync)")
    }

    fn switch_over(&self, rig: &Rig, from: &Host) -> Result<()> {
        let Some(to) = rig.hosts().find(|host| host.name() != from.name() && host.is_on()) else {
            return Ok(());
        };
        from.check(Command::new([
            "crm_resource",
            "--resource",
            "service",
            "--move",
            "--node",
            to.name(),
        ]))?;
        Ok(())
    }

    fn tidy(&self, _rig: &Rig, host: &Host, broken: Break, _active: &Active) -> Result<()> {
        if broken == Break::Switchover {
            host.check(Command::new(["crm_resource", "--resource", "service", "--clear"]))?;
        }
        // It remembers failures.
        host.run(Command::new(["crm_resource", "--cleanup", "--resource", "service"]))?;
        let idle = || {
            let all_there = host.run(Command::new(["crm_mon", "-1", "--as-xml"]))?.stdout;
            Ok(
                (!all_there.contains("online=\"false\"") && all_there.contains("<current_dc present=\"true\""))
                    .then_some(()),
            )
        };
        wait_for("pacemaker to be whole again", UP_WITHIN, idle)
    }

    /// A stop in order takes longer than to drop the rig, and proves nothing.
    fn teardown(&self, rig: &Rig) -> Result<()> {
        for host in rig.hosts().filter(|host| host.is_on()) {
            for pid in self.manager(host)? {
                host.signal(pid, rustix::process::Signal::KILL).ok();
            }
        }
        Ok(())
    }
}
