//! What would keep a file's services from running on this machine, found before anything is started.

use crate::words::Words;
use api::layout::Layout;
use drivers::preflight::{Finding, PreflightEnv, check};
use model::{Cluster, Epoch, InstanceId, NodeName, Role, ServiceName};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

/// Where and for whom services are looked over.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    /// The cluster's folder.
    pub layout: &'a Layout,
    /// Path of our own binary, for `{understudy}`.
    pub exe: &'a Path,
    /// The folder of the file: relative programs are taken from it.
    pub folder: Option<&'a Path>,
    /// Addresses that are ours already.
    pub ours: &'a BTreeSet<SocketAddr>,
}

/// The findings of each service, in the order of their names.
pub fn preflight(cluster: &Cluster, here: Here<'_>) -> Vec<(ServiceName, Finding)> {
    let Ok(node) = NodeName::new("a") else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for (name, service) in &cluster.services {
        let instance = InstanceId::new(name.clone(), 1);
        let words = Words {
            host: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
            cluster,
            layout: here.layout,
            exe: here.exe,
            instance: &instance,
            node: &node,
            // Any values do: only programs and folders are looked up.
            port: Some(1),
            role: Some(Role::Standby),
            epoch: Some(Epoch(1)),
            active: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))),
        };
        let env = PreflightEnv {
            base: here.folder,
            data: &here.layout.data(&instance),
            skip_listen: here.ours,
            expand: &|word| words.fill(word),
        };
        findings.extend(check(service, env).into_iter().map(|finding| (name.clone(), finding)));
    }
    findings
}
