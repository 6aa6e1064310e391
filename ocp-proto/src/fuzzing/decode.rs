//! Any octets for the decoder.

use bytes::BytesMut;

use crate::limits::WireLimits;
use crate::wire::{Decoder, Encoder, Frame, PAYLOAD_TAIL, SyntaxError};

/// Octets as a peer may send them: however they are cut, the same frames and the same error come
/// out, and what was accepted is written and read again as the same.
///
/// # Panics
/// If that is not so.
pub fn decode(octets: &[u8]) {
    let whole = frames(octets, octets.len().max(1));
    let piece = 1 + octets.len() % 7;
    let pieces = frames(octets, piece);
    assert_eq!(whole, pieces, "fragmentation changes what is read");
    let written = written(&whole.0);
    let (again, error) = frames(&written, written.len().max(1));
    assert_eq!((&again, &error), (&whole.0, &None), "what is written is read otherwise");
}

/// Every frame, chunks of one payload joined, and the error.
fn frames(octets: &[u8], piece: usize) -> (Vec<Frame>, Option<SyntaxError>) {
    let mut decoder = Decoder::new(WireLimits { values: 1_000, ..WireLimits::default() });
    let mut input = BytesMut::new();
    let mut frames: Vec<Frame> = Vec::new();
    for piece in octets.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(None) => break,
                Ok(Some(frame)) => match (frames.last_mut(), frame) {
                    (Some(Frame::Chunk(before)), Frame::Chunk(more)) => {
                        *before = [&before[..], &more[..]].concat().into();
                    }
                    (_, frame) => frames.push(frame),
                },
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fn written(frames: &[Frame]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for frame in frames {
        match frame {
            Frame::Head(head) => {
                let mut encoder = Encoder::new(&mut out, head.name.as_str());
                for value in &head.anonymous {
                    encoder.value(value);
                }
                for (name, value) in head.named.iter() {
                    encoder.named(name.as_str(), value);
                }
                match head.payload {
                    Some(size) => encoder.payload(size),
                    None => encoder.finish(),
                }
            }
            Frame::Chunk(octets) => out.extend_from_slice(octets),
            Frame::End => out.extend_from_slice(PAYLOAD_TAIL),
        }
    }
    out.to_vec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[test]
    fn the_corpus_holds() {
        crate::fuzzing::run_corpus("decode", super::decode);
    }

    proptest! {
        #[test]
        fn any_octets_hold(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::decode(&octets);
        }

        /// Octets that are mostly grammar get further than random ones.
        #[test]
        fn near_grammar_holds(pieces in proptest::collection::vec(prop_oneof![
            Just("CS"), Just(";\r\n"), Just("\r\n"), Just(" "), Just("("), Just(")"), Just("{"),
            Just("}"), Just(","), Just("1"), Just("\"3:a;b\""), Just("Kept: "), Just("A: "),
            Just("5:hello"), Just("\r\n;\r\n"), Just("0"), Just("DUM 1 0"), Just("\""), Just(":"),
        ], 0..40)) {
            super::decode(pieces.concat().as_bytes());
        }
    }
}
