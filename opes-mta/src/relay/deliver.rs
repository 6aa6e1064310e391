//! One message to the next hop, and what became of it for each recipient.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use ocp_proto::smtp::{Address, Reply};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

use super::connection::Connection;
use super::error::{Cause, RelayError};
use super::parameters::{Plan, Unfit, plan};
use super::stage::Stage;
use super::transfer::{Answer, Expected};
use crate::smtp::Protocol;
use crate::smtp::extensions::{DSN, PIPELINING};

/// Commands that are under way at a time to a next hop that offers PIPELINING. Worst case a connection:
/// that many of [`ocp_proto::smtp::CommandLine::LONGEST`] octets, 128 KiB.
const WINDOW: usize = 64;

/// Octets of content that are read at a time.
const READ: usize = 64 * 1024;

/// A message that is to be delivered.
#[derive(Debug)]
pub struct Message<R> {
    /// Its octets, lines ending with CRLF, from the first on.
    pub content: R,
    /// How many they are. With fewer or more of them nothing is delivered.
    pub size: u64,
    /// Whether any of them is above 127.
    pub is_eight_bit: bool,
    /// Whether there are such in header fields, which takes SMTPUTF8.
    pub has_utf8_header: bool,
}

/// What may be used where the next hop offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// BDAT instead of DATA.
    pub chunking: bool,
    /// One reply a recipient behind the content.
    pub prdr: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { chunking: true, prdr: true }
    }
}

/// What became of a message for one recipient.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The next hop has taken it, and answers for it from now on.
    Delivered {
        /// What it said.
        reply: Reply,
        /// Whether it was told which notifications the sender wants (RFC 3461); if not, they are ours to
        /// send.
        notifies: bool,
    },
    /// It should be tried again.
    Deferred(RelayError),
    /// Trying again is of no use.
    Failed(RelayError),
}

impl From<RelayError> for Outcome {
    fn from(error: RelayError) -> Self {
        if error.is_permanent() { Self::Failed(error) } else { Self::Deferred(error) }
    }
}

impl Connection {
    /// Delivers a message; an outcome for each recipient, in their order. Parameters of the addresses are
    /// those of the message when it came: what the next hop does not offer is left out where nothing is
    /// lost by that, and refused otherwise.
    ///
    /// An error behind the end of the content leaves open whether the next hop has the message: it is
    /// deferred then, and may arrive twice, but is not lost (RFC 5321 section 4.5.4.1).
    ///
    /// Afterwards RSET, or a new connection if [`Connection::is_usable`] says no.
    pub async fn deliver<R: AsyncRead + Unpin>(
        &mut self,
        sender: &Address,
        recipients: &[Address],
        message: Message<R>,
        options: Options,
    ) -> Vec<Outcome> {
        let since = Instant::now();
        let plan = match plan(sender, recipients, &message, options, &self.extensions) {
            Ok(plan) => plan,
            Err(unfit) => {
                let error = self.unfit(Stage::Mail, since, &unfit);
                return recipients.iter().map(|_| error.clone().into()).collect();
            }
        };
        let mut outcomes: Vec<Option<Outcome>> = plan
            .recipients
            .iter()
            .map(|line| line.as_ref().err())
            .map(|unfit| unfit.map(|unfit| self.unfit(Stage::Rcpt, since, unfit).into()))
            .collect();
        if outcomes.iter().any(Option::is_none)
            && let Err(error) = self.transact(&plan, message, &mut outcomes).await
        {
            // Who was refused by name stays so.
            for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_none()) {
                *outcome = Some(error.clone().into());
            }
        }
        let missing = || self.error(Stage::EndOfContent, since, Cause::NothingAsked).into();
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect()
    }

    /// Envelope and content. Outcomes are filled in; an error is that of all that are open.
    async fn transact<R: AsyncRead + Unpin>(
        &mut self,
        plan: &Plan,
        message: Message<R>,
        outcomes: &mut [Option<Outcome>],
    ) -> Result<(), RelayError> {
        let since = Instant::now();
        let data = self.envelope(plan, outcomes).await?;
        let accepted = outcomes.iter().filter(|outcome| outcome.is_none()).count();
        let data = match data {
            Some(reply) => Some(reply),
            None if accepted > 0 && !plan.has_chunks => {
                let line = self.line("DATA")?;
                Some(self.command(&line).await?)
            }
            None => None,
        };
        if accepted == 0 {
            return self.end_of_nothing(data).await;
        }
        if let Some(reply) = data.filter(|reply| reply.code() != 354) {
            return Err(self.refusal(Stage::Data, since, reply));
        }
        let replies = match (self.next_hop.protocol, plan.has_prdr) {
            (Protocol::Lmtp, _) => Expected::Each(accepted),
            (Protocol::Smtp, true) => Expected::Prdr(accepted),
            (Protocol::Smtp, false) => Expected::One,
        };
        let answer = self.transfer(plan, message, replies).await?;
        let notifies = self.extensions.offers(DSN);
        let open = outcomes.iter_mut().filter(|outcome| outcome.is_none());
        for (index, outcome) in open.enumerate() {
            let Some(reply) = answer.of(index).cloned() else { break };
            *outcome = Some(if reply.is_success() {
                Outcome::Delivered { reply, notifies }
            } else {
                self.refusal(Stage::EndOfContent, since, reply).into()
            });
        }
        Ok(())
    }

    /// MAIL and RCPT; and DATA, whose reply is returned, if it need not wait for theirs. With PIPELINING
    /// they go out together (RFC 2920 section 3.1).
    async fn envelope(
        &mut self,
        plan: &Plan,
        outcomes: &mut [Option<Outcome>],
    ) -> Result<Option<Reply>, RelayError> {
        let since = Instant::now();
        let is_pipelined = self.extensions.offers(PIPELINING);
        let window = if is_pipelined { WINDOW } else { 1 };
        let data = (is_pipelined && !plan.has_chunks).then(|| self.line("DATA")).transpose()?;
        let recipients = plan.recipients.iter().filter_map(|line| line.as_ref().ok());
        let mut lines = std::iter::once(&plan.mail).chain(recipients).chain(&data);
        let mut open: Vec<_> = outcomes.iter_mut().filter(|outcome| outcome.is_none()).collect();
        let mut open = open.iter_mut();
        let mut last = None;
        let mut refused: Option<RelayError> = None;
        for place in 0.. {
            // Who refuses the sender is asked nothing more.
            while self.outstanding() < window && refused.is_none() {
                let Some(line) = lines.next() else { break };
                self.push(line)?;
            }
            if self.outstanding() == 0 {
                break;
            }
            let reply = match (self.reply().await, &refused) {
                (Ok(reply), _) => reply,
                // It said why before it went.
                (Err(_), Some(refused)) => return Err(refused.clone()),
                (Err(error), None) => return Err(error),
            };
            if place == 0 {
                let is_refused = !reply.is_success();
                refused = is_refused.then(|| self.refusal(Stage::Mail, since, reply));
            } else if let Some(outcome) = open.next() {
                if !reply.is_success() && refused.is_none() {
                    **outcome = Some(self.refusal(Stage::Rcpt, since, reply).into());
                }
            } else {
                last = Some(reply);
            }
        }
        let Some(refused) = refused else { return Ok(last) };
        self.end_of_nothing(last).await?;
        Err(refused)
    }

    /// The end of content that is for nobody, if the next hop has asked for it all the same (RFC 2920
    /// section 3.1). LMTP has no reply to that.
    async fn end_of_nothing(&mut self, data: Option<Reply>) -> Result<(), RelayError> {
        match (data.map(|reply| reply.code()), self.next_hop.protocol) {
            (Some(354), Protocol::Smtp) => {
                self.content().finish(Expected::One).await?;
            }
            (Some(354), Protocol::Lmtp) => self.abort(),
            _ => {}
        }
        Ok(())
    }

    /// The content, piece by piece.
    async fn transfer<R: AsyncRead + Unpin>(
        &mut self,
        plan: &Plan,
        mut message: Message<R>,
        replies: Expected,
    ) -> Result<Answer, RelayError> {
        let (next_hop, since) = (Arc::clone(&self.next_hop), Instant::now());
        let mut transfer = if plan.has_chunks { self.chunks() } else { self.content() };
        let mut left = message.size;
        let mut piece = BytesMut::with_capacity(READ);
        let unreadable = |error: io::Error| {
            let cause = Cause::Content(Arc::new(error));
            super::connection::error(&next_hop, Stage::Content, since.elapsed(), cause)
        };
        loop {
            piece.clear();
            let count = message.content.read_buf(&mut piece).await.map_err(unreadable)?;
            if count == 0 {
                break;
            }
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            left = left.checked_sub(count).ok_or_else(|| unreadable(other_size(message.size)))?;
            transfer.write(&piece).await?;
        }
        if left > 0 {
            return Err(unreadable(other_size(message.size)));
        }
        transfer.finish(replies).await
    }

    fn unfit(&self, stage: Stage, since: Instant, unfit: &Unfit) -> RelayError {
        let Unfit { status, what } = unfit.clone();
        self.error(stage, since, Cause::Unfit { status, what })
    }
}

fn other_size(size: u64) -> io::Error {
    io::Error::other(format!("it does not have {size} octets, as it should"))
}
