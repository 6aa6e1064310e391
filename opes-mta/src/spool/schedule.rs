//! When the next attempt comes (RFC 5321 section 4.5.4.1).

use std::time::{Duration, SystemTime};

/// How long the spool waits between attempts, and when it gives up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// After the first attempt.
    pub first: Duration,
    /// Each wait is twice the one before, up to this one.
    pub longest: Duration,
    /// Age of a message at which it is given up.
    pub give_up: Duration,
    /// Share of a wait that chance may add, so that what was deferred together does not come back together.
    pub jitter: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(5 * 60),
            longest: Duration::from_secs(60 * 60),
            give_up: Duration::from_secs(5 * 24 * 60 * 60),
            jitter: 0.1,
        }
    }
}

impl Schedule {
    /// When the attempt comes that follows so many others, or `None` if the message is given up. The
    /// last one comes when the message reaches the age at which it is given up, and not later.
    pub fn next(&self, arrived: SystemTime, attempts: u32, now: SystemTime) -> Option<SystemTime> {
        let end = arrived.checked_add(self.give_up)?;
        if now >= end {
            return None;
        }
        let doublings = attempts.saturating_sub(1).min(31);
        let wait = self.first.saturating_mul(1 << doublings).min(self.longest);
        let more = wait.as_secs_f64() * self.jitter.clamp(0.0, 1.0) * fastrand::f64();
        let wait = wait.saturating_add(Duration::try_from_secs_f64(more).unwrap_or_default());
        Some(now.checked_add(wait).map_or(end, |next| next.min(end)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_end_at_the_age() {
        let schedule = Schedule { jitter: 0.0, ..Schedule::default() };
        let minutes = |number: u64| Duration::from_secs(number * 60);
        let arrived = UNIX_EPOCH + minutes(1_000_000);
        for (attempts, wait) in
            [(1, 5), (2, 10), (3, 20), (4, 40), (5, 60), (6, 60), (u32::MAX, 60)]
        {
            let next = schedule.next(arrived, attempts, arrived).unwrap();
            assert_eq!(next, arrived + minutes(wait), "{attempts}");
        }
        let end = arrived + schedule.give_up;
        assert_eq!(schedule.next(arrived, 9, end - minutes(1)), Some(end));
        assert_eq!(schedule.next(arrived, 9, end), None);
    }

    #[test]
    fn chance_adds_no_more_than_its_share() {
        let schedule = Schedule::default();
        for _ in 0..1_000 {
            let next = schedule.next(UNIX_EPOCH, 1, UNIX_EPOCH).unwrap();
            let wait = next.duration_since(UNIX_EPOCH).unwrap();
            assert!((300.0..=330.0).contains(&wait.as_secs_f64()), "{wait:?}");
        }
    }
}
