//! Charsets of texts (RFC 2045 section 5.2, RFC 2046 section 4.1.2).

use encoding_rs::{Encoding, UTF_8};

use super::corrections::{Fix, View, name_of, set_field};
use super::parameters::set_parameter;
use crate::mail::{Edit, Part, PartKind, SpoolError, Transfer};

/// Decoded octets that are looked at.
const LOOKED_THROUGH: usize = 1024 * 1024;
/// The same of HTML, where it says its charset itself.
const HEAD: usize = 4096;

/// Texts beyond ASCII that say nothing of their charset, or that it is ASCII, UTF-8 that it is not, or one that nobody
/// knows: UTF-8, if they are, and the charset that was set otherwise.
pub(super) fn charset(view: &View<'_>) -> Result<Vec<Fix>, SpoolError> {
    let mut fixes = Vec::new();
    for (index, part) in view.parts()?.iter().enumerate() {
        let essence = part.content_type.essence.as_str();
        let is_text = matches!(essence, "text/plain" | "text/html") && part.kind == PartKind::Leaf;
        if !is_text || matches!(part.transfer, Transfer::Uuencode | Transfer::Unknown(_)) {
            continue;
        }
        let label = part.content_type.parameter("charset").map(str::trim);
        let declared = label.map(declared);
        if matches!(declared, Some(Declared::Other)) {
            continue;
        }
        let decoded = view.mail.decoded(part, LOOKED_THROUGH)?;
        let octets = &decoded.octets;
        if octets.is_ascii() || (label.is_none() && says_itself(essence, octets)) {
            continue;
        }
        let is_utf8 = is_utf8(octets, decoded.complete);
        let new = match declared {
            // Some octets that are wrong do not make it another charset.
            Some(Declared::Utf8) if is_utf8 || has_utf8(octets) => continue,
            _ if is_utf8 => "utf-8".to_owned(),
            _ => view.settings.charset.name().to_ascii_lowercase(),
        };
        fixes.push(Fix::new(name_of(index), labelled(view, part, &new)));
    }
    Ok(fixes)
}

/// What a label says.
#[derive(Clone, Copy)]
enum Declared {
    Ascii,
    Utf8,
    /// Another charset that readers know.
    Other,
    Unknown,
}

fn declared(label: &str) -> Declared {
    if ["us-ascii", "ascii", "ansi_x3.4-1968"].iter().any(|name| label.eq_ignore_ascii_case(name)) {
        return Declared::Ascii;
    }
    match Encoding::for_label(label.as_bytes()) {
        Some(charset) if charset == UTF_8 => Declared::Utf8,
        Some(_) => Declared::Other,
        // UTF-7 is no charset of the web.
        None if label.to_ascii_lowercase().starts_with("utf-7") => Declared::Other,
        None => Declared::Unknown,
    }
}

/// Whether it is HTML that names its charset (RFC 2854 section 6).
fn says_itself(essence: &str, octets: &[u8]) -> bool {
    let head = octets.get(..octets.len().min(HEAD)).unwrap_or_default().to_ascii_lowercase();
    essence == "text/html" && memchr::memmem::find(&head, b"charset").is_some()
}

/// Whether octets are UTF-8; of those that go on, the last character may be cut.
fn is_utf8(octets: &[u8], is_complete: bool) -> bool {
    match std::str::from_utf8(octets) {
        Ok(_) => true,
        Err(error) => !is_complete && error.error_len().is_none(),
    }
}

/// Whether there is a character beyond ASCII in UTF-8.
fn has_utf8(octets: &[u8]) -> bool {
    octets.utf8_chunks().any(|chunk| !chunk.valid().is_ascii())
}

/// The edits that give a text this charset; none if readers may find another one all the same.
fn labelled(view: &View<'_>, part: &Part, charset: &str) -> Vec<Edit> {
    const FIELD: &str = "Content-Type";
    let has_type = part.fields.iter().any(|field| field.is_named(FIELD));
    let edit = match has_type {
        true => set_parameter(part, "charset", charset),
        false => {
            let essence = &part.content_type.essence;
            Some(set_field(view.mail, part, FIELD, &format!("{essence}; charset=\"{charset}\"")))
        }
    };
    edit.into_iter().collect()
}
