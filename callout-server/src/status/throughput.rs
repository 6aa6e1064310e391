//! Messages of the last hour, a count a minute.

use std::collections::VecDeque;
use std::ops::{AddAssign, Sub};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::metrics::{EventResult, Metrics};
use crate::server::Server;

/// Minutes that are shown, with the one that goes on.
pub(super) const MINUTES: usize = 60;

/// Counts messages by what became of them. What is counted already is read once a minute; the way of mail does
/// nothing for it.
#[derive(Debug, Default)]
pub(super) struct Throughput(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    /// Those of whole minutes, the oldest first.
    minutes: VecDeque<Messages>,
    /// All, when the last of them ended.
    before: Messages,
}

/// Messages by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Messages {
    /// They went on, changed or not.
    pub(super) passed: u64,
    /// A service replied instead, to all or to some recipients.
    pub(super) replied: u64,
    /// The server did not work on them, or nobody waited for its answer.
    pub(super) failed: u64,
}

impl Throughput {
    /// Reads the counts once a minute.
    pub(super) async fn run(self: Arc<Self>, server: Arc<Server>) {
        let mut minute = interval(Duration::from_secs(60));
        // What was slept through is one long minute.
        minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one ends at once.
        minute.tick().await;
        loop {
            minute.tick().await;
            self.end_minute(Messages::of(&server.metrics));
        }
    }

    fn end_minute(&self, all: Messages) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = all - counted.before;
        counted.before = all;
        counted.minutes.push_back(minute);
        if counted.minutes.len() >= MINUTES {
            counted.minutes.pop_front();
        }
    }

    /// The minutes so far, the one that goes on last.
    pub(super) fn minutes(&self, all: Messages) -> Vec<Messages> {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.minutes.iter().copied().chain([all - counted.before]).collect()
    }
}

impl Messages {
    /// All so far.
    pub(super) fn of(metrics: &Metrics) -> Self {
        let mut messages = Self::default();
        for (result, count) in metrics.messages() {
            let class = match result {
                EventResult::Unchanged | EventResult::Modified => &mut messages.passed,
                EventResult::Replied | EventResult::Several => &mut messages.replied,
                EventResult::Refused | EventResult::Unanswered => &mut messages.failed,
            };
            *class += count;
        }
        messages
    }

    pub(super) fn sum(self) -> u64 {
        self.passed + self.replied + self.failed
    }
}

impl AddAssign for Messages {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.replied += other.replied;
        self.failed += other.failed;
    }
}

impl Sub for Messages {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        // Counts are read one after the other, so a sum may be older than a part of it.
        Self {
            passed: self.passed.saturating_sub(before.passed),
            replied: self.replied.saturating_sub(before.replied),
            failed: self.failed.saturating_sub(before.failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_kept_and_the_minute_that_goes_on_is_there() {
        let throughput = Throughput::default();
        let all = |passed| Messages { passed, ..Messages::default() };
        assert_eq!(throughput.minutes(all(2)), [all(2)]);
        for minute in 1..=100 {
            // One more each minute: 1, 2, 3 and so on.
            throughput.end_minute(all(minute * (minute + 1) / 2));
        }
        let minutes = throughput.minutes(all(5_053));
        assert_eq!(minutes.len(), MINUTES);
        assert_eq!((minutes[0], minutes[58], minutes[59]), (all(42), all(100), all(3)));
    }
}
