//! Which parts of a message are shown as its text.

use crate::mail::{Part, PartKind};

/// Where a reader sees what the author wrote.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown<'a> {
    /// In these parts: one, or the same text in several forms.
    In(Vec<&'a Part>),
    /// Inside of what is signed or encrypted.
    Signed,
    /// Nowhere: there is no text, or something else comes before it.
    Nowhere,
    /// A report of delivery, which programs read.
    Report,
}

/// Looks for them from the message itself downwards: the first part of each multipart, and all parts of
/// an alternative. Signed and encrypted parts are sealed, whatever is inside.
pub(super) fn shown(parts: &[Part]) -> Shown<'_> {
    match parts.is_empty() {
        true => Shown::Nowhere,
        false => shown_in(parts, 0),
    }
}

/// As deep as parts are nested, which is bounded.
fn shown_in(parts: &[Part], at: usize) -> Shown<'_> {
    let Some(part) = parts.get(at) else { return Shown::Nowhere };
    let mut inner =
        parts.iter().enumerate().filter(|(_, part)| part.parent == Some(at)).map(|(at, _)| at);
    match (part.content_type.essence.as_str(), part.kind) {
        (
            "multipart/signed"
            | "multipart/encrypted"
            | "application/pkcs7-mime"
            | "application/x-pkcs7-mime"
            | "application/pgp-encrypted",
            _,
        ) => Shown::Signed,
        ("multipart/report", _) => Shown::Report,
        ("multipart/alternative", PartKind::Multipart) => alternatives(parts, inner),
        (_, PartKind::Multipart) => {
            inner.next().map_or(Shown::Nowhere, |first| shown_in(parts, first))
        }
        ("text/plain" | "text/html", PartKind::Leaf)
            if part.disposition.as_deref() != Some("attachment") =>
        {
            Shown::In(vec![part])
        }
        _ => Shown::Nowhere,
    }
}

/// All that are text: a reader sees one of them.
fn alternatives(parts: &[Part], inner: impl Iterator<Item = usize>) -> Shown<'_> {
    let mut found = Vec::new();
    for at in inner {
        match shown_in(parts, at) {
            Shown::In(more) => found.extend(more),
            Shown::Nowhere => {}
            sealed => return sealed,
        }
    }
    if found.is_empty() { Shown::Nowhere } else { Shown::In(found) }
}
