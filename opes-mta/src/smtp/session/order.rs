//! The table: which command may come where.

use super::{Protocol, Refusal, Session, Stage};
use crate::smtp::command::{Command, Hello};

impl Session {
    /// Whether a command may come now, and why not; `is_followed` says that octets are behind it already.
    pub(super) fn check(&self, command: &Command, is_followed: bool) -> Result<(), Refusal> {
        match command {
            Command::Quit => Ok(()),
            _ if self.stage == Stage::TurnedAway => Err(Refusal::TurnedAway),
            Command::Hello { verb, .. } => self.check_hello(*verb),
            Command::StartTls => self.check_tls(is_followed),
            Command::Auth { .. } if self.is_authenticated => Err(Refusal::Authenticated),
            Command::Auth { .. } => {
                self.check_outside(command).and_then(|()| self.check_extension())
            }
            Command::Xclient(_) | Command::Xforward(_) => self.check_outside(command),
            Command::Mail(_) => self.check_mail(),
            Command::Rcpt(_) => self.check_rcpt(),
            Command::Data => self.check_data(),
            Command::Bdat(chunk) => self.check_chunk(chunk.size),
            Command::Rset
            | Command::Vrfy(_)
            | Command::Expn(_)
            | Command::Help(_)
            | Command::Noop(_)
            | Command::Other(_) => Ok(()),
        }
    }

    fn check_hello(&self, verb: Hello) -> Result<(), Refusal> {
        match (self.settings.protocol, verb) {
            (Protocol::Smtp, Hello::Helo | Hello::Ehlo) | (Protocol::Lmtp, Hello::Lhlo) => Ok(()),
            (Protocol::Smtp, Hello::Lhlo) => Err(Refusal::NotLmtp),
            (Protocol::Lmtp, Hello::Helo | Hello::Ehlo) => Err(Refusal::NotSmtp),
        }
    }

    fn check_tls(&self, is_followed: bool) -> Result<(), Refusal> {
        if self.is_secure {
            return Err(Refusal::Secure);
        }
        self.check_extension()?;
        if is_followed { Err(Refusal::Injected) } else { Ok(()) }
    }

    fn check_extension(&self) -> Result<(), Refusal> {
        if self.has_extensions { Ok(()) } else { Err(self.hello_first()) }
    }

    fn check_outside(&self, command: &Command) -> Result<(), Refusal> {
        if self.stage.is_within_message() {
            return Err(Refusal::WithinMessage(command.name()));
        }
        Ok(())
    }

    fn check_mail(&self) -> Result<(), Refusal> {
        match self.stage {
            Stage::Idle => Ok(()),
            Stage::Start => Err(self.hello_first()),
            Stage::Refused => Err(Refusal::ChunkRefused),
            _ => Err(Refusal::NestedMail),
        }
    }

    fn check_rcpt(&self) -> Result<(), Refusal> {
        match self.stage {
            Stage::Sender | Stage::Recipients => {
                let is_full = self.envelope.recipients.len() >= self.settings.most_recipients;
                if is_full { Err(Refusal::TooManyRecipients) } else { Ok(()) }
            }
            Stage::Chunks => Err(Refusal::ContentBegun),
            _ => Err(self.not_within_message()),
        }
    }

    fn check_data(&self) -> Result<(), Refusal> {
        match self.stage {
            Stage::Recipients if self.terms.is_binary => Err(Refusal::Binary),
            Stage::Recipients => Ok(()),
            Stage::Sender => Err(Refusal::NoRecipients),
            Stage::Chunks => Err(Refusal::Mixed),
            _ => Err(self.not_within_message()),
        }
    }

    fn check_chunk(&self, size: u64) -> Result<(), Refusal> {
        match self.stage {
            Stage::Recipients | Stage::Chunks if !self.has_extensions => Err(self.hello_first()),
            Stage::Recipients | Stage::Chunks if size > self.settings.largest_chunk => {
                Err(Refusal::ChunkTooLarge)
            }
            Stage::Recipients | Stage::Chunks => Ok(()),
            Stage::Sender => Err(Refusal::NoRecipients),
            _ => Err(self.not_within_message()),
        }
    }

    fn not_within_message(&self) -> Refusal {
        match self.stage {
            Stage::Start => self.hello_first(),
            Stage::Refused => Refusal::ChunkRefused,
            _ => Refusal::First("MAIL"),
        }
    }

    fn hello_first(&self) -> Refusal {
        Refusal::First(match self.settings.protocol {
            Protocol::Smtp => "EHLO",
            Protocol::Lmtp => "LHLO",
        })
    }
}
