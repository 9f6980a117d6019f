//! What agent and proxy say to each other over `proxy.sock`: one JSON object a line, listening sockets beside it.
//!
//! The agent makes the listening sockets and hands each over (SCM_RIGHTS) with the `Serve` that names it. The proxy
//! keeps serving when the agent is gone, and greets the next agent with `Hello` and a copy of every socket it has; so
//! either may die alone and no client finds the door closed. All times are microseconds on CLOCK_BOOTTIME.

use model::latency::Histogram;
use model::{Epoch, InstanceId, Millis, Protocol, ServiceName};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Version of this protocol, the same on both sides or the connection is refused.
pub const PROTOCOL: u32 = 1;

/// From the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum ToProxy {
    /// First message. The proxy answers `Hello`.
    Hello {
        /// [`PROTOCOL`].
        protocol: u32,
    },
    /// Serve a service at an address. One listening socket comes with it, in the same `sendmsg`, when the proxy does not have
    /// one for this service and address; without a socket it only changes the settings. Answered by `Served`.
    Serve {
        /// The service.
        service: ServiceName,
        /// Where its clients come to.
        listen: SocketAddr,
        /// What to understand of the traffic.
        protocol: Protocol,
        /// Longest wait of a new connection (tcp) or request (http) while there is no target.
        hold_timeout: Millis,
        /// Most connections or requests that may wait.
        hold_max: u32,
        /// The address is about to move to another machine: clients are served as ever, and asked to come back on a new connection
        /// (http). Who asks for nothing for half a second is sent away.
        #[serde(default)]
        parting: bool,
    },
    /// The whole route of a service; replaces the one before. Ignored if `revision` is not higher than the last one, and
    /// a target is ignored when its epoch is lower than the highest seen for its slot. Answered by `Routed`.
    Route(Route),
    /// Stop serving these: close the listening socket, let connections drain for `drain`.
    Remove {
        /// The service.
        service: ServiceName,
        /// Then close what is left.
        drain: Millis,
    },
    /// Remove every service that is not named here: sent once after `Hello`, when all `Serve`s were sent.
    Only {
        /// Services that stay.
        services: Vec<ServiceName>,
    },
    /// Are you there? Answered by `Pong`.
    Ping,
    /// Stop accepting, drain, exit 0.
    Shutdown {
        /// Then close what is left.
        drain: Millis,
    },
}

/// Where a service's clients are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The service.
    pub service: ServiceName,
    /// Rises with every change. An agent that came back continues above the number in `Hello`.
    pub revision: u64,
    /// The actives. Empty: new connections wait (`hold_timeout`, `hold_max`).
    pub targets: Vec<Target>,
    /// Instances that were targets and are no more. One that is in neither list and has connections left is cut at once.
    pub leaving: Vec<Leaving>,
}

/// An active to send clients to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its slot, from 0.
    pub slot: u32,
    /// Who holds it.
    pub instance: InstanceId,
    /// At which epoch.
    pub epoch: Epoch,
    /// Where it listens.
    pub address: SocketAddr,
}

/// What becomes of the connections to an instance that is no target any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// The instance.
    pub instance: InstanceId,
    /// What is under way may finish for this long; 0 cuts at once (it is dead or fenced). `Drained` follows.
    pub drain: Millis,
}

/// From the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum FromProxy {
    /// Answer to `Hello`; one listening socket per front comes with it, in this order.
    Hello {
        /// [`PROTOCOL`].
        protocol: u32,
        /// Process id of the proxy.
        pid: u32,
        /// What it serves now.
        fronts: Vec<Front>,
    },
    /// A `Serve` was carried out, or could not be.
    Served {
        /// The service.
        service: ServiceName,
        /// Why not.
        error: Option<String>,
    },
    /// Answer to `Ping`.
    Pong,
    /// A route is in force: no new connection or request goes by the one before.
    Routed {
        /// The service.
        service: ServiceName,
        /// Of the route.
        revision: u64,
        /// When.
        at_us: u64,
    },
    /// Nothing is connected to a leaving instance any more.
    Drained {
        /// The service.
        service: ServiceName,
        /// The instance.
        instance: InstanceId,
        /// Connections (tcp) or requests (http) that were cut because the time was up.
        cut: u32,
    },
    /// A target answered its first client since it became a target at this epoch.
    FirstAnswer {
        /// The service.
        service: ServiceName,
        /// The instance.
        instance: InstanceId,
        /// Its epoch.
        epoch: Epoch,
        /// When the first byte of the answer (http: a status below 500) came.
        at_us: u64,
    },
    /// A target could not be reached or died under a request. Evidence, not a verdict. At most one per target and 100 ms.
    Suspect {
        /// The service.
        service: ServiceName,
        /// The instance.
        instance: InstanceId,
        /// What happened: "connection refused".
        what: String,
    },
    /// Counters, once a second for each service that had traffic since the last time, or has some under way.
    Traffic {
        /// The service.
        service: ServiceName,
        /// Totals since the proxy started.
        totals: Totals,
        /// The same in more detail; absent from a proxy of an earlier version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        measured: Option<Box<Measured>>,
    },
}

/// A service that the proxy serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Front {
    /// The service.
    pub service: ServiceName,
    /// Where.
    pub listen: SocketAddr,
    /// Revision of its route, 0 if it has none.
    pub revision: u64,
    /// Its targets.
    pub targets: Vec<Target>,
}

/// Totals of a service since its proxy started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Connections accepted from clients.
    pub connections: u64,
    /// Of them open now.
    pub open: u64,
    /// Requests (http) or connections (tcp) sent to an active.
    pub requests: u64,
    /// Requests repeated, or connects tried again, on another active.
    pub retried: u64,
    /// Requests or connections that had to wait for an active.
    pub held: u64,
    /// Of them waiting now.
    pub holding: u64,
    /// Requests answered by the proxy itself with an error, or connections closed without an answer, at first or
    /// to what was said last: an active that goes away answers it no more.
    pub failed: u64,
    /// Answers of the actives with a status of 500 and above (http).
    pub errors: u64,
    /// Sum of the times from request to the answer's first byte, microseconds.
    pub latency_us: u64,
}

/// What a service's traffic was like: totals since its proxy started, so that a report that is lost costs resolution and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Measured {
    /// When, on CLOCK_BOOTTIME.
    pub at_us: u64,
    /// When it was looked before: nothing changed between the report before and then. 0 if it was never looked before.
    pub since_us: u64,
    /// Since when this service is counted, on CLOCK_BOOTTIME: if it was not looked since, all that was counted is new. 0 if that is not known.
    pub begun_us: u64,
    /// Process id of the proxy: another one counts from 0.
    pub pid: u32,
    /// Bytes read from clients: bodies and heads, as they are passed on.
    pub bytes_in: u64,
    /// Bytes written to clients.
    pub bytes_out: u64,
    /// Requests (http) or connections (tcp) under way now, those that wait for an active among them.
    pub inflight: u64,
    /// The sum over time of how many were under way, in microseconds: its rise over a second is a million times the mean of that second.
    pub inflight_us: u64,
    /// Refused because no active was there in time.
    pub no_active: u64,
    /// Refused because too many were waiting already.
    pub crowded: u64,
    /// Clients that left while they waited for an active.
    pub left: u64,
    /// Answers by the first digit of their status, 1 to 5 (http).
    pub status: [u64; 5],
    /// http: from the request to its whole answer, or to the head of one that is passed on as it comes. tcp: from the connection to the active's first byte.
    pub latency: Histogram,
    /// How long connecting to an active took (tcp).
    pub connect: Histogram,
    /// Who calls, as far as clients were asked: the share of a caller in all of these is its share in the service.
    pub calls: Vec<Calls>,
    /// What the actives work on.
    pub works: Vec<Works>,
}

/// The requests of one caller: http, requests; tcp, from bytes of the client to bytes of the active.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// The caller's cgroup, by the inode of its folder; 0 for all that is not of this machine.
    pub cgroup: u64,
    /// How many came to an end.
    pub requests: u64,
    /// The sum over time of how many were under way, microseconds.
    pub inflight_us: u64,
    /// The most that were under way at once since the last report.
    pub inflight_max: u32,
}

/// The requests that an active works on, as for [`Calls`]. Totals since it became a target at its epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Works {
    /// The active.
    pub instance: InstanceId,
    /// Its epoch.
    pub epoch: Epoch,
    /// How many came to an end.
    pub requests: u64,
    /// The sum over time of how many were under way, microseconds.
    pub inflight_us: u64,
}
