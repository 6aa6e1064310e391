//! The octets of an original message that we promised to keep (RFC 4037 section 11.9).

use std::ops::Range;

use bytes::Bytes;
use ocp_proto::OutgoingPayload;
use ocp_proto::smtp::Part;

use crate::octets::{Octets, Stored};

/// What was sent of an original message, so that the server can refer to it (DUY).
///
/// It holds references to the front end's octets, never copies.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    segments: Vec<Segment>,
    octets: usize,
    /// Those of them that are in memory.
    in_memory: usize,
    /// Whether octets of the body follow that are not here.
    is_cut: bool,
}

/// What is sent next, in one DUM.
#[derive(Clone, Debug)]
pub(crate) enum Next {
    /// Octets that are at hand.
    AtHand(OutgoingPayload),
    /// Octets that have to be read first.
    Stored(Stored),
}

#[derive(Clone, Debug)]
struct Segment {
    /// Offset of the octet behind it.
    end: usize,
    part: Part,
    octets: Octets,
}

impl Kept {
    /// Keeps the next octets of the message.
    pub fn push(&mut self, part: Part, octets: impl Into<Octets>) {
        let octets = octets.into();
        if octets.is_empty() {
            return;
        }
        self.octets += octets.len();
        self.in_memory += octets.in_memory().map_or(0, Bytes::len);
        self.segments.push(Segment { end: self.octets, part, octets });
    }

    /// What was pushed is the front of a message: the rest of its body is somewhere else.
    pub(crate) fn cut(&mut self) {
        self.is_cut = true;
    }

    /// Whether octets of the body follow that are not here.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Octets that are kept.
    pub fn octets(&self) -> usize {
        self.octets
    }

    /// Octets that are kept in memory.
    pub(crate) fn in_memory(&self) -> usize {
        self.in_memory
    }

    /// Where the message body begins; `None` if there is none.
    pub(crate) fn body(&self) -> Option<usize> {
        let body = self.segments.iter().find(|segment| segment.part == Part::MessageBody);
        let begins = body.map(|body| body.end - body.octets.len());
        begins.or(self.is_cut.then_some(self.octets))
    }

    /// The octets behind an offset, as far as they belong to one part, lie in memory or in a row in a file,
    /// and at most so many; `None` at the end.
    pub(crate) fn next(&self, offset: usize, most: usize) -> Option<(Part, Next)> {
        let end = offset.saturating_add(most).min(self.octets);
        let mut slices = self.slices(offset..end)?.peekable();
        let part = slices.peek()?.0;
        if let Some((_, Octets::Stored(stored))) = slices.peek() {
            return Some((part, Next::Stored(stored.clone())));
        }
        let pieces = slices.map_while(|(of, octets)| match octets {
            Octets::Memory(octets) if of == part => Some(octets),
            _ => None,
        });
        Some((part, Next::AtHand(pieces.collect())))
    }

    /// These octets and the part that each piece belongs to, or `None` if not all of them are kept.
    pub fn slices(&self, range: Range<usize>) -> Option<impl Iterator<Item = (Part, Octets)>> {
        if range.start > range.end || range.end > self.octets {
            return None;
        }
        let first = self.segments.partition_point(|segment| segment.end <= range.start);
        let segments = self.segments.get(first..).unwrap_or_default();
        Some(segments.iter().map_while(move |Segment { end, part, octets }| {
            let start = end - octets.len();
            let from = range.start.max(start);
            let to = range.end.min(*end);
            (from < to).then(|| (*part, octets.slice(from - start..to - start)))
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_slice_is_no_copy() {
        let octets = Bytes::from(vec![b'x'; 10_000]);
        let mut kept = Kept::default();
        kept.push(Part::MessageBody, octets.clone());
        let slices: Vec<_> = kept.slices(5..9_000).unwrap().collect();
        assert_eq!(slices.len(), 1);
        assert_eq!(slices[0].1.in_memory().unwrap().as_ptr(), octets[5..].as_ptr());
        assert!(kept.slices(5..10_001).is_none());
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = 6..5;
        assert!(kept.slices(reversed).is_none());
        assert_eq!(kept.slices(7..7).unwrap().count(), 0);
    }

    #[test]
    fn the_next_octets_belong_to_one_part() {
        let mut kept = Kept::default();
        kept.push(Part::MessageHeader, "abc");
        kept.push(Part::MessageBody, "de");
        kept.push(Part::MessageBody, "fgh");
        let next = |offset, most| match kept.next(offset, most)? {
            (part, Next::AtHand(octets)) => Some((part, octets.into_iter().collect::<Vec<_>>())),
            stored => panic!("{stored:?}"),
        };
        assert_eq!(next(0, 4), Some((Part::MessageHeader, vec!["abc".into()])));
        assert_eq!(next(3, 4), Some((Part::MessageBody, vec!["de".into(), "fg".into()])));
        assert_eq!(next(3, 9), Some((Part::MessageBody, vec!["de".into(), "fgh".into()])));
        assert_eq!(next(7, 4), Some((Part::MessageBody, vec!["h".into()])));
        assert_eq!((next(8, 4), next(9, 4)), (None, None));
    }

    proptest! {
        #[test]
        fn slices_are_the_octets_of_the_message(
            header in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..5),
            body in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..5),
            a in 0usize..80,
            b in 0usize..80,
        ) {
            let mut kept = Kept::default();
            header.iter().for_each(|o| kept.push(Part::MessageHeader, Bytes::from(o.clone())));
            body.iter().for_each(|o| kept.push(Part::MessageBody, Bytes::from(o.clone())));
            let split = header.concat().len();
            let whole = [header.concat(), body.concat()].concat();
            prop_assert_eq!(kept.octets(), whole.len());
            let range = a.min(b)..a.max(b);
            let naive = whole.get(range.clone());
            let slices: Option<Vec<_>> = kept.slices(range.clone()).map(Iterator::collect);
            prop_assert_eq!(naive.is_some(), slices.is_some());
            let mut at = range.start;
            for (part, octets) in slices.unwrap_or_default() {
                prop_assert!(!octets.is_empty());
                prop_assert_eq!(part == Part::MessageHeader, at < split);
                prop_assert_eq!(Some(&octets.read().unwrap()[..]), whole.get(at..at + octets.len()));
                at += octets.len();
            }
            prop_assert!(naive.is_none() || at == range.end);
        }
    }
}
