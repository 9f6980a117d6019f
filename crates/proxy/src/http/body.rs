//! Bodies on their way through.

use super::backend::Channel;
use super::{HEAD_TIMEOUT, REPEATABLE_BYTES_MAX};
use crate::counters::{Counters, Stay};
use crate::flag::Watch;
use crate::target::InFlight;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body, either way.
pub(crate) enum Body {
    /// One that is all there, and can be sent again.
    Whole(Whole),
    /// From a client, sent as it comes.
    Upload(Upload),
    /// From an active, passed on as it comes.
    Download(Box<Download>),
}

/// A body that was read to its end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Whole {
    bytes: Option<Bytes>,
    trailers: Option<Box<HeaderMap>>,
}

impl Whole {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self {
            bytes: Some(bytes).filter(|bytes| !bytes.is_empty()),
            trailers: None,
        }
    }

    /// Its bytes, without trailers.
    pub(super) fn length(&self) -> u64 {
        self.bytes.as_ref().map_or(0, Bytes::len) as u64
    }
}

/// A body that is sent as it comes, after what was read of it already.
pub(crate) struct Upload {
    pub(super) first: VecDeque<Bytes>,
    pub(super) rest: Incoming,
    /// Set when the client broke it off: no fault of the active's.
    pub(super) broke: Rc<Cell<bool>>,
    pub(super) counters: Arc<Counters>,
}

/// What became of reading a body.
pub(super) enum Read {
    Whole(Whole),
    /// There is more than is kept.
    More(VecDeque<Bytes>, Incoming),
    Failed(BoxError),
}

/// Reads a body from a client as far as it is kept.
pub(super) async fn read_upload(body: Incoming) -> Read {
    match tokio::time::timeout(HEAD_TIMEOUT, read(body)).await {
        Ok(read) => read,
        Err(_) => Read::Failed("the body did not come in time".into()),
    }
}

/// Reads a body as far as it is kept.
pub(super) async fn read(mut body: Incoming) -> Read {
    let mut chunks = VecDeque::new();
    let mut length = 0;
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return Read::Failed(error.into()),
        };
        match frame.into_data() {
            Ok(data) => {
                length += data.len();
                chunks.push_back(data);
                if length > REPEATABLE_BYTES_MAX {
                    return Read::More(chunks, body);
                }
            }
            Err(frame) => trailers = frame.into_trailers().ok().map(Box::new),
        }
    }
    let bytes = match chunks.len() {
        0 => None,
        1 => chunks.pop_front(),
        _ => {
            let mut all = BytesMut::with_capacity(length);
            for chunk in chunks {
                all.extend_from_slice(&chunk);
            }
            Some(all.freeze())
        }
    };
    Read::Whole(Whole {
        bytes: bytes.filter(|bytes| !bytes.is_empty()),
        trailers,
    })
}

/// An answer on its way; gives the connection back at its end.
pub(crate) struct Download {
    pub(super) incoming: Incoming,
    pub(super) in_flight: Option<InFlight>,
    pub(super) channel: Option<Channel>,
    /// Counts the request as under way.
    pub(super) stay: Option<Stay>,
    pub(super) counters: Arc<Counters>,
    /// The end of the whole service.
    pub(super) closed: Watch,
    /// Raised when the answer breaks off, so that the client's connection is reset.
    pub(super) reset: Arc<AtomicBool>,
}

impl Download {
    fn finish(&mut self) {
        self.stay = None;
        if let (Some(in_flight), Some(channel)) = (self.in_flight.take(), self.channel.take()) {
            channel.give_back(&in_flight.target);
        }
    }

    fn break_off(&mut self) {
        self.reset.store(true, Relaxed);
        self.channel = None;
        self.in_flight = None;
        self.stay = None;
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if self.incoming.is_end_stream() {
            self.finish();
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Whole(whole) => Poll::Ready(match whole.bytes.take() {
                Some(bytes) => Some(Ok(Frame::data(bytes))),
                None => whole.trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))),
            }),
            Self::Upload(upload) => match upload.first.pop_front() {
                Some(bytes) => {
                    upload.counters.bytes_in.add(bytes.len() as u64);
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                }
                None => {
                    let frame = ready!(Pin::new(&mut upload.rest).poll_frame(cx));
                    match &frame {
                        Some(Ok(frame)) => {
                            let bytes = frame.data_ref().map_or(0, Bytes::len);
                            upload.counters.bytes_in.add(bytes as u64);
                        }
                        Some(Err(_)) => upload.broke.set(true),
                        None => {}
                    }
                    Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
                }
            },
            Self::Download(download) => {
                let is_cut = match &mut download.in_flight {
                    Some(in_flight) => in_flight.poll_cut(cx).is_ready(),
                    None => false,
                };
                if is_cut || download.closed.poll(cx).is_ready() {
                    download.break_off();
                    return Poll::Ready(Some(Err("the active was replaced within its answer".into())));
                }
                let frame = ready!(Pin::new(&mut download.incoming).poll_frame(cx));
                match &frame {
                    None => download.finish(),
                    // Trailers come last, and nobody asks again.
                    Some(Ok(frame)) if frame.is_trailers() => download.finish(),
                    Some(Ok(frame)) => {
                        let bytes = frame.data_ref().map_or(0, Bytes::len);
                        download.counters.bytes_out.add(bytes as u64);
                    }
                    Some(Err(error)) => {
                        if let Some(in_flight) = &download.in_flight {
                            in_flight
                                .target
                                .suspect(&format_args!("died within an answer: {error}"));
                        }
                        download.break_off();
                    }
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.bytes.is_none() && whole.trailers.is_none(),
            Self::Upload(upload) => upload.first.is_empty() && upload.rest.is_end_stream(),
            Self::Download(download) => download.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => SizeHint::with_exact(whole.bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Upload(upload) => {
                let before: u64 = upload.first.iter().map(|bytes| bytes.len() as u64).sum();
                let mut hint = upload.rest.size_hint();
                if let Some(upper) = hint.upper() {
                    hint.set_upper(upper + before);
                }
                hint.set_lower(hint.lower() + before);
                hint
            }
            Self::Download(download) => download.incoming.size_hint(),
        }
    }
}
