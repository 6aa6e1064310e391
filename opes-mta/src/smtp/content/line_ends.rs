//! CR and LF that make no line end together.

/// A CR without LF behind it, or an LF without CR in front of it. RFC 5321 section 2.3.8 forbids both: an
/// MTA that takes them for line ends finds another end of the content than we do (SMTP smuggling).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("octet {at} of the content: {} without {}", name(*octet), name(if *octet == b'\r' { b'\n' } else { b'\r' }))]
pub struct Bare {
    /// Octets of the content before it.
    pub at: u64,
    /// CR or LF.
    pub octet: u8,
}

fn name(octet: u8) -> &'static str {
    if octet == b'\r' { "CR" } else { "LF" }
}

/// Looks at content in pieces, and finds the first bare CR or LF.
#[derive(Debug, Default)]
pub struct LineEnds {
    octets: u64,
    /// The last octet was CR.
    is_behind_cr: bool,
    /// The last octet was LF.
    is_behind_line: bool,
    first: Option<Bare>,
}

impl LineEnds {
    /// Looks at the next piece.
    pub fn look(&mut self, piece: &[u8]) {
        if self.first.is_none() {
            self.first = self.find(piece);
        }
        if let Some(last) = piece.last() {
            self.is_behind_cr = *last == b'\r';
            self.is_behind_line = *last == b'\n';
        }
        self.octets += u64::try_from(piece.len()).unwrap_or_default();
    }

    fn find(&self, piece: &[u8]) -> Option<Bare> {
        if are_paired(self.is_behind_cr, piece) {
            return None;
        }
        if self.is_behind_cr && piece.first().is_some_and(|first| *first != b'\n') {
            return Some(Bare { at: self.octets - 1, octet: b'\r' });
        }
        let is_bare = |place: usize| match (piece.get(..place), piece.get(place..)) {
            (Some([]), Some([b'\n', ..])) => !self.is_behind_cr,
            (Some(before), Some([b'\n', ..])) => !before.ends_with(b"\r"),
            // One at the end of the piece is told by the next one.
            (_, Some([b'\r', next, ..])) => *next != b'\n',
            _ => false,
        };
        let place = memchr::memchr2_iter(b'\r', b'\n', piece).find(|place| is_bare(*place))?;
        let at = self.octets + u64::try_from(place).unwrap_or_default();
        Some(Bare { at, octet: *piece.get(place)? })
    }

    /// The content has ended.
    pub fn end(&mut self) {
        if self.is_behind_cr && self.first.is_none() {
            self.first = Some(Bare { at: self.octets - 1, octet: b'\r' });
        }
        self.is_behind_cr = false;
    }

    /// Whether there is none, and the last line has its end.
    pub fn are_whole(&self) -> bool {
        self.first.is_none() && self.is_behind_line
    }

    /// The first one that was seen.
    pub fn bare(&self) -> Option<Bare> {
        self.first
    }

    /// Octets that were looked at.
    pub fn octets(&self) -> u64 {
        self.octets
    }
}

/// Whether each LF has a CR in front of it, and each CR an LF behind it; of one at the end of the piece the next one tells.
/// `is_behind_cr` says whether one stands before it.
pub(super) fn are_paired(is_behind_cr: bool, piece: &[u8]) -> bool {
    let Some((first, behind)) = piece.split_first() else { return true };
    let is_odd = |before: bool, octet: u8| before != (octet == b'\n');
    let pairs = piece.iter().zip(behind);
    // To the end whatever it finds: then it looks at many octets at a time.
    let odd = pairs.fold(false, |odd, (before, octet)| odd | is_odd(*before == b'\r', *octet));
    !odd && !is_odd(is_behind_cr, *first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn look(octets: &[u8], piece: usize) -> Option<Bare> {
        let mut line_ends = LineEnds::default();
        octets.chunks(piece).for_each(|piece| line_ends.look(piece));
        line_ends.end();
        assert_eq!(line_ends.octets(), octets.len() as u64);
        line_ends.bare()
    }

    /// Octet by octet, as the definition has it.
    fn expected(octets: &[u8]) -> Option<Bare> {
        octets.iter().enumerate().find_map(|(at, octet)| {
            let is_bare = match octet {
                b'\r' => octets.get(at + 1) != Some(&b'\n'),
                b'\n' => at == 0 || octets[at - 1] != b'\r',
                _ => false,
            };
            is_bare.then_some(Bare { at: at as u64, octet: *octet })
        })
    }

    #[test]
    fn the_text_says_what_stands_where() {
        let text = |octets| look(octets, 2).unwrap().to_string();
        assert_eq!(text(b"a\r\nb\r"), "octet 4 of the content: CR without LF");
        assert_eq!(text(b"a\nb"), "octet 1 of the content: LF without CR");
        assert_eq!(look(b"a\r\n\r\nb\r\n", 1), None);
    }

    proptest! {
        #[test]
        fn the_first_one_is_found(
            octets in proptest::collection::vec(prop::sample::select(&b"ab\r\n\r\n"[..]), 0..40),
            many in 0_usize..20,
            piece in 1_usize..50,
        ) {
            let octets = [b"a\r\n".repeat(many), octets].concat();
            prop_assert_eq!(look(&octets, piece), expected(&octets));
            let mut line_ends = LineEnds::default();
            octets.chunks(piece).for_each(|piece| line_ends.look(piece));
            let are_whole = expected(&octets).is_none() && octets.ends_with(b"\r\n");
            prop_assert_eq!(line_ends.are_whole(), are_whole);
        }
    }
}
