//! Octets of a message on their way out of this process, to those who read them at their own pace.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use services::mail::Octets;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Octets of a piece.
const PIECE: usize = 64 * 1024;
/// Pieces read from a file that wait to be taken.
const AHEAD: usize = 4;

/// Octets in pieces of at most 64 KiB. Those in a file are read on a thread that may wait for the disk, no faster than
/// they are taken. Those that can't be read end it early, and [`Octets::check`] says so.
#[derive(Debug)]
pub(crate) struct Pieces {
    memory: Bytes,
    stored: Option<ReceiverStream<Bytes>>,
}

impl Pieces {
    /// All of them.
    pub(crate) fn of(octets: Octets) -> Self {
        match octets.in_memory().cloned() {
            Some(memory) => Self { memory, stored: None },
            None => Self { memory: Bytes::new(), stored: Some(read(octets)) },
        }
    }
}

impl Stream for Pieces {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if !self.memory.is_empty() {
            let octets = self.memory.len().min(PIECE);
            return Poll::Ready(Some(self.memory.split_to(octets)));
        }
        match &mut self.stored {
            Some(stored) => Pin::new(stored).poll_next(cx),
            None => Poll::Ready(None),
        }
    }
}

fn read(octets: Octets) -> ReceiverStream<Bytes> {
    let (sender, pieces) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        for chunk in octets.chunks().map_while(Result::ok) {
            for at in (0..chunk.len()).step_by(PIECE) {
                if sender.blocking_send(chunk.slice(at..chunk.len().min(at + PIECE))).is_err() {
                    return;
                }
            }
        }
    });
    ReceiverStream::new(pieces)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn all_octets_come_in_order() {
        let octets: Vec<u8> = (0..PIECE * 5 + 7).map(|at| (at % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&octets).unwrap();
        let stored = Octets::from_file(Arc::new(file), octets.len());
        for body in [Octets::from(Bytes::from(octets.clone())), stored] {
            let pieces: Vec<_> = Pieces::of(body).collect().await;
            assert!(pieces.iter().all(|piece| piece.len() <= PIECE && !piece.is_empty()));
            assert!(pieces.concat() == octets);
        }
    }
}
