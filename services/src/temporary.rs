//! Temporary files.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder for the temporary files of services.
///
/// ```
/// use services::TemporaryFolder;
///
/// let folder = TemporaryFolder::from(std::env::temp_dir());
/// assert_eq!(folder.file()?.metadata()?.len(), 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemporaryFolder(Arc<Path>);

impl TemporaryFolder {
    /// An empty file without a name: it is gone when nobody holds it any more, however the process
    /// ends.
    ///
    /// # Errors
    /// If the folder takes none; the error names the folder.
    pub fn file(&self) -> io::Result<File> {
        tempfile::tempfile_in(&self.0).map_err(|error| self.named(&error))
    }

    /// What went wrong with one of its files, for people: the folder's name is in it.
    pub fn named(&self, error: &io::Error) -> io::Error {
        let why = format!("a temporary file in {} can't be written: {error}", self.0.display());
        io::Error::new(error.kind(), why)
    }
}

impl From<PathBuf> for TemporaryFolder {
    fn from(path: PathBuf) -> Self {
        Self(path.into())
    }
}

/// That of the system: `TMPDIR`, else `/tmp`.
impl Default for TemporaryFolder {
    fn default() -> Self {
        std::env::temp_dir().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_in_the_folder_and_has_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let folder = TemporaryFolder::from(directory.path().to_owned());
        let file = folder.file().unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd;
            let link = format!("/proc/self/fd/{}", file.as_raw_fd());
            let path = std::fs::read_link(link).unwrap();
            assert!(path.starts_with(directory.path().canonicalize().unwrap()), "{path:?}");
        }
        drop(file);
    }

    #[test]
    fn an_error_names_the_folder() {
        let folder = TemporaryFolder::from(PathBuf::from("/nowhere/at/all"));
        let error = folder.file().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let text = error.to_string();
        assert!(
            text.starts_with("a temporary file in /nowhere/at/all can't be written: "),
            "{text}"
        );
    }
}
