//! Octets that are searched, wherever they are.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use memchr::memmem;

use crate::mail::{Octets, SpoolError};

/// Why a search did not come to its end.
#[derive(Clone, Debug)]
pub(crate) enum Unfinished {
    /// The steps were used up.
    OutOfSteps,
    /// The octets can't be read.
    Unreadable(SpoolError),
}

impl From<io::Error> for Unfinished {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error.into())
    }
}

/// Blocks of a file that are kept, so that the runs of a signature far from each other don't make
/// them be read again and again: 1 MiB.
const MOST_BLOCKS: usize = 16;
const BLOCK: usize = 64 * 1024;
/// Octets that a block has in common with the next one: what is looked at in one piece stands in one
/// block if it is no longer.
const OVERLAP: usize = 4 * 1024;
/// What reading a block takes, in steps.
const BLOCK_STEPS: usize = BLOCK / 16;

/// Octets, and the steps that matching may take: hostile content must not buy time without bound.
#[derive(Debug)]
pub(crate) struct Content {
    octets: Octets,
    memory: Option<Bytes>,
    /// Blocks with their numbers; the one that was used last is the first.
    blocks: Vec<(usize, Bytes)>,
    block: usize,
    /// A piece that no block holds.
    long: Bytes,
    steps: usize,
}

impl Content {
    /// With steps that are enough for every honest content of this size: worst case about 100 ns for
    /// each octet.
    pub(crate) fn new(octets: &Octets) -> Self {
        let memory = octets.in_memory().cloned();
        let steps = octets.len().saturating_mul(64).saturating_add(100_000);
        let octets = octets.clone();
        Self { octets, memory, blocks: Vec::new(), block: BLOCK, long: Bytes::new(), steps }
    }

    /// The same with blocks of this size.
    #[cfg(test)]
    pub(crate) fn in_blocks(octets: &[u8], block: usize) -> Self {
        let content = Self::new(&Octets::from(octets.to_vec()));
        Self { memory: None, block, ..content }
    }

    pub(crate) fn len(&self) -> usize {
        self.octets.len()
    }

    /// Uses up some steps.
    pub(crate) fn take(&mut self, steps: usize) -> Result<(), Unfinished> {
        self.steps = self.steps.checked_sub(steps).ok_or(Unfinished::OutOfSteps)?;
        Ok(())
    }

    /// Octets of a range; `None` if it goes beyond the end.
    pub(crate) fn get(&mut self, at: usize, length: usize) -> Result<Option<&[u8]>, Unfinished> {
        let end = at.saturating_add(length);
        if end > self.len() {
            return Ok(None);
        }
        if self.memory.is_none() && length > OVERLAP {
            self.take(length / 16)?;
            self.long = self.octets.read(at..end)?;
            return Ok(Some(&self.long));
        }
        Ok(self.from(at)?.get(..length))
    }

    /// The first place in a range at which this literal starts.
    pub(crate) fn find(
        &mut self,
        literal: &[u8],
        starts: Range<usize>,
    ) -> Result<Option<usize>, Unfinished> {
        let behind = literal.len().saturating_sub(1);
        let end = starts.end.saturating_add(behind).min(self.len());
        let mut at = starts.start;
        while at < starts.end && at.saturating_add(literal.len()) <= end {
            let here = self.from(at)?;
            let here = here.get(..end - at).unwrap_or(here);
            let (found, length) = (memmem::find(here, literal), here.len());
            self.take(found.unwrap_or(length) / 16 + 1)?;
            if let Some(found) = found {
                return Ok(Some(at + found).filter(|at| *at < starts.end));
            }
            at += length.saturating_sub(behind).max(1);
        }
        Ok(None)
    }

    /// Octets from `at` on, as many as are at hand; more than [`OVERLAP`] if there are.
    fn from(&mut self, at: usize) -> Result<&[u8], Unfinished> {
        if self.memory.is_none() {
            let start = at % self.block;
            return Ok(self.block_at(at)?.get(start..).unwrap_or_default());
        }
        Ok(self.memory.as_ref().and_then(|octets| octets.get(at..)).unwrap_or_default())
    }

    /// The block that holds an octet.
    fn block_at(&mut self, at: usize) -> Result<&[u8], Unfinished> {
        let number = at / self.block;
        match self.blocks.iter().position(|(known, _)| *known == number) {
            Some(0) => {}
            Some(place) => {
                let used = self.blocks.remove(place);
                self.blocks.insert(0, used);
            }
            None => {
                self.take(BLOCK_STEPS)?;
                let start = number * self.block;
                let block = self.octets.read(start..start + self.block + OVERLAP)?;
                self.blocks.truncate(MOST_BLOCKS - 1);
                self.blocks.insert(0, (number, block));
            }
        }
        Ok(self.blocks.first().map(|(_, block)| &block[..]).unwrap_or_default())
    }
}
