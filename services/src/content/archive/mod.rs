//! Members of archives.
//!
//! The readers of archive formats were not made for octets from enemies: whatever they panic on
//! counts as a broken archive, and all they hand out is read with a bound by the caller. They can't
//! tell a spool file that can't be read from a broken archive either, so the caller has to ask
//! [`Octets::check`].

mod cabinet;
mod gzip;
mod inflate;
mod rtf;
mod tnef;
mod zip;

use std::io::{self, Read};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::sniff::Archive;
use crate::mail::{Octets, Window};

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

/// Why no more members are handed out.
pub(super) enum Ended<B> {
    /// Whoever got them wants no more.
    Left(B),
    /// They are not all.
    Incomplete(Incomplete),
}

impl<B> From<Incomplete> for Ended<B> {
    fn from(incomplete: Incomplete) -> Self {
        Self::Incomplete(incomplete)
    }
}

impl<B, E: std::error::Error> From<E> for Ended<B> {
    fn from(error: E) -> Self {
        Incomplete::from(error).into()
    }
}

/// What comes of handing out members.
type Handed<B> = Result<(), Ended<B>>;

/// What gets the members.
type Each<'e, B> = &'e mut dyn FnMut(Member<'_>) -> Result<(), B>;

/// What looking into an archive costs besides unpacking, in octets that are searched or copied.
///
/// The reader of zip archives tries every end record with everything before it, and reading an
/// entry of a directory takes as long as searching some 800 octets; that of cabinets reads up to
/// 65,535 headers of a folder, whatever its size.
pub(super) fn cost(archive: Archive, octets: &Octets) -> io::Result<u64> {
    let mut window = Window::new(octets.clone());
    let (times, each) = match archive {
        Archive::Zip => zip::cost(&mut window)?,
        Archive::Cabinet => cabinet::cost(&mut window)?,
        Archive::Gzip | Archive::Tar | Archive::Tnef => (1, 0),
    };
    let [times, each] =
        [times, each.saturating_add(octets.len())].map(|n| u64::try_from(n).unwrap_or(u64::MAX));
    Ok(times.saturating_mul(each))
}

/// Hands out the members of an archive, at most about `most`. Without leave to look for its
/// directory, a zip archive is read without, and a cabinet not at all.
pub(super) fn members<B>(
    archive: Archive,
    octets: &Octets,
    most: usize,
    may_search: bool,
    each: Each<'_, B>,
) -> Handed<B> {
    match archive {
        Archive::Zip => zip::members(octets, most, may_search, each),
        Archive::Gzip => gzip::members(octets, each),
        Archive::Tar => tar_members(octets, each),
        Archive::Tnef => tnef::members(octets, each),
        Archive::Cabinet if may_search => cabinet::members(octets, most, each),
        Archive::Cabinet => Err(Incomplete::TooMany("folders").into()),
    }
}

impl<'r> Member<'r> {
    fn file(names: Vec<String>, content: &'r mut dyn Read) -> Self {
        Self::Files { content, files: vec![File { names, range: 0..usize::MAX }] }
    }
}

fn tar_members<B>(octets: &Octets, each: Each<'_, B>) -> Handed<B> {
    let mut archive = tar::Archive::new(octets.reader());
    // Each member takes 512 octets of the archive, so their number is bounded by its size.
    for entry in archive.entries()? {
        let mut entry = entry?;
        let names = vec![lossy(&entry.path_bytes()), lossy(&entry.header().path_bytes())];
        each(Member::file(distinct(names), &mut entry)).map_err(Ended::Left)?;
    }
    Ok(())
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

/// A little-endian number of two octets.
pub(super) fn read_u16(octets: &[u8], at: usize) -> Option<usize> {
    let field = octets.get(at..)?.first_chunk()?;
    Some(usize::from(u16::from_le_bytes(*field)))
}

/// A little-endian number of four octets.
pub(super) fn read_u32(octets: &[u8], at: usize) -> Option<usize> {
    let field = octets.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*field)).ok()
}
