//! Touches the world: starts, watches and stops processes, runs hooks and checks, keeps logs.
//!
//! - [`process`]: instances, from their start to the end of the last process of their tree; adoption after the agent's end.
//! - [`logs`]: what instances write: kept bounded, shown and followed.
//! - [`hook`] and [`probe`]: what is run at a change of role, and whether an instance works.
//! - [`preflight`]: what can be known to be wrong before anything is started.
//! - [`address`]: floating addresses, put on a network interface and kept there.
//! - [`hardware`]: what lies below this node: disks, file servers, whose machine it is.
//! - [`power`]: fence agents, which take the power of other nodes away.
//! - [`sockets`]: which instance made a connection, and which connections wait for an answer.
//! - [`account`], [`program`] and [`environment`]: users and commands of this machine, and what the latter find.

pub mod account;
pub mod address;
mod cgroup;
mod command;
pub mod environment;
pub mod hardware;
pub mod hook;
pub mod logs;
pub mod power;
pub mod preflight;
pub mod probe;
pub mod process;
pub mod program;
pub mod sockets;
mod sys;
