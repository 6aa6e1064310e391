//! Values of commands: lengths and odd forms, which other servers may stumble over.

use ocp_proto::smtp::{Command, CommandLine, Reply};

use super::settings::{Action, CommandActions};
use crate::mail_from::parse::{Mailbox, PathCommand, PathError, is_address_literal};
use crate::outcome::{Change, Finding, Outcome};
use crate::service::{Request, ServiceError};

/// The longest command line without its parameters and its end (RFC 5321 section 4.5.3.1.4).
const LONGEST_LINE: usize = 510;
/// The longest path, with its angle brackets (section 4.5.3.1.3).
const LONGEST_PATH: usize = 256;
/// The longest local part (section 4.5.3.1.1).
const LONGEST_LOCAL_PART: usize = 64;
/// The longest domain (section 4.5.3.1.2).
const LONGEST_DOMAIN: usize = 255;

/// What becomes of HELO, MAIL or RCPT.
pub(super) fn normalized(
    actions: &CommandActions,
    request: &Request,
) -> Result<Outcome, ServiceError> {
    let Some(line) = request.line() else { return Ok(unchanged()) };
    let found = match request.command {
        Command::Helo => helo(actions, line.as_bytes()).err(),
        Command::Mail | Command::Rcpt => match path(actions, request, line.as_bytes()) {
            Ok(None) => None,
            Ok(Some(corrected)) => return corrected.outcome(),
            Err(fault) => Some(fault),
        },
        _ => None,
    };
    match found {
        Some(fault) => fault.refused(&request.command),
        None => Ok(unchanged()),
    }
}

fn unchanged() -> Outcome {
    Outcome::unchanged(Finding::new("unchanged"))
}

/// What is wrong with a command. The settings call it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Length,
    LocalPartLength,
    ControlCharacters,
    Syntax(PathError),
    Smtputf8,
    SourceRoute,
    Quotes,
    LocalPart,
    PercentHack,
    BangPath,
    Helo,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::LocalPartLength => "local-part-length",
            Self::ControlCharacters => "control-characters",
            Self::Syntax(_) => "syntax",
            Self::Smtputf8 => "smtputf8",
            Self::SourceRoute => "source-route",
            Self::Quotes => "quotes",
            Self::LocalPart => "local-part",
            Self::PercentHack => "percent-hack",
            Self::BangPath => "bang-path",
            Self::Helo => "helo",
        }
    }

    /// A refusal, which repeats nothing of what the peer sent.
    fn refused(self, command: &Command) -> Result<Outcome, ServiceError> {
        // Bad syntax of a sender's or a recipient's address (RFC 3463 section 3.2).
        let address = if *command == Command::Mail { "5.1.7" } else { "5.1.3" };
        let (code, enhanced, text) = match self {
            Self::Length if *command == Command::Helo => (501, "5.5.4", "Name too long"),
            Self::Length => (501, address, "Path too long"),
            Self::LocalPartLength => (501, address, "Local part too long"),
            Self::ControlCharacters if *command == Command::Helo => (501, "5.5.4", "Bad name"),
            Self::ControlCharacters | Self::Syntax(PathError::Path) => {
                (501, address, "Bad address syntax")
            }
            Self::Syntax(PathError::Verb) => (501, "5.5.4", "Bad command syntax"),
            Self::Syntax(PathError::Parameters) => (501, "5.5.4", "Bad parameters"),
            // RFC 6531 section 3.5.
            Self::Smtputf8 => (553, "5.6.7", "An address beyond ASCII needs SMTPUTF8"),
            Self::SourceRoute => (550, "5.7.1", "No mail by source routes here"),
            Self::Quotes | Self::LocalPart => (553, address, "Local part refused"),
            Self::PercentHack | Self::BangPath => (550, "5.7.1", "No relaying by address here"),
            Self::Helo => (501, "5.5.4", "Bad name"),
        };
        let reply = Reply::new(code, enhanced, text)
            .map_err(|error| ServiceError::new("normalize reply", error))?;
        let finding = Finding::new("refused").with_reason(self.name());
        Ok(Outcome::changed(Change::Reply(reply), "refused").with_finding(finding))
    }
}

/// A command line that has another form now.
struct Corrected {
    line: CommandLine,
    /// What was wrong.
    faults: Vec<Fault>,
}

impl Corrected {
    fn outcome(self) -> Result<Outcome, ServiceError> {
        let names: Vec<_> = self.faults.iter().map(|fault| fault.name()).collect();
        let finding = Finding::new("corrected").with_reason(names.join(", "));
        Ok(Outcome::changed(Change::Command(self.line), "corrected").with_finding(finding))
    }
}

/// Fails with the fault unless it is left alone.
fn check(action: Action, is_wrong: bool, fault: Fault) -> Result<(), Fault> {
    if is_wrong && action != Action::Leave { Err(fault) } else { Ok(()) }
}

fn has_control_character(octets: &[u8]) -> bool {
    octets.iter().any(u8::is_ascii_control)
}

/// HELO, EHLO or LHLO: a name or an address literal (RFC 5321 section 4.1.1.1). Names that are no domains are everyday
/// mail.
fn helo(actions: &CommandActions, line: &[u8]) -> Result<(), Fault> {
    let name = line.iter().position(|octet| *octet == b' ').and_then(|at| line.get(at..));
    let name = name.unwrap_or_default().trim_ascii();
    check(actions.length, name.len() > LONGEST_DOMAIN, Fault::Length)?;
    check(actions.control_characters, has_control_character(line), Fault::ControlCharacters)?;
    let is_literal = name.starts_with(b"[") || name.ends_with(b"]");
    let is_name = match std::str::from_utf8(name) {
        Ok(name) if is_literal => is_address_literal(name),
        Ok(name) => !name.is_empty() && name.chars().all(|character| character.is_ascii_graphic()),
        Err(_) => false,
    };
    check(actions.helo, !is_name, Fault::Helo)
}

/// The path of MAIL or RCPT; the line with another one if it was put right.
fn path(
    actions: &CommandActions,
    request: &Request,
    line: &[u8],
) -> Result<Option<Corrected>, Fault> {
    let is_mail = request.command == Command::Mail;
    check(actions.control_characters, has_control_character(line), Fault::ControlCharacters)?;
    let command = match if is_mail { PathCommand::mail(line) } else { PathCommand::rcpt(line) } {
        Ok(command) => command,
        Err(PathError::Path) if !is_mail && is_postmaster(line) => return Ok(None),
        Err(error) => {
            // What is too long for a path is told as such.
            let start = line.split(|octet| *octet == b'>').next().unwrap_or(line);
            check(actions.length, start.len() > LONGEST_LINE, Fault::Length)?;
            return check(actions.syntax, true, Fault::Syntax(error)).map(|()| None);
        }
    };
    let Some(mailbox) = &command.mailbox else {
        // `<>` is a sender, and no recipient.
        let fault = Fault::Syntax(PathError::Path);
        return check(actions.syntax, !is_mail, fault).map(|()| None);
    };
    check(actions.length, command.without_parameters() > LONGEST_LINE, Fault::Length)?;
    check(actions.length, mailbox.written.len() + 2 > LONGEST_PATH, Fault::Length)?;
    let local_part = mailbox.written.rfind('@').unwrap_or_default();
    let is_long = local_part > LONGEST_LOCAL_PART;
    check(actions.local_part_length, is_long, Fault::LocalPartLength)?;
    let carries = if is_mail { command.smtputf8 } else { has_smtputf8(request) };
    check(actions.smtputf8, mailbox.needs_smtputf8() && !carries, Fault::Smtputf8)?;
    let is_relayed = |by: char| !is_mail && mailbox.local.contains(by);
    check(actions.percent_hack, is_relayed('%'), Fault::PercentHack)?;
    check(actions.bang_path, is_relayed('!'), Fault::BangPath)?;
    check(actions.local_part, is_odd(mailbox), Fault::LocalPart)?;
    other_form(actions, line, &command, mailbox)
}

/// The line without a source route and needless quotes, if it has some.
fn other_form(
    actions: &CommandActions,
    line: &[u8],
    command: &PathCommand,
    mailbox: &Mailbox,
) -> Result<Option<Corrected>, Fault> {
    let mut written = mailbox.written.clone();
    let mut before = command.path(line).strip_suffix(format!("{written}>").as_bytes());
    let mut faults = Vec::new();
    if before != Some(b"<") {
        let is_refused = actions.source_route == Action::Reject;
        check(actions.source_route, is_refused, Fault::SourceRoute)?;
        if actions.source_route == Action::Correct {
            before = Some(b"<");
            faults.push(Fault::SourceRoute);
        }
    }
    if let Some(plain) = unquoted(mailbox) {
        check(actions.quotes, actions.quotes == Action::Reject, Fault::Quotes)?;
        if actions.quotes == Action::Correct {
            written = plain;
            faults.push(Fault::Quotes);
        }
    }
    if faults.is_empty() {
        return Ok(None);
    }
    let path = [before.unwrap_or_default(), written.as_bytes(), b">"].concat();
    // It is no longer than before, and was a line.
    let line = CommandLine::new(command.with_path(line, &path));
    line.map(|line| Some(Corrected { line, faults })).map_err(|_| Fault::Syntax(PathError::Path))
}

/// `RCPT TO:<Postmaster>`, the one recipient without a domain (RFC 5321 section 4.1.1.3).
fn is_postmaster(line: &[u8]) -> bool {
    const POSTMASTER: &[u8] = b"<postmaster>";
    let path = line.get(b"RCPT TO:".len()..).unwrap_or_default().trim_ascii_start();
    let is_path =
        path.get(..POSTMASTER.len()).is_some_and(|path| path.eq_ignore_ascii_case(POSTMASTER));
    is_path && matches!(path.get(POSTMASTER.len()), None | Some(b' '))
}

fn has_smtputf8(request: &Request) -> bool {
    let sender = request.envelope.sender.iter();
    sender.flat_map(|sender| &sender.parameters).any(|word| word.eq_ignore_ascii_case(b"SMTPUTF8"))
}

/// Whether a local part may mean something else than a name to a program: characters that only quotes allow, other
/// than blanks, and what begins an option, a pipe or a file.
fn is_odd(mailbox: &Mailbox) -> bool {
    let is_plain =
        |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~. ".contains(c);
    mailbox.local.starts_with(['-', '|', '/']) || !mailbox.local.chars().all(is_plain)
}

/// The mailbox without the quotes of its local part, if it does not need them (RFC 5321 section 4.1.2).
fn unquoted(mailbox: &Mailbox) -> Option<String> {
    let domain = mailbox.written.get(mailbox.written.rfind('@')?..)?;
    let plain = format!("{}{domain}", mailbox.local);
    let is_quoted = mailbox.written.starts_with('"');
    (is_quoted && Mailbox::parse(plain.as_bytes()).is_some_and(|same| same.local == mailbox.local))
        .then_some(plain)
}
