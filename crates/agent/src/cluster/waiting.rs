//! While the store does not answer an agent that comes up: whoever asks is told so, instead of meeting nobody.

use crate::input::refused;
use axum::Json;
use axum::http::StatusCode;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::UnixListener;
use tokio::sync::Notify;

/// That this node is none of the cluster's any more, and the way out, if others say so.
pub(crate) type Out = Arc<Mutex<Option<(String, String)>>>;

/// Answers on the agent's socket until it is dropped.
pub(crate) struct Waiting {
    socket: PathBuf,
    why: Arc<Mutex<String>>,
    out: Out,
    task: tokio::task::JoinHandle<()>,
    down: Arc<Notify>,
}

impl Waiting {
    /// Begins to answer. Without a socket nobody is told, which must not keep the agent from waiting.
    pub(crate) fn begin(socket: &Path, why: String) -> Option<Self> {
        let _ = std::fs::remove_file(socket);
        let listener = match UnixListener::bind(socket) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(%error, "nobody can be told that the store does not answer");
                return None;
            }
        };
        // Whoever may connect may end it: the owner alone.
        let _ = std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600));
        let why = Arc::new(Mutex::new(why));
        let down = Arc::new(Notify::new());
        let (said, ends) = (Arc::clone(&why), Arc::clone(&down));
        let out = Out::default();
        let told = Arc::clone(&out);
        let app = axum::Router::new()
            .route(
                "/v1/down",
                axum::routing::post(move || {
                    let ends = Arc::clone(&ends);
                    async move {
                        ends.notify_one();
                        Json(crate::input::done(
                            "this node is down; the store did not answer, so it was told nothing",
                        ))
                    }
                }),
            )
            .fallback(move || {
                let why = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let out = told.lock().unwrap_or_else(PoisonError::into_inner).clone();
                async move {
                    let hint =
                        "`understudy cluster status` says which members of the store are missing, and what to do";
                    let (why, hint) = out.unwrap_or((why, hint.into()));
                    let outcome = refused(format!("waiting for the store: {why}"), Some(hint));
                    (StatusCode::SERVICE_UNAVAILABLE, Json(outcome))
                }
            });
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::warn!(%error, "the API of a waiting agent ended");
            }
        });
        Some(Self {
            socket: socket.into(),
            why,
            out,
            task,
            down,
        })
    }

    /// What the store said last.
    pub(crate) fn say(&self, why: &str) {
        why.clone_into(&mut self.why.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What others say of this node, to be told instead.
    pub(crate) fn out(&self) -> Out {
        Arc::clone(&self.out)
    }

    /// Waits until an operator wants the node down.
    pub(crate) async fn down(&self) {
        self.down.notified().await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}
