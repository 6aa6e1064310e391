//! What we answer (`SMFIR_*`).

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::command::is_field_name;
use super::modification::Modification;
use super::options::Actions;
use super::packet::{encode, put_string};

/// Octets of a body in one packet, at most (`MILTER_CHUNK_SIZE`).
pub const BODY_CHUNK: usize = 65_535;

/// Octets of any other packet, at most: sendmail takes no more (`MILTER_MAX_DATA_SIZE`).
pub const MAXIMUM_DATA: usize = 65_535;

/// Lines of a reply, at most, as in libmilter.
pub const MAXIMUM_LINES: usize = 32;

/// Octets of a line of a reply, at most, as in libmilter.
pub const MAXIMUM_LINE: usize = 980;

/// The answer to a stage; there is one to each that is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on (`SMFIR_CONTINUE`).
    Continue,
    /// Take the rest of the message, or of the connection, without asking (`SMFIR_ACCEPT`).
    Accept,
    /// Refuse for good, in the MTA's words (`SMFIR_REJECT`).
    Reject,
    /// Refuse for now, in the MTA's words (`SMFIR_TEMPFAIL`).
    Tempfail,
    /// Say yes and throw the message away (`SMFIR_DISCARD`).
    Discard,
    /// Refuse in our words (`SMFIR_REPLYCODE`).
    Reply(Reply),
    /// No more pieces of this body (`SMFIR_SKIP`).
    Skip,
    /// 421, and the client's connection ends (`SMFIR_SHUTDOWN`). Postfix does so; to sendmail it is an
    /// error of ours.
    Shutdown,
    /// We have failed (`SMFIR_CONN_FAIL`): to Postfix and sendmail an error of ours, so what they are
    /// configured to do without us (`milter_default_action`, `F=`) happens.
    ConnectionFailure,
}

impl Decision {
    /// What it is, for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::Accept => "accept",
            Self::Reject => "reject",
            Self::Tempfail => "tempfail",
            Self::Discard => "discard",
            Self::Reply(_) => "a reply",
            Self::Skip => "skip",
            Self::Shutdown => "shutdown",
            Self::ConnectionFailure => "a connection failure",
        }
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        let letter = match self {
            Self::Continue => b'c',
            Self::Accept => b'a',
            Self::Reject => b'r',
            Self::Tempfail => b't',
            Self::Discard => b'd',
            Self::Skip => b's',
            Self::Shutdown => b'4',
            Self::ConnectionFailure => b'f',
            Self::Reply(reply) => return encode(out, b'y', |out| reply.write(out)),
        };
        encode(out, letter, |_| {});
    }
}

/// Appends a sign that we are still at work (`SMFIR_PROGRESS`).
pub(super) fn encode_progress(out: &mut BytesMut) {
    encode(out, b'p', |_| {});
}

/// A refusal that MTAs pass on as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    lines: Vec<Bytes>,
}

impl Reply {
    /// A reply of this code, 400 to 599. Each line starts with the enhanced status code, if there is to
    /// be one.
    ///
    /// # Errors
    /// What no MTA takes, or what could be read as something else.
    pub fn new(code: u16, lines: Vec<Bytes>) -> Result<Self, InvalidReply> {
        if !(400..600).contains(&code) {
            return Err(InvalidReply::Code(code));
        }
        if !(1..=MAXIMUM_LINES).contains(&lines.len()) {
            return Err(InvalidReply::Lines(lines.len()));
        }
        for (index, line) in lines.iter().enumerate() {
            let number = index + 1;
            if line.len() > MAXIMUM_LINE {
                return Err(InvalidReply::Long { number, octets: line.len() });
            }
            if let Some(octet) = line.iter().copied().find(|octet| is_control(*octet)) {
                return Err(InvalidReply::Control { number, octet });
            }
            // Postfix takes a digit there for the enhanced status code (milter8_valid_smtp_reply).
            let class = b'0' + u8::try_from(code / 100).unwrap_or_default();
            if line.first().is_some_and(|first| first.is_ascii_digit() && *first != class) {
                return Err(InvalidReply::Class { number });
            }
        }
        Ok(Self { code, lines })
    }

    /// Its code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The lines of an SMTP reply, with CRLF between them. Both MTAs want `%` doubled: it is a format to
    /// sendmail.
    fn write(&self, out: &mut BytesMut) {
        for (index, line) in self.lines.iter().enumerate() {
            if index > 0 {
                out.put_slice(b"\r\n");
            }
            out.put_slice(self.code.to_string().as_bytes());
            out.put_u8(if index + 1 == self.lines.len() { b' ' } else { b'-' });
            for octet in line {
                if *octet == b'%' {
                    out.put_u8(b'%');
                }
                out.put_u8(*octet);
            }
        }
        out.put_u8(0);
    }
}

impl fmt::Display for Reply {
    /// The code, and the lines, joined by ` / `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.lines.iter().enumerate() {
            let joint = if index > 0 { " / " } else { "" };
            write!(f, "{joint}{} {}", self.code, String::from_utf8_lossy(line))?;
        }
        Ok(())
    }
}

/// A reply that can't be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReply {
    /// No refusal.
    #[error("a milter's reply has a code from 400 to 599, not {0}")]
    Code(u16),
    /// Too many lines, or none.
    #[error("a reply of {0} lines; 1 to {MAXIMUM_LINES} are allowed")]
    Lines(usize),
    /// A line beyond [`MAXIMUM_LINE`].
    #[error("line {number} of a reply has {octets} octets; {MAXIMUM_LINE} are allowed")]
    Long {
        /// Which line, from 1 on.
        number: usize,
        /// Its length.
        octets: usize,
    },
    /// CR, LF, NUL or the like.
    #[error("line {number} of a reply has the control character 0x{octet:02x}")]
    Control {
        /// Which line, from 1 on.
        number: usize,
        /// The character.
        octet: u8,
    },
    /// Something that looks like the enhanced status code of another code.
    #[error(
        "line {number} of a reply starts with another digit than its code, which Postfix refuses"
    )]
    Class {
        /// Which line, from 1 on.
        number: usize,
    },
}

/// All but HT, which may stand in texts.
fn is_control(octet: u8) -> bool {
    octet != b'\t' && (octet < b' ' || octet == 0x7f)
}

impl Modification {
    /// What the MTA has to allow for it.
    pub fn action(&self) -> Actions {
        match self {
            Self::AddRecipient { arguments: None, .. } => Actions::ADD_RECIPIENTS,
            Self::AddRecipient { .. } => Actions::ADD_RECIPIENTS_WITH_ARGUMENTS,
            Self::DeleteRecipient { .. } => Actions::DELETE_RECIPIENTS,
            Self::ChangeSender { .. } => Actions::CHANGE_SENDER,
            Self::AddField { .. } | Self::InsertField { .. } => Actions::ADD_FIELDS,
            Self::ChangeField { .. } => Actions::CHANGE_FIELDS,
            Self::ReplaceBody(_) => Actions::REPLACE_BODY,
            Self::Quarantine(_) => Actions::QUARANTINE,
        }
    }

    /// Appends it: a body in as many packets as it takes, anything else in one.
    pub(super) fn encode(&self, out: &mut BytesMut) -> Result<(), InvalidModification> {
        self.check()?;
        match self {
            Self::AddRecipient { address, arguments } => match arguments {
                None => encode(out, b'+', |out| put_string(out, address)),
                Some(arguments) => encode(out, b'2', |out| {
                    put_string(out, address);
                    put_string(out, arguments);
                }),
            },
            Self::DeleteRecipient { address } => encode(out, b'-', |out| put_string(out, address)),
            Self::ChangeSender { address, arguments } => encode(out, b'e', |out| {
                put_string(out, address);
                arguments.iter().for_each(|arguments| put_string(out, arguments));
            }),
            Self::AddField { name, value } => encode(out, b'h', |out| {
                put_string(out, name);
                put_string(out, value);
            }),
            Self::InsertField { index, name, value } => {
                encode_field(out, b'i', *index, name, value)
            }
            Self::ChangeField { index, name, value } => {
                encode_field(out, b'm', *index, name, value)
            }
            Self::ReplaceBody(octets) if octets.is_empty() => encode(out, b'b', |_| {}),
            Self::ReplaceBody(octets) => octets
                .chunks(BODY_CHUNK)
                .for_each(|chunk| encode(out, b'b', |out| out.put_slice(chunk))),
            Self::Quarantine(reason) => encode(out, b'q', |out| put_string(out, reason)),
        }
        Ok(())
    }

    /// Nothing that the MTA could read as something else: it writes what it gets into the message and
    /// into its queue.
    fn check(&self) -> Result<(), InvalidModification> {
        match self {
            Self::AddRecipient { address, arguments }
            | Self::ChangeSender { address, arguments } => {
                check_line("address", address, arguments.as_ref().map_or(0, Bytes::len))?;
                arguments.iter().try_for_each(|text| check_line("argument", text, address.len()))
            }
            Self::DeleteRecipient { address } => check_line("address", address, 0),
            Self::AddField { name, value } => check_field(0, name, value),
            Self::InsertField { index, name, value } | Self::ChangeField { index, name, value } => {
                check_field(*index, name, value)
            }
            Self::ReplaceBody(_) => Ok(()),
            Self::Quarantine(reason) => check_line("reason of a quarantine", reason, 0),
        }
    }
}

fn encode_field(out: &mut BytesMut, letter: u8, index: u32, name: &[u8], value: &[u8]) {
    encode(out, letter, |out| {
        out.put_u32(index);
        put_string(out, name);
        put_string(out, value);
    });
}

/// A text in one line, which stands in a packet with `others` octets more.
fn check_line(what: &'static str, text: &[u8], others: usize) -> Result<(), InvalidModification> {
    if text.is_empty() && what != "argument" {
        return Err(InvalidModification::Empty(what));
    }
    if let Some(octet) = text.iter().copied().find(|octet| is_control(*octet)) {
        return Err(InvalidModification::Control { what, octet });
    }
    check_size(what, text.len() + others)
}

fn check_field(index: u32, name: &[u8], value: &[u8]) -> Result<(), InvalidModification> {
    if index > i32::MAX.unsigned_abs() - 1 {
        return Err(InvalidModification::Index(index));
    }
    if !is_field_name(name) {
        return Err(InvalidModification::FieldName);
    }
    if let Some(octet) = value.iter().copied().find(|octet| matches!(octet, b'\0' | b'\r')) {
        return Err(InvalidModification::Control { what: "value of a header field", octet });
    }
    for end in memchr::memchr_iter(b'\n', value) {
        if !matches!(value.get(end + 1), Some(b' ' | b'\t')) {
            return Err(InvalidModification::NotFolded);
        }
    }
    check_size("header field", name.len() + value.len())
}

/// Four octets of an index and two NULs may stand beside the octets that are counted.
fn check_size(what: &'static str, octets: usize) -> Result<(), InvalidModification> {
    if octets > MAXIMUM_DATA - 6 {
        return Err(InvalidModification::Long { what, octets });
    }
    Ok(())
}

/// A modification that can't be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidModification {
    /// Nothing where something has to be.
    #[error("an empty {0}")]
    Empty(&'static str),
    /// CR, LF, NUL or the like.
    #[error("the control character 0x{octet:02x} in the {what}")]
    Control {
        /// Where.
        what: &'static str,
        /// The character.
        octet: u8,
    },
    /// No name, or one with a colon, a blank or a control character.
    #[error("the name of a header field has visible characters only, and no colon")]
    FieldName,
    /// A line end that would begin another field.
    #[error("a line end in the value of a header field without a blank or a tab behind it")]
    NotFolded,
    /// An index that MTAs take for a negative one.
    #[error("{0} is no index of a header field")]
    Index(u32),
    /// More than a packet holds.
    #[error("{octets} octets in one {what}; {} are allowed", MAXIMUM_DATA - 6)]
    Long {
        /// What is too long.
        what: &'static str,
        /// Its length.
        octets: usize,
    },
}

#[cfg(test)]
mod tests;
