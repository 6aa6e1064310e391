//! Octets to packets and back: a length of four octets, a letter, and data.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Octets of one packet behind its length, unless configured otherwise: a letter, 65,535 octets of data as
/// MTAs keep to (`MILTER_MAX_DATA_SIZE`), and room for those that count the data otherwise. Postfix cuts
/// header fields to 60,000. Worst case a connection: that many octets.
pub const MAXIMUM_PACKET: usize = 68 * 1024;

/// Octets of a packet's length.
const LENGTH: usize = 4;

/// One command or one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The letter that says what it is.
    pub letter: u8,
    /// What is behind it.
    pub data: Bytes,
}

/// Takes packets off octets as they come.
#[derive(Debug)]
pub struct Decoder {
    maximum: usize,
    consumed: u64,
    failed: Option<InvalidPacket>,
}

impl Decoder {
    /// A decoder for the start of a connection, and the most octets that a packet may have behind its
    /// length.
    pub fn new(maximum: usize) -> Self {
        Self { maximum, consumed: 0, failed: None }
    }

    /// Takes the next packet off the front of `input`; `None` if more octets are needed. Data of body
    /// chunks is not copied.
    ///
    /// # Errors
    /// A length that no packet has. The start of the next one can't be found: the connection ends.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Packet>, InvalidPacket> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let Some(length) = input.first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length);
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if size == 0 || size > self.maximum {
            let failed = InvalidPacket { offset: self.consumed, length, maximum: self.maximum };
            self.failed = Some(failed);
            return Err(failed);
        }
        if input.len() - LENGTH < size {
            return Ok(None);
        }
        self.consumed += 4 + u64::from(length);
        input.advance(LENGTH);
        let mut packet = input.split_to(size);
        let letter = packet.get_u8();
        // What is kept of other commands (addresses, macros) must not keep a whole read buffer alive.
        let data = match letter {
            b'B' | b'E' => packet.freeze(),
            _ => Bytes::copy_from_slice(&packet),
        };
        Ok(Some(Packet { letter, data }))
    }

    /// Octets that are missing of the packet that has begun in `input`, and with them the length of the
    /// next one; `None` as long as its own length is not known.
    pub fn missing(input: &[u8]) -> Option<usize> {
        let length = u32::from_be_bytes(*input.first_chunk()?);
        let end = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(2 * LENGTH);
        Some(end.saturating_sub(input.len()))
    }

    /// Octets of the packets that were taken off since the connection began.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }
}

/// A length that no packet has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("octet {offset}: a milter packet of {length} octets; 1 to {maximum} are allowed")]
pub struct InvalidPacket {
    /// Where the length stands, since the connection began.
    pub offset: u64,
    /// The length.
    pub length: u32,
    /// The most that it may be.
    pub maximum: usize,
}

/// Appends a packet, whose data `write` appends.
pub(super) fn encode(out: &mut BytesMut, letter: u8, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    out.put_u8(letter);
    write(out);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX).to_be_bytes();
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&length);
    }
}

/// Appends a string and its NUL.
pub(super) fn put_string(out: &mut BytesMut, string: &[u8]) {
    out.put_slice(string);
    out.put_u8(0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_packet_has_a_length_a_letter_and_data() {
        let mut input = BytesMut::from(&b"\0\0\0\x03Hx\0\0\0\0\x01Q\0\0"[..]);
        let mut decoder = Decoder::new(MAXIMUM_PACKET);
        let helo = Packet { letter: b'H', data: Bytes::from_static(b"x\0") };
        assert_eq!(decoder.decode(&mut input), Ok(Some(helo)));
        assert_eq!(
            decoder.decode(&mut input),
            Ok(Some(Packet { letter: b'Q', data: Bytes::new() }))
        );
        assert_eq!(decoder.decode(&mut input), Ok(None));
        assert_eq!((decoder.consumed(), &input[..]), (12, &b"\0\0"[..]));
    }

    #[test]
    fn lengths_beyond_the_bounds_end_the_connection() {
        for (length, valid) in [(0, false), (1, true), (10, true), (11, false), (u32::MAX, false)] {
            let mut decoder = Decoder::new(10);
            let mut input = BytesMut::from(&b"\0\0\0\x01Q"[..]);
            input.put_u32(length);
            assert!(decoder.decode(&mut input).unwrap().is_some());
            let expected = InvalidPacket { offset: 5, length, maximum: 10 };
            let expected = if valid { Ok(None) } else { Err(expected) };
            assert_eq!(decoder.decode(&mut input), expected);
            input.extend_from_slice(b"\0\0\0\x01Q");
            assert_eq!(decoder.decode(&mut input).err(), expected.err(), "it stays so");
        }
        let error = InvalidPacket { offset: 5, length: 11, maximum: 10 }.to_string();
        assert_eq!(error, "octet 5: a milter packet of 11 octets; 1 to 10 are allowed");
    }

    #[test]
    fn the_rest_of_a_packet_is_known_by_its_length() {
        for (input, missing) in [
            (&b""[..], None),
            (b"\0\0\0", None),
            (b"\0\0\0\x03", Some(7)),
            (b"\0\0\0\x03B", Some(6)),
            (b"\0\0\0\x03Bxy", Some(4)),
            (b"\0\0\0\x03Bxy\0\0\0\x01Q", Some(0)),
        ] {
            assert_eq!(Decoder::missing(input), missing, "{input:?}");
        }
    }

    #[test]
    fn body_chunks_are_not_copied() {
        let mut input = BytesMut::from(&b"\0\0\0\x03Bxy\0\0\0\x03Hx\0"[..]);
        let place = input[5..].as_ptr();
        let mut decoder = Decoder::new(MAXIMUM_PACKET);
        assert_eq!(decoder.decode(&mut input).unwrap().unwrap().data.as_ptr(), place);
        let place = input[5..].as_ptr();
        assert_ne!(decoder.decode(&mut input).unwrap().unwrap().data.as_ptr(), place);
    }

    proptest! {
        #[test]
        fn every_packet_is_read_as_it_was_written(
            packets in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..300)), 0..5),
            piece in 1_usize..400,
        ) {
            let mut written = BytesMut::new();
            for (letter, data) in &packets {
                encode(&mut written, *letter, |out| out.put_slice(data));
            }
            let mut decoder = Decoder::new(301);
            let (mut input, mut read) = (BytesMut::new(), Vec::new());
            for piece in written.chunks(piece) {
                input.extend_from_slice(piece);
                while let Some(packet) = decoder.decode(&mut input).unwrap() {
                    read.push((packet.letter, packet.data.to_vec()));
                }
            }
            prop_assert_eq!(read, packets);
        }
    }
}
