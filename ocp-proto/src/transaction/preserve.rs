//! What the processor keeps of the original message and what the server may still use of it (RFC
//! 4037 sections 7 and 11.9 to 11.11).

use std::ops::Range;

use crate::ids::MAXIMUM;
use crate::message::Kept;
use crate::violation::Rule;

/// The ledger of one transaction. Offsets are octets of the original message; sums need more than
/// 31 bits.
#[derive(Debug)]
pub(crate) struct Preservation {
    /// What the processor promised to keep.
    kept: Range<u64>,
    /// What the server may still refer to by its DPI; only shrinks.
    declared: Range<u64>,
    /// Where its interest ends by Preservation-Interest-Body.
    limit: u64,
    /// Whether a DUY relied on the promise.
    used: bool,
    /// Whether the promise was broken before any DUY relied on it.
    void: bool,
}

impl Default for Preservation {
    fn default() -> Self {
        Self {
            kept: 0..0,
            declared: 0..u64::from(MAXIMUM),
            limit: u64::MAX,
            used: false,
            void: false,
        }
    }
}

impl Preservation {
    /// Kept: the promise may grow; it may give up octets only where the server has no interest.
    pub(crate) fn keep(&mut self, kept: Kept) -> Result<(), Rule> {
        match (self.honours(kept), self.used) {
            (true, _) => {}
            // No DUY yet: the server must not use preserved data in this transaction at all.
            (false, false) => self.void = true,
            (false, true) => return Err(Rule::KeptWithdrawn),
        }
        self.kept = area(kept.offset, kept.size);
        Ok(())
    }

    /// Whether Kept leaves what was promised before.
    pub(crate) fn honours(&self, kept: Kept) -> bool {
        let new = area(kept.offset, kept.size);
        let owed = intersection(&self.kept, &self.interest());
        owed.is_empty() || (new.start <= owed.start && owed.end <= new.end)
    }

    /// DPI: the area of interest only shrinks.
    pub(crate) fn narrow(&mut self, offset: u32, size: u32) -> Result<(), Rule> {
        let mut new = area(offset, size);
        // No message has more octets: a sum beyond that means everything from the offset on.
        new.end = new.end.min(u64::from(MAXIMUM)).max(new.start);
        if !new.is_empty() && (new.start < self.declared.start || self.declared.end < new.end) {
            return Err(Rule::InterestGrows);
        }
        self.declared = new;
        Ok(())
    }

    /// Preservation-Interest-Body has come to an offset of the whole message.
    pub(crate) fn limit(&mut self, end: u32) {
        self.limit = u64::from(end);
    }

    /// What the server may still refer to.
    pub(crate) fn interest(&self) -> Range<u64> {
        intersection(&self.declared, &(0..self.limit))
    }

    /// DUY.
    pub(crate) fn take(&mut self, range: &Range<u32>) -> Result<(), Rule> {
        let within = |area: &Range<u64>| {
            area.start <= u64::from(range.start) && u64::from(range.end) <= area.end
        };
        if self.void || !within(&self.kept) {
            return Err(Rule::NotKept);
        }
        if !within(&self.interest()) {
            return Err(Rule::Disposable);
        }
        self.used = true;
        Ok(())
    }

    /// What DUY may name of the first `octets` octets.
    pub(crate) fn usable(&self, octets: u32) -> Range<u32> {
        if self.void {
            return 0..0;
        }
        let usable = intersection(&self.kept, &self.interest());
        let clip = |offset: u64| u32::try_from(offset).unwrap_or(u32::MAX).min(octets);
        clip(usable.start)..clip(usable.end)
    }
}

fn area(offset: u32, size: u32) -> Range<u64> {
    u64::from(offset)..u64::from(offset) + u64::from(size)
}

fn intersection(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(offset: u32, size: u32) -> Kept {
        Kept { offset, size }
    }

    #[test]
    fn a_promise_grows() {
        let mut ledger = Preservation::default();
        ledger.keep(kept(0, 5)).unwrap();
        assert_eq!(ledger.usable(3), 0..3);
        ledger.keep(kept(0, 10)).unwrap();
        assert_eq!(ledger.take(&(5..10)), Ok(()));
        assert_eq!(ledger.take(&(5..11)), Err(Rule::NotKept));
        assert_eq!(ledger.keep(kept(5, 5)), Err(Rule::KeptWithdrawn));
    }

    #[test]
    fn a_promise_broken_before_any_use_is_never_used() {
        let mut ledger = Preservation::default();
        ledger.keep(kept(0, 10)).unwrap();
        ledger.keep(kept(5, 5)).unwrap();
        assert_eq!(ledger.usable(10), 0..0);
        assert_eq!(ledger.take(&(5..6)), Err(Rule::NotKept));
    }

    #[test]
    fn disposable_octets_need_not_be_kept() {
        let mut ledger = Preservation::default();
        ledger.keep(kept(0, 10)).unwrap();
        ledger.take(&(0..5)).unwrap();
        ledger.narrow(5, 0x7fff_ffff).unwrap();
        assert_eq!(ledger.keep(kept(5, 20)), Ok(()));
        assert_eq!(ledger.take(&(0..2)), Err(Rule::NotKept));
    }

    #[test]
    fn interest_only_shrinks() {
        let mut ledger = Preservation::default();
        ledger.narrow(0, 8).unwrap();
        ledger.narrow(2, 6).unwrap();
        assert_eq!(ledger.narrow(2, 7), Err(Rule::InterestGrows));
        assert_eq!(ledger.narrow(1, 7), Err(Rule::InterestGrows));
        ledger.narrow(0, 0).unwrap();
        ledger.keep(kept(0, 8)).unwrap();
        assert_eq!(ledger.take(&(2..4)), Err(Rule::Disposable));
    }
}
