//! What replies make of a session.

use bytes::BytesMut;
use ocp_proto::smtp::{Envelope, Reply};

use super::awaited::{Awaited, Sender, Terms};
use super::{Misuse, Reading, Session, Stage};
use crate::smtp::content;

/// The client is told that the connection ends (RFC 5321 section 3.8).
const CLOSING: u16 = 421;

impl Session {
    /// Appends the reply to what came last, and goes where it leads. 421 ends the session. A reply to a
    /// refusal has to refuse it too.
    ///
    /// # Errors
    /// No reply is awaited, or the client could not make sense of this one.
    pub fn answer(&mut self, reply: &Reply, out: &mut BytesMut) -> Result<(), Misuse> {
        let awaited = self.awaited.take().ok_or(Misuse::NotAwaited)?;
        if !awaited.takes(reply) {
            let misuse = Misuse::Reply { code: reply.code(), to: awaited.name() };
            self.awaited = Some(awaited);
            return Err(misuse);
        }
        let is_closing = reply.code() == CLOSING;
        let times = match awaited {
            Awaited::Refusal { replies, .. } if !is_closing => replies,
            _ => 1,
        };
        (0..times).for_each(|_| out.extend_from_slice(reply.as_bytes()));
        if is_closing {
            self.reading = Reading::Nothing;
        } else {
            self.follow(awaited, reply);
        }
        Ok(())
    }

    /// Appends what a refusal says.
    ///
    /// # Errors
    /// What is awaited is no reply to a refusal.
    pub fn refuse(&mut self, out: &mut BytesMut) -> Result<(), Misuse> {
        let Some(Awaited::Refusal { refusal, replies }) = self.awaited else {
            return Err(Misuse::NotAwaited);
        };
        self.awaited = None;
        let line = format!("{refusal}\r\n");
        (0..replies).for_each(|_| out.extend_from_slice(line.as_bytes()));
        self.after_refusal(refusal.is_fatal());
        Ok(())
    }

    /// Appends a reply that nobody awaits, such as 421 for a client that has been silent for too long, and
    /// ends the session.
    pub fn hang_up(&mut self, reply: &Reply, out: &mut BytesMut) {
        out.extend_from_slice(reply.as_bytes());
        self.awaited = None;
        self.reading = Reading::Nothing;
    }

    /// TLS is active. Nothing of what came before counts any more (RFC 3207 section 4.2).
    ///
    /// # Errors
    /// The client was not told to begin it.
    pub fn secured(&mut self) -> Result<(), Misuse> {
        if !matches!(self.reading, Reading::Tls { is_told: true }) {
            return Err(Misuse::NotTls);
        }
        self.reading = Reading::Commands;
        self.is_secure = true;
        self.start_again();
        Ok(())
    }

    fn follow(&mut self, awaited: Awaited, reply: &Reply) {
        let is_success = reply.is_success();
        match awaited {
            Awaited::Greeting if !is_success => self.stage = Stage::TurnedAway,
            Awaited::Hello { has_extensions } if is_success => {
                self.has_extensions = has_extensions;
                self.end_message(Stage::Idle);
            }
            Awaited::StartTls if is_success => self.reading = Reading::Tls { is_told: false },
            Awaited::Auth => {
                self.is_authenticated = is_success;
                let goes_on = reply.code() == 334;
                self.reading = if goes_on { Reading::AuthLines } else { Reading::Commands };
            }
            Awaited::Mail(Sender { address, terms }) if is_success => {
                self.envelope.sender = Some(address);
                self.terms = terms;
                self.stage = Stage::Sender;
            }
            Awaited::Rcpt(address) if is_success => {
                self.envelope.recipients.push(address);
                self.stage = Stage::Recipients;
            }
            Awaited::Data if reply.code() == 354 => {
                self.line_ends = content::LineEnds::default();
                self.reading = Reading::Content(content::Decoder::new());
            }
            Awaited::Chunk if !is_success => self.end_message(Stage::Refused),
            Awaited::Content { .. } if reply.code() == 353 => {
                let left = self.envelope.recipients.len();
                self.awaited = Some(Awaited::Recipients { left, final_follows: true });
            }
            Awaited::Content { .. } => self.end_message(Stage::Idle),
            Awaited::Recipients { left, final_follows } => {
                self.follow_recipient(left, final_follows)
            }
            // Without EHLO there is nothing to reset (RFC 5321 section 4.1.1.5).
            Awaited::Rset if is_success && self.stage != Stage::Start => {
                self.end_message(Stage::Idle);
            }
            Awaited::Xclient if is_success => self.start_again(),
            Awaited::Quit => self.reading = Reading::Nothing,
            Awaited::Refusal { refusal, .. } => self.after_refusal(refusal.is_fatal()),
            _ => {}
        }
    }

    fn follow_recipient(&mut self, left: usize, final_follows: bool) {
        match (left.saturating_sub(1), final_follows) {
            (0, true) => self.awaited = Some(Awaited::Content { may_be_announced: false }),
            (0, false) => self.end_message(Stage::Idle),
            (left, _) => self.awaited = Some(Awaited::Recipients { left, final_follows }),
        }
    }

    fn after_refusal(&mut self, is_fatal: bool) {
        if is_fatal {
            self.reading = Reading::Nothing;
        } else if matches!(self.reading, Reading::AuthLines) {
            self.reading = Reading::Commands;
        }
    }

    /// What RFC 5321 has as "clears its buffers".
    pub(super) fn end_message(&mut self, stage: Stage) {
        self.envelope = Envelope::default();
        self.terms = Terms::default();
        self.stage = stage;
    }

    /// As if the client had only just been greeted.
    fn start_again(&mut self) {
        self.has_extensions = false;
        self.is_authenticated = false;
        self.end_message(Stage::Start);
    }
}
