//! Hosts to play with: makes them, says how to enter them, breaks them on demand, removes them at the end.

use clap::{Parser, Subcommand};
use hosts::{Error, Fault, Host, Rig, Spec};
use std::collections::BTreeSet;
use std::io::BufRead;
use std::process::ExitCode;
use std::thread;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

#[derive(Debug, Parser)]
#[command(name = "rig", about = "Several hosts out of this machine")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make hosts, and wait for Ctrl-C
    Up {
        /// How many: 1 to 26
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=26))]
        hosts: u8,
        /// Give each a disk of its own of so many MiB, to fill and to stall
        #[arg(long, value_parser = clap::value_parser!(u64).range(8..=65_536))]
        disk_mib: Option<u64>,
    },
    /// Remove what is left of rigs whose owner is gone
    Sweep,
}

fn main() -> ExitCode {
    let done = match Cli::parse().what {
        What::Up { hosts, disk_mib } => up(hosts, disk_mib),
        What::Sweep => hosts::sweep()
            .map(|swept| println!("{} removed", swept.len()))
            .map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

const HELP: &str = "\
off HOST      power loss              on HOST       boot it
down HOST     link without carrier    up HOST       link with carrier
cut HOST      path cut, link up       join HOST     path whole
pause HOST    no process runs         go HOST       they run again
part A.. | B..  partition             heal          mend all
list          hosts, and what is broken";

fn up(count: u8, disk_mib: Option<u64>) -> Result<(), Box<dyn std::error::Error>> {
    let names = (0..count).map(|number| char::from(b'a' + number).to_string());
    let mut spec = Spec::new(names);
    if let Some(mib) = disk_mib {
        spec = spec.disk_bytes(mib << 20);
    }
    let rig = Rig::create(&spec)?;
    println!("{}", list(&rig));
    println!("\nthe client's place:  ip netns exec {} bash", rig.client().name());
    println!("seen by all:         {}", rig.shared().display());
    println!(
        "floating addresses:  {} and above\n\n{HELP}\n\nCtrl-C removes all.",
        rig.floating_address(0)
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(listen(&rig))?;
    eprintln!("removing all");
    Ok(())
}

async fn listen(rig: &Rig) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // A line at a time: whoever types is slower than we are.
    let (sender, mut lines) = mpsc::channel(1);
    // Its end of input is no reason to stop: there may be no terminal.
    let kept = sender.clone();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            Some(line) = lines.recv() => match obey(rig, &line) {
                Ok(said) => println!("{said}"),
                Err(error) => eprintln!("error: {error}"),
            }
        }
    }
    drop(kept);
    Ok(())
}

fn obey(rig: &Rig, line: &str) -> Result<String, Error> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let link = |host: &str| Fault::LinkDown { end: host.to_owned() };
    let path = |host: &str| Fault::PathCut { end: host.to_owned() };
    let pause = |host: &str| Fault::Pause { host: host.to_owned() };
    match words.as_slice() {
        [] => return Ok(String::new()),
        ["off", host] => rig.begin(&Fault::power_loss(*host))?,
        ["on", host] => rig.heal(&Fault::power_loss(*host))?,
        ["down", host] => rig.begin(&link(host))?,
        ["up", host] => rig.heal(&link(host))?,
        ["cut", host] => rig.begin(&path(host))?,
        ["join", host] => rig.heal(&path(host))?,
        ["pause", host] => rig.begin(&pause(host))?,
        ["go", host] => rig.heal(&pause(host))?,
        ["part", ends @ ..] => {
            let part = |part: &[&str]| part.iter().map(|end| (*end).to_owned()).collect::<BTreeSet<_>>();
            rig.begin(&Fault::Partition {
                parts: ends.split(|end| *end == "|").map(part).collect(),
            })?;
        }
        ["heal"] => rig.heal_all()?,
        ["list"] => {}
        _ => return Ok(HELP.to_owned()),
    }
    Ok(list(rig))
}

fn list(rig: &Rig) -> String {
    let host = |host: &Host| {
        let enter = host.enter_with().unwrap_or_else(|| "off".into());
        format!("{:<12} {:<12} {enter}", host.name(), host.address())
    };
    let faults = rig.faults().into_iter().map(|fault| format!("broken: {fault}"));
    rig.hosts().map(host).chain(faults).collect::<Vec<_>>().join("\n")
}
