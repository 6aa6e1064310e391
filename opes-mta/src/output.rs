//! The folder that adapted mails are written to.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

/// Files appear in it whole or not at all, and nowhere else.
#[derive(Debug)]
pub(crate) struct OutputFolder {
    root: PathBuf,
    /// What this run has written. Worst case: the names of all mails.
    written: HashSet<PathBuf>,
}

impl OutputFolder {
    /// The folder; it is made with the first mail.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, written: HashSet::new() }
    }

    /// Writes a mail. A file of an earlier run is replaced, one of this run is not.
    pub(crate) fn write(&mut self, path: &Path, octets: &[Bytes]) -> io::Result<()> {
        let plain = path.components().all(|component| matches!(component, Component::Normal(_)));
        let name = path.file_name().filter(|_| plain).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "its name leads out of the folder")
        })?;
        if !self.written.insert(path.to_owned()) {
            let message = format!("{} is there already, from another input", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        let folder = self.root.join(path.parent().unwrap_or(Path::new("")));
        fs::create_dir_all(&folder)?;
        let partial = folder.join(format!(".opes-mta-{}.partial", std::process::id()));
        let written = write_file(&partial, octets)
            // A link of that name is replaced, not followed.
            .and_then(|()| fs::rename(&partial, folder.join(name)));
        if written.is_err() {
            // What matters is the first error.
            let _ = fs::remove_file(&partial);
        }
        written
    }
}

fn write_file(path: &Path, octets: &[Bytes]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    for octets in octets.chunks(1_024) {
        let mut slices: Vec<IoSlice<'_>> = octets.iter().map(|o| IoSlice::new(o)).collect();
        let mut rest = slices.as_mut_slice();
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match file.write_vectored(rest)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => IoSlice::advance_slices(&mut rest, count),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_outside() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = OutputFolder::new(root.path().join("out"));
        for path in ["../x", "/tmp/x", "", "a/../../x", "."] {
            let error = folder.write(Path::new(path), &[]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}");
        }
        fs::write(root.path().join("precious"), "x").unwrap();
        fs::create_dir(root.path().join("out")).unwrap();
        std::os::unix::fs::symlink("../precious", root.path().join("out/link")).unwrap();
        folder.write(Path::new("link"), &["new".into()]).unwrap();
        assert_eq!(fs::read(root.path().join("precious")).unwrap(), b"x");
        assert_eq!(fs::read(root.path().join("out/link")).unwrap(), b"new");
    }

    #[test]
    fn slices_become_one_file_once() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = OutputFolder::new(root.path().to_owned());
        let slices: Vec<Bytes> = (0..5_000u32).map(|n| n.to_string().into()).collect();
        let slices = [&[Bytes::new()], &slices[..], &[Bytes::new()]].concat();
        folder.write(Path::new("a/b#1"), &slices).unwrap();
        assert_eq!(fs::read(root.path().join("a/b#1")).unwrap(), slices.concat());
        let error = folder.write(Path::new("a/b#1"), &slices).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_dir(root.path().join("a")).unwrap().count(), 1);
    }
}
