//! Adds to the text of one part, in its charset and its encoding.

use std::ops::Range;

use bytes::Bytes;
use encoding_rs::Encoding;

use super::html::{body_end, body_start};
use super::{Added, Place};
use crate::mail::{
    Edit, Mail, Part, SpoolError, Transfer, decode_base64, encode_base64, encode_quoted_printable,
    ends, unfold,
};

/// The longest part that something is added to, encoded. Worst case a message: that, and what it decodes to.
const LONGEST_PART: usize = 1024 * 1024;

/// The edit that adds it; `None` if the part can't hold it: its charset or encoding has no octets for it, it
/// is too long, or its header section has no end.
pub(super) fn insertion(
    mail: &Mail,
    part: &Part,
    added: &Added,
) -> Result<Option<Edit>, SpoolError> {
    let header = mail.octets(part.header.clone()).read(0..part.header.len())?;
    if part.body.len() > LONGEST_PART || !ends(&header) {
        return Ok(None);
    }
    let body = mail.octets(part.body.clone()).read(0..part.body.len())?;
    let end = mail.line_ending();
    let text = Text { part, added, end };
    let found = match part.transfer {
        Transfer::Identity => text.plain(&body),
        Transfer::QuotedPrintable => text.quoted(&body),
        Transfer::Base64 => text.base64(&body),
        Transfer::Uuencode | Transfer::Unknown(_) => None,
    };
    Ok(found.map(|Edit { range, insert }| {
        let range = part.body.start + range.start..part.body.start + range.end;
        Edit { range, insert }
    }))
}

/// A text that something is added to.
struct Text<'a> {
    part: &'a Part,
    added: &'a Added,
    /// The message's line end.
    end: &'static str,
}

impl Text<'_> {
    fn is_html(&self) -> bool {
        self.part.content_type.essence == "text/html"
    }

    /// Not encoded: in the lines as they are.
    fn plain(&self, body: &[u8]) -> Option<Edit> {
        let (at, octets) = self.wanted(body)?;
        (octets.is_ascii() || self.is_8bit()).then(|| insert(at, octets))
    }

    /// In quoted-printable, offsets are those of the encoded text: what is looked for in it is ASCII, and a
    /// tag that is broken in two is not found.
    fn quoted(&self, body: &[u8]) -> Option<Edit> {
        let (at, octets) = self.wanted(body)?;
        let encoded = encode_quoted_printable(&octets, self.end);
        let soft = format!("={}", self.end);
        let before = body.get(..at).unwrap_or_default();
        let encoded = if self.is_html() {
            // Lines that go on keep theirs short, and mean nothing.
            format!("{soft}{encoded}{soft}")
        } else if before.trim_ascii_end().ends_with(b"=") {
            // The first line end ends the line that was to go on.
            format!("{}{encoded}", self.end)
        } else {
            encoded
        };
        Some(insert(at, encoded.into_bytes()))
    }

    /// In base64, in groups of three octets: what is added has as many, filled up with blanks, unless nothing
    /// follows it.
    fn base64(&self, body: &[u8]) -> Option<Edit> {
        let groups = Groups::of(body)?;
        let decoded = decode_base64(body, usize::MAX);
        let (at, mut octets) = self.wanted(&decoded)?;
        let group = at / 3 * 3;
        let is_last = group + 3 >= decoded.len();
        while !is_last && octets.len() % 3 != 0 {
            octets.push(b' ');
        }
        // What shares a group with it is encoded anew.
        let until = if at == group && !is_last { group } else { (group + 3).min(decoded.len()) };
        let (front, back) = (decoded.get(group..at)?, decoded.get(at..until)?);
        let encoded = encode_base64(&[front, &octets, back].concat()).replace("\r\n", self.end);
        let range = groups.range(group..until, decoded.len());
        let is_at_line_start = body.get(..range.start)?.last().is_none_or(|octet| *octet == b'\n');
        let first = if is_at_line_start { "" } else { self.end };
        let behind = body.get(range.end..)?;
        let last = if behind.is_empty() || behind.starts_with(self.end.as_bytes()) {
            ""
        } else {
            self.end
        };
        Some(Edit { range, insert: format!("{first}{encoded}{last}").into() })
    }

    /// Where something is added to a decoded text, and its octets there.
    fn wanted(&self, text: &[u8]) -> Option<(usize, Vec<u8>)> {
        let Self { added, end, .. } = *self;
        if self.is_html() {
            let at = match added.place {
                Place::End => body_end(text),
                Place::Top => body_start(text),
            };
            // Its charset must not read ASCII as something else.
            self.charset()
                .is_none_or(|charset| charset.is_some_and(Encoding::is_ascii_compatible))
                .then_some(())?;
            let html = added.html.replace('\n', end);
            return Some((at, format!("{end}{html}{end}").into_bytes()));
        }
        let octets = self.encoded(&self.lines())?;
        let (end, two) = (end.as_bytes(), end.repeat(2));
        Some(match added.place {
            Place::Top if text.is_empty() => (0, [&octets, end].concat()),
            Place::Top => (0, [&octets, two.as_bytes()].concat()),
            Place::End => {
                let has_line_end = text.ends_with(b"\n");
                let before = match (text.is_empty(), has_line_end) {
                    (true, _) => b"",
                    (_, true) => end,
                    (_, false) => two.as_bytes(),
                };
                let behind = if has_line_end || self.part.parent.is_none() { end } else { b"" };
                (text.len(), [before, &octets, behind].concat())
            }
        })
    }

    /// The lines that are added to plain text; where lines may flow (RFC 3676), none of them does.
    fn lines(&self) -> String {
        let format = self.part.content_type.parameter("format");
        let flowed = format.is_some_and(|format| format.eq_ignore_ascii_case("flowed"));
        let line = |line: &str| {
            if !flowed || line == "-- " {
                return line.to_owned();
            }
            let is_stuffed = [" ", ">", "From "].iter().any(|start| line.starts_with(start));
            format!("{}{}", if is_stuffed { " " } else { "" }, line.trim_end())
        };
        self.added.text.lines().map(line).collect::<Vec<_>>().join(self.end)
    }

    /// A text in the part's charset.
    fn encoded(&self, text: &str) -> Option<Vec<u8>> {
        let charset = match self.charset() {
            None => return text.is_ascii().then(|| text.as_bytes().to_vec()),
            Some(known) => known?,
        };
        let (octets, used, lacks) = charset.encode(text);
        (!lacks && used == charset).then(|| octets.into_owned())
    }

    /// Its charset: `None` for ASCII, `Some(None)` for one that is not known.
    fn charset(&self) -> Option<Option<&'static Encoding>> {
        let label = self.part.content_type.parameter("charset")?.trim();
        let is_ascii = ["us-ascii", "ascii"].iter().any(|name| label.eq_ignore_ascii_case(name));
        (!is_ascii).then(|| Encoding::for_label(label.as_bytes()))
    }

    /// Whether it says that octets beyond ASCII may come.
    fn is_8bit(&self) -> bool {
        let mut fields = self.part.fields.iter();
        let field = fields.find(|field| field.is_named("Content-Transfer-Encoding"));
        field.is_some_and(|field| {
            let value = unfold(field.raw_value());
            let value = value.trim_ascii();
            [&b"8bit"[..], b"binary"].iter().any(|name| value.eq_ignore_ascii_case(name))
        })
    }
}

fn insert(at: usize, octets: Vec<u8>) -> Edit {
    Edit { range: at..at, insert: Bytes::from(octets) }
}

/// Where the characters of base64 stand.
struct Groups {
    /// Offsets of those that count, and behind the last one, padding included.
    characters: Vec<u32>,
}

impl Groups {
    /// `None` if readers may disagree on what it says: other characters, padding before the end, no whole
    /// groups.
    fn of(body: &[u8]) -> Option<Self> {
        let mut characters = Vec::with_capacity(body.len() + 1);
        let (mut padding, mut end) = (0, 0);
        for (at, &octet) in body.iter().enumerate() {
            match octet {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' if padding == 0 => {
                    characters.push(u32::try_from(at).ok()?);
                }
                b'=' if padding < 2 => padding += 1,
                b'\r' | b'\n' => continue,
                _ => return None,
            }
            end = at + 1;
        }
        let whole = (characters.len() + padding).is_multiple_of(4);
        characters.push(u32::try_from(end).ok()?);
        whole.then_some(Self { characters })
    }

    /// The characters of these decoded octets, which begin with a group and end with one, or with all of them.
    fn range(&self, decoded: Range<usize>, all: usize) -> Range<usize> {
        let last = self.characters.last().copied().unwrap_or_default();
        let at =
            |character: usize| self.characters.get(character).copied().unwrap_or(last) as usize;
        let start = at(decoded.start / 3 * 4);
        let end = if decoded.end == all { last as usize } else { at(decoded.end / 3 * 4) };
        start..if decoded.is_empty() { start } else { end }
    }
}
