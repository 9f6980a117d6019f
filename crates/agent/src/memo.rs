//! What the agent keeps beside a running process, to find it again.

use drivers::process::Process;
use model::{Epoch, FloatingAddress, Timestamp, WallTime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What the agent keeps beside a running process, to find it again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memo {
    pub(crate) port: Option<u16>,
    /// Epoch for which the promote hook went through.
    pub(crate) promoted: Option<Epoch>,
    /// Epoch at which it may act: noted before its promote hook begins, until a demotion went through.
    #[serde(default)]
    pub(crate) acts: Option<Epoch>,
    /// It was active once since its start, also if it was demoted since.
    #[serde(default)]
    pub(crate) served: bool,
    /// The floating address that it was given, and at which epoch.
    #[serde(default)]
    pub(crate) floating: Option<(Epoch, FloatingAddress)>,
    /// Another one that it is being given in its place: it may have both.
    #[serde(default)]
    pub(crate) exchanged: Option<FloatingAddress>,
    /// Epoch of the active that it follows.
    pub(crate) followed: Option<Epoch>,
    /// What its standby check said last, and when (microseconds since boot).
    #[serde(default)]
    pub(crate) stands_by: Option<(bool, Timestamp)>,
    /// Since when it is what it is: started, healthy, active, standby.
    #[serde(default)]
    pub(crate) since: Option<WallTime>,
    /// It passed a check since its start.
    #[serde(default)]
    pub(crate) healthy: bool,
    /// What it was started from, as JSON of `Service::launch`.
    pub(crate) launch: String,
    /// Started as active.
    pub(crate) started_active: bool,
}

impl Memo {
    /// What an earlier agent kept. One that cannot be read says nothing, and one of a program that did not note who served says who does.
    pub(crate) fn read(kept: serde_json::Value) -> Self {
        let memo: Self = serde_json::from_value(kept).unwrap_or_default();
        let served = memo.served || memo.promoted.is_some();
        Self { served, ..memo }
    }

    /// It is active at this epoch.
    pub(crate) fn promoted_at(&mut self, epoch: Epoch) {
        self.promoted = Some(epoch);
        self.served = true;
    }
}

/// Whether a process that was started from `noted` is what `service` declares. A program that knows more settings than the one
/// that wrote it down must restart nothing: what is missing there had no value.
pub(crate) fn is_launched_from(noted: &str, service: &model::Service) -> bool {
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    match (parse(noted), parse(&launch_digest(service))) {
        (Some(noted), Some(declared)) => says_the_same(&noted, &declared),
        _ => false,
    }
}

fn says_the_same(noted: &serde_json::Value, declared: &serde_json::Value) -> bool {
    use serde_json::Value;
    match (noted, declared) {
        (Value::Object(noted), Value::Object(declared)) => {
            let keys: BTreeSet<&String> = noted.keys().chain(declared.keys()).collect();
            let of = |map: &serde_json::Map<String, Value>, key: &String| map.get(key).cloned().unwrap_or(Value::Null);
            keys.into_iter()
                .all(|key| says_the_same(&of(noted, key), &of(declared, key)))
        }
        (Value::Array(noted), Value::Array(declared)) => {
            noted.len() == declared.len()
                && noted
                    .iter()
                    .zip(declared)
                    .all(|(noted, declared)| says_the_same(noted, declared))
        }
        (noted, declared) => noted == declared,
    }
}

/// What a process was started from.
pub(crate) fn launch_digest(service: &model::Service) -> String {
    serde_json::to_string(&service.launch()).unwrap_or_default()
}

/// Writes it down. In words why not, if that fails.
pub(crate) fn note(process: &Process, memo: &Memo) -> Result<(), String> {
    let memo = serde_json::to_value(memo).map_err(|error| error.to_string())?;
    process
        .set_memo(memo)
        .map_err(|error| format!("cannot write what is known of it: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(command: &str) -> model::Service {
        let file = format!("[service.web]\ncommand = [\"{command}\"]\n");
        let parsed = spec::parse(&file, "test.toml").unwrap();
        parsed.cluster.services.into_values().next().unwrap()
    }

    #[test]
    fn a_setting_that_an_older_program_did_not_know_restarts_nothing() {
        let declared = service("sleep");
        let older = launch_digest(&declared)
            .replace("\"core_bytes\":null,", "")
            .replace(",\"core_bytes\":null", "");
        assert_ne!(older, launch_digest(&declared), "the test removes nothing");
        assert!(is_launched_from(&older, &declared));
        assert!(!is_launched_from(&older, &service("other")));
        assert!(!is_launched_from("", &declared));
    }

    #[test]
    fn who_was_active_once_is_known_after_its_demotion_and_from_notes_of_before() {
        let mut memo = Memo::default();
        memo.promoted_at(Epoch(3));
        let without_served = |memo: &Memo| {
            let mut kept = serde_json::to_value(memo).unwrap();
            kept.as_object_mut().unwrap().remove("served").unwrap();
            Memo::read(kept)
        };
        assert_eq!(
            without_served(&memo),
            memo,
            "who is active has served, whoever noted it"
        );

        memo.promoted = None;
        let kept = serde_json::to_value(&memo).unwrap();
        assert!(Memo::read(kept).served, "it stands by");
        assert!(!without_served(&memo).served, "nobody noted it");
        assert_eq!(Memo::read(serde_json::Value::Null), Memo::default());
    }
}
