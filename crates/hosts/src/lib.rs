//! Several hosts out of one Linux machine, so that anyone can watch a cluster lose a node.
//!
//! A [`Rig`] is a bridge with hosts and a client on it. A host has namespaces of its own for network, processes, mounts, ipc
//! and host name, a process 1, a disk that outlives a power loss, `/run`, `/dev/shm`, `/proc` and `/sys` of its own, a machine id, a
//! boot id that changes with each boot, and the subtree of cgroups that it sees as the root. A [`Fault`] breaks something and heals.
//! When the rig is dropped all of it is gone; what an owner left that was killed, [`sweep`] removes.
//!
//! ```no_run
//! use hosts::{Command, Fault, Rig, Spec};
//! # fn example() -> Result<(), hosts::Error> {
//! let rig = Rig::create(&Spec::new(["a", "b", "c"]))?;
//! rig.host("a")?.start_daemon(Command::new(["etcd", "--data-dir", "/var/lib/etcd"]), "etcd")?;
//! let loss = Fault::power_loss("a");
//! rig.begin(&loss)?;
//! // … who has taken over? …
//! rig.heal(&loss)?;
//! # Ok(()) }
//! ```
//!
//! [`client`] asks from outside and records each request, [`outage`] tells from the record how long a service was away, [`token`] is a service that
//! proves when it was active, [`witness`] judges the proof.
//!
//! # What a host shares with the machine
//! - **The kernel and its processors.** A host under load slows the others; there is no crash of a kernel. Memory is not divided: a host
//!   that runs out of it takes the machine along, so there is no such fault.
//! - **The wall clock.** Time namespaces have no offset for CLOCK_REALTIME, and a step would move the clock of the machine. With
//!   [`Spec::own_wall_clocks`] each host has one for programs that are started with [`Host::wall_clock_env`] and ask the C library for the time,
//!   and [`Fault::ClockStep`] steps it. etcd, which is in Go, asks the kernel and is not among them; nor is what a program starts
//!   without its environment. CLOCK_MONOTONIC and CLOCK_BOOTTIME can be moved when a host is made ([`Spec::clock_offset_s`]).
//!   Clocks do not drift apart: it is one oscillator.
//! - **The disk's cache.** What a host wrote and did not sync survives its power loss, for the machine has kept its power.
//! - **Files.** A host sees those of the machine's root file system through an overlay and changes only its own. Other file systems of
//!   the machine are not seen. The machine's own root must not be an overlay itself.
//! - **Frames are not delayed.** Loss is at random, by the bridge; `tc netem` is in few kernels.
//! - A pause ([`Fault::Pause`]) stops processes, not the kernel: it answers pings, accepts connections, and keeps an address.
//! - cgroups of version 1 are not seen on a host.

mod boot;
mod cgroup;
pub mod client;
mod clock;
mod cuts;
mod disk;
mod entry;
mod error;
mod fault;
mod host;
mod init;
mod net;
pub mod outage;
mod place;
mod rig;
pub mod token;
mod wall;
mod wire;
pub mod witness;

pub use clock::now_ns;
pub use error::Error;
pub use fault::Fault;
pub use host::Host;
pub use net::Namespace;
pub use place::sweep;
pub use rig::{Rig, Spec};
pub use wire::{Command, Ended, Output};
