//! What can go wrong with a store, in words for people.

use std::io;
use std::path::{Path, PathBuf};

use super::Id;

/// Why a store did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process is the owner.
    #[error("the {kind} {} is in use{}: one process at a time works on it", .path.display(), of(.process.as_deref()))]
    InUse {
        /// The kind of store.
        kind: &'static str,
        /// Where it is.
        path: PathBuf,
        /// The number of that process, if it is known.
        process: Option<String>,
    },
    /// There is no such store.
    #[error("{} is no {kind}: it has no folder `{kind}` in it", .path.display())]
    NoStore {
        /// The kind of store.
        kind: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The system said no.
    #[error("cannot {action} {}: {source}", .path.display())]
    System {
        /// What was to be done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it was not.
        source: io::Error,
    },
    /// The message that is to be kept lies in a temporary file.
    #[error("the message can't be read: {0}")]
    Content(#[source] io::Error),
    /// An entry can't be used.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// No entry has this name.
    #[error("there is no {kind} entry {id}")]
    Unknown {
        /// The kind of store.
        kind: &'static str,
        /// The name.
        id: Id,
    },
    /// Somebody works on the entry.
    #[error("{id} is being worked on at this moment: try again")]
    Busy {
        /// The entry.
        id: Id,
    },
    /// The entry is there already.
    #[error("there is a {kind} entry {id} already")]
    AlreadyThere {
        /// The kind of store.
        kind: &'static str,
        /// The entry.
        id: Id,
    },
    /// A limit of the whole store is reached.
    #[error("the {kind} is full: it holds {limit} {unit} at the most")]
    Full {
        /// The kind of store.
        kind: &'static str,
        /// The limit.
        limit: u64,
        /// What is counted.
        unit: &'static str,
    },
    /// What was asked for does not fit the state of the entry.
    #[error("{id} {reason}")]
    Refused {
        /// The entry.
        id: Id,
        /// Why not.
        reason: String,
    },
}

/// An entry that can't be used: its files stay as they are, and other entries are not affected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} can't be used: {reason}", .file.display())]
pub struct Broken {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl StoreError {
    /// For `map_err`: what was to be done to what.
    pub(crate) fn system(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, path: path.to_owned(), source }
    }
}

fn of(number: Option<&str>) -> String {
    number.map(|number| format!(" by process {number}")).unwrap_or_default()
}
