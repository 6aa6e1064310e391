//! Sockets that MTAs connect to.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::connection::{Connection, Stream};
use crate::config::{Listen, MilterAddress};
use crate::processor::Processor;

/// After an error of `accept` that concerns the whole process, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long messages that are under way may take once we are asked to stop: the most that Postfix waits for
/// content.
const DRAIN: Duration = Duration::from_secs(300);

/// Bound sockets. A unix socket's file goes with them.
#[derive(Debug)]
pub struct Listeners(Vec<(Arc<str>, Listener)>);

#[derive(Debug)]
enum Listener {
    Inet(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listeners {
    /// Binds all of them. A unix socket that nobody listens on any more is replaced; all users may connect to
    /// it who get into its folder.
    ///
    /// # Errors
    /// The address that can't be bound, and why.
    pub async fn bind(listen: &[Listen]) -> io::Result<Self> {
        let mut listeners = Vec::new();
        for Listen { name, milter } in listen {
            let bound = match milter {
                MilterAddress::Inet(address) => {
                    TcpListener::bind(address).await.map(Listener::Inet)
                }
                MilterAddress::Unix(path) => bind_unix(path.clone()).await,
            };
            let bound = bound.map_err(|error| {
                io::Error::new(error.kind(), format!("{milter} can't be listened on: {error}"))
            })?;
            listeners.push((Arc::from(name.as_str()), bound));
        }
        Ok(Self(listeners))
    }

    /// Where they listen, with the ports that the system chose.
    pub fn addresses(&self) -> Vec<MilterAddress> {
        let address = |listener: &Listener| match listener {
            Listener::Inet(listener) => MilterAddress::Inet(
                listener.local_addr().map(|address| address.to_string()).unwrap_or_default(),
            ),
            Listener::Unix(_, path) => MilterAddress::Unix(path.clone()),
        };
        self.0.iter().map(|(_, listener)| address(listener)).collect()
    }

    /// Serves MTAs until `stop` is cancelled, then lets messages that are under way end.
    pub async fn serve(self, processor: Arc<Processor>, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(processor.config().limits.connections as usize));
        let accepting = self.0.into_iter().map(|(name, listener)| {
            let acceptor = Acceptor {
                processor: Arc::clone(&processor),
                name,
                stop: stop.clone(),
                connections: connections.clone(),
                places: Arc::clone(&places),
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
struct Acceptor {
    processor: Arc<Processor>,
    name: Arc<str>,
    stop: CancellationToken,
    connections: TaskTracker,
    places: Arc<Semaphore>,
}

impl Acceptor {
    async fn accept(self, listener: Listener) {
        loop {
            let accepted = tokio::select! {
                served = self.serve_next(&listener) => served,
                () = self.stop.cancelled() => break,
            };
            if let Err(error) = accepted {
                warn!(%error, "no connection could be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        if let Listener::Unix(_, path) = listener {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }

    async fn serve_next(&self, listener: &Listener) -> io::Result<()> {
        match listener {
            Listener::Inet(listener) => {
                let (stream, peer) = listener.accept().await?;
                // An answer is one write, and the MTA waits for it.
                stream.set_nodelay(true)?;
                self.serve(stream, peer.to_string());
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                self.serve(stream, "unix".to_owned());
            }
        }
        Ok(())
    }

    fn serve(&self, stream: impl Stream, peer: String) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            // The MTA does what it is configured to do without us.
            warn!(listen = &*self.name, peer, "too many connections of mail servers");
            return;
        };
        let connection =
            Connection::new(stream, Arc::clone(&self.processor), Arc::clone(&self.name));
        let (stop, name) = (self.stop.clone(), Arc::clone(&self.name));
        self.connections.spawn(async move {
            if let Err(cause) = connection.serve(stop).await {
                info!(listen = &*name, peer, %cause, "the mail server's connection broke");
            }
            drop(place);
        });
    }
}
