//! One process at a time owns a store.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use super::StoreError;

/// The lock of a store; it ends with the value, or with the process.
#[derive(Debug)]
pub(crate) struct Owner(#[expect(dead_code, reason = "it holds the lock")] File);

impl Owner {
    /// Takes the lock, or says who has it.
    pub(crate) fn of(kind: &'static str, folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(StoreError::system("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut number = String::new();
                // Without its number the error still says what matters.
                let _ = file.take(20).read_to_string(&mut number);
                let process = Some(number.trim().to_owned()).filter(|number| !number.is_empty());
                return Err(StoreError::InUse { kind, path: folder.to_owned(), process });
            }
            Err(TryLockError::Error(error)) => {
                return Err(StoreError::system("lock", &path)(error));
            }
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(StoreError::system("write", &path))?;
        Ok(Self(file))
    }
}
