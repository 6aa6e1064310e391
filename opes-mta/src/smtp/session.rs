//! In which order commands may come, and what a reply makes of them.
//!
//! ```text
//!         EHLO         MAIL          RCPT              BDAT
//!  Start ──────▶ Idle ──────▶ Sender ──────▶ Recipients ──────▶ Chunks ──────▶ Refused
//!                 ▲             │                │  │             │  │            │
//!                 │             │                │  │ DATA        │  │ BDAT LAST  │
//!                 ├─────────────┴──── RSET, EHLO ┴──│─────────────┴──│────────────┘
//!                 └──────── all replies to the content ──────────────┘
//! ```
//!
//! Replies that succeed lead on, but for those to chunks and content: a chunk that is refused leads to
//! `Refused`, and behind content there is nothing of a message, whatever the reply. All else that is refused
//! leaves the session where it is. STARTTLS leads from everywhere to `Start`, and so does XCLIENT outside of
//! a message.

mod answer;
mod awaited;
mod order;
mod refusal;

use bytes::{Bytes, BytesMut};
use ocp_proto::smtp::{CommandLine, Envelope};

use super::bdat::{Chunk, Framing};
use super::command::{Command, Request, Secret};
use super::content::{self, Bare, LineEnds, Piece};
use super::line::{self, InvalidLine, LONGEST_LINE};
use awaited::{Awaited, Terms};

pub use refusal::{Misuse, Refusal};

/// How a session is spoken.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which protocol.
    pub protocol: Protocol,
    /// Whether TLS was there before the first octet.
    pub is_secure: bool,
    /// The most octets of a command line without CRLF. More than [`CommandLine::LONGEST`] is taken for
    /// that: services could not be asked about such a line.
    pub longest_line: usize,
    /// The most octets of a chunk. It is no bound of memory: chunks are handed on as they come.
    pub largest_chunk: u64,
    /// The most recipients of a message. RFC 5321 section 4.5.3.1.8 wants 100 or more. Worst case a
    /// session: that many paths of 3 KiB.
    pub most_recipients: usize,
}

/// SMTP or LMTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 5321, and submission (RFC 6409).
    Smtp,
    /// RFC 2033: content gets a reply for each recipient.
    Lmtp,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            protocol: Protocol::Smtp,
            is_secure: false,
            longest_line: LONGEST_LINE,
            largest_chunk: 1 << 30,
            most_recipients: 1_000,
        }
    }
}

/// How far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The greeting said that there is no service.
    TurnedAway,
    /// Nobody has said EHLO.
    Start,
    /// No message.
    Idle,
    /// A sender was accepted.
    Sender,
    /// A recipient was accepted.
    Recipients,
    /// BDAT has begun.
    Chunks,
    /// A chunk was refused.
    Refused,
}

impl Stage {
    fn is_within_message(self) -> bool {
        matches!(self, Self::Sender | Self::Recipients | Self::Chunks | Self::Refused)
    }
}

/// What the next octets are.
#[derive(Debug)]
enum Reading {
    Commands,
    /// The exchange of AUTH.
    AuthLines,
    /// Content behind DATA.
    Content(content::Decoder),
    /// The octets of a chunk; those of a refused one are thrown away before the replies.
    Chunk {
        framing: Framing,
        last: bool,
        refused: Option<(Refusal, usize)>,
    },
    /// The handshake of TLS, and whether that was told.
    Tls {
        is_told: bool,
    },
    /// Of no interest.
    Nothing,
}

/// What has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A command that may come here. A reply is awaited, but to BDAT: its octets come first.
    Command(Request),
    /// Something that may not. A reply is awaited: [`Session::refuse`], or a failure of another kind. Within
    /// the exchange of AUTH this ends it, and the next hop is to be told (`*`).
    Refused(Refusal),
    /// Octets of the content, without the dots of DATA.
    Content(Bytes),
    /// A chunk is complete that is not the last one. A reply is awaited.
    ChunkEnd,
    /// The content is complete. Replies are awaited.
    ContentEnd(Replies),
    /// A line of the exchange of AUTH. A reply is awaited.
    AuthLine(Secret),
    /// The client begins TLS: [`Session::secured`] after the handshake, or the connection ends.
    StartTls,
}

/// Which replies the content gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replies {
    /// One.
    One,
    /// One for each recipient in the order of the envelope (RFC 2033 section 4.2).
    Recipients,
    /// One, or 353, one for each recipient in the order of the envelope, and one for all of them
    /// (draft-hall-prdr).
    OneOrRecipients,
}

/// One connection of a client: what has come, and what it means with the replies so far.
///
/// It begins with the greeting, which is awaited: [`answer`](Self::answer). Then
/// [`receive`](Self::receive) takes one event after the other off what was read, and each reply goes
/// through [`answer`](Self::answer) or [`refuse`](Self::refuse); as long as one is awaited nothing is
/// taken. Replies to commands that came together are appended to one buffer, which is best written where
/// `receive` returns `None`. If the session [is over](Self::is_over) the connection is closed behind that.
///
/// What it holds is the envelope. Content is handed on as it comes, but for two octets that may become its
/// end and stay in `input`.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    stage: Stage,
    reading: Reading,
    awaited: Option<Awaited>,
    lines: line::Decoder,
    envelope: Envelope,
    terms: Terms,
    line_ends: LineEnds,
    /// EHLO or LHLO was accepted.
    has_extensions: bool,
    is_secure: bool,
    is_authenticated: bool,
}

impl Session {
    /// The session of a client that has connected.
    pub fn new(settings: Settings) -> Self {
        let longest = settings.longest_line.min(CommandLine::LONGEST);
        Self {
            stage: Stage::Start,
            reading: Reading::Commands,
            awaited: Some(Awaited::Greeting),
            lines: line::Decoder::new(longest),
            envelope: Envelope::default(),
            terms: Terms::default(),
            line_ends: LineEnds::default(),
            has_extensions: false,
            is_secure: settings.is_secure,
            is_authenticated: false,
            settings,
        }
    }

    /// Takes the next event off the front of `input`; `None` if more octets are needed, a reply is awaited,
    /// or the session is over. Content is not copied where no dots are removed.
    pub fn receive(&mut self, input: &mut BytesMut) -> Option<Event> {
        if self.awaited.is_some() {
            return None;
        }
        match &mut self.reading {
            Reading::Commands => self.receive_command(input),
            Reading::AuthLines => self.receive_auth_line(input),
            Reading::Content(decoder) => Some(match decoder.decode(input)? {
                Piece::Octets(octets) => self.content(octets),
                Piece::End => self.content_end(),
            }),
            Reading::Chunk { .. } => self.receive_chunk(input),
            Reading::Tls { .. } if !input.is_empty() => {
                input.clear();
                Some(self.refused(Refusal::Injected))
            }
            Reading::Tls { is_told } => {
                (!std::mem::replace(is_told, true)).then_some(Event::StartTls)
            }
            Reading::Nothing => {
                input.clear();
                None
            }
        }
    }

    fn receive_command(&mut self, input: &mut BytesMut) -> Option<Event> {
        let request = match self.lines.decode(input)? {
            Err(error) => return Some(self.refused(error.into())),
            Ok(line) => match Request::parse(line) {
                Err(error) => return Some(self.refused(error.into())),
                Ok(request) => request,
            },
        };
        match (self.check(&request.command, !input.is_empty()), &request.command) {
            (Err(refusal), Command::Bdat(chunk)) => {
                self.begin_refused_chunk(*chunk, refusal);
                return self.receive_chunk(input);
            }
            (Err(refusal), _) => return Some(self.refused(refusal)),
            (Ok(()), Command::Bdat(chunk)) => self.begin_chunk(*chunk),
            (Ok(()), command) => self.awaited = Awaited::of(command),
        }
        Some(Event::Command(request))
    }

    fn receive_auth_line(&mut self, input: &mut BytesMut) -> Option<Event> {
        let line = self.lines.decode_auth(input)?;
        Some(match line {
            Ok(line) => {
                self.awaited = Some(Awaited::Auth);
                Event::AuthLine(Secret::new(line))
            }
            Err(InvalidLine::TooLong) => self.refused(Refusal::AuthLineTooLong),
            Err(error) => self.refused(error.into()),
        })
    }

    fn begin_chunk(&mut self, chunk: Chunk) {
        if self.stage == Stage::Recipients {
            self.line_ends = LineEnds::default();
            self.stage = Stage::Chunks;
        }
        let framing = Framing::new(chunk);
        self.reading = Reading::Chunk { framing, last: chunk.last, refused: None };
    }

    /// RFC 3030 section 2: the octets of a refused chunk come all the same.
    fn begin_refused_chunk(&mut self, chunk: Chunk, refusal: Refusal) {
        let mut replies = 1;
        if refusal == Refusal::ChunkTooLarge {
            // It might have come; what fails is the content.
            if chunk.last && self.settings.protocol == Protocol::Lmtp {
                replies = self.envelope.recipients.len();
            }
            self.end_message(if chunk.last { Stage::Idle } else { Stage::Refused });
        }
        let (framing, refused) = (Framing::new(chunk), Some((refusal, replies)));
        self.reading = Reading::Chunk { framing, last: chunk.last, refused };
    }

    fn receive_chunk(&mut self, input: &mut BytesMut) -> Option<Event> {
        let Reading::Chunk { framing, last, refused } = &mut self.reading else { return None };
        let octets = framing.take(input);
        if let (Some(octets), None) = (octets, &refused) {
            return Some(self.content(octets));
        }
        if !framing.is_complete() {
            return None;
        }
        let (last, refused) = (*last, refused.take());
        self.reading = Reading::Commands;
        Some(match refused {
            Some((refusal, replies)) => {
                self.awaited = Some(Awaited::Refusal { refusal, replies });
                Event::Refused(refusal)
            }
            None if last => self.content_end(),
            None => {
                self.awaited = Some(Awaited::Chunk);
                Event::ChunkEnd
            }
        })
    }

    fn content(&mut self, octets: Bytes) -> Event {
        self.line_ends.look(&octets);
        Event::Content(octets)
    }

    fn content_end(&mut self) -> Event {
        self.line_ends.end();
        self.reading = Reading::Commands;
        let left = self.envelope.recipients.len();
        let (awaited, replies) = match self.settings.protocol {
            Protocol::Lmtp => {
                (Awaited::Recipients { left, final_follows: false }, Replies::Recipients)
            }
            Protocol::Smtp if self.terms.has_prdr => {
                (Awaited::Content { may_be_announced: true }, Replies::OneOrRecipients)
            }
            Protocol::Smtp => (Awaited::Content { may_be_announced: false }, Replies::One),
        };
        self.awaited = Some(awaited);
        Event::ContentEnd(replies)
    }

    fn refused(&mut self, refusal: Refusal) -> Event {
        self.awaited = Some(Awaited::Refusal { refusal, replies: 1 });
        Event::Refused(refusal)
    }

    /// The envelope as the client knows it: what was accepted, before any adaptation.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The first bare CR or LF of the content that came last, as far as it has come.
    pub fn bare(&self) -> Option<Bare> {
        self.line_ends.bare()
    }

    /// Octets of the content that came last, as far as it has come.
    pub fn octets(&self) -> u64 {
        self.line_ends.octets()
    }

    /// Whether the client waits for a reply.
    pub fn awaits_reply(&self) -> bool {
        self.awaited.is_some()
    }

    /// Whether TLS is active.
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Whether AUTH has succeeded.
    pub fn is_authenticated(&self) -> bool {
        self.is_authenticated
    }

    /// Whether nothing more is to be received: the connection is closed when all replies are written.
    pub fn is_over(&self) -> bool {
        matches!(self.reading, Reading::Nothing)
    }
}

#[cfg(test)]
mod tests;
