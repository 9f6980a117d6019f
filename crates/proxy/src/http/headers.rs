//! Headers on their way through.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri, Version};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Takes out what is meant for one connection alone (RFC 9110, 7.6.1).
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // Naming these would change what the request is.
        .filter(|name| ![HOST, CONTENT_LENGTH, FORWARDED_FOR, FORWARDED_PROTO].contains(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        PROXY_CONNECTION,
        KEEP_ALIVE,
        TRANSFER_ENCODING,
        UPGRADE,
        HTTP2_SETTINGS,
    ] {
        headers.remove(name);
    }
}

/// The protocol a client asks to change to; HTTP/2 is not one that is passed on.
pub(super) fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(UPGRADE)?;
    (asks && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c")).then(|| protocol.clone())
}

/// A request without its body, ready to be sent any number of times.
#[derive(Debug, Clone)]
pub(super) struct Template {
    method: Method,
    authority: Option<Authority>,
    path: PathAndQuery,
    headers: HeaderMap,
    upgrade: Option<HeaderValue>,
}

impl Template {
    /// Takes a request's head over, or says what is wrong with it.
    pub(super) fn new(parts: http::request::Parts, peer: &str) -> Result<Self, &'static str> {
        let mut headers = parts.headers;
        if parts.version == Version::HTTP_11 && headers.get_all(HOST).iter().count() != 1 {
            return Err("a request needs exactly one Host header\n");
        }
        let upgrade = (parts.version < Version::HTTP_2)
            .then(|| upgrade_of(&headers))
            .flatten();
        let wants_trailers = headers
            .get_all(TE)
            .iter()
            .any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
        headers.remove(TE);
        strip_hop_by_hop(&mut headers);
        if wants_trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        append_peer(&mut headers, peer);
        if !headers.contains_key(&FORWARDED_PROTO) {
            headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
        }
        let uri = parts.uri.into_parts();
        let authority = uri.authority.or_else(|| headers.get(HOST)?.to_str().ok()?.parse().ok());
        let path = match uri.path_and_query {
            Some(path) if !path.as_str().is_empty() => path,
            _ => PathAndQuery::from_static("/"),
        };
        Ok(Self {
            method: parts.method,
            authority,
            path,
            headers,
            upgrade,
        })
    }

    pub(super) fn upgrade(&self) -> Option<&HeaderValue> {
        self.upgrade.as_ref()
    }

    /// Whether sending it twice is the same as sending it once (RFC 9110, 9.2.2).
    pub(super) fn is_idempotent(&self) -> bool {
        self.method.is_idempotent()
    }

    /// The request for an active.
    pub(super) fn request<B>(&self, http2: bool, body: B) -> http::Request<B> {
        let mut headers = self.headers.clone();
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = Some(self.path.clone());
        if http2 {
            headers.remove(HOST);
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = self
                .authority
                .clone()
                .or_else(|| Some(Authority::from_static("localhost")));
        } else {
            headers.remove(TE);
            if let Some(host) = self.authority.as_ref()
                && let Ok(host) = HeaderValue::from_str(host.as_str())
            {
                headers.insert(HOST, host);
            }
            if let Some(protocol) = &self.upgrade {
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(UPGRADE, protocol.clone());
            }
        }
        let mut request = http::Request::new(body);
        *request.method_mut() = self.method.clone();
        // Made of the parts of a URI that was one.
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *request.version_mut() = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        *request.headers_mut() = headers;
        request
    }
}

fn append_peer(headers: &mut HeaderMap, peer: &str) {
    let mut chain: Vec<u8> = Vec::new();
    for value in headers.get_all(&FORWARDED_FOR) {
        chain.extend_from_slice(value.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(peer.as_bytes());
    if let Ok(chain) = HeaderValue::from_bytes(&chain) {
        headers.insert(FORWARDED_FOR, chain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_for_one_connection_goes_no_further() {
        let request = http::Request::get("http://shop.example/a?b")
            .header("host", "other")
            .header("connection", "x-hop, keep-alive")
            .header("x-hop", "1")
            .header("keep-alive", "timeout=5")
            .header("te", "trailers")
            .header("transfer-encoding", "chunked")
            .header("x-forwarded-for", "10.0.0.1")
            .header("accept", "*/*")
            .body(())
            .unwrap();
        let template = Template::new(request.into_parts().0, "192.0.2.7").unwrap();
        let sent = template.request(false, ());
        let mut names: Vec<_> = sent.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "host", "x-forwarded-for", "x-forwarded-proto"]);
        assert_eq!(sent.headers()["x-forwarded-for"], "10.0.0.1, 192.0.2.7");
        assert_eq!(sent.headers()["host"], "shop.example");
        assert_eq!(sent.uri(), "/a?b");
        let sent = template.request(true, ());
        assert_eq!(sent.uri(), "http://shop.example/a?b");
        assert_eq!(sent.headers()["te"], "trailers");
    }

    #[test]
    fn an_upgrade_is_passed_on_but_not_to_http2() {
        for (protocol, passed) in [("websocket", true), ("h2c", false)] {
            let request = http::Request::get("/")
                .header("host", "x")
                .header("connection", "Upgrade")
                .header("upgrade", protocol)
                .body(())
                .unwrap();
            let template = Template::new(request.into_parts().0, "192.0.2.7").unwrap();
            assert_eq!(template.upgrade().is_some(), passed);
            assert_eq!(template.request(false, ()).headers().contains_key(UPGRADE), passed);
        }
    }

    #[test]
    fn a_request_without_host_is_refused() {
        let request = http::Request::get("/").body(()).unwrap();
        assert!(Template::new(request.into_parts().0, "192.0.2.7").is_err());
    }
}
