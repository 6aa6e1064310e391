//! Syslog (RFC 5424): over UDP (RFC 5426), TCP with octet counting (RFC 6587 section 3.4.1), and to a unix datagram socket.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, lookup_host};

use super::incident::Incident;
use super::queue::Failure;

/// Octets of a message over UDP: what every server should take (RFC 5424 section 6.1, RFC 5426 section 3.2).
pub(super) const DATAGRAM: usize = 2_048;

/// Who says it: APP-NAME (RFC 5424 section 6.2.5).
const PROGRAM: &str = "callout-server";

/// What kind of message it is: MSGID (RFC 5424 section 6.2.7).
const KIND: &str = "incident";

/// A syslog server.
#[derive(Debug)]
pub(super) struct Syslog {
    pub(super) address: Address,
    /// A number of RFC 5424 section 6.2.1.
    pub(super) facility: u8,
    pub(super) host: String,
    /// A TCP connection that has taken all that it should.
    stream: Option<TcpStream>,
}

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Udp(String),
    Tcp(String),
    Unix(PathBuf),
}

impl Syslog {
    pub(super) fn new(address: Address, facility: u8, host: String) -> Self {
        Self { address, facility, host, stream: None }
    }

    pub(super) async fn send(&mut self, incident: &Incident) -> Result<(), Failure> {
        let header = self.header(incident);
        let sent = match &self.address {
            Address::Udp(address) => {
                let room = DATAGRAM.saturating_sub(header.len());
                send_udp(address, &(header + &incident.json_within(room))).await
            }
            Address::Unix(path) => send_unix(path, &(header + &incident.json())).await,
            Address::Tcp(address) => {
                let address = address.clone();
                self.send_tcp(&address, &(header + &incident.json())).await
            }
        };
        sent.map_err(Failure::passing)
    }

    /// On the connection that there is, or on a new one. Half a frame would spoil all that follow: a connection is kept
    /// once it has taken a whole one.
    async fn send_tcp(&mut self, address: &str, message: &str) -> io::Result<()> {
        let mut stream = match self.stream.take().filter(is_open) {
            Some(stream) => stream,
            None => TcpStream::connect(address).await?,
        };
        stream.write_all(format!("{} {message}", message.len()).as_bytes()).await?;
        self.stream = Some(stream);
        Ok(())
    }

    /// All before the message (RFC 5424 section 6), without structured data.
    fn header(&self, incident: &Incident) -> String {
        let Self { facility, host, .. } = self;
        let priority = u32::from(*facility) * 8 + incident.severity as u32;
        let (time, process) = (incident.time(), std::process::id());
        format!("<{priority}>1 {time} {host} {PROGRAM} {process} {KIND} - ")
    }
}

/// Whether the server has not ended the connection: a server has nothing to say in it. The system is asked, since what the
/// runtime knows may be older.
fn is_open(stream: &TcpStream) -> bool {
    let peeked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// From a socket of its own: where the server is may have changed.
async fn send_udp(address: &str, message: &str) -> io::Result<()> {
    let no_address = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let address = lookup_host(address).await?.next().ok_or_else(no_address)?;
    let own: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    UdpSocket::bind(own).await?.send_to(message.as_bytes(), address).await.map(drop)
}

/// Without a connection: there is none to be lost when the server starts again.
async fn send_unix(path: &Path, message: &str) -> io::Result<()> {
    UnixDatagram::unbound()?.send_to(message.as_bytes(), path).await.map(drop)
}
