//! Where unpacked octets are kept.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use crate::mail::{Base64Rule, Octets, SpoolError, Transfer, decoder_by};
use crate::temporary::TemporaryFolder;

/// Octets that are read at a time. Always the same, since some decoders lose with an error what they
/// have decoded for the same read.
const PIECE: usize = 8 * 1024;

/// What came of content that was read to its end.
pub(super) struct Stored {
    pub(super) octets: Octets,
    /// Whether there was more.
    pub(super) is_cut: bool,
    /// What ended it otherwise.
    pub(super) broken: Option<io::Error>,
}

/// Keeps content, at most `most` octets: in memory if it is no larger than `memory`, otherwise in a
/// file of `folder` that has no name and goes with the octets.
///
/// # Errors
/// If the file can't be written.
pub(super) fn store(
    content: &mut dyn Read,
    most: usize,
    memory: usize,
    folder: &TemporaryFolder,
) -> Result<Stored, SpoolError> {
    let mut kept = Kept::Memory(Vec::new());
    let mut length = 0;
    let mut piece = [0; PIECE];
    let (is_cut, broken) = loop {
        let count = match content.read(&mut piece) {
            Ok(0) => break (false, None),
            Ok(count) => count.min(PIECE),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => break (false, Some(error)),
        };
        let room = count.min(most - length);
        kept.append(piece.get(..room).unwrap_or_default(), memory, folder)?;
        length += room;
        if room < count {
            break (true, None);
        }
    };
    let octets = match kept {
        Kept::Memory(octets) => octets.into(),
        Kept::File(file) => Octets::from_file(Arc::new(file), length),
    };
    Ok(Stored { octets, is_cut, broken })
}

enum Kept {
    Memory(Vec<u8>),
    File(File),
}

impl Kept {
    fn append(&mut self, piece: &[u8], memory: usize, folder: &TemporaryFolder) -> io::Result<()> {
        match self {
            Self::Memory(octets) if octets.len() + piece.len() <= memory => {
                octets.extend_from_slice(piece);
                Ok(())
            }
            Self::Memory(octets) => {
                let octets = std::mem::take(octets);
                *self = Self::File(folder.file()?);
                self.append(&octets, memory, folder)?;
                self.append(piece, memory, folder)
            }
            Self::File(file) => file.write_all(piece).map_err(|error| folder.named(&error)),
        }
    }
}

/// The decoded body of a part. If the part is in memory, so is that; otherwise it is if it is no
/// larger than `memory`.
///
/// # Errors
/// If the part can't be read, or a file not written.
pub(crate) fn stored_part(
    raw: &Octets,
    transfer: &Transfer,
    memory: usize,
    folder: &TemporaryFolder,
) -> Result<Octets, SpoolError> {
    Ok(stored_part_by(raw, transfer, Base64Rule::default(), memory, folder)?.0)
}

/// The same, by a rule for base64; and whether it is base64 that another rule would decode to something else.
///
/// # Errors
/// If the part can't be read, or a file not written.
pub(super) fn stored_part_by(
    raw: &Octets,
    transfer: &Transfer,
    rule: Base64Rule,
    memory: usize,
    folder: &TemporaryFolder,
) -> Result<(Octets, bool), SpoolError> {
    if transfer.is_identity() {
        return Ok((raw.clone(), false));
    }
    let mut content = decoder_by(raw, transfer, rule)?;
    let octets = if raw.in_memory().is_some() {
        content.collect(usize::MAX)?.into()
    } else {
        let stored = store(&mut content, usize::MAX, memory, folder)?;
        match stored.broken {
            Some(error) => return Err(error.into()),
            None => stored.octets,
        }
    };
    Ok((octets, content.is_odd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Content that breaks at its end.
    struct Breaking<'a>(&'a [u8]);

    impl Read for Breaking<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::Error::other("broken")),
                count => Ok(count),
            }
        }
    }

    #[test]
    fn content_is_cut_and_broken_in_memory_and_in_files() {
        let folder = TemporaryFolder::default();
        let content: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[1]).collect();
        for (most, memory, in_memory) in [
            (usize::MAX, usize::MAX, true),
            (usize::MAX, 200_000, true),
            (usize::MAX, 199_999, false),
            (usize::MAX, 0, false),
            (200_000, 10, false),
            (199_999, 10, false),
            (9, 10, true),
            (10, 10, true),
            (0, 0, true),
        ] {
            let stored = store(&mut &content[..], most, memory, &folder).unwrap();
            assert_eq!(stored.octets.in_memory().is_some(), in_memory, "{most} {memory}");
            assert_eq!(stored.is_cut, most < content.len());
            assert!(stored.broken.is_none());
            let expected = &content[..most.min(content.len())];
            assert!(stored.octets.read(0..content.len()).unwrap() == expected, "{most} {memory}");
        }
        for memory in [0, 1_000_000] {
            let stored = store(&mut Breaking(&content), usize::MAX, memory, &folder).unwrap();
            assert_eq!(stored.broken.unwrap().to_string(), "broken");
            assert!(stored.octets.read(0..content.len()).unwrap() == content);
        }
    }
}
