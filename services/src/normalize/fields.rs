//! Fields of header sections: lines that are none, fields that are there too often, and fields that are not there.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use mail_parser::DateTime;

use super::corrections::{Fix, View, name_of, new_field_at};
use crate::mail::{Field, Part, SpoolError, ends, field_name, trim_line_end};
use crate::mail_from::parse::{Mailbox, is_domain};

/// What stands before a line that is no field: it becomes one, and nothing behind it goes to the body.
const INVALID: &str = "X-Invalid-Line: ";

/// The most lines that are put right at a time.
const MOST_LINES: usize = 10_000;

/// Lines that are no fields, such as that of an mbox, of which some readers take the first for the end of the header
/// section; folds without a character, which others take for that end; and blanks between a name and its colon
/// (RFC 5322 sections 3.2.2 and 4.5). A section of a part without a field is text: it gets an empty line before it.
pub(super) fn header_lines(view: &View<'_>) -> Result<Vec<Fix>, SpoolError> {
    let mut fixes = Vec::new();
    for (index, part) in view.parts()?.iter().enumerate() {
        let header = view.read(part.header.clone())?;
        if part.fields.is_empty() {
            let is_text = !matches!(&header[..], [] | [b'\n', ..] | [b'\r', b'\n', ..]);
            if part.parent.is_some() && is_text {
                let at = part.header.start;
                fixes.push(Fix::one(name_of(index), at..at, view.mail.line_ending()));
            }
            continue;
        }
        if !ends(&header) {
            continue;
        }
        let mut at = part.header.start;
        // Whether a fold would belong to the line before it.
        let mut is_open = false;
        for whole in header.split_inclusive(|octet| *octet == b'\n') {
            if fixes.len() >= MOST_LINES {
                return Ok(fixes);
            }
            let line = trim_line_end(whole);
            let is_fold = matches!(line.first(), Some(b' ' | b'\t'));
            match field_name(line) {
                _ if line.is_empty() => break,
                _ if line.iter().all(|octet| matches!(octet, b' ' | b'\t')) => {
                    fixes.push(Fix::one(name_of(index), at..at + whole.len(), ""));
                }
                _ if is_fold && is_open => {}
                Some(name) if !is_fold => {
                    let colon = memchr::memchr(b':', line).unwrap_or(name);
                    if name < colon {
                        fixes.push(Fix::one(name_of(index), at + name..at + colon, ""));
                    }
                    is_open = true;
                }
                _ => {
                    fixes.push(Fix::one(name_of(index), at..at, INVALID));
                    is_open = true;
                }
            }
            at += whole.len();
        }
    }
    Ok(fixes)
}

/// Fields that a message has once (RFC 5322 section 3.6).
const ONCE: [&str; 11] = [
    "Date",
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Bcc",
    "Message-ID",
    "In-Reply-To",
    "References",
    "Subject",
];
/// Fields that a part has once (RFC 2045 section 3, RFC 2183 section 2).
const ONCE_A_PART: [&str; 6] = [
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-ID",
    "Content-Description",
    "Content-Disposition",
];

/// All but the first of each go: the first is what most readers show, and what services look at.
pub(super) fn doubled(view: &View<'_>) -> Result<Vec<Fix>, SpoolError> {
    let mut fixes = Vec::new();
    for part in view.parts()? {
        let of_message: &[&'static str] = if part.parent.is_none() { &ONCE } else { &[] };
        for name in ONCE_A_PART.iter().chain(of_message) {
            let fields = part.fields.iter().filter(|field| field.is_named(name));
            fixes.extend(fields.skip(1).map(|field| Fix::one(*name, field.whole.clone(), "")));
        }
    }
    Ok(fixes)
}

/// The date of a message that has none is the time when it was seen here (RFC 5322 section 3.6.1).
pub(super) fn date(view: &View<'_>) -> Result<Vec<Fix>, SpoolError> {
    missing(view, "Date", || {
        let now = DateTime::from_timestamp(i64::try_from(now()).unwrap_or_default());
        Some(now.to_rfc822())
    })
}

/// An identifier of our own (RFC 5322 section 3.6.4).
pub(super) fn message_id(view: &View<'_>) -> Result<Vec<Fix>, SpoolError> {
    missing(view, "Message-ID", || {
        let server = view.request.dialog.server_name.as_deref();
        let server = server.and_then(|name| std::str::from_utf8(name).ok());
        let domain = view.settings.domain.as_deref().or(server);
        let domain = domain.filter(|domain| domain.is_ascii() && is_domain(domain));
        let domain = domain.unwrap_or("localhost");
        Some(format!("<{:x}.{:016x}@{domain}>", now(), fastrand::u64(..)))
    })
}

/// The author is the envelope's sender, if there is one that a field can hold.
pub(super) fn from(view: &View<'_>) -> Result<Vec<Fix>, SpoolError> {
    missing(view, "From", || {
        let mailbox = view.request.envelope.sender.as_ref()?.mailbox();
        let mailbox = Mailbox::parse(mailbox).filter(|mailbox| mailbox.written.is_ascii())?;
        Some(format!("<{}>", mailbox.written))
    })
}

/// Fields that describe the content mean nothing without this one (RFC 2045 section 4).
pub(super) fn mime_version(view: &View<'_>) -> Result<Vec<Fix>, SpoolError> {
    let describes = |field: &Field| ONCE_A_PART.iter().any(|name| field.is_named(name));
    match view.mail.fields().iter().any(describes) {
        true => missing(view, "MIME-Version", || Some("1.0".to_owned())),
        false => Ok(Vec::new()),
    }
}

fn missing(
    view: &View<'_>,
    name: &'static str,
    value: impl FnOnce() -> Option<String>,
) -> Result<Vec<Fix>, SpoolError> {
    let (None, Some(message)) = (view.mail.field(name), view.parts()?.first()) else {
        return Ok(Vec::new());
    };
    let at = new_field_at(view.mail, message);
    let end = view.mail.line_ending();
    Ok(vec![match value() {
        Some(value) => Fix::one(name, at..at, format!("{name}: {value}{end}")),
        None => Fix::none(name),
    }])
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A field's name, for people.
pub(super) fn shown(field: &Field) -> Cow<'static, str> {
    const LONGEST: usize = 64;
    let name = field.raw_name();
    String::from_utf8_lossy(name.get(..name.len().min(LONGEST)).unwrap_or_default())
        .into_owned()
        .into()
}

/// How the value of a field is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Text (RFC 5322 section 2.2.1).
    Text,
    /// Addresses, with names before them and comments.
    Addresses,
    /// Something, and parameters (RFC 2045 section 5.1).
    Parameters,
    /// Something else, in which people are told something in comments only.
    Other,
}

/// How this field is read.
pub(super) fn form(field: &Field) -> Form {
    const ADDRESSES: [&str; 17] = [
        "From",
        "Sender",
        "Reply-To",
        "To",
        "Cc",
        "Bcc",
        "Resent-From",
        "Resent-Sender",
        "Resent-Reply-To",
        "Resent-To",
        "Resent-Cc",
        "Resent-Bcc",
        "Disposition-Notification-To",
        "Return-Receipt-To",
        "Errors-To",
        "Mail-Followup-To",
        "Mail-Reply-To",
    ];
    const OTHER: [&str; 15] = [
        "Return-Path",
        "Received",
        "Date",
        "Resent-Date",
        "Message-ID",
        "Resent-Message-ID",
        "In-Reply-To",
        "References",
        "MIME-Version",
        "Content-Transfer-Encoding",
        "Content-ID",
        "DKIM-Signature",
        "Authentication-Results",
        "Received-SPF",
        "Auto-Submitted",
    ];
    const OTHER_STARTS: [&[u8]; 2] = [b"ARC-", b"List-"];
    let is_one_of = |names: &[&str]| names.iter().any(|name| field.is_named(name));
    let starts_with = |start: &[u8]| {
        field.raw_name().get(..start.len()).is_some_and(|name| name.eq_ignore_ascii_case(start))
    };
    if is_one_of(&ADDRESSES) {
        Form::Addresses
    } else if is_one_of(&["Content-Type", "Content-Disposition"]) {
        Form::Parameters
    } else if is_one_of(&OTHER) || OTHER_STARTS.iter().any(|start| starts_with(start)) {
        Form::Other
    } else {
        Form::Text
    }
}

/// The fields of all parts, those of the message first.
pub(super) fn all(parts: &[Part]) -> impl Iterator<Item = &Field> {
    parts.iter().flat_map(|part| &part.fields)
}
