//! New messages that services want to have submitted (profile section 5).

mod text;

use bytes::Bytes;
use ocp_proto::smtp::{Address, Part};
use ocp_proto::wire::Atom;

pub use self::text::TextMail;
pub(crate) use self::text::text_entity;
use crate::mail::{Field, Mail, header_length};
use crate::service::ServiceError;

/// A new message that a service wants to have submitted, whatever becomes of the event: an alert, an answer to the
/// sender. [`TextMail`] makes one of a subject and a text.
///
/// It goes out if the message that it is about is taken, or refused for good, be it by another service; not if
/// that is put off, or if the next hop refuses it. Nobody hears what becomes of it: its sender is null unless
/// [`Notification::with_sender`] says otherwise, so that nothing answers it, and where it can't be delivered it ends.
///
/// What a service answers may depend on what a stranger sent, so that it can be made to send mail: it notifies people
/// whom it knows, and a message's sender only where it has reason to believe that it is the sender. A message with a null
/// sender, or one that is marked `Auto-Submitted`, it does not answer (RFC 3834 section 2).
///
/// ```
/// use bytes::Bytes;
/// use ocp_proto::smtp::Address;
/// use services::Notification;
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let header = "From: <filter@example.org>\r\nTo: <ann@example.org>\r\nSubject: A virus\r\n\
///               Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n\r\n";
/// let ann = Address::new("<ann@example.org>")?;
/// let notification = Notification::new(vec![ann], header, "It was not delivered.\r\n")?;
/// assert!(notification.sender().is_null());
/// assert!(notification.header().ends_with(b"\r\nAuto-Submitted: auto-generated\r\n\r\n"));
/// # Ok(())
/// # }
/// # example().unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    sender: Address,
    recipients: Vec<Address>,
    header: Bytes,
    body: Bytes,
}

impl Notification {
    /// The most octets that one has. Worst case an answer of a service: [`Notification::MOST`] times as many, 8 MiB.
    pub const LARGEST: usize = 1024 * 1024;

    /// The most that one answer of a service has.
    pub const MOST: usize = 8;

    /// The most recipients that one has.
    pub const MOST_RECIPIENTS: usize = 100;

    /// The longest line, without its line end (RFC 5322 section 2.1.1).
    pub const LONGEST_LINE: usize = 998;

    /// A message from the null sender. The header section has the empty line that ends it, and fields From, Date and
    /// Message-ID: those are the service's. One without `Auto-Submitted` (RFC 3834 section 5) gets it, as
    /// `auto-generated`.
    ///
    /// # Errors
    /// Without recipients, or with too many or a null one; if it is too large; if a line is too long, does not end with
    /// CRLF, or holds NUL; if the header section does not end where it should, has a line that belongs to no field, or
    /// says `Auto-Submitted: no`.
    pub fn new(
        recipients: Vec<Address>,
        header: impl Into<Bytes>,
        body: impl Into<Bytes>,
    ) -> Result<Self, NotificationError> {
        let (header, body) = (header.into(), body.into());
        let is_possible = (1..=Self::MOST_RECIPIENTS).contains(&recipients.len());
        if !is_possible || recipients.iter().any(Address::is_null) {
            return Err(NotificationError::Recipients);
        }
        check_lines(Part::MessageHeader, &header)?;
        check_lines(Part::MessageBody, &body)?;
        let header = marked(check_fields(header)?)?;
        let octets = header.len() + body.len();
        if octets > Self::LARGEST {
            return Err(NotificationError::TooLarge(octets));
        }
        let notification = Self { sender: Address::null(), recipients, header, body };
        Ok(notification.with_sender(&Address::null()))
    }

    /// The same from another sender, who gets what becomes of it. The address's parameters are passed over: the message
    /// says by itself what it needs (`BODY=8BITMIME`, `SMTPUTF8`).
    pub fn with_sender(mut self, sender: &Address) -> Self {
        let has_ascii = |address: &Address| address.path().is_ascii();
        let is_international =
            !(self.header.is_ascii() && has_ascii(sender) && self.recipients.iter().all(has_ascii));
        let mut parameters = Vec::new();
        if is_international || !self.body.is_ascii() {
            parameters.push(Atom::from_static(b"BODY=8BITMIME"));
        }
        if is_international {
            parameters.push(Atom::from_static(b"SMTPUTF8"));
        }
        self.sender = sender.clone();
        self.sender.parameters = parameters;
        self
    }

    /// Whom it is from, for the envelope.
    pub fn sender(&self) -> &Address {
        &self.sender
    }

    /// Whom it goes to.
    pub fn recipients(&self) -> &[Address] {
        &self.recipients
    }

    /// The header section, with the empty line that ends it.
    pub fn header(&self) -> &Bytes {
        &self.header
    }

    /// The rest.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

/// Lines that every SMTP peer reads alike.
fn check_lines(part: Part, octets: &[u8]) -> Result<(), NotificationError> {
    for line in octets.split_inclusive(|octet| *octet == b'\n') {
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        if let Some(&octet) = line.iter().find(|octet| matches!(octet, 0 | b'\r' | b'\n')) {
            return Err(NotificationError::Octet { part, octet });
        }
        if line.len() > Notification::LONGEST_LINE {
            return Err(NotificationError::Line { part, octets: line.len() });
        }
    }
    Ok(())
}

/// Fields and the empty line behind them, and nothing else (RFC 5322 section 2.2).
fn check_fields(header: Bytes) -> Result<Mail, NotificationError> {
    if header_length(&header) != header.len() || !header.ends_with(b"\r\n\r\n") {
        return Err(NotificationError::HeaderEnd);
    }
    let end = header.len() - 2;
    let mail = Mail::new(header, Bytes::new());
    let mut at = 0;
    for field in mail.fields() {
        if field.whole.start != at || field.name.end != field.value.start - 1 {
            break;
        }
        at = field.whole.end;
    }
    if at != end {
        return Err(NotificationError::Field);
    }
    Ok(mail)
}

/// The header section with the field that keeps others from answering.
fn marked(mail: Mail) -> Result<Bytes, NotificationError> {
    const FIELD: &str = "Auto-Submitted";
    let header = mail.header();
    let says_no = |field: &Field| {
        let text = field.text();
        let word = text.split([';', '(']).next().unwrap_or_default();
        word.trim().eq_ignore_ascii_case("no")
    };
    if mail.fields_named(FIELD).any(says_no) {
        return Err(NotificationError::NotAutomatic);
    }
    if mail.field(FIELD).is_some() {
        return Ok(header.clone());
    }
    let fields = header.get(..header.len() - 2).unwrap_or_default();
    Ok([fields, FIELD.as_bytes(), b": auto-generated\r\n\r\n"].concat().into())
}

/// What is wrong with a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotificationError {
    /// Nobody, too many, or null.
    #[error(
        "a notification has 1 to {} recipients, none of them null",
        Notification::MOST_RECIPIENTS
    )]
    Recipients,
    /// Too many octets.
    #[error("a notification has at most {most} octets, not {0}", most = Notification::LARGEST)]
    TooLarge(usize),
    /// NUL, or CR or LF alone.
    #[error("octet 0x{octet:02x} is not allowed in a line of the {}", .part.name())]
    Octet {
        /// Where it stands.
        part: Part,
        /// The octet.
        octet: u8,
    },
    /// A line too long.
    #[error(
        "a line of the {} has at most {} octets, not {octets} (RFC 5322 section 2.1.1)",
        .part.name(),
        Notification::LONGEST_LINE
    )]
    Line {
        /// Where it stands.
        part: Part,
        /// Its octets.
        octets: usize,
    },
    /// A header section that ends too early or not at all.
    #[error("the header section does not end with its first empty line, behind a field")]
    HeaderEnd,
    /// A line of the header section that belongs to no field.
    #[error("a line of the header section belongs to no field")]
    Field,
    /// A message that says nobody's program has made it.
    #[error("a notification does not say Auto-Submitted: no (RFC 3834 section 5)")]
    NotAutomatic,
    /// No author.
    #[error("a notification has an author, who has an address")]
    Author,
}

impl From<NotificationError> for ServiceError {
    fn from(error: NotificationError) -> Self {
        Self::new("notification", error)
    }
}

#[cfg(test)]
mod tests;
