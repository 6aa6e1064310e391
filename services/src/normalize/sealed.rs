//! What is signed or encrypted: octets that others vouch for.

use std::ops::Range;

use crate::mail::{Mail, Part, PartKind, SpoolError};

/// Decoded octets of a text that are looked through for a signature of OpenPGP.
const LOOKED_THROUGH: usize = 64 * 1024;

/// Types whose octets are signed or encrypted (RFC 1847, RFC 8551 section 3, RFC 3156).
const TYPES: [&str; 4] = [
    "multipart/signed",
    "multipart/encrypted",
    "application/pkcs7-mime",
    "application/x-pkcs7-mime",
];

/// Fields with a signature over the message (RFC 6376, RFC 8617, RFC 4870).
const SIGNATURES: [&str; 3] = ["DKIM-Signature", "ARC-Message-Signature", "DomainKey-Signature"];

/// Stretches of a message that are signed or encrypted.
#[derive(Debug, Default)]
pub(super) struct Sealed {
    /// All of it.
    whole: bool,
    /// In order, and apart from each other.
    ranges: Vec<Range<usize>>,
}

impl Sealed {
    pub(super) fn of(mail: &Mail) -> Result<Self, SpoolError> {
        let mut whole = false;
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for part in mail.parts()? {
            let is_dkim =
                part.fields.iter().any(|field| SIGNATURES.iter().any(|name| field.is_named(name)));
            let is_sealed = is_dkim
                || TYPES.contains(&part.content_type.essence.as_str())
                || is_openpgp(mail, part)?;
            match part.parent {
                _ if !is_sealed => {}
                None if is_dkim => whole = true,
                // The signature is over the content, and the fields of it say how to read that.
                None => {
                    let fields = part.fields.iter();
                    let content = fields.filter(|field| is_content(field.raw_name()));
                    ranges.extend(content.map(|field| field.whole.clone()));
                    ranges.push(part.body.clone());
                }
                Some(_) => ranges.push(part.whole.clone()),
            }
        }
        ranges.sort_by_key(|range| range.start);
        // What is sealed may be in what is sealed.
        ranges.dedup_by(|next, last| {
            let overlaps = next.start < last.end;
            if overlaps {
                last.end = last.end.max(next.end);
            }
            overlaps
        });
        Ok(Self { whole, ranges })
    }

    /// Whether an edit of these octets would break a seal. What is inserted where sealed octets begin or end would.
    pub(super) fn covers(&self, edit: &Range<usize>) -> bool {
        let touches = |sealed: &Range<usize>| match edit.is_empty() {
            true => sealed.start <= edit.start,
            false => sealed.start < edit.end,
        };
        self.whole || self.ranges_from(edit.start, edit.is_empty()).first().is_some_and(touches)
    }

    /// Whether sealed octets begin or end between the first and the last of these octets.
    pub(super) fn begins_or_ends_in(&self, octets: Range<usize>) -> bool {
        let is_inside = |border: usize| octets.start < border && border < octets.end;
        let next = self.ranges_from(octets.start, false).first();
        next.is_some_and(|sealed| is_inside(sealed.start) || is_inside(sealed.end))
    }

    /// The sealed octets that end behind this place, or there.
    fn ranges_from(&self, at: usize, or_there: bool) -> &[Range<usize>] {
        let is_before = |range: &Range<usize>| range.end < at || (!or_there && range.end == at);
        let from = self.ranges.partition_point(is_before);
        self.ranges.get(from..).unwrap_or_default()
    }
}

/// Whether a field describes the content (RFC 2045 section 3).
pub(super) fn is_content(name: &[u8]) -> bool {
    const CONTENT: &[u8] = b"Content-";
    name.get(..CONTENT.len()).is_some_and(|start| start.eq_ignore_ascii_case(CONTENT))
}

/// Whether a text is signed or encrypted by OpenPGP without MIME (RFC 9580 sections 6 and 7).
fn is_openpgp(mail: &Mail, part: &Part) -> Result<bool, SpoolError> {
    if part.kind != PartKind::Leaf || !part.content_type.is_text() {
        return Ok(false);
    }
    let text = mail.decoded(part, LOOKED_THROUGH)?.octets;
    let begins_line = |at: usize| {
        text.get(..at).is_some_and(|before| matches!(before.last(), None | Some(b'\n')))
    };
    Ok(memchr::memmem::find_iter(&text, b"-----BEGIN PGP ").any(begins_line))
}
