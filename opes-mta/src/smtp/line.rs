//! Octets to lines. CRLF ends a line, and nothing else does.

use bytes::{Buf, Bytes, BytesMut};
use ocp_proto::smtp::CommandLine;

/// The most octets of a command line without its CRLF, unless configured otherwise. RFC 5321 section
/// 4.5.3.1.4 says 512 with CRLF, extensions add to that. Worst case a connection: that many octets.
pub const LONGEST_LINE: usize = CommandLine::LONGEST;

/// The most octets of an AUTH command and of each line of its exchange, without CRLF (RFC 4954 section 4
/// says 12,288 with it). Worst case a connection: that many octets.
pub const LONGEST_AUTH_LINE: usize = 12_286;

/// Takes lines off octets as they come.
#[derive(Debug)]
pub struct Decoder {
    longest: usize,
    /// Octets at the front of the input that hold no line end.
    seen: usize,
    /// The line is invalid and was reported: its rest is thrown away.
    skips: bool,
}

impl Decoder {
    /// A decoder for the start of a line, and the most octets that a command line may have. Lines of AUTH
    /// may have [`LONGEST_AUTH_LINE`].
    pub fn new(longest: usize) -> Self {
        Self { longest, seen: 0, skips: false }
    }

    /// Takes the next line without its CRLF off the front of `input`; `None` if more octets are needed.
    /// The line is a copy: one that is kept keeps no read buffer alive.
    ///
    /// # Errors
    /// The line is none. It is reported once, where its first wrong octet is seen; the next call goes on
    /// behind its CRLF.
    pub fn decode(&mut self, input: &mut BytesMut) -> Option<Result<Bytes, InvalidLine>> {
        self.skip(input)?;
        let is_auth = starts_with(input, b"AUTH ");
        let is_chunk = starts_with(input, b"BDAT");
        let longest = if is_auth { LONGEST_AUTH_LINE } else { self.longest };
        let line = self.decode_within(longest, input)?;
        Some(line.map_err(|error| if is_chunk { InvalidLine::Chunk } else { error }))
    }

    /// The same for a line of the exchange that AUTH begins.
    ///
    /// # Errors
    /// See there.
    pub fn decode_auth(&mut self, input: &mut BytesMut) -> Option<Result<Bytes, InvalidLine>> {
        self.skip(input)?;
        self.decode_within(LONGEST_AUTH_LINE, input)
    }

    fn decode_within(
        &mut self,
        longest: usize,
        input: &mut BytesMut,
    ) -> Option<Result<Bytes, InvalidLine>> {
        let rest = input.get(self.seen..).unwrap_or_default();
        let found = memchr::memchr3(b'\r', b'\n', 0, rest).map(|at| self.seen + at);
        let end = found.unwrap_or(input.len());
        if end > longest {
            return Some(Err(self.invalid(InvalidLine::TooLong)));
        }
        self.seen = end;
        let octet = *input.get(end)?;
        let next = input.get(end + 1);
        match (octet, next) {
            (b'\r', None) => None,
            (b'\r', Some(b'\n')) => {
                let line = Bytes::copy_from_slice(input.get(..end).unwrap_or_default());
                input.advance(end + 2);
                self.seen = 0;
                Some(Ok(line))
            }
            _ => Some(Err(self.invalid(InvalidLine::Octet(octet)))),
        }
    }

    fn invalid(&mut self, error: InvalidLine) -> InvalidLine {
        self.skips = true;
        self.seen = 0;
        error
    }

    /// Throws the rest of an invalid line away; `None` if it has not come.
    fn skip(&mut self, input: &mut BytesMut) -> Option<()> {
        if !self.skips {
            return Some(());
        }
        if let Some(at) = memchr::memmem::find(input, b"\r\n") {
            input.advance(at + 2);
            self.skips = false;
            return Some(());
        }
        // A CR at the end may be the first half.
        let kept = usize::from(input.ends_with(b"\r"));
        input.advance(input.len() - kept);
        None
    }
}

/// Whether the octets start with this word, in upper or lower case.
pub(super) fn starts_with(octets: &[u8], word: &[u8]) -> bool {
    octets.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// Why octets are no line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLine {
    /// No CRLF where it has to be at the latest.
    #[error("a line that is too long")]
    TooLong,
    /// CR without LF, LF without CR, or NUL.
    #[error("a line with octet 0x{0:02x} in it")]
    Octet(u8),
    /// One of both in a line that starts with BDAT: what follows it can't be told from content.
    #[error("a line of BDAT that is none")]
    Chunk,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Decoded = Vec<Result<Vec<u8>, InvalidLine>>;

    fn decode(octets: &[u8], piece: usize) -> (Decoded, Vec<u8>) {
        let mut decoder = Decoder::new(10);
        let (mut input, mut lines) = (BytesMut::new(), Vec::new());
        for piece in octets.chunks(piece) {
            input.extend_from_slice(piece);
            while let Some(line) = decoder.decode(&mut input) {
                lines.push(line.map(|line| line.to_vec()));
            }
            assert!(input.len() <= LONGEST_AUTH_LINE + 1, "the input is bounded");
        }
        (lines, input.to_vec())
    }

    #[test]
    fn crlf_ends_a_line_and_nothing_else_does() {
        let noop = || Ok(b"NOOP".to_vec());
        let octet = |octet| Err(InvalidLine::Octet(octet));
        let cases: [(&[u8], Decoded); 10] = [
            (b"NOOP\r\nNOOP\r\n", vec![noop(), noop()]),
            (b"\r\n", vec![Ok(Vec::new())]),
            (b"NOOP", vec![]),
            (b"NOOP\r", vec![]),
            (b"QUIT\nQUIT\r\nNOOP\r\n", vec![octet(b'\n'), noop()]),
            (b"QUIT\rQUIT\r\nNOOP\r\n", vec![octet(b'\r'), noop()]),
            (b"QUIT\r\r\nNOOP\r\n", vec![octet(b'\r'), noop()]),
            (b"\nQUIT\n\rQUIT\n\r\nNOOP\r\n", vec![octet(b'\n'), noop()]),
            (b"QU\0IT\r\nNOOP\r\n", vec![octet(0), noop()]),
            (b"0123456789\r\n0123456789A\r\nNOOP\r\n", {
                vec![Ok(b"0123456789".to_vec()), Err(InvalidLine::TooLong), noop()]
            }),
        ];
        for (octets, lines) in cases {
            for piece in 1..=octets.len() {
                assert_eq!(decode(octets, piece).0, lines, "{octets:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn lines_of_auth_may_be_longer() {
        let mut octets = b"auth X ".to_vec();
        octets.resize(LONGEST_AUTH_LINE, b'a');
        octets.extend_from_slice(b"\r\n");
        assert_eq!(decode(&octets, 1_000).0[0].as_ref().unwrap().len(), LONGEST_AUTH_LINE);
        octets.insert(10, b'a');
        assert_eq!(decode(&octets, 1_000).0, [Err(InvalidLine::TooLong)]);
        let mut exchange = BytesMut::from(&octets[11..]);
        let line = Decoder::new(10).decode_auth(&mut exchange).unwrap();
        assert_eq!(line.unwrap().len(), LONGEST_AUTH_LINE - 10);
    }

    #[test]
    fn a_chunk_without_a_line_is_told_apart() {
        let (octet, chunk) = (Err(InvalidLine::Octet(b'\n')), Err(InvalidLine::Chunk));
        let octets = b"x\nBDAT 5\r\nX\nY\r\nbdat 5\nX\r\nBDAT 5 LAST\r\nBDAT 5        ";
        for piece in 1..octets.len() {
            let lines = decode(octets, piece).0;
            assert_eq!(
                lines,
                [octet.clone(), octet.clone(), chunk.clone(), chunk.clone(), chunk.clone()]
            );
        }
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let (lines, rest) = decode(&vec![b'a'; 100_000], 1_000);
        assert_eq!((lines, rest), (vec![Err(InvalidLine::TooLong)], Vec::new()));
    }

    proptest! {
        #[test]
        fn fragmentation_makes_no_difference(
            octets in proptest::collection::vec(prop::sample::select(&b"ab\r\n\0"[..]), 0..80),
            piece in 1_usize..20,
        ) {
            prop_assert_eq!(decode(&octets, piece), decode(&octets, octets.len().max(1)));
        }
    }
}
