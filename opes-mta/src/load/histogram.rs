//! Times in buckets whose width grows with the time: 3% of error at any scale, 15 KB a histogram.

use std::time::Duration;

/// Buckets to a doubling: the error of a quantile is at most one in so many.
const STEPS: usize = 32;

/// Doublings from 1 µs on, which reach beyond 9 hours; what takes longer counts as that.
const DOUBLINGS: usize = 31;

/// How often each time was measured.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; STEPS * DOUBLINGS], count: 0 }
    }
}

impl Histogram {
    /// Counts a time.
    pub(crate) fn record(&mut self, time: Duration) {
        let last = self.buckets.len() - 1;
        if let Some(bucket) = self.buckets.get_mut(bucket(time).min(last)) {
            *bucket += 1;
            self.count += 1;
        }
    }

    /// Counts what another one has counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(own, more)| *own += more);
        self.count += other.count;
    }

    /// The time within which that share of all lay, from 0 to 1; zero if there is none.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let wanted = (share * self.count as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        let found = self.buckets.iter().position(|count| {
            below += count;
            below >= wanted
        });
        found.map_or(Duration::ZERO, |bucket| Duration::from_micros(upper(bucket)))
    }
}

/// The first `STEPS` buckets are 1 µs wide, the next `STEPS` as well, then the width doubles every
/// `STEPS`.
fn bucket(time: Duration) -> usize {
    let micros = usize::try_from(time.as_micros()).unwrap_or(usize::MAX);
    let doubling = (micros / STEPS).checked_ilog2().map_or(0, |log| log as usize + 1);
    match doubling {
        0 => micros,
        _ => doubling * STEPS + (micros >> (doubling - 1)) - STEPS,
    }
}

/// The longest time that falls into a bucket, in microseconds.
fn upper(bucket: usize) -> u64 {
    let (doubling, step) = (bucket / STEPS, (bucket % STEPS) as u64);
    match doubling {
        0 => step,
        _ => ((step + STEPS as u64 + 1) << (doubling - 1)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_lies_in_its_bucket_and_no_bucket_is_wider_than_a_thirtysecond() {
        for micros in (0..5_000).chain([65_535, 65_536, 1_000_000, 59_999_999, 3_600_000_000]) {
            let bucket = bucket(Duration::from_micros(micros));
            let lower = bucket.checked_sub(1).map_or(0, |below| upper(below) + 1);
            assert!((lower..=upper(bucket)).contains(&micros), "{micros} in {bucket}");
            assert!((upper(bucket) - lower) * STEPS as u64 <= micros, "{micros} in {bucket}");
        }
    }

    #[test]
    fn quantiles_are_those_of_all_times() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), Duration::ZERO);
        let mut other = Histogram::default();
        for millis in 1..=1_000 {
            let half = if millis % 2 == 0 { &mut histogram } else { &mut other };
            half.record(Duration::from_millis(millis));
        }
        histogram.add(&other);
        for (share, millis) in [(0.0, 1), (0.5, 500), (0.99, 990), (1.0, 1_000)] {
            let found = histogram.quantile(share).as_micros();
            let exact = millis * 1_000;
            assert!(found >= exact && found <= exact + exact / 32, "{share}: {found}");
        }
    }

    #[test]
    fn what_takes_for_ever_counts_as_the_longest() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::MAX);
        assert!(histogram.quantile(1.0) > Duration::from_secs(9 * 3600));
    }
}
