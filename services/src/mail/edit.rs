//! Edits over one version of a message.

use std::ops::Range;

use bytes::Bytes;

use super::structure::Part;
use super::version::Mail;

/// One edit: these octets are replaced by those.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// What goes; empty for an insertion.
    pub range: Range<usize>,
    /// What comes.
    pub insert: Bytes,
}

/// Edits over the message that a service saw, in any order. An edit at the end of the header section
/// belongs to the body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits(Vec<Edit>);

/// Edits that can't be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// Two edits touch the same octets.
    #[error("the edit of octets {0:?} overlaps the one before it")]
    Overlap(Range<usize>),
    /// The message is shorter.
    #[error("the edit of octets {range:?} is not within the {size} octets of the message")]
    OutOfRange {
        /// The edit.
        range: Range<usize>,
        /// The message's size.
        size: usize,
    },
    /// Half in the header section, half in the body.
    #[error("the edit of octets {0:?} goes over the end of the header section")]
    CrossesHeader(Range<usize>),
}

/// What stands in the place of a removed part.
#[derive(Clone, Copy, Debug)]
pub struct Notice<'a> {
    /// UTF-8 text; line ends become those of the message.
    pub text: &'a str,
    /// File name of the notice, ASCII.
    pub filename: Option<&'a str>,
}

impl Edits {
    /// No edits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The edits, in the order of the calls.
    pub fn iter(&self) -> impl Iterator<Item = &Edit> {
        self.0.iter()
    }

    /// Inserts octets before the octet at `at`; several insertions there keep their order.
    pub fn insert(&mut self, at: usize, octets: Bytes) {
        self.replace(at..at, octets);
    }

    /// Deletes octets.
    pub fn delete(&mut self, range: Range<usize>) {
        self.replace(range, Bytes::new());
    }

    /// Replaces octets.
    pub fn replace(&mut self, range: Range<usize>, octets: Bytes) {
        self.0.push(Edit { range, insert: octets });
    }

    /// Makes a new field the first of the message, where trace fields stand (RFC 5321 section 4.4).
    pub fn prepend_field(&mut self, mail: &Mail, name: &str, value: &str) {
        self.insert(0, field_line(name, value, mail.line_ending()));
    }

    /// Deletes every field of this name.
    pub fn remove_fields(&mut self, mail: &Mail, name: &str) {
        for field in mail.fields_named(name) {
            self.delete(field.whole.clone());
        }
    }

    /// Puts a text notice in the place of a part. The delimiters around it, and of the message itself
    /// all fields but those that describe the content, stay octet for octet.
    pub fn replace_part(&mut self, mail: &Mail, part: &Part, notice: Notice<'_>) {
        let end = mail.line_ending();
        let mut header = format!(
            "Content-Type: text/plain; charset=utf-8{end}Content-Transfer-Encoding: 8bit{end}"
        );
        if let Some(filename) = notice.filename {
            let name: String = filename.chars().filter(|c| is_name_character(*c)).collect();
            header.push_str(&format!("Content-Disposition: attachment; filename=\"{name}\"{end}"));
        }
        let text = notice.text.lines().collect::<Vec<_>>().join(end);
        if part.parent.is_some() {
            self.replace(part.whole.clone(), format!("{header}{end}{text}").into());
            return;
        }
        for field in &part.fields {
            let described = ["Content-Type", "Content-Transfer-Encoding", "Content-Disposition"];
            if described.iter().any(|name| field.is_named(mail, name)) {
                self.delete(field.whole.clone());
            }
        }
        self.insert(content_fields_at(mail), header.into());
        self.replace(part.body.clone(), format!("{text}{end}").into());
    }

    /// The edits of the header section and of the body, sorted and checked.
    pub(super) fn split(
        &self,
        header: usize,
        size: usize,
    ) -> Result<(Vec<Edit>, Vec<Edit>), EditError> {
        let mut edits = self.0.clone();
        // Stable: insertions at one offset keep their order, and stand before what is replaced.
        edits.sort_by_key(|edit| (edit.range.start, !edit.range.is_empty()));
        let mut end = 0;
        for Edit { range, .. } in &edits {
            if range.start > range.end || range.end > size {
                return Err(EditError::OutOfRange { range: range.clone(), size });
            }
            if range.start < end {
                return Err(EditError::Overlap(range.clone()));
            }
            if range.start < header && header < range.end {
                return Err(EditError::CrossesHeader(range.clone()));
            }
            end = range.end;
        }
        let body = edits.split_off(edits.partition_point(|edit| edit.range.start < header));
        Ok((edits, body))
    }
}

/// Before the empty line that ends the header section.
fn content_fields_at(mail: &Mail) -> usize {
    mail.fields().last().map_or(0, |field| field.whole.end)
}

fn is_name_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.' | ' ')
}

/// A header field with its line end. Control characters become blanks; a value beyond 900 octets is
/// cut (RFC 5322 section 2.1.1 allows 998 a line).
fn field_line(name: &str, value: &str, end: &str) -> Bytes {
    let mut line: String = format!("{name}: {value}")
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect();
    let mut length = line.len().min(900);
    while !line.is_char_boundary(length) {
        length -= 1;
    }
    line.truncate(length);
    line.push_str(end);
    line.into()
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    fn mail() -> Mail {
        Mail::new("A: b\n\n".into(), "body".into())
    }

    #[test]
    fn edits_that_do_not_fit_are_refused() {
        let error = |ranges: &[Range<usize>]| {
            let mut edits = Edits::new();
            ranges.iter().for_each(|range| edits.delete(range.clone()));
            mail().edited(&edits).unwrap_err()
        };
        assert_eq!(error(&[0..2, 1..3]), EditError::Overlap(1..3));
        assert_eq!(error(&[9..11]), EditError::OutOfRange { range: 9..11, size: 10 });
        assert_eq!(error(&[4..8]), EditError::CrossesHeader(4..8));
    }

    #[test]
    fn a_new_field_follows_the_line_ends_and_holds_no_other_line() {
        let mut edits = Edits::new();
        edits.prepend_field(&mail(), "X", "1\r\nY: 2");
        let next = mail().edited(&edits).unwrap();
        assert_eq!(next.header(), "X: 1  Y: 2\nA: b\n\n");
    }

    #[test]
    fn an_edit_at_the_end_of_the_header_belongs_to_the_body() {
        let mut edits = Edits::new();
        edits.insert(6, "+".into());
        let next = mail().edited(&edits).unwrap();
        assert_eq!((next.header().len(), &next.body()[..]), (6, &b"+body"[..]));
    }
}
