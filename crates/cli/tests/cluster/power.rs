//! A service whose storage is shared leans on power fencing: its host hangs with the process writing on, is switched off by its device, and only
//! then somebody else takes over (T4f).

use crate::{HEAL, Land, wait_for};
use hosts::{Fault, Rig};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A fence agent in the form of ClusterLabs. Its device is this test, reached through a folder that all hosts see.
const AGENT: &str = r#"#!/bin/sh
while IFS='=' read -r key value; do
  case "$key" in
    action) action=$value ;;
    plug) plug=$value ;;
    password) password=$value ;;
  esac
done
[ "$#" = 0 ] || { echo "told by arguments" >&2; exit 1; }
[ "$password" = "open-sesame" ] || { echo "wrong password" >&2; exit 1; }
ask="$(dirname "$0")/$plug.$(cat /proc/sys/kernel/random/uuid)"
echo "$action" > "$ask.new"
mv "$ask.new" "$ask.ask"
i=0
while [ $i -lt 80 ]; do
  [ -e "$ask.done" ] && exit "$(cat "$ask.done")"
  sleep 0.1
  i=$((i + 1))
done
echo "no answer from the outlet" >&2
exit 1
"#;

/// Outlets, one for each host.
struct Outlets {
    folder: PathBuf,
    over: AtomicBool,
    /// Nobody answers.
    dead: AtomicBool,
}

impl Outlets {
    fn new(rig: &Rig) -> Self {
        let folder = rig.shared().join("power");
        fs::create_dir(&folder).unwrap();
        let agent = folder.join("fence_outlet");
        fs::write(&agent, AGENT).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&agent, mode).unwrap();
        Self {
            folder,
            over: AtomicBool::new(false),
            dead: AtomicBool::new(false),
        }
    }

    /// Serves until it is over. What was done is noted.
    fn serve(&self, rig: &Rig) {
        while !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
            if self.dead.load(Ordering::Relaxed) {
                continue;
            }
            for ask in self.asks() {
                self.answer(rig, &ask);
            }
        }
    }

    /// The agent above, in the file.
    fn device(&self, node: &str) -> String {
        format!(
            "[node.{node}.fence]\nagent = \"{}\"\nparameters = {{ plug = \"{node}\" }}\n\
             secrets = {{ password = {{ file = \"/root/outlet\" }} }}\ntimeout = \"10s\"\n",
            self.folder.join("fence_outlet").display()
        )
    }

    fn asks(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().path());
        entries
            .filter(|path| path.extension().is_some_and(|end| end == "ask"))
            .collect()
    }

    fn answer(&self, rig: &Rig, ask: &Path) {
        let name = ask.file_name().unwrap().to_string_lossy().into_owned();
        let plug = name.split('.').next().unwrap();
        let host = rig.host(plug).unwrap();
        let action = fs::read_to_string(ask).unwrap();
        let loss = Fault::power_loss(plug);
        let code = match action.trim() {
            "off" => {
                if host.is_on() {
                    rig.begin(&loss).unwrap();
                    eprintln!("outlet of {plug}: off");
                }
                0
            }
            "on" => {
                if !host.is_on() {
                    rig.heal(&loss).unwrap();
                    eprintln!("outlet of {plug}: on");
                }
                0
            }
            "status" => 2 * i32::from(!host.is_on()),
            _ => 1,
        };
        fs::remove_file(ask).unwrap();
        let new = ask.with_extension("code");
        fs::write(&new, code.to_string()).unwrap();
        fs::rename(new, ask.with_extension("done")).unwrap();
    }
}

impl Land {
    /// `device` is what takes a node's power away, by its name.
    fn open_fenced(&self, device: impl Fn(&str) -> String) {
        let witness = self.rig.shared().join("witness");
        let file = format!(
            r#"
name = "shop"

[service.db]
command = ["{{understudy}}", "sample", "db", "--host", "{{host}}", "--port", "{{port}}", "--data", "{{data}}", "--witness", "{}"]
exclusive = true
fence = "power"
listen = "0.0.0.0:6380"
protocol = "http"
check = {{ http = "/healthz", every = "200ms", timeout = "2s", fail_after = 3 }}
standby_check = {{ http = "/ready", every = "200ms" }}
on_promote = ["{{understudy}}", "sample", "promote", "--host", "{{host}}", "--port", "{{port}}", "--epoch", "{{epoch}}"]
on_demote = ["{{understudy}}", "sample", "demote", "--host", "{{host}}", "--port", "{{port}}"]
on_follow = ["{{understudy}}", "sample", "follow", "--host", "{{host}}", "--port", "{{port}}", "--active", "{{active.host}}:{{active.port}}"]

[service.note]
command = ["sleep", "1000"]
exclusive = true
standby = 2

{}{}{}"#,
            witness.display(),
            device("a"),
            device("b"),
            device("c")
        );
        for host in ["a", "b", "c"] {
            self.host(host).write("/root/outlet", "open-sesame\n").unwrap();
            self.host(host).shell("chmod 600 /root/outlet").unwrap();
        }
        self.host("a").write("/root/fenced.toml", &file).unwrap();
        self.ok("a", &["apply", "/root/fenced.toml", "--yes"]);
        self.until_redundant("a");
    }

    /// The node that holds the database's slot, its epoch, and whether it serves.
    fn held(&self, host: &str) -> Option<(String, u64, bool)> {
        let db = self.status(host)?.services.into_iter().find(|one| one.name == "db")?;
        let slot = db.slots.into_iter().next()?;
        let serves = slot.state == "serving";
        Some((slot.node?, slot.epoch, serves))
    }

    /// Agent and guard stand still; what they look after runs on.
    fn hang(&self, node: &str) {
        let root = "/var/lib/understudy/shop";
        let line = format!("kill -STOP $(cat {root}/guard.lock | head -c 8) $(cat {root}/agent.lock | head -c 8)");
        self.host(node).shell(&line).unwrap();
    }

    fn all_events(&self, hosts: &[&str]) -> String {
        let events = hosts.iter().map(|host| self.run(host, &["events", "-n", "300"]).stdout);
        events.collect()
    }
}

#[test]
fn a_host_that_hangs_while_it_writes_is_switched_off_before_anybody_takes_over() {
    let land = Land::of(&["a", "b", "c"]);
    with_outlets(&land, told);
}

/// Tells a story while the outlets are served; by the witness, never two were active in it.
fn with_outlets(land: &Land, story: impl FnOnce(&Land, &Outlets)) {
    let outlets = Outlets::new(&land.rig);
    std::thread::scope(|scope| {
        scope.spawn(|| outlets.serve(&land.rig));
        let story = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(land, &outlets)));
        outlets.over.store(true, Ordering::Relaxed);
        if let Err(panic) = story {
            std::panic::resume_unwind(panic);
        }
    });
    land.assert_never_two_actives();
}

fn told(land: &Land, outlets: &Outlets) {
    land.open_fenced(|node| outlets.device(node));
    let (node, epoch, _) = wait_for("an active", HEAL, || land.held("a"));
    let others: Vec<&str> = ["a", "b", "c"].into_iter().filter(|name| *name != node).collect();
    let asked = others[0];
    let answer = land.ok(asked, &["fence", "--test", &node]);
    assert!(answer.contains(": on"), "{answer}");

    // The outlets are dead, and its host hangs: the lease alone would let the next one write beside it.
    outlets.dead.store(true, Ordering::Relaxed);
    let hung = Instant::now();
    land.hang(&node);
    let failed = || land.all_events(&others).contains("could not be taken away");
    wait_for("a failed attempt to be told", HEAL * 2, || failed().then_some(()));
    assert_eq!(land.held(asked).map(|held| held.1), Some(epoch), "somebody took it");
    let problems = land.ok(asked, &["status"]);
    assert!(problems.contains("nobody takes what it holds of db"), "{problems}");
    // What leans on its lease is not kept waiting for outlets.
    let status = land.status(asked).unwrap();
    let note = status.services.iter().find(|one| one.name == "note").unwrap();
    assert_ne!(note.slots[0].node.as_deref(), Some(node.as_str()), "{note:?}");
    assert!(land.host(&node).is_on());

    // They answer again: the next attempt succeeds, and only then somebody takes over.
    outlets.dead.store(false, Ordering::Relaxed);
    let mended = Instant::now();
    let (heir, next, _) = wait_for("another active", HEAL * 2, || {
        land.held(asked)
            .filter(|(on, at, serves)| *on != node && *at > epoch && *serves)
    });
    eprintln!(
        "{heir} took over {} ms after {node} hung, {} ms after its outlet answered again",
        hung.elapsed().as_millis(),
        mended.elapsed().as_millis()
    );
    let events = land.all_events(&others);
    assert!(
        events.contains(&format!("node {node} is off: every device of it says so")),
        "{events}"
    );
    assert!(!events.contains("open-sesame"));
    // It got its power back.
    wait_for("its power", HEAL, || land.host(&node).is_on().then_some(()));
    assert_eq!(land.held(asked).map(|held| held.1), Some(next));
}

#[test]
fn a_living_host_is_switched_off_by_hand_if_somebody_is_left() {
    let land = Land::of(&["a", "b", "c"]);
    with_outlets(&land, by_hand);
}

fn by_hand(land: &Land, outlets: &Outlets) {
    land.open_fenced(|node| outlets.device(node));
    let (node, epoch, _) = wait_for("an active", HEAL, || land.held("a"));
    let others: Vec<&str> = ["a", "b", "c"].into_iter().filter(|name| *name != node).collect();
    let asked = others[0];
    let itself = land.refused(&node, &["fence", &node, "--yes"]);
    assert!(itself.contains("is the one that is asked"), "{itself}");
    // Nobody says yes.
    land.refused(asked, &["fence", &node]);
    assert!(land.host(&node).is_on());
    // A secret that everybody may read is not used.
    land.host(asked).shell("chmod 644 /root/outlet").unwrap();
    let open = land.refused(asked, &["fence", "--test", &node]);
    assert!(
        open.contains("may be read by everybody") && !open.contains("sesame"),
        "{open}"
    );
    land.host(asked).shell("chmod 600 /root/outlet").unwrap();

    let begun = Instant::now();
    let answer = land.ok(asked, &["fence", &node, "--yes"]);
    assert!(answer.contains(&format!("node {node} is off")), "{answer}");
    wait_for("another active", HEAL, || {
        land.held(asked)
            .filter(|(on, at, serves)| *on != node && *at > epoch && *serves)
    });
    eprintln!("taken {} ms after it was asked for", begun.elapsed().as_millis());
    let deeds = land.ok(others[1], &["history", "--deeds"]);
    assert!(
        deeds.contains(&format!("took the power of node {node} away")),
        "{deeds}"
    );
    // Nothing that is kept knows the secret.
    let kept =
        "grep -rl 'open[-]sesame' /var/lib/understudy /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null || true";
    assert_eq!(land.host(asked).shell(kept).unwrap().trim(), "");
}
