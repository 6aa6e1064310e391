//! The entries and streams of OLE compound files ([MS-CFB]).
//!
//! Entries are found by their octets, wherever they stand: programs repair files whose chains are broken, so that what no
//! chain leads to counts too. Chains are followed for the octets of a stream alone. Nothing is kept but one
//! entry at a time, the list of sectors with the allocation table, and the stretches of one stream.

use std::io;
use std::ops::Range;

use super::archive::{read_u16, read_u32};
use crate::mail::{Octets, Window};

/// What every compound file starts with.
const MAGIC: &[u8] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1";
/// Octets of an entry (section 2.6.1).
const ENTRY: usize = 128;
/// What entries are aligned to: a directory in a stream of another file may begin at a small sector.
const ALIGNMENT: usize = 64;
/// Octets of a small sector (section 2.2).
const SMALL_SECTOR: usize = 64;
/// Streams below this size stand in small sectors (section 2.2).
const SMALL_STREAM: usize = 4_096;
/// Sectors of the allocation table that the header names (section 2.2).
const NAMED: usize = 109;
/// Stretches of one stream. Worst case: 48 octets each, 3 MiB; what is in more pieces is read up to there.
const MOST_STRETCHES: usize = 65_536;

/// A compound file.
pub(super) struct Compound {
    octets: Octets,
    window: Window,
    /// Octets of a sector.
    sector: usize,
    /// The sectors of the allocation table, four octets for each of its 128 or 1,024 entries.
    table: Vec<usize>,
}

/// An entry of a directory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) is_stream: bool,
    start: usize,
    size: usize,
}

/// Whether a compound file starts with these octets.
pub(super) fn is_compound(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

impl Compound {
    /// A file that starts as one. What its header says may be wrong: then its streams are other octets, or none.
    pub(super) fn new(octets: &Octets) -> io::Result<Self> {
        let mut window = Window::new(octets.clone());
        // Version 3 has sectors of 512 octets, version 4 of 4,096.
        let sector = match read_u16(window.at(0, 512)?, 30) {
            Some(12) => 4_096,
            _ => 512,
        };
        let mut file = Self { octets: octets.clone(), window, sector, table: Vec::new() };
        file.read_table()?;
        Ok(file)
    }

    /// Where the allocation table stands (sections 2.2 and 2.5).
    fn read_table(&mut self) -> io::Result<()> {
        let header = self.window.at(0, 512)?;
        let named: Vec<usize> =
            (0..NAMED).filter_map(|nth| read_u32(header, 76 + 4 * nth)).collect();
        let mut more = read_u32(header, 68).unwrap_or(usize::MAX);
        self.table = named;
        // Sectors with more of them; the last four octets of each say where the next is. There are no more than the
        // file has room for what they name: at 256 MiB the list takes 34 KB.
        let entries = self.sector / 4;
        let most = self.octets.len() / (self.sector * entries) / (entries - 1) + 1;
        for _ in 0..most {
            let Some(at) = self.place(more) else { break };
            let content = self.window.at(at, self.sector)?;
            let last = self.sector / 4 - 1;
            let entries = (0..last).filter_map(|nth| read_u32(content, 4 * nth));
            self.table.extend(entries);
            more = read_u32(content, 4 * last).unwrap_or(usize::MAX);
        }
        Ok(())
    }

    /// Shows every entry to `each`; `Some` ends it.
    pub(super) fn find<T>(
        &self,
        mut each: impl FnMut(Entry) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let mut window = Window::new(self.octets.clone());
        let mut at = 512;
        while at + ENTRY <= self.octets.len() {
            if let Some(entry) = Entry::parse(window.at(at, ENTRY)?)
                && let Some(found) = each(entry)
            {
                return Ok(Some(found));
            }
            at += ALIGNMENT;
        }
        Ok(None)
    }

    /// The octets of a stream, as far as its chain goes.
    pub(super) fn stream(&mut self, entry: &Entry) -> io::Result<Octets> {
        let whole = match entry.size < SMALL_STREAM {
            true => self.small_stream(entry.start)?,
            false => self.chain(entry.start)?,
        };
        Ok(whole.slice(0..entry.size))
    }

    /// Small sectors stand in the stream of the root entry, the first in the directory; they have a table of
    /// their own (section 2.4).
    fn small_stream(&mut self, start: usize) -> io::Result<Octets> {
        let header = self.window.at(0, 512)?;
        let (Some(directory), Some(table)) = (read_u32(header, 48), read_u32(header, 60)) else {
            return Ok(Octets::default());
        };
        let Some(root) = self.place(directory) else { return Ok(Octets::default()) };
        let Some(root) = Entry::parse(self.window.at(root, ENTRY)?) else {
            return Ok(Octets::default());
        };
        let content = self.chain(root.start)?;
        let mut table = Window::new(self.chain(table)?);
        let next = |sector: usize| {
            let at = sector.saturating_mul(4);
            Ok(read_u32(table.at(at, 4)?, 0))
        };
        let place = |sector: usize| sector.checked_mul(SMALL_SECTOR);
        let stretches = follow(start, SMALL_SECTOR, content.len(), place, next)?;
        Ok(Octets::concat(stretches.into_iter().map(|range| content.slice(range))))
    }

    /// The octets of a chain of sectors.
    fn chain(&mut self, start: usize) -> io::Result<Octets> {
        let (sector, end) = (self.sector, self.octets.len());
        let (table, window) = (&self.table, &mut self.window);
        let next = |number: usize| {
            let part = table.get(number / (sector / 4));
            let Some(at) = part.and_then(|part| place(*part, sector, end)) else { return Ok(None) };
            Ok(read_u32(window.at(at + number % (sector / 4) * 4, 4)?, 0))
        };
        let stretches = follow(start, sector, end, |number| place(number, sector, end), next)?;
        Ok(Octets::concat(stretches.into_iter().map(|range| self.octets.slice(range))))
    }

    fn place(&self, number: usize) -> Option<usize> {
        place(number, self.sector, self.octets.len())
    }
}

/// Where a sector stands: the header takes the place of the one before the first.
fn place(number: usize, sector: usize, end: usize) -> Option<usize> {
    number.checked_add(1)?.checked_mul(sector).filter(|at| *at < end)
}

/// The stretches of a chain. One that goes in circles ends where it has had as many sectors as there can be.
fn follow(
    start: usize,
    sector: usize,
    end: usize,
    place: impl Fn(usize) -> Option<usize>,
    mut next: impl FnMut(usize) -> io::Result<Option<usize>>,
) -> io::Result<Vec<Range<usize>>> {
    let mut stretches: Vec<Range<usize>> = Vec::new();
    let mut number = start;
    for _ in 0..=end / sector {
        let Some(at) = place(number).filter(|at| *at < end) else { break };
        let count = stretches.len();
        match stretches.last_mut() {
            Some(last) if last.end == at => last.end = at + sector,
            _ if count == MOST_STRETCHES => break,
            _ => stretches.push(at..at + sector),
        }
        let Some(following) = next(number)? else { break };
        number = following;
    }
    Ok(stretches)
}

impl Entry {
    /// The entry that these octets are, if they look like one: a name with its length, one of the types
    /// that are in use, and one of two colours (section 2.6.1).
    fn parse(octets: &[u8]) -> Option<Self> {
        let length = read_u16(octets, 64).filter(|length| (4..=64).contains(length))?;
        let (&kind, &colour) = (octets.get(66)?, octets.get(67)?);
        if !matches!(kind, 1 | 2 | 5) || colour > 1 || length % 2 != 0 {
            return None;
        }
        let units = (0..length / 2 - 1).filter_map(|nth| read_u16(octets, 2 * nth));
        let units = units.filter_map(|unit| u16::try_from(unit).ok());
        let name = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER));
        Some(Self {
            name: name.collect(),
            is_stream: kind == 2,
            start: read_u32(octets, 116)?,
            size: read_u32(octets, 120)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{compound, compound_of};

    fn file(octets: Vec<u8>) -> Compound {
        let octets = Octets::from(octets);
        assert!(is_compound(&octets.read(0..8).unwrap()));
        Compound::new(&octets.in_windows(100)).unwrap()
    }

    fn stream(file: &mut Compound, name: &str) -> Vec<u8> {
        let entry = file.find(|entry| (entry.name == name).then_some(entry)).unwrap().unwrap();
        assert!(entry.is_stream);
        let octets = file.stream(&entry).unwrap();
        octets.read(0..octets.len()).unwrap().to_vec()
    }

    fn content(count: usize) -> Vec<u8> {
        (0..count).map(|n| (n * 7 % 251) as u8).collect()
    }

    #[test]
    fn streams_of_every_size_are_read_as_they_were_written() {
        let sizes = [0, 1, 63, 64, 65, 4_095, 4_096, 4_097, 100_000];
        let names: Vec<String> = sizes.iter().map(|size| format!("/s{size}")).collect();
        let contents: Vec<Vec<u8>> = sizes.iter().map(|size| content(*size)).collect();
        let streams: Vec<(&str, &[u8])> =
            names.iter().zip(&contents).map(|(name, content)| (&name[..], &content[..])).collect();
        for version in [cfb::Version::V3, cfb::Version::V4] {
            let mut file = file(compound_of(version, &streams));
            for (name, content) in &streams {
                assert!(stream(&mut file, &name[1..]) == *content, "{version:?} {name}");
            }
        }
    }

    /// With more than 109 sectors of the allocation table, which the header has room for.
    #[test]
    fn a_large_file_has_sectors_that_name_sectors() {
        let large = content(30_000_000);
        let mut file = file(compound(&[("/a", &large), ("/b", &large[..70_000])]));
        assert!(stream(&mut file, "b") == large[..70_000]);
        assert!(stream(&mut file, "a") == large);
    }

    #[test]
    fn a_chain_that_goes_in_circles_ends() {
        let circle = |_: usize| Ok(Some(0));
        let stretches = follow(0, 512, 10_240, |number| Some(number * 512), circle).unwrap();
        assert_eq!(stretches.len(), 21);
        let ping_pong = |number: usize| Ok(Some(if number == 0 { 5 } else { 0 }));
        let most = MOST_STRETCHES * 512 * 2;
        let stretches = follow(0, 512, most, |number| Some(number * 512), ping_pong).unwrap();
        assert_eq!(stretches.len(), MOST_STRETCHES);
    }

    #[test]
    fn what_no_chain_leads_to_is_found() {
        let mut octets = compound(&[("/Macros/VBA/dir", b"x")]);
        // The header says nothing of use any more.
        octets[8..512].fill(0xff);
        let names = |octets: &[u8]| {
            let mut names = Vec::new();
            let file = file(octets.to_vec());
            file.find(|entry| {
                names.push(entry.name);
                None::<()>
            })
            .unwrap();
            names
        };
        assert_eq!(names(&octets), ["Root Entry", "Macros", "VBA", "dir"]);
        assert_eq!(names(&octets[..600]), [] as [&str; 0]);
    }
}
