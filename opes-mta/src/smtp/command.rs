//! What a client says (RFC 5321 section 4.1, and the extensions).

mod parse;

use std::fmt;

use bytes::Bytes;
use ocp_proto::smtp::{Address, CommandLine};

use super::bdat::Chunk;

pub use parse::InvalidCommand;
pub(crate) use parse::xtext;

/// A command line and what it means.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    line: Bytes,
    /// What it means.
    pub command: Command,
}

impl Request {
    /// The octets as they came, without CRLF: for the next hop alone, since AUTH may have a secret in it.
    pub fn octets(&self) -> &Bytes {
        &self.line
    }

    /// The line for everybody else: without an initial response of AUTH (profile section 4). `None` if
    /// that is beyond [`CommandLine::LONGEST`].
    pub fn line(&self) -> Option<CommandLine> {
        match &self.command {
            Command::Auth { mechanism, .. } => {
                CommandLine::new([b"AUTH ", &mechanism[..]].concat()).ok()
            }
            _ => CommandLine::new(self.line.clone()).ok(),
        }
    }
}

impl fmt::Debug for Request {
    /// The command; the line may have a secret in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.command.fmt(f)
    }
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// HELO, EHLO or LHLO.
    Hello {
        /// Which of them.
        verb: Hello,
        /// The name that the client gave itself.
        name: Bytes,
    },
    /// STARTTLS (RFC 3207).
    StartTls,
    /// AUTH (RFC 4954).
    Auth {
        /// The mechanism, upper case.
        mechanism: Bytes,
        /// Whether there is an initial response. It is a secret, and stays in [`Request::octets`].
        has_initial_response: bool,
    },
    /// MAIL.
    Mail(Path),
    /// RCPT.
    Rcpt(Path),
    /// DATA.
    Data,
    /// BDAT, before its octets (RFC 3030).
    Bdat(Chunk),
    /// RSET.
    Rset,
    /// VRFY and what it asks about.
    Vrfy(Bytes),
    /// EXPN and what it asks about.
    Expn(Bytes),
    /// HELP and its argument, which may be empty.
    Help(Bytes),
    /// NOOP and its argument, which may be empty.
    Noop(Bytes),
    /// QUIT.
    Quit,
    /// XCLIENT of Postfix: who the client is that this peer speaks for from now on.
    Xclient(Vec<Attribute>),
    /// XFORWARD of Postfix: who sent the message to this peer.
    Xforward(Vec<Attribute>),
    /// Any other verb, upper case.
    Other(Bytes),
}

impl Command {
    /// What it is, for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello { verb: Hello::Helo, .. } => "HELO",
            Self::Hello { verb: Hello::Ehlo, .. } => "EHLO",
            Self::Hello { verb: Hello::Lhlo, .. } => "LHLO",
            Self::StartTls => "STARTTLS",
            Self::Auth { .. } => "AUTH",
            Self::Mail(_) => "MAIL",
            Self::Rcpt(_) => "RCPT",
            Self::Data => "DATA",
            Self::Bdat(_) => "BDAT",
            Self::Rset => "RSET",
            Self::Vrfy(_) => "VRFY",
            Self::Expn(_) => "EXPN",
            Self::Help(_) => "HELP",
            Self::Noop(_) => "NOOP",
            Self::Quit => "QUIT",
            Self::Xclient(_) => "XCLIENT",
            Self::Xforward(_) => "XFORWARD",
            Self::Other(_) => "an unknown command",
        }
    }
}

/// How a client says who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    /// HELO: without extensions.
    Helo,
    /// EHLO.
    Ehlo,
    /// LHLO: the one of LMTP (RFC 2033 section 4.1).
    Lhlo,
}

/// The path of MAIL or RCPT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The path without source route, and the ESMTP parameters.
    pub address: Address,
    /// The source route that was in front of the mailbox, without its colon, such as `@one,@two`; mostly
    /// empty. It is obsolete (RFC 5321 appendix C).
    pub route: Bytes,
}

impl Path {
    /// The ESMTP parameters: keywords, each of which is there once, and values, where they have one.
    pub fn parameters(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.address.parameters.iter().map(|parameter| keyword_and_value(parameter))
    }

    /// Whether this keyword is there, in upper or lower case, and its value if it has one.
    pub fn parameter(&self, keyword: &str) -> Option<Option<&[u8]>> {
        let keyword = keyword.as_bytes();
        self.parameters().find(|(known, _)| known.eq_ignore_ascii_case(keyword)).map(|(_, v)| v)
    }
}

fn keyword_and_value(parameter: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'=', parameter) {
        Some(at) => (parameter.get(..at).unwrap_or_default(), parameter.get(at + 1..)),
        None => (parameter, None),
    }
}

/// One attribute of XCLIENT or XFORWARD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Its name, upper case.
    pub name: Bytes,
    /// Its value, whose xtext (RFC 3461 section 4) is decoded: it has no control characters. `[UNAVAILABLE]`
    /// and `[TEMPUNAVAIL]` are values like others.
    pub value: Bytes,
}

/// A line of the exchange that AUTH begins: for the next hop alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Bytes);

impl Secret {
    pub(super) fn new(line: Bytes) -> Self {
        Self(line)
    }

    /// The octets as they came, without CRLF.
    pub fn octets(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} octets)", self.0.len())
    }
}

#[cfg(test)]
mod tests;
