//! Which entry is due when, so that nobody has to read them all to know.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::{Entry, Id, Moment};

/// Worst case: some hundred octets for each entry.
#[derive(Debug, Default)]
pub(super) struct Index {
    slots: HashMap<Id, Slot>,
    /// Entries that are to be delivered and that nobody has claimed.
    due: BTreeSet<(Moment, Id)>,
    /// Entries that are to be delivered, by the moment from which on their age counts.
    ages: BTreeSet<(Moment, Id)>,
    claimed: usize,
    /// How much of what others noted was read.
    pub(super) noted: u64,
}

#[derive(Debug)]
struct Slot {
    octets: u64,
    begins: Moment,
    due: Option<Moment>,
    claimed: bool,
}

/// How many entries do what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// They are to be delivered, at once or later.
    pub(crate) queued: usize,
    /// They are being delivered.
    pub(crate) active: usize,
    /// They wait for somebody.
    pub(crate) held: usize,
    /// From when on the age of the oldest one counts that is to be delivered.
    pub(crate) oldest: Option<Moment>,
}

/// An entry that somebody else works on is looked at again after this.
const BUSY: Duration = Duration::from_secs(1);

impl Index {
    /// Knows an entry as it is now; `true` if it is new.
    pub(super) fn put(&mut self, entry: &Entry) -> bool {
        let before = self.take(&entry.id);
        let claimed = before.as_ref().is_some_and(|slot| slot.claimed);
        let (octets, begins, due) = (entry.octets, entry.begins(), entry.due());
        self.insert(&entry.id, Slot { octets, begins, due, claimed });
        before.is_none()
    }

    /// Forgets an entry; its octets, if it was known.
    pub(super) fn remove(&mut self, id: &Id) -> Option<u64> {
        self.take(id).map(|slot| slot.octets)
    }

    /// Leaves an entry out of what is due; it counts for the limits still.
    pub(super) fn set_aside(&mut self, id: &Id) {
        self.change(id, |slot| slot.due = None);
    }

    /// Marks an entry as claimed; `false` if it is already, or unknown.
    pub(super) fn claim(&mut self, id: &Id) -> bool {
        let is_free = self.slots.get(id).is_some_and(|slot| !slot.claimed);
        self.change(id, |slot| slot.claimed = true);
        is_free
    }

    /// The opposite of [`Self::claim`].
    pub(super) fn unclaim(&mut self, id: &Id) {
        self.change(id, |slot| slot.claimed = false);
    }

    /// Somebody else works on an entry.
    pub(super) fn is_busy(&mut self, id: &Id, now: Moment) {
        self.put_off(id, now.after(BUSY));
    }

    /// Gives back an entry that is not due before that, whatever its file says.
    pub(super) fn put_off(&mut self, id: &Id, until: Moment) {
        self.change(id, |slot| (slot.due, slot.claimed) = (Some(until), false));
    }

    pub(super) fn due(&self, now: Moment, most: usize) -> Vec<Id> {
        let due = self.due.iter().take_while(|(moment, _)| *moment <= now);
        due.take(most).map(|(_, id)| id.clone()).collect()
    }

    pub(super) fn next_due(&self) -> Option<Moment> {
        self.due.first().map(|(moment, _)| *moment)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Takes as long however many there are.
    pub(super) fn standing(&self) -> Standing {
        let (queued, active) = (self.due.len(), self.claimed);
        Standing {
            queued,
            active,
            held: self.slots.len().saturating_sub(queued + active),
            oldest: self.ages.first().map(|(moment, _)| *moment),
        }
    }

    fn change(&mut self, id: &Id, change: impl FnOnce(&mut Slot)) {
        if let Some(mut slot) = self.take(id) {
            change(&mut slot);
            self.insert(id, slot);
        }
    }

    fn insert(&mut self, id: &Id, slot: Slot) {
        if let Some(moment) = slot.due {
            self.ages.insert((slot.begins, id.clone()));
            if !slot.claimed {
                self.due.insert((moment, id.clone()));
            }
        }
        self.claimed += usize::from(slot.claimed);
        self.slots.insert(id.clone(), slot);
    }

    fn take(&mut self, id: &Id) -> Option<Slot> {
        let slot = self.slots.remove(id)?;
        if let Some(moment) = slot.due {
            self.ages.remove(&(slot.begins, id.clone()));
            self.due.remove(&(moment, id.clone()));
        }
        self.claimed -= usize::from(slot.claimed);
        Some(slot)
    }
}
