//! What clamd said of octets that come again: of a message that is sent once more after a delay, or in several versions.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::clamd::Answer;
use crate::mail::{Octets, SpoolError};
use crate::measure::{Measure, MeasureKind};
use crate::service::{ServiceError, compute};

/// The longest name of a signature that is kept, in octets.
const LONGEST_NAME: usize = 128;
/// Octets of an entry in the worst case, with all that is around it.
const ENTRY_OCTETS: usize = 400;

/// How much of what clamd said is kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct CacheSettings {
    /// Answers that are kept; default 10,000, 0: none. Worst case: 400 octets each.
    pub entries: usize,
    /// Seconds for which one is used; default 180. Signatures that are not in ClamAV's own database have no number that
    /// would tell of a change: this is how long one of those takes to count.
    pub seconds: u64,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { entries: 10_000, seconds: 180 }
    }
}

/// SHA-256 of the octets that clamd was asked about.
pub(super) type Hash = [u8; 32];

/// Answers by what they are about. Each holds for the database that it was made with, and not for long; an error is
/// no answer.
#[derive(Debug)]
pub(super) struct Cache {
    settings: CacheSettings,
    kept: Mutex<Kept>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<Hash, Entry>,
    /// The oldest first.
    order: VecDeque<Hash>,
}

#[derive(Debug)]
struct Entry {
    answer: Answer,
    database: Arc<str>,
    until: Instant,
}

impl Cache {
    pub(super) fn new(settings: CacheSettings) -> Self {
        let (hits, misses) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { settings, kept: Mutex::default(), hits, misses }
    }

    /// The hash of octets; `None` if nothing is kept.
    ///
    /// # Errors
    /// If they can't be read.
    pub(super) async fn hash(&self, pieces: &[Octets]) -> Result<Option<Hash>, ServiceError> {
        if self.settings.entries == 0 || self.settings.seconds == 0 {
            return Ok(None);
        }
        let pieces = pieces.to_vec();
        // Reading a file may take its time, whatever its size.
        let octets = match pieces.iter().all(|piece| piece.in_memory().is_some()) {
            true => pieces.iter().map(Octets::len).sum(),
            false => usize::MAX,
        };
        let work = move || {
            let mut hash = Sha256::new();
            for chunk in pieces.iter().flat_map(Octets::chunks) {
                hash.update(chunk?);
            }
            Ok::<_, SpoolError>(hash.finalize().into())
        };
        Ok(Some(compute(octets, work).await??))
    }

    /// What was said of these octets with this database.
    pub(super) fn get(&self, hash: &Hash, database: &str, now: Instant) -> Option<Answer> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = kept.entries.get(hash);
        let entry = entry.filter(|e| *e.database == *database && now < e.until);
        let count = if entry.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
        entry.map(|entry| entry.answer.clone())
    }

    /// Keeps an answer; the oldest goes if there are too many.
    pub(super) fn put(&self, hash: Hash, database: &str, answer: &Answer, now: Instant) {
        if matches!(answer, Answer::Found(name) if name.len() > LONGEST_NAME) {
            return;
        }
        let until = now + Duration::from_secs(self.settings.seconds);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.order.back().and_then(|last| kept.entries.get(last));
        let database = match known {
            Some(last) if *last.database == *database => Arc::clone(&last.database),
            _ => database.into(),
        };
        if kept.entries.insert(hash, Entry { answer: answer.clone(), database, until }).is_none() {
            kept.order.push_back(hash);
        }
        while kept.order.len() > self.settings.entries
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.entries.remove(&oldest);
        }
    }

    /// Octets of memory that it takes in the worst case.
    pub(super) fn worst_case(&self) -> usize {
        self.settings.entries.saturating_mul(ENTRY_OCTETS)
    }

    /// How often it was of use, and how many answers it holds.
    pub(super) fn measures(&self) -> Vec<Measure> {
        let asked = |result, count: &AtomicU64| Measure {
            name: "clamd_cache_lookups",
            help: "Lookups in the answers of clamd that are kept, by their result",
            kind: MeasureKind::Counter,
            label: Some(("result", result)),
            value: count.load(Ordering::Relaxed),
        };
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).order.len();
        vec![
            asked("hit", &self.hits),
            asked("miss", &self.misses),
            Measure {
                name: "clamd_cache_entries",
                help: "Answers of clamd that are kept",
                kind: MeasureKind::Gauge,
                label: None,
                value: kept as u64,
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(entries: usize) -> Cache {
        Cache::new(CacheSettings { entries, seconds: 60 })
    }

    fn found(name: &str) -> Answer {
        Answer::Found(name.to_owned())
    }

    #[test]
    fn an_answer_holds_for_its_database_and_its_time() {
        let (cache, now) = (cache(10), Instant::now());
        cache.put([1; 32], "27700", &found("X"), now);
        assert_eq!(cache.get(&[1; 32], "27700", now), Some(found("X")));
        assert_eq!(cache.get(&[1; 32], "27701", now), None);
        assert_eq!(cache.get(&[2; 32], "27700", now), None);
        cache.put([1; 32], "27701", &Answer::Clean, now);
        let later = now + Duration::from_secs(59);
        assert_eq!(cache.get(&[1; 32], "27701", later), Some(Answer::Clean));
        assert_eq!(cache.get(&[1; 32], "27701", later + Duration::from_secs(1)), None);
        let counted: Vec<_> = cache.measures().iter().map(|measure| measure.value).collect();
        assert_eq!(counted, [2, 3, 1]);
    }

    #[test]
    fn the_oldest_goes() {
        let (cache, now) = (cache(2), Instant::now());
        for nth in 1..=3 {
            cache.put([nth; 32], "1", &Answer::Clean, now);
            cache.put([nth; 32], "1", &found("again"), now);
        }
        let kept = [1, 2, 3].map(|nth| cache.get(&[nth; 32], "1", now).is_some());
        assert_eq!(kept, [false, true, true]);
        cache.put([4; 32], "1", &found(&"x".repeat(LONGEST_NAME + 1)), now);
        assert_eq!(cache.get(&[4; 32], "1", now), None);
    }

    #[tokio::test]
    async fn the_hash_is_that_of_the_octets_wherever_they_are() {
        let hash = async |pieces: &[Octets]| cache(1).hash(pieces).await.unwrap().unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let hex = |hash: Hash| hash.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
        assert_eq!(hex(hash(&["abc".into()]).await), expected);
        assert_eq!(hex(hash(&["a".into(), "bc".into()]).await), expected);
        let windows = Octets::from("abc").in_windows(2);
        assert_eq!(hex(hash(&[windows]).await), expected);
        assert_eq!(cache(0).hash(&["abc".into()]).await, Ok(None));
        let file = Arc::new(tempfile::tempfile().unwrap());
        let unreadable = [Octets::from_file(file, 9)];
        assert_eq!(cache(1).hash(&unreadable).await.unwrap_err().stage, "spool");
    }
}
