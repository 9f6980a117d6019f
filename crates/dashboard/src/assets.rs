//! The files of the page. All are ours and part of the program.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// A file.
#[derive(Debug, Clone, Copy)]
pub struct Asset {
    /// Its name below `/ui/`.
    pub name: &'static str,
    /// Its media type.
    pub kind: &'static str,
    /// What is in it.
    pub text: &'static str,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// All of them.
pub const ASSETS: &[Asset] = &[
    Asset {
        name: "style.css",
        kind: "text/css; charset=utf-8",
        text: include_str!("../assets/style.css"),
    },
    Asset {
        name: "main.js",
        kind: SCRIPT,
        text: include_str!("../assets/main.js"),
    },
    Asset {
        name: "model.js",
        kind: SCRIPT,
        text: include_str!("../assets/model.js"),
    },
    Asset {
        name: "dom.js",
        kind: SCRIPT,
        text: include_str!("../assets/dom.js"),
    },
    Asset {
        name: "picture.js",
        kind: SCRIPT,
        text: include_str!("../assets/picture.js"),
    },
    Asset {
        name: "charts.js",
        kind: SCRIPT,
        text: include_str!("../assets/charts.js"),
    },
    Asset {
        name: "views.js",
        kind: SCRIPT,
        text: include_str!("../assets/views.js"),
    },
    Asset {
        name: "actions.js",
        kind: SCRIPT,
        text: include_str!("../assets/actions.js"),
    },
];

/// The file of a name.
pub fn asset(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

impl Asset {
    /// Another one for each content, for the browser's cache.
    pub fn tag(&self) -> String {
        format!("\"{}\"", &HEXLOWER.encode(&Sha256::digest(self.text))[..20])
    }
}
