//! What stands in the place of an attachment.

use super::page::{date, octets};
use super::settings::{Checked, Form};
use super::store::{Name, Record};
use crate::content::fill;
use crate::mail::{Edits, Mail, Part, SpoolError};
use crate::notification::text_entity;

/// Puts a link in the place of a part. No octet around it changes.
pub(super) fn replace(
    edits: &mut Edits,
    mail: &Mail,
    part: &Part,
    settings: &Checked,
    (name, record): (Name, &Record),
    password: Option<&str>,
) -> Result<(), SpoolError> {
    let end = mail.line_ending();
    let url = format!("{}{name}", settings.url);
    let (size, until) = (octets(record.octets), date(record.until));
    let filled = |template: &str, file_name: &str| {
        let values = [
            ("{name}", file_name),
            ("{size}", &size),
            ("{until}", &until),
            ("{url}", &url),
            ("{password}", password.unwrap_or_default()),
        ];
        fill(template, &values)
    };
    let text = || text_entity("plain", &filled(&settings.text, &record.file_name), end);
    let html = || text_entity("html", &filled(&settings.html, &escaped(&record.file_name)), end);
    let entity = match settings.form {
        Form::Text => text(),
        Form::Html => html(),
        Form::Both => alternative(&text(), &html(), end),
    };
    edits.replace_entity(mail, part, &entity)
}

/// The same in two forms, the better one last (RFC 2046 section 5.1.4).
fn alternative(text: &str, html: &str, end: &str) -> String {
    // By chance no line of either.
    let boundary = format!("=_{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    format!(
        "Content-Type: multipart/alternative; boundary=\"{boundary}\"{end}{end}\
         --{boundary}{end}{text}{end}--{boundary}{end}{html}{end}--{boundary}--"
    )
}

/// A text in HTML, in an attribute too.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}
