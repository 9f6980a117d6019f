//! Where what a service keeps lies in the store, and which keys it may use.
//!
//! ```text
//! app/SERVICE/kv/KEY        a value
//! app/SERVICE/lock/NAME     a lock that is held
//! app/SERVICE/token/HOLDER  the hash of a token
//! app/SERVICE/usage         counts, and the latest writes
//! app/SERVICE/never         is never written: what a read pretends to write
//! ```

use crate::Error;
use model::ServiceName;

/// Longest key of an application in bytes: with the longest service name in front it still fits the store's bound.
pub const KEY_BYTES_MAX: usize = 256;
/// Longest name of a lock, of its owner, and of a token's holder, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// The prefix under which the values of a service lie.
pub(crate) fn values(service: &ServiceName) -> String {
    format!("app/{service}/kv/")
}

pub(crate) fn value(service: &ServiceName, key: &str) -> String {
    format!("app/{service}/kv/{key}")
}

pub(crate) fn locks(service: &ServiceName) -> String {
    format!("app/{service}/lock/")
}

pub(crate) fn lock(service: &ServiceName, name: &str) -> String {
    format!("app/{service}/lock/{name}")
}

pub(crate) fn tokens(service: &ServiceName) -> String {
    format!("app/{service}/token/")
}

pub(crate) fn token(service: &ServiceName, holder: &str) -> String {
    format!("app/{service}/token/{holder}")
}

pub(crate) fn usage(service: &ServiceName) -> String {
    format!("app/{service}/usage")
}

pub(crate) fn never(service: &ServiceName) -> String {
    format!("app/{service}/never")
}

/// Refuses keys that would not survive a URL, a log line or the store.
pub(crate) fn check_key(key: &str) -> Result<(), Error> {
    problem(key, KEY_BYTES_MAX, true).map_or(Ok(()), |problem| {
        Err(Error::InvalidKey {
            key: shortened(key),
            problem,
        })
    })
}

/// As [`check_key`], for the beginning of keys: it may be empty and end anywhere.
pub(crate) fn check_prefix(prefix: &str) -> Result<(), Error> {
    let problem = match prefix.strip_suffix('/').unwrap_or(prefix) {
        "" if prefix.is_empty() => None,
        start => problem(start, KEY_BYTES_MAX, true),
    };
    problem.map_or(Ok(()), |problem| {
        Err(Error::InvalidKey {
            key: shortened(prefix),
            problem,
        })
    })
}

/// Refuses names of locks, owners and holders that a header or a path could not carry.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), Error> {
    problem(name, NAME_BYTES_MAX, false).map_or(Ok(()), |problem| {
        Err(Error::InvalidName {
            what,
            name: shortened(name),
            problem,
        })
    })
}

fn problem(text: &str, bytes_max: usize, slashes: bool) -> Option<String> {
    if text.is_empty() {
        return Some("is empty".into());
    }
    if text.len() > bytes_max {
        return Some(format!("has {} bytes, at most {bytes_max} are allowed", text.len()));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-~@+=,".contains(c) || (slashes && c == '/');
    if let Some(c) = text.chars().find(|c| !allowed(*c)) {
        let also = if slashes { " and `/` between parts" } else { "" };
        return Some(format!(
            "contains {c:?}, only letters, digits, `.`, `_`, `-`, `~`, `@`, `+`, `=`, `,`{also} are allowed"
        ));
    }
    // Clients and proxies rewrite such paths before we see them.
    let odd = text.split('/').find(|part| matches!(*part, "" | "." | ".."))?;
    Some(format!("has the part `{odd}`, which a URL does not keep as it is"))
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= 64 {
        return text.into();
    }
    format!("{}...", text.chars().take(64).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_a_url_or_are_refused() {
        for good in ["a", "leader", "a/b/c", "user.1~x@y+z=1,2", "A-_9", &"k".repeat(256)] {
            assert!(check_key(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            "a/../b",
            ".",
            "..",
            "a b",
            "a?b",
            "a%2f",
            "ä",
            "a\n",
            "a#",
            &"k".repeat(257),
        ] {
            assert!(check_key(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn prefixes_may_end_anywhere() {
        for good in ["", "a", "a/", "a/b/", "a/b"] {
            assert!(check_prefix(good).is_ok(), "{good}");
        }
        for bad in ["/", "//", "a//", "../", "a b"] {
            assert!(check_prefix(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_have_no_parts() {
        assert!(check_name("lock", "leader").is_ok());
        for bad in ["", "a/b", "a:b", ".."] {
            assert!(check_name("lock", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_longest_key_fits_the_store() {
        let service = ServiceName::new("s".repeat(48)).unwrap();
        assert!(value(&service, &"k".repeat(KEY_BYTES_MAX)).len() <= store::KEY_BYTES_MAX);
    }
}
