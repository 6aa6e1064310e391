//! What carries a connection to the next hop.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

use super::address::NextHopAddress;
use super::error::{Attempts, Cause};

/// Octets both ways.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

pub(super) type Transport = Box<dyn Stream>;

/// Connects until `deadline`; a name's addresses are tried in turn, each for its share of what is left, so
/// that one that swallows everything does not keep the next from its turn (RFC 5321 section 5.1).
pub(super) async fn connect(
    next_hop: &NextHopAddress,
    deadline: Instant,
) -> Result<Transport, Cause> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    match next_hop {
        NextHopAddress::Unix(path) => {
            let connected = timeout_at(deadline, UnixStream::connect(path)).await;
            match connected.unwrap_or_else(|_| Err(late())) {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(Cause::Connect(Attempts(vec![(None, Arc::new(error))]))),
            }
        }
        NextHopAddress::Tcp { host, port } => {
            let found = timeout_at(deadline, lookup_host((host.as_str(), *port))).await;
            let found = found.unwrap_or_else(|_| Err(late()));
            let addresses: Vec<_> =
                found.map_err(|error| Cause::Resolve(Arc::new(error)))?.collect();
            let mut attempts = Attempts::default();
            for (tried, address) in addresses.iter().enumerate() {
                let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
                let share = deadline.saturating_duration_since(Instant::now()) / left;
                let connected = timeout(share, TcpStream::connect(address)).await;
                let connected = connected.unwrap_or_else(|_| Err(late()));
                // Commands are small and somebody waits for each of them.
                match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
                    Ok(stream) => return Ok(Box::new(stream)),
                    Err(error) => attempts.0.push((Some(*address), Arc::new(error))),
                }
            }
            Err(Cause::Connect(attempts))
        }
    }
}
