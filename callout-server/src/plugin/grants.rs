//! Whether an answer stays within what its plugin may do.

use ocp_proto::smtp::SideEffect;
use services::mail::{Edits, Mail, SpoolError};
use services::{Change, Outcome, Request};

use super::settings::{FieldName, Grants};

/// What is wrong with an answer, which is void as a whole then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotGranted {
    #[error("another command line; grants.change-command is missing")]
    Command,
    #[error("a reply; grants.reply is missing")]
    Reply,
    #[error("the side effect {0}; it is not in grants.effects")]
    Effect(&'static str),
    #[error("an edit of the body; grants.replace-body is missing")]
    Body,
    #[error("an edit of the header section that touches {0}; it is not in grants.fields")]
    Field(String),
    #[error("edits after which the header section has no empty line at its end, or one before it")]
    Header,
    #[error("an edit with CR or LF alone: lines end with CR LF (RFC 5321 section 2.3.8)")]
    BareLineEnd,
    #[error("an edit that splits the line end at octet {0}")]
    SplitLineEnd(usize),
    #[error("an edit with a NUL")]
    Nul,
    #[error("{0}")]
    Edit(String),
    #[error("the message can't be read: {0}")]
    Spool(String),
}

impl From<SpoolError> for NotGranted {
    fn from(error: SpoolError) -> Self {
        Self::Spool(error.to_string())
    }
}

impl Grants {
    /// Checks all of an answer. Reads octets of the message around the edits.
    pub(super) fn check(&self, outcome: &Outcome, request: &Request) -> Result<(), NotGranted> {
        match &outcome.change {
            Change::None => {}
            Change::Command(_) if self.change_command => {}
            Change::Command(_) => return Err(NotGranted::Command),
            Change::Reply(_) if self.reply => {}
            Change::Reply(_) => return Err(NotGranted::Reply),
            Change::Content(edits) => {
                if let Some(mail) = request.mail() {
                    self.check_edits(edits, mail)?;
                }
            }
        }
        let granted = |effect: &&SideEffect| self.effects.contains(&effect.name());
        match outcome.effects.iter().find(|effect| !granted(effect)) {
            Some(effect) => Err(NotGranted::Effect(effect.name().name())),
            None => Ok(()),
        }
    }

    fn check_edits(&self, edits: &Edits, mail: &Mail) -> Result<(), NotGranted> {
        let edited = mail.edited(edits).map_err(|error| NotGranted::Edit(error.to_string()))?;
        let header = mail.header().len();
        for edit in edits.iter() {
            // An edit at the end of the header section belongs to the body.
            if edit.range.start >= header && !self.replace_body {
                return Err(NotGranted::Body);
            }
            sound(&edit.insert)?;
            for at in [edit.range.start, edit.range.end] {
                if splits_line_end(mail, at)? {
                    return Err(NotGranted::SplitLineEnd(at));
                }
            }
        }
        self.check_header(mail.header(), edited.header())
    }

    /// Fields that are not granted are the same octets in the same order, and what is there is a header section.
    fn check_header(&self, before: &[u8], after: &[u8]) -> Result<(), NotGranted> {
        if before == after {
            return Ok(());
        }
        if !after.ends_with(b"\r\n\r\n") && after != b"\r\n" {
            return Err(NotGranted::Header);
        }
        let is_granted = |field: &&[u8]| {
            let name = name(field);
            name.is_some_and(|name| self.fields.iter().any(|known: &FieldName| known.means(name)))
        };
        // An empty line in between would make body of what is behind it.
        if fields(after).filter(|field| *field == b"\r\n").count() != 1 {
            return Err(NotGranted::Header);
        }
        let others = |header| fields(header).filter(|field| !is_granted(field));
        let mut pairs =
            others(before).map(Some).chain([None]).zip(others(after).map(Some).chain([None]));
        match pairs.find(|(one, other)| one != other) {
            None => Ok(()),
            Some((one, other)) => {
                let is_new = other.filter(|other| others(before).all(|field| field != *other));
                let name = is_new.or(one).and_then(name).unwrap_or(b"a line without a name");
                Err(NotGranted::Field(String::from_utf8_lossy(name).into_owned()))
            }
        }
    }
}

/// The lines of a header section, each with its continuations; the empty line is one as well.
fn fields(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = header;
    std::iter::from_fn(move || {
        let mut end = 0;
        loop {
            let line = memchr::memmem::find(rest.get(end..)?, b"\r\n");
            end = line.map_or(rest.len(), |line| end + line + 2);
            let continues = rest.get(end).is_some_and(|next| matches!(next, b' ' | b'\t'));
            if !continues || end == 2 {
                break;
            }
        }
        let (field, behind) = rest.split_at_checked(end)?;
        rest = behind;
        (!field.is_empty()).then_some(field)
    })
}

/// The name of a field (RFC 5322 section 2.2).
fn name(field: &[u8]) -> Option<&[u8]> {
    let end = memchr::memchr(b':', field)?;
    let name = field.get(..end)?.trim_ascii_end();
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some(name)
}

/// Octets that may be put into a message.
fn sound(octets: &[u8]) -> Result<(), NotGranted> {
    for at in memchr::memchr3_iter(b'\r', b'\n', 0, octets) {
        let neighbour = |at: Option<usize>| at.and_then(|at| octets.get(at)).copied();
        match octets.get(at) {
            Some(b'\r') if neighbour(at.checked_add(1)) != Some(b'\n') => {
                return Err(NotGranted::BareLineEnd);
            }
            Some(b'\n') if neighbour(at.checked_sub(1)) != Some(b'\r') => {
                return Err(NotGranted::BareLineEnd);
            }
            Some(0) => return Err(NotGranted::Nul),
            _ => {}
        }
    }
    Ok(())
}

/// Whether CR is before this place and LF behind it.
fn splits_line_end(mail: &Mail, at: usize) -> Result<bool, NotGranted> {
    let header = mail.header();
    let octet = |at: usize| match header.get(at) {
        Some(octet) => Ok(Some(*octet)),
        None => {
            let at = at - header.len();
            if at >= mail.body().len() {
                return Ok(None);
            }
            let octets = mail.body().read(at..at + 1);
            octets
                .map(|octets| octets.first().copied())
                .map_err(|error| NotGranted::Spool(error.to_string()))
        }
    };
    let Some(before) = at.checked_sub(1) else { return Ok(false) };
    Ok(octet(before)? == Some(b'\r') && octet(at)? == Some(b'\n'))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use services::Content;

    use super::*;

    const HEADER: &str = "From: a\r\nX-One: 1\r\n 2\r\nSubject: s\r\n\r\n";
    const BODY: &str = "text\r\n";

    fn grants(fields: &[&str], replace_body: bool) -> Grants {
        let fields = fields.iter().map(|name| match name.strip_suffix('*') {
            Some(start) => FieldName::StartsWith(start.to_owned()),
            None => FieldName::Is((*name).to_owned()),
        });
        Grants {
            events: Vec::new(),
            watches: Vec::new(),
            content: Content::Whole,
            change_command: false,
            fields: fields.collect(),
            replace_body,
            reply: false,
            effects: Vec::new(),
        }
    }

    fn check(
        grants: &Grants,
        start: &str,
        end: &str,
        octets: &'static str,
    ) -> Result<(), NotGranted> {
        let mail = Mail::new(HEADER.into(), BODY);
        let all = format!("{HEADER}{BODY}");
        let at = |what: &str| all.find(what).unwrap();
        let mut edits = Edits::new();
        match at(start) == at(end) {
            true => edits.insert(at(start), Bytes::from_static(octets.as_bytes())),
            false => edits.replace(at(start)..at(end), Bytes::from_static(octets.as_bytes())),
        }
        grants.check_edits(&edits, &mail)
    }

    #[test]
    fn fields_are_edited_by_who_may() {
        let field = |name: &str| Err(NotGranted::Field(name.to_owned()));
        let grants = grants(&["x-*"], false);
        for (start, end, octets, expected) in [
            ("From", "From", "X-New: 1\r\n", Ok(())),
            ("X-One", "Subject", "", Ok(())),
            ("1", "1", "x", Ok(())),
            (" 2", "Subject", "", Ok(())),
            ("From", "From", "Cc: b\r\n", field("Cc")),
            ("Subject", "\r\ntext", "", field("Subject")),
            ("s\r\n\r\n", "\r\n\r\ntext", "t", field("Subject")),
            // The next field becomes a continuation of the one before it, or another one.
            ("X-One", "X-One", " ", field("From")),
            ("Subject", "Subject", "X-", field("Subject")),
            ("From", "From", "no field\r\n", field("a line without a name")),
            ("From", "From", "X-New: 1\r\n\r\n", Err(NotGranted::Header)),
            ("\r\ntext", "text", "", Err(NotGranted::Header)),
            ("From", "From", "X-New: 1\n", Err(NotGranted::BareLineEnd)),
            ("From", "From", "X-New: 1\r", Err(NotGranted::BareLineEnd)),
            ("From", "From", "X-New: \0\r\n", Err(NotGranted::Nul)),
            ("\nX-One", "X-One", "", Err(NotGranted::SplitLineEnd(8))),
            ("text", "text", "more", Err(NotGranted::Body)),
        ] {
            let found = check(&grants, start, end, octets);
            assert_eq!(found, expected, "{start:?}..{end:?} {octets:?}");
        }
        let moved = "Subject: s\r\nFrom: a\r\n\r\n";
        assert_eq!(
            grants.check_header(b"From: a\r\nSubject: s\r\n\r\n", moved.as_bytes()),
            field("From")
        );
    }

    #[test]
    fn bodies_are_edited_by_who_may() {
        let grants = grants(&[], true);
        assert_eq!(check(&grants, "text", "text", "more\r\n"), Ok(()));
        assert_eq!(check(&grants, "ext", "xt", "E"), Ok(()));
        assert_eq!(check(&grants, "ext", "xt", "\n"), Err(NotGranted::BareLineEnd));
        assert_eq!(
            check(&grants, "From", "From", "X: 1\r\n"),
            Err(NotGranted::Field("X".to_owned()))
        );
    }

    proptest! {
        /// Whatever a plugin edits: if that is granted, all fields that are not its own are where they were, the body is
        /// if it may not be edited, and every line ends with CR LF.
        #[test]
        fn what_is_granted_leaves_the_rest_alone(
            all in prop::collection::vec((0..52_usize, 0..8_usize, "(X-|[xb: ]|\r\n|\r|\n){0,5}"), 0..4),
            replace_body in any::<bool>(),
        ) {
            let grants = grants(&["x-*"], replace_body);
            let mail = Mail::new(HEADER.into(), BODY);
            let mut edits = Edits::new();
            for (start, octets, insert) in all {
                match octets {
                    0 => edits.insert(start, insert.into()),
                    octets => edits.replace(start..start + octets, insert.into()),
                }
            }
            if grants.check_edits(&edits, &mail).is_ok() {
                let edited = mail.edited(&edits).unwrap();
                let body = edited.body().read(0..edited.body().len()).unwrap();
                prop_assert_eq!(sound(&[&edited.header()[..], &body[..]].concat()), Ok(()));
                prop_assert!(replace_body || body == BODY);
                let others = |header| fields(header).filter(|field| !name(field).is_some_and(|name| {
                    name.to_ascii_lowercase().starts_with(b"x-")
                })).collect::<Vec<_>>();
                prop_assert_eq!(others(mail.header()), others(edited.header()));
            }
        }
    }
}
