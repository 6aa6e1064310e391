//! Content in chunks of announced sizes (BDAT, RFC 3030).

use std::fmt;

use bytes::{Bytes, BytesMut};

/// What a BDAT command announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Octets behind the command line.
    pub size: u64,
    /// Whether the content ends with them.
    pub last: bool,
}

impl Chunk {
    /// The arguments of a BDAT command; `None` if they are none. What follows can't be told from commands
    /// then: the connection has to end.
    pub fn parse(arguments: &[u8]) -> Option<Self> {
        let mut words = arguments.split(|octet| *octet == b' ').filter(|word| !word.is_empty());
        let (size, last) = (words.next()?, words.next());
        if words.next().is_some() || last.is_some_and(|last| !last.eq_ignore_ascii_case(b"LAST")) {
            return None;
        }
        let size = size.iter().try_fold(0_u64, |size, digit| {
            let digit = char::from(*digit).to_digit(10)?;
            size.checked_mul(10)?.checked_add(digit.into())
        })?;
        Some(Self { size, last: last.is_some() })
    }
}

impl fmt::Display for Chunk {
    /// The command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BDAT {}{}", self.size, if self.last { " LAST" } else { "" })
    }
}

/// Takes the octets of one chunk.
#[derive(Debug)]
pub struct Framing {
    missing: u64,
}

impl Framing {
    /// The framing of a chunk whose command line was taken.
    pub fn new(chunk: Chunk) -> Self {
        Self { missing: chunk.size }
    }

    /// Takes what there is of the chunk off the front of `input`, uncopied; `None` if there is nothing.
    pub fn take(&mut self, input: &mut BytesMut) -> Option<Bytes> {
        let length = usize::try_from(self.missing).unwrap_or(usize::MAX).min(input.len());
        self.missing -= u64::try_from(length).unwrap_or(self.missing);
        (length > 0).then(|| input.split_to(length).freeze())
    }

    /// Whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_chunk_has_a_size_and_may_be_the_last() {
        let chunk = |size, last| Some(Chunk { size, last });
        for (arguments, expected) in [
            ("86 LAST", chunk(86, true)),
            ("0 last ", chunk(0, true)),
            ("0", chunk(0, false)),
            ("007", chunk(7, false)),
            ("18446744073709551615", chunk(u64::MAX, false)),
            ("18446744073709551616", None),
            ("184467440737095516160", None),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1x", None),
            ("1\t", None),
            ("1 LATE", None),
            ("1 LAST LAST", None),
            ("LAST", None),
        ] {
            assert_eq!(Chunk::parse(arguments.as_bytes()), expected, "{arguments}");
        }
    }

    #[test]
    fn octets_are_not_copied_and_none_too_many_are_taken() {
        let mut input = BytesMut::from(&b"abcdeQUIT"[..]);
        let place = input.as_ptr();
        let mut framing = Framing::new(Chunk { size: 5, last: true });
        assert!(!framing.is_complete());
        let octets = framing.take(&mut input).unwrap();
        assert_eq!(
            (octets.as_ptr(), &octets[..], &input[..]),
            (place, &b"abcde"[..], &b"QUIT"[..])
        );
        assert!(framing.is_complete());
        assert_eq!(framing.take(&mut input), None);
        assert!(Framing::new(Chunk { size: 0, last: true }).is_complete());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(size: u64, last: bool) {
            let chunk = Chunk { size, last };
            let line = chunk.to_string();
            prop_assert_eq!(Chunk::parse(line.strip_prefix("BDAT").unwrap().as_bytes()), Some(chunk));
        }
    }
}
