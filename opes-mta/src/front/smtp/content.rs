//! The content of a message on its way in: in memory, and past a bound in a temporary file.
//!
//! ```text
//!   header section ──▶ memory
//!   body           ──▶ memory, until the message has memory-octets there ──▶ block ──full──▶ file
//! ```
//!
//! While a block is written nothing is read from the client. The octets behind the last full block stay in
//! memory.

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use ocp_proto::smtp::Reply;
use tokio::task::spawn_blocking;

use super::replies::fixed;
use crate::event::{Message, header_end};
use crate::front::pieces::Pieces;
use crate::octets::{BLOCK, NotStored, Octets, Stored, TemporaryFile};
use crate::processor::Processor;
use crate::room::Room;

/// The longest header section, with its empty line. It is held in memory whatever `memory-octets` says, and so
/// is a message without an empty line, which is nothing else. Ten times what Postfix takes for one by default.
/// Worst case a message: that much, and what was read with its end.
pub(crate) const LONGEST_HEADER: usize = 1024 * 1024;

/// Content so far: the header section up to its empty line, then the body in pieces.
#[derive(Debug)]
pub(super) struct Content {
    processor: Arc<Processor>,
    header: BytesMut,
    /// Octets of `header` in which its end has been looked for, and is not.
    looked: usize,
    body: Option<Pieces>,
    /// The octets behind those.
    rest: Rest,
    room: Room,
    octets: usize,
    failed: Option<NoContent>,
}

/// Octets for which memory is not meant.
#[derive(Debug, Default)]
struct Rest {
    file: Option<TemporaryFile>,
    /// What is written next, once it is full.
    block: BytesMut,
}

/// Why there is no content that services could look at.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoContent {
    /// Beyond `message-octets`.
    #[error("the message has more than {0} octets")]
    TooLarge(usize),
    /// Without an end within its bound.
    #[error("the header section has more than {LONGEST_HEADER} octets")]
    HeaderTooLarge,
    /// Too much is worked on.
    #[error("messages that are worked on have content-octets already")]
    NoRoom,
    /// The disk has no room, or may have none.
    #[error("{0}")]
    NotStored(#[from] NotStored),
}

impl Content {
    /// Nothing so far.
    pub(super) fn new(processor: &Arc<Processor>) -> Self {
        Self {
            processor: Arc::clone(processor),
            header: BytesMut::new(),
            looked: 0,
            body: None,
            rest: Rest::default(),
            room: processor.room(),
            octets: 0,
            failed: None,
        }
    }

    /// The next octets. Once something is missing, nothing more is kept.
    pub(super) async fn push(&mut self, octets: Bytes) {
        self.octets += octets.len();
        if self.failed.is_some() {
            return;
        }
        if let Err(failed) = self.take(octets).await {
            self.failed = Some(failed);
            (self.header, self.body, self.rest) = Default::default();
            self.room.clear();
        }
    }

    async fn take(&mut self, octets: Bytes) -> Result<(), NoContent> {
        let most = self.processor.config().limits.message_octets as usize;
        if self.octets > most {
            return Err(NoContent::TooLarge(most));
        }
        if self.body.is_some() {
            return self.take_body(octets).await;
        }
        self.make_room(self.header.len() + octets.len())?;
        self.header.extend_from_slice(&octets);
        // The end may have begun in what was there before.
        let from = self.header.get(..self.looked).map_or(0, last_line);
        self.looked = self.header.len();
        let end = self.header.get(from..).and_then(header_end).map(|end| from + end);
        if end.unwrap_or(self.looked) > LONGEST_HEADER {
            return Err(NoContent::HeaderTooLarge);
        }
        let Some(end) = end else { return Ok(()) };
        let body = self.header.split_off(end).freeze();
        self.body = Some(Pieces::default());
        self.take_body(body).await
    }

    async fn take_body(&mut self, mut octets: Bytes) -> Result<(), NoContent> {
        let most = self.processor.config().limits.memory_octets;
        let Some(body) = &mut self.body else { return Ok(()) };
        let in_memory = self.header.len() + body.octets();
        let now = octets.split_to(octets.len().min(most.saturating_sub(in_memory)));
        let block = if octets.is_empty() { 0 } else { BLOCK };
        let needed = in_memory + now.len() + block;
        body.push(&now);
        self.make_room(needed)?;
        Ok(self.rest.take(octets, &self.processor).await?)
    }

    fn make_room(&mut self, octets: usize) -> Result<(), NoContent> {
        self.room.grow_to(octets as u64).then_some(()).ok_or(NoContent::NoRoom)
    }

    /// Octets that have come, whether they are kept or not.
    pub(super) fn octets(&self) -> usize {
        self.octets
    }

    /// The whole message. Its room is taken as long as this is there: somebody works on it now.
    ///
    /// # Errors
    /// If it was not kept.
    pub(super) fn finish(&mut self) -> Result<Message, NoContent> {
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        let mut body = self.body.take().unwrap_or_default().finish();
        let Rest { file, block } = std::mem::take(&mut self.rest);
        body.extend(file.map(|file| Octets::Stored(Stored::new(file))));
        body.extend((!block.is_empty()).then(|| Octets::Memory(block.freeze())));
        Ok(Message { header: std::mem::take(&mut self.header).freeze(), body: body.into() })
    }
}

impl Rest {
    async fn take(&mut self, mut octets: Bytes, processor: &Processor) -> Result<(), NotStored> {
        while octets.has_remaining() {
            let fits = octets.len().min(BLOCK - self.block.len());
            self.block.reserve(BLOCK - self.block.len());
            self.block.extend_from_slice(&octets.split_to(fits));
            if self.block.len() == BLOCK {
                self.write(processor).await?;
            }
        }
        Ok(())
    }

    /// Writes the block, on a thread that may wait for the disk.
    async fn write(&mut self, processor: &Processor) -> Result<(), NotStored> {
        let (file, mut block) = (self.file.take(), std::mem::take(&mut self.block));
        let files = processor.temporary().clone();
        let write = move || {
            let mut file = file.map_or_else(|| files.file(), Ok)?;
            file.append(&block)?;
            block.clear();
            Ok::<_, NotStored>((file, block))
        };
        let (file, block) = spawn_blocking(write).await.map_err(io::Error::other)??;
        (self.file, self.block) = (Some(file), block);
        Ok(())
    }
}

impl NoContent {
    /// The line in the log.
    pub(super) fn log(&self) {
        match self {
            Self::NotStored(NotStored::System(cause)) => {
                tracing::error!(stage = "content", %cause, "a message is refused");
            }
            cause => tracing::warn!(stage = "content", %cause, "a message is refused"),
        }
    }

    /// What the client gets.
    pub(super) fn reply(&self) -> Reply {
        let is_full = |error: &io::Error| {
            use io::ErrorKind::{QuotaExceeded, StorageFull};
            matches!(error.kind(), QuotaExceeded | StorageFull)
        };
        match self {
            Self::TooLarge(_) => fixed(552, "5.3.4", "The message is too large"),
            Self::HeaderTooLarge => fixed(552, "5.3.4", "The header section is too large"),
            Self::NotStored(NotStored::System(error)) if !is_full(error) => {
                fixed(451, "4.3.0", "The message could not be taken, try again later")
            }
            Self::NoRoom | Self::NotStored(_) => {
                fixed(452, "4.3.1", "Too much mail is under way, try again later")
            }
        }
    }
}

/// Where the last line begins that may not be whole.
fn last_line(octets: &[u8]) -> usize {
    memchr::memrchr(b'\n', octets).map_or(0, |end| end + 1)
}

#[cfg(test)]
mod tests;
