//! What an agent sees below its node: which disks, which file server, whose machine. Observed, never declared.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What lies below a node, as far as its kernel tells. What is absent is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hardware {
    /// `/etc/machine-id`: never shown, for programs make secrets of it.
    pub machine_id: Option<String>,
    /// The UUID that the firmware gives the machine, physical or virtual.
    pub product: Option<String>,
    /// Vendor and serial number of the enclosure, of a physical machine.
    pub chassis: Option<String>,
    /// The physical host of a virtual machine, where its hypervisor says so.
    pub host: Option<String>,
    /// Where the folder of the cluster is kept, and with it the data of services.
    pub data: Medium,
    /// Where this node's member of the store keeps its data; absent if it has none.
    pub store: Option<Medium>,
    /// Where instances keep their data that do not keep it with the folder of the cluster.
    pub instances: BTreeMap<String, Medium>,
    /// Through which router this node reaches other networks.
    pub gateway: Option<Gateway>,
}

/// What data are kept on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Medium {
    /// Each disk without which it is lost: its name here, and the name that no other disk of the world has, if it has one.
    pub disks: BTreeMap<String, Option<String>>,
    /// The file server that has it instead.
    pub server: Option<String>,
}

/// A router.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Gateway {
    /// Its address.
    pub address: String,
    /// The address of its network card: routers of other networks may have the same IP address.
    pub card: String,
}
