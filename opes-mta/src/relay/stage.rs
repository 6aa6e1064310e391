//! What a connection is about at a time, and how long that may take.

use std::fmt;
use std::time::Duration;

use ocp_proto::smtp::{Command, CommandLine};

/// What the next hop is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// An address is looked for, and a connection made.
    Connect,
    /// Its first words.
    Greeting,
    /// EHLO, HELO or LHLO.
    Hello,
    /// STARTTLS.
    StartTls,
    /// The handshake of TLS.
    Handshake,
    /// XCLIENT or XFORWARD.
    Origin,
    /// AUTH and what follows it.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// Content on its way.
    Content,
    /// The end of content.
    EndOfContent,
    /// RSET.
    Rset,
    /// QUIT.
    Quit,
    /// Any other command.
    Other,
}

impl Stage {
    /// What a command is about.
    pub fn of(line: &CommandLine) -> Self {
        match line.command() {
            Some(Command::Helo) => Self::Hello,
            Some(Command::StartTls) => Self::StartTls,
            Some(Command::Auth) => Self::Auth,
            Some(Command::Mail) => Self::Mail,
            Some(Command::Rcpt) => Self::Rcpt,
            Some(Command::Data) => Self::Data,
            Some(Command::Rset) => Self::Rset,
            Some(Command::Quit) => Self::Quit,
            Some(command) if matches!(command.name(), "XCLIENT" | "XFORWARD") => Self::Origin,
            _ => Self::Other,
        }
    }

    /// Whether what is said there is about a message, and not about the connection.
    pub fn is_about_message(self) -> bool {
        matches!(self, Self::Mail | Self::Rcpt | Self::Data | Self::Content | Self::EndOfContent)
    }

    /// What it is, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connecting",
            Self::Greeting => "greeting",
            Self::Hello => "EHLO",
            Self::StartTls => "STARTTLS",
            Self::Handshake => "TLS handshake",
            Self::Origin => "XCLIENT or XFORWARD",
            Self::Auth => "AUTH",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Content => "content",
            Self::EndOfContent => "end of content",
            Self::Rset => "RSET",
            Self::Quit => "QUIT",
            Self::Other => "command",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How long the next hop may take. The defaults are what RFC 5321 section 4.5.3.2 asks of clients; worst
/// case of a message with n recipients: the sum, n times that of RCPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until its name has an address and one of its addresses takes the connection. RFC 5321 has no
    /// bound; 30 s is what Postfix waits.
    pub connect: Duration,
    /// Until it greets.
    pub greeting: Duration,
    /// Each command without a time of its own; EHLO, MAIL, RCPT, RSET.
    pub command: Duration,
    /// STARTTLS, and the handshake that follows it.
    pub tls: Duration,
    /// DATA.
    pub data: Duration,
    /// Each time that 16 KiB of content wait until there is room for them, or a chunk for its reply.
    pub content: Duration,
    /// From the end of the content to its reply.
    pub end_of_content: Duration,
    /// QUIT, which changes nothing any more.
    pub quit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        Self {
            connect: Duration::from_secs(30),
            greeting: minutes(5),
            command: minutes(5),
            tls: minutes(1),
            data: minutes(2),
            content: minutes(3),
            end_of_content: minutes(10),
            quit: Duration::from_secs(5),
        }
    }
}

impl Timeouts {
    /// How long this may take.
    pub fn of(&self, stage: Stage) -> Duration {
        match stage {
            Stage::Connect => self.connect,
            Stage::Greeting => self.greeting,
            Stage::StartTls | Stage::Handshake => self.tls,
            Stage::Data => self.data,
            Stage::Content => self.content,
            Stage::EndOfContent => self.end_of_content,
            Stage::Quit => self.quit,
            _ => self.command,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_is_awaited_as_rfc_5321_asks() {
        let timeouts = Timeouts::default();
        for (line, stage, seconds) in [
            ("LHLO x", Stage::Hello, 300),
            ("mail from:<>", Stage::Mail, 300),
            ("RCPT TO:<a@b>", Stage::Rcpt, 300),
            ("DATA", Stage::Data, 120),
            ("XFORWARD ADDR=1", Stage::Origin, 300),
            ("AUTH PLAIN", Stage::Auth, 300),
            ("STARTTLS", Stage::StartTls, 60),
            ("VRFY x", Stage::Other, 300),
        ] {
            let found = Stage::of(&CommandLine::new(line).unwrap());
            assert_eq!((found, timeouts.of(found).as_secs()), (stage, seconds), "{line}");
        }
        assert_eq!(timeouts.of(Stage::EndOfContent).as_secs(), 600);
        assert_eq!(timeouts.of(Stage::Content).as_secs(), 180);
    }
}
