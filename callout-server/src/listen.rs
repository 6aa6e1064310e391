//! Sockets that connections come from.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, field, info, info_span, warn};

use crate::access::{Origin, Peer};
use crate::driver::{self, Shared};
use crate::server::Server;
use crate::unix::{UnixSocket, Users};

/// Where to listen: `HOST:PORT`, `tls:HOST:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP port. A name is looked up when the server starts.
    Tcp(String),
    /// A TCP port on which TLS comes first, without negotiation.
    Tls(String),
    /// A unix socket.
    Unix(PathBuf),
}

impl Address {
    /// An address that needs no certificate.
    ///
    /// # Errors
    /// If it is none, or needs one.
    pub fn without_tls(text: &str) -> Result<Self, String> {
        match text.parse()? {
            Self::Tls(_) => Err(format!("{text} needs a certificate: [tls] in the configuration")),
            address => Ok(address),
        }
    }

    /// An address for those who operate the server: `HOST:PORT` alone.
    ///
    /// # Errors
    /// If it is none, or of another kind.
    pub(crate) fn of_admin(text: &str) -> Result<String, String> {
        match text.parse() {
            Ok(Self::Tcp(address)) => Ok(address),
            _ => Err(format!("{text} is no address of the admin listener: write HOST:PORT")),
        }
    }
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
        let (address, tls) = match text.strip_prefix("tls:") {
            Some(address) => (address, true),
            None => (text, false),
        };
        let port = address
            .rsplit_once(':')
            .and_then(|(host, port)| (!host.is_empty()).then_some(port)?.parse::<u16>().ok());
        match port {
            Some(_) if tls => Ok(Self::Tls(address.to_owned())),
            Some(_) => Ok(Self::Tcp(address.to_owned())),
            None => {
                Err(format!("{text} is no address: write HOST:PORT, tls:HOST:PORT or unix:PATH"))
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Tls(address) => write!(f, "tls:{address}"),
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
    Tls(TcpListener),
    Unix(UnixSocket),
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
                Address::Tls(address) => TcpListener::bind(address).await.map(Listener::Tls),
                Address::Unix(path) => {
                    UnixSocket::bind(path.clone(), Users::OfUmask).await.map(Listener::Unix)
                }
            };
            listeners.push(listener.map_err(|error| {
                io::Error::new(error.kind(), format!("{address} can't be listened on: {error}"))
            })?);
        }
        Ok(Self(listeners))
    }

    /// Where they listen, with the ports that the system chose.
    pub fn addresses(&self) -> Vec<Address> {
        let port = |listener: &TcpListener| {
            listener.local_addr().map(|address| address.to_string()).unwrap_or_default()
        };
        let address = |listener: &Listener| match listener {
            Listener::Tcp(listener) => Address::Tcp(port(listener)),
            Listener::Tls(listener) => Address::Tls(port(listener)),
            Listener::Unix(socket) => Address::Unix(socket.path().into()),
        };
        self.0.iter().map(address).collect()
    }

    /// Serves connections until `stop` is cancelled, then lets the open ones end within the
    /// configured time.
    pub async fn serve(self, server: Arc<Server>, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let refusals = Arc::new(Semaphore::new(REFUSALS));
        let accepting = self.0.into_iter().map(|listener| {
            let acceptor = Acceptor {
                server: server.clone(),
                stop: stop.clone(),
                connections: connections.clone(),
                refusals: refusals.clone(),
            };
            acceptor.accept(listener)
        });
        // Nobody waits for services that take their time, but for their own events.
        let starting = async {
            let generation = server.current();
            tokio::select! {
                () = generation.config.start_what_can() => {}
                () = stop.cancelled() => {}
            }
        };
        tokio::join!(futures_util::future::join_all(accepting), starting);
        connections.close();
        connections.wait().await;
    }
}

/// Takes connections from one listener.
struct Acceptor {
    server: Arc<Server>,
    stop: CancellationToken,
    connections: TaskTracker,
    refusals: Arc<Semaphore>,
}

enum Stream {
    Tcp(TcpStream),
    Tls(TcpStream),
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
                Ok((stream, origin)) => self.serve(stream, origin),
                Err(error) => {
                    warn!(%error, "no connection could be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(&self, stream: Stream, origin: Origin) {
        let id = self.server.next_connection();
        let span = info_span!(
            "connection",
            connection = id.number(),
            peer = %origin,
            certificate = field::Empty,
            rule = field::Empty,
        );
        let tls = matches!(stream, Stream::Tls(_));
        let peer = Peer::plain(origin);
        let generation = self.server.current();
        let access = match span.in_scope(|| self.server.admit(&generation.config, &peer)) {
            // On a TLS port the handshake says who it is; whom no certificate helps needs none.
            Ok(access) => access.filter(|_| !tls),
            Err(refusal) => return self.refuse(stream, &refusal.to_string()),
        };
        let mut place = self.server.budgets.connections.reservation();
        if !place.grow(1) {
            let limit = self.server.budgets.connections.most();
            span.in_scope(|| warn!(limit, "too many connections: refused"));
            self.server.metrics.too_many.inc();
            return self.refuse(stream, "too many connections");
        }
        let (server, stop) = (self.server.clone(), self.stop.clone());
        let open = self.server.metrics.connected();
        let served = async move {
            info!("connected");
            let shared = Shared { server, generation, stop };
            match stream {
                Stream::Tcp(stream) => driver::drive(stream, peer, access, id, shared).await,
                Stream::Unix(stream) => driver::drive(stream, peer, access, id, shared).await,
                Stream::Tls(stream) => {
                    // Boxed: the other connections have no need of that much room.
                    Box::pin(driver::drive_tls(stream, peer, id, shared)).await;
                }
            }
            drop((place, open));
            info!("disconnected");
        };
        self.connections.spawn(served.instrument(span));
    }

    /// Says why there is no connection. Beyond those that hear it, connections are just closed.
    fn refuse(&self, stream: Stream, reason: &str) {
        let Ok(refusal) = self.refusals.clone().try_acquire_owned() else { return };
        let reason = reason.to_owned();
        let refused = async move {
            match stream {
                Stream::Tcp(stream) => driver::refuse(stream, &reason).await,
                Stream::Unix(stream) => driver::refuse(stream, &reason).await,
                // A reason would cost a handshake.
                Stream::Tls(stream) => drop(stream),
            }
            drop(refusal);
        };
        self.connections.spawn(refused);
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<(Stream, Origin)> {
        match self {
            Self::Tcp(listener) | Self::Tls(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Answers are written whole; waiting for more would only delay them.
                stream.set_nodelay(true)?;
                let tls = matches!(self, Self::Tls(_));
                let stream = if tls { Stream::Tls(stream) } else { Stream::Tcp(stream) };
                Ok((stream, Origin::Tcp(peer)))
            }
            Self::Unix(socket) => {
                Ok((Stream::Unix(socket.accept().await?), Origin::Unix(socket.path().into())))
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
        assert_eq!("tls:[::]:25".parse(), Ok(Address::Tls("[::]:25".to_owned())));
        for wrong in ["", "127.0.0.1", "unix:", ":25", "host:99999", "host:", "tls:", "tls::25"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
