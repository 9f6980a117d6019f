//! keepalived: VRRP moves an address, a script on each host checks the service, which runs on all of them.

use super::contender::{Active, Break, CONTROL, Contender, PORT, floating, need, pids, tokenserver, who_answers};
use anyhow::Result;
use bench::report::first_line;
use hosts::{Command, Host, Rig};
use rustix::process::Signal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) struct Keepalived {
    /// Between adverts, in seconds, as its file takes it.
    advert: &'static str,
    /// How long the script waits for the service, milliseconds; the script itself runs each second, which is the least there is.
    patience_ms: u32,
    program: PathBuf,
}

impl Keepalived {
    pub(crate) fn new(advert: &'static str, patience_ms: u32) -> Result<Self> {
        need(&[("keepalived", "keepalived")])?;
        Ok(Self {
            advert,
            patience_ms,
            program: tokenserver()?,
        })
    }

    fn configuration(&self, rig: &Rig, host: &Host, priority: usize) -> String {
        let (advert, program, address) = (self.advert, self.program.display(), floating(rig));
        let (name, patience) = (host.name(), self.patience_ms);
        format!(
            "global_defs {{
    router_id {name}
    script_user root
    vrrp_version 3
    vrrp_garp_master_refresh 1
}}
vrrp_script service {{
    script \"{program} check 127.0.0.1:{PORT} --timeout-ms {patience}\"
    interval 1
    timeout 1
    fall 1
    rise 1
}}
vrrp_instance service {{
    state BACKUP
    nopreempt
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int {advert}
    virtual_ipaddress {{
        {address}/24 dev eth0
    }}
    track_script {{
        service
    }}
    notify_master \"{program} promote --control {CONTROL} now\"
    notify_backup \"{program} demote --control {CONTROL}\"
    notify_fault \"{program} demote --control {CONTROL}\"
    notify_stop \"{program} demote --control {CONTROL}\"
}}
"
        )
    }

    fn start_service(&self, rig: &Rig, host: &Host) -> Result<()> {
        let (program, rings) = (self.program.to_string_lossy(), rig.shared());
        let listen = format!("0.0.0.0:{PORT}");
        let words = [
            &*program,
            "serve",
            "--name",
            host.name(),
            "--listen",
            &listen,
            "--control",
            CONTROL,
            "--answer-standby",
        ];
        let words = words
            .into_iter()
            .chain(["--every-us", "1000", "--rings", rings.to_str().unwrap_or_default()]);
        host.start_daemon(Command::new(words), "token")?;
        Ok(())
    }

    fn start_manager(&self, host: &Host) -> Result<()> {
        let words = [
            "keepalived",
            "-P",
            "-n",
            "-l",
            "-D",
            "-f",
            "/etc/keepalived/keepalived.conf",
        ];
        let words = words
            .into_iter()
            .chain(["-p", "/run/keepalived.pid", "-r", "/run/vrrp.pid"]);
        host.start_daemon(Command::new(words), "keepalived")?;
        Ok(())
    }
}

impl Contender for Keepalived {
    fn name(&self) -> String {
        let version = first_line("keepalived", &["--version"]);
        let words: Vec<&str> = version.split_ascii_whitespace().take(2).collect();
        words.join(" ").to_lowercase()
    }

    fn settings(&self) -> String {
        format!(
            "VRRP 3, adverts {} s, script each 1 s (patience {} ms, fall 1), nopreempt",
            self.advert, self.patience_ms
        )
    }

    fn setup(&self, rig: &Rig) -> Result<SocketAddr> {
        for (number, host) in rig.hosts().enumerate() {
            host.write(
                "/etc/keepalived/keepalived.conf",
                &self.configuration(rig, host, 150 - 10 * number),
            )?;
            self.booted(rig, host)?;
        }
        Ok(SocketAddr::from((floating(rig), PORT)))
    }

    fn booted(&self, rig: &Rig, host: &Host) -> Result<()> {
        self.start_service(rig, host)?;
        self.start_manager(host)
    }

    fn manager(&self, host: &Host) -> Result<Vec<u32>> {
        pids(host, "^keepalived$")
    }

    /// As its operators do: the active's keepalived is stopped, and says good-bye.
    fn switch_over(&self, _rig: &Rig, from: &Host) -> Result<()> {
        for pid in self.manager(from)? {
            // A child may have gone with its parent.
            from.signal(pid, Signal::TERM).ok();
        }
        Ok(())
    }

    fn tidy(&self, rig: &Rig, host: &Host, broken: Break, active: &Active) -> Result<()> {
        match broken {
            Break::ServiceKilled => self.start_service(rig, host),
            Break::ServiceFrozen => {
                host.signal(active.pid, Signal::CONT)?;
                // keepalived told it once that it is no master any more, while it stood still: without this it would act beside the next one
                // in all tries to come.
                let next = who_answers(rig, SocketAddr::from((floating(rig), PORT)))?;
                if next.is_some_and(|next| next.host != active.host) {
                    host.shell(&format!("{} demote --control {CONTROL}", self.program.display()))?;
                }
                Ok(())
            }
            Break::Switchover => {
                let ended = || Ok(self.manager(host)?.is_empty().then_some(()));
                super::contender::wait_for("keepalived to stop", Duration::from_secs(10), ended)?;
                self.start_manager(host)
            }
            Break::PowerLoss | Break::LinkDown | Break::ManagerFrozen => Ok(()),
        }
    }

    fn teardown(&self, rig: &Rig) -> Result<()> {
        for host in rig.hosts().filter(|host| host.is_on()) {
            self.switch_over(rig, host)?;
        }
        Ok(())
    }
}
