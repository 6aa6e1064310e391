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
    /// How much of what others noted was read.
    pub(super) noted: u64,
}

#[derive(Debug)]
struct Slot {
    octets: u64,
    due: Option<Moment>,
    claimed: bool,
}

/// An entry that somebody else works on is looked at again after this.
const BUSY: Duration = Duration::from_secs(1);

impl Index {
    /// Knows an entry as it is now; `true` if it is new.
    pub(super) fn put(&mut self, entry: &Entry) -> bool {
        let (due, octets) = (entry.due(), entry.octets);
        let before = self.slots.remove(&entry.id);
        let claimed = before.as_ref().is_some_and(|slot| slot.claimed);
        if let Some(moment) = before.as_ref().and_then(|slot| slot.due) {
            self.due.remove(&(moment, entry.id.clone()));
        }
        if let Some(moment) = due.filter(|_| !claimed) {
            self.due.insert((moment, entry.id.clone()));
        }
        self.slots.insert(entry.id.clone(), Slot { octets, due, claimed });
        before.is_none()
    }

    /// Forgets an entry; its octets, if it was known.
    pub(super) fn remove(&mut self, id: &Id) -> Option<u64> {
        let slot = self.slots.remove(id)?;
        if let Some(moment) = slot.due {
            self.due.remove(&(moment, id.clone()));
        }
        Some(slot.octets)
    }

    /// Leaves an entry out of what is due; it counts for the limits still.
    pub(super) fn set_aside(&mut self, id: &Id) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        if let Some(moment) = slot.due.take() {
            self.due.remove(&(moment, id.clone()));
        }
    }

    /// Marks an entry as claimed; `false` if it is already, or unknown.
    pub(super) fn claim(&mut self, id: &Id) -> bool {
        let Some(slot) = self.slots.get_mut(id).filter(|slot| !slot.claimed) else { return false };
        slot.claimed = true;
        if let Some(moment) = slot.due {
            self.due.remove(&(moment, id.clone()));
        }
        true
    }

    /// The opposite of [`Self::claim`].
    pub(super) fn unclaim(&mut self, id: &Id) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        slot.claimed = false;
        if let Some(moment) = slot.due {
            self.due.insert((moment, id.clone()));
        }
    }

    /// Somebody else works on an entry.
    pub(super) fn is_busy(&mut self, id: &Id, now: Moment) {
        self.put_off(id, now.after(BUSY));
    }

    /// Gives back an entry that is not due before that, whatever its file says.
    pub(super) fn put_off(&mut self, id: &Id, until: Moment) {
        self.set_aside(id);
        if let Some(slot) = self.slots.get_mut(id) {
            slot.due = Some(until);
        }
        self.unclaim(id);
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
}
