//! Looks after the devices: each is asked now and then whether it would answer.

use super::{NEWS_FOR_MS, PowerNews};
use crate::agent::Agent;
use crate::clock;
use crate::cluster::{Later, controls};
use crate::executor::chain;
use crate::input::{Input, done, refused};
use api::record::{self, DeviceCheck};
use api::{Outcome, Severity};
use model::{FenceDevice, NodeName, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;
use store::{Entry, Op, Txn};

/// How often every device is asked whether it would answer.
const CHECK_EVERY: Duration = Duration::from_secs(300);
/// And one that did not answer.
const CHECK_SOON: Duration = Duration::from_secs(60);
/// The first time, after this agent became the controller or the file changed.
const CHECK_FIRST: Duration = Duration::from_secs(5);

impl Agent {
    /// Asks every device whether it would answer, if that is due and for us to do.
    pub(super) fn check_devices(&mut self, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        if controls(cluster).is_none() {
            cluster.power.check_at.clear();
            return;
        }
        let declared = self.cluster.site.nodes.iter();
        let declared: BTreeMap<_, _> = declared.filter(|(_, place)| !place.fence.is_empty()).collect();
        cluster.power.check_at.retain(|node, _| declared.contains_key(node));
        let mut due = Vec::new();
        for (node, place) in declared {
            let at = cluster.power.check_at.entry(node.clone()).or_insert(now + CHECK_FIRST);
            if now >= *at {
                // Until the answer is there, which comes within the devices' own bounds.
                *at = now + CHECK_EVERY;
                due.push((node.clone(), place.fence.clone()));
            }
        }
        for (node, devices) in due {
            let (inputs, lives) = (self.inputs.clone(), cluster.sessions.contains_key(&node));
            let lives = lives && !cluster.expired.contains(&node);
            tokio::spawn(async move {
                let mut trouble = None;
                for device in &devices {
                    let answer = drivers::power::is_off(device).await;
                    trouble = trouble.or(trouble_of(device, answer.map_err(|error| chain(&error)), lives));
                }
                let _ = inputs.send(Input::Later(Later::Power(PowerNews::Checked { node, trouble })));
            });
        }
    }

    pub(super) fn device_checked(&mut self, node: &NodeName, trouble: Option<String>, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        if trouble.is_some()
            && let Some(at) = cluster.power.check_at.get_mut(node)
        {
            *at = now + CHECK_SOON;
        }
        let known = cluster.power.checks.get(node);
        if known.map(|known| &known.trouble) == Some(&trouble) {
            return;
        }
        let check = DeviceCheck {
            by: cluster.me.clone(),
            since: clock::wall_now(),
            trouble,
        };
        if let Ok(value) = serde_json::to_vec(&check) {
            let key = format!("{}{node}", record::DEVICE_CHECKS);
            self.write_down("what a fence device says", Txn::new().then(Op::put(key, value)));
        }
    }

    /// What a check of a device said, here or elsewhere.
    pub(crate) fn device_check_seen(&mut self, node: &NodeName, entry: &Entry) {
        let Some(cluster) = &mut self.clustered else { return };
        let Ok(check) = serde_json::from_slice::<DeviceCheck>(&entry.value) else {
            return;
        };
        let before = cluster.power.checks.insert(node.clone(), check.clone());
        let fails = |check: &DeviceCheck| check.trouble.is_some();
        if clock::wall_now().0 - check.since.0 >= NEWS_FOR_MS || before.as_ref().is_some_and(fails) == fails(&check) {
            return;
        }
        match check.trouble {
            Some(trouble) => {
                let text = format!("the power of node {node} could not be taken away now");
                self.journal.tell(Severity::Warning, "fence-device", text, trouble);
            }
            None => {
                let text = format!("the fence devices of node {node} answer");
                let because = format!("node {} asked them", check.by);
                self.journal.tell(Severity::Info, "fence-device", text, because);
            }
        }
    }
}

/// What is wrong with what a device says. One that calls the supply of a node off that lives is most likely another's: its word would prove nothing.
fn trouble_of(device: &FenceDevice, is_off: Result<bool, String>, lives: bool) -> Option<String> {
    match is_off {
        Err(why) => Some(why),
        Ok(true) if lives => Some(format!(
            "{} says that the power is off, and the node lives: is it the device of another one, or is this supply without current?",
            device.shown()
        )),
        Ok(_) => None,
    }
}

/// Every device is asked whether it is on or off, and nothing is done.
pub(super) async fn test(node: &NodeName, devices: &[FenceDevice]) -> Result<Outcome, Outcome> {
    let mut told = Vec::new();
    for device in devices {
        match drivers::power::is_off(device).await {
            Ok(off) => told.push(format!("{}: {}", device.shown(), if off { "off" } else { "on" })),
            Err(error) => {
                return Err(refused(chain(&error), Some(error.hint().into())));
            }
        }
    }
    Ok(done(format!("the devices of node {node} answer: {}", told.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Millis;
    use std::collections::BTreeSet;

    #[test]
    fn a_device_that_calls_a_living_node_off_is_told_of() {
        let device = FenceDevice {
            agent: "fence_made_up".into(),
            parameters: BTreeMap::from([("ip".into(), "10.0.9.1".into())]),
            secrets: BTreeMap::new(),
            timeout: Millis(1_000),
            feeds: BTreeSet::new(),
        };
        assert_eq!(trouble_of(&device, Ok(false), true), None);
        assert_eq!(trouble_of(&device, Ok(true), false), None, "it is lost, and off");
        let told = trouble_of(&device, Ok(true), true).unwrap();
        assert!(
            told.contains("fence_made_up at 10.0.9.1 says that the power is off"),
            "{told}"
        );
        assert_eq!(trouble_of(&device, Err("no route".into()), true).unwrap(), "no route");
    }
}
