//! Heads of HTTP/1.1 messages: which requests are plain, and what an answer's head says. Strict: what is not understood
//! beyond doubt is left to hyper (requests) or refused (answers).

use super::REPEATABLE_BYTES_MAX;
use httparse::{EMPTY_HEADER, Request, Response, Status};
use std::io::Write as _;

const HEADERS_MAX: usize = 64;

/// What the bytes of a request are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RequestHead {
    /// Not yet a whole head.
    Partial,
    /// One without anything special, with a small body of known length if any.
    Plain(Plain),
    /// Anything else, mistakes included.
    Other,
}

/// A plain request, of which the head to send to an active was written; its body follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plain {
    /// Bytes of the head.
    pub(super) bytes: usize,
    /// Bytes of the body.
    pub(super) body: usize,
    /// Its answer has no body.
    pub(super) is_head: bool,
    /// Sending it twice is the same as sending it once (RFC 9110, 9.2.2).
    pub(super) is_idempotent: bool,
    /// The client wants the connection closed afterwards.
    pub(super) close: bool,
}

/// Looks at a request; of a plain one, writes the head for the active to `out`.
pub(super) fn request(bytes: &[u8], peer: &str, out: &mut Vec<u8>) -> RequestHead {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut request = Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return RequestHead::Partial,
        Err(_) => return RequestHead::Other,
    };
    let (Some(method), Some(path), Some(1)) = (request.method, request.path, request.version) else {
        return RequestHead::Other;
    };
    let is_idempotent = match method {
        "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" => true,
        "POST" | "PATCH" => false,
        _ => return RequestHead::Other,
    };
    if !path.starts_with('/') {
        return RequestHead::Other;
    }
    out.clear();
    for part in [method, " ", path, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let (mut hosts, mut close, mut forwarded, mut has_proto) = (0, false, false, false);
    let mut body: Option<u64> = None;
    for header in request.headers.iter() {
        match known(header.name) {
            Known::None => {}
            Known::Host => hosts += 1,
            Known::Connection => {
                if header.value.eq_ignore_ascii_case(b"close") {
                    close = true;
                } else if !header.value.eq_ignore_ascii_case(b"keep-alive") {
                    return RequestHead::Other;
                }
                continue;
            }
            Known::KeepAlive => continue,
            Known::ForwardedFor => {
                forwarded = true;
                continue;
            }
            Known::ForwardedProto => has_proto = true,
            Known::ContentLength => match decimal(header.value) {
                Some(length) if body.is_none() && length <= REPEATABLE_BYTES_MAX as u64 => body = Some(length),
                _ => return RequestHead::Other,
            },
            Known::Special => return RequestHead::Other,
        }
        out.extend_from_slice(header.name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(header.value);
        out.extend_from_slice(b"\r\n");
    }
    // A method that comes with a body says how long it is; hyper adds what is missing.
    if hosts != 1 || (body.is_none() && matches!(method, "POST" | "PUT" | "PATCH")) {
        return RequestHead::Other;
    }
    out.extend_from_slice(b"X-Forwarded-For: ");
    if forwarded {
        for header in request.headers.iter() {
            if known(header.name) == Known::ForwardedFor {
                out.extend_from_slice(header.value);
                out.extend_from_slice(b", ");
            }
        }
    }
    out.extend_from_slice(peer.as_bytes());
    out.extend_from_slice(if has_proto {
        b"\r\n\r\n"
    } else {
        b"\r\nX-Forwarded-Proto: http\r\n\r\n"
    });
    RequestHead::Plain(Plain {
        bytes: length,
        body: body.and_then(|length| usize::try_from(length).ok()).unwrap_or(0),
        is_head: method == "HEAD",
        is_idempotent,
        close,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Passed on as it is.
    None,
    Host,
    Connection,
    KeepAlive,
    ForwardedFor,
    ForwardedProto,
    ContentLength,
    /// Makes a request one that is not plain.
    Special,
}

fn known(name: &str) -> Known {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    match name.len() {
        2 if is("te") => Known::Special,
        4 if is("host") => Known::Host,
        6 if is("expect") => Known::Special,
        7 if is("upgrade") || is("trailer") => Known::Special,
        10 if is("connection") => Known::Connection,
        10 if is("keep-alive") => Known::KeepAlive,
        14 if is("content-length") => Known::ContentLength,
        14 if is("http2-settings") => Known::Special,
        15 if is("x-forwarded-for") => Known::ForwardedFor,
        16 if is("proxy-connection") => Known::KeepAlive,
        17 if is("transfer-encoding") => Known::Special,
        17 if is("x-forwarded-proto") => Known::ForwardedProto,
        _ => Known::None,
    }
}

/// What the bytes of an answer are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AnswerHead {
    /// Not yet a whole head.
    Partial,
    /// A head of this many bytes that announces another (100, 103).
    Interim(usize),
    /// The head of the answer.
    Final(Answer),
}

/// The head of an answer, with what concerns only the connection to the active cut out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// Where the head begins now.
    pub(super) start: usize,
    /// Where it ends and the body begins.
    pub(super) end: usize,
    pub(super) status: u16,
    pub(super) body: Framing,
    /// Whether the connection may be used again.
    pub(super) reusable: bool,
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// Why an answer cannot be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it sent what is not HTTP/1")]
    NotHttp,
    #[error("it sent contradicting lengths")]
    Lengths,
    #[error("it sent a transfer coding other than chunked")]
    Coding,
    #[error("it changed the protocol unasked")]
    Upgrade,
}

/// Looks at an answer. `cuts` is memory for it to use.
pub(super) fn answer(bytes: &mut [u8], is_head: bool, cuts: &mut Vec<(usize, usize)>) -> Result<AnswerHead, Unusable> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut response = Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(AnswerHead::Partial),
        Err(_) => return Err(Unusable::NotHttp),
    };
    let (Some(status), Some(minor)) = (response.code, response.version) else {
        return Err(Unusable::NotHttp);
    };
    match status {
        101 => return Err(Unusable::Upgrade),
        100..=199 => return Ok(AnswerHead::Interim(length)),
        _ => {}
    }
    let mut reusable = minor == 1;
    let mut content_length: Option<u64> = None;
    let mut chunked = false;
    cuts.clear();
    for header in response.headers.iter() {
        let is = |other: &str| header.name.eq_ignore_ascii_case(other);
        match header.name.len() {
            10 if is("connection") => {
                for token in header.value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    reusable &= !token.eq_ignore_ascii_case(b"close");
                    cut_named(bytes, response.headers, token, cuts);
                }
            }
            10 if is("keep-alive") => {}
            7 if is("upgrade") => {}
            16 if is("proxy-connection") => {}
            14 if is("content-length") => {
                let value = decimal(header.value).ok_or(Unusable::Lengths)?;
                if content_length.is_some_and(|before| before != value) {
                    return Err(Unusable::Lengths);
                }
                content_length = Some(value);
                continue;
            }
            17 if is("transfer-encoding") => {
                if chunked || minor == 0 || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Unusable::Coding);
                }
                chunked = true;
                continue;
            }
            _ => continue,
        }
        cuts.push(line_of(bytes, header));
    }
    if chunked && content_length.is_some() {
        return Err(Unusable::Lengths);
    }
    let body = match content_length {
        _ if is_head || status == 204 || status == 304 => Framing::Length(0),
        Some(length) => Framing::Length(length),
        None if chunked => Framing::Chunked,
        None => Framing::UntilClose,
    };
    let start = cut(bytes, cuts);
    // Ours is HTTP/1.1, whatever the active speaks: `HTTP/1.0` differs in one digit.
    bytes[start + 7] = b'1';
    Ok(AnswerHead::Final(Answer {
        start,
        end: length,
        status,
        body,
        reusable: reusable && body != Framing::UntilClose,
    }))
}

/// Marks the headers that a `Connection` header names as meant for this connection alone.
fn cut_named(bytes: &[u8], headers: &[httparse::Header<'_>], token: &[u8], cuts: &mut Vec<(usize, usize)>) {
    if token.eq_ignore_ascii_case(b"close") || token.eq_ignore_ascii_case(b"keep-alive") {
        return;
    }
    for header in headers {
        let framing = ["content-length", "transfer-encoding", "connection"];
        if header.name.as_bytes().eq_ignore_ascii_case(token)
            && !framing.iter().any(|name| header.name.eq_ignore_ascii_case(name))
        {
            cuts.push(line_of(bytes, header));
        }
    }
}

/// Where a header's line lies.
fn line_of(bytes: &[u8], header: &httparse::Header<'_>) -> (usize, usize) {
    let start = header.name.as_ptr() as usize - bytes.as_ptr() as usize;
    let value_end = if header.value.is_empty() {
        start + header.name.len()
    } else {
        header.value.as_ptr() as usize - bytes.as_ptr() as usize + header.value.len()
    };
    let end = bytes[value_end..]
        .iter()
        .position(|b| *b == b'\n')
        .map_or(bytes.len(), |found| value_end + found + 1);
    (start, end)
}

/// Takes lines out by moving what stands before them towards the end. Says where the rest begins.
fn cut(bytes: &mut [u8], cuts: &mut Vec<(usize, usize)>) -> usize {
    if cuts.len() > 1 {
        cuts.sort_unstable();
        cuts.dedup();
    }
    let mut start = 0;
    for (from, to) in cuts.iter().copied() {
        bytes.copy_within(start..from, start + (to - from));
        start += to - from;
    }
    start
}

fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// Writes the answer for when no active can answer.
pub(super) fn write_unavailable(out: &mut Vec<u8>, text: &str, is_head: bool, close: bool) {
    out.clear();
    // Writing to memory does not fail.
    let _ = write!(
        out,
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Retry-After: 1\r\n{}\r\n{}",
        text.len(),
        if close { "Connection: close\r\n" } else { "" },
        if is_head { "" } else { text },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(text: &str) -> (RequestHead, String) {
        let mut out = Vec::new();
        let head = request(text.as_bytes(), "192.0.2.7", &mut out);
        (head, String::from_utf8(out).unwrap())
    }

    fn look(text: &str, is_head: bool) -> Result<(Answer, String), Unusable> {
        let mut bytes = text.as_bytes().to_vec();
        match answer(&mut bytes, is_head, &mut Vec::new())? {
            AnswerHead::Final(head) => {
                let text = String::from_utf8(bytes[head.start..head.end].to_vec()).unwrap();
                Ok((head, text))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_plain_request_is_passed_on_without_what_concerns_the_connection() {
        let (head, out) = ask(
            "GET /a?b HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\nX-Forwarded-For: 10.0.0.1\r\nAccept:  */* \r\n\r\nGET",
        );
        let RequestHead::Plain(plain) = head else {
            panic!("{head:?}")
        };
        assert!(!plain.is_head && !plain.close);
        assert_eq!(
            out,
            "GET /a?b HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nX-Forwarded-For: 10.0.0.1, 192.0.2.7\r\nX-Forwarded-Proto: http\r\n\r\n"
        );
    }

    #[test]
    fn a_small_body_of_known_length_is_plain_too() {
        for (method, is_idempotent) in [
            ("GET", true),
            ("PUT", true),
            ("DELETE", true),
            ("POST", false),
            ("PATCH", false),
        ] {
            let (head, out) = ask(&format!(
                "{method} / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
            ));
            let RequestHead::Plain(plain) = head else {
                panic!("{head:?}")
            };
            assert_eq!((plain.body, plain.is_idempotent), (3, is_idempotent), "{method}");
            assert!(out.contains("Content-Length: 3\r\n"));
        }
    }

    #[test]
    fn whatever_is_not_plain_is_left_to_hyper() {
        for text in [
            "POST / HTTP/1.1\r\nHost: x\r\n\r\n",
            "TRACE / HTTP/1.1\r\nHost: x\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
            "GET / HTTP/1.0\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
            "GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: x-secret\r\nX-Secret: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            assert_eq!(ask(text).0, RequestHead::Other, "{text:?}");
        }
        assert_eq!(ask("GET / HTTP/1.1\r\nHost: x\r\n").0, RequestHead::Partial);
    }

    #[test]
    fn an_answer_loses_only_what_concerns_the_connection() {
        let (head, text) = look(
            "HTTP/1.1 200 OK\r\nServer: a\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\nB: c\r\n\r\nok",
            false,
        )
        .unwrap();
        assert_eq!(
            text,
            "HTTP/1.1 200 OK\r\nServer: a\r\nContent-Length: 2\r\nB: c\r\n\r\n"
        );
        assert!(head.reusable);
        assert_eq!(head.body, Framing::Length(2));
    }

    #[test]
    fn the_framing_of_an_answer_is_beyond_doubt_or_it_is_refused() {
        let framing = |rest: &str| look(&format!("HTTP/1.1 200 OK\r\n{rest}\r\n"), false).map(|(a, _)| a.body);
        assert_eq!(framing("Transfer-Encoding: chunked\r\n"), Ok(Framing::Chunked));
        assert_eq!(framing(""), Ok(Framing::UntilClose));
        assert_eq!(
            framing("Content-Length: 5\r\nContent-Length: 5\r\n"),
            Ok(Framing::Length(5))
        );
        assert_eq!(
            framing("Content-Length: 5\r\nContent-Length: 6\r\n"),
            Err(Unusable::Lengths)
        );
        assert_eq!(framing("Content-Length: +5\r\n"), Err(Unusable::Lengths));
        assert_eq!(
            framing("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            Err(Unusable::Lengths)
        );
        assert_eq!(framing("Transfer-Encoding: gzip, chunked\r\n"), Err(Unusable::Coding));
        let length = |text, is_head| look(text, is_head).unwrap().0.body;
        assert_eq!(
            length("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", false),
            Framing::Length(0)
        );
        assert_eq!(
            length("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", true),
            Framing::Length(0)
        );
    }

    #[test]
    fn an_old_version_is_passed_on_as_ours_and_its_connection_not_used_again() {
        let (head, text) = look("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK"));
        assert!(!head.reusable);
        let (head, _) = look(
            "HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n",
            false,
        )
        .unwrap();
        assert!(!head.reusable);
    }

    #[test]
    fn interim_answers_and_unasked_upgrades_are_told_apart() {
        let mut bytes = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP".to_vec();
        let length = bytes.len() - 4;
        assert_eq!(
            answer(&mut bytes, false, &mut Vec::new()),
            Ok(AnswerHead::Interim(length))
        );
        assert_eq!(
            look("HTTP/1.1 101 Switching Protocols\r\n\r\n", false).unwrap_err(),
            Unusable::Upgrade
        );
    }
}
