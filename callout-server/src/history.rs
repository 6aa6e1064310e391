//! The history: the last messages that the server saw, each with all that it knows of it, for those who operate the
//! server. What is told of it: `status` and `control`.
//!
//! Of a message there is its envelope and what became of it, never anything of its content, not even its
//! subject. It is in memory alone, and there is none where nobody could read it.
//!
//! ```text
//! session ──▶ Recorder: drafts of open envelopes ──▶ History: finished records, the oldest go ──▶ readers
//! ```
//!
//! It costs a mail no waiting: a connection puts its records together by itself, copying a few short
//! texts of each event, and takes the one lock for as long as a pointer needs to be pushed, once a message. Readers
//! hold it as long for each record that they look at. What can't be kept is left out and counted.

mod draft;
mod record;
mod recorder;
mod show;
mod telling;
mod text;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::draft::Draft;
pub(crate) use self::record::{Event, Finding, Profile, Record, Version};
pub(crate) use self::recorder::Recorder;
pub(crate) use self::telling::{Asked, LARGEST_LINES, lines};
pub(crate) use self::text::Text;
use crate::config::HistoryConfig;
use crate::server::Budget;

/// The octets of one record at the most: 16 KiB for the event of the content, 32 KiB for 50 others, and 32 KiB for the
/// facts, 20 recipients and 30 services. A configuration can't keep less.
pub(crate) const LARGEST_RECORD: usize = 80 * 1024;

/// The records of messages that are done with, and room for those that are not.
#[derive(Debug)]
pub(crate) struct History {
    most: HistoryConfig,
    ring: Mutex<Ring>,
    /// What records may take that are not finished: as much again as those that are.
    open: Budget,
    left_out: AtomicU64,
}

#[derive(Debug)]
struct Ring {
    /// The oldest first, with their sizes; their ids follow one another.
    records: VecDeque<(usize, Arc<Record>)>,
    octets: usize,
    next_id: u64,
}

impl History {
    /// One without any records yet.
    pub(crate) fn new(most: &HistoryConfig) -> Self {
        Self {
            most: most.clone(),
            ring: Mutex::new(Ring { records: VecDeque::new(), octets: 0, next_id: 1 }),
            open: Budget::new(most.octets),
            left_out: AtomicU64::new(0),
        }
    }

    /// Takes what is known of an envelope that is done with, if that is worth it.
    fn finish(&self, draft: Draft) {
        if let Some(record) = draft.into_record() {
            self.push(record);
        }
    }

    /// Takes a finished record, which gets its id; the oldest ones go as far as needed.
    fn push(&self, mut record: Record) {
        let size = record.size();
        let mut gone = Vec::new();
        let mut ring = self.ring();
        record.id = ring.next_id;
        ring.next_id += 1;
        ring.octets += size;
        ring.records.push_back((size, Arc::new(record)));
        while ring.records.len() > self.most.messages || ring.octets > self.most.octets {
            let Some((size, oldest)) = ring.records.pop_front() else { break };
            ring.octets -= size;
            gone.push(oldest);
        }
        drop(ring);
        // Their memory is given back without the lock.
        drop(gone);
    }

    fn leave_out(&self) {
        self.left_out.fetch_add(1, Ordering::Relaxed);
    }

    /// The record with this id, if it is still there.
    pub(crate) fn get(&self, id: u64) -> Option<Arc<Record>> {
        let ring = self.ring();
        let (_, oldest) = ring.records.front()?;
        let index = usize::try_from(id.checked_sub(oldest.id)?).ok()?;
        ring.records.get(index).map(|(_, record)| Arc::clone(record))
    }

    /// The records from the newest to the oldest, each looked up when it is asked for: those that came meanwhile are
    /// not among them, those that went neither.
    pub(crate) fn newest(&self) -> impl Iterator<Item = Arc<Record>> {
        self.before(u64::MAX)
    }

    /// The same from the one before that with this id on.
    pub(crate) fn before(&self, id: u64) -> impl Iterator<Item = Arc<Record>> {
        let end = self.ring().next_id.min(id);
        (1..end).rev().map_while(|id| self.get(id))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.ring().records.len()
    }

    /// Events that are in no record, since too many envelopes were open at a time.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // No change is left half done by a panic.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The words of a search, each of which has to stand in a record; at most 200 characters of them.
pub(crate) fn words(search: &str) -> Vec<String> {
    const LONGEST_SEARCH: usize = 200;
    let search: String = search.chars().take(LONGEST_SEARCH).collect();
    search.to_lowercase().split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
