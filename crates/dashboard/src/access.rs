//! Who may see and do what. The agent tells what was asked and by whom, [`judge`] says yes or why not.
//!
//! | who | on this machine (loopback) | from other machines (TLS) |
//! |---|---|---|
//! | anybody | the page, and how things stand | the page, and the sign-in |
//! | signed in to read | and the output of instances | everything but actions |
//! | signed in to operate | and actions | and actions |
//!
//! Applying a file is no action of the dashboard: it runs programs, and stays with the command line.

use identity::Right;
use std::net::IpAddr;

/// What was asked.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Whether it only reads (`GET`, `HEAD`).
    pub reads: bool,
    /// The path, without its query.
    pub path: &'a str,
    /// The header `host`.
    pub host: Option<&'a str>,
    /// The header `origin`.
    pub origin: Option<&'a str>,
    /// The header `sec-fetch-site`.
    pub site: Option<&'a str>,
    /// Whether it carries [`OWN_HEADER`], which no page of another site can add without asking us first.
    pub own_header: bool,
    /// What the one who asks may do, if signed in.
    pub right: Option<Right>,
}

/// Every request of our page that changes something carries this header.
pub const OWN_HEADER: &str = "x-understudy";

/// Where it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door<'a> {
    /// On a loopback address of this machine, without TLS.
    Loopback,
    /// At the node's address, with TLS.
    Machines {
        /// The node's name, which its certificate carries.
        node: &'a str,
    },
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A browser was lured to a name that resolves to this machine.
    #[error("this dashboard does not answer to the name `{host}`")]
    Host {
        /// The name.
        host: String,
    },
    /// A page of another site asked.
    #[error("a page of another site may not ask this")]
    OtherSite,
    /// Nobody is signed in.
    #[error("sign in first")]
    SignIn,
    /// The right is too small.
    #[error("this needs the right to operate, and you may only read")]
    NotAllowed,
    /// Nothing for the dashboard.
    #[error("this is not done from the dashboard")]
    NotHere,
}

impl Refusal {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Refusal::Host { .. } => Some("use the address that `understudy dashboard` prints"),
            Refusal::SignIn | Refusal::NotAllowed => {
                Some("`understudy dashboard` on a node prints a link to sign in with")
            }
            Refusal::NotHere => Some("use the command line on a node"),
            Refusal::OtherSite => None,
        }
    }

    /// The status of HTTP.
    pub fn status(&self) -> u16 {
        match self {
            Refusal::SignIn => 401,
            _ => 403,
        }
    }
}

/// The page itself and the way in: for everybody.
const OPEN: &[&str] = &["/", "/ui", "/ui/", "/ui/sign-in", "/ui/sign-out", "/ui/me", "/ui/alive"];
/// How things stand: on the machine itself for everybody.
const LOOK: &[&str] = &[
    "/v1/status",
    "/v1/status/stream",
    "/v1/events",
    "/v1/events/stream",
    "/v1/stream",
    "/v1/preview",
    "/v1/analysis",
    "/v1/samples",
    "/v1/series",
    "/v1/explain/",
    "/v1/openapi.json",
];
/// What services say may be confidential.
const READ: &[&str] = &["/v1/logs/"];
/// Those that move or end something, and can be previewed.
const ACTIONS: &[&str] = &[
    "/v1/switchover",
    "/v1/drill",
    "/v1/pause",
    "/v1/resume",
    "/v1/park",
    "/v1/unpark",
    "/v1/drain/",
    "/v1/undrain/",
    "/v1/retry/",
];

/// Whether this is answered.
pub fn judge(asked: &Asked<'_>, door: Door<'_>) -> Result<(), Refusal> {
    host_is_ours(asked, door)?;
    let open = is_in(asked.path, OPEN) || crate::assets::asset(asked.path.strip_prefix("/ui/").unwrap_or("")).is_some();
    // Another node's page looks whether we live, and leads people here; it learns nothing.
    if asked.reads && open {
        return Ok(());
    }
    let lured = is_lured(asked.host, asked.origin, asked.site);
    // A browser says where it comes from whenever something is to be changed.
    if lured || (!asked.reads && (asked.origin.is_none() || !asked.own_header)) {
        return Err(Refusal::OtherSite);
    }
    let needed = match asked.reads {
        _ if open => return Ok(()),
        true if is_in(asked.path, LOOK) && door == Door::Loopback => return Ok(()),
        true if is_in(asked.path, LOOK) || is_in(asked.path, READ) => Right::Read,
        false if asked.path == "/ui/pass" => Right::Read,
        false if is_in(asked.path, ACTIONS) => Right::Operate,
        _ => return Err(Refusal::NotHere),
    };
    match asked.right {
        None => Err(Refusal::SignIn),
        Some(right) if right.allows(needed) => Ok(()),
        Some(_) => Err(Refusal::NotAllowed),
    }
}

/// Whether a browser asks for a page of another site. Who shows a certificate is known by it, and a browser shows it to whoever leads it here.
pub fn is_lured(host: Option<&str>, origin: Option<&str>, site: Option<&str>) -> bool {
    let elsewhere = |origin: &str| origin.split_once("://").map(|(_, from)| from) != host;
    site.is_some_and(|site| !matches!(site, "same-origin" | "none")) || origin.is_some_and(elsewhere)
}

/// A name could be anybody's that resolves to us, and its page would then be of our origin. An address is only ever its own.
fn host_is_ours(asked: &Asked<'_>, door: Door<'_>) -> Result<(), Refusal> {
    let host = asked.host.unwrap_or("");
    let name = without_port(host);
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    let address = bare.parse::<IpAddr>();
    let ours = match (door, address) {
        (Door::Loopback, Ok(address)) => address.is_loopback(),
        (Door::Loopback, Err(_)) => name == "localhost",
        (Door::Machines { .. }, Ok(_)) => true,
        (Door::Machines { node }, Err(_)) => name == node || name == "localhost",
    };
    match ours {
        true => Ok(()),
        false => Err(Refusal::Host {
            host: host.chars().take(80).collect(),
        }),
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// A path that ends with a slash stands for all with one more name behind it.
fn is_in(path: &str, list: &[&str]) -> bool {
    list.iter().any(|entry| match entry.strip_suffix('/') {
        Some(folder) if !folder.is_empty() && folder.starts_with("/v1/") => path
            .strip_prefix(*entry)
            .is_some_and(|name| !name.is_empty() && !name.contains("..")),
        _ => path == *entry,
    })
}

/// The cookie of a session. Ports share cookies, so the port is in its name: two clusters on one machine do not sign each other out.
pub fn cookie_name(port: u16, tls: bool) -> String {
    // The prefix makes a browser refuse it from anybody but us, over TLS.
    if tls {
        format!("__Host-understudy-{port}")
    } else {
        format!("understudy-{port}")
    }
}

/// The header that sets it; an empty session takes it away.
pub fn set_cookie(name: &str, session: &str, seconds: u64, tls: bool) -> String {
    let secure = if tls { "; Secure" } else { "" };
    let seconds = if session.is_empty() { 0 } else { seconds };
    format!("{name}={session}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}")
}

/// The value of a cookie in the header `cookie`.
pub fn cookie<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    header
        .split(';')
        .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> Asked<'_> {
        Asked {
            reads: true,
            path,
            host: Some("127.0.0.1:7400"),
            origin: None,
            site: Some("same-origin"),
            own_header: false,
            right: None,
        }
    }

    fn post(path: &str) -> Asked<'_> {
        Asked {
            reads: false,
            origin: Some("http://127.0.0.1:7400"),
            own_header: true,
            right: Some(Right::Operate),
            ..get(path)
        }
    }

    const REMOTE: Door<'_> = Door::Machines { node: "a" };

    #[test]
    fn on_the_machine_everybody_sees_how_things_stand_and_nobody_acts_unsigned() {
        for path in [
            "/",
            "/ui/",
            "/ui/main.js",
            "/v1/stream",
            "/v1/status",
            "/v1/explain/db",
            "/v1/preview",
        ] {
            assert_eq!(judge(&get(path), Door::Loopback), Ok(()), "{path}");
        }
        {
            let path = "/v1/logs/db-1";
            assert_eq!(judge(&get(path), Door::Loopback), Err(Refusal::SignIn), "{path}");
        }
        for path in [
            "/v1/history",
            "/v1/state/web/x",
            "/v1/logs/",
            "/v1/explain/../history",
            "/v1/anything",
        ] {
            assert_eq!(judge(&get(path), Door::Loopback), Err(Refusal::NotHere), "{path}");
        }
        for path in [
            "/v1/switchover",
            "/v1/drain/a",
            "/v1/drill",
            "/v1/pause",
            "/v1/park",
            "/v1/unpark",
            "/v1/retry/db-1",
        ] {
            let asked = post(path);
            assert_eq!(judge(&asked, Door::Loopback), Ok(()), "{path}");
            let unsigned = Asked { right: None, ..asked };
            assert_eq!(judge(&unsigned, Door::Loopback), Err(Refusal::SignIn), "{path}");
            let reader = Asked {
                right: Some(Right::Read),
                ..asked
            };
            assert_eq!(judge(&reader, Door::Loopback), Err(Refusal::NotAllowed), "{path}");
        }
    }

    #[test]
    fn nobody_runs_programs_or_stops_the_cluster_from_a_browser() {
        for path in [
            "/v1/apply",
            "/v1/plan",
            "/v1/rollback",
            "/v1/down",
            "/v1/force",
            "/v1/dashboard",
            "/v1/state/web/x",
        ] {
            assert_eq!(judge(&post(path), Door::Loopback), Err(Refusal::NotHere), "{path}");
        }
    }

    #[test]
    fn from_other_machines_nothing_but_the_way_in_is_open() {
        let from = |path| Asked {
            host: Some("10.0.0.1:7460"),
            ..get(path)
        };
        for path in ["/", "/ui/", "/ui/style.css", "/ui/alive", "/ui/me"] {
            assert_eq!(judge(&from(path), REMOTE), Ok(()), "{path}");
        }
        for path in ["/v1/status", "/v1/stream", "/v1/preview", "/v1/logs/db-1"] {
            assert_eq!(judge(&from(path), REMOTE), Err(Refusal::SignIn), "{path}");
            let signed = Asked {
                right: Some(Right::Read),
                ..from(path)
            };
            assert_eq!(judge(&signed, REMOTE), Ok(()), "{path}");
        }
    }

    #[test]
    fn a_name_that_was_made_to_resolve_to_us_gets_nothing() {
        for host in [
            "evil.example",
            "evil.example:7400",
            "127.0.0.1.evil.example:7400",
            "",
            "10.0.0.1:7400",
            "[::1",
            "localhost.evil:1",
        ] {
            let asked = Asked {
                host: Some(host),
                ..get("/v1/status")
            };
            assert!(
                matches!(judge(&asked, Door::Loopback), Err(Refusal::Host { .. })),
                "{host}"
            );
        }
        for host in ["127.0.0.1", "localhost:9", "[::1]:7400", "127.0.0.9:7400"] {
            let asked = Asked {
                host: Some(host),
                ..get("/v1/status")
            };
            assert_eq!(judge(&asked, Door::Loopback), Ok(()), "{host}");
        }
        let named = |host| Asked {
            host: Some(host),
            ..get("/")
        };
        assert_eq!(judge(&named("a:7460"), REMOTE), Ok(()));
        assert!(matches!(
            judge(&named("evil.example"), REMOTE),
            Err(Refusal::Host { .. })
        ));
    }

    #[test]
    fn a_page_of_another_site_can_neither_ask_nor_act() {
        let signed = post("/v1/pause");
        for asked in [
            Asked {
                origin: Some("http://evil.example"),
                ..signed
            },
            Asked {
                origin: Some("null"),
                ..signed
            },
            Asked { origin: None, ..signed },
            Asked {
                origin: Some("http://127.0.0.1:8080"),
                ..signed
            },
            Asked {
                own_header: false,
                ..signed
            },
            Asked {
                site: Some("cross-site"),
                ..signed
            },
            Asked {
                site: Some("same-site"),
                ..signed
            },
            Asked {
                site: Some("cross-site"),
                ..get("/v1/status")
            },
            Asked {
                origin: Some("http://evil.example"),
                ..post("/ui/sign-in")
            },
        ] {
            assert_eq!(judge(&asked, Door::Loopback), Err(Refusal::OtherSite), "{asked:?}");
        }
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let header = "understudy-74000=no; a=b; understudy-7400=UD1.x.y";
        assert_eq!(cookie(header, "understudy-7400"), Some("UD1.x.y"));
        assert_eq!(cookie(header, "understudy-740"), None);
        assert_eq!(
            set_cookie("__Host-understudy-1", "x", 60, true),
            "__Host-understudy-1=x; Path=/; HttpOnly; SameSite=Strict; Max-Age=60; Secure"
        );
        assert!(set_cookie("c", "", 60, false).contains("Max-Age=0"));
    }
}
