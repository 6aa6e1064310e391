//! Mail that was accepted and is not delivered yet: one message goes to several next hops, or has to wait.
//!
//! ```text
//!  accept ──▶ Writer ──▶ commit ──▶ due ──▶ claim ──▶ Claim ──▶ settle ──▶ (deferred: due again)
//!                (250 may be given)                   message,      └────▶ removed, once all are settled
//!                                                     recipients
//! ```
//!
//! How it is stored, and what makes it safe, says [`store`](crate::store). Nothing is lost once
//! [`Writer::commit`] has returned. A recipient may get a message twice only if the process ends between a
//! next hop's 250 and [`Claim::settle`]: SMTP has no way around that (RFC 5321 section 6.1).
//!
//! ```
//! use std::time::SystemTime;
//!
//! use ocp_proto::smtp::Address;
//! use opes_mta::spool::{Limits, NewEntry, Schedule, Settlement, Spool};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! let (spool, recovery) = Spool::open(folder, Limits::default())?;
//! recovery.broken.iter().for_each(|broken| eprintln!("{broken}"));
//!
//! let entry = NewEntry::new(Address::new("<a@b.example>")?, vec![Address::new("<c@d.example>")?]);
//! let mut writer = spool.accept(entry, SystemTime::now())?;
//! writer.write(b"Subject: hello\r\n\r\nworld\r\n")?;
//! writer.commit()?; // Now the client gets its 250.
//!
//! let (now, schedule) = (SystemTime::now(), Schedule::default());
//! for id in spool.due(now, 10) {
//!     let Some(mut claim) = spool.claim(&id, now)? else { continue };
//!     let arrived = claim.entry().arrived.into();
//!     let due: Vec<_> = claim.entry().due_recipients(now.into()).map(|(place, _)| place).collect();
//!     for place in due {
//!         // The next hop said "450 4.2.0 later" to this recipient.
//!         let reply = "450 4.2.0 later".to_owned();
//!         let attempts = claim.entry().recipients[place].state.attempts() + 1;
//!         let settlement = match schedule.next(arrived, attempts, now) {
//!             Some(until) => Settlement::Deferred { until, reply },
//!             None => Settlement::Failed { reply },
//!         };
//!         claim.settle(&[(place, settlement)], None, now)?;
//!     }
//! }
//! # assert!(spool.next_due() > Some(now));
//! # Ok(())
//! # }
//! ```
//!
//! Commands work beside the owner: what they changed it hears by [`Spool::refresh`], which costs one look at a file if
//! there is nothing and is to be called each second or so.

mod batch;
mod claim;
#[doc(hidden)]
pub mod fuzzing;
mod index;
mod record;
pub mod report;
mod schedule;
mod writer;

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

pub use self::batch::Batch;
pub use self::claim::{Claim, Settlement};
pub use self::record::{Awaits, Entry, NewEntry, NewRecipient, Recipient, State, Trace};
pub use self::schedule::Schedule;
pub use self::writer::Writer;
pub use crate::store::{Broken, Id, Limits, Moment, Recovery, StoreError};

use tokio::sync::Notify;

use self::index::Index;
pub(crate) use self::index::Standing;
use crate::store::{Folder, Locked, Owner, Share, Usage};

/// A spool. Its clones are the same spool.
#[derive(Clone, Debug)]
pub struct Spool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: Folder<Entry>,
    limits: Limits,
    usage: Usage,
    index: Mutex<Index>,
    changed: Notify,
    /// `None` beside an owner.
    owner: Option<Owner>,
}

impl Spool {
    /// Opens the spool at a path as its owner, makes it if it is not there, and brings to an end what was under
    /// way when its last owner ended.
    pub fn open(path: &Path, limits: Limits) -> Result<(Self, Recovery), StoreError> {
        let folder = Folder::make(path)?;
        let owner = Owner::of("spool", path)?;
        folder.forget_notes()?;
        let removed = folder.clean()?;
        let spool = Self::new(folder, limits, Some(owner));
        let (entries, broken) = spool.entries()?;
        entries.iter().for_each(|entry| spool.put(entry));
        entries.iter().try_for_each(|entry| spool.finish_report(entry))?;
        spool.finish_batches(&entries)?;
        let entries = spool.index().len();
        Ok((spool, Recovery { entries, removed, broken }))
    }

    /// The spool at a path, beside its owner if there is one: to look at, to work on single entries, and to put in
    /// what people release, beyond any limit. Only the owner knows what is due, and delivers.
    pub fn beside(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::new(Folder::existing(path)?, Limits::NONE, None))
    }

    fn new(folder: Folder<Entry>, limits: Limits, owner: Option<Owner>) -> Self {
        let (usage, index, changed) = (Usage::default(), Mutex::default(), Notify::new());
        Self(Arc::new(Inner { folder, limits, usage, index, changed, owner }))
    }

    /// All entries as they are, in the order of their names, and those that can't be used.
    pub fn entries(&self) -> Result<(Vec<Entry>, Vec<Broken>), StoreError> {
        self.0.folder.entries()
    }

    /// What is known of an entry at this moment.
    pub fn entry(&self, id: &Id) -> Result<Entry, StoreError> {
        self.0.folder.read(id)
    }

    /// A message, from its beginning, to look at.
    pub fn message(&self, id: &Id) -> Result<File, StoreError> {
        self.0.folder.message(id)
    }

    /// Begins to take a message. The writer refuses what is beyond the limits.
    pub fn accept(&self, entry: NewEntry, now: SystemTime) -> Result<Writer, StoreError> {
        Writer::new(self, entry, now.into(), None)
    }

    /// Begins to take messages that are accepted together or not at all.
    pub fn batch(&self, now: SystemTime) -> Batch {
        Batch::new(self, now)
    }

    /// Entries that are due, the longest first, at most so many. Those that somebody has claimed are left out.
    pub fn due(&self, now: SystemTime, most: usize) -> Vec<Id> {
        self.index().due(now.into(), most)
    }

    /// When the next entry is due that nobody has claimed.
    pub fn next_due(&self) -> Option<SystemTime> {
        self.index().next_due().map(SystemTime::from)
    }

    /// What it holds now, and what it may.
    pub(crate) fn usage(&self) -> (Share, Limits) {
        (self.0.usage.now(), self.0.limits)
    }

    /// How many entries do what; as its owner knows.
    pub(crate) fn standing(&self) -> Standing {
        self.index().standing()
    }

    /// Waits until an entry has come or was changed by this process, once for all that has since the last call. For
    /// one waiter at a time.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Takes an entry for an attempt to deliver it; `None` if it is not due, is gone, or somebody else works on
    /// it at this moment.
    pub fn claim(&self, id: &Id, now: SystemTime) -> Result<Option<Claim>, StoreError> {
        Claim::new(self, id, now.into())
    }

    /// Hears of entries that were changed beside the owner, and says how many.
    pub fn refresh(&self) -> Result<usize, StoreError> {
        let mut place = self.index().noted;
        let changed = self.0.folder.noted(&mut place)?;
        self.index().noted = place;
        for id in &changed {
            match self.0.folder.read(id) {
                Ok(entry) => self.put(&entry),
                Err(StoreError::Unknown { .. }) => self.forget(id),
                Err(StoreError::Broken(broken)) => {
                    self.index().set_aside(id);
                    tracing::error!(%broken, "an entry of the spool");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(changed.len())
    }

    /// Keeps an entry from being delivered until it is released.
    pub fn hold(&self, id: &Id, reason: &str) -> Result<(), StoreError> {
        self.change(id, |entry| {
            entry.hold = Some(reason.to_owned());
            Ok(())
        })
    }

    /// Lets go an entry that is on hold or delayed. Its age counts from now on.
    pub fn release(&self, id: &Id, now: SystemTime) -> Result<(), StoreError> {
        let now = Moment::from(now);
        self.change(id, |entry| {
            if entry.hold.is_none() && entry.not_before.is_none_or(|moment| moment <= now) {
                return Err("is neither on hold nor delayed".to_owned());
            }
            (entry.hold, entry.not_before) = (None, Some(now));
            Ok(())
        })
    }

    /// What was deferred is due at once. Holds and delays stay.
    pub fn flush(&self, id: &Id, now: SystemTime) -> Result<(), StoreError> {
        self.change(id, |entry| {
            entry.flush(now.into());
            Ok(())
        })
    }

    /// Removes an entry; nobody hears of it. One that others wait for is not removed before they count.
    pub fn delete(&self, id: &Id) -> Result<(), StoreError> {
        self.remove(self.0.folder.lock(id)?)
    }

    /// Removes an entry that was prepared for nothing, as soon as nobody works on it: a command beside its owner
    /// may look at it. One that is gone is left alone.
    pub(crate) fn withdraw(&self, id: &Id) -> Result<(), StoreError> {
        match self.0.folder.lock_waiting(id) {
            Err(StoreError::Unknown { .. }) => Ok(()),
            locked => self.remove(locked?),
        }
    }

    fn remove(&self, locked: Locked<Entry>) -> Result<(), StoreError> {
        let id = &locked.record().id.clone();
        if locked.record().awaits == Some(Awaits::Followers) {
            let reason = "is half accepted: the owner of the spool goes on with it at its start";
            return Err(StoreError::Refused { id: id.clone(), reason: reason.to_owned() });
        }
        locked.remove(&self.0.folder)?;
        self.forget(id);
        self.tell_owner(id)
    }

    /// What an entry awaits has happened: from now on it is delivered like any other. One that is
    /// gone or awaits nothing is left as it is.
    pub(crate) fn confirm(&self, id: &Id) -> Result<(), StoreError> {
        match self.0.folder.lock_waiting(id) {
            Err(StoreError::Unknown { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(mut locked) => {
                let entry = Entry { awaits: None, ..locked.record().clone() };
                locked.replace(&self.0.folder, entry)?;
                self.put(locked.record());
                self.tell_owner(id)
            }
        }
    }

    /// An entry that is not to be delivered before [`Spool::confirm`], with a name that it alone has.
    pub(crate) fn prepare(
        &self,
        entry: NewEntry,
        awaits: Awaits,
        id: Id,
        now: Moment,
    ) -> Result<Writer, StoreError> {
        Writer::new(self, entry, now, Some((awaits, id)))
    }

    /// A report counts if what it is about says so, or is gone, which comes after; else it is made again.
    fn finish_report(&self, entry: &Entry) -> Result<(), StoreError> {
        let Some(Awaits::Report { of, number }) = &entry.awaits else { return Ok(()) };
        let counts = match self.0.folder.lock_waiting(of) {
            Ok(locked) => locked.record().reports >= *number,
            Err(StoreError::Unknown { .. }) => true,
            Err(StoreError::Broken(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        if counts { self.confirm(&entry.id) } else { self.withdraw(&entry.id) }
    }

    /// Entries that were accepted together count if their leader is there, which is the last to come and the
    /// last to be delivered.
    fn finish_batches(&self, entries: &[Entry]) -> Result<(), StoreError> {
        for entry in entries {
            let Some(Awaits::Leader { of }) = &entry.awaits else { continue };
            match self.0.folder.read(of) {
                Ok(_) => self.confirm(&entry.id)?,
                Err(StoreError::Unknown { .. }) => self.withdraw(&entry.id)?,
                Err(StoreError::Broken(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let mut leaders = entries.iter().filter(|entry| entry.awaits == Some(Awaits::Followers));
        leaders.try_for_each(|leader| self.confirm(&leader.id))
    }

    fn change(
        &self,
        id: &Id,
        change: impl FnOnce(&mut Entry) -> Result<(), String>,
    ) -> Result<(), StoreError> {
        let mut locked = self.0.folder.lock(id)?;
        let mut entry = locked.record().clone();
        change(&mut entry).map_err(|reason| StoreError::Refused { id: id.clone(), reason })?;
        if entry != *locked.record() {
            locked.replace(&self.0.folder, entry)?;
        }
        self.put(locked.record());
        self.tell_owner(id)
    }

    fn tell_owner(&self, id: &Id) -> Result<(), StoreError> {
        if self.0.owner.is_some() { Ok(()) } else { self.0.folder.note(id) }
    }

    /// The index knows the entry as it is now.
    fn put(&self, entry: &Entry) {
        if self.index().put(entry) {
            self.0.usage.count(Share { entries: 1, octets: entry.octets });
        }
        self.0.changed.notify_one();
    }

    fn forget(&self, id: &Id) {
        if let Some(octets) = self.index().remove(id) {
            self.0.usage.give_back(Share { entries: 1, octets });
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // No panic comes between two changes that belong together.
        self.0.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
