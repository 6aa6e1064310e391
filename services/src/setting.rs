//! Values that the settings of several services hold.

use bytes::Bytes;
use ocp_proto::smtp::{Command, Reply};
use regex::bytes::{Regex, RegexBuilder};
use toml::Spanned;

use crate::registry::SettingsError;

/// The most octets that one compiled pattern takes, and as much again in each thread that runs it.
const PATTERN_OCTETS: usize = 1024 * 1024;

/// Every event that services see.
pub const EVENTS: [Command; 13] = [
    Command::Connect,
    Command::Helo,
    Command::StartTls,
    Command::Auth,
    Command::Mail,
    Command::Rcpt,
    Command::Data,
    Command::Message,
    Command::Rset,
    Command::Vrfy,
    Command::Expn,
    Command::Noop,
    Command::Quit,
];

/// Those of these commands that are named; `what` says what the names are.
///
/// # Errors
/// The first name that is none of them.
pub fn commands(
    names: &[Spanned<String>],
    known: &[Command],
    what: &str,
) -> Result<Vec<Command>, SettingsError> {
    let command = |name: &Spanned<String>| {
        let found = known.iter().find(|command| command.name() == name.get_ref());
        found.cloned().ok_or_else(|| {
            let known: Vec<_> = known.iter().map(Command::name).collect();
            let (name, span, known) = (name.get_ref(), name.span(), known.join(", "));
            SettingsError::at(span, format!("{name:?} is no {what}; these are: {known}"))
        })
    };
    names.iter().map(command).collect()
}

/// Compiles a pattern over octets: ASCII classes unless it says `(?u)`.
///
/// # Errors
/// What is wrong with it, on one line.
pub(crate) fn pattern(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text)
        .unicode(false)
        .size_limit(PATTERN_OCTETS)
        .dfa_size_limit(PATTERN_OCTETS)
        .build()
        .map_err(|error| match error {
            // The message repeats the pattern over several lines; its last one says what is wrong.
            regex::Error::Syntax(message) => {
                let last = message.lines().last().unwrap_or_default();
                format!("{text:?} is no regular expression: {}", last.trim_start_matches("error: "))
            }
            other => format!("{text:?} can't be used: {other}"),
        })
}

/// A refusal, such as `550 5.7.1 Sender refused`.
///
/// # Errors
/// If the text is no reply, or not 4xx or 5xx (profile section 4).
pub fn refusal(text: &Spanned<String>) -> Result<Reply, SettingsError> {
    let octets = Bytes::from(format!("{}\r\n", text.get_ref()));
    let reply = Reply::parse(octets).map_err(|error| SettingsError::at(text.span(), error))?;
    if reply.is_temporary() || reply.is_permanent() {
        return Ok(reply);
    }
    Err(SettingsError::at(text.span(), "a refusal starts with a 4xx or 5xx code"))
}

/// The TOML example in a module's documentation, for its tests.
#[doc(hidden)]
pub fn documented(source: &str) -> String {
    let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
    let example = lines.skip_while(|line| *line != " ```toml").skip(1);
    example
        .take_while(|line| *line != " ```")
        .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_pattern_is_explained_on_one_line() {
        assert_eq!(pattern("(a").unwrap_err(), "\"(a\" is no regular expression: unclosed group");
        let huge = pattern("(a{1000}){1000}").unwrap_err();
        assert!(huge.contains("size limit"), "{huge}");
    }

    #[test]
    fn a_refusal_is_one() {
        let of = |text: &str| refusal(&Spanned::new(3..9, text.to_owned()));
        assert_eq!(of("450 4.7.1 later").unwrap().code(), 450);
        let error = of("250 fine").unwrap_err();
        assert_eq!(
            (error.message.as_str(), error.span),
            ("a refusal starts with a 4xx or 5xx code", Some(3..9))
        );
        assert_eq!(of("no").unwrap_err().span, Some(3..9));
        assert!(of("550 a\r\n250 b").is_err());
    }
}
