//! The only place where a socket meets a [`Connection`].

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, BytesMut};
use ocp_proto::{Connection, Event, OcpResult, Output, Role};
use opes_mta::telemetry;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::{JoinError, yield_now};
use tokio::time::{sleep_until, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::io::{poll_read_buf, poll_write_buf};
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug, error, warn};

use crate::access::{Access, Peer};
use crate::generation::Generation;
use crate::metrics::Metrics;
use crate::server::{ConnectionId, Server};
use crate::session::{BodyRoom, Completed, Session};

/// Octets that are read at a time. What waits to be decoded is at most one message's head beside it.
const READ_SIZE: usize = 64 * 1024;

/// Octets that are read behind those of a body that were read straight to where they belong: a head,
/// and then mostly more of the body.
const READ_BEHIND_BODY: usize = 4 * 1024;

/// How long a peer may take for our last octets, and then to close its side.
const LINGER: Duration = Duration::from_secs(2);

/// The runtime's clock: the system's, or the one that a test drives.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What a connection shares with others.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) server: Arc<Server>,
    /// With those that were accepted under the same configuration.
    pub(crate) generation: Arc<Generation>,
    /// Asks to take no new dialogs, and to end.
    pub(crate) stop: CancellationToken,
}

/// Serves one connection until it is over; without `access` TLS has to come first.
pub(crate) async fn drive<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    peer: Peer,
    access: Option<Access>,
    id: ConnectionId,
    shared: Shared,
) {
    let access = access.inspect(Access::record);
    let mut connection =
        Connection::new(Role::Server, shared.generation.config.connection(), now());
    let mut session = Session::new(id, &shared, peer, access);
    match exchange(&mut stream, &mut connection, &mut session, &shared).await {
        Exchanged::Everything => close(&mut stream, &mut connection).await,
        // Boxed: most connections have no need of that much room.
        Exchanged::TlsAgreed => {
            Box::pin(upgrade(stream, connection, session, shared)).await;
        }
    }
}

/// Serves one connection that begins with the TLS handshake.
pub(crate) async fn drive_tls<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    mut peer: Peer,
    id: ConnectionId,
    shared: Shared,
) {
    let Some((mut stream, names)) = handshake(stream, None, &shared).await else { return };
    peer.names = Some(names);
    let access = match shared.server.admit(&shared.generation.config, &peer) {
        Ok(access) => access.inspect(Access::record),
        Err(refusal) => return refuse(stream, &refusal.to_string()).await,
    };
    let mut connection =
        Connection::new(Role::Server, shared.generation.config.connection(), now());
    let mut session = Session::new(id, &shared, peer, access);
    exchange(&mut stream, &mut connection, &mut session, &shared).await;
    close(&mut stream, &mut connection).await;
}

/// Goes on with TLS, which was negotiated (profile section 9).
async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    mut connection: Connection,
    mut session: Session,
    shared: Shared,
) {
    let secured = handshake(stream, Some(connection.output()), &shared).await;
    let Some((mut stream, names)) = secured else { return };
    // Fails only if no handshake was asked for.
    let _ = connection.tls_started(now());
    session.identify(&mut connection, names);
    // The session agrees on TLS no second time.
    exchange(&mut stream, &mut connection, &mut session, &shared).await;
    close(&mut stream, &mut connection).await;
}

/// Writes what comes before TLS, then does the handshake, all within the configured time.
async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    before: Option<&mut Output>,
    shared: &Shared,
) -> Option<(TlsStream<S>, Vec<String>)> {
    let Some(tls) = &shared.generation.config.tls else {
        error!("there is no certificate for TLS");
        return None;
    };
    let patience = shared.generation.config.timeouts.handshake;
    let secured = async {
        if let Some(output) = before {
            poll_fn(|cx| poll_write_all(&mut stream, output, cx)).await?;
        }
        tls.accept(stream).await
    };
    tokio::select! {
        done = timeout(patience, secured) => match done {
            Ok(Ok(secured)) => {
                if let Some(name) = secured.1.first() {
                    Span::current().record("certificate", name);
                }
                debug!("TLS");
                return Some(secured);
            }
            Ok(Err(error)) => warn!(%error, "the TLS handshake failed"),
            Err(_) => warn!(seconds = patience.as_secs(), "the TLS handshake took too long"),
        },
        () = shared.stop.cancelled() => {}
    }
    None
}

/// What was exchanged.
enum Exchanged {
    /// Everything: the connection is over.
    Everything,
    /// All up to the TLS handshake.
    TlsAgreed,
}

/// Moves octets and events until the connection is over or goes on with TLS.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    connection: &mut Connection,
    session: &mut Session,
    shared: &Shared,
) -> Exchanged {
    let Shared { server, generation, stop } = shared;
    let unsent = generation.config.limits.unsent_octets;
    let drain = generation.config.timeouts.drain;
    let mut drained_by: Option<Instant> = None;
    let mut stopped = pin!(stop.cancelled());
    let mut superseded = pin!(generation.superseded.cancelled());
    let mut timer = pin!(sleep_until(now().into()));
    // Octets that were read since others had their turn.
    let mut unyielded = 0;
    // Whether the last ones were those of a body.
    let mut was_body = false;
    loop {
        // Events that are not asked for leave the input where it is: that is back-pressure on a
        // peer that does not read, or that is faster than our disk.
        while (connection.is_over()
            || connection.output().remaining() < unsent && !session.is_behind())
            && let Some(event) = connection.poll_event()
        {
            if event == Event::StartTls {
                return Exchanged::TlsAgreed;
            }
            session.handle(connection, event);
        }
        if connection.is_closed() {
            return Exchanged::Everything;
        }
        session.send_more(connection);
        let wake = [connection.poll_timeout(), session.poll_timeout(), drained_by];
        let wake = wake.into_iter().flatten().min().unwrap_or_else(|| now() + LINGER).into();
        // Deadlines mostly move away: the timer is set when it rings, or for a nearer one.
        if timer.is_elapsed() || wake < timer.deadline() {
            timer.as_mut().reset(wake);
        }
        let mut target = if connection.output().remaining() >= unsent || session.is_behind() {
            Target::Nowhere
        } else if let Some(room) = session.take_room(connection) {
            Target::Body(room)
        } else if was_body {
            Target::Input(READ_BEHIND_BODY)
        } else {
            Target::Input(READ_SIZE)
        };
        let happened = tokio::select! {
            moved = poll_fn(|cx| {
                poll_octets(stream, connection, &mut target, &server.metrics, cx)
            }) => Happened::Moved(moved),
            completed = session.completed() => Happened::Completed(completed),
            () = &mut timer => Happened::TimeCame,
            () = &mut stopped, if drained_by.is_none() => Happened::Stopped,
            () = &mut superseded, if !session.is_superseded() => Happened::Superseded,
        };
        let is_body = matches!(target, Target::Body(_));
        if let Target::Body(room) = target {
            session.put_back(connection, room);
        }
        match happened {
            Happened::Moved(Ok(Moved::Read(octets))) => {
                was_body = is_body;
                unyielded += octets;
                // A socket that is never empty would keep this thread for itself.
                if unyielded >= READ_SIZE {
                    unyielded = 0;
                    yield_now().await;
                }
            }
            Happened::Moved(Ok(Moved::Written)) => {}
            Happened::Moved(Ok(Moved::End)) => connection.handle_end_of_input(),
            Happened::Moved(Err(error)) => {
                debug!(%error, "socket");
                connection.handle_end_of_input();
                let lost = connection.output().remaining();
                connection.output().advance(lost);
            }
            Happened::Completed(completed) => session.handle_completed(connection, completed),
            Happened::TimeCame => {
                let now = now();
                connection.handle_timeout(now);
                session.handle_timeout(connection, now);
                if drained_by.is_some_and(|end| end <= now) {
                    connection.close(OcpResult::failure("the server is stopping"));
                }
            }
            Happened::Stopped => {
                drained_by = Some(now() + drain);
                session.drain(connection);
            }
            Happened::Superseded => session.supersede(connection),
        }
    }
}

async fn close<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, connection: &mut Connection) {
    let _ = timeout(LINGER, finish(stream, connection)).await;
}

/// Says why there is no connection (RFC 4037 section 13).
pub(crate) async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, reason: &str) {
    let config = ocp_proto::Config::default();
    let mut connection = Connection::new(Role::Server, config, now());
    connection.close(OcpResult::failure(reason));
    close(&mut stream, &mut connection).await;
}

/// What a connection waits for.
enum Happened {
    Moved(io::Result<Moved>),
    Completed(Result<Completed, JoinError>),
    TimeCame,
    Stopped,
    Superseded,
}

/// Where the next octets are read to.
enum Target {
    /// Nowhere: they stay in the socket.
    Nowhere,
    /// To what is decoded, at most so many.
    Input(usize),
    /// To where the body that they belong to is collected.
    Body(BodyRoom),
}

/// What a socket did.
enum Moved {
    Read(usize),
    Written,
    End,
}

/// Writes what there is, then reads once; ready as soon as something moved.
fn poll_octets<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    connection: &mut Connection,
    target: &mut Target,
    metrics: &Metrics,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Moved>> {
    let mut wrote = false;
    if connection.output().has_remaining() {
        // What an answer says is in the log before it is known elsewhere.
        telemetry::flush();
    }
    while connection.output().has_remaining() {
        match poll_write_buf(Pin::new(&mut *stream), cx, connection.output()) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) => {
                metrics.sent.inc_by(count as u64);
                wrote = true;
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => break,
        }
    }
    // Octets that TLS has taken and the socket has not.
    if let Poll::Ready(Err(error)) = Pin::new(&mut *stream).poll_flush(cx) {
        return Poll::Ready(Err(error));
    }
    let read = match target {
        Target::Nowhere => Poll::Pending,
        Target::Input(most) => {
            connection.input().reserve(READ_SIZE);
            poll_read_buf(Pin::new(stream), cx, &mut connection.input().limit(*most))
        }
        Target::Body(room) => poll_read_buf(Pin::new(stream), cx, &mut room.free()),
    };
    match read {
        Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Moved::End)),
        Poll::Ready(Ok(count)) => {
            metrics.received.inc_by(count as u64);
            match target {
                Target::Body(_) => connection.handle_body(count, now()),
                _ => connection.handle_input(now()),
            }
            return Poll::Ready(Ok(Moved::Read(count)));
        }
        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
        // A connection that waits holds no buffer.
        Poll::Pending if connection.input().is_empty() => *connection.input() = BytesMut::new(),
        Poll::Pending => {}
    }
    if wrote { Poll::Ready(Ok(Moved::Written)) } else { Poll::Pending }
}

fn poll_write_all<S: AsyncWrite + Unpin>(
    stream: &mut S,
    output: &mut Output,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while output.has_remaining() {
        if ready!(poll_write_buf(Pin::new(&mut *stream), cx, output))? == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
    }
    Poll::Ready(Ok(()))
}

/// Our last octets go out, and what still comes is dropped, so that our CE is not lost by a reset
///
async fn finish<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    connection: &mut Connection,
) -> io::Result<()> {
    poll_fn(|cx| poll_write_all(stream, connection.output(), cx)).await?;
    stream.shutdown().await?;
    // Not in the future: every connection would hold it all its life.
    let mut dropped = vec![0; 4096];
    while stream.read(&mut dropped).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests;
