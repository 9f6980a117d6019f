//! TCP: one connection to an active for each client, bytes relayed until both sides are done.

use crate::area::Area;
use crate::connect::{connect, plainly};
use crate::front::{Front, Open};
use crate::hold::Search;
use crate::target::{InFlight, Target};
use crate::worker::Buffers;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// Serves a client to its end.
pub(crate) async fn serve(front: Rc<Front>, buffers: Rc<Buffers>, client: TcpStream, open: &Open) {
    let arrived = Instant::now();
    // What the client calls is told apart below, request by request.
    let _stay = front.stay(None, arrived);
    let mut search = Search::new(Rc::clone(&front));
    let (in_flight, backend) = loop {
        let found = match search.try_next() {
            Some(found) => found,
            None => tokio::select! {
                found = search.next() => found,
                // Nobody is left to wait for.
                () = gone(&client) => return front.counters.left.add(1),
            },
        };
        let in_flight = match found {
            Ok(in_flight) => in_flight,
            Err(refused) => return refuse(&front, &client, &refused),
        };
        let asked = Instant::now();
        match connect(in_flight.target.address).await {
            Ok(backend) => {
                front.counters.connect.record(micros(asked));
                break (in_flight, backend);
            }
            Err(error) if error.is_out_of_files() => return refuse(&front, &client, &error),
            Err(error) => search.unreachable(in_flight, &error),
        }
    };
    front.counters.requests.add(1);
    Relay {
        front,
        buffers,
        turn: Turn {
            target: Rc::clone(&in_flight.target),
            caller: open.caller().cloned(),
            waits: false,
        },
        in_flight,
        arrived: Some(arrived),
        deaf: false,
        told: false,
        up: Half::default(),
        down: Half::default(),
        client,
        backend,
    }
    .run()
    .await;
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn refuse(front: &Front, client: &TcpStream, because: &dyn std::fmt::Display) {
    front.counters.failed.add(1);
    tracing::debug!(service = %front.service, %because, "closing a connection unanswered");
    reset(client);
}

/// Completes when a client that waits has left: it closed without having said anything, or was reset. One that ended
/// its side after a request may still want the answer.
async fn gone(client: &TcpStream) {
    let mut byte = [0];
    if let Ok(1..) = client.peek(&mut byte).await {
        // Fails only when the runtime ends.
        let _ = client.ready(Interest::ERROR).await;
    }
}

/// Makes the coming close a reset, so that the other side does not take it for a regular end.
pub(crate) fn reset(stream: &TcpStream) {
    // Fails only for a socket that is no more.
    let _ = stream.set_zero_linger();
}

struct Relay {
    front: Rc<Front>,
    buffers: Rc<Buffers>,
    in_flight: InFlight,
    turn: Turn,
    /// Until the active's first byte.
    arrived: Option<Instant>,
    /// The active reads no more: that nothing comes any more was not the client's wish.
    deaf: bool,
    /// It is counted as failed already.
    told: bool,
    up: Half,
    down: Half,
    client: TcpStream,
    backend: TcpStream,
}

impl Relay {
    async fn run(mut self) {
        let mut closed = self.front.watch_cut();
        let end = std::future::poll_fn(|cx| {
            if self.in_flight.poll_cut(cx).is_ready() || closed.poll(cx).is_ready() {
                return Poll::Ready(End::Cut);
            }
            self.poll(cx)
        })
        .await;
        if matches!(end, End::Cut) && self.down.state != State::Done && self.asks() {
            self.unanswered();
        }
        if !matches!(end, End::Complete) {
            reset(&self.client);
            reset(&self.backend);
        }
    }

    /// Whether its client waits for an answer: it spoke last, and has not ended its side since.
    fn asks(&self) -> bool {
        self.turn.waits && (self.up.state != State::Done || self.deaf)
    }

    /// Its client asked, and is not answered any more.
    fn unanswered(&mut self) {
        if !std::mem::replace(&mut self.told, true) {
            self.front.counters.failed.add(1);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut scratch = self.buffers.scratch();
        let up = self
            .up
            .poll(cx, &mut self.client, &mut self.backend, &mut scratch, |bytes| {
                self.front.counters.bytes_in.add(bytes);
                self.turn.asked();
            });
        let up = match up {
            Poll::Ready(Err(Failed::Write)) => {
                // The active reads no more, but what it said before may still be on its way.
                self.deaf = true;
                self.up.state = State::Done;
                self.up.pending = Vec::new();
                Poll::Ready(())
            }
            Poll::Ready(Err(Failed::Read(_))) => return Poll::Ready(End::Broken),
            Poll::Ready(Ok(())) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        };
        let (arrived, front, in_flight) = (&mut self.arrived, &self.front, &self.in_flight);
        let turn = &mut self.turn;
        self.down.is_last = up.is_ready();
        let ended = self.down.state == State::Done;
        let down = self
            .down
            .poll(cx, &mut self.backend, &mut self.client, &mut scratch, |bytes| {
                front.counters.bytes_out.add(bytes);
                turn.answered();
                if let Some(arrived) = arrived.take() {
                    let took = micros(arrived);
                    front.counters.latency_us.add(took);
                    front.counters.latency.record(took);
                    in_flight.target.answered();
                }
            });
        drop(scratch);
        match (up, down) {
            (_, Poll::Ready(Err(failed))) => {
                if let Failed::Read(error) = failed {
                    if self.arrived.is_some() {
                        self.unanswered();
                        self.in_flight.target.suspect(&plainly(&error));
                    } else if self.asks() {
                        self.unanswered();
                    }
                }
                Poll::Ready(End::Broken)
            }
            // Whoever is killed with nothing left to read seems to end in order. So does, without a word, who is asked to cancel something.
            (up, Poll::Ready(Ok(()))) => {
                if !ended && self.arrived.is_none() && self.asks() {
                    self.unanswered();
                }
                up.map(|()| End::Complete)
            }
            (_, Poll::Pending) => Poll::Pending,
        }
    }
}

/// Whose turn it is to speak: from bytes of the client to bytes of the active, a request is under way.
struct Turn {
    target: Rc<Target>,
    caller: Option<Arc<Area>>,
    waits: bool,
}

impl Turn {
    fn asked(&mut self) {
        if !std::mem::replace(&mut self.waits, true) {
            let now = Instant::now();
            for area in self.areas() {
                area.enter(now);
            }
        }
    }

    fn answered(&mut self) {
        if std::mem::replace(&mut self.waits, false) {
            let now = Instant::now();
            for area in self.areas() {
                area.leave(now);
            }
        }
    }

    fn areas(&self) -> impl Iterator<Item = &Area> {
        std::iter::once(self.target.area()).chain(self.caller.as_deref())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.answered();
    }
}

enum End {
    Complete,
    Broken,
    Cut,
}

/// Why a direction ended early.
enum Failed {
    /// The source was reset.
    Read(io::Error),
    /// The destination takes nothing more.
    Write,
}

/// One direction.
#[derive(Default)]
struct Half {
    /// Read and not yet written; empty as long as the other side keeps up.
    pending: Vec<u8>,
    written: usize,
    state: State,
    /// The other direction is done: closing both says the end better than passing it on.
    is_last: bool,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Copying,
    /// The source is done; what is pending and then the end have to be passed on.
    Ending,
    Done,
}

impl Half {
    /// Moves bytes until one side is not ready; `Ready` when the source is done and its end is passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
        scratch: &mut [u8],
        mut on_read: impl FnMut(u64),
    ) -> Poll<Result<(), Failed>> {
        loop {
            while self.written < self.pending.len() {
                let rest = &self.pending[self.written..];
                let n = ready!(Pin::new(&mut *to).poll_write(cx, rest)).map_err(|_| Failed::Write)?;
                self.written += n;
            }
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::Ending => {
                    if !self.is_last {
                        // Not connected any more: the other side is gone, and so is who would read it.
                        let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    }
                    self.pending = Vec::new();
                    self.state = State::Done;
                    return Poll::Ready(Ok(()));
                }
                State::Copying => {}
            }
            if !self.pending.is_empty() {
                self.pending = Vec::new();
                self.written = 0;
            }
            let mut into = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut into)).map_err(Failed::Read)?;
            let read = into.filled();
            if read.is_empty() {
                self.state = State::Ending;
                continue;
            }
            on_read(read.len() as u64);
            let mut sent = 0;
            while sent < read.len() {
                match Pin::new(&mut *to).poll_write(cx, &read[sent..]) {
                    Poll::Ready(Ok(n)) => sent += n,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Failed::Write)),
                    Poll::Pending => {
                        self.pending.extend_from_slice(&read[sent..]);
                        self.written = 0;
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}
