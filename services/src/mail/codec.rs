//! Decoders that get their octets in pieces. What they hold of one piece until the next comes is
//! bounded, whatever the octets are.

/// A decoder.
#[derive(Debug)]
pub(super) enum Codec {
    /// Nothing is encoded.
    Identity,
    /// base64 (RFC 2045 section 6.8).
    Base64(Base64),
    /// quoted-printable (RFC 2045 section 6.7).
    QuotedPrintable(Undecided),
    /// The lines of one uuencoded file.
    Uuencode(Uuencode),
    /// Percent-encoding (RFC 3986 section 2.1).
    Percent(Undecided),
    /// base64 inside percent-encoding.
    Base64InPercent(Undecided, Base64),
}

/// Octets at the end of a piece of which the next piece decides.
pub(super) type Undecided = Vec<u8>;

/// The most blanks before a line end in quoted-printable: as long as a line may be.
const MOST_BLANKS: usize = 998;
/// The octets of a uuencoded line that count: its length, and 63 octets encoded.
const UUENCODED_LINE: usize = 1 + 84;

impl Codec {
    /// Decodes the next piece, and appends what comes of it.
    pub(super) fn feed(&mut self, piece: &[u8], is_last: bool, out: &mut Vec<u8>) {
        match self {
            Self::Identity => out.extend_from_slice(piece),
            Self::Base64(state) => state.feed(piece, out),
            Self::QuotedPrintable(undecided) => {
                joined(undecided, piece, |octets| quoted_printable(octets, is_last, out));
            }
            Self::Uuencode(state) => state.feed(piece, is_last, out),
            Self::Percent(undecided) => {
                joined(undecided, piece, |octets| percent(octets, is_last, out));
            }
            Self::Base64InPercent(undecided, state) => {
                let mut plain = Vec::with_capacity(piece.len());
                joined(undecided, piece, |octets| percent(octets, is_last, &mut plain));
                state.feed(&plain, out);
            }
        }
    }
}

/// Decodes what was undecided together with the next piece; `decode` returns what still is.
fn joined(undecided: &mut Undecided, piece: &[u8], decode: impl FnOnce(&[u8]) -> Undecided) {
    *undecided = if undecided.is_empty() {
        decode(piece)
    } else {
        undecided.extend_from_slice(piece);
        decode(undecided)
    };
}

/// What octets do that are not of the alphabet, and padding that something follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Base64Rule {
    /// The former are passed over (RFC 2045 section 6.8), and padding starts a new run.
    #[default]
    Tolerant,
    /// Either ends the content.
    Ends,
    /// Both are passed over.
    PassedOver,
}

/// Decodes base64 by a rule.
#[derive(Debug, Default)]
pub(super) struct Base64 {
    rule: Base64Rule,
    bits: u32,
    count: u32,
    is_padded: bool,
    has_ended: bool,
    /// Whether the rule matters.
    pub(super) is_odd: bool,
}

impl Base64 {
    pub(super) fn by(rule: Base64Rule) -> Self {
        Self { rule, ..Self::default() }
    }

    pub(super) fn feed(&mut self, mut encoded: &[u8], out: &mut Vec<u8>) {
        out.reserve(encoded.len() / 4 * 3 + 3);
        while !self.has_ended {
            if self.count == 0 && !self.is_padded {
                encoded = whole_groups(encoded, out);
            }
            let Some((&octet, rest)) = encoded.split_first() else { return };
            encoded = rest;
            match sextet(octet) {
                PADDING => {
                    self.has_ended = self.rule == Base64Rule::Ends;
                    self.is_padded = self.rule != Base64Rule::PassedOver;
                }
                value @ 0..64 => {
                    if std::mem::take(&mut self.is_padded) {
                        (self.bits, self.count, self.is_odd) = (0, 0, true);
                    }
                    self.bits = self.bits << 6 | u32::from(value);
                    self.count += 6;
                    if self.count >= 8 {
                        self.count -= 8;
                        let [.., octet] = (self.bits >> self.count).to_be_bytes();
                        out.push(octet);
                    }
                }
                _ if !octet.is_ascii_whitespace() => {
                    self.is_odd = true;
                    self.has_ended = self.rule == Base64Rule::Ends;
                }
                _ => {}
            }
        }
    }
}

/// Decodes groups of four as long as there are; returns the rest.
fn whole_groups<'a>(mut encoded: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    while let Some((group, rest)) = encoded.split_first_chunk::<4>() {
        let [a, b, c, d] = group.map(sextet);
        if a | b | c | d >= 64 {
            break;
        }
        let bits = u32::from(a) << 18 | u32::from(b) << 12 | u32::from(c) << 6 | u32::from(d);
        let [_, octets @ ..] = bits.to_be_bytes();
        out.extend_from_slice(&octets);
        encoded = rest;
    }
    encoded
}

const PADDING: u8 = 64;

/// The value of an octet in base64, [`PADDING`], or more if it has none.
fn sextet(octet: u8) -> u8 {
    SEXTETS.get(usize::from(octet)).copied().unwrap_or(u8::MAX)
}

#[expect(clippy::indexing_slicing, reason = "an index out of range would not compile")]
static SEXTETS: [u8; 256] = {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut sextets = [u8::MAX; 256];
    let mut value = 0;
    while value < 64 {
        sextets[ALPHABET[value as usize] as usize] = value;
        value += 1;
    }
    sextets[b'=' as usize] = PADDING;
    sextets
};

/// What is wrong stays as it is.
fn quoted_printable(encoded: &[u8], is_last: bool, out: &mut Vec<u8>) -> Undecided {
    let mut rest = encoded;
    while let Some(at) = memchr::memchr(b'=', rest) {
        let (before, from) = rest.split_at(at);
        out.extend_from_slice(before);
        let after = from.get(1..).unwrap_or_default();
        if let Some((octet, tail)) = hexadecimal(after) {
            out.push(octet);
            rest = tail;
            continue;
        }
        // A soft line break, perhaps with blanks before the line end.
        let blanks = after.iter().take(MOST_BLANKS + 1);
        let blanks = blanks.take_while(|octet| matches!(octet, b' ' | b'\t')).count();
        match after.get(blanks..).unwrap_or_default() {
            _ if blanks > MOST_BLANKS => {}
            [b'\r', b'\n', tail @ ..] | [b'\n', tail @ ..] => {
                rest = tail;
                continue;
            }
            [] | [b'\r'] if !is_last => return from.to_vec(),
            [digit] if !is_last && blanks == 0 && digit.is_ascii_hexdigit() => {
                return from.to_vec();
            }
            _ => {}
        }
        out.push(b'=');
        rest = after;
    }
    out.extend_from_slice(rest);
    Undecided::new()
}

/// What is wrong stays as it is.
fn percent(encoded: &[u8], is_last: bool, out: &mut Vec<u8>) -> Undecided {
    let mut rest = encoded;
    while let Some(at) = memchr::memchr(b'%', rest) {
        let (before, from) = rest.split_at(at);
        out.extend_from_slice(before);
        let after = from.get(1..).unwrap_or_default();
        if let Some((octet, tail)) = hexadecimal(after) {
            out.push(octet);
            rest = tail;
            continue;
        }
        if !is_last && after.len() < 2 && after.iter().all(u8::is_ascii_hexdigit) {
            return from.to_vec();
        }
        out.push(b'%');
        rest = after;
    }
    out.extend_from_slice(rest);
    Undecided::new()
}

/// The octet that two hexadecimal digits stand for, and what is behind them.
fn hexadecimal(text: &[u8]) -> Option<(u8, &[u8])> {
    let (&[high, low], rest) = text.split_first_chunk()?;
    let digit = |octet: u8| char::from(octet).to_digit(16);
    let octet = u8::try_from(digit(high)? * 16 + digit(low)?).ok()?;
    Some((octet, rest))
}

/// The lines of a uuencoded file, from `begin` to `end`.
#[derive(Debug, Default)]
pub(super) struct Uuencode {
    /// The line that is not complete, cut.
    line: Vec<u8>,
    has_begun: bool,
    has_ended: bool,
}

impl Uuencode {
    fn feed(&mut self, mut piece: &[u8], is_last: bool, out: &mut Vec<u8>) {
        while !self.has_ended {
            let end = memchr::memchr(b'\n', piece);
            let (line, rest) = piece.split_at(end.unwrap_or(piece.len()));
            if self.line.is_empty() && end.is_some() {
                self.whole_line(line, out);
            } else {
                let room = (UUENCODED_LINE + 1).saturating_sub(self.line.len());
                self.line.extend_from_slice(line.get(..room).unwrap_or(line));
                if end.is_none() && !is_last {
                    return;
                }
                let line = std::mem::take(&mut self.line);
                self.whole_line(&line, out);
            }
            if end.is_none() {
                return;
            }
            piece = rest.get(1..).unwrap_or_default();
        }
    }

    fn whole_line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        self.has_ended = line == b"end";
        if !self.has_ended {
            uudecode(line.get(..UUENCODED_LINE).unwrap_or(line), out);
        }
    }
}

fn uudecode(line: &[u8], octets: &mut Vec<u8>) {
    let six = |octet: u8| octet.wrapping_sub(b' ') & 0x3f;
    let Some((&size, encoded)) = line.split_first() else { return };
    let end = octets.len() + usize::from(six(size));
    for group in encoded.chunks(4) {
        let mut sextets = [0u8; 4];
        for (sextet, octet) in sextets.iter_mut().zip(group) {
            *sextet = six(*octet);
        }
        let [a, b, c, d] = sextets;
        octets.extend([a << 2 | b >> 4, b << 4 | c >> 2, c << 6 | d]);
    }
    octets.truncate(end);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(mut codec: Codec, pieces: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            codec.feed(piece, index + 1 == pieces.len(), &mut out);
        }
        out
    }

    #[test]
    fn base64_is_read_like_clients_read_it() {
        let decode = |text: &[u8]| decode(Codec::Base64(Base64::default()), &[text]);
        assert_eq!(decode(b"aGVs\r\nbG8="), b"hello");
        assert_eq!(decode(b"aG*Vs\0bG8"), b"hello");
        assert_eq!(decode(b"aGk=aGk="), b"hihi");
    }

    #[test]
    fn odd_base64_has_three_readings() {
        let read = |rule, text: &[u8]| {
            let mut state = Base64::by(rule);
            let mut out = Vec::new();
            for octet in text {
                state.feed(&[*octet], &mut out);
            }
            (String::from_utf8_lossy(&out).into_owned(), state.is_odd)
        };
        use Base64Rule::{Ends, PassedOver, Tolerant};
        for rule in [Tolerant, Ends, PassedOver] {
            assert_eq!(read(rule, b"aGVs\r\nbG8=\r\n ==").0, "hello");
        }
        assert!(!read(Tolerant, b"aGVs\r\nbG8=\r\n ==").1);
        assert_eq!(read(Tolerant, b"aGk=aGkh"), ("hihi!".into(), true));
        assert_eq!(read(Ends, b"aGk=aGkh"), ("hi".into(), false));
        assert_eq!(read(PassedOver, b"aGk=aGkh").0.as_bytes()[..2], *b"hi");
        assert_eq!(read(PassedOver, b"aG=kh").0, "hi!");
        assert_eq!(read(Tolerant, b"aG*kh"), ("hi!".into(), true));
        assert_eq!(read(Ends, b"aGkh*aGkh").0, "hi!");
    }

    #[test]
    fn quoted_printable_keeps_what_is_wrong() {
        let decode = |text: &[u8]| decode(Codec::QuotedPrintable(Undecided::new()), &[text]);
        assert_eq!(decode(b"a=3Db= \r\nc=\nd=ZZ="), b"a=bcd=ZZ=");
        let blanks = |count| [b"a=", &vec![b' '; count][..], b"\nb"].concat();
        assert_eq!(decode(&blanks(MOST_BLANKS)), b"ab");
        assert_eq!(decode(&blanks(MOST_BLANKS + 1)), blanks(MOST_BLANKS + 1));
    }

    #[test]
    fn what_is_undecided_is_bounded() {
        let mut codec = Codec::QuotedPrintable(Undecided::new());
        let mut out = Vec::new();
        codec.feed(b"=", false, &mut out);
        for _ in 0..100 {
            codec.feed(&[b' '; 100], false, &mut out);
            let Codec::QuotedPrintable(undecided) = &codec else { panic!() };
            assert!(undecided.len() <= MOST_BLANKS + 2);
        }
        assert_eq!(out.len(), 1 + 10_000);
        let mut state = Uuencode::default();
        (0..100).for_each(|_| state.feed(&[b'x'; 100], false, &mut out));
        assert_eq!(state.line.len(), UUENCODED_LINE + 1);
    }

    proptest! {
        /// However octets are cut into pieces, they decode to the same.
        #[test]
        fn pieces_do_not_matter(
            text in proptest::collection::vec(prop_oneof![
                Just("="), Just("=3"), Just("D"), Just("%4"), Just("1"), Just(" "), Just("\r"),
                Just("\n"), Just("x"), Just("#86)C"), Just("end"), Just("aGVs"), Just("begin 644 a\n"),
            ], 0..30),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let text = text.concat().into_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            let codecs: [fn() -> Codec; 5] = [
                || Codec::Base64(Base64::default()),
                || Codec::QuotedPrintable(Undecided::new()),
                || Codec::Uuencode(Uuencode::default()),
                || Codec::Percent(Undecided::new()),
                || Codec::Base64InPercent(Undecided::new(), Base64::default()),
            ];
            for codec in codecs {
                prop_assert_eq!(decode(codec(), &pieces), decode(codec(), &[&text]), "{:?}", codec());
            }
        }
    }
}
