//! A message on its way into a store.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use super::{Folder, Id, Record, StoreError, files};
use crate::octets::Octets;

/// A message that is being written. Dropped before [`Draft::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct Draft {
    id: Id,
    path: PathBuf,
    file: BufWriter<File>,
    octets: u64,
    committed: bool,
}

impl Draft {
    /// The file is new, and locked by us.
    pub(super) fn new(id: Id, path: PathBuf, file: File) -> Self {
        let file = BufWriter::with_capacity(64 * 1024, file);
        Self { id, path, file, octets: 0, committed: false }
    }

    /// The name of the entry that it will be.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// Octets so far.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// The next octets of the message.
    pub fn write(&mut self, octets: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(octets).map_err(StoreError::system("write", &self.path))?;
        self.octets += octets.len() as u64;
        Ok(())
    }

    /// The next pieces of the message.
    pub fn write_pieces(&mut self, pieces: &[Octets]) -> Result<(), StoreError> {
        let mut blocks = pieces.iter().flat_map(Octets::blocks);
        blocks.try_for_each(|block| self.write(&block.map_err(StoreError::Content)?))
    }

    /// The next octets of the message, from a file: as many as it has.
    pub fn copy(&mut self, from: &mut impl io::Read) -> Result<(), StoreError> {
        let copied = io::copy(from, &mut self.file);
        self.octets += copied.map_err(StoreError::system("write", &self.path))?;
        Ok(())
    }

    /// From here on the entry is there, whatever happens to this process or this machine.
    pub fn commit<T: Record>(mut self, folder: &Folder<T>, record: &T) -> Result<(), StoreError> {
        let flushed = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        flushed.map_err(StoreError::system("write", &self.path))?;
        let written = folder.write(record);
        // Nobody was promised anything. A record that can't be taken back keeps its message: rather twice than
        // not at all.
        self.committed = written.is_ok() || folder.remove_record(&self.id).is_err();
        written
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.committed {
            // What can't be removed now the owner removes at its next start.
            let _ = files::remove(&self.path);
        }
    }
}
