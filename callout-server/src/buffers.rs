//! Memory for the bodies of messages, used again.

use std::ops::RangeInclusive;
use std::sync::Mutex;

use bytes::{Bytes, BytesMut};

/// Buffers that are kept. Worst case: 16 × 1 MiB.
const KEPT_BUFFERS: usize = 16;

/// Capacities that are worth keeping: the pages of smaller buffers are reused anyway, those of larger
/// ones are too many to hold on to.
const KEPT_CAPACITIES: RangeInclusive<usize> = 128 * 1024..=1024 * 1024;

/// Octets of all buffers that are kept, at the most.
pub(crate) const WORST_CASE: usize = KEPT_BUFFERS * *KEPT_CAPACITIES.end();

/// Memory for the bodies of messages, used again: the system zeroes each page of a new buffer, which
/// costs more than receiving into it.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Mutex<Vec<BytesMut>>);

impl Buffers {
    /// A buffer for a body that will have so many octets, if one is there.
    pub(crate) fn take(&self, octets: usize) -> Option<BytesMut> {
        if octets < *KEPT_CAPACITIES.start() {
            return None;
        }
        self.0.lock().ok()?.pop()
    }

    /// Keeps the memory of a body that nobody else holds.
    pub(crate) fn give_back(&self, body: Bytes) {
        if body.len() < *KEPT_CAPACITIES.start() {
            return;
        }
        let Ok(mut body) = body.try_into_mut() else { return };
        body.clear();
        if KEPT_CAPACITIES.contains(&body.capacity())
            && let Ok(mut kept) = self.0.lock()
            && kept.len() < KEPT_BUFFERS
        {
            kept.push(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_within_bounds() {
        let buffers = Buffers::default();
        let large = 200 * 1024;
        let body = Bytes::from(vec![b'x'; large]);
        let held = body.clone();
        buffers.give_back(body);
        assert!(buffers.take(large).is_none(), "somebody holds it");
        let place = held.as_ptr();
        buffers.give_back(held);
        assert!(buffers.take(1_000).is_none());
        let again = buffers.take(large).unwrap();
        assert!(again.is_empty() && again.as_ptr() == place && again.capacity() >= large);
        for size in [1_000, 2 * 1024 * 1024] {
            buffers.give_back(vec![b'x'; size].into());
        }
        assert!(buffers.take(large).is_none());
        for _ in 0..100 {
            buffers.give_back(vec![b'x'; large].into());
        }
        assert_eq!(std::iter::from_fn(|| buffers.take(large)).count(), KEPT_BUFFERS);
    }
}
