//! What goes into the spool and the quarantine, all of a message or nothing of it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use ocp_proto::smtp::{Address, DialogFacts, Reply, Verdict};
use ocp_proto::wire::Atom;
use tokio::task::spawn_blocking;

use super::plan::{Fate, Part, Wait};
use super::replies;
use crate::apply::{Adapted, Notification};
use crate::quarantine::{Arrival, Quarantine};
use crate::spool::{Batch, Id, NewEntry, NewRecipient, Spool, Trace};
use crate::store::StoreError;

/// How long a message is kept that nobody releases.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Where messages wait that the next hop does not get at once.
#[derive(Clone, Debug, Default)]
pub struct Stores {
    /// For those that services want to be looked at.
    pub quarantine: Option<Quarantine>,
    /// For those that become several, or have to wait.
    pub spool: Option<Spool>,
}

/// What is known of where a message comes from, and of what the services said of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Provenance {
    /// What the log finds it by.
    pub(super) id: String,
    client: BTreeMap<String, String>,
    queue_id: Option<String>,
    verdicts: Vec<Verdict>,
    trace: Option<Trace>,
}

/// A message for a store.
pub(super) enum Stored {
    Keep(Arrival, Adapted),
    Spool(NewEntry, Adapted),
}

/// What the stores have and may have to give back.
pub(super) struct Taken {
    quarantine: Option<Quarantine>,
    kept: Vec<Id>,
    batch: Option<Batch>,
}

impl Provenance {
    pub(super) fn new(
        id: String,
        facts: Option<&DialogFacts>,
        verdicts: Vec<Verdict>,
        trace: Option<Trace>,
    ) -> Self {
        let text =
            |fact: &Option<Atom>| Some(String::from_utf8_lossy(fact.as_deref()?).into_owned());
        let known = |name: &str, fact: &Option<Atom>| Some((name.to_owned(), text(fact)?));
        let client = facts.into_iter().flat_map(|facts| {
            [
                known("address", &facts.client_address),
                known("name", &facts.client_name),
                known("helo", &facts.helo),
            ]
        });
        let queue_id = facts.and_then(|facts| text(&facts.queue_id));
        Self { id, client: client.flatten().collect(), queue_id, verdicts, trace }
    }

    /// That of a message of which no store gets anything.
    pub(super) fn unstored(id: String) -> Self {
        Self { id, ..Self::default() }
    }

    fn entry(&self, sender: Address, recipients: Vec<NewRecipient>) -> NewEntry {
        NewEntry {
            recipients,
            trace: self.trace.clone(),
            queue_id: self.queue_id.clone(),
            ..NewEntry::new(sender, Vec::new())
        }
    }

    fn arrival(&self, reason: String, sender: Address, recipients: Vec<NewRecipient>) -> Arrival {
        let name = |verdict: &Verdict| String::from_utf8_lossy(&verdict.service).into_owned();
        Arrival {
            reason,
            expires: SystemTime::now().checked_add(KEPT),
            sender,
            recipients,
            client: self.client.clone(),
            stopped_by: self.verdicts.iter().map(name).collect(),
            verdicts: self.verdicts.clone(),
            trace: self.trace.clone(),
            queue_id: self.queue_id.clone(),
        }
    }
}

impl Stored {
    /// What a part of a message leaves in a store, if it does.
    pub(super) fn part(part: &Part, provenance: &Provenance) -> Option<Self> {
        let sender = part.envelope.sender.clone().unwrap_or_else(Address::null);
        let recipients = |wait: &Wait| {
            let to = |address: &Address| NewRecipient {
                address: address.clone(),
                next_hop: wait.next_hop(address).map(str::to_owned),
            };
            part.envelope.recipients.iter().map(to).collect()
        };
        let message = part.message.clone();
        match &part.fate {
            Fate::Keep(reason) => {
                let recipients = recipients(&Wait::default());
                Some(Self::Keep(provenance.arrival(reason.clone(), sender, recipients), message))
            }
            Fate::Wait(wait) => {
                let entry = NewEntry {
                    not_before: wait.delay.and_then(|delay| SystemTime::now().checked_add(delay)),
                    hold: wait.hold.clone(),
                    ..provenance.entry(sender, recipients(wait))
                };
                Some(Self::Spool(entry, message))
            }
            Fate::Send | Fate::Drop | Fate::Refuse(_) => None,
        }
    }

    /// A new message.
    pub(super) fn notification(new: Notification, provenance: &Provenance) -> Self {
        let to = |address| NewRecipient { address, next_hop: None };
        let recipients = new.recipients.into_iter().map(to).collect();
        Self::Spool(provenance.entry(new.sender, recipients), new.message)
    }
}

/// Writes messages into their stores: in the quarantine they are from now on, in the spool they count with
/// [`Taken::commit`].
///
/// # Errors
/// What the client gets if one of them has no place; then none is there.
pub(super) async fn take(stores: &Stores, messages: Vec<Stored>) -> Result<Taken, Reply> {
    if messages.is_empty() {
        return Ok(Taken { quarantine: None, kept: Vec::new(), batch: None });
    }
    let Stores { quarantine, spool } = stores.clone();
    blocking(move || {
        let now = SystemTime::now();
        let batch = spool.map(|spool| spool.batch(now));
        let mut taken = Taken { quarantine, kept: Vec::new(), batch };
        let took = messages.into_iter().try_for_each(|message| taken.take(message, now));
        match took {
            Ok(()) => Ok(taken),
            Err(error) => {
                taken.delete_kept();
                Err(error)
            }
        }
    })
    .await
}

impl Taken {
    fn take(&mut self, message: Stored, now: SystemTime) -> Result<(), NotStored> {
        match message {
            Stored::Keep(arrival, message) => {
                let store = self.quarantine.as_ref().ok_or(NotStored::NoStore("quarantine"))?;
                let mut writer = store.keep(arrival, now)?;
                writer.write_pieces(&message.octets())?;
                self.kept.push(writer.commit()?.id);
            }
            Stored::Spool(entry, message) => {
                let batch = self.batch.as_mut().ok_or(NotStored::NoStore("spool"))?;
                batch.add(entry, |writer| writer.write_pieces(&message.octets()))?;
            }
        }
        Ok(())
    }

    /// All of it counts: what the quarantine has, which it keeps in any case, and what the spool has; or what those
    /// get whose message the spool did not take.
    pub(super) async fn commit(self) -> (Vec<Id>, Result<Vec<Id>, Reply>) {
        let Self { kept, batch, .. } = self;
        let spooled = match batch {
            Some(batch) => blocking(move || Ok(batch.commit()?)).await,
            None => Ok(Vec::new()),
        };
        (kept, spooled)
    }

    /// Nothing of it counts.
    pub(super) async fn give_back(mut self) {
        if self.kept.is_empty() && self.batch.is_none() {
            return;
        }
        // What can't be removed is in the log.
        let _ = blocking(move || {
            self.delete_kept();
            Ok(())
        })
        .await;
    }

    fn delete_kept(&mut self) {
        let Some(quarantine) = &self.quarantine else { return };
        for id in self.kept.drain(..) {
            if let Err(error) = quarantine.delete(&id) {
                tracing::warn!(%id, cause = %error, "the quarantine keeps what was not accepted");
            }
        }
    }
}

/// Why a store has not taken a message.
#[derive(Debug, thiserror::Error)]
enum NotStored {
    #[error("there is no {0}")]
    NoStore(&'static str),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Work on the disk. What goes wrong there is in the log; the client gets a reply to come again by.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NotStored> + Send + 'static,
) -> Result<T, Reply> {
    let cause = match spawn_blocking(work).await {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(NotStored::Store(error @ StoreError::Full { .. }))) => {
            tracing::warn!(stage = "store", cause = %error, "a message has no room");
            return Err(replies::no_room());
        }
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic.to_string(),
    };
    tracing::error!(stage = "store", cause, "a message could not be stored");
    Err(replies::not_kept())
}

#[cfg(test)]
mod tests {
    use ocp_proto::smtp::Envelope;

    use super::*;
    use crate::store::Limits;

    fn part(fate: Fate) -> Part {
        let recipient = Address::new("<b@b.example>").unwrap();
        let recipients = vec![recipient];
        Part {
            envelope: Envelope { sender: None, recipients: recipients.clone() },
            recipients,
            message: Adapted {
                header: vec!["A: b\r\n\r\n".into()],
                body: crate::event::Body::default(),
            },
            fate,
        }
    }

    /// What the log says of it has to be true.
    #[tokio::test]
    async fn what_the_quarantine_has_is_known_where_the_spool_fails() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, waits) = (folder.path().join("q"), folder.path().join("s"));
        let (quarantine, _) = Quarantine::open(&kept, Limits::default()).unwrap();
        let (spool, _) = Spool::open(&waits, Limits::default()).unwrap();
        let stores = Stores { quarantine: Some(quarantine.clone()), spool: Some(spool) };
        let provenance = Provenance::default();
        let parts = [part(Fate::Keep("odd".to_owned())), part(Fate::Wait(Wait::default()))];
        let stored = parts.iter().filter_map(|part| Stored::part(part, &provenance)).collect();
        let taken = take(&stores, stored).await.unwrap();
        std::fs::remove_dir_all(waits.join("spool")).unwrap();
        let (kept, spooled) = taken.commit().await;
        assert_eq!(spooled.unwrap_err(), replies::not_kept());
        let entries = quarantine.entries().unwrap().0;
        assert_eq!(kept, entries.into_iter().map(|entry| entry.id).collect::<Vec<_>>());
        assert_eq!(kept.len(), 1);
    }
}
