//! When the output of a connection goes out.

use tokio::time::Instant;

/// Octets of output that stay for nothing more: some fifty events. Worst case a connection: that much and one
/// payload more, with which it goes out.
const MOST_LINGERING: usize = 16 * 1024;

/// Output that nobody waits for stays for a moment, so that there is one write for many events. What came
/// first goes first in any case.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    is_urgent: bool,
    until: Option<Instant>,
}

impl Lingering {
    /// Somebody waits for what is in the output, or will be.
    pub(super) fn end(&mut self) {
        self.is_urgent = true;
    }

    /// What is in the output, or will be, may stay until then.
    pub(super) fn end_at(&mut self, until: Instant) {
        self.until = Some(self.until.map_or(until, |earlier| earlier.min(until)));
    }

    /// Whether the output goes out, which has so many octets.
    pub(super) fn is_over(&mut self, octets: usize, now: Instant) -> bool {
        if octets == 0 {
            *self = Self::default();
            return false;
        }
        // Without a word on it somebody may wait.
        self.is_urgent |= octets >= MOST_LINGERING || self.until.is_none_or(|until| until <= now);
        self.is_urgent
    }

    /// When to ask again, unless more comes before.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.until.filter(|_| !self.is_urgent)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn output_stays_until_its_time_unless_somebody_waits() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut lingering = Lingering::default();
        assert!(!lingering.is_over(0, now) && lingering.is_over(1, now), "nobody says it may stay");
        for is_awaited in [false, true] {
            assert!(!lingering.is_over(0, now));
            lingering.end_at(later);
            // What comes behind it does not make it stay longer.
            lingering.end_at(later + Duration::from_secs(1));
            assert!(!lingering.is_over(MOST_LINGERING - 1, now));
            assert_eq!(lingering.poll_timeout(), Some(later));
            if is_awaited {
                lingering.end();
            }
            assert_eq!(lingering.is_over(1, now), is_awaited);
            assert!(lingering.is_over(1, later));
            // To the end, once it has begun.
            assert!(lingering.is_over(1, now));
            assert_eq!(lingering.poll_timeout(), None);
        }
        assert!(!lingering.is_over(0, now));
        lingering.end_at(later);
        assert!(lingering.is_over(MOST_LINGERING, now), "it is enough");
    }
}
