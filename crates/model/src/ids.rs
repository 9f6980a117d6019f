//! Names and numbers with a meaning of their own.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The longest name of a cluster, service or node, in bytes: an instance id still fits a host label (RFC 1035, 63).
const NAME_BYTES_MAX: usize = 48;

/// A name that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidName {
    /// The name as given.
    pub name: String,
    /// What is wrong with it, as a sentence without a subject: "is empty".
    pub problem: String,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the name `{}` {}", self.name, self.problem)
    }
}

impl std::error::Error for InvalidName {}

/// Says what is wrong with a name, if anything: names are 1 to 48 of `a-z`, `0-9`, `-`, begin with a letter
/// and do not end with `-`, so that they can stand in paths, host names, cgroups and labels as they are.
pub fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("is empty".into());
    }
    if name.len() > NAME_BYTES_MAX {
        return Some(format!(
            "has {} characters, at most {NAME_BYTES_MAX} are allowed",
            name.len()
        ));
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Some("must begin with a letter from a to z".into());
    }
    if name.ends_with('-') {
        return Some("must not end with `-`".into());
    }
    name.chars()
        .find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-'))
        .map(|c| format!("contains `{c}`, only a-z, 0-9 and `-` are allowed"))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Takes a name in, or says what is wrong with it.
            pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
                let name = name.into();
                match name_problem(&name) {
                    None => Ok(Self(name.into())),
                    Some(problem) => Err(InvalidName { name, problem }),
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(name: String) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;
            fn from_str(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }
    };
}

name_type! {
    /// The name of a service, as in `[service.db]`.
    ServiceName
}
name_type! {
    /// The name of a node.
    NodeName
}

/// One running copy of a service: `db-2`. The number is never used again for another instance of the service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId {
    service: ServiceName,
    number: u32,
}

impl InstanceId {
    /// The `number`th instance of `service`, counted from 1.
    pub fn new(service: ServiceName, number: u32) -> Self {
        Self { service, number }
    }

    /// The service it is a copy of.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// Its number within the service, from 1.
    pub fn number(&self) -> u32 {
        self.number
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{}", self.service, self.number))
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for InstanceId {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl std::str::FromStr for InstanceId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let wrong = || InvalidName {
            name: text.into(),
            problem: "is not an instance: those are written SERVICE-NUMBER, as in `db-2`".into(),
        };
        let (service, number) = text.rsplit_once('-').ok_or_else(wrong)?;
        let number: u32 = number.parse().map_err(|_| wrong())?;
        Ok(Self {
            service: ServiceName::new(service).map_err(|_| wrong())?,
            number,
        })
    }
}

/// One of the N places for an active of a service, counted from 0: `db/0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotId {
    /// The service.
    pub service: ServiceName,
    /// Which of its places, from 0.
    pub slot: u32,
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.slot)
    }
}

/// One start of an instance. It only rises within an instance, so that late news of an earlier process is known as such.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub u64);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The fencing token: a number that only rises per slot, given to whoever is promoted.
///
/// The upper 20 bits are the generation, raised by hand after a store was restored from an old copy;
/// the lower 44 count (`takeover-protocol`, section 2). 0 means "nobody was ever active".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    const COUNTER_BITS: u32 = 44;

    /// The epoch that follows within the same generation.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The first epoch of a generation (0 to 2^20 - 1).
    pub fn first_of(generation: u32) -> Self {
        Self(u64::from(generation) << Self::COUNTER_BITS)
    }

    /// The generation it belongs to.
    pub fn generation(self) -> u32 {
        (self.0 >> Self::COUNTER_BITS) as u32
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A revision of the store; it rises with every write. 0 means "absent".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
