//! Reports that wait for a target, and the task that sends them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::incident::Incident;
use super::syslog::Syslog;
use super::target::{Patience, Target};
use super::webhook::Webhook;

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Where reports go, and how.
#[derive(Debug)]
pub(super) enum Way {
    Syslog(Syslog),
    Webhook(Box<Webhook>),
}

/// Why a try failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) cause: String,
    /// Whether another try would fail alike.
    pub(super) is_final: bool,
}

/// The queue of a target.
pub(super) struct Queue {
    name: String,
    queue: Sender<Incident>,
    counts: Arc<Counts>,
    /// Until it is started.
    worker: Mutex<Option<Worker>>,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    /// Dropped since a report was sent.
    dropped_in_a_row: AtomicU64,
    /// Why the last try failed, if it did.
    failure: Mutex<Option<String>>,
}

struct Worker {
    name: String,
    way: Way,
    patience: Patience,
    queue: Receiver<Incident>,
    counts: Arc<Counts>,
}

impl Queue {
    pub(super) fn new(target: Target) -> Self {
        let Target { name, way, queue: places, patience } = target;
        let counts = Arc::<Counts>::default();
        let (sender, queue) = channel(places);
        let worker =
            Worker { name: name.clone(), way, patience, queue, counts: Arc::clone(&counts) };
        Self { name, queue: sender, counts, worker: Mutex::new(Some(worker)) }
    }

    /// Sends what is put in from now on, until the queue is dropped and empty.
    pub(super) fn start(&self) {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker {
            tokio::spawn(worker.run());
        }
    }

    /// Whether there was room for it.
    pub(super) fn put(&self, incident: Incident) -> bool {
        let Err(error) = self.queue.try_send(incident) else { return true };
        self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        if self.counts.dropped_in_a_row.fetch_add(1, Ordering::Relaxed) == 0 {
            let cause = match error {
                TrySendError::Full(_) => "the queue is full",
                TrySendError::Closed(_) => "nothing sends them",
            };
            warn!(to = self.name, cause, "reports are dropped");
        }
        false
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn capacity(&self) -> usize {
        self.queue.max_capacity()
    }

    pub(super) fn waiting(&self) -> u64 {
        (self.queue.max_capacity() - self.queue.capacity()) as u64
    }

    pub(super) fn sent(&self) -> u64 {
        self.counts.sent.load(Ordering::Relaxed)
    }

    pub(super) fn failed(&self) -> u64 {
        self.counts.failed.load(Ordering::Relaxed)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Why the last try failed, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        self.counts.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Worker {
    async fn run(mut self) {
        while let Some(incident) = self.queue.recv().await {
            self.deliver(&incident).await;
        }
    }

    /// Tries until it is sent, or was tried often enough.
    async fn deliver(&mut self, incident: &Incident) {
        let Patience { timeout: limit, retries, pause } = self.patience;
        let mut pause = pause;
        let mut tries = 0;
        loop {
            let sent = timeout(limit, self.way.send(incident)).await;
            let Err(failure) = sent.unwrap_or_else(|_| Err(Failure::late(limit))) else {
                return self.succeeded();
            };
            self.note(&failure);
            tries += 1;
            if failure.is_final || tries > retries {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                let (to, cause) = (&self.name, failure.cause);
                warn!(to, tries, cause, "a report was given up");
                return;
            }
            sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    fn succeeded(&self) {
        self.counts.sent.fetch_add(1, Ordering::Relaxed);
        if self.failure().take().is_some() {
            info!(to = self.name, "reports are sent again");
        }
        let dropped = self.counts.dropped_in_a_row.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            warn!(to = self.name, dropped, "reports were dropped");
        }
    }

    /// Says it once, however many tries fail.
    fn note(&self, failure: &Failure) {
        let cause = &failure.cause;
        if self.failure().replace(cause.clone()).is_none() {
            warn!(to = self.name, cause, "a report can't be sent");
        }
    }

    fn failure(&self) -> MutexGuard<'_, Option<String>> {
        self.counts.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Worker {
    /// Behind the last report there is nothing; at the server's end there may be.
    fn drop(&mut self) {
        if !self.queue.is_empty() {
            warn!(to = self.name, reports = self.queue.len(), "reports were not sent");
        }
    }
}

impl Way {
    async fn send(&mut self, incident: &Incident) -> Result<(), Failure> {
        match self {
            Self::Syslog(syslog) => syslog.send(incident).await,
            Self::Webhook(webhook) => webhook.send(incident).await,
        }
    }
}

impl Failure {
    /// One that need not be there the next time.
    pub(super) fn passing(cause: impl ToString) -> Self {
        Self { cause: cause.to_string(), is_final: false }
    }

    fn late(limit: Duration) -> Self {
        Self::passing(format!("not done within {} s", limit.as_secs()))
    }
}
