//! Which parts of a message become links.

use super::settings::{Checked, Signed};
use crate::mail::{Part, PartKind};

/// The most files of a message; more stay where they are.
pub(super) const MOST: usize = 64;

/// The longest file name, in characters.
const LONGEST_NAME: usize = 120;

/// The attachments that may become links, before anybody knows how large they are decoded. What is inside of another
/// message stays, and so does what a text shows.
pub(super) fn chosen<'a>(parts: &'a [Part], settings: &Checked) -> Vec<&'a Part> {
    let is_chosen = |part: &&Part| {
        part.body.len() as u64 > settings.larger_than
            && part.kind != PartKind::Multipart
            && is_attachment(parts, part)
            && !is_fixed(parts, part, settings.signed)
            && is_wanted(part, settings)
    };
    parts.iter().filter(is_chosen).take(MOST).collect()
}

/// Whether it is a file, and not what a reader sees as the message.
fn is_attachment(parts: &[Part], part: &Part) -> bool {
    let around = part.parent.and_then(|parent| parts.get(parent));
    let around = around.map_or("", |around| around.content_type.essence.as_str());
    let is_attached = part.disposition.as_deref() == Some("attachment");
    match around {
        "multipart/alternative" | "multipart/report" => false,
        // Images that HTML shows.
        "multipart/related" => is_attached,
        _ => is_attached || !part.names.is_empty(),
    }
}

/// Whether it is in something that stays as it is.
fn is_fixed(parts: &[Part], part: &Part, signed: Signed) -> bool {
    let mut next = Some(part);
    // Parents come before their parts, so this ends.
    while let Some(part) = next {
        let is_sealed = matches!(
            part.content_type.essence.as_str(),
            "multipart/signed"
                | "multipart/encrypted"
                | "application/pkcs7-mime"
                | "application/x-pkcs7-mime"
        );
        if is_sealed && signed == Signed::Leave {
            return true;
        }
        next = part.parent.and_then(|parent| parts.get(parent));
        if next.is_some_and(|around| around.kind == PartKind::Message) {
            return true;
        }
    }
    false
}

/// Whether its type or its name is listed, if anything is.
fn is_wanted(part: &Part, settings: &Checked) -> bool {
    let Checked { types, extensions, .. } = settings;
    let essence = &part.content_type.essence;
    let is_type = |pattern: &String| match pattern.ends_with('/') {
        true => essence.starts_with(pattern),
        false => essence == pattern,
    };
    let has = |extension: &String| {
        part.names.iter().any(|name| name.to_lowercase().ends_with(extension.as_str()))
    };
    types.is_empty() && extensions.is_empty()
        || types.iter().any(is_type)
        || extensions.iter().any(has)
}

/// What a file is called: the first of its names, without what is no name.
pub(super) fn file_name(part: &Part) -> String {
    let name = part.names.first().map_or("", String::as_str);
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let is_odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let name: String = name.chars().filter(|c| !is_odd(*c)).take(LONGEST_NAME).collect();
    match name.trim().trim_start_matches('.') {
        "" if part.kind == PartKind::Message => "message.eml".to_owned(),
        "" => "attachment".to_owned(),
        name => name.to_owned(),
    }
}
