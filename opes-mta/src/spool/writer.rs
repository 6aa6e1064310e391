//! A message on its way into the spool.

use std::io::Read;

use super::{Awaits, Entry, Id, Moment, NewEntry, Spool, StoreError};
use crate::octets::Octets;
use crate::store::{Draft, Record, Share};

/// Takes a message piece by piece. Dropped before [`Writer::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct Writer {
    // Before what it takes of the limits is given back, its file is gone.
    draft: Option<Draft>,
    entry: Entry,
    taken: Share,
    spool: Spool,
}

impl Writer {
    pub(super) fn new(
        spool: &Spool,
        entry: NewEntry,
        now: Moment,
        prepared: Option<(Awaits, Id)>,
    ) -> Result<Self, StoreError> {
        let (awaits, name) = prepared.unzip();
        let taken = Share { entries: 1, octets: 0 };
        take(spool, awaits.as_ref(), taken)?;
        let draft = match name {
            Some(id) => spool.0.folder.draft_as(id),
            None => spool.0.folder.draft(now),
        };
        let draft = draft.inspect_err(|_| spool.0.usage.give_back(taken))?;
        let entry = Entry::new(draft.id().clone(), entry, awaits, now);
        Ok(Self { draft: Some(draft), entry, taken, spool: spool.clone() })
    }

    /// The name of the entry that it will be.
    pub fn id(&self) -> &Id {
        &self.entry.id
    }

    /// The next octets of the message.
    pub fn write(&mut self, octets: &[u8]) -> Result<(), StoreError> {
        self.take(octets.len() as u64)?;
        self.draft.as_mut().map_or(Ok(()), |draft| draft.write(octets))
    }

    /// The next pieces of the message.
    pub fn write_pieces(&mut self, pieces: &[Octets]) -> Result<(), StoreError> {
        let mut blocks = pieces.iter().flat_map(Octets::blocks);
        blocks.try_for_each(|block| self.write(&block.map_err(StoreError::Content)?))
    }

    /// The next octets of the message, from a file: as many as it has, and those are known before.
    pub fn copy(&mut self, from: &mut impl Read, octets: u64) -> Result<(), StoreError> {
        self.take(octets)?;
        self.draft.as_mut().map_or(Ok(()), |draft| draft.copy(&mut from.by_ref().take(octets)))
    }

    fn take(&mut self, octets: u64) -> Result<(), StoreError> {
        take(&self.spool, self.entry.awaits.as_ref(), Share { entries: 0, octets })?;
        self.taken.octets += octets;
        Ok(())
    }

    /// What has to happen before it is delivered.
    pub(super) fn awaits(&mut self, awaits: Awaits) {
        self.entry.awaits = Some(awaits);
    }

    /// Once this has returned, and not before, the message is accepted.
    pub fn commit(mut self) -> Result<Entry, StoreError> {
        let entry = self.entry.clone();
        entry.check().map_err(|reason| StoreError::Refused { id: entry.id.clone(), reason })?;
        let Some(draft) = self.draft.take() else { return Ok(entry) };
        let entry = Entry { octets: draft.octets(), ..entry };
        draft.commit(&self.spool.0.folder, &entry)?;
        self.spool.put(&entry);
        self.spool.tell_owner(&entry.id)?;
        Ok(entry)
    }
}

impl Drop for Writer {
    /// What was committed counts as an entry by now.
    fn drop(&mut self) {
        self.draft = None;
        self.spool.0.usage.give_back(self.taken);
    }
}

/// A report makes room for itself: what it is about goes. So it is counted, and not refused.
fn take(spool: &Spool, awaits: Option<&Awaits>, share: Share) -> Result<(), StoreError> {
    if let Some(Awaits::Report { .. }) = awaits {
        spool.0.usage.count(share);
        return Ok(());
    }
    spool.0.usage.take("spool", &spool.0.limits, share)
}
