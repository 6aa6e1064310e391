//! Members of archives.
//!
//! The readers of archive formats were not made for octets from enemies: whatever they panic on
//! counts as a broken archive, and all they hand out is read with a bound by the caller.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::ops::{ControlFlow, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};

use flate2::bufread::{DeflateDecoder, GzDecoder};
use memchr::memmem;
use zip::ZipArchive;
use zip::result::ZipError;

use super::sniff::Archive;

/// The most folders of a cabinet. Each costs up to 65,535 block headers, whatever its size; real
/// cabinets have a few.
const MOST_FOLDERS: usize = 256;
/// The longest name of a member that is kept; file systems end at 255.
const LONGEST_NAME: usize = 1_024;

/// What an archive holds.
pub(super) enum Member<'r> {
    /// One or more files in one run of octets.
    Files {
        /// The octets; read them with a bound.
        content: &'r mut dyn Read,
        /// The files, by where they stand in the octets.
        files: Vec<File>,
    },
    /// A file that only a password opens.
    Encrypted(Vec<String>),
    /// A file that can't be read.
    Unreadable(Vec<String>, String),
}

/// A file in an archive.
pub(super) struct File {
    /// Every name that some program might give it; may be empty.
    pub(super) names: Vec<String>,
    /// Where it stands; the end may be beyond the octets that there are.
    pub(super) range: Range<usize>,
}

/// Why the members that were handed out are not all.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incomplete {
    /// The archive is damaged or uses what is not supported.
    Broken(String),
    /// There are too many of these.
    TooMany(&'static str),
}

impl<E: std::error::Error> From<E> for Incomplete {
    fn from(error: E) -> Self {
        Self::Broken(error.to_string())
    }
}

/// What comes of handing out members.
type Handed<B> = Result<ControlFlow<B>, Incomplete>;

/// What looking into an archive costs besides unpacking, in octets that are searched or copied.
///
/// The reader of zip archives tries every end record with everything before it, and reading an
/// entry of a directory takes as long as searching some 800 octets; that of cabinets reads up to
/// 65,535 headers of a folder, whatever its size.
pub(super) fn cost(archive: Archive, octets: &[u8]) -> u64 {
    let (times, each) = match archive {
        Archive::Zip => {
            let entries = memmem::find_iter(octets, ENTRY).count();
            let ends = memmem::find_iter(octets, END).count();
            (ends, entries.saturating_mul(800))
        }
        Archive::Cabinet => {
            (read_u16(octets, 26).unwrap_or(0).min(MOST_FOLDERS), 20 * usize::from(u16::MAX))
        }
        Archive::Gzip | Archive::Tar => (1, 0),
    };
    let [times, each] =
        [times, each.saturating_add(octets.len())].map(|n| u64::try_from(n).unwrap_or(u64::MAX));
    times.saturating_mul(each)
}

/// Hands out the members of an archive, at most about `most`. Without leave to look for its
/// directory, a zip archive is read without, and a cabinet not at all.
pub(super) fn members<B>(
    archive: Archive,
    octets: &[u8],
    most: usize,
    may_search: bool,
    each: &mut dyn FnMut(Member<'_>) -> ControlFlow<B>,
) -> Handed<B> {
    match archive {
        Archive::Zip => zip_members(octets, most, may_search, each),
        Archive::Gzip => Ok(gzip_members(octets, each)),
        Archive::Tar => tar_members(octets, each),
        Archive::Cabinet if may_search => cabinet_members(octets, most, each),
        Archive::Cabinet => Err(Incomplete::TooMany("folders")),
    }
}

/// What a local header, an entry of the directory and the end record of a zip archive start with.
const LOCAL: &[u8] = b"PK\x03\x04";
const ENTRY: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";

impl<'r> Member<'r> {
    fn file(names: Vec<String>, content: &'r mut dyn Read) -> Self {
        Self::Files { content, files: vec![File { names, range: 0..usize::MAX }] }
    }
}

/// First what the directory lists, then whatever else there is: programs differ in which directory
/// they take, in which of two members of one name, and some don't need a directory at all.
fn zip_members<B>(
    octets: &[u8],
    most: usize,
    may_search: bool,
    each: &mut dyn FnMut(Member<'_>) -> ControlFlow<B>,
) -> Handed<B> {
    // The reader collects the whole directory, at some ten octets for every one in it.
    if memmem::find_iter(octets, ENTRY).take(most + 1).count() > most {
        return Err(Incomplete::TooMany("members"));
    }
    let mut seen = BTreeMap::new();
    let opened =
        if may_search { guarded(|| ZipArchive::new(Cursor::new(octets)))?.ok() } else { None };
    let is_listed = opened.is_some();
    if let Some(archive) = opened
        && let ControlFlow::Break(value) = listed_members(archive, octets, &mut seen, each)?
    {
        return Ok(ControlFlow::Break(value));
    }
    if let ControlFlow::Break(value) = unlisted_members(octets, &seen, each) {
        return Ok(ControlFlow::Break(value));
    }
    if !is_listed {
        return Err(Incomplete::Broken(
            "the directory of the zip archive can't be read".to_owned(),
        ));
    }
    Ok(ControlFlow::Continue(()))
}

/// Hands out the members of the directory; `seen` gets where they start, and their sizes.
fn listed_members<B>(
    mut archive: ZipArchive<Cursor<&[u8]>>,
    octets: &[u8],
    seen: &mut BTreeMap<usize, usize>,
    each: &mut dyn FnMut(Member<'_>) -> ControlFlow<B>,
) -> Handed<B> {
    for index in 0..archive.len() {
        let (mut names, encrypted, start, size) = {
            let file = guarded(|| archive.by_index_raw(index))??;
            let names = vec![file.name().to_owned(), lossy(file.name_raw())];
            (names, file.encrypted(), file.header_start(), file.compressed_size())
        };
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        seen.insert(start, usize::try_from(size).unwrap_or(usize::MAX));
        names.extend(Local::read(octets, start).map(|local| lossy(local.name)));
        let names = distinct(names);
        let flow = match guarded(|| archive.by_index(index)) {
            _ if encrypted => each(Member::Encrypted(names)),
            Ok(Ok(mut file)) => each(Member::file(names, &mut Guarded(&mut file))),
            Ok(Err(ZipError::UnsupportedArchive(why))) => {
                each(Member::Unreadable(names, why.to_owned()))
            }
            Ok(Err(error)) => each(Member::Unreadable(names, error.to_string())),
            Err(error) => each(Member::Unreadable(names, error.to_string())),
        };
        if flow.is_break() {
            return Ok(flow);
        }
    }
    // The reader keeps the last of several entries of the same name.
    let directory = usize::try_from(archive.central_directory_start()).unwrap_or(usize::MAX);
    let offset = usize::try_from(archive.offset()).unwrap_or(usize::MAX);
    let records = octets.get(directory..).unwrap_or_default();
    for at in memmem::find_iter(records, ENTRY) {
        let Some(start) = read_u32(records, at + 42) else { continue };
        let start = offset.saturating_add(start);
        if seen.contains_key(&start) {
            continue;
        }
        if let Some(local) = Local::read(octets, start) {
            let (flow, end) = local.hand_out(octets, each);
            if flow.is_break() {
                return Ok(flow);
            }
            seen.insert(start, end.saturating_sub(local.data));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Hands out the members that no directory lists, as programs find them that go from one local
/// header to the next.
fn unlisted_members<B>(
    octets: &[u8],
    seen: &BTreeMap<usize, usize>,
    each: &mut dyn FnMut(Member<'_>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let mut at = 0;
    while let Some(found) = octets.get(at..).and_then(|rest| memmem::find(rest, LOCAL)) {
        at += found;
        let Some(local) = Local::read(octets, at) else { break };
        let end = match seen.get(&at) {
            // The size in front of the member counts for such programs, if there is one.
            Some(_) if local.size > 0 => local.data.saturating_add(local.size),
            Some(size) => local.data.saturating_add(*size),
            None => {
                let (flow, end) = local.hand_out(octets, each);
                flow?;
                end
            }
        };
        at = end.max(at + 4);
    }
    ControlFlow::Continue(())
}

/// The header in front of a zip member.
struct Local<'a> {
    name: &'a [u8],
    encrypted: bool,
    method: u8,
    size: usize,
    data: usize,
}

impl<'a> Local<'a> {
    fn read(octets: &'a [u8], at: usize) -> Option<Self> {
        let header = octets.get(at..)?.get(..30)?;
        if !header.starts_with(LOCAL) {
            return None;
        }
        let (&flags, &method) = (header.get(6)?, header.get(8)?);
        let name_end = at + 30 + read_u16(header, 26)?;
        Some(Self {
            name: octets.get(at + 30..name_end)?,
            encrypted: flags & 1 != 0,
            method,
            size: read_u32(header, 18)?,
            data: name_end + read_u16(header, 28)?,
        })
    }

    /// Hands out the member, and tells where it ends at the latest.
    fn hand_out<B>(
        &self,
        octets: &[u8],
        each: &mut dyn FnMut(Member<'_>) -> ControlFlow<B>,
    ) -> (ControlFlow<B>, usize) {
        let names = distinct(vec![lossy(self.name)]);
        let data = octets.get(self.data..).unwrap_or_default();
        let declared = data.get(..self.size).filter(|_| self.size > 0);
        let end = self.data + declared.map_or(0, <[u8]>::len);
        let flow = match self.method {
            _ if self.encrypted => each(Member::Encrypted(names)),
            0 => each(Member::file(names, &mut declared.unwrap_or(data))),
            8 => {
                let mut content = DeflateDecoder::new(data);
                let flow = each(Member::file(names, &mut content));
                return (flow, self.data + usize::try_from(content.total_in()).unwrap_or(0));
            }
            method => each(Member::Unreadable(names, format!("compression method {method}"))),
        };
        (flow, end)
    }
}

fn gzip_members<B>(
    octets: &[u8],
    each: &mut dyn FnMut(Member<'_>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let name = GzDecoder::new(octets).header().and_then(|header| header.filename().map(lossy));
    let mut content = Gzip(GzDecoder::new(octets));
    each(Member::file(distinct(name.into_iter().collect()), &mut content))
}

/// The members of a gzip file one after the other, as RFC 1952 section 2.2 has it; what follows them
/// is passed over, as gzip does.
struct Gzip<'a>(GzDecoder<&'a [u8]>);

impl Read for Gzip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.0.read(buffer)?;
            let rest = *self.0.get_ref();
            if count > 0 || buffer.is_empty() || !rest.starts_with(b"\x1f\x8b\x08") {
                return Ok(count);
            }
            self.0 = GzDecoder::new(rest);
        }
    }
}

fn tar_members<B>(octets: &[u8], each: &mut dyn FnMut(Member<'_>) -> ControlFlow<B>) -> Handed<B> {
    let mut archive = tar::Archive::new(octets);
    // Each member takes 512 octets of the archive, so their number is bounded by its size.
    for entry in archive.entries()? {
        let mut entry = entry?;
        let names = vec![lossy(&entry.path_bytes()), lossy(&entry.header().path_bytes())];
        let flow = each(Member::file(distinct(names), &mut entry));
        if flow.is_break() {
            return Ok(flow);
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The reader finds files by name, the first of several of the same name, and goes through their
/// folder from its start for each: too slow for hostile cabinets, and blind. So it is given the
/// same cabinet with one file for each folder, all of it, and the files are cut from that.
fn cabinet_members<B>(
    octets: &[u8],
    most: usize,
    each: &mut dyn FnMut(Member<'_>) -> ControlFlow<B>,
) -> Handed<B> {
    let entries = cabinet_files(octets).ok_or_else(cut_short)?;
    if entries.len() > most {
        return Err(Incomplete::TooMany("members"));
    }
    let mut folders: Vec<u16> = entries.iter().map(|(folder, _)| *folder).collect();
    folders.sort_unstable();
    folders.dedup();
    if folders.len() > MOST_FOLDERS {
        return Err(Incomplete::TooMany("folders"));
    }
    for folder in folders {
        let whole = cabinet_of_folder(octets, folder).ok_or_else(cut_short)?;
        let mut cabinet = guarded(|| cab::Cabinet::new(Cursor::new(&whole[..])))??;
        let mut content = guarded(|| cabinet.read_file("f"))??;
        let files = entries.iter().filter(|(of, _)| *of == folder);
        let files = files
            .map(|(_, file)| File { names: file.names.clone(), range: file.range.clone() })
            .collect();
        let flow = each(Member::Files { content: &mut Guarded(&mut content), files });
        if flow.is_break() {
            return Ok(flow);
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The file entries of a cabinet with the folders they stand in ([MS-CAB] section 2.3).
fn cabinet_files(octets: &[u8]) -> Option<Vec<(u16, File)>> {
    let mut at = read_u32(octets, 16)?;
    let mut files = Vec::new();
    for _ in 0..read_u16(octets, 28)? {
        let (size, start) = (read_u32(octets, at)?, read_u32(octets, at + 4)?);
        let folder = u16::try_from(read_u16(octets, at + 8)?).ok()?;
        let name = octets.get(at + 16..)?;
        let length = memchr::memchr(0, name.get(..name.len().min(LONGEST_NAME))?)?;
        let names = distinct(vec![lossy(name.get(..length)?)]);
        files.push((folder, File { names, range: start..start.saturating_add(size) }));
        at += 16 + length + 1;
    }
    Some(files)
}

/// The same cabinet with one file, `f`, that is the whole of a folder.
fn cabinet_of_folder(octets: &[u8], folder: u16) -> Option<Vec<u8>> {
    let mut cabinet = octets.to_vec();
    let table = u32::try_from(cabinet.len()).ok()?;
    cabinet.get_mut(16..20)?.copy_from_slice(&table.to_le_bytes());
    cabinet.get_mut(28..30)?.copy_from_slice(&1u16.to_le_bytes());
    cabinet.extend(i32::MAX.to_le_bytes());
    cabinet.extend(0u32.to_le_bytes());
    cabinet.extend(folder.to_le_bytes());
    cabinet.extend([0; 6]);
    cabinet.extend(b"f\0");
    Some(cabinet)
}

fn cut_short() -> Incomplete {
    Incomplete::Broken("the directory of the cabinet is cut short".to_owned())
}

/// A reader whose panics are errors.
struct Guarded<'r, R>(&'r mut R);

impl<R: Read> Read for Guarded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        guarded(|| self.0.read(buffer))?
    }
}

fn guarded<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "its reader gave up"))
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name.get(..LONGEST_NAME).unwrap_or(name)).into_owned()
}

fn distinct(names: Vec<String>) -> Vec<String> {
    let mut distinct: Vec<String> = Vec::new();
    for name in names {
        if !name.is_empty() && !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct
}

fn read_u16(octets: &[u8], at: usize) -> Option<usize> {
    let field = octets.get(at..)?.first_chunk()?;
    Some(usize::from(u16::from_le_bytes(*field)))
}

fn read_u32(octets: &[u8], at: usize) -> Option<usize> {
    let field = octets.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*field)).ok()
}
