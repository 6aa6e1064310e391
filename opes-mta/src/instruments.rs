//! What metrics are made of, and how they are told.
//!
//! What happens on a mail's way is counted by atomic numbers, which lie where it happens. A [`Collector`] reads
//! them when somebody asks; [`Exposition`] makes the text of it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Seconds that something on a mail's way may take; the default deadline of a service is one of them.
const BOUNDS: [f64; 13] =
    [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, f64::INFINITY];

/// One that is open, and counted by a gauge until it is dropped.
#[derive(Debug)]
pub struct Open(Gauge);

/// A metric for each of a few keys.
#[derive(Debug)]
pub struct Table<K, V>(Vec<(K, V)>);

/// How often it took how long. Observing takes no lock.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One for each of [`BOUNDS`].
    buckets: [AtomicU64; BOUNDS.len()],
    nanoseconds: AtomicU64,
}

/// What a histogram has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buckets {
    /// One for each of [`Buckets::BOUNDS`], and for that alone.
    pub counts: [u64; BOUNDS.len()],
}

/// All metrics of a program as text.
#[derive(Debug)]
pub struct Exposition(Registry);

impl Open {
    /// One more is open.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl<K: PartialEq, V> Table<K, V> {
    /// One for each key, however often that is named.
    pub fn new(keys: impl IntoIterator<Item = K>, value: impl Fn() -> V) -> Self {
        let mut table = Self(Vec::new());
        for key in keys {
            if table.get(&key).is_none() {
                table.0.push((key, value()));
            }
        }
        table
    }

    /// That of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    /// All of them, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.0.iter()
    }
}

impl<K: PartialEq> Table<K, Counter> {
    /// One more of a key.
    pub fn count(&self, key: K) {
        if let Some(counter) = self.get(&key) {
            counter.inc();
        }
    }
}

impl Histogram {
    /// It took so long.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let mut buckets = BOUNDS.iter().zip(&self.buckets);
        if let Some((_, bucket)) = buckets.find(|(bound, _)| seconds <= **bound) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// How often.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// How often it took how long.
    pub fn buckets(&self) -> Buckets {
        Buckets { counts: self.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed)) }
    }
}

impl Buckets {
    /// Seconds, the last one without an end.
    pub const BOUNDS: [f64; BOUNDS.len()] = BOUNDS;

    /// Those and these.
    pub fn add(&mut self, more: &Self) {
        self.counts.iter_mut().zip(more.counts).for_each(|(count, more)| *count += more);
    }

    /// The bound below which a share of all is, from 0 to 1; `None` if there are none.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let all: u64 = self.counts.iter().sum();
        let mut below = 0;
        let bounds = Self::BOUNDS.into_iter().zip(self.counts);
        let mut bounds = bounds.map(|(bound, count)| {
            below += count;
            (bound, below)
        });
        let found = bounds.find(|(_, below)| *below as f64 >= share * all as f64);
        found.filter(|_| all > 0).map(|(bound, _)| bound)
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = BOUNDS.into_iter().zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let nanoseconds = self.nanoseconds.load(Ordering::Relaxed);
        let sum = Duration::from_nanos(nanoseconds).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl Exposition {
    /// The media type of the text: OpenMetrics 1.0.
    pub const MEDIA_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Of the metrics that are collected; all of their names begin with `prefix`.
    pub fn new(prefix: &str, collector: impl Collector) -> Self {
        let mut registry = Registry::with_prefix(prefix);
        registry.register_collector(Box::new(collector));
        Self(registry)
    }

    /// How things stand now.
    ///
    /// # Errors
    /// None: a string takes whatever is written to it.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        let mut took = Buckets::default();
        assert_eq!(took.quantile(0.5), None);
        (took.counts[0], took.counts[3], took.counts[12]) = (50, 49, 1);
        let quantiles = [0.0, 0.5, 0.51, 0.99, 1.0].map(|share| took.quantile(share).unwrap());
        assert_eq!(quantiles, [0.0001, 0.0001, 0.005, 0.005, f64::INFINITY]);
    }

    #[test]
    fn durations_are_told_in_seconds_by_their_bounds() {
        let histogram = Histogram::default();
        assert_eq!(histogram.count(), 0);
        for milliseconds in [1, 2, 61_000, 100_000] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        assert_eq!(histogram.count(), 4);
        let mut registry = Registry::default();
        registry.register("took", "", histogram);
        let mut said = String::new();
        text::encode(&mut said, &registry).unwrap();
        let series: Vec<&str> = said.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            series,
            [
                "took_sum 161.003",
                "took_count 4",
                "took_bucket{le=\"0.0001\"} 0",
                "took_bucket{le=\"0.0005\"} 0",
                "took_bucket{le=\"0.001\"} 1",
                "took_bucket{le=\"0.005\"} 2",
                "took_bucket{le=\"0.01\"} 2",
                "took_bucket{le=\"0.05\"} 2",
                "took_bucket{le=\"0.1\"} 2",
                "took_bucket{le=\"0.5\"} 2",
                "took_bucket{le=\"1.0\"} 2",
                "took_bucket{le=\"5.0\"} 2",
                "took_bucket{le=\"15.0\"} 2",
                "took_bucket{le=\"60.0\"} 2",
                "took_bucket{le=\"+Inf\"} 4",
            ]
        );
    }
}
