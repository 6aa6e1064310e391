//! Sockets that connections come from.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info, info_span, warn};

use crate::driver;
use crate::server::Server;

/// Where to listen: `HOST:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP port. A name is looked up when the server starts.
    Tcp(String),
    /// A unix socket.
    Unix(PathBuf),
}

impl Default for Address {
    /// OCP has no registered port; 4037 is the number of its RFC.
    fn default() -> Self {
        Self::Tcp("127.0.0.1:4037".to_owned())
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let named = !path.is_empty();
            return named.then(|| Self::Unix(path.into())).ok_or("unix: without a path".to_owned());
        }
        let port = text
            .rsplit_once(':')
            .and_then(|(host, port)| (!host.is_empty()).then_some(port)?.parse::<u16>().ok());
        match port {
            Some(_) => Ok(Self::Tcp(text.to_owned())),
            None => Err(format!("{text} is no address: write HOST:PORT or unix:PATH")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Bound sockets. A unix socket's file goes with them.
#[derive(Debug)]
pub struct Listeners(Vec<Listener>);

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// Connections beyond the limit that are told so at a time. Worst case: as many open sockets more.
const REFUSALS: usize = 64;

/// After an error of `accept` that concerns the whole process, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Listeners {
    /// Binds all addresses. A unix socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// The address that can't be bound, and why.
    pub async fn bind(addresses: &[Address]) -> io::Result<Self> {
        let mut listeners = Vec::new();
        for address in addresses {
            let listener = match address {
                Address::Tcp(address) => TcpListener::bind(address).await.map(Listener::Tcp),
                Address::Unix(path) => bind_unix(path.clone()).await,
            };
            listeners.push(listener.map_err(|error| {
                io::Error::new(error.kind(), format!("{address} can't be listened on: {error}"))
            })?);
        }
        Ok(Self(listeners))
    }

    /// Where they listen, with the ports that the system chose.
    pub fn addresses(&self) -> Vec<Address> {
        let address = |listener: &Listener| match listener {
            Listener::Tcp(listener) => {
                Address::Tcp(listener.local_addr().map(|a| a.to_string()).unwrap_or_default())
            }
            Listener::Unix(_, path) => Address::Unix(path.clone()),
        };
        self.0.iter().map(address).collect()
    }

    /// Serves connections until `stop` is cancelled, then lets the open ones end within the
    /// configured time.
    pub async fn serve(self, server: Arc<Server>, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(server.config.limits.connections));
        let refusals = Arc::new(Semaphore::new(REFUSALS));
        let accepting = self.0.into_iter().map(|listener| {
            let acceptor = Acceptor {
                server: server.clone(),
                stop: stop.clone(),
                connections: connections.clone(),
                places: places.clone(),
                refusals: refusals.clone(),
            };
            acceptor.accept(listener)
        });
        futures_util::future::join_all(accepting).await;
        connections.close();
        connections.wait().await;
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
    Ok(Listener::Unix(listener, path))
}

/// Takes connections from one listener.
struct Acceptor {
    server: Arc<Server>,
    stop: CancellationToken,
    connections: TaskTracker,
    places: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Acceptor {
    async fn accept(self, listener: Listener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => self.serve(stream, peer),
                Err(error) => {
                    warn!(%error, "no connection could be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        if let Listener::Unix(_, path) = &listener {
            let _ = std::fs::remove_file(path);
        }
    }

    fn serve(&self, stream: Stream, peer: String) {
        let id = self.server.next_connection();
        let span = info_span!("connection", connection = id.number(), peer);
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let limit = self.server.config.limits.connections;
            span.in_scope(|| warn!(limit, "too many connections: refused"));
            // Beyond those that hear why, connections are just closed.
            let Ok(refusal) = self.refusals.clone().try_acquire_owned() else { return };
            let refused = async move {
                let reason = "too many connections";
                match stream {
                    Stream::Tcp(stream) => driver::refuse(stream, reason).await,
                    Stream::Unix(stream) => driver::refuse(stream, reason).await,
                }
                drop(refusal);
            };
            self.connections.spawn(refused);
            return;
        };
        let (server, stop) = (self.server.clone(), self.stop.clone());
        let served = async move {
            info!("connected");
            match stream {
                Stream::Tcp(stream) => driver::drive(stream, id, server, stop).await,
                Stream::Unix(stream) => driver::drive(stream, id, server, stop).await,
            }
            info!("disconnected");
            drop(place);
        };
        self.connections.spawn(served.instrument(span));
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<(Stream, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Answers are written whole; waiting for more would only delay them.
                stream.set_nodelay(true)?;
                Ok((Stream::Tcp(stream), peer.to_string()))
            }
            Self::Unix(listener, path) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), format!("unix:{}", path.display())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_ports_and_paths() {
        assert_eq!("[::1]:25".parse(), Ok(Address::Tcp("[::1]:25".to_owned())));
        assert_eq!("unix:/run/x".parse(), Ok(Address::Unix("/run/x".into())));
        for wrong in ["", "127.0.0.1", "unix:", ":25", "host:99999", "host:"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
