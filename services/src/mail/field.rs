//! Header fields (RFC 5322 section 2.2).

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use mail_parser::HeaderValue;
use mail_parser::parsers::MessageStream;

/// A header field: ranges of the message, and the octets there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The name.
    pub name: Range<usize>,
    /// What follows the colon, folds included, without the last line end.
    pub value: Range<usize>,
    /// All of it with its last line end: what one deletes.
    pub whole: Range<usize>,
    octets: Bytes,
}

impl Field {
    /// Whether the field has this name; case does not matter.
    pub fn is_named(&self, name: &str) -> bool {
        self.raw_name().eq_ignore_ascii_case(name.as_bytes())
    }

    /// The name as it stands there.
    pub fn raw_name(&self) -> &[u8] {
        self.octets.get(..self.name.len()).unwrap_or_default()
    }

    /// The value as it stands there.
    pub fn raw_value(&self) -> &[u8] {
        let start = self.value.start - self.whole.start;
        self.octets.get(start..start + self.value.len()).unwrap_or_default()
    }

    /// The value as people see it: unfolded, encoded words decoded (RFC 2047).
    pub fn text(&self) -> String {
        decode_words(self.raw_value())
    }
}

/// The most fields of one header section that are looked at. Worst case: 10,000 × 80 octets.
pub(super) const MOST_FIELDS: usize = 10_000;

/// The fields of a header section whose first octet has the offset `base`, up to the empty line that
/// ends it. Lines that are no fields belong to none.
pub(super) fn fields(octets: &Bytes, base: usize) -> Vec<Field> {
    fields_by(octets, base, LineEnd::LineFeed)
}

/// The same, if lines end otherwise.
pub(super) fn fields_by(octets: &Bytes, base: usize, line_end: LineEnd) -> Vec<Field> {
    let mut fields = field_ranges(octets, base, line_end);
    for field in &mut fields {
        field.octets = octets.slice(field.whole.start - base..field.whole.end - base);
    }
    fields
}

fn field_ranges(octets: &[u8], base: usize, line_end: LineEnd) -> Vec<Field> {
    let mut fields: Vec<Field> = Vec::new();
    let mut at = 0;
    // Whether a folded line would continue the last field.
    let mut open = false;
    while at < octets.len() {
        let rest = octets.get(at..).unwrap_or_default();
        let (line, length) = line_end.first_line(rest);
        let next = at + length;
        match line.first() {
            None => break,
            Some(b' ' | b'\t') => {
                if let Some(field) = fields.last_mut().filter(|_| open) {
                    field.value.end = base + at + line.len();
                    field.whole.end = base + next;
                }
            }
            Some(_) => {
                open = false;
                if let Some(name) = field_name(line).filter(|_| fields.len() < MOST_FIELDS) {
                    let colon = memchr::memchr(b':', line).unwrap_or(name);
                    open = true;
                    fields.push(Field {
                        name: base + at..base + at + name,
                        value: base + at + colon + 1..base + at + line.len(),
                        whole: base + at..base + next,
                        octets: Bytes::new(),
                    });
                }
            }
        }
        at = next;
    }
    fields
}

/// What ends a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineEnd {
    /// LF, with or without CR.
    LineFeed,
    /// Both, and nothing else (RFC 5322 section 2.3).
    Both,
    /// Either, and both.
    Either,
}

impl LineEnd {
    /// The first line without its end, and its octets with it.
    pub(super) fn first_line(self, octets: &[u8]) -> (&[u8], usize) {
        let end = match self {
            Self::LineFeed => memchr::memchr(b'\n', octets).map(|at| (at, 1)),
            Self::Both => memchr::memmem::find(octets, b"\r\n").map(|at| (at, 2)),
            Self::Either => memchr::memchr2(b'\r', b'\n', octets).map(|at| {
                let is_pair = octets.get(at..at + 2) == Some(b"\r\n");
                (at, 1 + usize::from(is_pair))
            }),
        };
        let (at, length) = end.unwrap_or((octets.len(), 0));
        let line = octets.get(..at).unwrap_or_default();
        match self {
            Self::LineFeed => (line.strip_suffix(b"\r").unwrap_or(line), at + length),
            Self::Both | Self::Either => (line, at + length),
        }
    }
}

/// Octets of the name at the start of a line, if it is a field's: printable, then perhaps blanks,
/// then a colon.
pub(crate) fn field_name(line: &[u8]) -> Option<usize> {
    let colon = memchr::memchr(b':', line)?;
    let name = line.get(..colon)?.trim_ascii_end();
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some(name.len())
}

/// A line without its end.
pub(crate) fn trim_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Whether an empty line ends a header section.
pub(crate) fn ends(header: &[u8]) -> bool {
    let lines = header.strip_suffix(b"\n").map(|rest| rest.strip_suffix(b"\r").unwrap_or(rest));
    lines.is_some_and(|lines| lines.is_empty() || lines.ends_with(b"\n"))
}

/// Removes the line ends of folds (RFC 5322 section 2.2.3).
pub fn unfold(value: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'\r', b'\n', value).is_none() {
        return Cow::Borrowed(value);
    }
    Cow::Owned(value.iter().copied().filter(|octet| !matches!(octet, b'\r' | b'\n')).collect())
}

/// Unfolds a value and decodes its encoded words (RFC 2047); octets that are no UTF-8 are replaced.
pub fn decode_words(value: &[u8]) -> String {
    let value = unfold(value);
    let value = value.trim_ascii();
    if memchr::memmem::find(value, b"=?").is_none() {
        return String::from_utf8_lossy(value).into_owned();
    }
    let line = [value, b"\n"].concat();
    match MessageStream::new(&line).parse_unstructured() {
        HeaderValue::Text(text) => text.into_owned(),
        _ => String::from_utf8_lossy(value).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Mail;

    #[test]
    fn fields_are_ranges_of_the_raw_octets() {
        let header = "Subject : a\r\n\tb\r\nno field\r\n folded\r\nX:\n\nbody: x\n";
        let header = Bytes::from_static(header.as_bytes());
        let found = fields(&header, 10);
        let raw = |range: &Range<usize>| &header[range.start - 10..range.end - 10];
        assert_eq!(found.len(), 2);
        assert_eq!(raw(&found[0].name), b"Subject");
        assert_eq!(raw(&found[0].value), b" a\r\n\tb");
        assert_eq!(found[0].raw_name(), b"Subject");
        assert_eq!(found[0].raw_value(), b" a\r\n\tb");
        assert_eq!(raw(&found[0].whole), b"Subject : a\r\n\tb\r\n");
        assert_eq!(raw(&found[1].whole), b"X:\n");
    }

    #[test]
    fn encoded_words_are_decoded() {
        let mail = Mail::new(
            Bytes::from_static(
                b"Subject: =?utf-8?Q?=C3=9Cber?=\r\n =?iso-8859-1?B?/A==?= x\r\n\r\n",
            ),
            Bytes::new(),
        );
        assert_eq!(mail.field("subject").unwrap().text(), "\u{dc}ber\u{fc} x");
    }
}
