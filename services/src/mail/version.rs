//! Versions of a message: each service sees what the ones before it made.

use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use bytes::Bytes;

use super::edit::{EditError, Edits};
use super::field::Field;
use super::octets::{Octets, SpoolError};
use super::readings::{self, OtherPart, OtherParts};
use super::splice::{joined, splice};
use super::structure::{self, Part, Structure};

/// A stretch of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// These octets of the original message.
    Keep(Range<usize>),
    /// New octets; never empty.
    Insert(Bytes),
}

impl Segment {
    /// Octets in it.
    pub fn len(&self) -> usize {
        match self {
            Self::Keep(range) => range.len(),
            Self::Insert(octets) => octets.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Self::Keep(kept) => Self::Keep(kept.start + range.start..kept.start + range.end),
            Self::Insert(octets) => Self::Insert(octets.slice(range)),
        }
    }
}

/// One version of a message, as stretches of the original and insertions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The header section with the empty line that ends it.
    pub header: Vec<Segment>,
    /// The rest.
    pub body: Vec<Segment>,
    original: Range<usize>,
}

impl Version {
    fn original(header: usize, body: usize) -> Self {
        let keep = |range: Range<usize>| {
            if range.is_empty() { Vec::new() } else { vec![Segment::Keep(range)] }
        };
        Self {
            header: keep(0..header),
            body: keep(header..header + body),
            original: header..header + body,
        }
    }

    /// Whether nothing was changed.
    pub fn is_original(&self) -> bool {
        *self == Self::original(self.original.start, self.original.len())
    }
}

/// A version of a message, with its octets and a view of them that is made when it is asked for.
///
/// Only the front of the message may be here: see [`is_cut`](Self::is_cut).
pub struct Mail {
    version: Version,
    header: Bytes,
    body: Octets,
    rest: Rest,
    fields: OnceLock<Vec<Field>>,
    structure: OnceLock<Result<Structure, SpoolError>>,
    others: OnceLock<Result<OtherParts, SpoolError>>,
}

/// What is behind the octets of a message that are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Nothing: they are all.
    Nothing,
    /// Octets that nobody asked for; how many, if that was announced.
    Left(Option<usize>),
}

/// Why the view of a message that is cut is no view of all of it.
const CUT: &str = "only the front of the body is here";

impl Mail {
    /// A message as it came: the header section with the empty line that ends it, and the rest.
    pub fn new(header: Bytes, body: impl Into<Octets>) -> Self {
        let body = body.into();
        Self::of(Version::original(header.len(), body.len()), header, body, Rest::Nothing)
    }

    /// The front of a message: its header section, and as much of the body as services need.
    /// `announced` is how many octets the whole body has, if the processor said so.
    pub fn front(header: Bytes, body: impl Into<Octets>, announced: Option<usize>) -> Self {
        let body = body.into();
        let rest = Rest::Left(announced.and_then(|size| size.checked_sub(body.len())));
        Self::of(Version::original(header.len(), body.len()), header, body, rest)
    }

    fn of(version: Version, header: Bytes, body: Octets, rest: Rest) -> Self {
        let (fields, structure, others) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self { version, header, body, rest, fields, structure, others }
    }

    /// The next version. Header or body are shared if they have no edit; of a body in a file nothing
    /// is copied in any case.
    ///
    /// # Errors
    /// If an edit is out of range, overlaps another one, or goes over the end of the header section.
    pub fn edited(&self, edits: &Edits) -> Result<Self, EditError> {
        let (header_edits, body_edits) = edits.split(self.header.len(), self.len())?;
        let start = self.header.len();
        let header = Octets::from(self.header.clone());
        let (header_segments, header) = splice(&self.version.header, &header, 0, &header_edits);
        let (body_segments, body) = splice(&self.version.body, &self.body, start, &body_edits);
        let header = header.in_memory().cloned().unwrap_or_default();
        let original = self.version.original.clone();
        let version = Version { header: header_segments, body: body_segments, original };
        Ok(Self::of(version, header, body, self.rest))
    }

    /// This version over the original.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The header section with the empty line that ends it.
    pub fn header(&self) -> &Bytes {
        &self.header
    }

    /// The rest, as far as it is here.
    pub fn body(&self) -> &Octets {
        &self.body
    }

    /// Whether the processor keeps the end of the body to itself, since no service of the group
    /// declared a need of it ([`Content`](crate::Content)): what is here is judged and changed, what
    /// is not stays as it is.
    pub fn is_cut(&self) -> bool {
        self.rest != Rest::Nothing
    }

    /// Octets of the whole message in this version, with those that are not here; `None` if it is
    /// cut and the processor did not say how long it is.
    pub fn whole_len(&self) -> Option<usize> {
        match self.rest {
            Rest::Nothing => Some(self.len()),
            Rest::Left(rest) => rest.and_then(|rest| rest.checked_add(self.len())),
        }
    }

    /// Octets that are here, in all.
    pub fn len(&self) -> usize {
        self.header.len() + self.body.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The line end of the header section's first line; CRLF if there is none. Stored mail often
    /// has bare LF, and what is inserted should not mix the two.
    pub fn line_ending(&self) -> &'static str {
        let first = memchr::memchr(b'\n', &self.header);
        match first.map(|at| self.header.get(at.wrapping_sub(1))) {
            Some(before) if before != Some(&b'\r') => "\n",
            _ => "\r\n",
        }
    }

    /// Octets of this version. What is out of range is left out.
    pub fn octets(&self, range: Range<usize>) -> Octets {
        let header = self.header.len();
        match range.start.checked_sub(header) {
            Some(start) => self.body.slice(start..range.end.saturating_sub(header)),
            None if range.end <= header => Octets::from(self.header.clone()).slice(range),
            None => {
                let body = self.body.slice(0..range.end - header);
                Octets::concat([Octets::from(self.header.slice(range.start..)), body])
            }
        }
    }

    /// Header section and body, as far as they are here.
    pub fn whole(&self) -> Octets {
        let pieces = [self.header.clone().into(), self.body.clone()];
        if self.body.in_memory().is_some() { joined(&pieces) } else { Octets::concat(pieces) }
    }

    /// The fields of the header section, in order.
    pub fn fields(&self) -> &[Field] {
        self.fields.get_or_init(|| super::field::fields(&self.header, 0))
    }

    /// The fields of this name.
    pub fn fields_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Field> {
        self.fields().iter().filter(move |field| field.is_named(name))
    }

    /// The first field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields().iter().find(|field| field.is_named(name))
    }

    /// The parts, outer before inner; the first is the message itself. Looks through the whole
    /// message when it is called first, so that belongs into [`compute`](crate::compute).
    ///
    /// # Errors
    /// If the body can't be read.
    pub fn parts(&self) -> Result<&[Part], SpoolError> {
        Ok(&self.structure()?.parts)
    }

    /// Which bound cut the view short, if one did, or that the message [is cut](Self::is_cut): there
    /// is more in it than [`parts`](Self::parts) shows, and nobody should call it clean.
    ///
    /// # Errors
    /// If the body can't be read.
    pub fn is_truncated(&self) -> Result<Option<&'static str>, SpoolError> {
        Ok(if self.is_cut() { Some(CUT) } else { self.structure()?.truncated })
    }

    /// What only some clients see, mostly since the message breaks the rules of MIME, and text outside of all parts. Who
    /// calls a message clean has to look at that too. Looks through the whole message when it is called first, as
    /// [`parts`](Self::parts).
    ///
    /// # Errors
    /// If the body can't be read.
    pub fn other_parts(&self) -> Result<&[OtherPart], SpoolError> {
        Ok(&self.others()?.parts)
    }

    /// Which bound cut [`other_parts`](Self::other_parts) short, if one did: nobody should call such a message clean.
    ///
    /// # Errors
    /// If the body can't be read.
    pub fn others_are_truncated(&self) -> Result<Option<&'static str>, SpoolError> {
        Ok(self.others()?.truncated)
    }

    fn others(&self) -> Result<&OtherParts, SpoolError> {
        let structure = self.structure()?;
        let searched = self.others.get_or_init(|| Ok(readings::search(self, structure)?));
        searched.as_ref().map_err(SpoolError::clone)
    }

    fn structure(&self) -> Result<&Structure, SpoolError> {
        let scanned = self.structure.get_or_init(|| Ok(structure::scan(self)?));
        scanned.as_ref().map_err(SpoolError::clone)
    }
}

impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = if self.is_cut() { ", cut" } else { "" };
        write!(f, "Mail({} + {} octets{cut})", self.header.len(), self.body.len())
    }
}

/// Octets of the header section at the start of a message, with the empty line that ends it: all
/// octets if there is no such line.
pub fn header_length(message: &[u8]) -> usize {
    header_end(message).unwrap_or(message.len())
}

/// Octets up to and with the first empty line.
pub(super) fn header_end(message: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(end) = memchr::memchr(b'\n', message.get(at..).unwrap_or_default()) {
        let line = message.get(at..at + end).unwrap_or_default();
        at += end + 1;
        if line.is_empty() || line == b"\r" {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn octets(version: &[Segment], original: &[u8]) -> Vec<u8> {
        let pieces = version.iter().map(|segment| match segment {
            Segment::Keep(range) => &original[range.clone()],
            Segment::Insert(octets) => octets,
        });
        pieces.collect::<Vec<_>>().concat()
    }

    #[test]
    fn an_unchanged_body_is_shared() {
        let body = Bytes::from(vec![b'x'; 1000]);
        let mail = Mail::new("A: b\r\n\r\n".into(), body.clone());
        let mut edits = Edits::new();
        edits.insert(0, "X: 1\r\n".into());
        let next = mail.edited(&edits).unwrap();
        assert_eq!(next.body().in_memory().unwrap().as_ptr(), body.as_ptr());
        assert_eq!(next.version().header.len(), 2);
        assert!(mail.version().is_original() && !next.version().is_original());
        let mut back = Edits::new();
        back.delete(0..6);
        assert!(next.edited(&back).unwrap().version().is_original());
    }

    #[test]
    fn a_message_that_is_cut_says_so_in_every_version() {
        let mut edits = Edits::new();
        edits.insert(0, "X: 1\r\n".into());
        for (announced, whole) in [(Some(1_000), Some(1_014)), (Some(3), None), (None, None)] {
            let mail = Mail::front("A: b\r\n\r\n".into(), "body", announced);
            let edited = mail.edited(&edits).unwrap();
            assert!(mail.is_cut() && edited.is_cut());
            assert_eq!(edited.is_truncated().unwrap(), Some("only the front of the body is here"));
            assert_eq!((edited.len(), edited.whole_len()), (18, whole));
        }
        let mail = Mail::new("A: b\r\n\r\n".into(), "body");
        assert_eq!((mail.is_cut(), mail.is_truncated().unwrap()), (false, None));
        assert_eq!(mail.whole_len(), Some(12));
    }

    #[test]
    fn the_header_ends_at_the_first_empty_line() {
        assert_eq!(header_length(b"A: b\r\n\r\nbody\n\n"), 8);
        assert_eq!(header_length(b"A: b\n\nbody"), 6);
        assert_eq!(header_length(b"\nbody"), 1);
        assert_eq!(header_length(b"A: b\r\nno end"), 12);
    }

    proptest! {
        /// Any edits, one version after the other, give what naive editing gives, wherever the body
        /// is.
        #[test]
        fn versions_compose(
            header in proptest::collection::vec(any::<u8>(), 0..30),
            body in proptest::collection::vec(any::<u8>(), 0..30),
            window in proptest::option::of(1usize..9),
            rounds in proptest::collection::vec(
                proptest::collection::vec((any::<u16>(), 0usize..6, 0usize..4), 0..4), 0..4),
        ) {
            let original = [&header[..], &body[..]].concat();
            let body = Octets::from(body);
            let body = window.map_or(body.clone(), |window| body.in_windows(window));
            let mut mail = Mail::new(header.into(), body);
            for round in rounds {
                let mut edits = Edits::new();
                let whole = |mail: &Mail| {
                    [mail.header().clone(), mail.body().read(0..mail.len()).unwrap()].concat()
                };
                let mut naive = whole(&mail);
                let mut sorted: Vec<_> = round
                    .iter()
                    .map(|&(at, size, new)| (usize::from(at) % (mail.len() + 1), size, new))
                    .collect();
                sorted.sort_unstable();
                for &(at, size, new) in &sorted {
                    edits.replace(at..at + size, Bytes::from(vec![b'+'; new]));
                }
                let Ok(next) = mail.edited(&edits) else { continue };
                for &(at, size, new) in sorted.iter().rev() {
                    naive.splice(at..at + size, vec![b'+'; new]);
                }
                prop_assert_eq!(&whole(&next), &naive);
                prop_assert_eq!(&octets(&next.version().header, &original), next.header());
                let body = next.body().read(0..next.len()).unwrap();
                prop_assert_eq!(&octets(&next.version().body, &original), &body);
                mail = next;
            }
        }
    }
}
