//! The guard, as the session thread sees it.

use model::{Epoch, InstanceId, Mark, SlotId};
use std::path::Path;

/// What lets traffic of an instance through, and closes by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Its port.
    Port(u16),
}

/// What the guard says.
pub(crate) enum Fenced {
    /// It stands ready: with what.
    Ready(String),
    /// It is not there, or cannot fence: why.
    NotReady(String),
    /// It ended an instance.
    Fired(InstanceId),
}
pub(crate) struct Fence(bool);
impl Fence {
    pub(crate) fn start(_: &api::layout::Layout, _: &model::Timing) -> Result<Self, String> {
        Ok(Self(false))
    }
    pub(crate) async fn next(&mut self) -> Fenced {
        if !self.0 {
            self.0 = true;
            return Fenced::Ready("nothing".into());
        }
        std::future::pending().await
    }
    pub(crate) fn arm(&mut self, _: &InstanceId, _: &SlotId, _: Epoch, _: &Path, _: Vec<Gate>) -> Result<(), String> {
        Ok(())
    }
    pub(crate) fn disarm(&mut self, _: &InstanceId) {}
    pub(crate) fn renewed(&mut self, _: Mark) {}
    pub(crate) fn kill_all(&mut self) {}
    pub(crate) fn freeze_all(&mut self) {}
}
