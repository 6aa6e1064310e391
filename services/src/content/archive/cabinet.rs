//! Members of Microsoft cabinets.

use std::io;

use super::{Each, Ended, File, Guarded, Handed, Incomplete, LONGEST_NAME, Member};
use super::{distinct, guarded, lossy, read_u16, read_u32};
use crate::mail::{Octets, Window};

/// The most folders of a cabinet. Each costs up to 65,535 block headers, whatever its size; real
/// cabinets have a few.
const MOST_FOLDERS: usize = 256;

/// The octets of a cabinet that are there whatever is in it.
const HEADER: usize = 36;

/// How often everything is searched, and what the block headers cost.
pub(super) fn cost(window: &mut Window) -> io::Result<(usize, usize)> {
    let folders = read_u16(window.at(0, HEADER)?, 26).unwrap_or(0).min(MOST_FOLDERS);
    Ok((folders, 20 * usize::from(u16::MAX)))
}

/// The reader finds files by name, the first of several of the same name, and goes through their
/// folder from its start for each: too slow for hostile cabinets, and blind. So it is given the
/// same cabinet with one file for each folder, all of it, and the files are cut from that.
pub(super) fn members<B>(octets: &Octets, most: usize, each: Each<'_, B>) -> Handed<B> {
    let cut_short = || Incomplete::Broken("the directory of the cabinet is cut short".to_owned());
    let mut window = Window::new(octets.clone());
    if read_u16(window.at(0, HEADER)?, 28).ok_or_else(cut_short)? > most {
        return Err(Incomplete::TooMany("members").into());
    }
    let entries = files(&mut window)?.ok_or_else(cut_short)?;
    let mut folders: Vec<u16> = entries.iter().map(|(folder, _)| *folder).collect();
    folders.sort_unstable();
    folders.dedup();
    if folders.len() > MOST_FOLDERS {
        return Err(Incomplete::TooMany("folders").into());
    }
    for folder in folders {
        let whole = cabinet_of_folder(octets, folder)?.ok_or_else(cut_short)?;
        let mut cabinet = guarded(|| cab::Cabinet::new(whole.reader()))??;
        let mut content = guarded(|| cabinet.read_file("f"))??;
        let files = entries.iter().filter(|(of, _)| *of == folder);
        let files = files
            .map(|(_, file)| File { names: file.names.clone(), range: file.range.clone() })
            .collect();
        each(Member::Files { content: &mut Guarded(&mut content), files }).map_err(Ended::Left)?;
    }
    Ok(())
}

/// The file entries of a cabinet with the folders they stand in ([MS-CAB] section 2.3); `None` if
/// they are cut short.
fn files(window: &mut Window) -> io::Result<Option<Vec<(u16, File)>>> {
    let header = window.at(0, HEADER)?;
    let Some((mut at, count)) = read_u32(header, 16).zip(read_u16(header, 28)) else {
        return Ok(None);
    };
    let mut files = Vec::new();
    for _ in 0..count {
        let Some((folder, file, length)) = file(window.at(at, 16 + LONGEST_NAME)?) else {
            return Ok(None);
        };
        files.push((folder, file));
        at += length;
    }
    Ok(Some(files))
}

/// The file entry that these octets start with, its folder, and its length.
fn file(entry: &[u8]) -> Option<(u16, File, usize)> {
    let (size, start) = (read_u32(entry, 0)?, read_u32(entry, 4)?);
    let folder = u16::try_from(read_u16(entry, 8)?).ok()?;
    let name = entry.get(16..)?;
    let length = memchr::memchr(0, name.get(..name.len().min(LONGEST_NAME))?)?;
    let names = distinct(vec![lossy(name.get(..length)?)]);
    let file = File { names, range: start..start.saturating_add(size) };
    Some((folder, file, 16 + length + 1))
}

/// The same cabinet with one file, `f`, that is the whole of a folder.
fn cabinet_of_folder(octets: &Octets, folder: u16) -> io::Result<Option<Octets>> {
    let Ok(table) = u32::try_from(octets.len()) else { return Ok(None) };
    let mut header = octets.read(0..HEADER)?.to_vec();
    let fields = [(16..20, &table.to_le_bytes()[..]), (28..30, &1u16.to_le_bytes())];
    for (place, value) in fields {
        let Some(field) = header.get_mut(place) else { return Ok(None) };
        field.copy_from_slice(value);
    }
    let mut entry = Vec::new();
    entry.extend(i32::MAX.to_le_bytes());
    entry.extend(0u32.to_le_bytes());
    entry.extend(folder.to_le_bytes());
    entry.extend([0; 6]);
    entry.extend(b"f\0");
    let rest = octets.slice(HEADER..octets.len());
    Ok(Some(Octets::concat([header.into(), rest, entry.into()])))
}
