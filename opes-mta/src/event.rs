//! The front-neutral SMTP event: every front end ends here.

use bytes::Bytes;
use ocp_proto::smtp::{
    Address, AddressError, Command, CommandLine, Envelope, Part, ProfileKind, Reply, SideEffect,
};
use ocp_proto::wire::Atom;

use crate::octets::{Octets, is_same};

/// One thing that happens in a dialog and that services may adapt.
#[derive(Clone, Debug)]
pub struct Event {
    /// Which event it is; if that is a reply, the command that it answers.
    pub command: Command,
    /// Its octets.
    pub content: Content,
    /// The envelope in force: what was accepted before this event, after all adaptations.
    pub envelope: Envelope,
    /// URIs of the services that this sender may skip (profile section 8).
    pub bypass: Vec<Atom>,
}

/// The octets of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// CONNECT has none.
    Nothing,
    /// A command line.
    Line(CommandLine),
    /// A message.
    Message(Message),
    /// A next hop's reply.
    Reply(Replied),
}

/// A reply, and the command that it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replied {
    /// The line that the next hop got; `None` for the banner and content.
    pub line: Option<CommandLine>,
    /// The whole reply.
    pub reply: Reply,
}

/// A message's octets as they came in, in two parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The header section with the empty line that ends it.
    pub header: Bytes,
    /// The rest.
    pub body: Body,
}

/// The octets of a message's body, in the pieces in which they lie.
#[derive(Clone, Debug, Default)]
pub struct Body {
    pieces: Vec<Octets>,
    is_cut: bool,
}

impl Event {
    /// A command; `None` if the line does not start with a verb.
    pub fn command(line: CommandLine, envelope: Envelope) -> Option<Self> {
        let command = line.command()?;
        Some(Self { command, content: Content::Line(line), envelope, bypass: Vec::new() })
    }

    /// A message.
    pub fn message(message: Message, envelope: Envelope) -> Self {
        let content = Content::Message(message);
        Self { command: Command::Message, content, envelope, bypass: Vec::new() }
    }

    /// A next hop's reply to a command.
    pub fn reply(command: Command, replied: Replied, envelope: Envelope) -> Self {
        Self { command, content: Content::Reply(replied), envelope, bypass: Vec::new() }
    }

    /// The profile of the groups that it is for.
    pub fn profile(&self) -> ProfileKind {
        match &self.content {
            Content::Reply(_) => ProfileKind::Reply,
            Content::Nothing | Content::Line(_) | Content::Message(_) => ProfileKind::Command,
        }
    }

    /// Whether its octets are a message, which take their time.
    pub fn has_content(&self) -> bool {
        matches!(self.content, Content::Message(_))
    }

    /// The octets by parts; empty parts are absent (profile section 4).
    pub fn parts(&self) -> impl Iterator<Item = (Part, Octets)> {
        let line = |line: &CommandLine| (Part::Command, line.as_bytes().clone());
        let (first, rest, pieces) = match &self.content {
            Content::Nothing => (None, None, &[][..]),
            Content::Line(command) => (Some(line(command)), None, &[][..]),
            Content::Message(Message { header, body }) => {
                (Some((Part::MessageHeader, header.clone())), None, body.pieces())
            }
            Content::Reply(replied) => {
                let reply = (Part::Reply, replied.reply.as_bytes().clone());
                (replied.line.as_ref().map(line), Some(reply), &[][..])
            }
        };
        let first = first.into_iter().chain(rest).map(|(part, octets)| (part, octets.into()));
        let body = pieces.iter().map(|piece| (Part::MessageBody, piece.clone()));
        first.chain(body).filter(|(_, octets): &(Part, Octets)| !octets.is_empty())
    }
}

impl Body {
    /// The pieces in their order.
    pub fn pieces(&self) -> &[Octets] {
        &self.pieces
    }

    /// The same.
    pub fn into_pieces(self) -> Vec<Octets> {
        self.pieces
    }

    /// The next piece.
    pub(crate) fn push(&mut self, octets: Octets) {
        self.pieces.push(octets);
    }

    /// Octets of all pieces.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Octets::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pieces.iter().all(Octets::is_empty)
    }

    /// Whether an unknown number of octets follows that the mail server has kept to itself: nobody wanted them.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The same octets, with others behind them that are not here, or without.
    #[must_use]
    pub fn cut(self, is_cut: bool) -> Self {
        Self { is_cut, ..self }
    }
}

impl From<Vec<Octets>> for Body {
    fn from(pieces: Vec<Octets>) -> Self {
        Self { pieces, is_cut: false }
    }
}

impl From<Bytes> for Body {
    fn from(octets: Bytes) -> Self {
        vec![octets.into()].into()
    }
}

impl From<&'static str> for Body {
    fn from(octets: &'static str) -> Self {
        Bytes::from(octets).into()
    }
}

impl PartialEq for Body {
    /// Whether the octets are the same, however they are cut; see [`Octets`] for those in a file.
    fn eq(&self, other: &Self) -> bool {
        self.is_cut == other.is_cut && is_same(&self.pieces, &other.pieces)
    }
}

impl Eq for Body {}

/// Pieces as one; a single one stays where it is.
pub(crate) fn whole(pieces: &[Bytes]) -> Bytes {
    match pieces {
        [one] => one.clone(),
        several => several.concat().into(),
    }
}

impl Message {
    /// Splits octets behind the first empty line. Without one everything is header.
    pub fn split(octets: Bytes) -> Self {
        let at = header_end(&octets).unwrap_or(octets.len());
        Self { header: octets.slice(..at), body: octets.slice(at..).into() }
    }

    /// Octets of both parts.
    pub fn len(&self) -> usize {
        self.header.len() + self.body.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of the first field of this name on its first line, or `None`.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.header.split(|&octet| octet == b'\n').find_map(|line| {
            let (found, value) = line.split_at_checked(name.len())?;
            let value = value.strip_prefix(b":")?;
            found.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
        })
    }
}

/// Where the header section ends: behind the first empty line, CRLF or LF.
pub(crate) fn header_end(octets: &[u8]) -> Option<usize> {
    let mut line = 0;
    for end in memchr::memchr_iter(b'\n', octets) {
        if matches!(octets.get(line..end), Some(b"" | b"\r")) {
            return Some(end + 1);
        }
        line = end + 1;
    }
    None
}

/// Carries out a side effect on an envelope. What is no matter of the envelope changes nothing.
pub(crate) fn carry_out(envelope: &mut Envelope, effect: &SideEffect) {
    let recipients = &mut envelope.recipients;
    match effect {
        SideEffect::AddRecipient(address) => {
            recipients.retain(|known| known.path() != address.path());
            recipients.push(address.clone());
        }
        SideEffect::DeleteRecipient(address) => {
            recipients.retain(|known| known.path() != address.path());
        }
        SideEffect::SetRecipients(addresses) => recipients.clone_from(addresses),
        SideEffect::ChangeSender(address) => {
            let mut sender = address.clone();
            let before = envelope.sender.take().map(|before| before.parameters);
            // What MAIL says of the content holds whoever sends it, unless the new sender says something else.
            let of_content = before.into_iter().flatten().filter(|parameter| {
                OF_CONTENT.iter().any(|known| keyword(parameter).eq_ignore_ascii_case(known))
            });
            for parameter in of_content {
                let is_same = |one: &Atom| keyword(one).eq_ignore_ascii_case(keyword(&parameter));
                if !sender.parameters.iter().any(is_same) {
                    sender.parameters.push(parameter);
                }
            }
            envelope.sender = Some(sender);
        }
        _ => {}
    }
}

/// Parameters of MAIL that are about the content (RFC 1870, 6152 and 6531).
const OF_CONTENT: [&[u8]; 3] = [b"SIZE", b"BODY", b"SMTPUTF8"];

/// The name of an ESMTP parameter.
fn keyword(parameter: &[u8]) -> &[u8] {
    parameter.split(|octet| *octet == b'=').next().unwrap_or_default()
}

/// The address of a `MAIL FROM:` or `RCPT TO:` line with its parameters; the source route is removed
/// (profile section 2).
///
/// # Errors
/// If the line is neither, or its path could smuggle something behind the address.
pub fn address_of(line: &CommandLine) -> Result<Address, PathError> {
    let octets = line.as_bytes();
    let start = ["MAIL FROM:", "RCPT TO:"]
        .iter()
        .find(|prefix| {
            octets
                .get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
        })
        .map(|prefix| prefix.len())
        .ok_or(PathError::Line)?;
    let rest = octets.get(start..).unwrap_or_default().trim_ascii_start();
    let end = path_end(rest).ok_or(PathError::Syntax)?;
    let (path, parameters) = rest.split_at(end);
    if !matches!(parameters.first(), None | Some(b' ')) {
        return Err(PathError::Syntax);
    }
    let parameters: Vec<Atom> = parameters
        .split(|&octet| octet == b' ')
        .filter(|parameter| !parameter.is_empty())
        .map(Atom::from)
        .collect();
    // RFC 5321 section 4.1.2: esmtp-keyword.
    if !parameters.iter().all(|p| p.first().is_some_and(u8::is_ascii_alphanumeric)) {
        return Err(PathError::Syntax);
    }
    let mailbox = path.get(1..path.len() - 1).unwrap_or_default();
    let path = match mailbox.first() {
        Some(b'@') => {
            let colon = memchr::memchr(b':', mailbox).ok_or(PathError::Syntax)?;
            [b"<", mailbox.get(colon + 1..).unwrap_or_default(), b">"].concat().into()
        }
        _ => Atom::from(path),
    };
    Ok(Address::new(path)?.with_parameters(parameters)?)
}

/// An address given by a person, with or without angle brackets.
///
/// # Errors
/// If it is none.
pub fn parse_address(text: &str) -> Result<Address, PathError> {
    let text = text.trim();
    let path = if text.starts_with('<') { text.to_owned() } else { format!("<{text}>") };
    let address = Address::new(path)?;
    check_path(&address)?;
    Ok(address)
}

/// Whether an SMTP peer would read this path as one path.
///
/// # Errors
/// If something stands behind its end.
pub(crate) fn check_path(address: &Address) -> Result<(), PathError> {
    let path = address.path();
    (path_end(path) == Some(path.len())).then_some(()).ok_or(PathError::Syntax)
}

/// Octets of the path in angle brackets that `text` starts with: blanks and brackets stand in quotes
/// only (RFC 5321 section 4.1.2).
fn path_end(text: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut octets = text.iter().enumerate();
    octets.next().filter(|(_, first)| **first == b'<')?;
    while let Some((at, octet)) = octets.next() {
        match octet {
            b'"' => quoted = !quoted,
            b'\\' if quoted => {
                octets.next()?;
            }
            b'>' if !quoted => return Some(at + 1),
            b'<' | b' ' if !quoted => return None,
            _ => {}
        }
    }
    None
}

/// Why octets hold no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Another command.
    #[error("the line is neither MAIL FROM: nor RCPT TO:")]
    Line,
    /// No path, or more than one.
    #[error("an address is one path without blanks and brackets outside of quotes")]
    Syntax,
    /// See there.
    #[error(transparent)]
    Address(#[from] AddressError),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn where_octets_lie_makes_no_difference(
            one in prop::collection::vec(prop::collection::vec(0..2_u8, 0..4), 0..6),
            other in prop::collection::vec(prop::collection::vec(0..2_u8, 0..4), 0..6),
        ) {
            let body = |pieces: &[Vec<u8>]| {
                let pieces = pieces.iter().map(|piece| Bytes::copy_from_slice(piece).into());
                Body::from(pieces.collect::<Vec<Octets>>())
            };
            prop_assert_eq!(body(&one) == body(&other), one.concat() == other.concat());
            let whole = Bytes::from(one.concat());
            prop_assert_eq!(body(&one), whole.clone().into());
            prop_assert_eq!(Body::from(whole), body(&one));
            prop_assert_eq!(body(&one).len(), one.concat().len());
            prop_assert_eq!(body(&one).is_empty(), one.concat().is_empty());
        }
    }

    #[test]
    fn another_sender_has_the_same_content() {
        let address = |parameters: &[&'static str]| {
            let parameters = parameters.iter().map(|p| Atom::from_static(p.as_bytes())).collect();
            Address::new("<a@b>").unwrap().with_parameters(parameters).unwrap()
        };
        let before = address(&["RET=HDRS", "size=9", "BODY=8BITMIME", "SMTPUTF8", "ENVID=x"]);
        for (new, expected) in [
            (&[][..], &["size=9", "BODY=8BITMIME", "SMTPUTF8"][..]),
            (&["BODY=7BIT", "ENVID=y"], &["BODY=7BIT", "ENVID=y", "size=9", "SMTPUTF8"]),
        ] {
            let mut envelope = Envelope { sender: Some(before.clone()), recipients: Vec::new() };
            let effect = SideEffect::ChangeSender(address(new));
            // Effects of an earlier stage are carried out again at a later one.
            (0..2).for_each(|_| carry_out(&mut envelope, &effect));
            assert_eq!(envelope.sender, Some(address(expected)));
        }
    }

    #[test]
    fn the_header_ends_at_the_first_empty_line() {
        for (text, header) in
            [("A: b\r\n\r\nx\r\n\r\n", 8), ("A: b\n\n\n", 6), ("\nx", 1), ("A: b\n", 5), ("", 0)]
        {
            assert_eq!(Message::split(text.into()).header.len(), header, "{text:?}");
        }
        let message = Message::split("A: b\r\nreturn-path: <x@y> \r\n\r\nTo: z\n".into());
        assert_eq!(message.field("Return-Path"), Some(&b"<x@y>"[..]));
        assert_eq!(message.field("To"), None);
    }

    #[test]
    fn a_path_ends_where_an_smtp_peer_ends_it() {
        let address = |line: &str| address_of(&CommandLine::new(line.to_owned()).unwrap());
        let found = address("mail from: <@r,@s:\"a> b\"@c> SIZE=1  SMTPUTF8").unwrap();
        assert_eq!(found.path(), "<\"a> b\"@c>");
        assert_eq!(found.parameters, ["SIZE=1", "SMTPUTF8"]);
        assert!(address("MAIL FROM:<>").unwrap().is_null());
        for wrong in ["MAIL FROM:a@b", "RCPT TO:<a@b> <c@d", "RCPT TO:<a@b>x", "RCPT TO:<a b@c>"] {
            assert_eq!(address(wrong), Err(PathError::Syntax), "{wrong}");
        }
        assert_eq!(address("QUIT"), Err(PathError::Line));
        assert_eq!(parse_address("<a@b> X=<y>"), Err(PathError::Syntax));
        assert_eq!(parse_address("a@b").unwrap().path(), "<a@b>");
    }
}
