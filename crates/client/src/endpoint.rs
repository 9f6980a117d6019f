//! Where an agent answers.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// `unix:/run/…/state.sock` or `http://127.0.0.1:7070`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// A host and a port.
    Tcp {
        /// A name or an address; an IPv6 address without its brackets.
        host: String,
        /// The port.
        port: u16,
    },
}

/// An endpoint that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an endpoint: `unix:/absolute/path` and `http://host:port` are")]
pub struct InvalidEndpoint(String);

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let invalid = || InvalidEndpoint(text.into());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path.starts_with('/') {
                true => Ok(Endpoint::Unix(path.into())),
                false => Err(invalid()),
            };
        }
        let authority = text.strip_prefix("http://").ok_or_else(invalid)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let (host, port) = authority.rsplit_once(':').ok_or_else(invalid)?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let odd = |c: char| c.is_whitespace() || "/@?#[]".contains(c);
        if host.is_empty() || host.contains(odd) {
            return Err(invalid());
        }
        Ok(Endpoint::Tcp {
            host: host.into(),
            port: port.parse().map_err(|_| invalid())?,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
            Endpoint::Tcp { host, port } if host.contains(':') => write!(f, "http://[{host}]:{port}"),
            Endpoint::Tcp { host, port } => write!(f, "http://{host}:{port}"),
        }
    }
}

impl Endpoint {
    /// What goes into the `Host` header.
    pub(crate) fn host(&self) -> String {
        match self {
            Endpoint::Unix(_) => "localhost".into(),
            Endpoint::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Endpoint::Tcp { host, port } => format!("{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_they_are_written() {
        for good in [
            "unix:/run/state.sock",
            "http://127.0.0.1:7070",
            "http://[::1]:7070",
            "http://agent-a:1",
        ] {
            assert_eq!(good.parse::<Endpoint>().unwrap().to_string(), good);
        }
        assert_eq!("unix:///a".parse(), Ok(Endpoint::Unix("/a".into())));
        for bad in [
            "",
            "unix:a",
            "127.0.0.1:1",
            "https://a:1",
            "http://a",
            "http://:1",
            "http://a:99999",
            "http://a/b:1",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }
}
