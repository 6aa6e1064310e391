//! Transfer encodings (RFC 2045 section 6): their names, what stands in them, and lines that are too long.

use super::corrections::{Fix, View, name_of, set_field};
use super::folds::LONGEST_LINE;
use crate::mail::{
    Edit, Octets, Part, PartKind, SpoolError, Transfer, encode_base64, encode_quoted_printable,
};

const FIELD: &str = "Content-Transfer-Encoding";

/// Names that nobody knows; `7bit`, or no name, for what is beyond ASCII; and encodings of parts that hold others,
/// which can't be encoded (RFC 2045 section 6.4).
pub(super) fn labels(view: &View<'_>) -> Result<Vec<Fix>, SpoolError> {
    let parts = view.parts()?;
    let mut fixes = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let is_8bit = || is_8bit(&view.mail.octets(part.body.clone()));
        let identity = |is_8bit| if is_8bit { "8bit" } else { "7bit" };
        let name = match (&part.transfer, part.kind) {
            (Transfer::Unknown(name), _) => match known(name) {
                Some(name) => name,
                None => identity(is_8bit()?),
            },
            (Transfer::Identity, PartKind::Leaf) if !may_be_8bit(part) && is_8bit()? => "8bit",
            (
                Transfer::Base64 | Transfer::QuotedPrintable | Transfer::Uuencode,
                PartKind::Multipart,
            ) if parts.iter().any(|inner| inner.parent == Some(index)) => identity(is_8bit()?),
            _ => continue,
        };
        fixes.push(Fix::new(name_of(index), vec![set_field(view.mail, part, FIELD, name)]));
    }
    Ok(fixes)
}

/// A name with something behind it that does not belong there.
fn known(name: &str) -> Option<&'static str> {
    let word = name.split([';', '(', ' ', '\t', ',']).next().unwrap_or_default();
    ["7bit", "8bit", "binary", "base64", "quoted-printable"]
        .into_iter()
        .find(|known| *known == word)
}

fn may_be_8bit(part: &Part) -> bool {
    let field = part.fields.iter().find(|field| field.is_named(FIELD));
    field.is_some_and(|field| {
        let value = field.raw_value().trim_ascii();
        [&b"8bit"[..], b"binary"].iter().any(|name| value.eq_ignore_ascii_case(name))
    })
}

fn is_8bit(octets: &Octets) -> Result<bool, SpoolError> {
    for piece in octets.chunks() {
        if !piece?.is_ascii() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is no base64 (RFC 2045 section 6.8), as readers decode it that pass over what is wrong.
pub(super) fn base64(view: &View<'_>) -> Result<Vec<Fix>, SpoolError> {
    recoded(view, |part, body| Ok(part.transfer == Transfer::Base64 && !is_base64(body)?))
}

/// Whether these are groups of four characters, in lines.
fn is_base64(octets: &Octets) -> Result<bool, SpoolError> {
    let (mut characters, mut padding) = (0usize, 0usize);
    for piece in octets.chunks() {
        for octet in &piece? {
            match octet {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' if padding == 0 => {
                    characters += 1
                }
                b'=' if padding < 2 => padding += 1,
                b'\r' | b'\n' | b' ' | b'\t' => {}
                _ => return Ok(false),
            }
        }
    }
    Ok((characters + padding).is_multiple_of(4))
}

/// What is no quoted-printable (RFC 2045 section 6.7), as readers decode it that keep what is wrong.
pub(super) fn quoted_printable(view: &View<'_>) -> Result<Vec<Fix>, SpoolError> {
    recoded(view, |part, body| {
        Ok(part.transfer == Transfer::QuotedPrintable && !is_quoted_printable(body)?)
    })
}

/// Whether each `=` has two digits behind it, or ends its line, and no octet is beyond ASCII.
fn is_quoted_printable(octets: &Octets) -> Result<bool, SpoolError> {
    /// Behind what we are.
    #[derive(Clone, Copy)]
    enum Behind {
        Plain,
        Equals,
        Digit,
        Blanks,
    }
    let mut behind = Behind::Plain;
    for piece in octets.chunks() {
        for octet in &piece? {
            behind = match (behind, octet) {
                (Behind::Plain, b'=') => Behind::Equals,
                (Behind::Plain, b'\t' | b'\r' | b'\n' | b' '..=b'~') => Behind::Plain,
                (Behind::Equals, octet) if octet.is_ascii_hexdigit() => Behind::Digit,
                (Behind::Digit, octet) if octet.is_ascii_hexdigit() => Behind::Plain,
                (Behind::Equals | Behind::Blanks, b' ' | b'\t' | b'\r') => Behind::Blanks,
                (Behind::Equals | Behind::Blanks, b'\n') => Behind::Plain,
                _ => return Ok(false),
            };
        }
    }
    Ok(!matches!(behind, Behind::Digit))
}

/// Lines beyond 998 octets (RFC 5322 section 2.1.1): text becomes quoted-printable, all else base64, and what is
/// encoded is encoded anew.
pub(super) fn long_lines(view: &View<'_>) -> Result<Vec<Fix>, SpoolError> {
    if view.is_binary() {
        return Ok(Vec::new());
    }
    recoded(view, |_, body| has_long_line(body))
}

fn has_long_line(octets: &Octets) -> Result<bool, SpoolError> {
    // Octets of the line so far, and whether the last one of them may belong to its end.
    let (mut length, mut ends_with_cr) = (0, false);
    for piece in octets.chunks() {
        for stretch in piece?.split_inclusive(|octet| *octet == b'\n') {
            let line = stretch.strip_suffix(b"\n").unwrap_or(stretch);
            length += line.len();
            ends_with_cr = line.last().map_or(ends_with_cr, |last| *last == b'\r');
            if length - usize::from(ends_with_cr) > LONGEST_LINE {
                return Ok(true);
            }
            if line.len() < stretch.len() {
                (length, ends_with_cr) = (0, false);
            }
        }
    }
    Ok(false)
}

/// Encodes anew what `is_wrong`.
fn recoded(
    view: &View<'_>,
    is_wrong: impl Fn(&Part, &Octets) -> Result<bool, SpoolError>,
) -> Result<Vec<Fix>, SpoolError> {
    let mut fixes = Vec::new();
    for (index, part) in view.parts()?.iter().enumerate() {
        // Messages can't be encoded (RFC 2046 section 5.2).
        let can_be_encoded = part.kind == PartKind::Leaf
            && !part.content_type.essence.starts_with("multipart/")
            && !part.content_type.essence.starts_with("message/");
        let body = view.mail.octets(part.body.clone());
        if part.kind != PartKind::Leaf || !is_wrong(part, &body)? {
            continue;
        }
        let is_readable = !matches!(part.transfer, Transfer::Uuencode | Transfer::Unknown(_));
        fixes.push(match can_be_encoded && is_readable && view.takes(part.body.len()) {
            true => encoded(view, index, part)?,
            false => Fix::none(name_of(index)),
        });
    }
    Ok(fixes)
}

/// A part in the encoding that it has, if it has one, and that suits it.
fn encoded(view: &View<'_>, index: usize, part: &Part) -> Result<Fix, SpoolError> {
    let end = view.mail.line_ending();
    let octets = view.mail.decoded(part, usize::MAX)?.octets;
    let is_text = part.content_type.is_text();
    let (name, mut body) = match (&part.transfer, is_text) {
        (Transfer::QuotedPrintable | Transfer::Identity, true) => {
            ("quoted-printable", encode_quoted_printable(&octets, end))
        }
        _ => ("base64", encode_base64(&octets).replace("\r\n", end)),
    };
    if part.parent.is_none() && !body.ends_with('\n') {
        // The last line of a message has an end, which in quoted-printable belongs to no line.
        body.push_str(if name == "base64" { end } else { "" });
    }
    let mut edits = vec![Edit { range: part.body.clone(), insert: body.into() }];
    let is_named = match part.transfer {
        Transfer::Base64 => name == "base64",
        Transfer::QuotedPrintable => name == "quoted-printable",
        _ => false,
    };
    if !is_named {
        edits.insert(0, set_field(view.mail, part, FIELD, name));
    }
    Ok(Fix::new(name_of(index), edits))
}
