//! Connections that hyper serves: all that is not a plain GET over HTTP/1.1.

use super::forward::{Client, forward};
use super::{HEAD_BYTES_MAX, HEAD_TIMEOUT, PARTING_IDLE};
use crate::front::{Front, Open};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// HTTP/2 clients that are silent are asked after this whether they are still there.
const PING_EVERY: Duration = Duration::from_secs(30);

/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;

const WINDOW_BYTES: u32 = 1 << 20;

/// Serves a connection of which `read` was read already.
pub(super) async fn serve(front: Rc<Front>, stream: TcpStream, read: Vec<u8>, peer: SocketAddr, open: Open) {
    let is_http2 = read.starts_with(b"PRI * HTTP/2.0");
    let reset = Arc::new(AtomicBool::new(false));
    let io = TokioIo::new(ClientIo {
        stream,
        read,
        taken: 0,
        reset: Arc::clone(&reset),
    });
    let client = Rc::new(Client {
        front: Rc::clone(&front),
        peer: peer.ip().to_canonical().to_string(),
        reset: Arc::clone(&reset),
        open,
    });
    let service = service_fn(move |request| {
        let client = Rc::clone(&client);
        async move { Ok::<_, std::convert::Infallible>(forward(&client, request).await) }
    });
    let mut closing = front.watch_closing();
    let mut parting = front.watch_parting();
    let mut parted = pin!(async {
        parting.raised().await;
        // HTTP/2 has a word for it that breaks off nothing; before, who is idle may have a request on the way.
        if !is_http2 {
            tokio::time::sleep(PARTING_IDLE).await;
        }
    });
    let mut cut = front.watch_cut();
    // Both kinds of connection have the same verbs, but no trait for them.
    macro_rules! run {
        ($connection:expr) => {{
            let mut connection = pin!($connection);
            let mut is_closing = false;
            loop {
                tokio::select! {
                    // What is wrong with a client's connection is the client's to know.
                    _ = connection.as_mut() => return,
                    () = closing.raised(), if !is_closing => {
                        is_closing = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    () = parted.as_mut(), if !is_closing => {
                        is_closing = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    () = cut.raised() => return reset.store(true, Relaxed),
                }
            }
        }};
    }
    if is_http2 {
        run!(
            http2::Builder::new(LocalExecutor)
                .timer(TokioTimer::new())
                .auto_date_header(false)
                .max_concurrent_streams(STREAMS_MAX)
                .max_header_list_size(HEAD_BYTES_MAX as u32)
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                .keep_alive_interval(PING_EVERY)
                .serve_connection(io, service)
        );
    } else {
        run!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .auto_date_header(false)
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(io, service)
                .with_upgrades()
        );
    }
}

/// Runs hyper's tasks on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// A client's connection, with what was read of it put back, and a close that can be a reset.
struct ClientIo {
    stream: TcpStream,
    read: Vec<u8>,
    taken: usize,
    reset: Arc<AtomicBool>,
}

impl Drop for ClientIo {
    fn drop(&mut self) {
        if self.reset.load(Relaxed) {
            crate::tcp::reset(&self.stream);
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = &self.read[self.taken..];
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, into);
        }
        let step = left.len().min(into.remaining());
        into.put_slice(&left[..step]);
        self.taken += step;
        if self.taken == self.read.len() {
            self.read = Vec::new();
            self.taken = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reset.load(Relaxed) {
            // A regular end here would make a broken answer look whole.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
