//! The smallest set of milter edits that makes the adapted message of the original one.
//!
//! A field whose octets are the same is never touched: signatures depend on each. The edits of fields
//! go from the last field to the first, so that every index is one of the original message, whatever
//! earlier edits did. That is where Postfix and sendmail agree:
//!
//! - `ChangeField` counts the fields of its name that milters see. sendmail goes on counting those that
//!   were deleted meanwhile (`milter_changeheader`), Postfix does not (`cleanup_find_header_start`).
//! - `InsertField` counts all fields, and with them the Received field that the MTA put on top and hides
//!   from milters. A new first field goes below that one: there the client's message begins, and
//!   Postfix before December 2023 miscounted changes once its own field was not the first (HISTORY,
//!   20231213). Fields that an access table put above it (PREPEND) stay above new ones.
//! - The MTA deletes a field whose new value is empty, and sendmail keeps the name of a changed field:
//!   so a field without value, and one whose name is written otherwise, is inserted, and the old one
//!   deleted.
//! - `AddField` goes to the end of the header section, however many fields are hidden. sendmail may hide
//!   more than one: there a field inserted in the middle stands that much higher.
//! - `ReplaceBody` starts the new body, and goes on with it as long as nothing else comes between
//!   (`milter8_event`). A last line without CRLF gets one.

use std::collections::HashMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::Unfit;
use super::common::common;
use super::message::{Field, Original, excerpt, is_blank};
use crate::apply::Adapted;
use crate::milter::Modification;
use crate::octets::{Octets, is_same};

/// The most octets of a body in one `ReplaceBody` (`MILTER_CHUNK_SIZE`).
const LONGEST_CHUNK: usize = 65_535;

/// The longest field that is new or changed, without its last line end; a bound of ours. Postfix cuts
/// one longer than its `header_size_limit`, by default 102,400 octets, without a word.
const LONGEST_FIELD: usize = 65_535;

/// How the hidden Received field of the MTA shifts the place of an inserted one.
const HIDDEN_FIELDS: usize = 1;

/// The edits, in the order in which they apply: fields first, the pieces of the body last and together.
///
/// # Errors
/// If milter has no words for it.
pub fn edits(original: &Original, adapted: &Adapted) -> Result<Vec<Modification>, Unfit> {
    let mut edits = Vec::new();
    if !is_same(&adapted.header, [&original.message.header]) {
        let old = Section { header: &original.message.header, fields: &original.fields };
        let (header, fields) = read(&adapted.header.concat())?;
        edit_fields(&old, &Section { header: &header, fields: &fields }, &mut edits)?;
    }
    if adapted.body != original.message.body {
        if adapted.body.is_cut() {
            return Err(Unfit::BodyNotSent);
        }
        replace_body(adapted.body.pieces(), &mut edits)?;
    }
    Ok(edits)
}

/// A header section and where its fields stand.
struct Section<'a> {
    header: &'a Bytes,
    fields: &'a [Field],
}

/// One step on the way through both sections; places are those of the original section.
enum Step {
    Delete { at: usize },
    Change { at: usize, to: Field },
    Insert { before: usize, field: Field },
    Append { field: Field },
}

/// The header section with CRLF line ends, and its fields.
fn read(octets: &[u8]) -> Result<(Bytes, Vec<Field>), Unfit> {
    let mut header = Vec::with_capacity(octets.len() + 2);
    let mut fields: Vec<Field> = Vec::new();
    let mut rest = octets;
    loop {
        let end = memchr::memchr(b'\n', rest).ok_or(Unfit::HeaderEnd)?;
        let (line, after) = rest.split_at(end);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        rest = after.get(1..).unwrap_or_default();
        let start = header.len();
        header.extend_from_slice(line);
        header.extend_from_slice(b"\r\n");
        if line.is_empty() {
            let ends = rest.is_empty();
            return ends.then(|| (header.into(), fields)).ok_or(Unfit::HeaderEnd);
        }
        let no_field = || Unfit::NoField(excerpt(line));
        if is_blank(line.first()) {
            let last = fields.last_mut().ok_or_else(no_field)?;
            *last = last.folded(header.len());
        } else {
            let colon = memchr::memchr(b':', line).filter(|at| *at > 0).ok_or_else(no_field)?;
            fields.push(Field::new(start, start + colon, header.len()));
        }
    }
}

fn edit_fields(
    old: &Section<'_>,
    new: &Section<'_>,
    edits: &mut Vec<Modification>,
) -> Result<(), Unfit> {
    let (appended, steps): (Vec<_>, Vec<_>) =
        steps(old, new).into_iter().partition(|step| matches!(step, Step::Append { .. }));
    let numbers = old.numbers();
    let number = |at: usize| numbers.get(at).copied().unwrap_or_default();
    for step in appended.into_iter().chain(steps.into_iter().rev()) {
        edits.push(match step {
            Step::Delete { at } => Modification::ChangeField {
                index: number(at),
                name: old.name(at),
                value: Bytes::new(),
            },
            Step::Change { at, to } => {
                let (name, value) = new.checked(&to)?;
                Modification::ChangeField { index: number(at), name, value }
            }
            Step::Insert { before, field } => {
                let (name, value) = new.checked(&field)?;
                let index = u32::try_from(before + HIDDEN_FIELDS).unwrap_or(u32::MAX);
                Modification::InsertField { index, name, value }
            }
            Step::Append { field } => {
                let (name, value) = new.checked(&field)?;
                Modification::AddField { name, value }
            }
        });
    }
    Ok(())
}

/// What is not the same, from the first field to the last.
fn steps(old: &Section<'_>, new: &Section<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    let (mut old_at, mut new_at) = (0, 0);
    let end = (old.fields.len(), new.fields.len());
    for (old_same, new_same) in common(&old.octets(), &new.octets()).into_iter().chain([end]) {
        steps_between(old, old_at..old_same, new, new_at..new_same, &mut steps);
        (old_at, new_at) = (old_same + 1, new_same + 1);
    }
    steps
}

/// The steps between two fields that stay: what has a name that is there before and after is changed.
fn steps_between(
    old: &Section<'_>,
    old_range: Range<usize>,
    new: &Section<'_>,
    new_range: Range<usize>,
    steps: &mut Vec<Step>,
) {
    if old_range.is_empty() && new_range.is_empty() {
        return;
    }
    let old_names: Vec<_> =
        old.part(old_range.clone()).iter().map(|f| Some(f.name(old.header))).collect();
    let new_names: Vec<_> = new
        .part(new_range.clone())
        .iter()
        // An empty value would delete the field.
        .map(|field| Some(field.name(new.header)).filter(|_| !field.value(new.header).is_empty()))
        .collect();
    let changed = common(&old_names, &new_names)
        .into_iter()
        .map(|(a, b)| (old_range.start + a, new_range.start + b));
    let (mut old_at, mut new_at) = (old_range.start, new_range.start);
    for (at, to) in changed.chain([(old_range.end, new_range.end)]) {
        steps.extend((old_at..at).map(|at| Step::Delete { at }));
        steps.extend(new.part(new_at..to).iter().map(|&field| {
            let is_last = at == old.fields.len();
            if is_last { Step::Append { field } } else { Step::Insert { before: at, field } }
        }));
        if at < old_range.end {
            steps.extend(new.part(to..to + 1).iter().map(|&to| Step::Change { at, to }));
        }
        (old_at, new_at) = (at + 1, to + 1);
    }
}

impl Section<'_> {
    fn octets(&self) -> Vec<&[u8]> {
        self.fields.iter().map(|field| field.octets(self.header)).collect()
    }

    fn part(&self, range: Range<usize>) -> &[Field] {
        self.fields.get(range).unwrap_or_default()
    }

    fn name(&self, at: usize) -> Bytes {
        let name = self.fields.get(at).map(|field| field.name(self.header)).unwrap_or_default();
        self.header.slice_ref(name)
    }

    /// For each field: which of its name it is, from 1 on.
    fn numbers(&self) -> Vec<u32> {
        let mut seen: HashMap<Vec<u8>, u32> = HashMap::new();
        let mut number = |field: &Field| {
            let count = seen.entry(field.name(self.header).to_ascii_lowercase()).or_default();
            *count += 1;
            *count
        };
        self.fields.iter().map(&mut number).collect()
    }

    /// Name and value of a field as they go to the MTA, if it will read them as one field.
    fn checked(&self, field: &Field) -> Result<(Bytes, Bytes), Unfit> {
        let name = field.name(self.header);
        let value = field.value(self.header);
        // RFC 5322 section 2.2: printable ASCII without colon.
        if !name.iter().all(u8::is_ascii_graphic) {
            return Err(Unfit::NoField(excerpt(field.octets(self.header).trim_ascii_end())));
        }
        let octets = name.len() + 1 + value.len();
        if octets > LONGEST_FIELD {
            return Err(Unfit::Length { field: excerpt(name), octets, most: LONGEST_FIELD });
        }
        let value = lines(self.header, value);
        match value.iter().find(|octet| matches!(octet, 0 | b'\r')) {
            Some(&octet) => Err(Unfit::Octet { field: excerpt(name), octet }),
            None => Ok((self.header.slice_ref(name), value)),
        }
    }
}

/// A value with LF between its lines.
fn lines(header: &Bytes, value: &[u8]) -> Bytes {
    if memchr::memchr(b'\n', value).is_none() {
        return header.slice_ref(value);
    }
    let mut lines = BytesMut::with_capacity(value.len());
    let mut rest = value;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let (line, after) = rest.split_at(end);
        lines.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        lines.extend_from_slice(b"\n");
        rest = after.get(1..).unwrap_or_default();
    }
    lines.extend_from_slice(rest);
    lines.freeze()
}

/// The body in chunks. Large pieces are cut where they lie, small ones are put together.
fn replace_body(body: &[Octets], edits: &mut Vec<Modification>) -> Result<(), Unfit> {
    let start = edits.len();
    let mut chunk = BytesMut::new();
    for piece in body {
        let mut piece = piece.read().map_err(|error| Unfit::Unreadable(error.to_string()))?;
        while !piece.is_empty() {
            let next = piece.split_to(piece.len().min(LONGEST_CHUNK - chunk.len()));
            if next.len() == LONGEST_CHUNK {
                edits.push(Modification::ReplaceBody(next));
                continue;
            }
            chunk.extend_from_slice(&next);
            if chunk.len() == LONGEST_CHUNK {
                edits.push(Modification::ReplaceBody(chunk.split().freeze()));
            }
        }
    }
    if !chunk.is_empty() || edits.len() == start {
        edits.push(Modification::ReplaceBody(chunk.freeze()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
