//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

/// Mail is for its recipients, not for other users of the machine.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Makes a folder and those above it.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)?;
    // The name of a folder that is new has to be as durable as what will stand in it.
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), synchronise)
}

/// Makes a file that is not there yet.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(FILE_MODE).open(path)?;
    give_to_owner(&file, path)?;
    Ok(file)
}

/// Whoever a folder belongs to owns the files in it, too: the superuser may work beside a process that is not allowed
/// as much, and that has to read what comes of it.
fn give_to_owner(file: &File, path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let (folder, made) = (fs::metadata(folder)?, file.metadata()?);
    if folder.uid() == made.uid() {
        return Ok(());
    }
    fchown(file, Some(folder.uid()), Some(folder.gid()))
}

/// Puts these octets in the place of a file; `partial` is in the same folder and has them until then.
pub(super) fn replace(path: &Path, partial: &Path, octets: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(partial)?;
    give_to_owner(&file, partial)?;
    file.write_all(octets)?;
    file.sync_all()?;
    fs::rename(partial, path)?;
    path.parent().map_or(Ok(()), synchronise)
}

/// Removes a file; `false` if there was none.
pub(super) fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        done => done.map(|()| true),
    }
}

/// Removes a file for good, whatever happens to the machine.
pub(super) fn remove_for_good(path: &Path) -> io::Result<()> {
    remove(path)?;
    path.parent().map_or(Ok(()), synchronise)
}

/// Which names a folder has is written to the disk.
pub(super) fn synchronise(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Appends a line to a file at once, beside whoever else does.
pub(super) fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)?;
    give_to_owner(&file, path)?;
    file.write_all(line.as_bytes())
}

/// The octets of a file, at most so many.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > most {
        let message = format!("it has more than {most} octets");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(octets)
}
