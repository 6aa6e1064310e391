//! Messages in a folder, each with what is known of it: what [`spool`](crate::spool) and
//! [`quarantine`](crate::quarantine) are made of.
//!
//! ```text
//!  DIR/lock                 whose the store is: held by one process, and has its number in it
//!  DIR/changes              names of entries that somebody beside the owner has changed, one a line
//!  DIR/KIND/ID.eml          a message, octet for octet; its file is also the lock of its entry
//!  DIR/KIND/ID.json         what is known of it; an entry is there if, and only if, this file is
//!  DIR/KIND/ID.json.part    what will take the place of ID.json, if nothing comes between
//! ```
//!
//! What makes it safe to end a process at any moment:
//!
//! - The message is written and synchronised (`fsync`) before its `ID.json.part` is; that gets its name by
//!   `rename`, and the folder is synchronised. Whoever was told that an entry is there finds it, whole.
//! - What is known of an entry is never changed in place, but written anew and renamed.
//! - An entry is removed by removing `ID.json`, then its message. What is left over without `ID.json` was never
//!   promised to anybody, or is done: the owner removes it at its start ([`Folder::clean`]).
//! - Whoever writes, changes or removes an entry holds `flock` on `ID.eml`, which ends with the process. So other
//!   processes may work beside the owner, one entry at a time, and note in `changes` which it was.
//!
//! All of this blocks: callers on a runtime do it on threads that may.

pub mod address;
mod draft;
mod error;
mod files;
mod folder;
mod id;
mod moment;
mod owner;
mod usage;

pub use draft::Draft;
pub use error::{Broken, StoreError};
pub use folder::{Folder, Locked};
pub(crate) use folder::{parse, to_text};
pub use id::Id;
pub use moment::Moment;
pub(crate) use owner::Owner;
pub use usage::Limits;
pub(crate) use usage::{Share, Usage};

/// What is known of an entry, as it stands in its file.
pub trait Record: serde::Serialize + serde::de::DeserializeOwned {
    /// One word for such stores, which is the name of their folder too.
    const KIND: &'static str;
    /// Name and version of the form of the file. Another one is refused, not guessed at.
    const FORMAT: &'static str;

    /// Whose file this is.
    fn id(&self) -> &Id;
    /// Octets of the message.
    fn octets(&self) -> u64;
    /// What is wrong with it beyond its form.
    fn check(&self) -> Result<(), String>;
}

/// What was found when a store was opened.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Entries that are there.
    pub entries: usize,
    /// Files of writers whose process ended too early; nobody had been promised anything of them.
    pub removed: usize,
    /// What can't be used and stays as it is, for people to look at.
    pub broken: Vec<Broken>,
}
