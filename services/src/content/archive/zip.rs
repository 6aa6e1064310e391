//! Members of zip archives.

use std::collections::BTreeMap;
use std::io::{self, BufReader};

use memchr::memmem::Finder;
use zip::{CompressionMethod, ZipArchive};

use super::inflate::{Checked, Inflate};
use super::{Each, Ended, Handed, Incomplete, Member};
use super::{Guarded, distinct, guarded, lossy, read_u16, read_u32};
use crate::mail::{Octets, Reader, Window};

/// What a local header, an entry of the directory and the end record of a zip archive start with.
const LOCAL: &[u8] = b"PK\x03\x04";
const ENTRY: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";

/// How often everything is searched, and what the entries cost.
pub(super) fn cost(window: &mut Window) -> io::Result<(usize, usize)> {
    let entries = window.count(ENTRY, usize::MAX)?;
    let ends = window.count(END, usize::MAX)?;
    Ok((ends, entries.saturating_mul(800)))
}

/// First what the directory lists, then whatever else there is: programs differ in which directory
/// they take, in which of two members of one name, and some don't need a directory at all.
pub(super) fn members<B>(
    octets: &Octets,
    most: usize,
    may_search: bool,
    each: Each<'_, B>,
) -> Handed<B> {
    // The reader collects the whole directory, at some ten octets for every one in it.
    if Window::new(octets.clone()).count(ENTRY, most.saturating_add(1))? > most {
        return Err(Incomplete::TooMany("members").into());
    }
    let mut seen = BTreeMap::new();
    let opened = if may_search { guarded(|| ZipArchive::new(octets.reader()))?.ok() } else { None };
    let is_listed = opened.is_some();
    if let Some(archive) = opened {
        listed(archive, octets, &mut seen, each)?;
    }
    unlisted(octets, &seen, each)?;
    if !is_listed {
        let why = "the directory of the zip archive can't be read".to_owned();
        return Err(Incomplete::Broken(why).into());
    }
    Ok(())
}

/// Hands out the members of the directory; `seen` gets where they start, and their sizes.
fn listed<B>(
    mut archive: ZipArchive<Reader>,
    octets: &Octets,
    seen: &mut BTreeMap<usize, usize>,
    each: Each<'_, B>,
) -> Handed<B> {
    let mut window = Window::new(octets.clone());
    for index in 0..archive.len() {
        let mut names;
        let (encrypted, start, size, method, crc) = {
            let file = guarded(|| archive.by_index_raw(index))??;
            names = vec![file.name().to_owned(), lossy(file.name_raw())];
            let (start, size) = (file.header_start(), file.compressed_size());
            (file.encrypted(), start, size, file.compression(), file.crc32())
        };
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        seen.insert(start, usize::try_from(size).unwrap_or(usize::MAX));
        names.extend(Local::read(&mut window, start)?.map(|local| local.name));
        let names = distinct(names);
        let handed = match guarded(|| archive.by_index_raw(index)) {
            _ if encrypted => each(Member::Encrypted(names)),
            Ok(Ok(mut file)) => {
                let packed = BufReader::new(Guarded(&mut file));
                match method {
                    CompressionMethod::Stored => {
                        each(Member::file(names, &mut Checked::new(packed, crc)))
                    }
                    CompressionMethod::Deflated => {
                        each(Member::file(names, &mut Checked::new(Inflate::new(packed), crc)))
                    }
                    method => {
                        each(Member::Unreadable(names, format!("compression method {method}")))
                    }
                }
            }
            Ok(Err(error)) => each(Member::Unreadable(names, error.to_string())),
            Err(error) => each(Member::Unreadable(names, error.to_string())),
        };
        handed.map_err(Ended::Left)?;
    }
    // The reader keeps the last of several entries of the same name.
    let directory = usize::try_from(archive.central_directory_start()).unwrap_or(usize::MAX);
    let offset = usize::try_from(archive.offset()).unwrap_or(usize::MAX);
    let entry = Finder::new(ENTRY);
    let mut records = Window::new(octets.slice(directory..octets.len()));
    let mut next = 0;
    while let Some(at) = records.find(&entry, next)? {
        next = at + ENTRY.len();
        let Some(start) = read_u32(records.at(at, 46)?, 42) else { continue };
        let start = offset.saturating_add(start);
        if seen.contains_key(&start) {
            continue;
        }
        if let Some(local) = Local::read(&mut window, start)? {
            let end = local.hand_out(octets, each).map_err(Ended::Left)?;
            seen.insert(start, end.saturating_sub(local.data));
        }
    }
    Ok(())
}

/// Hands out the members that no directory lists, as programs find them that go from one local
/// header to the next.
fn unlisted<B>(octets: &Octets, seen: &BTreeMap<usize, usize>, each: Each<'_, B>) -> Handed<B> {
    let header = Finder::new(LOCAL);
    let mut window = Window::new(octets.clone());
    let mut next = 0;
    while let Some(at) = window.find(&header, next)? {
        let Some(local) = Local::read(&mut window, at)? else { break };
        let end = match seen.get(&at) {
            // The size in front of the member counts for such programs, if there is one.
            Some(_) if local.size > 0 => local.data.saturating_add(local.size),
            Some(size) => local.data.saturating_add(*size),
            None => local.hand_out(octets, each).map_err(Ended::Left)?,
        };
        next = end.max(at + 4);
    }
    Ok(())
}

/// The header in front of a zip member.
struct Local {
    name: String,
    encrypted: bool,
    method: u8,
    size: usize,
    data: usize,
}

impl Local {
    /// The header that starts at `at`, if one does.
    fn read(window: &mut Window, at: usize) -> io::Result<Option<Self>> {
        let header = window.at(at, 30)?;
        let Some(name) = header.starts_with(LOCAL).then(|| read_u16(header, 26)).flatten() else {
            return Ok(None);
        };
        Ok(Self::parse(window.at(at, 30 + name)?, at))
    }

    fn parse(header: &[u8], at: usize) -> Option<Self> {
        let (&flags, &method) = (header.get(6)?, header.get(8)?);
        let name_end = 30 + read_u16(header, 26)?;
        Some(Self {
            name: lossy(header.get(30..name_end)?),
            encrypted: flags & 1 != 0,
            method,
            size: read_u32(header, 18)?,
            data: at + name_end + read_u16(header, 28)?,
        })
    }

    /// Hands out the member, and tells where it ends at the latest.
    fn hand_out<B>(&self, octets: &Octets, each: Each<'_, B>) -> Result<usize, B> {
        let names = distinct(vec![self.name.clone()]);
        let data = octets.slice(self.data..octets.len());
        let is_declared = (1..=data.len()).contains(&self.size);
        let declared = data.slice(0..if is_declared { self.size } else { data.len() });
        match self.method {
            _ if self.encrypted => each(Member::Encrypted(names))?,
            0 => each(Member::file(names, &mut declared.reader()))?,
            8 => {
                let mut content = Inflate::new(data.reader());
                each(Member::file(names, &mut content))?;
                return Ok(self.data + usize::try_from(content.consumed()).unwrap_or(0));
            }
            method => each(Member::Unreadable(names, format!("compression method {method}")))?,
        }
        Ok(self.data + if is_declared { self.size } else { 0 })
    }
}
