//! Looks at what lies below this node: disks, file servers, the machine's own name, the router. Reading is here and in the
//! folders that are handed in; what the texts mean is decided in `mounts`, `disks`, `identity` and `router`, without any I/O of their own
//! but below those folders.

mod disks;
mod identity;
mod mounts;
mod router;

use model::hardware::{Hardware, Medium};
use std::path::{Path, PathBuf};

/// Where the kernel and the system tell of the machine.
#[derive(Debug, Clone)]
pub struct Roots {
    /// `/proc`
    pub proc: PathBuf,
    /// `/sys`
    pub sys: PathBuf,
    /// `/etc`
    pub etc: PathBuf,
    /// `/var/lib`
    pub lib: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            sys: "/sys".into(),
            etc: "/etc".into(),
            lib: "/var/lib".into(),
        }
    }
}

/// Folders of which it is wanted what they are kept on.
#[derive(Debug, Clone, Default)]
pub struct Folders {
    /// That of the cluster.
    pub data: PathBuf,
    /// That of the store's member, if this node has one.
    pub store: Option<PathBuf>,
    /// Those of instances, by their names.
    pub instances: Vec<(String, PathBuf)>,
}

/// Looks. What cannot be read is not known; that is no error.
pub fn look(roots: &Roots, folders: &Folders) -> Hardware {
    let mounts = read(&roots.proc.join("self/mountinfo"));
    let mounts = mounts::parse(&mounts.unwrap_or_default());
    // A folder that is not there yet will be made in the one above it.
    let of = |path: &Path| {
        let real = path.ancestors().find_map(|path| std::fs::canonicalize(path).ok());
        medium(&roots.sys, &mounts, &real.unwrap_or_else(|| path.to_owned()))
    };
    let data = of(&folders.data);
    let others = folders.instances.iter().map(|(id, folder)| (id.clone(), of(folder)));
    let instances = others.filter(|(_, medium)| *medium != data).collect();
    Hardware {
        machine_id: identity::machine_id(&roots.etc),
        product: identity::product(&roots.sys),
        chassis: identity::chassis(&roots.sys),
        host: identity::host(&roots.lib),
        store: folders.store.as_deref().map(of),
        gateway: router::gateway(
            &read(&roots.proc.join("net/route")).unwrap_or_default(),
            &read(&roots.proc.join("net/arp")).unwrap_or_default(),
        ),
        data,
        instances,
    }
}

/// What a folder, given without links, is kept on.
fn medium(sys: &Path, mounts: &[mounts::Mount], folder: &Path) -> Medium {
    let Some(mount) = mounts::of(mounts, folder) else {
        return Medium::default();
    };
    match mount.server() {
        Some(server) => Medium {
            server: Some(server),
            ..Medium::default()
        },
        None => Medium {
            disks: disks::below(sys, mounts, mount),
            server: None,
        },
    }
}

/// A small file of the kernel's or the system's; `None` if it is not there, not ours to read, or empty.
fn read(path: &Path) -> Option<String> {
    let text = std::fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    (!text.trim().is_empty()).then_some(text)
}
