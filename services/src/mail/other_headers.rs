//! Where a header section ends for some clients, and which fields they see.

use std::io;

use bytes::Bytes;

use super::field::{Field, LineEnd, field_name, fields, fields_by};

/// A header section as some clients read it.
pub(super) struct OtherHeader {
    /// Octets of it, with what ends it.
    pub(super) length: usize,
    pub(super) fields: Vec<Field>,
    /// What is odd about it.
    pub(super) oddity: &'static str,
}

/// How else the header section at the start of a part or message can be read. `header` is what it is for us, `base` the
/// offset of its first octet. `longer` reads more of the octets at its start, unless all lines of the message end alike.
///
/// # Errors
/// If `longer` fails.
pub(super) fn other_headers(
    header: &Bytes,
    base: usize,
    longer: impl FnOnce() -> io::Result<Option<Bytes>>,
) -> io::Result<Vec<OtherHeader>> {
    let mut others = Vec::new();
    let mut push = |octets: &Bytes, length: usize, line_end, oddity| {
        let fields = fields_by(&octets.slice(..length), base, line_end);
        others.push(OtherHeader { length, fields, oddity });
    };
    let (bare_cr, bare_lf) = bare_ends(header);
    if bare_cr {
        let length = length(header, LineEnd::Either).unwrap_or(header.len());
        push(header, length, LineEnd::Either, "a bare CR in a header section");
    }
    if bare_lf
        && let Some(octets) = longer()?
        && let Some(length) = length(&octets, LineEnd::Both)
    {
        push(&octets, length, LineEnd::Both, "a bare LF in a header section");
    }
    for (length, oddity) in early_ends(header) {
        let fields = fields(&header.slice(..length), base);
        others.push(OtherHeader { length, fields, oddity });
    }
    Ok(others)
}

/// Whether there are a CR without LF and an LF without CR.
fn bare_ends(octets: &[u8]) -> (bool, bool) {
    let is = |at: Option<usize>, octet| at.and_then(|at| octets.get(at)) == Some(&octet);
    let (mut bare_cr, mut bare_lf) = (false, false);
    for at in memchr::memchr2_iter(b'\r', b'\n', octets) {
        match is(Some(at), b'\r') {
            true => bare_cr |= !is(Some(at + 1), b'\n'),
            false => bare_lf |= !is(at.checked_sub(1), b'\r'),
        }
    }
    (bare_cr, bare_lf)
}

/// Octets up to and with the first empty line.
fn length(octets: &[u8], line_end: LineEnd) -> Option<usize> {
    let mut at = 0;
    while at < octets.len() {
        let (line, length) = line_end.first_line(octets.get(at..).unwrap_or_default());
        at += length;
        if line.is_empty() {
            return Some(at);
        }
    }
    None
}

/// A line that is no field, and a line of blanks: the first of each ends the header section for some clients.
fn early_ends(header: &[u8]) -> Vec<(usize, &'static str)> {
    let mut found: Vec<(usize, &'static str)> = Vec::new();
    let mut at = 0;
    while at < header.len() && found.len() < 2 {
        let rest = header.get(at..).unwrap_or_default();
        let (line, length) = LineEnd::LineFeed.first_line(rest);
        let end = match line.first() {
            None => break,
            Some(b' ' | b'\t') if line.trim_ascii().is_empty() => {
                Some((at + length, "a line of blanks in a header section"))
            }
            Some(b' ' | b'\t') => None,
            Some(_) if field_name(line).is_some() => None,
            // As mailboxes and relays leave it there.
            Some(_) if line.starts_with(b"From ") || line.starts_with(b">From ") => None,
            Some(_) => Some((at, "a line that is no field in a header section")),
        };
        if let Some((end, oddity)) = end
            && !found.iter().any(|(_, known)| *known == oddity)
        {
            found.push((end, oddity));
        }
        at += length;
    }
    found
}
