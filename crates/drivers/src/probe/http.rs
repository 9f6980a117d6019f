//! The check by HTTP: one `GET` over HTTP/1.1. Redirects are answers like any other and not followed.

use super::attempt::{Attempt, Trouble};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

/// No honest answer to a check has a larger head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How far into the body the text is looked for.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// A server that is still sending when we hang up may log an error, so we let it finish, within reason.
const COURTESY: Duration = Duration::from_millis(20);

pub(super) async fn get(
    attempt: &Attempt,
    path: &str,
    wanted: &BTreeSet<u16>,
    text: Option<&str>,
) -> Result<(), Trouble> {
    let request = Request::get(path)
        .header(HOST, attempt.target.to_string())
        .header(USER_AGENT, "understudy-check")
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Trouble::Instance(format!("cannot ask for the path `{path}`: {error}")))?;
    let stream = attempt.connect().await?;
    let mut settings = http1::Builder::new();
    settings.max_buf_size(HEAD_BYTES_MAX);
    let handshake = settings.handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| no_answer(attempt, &error))?;
    let answer = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| no_answer(attempt, &error))?;
        judge_status(response.status(), wanted)?;
        attempt.reads_body();
        judge_body(attempt, response.into_body(), text).await
    };
    beside(answer, connection).await
}

/// Runs `work` with `helper` beside it, until `work` is done.
async fn beside<W: Future>(work: W, helper: impl Future) -> W::Output {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        _ = helper => {}
    }
    work.await
}

fn judge_status(status: StatusCode, wanted: &BTreeSet<u16>) -> Result<(), Trouble> {
    let passes = if wanted.is_empty() {
        status.is_success()
    } else {
        wanted.contains(&status.as_u16())
    };
    if passes {
        return Ok(());
    }
    let wanted: Vec<String> = wanted.iter().map(u16::to_string).collect();
    let wanted = if wanted.is_empty() {
        "200 to 299".to_owned()
    } else {
        wanted.join(" or ")
    };
    Err(Trouble::Instance(format!(
        "status {}, expected {wanted}",
        status.as_u16()
    )))
}

async fn judge_body(attempt: &Attempt, mut body: Incoming, text: Option<&str>) -> Result<(), Trouble> {
    let Some(text) = text else {
        attempt.passed();
        let _ = tokio::time::timeout(COURTESY, rest(&mut body)).await;
        return Ok(());
    };
    let mut seen = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken_off(attempt, &error))?;
        let Some(data) = frame.data_ref() else { continue };
        // The text may lie across the border of two pieces.
        let looked_at = seen.len().saturating_sub(text.len());
        seen.extend_from_slice(&data[..data.len().min(BODY_BYTES_MAX - seen.len())]);
        if contains(&seen[looked_at..], text.as_bytes()) {
            attempt.passed();
            let _ = tokio::time::timeout(COURTESY, rest(&mut body)).await;
            return Ok(());
        }
        if seen.len() == BODY_BYTES_MAX {
            let what = format!("body does not contain `{text}` in its first 64 KiB");
            return Err(Trouble::Instance(what));
        }
    }
    Err(Trouble::Instance(format!("body does not contain `{text}`")))
}

/// Reads on, and throws away, up to the end or the bound of a body.
async fn rest(body: &mut Incoming) {
    let mut bytes = 0;
    while !body.is_end_stream() && bytes < BODY_BYTES_MAX {
        match body.frame().await {
            Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
            _ => return,
        }
    }
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}

fn no_answer(attempt: &Attempt, error: &hyper::Error) -> Trouble {
    if let Some(trouble) = attempt.broken(error) {
        return trouble;
    }
    Trouble::Instance(if error.is_incomplete_message() || error.is_canceled() {
        format!("connection closed by {} before it answered", attempt.target)
    } else if error.is_parse_too_large() {
        "the head of the answer is longer than 16 KiB".into()
    } else if error.is_parse() {
        format!("the answer is not HTTP: {error}")
    } else {
        format!("failed to ask: {error}")
    })
}

fn broken_off(attempt: &Attempt, error: &hyper::Error) -> Trouble {
    Trouble::Instance(format!(
        "{} broke off in the middle of the answer: {error}",
        attempt.target
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_judged_by_the_set_or_by_being_2xx() {
        let judge = |status: u16, wanted: &[u16]| {
            let status = StatusCode::from_u16(status).unwrap();
            judge_status(status, &wanted.iter().copied().collect())
        };
        let failed = |what: &str| Err(Trouble::Instance(what.into()));
        assert_eq!(judge(204, &[]), Ok(()));
        assert_eq!(judge(401, &[200, 401]), Ok(()));
        assert_eq!(judge(302, &[]), failed("status 302, expected 200 to 299"));
        assert_eq!(judge(503, &[200]), failed("status 503, expected 200"));
        assert_eq!(judge(204, &[200, 401]), failed("status 204, expected 200 or 401"));
    }
}
