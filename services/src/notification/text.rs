//! A small mail of plain text.

use std::time::{SystemTime, UNIX_EPOCH};

use mail_parser::DateTime;
use ocp_proto::smtp::Address;

use super::{Notification, NotificationError};
use crate::mail::{encode_base64, encoded_words};

/// A small mail of plain text, as most notifications are.
///
/// ```
/// use std::time::SystemTime;
///
/// use ocp_proto::smtp::Address;
/// use services::{Finding, Outcome, ServiceError, TextMail};
///
/// # fn example(filter: Address, ann: Address) -> Result<Outcome, ServiceError> {
/// let mail = TextMail {
///     from: filter,
///     to: vec![ann],
///     subject: "Ein Virus für Sie".to_owned(),
///     text: "It was not delivered.\n".to_owned(),
///     date: SystemTime::now(),
/// };
/// Ok(Outcome::unchanged(Finding::new("infected")).with_notification(mail.notification()?))
/// # }
/// # let address = |path: &'static str| Address::new(path).unwrap();
/// # example(address("<filter@example.org>"), address("<ann@example.org>")).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextMail {
    /// Its author, for the field From. The envelope's sender is null whoever that is.
    pub from: Address,
    /// Whom it goes to, and whom the field To names.
    pub to: Vec<Address>,
    /// What it is about: one line; control characters become blanks.
    pub subject: String,
    /// What it says, with line ends of any kind; other control characters than tabs become blanks.
    pub text: String,
    /// When that was written.
    pub date: SystemTime,
}

/// The longest subject that stands there as it is: with the name of its field 76 characters.
const PLAIN_SUBJECT: usize = 67;

impl TextMail {
    /// The mail with its header section: From, To, Subject, Date, a Message-ID of its own, and what the text's encoding is.
    ///
    /// # Errors
    /// If the author is null; see [`Notification::new`].
    pub fn notification(self) -> Result<Notification, NotificationError> {
        if self.from.is_null() {
            return Err(NotificationError::Author);
        }
        let seconds = self.date.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let date = DateTime::from_timestamp(i64::try_from(seconds).unwrap_or_default());
        let domain = self.from.local_and_domain().map_or(&b"localhost"[..], |(_, domain)| domain);
        let (encoding, body) = encoded(&self.text);
        let to: Vec<&[u8]> = self.to.iter().map(|address| &**address.path()).collect();
        let id = format!("<{seconds:x}.{:016x}@", fastrand::u64(..));
        let fields = [
            ("From", self.from.path().to_vec()),
            ("To", to.join(&b",\r\n "[..])),
            ("Subject", subject(&self.subject).into()),
            ("Date", date.to_rfc822().into()),
            ("Message-ID", [id.as_bytes(), domain, b">"].concat()),
            ("MIME-Version", b"1.0".to_vec()),
            ("Content-Type", b"text/plain; charset=utf-8".to_vec()),
            ("Content-Transfer-Encoding", encoding.into()),
        ];
        let mut header = Vec::new();
        for (name, value) in fields {
            header.extend([name.as_bytes(), b": ", &value, b"\r\n"].concat());
        }
        header.extend_from_slice(b"\r\n");
        Notification::new(self.to, header, body)
    }
}

/// The value of a field: as it is, or in encoded words.
fn subject(text: &str) -> String {
    let text = text.replace(char::is_control, " ");
    let text = text.trim();
    if text.is_ascii() && text.len() <= PLAIN_SUBJECT && !text.contains("=?") {
        return text.to_owned();
    }
    encoded_words(text).join("\r\n ")
}

/// A text, `plain` or `html`, as a part of a message: its fields, an empty line, and the text without the end of its last line.
pub(crate) fn text_entity(subtype: &str, text: &str, end: &str) -> String {
    let (encoding, body) = encoded(text);
    let body = body.trim_end().replace("\r\n", end);
    format!(
        "Content-Type: text/{subtype}; charset=utf-8{end}Content-Disposition: inline{end}\
         Content-Transfer-Encoding: {encoding}{end}{end}{body}"
    )
}

/// The name of an encoding that any next hop takes, and the text in it.
fn encoded(text: &str) -> (&'static str, String) {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let is_plain = |line: &str| line.is_ascii() && line.len() <= Notification::LONGEST_LINE;
    let line = |line: &str| line.replace(|c: char| c.is_control() && c != '\t', " ") + "\r\n";
    let lines: String = text.split('\n').map(line).collect();
    match lines.lines().all(is_plain) {
        true => ("7bit", lines),
        false => ("base64", encode_base64(lines.as_bytes()) + "\r\n"),
    }
}
