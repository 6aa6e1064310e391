//! An entry that somebody delivers.

use std::fs::File;
use std::io;
use std::time::SystemTime;

use super::report::Report;
use super::{Awaits, Entry, Id, Moment, NewEntry, Spool, State, StoreError};
use crate::store::Locked;

/// An entry for the time of an attempt: nobody else delivers, changes or removes it. It is given back when
/// this is dropped, and what was not settled by then is due as before.
#[derive(Debug)]
pub struct Claim {
    spool: Spool,
    entry: Entry,
    /// `None` once the entry is done and removed.
    locked: Option<Locked<Entry>>,
    /// Not due before that, whatever its file says.
    put_off: Option<Moment>,
}

/// What an attempt made of a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The next hop took the message.
    Delivered {
        /// What it said.
        reply: String,
    },
    /// Not yet.
    Deferred {
        /// When the next attempt may come; [`Schedule`](super::Schedule) knows.
        until: SystemTime,
        /// What the next hop said, or why it said nothing.
        reply: String,
    },
    /// Never.
    Failed {
        /// What the next hop said, or why it is given up.
        reply: String,
    },
}

impl Claim {
    pub(super) fn new(spool: &Spool, id: &Id, now: Moment) -> Result<Option<Self>, StoreError> {
        if !spool.index().claim(id) {
            return Ok(None);
        }
        let locked = match spool.0.folder.lock(id) {
            Ok(locked) => locked,
            Err(StoreError::Busy { .. }) => {
                spool.index().is_busy(id, now);
                return Ok(None);
            }
            Err(StoreError::Unknown { .. }) => {
                spool.forget(id);
                return Ok(None);
            }
            Err(error) => {
                spool.index().set_aside(id);
                spool.index().unclaim(id);
                return Err(error);
            }
        };
        let entry = locked.record().clone();
        let is_due = entry.due().is_some_and(|due| due <= now);
        let claim = Self { spool: spool.clone(), entry, locked: Some(locked), put_off: None };
        Ok(is_due.then_some(claim))
    }

    /// What is known of it.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The message, from its beginning. One reader at a time: they share their place in it.
    pub fn message(&self) -> io::Result<File> {
        let locked = self.locked.as_ref().ok_or(io::ErrorKind::NotFound)?;
        locked.message()
    }

    /// Gives it back for later: what became of it could not be noted.
    pub(crate) fn put_off(mut self, until: SystemTime) {
        self.put_off = Some(until.into());
    }

    /// Whether every recipient is settled; then the entry is not there any more.
    pub fn is_done(&self) -> bool {
        self.locked.is_none()
    }

    /// Notes what became of recipients, which are named by their places, and puts a report about them into the
    /// spool: both or neither. A recipient that is settled stays so, and a place that nobody has is passed over.
    pub fn settle(
        &mut self,
        settlements: &[(usize, Settlement)],
        report: Option<&Report>,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        let Some(mut locked) = self.locked.take() else { return Ok(()) };
        let done = self.settle_locked(&mut locked, settlements, report, now.into());
        if done.is_ok() && self.entry.is_settled() {
            let removed = locked.remove(&self.spool.0.folder);
            removed.and_then(|()| self.confirm(report))
        } else {
            self.locked = Some(locked);
            done.and_then(|()| self.confirm(report))
        }
    }

    fn settle_locked(
        &mut self,
        locked: &mut Locked<Entry>,
        settlements: &[(usize, Settlement)],
        report: Option<&Report>,
        now: Moment,
    ) -> Result<(), StoreError> {
        let mut entry = self.entry.clone();
        for (place, settlement) in settlements {
            let recipient = entry.recipients.get_mut(*place);
            if let Some(recipient) = recipient.filter(|recipient| !recipient.state.is_settled()) {
                recipient.state = settlement.state(recipient.state.attempts(), now);
            }
        }
        if let Some(report) = report {
            entry.reports = entry.reports.saturating_add(1);
            for place in &report.delays {
                entry.recipients.get_mut(*place).into_iter().for_each(|r| r.delay_reported = true);
            }
            self.prepare(locked, report, entry.reports, now)?;
        }
        // What is settled is removed right after: that it is gone says the same.
        if !entry.is_settled() {
            locked.replace(&self.spool.0.folder, entry.clone())?;
        }
        self.entry = entry;
        Ok(())
    }

    fn prepare(
        &self,
        locked: &Locked<Entry>,
        report: &Report,
        number: u32,
        now: Moment,
    ) -> Result<(), StoreError> {
        let id = self.report_id(number)?;
        // One that was not finished counts for nothing.
        self.spool.withdraw(&id)?;
        let entry = NewEntry {
            trace: self.entry.trace.clone(),
            ..NewEntry::new(report.sender.clone(), vec![report.recipient.clone()])
        };
        let awaits = Awaits::Report { of: self.entry.id.clone(), number };
        let mut writer = self.spool.prepare(entry, awaits, id, now)?;
        let read = |source| StoreError::Refused {
            id: self.entry.id.clone(),
            reason: format!("has a message that can't be read: {source}"),
        };
        let mut message = locked.message().map_err(read)?;
        writer.write(&report.before)?;
        writer.copy(&mut message, report.returned)?;
        writer.write(&report.after)?;
        writer.commit().map(drop)
    }

    fn confirm(&self, report: Option<&Report>) -> Result<(), StoreError> {
        match report {
            Some(_) => self.spool.confirm(&self.report_id(self.entry.reports)?),
            None => Ok(()),
        }
    }

    fn report_id(&self, number: u32) -> Result<Id, StoreError> {
        let id = self.entry.id.derived(&format!("report-{number}"));
        id.map_err(|error| StoreError::Refused {
            id: self.entry.id.clone(),
            reason: format!("can have no report: {error}"),
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.locked.take().is_none() {
            return self.spool.forget(&self.entry.id);
        }
        self.spool.put(&self.entry);
        match self.put_off {
            Some(until) => self.spool.index().put_off(&self.entry.id, until),
            None => self.spool.index().unclaim(&self.entry.id),
        }
    }
}

impl Settlement {
    fn state(&self, attempts: u32, now: Moment) -> State {
        match self.clone() {
            Self::Delivered { reply } => State::Delivered { at: now, reply },
            Self::Deferred { until, reply } => {
                let attempts = attempts.saturating_add(1);
                State::Deferred { until: until.into(), attempts, reply }
            }
            Self::Failed { reply } => State::Failed { at: now, reply },
        }
    }
}
