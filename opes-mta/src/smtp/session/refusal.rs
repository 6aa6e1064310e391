//! What may not come, and what may not be answered.

use crate::smtp::command::InvalidCommand;
use crate::smtp::line::InvalidLine;

/// Something that a client may not say, or not now. The text is the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A line without an end.
    #[error("500 5.5.2 Line too long")]
    LineTooLong,
    /// A line of the exchange of AUTH without an end (RFC 4954 section 4).
    #[error("500 5.5.6 Authentication exchange line is too long")]
    AuthLineTooLong,
    /// A bare CR or LF, or NUL.
    #[error("500 5.5.2 Lines end with CRLF, and have no other CR, LF or NUL")]
    LineOctet,
    /// No command.
    #[error("500 5.5.2 Command not recognized")]
    Verb,
    /// Not the arguments that a command has.
    #[error("501 5.5.4 Syntax: {0}")]
    Arguments(&'static str),
    /// BDAT of which nobody knows what follows: the connection ends.
    #[error("501 5.5.4 Syntax: BDAT size [LAST]")]
    UnknownChunk,
    /// The path of MAIL.
    #[error("501 5.1.7 Bad sender address syntax")]
    Sender,
    /// The path of RCPT.
    #[error("501 5.1.3 Bad recipient address syntax")]
    Recipient,
    /// ESMTP parameters.
    #[error("501 5.5.4 Bad parameters")]
    Parameters,
    /// The greeting said that there is no service (RFC 5321 section 3.1).
    #[error("503 5.5.1 No service here, send QUIT")]
    TurnedAway,
    /// HELO or EHLO to LMTP (RFC 2033 section 4.1).
    #[error("500 5.5.1 LMTP begins with LHLO")]
    NotSmtp,
    /// LHLO to SMTP.
    #[error("500 5.5.1 SMTP begins with EHLO")]
    NotLmtp,
    /// This command has to come before.
    #[error("503 5.5.1 Send {0} first")]
    First(&'static str),
    /// MAIL within a message.
    #[error("503 5.5.1 A message has already begun")]
    NestedMail,
    /// Content for nobody (RFC 5321 section 3.3, RFC 2033 section 4.2).
    #[error("503 5.5.1 No valid recipients")]
    NoRecipients,
    /// RFC 5321 section 4.5.3.1.10.
    #[error("452 4.5.3 Too many recipients")]
    TooManyRecipients,
    /// RCPT behind BDAT.
    #[error("503 5.5.1 The content has already begun")]
    ContentBegun,
    /// DATA behind BDAT (RFC 3030 section 2).
    #[error("503 5.5.1 DATA and BDAT do not mix")]
    Mixed,
    /// DATA for what only BDAT can carry (RFC 3030 section 3).
    #[error("503 5.5.1 BINARYMIME comes with BDAT")]
    Binary,
    /// A message of which a chunk was refused (RFC 3030 section 2).
    #[error("503 5.5.1 A chunk was refused, send RSET")]
    ChunkRefused,
    /// A chunk beyond [`Settings::largest_chunk`](super::Settings::largest_chunk).
    #[error("552 5.3.4 Chunk too large")]
    ChunkTooLarge,
    /// A command about the client within a message.
    #[error("503 5.5.1 {0} comes before MAIL")]
    WithinMessage(&'static str),
    /// A second AUTH (RFC 4954 section 4).
    #[error("503 5.5.1 Already authenticated")]
    Authenticated,
    /// A second STARTTLS.
    #[error("503 5.5.1 TLS is already active")]
    Secure,
    /// Something behind STARTTLS that did not wait for TLS: it would be taken for what came within
    /// (CVE-2011-0411). The connection ends.
    #[error("503 5.5.1 Nothing comes behind STARTTLS before TLS")]
    Injected,
}

impl Refusal {
    /// Whether the connection ends with it: what follows could be taken for something else.
    pub fn is_fatal(self) -> bool {
        matches!(self, Self::UnknownChunk | Self::Injected)
    }
}

impl From<InvalidCommand> for Refusal {
    fn from(error: InvalidCommand) -> Self {
        match error {
            InvalidCommand::Verb => Self::Verb,
            InvalidCommand::Arguments(form) => Self::Arguments(form),
            InvalidCommand::Chunk => Self::UnknownChunk,
            InvalidCommand::Sender => Self::Sender,
            InvalidCommand::Recipient => Self::Recipient,
            InvalidCommand::Parameters => Self::Parameters,
        }
    }
}

impl From<InvalidLine> for Refusal {
    fn from(error: InvalidLine) -> Self {
        match error {
            InvalidLine::TooLong => Self::LineTooLong,
            InvalidLine::Octet(_) => Self::LineOctet,
            InvalidLine::Chunk => Self::UnknownChunk,
        }
    }
}

/// An answer of ours that is none here. Nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// The client does not wait for anything.
    #[error("the client waits for no reply")]
    NotAwaited,
    /// A reply that this can't have.
    #[error("{code} is no reply to {to}")]
    Reply {
        /// Its code.
        code: u16,
        /// What is answered.
        to: &'static str,
    },
    /// TLS that was not agreed on.
    #[error("the client was not told to begin TLS")]
    NotTls,
}
