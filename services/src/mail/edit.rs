//! Edits over one version of a message.

use std::ops::Range;

use bytes::Bytes;

use super::octets::SpoolError;
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

/// How the names of the fields begin that describe a content (RFC 2045 section 3).
const CONTENT: &[u8] = b"Content-";

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
    ///
    /// # Errors
    /// If the octets around the part can't be read.
    pub fn replace_part(
        &mut self,
        mail: &Mail,
        part: &Part,
        notice: Notice<'_>,
    ) -> Result<(), SpoolError> {
        let end = mail.line_ending();
        let mut header = format!(
            "Content-Type: text/plain; charset=utf-8{end}Content-Transfer-Encoding: 8bit{end}"
        );
        if let Some(filename) = notice.filename {
            let name: String = filename.chars().filter(|c| is_name_character(*c)).collect();
            header.push_str(&format!("Content-Disposition: attachment; filename=\"{name}\"{end}"));
        }
        let text = notice.text.lines().collect::<Vec<_>>().join(end);
        self.replace_entity(mail, part, &format!("{header}{end}{text}"))
    }

    /// Puts another entity in the place of a part: fields, an empty line, and a body without the end of its last line. The
    /// delimiters around it, and of the message itself all fields but those that describe the content, stay octet for
    /// octet.
    ///
    /// # Errors
    /// If the octets around the part can't be read.
    pub(crate) fn replace_entity(
        &mut self,
        mail: &Mail,
        part: &Part,
        entity: &str,
    ) -> Result<(), SpoolError> {
        let end = mail.line_ending();
        if part.parent.is_some() {
            // A part without octets may share its line end with the delimiter before it.
            let behind = mail.octets(part.whole.end..part.whole.end + 1).read(0..1)?;
            let own = if matches!(&behind[..], b"" | b"\r" | b"\n") { "" } else { end };
            self.replace(part.whole.clone(), format!("{entity}{own}").into());
            return Ok(());
        }
        let (fields, body) = entity.split_once(&end.repeat(2)).unwrap_or((entity, ""));
        let mut missing = missing_line_ends(mail.header());
        for field in &part.fields {
            let described = ["Content-Type", "Content-Transfer-Encoding", "Content-Disposition"];
            if described.iter().any(|name| field.is_named(name)) {
                self.delete(field.whole.clone());
                if field.whole.end == mail.header().len() {
                    missing = 1;
                }
            }
        }
        let missing = end.repeat(missing);
        // An insertion at the end of the header section would be one in the body.
        let at = mail.fields().last().filter(|_| missing.is_empty()).map_or(0, |f| f.whole.end);
        self.insert(at, format!("{fields}{end}").into());
        self.replace(part.body.clone(), format!("{missing}{body}{end}").into());
        Ok(())
    }

    /// Makes the content of a message, octet for octet, a part of a `multipart/mixed`, with other parts
    /// before and behind it: entities, each with its own fields and without the end of its last line. The
    /// fields that describe the content go with it.
    ///
    /// # Errors
    /// If the octets of the fields can't be read.
    pub fn wrap(
        &mut self,
        mail: &Mail,
        before: Option<&str>,
        behind: Option<&str>,
    ) -> Result<(), SpoolError> {
        let end = mail.line_ending();
        // By chance no line of the message.
        let boundary = format!("=_{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let mut missing = missing_line_ends(mail.header());
        let mut content = Vec::new();
        for field in mail.fields() {
            let name = field.raw_name().get(..CONTENT.len()).unwrap_or_default();
            if !name.eq_ignore_ascii_case(CONTENT) {
                continue;
            }
            let octets = mail.octets(field.whole.clone());
            content.extend_from_slice(&octets.read(0..octets.len())?);
            self.delete(field.whole.clone());
            if field.whole.end == mail.header().len() {
                missing = 1;
            }
        }
        if !content.is_empty() && !content.ends_with(b"\n") {
            content.extend_from_slice(end.as_bytes());
        }
        let mut header = String::new();
        if mail.field("MIME-Version").is_none() {
            header.push_str(&format!("MIME-Version: 1.0{end}"));
        }
        header.push_str(&format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"{end}"));
        let missing = end.repeat(missing);
        // An insertion at the end of the header section would be one in the body.
        let at = mail.fields().last().filter(|_| missing.is_empty()).map_or(0, |f| f.whole.end);
        self.insert(at, header.into());
        let entity = |entity: &str| format!("--{boundary}{end}{entity}{end}");
        let before = before.map(entity).unwrap_or_default();
        let opening = format!("{missing}{before}--{boundary}{end}");
        self.insert(
            mail.header().len(),
            [opening.as_bytes(), &content, end.as_bytes()].concat().into(),
        );
        let behind = behind.map(entity).unwrap_or_default();
        self.insert(mail.len(), format!("{end}{behind}--{boundary}--{end}").into());
        Ok(())
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

/// How many line ends a header section lacks of the empty line that ends it and, before that, of the
/// end of its last line.
fn missing_line_ends(header: &[u8]) -> usize {
    match header.strip_suffix(b"\n") {
        Some(rest) => {
            let lines = rest.strip_suffix(b"\r").unwrap_or(rest);
            usize::from(!lines.is_empty() && !lines.ends_with(b"\n"))
        }
        None if header.is_empty() => 1,
        None => 2,
    }
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
        Mail::new("A: b\n\n".into(), "body")
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

    fn replaced(header: &'static str, body: &'static str, part: usize) -> String {
        let mail = Mail::new(header.into(), body);
        let mut edits = Edits::new();
        let notice = Notice { text: "removed", filename: None };
        edits.replace_part(&mail, &mail.parts().unwrap()[part], notice).unwrap();
        let edited = mail.edited(&edits).unwrap();
        let body = edited.body().in_memory().unwrap();
        String::from_utf8([&edited.header()[..], body].concat()).unwrap()
    }

    const FIELDS: &str =
        "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n";

    #[test]
    fn a_notice_has_a_header_section_that_ends() {
        let crlf = FIELDS.replace('\n', "\r\n");
        assert_eq!(replaced("A: b\n\n", "x", 0), format!("A: b\n{FIELDS}\nremoved\n"));
        assert_eq!(replaced("A: b\n", "", 0), format!("{FIELDS}A: b\n\nremoved\n"));
        assert_eq!(replaced("A: b", "", 0), format!("{crlf}A: b\r\n\r\nremoved\r\n"));
        assert_eq!(replaced("Content-Type: x/y", "", 0), format!("{crlf}\r\nremoved\r\n"));
        assert_eq!(replaced("", "", 0), format!("{crlf}\r\nremoved\r\n"));
        assert_eq!(replaced("\n", "x", 0), format!("{FIELDS}\nremoved\n"));
    }

    #[test]
    fn a_notice_leaves_the_delimiters_whole() {
        let header = "Content-Type: multipart/mixed; boundary=b\n\n";
        assert_eq!(
            replaced(header, "--b\n--b\n\nx\n--b--\n", 1),
            format!("{header}--b\n{FIELDS}\nremoved\n--b\n\nx\n--b--\n")
        );
        assert_eq!(
            replaced(header, "--b\n--b\n\nx\n--b--\n", 2),
            format!("{header}--b\n--b\n{FIELDS}\nremoved\n--b--\n")
        );
    }

    #[test]
    fn an_edit_at_the_end_of_the_header_belongs_to_the_body() {
        let mut edits = Edits::new();
        edits.insert(6, "+".into());
        let next = mail().edited(&edits).unwrap();
        assert_eq!(
            (next.header().len(), &next.body().in_memory().unwrap()[..]),
            (6, &b"+body"[..])
        );
    }
}
