//! What the machine can do: the same octets against a peer that does nothing with them.
//!
//! A transaction becomes a blob: as many octets as a transaction of that event had on the wire, the
//! first eight of which say how many octets the blob has and how many have to come back. As many blobs
//! are under way on a connection as transactions were. Each blob and each answer is one write; both
//! sides read through a buffer of the size that the server reads with. The peer has a runtime of its
//! own, as the server has, and the connections are of the server's kind: TCP over loopback, or unix
//! sockets.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use ocp_proto::Traffic;
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, split,
};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::figures::Figures;

/// Octets of one read, as the server's.
const READ: usize = 64 * 1024;

/// Octets of the sizes that a blob begins with.
const HEAD: usize = 8;

/// Connections to an echo peer.
pub(crate) struct Echo {
    blobs: Arc<[Blob]>,
    open: usize,
    connections: Vec<Box<dyn Stream>>,
    peer: Runtime,
}

/// One transaction's worth of octets.
struct Blob {
    octets: Bytes,
    returned: usize,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Echo {
    /// Starts the peer, and connects. `costs` are those of the transactions of one cycle.
    ///
    /// # Errors
    /// If there are no sockets or threads for it.
    pub(crate) async fn start(
        tcp: bool,
        connections: usize,
        open: usize,
        costs: &[Traffic],
    ) -> io::Result<Self> {
        let peer = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let blobs: Arc<[Blob]> = costs.iter().map(Blob::new).collect();
        let longest = blobs.iter().map(|blob| blob.returned).max().unwrap_or_default();
        let mut own: Vec<Box<dyn Stream>> = Vec::new();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        for _ in 0..connections {
            if tcp {
                let stream = TcpStream::connect(listener.local_addr()?).await?;
                let (accepted, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                accepted.set_nodelay(true)?;
                own.push(Box::new(stream));
                let theirs = accepted.into_std()?;
                peer.spawn(async move { serve(TcpStream::from_std(theirs)?, longest).await });
            } else {
                let (stream, theirs) = UnixStream::pair()?;
                own.push(Box::new(stream));
                let theirs = theirs.into_std()?;
                peer.spawn(async move { serve(UnixStream::from_std(theirs)?, longest).await });
            }
        }
        Ok(Self { blobs, open, connections: own, peer })
    }

    /// Keeps all connections busy until then, and waits for what is under way.
    ///
    /// # Errors
    /// If a connection fails.
    pub(crate) async fn round(&mut self, until: Instant) -> io::Result<Figures> {
        let begin = Instant::now();
        let mut exchanges = JoinSet::new();
        for mut stream in self.connections.drain(..) {
            let (blobs, open) = (Arc::clone(&self.blobs), self.open);
            exchanges.spawn(async move {
                let figures = exchange(&mut stream, &blobs, open, until).await?;
                io::Result::Ok((stream, figures))
            });
        }
        let mut all = Figures::new(self.blobs.len());
        while let Some(exchanged) = exchanges.join_next().await {
            let (stream, figures) = exchanged??;
            self.connections.push(stream);
            all.add(figures);
        }
        all.elapsed = begin.elapsed();
        Ok(all)
    }

    /// Ends the peer.
    pub(crate) fn stop(self) {
        self.peer.shutdown_background();
    }
}

impl Blob {
    fn new(cost: &Traffic) -> Self {
        let size = |octets: u64| usize::try_from(octets).unwrap_or(usize::MAX);
        let (sent, returned) = (size(cost.sent).max(HEAD), size(cost.received).max(1));
        let mut octets = vec![b'x'; sent];
        let sizes = [sent, returned].map(|size| u32::try_from(size).unwrap_or(u32::MAX));
        for (place, octet) in octets.iter_mut().zip(sizes.map(u32::to_be_bytes).concat()) {
            *place = octet;
        }
        Self { octets: octets.into(), returned }
    }
}

/// Our side of a connection. Answers come in the order of the blobs, and each makes room for the
/// next blob.
async fn exchange(
    stream: &mut Box<dyn Stream>,
    blobs: &[Blob],
    open: usize,
    until: Instant,
) -> io::Result<Figures> {
    let (reader, mut writer) = split(stream);
    let mut reader = BufReader::with_capacity(READ, reader);
    let mut figures = Figures::new(blobs.len());
    let (free, mut next) = mpsc::channel(open);
    for _ in 0..open {
        let _ = free.try_send(0);
    }
    let (sent, mut awaited) = mpsc::channel(open);
    let write = async move {
        while let Some(at) = next.recv().await {
            let begun = Instant::now();
            let Some(blob) = blobs.get(at).filter(|_| begun < until) else { break };
            writer.write_all(&blob.octets).await?;
            // Room for each that is open.
            let _ = sent.try_send((at, begun));
        }
        io::Result::Ok(())
    };
    let read = async {
        while let Some((at, begun)) = awaited.recv().await {
            let Some(blob) = blobs.get(at) else { break };
            skip(&mut reader, blob.returned).await?;
            let traffic =
                Traffic { sent: blob.octets.len() as u64, received: blob.returned as u64 };
            figures.answered(at, traffic, begun.elapsed());
            let _ = free.try_send((at + 1) % blobs.len());
        }
        io::Result::Ok(())
    };
    tokio::try_join!(write, read)?;
    Ok(figures)
}

/// The peer's side of a connection, until its end.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, longest: usize) -> io::Result<()> {
    let answer = vec![b'x'; longest];
    let (reader, mut writer) = split(stream);
    let mut reader = BufReader::with_capacity(READ, reader);
    loop {
        let size = reader.read_u32().await? as usize;
        let returned = reader.read_u32().await? as usize;
        skip(&mut reader, size.saturating_sub(HEAD)).await?;
        writer.write_all(answer.get(..returned).unwrap_or(&answer)).await?;
    }
}

/// Reads so many octets and looks at none of them.
async fn skip<R: AsyncRead + Unpin>(reader: &mut BufReader<R>, mut count: usize) -> io::Result<()> {
    while count > 0 {
        let arrived = reader.fill_buf().await?.len();
        if arrived == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken = arrived.min(count);
        reader.consume(taken);
        count -= taken;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_same_octets_travel_each_way() {
        let costs =
            [Traffic { sent: 300, received: 70 }, Traffic { sent: 200_000, received: 100_000 }];
        for tcp in [true, false] {
            let mut echo = Echo::start(tcp, 2, 3, &costs).await.unwrap();
            // Over at once: what is under way is waited for, and nothing new begins.
            let nothing = echo.round(Instant::now()).await.unwrap();
            assert_eq!(nothing.total().transactions, 0);
            let mut total = Figures::new(2);
            while total.total().transactions < 50 {
                let until = Instant::now() + std::time::Duration::from_millis(5);
                total.add(echo.round(until).await.unwrap());
            }
            for (count, cost) in total.events.iter().zip(costs) {
                assert!(count.transactions > 0);
                assert_eq!(count.mean(), cost);
            }
            echo.stop();
        }
    }
}
