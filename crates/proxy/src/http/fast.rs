//! Plain HTTP/1.1 without hyper: a head is parsed where it lies and passed on with its body, an answer of known length is
//! read whole and passed on with one write. Everything else is handed on with the connection.

use super::exchange::{Exchange, Failure, Try, with_close};
use super::inbox::Inbox;
use super::parse::{self, Plain, RequestHead};
use super::{HEAD_BYTES_MAX, HEAD_TIMEOUT, PARTING_IDLE, SURELY_OPEN, not_repeated, unavailable_text};
use crate::area::Area;
use crate::connect::connect;
use crate::flag::Watch;
use crate::front::Front;
use crate::hold::Search;
use crate::target::InFlight;
use crate::worker::Buffers;
use socket2::SockRef;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// A client that sends nothing between two requests is sent away after this, later than most clients give up themselves.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// How often a connection that had been idle may turn out to be closed before that counts as a failure.
const STALE_MAX: u32 = 2;

/// How long a client may take.
pub(super) struct Patience {
    /// For a whole head, and between two parts of a body.
    head: Duration,
    /// Between two requests.
    idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head: HEAD_TIMEOUT,
            idle: IDLE_TIMEOUT,
        }
    }
}

/// Serves plain requests. Gives the connection and what was read of it back when something else comes.
pub(super) async fn serve(
    front: &Rc<Front>,
    buffers: Rc<Buffers>,
    client: TcpStream,
    peer: SocketAddr,
    caller: Option<&Arc<Area>>,
    patience: Patience,
) -> Option<(TcpStream, Vec<u8>)> {
    let mut connection = Connection {
        closing: front.watch_closing(),
        parting: front.watch_parting(),
        closed: front.watch_cut(),
        front: Rc::clone(front),
        buffers,
        client,
        peer: peer.ip().to_canonical().to_string(),
        caller: caller.cloned(),
        read: Inbox::default(),
        out: Vec::new(),
        cuts: Vec::new(),
        alarm: Box::pin(tokio::time::sleep(patience.head)),
        limit: None,
        patience,
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

/// A client's connection.
pub(super) struct Connection {
    pub(super) front: Rc<Front>,
    buffers: Rc<Buffers>,
    pub(super) client: TcpStream,
    peer: String,
    /// Where its requests are summed up, if it was asked who it is.
    caller: Option<Arc<Area>>,
    pub(super) read: Inbox,
    /// The head and body for the active; later, an answer of our own.
    pub(super) out: Vec<u8>,
    pub(super) cuts: Vec<(usize, usize)>,
    closing: Watch,
    parting: Watch,
    pub(super) closed: Watch,
    /// Whether a request has begun, and by when there must be more of it, or one at all.
    limit: Option<(bool, Instant)>,
    /// Set again only when it goes off too early, as a rule: moving it for each request would cost more than the request's parsing.
    alarm: Pin<Box<Sleep>>,
    patience: Patience,
}

enum Next {
    Request(Plain),
    Other,
    Close,
}

/// What comes after an answer.
pub(super) enum End {
    Next,
    Close,
    /// The answer broke off: the client is to notice.
    Reset,
}

impl Connection {
    async fn next_request(&mut self) -> Next {
        loop {
            let unread = self.read.bytes();
            let begun = !unread.is_empty();
            if begun {
                match parse::request(unread, &self.peer, &mut self.out) {
                    RequestHead::Plain(request) => return self.take_request(request).await,
                    RequestHead::Other => return Next::Other,
                    // hyper says what is wrong with it.
                    RequestHead::Partial if unread.len() >= HEAD_BYTES_MAX => return Next::Other,
                    RequestHead::Partial => {}
                }
            }
            let patience = if begun { self.patience.head } else { self.patience.idle };
            if self.limit.is_none_or(|(was_begun, _)| was_begun != begun) {
                self.limit = Some((begun, Instant::now() + patience));
            }
            if !self.fill().await {
                return Next::Close;
            }
        }
    }

    /// Takes a request with its body, which may be still to come.
    async fn take_request(&mut self, request: Plain) -> Next {
        let end = request.bytes + request.body;
        while self.read.bytes().len() < end {
            self.limit = Some((true, Instant::now() + self.patience.head));
            if !self.fill().await {
                return Next::Close;
            }
        }
        self.limit = None;
        self.out.extend_from_slice(&self.read.bytes()[request.bytes..end]);
        self.read.take(end);
        Next::Request(request)
    }

    /// Reads more from the client; says whether there was more in time.
    async fn fill(&mut self) -> bool {
        poll_fn(|cx| {
            if self.closed.poll(cx).is_ready() || (self.read.bytes().is_empty() && self.closing.poll(cx).is_ready()) {
                return Poll::Ready(false);
            }
            if self.read.bytes().is_empty() && self.poll_parting(cx).is_ready() {
                let until = Instant::now() + PARTING_IDLE;
                self.limit = self.limit.map(|(begun, limit)| (begun, limit.min(until)));
            }
            match self.read.poll_fill(&mut self.client, cx) {
                Poll::Ready(result) => Poll::Ready(matches!(result, Ok(1..))),
                // What came while this thread had no turn is not known to the runtime yet.
                Poll::Pending if self.poll_alarm(cx).is_pending() => Poll::Pending,
                Poll::Pending if self.has_come() => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Poll::Pending => Poll::Ready(false),
            }
        })
        .await
    }

    /// Whether something can be read, as the system has it.
    fn has_come(&self) -> bool {
        matches!(SockRef::from(&self.client).peek(&mut [MaybeUninit::uninit()]), Ok(1..))
    }

    fn poll_parting(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.parting.is_raised() && !self.front.sends_away() {
            self.parting = self.front.watch_parting();
        }
        self.parting.poll(cx)
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((_, limit)) = self.limit else {
            return Poll::Pending;
        };
        if self.alarm.deadline() > limit.into() {
            self.alarm.as_mut().reset(limit.into());
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
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
        let front = Rc::clone(&self.front);
        let _stay = front.stay(self.caller.as_ref(), arrived);
        front.counters.bytes_in.add(self.out.len() as u64);
        let mut search = Search::new(Rc::clone(&front));
        let mut is_counted = false;
        let mut stale = 0;
        loop {
            let found = match search.try_next() {
                Some(found) => found,
                None => tokio::select! {
                    found = search.next() => found,
                    () = self.client_leaves() => {
                        front.counters.left.add(1);
                        return End::Close;
                    }
                },
            };
            let in_flight = match found {
                Ok(in_flight) => in_flight,
                Err(refused) => return self.unavailable(&refused, request).await,
            };
            if !is_counted {
                is_counted = true;
                front.counters.requests.add(1);
            }
            let connection = match idle(&in_flight, request.is_idempotent) {
                Some(idle) => idle,
                None => match connect(in_flight.target.address).await {
                    Ok(backend) => (backend, false),
                    Err(error) if error.is_out_of_files() => return self.unavailable(&error, request).await,
                    Err(error) => {
                        search.unreachable(in_flight, &error);
                        continue;
                    }
                },
            };
            let mut exchange = Exchange::new(connection, in_flight, request, arrived, &self.buffers);
            let tried = exchange.run(self).await;
            let Exchange {
                backend,
                in_flight,
                buffer,
                filled,
                ..
            } = exchange;
            match tried {
                Try::Whole(head, end) => {
                    if head.reusable && filled == end {
                        give_back(&in_flight, backend);
                    }
                    // A slow client is no concern of the active's.
                    drop(in_flight);
                    let (start, head_bytes) = (head.start, head.end - head.start);
                    let end = self.pass_whole(request, &buffer[start..end], head_bytes).await;
                    self.buffers.give(buffer);
                    return end;
                }
                Try::Passed(end, is_reusable) => {
                    if is_reusable {
                        give_back(&in_flight, backend);
                    }
                    self.buffers.give(buffer);
                    return end;
                }
                Try::Failed(failure) => {
                    self.buffers.give(buffer);
                    // Servers close idle connections when they like. The next one is a new one.
                    if failure.is_stale && stale < STALE_MAX && (request.is_idempotent || !failure.was_sent) {
                        stale += 1;
                        front.counters.retried.add(1);
                        in_flight.target.forget_idle();
                    } else if let Err(why) = self.judge(&mut search, in_flight, request, &failure) {
                        return self.unavailable(&why, request).await;
                    }
                }
            }
        }
    }

    /// Whether another active may be tried after a failure, or why not.
    fn judge(&self, search: &mut Search, in_flight: InFlight, request: Plain, failure: &Failure) -> Result<(), String> {
        if self.closed.is_raised() {
            return Err(failure.what.clone());
        }
        if !failure.was_sent {
            search.unreachable(in_flight, &failure.what);
        } else if request.is_idempotent {
            search.died(in_flight, &failure.what);
        } else {
            if !in_flight.target.is_leaving() {
                in_flight.target.suspect(&failure.what);
            }
            let why = not_repeated(&in_flight.target.instance, &failure.what);
            drop(in_flight);
            return Err(why);
        }
        Ok(())
    }

    /// Passes an answer on in one go.
    async fn pass_whole(&mut self, request: Plain, answer: &[u8], head_bytes: usize) -> End {
        let close = request.close || self.front.sends_away();
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

    /// Completes when a client that waits closes its side.
    async fn client_leaves(&mut self) {
        poll_fn(|cx| {
            while self.read.has_room() {
                match self.read.poll_fill(&mut self.client, cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await;
    }

    async fn unavailable(&mut self, why: &dyn std::fmt::Display, request: Plain) -> End {
        self.front.counters.failed.add(1);
        let text = unavailable_text(&self.front.service, why);
        let close = request.close || self.front.sends_away();
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
    pub(super) async fn write(&mut self, bytes: &[u8], mut of: Option<&mut InFlight>) -> io::Result<()> {
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
            self.front.counters.bytes_out.add(written as u64);
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

/// An idle connection that is still there, as far as can be known. What is repeatable needs no certainty, and so no
/// question to the system.
fn idle(in_flight: &InFlight, is_repeatable: bool) -> Option<(TcpStream, bool)> {
    while let Some((stream, since)) = in_flight.target.idle.take() {
        let is_open = match is_repeatable {
            true => has_nothing(stream.try_read(&mut [0])),
            false => {
                since.elapsed() < SURELY_OPEN && has_nothing(SockRef::from(&stream).peek(&mut [MaybeUninit::uninit()]))
            }
        };
        if is_open {
            return Some((stream, true));
        }
    }
    None
}

/// An idle connection has nothing to say: bytes are as bad as the end.
fn has_nothing(read: io::Result<usize>) -> bool {
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::Settings;
    use std::net::TcpListener;
    use tokio::io::AsyncWriteExt;
    use tokio::sync::mpsc::unbounded_channel;

    /// How long a client that sends this and then nothing is kept, with 300 ms for a request and 100 ms between two.
    async fn kept(sent: &[u8]) -> Duration {
        let settings = Settings {
            protocol: model::Protocol::Http,
            hold_timeout: Duration::ZERO,
            hold_max: 0,
            parting: false,
        };
        let service = model::ServiceName::new("web").unwrap();
        let (events, _events) = unbounded_channel();
        let front = Front::new(service, settings, Arc::default(), Arc::default(), 0, events);
        let patience = Patience {
            head: Duration::from_millis(300),
            idle: Duration::from_millis(100),
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let stream = TcpStream::from_std(stream).unwrap();
        client.write_all(sent).await.unwrap();
        let started = Instant::now();
        let rest = serve(&Rc::new(front), Rc::default(), stream, peer, None, patience).await;
        assert!(rest.is_none());
        started.elapsed()
    }

    #[tokio::test]
    async fn a_client_that_does_not_go_on_is_sent_away() {
        let between = |from, to| Duration::from_millis(from)..Duration::from_millis(to);
        for (sent, expected) in [
            ("", between(100, 290)),
            ("GET / HT", between(300, 2_000)),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf",
                between(300, 2_000),
            ),
            // Answered with 503, for there is no active; then it is idle.
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", between(100, 290)),
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\nGET", between(300, 2_000)),
        ] {
            let kept = kept(sent.as_bytes()).await;
            assert!(expected.contains(&kept), "{kept:?} for {sent:?}");
        }
    }
}
