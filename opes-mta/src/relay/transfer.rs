//! Content to the next hop, in pieces and in bounded memory.

use bytes::BytesMut;
use ocp_proto::smtp::Reply;
use tokio::time::Instant;

use super::connection::Connection;
use super::error::{Cause, RelayError};
use super::stage::Stage;
use crate::smtp::Protocol;
use crate::smtp::content::{BareLineEnd, Encoder};
use crate::smtp::extensions::PIPELINING;
use crate::smtp::reply::EnhancedStatus;

/// Octets of a chunk that BDAT sends, but for the last. Worst case a connection: twice that many.
const CHUNK: usize = 128 * 1024;

/// Octets that are encoded at a time, before there has to be room for more.
const PIECE: usize = 16 * 1024;

/// A message on its way. Until [`Transfer::finish`] the next hop has none: whoever drops it before ends the
/// connection, without the end of the content.
#[derive(Debug)]
pub struct Transfer<'a> {
    connection: &'a mut Connection,
    form: Form,
    is_over: bool,
}

#[derive(Debug)]
enum Form {
    /// Behind DATA, with a dot for its end.
    Data(Encoder),
    /// By BDAT (RFC 3030): the chunk that is not full yet.
    Chunks(BytesMut),
}

/// Which replies follow the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// One, as in SMTP.
    One,
    /// One for each recipient that was accepted, as in LMTP (RFC 2033 section 4.2).
    Each(usize),
    /// 353, one for each recipient that was accepted, and one for all; or one alone (PRDR).
    Prdr(usize),
}

/// What the next hop said to the whole message. Worst case: [`Reply::LONGEST`] octets a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// For all recipients.
    One(Reply),
    /// For each in the order of their RCPT.
    Each(Vec<Reply>),
    /// Both (PRDR): what is said to all holds for each, if it is no success.
    Prdr {
        /// For each.
        each: Vec<Reply>,
        /// For all.
        all: Reply,
    },
}

impl Answer {
    /// What holds for the recipient whose RCPT was accepted as the `index`th, from 0 on.
    pub fn of(&self, index: usize) -> Option<&Reply> {
        match self {
            Self::One(reply) => Some(reply),
            Self::Prdr { all, .. } if !all.is_success() => Some(all),
            Self::Each(each) | Self::Prdr { each, .. } => each.get(index),
        }
    }
}

impl Connection {
    /// The content, after DATA has got its 354.
    pub fn content(&mut self) -> Transfer<'_> {
        Transfer { connection: self, form: Form::Data(Encoder::default()), is_over: false }
    }

    /// The content by BDAT, instead of DATA, to a next hop that offers CHUNKING.
    pub fn chunks(&mut self) -> Transfer<'_> {
        Transfer { connection: self, form: Form::Chunks(BytesMut::new()), is_over: false }
    }
}

impl Transfer<'_> {
    /// Sends a piece of the content, as soon as there is room for it.
    ///
    /// # Errors
    /// What the next hop did; or that it has refused the message already, after which the connection can
    /// be used again if it was sent in chunks ([`Connection::is_usable`]). And if a line ends with CR or
    /// LF alone, which only chunks can hold.
    pub async fn write(&mut self, piece: &[u8]) -> Result<(), RelayError> {
        for piece in piece.chunks(PIECE) {
            match &mut self.form {
                Form::Data(encoder) => {
                    self.connection.make_room(true).await?;
                    let encoded = encoder.encode(piece, self.connection.wire.output());
                    self.check_line_ends(encoded)?;
                }
                Form::Chunks(chunk) => {
                    chunk.extend_from_slice(piece);
                    if chunk.len() >= CHUNK {
                        self.send_chunk(false).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends the content, by which the message takes effect, and waits for what the next hop says to it.
    ///
    /// # Errors
    /// What the next hop did. It may have the message even so: nothing but its reply tells.
    pub async fn finish(mut self, replies: Expected) -> Result<Answer, RelayError> {
        let answer = self.end(replies).await;
        self.is_over |= answer.is_ok();
        answer
    }

    async fn end(&mut self, replies: Expected) -> Result<Answer, RelayError> {
        let first = match &mut self.form {
            Form::Data(encoder) => {
                let encoder = std::mem::take(encoder);
                self.connection.make_room(true).await?;
                // A reply that is there already is none to the end of the content.
                self.connection.check_silence(Stage::Content)?;
                let encoded = encoder.finish(self.connection.wire.output());
                self.check_line_ends(encoded)?;
                self.connection.expect(Stage::EndOfContent);
                self.connection.reply().await?
            }
            Form::Chunks(_) => {
                self.send_chunk(true).await?;
                self.settle(1).await?;
                self.connection.reply().await?
            }
        };
        match replies {
            Expected::One => Ok(Answer::One(first)),
            Expected::Each(count) => {
                let mut each = vec![first];
                self.read(count.saturating_sub(1), &mut each).await?;
                Ok(Answer::Each(each))
            }
            Expected::Prdr(_) if first.code() != 353 => Ok(Answer::One(first)),
            Expected::Prdr(count) => {
                let mut each = Vec::new();
                self.read(count, &mut each).await?;
                self.connection.expect(Stage::EndOfContent);
                Ok(Answer::Prdr { each, all: self.connection.reply().await? })
            }
        }
    }

    /// Reads so many replies more.
    async fn read(&mut self, count: usize, replies: &mut Vec<Reply>) -> Result<(), RelayError> {
        for _ in 0..count {
            self.connection.expect(Stage::EndOfContent);
            replies.push(self.connection.reply().await?);
        }
        Ok(())
    }

    /// Sends what there is of a chunk. With PIPELINING the next one follows before its reply has come.
    async fn send_chunk(&mut self, is_last: bool) -> Result<(), RelayError> {
        let is_pipelined = self.connection.extensions.offers(PIPELINING);
        self.settle(usize::from(is_pipelined)).await?;
        let Form::Chunks(chunk) = &mut self.form else { return Ok(()) };
        let chunk = chunk.split();
        let last = if is_last { " LAST" } else { "" };
        let stage = if is_last { Stage::EndOfContent } else { Stage::Content };
        let line = format!("BDAT {}{last}", chunk.len());
        self.connection.push_octets(stage, &[line.as_bytes()])?;
        for piece in chunk.chunks(PIECE) {
            self.connection.make_room(false).await?;
            self.connection.wire.output().extend_from_slice(piece);
        }
        Ok(())
    }

    /// Reads the replies to chunks until so many are missing.
    async fn settle(&mut self, outstanding: usize) -> Result<(), RelayError> {
        let since = Instant::now();
        while self.connection.outstanding() > outstanding {
            let reply = self.connection.reply().await?;
            if !reply.is_success() {
                // The rest is refused too (RFC 3030 section 2). How often LMTP says so is nowhere written.
                if self.connection.next_hop.protocol == Protocol::Smtp {
                    while self.connection.outstanding() > 0 {
                        self.connection.reply().await?;
                    }
                    self.is_over = true;
                }
                return Err(self.connection.refusal(Stage::Content, since, reply));
            }
        }
        Ok(())
    }

    fn check_line_ends(&mut self, encoded: Result<(), BareLineEnd>) -> Result<(), RelayError> {
        encoded.map_err(|BareLineEnd| {
            let status = EnhancedStatus::new(5, 6, 0);
            let what = "the content has a bare CR or LF, which DATA can't carry".to_owned();
            let cause = Cause::Unfit { status, what };
            self.connection.fail(Stage::Content, Instant::now(), cause)
        })
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            // What waits to be sent is not: the next hop can't take what it has for a message.
            self.connection.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::time::sleep;

    use super::*;
    use crate::relay::hello::NextHop;
    use crate::relay::wire::{OUTPUT, Wire};

    /// A peer that takes an octet a minute.
    #[tokio::test(start_paused = true)]
    async fn content_waits_for_room_in_bounded_memory_and_not_for_ever() {
        for is_chunked in [false, true] {
            let (ours, mut peers) = tokio::io::duplex(16);
            tokio::spawn(async move {
                loop {
                    sleep(Duration::from_secs(60)).await;
                    peers.read_u8().await.unwrap();
                }
            });
            let next_hop = NextHop::new("unix:/lmtp".parse().unwrap(), "mta.example");
            let mut connection = Connection::new(Arc::new(next_hop), Wire::new(Box::new(ours)));
            let mut transfer = if is_chunked { connection.chunks() } else { connection.content() };
            let error = transfer.write(&b".\r\n".repeat(1_000_000)).await.unwrap_err();
            assert!(matches!(error.cause, Cause::Silence(_)), "{error}");
            assert_eq!((error.stage, error.took.as_secs()), (Stage::Content, 180));
            let waiting = transfer.connection.wire.output().len();
            assert!((OUTPUT..OUTPUT + 2 * PIECE).contains(&waiting), "{waiting}");
        }
    }
}
