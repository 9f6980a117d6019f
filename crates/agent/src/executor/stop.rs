//! Ends processes.

use super::{Executor, chain};
use crate::clock;
use crate::input::Input;
use decisions::Event;
use model::{InstanceId, RunId};
use std::time::Duration;

/// A process that hangs in the kernel is looked for again after this long.
const STUCK_RETRY: Duration = Duration::from_secs(1);

impl Executor {
    /// Kills the main process of an instance, as a crash would: what follows is noticed, not told.
    pub(crate) fn kill_main(&self, instance: &InstanceId) {
        if let Some(process) = self.live.get(instance).and_then(|live| live.process.as_ref()) {
            process.signal(model::StopSignal::Kill);
        }
    }

    pub(super) fn stop(&mut self, instance: &InstanceId, run: RunId, polite: bool) {
        let service = self.cluster.services.get(instance.service());
        // A service that is not declared any more has no stop signal of its own: the usual one.
        let usual = model::Stop {
            signal: model::StopSignal::Term,
            timeout: model::Millis(10_000),
        };
        let policy = service.map_or(usual, |service| service.stop.clone());
        let (addresses, inputs) = (self.addresses.clone(), self.inputs.clone());
        let Some(live) = self.live.get_mut(instance).filter(|live| live.run == run) else {
            let instance = instance.clone();
            tokio::spawn(async move {
                addresses.release(&instance).await;
                let _ = inputs.send(Input::Event(Event::Gone { instance, run }, clock::now()));
            });
            return;
        };
        live.checks = None;
        live.standby_checks = None;
        let Some(process) = live.process.clone() else {
            live.stop_when_started = Some(polite);
            return;
        };
        let hook = live.hook.take();
        let instance = instance.clone();
        tokio::spawn(async move {
            if let Some(hook) = hook {
                // Dropped with its task, its whole group is killed; only then may anybody else be promoted.
                hook.abort();
                let _ = hook.await;
            }
            let mut stopped = if polite {
                process.stop(&policy).await
            } else {
                process.kill().await
            };
            // Nothing may take over before nothing of it runs: however long that takes.
            while let Err(error) = stopped {
                tracing::error!(%instance, error = %chain(&error), "an instance is not known to be gone; its slot waits");
                tokio::time::sleep(STUCK_RETRY).await;
                stopped = process.kill().await;
            }
            addresses.release(&instance).await;
            let _ = inputs.send(Input::Event(Event::Gone { instance, run }, clock::now()));
        });
    }

    /// Nothing of an instance runs any more.
    pub(crate) fn gone(&mut self, instance: &InstanceId, run: RunId) {
        if self.live.get(instance).is_some_and(|live| live.run == run) {
            self.live.remove(instance);
            self.disarm(instance);
            self.change_port(instance);
        }
    }
}
