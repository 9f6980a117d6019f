//! What a key is and what its value may be: the words in which [`crate::keys`] is written.

use model::Millis;

/// A table of the file.
#[derive(Debug)]
pub(crate) struct TableKind {
    /// What it is called in the schema and the reference.
    pub(crate) name: &'static str,
    /// How it stands in the file, as the heading of its section in the reference.
    pub(crate) heading: &'static str,
    /// What it is for.
    pub(crate) doc: &'static str,
    pub(crate) keys: &'static [Key],
    /// Exactly one of these must be there.
    pub(crate) exactly_one: &'static [&'static str],
    /// The first has a meaning only beside the second.
    pub(crate) only_beside: &'static [(&'static str, &'static str)],
    /// Keys that another version will know.
    pub(crate) later: &'static [&'static str],
}

/// A key of a table.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) default: Default,
    /// What it means, in whole sentences.
    pub(crate) doc: &'static str,
    /// A value that is right and not the default, as TOML.
    pub(crate) example: &'static str,
}

/// What holds when a key is not there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Default {
    /// It must be there.
    Required,
    /// This TOML.
    Is(&'static str),
    /// What these words say: it depends, or there is none.
    Rule(&'static str),
}

/// What a value may be.
#[derive(Debug)]
pub(crate) enum Kind {
    Text(TextRule),
    /// Only this boolean: the off (or on) switch of something that is otherwise spelled out.
    Only(bool),
    Bool,
    Integer {
        min: u64,
        max: u64,
    },
    Duration {
        min: Millis,
        max: Millis,
    },
    Size {
        min: u64,
        max: u64,
    },
    /// One of some words, each with its meaning.
    Choice {
        of: &'static [(&'static str, &'static str)],
        later: &'static [&'static str],
    },
    /// `IP:PORT`.
    Address,
    /// A program and its arguments.
    Command,
    Array(&'static Kind),
    Map {
        names: TextRule,
        of: &'static Kind,
    },
    Table(&'static TableKind),
    Either(&'static [Kind]),
}

/// What a text may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextRule {
    /// Anything that can be handed to a program: no NUL.
    Any,
    /// A name of ours.
    Name,
    /// A name of an environment variable.
    Variable,
    /// Where an HTTP request goes.
    HttpPath,
    /// A folder: absolute, or below `{data}`.
    Folder,
    /// A user of the machine, by name or number.
    User,
    /// An address of a host with the length of its network's prefix: `IP/PREFIX`.
    HostAddress,
    /// A network interface.
    Interface,
    /// A share in percent.
    Percent,
    /// A file, absolute.
    File,
    /// `http://` or `https://`, host, and a path.
    Url,
    /// A path of failure domains.
    Zone,
}

impl TableKind {
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

impl Kind {
    /// What a value may be, for a sentence: "a whole number from 1 to 100".
    pub(crate) fn expected(&self) -> String {
        match self {
            Kind::Text(TextRule::Any) => "text".into(),
            Kind::Text(TextRule::Name) => "a name".into(),
            Kind::Text(TextRule::Variable) => "the name of a variable".into(),
            Kind::Text(TextRule::HttpPath) => "a path that begins with `/`".into(),
            Kind::Text(TextRule::Folder) => "an absolute path, or one that begins with `{data}`".into(),
            Kind::Text(TextRule::User) => "a user's name or number".into(),
            Kind::Text(TextRule::HostAddress) => "an IP address and its prefix".into(),
            Kind::Text(TextRule::Interface) => "the name of a network interface".into(),
            Kind::Text(TextRule::Percent) => "a share in percent".into(),
            Kind::Text(TextRule::File) => "the absolute path of a file".into(),
            Kind::Text(TextRule::Url) => "an address that begins with `http://` or `https://`".into(),
            Kind::Text(TextRule::Zone) => "a path such as `dc1/rack3`".into(),
            Kind::Only(value) => format!("`{value}`"),
            Kind::Bool => "`true` or `false`".into(),
            Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Duration { min, max } => format!("a duration from `{min}` to `{max}`"),
            Kind::Size { min, max } => format!(
                "a size from `{}` to `{}`",
                crate::units::show_size(*min),
                crate::units::show_size(*max)
            ),
            Kind::Choice { of, .. } => {
                let words: Vec<String> = of.iter().map(|(word, _)| format!("`\"{word}\"`")).collect();
                match words.split_last() {
                    Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
                    _ => words.concat(),
                }
            }
            Kind::Address => "an IP address and a port".into(),
            Kind::Command => "an array of program and arguments".into(),
            Kind::Array(of) => format!("an array, each {}", of.expected()),
            Kind::Map { of, .. } => format!("a table, each value {}", of.expected()),
            Kind::Table(table) => match table.name {
                "service" => "a table `[service.NAME]`".into(),
                "node" => "a table `[node.NAME]`".into(),
                _ => "a table".into(),
            },
            Kind::Either(kinds) => kinds.iter().map(Kind::expected).collect::<Vec<_>>().join(" or "),
        }
    }
}
