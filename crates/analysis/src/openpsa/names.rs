//! Which definition a name means: the one next to it, then those further out, then the public one, then the one of that path.

use super::Mistake;
use super::scan::{Definition, Group, Place};
use std::collections::BTreeMap;

/// The definitions by their names.
pub(super) struct Names {
    paths: BTreeMap<String, usize>,
    public: BTreeMap<String, usize>,
}

impl Names {
    /// Two of one name are refused. Events and parameters do not share names.
    pub(super) fn new<'a>(definitions: impl Iterator<Item = (usize, &'a Definition)>) -> Result<Self, Mistake> {
        let mut names = Self {
            paths: BTreeMap::new(),
            public: BTreeMap::new(),
        };
        for (at, definition) in definitions {
            let path = path_of(&definition.scope, &definition.name);
            let twice = names.paths.insert(path, at).is_some()
                || (!definition.private && names.public.insert(definition.name.clone(), at).is_some());
            if twice {
                return Err(definition
                    .place
                    .mistake(format!("`{}` is defined twice", definition.name)));
            }
        }
        Ok(names)
    }

    pub(super) fn find(&self, name: &str, scope: &str) -> Option<usize> {
        let mut scope = Some(scope);
        while let Some(inner) = scope.filter(|scope| !scope.is_empty()) {
            if let Some(at) = self.paths.get(&path_of(inner, name)) {
                return Some(*at);
            }
            scope = inner.rsplit_once('.').map(|(outer, _)| outer);
        }
        self.public.get(name).or_else(|| self.paths.get(name)).copied()
    }
}

pub(super) fn path_of(scope: &str, name: &str) -> String {
    if scope.is_empty() {
        name.to_owned()
    } else {
        format!("{scope}.{name}")
    }
}

impl Definition {
    /// What people call it: its name, or its path where others may have the name too.
    pub(super) fn shown(&self) -> String {
        if self.private {
            path_of(&self.scope, &self.name)
        } else {
            self.name.clone()
        }
    }
}

impl Group {
    pub(super) fn mistake(&self, problem: impl Into<String>) -> Mistake {
        let place: &Place = &self.place;
        place.mistake(problem)
    }
}
