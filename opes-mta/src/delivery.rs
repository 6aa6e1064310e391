//! Brings mail that waits in a spool to the next hop.
//!
//! ```text
//!  Spool::due ──▶ claim ──▶ relay::Connection::deliver ──▶ outcomes ──▶ settle, with a report to the sender
//! ```
//!
//! An attempt that the end of the process cuts short is due again; what the next hop has taken by then
//! arrives twice (RFC 5321 section 6.1).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ocp_proto::smtp::Address;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::event::header_end;
use crate::metrics::{DeliveryMetrics, DeliveryResult};
use crate::relay::{
    Message, NextHop, NextHopAddress, Options, Outcome, Pool, PoolLimits, RelayError,
};
use crate::spool::report::{Event, Reporter};
use crate::spool::{Claim, Entry, Id, Schedule, Settlement, Spool, StoreError};

/// Messages that are brought at a time, each over a connection of its own.
const AT_A_TIME: usize = 8;

/// How often somebody looks what is due, and what others have done to the spool.
const LOOK: Duration = Duration::from_secs(1);

/// How long an entry is left alone if what became of it could not be noted: the next hop may get it again.
const NOT_NOTED: Duration = Duration::from_secs(300);

/// Octets of a message that is returned whole to a sender who asks for that.
const MOST_RETURNED: u64 = 1024 * 1024;

/// Octets of a header section that are looked at for octets above 127.
const LONGEST_HEADER: usize = 256 * 1024;

/// Brings a spool's mail to the next hop, and to others where an entry says so.
#[derive(Clone, Debug)]
pub struct Delivery {
    spool: Spool,
    pool: Pool,
    routes: Vec<Pool>,
    schedule: Schedule,
    reporter: Arc<Reporter>,
    metrics: Arc<DeliveryMetrics>,
}

/// A message as it has to be announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Octets {
    is_eight_bit: bool,
    has_utf8_header: bool,
}

impl Delivery {
    /// Of this spool, to there or to one of `routes`, with attempts by that schedule.
    pub fn new(
        spool: Spool,
        next_hop: Arc<NextHop>,
        routes: &[Arc<NextHop>],
        schedule: Schedule,
    ) -> Self {
        let reporter = Reporter { name: next_hop.name.clone(), most_returned: MOST_RETURNED };
        let pool = |next_hop: &Arc<NextHop>| Pool::new(Arc::clone(next_hop), PoolLimits::default());
        let routes = routes.iter().map(pool).collect();
        let (reporter, metrics) = (Arc::new(reporter), Arc::default());
        Self { spool, pool: pool(&next_hop), routes, schedule, reporter, metrics }
    }

    /// What is counted of it.
    pub fn metrics(&self) -> &Arc<DeliveryMetrics> {
        &self.metrics
    }

    /// Delivers what is due until `stop` is cancelled; what is under way then is brought to its end.
    pub async fn run(self, stop: CancellationToken) {
        let (attempts, places) = (TaskTracker::new(), Arc::new(Semaphore::new(AT_A_TIME)));
        while !stop.is_cancelled() {
            for id in self.due().await {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
                if stop.is_cancelled() {
                    break;
                }
                let Some(claim) = self.claim(id).await else { continue };
                let delivery = self.clone();
                attempts.spawn(async move {
                    let id = claim.entry().id.clone();
                    if let Err(error) = delivery.attempt(claim).await {
                        tracing::error!(%id, cause = %error, "the spool can't note an attempt");
                    }
                    drop(place);
                });
            }
            if self.spool.due(SystemTime::now(), 1).is_empty() {
                tokio::select! {
                    () = self.spool.changed() => {}
                    () = sleep(LOOK) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
        attempts.close();
        attempts.wait().await;
        for pool in std::iter::once(&self.pool).chain(&self.routes) {
            pool.close().await;
        }
    }

    /// What is due, as far as others have not changed that.
    async fn due(&self) -> Vec<Id> {
        let spool = self.spool.clone();
        let (refreshed, due) = blocking(move || {
            let refreshed = spool.refresh();
            (refreshed, spool.due(SystemTime::now(), AT_A_TIME))
        })
        .await;
        if let Err(error) = refreshed {
            tracing::warn!(cause = %error, "the spool can't be read");
        }
        due
    }

    /// An entry for an attempt, unless somebody else has it.
    async fn claim(&self, id: Id) -> Option<Claim> {
        let (spool, named) = (self.spool.clone(), id.clone());
        match blocking(move || spool.claim(&named, SystemTime::now())).await {
            Ok(claim) => claim,
            Err(error) => {
                tracing::warn!(%id, cause = %error, "an entry of the spool can't be delivered");
                None
            }
        }
    }

    async fn attempt(&self, claim: Claim) -> Result<(), StoreError> {
        let entry = claim.entry().clone();
        let now = SystemTime::now();
        // A next hop may have it without our knowing, if somebody is killed.
        tracing::debug!(id = %entry.id, sender = %entry.sender, "goes to the next hop");
        let mut settled = Vec::new();
        for (next_hop, due) in by_next_hop(&entry, now) {
            settled.extend(self.deliver_there(&claim, next_hop, &due).await);
        }
        self.note(claim, settled).await
    }

    /// To those of an entry's recipients whose next hop it is.
    async fn deliver_there(
        &self,
        claim: &Claim,
        next_hop: Option<&str>,
        due: &[(usize, Address)],
    ) -> Vec<Settled> {
        let entry = claim.entry();
        let put_off = |reply: &str| {
            due.iter().map(|(place, _)| self.put_off(entry, *place, reply.to_owned())).collect()
        };
        let Some(pool) = self.pool(next_hop) else {
            return put_off("4.4.4 this next hop is not allowed any more (--route)");
        };
        let recipients: Vec<_> = due.iter().map(|(_, address)| address.clone()).collect();
        let delivered = match claim.message() {
            Ok(file) => deliver(pool, entry, &recipients, file).await,
            Err(error) => Err(error),
        };
        match delivered {
            Ok(outcomes) => due
                .iter()
                .zip(outcomes)
                .map(|((place, _), outcome)| self.settle(entry, *place, outcome))
                .collect(),
            Err(error) => put_off(&format!("4.3.0 the message can't be read: {error}")),
        }
    }

    fn pool(&self, next_hop: Option<&str>) -> Option<&Pool> {
        let Some(next_hop) = next_hop else { return Some(&self.pool) };
        let address: NextHopAddress = next_hop.parse().ok()?;
        self.routes.iter().find(|pool| pool.next_hop().address == address)
    }

    /// What an outcome is for the spool, and for the sender if that is to hear of it.
    fn settle(&self, entry: &Entry, place: usize, outcome: Outcome) -> Settled {
        match outcome {
            Outcome::Delivered { reply, notifies } => {
                let reply = reply.to_string();
                self.tried(entry, place, DeliveryResult::Delivered, &reply);
                let event = (!notifies).then(|| Event::Relayed { reply: reply.clone() });
                Settled { place, settlement: Settlement::Delivered { reply }, event }
            }
            Outcome::Failed(error) => self.give_up(entry, place, said(&error)),
            Outcome::Deferred(error) => self.put_off(entry, place, said(&error)),
        }
    }

    /// Later, unless it is too late.
    fn put_off(&self, entry: &Entry, place: usize, reply: String) -> Settled {
        let recipient = entry.recipients.get(place);
        let attempts = recipient.map_or(0, |recipient| recipient.state.attempts()) + 1;
        match self.schedule.next(entry.begins().into(), attempts, SystemTime::now()) {
            Some(until) => {
                self.tried(entry, place, DeliveryResult::Deferred, &reply);
                Settled { place, settlement: Settlement::Deferred { until, reply }, event: None }
            }
            None => self.give_up(entry, place, reply),
        }
    }

    fn give_up(&self, entry: &Entry, place: usize, reply: String) -> Settled {
        self.tried(entry, place, DeliveryResult::Failed, &reply);
        let event = Some(Event::Failed { reply: reply.clone() });
        Settled { place, settlement: Settlement::Failed { reply }, event }
    }

    /// An attempt is over for a recipient.
    fn tried(&self, entry: &Entry, place: usize, result: DeliveryResult, reply: &str) {
        self.metrics.tried(result);
        let recipient = entry.recipients.get(place).map(|recipient| &recipient.address);
        let (recipient, outcome) = (recipient.map(tracing::field::display), result.name());
        tracing::info!(id = %entry.id, sender = %entry.sender, recipient, outcome, reply, "delivery");
    }

    /// Notes it all, with one report.
    async fn note(&self, mut claim: Claim, settled: Vec<Settled>) -> Result<(), StoreError> {
        let (reporter, metrics) = (Arc::clone(&self.reporter), Arc::clone(&self.metrics));
        blocking(move || {
            let now = SystemTime::now();
            let events: Vec<_> =
                settled.iter().filter_map(|one| Some((one.place, one.event.clone()?))).collect();
            let composed = match events.is_empty() {
                true => Ok(None),
                false => claim.message().and_then(|mut message| {
                    reporter.compose(claim.entry(), &mut message, &events, now)
                }),
            };
            let report = composed.unwrap_or_else(|error| {
                let id = &claim.entry().id;
                tracing::warn!(%id, cause = %error, "a sender can't be told of a failed delivery");
                None
            });
            let settlements: Vec<_> =
                settled.into_iter().map(|one| (one.place, one.settlement)).collect();
            let noted = claim.settle(&settlements, report.as_ref(), now);
            if noted.is_err() {
                // Nobody else may have it in between.
                claim.put_off(now + NOT_NOTED);
            } else if report.is_some() {
                metrics.reported();
            }
            noted
        })
        .await
    }
}

/// An outcome for each recipient.
async fn deliver(
    pool: &Pool,
    entry: &Entry,
    recipients: &[Address],
    file: File,
) -> io::Result<Vec<Outcome>> {
    let (file, octets) = blocking(move || {
        let octets = Octets::of(&file)?;
        Ok::<_, io::Error>((file, octets))
    })
    .await?;
    let mut kept = match pool.take().await {
        Ok(kept) => kept,
        Err(error) => {
            return Ok(recipients.iter().map(|_| RelayError::clone(&error).into()).collect());
        }
    };
    let message = Message {
        content: tokio::fs::File::from_std(file),
        size: entry.octets,
        is_eight_bit: octets.is_eight_bit,
        has_utf8_header: octets.has_utf8_header,
    };
    let delivered =
        kept.connection.deliver(&entry.sender, recipients, message, Options::default()).await;
    pool.give_back(kept).await;
    Ok(delivered)
}

/// The recipients that are due, with their places, by where they go.
fn by_next_hop(entry: &Entry, now: SystemTime) -> BTreeMap<Option<&str>, Vec<(usize, Address)>> {
    let mut groups = BTreeMap::<_, Vec<_>>::new();
    for (place, recipient) in entry.due_recipients(now.into()) {
        let group = groups.entry(recipient.next_hop.as_deref()).or_default();
        group.push((place, recipient.address.clone()));
    }
    groups
}

/// A recipient after an attempt.
struct Settled {
    place: usize,
    settlement: Settlement,
    event: Option<Event>,
}

/// What the next hop said, or why it said nothing.
fn said(error: &RelayError) -> String {
    match error.reply() {
        Some(reply) => reply.to_string(),
        None => format!("{} {error}", error.status()),
    }
}

impl Octets {
    /// Reads a message; afterwards it is to be read from its beginning.
    fn of(mut file: &File) -> io::Result<Self> {
        let (mut found, mut start, mut piece) = (Self::default(), Vec::new(), vec![0; 64 * 1024]);
        loop {
            let count = file.read(&mut piece)?;
            let octets = piece.get(..count).unwrap_or_default();
            if octets.is_empty() {
                break;
            }
            found.is_eight_bit |= !octets.is_ascii();
            let room = LONGEST_HEADER.saturating_sub(start.len());
            start.extend_from_slice(octets.get(..room.min(count)).unwrap_or_default());
        }
        let header = start.get(..header_end(&start).unwrap_or(start.len())).unwrap_or_default();
        found.has_utf8_header = !header.is_ascii();
        file.seek(SeekFrom::Start(0))?;
        Ok(found)
    }
}

/// Work on the disk. A panic there is one here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
