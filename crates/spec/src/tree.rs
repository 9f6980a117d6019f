//! A document whose values have the right types, with their places: what [`crate::walk`] makes and [`crate::build`] reads.

use model::Millis;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;

/// A table whose values have the right types. Keys with a default are always there.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Its heading, or the whole of it if it is written in one line.
    pub(crate) span: Range<usize>,
    pub(crate) values: BTreeMap<&'static str, Value>,
    /// Keys that are wrong, or that a wrong one was probably meant to be: nothing more is said about them.
    pub(crate) troubled: BTreeSet<&'static str>,
}

#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub(crate) span: Range<usize>,
    /// Whether it stands in the file; else it is the default.
    pub(crate) given: bool,
    pub(crate) data: Data,
}

#[derive(Debug, Clone)]
pub(crate) enum Data {
    Text(String),
    Bool(bool),
    Integer(u64),
    Duration(Millis),
    Size(u64),
    Address(SocketAddr),
    Array(Vec<Value>),
    Map(Vec<Entry>),
    Table(Table),
}

/// A pair of a table with names of the operator's own.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) name_span: Range<usize>,
    pub(crate) value: Value,
}

impl Table {
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// The value if it stands in the file.
    pub(crate) fn given(&self, key: &str) -> Option<&Value> {
        self.get(key).filter(|value| value.given)
    }

    pub(crate) fn is_troubled(&self, key: &str) -> bool {
        self.troubled.contains(key)
    }

    /// The place of a key's value, or of the table if the key is not there.
    pub(crate) fn span_of(&self, key: &str) -> Range<usize> {
        self.given(key).map_or(self.span.clone(), |value| value.span.clone())
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_text()
    }

    pub(crate) fn bool(&self, key: &str) -> Option<bool> {
        match self.get(key)?.data {
            Data::Bool(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn integer(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_integer()
    }

    pub(crate) fn duration(&self, key: &str) -> Option<Millis> {
        match self.get(key)?.data {
            Data::Duration(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn size(&self, key: &str) -> Option<u64> {
        match self.get(key)?.data {
            Data::Size(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn address(&self, key: &str) -> Option<SocketAddr> {
        match self.get(key)?.data {
            Data::Address(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn array(&self, key: &str) -> &[Value] {
        self.get(key).map_or(&[], Value::as_array)
    }

    pub(crate) fn map(&self, key: &str) -> &[Entry] {
        match self.get(key) {
            Some(Value {
                data: Data::Map(entries),
                ..
            }) => entries,
            _ => &[],
        }
    }

    pub(crate) fn table(&self, key: &str) -> Option<&Table> {
        match &self.get(key)?.data {
            Data::Table(table) => Some(table),
            _ => None,
        }
    }
}

impl Value {
    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_integer(&self) -> Option<u64> {
        match self.data {
            Data::Integer(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn as_table(&self) -> Option<&Table> {
        match &self.data {
            Data::Table(table) => Some(table),
            _ => None,
        }
    }

    pub(crate) fn as_array(&self) -> &[Value] {
        match &self.data {
            Data::Array(values) => values,
            _ => &[],
        }
    }
}
