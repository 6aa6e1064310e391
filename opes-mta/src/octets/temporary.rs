//! Files without names, and what they may take of the disk.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::room::{Budget, Room};

/// Where temporary files lie, and what all of them together may take of the disk.
#[derive(Clone, Debug)]
pub struct TemporaryFiles {
    folder: Arc<Path>,
    budget: Budget,
}

/// A file without a name: it is gone when nobody holds it any more, however the process ends.
#[derive(Debug)]
pub struct TemporaryFile {
    file: File,
    folder: Arc<Path>,
    octets: u64,
    room: Room,
}

/// Why a temporary file takes nothing more.
#[derive(Debug, thiserror::Error)]
pub enum NotStored {
    /// All files together have what they may have.
    #[error("temporary files have disk-octets already")]
    Full,
    /// The system said no.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl TemporaryFiles {
    /// Those of a folder, with so many octets in all of them together.
    pub fn new(folder: &Path, octets: u64) -> Self {
        Self { folder: folder.into(), budget: Budget::new(octets) }
    }

    /// What all of them may take, and what they do.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// A new file. Blocks on the disk.
    ///
    /// # Errors
    /// If the folder takes none; the error names the folder.
    pub fn file(&self) -> io::Result<TemporaryFile> {
        let file = tempfile::tempfile_in(&self.folder);
        let file = file.map_err(|error| named("made", &self.folder, &error))?;
        let folder = Arc::clone(&self.folder);
        Ok(TemporaryFile { file, folder, octets: 0, room: self.budget.room() })
    }
}

impl TemporaryFile {
    /// Octets that it has.
    pub(super) fn len(&self) -> u64 {
        self.octets
    }

    /// Fills a buffer from an offset on. Blocks on the disk.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let read = self.file.read_exact_at(buffer, offset);
        read.map_err(|error| named("read", &self.folder, &error))
    }

    /// Appends octets. Blocks on the disk.
    ///
    /// # Errors
    /// If there is no room for them; then the file is of no more use.
    pub fn append(&mut self, octets: &[u8]) -> Result<(), NotStored> {
        let length = self.octets + octets.len() as u64;
        self.room.grow_to(length).then_some(()).ok_or(NotStored::Full)?;
        let written = self.file.write_all(octets);
        written.map_err(|error| named("written", &self.folder, &error))?;
        self.octets = length;
        Ok(())
    }
}

/// What went wrong with a file, for people.
fn named(action: &str, folder: &Path, error: &io::Error) -> io::Error {
    let folder = folder.display();
    io::Error::new(error.kind(), format!("a temporary file in {folder} can't be {action}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_that_are_gone_are_an_error() {
        let folder = std::env::temp_dir();
        let mut file = TemporaryFiles::new(&folder, 10).file().unwrap();
        file.append(b"0123456789").unwrap();
        file.file.set_len(5).unwrap();
        let mut buffer = [0; 5];
        file.read(0, &mut buffer).unwrap();
        assert_eq!(&buffer, b"01234");
        let error = file.read(1, &mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let expected = format!("a temporary file in {} can't be read: ", folder.display());
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}
