//! One try of one plain request: it is sent, and its answer taken in or, if it is large, passed on.

use super::HEAD_BYTES_MAX;
use super::REPEATABLE_BYTES_MAX;
use super::chunked::Scanner;
use super::fast::{Connection, End};
use super::parse::{self, Answer, AnswerHead, Framing, Plain};
use crate::connect::plainly;
use crate::target::InFlight;
use crate::worker::Buffers;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Room for an answer at first.
const ANSWER_BYTES: usize = 16 * 1024;

/// Room for an answer that is passed on as it comes.
const PASSING_BYTES: usize = 64 * 1024;

/// See the module.
pub(super) struct Exchange {
    pub(super) backend: TcpStream,
    used: bool,
    /// Bytes of the request that were sent.
    sent: usize,
    arrived: Instant,
    /// How long it took to the first byte of the answer, in microseconds, once that is there.
    first_us: Option<u64>,
    pub(super) in_flight: InFlight,
    request: Plain,
    pub(super) buffer: Vec<u8>,
    pub(super) filled: usize,
}

/// How one try ended.
pub(super) enum Try {
    /// All of the answer is there, up to this byte.
    Whole(Answer, usize),
    /// The answer was passed on as it came. `true`: the connection can be used again.
    Passed(End, bool),
    /// Nothing of the answer was passed on.
    Failed(Failure),
}

/// Why there is no answer.
pub(super) struct Failure {
    pub(super) what: String,
    /// The connection had been idle and may have been closed meanwhile, which is no sign of a failure.
    pub(super) is_stale: bool,
    /// The active may have got something of the request.
    pub(super) was_sent: bool,
}

impl Exchange {
    /// A try that has a connection, which was `used` before or not.
    pub(super) fn new(
        (backend, used): (TcpStream, bool),
        in_flight: InFlight,
        request: Plain,
        arrived: Instant,
        buffers: &Buffers,
    ) -> Self {
        Self {
            backend,
            used,
            sent: 0,
            arrived,
            first_us: None,
            in_flight,
            request,
            buffer: buffers.take(ANSWER_BYTES),
            filled: 0,
        }
    }

    /// Sends the request and takes in the answer, as far as it is kept; the rest is passed on.
    pub(super) async fn run(&mut self, connection: &mut Connection) -> Try {
        if let Err(error) = self.send(&connection.out).await {
            return self.failed(plainly(&error));
        }
        let head = loop {
            match self.receive(connection).await {
                Ok(0) => return self.failed("it closed the connection without an answer".into()),
                Ok(_) => {}
                Err(error) => return self.failed(plainly(&error)),
            }
            match self.parse(&mut connection.cuts) {
                Ok(Some(head)) => break head,
                Ok(None) => {}
                Err(unusable) => return self.failed(unusable.to_string()),
            }
        };
        match head.body {
            Framing::Length(length) if length <= REPEATABLE_BYTES_MAX as u64 => {
                let end = head.end + usize::try_from(length).unwrap_or(usize::MAX);
                self.read_whole(connection, head, end).await
            }
            _ => self.pass_on(connection, head).await,
        }
    }

    fn failed(&self, what: String) -> Try {
        Try::Failed(Failure {
            what,
            is_stale: self.used && self.filled == 0 && !self.in_flight.target.is_leaving(),
            was_sent: self.sent > 0,
        })
    }

    async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        poll_fn(|cx| {
            while self.sent < request.len() {
                match Pin::new(&mut self.backend).poll_write(cx, &request[self.sent..]) {
                    Poll::Ready(result) => self.sent += result?,
                    Poll::Pending => return self.in_flight.poll_cut(cx).map(|()| Err(replaced())),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Reads more of the answer; listens to the client meanwhile.
    async fn receive(&mut self, connection: &mut Connection) -> io::Result<usize> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.filled * 2, 0);
        }
        let read = poll_fn(|cx| {
            let mut into = ReadBuf::new(&mut self.buffer[self.filled..]);
            if let Poll::Ready(result) = Pin::new(&mut self.backend).poll_read(cx, &mut into) {
                return Poll::Ready(result.map(|()| into.filled().len()));
            }
            if self.in_flight.poll_cut(cx).is_ready() {
                return Poll::Ready(Err(replaced()));
            }
            connection.closed.poll(cx).map(|()| Err(replaced()))
        })
        .await?;
        self.filled += read;
        if read > 0 && self.first_us.is_none() {
            let took = self.so_far();
            connection.front.counters.latency_us.add(took);
            self.first_us = Some(took);
        }
        Ok(read)
    }

    fn parse(&mut self, cuts: &mut Vec<(usize, usize)>) -> Result<Option<Answer>, parse::Unusable> {
        loop {
            let bytes = &mut self.buffer[..self.filled];
            match parse::answer(bytes, self.request.is_head, cuts)? {
                AnswerHead::Final(head) => return Ok(Some(head)),
                AnswerHead::Partial if self.filled >= HEAD_BYTES_MAX => return Err(parse::Unusable::NotHttp),
                AnswerHead::Partial => return Ok(None),
                // Those who did not ask for it can do without.
                AnswerHead::Interim(length) => {
                    bytes.copy_within(length.., 0);
                    self.filled -= length;
                }
            }
        }
    }

    /// Reads the whole answer before any of it is passed on: until then it can be had from another active.
    async fn read_whole(&mut self, connection: &mut Connection, head: Answer, end: usize) -> Try {
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        // As a rule all of it came at once, and the clock needs no second look.
        let took = self.first_us.filter(|_| self.filled >= end);
        while self.filled < end {
            match self.receive(connection).await {
                Ok(0) => return self.failed("it closed the connection within an answer".into()),
                Ok(_) => {}
                Err(error) => return self.failed(plainly(&error)),
            }
        }
        let took = took.unwrap_or_else(|| self.so_far());
        self.count(connection, head.status, took);
        Try::Whole(head, end)
    }

    /// Passes the answer on as it comes.
    async fn pass_on(&mut self, connection: &mut Connection, head: Answer) -> Try {
        self.count(connection, head.status, self.first_us.unwrap_or_default());
        if self.buffer.len() < PASSING_BYTES {
            self.buffer.resize(PASSING_BYTES, 0);
        }
        let close = self.request.close || connection.front.sends_away() || head.body == Framing::UntilClose;
        let mut out = std::mem::take(&mut connection.out);
        out.clear();
        if close {
            with_close(&mut out, &self.buffer[head.start..head.end]);
        } else {
            out.extend_from_slice(&self.buffer[head.start..head.end]);
        }
        let sent = connection.write(&out, Some(&mut self.in_flight)).await;
        connection.out = out;
        let passed = match sent {
            Ok(()) => self.pass_body(connection, head).await,
            Err(_) => Err(Break::Client),
        };
        match passed {
            Ok(is_clean) => {
                let end = if close { End::Close } else { End::Next };
                Try::Passed(end, head.reusable && is_clean)
            }
            Err(Break::Client) => Try::Passed(End::Reset, false),
            Err(Break::Active(what)) => {
                self.in_flight.target.suspect(&what);
                connection.front.counters.failed.add(1);
                Try::Passed(End::Reset, false)
            }
            Err(Break::Replaced) => {
                connection.front.counters.failed.add(1);
                Try::Passed(End::Reset, false)
            }
        }
    }

    /// Says whether nothing came after the body.
    async fn pass_body(&mut self, connection: &mut Connection, head: Answer) -> Result<bool, Break> {
        let mut left = match head.body {
            Framing::Length(length) => Left::Bytes(length),
            Framing::Chunked => Left::Chunks(Scanner::new()),
            Framing::UntilClose => Left::Until,
        };
        let mut from = head.end;
        loop {
            let fresh = &self.buffer[from..self.filled];
            let (step, is_end) = left.step(fresh).map_err(|e| Break::Active(e.to_string()))?;
            let is_clean = step == fresh.len();
            if step > 0 {
                let to = from + step;
                connection
                    .write(&self.buffer[from..to], Some(&mut self.in_flight))
                    .await
                    .map_err(|_| Break::Client)?;
            }
            if is_end {
                return Ok(is_clean);
            }
            from = 0;
            self.filled = 0;
            match self.receive_or_client_leaves(connection).await {
                Ok(0) if matches!(left, Left::Until) => return Ok(false),
                Ok(0) => return Err(Break::Active("it closed the connection within an answer".into())),
                Ok(_) => {}
                Err(Gone::Client) => return Err(Break::Client),
                Err(Gone::Active(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {
                    return Err(Break::Replaced);
                }
                Err(Gone::Active(error)) => return Err(Break::Active(plainly(&error))),
            }
        }
    }

    /// An answer that has begun may have no end (events): a client that leaves is noticed here.
    async fn receive_or_client_leaves(&mut self, connection: &mut Connection) -> Result<usize, Gone> {
        let read = poll_fn(|cx| {
            let mut into = ReadBuf::new(&mut self.buffer);
            if let Poll::Ready(result) = Pin::new(&mut self.backend).poll_read(cx, &mut into) {
                return Poll::Ready(result.map(|()| into.filled().len()).map_err(Gone::Active));
            }
            if self.in_flight.poll_cut(cx).is_ready() || connection.closed.poll(cx).is_ready() {
                return Poll::Ready(Err(Gone::Active(replaced())));
            }
            while connection.read.has_room() {
                match connection.read.poll_fill(&mut connection.client, cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Gone::Client)),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await?;
        self.filled = read;
        Ok(read)
    }

    fn so_far(&self) -> u64 {
        u64::try_from(self.arrived.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn count(&self, connection: &Connection, status: u16, took_us: u64) {
        let counters = &connection.front.counters;
        counters.latency.record(took_us);
        counters.answered(status);
        if status >= 500 {
            connection.front.counters.errors.add(1);
        } else {
            self.in_flight.target.answered();
        }
    }
}

/// What is still to come of a body.
enum Left {
    Bytes(u64),
    Chunks(Scanner),
    Until,
}

impl Left {
    /// How many of the bytes belong to it, and whether that was the last of it.
    fn step(&mut self, fresh: &[u8]) -> Result<(usize, bool), super::chunked::Malformed> {
        Ok(match self {
            Self::Bytes(left) => {
                let step = (*left).min(fresh.len() as u64);
                *left -= step;
                (usize::try_from(step).unwrap_or(usize::MAX), *left == 0)
            }
            Self::Chunks(scanner) => match scanner.scan(fresh)? {
                Some(end) => (end, true),
                None => (fresh.len(), false),
            },
            Self::Until => (fresh.len(), false),
        })
    }
}

/// Why an answer broke off.
enum Break {
    Client,
    Active(String),
    /// Its active was replaced, or the service ends.
    Replaced,
}

enum Gone {
    Client,
    Active(io::Error),
}

fn replaced() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the active was replaced")
}

/// Writes a head with the word that the connection ends after it.
pub(super) fn with_close(out: &mut Vec<u8>, head: &[u8]) {
    out.clear();
    out.extend_from_slice(&head[..head.len() - 2]);
    out.extend_from_slice(b"Connection: close\r\n\r\n");
}
