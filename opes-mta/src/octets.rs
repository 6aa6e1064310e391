//! Octets of a message, in memory or in a temporary file: slices of both cost nothing.

mod same;
mod temporary;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

pub(crate) use same::is_same;
pub use temporary::{NotStored, TemporaryFile, TemporaryFiles};

/// Octets that are read from a file at a time, and written to it.
pub(crate) const BLOCK: usize = 256 * 1024;

/// Octets that lie together.
#[derive(Clone, Debug)]
pub enum Octets {
    /// In memory.
    Memory(Bytes),
    /// In a file.
    Stored(Stored),
}

/// A range of a temporary file, which is there as long as somebody holds one of its ranges.
#[derive(Clone, Debug)]
pub struct Stored {
    file: Arc<TemporaryFile>,
    range: Range<u64>,
}

impl Octets {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Memory(octets) => octets.len(),
            Self::Stored(stored) => stored.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of them, which are there.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Self::Memory(octets) => Self::Memory(octets.slice(range)),
            Self::Stored(stored) => Self::Stored(stored.slice(range)),
        }
    }

    /// Those that are in memory.
    pub fn in_memory(&self) -> Option<&Bytes> {
        match self {
            Self::Memory(octets) => Some(octets),
            Self::Stored(_) => None,
        }
    }

    /// All of them at once. Blocks on the disk, if they are in a file.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn read(&self) -> io::Result<Bytes> {
        match self {
            Self::Memory(octets) => Ok(octets.clone()),
            Self::Stored(stored) => stored.read(),
        }
    }

    /// All of them in pieces: those in memory as one, those in a file in blocks of 256 KiB that are read one
    /// after the other. Blocks on the disk.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = io::Result<Bytes>> {
        let (memory, stored) = match self {
            Self::Memory(octets) => (Some(octets), None),
            Self::Stored(stored) => (None, Some(stored)),
        };
        let stored = stored.into_iter().flat_map(Stored::blocks);
        memory.into_iter().cloned().map(Ok).chain(stored.map(|block| block.read()))
    }
}

impl Stored {
    /// All of a file.
    pub fn new(file: TemporaryFile) -> Self {
        let range = 0..file.len();
        Self { file: Arc::new(file), range }
    }

    /// How many octets there are.
    pub fn len(&self) -> usize {
        // No more than a message has, which is a `usize`.
        (self.range.end - self.range.start) as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Some of them.
    ///
    /// # Panics
    /// If they are not there, as with any slice.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {}", self.len());
        let start = self.range.start;
        let range = start + range.start as u64..start + range.end as u64;
        Self { file: Arc::clone(&self.file), range }
    }

    /// All of them in ranges that are read at a time.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = Self> {
        let all = self.len();
        (0..all).step_by(BLOCK).map(move |start| self.slice(start..all.min(start + BLOCK)))
    }

    /// All of them at once. Blocks on the disk.
    pub(crate) fn read(&self) -> io::Result<Bytes> {
        Ok(self.read_to(Vec::new())?.into())
    }

    /// All of them at once, in the place of what is in a buffer.
    fn read_to(&self, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
        buffer.resize(self.len(), 0);
        self.file.read(self.range.start, &mut buffer)?;
        Ok(buffer)
    }

    /// All of them at once, in the place of what is in a buffer; read on a thread that may wait for the disk. Such
    /// threads come and go: what they allocated themselves would stay with each of them.
    pub(crate) fn load(self, mut buffer: Vec<u8>) -> JoinHandle<io::Result<Vec<u8>>> {
        buffer.reserve_exact(self.len().saturating_sub(buffer.len()));
        spawn_blocking(move || self.read_to(buffer))
    }
}

impl From<Bytes> for Octets {
    fn from(octets: Bytes) -> Self {
        Self::Memory(octets)
    }
}

impl From<&'static str> for Octets {
    fn from(octets: &'static str) -> Self {
        Self::Memory(octets.into())
    }
}

impl From<Vec<u8>> for Octets {
    fn from(octets: Vec<u8>) -> Self {
        Self::Memory(octets.into())
    }
}

impl From<String> for Octets {
    fn from(octets: String) -> Self {
        Self::Memory(octets.into())
    }
}

impl From<Stored> for Octets {
    fn from(octets: Stored) -> Self {
        Self::Stored(octets)
    }
}

impl PartialEq for Octets {
    /// Octets in memory are compared. Those in a file are the same if they are the same range of the same
    /// file; nothing is read to find out.
    fn eq(&self, other: &Self) -> bool {
        is_same([self], [other])
    }
}

impl Eq for Octets {}

#[cfg(test)]
mod tests;
