//! The entries of a store.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::{Broken, Draft, Id, Moment, Record, StoreError, files};

/// Octets of what is known of an entry, at most: 1,000 recipients with long parameters and replies have less.
const LONGEST_RECORD: u64 = 16 * 1024 * 1024;

/// Names of changed entries that are read at a time.
const MOST_CHANGES: u64 = 1024 * 1024;

/// The entries of a store whose records are of this type.
#[derive(Debug)]
pub struct Folder<T> {
    root: PathBuf,
    entries: PathBuf,
    record: PhantomData<fn() -> T>,
}

/// An entry that nobody else works on while this value is there.
#[derive(Debug)]
pub struct Locked<T> {
    record: T,
    message: File,
}

#[derive(Serialize)]
struct Written<'a, T> {
    format: &'static str,
    #[serde(flatten)]
    record: &'a T,
}

impl<T: Record> Folder<T> {
    /// The store at a path, made if it is not there.
    pub fn make(root: &Path) -> Result<Self, StoreError> {
        let folder = Self::at(root);
        files::make_folder(root).map_err(StoreError::system("make", root))?;
        let made = files::make_folder(&folder.entries);
        made.map_err(StoreError::system("make", &folder.entries))?;
        Ok(folder)
    }

    /// The store at a path.
    pub fn existing(root: &Path) -> Result<Self, StoreError> {
        let folder = Self::at(root);
        match fs::read_dir(&folder.entries) {
            Ok(_) => Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::NoStore { kind: T::KIND, path: root.to_owned() })
            }
            Err(error) => Err(StoreError::system("list", &folder.entries)(error)),
        }
    }

    fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), entries: root.join(T::KIND), record: PhantomData }
    }

    /// Begins a message with a name of its own.
    pub fn draft(&self, now: Moment) -> Result<Draft, StoreError> {
        loop {
            match self.draft_as(Id::new(now)) {
                Err(StoreError::AlreadyThere { .. } | StoreError::Busy { .. }) => {}
                made => return made,
            }
        }
    }

    /// Begins a message with this name.
    pub fn draft_as(&self, id: Id) -> Result<Draft, StoreError> {
        let path = self.message_path(&id);
        loop {
            let file = match files::create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if self.remove_leftover(&id)? {
                        continue;
                    }
                    let is_there = self.record_path(&id).exists();
                    return Err(match is_there {
                        true => StoreError::AlreadyThere { kind: T::KIND, id },
                        false => StoreError::Busy { id },
                    });
                }
                made => made.map_err(StoreError::system("make", &path))?,
            };
            file.lock().map_err(StoreError::system("lock", &path))?;
            // Between the two calls above it may have been taken for a leftover.
            if links(&file, &path)? > 0 {
                return Ok(Draft::new(id, path, file));
            }
        }
    }

    /// Takes an entry, or says that somebody works on it.
    pub fn lock(&self, id: &Id) -> Result<Locked<T>, StoreError> {
        self.take(id, |file| match file.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(true),
        })
    }

    /// Takes an entry as soon as nobody works on it.
    pub fn lock_waiting(&self, id: &Id) -> Result<Locked<T>, StoreError> {
        self.take(id, |file| file.lock().map(|()| true))
    }

    fn take(
        &self,
        id: &Id,
        lock: impl Fn(&File) -> io::Result<bool>,
    ) -> Result<Locked<T>, StoreError> {
        let path = self.message_path(id);
        loop {
            let message = match OpenOptions::new().read(true).write(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // Either there is no entry, or the reason is told, or it is there again.
                    self.read(id)?;
                    continue;
                }
                opened => opened.map_err(StoreError::system("open", &path))?,
            };
            if !lock(&message).map_err(StoreError::system("lock", &path))? {
                return Err(StoreError::Busy { id: id.clone() });
            }
            // It may have been removed before we had the lock, and another be there under its name.
            if links(&message, &path)? > 0 {
                let record = self.read(id)?;
                return Ok(Locked { record, message });
            }
        }
    }

    /// What is known of an entry at this moment. A change never shows by halves.
    pub fn read(&self, id: &Id) -> Result<T, StoreError> {
        let path = self.record_path(id);
        let octets = match files::read(&path, LONGEST_RECORD) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Unknown { kind: T::KIND, id: id.clone() });
            }
            Err(error) => return Err(self.broken(&path, error.to_string()).into()),
            Ok(octets) => octets,
        };
        let record: T = parse(&octets).map_err(|reason| self.broken(&path, reason))?;
        if record.id() != id {
            return Err(self.broken(&path, format!("it is about {}", record.id())).into());
        }
        let message = self.message_path(id);
        match fs::metadata(&message) {
            Ok(found) if found.len() == record.octets() => Ok(record),
            Ok(found) => {
                let reason = format!("it has {} octets, not {}", found.len(), record.octets());
                Err(self.broken(&message, reason).into())
            }
            // It may have been removed since.
            Err(_) if !path.exists() => Err(StoreError::Unknown { kind: T::KIND, id: id.clone() }),
            Err(error) => Err(self.broken(&message, error.to_string()).into()),
        }
    }

    /// The message of an entry, to look at: nobody is kept from working on it.
    pub fn message(&self, id: &Id) -> Result<File, StoreError> {
        self.read(id)?;
        let path = self.message_path(id);
        File::open(&path).map_err(StoreError::system("open", &path))
    }

    /// The names of all entries, in the order of their names.
    pub fn ids(&self) -> Result<Vec<Id>, StoreError> {
        let mut ids: Vec<Id> = self
            .names()?
            .iter()
            .filter_map(|name| name.strip_suffix(".json")?.parse().ok())
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// All entries as they are, in the order of their names, and those that can't be used.
    pub fn entries(&self) -> Result<(Vec<T>, Vec<Broken>), StoreError> {
        let (mut entries, mut broken) = (Vec::new(), Vec::new());
        for id in self.ids()? {
            match self.read(&id) {
                Ok(entry) => entries.push(entry),
                Err(StoreError::Broken(why)) => broken.push(why),
                // It was removed since.
                Err(StoreError::Unknown { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((entries, broken))
    }

    /// Removes what writers left behind whose process ended, and says how many files that were. What
    /// somebody works on stays, and so does what is no file of ours.
    pub fn clean(&self) -> Result<usize, StoreError> {
        let mut removed = 0;
        for name in self.names()? {
            let id = |suffix| name.strip_suffix(suffix).and_then(|name| name.parse::<Id>().ok());
            if let Some(id) = id(".json.part") {
                // Whoever writes it has the message.
                let path = self.message_path(&id);
                let message = File::open(&path);
                if message.is_err() || message.is_ok_and(|message| message.try_lock().is_ok()) {
                    let partial = self.partial_path(&id);
                    let gone = files::remove(&partial);
                    removed += usize::from(gone.map_err(StoreError::system("remove", &partial))?);
                }
            } else if let Some(id) = id(".eml") {
                removed += usize::from(self.remove_leftover(&id)?);
            }
        }
        Ok(removed)
    }

    /// Removes a message without a record, if nobody works on it.
    fn remove_leftover(&self, id: &Id) -> Result<bool, StoreError> {
        let path = self.message_path(id);
        let Ok(message) = File::open(&path) else { return Ok(false) };
        // Whoever writes it holds the lock until the record is there. A file that has lost its name was a
        // leftover of that name, and what has it now is none.
        if message.try_lock().is_err()
            || links(&message, &path)? == 0
            || self.record_path(id).exists()
        {
            return Ok(false);
        }
        files::remove(&path).map_err(StoreError::system("remove", &path))
    }

    /// Notes for the owner that an entry has changed.
    pub fn note(&self, id: &Id) -> Result<(), StoreError> {
        let path = self.changes_path();
        files::append(&path, &format!("{id}\n")).map_err(StoreError::system("write", &path))
    }

    /// Names that were noted behind this place in `changes`, which goes on to what is not read yet.
    pub fn noted(&self, place: &mut u64) -> Result<Vec<Id>, StoreError> {
        let path = self.changes_path();
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(*place))?;
            let mut octets = Vec::new();
            file.take(MOST_CHANGES).read_to_end(&mut octets)?;
            Ok(octets)
        };
        let octets = match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(StoreError::system("read", &path))?,
        };
        let whole = memchr::memrchr(b'\n', &octets).map_or(0, |at| at + 1);
        *place += whole as u64;
        let lines = octets.get(..whole).unwrap_or_default().split(|octet| *octet == b'\n');
        Ok(lines.filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok()).collect())
    }

    /// Forgets what was noted: the owner is about to look at every entry.
    pub(crate) fn forget_notes(&self) -> Result<(), StoreError> {
        let path = self.changes_path();
        files::remove(&path).map(drop).map_err(StoreError::system("remove", &path))
    }

    /// Puts a record in its place; its entry is locked by the caller.
    pub(super) fn write(&self, record: &T) -> Result<(), StoreError> {
        let path = self.record_path(record.id());
        let text = to_text(record).map_err(io::Error::from);
        text.and_then(|text| files::replace(&path, &self.partial_path(record.id()), &text))
            .map_err(StoreError::system("write", &path))
    }

    /// Takes back a record; its entry is locked by the caller.
    pub(super) fn remove_record(&self, id: &Id) -> Result<(), StoreError> {
        let path = self.record_path(id);
        files::remove_for_good(&path).map_err(StoreError::system("remove", &path))
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        let list = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.entries)? {
                names.extend(entry?.file_name().into_string().ok());
            }
            Ok(names)
        };
        list().map_err(StoreError::system("list", &self.entries))
    }

    fn broken(&self, file: &Path, reason: String) -> Broken {
        Broken { file: file.to_owned(), reason }
    }

    fn record_path(&self, id: &Id) -> PathBuf {
        self.entries.join(format!("{id}.json"))
    }

    fn partial_path(&self, id: &Id) -> PathBuf {
        self.entries.join(format!("{id}.json.part"))
    }

    fn message_path(&self, id: &Id) -> PathBuf {
        self.entries.join(format!("{id}.eml"))
    }

    fn changes_path(&self) -> PathBuf {
        self.root.join("changes")
    }
}

impl<T: Record> Locked<T> {
    /// What is known of it.
    pub fn record(&self) -> &T {
        &self.record
    }

    /// The message, from its beginning.
    pub fn message(&self) -> io::Result<File> {
        let mut file = self.message.try_clone()?;
        file.rewind()?;
        Ok(file)
    }

    /// From here on this is known of it.
    pub fn replace(&mut self, folder: &Folder<T>, record: T) -> Result<(), StoreError> {
        folder.write(&record)?;
        self.record = record;
        Ok(())
    }

    /// Removes it.
    pub fn remove(self, folder: &Folder<T>) -> Result<(), StoreError> {
        let id = self.record.id();
        folder.remove_record(id)?;
        let path = folder.message_path(id);
        files::remove(&path).map(drop).map_err(StoreError::system("remove", &path))
    }
}

impl<T> Drop for Locked<T> {
    fn drop(&mut self) {
        // Otherwise whoever still reads the message would keep the lock.
        let _ = self.message.unlock();
    }
}

/// A record in the octets of a file, or what is wrong with them.
pub(crate) fn parse<T: Record>(octets: &[u8]) -> Result<T, String> {
    let mut value: Value = serde_json::from_slice(octets).map_err(|error| error.to_string())?;
    let format = value.as_object_mut().and_then(|members| members.remove("format"));
    match format.as_ref().and_then(Value::as_str) {
        Some(format) if format == T::FORMAT => {}
        Some(format) => return Err(format!("its format is {format:?}, not {:?}", T::FORMAT)),
        None => return Err(format!("it does not say that its format is {:?}", T::FORMAT)),
    }
    let record: T = serde_json::from_value(value).map_err(|error| error.to_string())?;
    record.check()?;
    Ok(record)
}

/// A record in the form of its file.
pub(crate) fn to_text<T: Record>(record: &T) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec_pretty(&Written { format: T::FORMAT, record })
}

fn links(file: &File, path: &Path) -> Result<u64, StoreError> {
    file.metadata().map(|found| found.nlink()).map_err(StoreError::system("look at", path))
}

#[cfg(test)]
mod tests;
