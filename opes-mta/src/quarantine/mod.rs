//! Mail that services stopped, until somebody releases or deletes it or its time is over.
//!
//! How it is stored, and what makes it safe, says [`store`](crate::store). A release gives a message to the spool
//! exactly once, whenever a process ends, in three steps under the lock of its entry here:
//!
//! 1. The spool takes it under a name made of its name here, and is not to deliver it yet.
//! 2. The entry here says `releasing`. Before that nothing has happened; from here on it will be delivered.
//! 3. The spool may deliver it, and the entry here says `released`.
//!
//! An entry of the spool that waits for step 3 can't leave the spool, so whoever goes on, [`Quarantine::release`]
//! once more or [`Quarantine::finish`] at a start, finds out how far it came.

mod export;
mod holdings;
mod record;
mod writer;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

pub use self::export::mailbox_entry;
pub use self::record::{Arrival, Found, Kept, State};
pub use self::writer::Writer;
pub use crate::store::{Broken, Id, Limits, Moment, Recovery, StoreError};

use self::holdings::Holdings;
use crate::spool::{Awaits, NewEntry, Spool};
use crate::store::{Folder, Locked, Owner, Record, Share};

/// A quarantine. Its clones are the same quarantine.
#[derive(Clone, Debug)]
pub struct Quarantine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: Folder<Kept>,
    holdings: Holdings,
    /// `None` beside an owner.
    _owner: Option<Owner>,
}

impl Quarantine {
    /// Opens the quarantine at a path as its owner, and makes it if it is not there.
    pub fn open(path: &Path, limits: Limits) -> Result<(Self, Recovery), StoreError> {
        let folder = Folder::make(path)?;
        let owner = Owner::of(Kept::KIND, path)?;
        let removed = folder.clean()?;
        let quarantine = Self::new(folder, limits, Some(owner));
        let (entries, broken) = quarantine.entries()?;
        quarantine.0.holdings.are(&entries);
        Ok((quarantine, Recovery { entries: entries.len(), removed, broken }))
    }

    /// The quarantine at a path, beside its owner if there is one: to look at, and to work on single entries.
    pub fn beside(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::new(Folder::existing(path)?, Limits::default(), None))
    }

    fn new(folder: Folder<Kept>, limits: Limits, owner: Option<Owner>) -> Self {
        Self(Arc::new(Inner { folder, holdings: Holdings::new(limits), _owner: owner }))
    }

    /// What it holds now, and what it may.
    pub(crate) fn usage(&self) -> (Share, Limits) {
        self.0.holdings.now()
    }

    /// Begins to keep a message. The writer refuses what is beyond the limits.
    pub fn keep(&self, arrival: Arrival, now: SystemTime) -> Result<Writer, StoreError> {
        Writer::new(self, arrival, now.into())
    }

    /// All messages as they are, in the order of their names, and those that can't be used.
    pub fn entries(&self) -> Result<(Vec<Kept>, Vec<Broken>), StoreError> {
        self.0.folder.entries()
    }

    /// What is known of a message at this moment.
    pub fn entry(&self, id: &Id) -> Result<Kept, StoreError> {
        self.0.folder.read(id)
    }

    /// A message, from its beginning, to look at.
    pub fn message(&self, id: &Id) -> Result<File, StoreError> {
        self.0.folder.message(id)
    }

    /// Gives a message to the spool, for its recipients and past the services that had stopped it. Once: a
    /// second time is an error, unless the first did not come to its end, which then is what it does. The
    /// entry stays until its time is over.
    pub fn release(&self, id: &Id, spool: &Spool, now: SystemTime) -> Result<Id, StoreError> {
        let mut locked = self.0.folder.lock(id)?;
        let kept = locked.record().clone();
        let name = release_name(id)?;
        match kept.state {
            State::Kept => {
                prepare(spool, &locked, &name, now)?;
                let releasing = Kept { state: State::Releasing { at: now.into() }, ..kept };
                locked.replace(&self.0.folder, releasing)?;
            }
            State::Releasing { .. } => {}
            State::Released { at } => {
                let reason = format!("was released at {at}");
                return Err(StoreError::Refused { id: id.clone(), reason });
            }
        }
        self.complete(&mut locked, spool, now.into())?;
        Ok(name)
    }

    /// Brings releases to an end that were under way when a process ended, and says how many; for the start of
    /// who owns both.
    pub fn finish(&self, spool: &Spool, now: SystemTime) -> Result<usize, StoreError> {
        let mut finished = 0;
        for kept in self.entries()?.0.iter().filter(|kept| kept.is_releasing()) {
            match self.0.folder.lock(&kept.id) {
                Ok(mut locked) if locked.record().is_releasing() => {
                    self.complete(&mut locked, spool, now.into())?;
                    finished += 1;
                }
                // Somebody else is about it, or was.
                Ok(_) | Err(StoreError::Busy { .. } | StoreError::Unknown { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for entry in spool.entries()?.0 {
            let Some(Awaits::Release { of }) = &entry.awaits else { continue };
            match self.0.folder.lock(of) {
                Ok(locked) if locked.record().state != State::Kept => spool.confirm(&entry.id)?,
                // It had not come to the second step. An entry that has can't be removed.
                Ok(_) | Err(StoreError::Unknown { .. }) => spool.withdraw(&entry.id)?,
                Err(StoreError::Busy { .. } | StoreError::Broken(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(finished)
    }

    /// Removes a message.
    pub fn delete(&self, id: &Id) -> Result<(), StoreError> {
        self.remove(self.0.folder.lock(id)?)
    }

    /// Removes messages whose time is over, and says how many. One that somebody works on has its turn later.
    pub fn expire(&self, now: SystemTime) -> Result<usize, StoreError> {
        let (entries, mut expired) = (self.entries()?.0, 0);
        for kept in entries.iter().filter(|kept| kept.is_expired(now.into())) {
            match self.delete(&kept.id) {
                Ok(()) => expired += 1,
                Err(StoreError::Busy { .. } | StoreError::Unknown { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        // What others removed in the meantime leaves room too.
        self.0.holdings.are(&self.entries()?.0);
        Ok(expired)
    }

    fn remove(&self, locked: Locked<Kept>) -> Result<(), StoreError> {
        let kept = locked.record();
        if kept.is_releasing() {
            let reason = "is half released: release it again first".to_owned();
            return Err(StoreError::Refused { id: kept.id.clone(), reason });
        }
        let id = kept.id.clone();
        locked.remove(&self.0.folder)?;
        self.0.holdings.remove(&id);
        Ok(())
    }

    /// The third step of a release.
    fn complete(
        &self,
        locked: &mut Locked<Kept>,
        spool: &Spool,
        now: Moment,
    ) -> Result<(), StoreError> {
        let kept = locked.record().clone();
        spool.confirm(&release_name(&kept.id)?)?;
        locked.replace(&self.0.folder, Kept { state: State::Released { at: now }, ..kept })
    }
}

/// The first step of a release.
fn prepare(
    spool: &Spool,
    locked: &Locked<Kept>,
    name: &Id,
    now: SystemTime,
) -> Result<(), StoreError> {
    let kept = locked.record();
    let entry = NewEntry {
        recipients: kept.recipients.clone(),
        trace: kept.trace.clone(),
        queue_id: kept.queue_id.clone(),
        skips: kept.stopped_by.clone(),
        ..NewEntry::new(kept.sender.clone(), Vec::new())
    };
    let awaits = Awaits::Release { of: kept.id.clone() };
    let mut writer = match spool.prepare(entry, awaits, name.clone(), now.into()) {
        // It was interrupted before the second step.
        Err(StoreError::AlreadyThere { .. }) => return Ok(()),
        begun => begun?,
    };
    let mut message = locked.message().map_err(|source| unreadable(&kept.id, &source))?;
    writer.copy(&mut message, kept.octets)?;
    writer.commit().map(drop)
}

fn release_name(id: &Id) -> Result<Id, StoreError> {
    id.derived("release").map_err(|error| StoreError::Refused {
        id: id.clone(),
        reason: format!("can't be released: {error}"),
    })
}

fn unreadable(id: &Id, source: &std::io::Error) -> StoreError {
    let reason = format!("has a message that can't be read: {source}");
    StoreError::Refused { id: id.clone(), reason }
}

#[cfg(test)]
mod tests;
