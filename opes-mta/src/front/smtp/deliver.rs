//! A message on its way to the next hop: its envelope again where services have changed it, then its content.

use std::io;

use ocp_proto::smtp::{Address, CommandLine, Envelope, Reply};
use ocp_proto::wire::Atom;

use super::broken::Broken;
use super::replies;
use crate::apply::Adapted;
use crate::octets::Octets;
use crate::relay::{Answer, Connection, Expected, RelayError, Transfer};
use crate::smtp::Protocol;
use crate::smtp::content::LineEnds;
use crate::smtp::extensions::{CHUNKING, PRDR};

/// Octets of content that go as one chunk, at most. Of more of them the next hop would answer each chunk.
const LARGEST_CHUNK: usize = 64 * 1024;

/// Brings a message to the next hop: what holds for the recipients of the envelope, in their order. Where the client
/// gets one reply for all, nobody gets the message if the next hop refuses a part of the envelope. With `each`,
/// and over LMTP, each has a reply of its own.
///
/// # Errors
/// If the connection is of no more use. The next hop may have the message even so, unless it is the message
/// that can't be read.
pub(super) async fn deliver(
    hop: &mut Connection,
    message: &Adapted,
    envelope: &Envelope,
    each: bool,
    is_known: bool,
) -> Result<Answer, Broken> {
    let told = match is_known {
        true => Ok(Vec::new()),
        false => begin_again(hop, message, envelope, each).await?,
    };
    let (refused, said) = match told {
        Err(reply) => {
            hop.reset().await?;
            (Vec::new(), Answer::One(reply))
        }
        Ok(refused) => {
            let accepted = envelope.recipients.len() - refused.iter().flatten().count();
            let replies = expected(hop, envelope, accepted);
            (refused, send(hop, message, accepted, replies).await?)
        }
    };
    if each { Ok(self::each(envelope.recipients.len(), refused, &said)) } else { Ok(said) }
}

/// Which replies the content gets.
fn expected(hop: &Connection, envelope: &Envelope, accepted: usize) -> Expected {
    let is_prdr = |parameter: &Atom| parameter.eq_ignore_ascii_case(PRDR.as_bytes());
    let has_prdr = envelope.sender.iter().any(|sender| sender.parameters.iter().any(is_prdr));
    match hop.next_hop().protocol {
        Protocol::Lmtp => Expected::Each(accepted),
        Protocol::Smtp if has_prdr => Expected::Prdr(accepted),
        Protocol::Smtp => Expected::One,
    }
}

/// The content, for so many recipients that were accepted.
async fn send(
    hop: &mut Connection,
    message: &Adapted,
    accepted: usize,
    replies: Expected,
) -> Result<Answer, Broken> {
    if accepted == 0 {
        hop.reset().await?;
        return Ok(Answer::Each(Vec::new()));
    }
    let is_chunk = takes_chunk(hop, message);
    let transfer = if is_chunk {
        hop.chunks()
    } else {
        let reply = hop.command(&own_line("DATA")).await?;
        if reply.code() != 354 {
            hop.reset().await?;
            // Nothing was sent: a success would be none.
            let is_refused = reply.code() >= 400;
            return Ok(Answer::One(if is_refused { reply } else { replies::no_sense() }));
        }
        hop.content()
    };
    let answer = match write(transfer, message, replies).await {
        Err(Broken::NextHop(error)) => match error.reply() {
            // It was refused before its end. A success there would be none.
            Some(reply) if reply.code() >= 400 => Ok(Answer::One(reply.clone())),
            None if error.is_permanent() => Ok(Answer::One(replies::unfit())),
            _ => Err(error.into()),
        },
        answer => answer,
    };
    // A next hop that refuses a chunk may have kept the envelope (RFC 3030 section 2).
    if is_chunk
        && matches!(&answer, Ok(Answer::One(reply)) if !reply.is_success())
        && hop.is_usable()
    {
        // The client hears of the refusal; what is wrong here is found by the next command.
        let _ = hop.reset().await;
    }
    answer
}

/// Whether the content may go as one chunk, with its command (RFC 3030), which spares the next hop a command and
/// both the way there and back. What DATA could not carry does not get through like this.
fn takes_chunk(hop: &Connection, message: &Adapted) -> bool {
    let offers = hop.extensions().offers(CHUNKING) && hop.next_hop().protocol == Protocol::Smtp;
    if !offers || message.len() > LARGEST_CHUNK {
        return false;
    }
    let mut line_ends = LineEnds::default();
    message.header.iter().for_each(|piece| line_ends.look(piece));
    for piece in message.body.pieces() {
        let Octets::Memory(octets) = piece else { return false };
        line_ends.look(octets);
    }
    line_ends.are_whole()
}

async fn write(
    mut transfer: Transfer<'_>,
    message: &Adapted,
    replies: Expected,
) -> Result<Answer, Broken> {
    let mut buffer = Vec::new();
    for piece in &message.header {
        transfer.write(piece).await?;
    }
    for piece in message.body.pieces() {
        match piece {
            Octets::Memory(octets) => transfer.write(octets).await?,
            Octets::Stored(stored) => {
                for block in stored.blocks() {
                    let load = block.load(buffer).await.map_err(io::Error::other);
                    buffer = load.flatten().map_err(Broken::Content)?;
                    transfer.write(&buffer).await?;
                }
            }
        }
    }
    Ok(transfer.finish(replies).await?)
}

/// Tells the next hop another envelope: by recipient, the reply that it was refused with; or the reply by
/// which the message is refused as a whole.
async fn begin_again(
    hop: &mut Connection,
    message: &Adapted,
    envelope: &Envelope,
    each: bool,
) -> Result<Result<Vec<Option<Reply>>, Reply>, RelayError> {
    hop.reset().await?;
    hop.xforward_again().await?;
    if let Some(sender) = &envelope.sender
        && let Some(refused) = tell(hop, "MAIL FROM:", &with_size(sender, message)).await?
    {
        return Ok(Err(refused));
    }
    let mut refused = Vec::new();
    for recipient in &envelope.recipients {
        match tell(hop, "RCPT TO:", recipient).await? {
            Some(reply) if !each => return Ok(Err(reply)),
            reply => refused.push(reply),
        }
    }
    Ok(Ok(refused))
}

/// A sender whose message has another size by now: SIZE says which, if it is there (RFC 1870 section 5).
fn with_size(sender: &Address, message: &Adapted) -> Address {
    let is_size = |parameter: &Atom| {
        parameter.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"SIZE="))
    };
    let mut sender = sender.clone();
    for parameter in sender.parameters.iter_mut().filter(|parameter| is_size(parameter)) {
        *parameter = format!("SIZE={}", message.len()).into();
    }
    sender
}

/// Says a line of the envelope: its reply if it is no success.
async fn tell(
    hop: &mut Connection,
    verb: &str,
    address: &Address,
) -> Result<Option<Reply>, RelayError> {
    let Some(line) = envelope_line(verb, address) else { return Ok(Some(replies::syntax())) };
    let reply = hop.command(&line).await?;
    Ok(Some(reply).filter(|reply| !reply.is_success()))
}

/// A reply for each recipient: that by which it was refused, or what the next hop said to the content for it.
fn each(recipients: usize, refused: Vec<Option<Reply>>, said: &Answer) -> Answer {
    let mut accepted = 0..;
    let refused = refused.into_iter().chain(std::iter::repeat(None)).take(recipients);
    let reply = |refused: Option<Reply>| {
        refused.or_else(|| said.of(accepted.next()?).cloned()).unwrap_or_else(replies::no_sense)
    };
    Answer::Each(refused.map(reply).collect())
}

/// A command of this program.
pub(super) fn own_line(verb: &'static str) -> CommandLine {
    CommandLine::new(verb).expect("a verb is a command line")
}

/// MAIL or RCPT as it goes on: without source route, which is obsolete (RFC 5321 appendix C).
pub(super) fn envelope_line(verb: &str, address: &Address) -> Option<CommandLine> {
    let mut line = [verb.as_bytes(), address.path()].concat();
    for parameter in &address.parameters {
        line.push(b' ');
        line.extend_from_slice(parameter);
    }
    CommandLine::new(line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_is_said_again_is_that_of_the_message() {
        let message =
            Adapted { header: vec!["A: b\r\n".into(), "\r\n".into()], body: "body".into() };
        for (said, expected) in [
            ("<a@b> size=1 RET=HDRS", "MAIL FROM:<a@b> SIZE=12 RET=HDRS"),
            ("<a@b> RET=FULL", "MAIL FROM:<a@b> RET=FULL"),
        ] {
            let line = CommandLine::new(format!("MAIL FROM:{said}")).unwrap();
            let sender = with_size(&crate::event::address_of(&line).unwrap(), &message);
            let line = envelope_line("MAIL FROM:", &sender).unwrap();
            assert_eq!(line, CommandLine::new(expected).unwrap());
        }
    }
}
