//! The corrections of a message, in the order in which they are made, and what they are made of.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::Range;

use bytes::Bytes;

use super::sealed::Sealed;
use super::settings::{Action, Checked, MessageActions};
use super::{boundaries, charsets, encodings, fields, folds, octets, uuencode, words};
use crate::mail::{Edit, Mail, Part, SpoolError};
use crate::service::Request;

/// One thing that may be wrong with a message.
pub(super) struct Correction {
    /// Its name, in settings and in what is said about a message.
    pub(super) name: &'static str,
    /// What is to happen.
    pub(super) action: fn(&MessageActions) -> Action,
    /// Looks for it.
    pub(super) find: fn(&View<'_>) -> Result<Vec<Fix>, SpoolError>,
}

/// What is read by octets comes first, then what readers take for fields and parts, then what is in these. So
/// one seldom makes something for one before it to do; where it does, they are all made again.
pub(super) const CORRECTIONS: [Correction; 17] = [
    Correction { name: "nul", action: |actions| actions.nul, find: octets::nul },
    Correction { name: "line-ends", action: |actions| actions.line_ends, find: octets::line_ends },
    Correction {
        name: "header-lines",
        action: |actions| actions.header_lines,
        find: fields::header_lines,
    },
    Correction {
        name: "boundaries",
        action: |actions| actions.boundaries,
        find: boundaries::boundaries,
    },
    Correction {
        name: "doubled-fields",
        action: |actions| actions.doubled_fields,
        find: fields::doubled,
    },
    Correction {
        name: "raw-fields",
        action: |actions| actions.raw_fields,
        find: words::raw_fields,
    },
    Correction {
        name: "long-fields",
        action: |actions| actions.long_fields,
        find: folds::long_fields,
    },
    Correction { name: "uuencode", action: |actions| actions.uuencode, find: uuencode::uuencode },
    Correction {
        name: "transfer-encoding",
        action: |actions| actions.transfer_encoding,
        find: encodings::labels,
    },
    Correction { name: "base64", action: |actions| actions.base64, find: encodings::base64 },
    Correction {
        name: "quoted-printable",
        action: |actions| actions.quoted_printable,
        find: encodings::quoted_printable,
    },
    Correction { name: "charset", action: |actions| actions.charset, find: charsets::charset },
    Correction {
        name: "long-lines",
        action: |actions| actions.long_lines,
        find: encodings::long_lines,
    },
    Correction { name: "date", action: |actions| actions.date, find: fields::date },
    Correction {
        name: "message-id",
        action: |actions| actions.message_id,
        find: fields::message_id,
    },
    Correction { name: "from", action: |actions| actions.from, find: fields::from },
    Correction {
        name: "mime-version",
        action: |actions| actions.mime_version,
        find: fields::mime_version,
    },
];

/// Edits that belong together: they are made together, or none of them. Without edits it is something that
/// can't be put right.
#[derive(Debug)]
pub(super) struct Fix {
    pub(super) edits: Vec<Edit>,
    /// Which field or part it is about.
    pub(super) what: Cow<'static, str>,
}

impl Fix {
    pub(super) fn new(what: impl Into<Cow<'static, str>>, edits: Vec<Edit>) -> Self {
        Self { edits, what: what.into() }
    }

    /// What it takes of the room for new octets.
    pub(super) fn cost(&self) -> usize {
        self.edits.iter().map(|edit| edit.insert.len() + EDIT_COST).sum()
    }

    /// One edit.
    pub(super) fn one(
        what: impl Into<Cow<'static, str>>,
        range: Range<usize>,
        insert: impl Into<Bytes>,
    ) -> Self {
        Self::new(what, vec![Edit { range, insert: insert.into() }])
    }

    /// Nothing can be done about it.
    pub(super) fn none(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(what, Vec::new())
    }
}

/// What an edit takes of the room for new octets besides them: it is kept several times, with its place.
pub(super) const EDIT_COST: usize = 256;

/// A version of a message, and what is known of it.
pub(super) struct View<'a> {
    pub(super) mail: &'a Mail,
    pub(super) settings: &'a Checked,
    pub(super) request: &'a Request,
    pub(super) sealed: &'a Sealed,
    /// New octets that it may still get.
    pub(super) room: Cell<usize>,
    /// Whether more would have been needed.
    pub(super) is_full: Cell<bool>,
}

impl View<'_> {
    /// Its parts; only the message itself, if a bound cut the view of them short.
    pub(super) fn parts(&self) -> Result<&[Part], SpoolError> {
        let parts = self.mail.parts()?;
        let is_truncated = self.mail.is_truncated()?.is_some();
        Ok(if is_truncated { parts.get(..1).unwrap_or_default() } else { parts })
    }

    /// A parameter of the envelope's sender, such as `BODY` or `SMTPUTF8`; empty if it has no value.
    pub(super) fn sender_parameter(&self, name: &str) -> Option<&str> {
        let sender = self.request.envelope.sender.as_ref()?;
        sender.parameters.iter().find_map(|parameter| {
            let parameter = std::str::from_utf8(parameter).ok()?;
            let (keyword, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            keyword.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// Whether its body may hold any octets, in lines of any length (RFC 3030 section 3).
    pub(super) fn is_binary(&self) -> bool {
        let body = self.sender_parameter("BODY");
        body.is_some_and(|body| body.eq_ignore_ascii_case("BINARYMIME"))
    }

    /// The octets of a range, of a part that is to be changed: they are few enough for that.
    pub(super) fn read(&self, range: Range<usize>) -> Result<Bytes, SpoolError> {
        let octets = self.mail.octets(range);
        Ok(octets.read(0..octets.len())?)
    }

    /// Whether there is room for so many new octets; then it is used up.
    pub(super) fn takes(&self, octets: usize) -> bool {
        let rest = self.room.get().checked_sub(octets);
        self.room.set(rest.unwrap_or(self.room.get()));
        self.is_full.set(self.is_full.get() || rest.is_none());
        rest.is_some()
    }
}

/// How people know a part: the message, or its place among all parts.
pub(super) fn name_of(index: usize) -> Cow<'static, str> {
    match index {
        0 => "message".into(),
        _ => format!("part {index}").into(),
    }
}

/// Where a new field of a part goes: behind the last one of a message, where trace fields stay first, and
/// before all of a part inside it.
pub(super) fn new_field_at(mail: &Mail, part: &Part) -> usize {
    let last = part.fields.last().map(|field| field.whole.end);
    match part.parent {
        // Behind the last line there would be the body.
        None => last.filter(|end| *end < mail.header().len()).unwrap_or(0),
        Some(_) => part.header.start,
    }
}

/// Gives a part a field, or its first field of this name another value.
pub(super) fn set_field(mail: &Mail, part: &Part, name: &str, value: &str) -> Edit {
    match part.fields.iter().find(|field| field.is_named(name)) {
        Some(field) => Edit { range: field.value.clone(), insert: format!(" {value}").into() },
        None => {
            let at = new_field_at(mail, part);
            let insert = format!("{name}: {value}{}", mail.line_ending()).into();
            Edit { range: at..at, insert }
        }
    }
}
