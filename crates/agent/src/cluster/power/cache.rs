//! The page cache: what a dead process left there must be on a shared disk before anybody else writes to it.

use super::PowerNews;
use crate::agent::Agent;
use crate::cluster::Later;
use crate::input::Input;
use model::FenceBy;
use std::time::Duration;

/// What exclusive instances wrote before they ended: on a shared disk it must not come after what the next one writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Cache {
    /// Some may be in the page cache.
    #[default]
    Dirty,
    /// It is being written back, for the so manieth time.
    WrittenBack(u64),
    /// Nothing is.
    Clean,
}

impl Agent {
    /// Whether all that ended here has ended for shared disks too. `empty` says that nothing exclusive runs; what is in the page cache then is
    /// written back first, where a service shares storage, before this node opens a session: another could take its slot from then on.
    pub(crate) fn is_written_back(&mut self, empty: bool) -> bool {
        let shares = self
            .cluster
            .services
            .values()
            .any(|service| service.fence == FenceBy::Power);
        let Some(cluster) = &mut self.clustered else {
            return empty;
        };
        let cache = &mut cluster.power.cache;
        match (empty, *cache) {
            (false, _) => *cache = Cache::Dirty,
            (true, Cache::Dirty) if shares => {
                cluster.power.flushes += 1;
                let (inputs, time) = (self.inputs.clone(), cluster.power.flushes);
                *cache = Cache::WrittenBack(time);
                tokio::spawn(async move {
                    written_back().await;
                    let _ = inputs.send(Input::Later(Later::Power(PowerNews::Clean(time))));
                });
            }
            (true, _) => {}
        }
        empty && (!shares || *cache == Cache::Clean)
    }
}

/// Waits until what is in the page cache is on the disks: for as long as those need, be it for ever.
pub(crate) async fn written_back() {
    let began = tokio::time::Instant::now();
    if tokio::task::spawn_blocking(rustix::fs::sync).await.is_err() {
        tracing::error!("what is in the page cache could not be written back");
        std::future::pending::<()>().await;
    }
    let took = began.elapsed();
    if took > Duration::from_secs(1) {
        tracing::info!(?took, "wrote back what services left in the page cache");
    }
}
