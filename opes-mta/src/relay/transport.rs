//! What carries a connection to the next hop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

use super::address::NextHopAddress;
use super::error::{Attempts, Cause};

/// Addresses of a name that are tried, at most.
const MAXIMUM_ADDRESSES: usize = 16;

/// Octets both ways.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

pub(crate) type Transport = Box<dyn Stream>;

/// Connects until `deadline`; a name's addresses are tried in turn, each for its share of what is left, so
/// that one that swallows everything does not keep the next from its turn (RFC 5321 section 5.1).
pub(super) async fn connect(
    next_hop: &NextHopAddress,
    deadline: Instant,
) -> Result<Transport, Cause> {
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
            let found = found.map_err(|error| Cause::Resolve(Arc::new(error)))?;
            let addresses: Vec<_> = found.take(MAXIMUM_ADDRESSES).collect();
            Ok(Box::new(connect_to_any(&addresses, deadline).await.map_err(Cause::Connect)?))
        }
    }
}

async fn connect_to_any(
    addresses: &[SocketAddr],
    deadline: Instant,
) -> Result<TcpStream, Attempts> {
    let mut attempts = Attempts::default();
    for (tried, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        let connected = timeout(share, TcpStream::connect(address)).await;
        let connected = connected.unwrap_or_else(|_| Err(late()));
        // Commands are small and somebody waits for each of them.
        match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return Ok(stream),
            Err(error) => attempts.0.push((Some(*address), Arc::new(error))),
        }
    }
    Err(attempts)
}

fn late() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_address_that_does_not_do_leaves_its_turn_to_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let stream = connect_to_any(&[closed, open], deadline).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        let attempts = connect_to_any(&[closed, closed], deadline).await.unwrap_err();
        let tried: Vec<_> = attempts.0.iter().map(|(address, _)| *address).collect();
        assert_eq!(tried, [Some(closed), Some(closed)]);
        assert!(connect_to_any(&[], deadline).await.unwrap_err().0.is_empty());
    }
}
