//! Edits over the stretches of one half of a message: its header section or its body.

use bytes::{Bytes, BytesMut};

use super::edit::Edit;
use super::octets::Octets;
use super::version::Segment;

/// The next version of one of the two halves, whose first octet has the offset `base`.
pub(super) fn splice(
    segments: &[Segment],
    octets: &Octets,
    base: usize,
    edits: &[Edit],
) -> (Vec<Segment>, Octets) {
    if edits.is_empty() {
        return (segments.to_vec(), octets.clone());
    }
    let mut out = Splice { segments, skipped: 0, result: Vec::new() };
    let mut pieces = Vec::with_capacity(2 * edits.len() + 1);
    let mut at = 0;
    for edit in edits {
        let (start, end) = (edit.range.start - base, edit.range.end - base);
        out.keep(start - at);
        out.skip(end - start);
        pieces.push(octets.slice(at..start));
        pieces.push(edit.insert.clone().into());
        out.insert(&edit.insert);
        at = end;
    }
    out.keep(octets.len() - at);
    pieces.push(octets.slice(at..octets.len()));
    let octets =
        if octets.in_memory().is_some() { joined(&pieces) } else { Octets::concat(pieces) };
    (out.result, octets)
}

/// Octets in memory in one piece.
pub(super) fn joined(pieces: &[Octets]) -> Octets {
    let mut text = BytesMut::with_capacity(pieces.iter().map(Octets::len).sum());
    pieces.iter().filter_map(Octets::in_memory).for_each(|octets| text.extend_from_slice(octets));
    text.freeze().into()
}

/// Walks over segments once.
struct Splice<'a> {
    segments: &'a [Segment],
    /// Octets of the first segment that are behind us.
    skipped: usize,
    result: Vec<Segment>,
}

impl Splice<'_> {
    fn keep(&mut self, count: usize) {
        self.walk(count, true);
    }

    fn skip(&mut self, count: usize) {
        self.walk(count, false);
    }

    fn walk(&mut self, mut count: usize, keeps: bool) {
        while let Some((first, rest)) = self.segments.split_first().filter(|_| count > 0) {
            let taken = count.min(first.len() - self.skipped);
            if keeps {
                self.push(first.slice(self.skipped..self.skipped + taken));
            }
            count -= taken;
            self.skipped += taken;
            if self.skipped == first.len() {
                self.segments = rest;
                self.skipped = 0;
            }
        }
    }

    fn insert(&mut self, octets: &Bytes) {
        self.push(Segment::Insert(octets.clone()));
    }

    /// Appends a segment; neighbours in the original become one.
    fn push(&mut self, segment: Segment) {
        match (self.result.last_mut(), &segment) {
            _ if segment.is_empty() => {}
            (Some(Segment::Keep(last)), Segment::Keep(next)) if last.end == next.start => {
                last.end = next.end;
            }
            _ => self.result.push(segment),
        }
    }
}
