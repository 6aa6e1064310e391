//! Sockets that mail comes to.

use std::fs::Permissions;
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::config::MilterAddress;
use crate::metrics::{FrontEnd, ListenerMetrics};

/// After an error of `accept` that concerns the whole process, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Between two lines in the log about connections that were one too many.
const QUIET: Duration = Duration::from_secs(10);

/// How long messages that are under way may take once we are asked to stop: the most that Postfix waits for
/// what a milter or the next hop makes of content.
const DRAIN: Duration = Duration::from_secs(300);

/// Bound sockets. A unix socket's file goes with them.
#[derive(Debug)]
pub(super) struct Sockets(Vec<(Arc<ListenerMetrics>, Listener)>);

#[derive(Debug)]
enum Listener {
    Inet(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// Somebody who has connected.
#[derive(Debug)]
pub(super) enum Accepted {
    Inet(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Accepted {
    /// Where it is, for the log.
    pub(super) fn peer(&self) -> String {
        match self {
            Self::Inet(_, peer) => peer.to_string(),
            Self::Unix(_) => "unix".to_owned(),
        }
    }

    /// Says this and hangs up. There is room for a line where nothing was said; nobody waits for who has gone.
    fn leave(self, said: &[u8]) {
        let _ = match self {
            Self::Inet(stream, _) => stream.into_std().and_then(|mut stream| stream.write(said)),
            Self::Unix(stream) => stream.into_std().and_then(|mut stream| stream.write(said)),
        };
    }
}

impl Sockets {
    /// Binds all of them, each with the name that it goes by. A unix socket that nobody listens on any more
    /// is replaced; all users may connect to it who get into its folder.
    ///
    /// # Errors
    /// The address that can't be bound, and why.
    pub(super) async fn bind(
        front_end: FrontEnd,
        listen: impl IntoIterator<Item = (&str, &MilterAddress)>,
    ) -> io::Result<Self> {
        let mut listeners = Vec::new();
        for (name, address) in listen {
            let bound = match address {
                MilterAddress::Inet(address) => {
                    TcpListener::bind(address).await.map(Listener::Inet)
                }
                MilterAddress::Unix(path) => bind_unix(path.clone()).await,
            };
            let bound = bound.map_err(|error| {
                io::Error::new(error.kind(), format!("{address} can't be listened on: {error}"))
            })?;
            // Those of one name count together: ports that the system chooses have one.
            let known =
                listeners.iter().find(|(known, _): &&(Arc<ListenerMetrics>, _)| known.name == name);
            let metrics = known.map(|(metrics, _)| Arc::clone(metrics));
            let new = || Arc::new(ListenerMetrics::new(name, front_end));
            listeners.push((metrics.unwrap_or_else(new), bound));
        }
        Ok(Self(listeners))
    }

    /// Where they listen, with the ports that the system chose.
    pub(super) fn addresses(&self) -> Vec<MilterAddress> {
        let address = |listener: &Listener| match listener {
            Listener::Inet(listener) => MilterAddress::Inet(
                listener.local_addr().map(|address| address.to_string()).unwrap_or_default(),
            ),
            Listener::Unix(_, path) => MilterAddress::Unix(path.clone()),
        };
        self.0.iter().map(|(_, listener)| address(listener)).collect()
    }

    /// What is counted of each of them.
    pub(super) fn metrics(&self) -> Vec<Arc<ListenerMetrics>> {
        let mut all: Vec<Arc<ListenerMetrics>> = Vec::new();
        for (metrics, _) in &self.0 {
            let is_known = all.iter().any(|known| Arc::ptr_eq(known, metrics));
            all.extend((!is_known).then(|| Arc::clone(metrics)));
        }
        all
    }

    /// Serves who connects until `stop` is cancelled, at most so many at a time, then lets messages that are
    /// under way end. `serve` gets the name of the socket, and what is counted of it; who is one too many gets this and is left.
    pub(super) async fn serve<F: Future<Output = ()> + Send + 'static>(
        self,
        most: usize,
        one_too_many: &[u8],
        stop: CancellationToken,
        serve: impl Fn(Accepted, Arc<ListenerMetrics>) -> F,
    ) {
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(most));
        let accepting = self.0.into_iter().map(|(metrics, listener)| {
            let acceptor = Acceptor {
                metrics,
                stop: stop.clone(),
                connections: connections.clone(),
                places: Arc::clone(&places),
                one_too_many,
                turned_away: TurnedAway::default(),
                serve: &serve,
            };
            acceptor.accept(listener)
        });
        futures_util::future::join_all(accepting).await;
        connections.close();
        if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
            warn!(
                connections = connections.len(),
                "mail servers were left before they had finished"
            );
        }
    }
}

async fn bind_unix(path: PathBuf) -> io::Result<Listener> {
    let listener = match UnixListener::bind(&path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            match UnixStream::connect(&path).await {
                Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(&path)?;
                    UnixListener::bind(&path)?
                }
                _ => return Err(error),
            }
        }
        bound => bound?,
    };
    // The mail server runs as another user. Who gets there is a matter of the folder.
    std::fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    Ok(Listener::Unix(listener, path))
}

/// Takes connections from one listener.
struct Acceptor<'a, S> {
    metrics: Arc<ListenerMetrics>,
    stop: CancellationToken,
    connections: TaskTracker,
    places: Arc<Semaphore>,
    one_too_many: &'a [u8],
    turned_away: TurnedAway,
    serve: &'a S,
}

impl<S, F> Acceptor<'_, S>
where
    S: Fn(Accepted, Arc<ListenerMetrics>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    async fn accept(mut self, listener: Listener) {
        loop {
            let accepted = tokio::select! {
                accepted = next(&listener) => accepted,
                () = self.stop.cancelled() => break,
            };
            match accepted {
                Ok(accepted) => self.serve(accepted),
                Err(error) => {
                    warn!(%error, "no connection could be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        if let Listener::Unix(_, path) = listener {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }

    fn serve(&mut self, accepted: Accepted) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.metrics.turned_away();
            let peer = accepted.peer();
            if let Some(refused) = self.turned_away.count(Instant::now()) {
                warn!(listen = self.metrics.name, peer, refused, "too many connections");
            }
            // A mail server does what it is configured to do without us.
            return accepted.leave(self.one_too_many);
        };
        let open = self.metrics.connected();
        let serving = (self.serve)(accepted, Arc::clone(&self.metrics));
        self.connections.spawn(async move {
            serving.await;
            drop((open, place));
        });
    }
}

/// Connections that were one too many, of which the log says so much that it does not grow with them.
#[derive(Debug, Default)]
struct TurnedAway {
    told: Option<Instant>,
    /// Since then.
    count: u64,
}

impl TurnedAway {
    /// One more: how many there were since the last line, if it is time for one.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.told.is_some_and(|told| now.duration_since(told) < QUIET) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

async fn next(listener: &Listener) -> io::Result<Accepted> {
    Ok(match listener {
        Listener::Inet(listener) => {
            let (stream, peer) = listener.accept().await?;
            // An answer is one write, and the peer waits for it.
            stream.set_nodelay(true)?;
            Accepted::Inet(stream, peer)
        }
        Listener::Unix(listener, _) => Accepted::Unix(listener.accept().await?.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_has_a_line_now_and_then() {
        let mut turned_away = TurnedAway::default();
        let begin = Instant::now();
        let told = |seconds| begin + Duration::from_secs(seconds);
        let lines = [0, 1, 9, 10, 11, 35].map(|seconds| turned_away.count(told(seconds)));
        assert_eq!(lines, [Some(1), None, None, Some(3), None, Some(2)]);
    }
}
