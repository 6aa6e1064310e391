//! What a reply is about.

use ocp_proto::smtp::{Address, Reply};

use super::Refusal;
use crate::smtp::command::{Command, Hello, Path};

/// What the client waits for a reply to.
#[derive(Debug)]
pub(super) enum Awaited {
    /// It has connected.
    Greeting,
    Hello {
        has_extensions: bool,
    },
    StartTls,
    /// AUTH, or a line of its exchange.
    Auth,
    Mail(Sender),
    Rcpt(Address),
    Data,
    /// A chunk that is not the last one.
    Chunk,
    /// The content; whether 353 may announce a reply for each recipient.
    Content {
        may_be_announced: bool,
    },
    /// So many recipients of the content, and whether a reply for all of them follows.
    Recipients {
        left: usize,
        final_follows: bool,
    },
    Rset,
    Xclient,
    Quit,
    /// A command that changes nothing.
    Other(&'static str),
    /// What was refused, by so many replies.
    Refusal {
        refusal: Refusal,
        replies: usize,
    },
}

/// What MAIL says.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) address: Address,
    pub(super) terms: Terms,
}

/// What the parameters of MAIL say about the content.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Terms {
    /// The content needs BDAT (RFC 3030 section 3).
    pub(super) is_binary: bool,
    /// The client takes a reply for each recipient (draft-hall-prdr).
    pub(super) has_prdr: bool,
}

impl Awaited {
    /// What is awaited behind a command; `None` behind BDAT, whose octets come first.
    pub(super) fn of(command: &Command) -> Option<Self> {
        Some(match command {
            Command::Hello { verb, .. } => Self::Hello { has_extensions: *verb != Hello::Helo },
            Command::StartTls => Self::StartTls,
            Command::Auth { .. } => Self::Auth,
            Command::Mail(path) => Self::Mail(Sender::of(path)),
            Command::Rcpt(path) => Self::Rcpt(path.address.clone()),
            Command::Data => Self::Data,
            Command::Bdat(_) => return None,
            Command::Rset => Self::Rset,
            Command::Xclient(_) => Self::Xclient,
            Command::Quit => Self::Quit,
            _ => Self::Other(command.name()),
        })
    }

    /// What it is, for people.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Greeting => "a new connection",
            Self::Hello { .. } => "HELO",
            Self::StartTls => "STARTTLS",
            Self::Auth => "AUTH",
            Self::Mail(_) => "MAIL",
            Self::Rcpt(_) => "RCPT",
            Self::Data => "DATA",
            Self::Chunk => "BDAT",
            Self::Content { .. } => "the content",
            Self::Recipients { .. } => "the content of a recipient",
            Self::Rset => "RSET",
            Self::Xclient => "XCLIENT",
            Self::Quit => "QUIT",
            Self::Other(name) => name,
            Self::Refusal { .. } => "what was refused",
        }
    }

    /// Whether a client understands this reply to it (RFC 5321 section 4.3.2). Failures suit everything.
    pub(super) fn takes(&self, reply: &Reply) -> bool {
        match reply.code() {
            200..=299 => !matches!(self, Self::Data | Self::Refusal { .. }),
            334 => matches!(self, Self::Auth),
            353 => matches!(self, Self::Content { may_be_announced: true }),
            354 => matches!(self, Self::Data),
            300..=399 => false,
            _ => true,
        }
    }
}

impl Sender {
    fn of(path: &Path) -> Self {
        let body = path.parameter("BODY").flatten();
        let is_binary = body.is_some_and(|body| body.eq_ignore_ascii_case(b"BINARYMIME"));
        let has_prdr = path.parameter("PRDR").is_some();
        Self { address: path.address.clone(), terms: Terms { is_binary, has_prdr } }
    }
}
