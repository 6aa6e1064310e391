//! Messages that are accepted together.

use std::time::SystemTime;

use super::{Awaits, Id, NewEntry, Spool, StoreError, Writer};

/// Messages that are accepted together or not at all, whenever the process ends: the first one leads, and the
/// others count once it is there. Dropped before [`Batch::commit`], it leaves nothing behind.
///
/// ```text
///  followers written, each awaits its leader ──▶ leader written, awaits its followers ──▶ all are let go, it last
///                                                (250 may be given)
/// ```
#[derive(Debug)]
pub struct Batch {
    spool: Spool,
    now: SystemTime,
    /// The first message, whole but not there yet.
    leader: Option<Writer>,
    followers: Vec<Id>,
}

impl Batch {
    pub(super) fn new(spool: &Spool, now: SystemTime) -> Self {
        Self { spool: spool.clone(), now, leader: None, followers: Vec::new() }
    }

    /// The next message, which `write` writes.
    pub fn add(
        &mut self,
        entry: NewEntry,
        write: impl FnOnce(&mut Writer) -> Result<(), StoreError>,
    ) -> Result<Id, StoreError> {
        let Some(leader) = &self.leader else {
            let mut writer = self.spool.accept(entry, self.now)?;
            write(&mut writer)?;
            let id = writer.id().clone();
            self.leader = Some(writer);
            return Ok(id);
        };
        let of = leader.id().clone();
        let id = of.derived(&format!("with-{}", self.followers.len() + 1)).map_err(|error| {
            StoreError::Refused { id: of.clone(), reason: format!("can't be followed: {error}") }
        })?;
        let awaits = Awaits::Leader { of };
        let mut writer = self.spool.prepare(entry, awaits, id.clone(), self.now.into())?;
        write(&mut writer)?;
        writer.commit()?;
        self.followers.push(id.clone());
        Ok(id)
    }

    /// Whether there is no message in it.
    pub fn is_empty(&self) -> bool {
        self.leader.is_none()
    }

    /// Once this has returned, and not before, all of them are accepted: the leader, then the others. An error
    /// says that none is.
    pub fn commit(mut self) -> Result<Vec<Id>, StoreError> {
        let Some(mut leader) = self.leader.take() else { return Ok(Vec::new()) };
        if !self.followers.is_empty() {
            leader.awaits(Awaits::Followers);
        }
        let leader = leader.commit()?;
        let followers = std::mem::take(&mut self.followers);
        for id in followers.iter().chain(leader.awaits.is_some().then_some(&leader.id)) {
            if let Err(error) = self.spool.confirm(id) {
                // They are accepted: the next start goes on from here.
                tracing::error!(%id, cause = %error, "an accepted message waits until the next start");
                break;
            }
        }
        Ok(std::iter::once(leader.id).chain(followers).collect())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        for id in self.followers.drain(..) {
            // What can't be removed now the owner removes at its next start.
            let _ = self.spool.withdraw(&id);
        }
    }
}
