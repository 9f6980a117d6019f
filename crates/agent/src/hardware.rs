//! What lies below this node: looked at now and then by a thread of its own, and told to the others through the store.
//!
//! A file server that hangs hangs whoever asks for it: nobody but this thread does.

use crate::agent::Agent;
use crate::cluster::Clustered;
use crate::input::Input;
use crate::journal::Inputs;
use api::layout::Layout;
use api::record;
use drivers::hardware::{Folders, Roots, look};
use model::NodeName;
use model::hardware::Hardware;
use std::sync::Arc;
use std::time::Duration;
use store::{Op, Txn};

/// Disks and mounts change by hand; a minute is soon enough, and costs nothing.
const EVERY: Duration = Duration::from_secs(60);

/// Begins to look, for as long as the main loop is there.
pub(crate) fn watch(layout: &Layout, inputs: Inputs) {
    let layout = layout.clone();
    let thread = std::thread::Builder::new().name("hardware".into()).spawn(move || {
        loop {
            let seen = look(&Roots::default(), &folders(&layout));
            if inputs.send(Input::Hardware(Box::new(seen))).is_err() {
                return;
            }
            std::thread::sleep(EVERY);
        }
    });
    if let Err(error) = thread {
        tracing::warn!(%error, "what this node has in common with others is not looked for");
    }
}

/// Every instance that has data here, whether or not it runs.
fn folders(layout: &Layout) -> Folders {
    let instances = std::fs::read_dir(layout.all_data()).into_iter().flatten().flatten();
    let mut instances: Vec<_> = instances
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect();
    instances.sort();
    Folders {
        data: layout.root().to_owned(),
        store: Some(layout.etcd()).filter(|folder| folder.exists()),
        instances,
    }
}

impl Agent {
    /// Takes in what was seen here. The others are told when it is something else than the store has.
    pub(crate) fn hardware_seen(&mut self, seen: Hardware) {
        if let Some(cluster) = &self.clustered
            && cluster.hardware.get(&cluster.me) != Some(&seen)
        {
            tell(cluster, Arc::clone(&self.store), &seen);
        }
        self.hardware = seen;
        self.look_back();
    }
}

fn tell(cluster: &Clustered, store: Arc<dyn store::Store>, seen: &Hardware) {
    let key = key(&cluster.me);
    let Ok(value) = serde_json::to_vec(seen) else { return };
    tokio::spawn(async move {
        if let Err(error) = store.txn(Txn::new().then(Op::put(key, value))).await {
            // The next look tells it again.
            tracing::debug!(%error, "others are not told what lies below this node");
        }
    });
}

/// The key of what a node sees below it.
pub(crate) fn key(node: &NodeName) -> String {
    format!("{}{node}", record::HARDWARE)
}

impl Agent {
    /// Reads the journal anew for what it says of failures. Rates that change each minute would have everything reckoned anew each minute.
    fn look_back(&mut self) {
        let me = self.clustered.as_ref().map(|cluster| cluster.me.to_string());
        let history = self.journal.failures(me.as_deref());
        let known = &self.history;
        let is_news = (&history.processes, &history.nodes) != (&known.processes, &known.nodes);
        if is_news || history.hours >= known.hours * 1.05 {
            self.history = Arc::new(history);
        }
    }
}

impl Clustered {
    /// What another node, or this one, has told.
    pub(crate) fn hardware_told(&mut self, node: NodeName, value: &[u8]) {
        match serde_json::from_slice(value) {
            Ok(seen) => drop(self.hardware.insert(node, seen)),
            Err(error) => tracing::error!(%node, %error, "what lies below it cannot be read"),
        }
    }
}
