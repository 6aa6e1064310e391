//! Octets between a connection and its transport.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use ocp_proto::smtp::Reply;
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use super::error::Cause;
use super::transport::Transport;
use crate::input::make_room;
use crate::smtp::reply::{InvalidReply, MAXIMUM_REPLY, ReplyDecoder};

/// Octets that are read ahead, at most: more than a whole reply, so that there is always one to take, or
/// an error, before nothing more is read.
const INPUT: usize = MAXIMUM_REPLY + 2 * READ;

/// Octets that are read at a time.
const READ: usize = 4 * 1024;

/// Octets that wait to be sent, before who has more of them has to wait. Worst case a connection: twice
/// that many, or the commands that [`super::deliver`] has under way.
pub(super) const OUTPUT: usize = 64 * 1024;

/// A transport and the octets that wait on both sides of it.
pub(super) struct Wire {
    stream: Transport,
    input: BytesMut,
    output: BytesMut,
    is_flushed: bool,
    decoder: ReplyDecoder,
    /// The peer takes no more. What it said last may still be there to read.
    write_error: Option<io::Error>,
}

impl Wire {
    pub(super) fn new(stream: Transport) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            is_flushed: true,
            decoder: ReplyDecoder::new(),
            write_error: None,
        }
    }

    /// What is to be sent next goes here.
    pub(super) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Whether more may be put into the output.
    pub(super) fn has_room(&self) -> bool {
        self.output.len() < OUTPUT
    }

    /// Whether octets have come that nobody took, by now. What waits to be sent goes on waiting: more may follow it.
    pub(super) fn has_input(&mut self) -> bool {
        // What the peer has done otherwise shows at the next use.
        let _ = poll_fn(|cx| self.poll_read(cx)).now_or_never();
        !self.input.is_empty()
    }

    /// A reply that has come, if it is whole.
    pub(super) fn decode(&mut self) -> Result<Option<Reply>, InvalidReply> {
        self.decoder.decode(&mut self.input)
    }

    /// The next reply; what waits to be sent is sent meanwhile. May be dropped and called again.
    pub(super) async fn reply(&mut self) -> Result<Reply, Cause> {
        loop {
            if let Some(reply) = self.decode()? {
                return Ok(reply);
            }
            self.exchange().await?;
        }
    }

    /// Moves octets in the directions that can go on. May be dropped and called again.
    pub(super) async fn exchange(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_exchange(cx)).await
    }

    /// The transport alone. What waits on it is lost.
    pub(super) fn into_stream(self) -> Transport {
        self.stream
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let has_written = self.poll_write(cx);
        match self.poll_read(cx) {
            Poll::Pending if has_written => Poll::Ready(Ok(())),
            read => read,
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.input.len() >= INPUT {
            return Poll::Pending;
        }
        make_room(&mut self.input, READ);
        match poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input) {
            Poll::Ready(Ok(0)) => {
                let error = self.write_error.take();
                Poll::Ready(Err(error.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())))
            }
            read => read.map_ok(drop),
        }
    }

    /// Whether anything was written.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> bool {
        let mut has_written = false;
        let mut stream = Pin::new(&mut self.stream);
        while self.write_error.is_none() && !self.output.is_empty() {
            match stream.as_mut().poll_write(cx, &self.output) {
                Poll::Ready(Ok(0)) => self.write_error = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    self.output.advance(count);
                    (self.is_flushed, has_written) = (false, true);
                }
                Poll::Ready(Err(error)) => self.write_error = Some(error),
                Poll::Pending => return has_written,
            }
        }
        if self.write_error.is_none() && !self.is_flushed {
            match stream.poll_flush(cx) {
                Poll::Ready(Ok(())) => self.is_flushed = true,
                Poll::Ready(Err(error)) => self.write_error = Some(error),
                Poll::Pending => {}
            }
        }
        has_written
    }
}
