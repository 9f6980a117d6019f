//! What this agent has on disk beside the store: its sockets in `run/`, the records of what runs in `running/`, `node.json`. Whatever somebody takes away
//! or spoils is made anew while there is an agent that knows what was in it.

use crate::clock;
use crate::http::{self, Door};
use crate::input::Input;
use crate::recover::{StartError, make_folder};
use api::layout::Layout;
use api::node::{Error, Node};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// Whoever empties the folder waits this long at most for an answer; a look is two calls of the kernel.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Of these looks, one also looks at the records, of which there may be a thousand.
const LOOKS_PER_RECORDS: u32 = 2;
/// A folder that cannot be made is told of once a minute.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Answers at the sockets, and goes on doing so.
pub(crate) async fn keep(layout: &Layout, door: &Door) -> Result<(), StartError> {
    let folder = Folder {
        layout: layout.clone(),
        door: door.clone(),
    };
    let sockets = folder.open().map_err(|(path, source)| StartError::Listen {
        at: path.display().to_string(),
        source,
    })?;
    tokio::spawn(folder.watch(sockets));
    Ok(())
}

struct Folder {
    layout: Layout,
    door: Door,
}

/// A socket that is answered at, and which file it is.
struct Socket {
    path: PathBuf,
    file: Option<(u64, u64)>,
    task: JoinHandle<()>,
}

impl Folder {
    fn open(&self) -> Result<[Socket; 2], (PathBuf, io::Error)> {
        let (api, state) = (self.layout.api_socket(), self.layout.state_socket());
        let socket = |path: PathBuf, task: io::Result<JoinHandle<()>>| match task {
            Ok(task) => Ok(Socket {
                file: which(&path),
                path,
                task,
            }),
            Err(error) => Err((path, error)),
        };
        let for_applications = appstate::serve(&state, self.door.state.clone());
        Ok([
            socket(state, for_applications)?,
            socket(api.clone(), http::serve(&api, http::app(self.door.clone())))?,
        ])
    }

    async fn watch(self, mut sockets: [Socket; 2]) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut told, mut number) = (None, 0_u32);
        let mut node = Node::read(&self.layout.node()).ok().flatten();
        loop {
            looks.tick().await;
            number = number.wrapping_add(1);
            if number % LOOKS_PER_RECORDS == 0 {
                let _ = self.door.inputs.send(Input::LookAtRecords);
                self.keep_node(&mut node);
            }
            let there = |socket: &Socket| socket.file.is_some() && which(&socket.path) == socket.file;
            if sockets.iter().all(there) {
                continue;
            }
            let made = match make_folder(&self.layout.run()) {
                Ok(()) => self
                    .open()
                    .map_err(|(path, error)| format!("{}: {error}", path.display())),
                Err(error) => Err(crate::executor::chain(&error)),
            };
            match made {
                Ok(new) => {
                    for old in std::mem::replace(&mut sockets, new) {
                        old.task.abort();
                    }
                    told = None;
                    tracing::warn!(folder = %self.layout.run().display(), "our sockets were removed; made anew");
                    let _ = self.door.inputs.send(Input::SocketsGone);
                }
                Err(error) => {
                    let now = clock::now();
                    if told.is_none_or(|at| now.since(at) >= TELL_EVERY) {
                        told = Some(now);
                        tracing::error!(
                            error,
                            "our sockets were removed and cannot be made anew; services go on"
                        );
                    }
                }
            }
        }
    }
}

impl Folder {
    /// The file is whole whenever we write it: one that is not was spoilt by others.
    fn keep_node(&self, last: &mut Option<Node>) {
        let path = self.layout.node();
        match (Node::read(&path), &last) {
            (Ok(Some(node)), _) => *last = Some(node),
            (Ok(None) | Err(Error::Damaged { .. }), Some(node)) => match node.write(&path) {
                Ok(()) => {
                    tracing::warn!(path = %path.display(), "removed or damaged by somebody; written anew");
                    let _ = self.door.inputs.send(Input::NodeFileGone);
                }
                Err(error) => tracing::debug!(%error, "the node's file cannot be written anew"),
            },
            _ => {}
        }
    }
}

/// Device and inode.
fn which(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
