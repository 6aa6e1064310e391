//! The events of a dialog: commands, content, and the parts they are made of (profile sections 2
//! and 4).

use std::fmt;

use crate::wire::Atom;
use bytes::Bytes;

/// Which event of a dialog a transaction is about.
///
/// On the wire an upper-case verb. HELO stands for HELO, EHLO and LHLO together; [`Connect`] and
/// [`Message`] are no SMTP commands: the start of the dialog and the content that follows DATA or
/// comes with BDAT.
///
/// [`Connect`]: Command::Connect
/// [`Message`]: Command::Message
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// The peer connected.
    Connect,
    /// HELO, EHLO or LHLO.
    Helo,
    /// STARTTLS.
    StartTls,
    /// AUTH, without its secrets.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA or the first BDAT, before any content.
    Data,
    /// The content.
    Message,
    /// RSET.
    Rset,
    /// VRFY.
    Vrfy,
    /// EXPN.
    Expn,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
    /// The banner; the reply profile only.
    Greeting,
    /// Any other verb, upper case.
    Other(Atom),
}

/// Every command with a name of its own.
const NAMED: [(&str, Command); 14] = [
    ("CONNECT", Command::Connect),
    ("HELO", Command::Helo),
    ("STARTTLS", Command::StartTls),
    ("AUTH", Command::Auth),
    ("MAIL", Command::Mail),
    ("RCPT", Command::Rcpt),
    ("DATA", Command::Data),
    ("MESSAGE", Command::Message),
    ("RSET", Command::Rset),
    ("VRFY", Command::Vrfy),
    ("EXPN", Command::Expn),
    ("NOOP", Command::Noop),
    ("QUIT", Command::Quit),
    ("GREETING", Command::Greeting),
];

impl Command {
    /// The command of this name, or `None` unless it is 1 to 64 upper-case letters, digits, `-`
    /// and `_`, the first a letter.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        if let Some((_, command)) = NAMED.iter().find(|(text, _)| text.as_bytes() == name) {
            return Some(command.clone());
        }
        let plausible = name.len() <= 64
            && name.first().is_some_and(u8::is_ascii_uppercase)
            && name.iter().all(|octet| {
                octet.is_ascii_uppercase() || octet.is_ascii_digit() || matches!(octet, b'-' | b'_')
            });
        plausible.then(|| Self::Other(name.into()))
    }

    /// Every command that has a name of its own here.
    pub fn named() -> impl Iterator<Item = Self> {
        NAMED.iter().map(|(_, command)| command.clone())
    }

    /// The name on the wire.
    pub fn name(&self) -> &str {
        match self {
            Self::Other(verb) => std::str::from_utf8(verb).unwrap_or_default(),
            named => {
                NAMED.iter().find(|(_, command)| command == named).map_or("", |(name, _)| name)
            }
        }
    }

    /// Whether a reply answers it: all but CONNECT, whose reply is that to [`Greeting`].
    ///
    /// [`Greeting`]: Command::Greeting
    pub fn has_reply(&self) -> bool {
        !matches!(self, Self::Connect)
    }

    /// Whether it comes as a line of its own, which a reply can be shown with.
    pub fn has_line(&self) -> bool {
        !matches!(self, Self::Connect | Self::Message | Self::Greeting)
    }

    /// Whether its answer may be used again (profile section 4, `Valid-For`).
    pub fn is_reusable(&self) -> bool {
        matches!(self, Self::Connect | Self::Helo | Self::Mail | Self::Rcpt)
    }

    /// Whether the transaction carries a message instead of a command line.
    pub fn has_content(&self) -> bool {
        matches!(self, Self::Message)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the octets of a DUM belong to (`am-part`, profile section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The command line without its CRLF.
    Command,
    /// The header section, with the empty line that ends it.
    MessageHeader,
    /// The content behind the header section.
    MessageBody,
    /// A whole SMTP reply, every line with its CRLF.
    Reply,
}

impl Part {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::MessageHeader => "message-header",
            Self::MessageBody => "message-body",
            Self::Reply => "reply",
        }
    }

    /// The part of this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Self::Command, Self::MessageHeader, Self::MessageBody, Self::Reply]
            .into_iter()
            .find(|part| part.name().as_bytes() == name)
    }
}

/// An SMTP command line without CRLF that can't smuggle a second one: 1 to 2,048 octets without CR,
/// LF and NUL (profile section 4; RFC 5321 section 4.5.3.1.4 wants 512, extensions add to that).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommandLine(Bytes);

impl CommandLine {
    /// The longest command line.
    pub const LONGEST: usize = 2_048;

    /// The line, or what is wrong with it.
    pub fn new(line: impl Into<Bytes>) -> Result<Self, CommandLineError> {
        let line = line.into();
        if line.is_empty() || line.len() > Self::LONGEST {
            return Err(CommandLineError::Length(line.len()));
        }
        match line.iter().find(|octet| matches!(octet, b'\r' | b'\n' | 0)) {
            Some(&octet) => Err(CommandLineError::Octet(octet)),
            None => Ok(Self(line)),
        }
    }

    /// The octets of the line.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The verb, upper case: EHLO and LHLO become HELO, BDAT becomes DATA.
    pub fn command(&self) -> Option<Command> {
        let verb = self.0.split(|&octet| octet == b' ').next().unwrap_or_default();
        let verb = verb.to_ascii_uppercase();
        Command::from_name(match verb.as_slice() {
            b"EHLO" | b"LHLO" => b"HELO",
            b"BDAT" => b"DATA",
            other => other,
        })
    }
}

/// Why octets are no command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    /// Empty or too long.
    #[error("a command line has 1 to {longest} octets, this one has {0}", longest = CommandLine::LONGEST)]
    Length(usize),
    /// CR, LF or NUL.
    #[error("octet 0x{0:02x} is not allowed in a command line")]
    Octet(u8),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_command_has_its_own_name() {
        for (name, command) in &NAMED {
            assert_eq!(Command::from_name(name.as_bytes()).as_ref(), Some(command));
            assert_eq!(command.name(), *name);
        }
        assert_eq!(Command::from_name(b"XCLIENT").unwrap().name(), "XCLIENT");
        for wrong in ["", "mail", "MAIL FROM", "1X", "-X"] {
            assert_eq!(Command::from_name(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn a_command_line_is_one_line() {
        assert_eq!(
            CommandLine::new("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>"),
            Err(CommandLineError::Octet(b'\r'))
        );
        assert_eq!(CommandLine::new(""), Err(CommandLineError::Length(0)));
        assert_eq!(CommandLine::new("ehlo x").unwrap().command(), Some(Command::Helo));
        assert_eq!(CommandLine::new("BDAT 5 LAST").unwrap().command(), Some(Command::Data));
    }
}
