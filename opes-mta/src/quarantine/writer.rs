//! A message on its way into the quarantine.

use super::{Arrival, Id, Kept, Moment, Quarantine, StoreError};
use crate::octets::Octets;
use crate::store::{Draft, Record, Share};

/// Takes a message piece by piece. Dropped before [`Writer::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct Writer {
    // Before what it takes of the limits is given back, its file is gone.
    draft: Option<Draft>,
    kept: Kept,
    taken: Share,
    quarantine: Quarantine,
}

impl Writer {
    pub(super) fn new(
        quarantine: &Quarantine,
        arrival: Arrival,
        now: Moment,
    ) -> Result<Self, StoreError> {
        let taken = Share { entries: 1, octets: 0 };
        quarantine.0.holdings.take(taken)?;
        let draft = quarantine.0.folder.draft(now);
        let draft = draft.inspect_err(|_| quarantine.0.holdings.give_back(taken))?;
        let kept = Kept::new(draft.id().clone(), arrival, now);
        Ok(Self { draft: Some(draft), kept, taken, quarantine: quarantine.clone() })
    }

    /// The name of the entry that it will be.
    pub fn id(&self) -> &Id {
        &self.kept.id
    }

    /// The next octets of the message.
    pub fn write(&mut self, octets: &[u8]) -> Result<(), StoreError> {
        let share = Share { entries: 0, octets: octets.len() as u64 };
        self.quarantine.0.holdings.take(share)?;
        self.taken.octets += share.octets;
        self.draft.as_mut().map_or(Ok(()), |draft| draft.write(octets))
    }

    /// The next pieces of the message.
    pub fn write_pieces(&mut self, pieces: &[Octets]) -> Result<(), StoreError> {
        let mut blocks = pieces.iter().flat_map(Octets::blocks);
        blocks.try_for_each(|block| self.write(&block.map_err(StoreError::Content)?))
    }

    /// Once this has returned, and not before, the message is kept.
    pub fn commit(mut self) -> Result<Kept, StoreError> {
        let kept = self.kept.clone();
        kept.check().map_err(|reason| StoreError::Refused { id: kept.id.clone(), reason })?;
        let Some(draft) = self.draft.take() else { return Ok(kept) };
        let kept = Kept { octets: draft.octets(), ..kept };
        draft.commit(&self.quarantine.0.folder, &kept)?;
        self.quarantine.0.holdings.put(&kept);
        Ok(kept)
    }
}

impl Drop for Writer {
    /// What was committed counts as an entry by now.
    fn drop(&mut self) {
        self.draft = None;
        self.quarantine.0.holdings.give_back(self.taken);
    }
}
