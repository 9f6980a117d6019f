//! State for applications through its HTTP form: the documented examples, bounds, faults, histories, locks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bounds;
mod curl;
mod histories;
mod lock_safety;
mod locks;
mod watching;

use appstate::{AppState, Limits};
use client::Client;
use model::ServiceName;
use std::path::PathBuf;
use std::sync::Arc;
use store::{Memory, Store};
use tokio::runtime::Runtime;

/// What stands for one agent: it has a runtime of its own, so that it can end as if killed.
struct Agent {
    socket: PathBuf,
    state: AppState,
    runtime: Option<Runtime>,
    _folder: tempfile::TempDir,
}

impl Agent {
    fn start(store: Arc<dyn Store>, limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("state.sock");
        let state = AppState::new(store, limits);
        let mut agent = Self {
            socket,
            state,
            runtime: None,
            _folder: folder,
        };
        agent.run();
        agent
    }

    /// One over a store of its own.
    fn alone() -> Self {
        Self::start(Arc::new(Memory::default()), Limits::default())
    }

    fn run(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        appstate::serve(&self.socket, self.state.clone()).unwrap();
        drop(_inside);
        self.runtime = Some(runtime);
    }

    /// Ends in the middle of whatever it does.
    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Another agent at the same place, who knows nothing of the one before.
    fn restart(&mut self, store: Arc<dyn Store>) {
        self.kill();
        self.state = AppState::new(store, self.state.limits().clone());
        self.run();
    }

    fn url(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    async fn client(&self, service: &str) -> Client {
        let token = self.state.issue(&named(service), "test").await.unwrap();
        Client::new([self.url().as_str()], token.expose()).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

fn named(service: &str) -> ServiceName {
    ServiceName::new(service).unwrap()
}
