//! Members of archives.
//!
//! The readers of archive formats were not made for octets from enemies: whatever they panic on
//! counts as a broken archive, and all they hand out is read with a bound by the caller.

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

/// Hands out the members of an archive, at most about `most`.
pub(super) fn members<B>(
    archive: Archive,
    octets: &[u8],
    most: usize,
    each: &mut dyn FnMut(Member<'_>) -> ControlFlow<B>,
) -> Handed<B> {
    match archive {
        Archive::Zip => zip_members(octets, most, each),
        Archive::Gzip => Ok(gzip_members(octets, each)),
        Archive::Tar => tar_members(octets, each),
        Archive::Cabinet => cabinet_members(octets, most, each),
    }
}

impl<'r> Member<'r> {
    fn file(names: Vec<String>, content: &'r mut dyn Read) -> Self {
        Self::Files { content, files: vec![File { names, range: 0..usize::MAX }] }
    }
}

fn zip_members<B>(
    octets: &[u8],
    most: usize,
    each: &mut dyn FnMut(Member<'_>) -> ControlFlow<B>,
) -> Handed<B> {
    // The reader collects the whole directory, at some ten octets for every one in it.
    if memmem::find_iter(octets, b"PK\x01\x02").take(most + 1).count() > most {
        return Err(Incomplete::TooMany("members"));
    }
    let opened = guarded(|| ZipArchive::new(Cursor::new(octets)));
    let Ok(Ok(mut archive)) = opened else { return local_members(octets, each) };
    let mut seen = Vec::with_capacity(archive.len());
    for index in 0..archive.len() {
        let (mut names, encrypted, start) = {
            let file = guarded(|| archive.by_index_raw(index))??;
            let names = vec![file.name().to_owned(), lossy(file.name_raw())];
            (names, file.encrypted(), usize::try_from(file.header_start()).unwrap_or(usize::MAX))
        };
        seen.push(start);
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
    // The reader keeps one of several members of the same name, a user's program perhaps another.
    seen.sort_unstable();
    let directory = usize::try_from(archive.central_directory_start()).unwrap_or(usize::MAX);
    let offset = usize::try_from(archive.offset()).unwrap_or(usize::MAX);
    let records = octets.get(directory..).unwrap_or_default();
    for at in memmem::find_iter(records, b"PK\x01\x02") {
        let Some(start) = read_u32(records, at + 42).map(|start| offset.saturating_add(start))
        else {
            continue;
        };
        let Err(place) = seen.binary_search(&start) else { continue };
        if let Some(local) = Local::read(octets, start) {
            seen.insert(place, start);
            if let (ControlFlow::Break(value), _) = local.hand_out(octets, each) {
                return Ok(ControlFlow::Break(value));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The members of a zip archive whose directory is missing or broken: many programs repair these.
fn local_members<B>(
    octets: &[u8],
    each: &mut dyn FnMut(Member<'_>) -> ControlFlow<B>,
) -> Handed<B> {
    let mut at = 0;
    while let Some(found) = memmem::find(octets.get(at..).unwrap_or_default(), b"PK\x03\x04") {
        at += found;
        let Some(local) = Local::read(octets, at) else { break };
        let (flow, end) = local.hand_out(octets, each);
        if flow.is_break() {
            return Ok(flow);
        }
        at = end.max(at + 4);
    }
    Err(Incomplete::Broken("the directory of the zip archive can't be read".to_owned()))
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
        if !header.starts_with(b"PK\x03\x04") {
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
