//! Reading octets from place to place, a window of a file at a time.

use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::ops::Range;

use bytes::Bytes;
use memchr::memmem::Finder;

use super::octets::Octets;

/// A view of some of the octets that moves: all of them if they are in memory.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    octets: Octets,
    start: usize,
    content: Bytes,
    /// Octets that were read the last time.
    length: usize,
}

/// Octets that are read after a jump; who goes on from there gets twice as many each time.
const FIRST: usize = 16 * 1024;

impl Window {
    pub(crate) fn new(octets: Octets) -> Self {
        let content = octets.in_memory().cloned().unwrap_or_default();
        Self { octets, start: 0, content, length: 0 }
    }

    /// How many octets there are in all.
    pub(crate) fn len(&self) -> usize {
        self.octets.len()
    }

    /// Octets from `at` on: at least `least`, unless there are no more, and as many as are at hand.
    pub(crate) fn at(&mut self, at: usize, least: usize) -> io::Result<&[u8]> {
        let end = self.octets.len();
        let needed = at.saturating_add(least.max(1)).min(end);
        if at < self.start || needed > self.start + self.content.len() {
            let ahead = self.start + self.content.len();
            let is_near = (self.start.saturating_sub(self.length)..=ahead).contains(&at);
            let length = if is_near { (2 * self.length).max(FIRST) } else { FIRST };
            let length = length.min(self.octets.window());
            self.length = length;
            // Some readers go backwards.
            let back = if at < self.start { length / 2 } else { 0 };
            let start = at.min(end).saturating_sub(back);
            self.content = self.octets.read(start..needed.max(start.saturating_add(length)))?;
            self.start = start;
        }
        Ok(self.content.get(at - self.start..).unwrap_or_default())
    }

    /// The octet at `at`.
    pub(crate) fn octet(&mut self, at: usize) -> io::Result<Option<u8>> {
        Ok(self.at(at, 1)?.first().copied())
    }

    /// Where the needle, which is not empty, stands next from `from` on.
    pub(crate) fn find(&mut self, needle: &Finder<'_>, from: usize) -> io::Result<Option<usize>> {
        let length = needle.needle().len();
        let mut at = from;
        while at.saturating_add(length) <= self.len() {
            let here = self.at(at, length)?;
            if let Some(found) = needle.find(here) {
                return Ok(Some(at + found));
            }
            at += here.len() + 1 - length;
        }
        Ok(None)
    }

    /// How often the needle stands there, without overlaps; at most `most`.
    pub(crate) fn count(&mut self, needle: &[u8], most: usize) -> io::Result<usize> {
        let finder = Finder::new(needle);
        let (mut count, mut at) = (0, 0);
        while count < most
            && let Some(found) = self.find(&finder, at)?
        {
            count += 1;
            at = found + needle.len();
        }
        Ok(count)
    }
}

/// Reads octets from a place of its own on; other readers of the same octets have theirs.
#[derive(Clone, Debug)]
pub struct Reader {
    window: Window,
    at: usize,
}

impl Reader {
    pub(super) fn new(octets: Octets) -> Self {
        Self { window: Window::new(octets), at: 0 }
    }

    /// The next octets: at least `least`, unless there are no more.
    pub(crate) fn peek(&mut self, least: usize) -> io::Result<&[u8]> {
        self.window.at(self.at, least)
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let octets = self.fill_buf()?;
        let count = octets.len().min(buffer.len());
        let (head, _) = buffer.split_at_mut(count);
        head.copy_from_slice(octets.get(..count).unwrap_or_default());
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Reader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.peek(1)
    }

    fn consume(&mut self, count: usize) {
        self.at = self.at.saturating_add(count);
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (Some(0), i64::try_from(at).ok()),
            SeekFrom::End(by) => (i64::try_from(self.window.len()).ok(), Some(by)),
            SeekFrom::Current(by) => (i64::try_from(self.at).ok(), Some(by)),
        };
        let at = from.zip(by).and_then(|(from, by)| from.checked_add(by));
        let at = at.and_then(|at| usize::try_from(at).ok()).ok_or(io::ErrorKind::InvalidInput)?;
        self.at = at;
        u64::try_from(at).map_err(|_| io::ErrorKind::InvalidInput.into())
    }
}

/// The lines of octets. Of a line only so much is kept as anything in mail needs.
pub(crate) struct Lines {
    window: Window,
    at: usize,
    /// A line that goes over the edge of a window.
    joined: Vec<u8>,
}

/// The octets of a line that are kept: RFC 5322 section 2.1.1 allows 998.
const LONGEST_LINE: usize = 4 * 1024;

impl Lines {
    pub(crate) fn new(octets: Octets) -> Self {
        Self { window: Window::new(octets), at: 0, joined: Vec::new() }
    }

    /// The next line, cut, without LF; and the range that it takes with its line end.
    pub(crate) fn next(&mut self) -> io::Result<Option<(Range<usize>, &[u8])>> {
        let start = self.at;
        self.joined.clear();
        loop {
            let at = self.at;
            let rest = self.window.at(at, 1)?;
            if rest.is_empty() && at == start {
                return Ok(None);
            }
            let end = memchr::memchr(b'\n', rest);
            let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
            let is_whole = end.is_some() || rest.is_empty();
            self.at += line.len() + usize::from(end.is_some());
            if is_whole && at == start {
                let length = line.len().min(LONGEST_LINE);
                let line = self.window.at(start, length)?.get(..length).unwrap_or_default();
                return Ok(Some((start..self.at, line)));
            }
            let room = LONGEST_LINE.saturating_sub(self.joined.len());
            self.joined.extend_from_slice(line.get(..room).unwrap_or(line));
            if is_whole {
                return Ok(Some((start..self.at, &self.joined)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(octets: Octets) -> Vec<(Range<usize>, Vec<u8>)> {
        let mut lines = Lines::new(octets);
        std::iter::from_fn(|| lines.next().unwrap().map(|(range, line)| (range, line.to_vec())))
            .collect()
    }

    #[test]
    fn lines_are_cut() {
        let text = [&[b'x'; 5_000][..], b"\n\ny"].concat();
        let found = lines(text.clone().into());
        let shown: Vec<_> = found.iter().map(|(range, line)| (range.clone(), line.len())).collect();
        assert_eq!(shown, [(0..5_001, LONGEST_LINE), (5_001..5_002, 0), (5_002..5_003, 1)]);
        assert_eq!(lines(Octets::from(text).in_windows(700)), found);
    }

    proptest! {
        #[test]
        fn windows_change_nothing(
            octets in proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'\n')], 0..60),
            window in 1usize..20,
            needle in "[ab]{1,4}",
            from in 0usize..70,
        ) {
            let stored = Octets::from(octets.clone()).in_windows(window);
            let finder = Finder::new(needle.as_bytes());
            let found = Window::new(stored.clone()).find(&finder, from).unwrap();
            let expected = octets.get(from..).and_then(|rest| finder.find(rest)).map(|at| from + at);
            prop_assert_eq!(found, expected);
            let count = memchr::memmem::find_iter(&octets, needle.as_bytes()).count();
            prop_assert_eq!(Window::new(stored.clone()).count(needle.as_bytes(), 99).unwrap(), count);
            prop_assert_eq!(lines(stored.clone()), lines(octets.clone().into()));
            let mut text = Vec::new();
            let mut reader = stored.reader();
            reader.seek(SeekFrom::Start(from as u64)).unwrap();
            reader.read_to_end(&mut text).unwrap();
            prop_assert_eq!(&text[..], octets.get(from..).unwrap_or_default());
            prop_assert_eq!(reader.seek(SeekFrom::End(-1)).ok(), (octets.len() as u64).checked_sub(1));
        }
    }
}
