//! Whether a plugin is asked, or left alone for a while. No clock: `now` comes in.

use std::time::Duration;

use tokio::time::Instant;

/// The longest that a plugin is left alone.
const LONGEST: Duration = Duration::from_secs(60);

/// A circuit breaker.
///
/// ```text
///            failures in a row                    one event is let through
///   asked ──────────────────────▶ left alone ──────────────────────────────▶ on trial
///     ▲                               ▲            when the pause is over        │
///     │                               └── it fails: twice the pause ─────────────┤
///     └───────────────────────────────────── it answers ─────────────────────────┘
/// ```
#[derive(Debug)]
pub(super) struct Breaker {
    most: u32,
    shortest: Duration,
    /// How long it is left alone the next time.
    pause: Duration,
    failures: u32,
    until: Option<Instant>,
    is_on_trial: bool,
    last: String,
}

impl Breaker {
    /// One that opens after `most` failures in a row, for `pause` at first.
    pub(super) fn new(most: u32, pause: Duration) -> Self {
        let last = String::new();
        Self { most, shortest: pause, pause, failures: 0, until: None, is_on_trial: false, last }
    }

    /// Whether an event may go to the plugin; otherwise why it may not.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), String> {
        match self.until {
            None => Ok(()),
            Some(until) if now >= until && !self.is_on_trial => {
                self.is_on_trial = true;
                Ok(())
            }
            Some(_) => {
                Err(format!("left alone after {} failures, the last: {}", self.failures, self.last))
            }
        }
    }

    /// Whether it is left alone, or on trial after that.
    pub(super) fn is_open(&self) -> bool {
        self.until.is_some()
    }

    /// That the plugin is left alone at this moment, for how long, and why.
    pub(super) fn condition(&self, now: Instant) -> Option<String> {
        let Self { until, failures, last, .. } = self;
        let left = until.as_ref()?.saturating_duration_since(now).as_secs_f64().ceil();
        Some(format!("left alone for {left} s more after {failures} failures, the last: {last}"))
    }

    /// It answered; whether it was left alone before.
    pub(super) fn answered(&mut self) -> bool {
        let is_back = self.until.take().is_some();
        (self.failures, self.pause, self.is_on_trial) = (0, self.shortest, false);
        is_back
    }

    /// An event was taken back before it said anything of the plugin; the next one may try it.
    pub(super) fn withdrawn(&mut self) {
        self.is_on_trial = false;
    }

    /// It failed; for how long it is left alone now, if that begins.
    pub(super) fn failed(&mut self, cause: String, now: Instant) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        self.last = cause;
        let begins = if self.is_on_trial {
            true
        } else {
            self.until.is_none() && self.failures >= self.most
        };
        if !begins {
            return None;
        }
        let pause = self.pause;
        (self.until, self.is_on_trial) = (Some(now + pause), false);
        self.pause = (pause * 2).min(LONGEST.max(self.shortest));
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn failures_in_a_row_open_it_and_an_answer_closes_it() {
        let now = Instant::now();
        let mut breaker = Breaker::new(2, SECOND);
        assert_eq!(breaker.failed("a".to_owned(), now), None);
        assert!(!breaker.answered(), "it was asked all the time");
        assert_eq!(breaker.failed("a".to_owned(), now), None, "an answer in between counts");
        assert_eq!(breaker.failed("b".to_owned(), now), Some(SECOND));
        assert_eq!(breaker.admit(now), Err("left alone after 2 failures, the last: b".to_owned()));
        let condition = "left alone for 1 s more after 2 failures, the last: b";
        assert_eq!(breaker.condition(now).as_deref(), Some(condition));
        // Those that were under way fail as well; the pause is not longer for that.
        assert_eq!(breaker.failed("c".to_owned(), now), None);
        assert_eq!(breaker.admit(now + SECOND), Ok(()), "one on trial");
        assert!(breaker.admit(now + SECOND).is_err(), "and no other");
        assert_eq!(breaker.failed("d".to_owned(), now + SECOND), Some(2 * SECOND));
        assert!(breaker.admit(now + 2 * SECOND).is_err());
        assert_eq!(breaker.admit(now + 3 * SECOND), Ok(()));
        assert!(breaker.answered(), "it is back");
        assert_eq!(breaker.condition(now), None);
        assert_eq!(breaker.admit(now + 3 * SECOND), Ok(()));
        assert_eq!(breaker.failed("e".to_owned(), now), None);
        assert_eq!(breaker.failed("e".to_owned(), now), Some(SECOND), "the pause begins anew");
    }

    #[test]
    fn an_event_that_was_taken_back_is_no_trial() {
        let now = Instant::now();
        let mut breaker = Breaker::new(1, SECOND);
        assert_eq!(breaker.failed("a".to_owned(), now), Some(SECOND));
        assert_eq!(breaker.admit(now + SECOND), Ok(()));
        assert!(breaker.admit(now + SECOND).is_err());
        breaker.withdrawn();
        assert_eq!(breaker.admit(now + SECOND), Ok(()), "the next one tries");
        assert!(breaker.answered());
    }

    #[test]
    fn the_pause_grows_to_a_minute() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(1, SECOND);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(breaker.failed(String::new(), now), Some(seconds * SECOND));
            now += seconds * SECOND;
            assert_eq!(breaker.admit(now), Ok(()));
        }
    }
}
