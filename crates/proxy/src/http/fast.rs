//! Plain GET and HEAD requests over HTTP/1.1, without hyper: a head is parsed where it lies and passed on, an answer of
//! known length is read whole and passed on with one write. Everything else is handed on with the connection.

use super::backend::is_open;
use super::chunked::Scanner;
use super::parse::{self, Answer, AnswerHead, Framing, Plain, RequestHead};
use super::{HEAD_BYTES_MAX, HEAD_TIMEOUT, REPEATABLE_BYTES_MAX, unavailable_text};
use crate::connect::{connect, plainly};
use crate::flag::Watch;
use crate::front::Front;
use crate::hold::Search;
use crate::target::InFlight;
use crate::worker::Buffers;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// A client that sends nothing between two requests is sent away after this, later than most clients give up themselves.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Room for requests at first.
const REQUEST_BYTES: usize = 2 * 1024;

/// Room for an answer at first.
const ANSWER_BYTES: usize = 16 * 1024;

/// Room for an answer that is passed on as it comes.
const PASSING_BYTES: usize = 64 * 1024;

/// How often a connection that had been idle may turn out to be closed before that counts as a failure.
const STALE_MAX: u32 = 2;

/// Serves plain requests. Gives the connection and what was read of it back when something else comes.
pub(super) async fn serve(
    front: &Rc<Front>,
    buffers: Rc<Buffers>,
    client: TcpStream,
    peer: SocketAddr,
) -> Option<(TcpStream, Vec<u8>)> {
    let mut connection = Connection {
        closing: front.watch_closing(),
        closed: front.watch_cut(),
        front: Rc::clone(front),
        buffers,
        client,
        peer: peer.ip().to_canonical().to_string(),
        read: Inbox::default(),
        out: Vec::new(),
        cuts: Vec::new(),
        alarm: Box::pin(tokio::time::sleep(HEAD_TIMEOUT)),
    };
    loop {
        let end = match connection.next_request().await {
            Next::Request(request) => connection.answer(request).await,
            Next::Other => return Some((connection.client, connection.read.into_rest())),
            Next::Close => return None,
        };
        match end {
            End::Next => {}
            End::Close => return None,
            End::Reset => {
                crate::tcp::reset(&connection.client);
                return None;
            }
        }
    }
}

struct Connection {
    front: Rc<Front>,
    buffers: Rc<Buffers>,
    client: TcpStream,
    peer: String,
    read: Inbox,
    /// The head for the active; later, an answer of our own.
    out: Vec<u8>,
    cuts: Vec<(usize, usize)>,
    closing: Watch,
    closed: Watch,
    /// Set again only when it goes off: moving it for each request would cost more than the request's parsing.
    alarm: Pin<Box<Sleep>>,
}

enum Next {
    Request(Plain),
    Other,
    Close,
}

/// What comes after an answer.
enum End {
    Next,
    Close,
    /// The answer broke off: the client is to notice.
    Reset,
}

/// How one try ended.
enum Try {
    /// All of the answer is there, up to this byte.
    Whole(Answer, usize),
    /// The answer was passed on as it came. `true`: the connection can be used again.
    Passed(End, bool),
    /// Nothing of the answer was passed on. `true`: the connection had been idle and was closed meanwhile.
    Failed(String, bool),
}

impl Connection {
    async fn next_request(&mut self) -> Next {
        let waiting_since = Instant::now();
        loop {
            let unread = self.read.bytes();
            if !unread.is_empty() {
                match parse::request(unread, &self.peer, &mut self.out) {
                    RequestHead::Plain(request) => return Next::Request(request),
                    RequestHead::Other => return Next::Other,
                    // hyper says what is wrong with it.
                    RequestHead::Partial if unread.len() >= HEAD_BYTES_MAX => return Next::Other,
                    RequestHead::Partial => {}
                }
            }
            let got = poll_fn(|cx| {
                if self.closed.poll(cx).is_ready() || (self.read.bytes().is_empty() && self.closing.poll(cx).is_ready())
                {
                    return Poll::Ready(false);
                }
                match self.read.poll_fill(&mut self.client, cx) {
                    Poll::Ready(result) => Poll::Ready(matches!(result, Ok(n) if n > 0)),
                    Poll::Pending => self.poll_alarm(waiting_since, cx).map(|()| false),
                }
            })
            .await;
            if !got {
                return Next::Close;
            }
        }
    }

    fn poll_alarm(&mut self, waiting_since: Instant, cx: &mut Context<'_>) -> Poll<()> {
        while self.alarm.as_mut().poll(cx).is_ready() {
            let patience = if self.read.bytes().is_empty() {
                IDLE_TIMEOUT
            } else {
                HEAD_TIMEOUT
            };
            let limit = waiting_since + patience;
            if limit <= Instant::now() {
                return Poll::Ready(());
            }
            self.alarm.as_mut().reset(limit.into());
        }
        Poll::Pending
    }

    /// Answers a request, by one active after the other if need be.
    async fn answer(&mut self, request: Plain) -> End {
        let arrived = Instant::now();
        self.read.take(request.bytes);
        let front = Rc::clone(&self.front);
        let mut search = Search::new(Rc::clone(&front));
        let mut is_counted = false;
        let mut stale = 0;
        loop {
            let found = match search.try_next() {
                Some(found) => found,
                None => search.next().await,
            };
            let in_flight = match found {
                Ok(in_flight) => in_flight,
                Err(refused) => return self.unavailable(&refused, request).await,
            };
            if !is_counted {
                is_counted = true;
                front.counters.requests.add(1);
            }
            let (backend, used) = match idle(&in_flight) {
                Some(backend) => (backend, true),
                None => match connect(in_flight.target.address).await {
                    Ok(backend) => (backend, false),
                    Err(error) => {
                        search.unreachable(in_flight, &error);
                        continue;
                    }
                },
            };
            let mut exchange = Exchange {
                backend,
                used,
                arrived: Some(arrived),
                in_flight,
                request,
                buffer: self.buffers.take(ANSWER_BYTES),
                filled: 0,
            };
            let tried = exchange.run(self).await;
            let Exchange {
                backend,
                in_flight,
                buffer,
                filled,
                ..
            } = exchange;
            let (end, failure) = match tried {
                Try::Whole(head, end) => {
                    if head.reusable && filled == end {
                        give_back(&in_flight, backend);
                    }
                    // A slow client is no concern of the active's.
                    drop(in_flight);
                    (
                        Some(
                            self.pass_whole(request, &buffer[head.start..end], head.end - head.start)
                                .await,
                        ),
                        None,
                    )
                }
                Try::Passed(end, reusable) => {
                    if reusable {
                        give_back(&in_flight, backend);
                    }
                    (Some(end), None)
                }
                Try::Failed(what, is_stale) => (None, Some((what, is_stale, in_flight))),
            };
            self.buffers.give(buffer);
            match failure {
                None => {}
                // No sign of a failure: servers close idle connections when they like. The next one is a new one.
                Some((_, true, in_flight)) if stale < STALE_MAX => {
                    stale += 1;
                    front.counters.retried.add(1);
                    in_flight.target.forget_idle();
                }
                Some((what, _, in_flight)) => search.died(in_flight, &what),
            }
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Passes an answer on in one go.
    async fn pass_whole(&mut self, request: Plain, answer: &[u8], head_bytes: usize) -> End {
        let close = request.close || self.front.is_closing();
        let sent = if close {
            let mut whole = std::mem::take(&mut self.out);
            with_close(&mut whole, &answer[..head_bytes]);
            whole.extend_from_slice(&answer[head_bytes..]);
            let sent = self.write(&whole, None).await;
            self.out = whole;
            sent
        } else {
            self.write(answer, None).await
        };
        match sent {
            Ok(()) if close => End::Close,
            Ok(()) => End::Next,
            Err(_) => End::Reset,
        }
    }

    async fn unavailable(&mut self, why: &dyn std::fmt::Display, request: Plain) -> End {
        self.front.counters.failed.add(1);
        let text = unavailable_text(&self.front.service, why);
        let close = request.close || self.front.is_closing();
        parse::write_unavailable(&mut self.out, &text, request.is_head, close);
        let out = std::mem::take(&mut self.out);
        let sent = self.write(&out, None).await;
        self.out = out;
        match sent {
            Ok(()) if close => End::Close,
            Ok(()) => End::Next,
            Err(_) => End::Reset,
        }
    }

    /// Writes to the client; breaks off when the service ends, or the active of an answer that is not yet complete is cut.
    async fn write(&mut self, bytes: &[u8], mut of: Option<&mut InFlight>) -> io::Result<()> {
        let mut written = 0;
        poll_fn(|cx| {
            while written < bytes.len() {
                match Pin::new(&mut self.client).poll_write(cx, &bytes[written..]) {
                    Poll::Ready(result) => written += result?,
                    Poll::Pending => {
                        let is_cut = of.as_mut().is_some_and(|it| it.poll_cut(cx).is_ready());
                        if is_cut || self.closed.poll(cx).is_ready() {
                            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                        }
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }
}

fn give_back(in_flight: &InFlight, backend: TcpStream) {
    if !in_flight.target.is_leaving() {
        in_flight.target.idle.put(backend, Instant::now());
    }
}

fn idle(in_flight: &InFlight) -> Option<TcpStream> {
    while let Some((stream, _)) = in_flight.target.idle.take() {
        if is_open(&stream) {
            return Some(stream);
        }
    }
    None
}

/// One try of one request.
struct Exchange {
    backend: TcpStream,
    used: bool,
    /// Until the first byte of the answer.
    arrived: Option<Instant>,
    in_flight: InFlight,
    request: Plain,
    buffer: Vec<u8>,
    filled: usize,
}

impl Exchange {
    async fn run(&mut self, connection: &mut Connection) -> Try {
        if let Err(error) = self.send(&connection.out).await {
            return Try::Failed(plainly(&error), self.used);
        }
        let head = loop {
            match self.receive(connection).await {
                Ok(0) => return Try::Failed("it closed the connection without an answer".into(), self.is_stale()),
                Ok(_) => {}
                Err(error) => return Try::Failed(plainly(&error), self.is_stale()),
            }
            match self.parse(&mut connection.cuts) {
                Ok(Some(head)) => break head,
                Ok(None) => {}
                Err(unusable) => return Try::Failed(unusable.to_string(), false),
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

    /// Whether a failure may be nothing but the end of an idle connection.
    fn is_stale(&self) -> bool {
        self.used && self.filled == 0 && !self.in_flight.target.is_leaving()
    }

    async fn send(&mut self, head: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        poll_fn(|cx| {
            while sent < head.len() {
                match Pin::new(&mut self.backend).poll_write(cx, &head[sent..]) {
                    Poll::Ready(result) => sent += result?,
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
        if read > 0
            && let Some(arrived) = self.arrived.take()
        {
            let took = u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
            connection.front.counters.latency_us.add(took);
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
        while self.filled < end {
            match self.receive(connection).await {
                Ok(0) => return Try::Failed("it closed the connection within an answer".into(), false),
                Ok(_) => {}
                Err(error) => return Try::Failed(plainly(&error), false),
            }
        }
        self.count(connection, head.status);
        Try::Whole(head, end)
    }

    /// Passes the answer on as it comes.
    async fn pass_on(&mut self, connection: &mut Connection, head: Answer) -> Try {
        self.count(connection, head.status);
        if self.buffer.len() < PASSING_BYTES {
            self.buffer.resize(PASSING_BYTES, 0);
        }
        let close = self.request.close || connection.front.is_closing() || head.body == Framing::UntilClose;
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

    fn count(&self, connection: &Connection, status: u16) {
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
fn with_close(out: &mut Vec<u8>, head: &[u8]) {
    out.clear();
    out.extend_from_slice(&head[..head.len() - 2]);
    out.extend_from_slice(b"Connection: close\r\n\r\n");
}

/// What was read from a client and not yet used.
#[derive(Default)]
struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn take(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    fn has_room(&self) -> bool {
        self.end - self.start < HEAD_BYTES_MAX
    }

    fn into_rest(mut self) -> Vec<u8> {
        self.buffer.truncate(self.end);
        self.buffer.drain(..self.start);
        self.buffer
    }

    /// Reads what there is.
    fn poll_fill(&mut self, client: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.end == self.buffer.len() {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            } else {
                let room = (self.buffer.len() * 2).max(REQUEST_BYTES);
                self.buffer.resize(room, 0);
            }
        }
        let mut into = ReadBuf::new(&mut self.buffer[self.end..]);
        let result = Pin::new(client).poll_read(cx, &mut into);
        let read = into.filled().len();
        self.end += read;
        result.map(|result| result.map(|()| read))
    }
}
