//! The only place where a socket meets a [`Connection`].

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use ocp_proto::{Connection, OcpResult, Role};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::yield_now;
use tokio::time::{sleep_until, timeout};
use tokio_util::io::{poll_read_buf, poll_write_buf};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::server::{ConnectionId, Server};
use crate::session::Session;

/// Octets that are read at a time. What waits to be decoded is at most one message's head beside it.
const READ_SIZE: usize = 64 * 1024;

/// How long a peer may take for our last octets, and then to close its side.
const LINGER: Duration = Duration::from_secs(2);

/// The runtime's clock: the system's, or the one that a test drives.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Serves one connection until it is over. `stop` asks to take no new dialogs.
pub(crate) async fn drive<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    id: ConnectionId,
    server: Arc<Server>,
    stop: CancellationToken,
) {
    let unsent = server.config.limits.unsent_octets;
    let drain = server.config.timeouts.drain;
    let mut connection = Connection::new(Role::Server, server.config.connection(), now());
    let mut session = Session::new(id, server);
    let mut drained_by: Option<Instant> = None;
    let mut stopped = pin!(stop.cancelled());
    let mut timer = pin!(sleep_until(now().into()));
    // Octets that were read since others had their turn.
    let mut unyielded = 0;
    loop {
        // Events that are not asked for leave the input where it is: that is back-pressure on a
        // peer that does not read.
        while (connection.is_over() || connection.output().remaining() < unsent)
            && let Some(event) = connection.poll_event()
        {
            session.handle(&mut connection, event);
        }
        if connection.is_closed() {
            break;
        }
        session.send_more(&mut connection);
        let wake = [connection.poll_timeout(), session.poll_timeout(), drained_by];
        let wake = wake.into_iter().flatten().min().unwrap_or_else(|| now() + LINGER).into();
        // Deadlines mostly move away: the timer is set when it rings, or for a nearer one.
        if timer.is_elapsed() || wake < timer.deadline() {
            timer.as_mut().reset(wake);
        }
        let reads = connection.output().remaining() < unsent;
        tokio::select! {
            moved = poll_fn(|cx| poll_octets(&mut stream, &mut connection, reads, cx)) => {
                match moved {
                    Ok(Moved::Read(octets)) => {
                        unyielded += octets;
                        // A socket that is never empty would keep this thread for itself.
                        if unyielded >= READ_SIZE {
                            unyielded = 0;
                            yield_now().await;
                        }
                    }
                    Ok(Moved::Written) => {}
                    Ok(Moved::End) => connection.handle_end_of_input(),
                    Err(error) => {
                        debug!(%error, "socket");
                        connection.handle_end_of_input();
                        let lost = connection.output().remaining();
                        connection.output().advance(lost);
                    }
                }
            }
            completed = session.completed() => {
                session.handle_completed(&mut connection, completed);
            }
            () = &mut timer => {
                let now = now();
                connection.handle_timeout(now);
                session.handle_timeout(&mut connection, now);
                if drained_by.is_some_and(|end| end <= now) {
                    connection.close(OcpResult::failure("the server is stopping"));
                }
            }
            () = &mut stopped, if drained_by.is_none() => {
                drained_by = Some(now() + drain);
                session.drain(&mut connection);
            }
        }
    }
    let _ = timeout(LINGER, finish(&mut stream, &mut connection)).await;
}

/// Says that there is no room for another connection (RFC 4037 section 13).
pub(crate) async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, reason: &str) {
    let config = ocp_proto::Config::default();
    let mut connection = Connection::new(Role::Server, config, now());
    connection.close(OcpResult::failure(reason));
    let _ = timeout(LINGER, finish(&mut stream, &mut connection)).await;
}

/// What a socket did.
enum Moved {
    Read(usize),
    Written,
    End,
}

/// Writes what there is, then reads once if `reads`; ready as soon as something moved.
fn poll_octets<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    connection: &mut Connection,
    reads: bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Moved>> {
    let mut wrote = false;
    while connection.output().has_remaining() {
        match poll_write_buf(Pin::new(&mut *stream), cx, connection.output()) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(_)) => wrote = true,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => break,
        }
    }
    if reads {
        connection.input().reserve(READ_SIZE);
        match poll_read_buf(Pin::new(stream), cx, connection.input()) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Moved::End)),
            Poll::Ready(Ok(count)) => {
                connection.handle_input(now());
                return Poll::Ready(Ok(Moved::Read(count)));
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            // A connection that waits holds no buffer.
            Poll::Pending if connection.input().is_empty() => {
                *connection.input() = BytesMut::new();
            }
            Poll::Pending => {}
        }
    }
    if wrote { Poll::Ready(Ok(Moved::Written)) } else { Poll::Pending }
}

/// Our last octets go out, and what still comes is dropped, so that our CE is not lost by a reset
///
async fn finish<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    connection: &mut Connection,
) -> io::Result<()> {
    poll_fn(|cx| {
        while connection.output().has_remaining() {
            if ready!(poll_write_buf(Pin::new(&mut *stream), cx, connection.output()))? == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero)));
            }
        }
        Poll::Ready(Ok(()))
    })
    .await?;
    stream.shutdown().await?;
    // Not in the future: every connection would hold it all its life.
    let mut dropped = vec![0; 4096];
    while stream.read(&mut dropped).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests;
