//! Octets that may be used up, and shares of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Octets of which everybody who needs some takes a share.
#[derive(Clone, Debug)]
pub struct Budget {
    free: Arc<AtomicU64>,
    most: u64,
}

/// A share of a budget, given back when dropped.
#[derive(Debug)]
pub struct Room {
    budget: Budget,
    octets: u64,
}

impl Budget {
    /// So many octets.
    pub fn new(octets: u64) -> Self {
        Self { free: Arc::new(AtomicU64::new(octets)), most: octets }
    }

    /// A share that is nothing yet.
    pub fn room(&self) -> Room {
        Room { budget: self.clone(), octets: 0 }
    }

    /// All of its octets.
    pub fn most(&self) -> u64 {
        self.most
    }

    /// Those in use.
    pub fn used(&self) -> u64 {
        self.most.saturating_sub(self.free.load(Ordering::Relaxed))
    }
}

impl Room {
    /// Room for that many octets in all; whether there is any.
    pub fn grow_to(&mut self, octets: u64) -> bool {
        let more = octets.saturating_sub(self.octets);
        let order = Ordering::Relaxed;
        let take = |free: u64| free.checked_sub(more);
        let taken = more == 0 || self.budget.free.fetch_update(order, order, take).is_ok();
        self.octets += if taken { more } else { 0 };
        taken
    }

    /// Whether it has nothing of the budget.
    pub fn is_empty(&self) -> bool {
        self.octets == 0
    }

    /// Gives all of it back.
    pub fn clear(&mut self) {
        self.budget.free.fetch_add(std::mem::take(&mut self.octets), Ordering::Relaxed);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.clear();
    }
}
