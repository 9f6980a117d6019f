//! What a client sent and is not yet used.

use super::HEAD_BYTES_MAX;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

/// Room for requests at first.
const REQUEST_BYTES: usize = 2 * 1024;

/// A buffer that grew past this for one request is not kept for the next.
const REQUEST_BYTES_KEPT: usize = 16 * 1024;

/// What was read from a client and not yet used.
#[derive(Default)]
pub(super) struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(super) fn take(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.buffer.len() > REQUEST_BYTES_KEPT {
                self.buffer = Vec::new();
            }
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.end - self.start < HEAD_BYTES_MAX
    }

    pub(super) fn into_rest(mut self) -> Vec<u8> {
        self.buffer.truncate(self.end);
        self.buffer.drain(..self.start);
        self.buffer
    }

    /// Reads what there is.
    pub(super) fn poll_fill(&mut self, client: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
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
