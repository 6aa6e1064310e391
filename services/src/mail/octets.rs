//! Octets in memory or in files.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::window::Reader;

/// Octets that are read of a file at a time.
const WINDOW: usize = 256 * 1024;

/// Octets of a message: in memory, or in a spool file. Cheap to clone.
///
/// An edited version of octets in a file is a list of stretches of that file and of what was
/// inserted; nothing is copied. A file that could not be read once counts as unreadable from then
/// on: see [`check`](Self::check).
#[derive(Clone)]
pub struct Octets(Form);

#[derive(Clone)]
enum Form {
    Memory(Bytes),
    Stored { rope: Arc<Rope>, range: Range<usize> },
}

/// Pieces one behind the other.
struct Rope {
    /// Each with the offset behind its last octet; none is empty.
    pieces: Vec<(usize, Piece)>,
    window: usize,
}

#[derive(Clone)]
enum Piece {
    Memory(Bytes),
    Stored { spool: Arc<Spool>, start: usize },
}

/// A file, and what went wrong with it.
struct Spool {
    file: Arc<File>,
    failure: OnceLock<SpoolError>,
}

/// A spool file that can't be read or written.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct SpoolError(Arc<io::Error>);

impl From<io::Error> for SpoolError {
    fn from(error: io::Error) -> Self {
        Self(Arc::new(error))
    }
}

impl From<SpoolError> for io::Error {
    fn from(error: SpoolError) -> Self {
        Self::new(error.0.kind(), error.0.to_string())
    }
}

impl Default for Octets {
    fn default() -> Self {
        Bytes::new().into()
    }
}

impl From<Bytes> for Octets {
    fn from(octets: Bytes) -> Self {
        Self(Form::Memory(octets))
    }
}

impl From<Vec<u8>> for Octets {
    fn from(octets: Vec<u8>) -> Self {
        Bytes::from(octets).into()
    }
}

impl From<&'static str> for Octets {
    fn from(octets: &'static str) -> Self {
        Bytes::from_static(octets.as_bytes()).into()
    }
}

impl Octets {
    /// The first `length` octets of a file that nobody writes to any more.
    pub fn from_file(file: Arc<File>, length: usize) -> Self {
        let spool = Arc::new(Spool { file, failure: OnceLock::new() });
        Self::of(vec![(length, Piece::Stored { spool, start: 0 })])
    }

    /// These octets one behind the other, of which nothing is copied.
    pub(crate) fn concat(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut pieces = Vec::new();
        let mut end = 0;
        for part in parts {
            match part.0 {
                Form::Memory(octets) => {
                    end += octets.len();
                    pieces.push((end, Piece::Memory(octets)));
                }
                Form::Stored { rope, range } => rope.each_in(range, |piece, within| {
                    end += within.len();
                    pieces.push((end, piece.slice(within)));
                }),
            }
        }
        Self::of(pieces)
    }

    fn of(mut pieces: Vec<(usize, Piece)>) -> Self {
        let mut last = 0;
        pieces.retain(|(end, _)| std::mem::replace(&mut last, *end) != *end);
        match pieces.as_slice() {
            [] => Bytes::new().into(),
            [(_, Piece::Memory(octets))] => octets.clone().into(),
            _ => Self(Form::Stored {
                rope: Arc::new(Rope { pieces, window: WINDOW }),
                range: 0..last,
            }),
        }
    }

    /// The same octets as if they were in a file that is read in windows of this size.
    pub(crate) fn in_windows(self, window: usize) -> Self {
        let (pieces, range) = match self.0 {
            Form::Memory(octets) => {
                let range = 0..octets.len();
                (vec![(range.end, Piece::Memory(octets))], range)
            }
            Form::Stored { rope, range } => (rope.pieces.clone(), range),
        };
        Self(Form::Stored { rope: Arc::new(Rope { pieces, window: window.max(1) }), range })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Memory(octets) => octets.len(),
            Form::Stored { range, .. } => range.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, if they are in memory in one piece.
    pub fn in_memory(&self) -> Option<&Bytes> {
        match &self.0 {
            Form::Memory(octets) => Some(octets),
            Form::Stored { .. } => None,
        }
    }

    /// Those of a range; what is beyond the end is left out. Shares memory or file.
    pub fn slice(&self, range: Range<usize>) -> Self {
        let end = range.end.min(self.len());
        let range = range.start.min(end)..end;
        match &self.0 {
            Form::Memory(octets) => octets.slice(range).into(),
            Form::Stored { rope, range: outer } => {
                let range = outer.start + range.start..outer.start + range.end;
                Self(Form::Stored { rope: Arc::clone(rope), range })
            }
        }
    }

    /// Reads those of a range; what is beyond the end is left out. A slice if they are in memory, a
    /// copy otherwise, so the range should be small.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn read(&self, range: Range<usize>) -> io::Result<Bytes> {
        let slice = self.slice(range);
        match &slice.0 {
            Form::Memory(octets) => Ok(octets.clone()),
            Form::Stored { .. } => {
                let mut octets = vec![0; slice.len()];
                slice.read_at(0, &mut octets)?;
                Ok(octets.into())
            }
        }
    }

    /// All of them in order, in pieces of at most 256 KiB. After an error there are no more.
    pub fn chunks(&self) -> impl Iterator<Item = io::Result<Bytes>> + Send + use<> {
        let octets = self.clone();
        let mut at = 0usize;
        std::iter::from_fn(move || {
            let start = at;
            at = octets.len().min(start.saturating_add(octets.window()));
            let chunk = (start < at).then(|| octets.read(start..at))?;
            if chunk.is_err() {
                at = octets.len();
            }
            Some(chunk)
        })
    }

    /// All of them in order, with their offsets, in windows that have `overlap` octets in common
    /// with the one before: just one window if they are in memory. After an error there are no more.
    pub(crate) fn windows(
        &self,
        overlap: usize,
    ) -> impl Iterator<Item = io::Result<(usize, Bytes)>> + use<> {
        let octets = self.clone();
        let mut next = Some(0);
        std::iter::from_fn(move || {
            let start = next.take()?;
            let end = match octets.in_memory() {
                Some(all) => all.len(),
                None => octets.len().min(start + octets.window() + overlap),
            };
            next = (end < octets.len()).then(|| end - overlap);
            let window = octets.read(start..end);
            if window.is_err() {
                next = None;
            }
            Some(window.map(|window| (start, window)))
        })
    }

    /// Reads them, with a place of its own.
    pub fn reader(&self) -> Reader {
        Reader::new(self.clone())
    }

    /// Whether reading them ever failed, even if whoever read them passed over that: a decoder or
    /// the reader of an archive can't tell such an error from broken content.
    ///
    /// # Errors
    /// The first error.
    pub fn check(&self) -> Result<(), SpoolError> {
        let Form::Stored { rope, .. } = &self.0 else { return Ok(()) };
        let failed = rope.pieces.iter().find_map(|(_, piece)| match piece {
            Piece::Stored { spool, .. } => spool.failure.get(),
            Piece::Memory(_) => None,
        });
        failed.map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Octets that are read at a time.
    pub(super) fn window(&self) -> usize {
        match &self.0 {
            Form::Memory(_) => WINDOW,
            Form::Stored { rope, .. } => rope.window,
        }
    }

    /// Fills the buffer with the octets from `at` on; it must not be longer than what there is.
    fn read_at(&self, at: usize, buffer: &mut [u8]) -> io::Result<()> {
        let Form::Stored { rope, range } = &self.0 else { return Ok(()) };
        let start = range.start + at;
        let mut rest = &mut *buffer;
        let mut result = Ok(());
        rope.each_in(start..start + rest.len(), |piece, within| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(within.len());
            rest = tail;
            if result.is_ok() {
                result = piece.read(within, head);
            }
        });
        result
    }
}

impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.in_memory().is_some() { "in memory" } else { "stored" };
        write!(f, "Octets({} {place})", self.len())
    }
}

impl Rope {
    /// Calls `each` with every piece that has octets in the range, and with the range within it.
    fn each_in(&self, range: Range<usize>, mut each: impl FnMut(&Piece, Range<usize>)) {
        let first = self.pieces.partition_point(|(end, _)| *end <= range.start);
        let mut start = first
            .checked_sub(1)
            .and_then(|before| self.pieces.get(before))
            .map_or(0, |(end, _)| *end);
        for (end, piece) in self.pieces.iter().skip(first) {
            if start >= range.end {
                break;
            }
            each(piece, range.start.max(start) - start..range.end.min(*end) - start);
            start = *end;
        }
    }
}

impl Piece {
    fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Self::Memory(octets) => Self::Memory(octets.slice(range)),
            Self::Stored { spool, start } => {
                Self::Stored { spool: Arc::clone(spool), start: start + range.start }
            }
        }
    }

    fn read(&self, range: Range<usize>, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Memory(octets) => {
                buffer.copy_from_slice(octets.get(range).unwrap_or_default());
                Ok(())
            }
            Self::Stored { spool, start } => spool.read(start + range.start, buffer),
        }
    }
}

impl Spool {
    fn read(&self, at: usize, buffer: &mut [u8]) -> io::Result<()> {
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone().into());
        }
        let at = u64::try_from(at).map_err(|_| ErrorKind::InvalidInput)?;
        self.file.read_exact_at(buffer, at).map_err(|error| {
            let shown = match error.kind() {
                ErrorKind::UnexpectedEof => "it is shorter than it was".to_owned(),
                _ => error.to_string(),
            };
            let message = format!("a spool file of the message can't be read: {shown}");
            let error = SpoolError::from(io::Error::new(error.kind(), message));
            self.failure.get_or_init(|| error).clone().into()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn stored(octets: &[u8]) -> Octets {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(octets).unwrap();
        Octets::from_file(Arc::new(file), octets.len())
    }

    fn collected(octets: &Octets) -> Vec<u8> {
        octets.chunks().map(|chunk| chunk.unwrap().to_vec()).collect::<Vec<_>>().concat()
    }

    #[test]
    fn a_file_that_can_not_be_read_stays_unreadable() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello").unwrap();
        let octets = Octets::from_file(Arc::new(file), 6);
        assert_eq!(octets.read(0..5).unwrap(), "hello");
        octets.check().unwrap();
        let error = octets.slice(3..99).read(0..99).unwrap_err();
        let expected = "a spool file of the message can't be read: it is shorter than it was";
        assert_eq!(error.to_string(), expected);
        assert_eq!(octets.check().unwrap_err().to_string(), expected);
        assert_eq!(octets.read(0..5).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(octets.chunks().count(), 1);
    }

    proptest! {
        /// Wherever octets are, they are the same.
        #[test]
        fn octets_are_the_same_everywhere(
            pieces in proptest::collection::vec(
                (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..20)), 0..5),
            (start, end) in (0usize..80, 0usize..80),
            (window, overlap) in (1usize..30, 0usize..9),
        ) {
            let expected = pieces.iter().map(|(_, octets)| &octets[..]).collect::<Vec<_>>().concat();
            let rope = Octets::concat(pieces.into_iter().map(|(in_file, octets)| match in_file {
                true => stored(&octets),
                false => octets.into(),
            }));
            let rope = rope.in_windows(window);
            prop_assert_eq!(&collected(&rope), &expected);
            let memory = Octets::from(expected.clone());
            let range = start..end.max(start);
            let (slice, same) = (rope.slice(range.clone()), memory.slice(range.clone()));
            prop_assert_eq!(&collected(&slice), same.in_memory().unwrap());
            prop_assert_eq!(&rope.read(range.clone()).unwrap(), same.in_memory().unwrap());
            prop_assert_eq!(collected(&Octets::concat([slice.clone(), slice.clone()])),
                [same.in_memory().unwrap().clone(), same.in_memory().unwrap().clone()].concat());
            let mut at = 0;
            for found in slice.windows(overlap) {
                let (start, octets) = found.unwrap();
                prop_assert!(start == 0 || start + overlap == at);
                at = start + octets.len();
                prop_assert_eq!(octets, same.read(start..at).unwrap());
            }
            prop_assert_eq!(at, slice.len());
        }
    }
}
