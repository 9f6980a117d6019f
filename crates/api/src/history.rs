//! The JSON of what was measured: an hour of history at one second, and the newest second.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a series is of. Its name on the wire is its own in snake case; the unit is part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Of a service: requests (http) or connections (tcp) that were answered or refused, per second.
    RequestsPerSecond,
    /// Of them, those that failed: 5xx of an active, or none that answered.
    ErrorsPerSecond,
    /// The time that half of the requests took at most, in milliseconds. Over nodes it is taken of all requests together.
    #[serde(rename = "latency_p50_ms")]
    LatencyP50Ms,
    /// That 95 % took at most.
    #[serde(rename = "latency_p95_ms")]
    LatencyP95Ms,
    /// That 99 % took at most.
    #[serde(rename = "latency_p99_ms")]
    LatencyP99Ms,
    /// Requests or connections under way, the mean over the second.
    Inflight,
    /// Requests or connections that wait for an active.
    Held,
    /// Bytes per second from clients.
    BytesInPerSecond,
    /// Bytes per second to clients.
    BytesOutPerSecond,
    /// Connections from clients that are open.
    Connections,
    /// Of an instance, or a node (`service` is null): processor cores in use.
    CpuCores,
    /// The share of the second in which the processor limit kept it from running, 0 to 1.
    CpuThrottled,
    /// Memory in bytes.
    MemoryBytes,
    /// Bytes per second read from and written to disks.
    IoBytesPerSecond,
    /// The share of the second in which some of its threads waited for a processor, 0 to 1.
    CpuStall,
    /// Likewise for memory.
    MemoryStall,
    /// Likewise for a disk.
    IoStall,
    /// Open files.
    OpenFiles,
    /// Threads.
    Threads,
    /// Of a node: the load average of a minute.
    Load,
    /// Of a node: bytes free on the disk that has the cluster's folder.
    DiskFreeBytes,
    /// Of a node: the size of that disk in bytes.
    DiskBytes,
}

impl Measure {
    /// All of them.
    pub const ALL: [Measure; 22] = [
        Measure::RequestsPerSecond,
        Measure::ErrorsPerSecond,
        Measure::LatencyP50Ms,
        Measure::LatencyP95Ms,
        Measure::LatencyP99Ms,
        Measure::Inflight,
        Measure::Held,
        Measure::BytesInPerSecond,
        Measure::BytesOutPerSecond,
        Measure::Connections,
        Measure::CpuCores,
        Measure::CpuThrottled,
        Measure::MemoryBytes,
        Measure::IoBytesPerSecond,
        Measure::CpuStall,
        Measure::MemoryStall,
        Measure::IoStall,
        Measure::OpenFiles,
        Measure::Threads,
        Measure::Load,
        Measure::DiskFreeBytes,
        Measure::DiskBytes,
    ];
}

/// What a series is about.
///
/// `service` alone: the whole service, over all nodes. With `node`: what went through that node's proxy. With `instance`: that instance, on
/// its node. `node` alone: the machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct Subject {
    /// The service.
    pub service: Option<String>,
    /// The instance.
    pub instance: Option<String>,
    /// The node.
    pub node: Option<String>,
    /// What was measured.
    pub name: Measure,
}

/// One value a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Series {
    /// What it is about.
    #[serde(flatten)]
    pub subject: Subject,
    /// When the first value was measured, in milliseconds since 1970: it is of the second that ended then.
    pub start_ms: i64,
    /// From one value to the next.
    pub step_ms: u64,
    /// The values, oldest first; null where nothing was measured.
    pub values: Vec<Option<f64>>,
}

/// A node of which nothing was heard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Silent {
    /// The node.
    pub node: String,
    /// For how long nothing was heard of it, in milliseconds; absent if nothing ever was.
    pub age_ms: Option<u64>,
    /// Why.
    pub because: String,
}

/// `GET /v1/series`: at most an hour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// Version of this JSON.
    pub version: u32,
    /// When this was answered, in milliseconds since 1970.
    pub now_ms: i64,
    /// One for each subject.
    pub series: Vec<Series>,
    /// Nodes whose part is missing in it.
    pub silent: Vec<Silent>,
    /// What more there is that no history is kept of, for want of memory: the newest second has it.
    pub without_history: u64,
}

/// The newest value of a subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sample {
    /// What it is about.
    #[serde(flatten)]
    pub subject: Subject,
    /// The value.
    pub value: f64,
    /// How old it is, in milliseconds. Past some seconds it is stale and says nothing of now.
    pub age_ms: u64,
}

/// `GET /v1/samples`: the newest second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Samples {
    /// Version of this JSON.
    pub version: u32,
    /// When this was answered, in milliseconds since 1970.
    pub now_ms: i64,
    /// One for each subject.
    pub samples: Vec<Sample>,
    /// Nodes whose part is missing in it.
    pub silent: Vec<Silent>,
}

/// What one agent remembers, for another one that puts all of them together: `GET /v1/series?own=true`, `GET /v1/samples?own=true`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Its node.
    pub node: String,
    /// Its clock when it answered, in milliseconds since 1970: others' clocks may differ, so only distances to it count.
    pub now_ms: i64,
    /// What it measured.
    pub series: Vec<Series>,
    /// What went through its proxy, by service.
    pub latencies: Vec<Latencies>,
    /// Subjects without history.
    pub without_history: u64,
}

/// Latencies of one service at one node's proxy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// The service.
    pub service: String,
    /// When the first second was reported.
    pub start_ms: i64,
    /// For each second how many requests took how long.
    pub seconds: Vec<model::latency::Histogram>,
}
