//! The words of a line.

use super::{Wrong, wrong};
use std::fmt::Display;
use std::str::{FromStr, SplitWhitespace};
use std::time::Duration;

/// The words of a line, one after the other.
pub(super) struct Words<'a> {
    words: std::iter::Peekable<SplitWhitespace<'a>>,
}

impl<'a> Words<'a> {
    pub(super) fn new(line: &'a str) -> Self {
        Self {
            words: line.split_whitespace().peekable(),
        }
    }

    pub(super) fn next(&mut self) -> Option<&'a str> {
        self.words.next()
    }

    /// Takes the next word if it is this one.
    pub(super) fn next_is(&mut self, word: &str) -> bool {
        self.words.next_if_eq(&word).is_some()
    }

    pub(super) fn expect(&mut self, word: &str) -> Result<(), Wrong> {
        match self.next() {
            Some(next) if next == word => Ok(()),
            next => wrong(
                format!("`{}` is not expected here", next.unwrap_or("nothing")),
                format!("write `{word}`"),
            ),
        }
    }

    pub(super) fn name<T>(&mut self) -> Result<T, Wrong>
    where
        T: FromStr<Err: Display>,
    {
        let Some(word) = self.next() else {
            return wrong("a name is missing", "name a service, an instance or a node");
        };
        word.parse().map_err(|error: T::Err| Wrong {
            problem: error.to_string(),
            help: "services and nodes are written `db`, instances `db-1`".into(),
        })
    }

    pub(super) fn optional_name<T>(&mut self) -> Result<Option<T>, Wrong>
    where
        T: FromStr<Err: Display>,
    {
        match self.words.peek() {
            Some(_) => self.name().map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn number(&mut self) -> Result<u32, Wrong> {
        let word = self.next().unwrap_or_default();
        match word.parse() {
            Ok(number) => Ok(number),
            Err(_) => wrong(format!("`{word}` is not a number"), "write one, as in `active 2`"),
        }
    }

    pub(super) fn span(&mut self) -> Result<Duration, Wrong> {
        let word = self.next().unwrap_or_default();
        let unit_at = word.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(word.len());
        let (number, unit) = word.split_at(unit_at);
        let factor_ms = match unit {
            "ms" => Some(1),
            "s" => Some(1_000),
            "m" => Some(60_000),
            _ => None,
        };
        let number: Option<u64> = number.parse().ok();
        match factor_ms
            .zip(number)
            .and_then(|(factor, number)| number.checked_mul(factor))
        {
            Some(ms) => Ok(Duration::from_millis(ms)),
            None => wrong(format!("`{word}` is not a span of time"), "write `500ms`, `2s` or `1m`"),
        }
    }

    pub(super) fn end(&mut self) -> Result<(), Wrong> {
        match self.next() {
            None => Ok(()),
            Some(word) => wrong(format!("`{word}` is not expected here"), "leave it out"),
        }
    }
}
