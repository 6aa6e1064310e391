//! What an adapted reply may be (profile section 4, "What may be answered"): one table for who answers
//! and for who carries it out.

use super::command::{Command, CommandLine};
use super::effect::SideEffect;
use super::reply::Reply;

/// Whether a reply to this command is never altered: it changes the state of the session, on which
/// both ends have to agree (220 to STARTTLS, 334, 235, 354).
pub fn is_fixed(command: &Command, reply: &Reply) -> bool {
    match reply.code() {
        220 => *command == Command::StartTls,
        235 => true,
        300..=399 => true,
        _ => false,
    }
}

/// Whether `adapted` may stand for `original`, the next hop's reply to `command`, with these side
/// effects.
///
/// A refusal stays one: only the reply to a retried command, which is another reply, can be a success.
///
/// # Errors
/// The rule that it breaks.
pub fn may_replace(
    command: &Command,
    original: &Reply,
    adapted: &Reply,
    effects: &[SideEffect],
) -> Result<(), ReplacementError> {
    may_retry(command, original, effects)?;
    if adapted == original {
        return Ok(());
    }
    let (from, to) = (original.code(), adapted.code());
    if is_fixed(command, original) {
        return Err(ReplacementError::Fixed { command: command.clone(), code: from });
    }
    match (original.is_success(), adapted.is_success()) {
        (true, true) if same_success(from, to) => may_offer(command, original, adapted),
        (true, false) if !is_success_final(command) && is_refusal(adapted) => Ok(()),
        (true, false) if is_refusal(adapted) => {
            Err(ReplacementError::Final { command: command.clone() })
        }
        (false, false) if is_refusal(adapted) => Ok(()),
        (false, true) => Err(ReplacementError::Success { from, to }),
        _ => Err(ReplacementError::Code { from, to }),
    }
}

/// The command that is to be sent again, if that is asked for once and of a command that was refused
/// (profile section 6).
fn may_retry(
    command: &Command,
    original: &Reply,
    effects: &[SideEffect],
) -> Result<(), ReplacementError> {
    let wrong = |cause| Err(ReplacementError::Retry(cause));
    let mut lines = effects.iter().filter_map(|effect| match effect {
        SideEffect::RetryCommand { line, .. } => Some(line),
        _ => None,
    });
    let Some(line) = lines.next() else { return Ok(()) };
    if lines.next().is_some() {
        return wrong("there is one reply to one retried command");
    }
    if !is_refusal(original) {
        return wrong("only a command that was refused is sent again");
    }
    if !can_be_retried(command) {
        return wrong("this command cannot be sent again by somebody else than the client");
    }
    match CommandLine::command(line) {
        Some(verb) if verb == *command => Ok(()),
        _ => wrong("it has another verb"),
    }
}

/// Commands that are a line, and after whose reply the client goes on as if it had been the first.
fn can_be_retried(command: &Command) -> bool {
    use Command::{Auth, Data, Quit, StartTls};
    command.has_line() && !matches!(command, StartTls | Auth | Data | Quit)
}

/// Successes that nobody can take back: somebody owns the message, or the state is gone.
fn is_success_final(command: &Command) -> bool {
    matches!(command, Command::Message | Command::Rset | Command::Quit)
}

fn is_refusal(reply: &Reply) -> bool {
    reply.is_temporary() || reply.is_permanent()
}

/// 250, 251 and 252 say more or less of the same (RFC 5321 section 4.2.2); every other success means
/// something of its own.
fn same_success(from: u16, to: u16) -> bool {
    from == to || ((250..=252).contains(&from) && (250..=252).contains(&to))
}

/// A reply to EHLO offers no extension that the next hop does not offer.
fn may_offer(command: &Command, original: &Reply, adapted: &Reply) -> Result<(), ReplacementError> {
    if *command != Command::Helo {
        return Ok(());
    }
    let is_offered =
        |keyword: &[u8]| keywords(original).any(|known| known.eq_ignore_ascii_case(keyword));
    let more = keywords(adapted).find(|keyword| !is_offered(keyword));
    more.map_or(Ok(()), |_| Err(ReplacementError::Extension))
}

/// The first word of every line but the first (RFC 5321 section 4.1.1.1).
fn keywords(reply: &Reply) -> impl Iterator<Item = &[u8]> {
    let word = |line: &'_ [u8]| line.iter().position(|octet| *octet == b' ').unwrap_or(line.len());
    reply.lines().skip(1).map(move |line| {
        let text = line.get(4..).unwrap_or_default();
        text.get(..word(text)).unwrap_or_default()
    })
}

/// Why a reply can't stand for another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplacementError {
    /// One that is never altered.
    #[error("{code} to {command} is never altered")]
    Fixed {
        /// The command.
        command: Command,
        /// The code.
        code: u16,
    },
    /// A success that can't be taken back.
    #[error("a success of {command} never becomes a failure")]
    Final {
        /// The command.
        command: Command,
    },
    /// A success out of nothing.
    #[error("a refusal becomes a success only through a retried command: {from} is not {to}")]
    Success {
        /// The code of the original.
        from: u16,
        /// That of the adapted reply.
        to: u16,
    },
    /// A code that means something else.
    #[error("{from} cannot become {to}")]
    Code {
        /// The code of the original.
        from: u16,
        /// That of the adapted reply.
        to: u16,
    },
    /// A keyword in the reply to EHLO that was not there.
    #[error("the reply to EHLO offers an extension that the next hop does not offer")]
    Extension,
    /// `retry-command` where it has no place.
    #[error("retry-command: {0}")]
    Retry(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> Reply {
        Reply::parse(text.replace('|', "\r\n") + "\r\n").unwrap()
    }

    fn command(name: &str) -> Command {
        Command::from_name(name.as_bytes()).unwrap()
    }

    fn verdict(name: &str, original: &str, adapted: &str, effects: &[SideEffect]) -> &'static str {
        use ReplacementError::{Code, Extension, Final, Fixed, Retry, Success};
        match may_replace(&command(name), &reply(original), &reply(adapted), effects) {
            Ok(()) => "fits",
            Err(Fixed { .. }) => "fixed",
            Err(Final { .. }) => "final",
            Err(Success { .. }) => "success",
            Err(Code { .. }) => "code",
            Err(Extension) => "extension",
            Err(Retry(_)) => "retry",
        }
    }

    #[test]
    fn what_may_stand_for_what_is_a_table() {
        let table = [
            // Texts and refusals.
            ("RCPT", "550 5.1.1 no", "550 5.1.1 nobody", "fits"),
            ("RCPT", "550 no", "451 later", "fits"),
            ("RCPT", "451 later", "550-no|550 never", "fits"),
            ("RCPT", "450 later", "421 later", "fits"),
            ("GREETING", "220 mx1.internal ESMTP", "220 mx.example ESMTP", "fits"),
            ("GREETING", "220 mx1.internal ESMTP", "554 no", "fits"),
            ("VRFY", "252 maybe", "250 a <a@b>", "fits"),
            ("RCPT", "251 will forward to <x@y>", "250 ok", "fits"),
            ("MAIL", "250 ok", "550 no", "fits"),
            ("RCPT", "250 ok", "450 later", "fits"),
            ("STARTTLS", "454 not now", "502 no", "fits"),
            ("AUTH", "535 no", "535 5.7.8 wrong", "fits"),
            ("DATA", "451 later", "554 no", "fits"),
            ("MESSAGE", "250 2.0.0 queued as 1 at mx1.internal", "250 2.0.0 queued", "fits"),
            ("MESSAGE", "554 no", "451 later", "fits"),
            // Never altered.
            ("STARTTLS", "220 go", "220 begin", "fixed"),
            ("STARTTLS", "220 go", "454 no", "fixed"),
            ("AUTH", "235 in", "535 no", "fixed"),
            ("AUTH", "235 in", "235 come in", "fixed"),
            ("AUTH", "334 ", "334 eA==", "fixed"),
            ("DATA", "354 go", "354 begin", "fixed"),
            ("DATA", "354 go", "550 no", "fixed"),
            ("DATA", "354 go", "354 go", "fits"),
            ("X", "355 go", "500 no", "fixed"),
            // A success that nobody can take back.
            ("MESSAGE", "250 ok", "550 no", "final"),
            ("MESSAGE", "250 ok", "451 later", "final"),
            ("RSET", "250 ok", "550 no", "final"),
            ("QUIT", "221 bye", "421 no", "final"),
            // A refusal is no success.
            ("RCPT", "550 no", "250 ok", "success"),
            ("MESSAGE", "451 later", "250 ok", "success"),
            ("STARTTLS", "454 no", "220 go", "success"),
            ("AUTH", "535 no", "235 in", "success"),
            // Codes that mean something of their own.
            ("MAIL", "250 ok", "220 ok", "code"),
            ("GREETING", "220 hi", "250 hi", "code"),
            ("QUIT", "221 bye", "250 bye", "code"),
            ("DATA", "550 no", "354 go", "code"),
            ("MAIL", "250 ok", "354 go", "code"),
            // Extensions.
            ("HELO", "250-mx1|250-SIZE 10|250 DSN", "250-mx|250 size 9", "fits"),
            ("HELO", "250-mx1|250-SIZE 10|250 DSN", "250-mx|250-SIZE 10|250 CHUNKING", "extension"),
            ("HELO", "250 mx1", "250-mx|250 AUTH PLAIN", "extension"),
            ("RCPT", "250 ok", "250-ok|250 DSN", "fits"),
        ];
        for (name, original, adapted, expected) in table {
            assert_eq!(
                verdict(name, original, adapted, &[]),
                expected,
                "{name} {original} {adapted}"
            );
            // Without a change there is nothing to break.
            assert_eq!(verdict(name, original, original, &[]), "fits", "{name} {original}");
            // And no other effect makes a success.
            let with = verdict(name, original, adapted, &[SideEffect::Disconnect]);
            assert_eq!(with, expected, "{name} {original} {adapted}");
        }
    }

    #[test]
    fn only_a_refused_command_is_sent_again_once_and_with_its_verb() {
        let retry = |line: &'static str| SideEffect::RetryCommand {
            line: CommandLine::new(line).unwrap(),
            next_hop: None,
        };
        let table = [
            ("RCPT", "550 no", "RCPT TO:<c@d>", "fits"),
            ("RCPT", "450 later", "rcpt to:<c@d>", "fits"),
            ("MAIL", "552 no", "MAIL FROM:<a@b>", "fits"),
            ("HELO", "502 what?", "HELO me", "fits"),
            ("VRFY", "550 no", "VRFY c", "fits"),
            ("RCPT", "250 ok", "RCPT TO:<c@d>", "retry"),
            ("DATA", "354 go", "DATA", "retry"),
            ("DATA", "451 later", "DATA", "retry"),
            ("RCPT", "550 no", "MAIL FROM:<c@d>", "retry"),
            ("RCPT", "550 no", "RCPT-TO:<c@d>", "retry"),
            ("MESSAGE", "550 no", "MESSAGE", "retry"),
            ("GREETING", "554 no", "GREETING", "retry"),
            ("STARTTLS", "454 no", "STARTTLS", "retry"),
            ("AUTH", "535 no", "AUTH PLAIN", "retry"),
        ];
        for (name, original, line, expected) in table {
            let found = verdict(name, original, original, &[retry(line)]);
            assert_eq!(found, expected, "{name} {original} {line}");
        }
        let twice = [retry("RCPT TO:<c@d>"), retry("RCPT TO:<e@f>")];
        assert_eq!(verdict("RCPT", "550 no", "550 no", &twice), "retry");
        // It is the retried command's own reply that may be a success.
        assert_eq!(verdict("RCPT", "550 no", "250 ok", &[retry("RCPT TO:<c@d>")]), "success");
    }
}
