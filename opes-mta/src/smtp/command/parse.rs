//! Lines to commands.

use bytes::Bytes;
use ocp_proto::smtp::CommandLine;
use ocp_proto::wire::Atom;

use super::{Attribute, Command, Hello, Path, Request, keyword_and_value};
use crate::event::{self, PathError};
use crate::smtp::bdat::Chunk;
use crate::smtp::line::starts_with;

/// The longest verb.
const LONGEST_VERB: usize = 64;

/// The most ESMTP parameters of a path: twice as many as are registered. Worst case a path that is kept:
/// the octets of its line, and 32 octets for each parameter.
const MOST_PARAMETERS: usize = 32;

/// A line that is no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCommand {
    /// It starts with no verb.
    #[error("a line that starts with no verb")]
    Verb,
    /// What stands behind the verb is not what its command has; how that is written.
    #[error("a command that is none of the form {0}")]
    Arguments(&'static str),
    /// BDAT without a size: where the chunk ends is not known.
    #[error("BDAT without a size")]
    Chunk,
    /// The path of MAIL.
    #[error("a sender that is no path")]
    Sender,
    /// The path of RCPT.
    #[error("a recipient that is no path")]
    Recipient,
    /// An ESMTP parameter that is none or that is there twice, or too many of them.
    #[error("parameters that are none, too many, or more than one of a name")]
    Parameters,
}

impl Request {
    /// Takes a line without CRLF for a command.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(line: Bytes) -> Result<Self, InvalidCommand> {
        let (verb, arguments) = split(&line)?;
        let command = command(&verb, &arguments, &line)?;
        Ok(Self { line, command })
    }
}

/// The verb in upper case, and what is behind its blank, without blanks around it: RFC 5321 section
/// 4.1.1 has us tolerate those at the end.
fn split(line: &Bytes) -> Result<(Vec<u8>, Bytes), InvalidCommand> {
    let end = memchr::memchr(b' ', line).unwrap_or(line.len());
    let (verb, rest) = line.split_at(end);
    let is_part = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
    let is_verb = verb.len() <= LONGEST_VERB
        && verb.first().is_some_and(u8::is_ascii_alphabetic)
        && verb.iter().all(is_part);
    if !is_verb {
        let is_chunk = starts_with(line, b"BDAT");
        return Err(if is_chunk { InvalidCommand::Chunk } else { InvalidCommand::Verb });
    }
    Ok((verb.to_ascii_uppercase(), line.slice_ref(rest.trim_ascii())))
}

fn command(verb: &[u8], arguments: &Bytes, line: &Bytes) -> Result<Command, InvalidCommand> {
    let none = |command, form| {
        arguments.is_empty().then_some(command).ok_or(InvalidCommand::Arguments(form))
    };
    Ok(match verb {
        b"HELO" => hello(Hello::Helo, arguments).ok_or(InvalidCommand::Arguments("HELO name"))?,
        b"EHLO" => hello(Hello::Ehlo, arguments).ok_or(InvalidCommand::Arguments("EHLO name"))?,
        b"LHLO" => hello(Hello::Lhlo, arguments).ok_or(InvalidCommand::Arguments("LHLO name"))?,
        b"STARTTLS" => none(Command::StartTls, "STARTTLS")?,
        b"AUTH" => {
            let form = "AUTH mechanism [initial-response]";
            auth(arguments).ok_or(InvalidCommand::Arguments(form))?
        }
        b"MAIL" => Command::Mail(path(line, arguments, b"FROM:")?),
        b"RCPT" => Command::Rcpt(path(line, arguments, b"TO:")?),
        b"DATA" => none(Command::Data, "DATA")?,
        b"BDAT" => Command::Bdat(Chunk::parse(arguments).ok_or(InvalidCommand::Chunk)?),
        b"RSET" => none(Command::Rset, "RSET")?,
        b"VRFY" if arguments.is_empty() => return Err(InvalidCommand::Arguments("VRFY name")),
        b"VRFY" => Command::Vrfy(arguments.clone()),
        b"EXPN" if arguments.is_empty() => return Err(InvalidCommand::Arguments("EXPN name")),
        b"EXPN" => Command::Expn(arguments.clone()),
        b"HELP" => Command::Help(arguments.clone()),
        b"NOOP" => Command::Noop(arguments.clone()),
        b"QUIT" => none(Command::Quit, "QUIT")?,
        b"XCLIENT" => {
            let form = "XCLIENT name=value ...";
            Command::Xclient(attributes(arguments).ok_or(InvalidCommand::Arguments(form))?)
        }
        b"XFORWARD" => {
            let form = "XFORWARD name=value ...";
            Command::Xforward(attributes(arguments).ok_or(InvalidCommand::Arguments(form))?)
        }
        _ => Command::Other(verb.to_vec().into()),
    })
}

/// Any name is taken that can stand in a log: which ones are good is for services to say.
fn hello(verb: Hello, name: &Bytes) -> Option<Command> {
    let is_name = !name.is_empty() && !name.iter().any(u8::is_ascii_control);
    is_name.then(|| Command::Hello { verb, name: name.clone() })
}

/// RFC 4954 section 4; RFC 4422 section 3.1 for the mechanism.
fn auth(arguments: &[u8]) -> Option<Command> {
    let mut words = words(arguments);
    let (mechanism, response) = (words.next()?.to_ascii_uppercase(), words.next());
    let is_part = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
    let is_mechanism = mechanism.len() <= 20 && mechanism.iter().all(is_part);
    let is_valid = is_mechanism && words.next().is_none();
    let has_initial_response = response.is_some();
    is_valid.then(|| Command::Auth { mechanism: mechanism.into(), has_initial_response })
}

/// The path of a MAIL or RCPT line, whose arguments start with the word.
fn path(line: &Bytes, arguments: &[u8], word: &'static [u8]) -> Result<Path, InvalidCommand> {
    let is_sender = word == b"FROM:";
    let form = if is_sender { "MAIL FROM:<path>" } else { "RCPT TO:<path>" };
    let wrong_path = if is_sender { InvalidCommand::Sender } else { InvalidCommand::Recipient };
    let line = CommandLine::new(line.clone()).map_err(|_| InvalidCommand::Arguments(form))?;
    let address = event::address_of(&line).map_err(|error| match error {
        PathError::Line => InvalidCommand::Arguments(form),
        PathError::Syntax | PathError::Address(_) => wrong_path,
    })?;
    // RFC 5321 section 4.1.1.3: nobody is no recipient.
    if !is_sender && address.is_null() {
        return Err(wrong_path);
    }
    if !are_parameters(&address.parameters) {
        return Err(InvalidCommand::Parameters);
    }
    let given = arguments.get(word.len()..).unwrap_or_default().trim_ascii_start();
    let route = match given {
        [b'<', route @ ..] if route.starts_with(b"@") => {
            let colon = memchr::memchr(b':', route).unwrap_or_default();
            Bytes::copy_from_slice(route.get(..colon).unwrap_or_default())
        }
        _ => Bytes::new(),
    };
    Ok(Path { address, route })
}

fn are_parameters(parameters: &[Atom]) -> bool {
    let mut known = Vec::new();
    parameters.len() <= MOST_PARAMETERS
        && parameters.iter().all(|parameter| {
            let keyword = keyword(parameter).filter(|keyword| !known.contains(keyword));
            let is_new = keyword.is_some();
            known.extend(keyword);
            is_new
        })
}

/// The keyword of a parameter in upper case, if it is one (RFC 5321 section 4.1.2: esmtp-param). A value
/// may have a `=` more: RFC 3461 has xtext there, of which not everybody knows.
fn keyword(parameter: &[u8]) -> Option<Vec<u8>> {
    let (keyword, value) = keyword_and_value(parameter);
    let is_part = |octet: &u8| octet.is_ascii_alphanumeric() || *octet == b'-';
    let is_keyword = keyword.first().is_some_and(u8::is_ascii_alphanumeric)
        && keyword.iter().all(is_part)
        && value.is_none_or(|value| !value.is_empty());
    is_keyword.then(|| keyword.to_ascii_uppercase())
}

/// The attributes of XCLIENT and XFORWARD (XCLIENT_README and XFORWARD_README of Postfix): at least one.
fn attributes(arguments: &[u8]) -> Option<Vec<Attribute>> {
    let attributes: Option<Vec<_>> = words(arguments).map(attribute).collect();
    attributes.filter(|attributes| !attributes.is_empty())
}

fn attribute(word: &[u8]) -> Option<Attribute> {
    let (name, value) = keyword_and_value(word);
    let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_alphanumeric);
    let value = xtext(value?)?;
    is_name.then(|| Attribute { name: name.to_ascii_uppercase().into(), value })
}

/// RFC 3461 section 4: `+` and two hexadecimal digits are an octet. None of them may be a control character:
/// values end in logs and in command lines to the next hop.
pub(crate) fn xtext(text: &[u8]) -> Option<Bytes> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut octets = text.iter();
    while let Some(&octet) = octets.next() {
        decoded.push(if octet == b'+' {
            digit(octets.next())? * 16 + digit(octets.next())?
        } else {
            octet
        });
    }
    (!decoded.iter().any(u8::is_ascii_control)).then(|| decoded.into())
}

fn digit(octet: Option<&u8>) -> Option<u8> {
    let digit = char::from(*octet?).to_digit(16)?;
    u8::try_from(digit).ok()
}

fn words(arguments: &[u8]) -> impl Iterator<Item = &[u8]> {
    arguments.split(|octet| *octet == b' ').filter(|word| !word.is_empty())
}
