//! What carries a connection: TCP or a unix socket, with TLS or without.

use std::path::Path;

use ocp_proto::{Connection, Role};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::address::ServerAddress;
use super::client::{ConnectError, Target};
use super::driver::Transport;
use super::tls::Negotiation;

/// Octets that a unix socket takes before the server has read them; the system doubles it, for its own use, and
/// may allow less (net.core.wmem_max). Its default, which does not grow as TCP's does, has both ends take turns at
/// each quarter of a megabyte.
const UNIX_BUFFER: usize = 1024 * 1024;

/// A transport, with TLS if that is wanted, and the connection over it.
pub(super) async fn open(target: &Target) -> Result<(Transport, Connection), ConnectError> {
    let server = &target.server;
    let failed = |error| ConnectError::Transport { server: server.clone(), error };
    let insecure = |cause: String| ConnectError::Tls { server: server.clone(), cause };
    let start = || {
        let now = Instant::now().into_std();
        Connection::new(Role::Processor, target.connection.clone(), now)
    };
    match server {
        ServerAddress::Tls(address) => {
            let tls = target.tls.as_ref();
            let tls = tls.ok_or_else(|| insecure("nothing says how to check it".to_owned()))?;
            let stream = open_tcp(address).await.map_err(failed)?;
            let stream = tls.handshake(stream, server).await;
            let stream = stream.map_err(|error| insecure(error.to_string()))?;
            Ok((Box::new(stream), start()))
        }
        ServerAddress::Tcp(address) => {
            let stream = open_tcp(address).await.map_err(failed)?;
            negotiate_tls(stream, start(), target).await.map_err(insecure)
        }
        ServerAddress::Unix(path) => {
            let stream = open_unix(path).await.map_err(failed)?;
            negotiate_tls(stream, start(), target).await.map_err(insecure)
        }
    }
}

async fn open_tcp(address: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Heads are small and somebody waits for each of them.
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn open_unix(path: &Path) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(path).await?;
    SockRef::from(&stream).set_send_buffer_size(UNIX_BUFFER)?;
    Ok(stream)
}

async fn negotiate_tls<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    mut connection: Connection,
    target: &Target,
) -> Result<(Transport, Connection), String> {
    let negotiated = match &target.tls {
        None => Negotiation::Plain(stream),
        Some(tls) => tls
            .negotiate(stream, &mut connection, &target.server)
            .await
            .map_err(|error| error.to_string())?,
    };
    let stream: Transport = match negotiated {
        Negotiation::Plain(stream) => Box::new(stream),
        Negotiation::Secured(stream) => Box::new(stream),
    };
    Ok((stream, connection))
}
