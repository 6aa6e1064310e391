//! What the quarantine holds, for its limits.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Id, Kept, Limits, StoreError};
use crate::store::{Record, Share, Usage};

/// Worst case: some hundred octets for each message.
#[derive(Debug)]
pub(super) struct Holdings {
    limits: Limits,
    usage: Usage,
    /// Octets of what counts already.
    known: Mutex<HashMap<Id, u64>>,
}

impl Holdings {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, usage: Usage::default(), known: Mutex::default() }
    }

    /// Takes more, unless that is beyond a limit.
    pub(super) fn take(&self, share: Share) -> Result<(), StoreError> {
        self.usage.take(Kept::KIND, &self.limits, share)
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&self, share: Share) {
        self.usage.give_back(share);
    }

    /// What there is, and what there may be.
    pub(super) fn now(&self) -> (Share, Limits) {
        (self.usage.now(), self.limits)
    }

    /// Counts a message.
    pub(super) fn put(&self, kept: &Kept) {
        if self.known().insert(kept.id.clone(), kept.octets).is_none() {
            self.usage.count(Share { entries: 1, octets: kept.octets });
        }
    }

    /// Does not count a message any more.
    pub(super) fn remove(&self, id: &Id) {
        if let Some(octets) = self.known().remove(id) {
            self.usage.give_back(Share { entries: 1, octets });
        }
    }

    /// Counts all messages that are there, and no others.
    pub(super) fn are(&self, entries: &[Kept]) {
        let there: HashMap<&Id, &Kept> = entries.iter().map(|kept| (&kept.id, kept)).collect();
        let gone: Vec<Id> =
            self.known().keys().filter(|id| !there.contains_key(id)).cloned().collect();
        gone.iter().for_each(|id| self.remove(id));
        entries.iter().for_each(|kept| self.put(kept));
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Id, u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
