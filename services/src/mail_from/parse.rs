//! The MAIL and RCPT command lines (RFC 5321 sections 4.1.1.2, 4.1.1.3 and 4.1.2, RFC 6531 section 3.3).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use bytes::Bytes;
use ocp_proto::smtp::Address;

/// The longest domain (RFC 5321 section 4.5.3.1.2). Local parts beyond the 64 octets of section
/// 4.5.3.1.1 are everyday mail (return paths that encode the recipient): only the whole is bounded,
/// by [`Address`].
const LONGEST_DOMAIN: usize = 255;
/// The longest label of a domain (RFC 1035 section 2.3.4).
const LONGEST_LABEL: usize = 63;

/// A MAIL or RCPT command line that keeps to the syntax, as ranges of the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathCommand {
    /// The path with its angle brackets and source route.
    path: Range<usize>,
    /// Who sends or receives; `None` for the null sender.
    pub(crate) mailbox: Option<Mailbox>,
    /// Whether the line has the SMTPUTF8 parameter.
    pub(crate) smtputf8: bool,
}

/// A mailbox, without source route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mailbox {
    /// The local part without quoting, which does not change whose it is (RFC 5321 section 4.1.2).
    pub(crate) local: String,
    /// The domain or address literal, lower case.
    pub(crate) domain: String,
    /// The mailbox as it is written.
    pub(crate) written: String,
}

/// What is wrong with a MAIL or RCPT command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathError {
    /// It does not start with `MAIL FROM:` or `RCPT TO:`.
    Verb,
    /// No path, or one that is not valid.
    Path,
    /// What follows the path are no parameters.
    Parameters,
}

impl PathCommand {
    /// Reads a line. Like real servers it takes any case and one blank after the colon, and blanks
    /// at the end (RFC 5321 section 4.1.1).
    pub(crate) fn mail(line: &[u8]) -> Result<Self, PathError> {
        Self::parse(b"MAIL FROM:", line)
    }

    /// The same of RCPT; `<Postmaster>` alone is no mailbox, and `<>` none that anybody has.
    pub(crate) fn rcpt(line: &[u8]) -> Result<Self, PathError> {
        Self::parse(b"RCPT TO:", line)
    }

    fn parse(start: &[u8], line: &[u8]) -> Result<Self, PathError> {
        let verb = line.get(..start.len()).filter(|verb| verb.eq_ignore_ascii_case(start));
        let rest = verb.and_then(|_| line.get(start.len()..)).ok_or(PathError::Verb)?;
        let rest = rest.strip_prefix(b" ").unwrap_or(rest);
        let start = line.len() - rest.len();
        let length = path_length(rest).ok_or(PathError::Path)?;
        let (path, parameters) = rest.split_at(length);
        // The bounds of every address that goes on from here.
        Address::new(path).map_err(|_| PathError::Path)?;
        let mailbox = match path {
            b"<>" => None,
            path => Some(path_mailbox(path).ok_or(PathError::Path)?),
        };
        let smtputf8 = read_parameters(parameters)?;
        Ok(Self { path: start..start + length, mailbox, smtputf8 })
    }

    /// The path as it stands in the line, with its angle brackets and source route.
    pub(crate) fn path<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        line.get(self.path.clone()).unwrap_or_default()
    }

    /// Octets of the line up to the end of the path.
    pub(crate) fn without_parameters(&self) -> usize {
        self.path.end
    }

    /// The line with another path; every other octet stays.
    pub(crate) fn with_path(&self, line: &[u8], path: &[u8]) -> Bytes {
        let before = line.get(..self.path.start).unwrap_or_default();
        let after = line.get(self.path.end..).unwrap_or_default();
        [before, path, after].concat().into()
    }
}

impl Mailbox {
    /// The mailbox, if it is a valid one: `Local-part "@" ( Domain / address-literal )`.
    pub(crate) fn parse(written: &[u8]) -> Option<Self> {
        let written = std::str::from_utf8(written).ok()?;
        let (local, rest) = local_part(written)?;
        let domain = rest.strip_prefix('@')?;
        (is_domain(domain) || is_address_literal(domain)).then(|| Self {
            local,
            domain: domain.to_lowercase(),
            written: written.to_owned(),
        })
    }

    /// Whether only SMTPUTF8 can carry it (RFC 6531 section 3.1).
    pub(crate) fn needs_smtputf8(&self) -> bool {
        !self.written.is_ascii()
    }

    /// What patterns look at: local part without quoting, domain in lower case.
    pub(crate) fn canonical(&self) -> String {
        format!("{}@{}", self.local, self.domain)
    }
}

/// Octets of the path at the start of a line, up to the bracket that ends it; quoted ones do not.
fn path_length(line: &[u8]) -> Option<usize> {
    let mut octets = line.iter().enumerate();
    octets.next().filter(|(_, octet)| **octet == b'<')?;
    let mut quoted = false;
    while let Some((at, octet)) = octets.next() {
        match octet {
            b'"' => quoted = !quoted,
            b'\\' if quoted => drop(octets.next()),
            b'>' if !quoted => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The mailbox of `"<" [ A-d-l ":" ] Mailbox ">"`; the route is checked and goes (RFC 5321 appendix
/// C).
fn path_mailbox(path: &[u8]) -> Option<Mailbox> {
    let inner = path.strip_prefix(b"<")?.strip_suffix(b">")?;
    if !inner.starts_with(b"@") {
        return Mailbox::parse(inner);
    }
    let colon = memchr::memchr(b':', inner)?;
    let route = std::str::from_utf8(inner.get(..colon)?).ok()?;
    let valid = route.split(',').all(|hop| hop.strip_prefix('@').is_some_and(is_domain));
    valid.then(|| Mailbox::parse(inner.get(colon + 1..)?)).flatten()
}

/// The unquoted local part at the start of a mailbox, and what follows it.
fn local_part(mailbox: &str) -> Option<(String, &str)> {
    match mailbox.strip_prefix('"') {
        Some(quoted) => quoted_string(quoted),
        None => {
            let (local, _) = mailbox.split_once('@')?;
            let is_valid =
                local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext));
            is_valid.then(|| (local.to_owned(), mailbox.get(local.len()..).unwrap_or_default()))
        }
    }
}

/// What is in a quoted string, whose first quote is behind us, and what follows it.
fn quoted_string(text: &str) -> Option<(String, &str)> {
    let mut content = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((content, text.get(at + 1..)?)),
            '\\' => {
                let (_, escaped) = characters.next()?;
                matches!(escaped, ' '..='~').then(|| content.push(escaped))?;
            }
            _ if character.is_control() => return None,
            _ => content.push(character),
        }
    }
    None
}

/// RFC 5322 section 3.2.3; RFC 6531 section 3.3 adds everything beyond ASCII.
fn is_atext(character: char) -> bool {
    character.is_ascii_alphanumeric()
        || "!#$%&'*+-/=?^_`{|}~".contains(character)
        || is_beyond_ascii(character)
}

fn is_beyond_ascii(character: char) -> bool {
    !character.is_ascii() && !character.is_control() && !character.is_whitespace()
}

/// `sub-domain *("." sub-domain)`.
pub(crate) fn is_domain(text: &str) -> bool {
    text.len() <= LONGEST_DOMAIN && text.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let is_letter_or_digit = |c: char| c.is_ascii_alphanumeric() || is_beyond_ascii(c);
    // The bound is on A-labels; a U-label of that many octets may be shorter as one.
    (1..=LONGEST_LABEL * 4).contains(&label.len())
        && (label.len() <= LONGEST_LABEL || !label.is_ascii())
        && label.chars().all(|character| is_letter_or_digit(character) || character == '-')
        && label.starts_with(is_letter_or_digit)
        && label.ends_with(is_letter_or_digit)
}

/// RFC 5321 section 4.1.3.
pub(crate) fn is_address_literal(text: &str) -> bool {
    let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
        return false;
    };
    match inner.split_once(':') {
        None => inner.parse::<Ipv4Addr>().is_ok(),
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPv6") => {
            address.parse::<Ipv6Addr>().is_ok()
        }
        Some((tag, content)) => {
            is_label(tag)
                && tag.is_ascii()
                && !content.is_empty()
                && content.chars().all(|character| matches!(character, '!'..='Z' | '^'..='~'))
        }
    }
}

/// Checks `*(SP esmtp-keyword ["=" esmtp-value])`; says whether SMTPUTF8 is among them.
fn read_parameters(octets: &[u8]) -> Result<bool, PathError> {
    if !octets.is_empty() && !octets.starts_with(b" ") {
        return Err(PathError::Parameters);
    }
    let mut smtputf8 = false;
    for parameter in octets.split(|octet| *octet == b' ').filter(|word| !word.is_empty()) {
        let mut halves = parameter.splitn(2, |octet| *octet == b'=');
        let keyword = halves.next().unwrap_or_default();
        let value = halves.next();
        let is_keyword = keyword.first().is_some_and(u8::is_ascii_alphanumeric)
            && keyword.iter().all(|octet| octet.is_ascii_alphanumeric() || *octet == b'-');
        let is_value = value.is_none_or(|value| {
            let is_graphic = |octet: &u8| matches!(octet, 33..=60 | 62..=126 | 128..);
            !value.is_empty() && value.iter().all(is_graphic) && std::str::from_utf8(value).is_ok()
        });
        if !is_keyword || !is_value {
            return Err(PathError::Parameters);
        }
        smtputf8 |= keyword.eq_ignore_ascii_case(b"SMTPUTF8") && value.is_none();
    }
    Ok(smtputf8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(line: &str) -> Result<Option<String>, PathError> {
        let command = PathCommand::mail(line.as_bytes())?;
        Ok(command.mailbox.map(|mailbox| mailbox.canonical()))
    }

    #[test]
    fn what_real_servers_take_is_taken() {
        let lines = [
            ("MAIL FROM:<a@b.example>", "a@b.example"),
            ("mail from: <A.b+c@B.Example> ", "A.b+c@b.example"),
            ("MAIL FROM:<@x.example,@y.example:a@b> BODY=8BITMIME  SIZE=10", "a@b"),
            ("MAIL FROM:<\"a b>\\\"@\"@b.example> AUTH=<>", "a b>\"@@b.example"),
            ("MAIL FROM:<\"a\"@b>", "a@b"),
            ("MAIL FROM:<a@[192.0.2.1]>", "a@[192.0.2.1]"),
            ("MAIL FROM:<a@[IPv6:2001:db8::1]>", "a@[ipv6:2001:db8::1]"),
            ("MAIL FROM:<a@[x-tag:content]>", "a@[x-tag:content]"),
            ("MAIL FROM:<\u{fc}@\u{dc}ber.example> SMTPUTF8", "\u{fc}@\u{fc}ber.example"),
        ];
        for (line, expected) in lines {
            assert_eq!(canonical(line), Ok(Some(expected.to_owned())), "{line}");
        }
        assert_eq!(canonical("MAIL FROM:<>"), Ok(None));
        let long = format!("MAIL FROM:<{}@b.example>", "v".repeat(200));
        assert!(canonical(&long).is_ok());
    }

    #[test]
    fn what_is_wrong_is_named() {
        use PathError::{Parameters, Path, Verb};
        let long_path = format!("MAIL FROM:<{}@b>", "v".repeat(1_100));
        let long_label = format!("MAIL FROM:<a@{}.example>", "l".repeat(64));
        let long_domain = format!("MAIL FROM:<a@{}example>", "label.".repeat(50));
        let lines = [
            ("MAIL", Verb),
            ("MAIL TO:<a@b>", Verb),
            ("RCPT FROM:<a@b>", Verb),
            ("MAIL FROM:", Path),
            ("MAIL FROM:a@b", Path),
            ("MAIL FROM:  <a@b>", Path),
            ("MAIL FROM:<a@b", Path),
            ("MAIL FROM:<a>", Path),
            ("MAIL FROM:<@b>", Path),
            ("MAIL FROM:<a@>", Path),
            ("MAIL FROM:<a..b@c>", Path),
            ("MAIL FROM:<.a@c>", Path),
            ("MAIL FROM:<a b@c>", Path),
            ("MAIL FROM:<a@b@c>", Path),
            ("MAIL FROM:<a@-b>", Path),
            ("MAIL FROM:<a@b.>", Path),
            ("MAIL FROM:<a@b_c.example>", Path),
            ("MAIL FROM:<a@[192.0.2]>", Path),
            ("MAIL FROM:<a@[IPv6:::g]>", Path),
            ("MAIL FROM:<\"a@b>", Path),
            ("MAIL FROM:<\"a\tb\"@c>", Path),
            ("MAIL FROM:<x.example:a@b>", Path),
            ("MAIL FROM:<@x.example a@b>", Path),
            (&long_path, Path),
            (&long_label, Path),
            (&long_domain, Path),
            ("MAIL FROM:<a@b>SIZE=1", Parameters),
            ("MAIL FROM:<a@b> SIZE=", Parameters),
            ("MAIL FROM:<a@b> =1", Parameters),
            ("MAIL FROM:<a@b> -X", Parameters),
            ("MAIL FROM:<a@b> X=a=b", Parameters),
            ("MAIL FROM:<a@b> X=a\tb", Parameters),
        ];
        for (line, error) in lines {
            assert_eq!(canonical(line), Err(error), "{line}");
        }
        let not_utf8 = PathCommand::mail(b"MAIL FROM:<\xfc@b> SMTPUTF8");
        assert_eq!(not_utf8, Err(Path));
    }

    #[test]
    fn rcpt_is_read_in_the_same_way() {
        let command = PathCommand::rcpt(b"rcpt to:<@r:a@B.example> NOTIFY=NEVER").unwrap();
        assert_eq!(command.mailbox.unwrap().canonical(), "a@b.example");
        for wrong in ["RCPT TO:<Postmaster>", "RCPT TO:<a@b", "RCPT TO:<a@b> ="] {
            assert!(PathCommand::rcpt(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert_eq!(PathCommand::rcpt(b"MAIL FROM:<a@b>"), Err(PathError::Verb));
    }

    #[test]
    fn another_path_changes_nothing_else() {
        let line = b"mail From: <@r:a@b>  SIZE=1 X ";
        let command = PathCommand::mail(line).unwrap();
        assert_eq!(&command.with_path(line, b"<c@d>")[..], b"mail From: <c@d>  SIZE=1 X ");
    }

    proptest! {
        #[test]
        fn any_octets_get_an_answer(octets in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = PathCommand::mail(&octets);
            let _ = PathCommand::mail(&[b"MAIL FROM:<", &octets[..]].concat());
        }

        /// What is accepted can be written again and means the same.
        #[test]
        fn an_accepted_path_is_one(pieces in proptest::collection::vec(prop_oneof![
            Just("<"), Just(">"), Just("@"), Just("a"), Just("."), Just("\""), Just("\\"), Just(" "),
            Just("b.example"), Just(":"), Just(","), Just("[192.0.2.1]"), Just("\u{fc}"), Just("X=1"),
        ], 0..14)) {
            let line = format!("MAIL FROM:<{}", pieces.concat());
            if let Ok(PathCommand { mailbox: Some(mailbox), .. }) = PathCommand::mail(line.as_bytes()) {
                let again = format!("MAIL FROM:<{}>", mailbox.written);
                let command = PathCommand::mail(again.as_bytes()).unwrap();
                prop_assert_eq!(command.mailbox, Some(mailbox));
            }
        }
    }
}
