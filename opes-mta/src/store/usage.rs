//! How much a store holds, and how much it may.

use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;

/// What a store may hold. Disk in the worst case: the octets, and some kilobytes for each entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Octets of all messages.
    pub octets: u64,
}

impl Limits {
    /// As much as the disk takes.
    pub const NONE: Self = Self { entries: u64::MAX, octets: u64::MAX };
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 100_000, octets: 10 * 1024 * 1024 * 1024 }
    }
}

/// What a store holds, those entries that are being written too.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    entries: AtomicU64,
    octets: AtomicU64,
}

/// What one entry has of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) entries: u64,
    pub(crate) octets: u64,
}

impl Usage {
    /// Takes more, unless that is beyond a limit.
    pub(crate) fn take(
        &self,
        kind: &'static str,
        limits: &Limits,
        share: Share,
    ) -> Result<(), StoreError> {
        let full = |limit, unit| StoreError::Full { kind, limit, unit };
        add(&self.entries, share.entries, limits.entries)
            .ok_or_else(|| full(limits.entries, "entries"))?;
        add(&self.octets, share.octets, limits.octets).ok_or_else(|| {
            self.entries.fetch_sub(share.entries, Ordering::Relaxed);
            full(limits.octets, "octets")
        })
    }

    /// Counts what is there, whatever the limits say.
    pub(crate) fn count(&self, share: Share) {
        self.entries.fetch_add(share.entries, Ordering::Relaxed);
        self.octets.fetch_add(share.octets, Ordering::Relaxed);
    }

    /// All of it now.
    pub(crate) fn now(&self) -> Share {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Share { entries: load(&self.entries), octets: load(&self.octets) }
    }

    /// Gives back what was taken or counted.
    pub(crate) fn give_back(&self, share: Share) {
        self.entries.fetch_sub(share.entries, Ordering::Relaxed);
        self.octets.fetch_sub(share.octets, Ordering::Relaxed);
    }
}

fn add(counter: &AtomicU64, more: u64, limit: u64) -> Option<()> {
    if more == 0 {
        return Some(());
    }
    let within = |now: u64| now.checked_add(more).filter(|sum| *sum <= limit);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).ok().map(drop)
}
