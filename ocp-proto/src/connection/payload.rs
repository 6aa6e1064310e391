//! Octets that go out in one message, in the pieces in which they lie.

use bytes::Bytes;
use smallvec::{SmallVec, smallvec};

/// The payload of one DUM: pieces that go out one after the other, uncopied if they are large.
#[derive(Clone, Debug, Default)]
pub struct OutgoingPayload(SmallVec<[Bytes; 1]>);

impl OutgoingPayload {
    /// Octets of all pieces.
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Bytes::is_empty)
    }
}

impl From<Bytes> for OutgoingPayload {
    fn from(octets: Bytes) -> Self {
        Self(smallvec![octets])
    }
}

impl From<Vec<u8>> for OutgoingPayload {
    fn from(octets: Vec<u8>) -> Self {
        Bytes::from(octets).into()
    }
}

impl From<&'static [u8]> for OutgoingPayload {
    fn from(octets: &'static [u8]) -> Self {
        Bytes::from_static(octets).into()
    }
}

impl From<&'static str> for OutgoingPayload {
    fn from(octets: &'static str) -> Self {
        octets.as_bytes().into()
    }
}

impl FromIterator<Bytes> for OutgoingPayload {
    fn from_iter<I: IntoIterator<Item = Bytes>>(pieces: I) -> Self {
        Self(pieces.into_iter().collect())
    }
}

impl IntoIterator for OutgoingPayload {
    type Item = Bytes;
    type IntoIter = smallvec::IntoIter<[Bytes; 1]>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
