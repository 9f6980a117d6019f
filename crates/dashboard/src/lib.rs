//! The dashboard: its pages, what changes on them, and who may see and do what.
//!
//! ```text
//!   page ──► browser ── GET /v1/stream ──► live: snapshot, change, beat …
//!     │        │
//!     │        └─ GET /v1/preview, then POST /v1/… ──► access: may they?
//!     └─ assets: our own script and style, nothing else
//! ```
//! Pure: no I/O, no clock. The agent serves what is made here.

pub mod access;
pub mod assets;
pub mod live;
mod page;

#[cfg(test)]
mod contrast;

pub use page::page;

/// Where the dashboard is tried first on loopback; if somebody else has it, a free port is taken.
pub const PORT: u16 = 7400;

/// The headers of every answer that a browser shows. `peers` are the origins of other nodes, which the page asks for a sign of life when
/// this one is gone.
pub fn security_headers<'a>(peers: impl Iterator<Item = &'a str>) -> Vec<(&'static str, String)> {
    let mut connect = "connect-src 'self'".to_owned();
    for peer in peers {
        connect.push(' ');
        connect.push_str(peer);
    }
    let policy = format!(
        "default-src 'self'; {connect}; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    );
    vec![
        ("content-security-policy", policy),
        ("x-content-type-options", "nosniff".into()),
        ("referrer-policy", "no-referrer".into()),
        ("cross-origin-opener-policy", "same-origin".into()),
        ("x-frame-options", "DENY".into()),
    ]
}
