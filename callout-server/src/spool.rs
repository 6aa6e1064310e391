//! The octets of one event on their way in: in memory, and past a threshold in a file.
//!
//! ```text
//!             push          next_write          written
//!   Data ──▶ memory ──────▶ Write::run ──────▶ (file) ──▶ more memory for the next octets
//! ```
//!
//! Nothing here touches the disk but [`Write::run`], which belongs on a thread of its own. The file
//! has no name: it goes with the process, however that ends.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::buf::Limit;
use bytes::{BufMut, Bytes, BytesMut};
use services::mail::Octets;

use crate::buffers::Buffers;
use crate::server::{Budget, Reservation};

/// Where large content goes.
#[derive(Debug)]
pub(crate) struct Spool {
    /// The folder that the files belong to.
    pub(crate) folder: PathBuf,
    /// Octets of a message body above which it goes to a file.
    pub(crate) threshold: usize,
    /// Octets in memory, of all messages.
    pub(crate) memory: Budget,
    /// Octets in files, of all messages.
    pub(crate) disk: Budget,
    /// Memory of messages that have gone.
    pub(crate) buffers: Arc<Buffers>,
}

/// Octets of one block on its way to the file.
const BLOCK: usize = 256 * 1024;

/// Blocks of one write, at the most.
const BLOCKS: usize = 4;

/// Octets that may wait for the disk before the processor is asked to pause, and
/// below half of which it may go on.
const PAUSE: usize = 512 * 1024;

/// Octets that may wait for the disk at all: what is on its way when a processor learns that it should
/// pause stays in the socket until there are fewer.
const MOST_WAITING: usize = 4 * 1024 * 1024;

/// What a message's buffer may be in octets for each that has come, if the processor said that there
/// will be so many: it is copied less often, and memory that was only announced is never touched.
const FORESIGHT: usize = 8;

/// Octets that a body in memory has room for at a time, if it was not said how many there will be.
const STRIDE: usize = 64 * 1024;

/// The end of a body, taken out to be filled where it is.
#[derive(Debug)]
pub(crate) struct Room {
    end: BytesMut,
    /// Its length when it was taken out.
    before: usize,
    /// Its length when it is full.
    limit: usize,
}

/// The octets of one event.
#[derive(Debug)]
pub(crate) struct Content {
    /// The command line, or the header section.
    first: BytesMut,
    /// Full blocks of the body that wait for the file.
    blocks: VecDeque<Bytes>,
    /// Octets of the body behind them: all of it, if memory is enough.
    waiting: BytesMut,
    /// Blocks that are written, for the next octets.
    spare: Vec<BytesMut>,
    /// How many the body will have, if that was said.
    announced: usize,
    file: FileState,
    memory: Reservation,
    disk: Reservation,
}

/// How far the file has come.
#[derive(Debug)]
enum FileState {
    /// Memory is enough.
    None,
    /// Octets before `length` are in it.
    Idle { file: Arc<File>, length: usize },
    /// A write is under way, after which octets before `length` will be in it.
    Writing { length: usize, octets: usize },
}

/// Why no more octets are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    /// The memory of the process.
    #[error("the server works on too much content")]
    Memory,
    /// The files of the process.
    #[error("the server's spool is full")]
    Disk,
}

/// One write to the file, which it makes if there is none.
#[derive(Debug)]
pub(crate) struct Write {
    file: Option<Arc<File>>,
    folder: PathBuf,
    offset: u64,
    blocks: Vec<Bytes>,
}

/// The file, and the blocks that are in it now.
#[derive(Debug)]
pub(crate) struct Written {
    file: Arc<File>,
    blocks: Vec<Bytes>,
}

impl Content {
    /// No octets yet; the processor may have said how many the body will have.
    pub(crate) fn new(spool: &Spool, announced: Option<u32>) -> Self {
        Self {
            first: BytesMut::new(),
            blocks: VecDeque::new(),
            spare: Vec::new(),
            waiting: BytesMut::new(),
            announced: announced.map_or(0, |octets| octets as usize),
            file: FileState::None,
            memory: spool.memory.reservation(),
            disk: spool.disk.reservation(),
        }
    }

    /// Octets so far.
    pub(crate) fn len(&self) -> usize {
        let in_file = match self.file {
            FileState::None => 0,
            FileState::Idle { length, .. } | FileState::Writing { length, .. } => length,
        };
        self.first.len() + in_file + self.backlog()
    }

    /// Octets of the body that are not in the file, or on their way to it.
    fn backlog(&self) -> usize {
        self.blocks.len() * BLOCK + self.waiting.len()
    }

    /// Whether the body belongs into a file: it is too large for memory, or will be.
    fn is_large(&self, spool: &Spool) -> bool {
        !matches!(self.file, FileState::None)
            || !self.blocks.is_empty()
            || self.waiting.len().max(self.announced) > spool.threshold
    }

    /// Takes octets of the command line or the header section.
    pub(crate) fn push_first(&mut self, octets: &[u8]) -> Result<(), Full> {
        self.memory.grow(octets.len()).then_some(()).ok_or(Full::Memory)?;
        self.first.extend_from_slice(octets);
        Ok(())
    }

    /// Takes octets of the body.
    pub(crate) fn push_body(&mut self, mut octets: &[u8], spool: &Spool) -> Result<(), Full> {
        while !octets.is_empty() {
            let mut room = self.take_room(octets.len(), spool);
            let (now, later) = octets.split_at(octets.len().min(room.free().remaining_mut()));
            room.free().put_slice(now);
            self.put_back(room, spool)?;
            octets = later;
        }
        Ok(())
    }

    /// Takes out the end of the body, with room for at most so many octets more, which are not 0. It
    /// has to come back before anything else is done.
    pub(crate) fn take_room(&mut self, most: usize, spool: &Spool) -> Room {
        let most = if self.is_large(spool) {
            if self.waiting.capacity() < BLOCK {
                let spare = self.spare.pop();
                let mut block = spare.unwrap_or_else(|| BytesMut::with_capacity(BLOCK));
                block.extend_from_slice(&self.waiting);
                self.waiting = block;
            }
            most.min(BLOCK - self.waiting.len())
        } else {
            self.make_room(most.min(STRIDE), spool);
            most.min(self.waiting.capacity() - self.waiting.len())
        };
        let end = std::mem::take(&mut self.waiting);
        Room { before: end.len(), limit: end.len() + most, end }
    }

    /// Takes the end of the body back, and what it has got.
    pub(crate) fn put_back(&mut self, room: Room, spool: &Spool) -> Result<(), Full> {
        let octets = room.octets();
        self.waiting = room.end;
        self.memory.grow(octets).then_some(()).ok_or(Full::Memory)?;
        // What was taken before it was known to be large becomes blocks as well.
        while self.waiting.len() >= BLOCK && self.is_large(spool) {
            let block = match self.waiting.len() {
                BLOCK => std::mem::take(&mut self.waiting),
                _ => self.waiting.split_to(BLOCK),
            };
            self.blocks.push_back(block.freeze());
        }
        Ok(())
    }

    /// Room for more octets of a body that stays in memory, in a buffer of the announced size.
    fn make_room(&mut self, more: usize, spool: &Spool) {
        let needed = self.waiting.len() + more;
        if self.waiting.is_empty() && self.waiting.capacity() < more {
            self.waiting = spool.buffers.take(self.announced).unwrap_or_default();
        }
        if self.waiting.capacity() >= needed {
            return;
        }
        let room = match self.announced >= needed {
            true => self.announced.min(needed.saturating_mul(FORESIGHT)),
            false => needed.max(self.waiting.capacity().saturating_mul(2)),
        };
        // Exactly that: growing in place would double, and not fit into the kept buffers.
        let mut larger = BytesMut::with_capacity(room);
        larger.extend_from_slice(&self.waiting);
        self.waiting = larger;
    }

    /// The next write, if it is time for one. `is_complete`: no more octets come.
    pub(crate) fn next_write(
        &mut self,
        spool: &Spool,
        is_complete: bool,
    ) -> Result<Option<Write>, Full> {
        let is_large = self.is_large(spool);
        let (file, offset) = match &self.file {
            FileState::None if is_large => (None, 0),
            FileState::Idle { file, length } => (Some(file.clone()), *length),
            FileState::None | FileState::Writing { .. } => return Ok(None),
        };
        let mut blocks: Vec<Bytes> = Vec::new();
        blocks.extend(self.blocks.drain(..self.blocks.len().min(BLOCKS)));
        if is_complete && self.blocks.is_empty() && !self.waiting.is_empty() {
            blocks.push(std::mem::take(&mut self.waiting).freeze());
        }
        if blocks.is_empty() {
            return Ok(None);
        }
        let octets = blocks.iter().map(Bytes::len).sum();
        self.disk.grow(octets).then_some(()).ok_or(Full::Disk)?;
        self.file = FileState::Writing { length: offset + octets, octets };
        Ok(Some(Write { file, folder: spool.folder.clone(), offset: offset as u64, blocks }))
    }

    /// A write is done.
    pub(crate) fn written(&mut self, written: Written) {
        let FileState::Writing { length, octets } = self.file else { return };
        self.memory.shrink(octets);
        self.file = FileState::Idle { file: written.file, length };
        for block in written.blocks {
            // One that was cut off a larger buffer is of no use.
            if let Ok(mut block) = block.try_into_mut()
                && self.spare.len() < BLOCKS
            {
                block.clear();
                self.spare.extend((block.capacity() == BLOCK).then_some(block));
            }
        }
    }

    /// Whether the processor should pause until the disk has caught up.
    pub(crate) fn should_pause(&self) -> bool {
        matches!(self.file, FileState::Writing { .. }) && self.backlog() > PAUSE
    }

    /// Whether no more may be read until the disk has caught up.
    pub(crate) fn is_behind(&self) -> bool {
        matches!(self.file, FileState::Writing { .. }) && self.backlog() > MOST_WAITING
    }

    /// Whether a processor that was asked to pause may go on.
    pub(crate) fn may_go_on(&self) -> bool {
        self.backlog() < PAUSE / 2
    }

    /// Whether no octets wait for the disk.
    pub(crate) fn is_ready(&self) -> bool {
        match self.file {
            FileState::None => true,
            FileState::Idle { .. } => self.backlog() == 0,
            FileState::Writing { .. } => false,
        }
    }

    /// The first part, the body, and what they hold of the budgets; once it is ready.
    pub(crate) fn finish(self) -> (Bytes, Octets, Held) {
        debug_assert!(self.is_ready());
        let body = match self.file {
            FileState::Idle { file, length } => Octets::from_file(file, length),
            FileState::None | FileState::Writing { .. } => self.waiting.freeze().into(),
        };
        (self.first.freeze(), body, Held { memory: self.memory, _disk: self.disk })
    }
}

impl Room {
    /// Where more octets go.
    pub(crate) fn free(&mut self) -> Limit<&mut BytesMut> {
        let free = self.limit - self.end.len();
        (&mut self.end).limit(free)
    }

    /// How many have come.
    pub(crate) fn octets(&self) -> usize {
        self.end.len() - self.before
    }
}

/// What an event holds of the budgets, given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    memory: Reservation,
    _disk: Reservation,
}

impl Held {
    /// Takes more memory, for what comes with the answer.
    pub(crate) fn grow(&mut self, octets: usize) -> Result<(), Full> {
        self.memory.grow(octets).then_some(()).ok_or(Full::Memory)
    }
}

impl Write {
    /// Writes; blocks on the disk.
    pub(crate) fn run(self) -> io::Result<Written> {
        let file = match self.file {
            Some(file) => file,
            None => Arc::new(tempfile::tempfile_in(&self.folder)?),
        };
        let mut offset = self.offset;
        for block in &self.blocks {
            file.write_all_at(block, offset)?;
            offset += block.len() as u64;
        }
        Ok(Written { file, blocks: self.blocks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(folder: &std::path::Path, memory: usize, disk: usize) -> Spool {
        Spool {
            folder: folder.to_owned(),
            threshold: 1_000,
            memory: Budget::new(memory),
            disk: Budget::new(disk),
            buffers: Arc::default(),
        }
    }

    fn write(content: &mut Content, spool: &Spool, is_complete: bool) -> Option<u64> {
        let write = content.next_write(spool, is_complete).unwrap()?;
        let offset = write.offset;
        content.written(write.run().unwrap());
        Some(offset)
    }

    #[test]
    fn small_content_stays_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(folder.path(), 10_000, 0);
        let mut content = Content::new(&spool, None);
        content.push_first(b"A: b\r\n\r\n").unwrap();
        content.push_body(&[b'x'; 1_000], &spool).unwrap();
        assert_eq!((content.len(), write(&mut content, &spool, true)), (1_008, None));
        let (first, body, held) = content.finish();
        assert_eq!((&first[..], body.in_memory().unwrap().len()), (&b"A: b\r\n\r\n"[..], 1_000));
        assert_eq!(spool.memory.left(), 10_000 - 1_008);
        drop(held);
        assert_eq!(spool.memory.left(), 10_000);
    }

    #[test]
    fn large_content_goes_to_a_file_in_order_and_leaves_memory() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(folder.path(), 2_000_000, 2_000_000);
        let mut content = Content::new(&spool, None);
        let mut expected = Vec::new();
        for number in 0..9_000u32 {
            let line = format!("line {number} of a large message\r\n");
            expected.extend_from_slice(line.as_bytes());
            content.push_body(line.as_bytes(), &spool).unwrap();
            write(&mut content, &spool, false);
        }
        assert!(spool.memory.left() > 2_000_000 - BLOCK - 1_000);
        assert!(content.next_write(&spool, false).unwrap().is_none());
        assert!(!content.is_ready());
        assert!(write(&mut content, &spool, true).is_some());
        assert_eq!(content.len(), expected.len());
        let (_, body, held) = content.finish();
        assert!(body.in_memory().is_none());
        assert_eq!(body.read(0..expected.len()).unwrap(), expected);
        assert_eq!(
            (spool.memory.left(), spool.disk.left()),
            (2_000_000, 2_000_000 - expected.len())
        );
        drop(held);
        assert_eq!(spool.disk.left(), 2_000_000);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
    }

    /// With a threshold above a block, too: what is cut off must not make it look small again.
    #[test]
    fn content_that_turns_out_to_be_large_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for threshold in [1_000, BLOCK - 1, BLOCK, 3 * BLOCK, 3 * BLOCK + 7] {
            let spool = Spool { threshold, ..spool(folder.path(), 4_000_000, 4_000_000) };
            for octets in [threshold, threshold + 1, 4 * BLOCK, 4 * BLOCK + 5, 1_500_000] {
                let expected: Vec<u8> = (0..octets).map(|at| (at / 251) as u8).collect();
                let mut content = Content::new(&spool, None);
                for piece in expected.chunks(10_007) {
                    content.push_body(piece, &spool).unwrap();
                    write(&mut content, &spool, false);
                }
                while write(&mut content, &spool, true).is_some() {}
                assert!(content.is_ready());
                let (_, body, _held) = content.finish();
                assert_eq!(body.in_memory().is_some(), octets <= threshold);
                assert!(body.read(0..octets).unwrap() == expected, "{threshold} {octets}");
            }
        }
    }

    #[test]
    fn a_slow_disk_pauses_the_processor_and_then_the_connection() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(folder.path(), 100_000_000, 100_000_000);
        let mut content = Content::new(&spool, None);
        content.push_body(&[0; 2_000], &spool).unwrap();
        let write = content.next_write(&spool, false).unwrap();
        assert!(write.is_none(), "the first write is a whole block");
        content.push_body(&vec![0; BLOCK], &spool).unwrap();
        let write = content.next_write(&spool, false).unwrap().unwrap();
        assert_eq!(write.blocks.len(), 1);
        content.push_body(&vec![0; PAUSE - 2_000], &spool).unwrap();
        assert!(!content.should_pause() && !content.may_go_on());
        content.push_body(&[0; 1], &spool).unwrap();
        assert!(content.should_pause());
        assert!(content.next_write(&spool, true).unwrap().is_none(), "one at a time");
        content.push_body(&vec![0; MOST_WAITING - PAUSE - 1], &spool).unwrap();
        assert!(!content.is_behind());
        content.push_body(&[0; 1], &spool).unwrap();
        assert!(content.is_behind());
        content.written(write.run().unwrap());
        assert!(!content.is_behind() && !content.should_pause() && !content.may_go_on());
        while let Some(write) = content.next_write(&spool, false).unwrap() {
            content.written(write.run().unwrap());
        }
        assert!(content.may_go_on());
    }

    #[test]
    fn budgets_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(folder.path(), 600_000, 300_000);
        let mut content = Content::new(&spool, None);
        assert_eq!(content.push_first(&[0; 600_001]), Err(Full::Memory));
        content.push_body(&[0; 300_001], &spool).unwrap();
        assert!(matches!(content.next_write(&spool, true), Err(Full::Disk)));
        assert_eq!(content.push_body(&[0; 300_000], &spool), Err(Full::Memory));
        drop(content);
        assert_eq!((spool.memory.left(), spool.disk.left()), (600_000, 300_000));
    }
}
