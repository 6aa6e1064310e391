//! The body of a message on its way in, in the pieces in which it lies.

use bytes::{Bytes, BytesMut};

use crate::octets::Octets;

/// Octets of a piece from which on it stays where it lies. Smaller ones are put together: each would keep
/// what was read with it.
const KEPT: usize = 16 * 1024;

/// Pieces so far. Worst case three times their octets: while small pieces move to a buffer of twice the
/// size, and what was read together with large ones.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pieces: Vec<Bytes>,
    /// What came behind them.
    end: BytesMut,
    octets: usize,
}

impl Pieces {
    /// The next octets.
    pub(super) fn push(&mut self, octets: &Bytes) {
        self.octets += octets.len();
        if octets.len() < KEPT {
            self.end.extend_from_slice(octets);
        } else {
            self.seal();
            self.pieces.push(octets.clone());
        }
    }

    /// How many octets there are.
    pub(super) fn octets(&self) -> usize {
        self.octets
    }

    /// All of them, uncopied.
    pub(super) fn finish(mut self) -> Vec<Octets> {
        self.seal();
        self.pieces.into_iter().map(Octets::from).collect()
    }

    fn seal(&mut self) {
        if !self.end.is_empty() {
            self.pieces.push(self.end.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pieces_stay_where_they_lie_and_small_ones_are_put_together() {
        let mut pieces = Pieces::default();
        let (mut expected, mut places) = (Vec::new(), Vec::new());
        for (number, size) in [1, KEPT - 1, KEPT, KEPT, 3, 4, 65_535, 0, 7].into_iter().enumerate()
        {
            let piece = Bytes::from(vec![number as u8; size]);
            pieces.push(&piece);
            expected.extend_from_slice(&piece);
            places.push(piece);
        }
        assert_eq!(pieces.octets(), expected.len());
        let body = pieces.finish();
        let body: Vec<_> = body.iter().map(|piece| piece.in_memory().unwrap()).collect();
        assert!(body.iter().flat_map(|piece| piece.iter()).eq(&expected));
        let lengths: Vec<_> = body.iter().map(|piece| piece.len()).collect();
        assert_eq!(lengths, [KEPT, KEPT, KEPT, 7, 65_535, 7], "1 and KEPT - 1, 3 and 4 together");
        for (at, from) in [(1, 2), (2, 3), (4, 6)] {
            assert_eq!(body[at].as_ptr(), places[from].as_ptr());
        }
    }
}
