//! What a service that has ended wrote last: often it says itself why.

use crate::http::{Door, log_source};
use crate::input::Request;

/// Of the last line of a log so much is told where it is one fact among several; `logs` shows all of it.
const LAST_WORDS_MAX: usize = 200;

/// What an instance of this node that has ended wrote last. One that runs again has written since, so that this would be of another process.
pub(crate) async fn of(door: &Door, about: &str) -> Option<String> {
    let status = door.ask(Request::Status).await.ok()?;
    let mut instances = status.services.iter().flat_map(|service| &service.instances);
    let instance = instances.find(|instance| instance.id == about)?;
    if instance.last_failure.is_none() || instance.pid.is_some() {
        return None;
    }
    let source = log_source(door, about).await.ok()?;
    let read = tokio::task::spawn_blocking(move || drivers::logs::tail(&source.path, source.keep, 1)).await;
    let line = bounded(read.ok()?.ok()?.last()?)?;
    Some(format!("the last line of its log: {line}"))
}

/// A line of a service's output, fit to be part of a sentence: no control characters, and not long. `None` if nothing is left.
fn bounded(line: &str) -> Option<String> {
    let told: String = line
        .chars()
        .filter(|c| !c.is_control())
        .take(LAST_WORDS_MAX + 1)
        .collect();
    let told = told.trim();
    if told.is_empty() {
        return None;
    }
    Some(match told.chars().count() > LAST_WORDS_MAX {
        true => told.chars().take(LAST_WORDS_MAX).chain(['…']).collect(),
        false => told.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::{LAST_WORDS_MAX, bounded};

    #[test]
    fn what_was_written_last_is_told_bounded_and_without_what_would_steer_a_terminal() {
        assert_eq!(
            bounded("cannot open data: disk full").as_deref(),
            Some("cannot open data: disk full")
        );
        assert_eq!(
            bounded("\u{1b}]0;owned\u{7}bad config\r").as_deref(),
            Some("]0;ownedbad config")
        );
        assert_eq!(bounded(" \t\u{1b} "), None);
        let long = bounded(&"é".repeat(10_000)).expect("something is left");
        assert_eq!(long.chars().count(), LAST_WORDS_MAX + 1);
        assert!(long.ends_with('…'));
        assert_eq!(
            bounded(&"x".repeat(LAST_WORDS_MAX)).map(|told| told.len()),
            Some(LAST_WORDS_MAX)
        );
    }
}
