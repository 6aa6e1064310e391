//! The files behind links, in a folder: of each its octets, and a record of what is known of it.
//!
//! ```text
//! new-NAME          octets, or a record, that are being written: gone at the next start
//! NAME.octets       written, synchronised, renamed
//! NAME.json         the record, written behind them: without it there is no file
//! ```
//!
//! Everything here may wait for the disk.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::warn;

/// The most files at a time.
const MOST: usize = 100_000;

/// Octets of memory that what is known of them takes at the most: a name, a hash, and numbers.
pub(super) const WORST_CASE: usize = MOST * 1_024;

/// The form of records. Those of another one stay where they are, and are not served.
pub(super) const VERSION: u32 = 1;

/// Octets that are read and written at a time.
const PIECE: usize = 64 * 1024;

/// Octets of a record, which has a file name, a hash, and some numbers.
const LARGEST_RECORD: u64 = 16 * 1024;

/// Octets of a name, from the system's source of randomness: 160 bits.
const NAME_OCTETS: usize = 20;

/// How the names of what is being written begin.
const NEW: &str = "new-";

/// The name of a file in links: who knows it may fetch the file.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Name([u8; NAME_OCTETS]);

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Record {
    /// [`VERSION`].
    pub(super) version: u32,
    /// What the message calls it.
    pub(super) file_name: String,
    pub(super) octets: u64,
    /// Seconds since 1970, from which on it is gone.
    pub(super) until: u64,
    /// The same, as long as nobody knows whether its message was delivered.
    pub(super) unconfirmed_until: u64,
    pub(super) is_confirmed: bool,
    /// The hash of the password.
    pub(super) password: Option<String>,
    pub(super) downloads: u32,
    pub(super) most_downloads: Option<u32>,
}

/// A folder of files that one process has for itself.
pub(super) struct Store {
    folder: PathBuf,
    index: Mutex<Index>,
    /// Records are written one at a time.
    writing: Mutex<()>,
    /// Held as long as the store is open.
    _lock: File,
}

#[derive(Default)]
struct Index {
    records: HashMap<Name, Record>,
    /// Of all files, and of those that are being written.
    octets: u64,
    /// Those that are being written.
    new: usize,
}

/// Why a file can't be stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// There is no room.
    #[error("the store is full")]
    Full,
    /// The content can't be read, or the disk fails.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A file that was written and has no record. Dropped, it is gone.
pub(super) struct Written<'a> {
    store: &'a Store,
    name: Name,
    octets: u64,
    is_kept: bool,
}

impl Name {
    /// A new one.
    fn random() -> io::Result<Self> {
        let mut octets = [0; NAME_OCTETS];
        getrandom::fill(&mut octets).map_err(io::Error::other)?;
        Ok(Self(octets))
    }

    /// The name that these hexadecimal digits are; of upper case is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digit = |octet: u8| match octet {
            b'0'..=b'9' => Some(octet - b'0'),
            b'a'..=b'f' => Some(octet - b'a' + 10),
            _ => None,
        };
        let mut name = [0; NAME_OCTETS];
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != NAME_OCTETS || !rest.is_empty() {
            return None;
        }
        for (octet, [high, low]) in name.iter_mut().zip(pairs) {
            *octet = digit(*high)? << 4 | digit(*low)?;
        }
        Some(Self(name))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// Names are for readers of mail: not for logs.
impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Name")
    }
}

impl Record {
    /// Whether it can be fetched no more.
    fn is_over(&self, now: u64) -> bool {
        let until = match self.is_confirmed {
            true => self.until,
            false => self.unconfirmed_until.min(self.until),
        };
        now >= until || self.most_downloads.is_some_and(|most| self.downloads >= most)
    }
}

impl Store {
    /// Opens the folder, which is made if it is not there, and puts in order what a crash has left.
    ///
    /// # Errors
    /// If it can't be read or written, or another process has it.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let lock = options().write(true).create(true).open(folder.join("lock"))?;
        lock.try_lock().map_err(|_| {
            io::Error::other("it is used already, by another process or under another address")
        })?;
        let mut index = Index::default();
        let mut octets = HashSet::new();
        let mut records = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let Some(file_name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let named = |ending| file_name.strip_suffix(ending).and_then(Name::parse);
            if file_name.starts_with(NEW) {
                std::fs::remove_file(&path)?;
            } else if let Some(name) = named(".octets") {
                octets.insert(name);
            } else if let Some(name) = named(".json") {
                records.push(name);
            }
        }
        let store = Self {
            folder: folder.to_owned(),
            index: Mutex::default(),
            writing: Mutex::default(),
            _lock: lock,
        };
        let mut passed_over = 0;
        for name in records {
            let has_octets = octets.remove(&name);
            match store.read_record(name)? {
                Some(record) if has_octets && store.has_octets(name, &record) => {
                    if index.records.len() >= MOST {
                        passed_over += 1;
                        continue;
                    }
                    index.octets += record.octets;
                    index.records.insert(name, record);
                }
                Some(_) => store.remove_files(name)?,
                None => passed_over += 1,
            }
        }
        if passed_over > 0 {
            let folder = folder.display();
            warn!(files = passed_over, %folder, "files behind links are passed over: of another version, or too many");
        }
        for name in octets {
            store.remove_files(name)?;
        }
        *store.index() = index;
        Ok(store)
    }

    /// Writes content into a new file, as long as all files together have at most `quota` octets.
    pub(super) fn write(
        &self,
        content: &mut dyn Read,
        quota: u64,
    ) -> Result<Written<'_>, StoreError> {
        {
            let mut index = self.index();
            if index.records.len() + index.new >= MOST {
                return Err(StoreError::Full);
            }
            index.new += 1;
        }
        let mut written =
            Written { store: self, name: Name([0; NAME_OCTETS]), octets: 0, is_kept: false };
        written.name = Name::random()?;
        let mut file = self.create(written.name)?;
        let mut piece = vec![0; PIECE];
        loop {
            let count = match content.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            written.reserve(count as u64, quota)?;
            file.write_all(piece.get(..count).unwrap_or_default())?;
        }
        file.sync_all()?;
        Ok(written)
    }

    /// Its message was delivered, so that it stays until its time is over.
    pub(super) fn confirm(&self, name: Name) -> io::Result<()> {
        self.change(name, |record| {
            let was_confirmed = std::mem::replace(&mut record.is_confirmed, true);
            (!was_confirmed).then_some(())
        })
        .map(drop)
    }

    /// It is gone.
    pub(super) fn remove(&self, name: Name) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut index = self.index();
            let Some(record) = index.records.remove(&name) else { return Ok(()) };
            index.octets -= record.octets;
        }
        self.remove_files(name)
    }

    /// What is known of a file that can be fetched.
    pub(super) fn find(&self, name: Name, now: u64) -> Option<Record> {
        self.index().records.get(&name).filter(|record| !record.is_over(now)).cloned()
    }

    /// Opens a file that can be fetched, which counts.
    pub(super) fn download(&self, name: Name, now: u64) -> io::Result<Option<(File, Record)>> {
        let counted = self.change(name, |record| {
            if record.is_over(now) {
                return None;
            }
            record.downloads = record.downloads.saturating_add(1);
            record.is_confirmed = true;
            Some(record.clone())
        })?;
        match counted {
            None => Ok(None),
            Some(record) => Ok(Some((File::open(self.octets_path(name))?, record))),
        }
    }

    /// Removes what can't be fetched any more; how many files.
    pub(super) fn sweep(&self, now: u64) -> io::Result<usize> {
        let over: Vec<Name> = {
            let index = self.index();
            let over = index.records.iter().filter(|(_, record)| record.is_over(now));
            over.map(|(name, _)| *name).collect()
        };
        over.iter().try_for_each(|name| self.remove(*name))?;
        Ok(over.len())
    }

    /// Files, and their octets.
    pub(super) fn size(&self) -> (u64, u64) {
        let index = self.index();
        (index.records.len() as u64, index.octets)
    }

    /// Changes a record, if there is one and it has to be changed.
    fn change<T>(
        &self,
        name: Name,
        change: impl FnOnce(&mut Record) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (record, changed) = {
            let mut index = self.index();
            let Some(record) = index.records.get_mut(&name) else { return Ok(None) };
            let Some(changed) = change(record) else { return Ok(None) };
            (record.clone(), changed)
        };
        self.write_record(name, &record)?;
        Ok(Some(changed))
    }

    fn write_record(&self, name: Name, record: &Record) -> io::Result<()> {
        let mut file = self.create(name)?;
        file.write_all(&serde_json::to_vec(record).map_err(io::Error::other)?)?;
        file.sync_all()?;
        std::fs::rename(self.new_path(name), self.record_path(name))?;
        File::open(&self.folder)?.sync_all()
    }

    /// A record, if it is one. A disk that fails is no reason to remove a file.
    fn read_record(&self, name: Name) -> io::Result<Option<Record>> {
        let mut octets = Vec::new();
        let file = File::open(self.record_path(name))?;
        file.take(LARGEST_RECORD).read_to_end(&mut octets)?;
        let record: Option<Record> = serde_json::from_slice(&octets).ok();
        Ok(record.filter(|record| record.version == VERSION))
    }

    fn has_octets(&self, name: Name, record: &Record) -> bool {
        let metadata = std::fs::metadata(self.octets_path(name));
        metadata.is_ok_and(|metadata| metadata.len() == record.octets)
    }

    /// The record first: without it the rest goes at the next start.
    fn remove_files(&self, name: Name) -> io::Result<()> {
        for path in [self.record_path(name), self.octets_path(name)] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn create(&self, name: Name) -> io::Result<File> {
        options().write(true).create(true).truncate(true).open(self.new_path(name))
    }

    fn new_path(&self, name: Name) -> PathBuf {
        self.folder.join(format!("{NEW}{name}"))
    }

    fn octets_path(&self, name: Name) -> PathBuf {
        self.folder.join(format!("{name}.octets"))
    }

    fn record_path(&self, name: Name) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How files are opened: nobody else reads them.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

impl Written<'_> {
    /// How many there are.
    pub(super) fn octets(&self) -> u64 {
        self.octets
    }

    /// Gives it a record, which holds its size: from now on it can be fetched.
    pub(super) fn keep(mut self, record: Record) -> io::Result<Name> {
        let record = Record { octets: self.octets, ..record };
        std::fs::rename(self.store.new_path(self.name), self.store.octets_path(self.name))?;
        self.store.write_record(self.name, &record)?;
        self.store.index().records.insert(self.name, record);
        self.is_kept = true;
        Ok(self.name)
    }

    fn reserve(&mut self, octets: u64, quota: u64) -> Result<(), StoreError> {
        let mut index = self.store.index();
        if octets > quota.saturating_sub(index.octets) {
            return Err(StoreError::Full);
        }
        index.octets += octets;
        self.octets += octets;
        Ok(())
    }
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        let mut index = self.store.index();
        index.new -= 1;
        if self.is_kept {
            return;
        }
        index.octets -= self.octets;
        drop(index);
        // What can't be removed now goes at the next start.
        let _ = std::fs::remove_file(self.store.new_path(self.name));
        let _ = self.store.remove_files(self.name);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn record() -> Record {
        Record {
            version: VERSION,
            file_name: "a.bin".to_owned(),
            octets: 0,
            until: 1_000,
            unconfirmed_until: 100,
            is_confirmed: false,
            password: None,
            downloads: 0,
            most_downloads: None,
        }
    }

    fn stored(store: &Store, content: &[u8], record: Record) -> Name {
        store.write(&mut &content[..], u64::MAX).unwrap().keep(record).unwrap()
    }

    fn files(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name != "lock").collect();
        names.sort();
        names
    }

    #[test]
    fn a_name_is_forty_digits_that_nobody_guesses() {
        let name = Name::random().unwrap();
        let text = name.to_string();
        assert_eq!((text.len(), Name::parse(&text)), (40, Some(name)));
        assert_ne!(Name::random().unwrap(), name);
        assert_eq!(format!("{name:?}"), "Name");
        let upper = "A".repeat(40);
        for wrong in ["", &text[1..], &format!("{text}0"), &upper, &format!("../{}", &text[3..])] {
            assert_eq!(Name::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_file_is_there_until_its_time_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let content: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[1]).collect();
        let one = stored(&store, &content, record());
        let two = stored(&store, b"two", record());
        assert_eq!(store.size(), (2, 200_003));
        assert_eq!(store.find(one, 99).unwrap().octets, 200_000);
        assert_eq!(store.find(one, 100), None);
        store.confirm(one).unwrap();
        assert_eq!(
            (store.find(one, 999).unwrap().is_confirmed, store.find(one, 1_000)),
            (true, None)
        );
        let (mut file, known) = store.download(one, 500).unwrap().unwrap();
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert!(read == content && known.downloads == 1);
        assert_eq!(store.sweep(500).unwrap(), 1);
        assert_eq!(files(folder.path()), [format!("{one}.json"), format!("{one}.octets")]);
        assert!(store.download(two, 50).unwrap().is_none());
        store.remove(one).unwrap();
        store.remove(one).unwrap();
        assert_eq!((store.size(), files(folder.path())), ((0, 0), Vec::new()));
    }

    #[test]
    fn a_file_can_be_fetched_so_often() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let name = stored(&store, b"x", Record { most_downloads: Some(2), ..record() });
        assert_eq!(store.download(name, 0).unwrap().unwrap().1.downloads, 1);
        assert_eq!(store.download(name, 0).unwrap().unwrap().1.downloads, 2);
        assert!(store.download(name, 0).unwrap().is_none() && store.find(name, 0).is_none());
        assert_eq!(store.sweep(0).unwrap(), 1);
    }

    #[test]
    fn nothing_is_stored_beyond_the_quota() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let written = store.write(&mut &b"12345"[..], 8).unwrap();
        assert!(matches!(store.write(&mut &b"1234"[..], 8), Err(StoreError::Full)));
        drop(written);
        assert_eq!((store.size(), files(folder.path())), ((0, 0), Vec::new()));
        assert!(store.write(&mut &b"12345678"[..], 8).is_ok());
        struct Breaking;
        impl Read for Breaking {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        let error = store.write(&mut Breaking, 8).err().unwrap();
        assert_eq!(error.to_string(), "broken");
        assert_eq!((store.size(), files(folder.path())), ((0, 0), Vec::new()));
    }

    #[test]
    fn a_restart_finds_what_is_whole_and_removes_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let error = Store::open(folder.path()).err().unwrap();
        assert_eq!(
            error.to_string(),
            "it is used already, by another process or under another address"
        );
        let [whole, torn, lost, wild] = [(); 4].map(|()| stored(&store, b"12345", record()));
        store.confirm(whole).unwrap();
        let path = |name: Name, ending: &str| folder.path().join(format!("{name}.{ending}"));
        let mode = std::fs::metadata(path(whole, "octets")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(path(torn, "octets"), b"123").unwrap();
        std::fs::remove_file(path(lost, "json")).unwrap();
        let other = Record { version: 2, ..record() };
        std::fs::write(path(wild, "json"), serde_json::to_vec(&other).unwrap()).unwrap();
        std::mem::forget(store.write(&mut &b"new"[..], u64::MAX).unwrap());
        drop(store);
        std::fs::write(folder.path().join("other"), b"not ours").unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.size(), (1, 5));
        assert!(store.find(whole, 500).unwrap().is_confirmed);
        let both = |name: Name| [format!("{name}.json"), format!("{name}.octets")];
        let mut expected = [&both(whole)[..], &both(wild), &["other".to_owned()]].concat();
        expected.sort();
        assert_eq!(files(folder.path()), expected);
    }
}
