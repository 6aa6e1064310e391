//! Octets on their way to the transport.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// Payloads up to this size are copied behind their heads: a copy costs less than one more slice
/// in the system call.
const COPIED: usize = 2_048;

/// A queue of octets that the transport should take, for vectored writes: large payloads stand in
/// it as they came, uncopied.
///
/// Worst case: what the application queued and the transport did not take. A driver stops asking
/// the connection for events while [`Buf::remaining`] is above its bound.
#[derive(Debug, Default)]
pub struct Output {
    segments: VecDeque<Bytes>,
    queued: usize,
    tail: BytesMut,
    taken: u64,
}

impl Output {
    /// Where the next message head is written to.
    pub(super) fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Appends a payload.
    pub(super) fn push(&mut self, octets: Bytes) {
        if octets.len() <= COPIED {
            self.tail.extend_from_slice(&octets);
            return;
        }
        self.seal();
        self.queued += octets.len();
        self.segments.push_back(octets);
    }

    /// Takes over everything that another queue holds.
    pub(super) fn append(&mut self, other: &mut Self) {
        self.seal();
        other.seal();
        self.queued += std::mem::take(&mut other.queued);
        self.segments.append(&mut other.segments);
    }

    /// Octets that the transport has taken since the connection began.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.queued += self.tail.len();
            self.segments.push_back(self.tail.split().freeze());
        }
    }
}

impl Buf for Output {
    fn remaining(&self) -> usize {
        self.queued + self.tail.len()
    }

    fn chunk(&self) -> &[u8] {
        self.segments.front().map_or(&self.tail, AsRef::as_ref)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = Some(self.tail.as_ref()).filter(|tail| !tail.is_empty());
        let chunks = self.segments.iter().map(AsRef::as_ref).chain(tail);
        let mut filled = 0;
        for (slice, chunk) in slices.iter_mut().zip(chunks) {
            *slice = IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        self.taken += count as u64;
        while let Some(front) = self.segments.front_mut() {
            if count < front.len() {
                self.queued -= count;
                front.advance(count);
                return;
            }
            count -= front.len();
            self.queued -= front.len();
            self.segments.pop_front();
        }
        self.tail.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_leave_in_order_and_large_ones_uncopied() {
        let large = Bytes::from(vec![b'x'; COPIED + 1]);
        let mut output = Output::default();
        output.tail().extend_from_slice(b"head ");
        output.push(large.clone());
        output.tail().extend_from_slice(b" tail ");
        output.push(Bytes::from_static(b"small"));
        let mut slices = [IoSlice::new(&[]); 8];
        assert_eq!(output.chunks_vectored(&mut slices), 3);
        assert_eq!(slices[1].as_ptr(), large.as_ptr());
        let mut all = Vec::new();
        while output.has_remaining() {
            let step = output.chunk().len().min(7);
            all.extend_from_slice(&output.chunk()[..step]);
            output.advance(step);
        }
        assert_eq!(all, [b"head ", &large[..], b" tail small"].concat());
    }
}
