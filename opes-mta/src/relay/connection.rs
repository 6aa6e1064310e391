//! A connection to the next hop: commands out, replies in, in their order.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ocp_proto::smtp::{CommandLine, Reply};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{Cause, RelayError};
use super::hello::NextHop;
use super::origin::Origin;
use super::stage::Stage;
use super::wire::Wire;
use crate::instruments::Open;
use crate::smtp::extensions::Extensions;

/// Octets of a line that answers a challenge of AUTH, at most (RFC 4954 section 4).
pub const LONGEST_RESPONSE: usize = 12_288;

/// A connection to the next hop.
///
/// [`Connection::command`] says one command and waits. Who has more of them at once, where the next hop
/// offers PIPELINING, calls [`Connection::push`] for each and [`Connection::reply`] as often; commands go
/// out while replies are read, so neither side waits for the other. The caller bounds how many are under
/// way ([`Connection::outstanding`]): each is at most [`CommandLine::LONGEST`] octets.
///
/// After an error that is no refusal each further use returns that error. Nothing that was said is part
/// of an error or of a log: it may hold secrets.
pub struct Connection {
    pub(super) next_hop: Arc<NextHop>,
    pub(super) wire: Wire,
    pub(super) extensions: Extensions,
    /// Its first words.
    pub(super) greeting: Option<Reply>,
    /// Its answer to the last EHLO, HELO or LHLO.
    pub(super) hello: Option<Reply>,
    pub(super) is_secured: bool,
    /// Who the client is, as it was told last by XFORWARD.
    pub(super) forwarded: Option<Origin>,
    /// What was asked, and when, whose replies have not come.
    awaited: VecDeque<(Stage, Instant)>,
    failed: Option<RelayError>,
    is_closing: bool,
    _open: Open,
}

impl Connection {
    pub(super) fn new(next_hop: Arc<NextHop>, wire: Wire) -> Self {
        let open = next_hop.metrics.opened();
        Self {
            next_hop,
            wire,
            extensions: Extensions::default(),
            greeting: None,
            hello: None,
            is_secured: false,
            forwarded: None,
            awaited: VecDeque::new(),
            failed: None,
            is_closing: false,
            _open: open,
        }
    }

    /// Says a command and waits for its reply, whatever that is.
    ///
    /// # Errors
    /// If no reply comes.
    pub async fn command(&mut self, line: &CommandLine) -> Result<Reply, RelayError> {
        self.push(line)?;
        self.reply().await
    }

    /// Puts a command behind those that wait for their replies. It goes out with the next
    /// [`Connection::reply`].
    ///
    /// # Errors
    /// If the connection can't be used: what the next hop says without being asked must not be taken for
    /// the answer to this command.
    pub fn push(&mut self, line: &CommandLine) -> Result<(), RelayError> {
        self.push_octets(Stage::of(line), &[line.as_bytes()])
    }

    /// Like [`Connection::push`], for an answer to a challenge of AUTH: at most [`LONGEST_RESPONSE`]
    /// octets, or none.
    ///
    /// # Errors
    /// As there, or if it is no line.
    pub fn push_response(&mut self, response: &[u8]) -> Result<(), RelayError> {
        let is_line = !response.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0));
        if !is_line || response.len() > LONGEST_RESPONSE {
            return Err(self.error(Stage::Auth, Instant::now(), Cause::Line));
        }
        self.push_octets(Stage::Auth, &[response])
    }

    /// The reply to the first command that waits for one. May be dropped and called again.
    ///
    /// # Errors
    /// If none comes.
    pub async fn reply(&mut self) -> Result<Reply, RelayError> {
        self.check()?;
        let Some((stage, since)) = self.awaited.front().copied() else {
            return Err(self.fail(Stage::Other, Instant::now(), Cause::NothingAsked));
        };
        let limit = self.next_hop.timeouts.of(stage);
        let reply = match timeout(limit, self.wire.reply()).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(cause)) => return Err(self.fail(stage, since, cause)),
            Err(_) => return Err(self.fail(stage, since, Cause::Silence(limit))),
        };
        self.awaited.pop_front();
        self.next_hop.metrics.replied(&reply);
        // RFC 5321 section 3.8: it closes the connection, after QUIT too.
        self.is_closing |= reply.code() == 421 || stage == Stage::Quit;
        Ok(reply)
    }

    /// Returns when the next hop hangs up, or speaks, while nothing is asked: who waits for somebody else
    /// calls it meanwhile, and may drop it.
    pub async fn closed(&mut self) -> RelayError {
        let since = Instant::now();
        loop {
            if let Some(failed) = &self.failed {
                return failed.clone();
            }
            if let Err(error) = self.check_silence(Stage::Other) {
                return error;
            }
            if let Err(error) = self.wire.exchange().await {
                return self.fail(Stage::Other, since, error.into());
            }
        }
    }

    /// Commands whose replies have not come.
    pub fn outstanding(&self) -> usize {
        self.awaited.len()
    }

    /// Whether it can be used again: it works, and no reply is missing.
    pub fn is_usable(&self) -> bool {
        self.failed.is_none() && !self.is_closing && self.awaited.is_empty()
    }

    /// What the next hop offers, by its answer to the last EHLO or LHLO.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// The next hop's first words.
    pub fn greeting(&self) -> Option<&Reply> {
        self.greeting.as_ref()
    }

    /// Its answer to the last EHLO, HELO or LHLO.
    pub fn hello_reply(&self) -> Option<&Reply> {
        self.hello.as_ref()
    }

    /// Whether there is TLS.
    pub fn is_secured(&self) -> bool {
        self.is_secured
    }

    /// Where it goes.
    pub fn next_hop(&self) -> &Arc<NextHop> {
        &self.next_hop
    }

    /// Puts pieces of a line and its CRLF into the output, and awaits a reply.
    pub(super) fn push_octets(&mut self, stage: Stage, line: &[&[u8]]) -> Result<(), RelayError> {
        self.check()?;
        if self.awaited.is_empty() {
            self.check_silence(stage)?;
        }
        let output = self.wire.output();
        for piece in line.iter().chain([&&b"\r\n"[..]]) {
            output.extend_from_slice(piece);
        }
        self.expect(stage);
        Ok(())
    }

    /// Awaits one reply more.
    pub(super) fn expect(&mut self, stage: Stage) {
        self.awaited.push_back((stage, Instant::now()));
    }

    /// Waits until the output has room for more content. With `watch` nothing is awaited, and a reply ends
    /// the content.
    pub(super) async fn make_room(&mut self, watch: bool) -> Result<(), RelayError> {
        self.check()?;
        let since = Instant::now();
        let limit = self.next_hop.timeouts.of(Stage::Content);
        loop {
            if watch && self.wire.has_input() {
                match self.wire.decode() {
                    Ok(None) => {}
                    Ok(Some(reply)) => {
                        return Err(self.fail(Stage::Content, since, Cause::Refused(reply)));
                    }
                    Err(error) => return Err(self.fail(Stage::Content, since, error.into())),
                }
            }
            if self.wire.has_room() {
                return Ok(());
            }
            // A peer that takes an octet at a time does not make it last longer.
            match timeout_at(since + limit, self.wire.exchange()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(self.fail(Stage::Content, since, error.into())),
                Err(_) => return Err(self.fail(Stage::Content, since, Cause::Silence(limit))),
            }
        }
    }

    /// Whether nothing has come that nobody asked for.
    pub(super) fn check_silence(&mut self, stage: Stage) -> Result<(), RelayError> {
        if !self.wire.has_input() {
            return Ok(());
        }
        let cause = match self.wire.decode() {
            // It may say at any time that it closes (RFC 5321 section 3.8).
            Ok(Some(reply)) if reply.code() == 421 => Cause::Refused(reply),
            Ok(_) => Cause::Unasked,
            Err(error) => error.into(),
        };
        Err(self.fail(stage, Instant::now(), cause))
    }

    /// Ends the connection here and now: the transport is closed, and what waits on it is lost.
    pub(super) fn abort(&mut self) {
        self.wire = Wire::new(Box::new(tokio::io::empty()));
        self.fail(Stage::Content, Instant::now(), Cause::Aborted);
    }

    /// Whether it works.
    pub(super) fn check(&self) -> Result<(), RelayError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// An error that ends the connection.
    pub(super) fn fail(&mut self, stage: Stage, since: Instant, cause: Cause) -> RelayError {
        let error = self.error(stage, since, cause);
        self.failed.get_or_insert(error).clone()
    }

    /// An error after which the connection goes on.
    pub(super) fn error(&self, stage: Stage, since: Instant, cause: Cause) -> RelayError {
        error(&self.next_hop, stage, since.elapsed(), cause)
    }

    /// A refusal as an error.
    pub(super) fn refusal(&self, stage: Stage, since: Instant, reply: Reply) -> RelayError {
        self.error(stage, since, Cause::Refused(reply))
    }

    /// Our own command; the words in it are checked before they go out.
    pub(super) fn line(&self, text: impl Into<Bytes>) -> Result<CommandLine, RelayError> {
        CommandLine::new(text).map_err(|_| self.error(Stage::Other, Instant::now(), Cause::Line))
    }
}

pub(super) fn error(next_hop: &NextHop, stage: Stage, took: Duration, cause: Cause) -> RelayError {
    RelayError { next_hop: next_hop.address.clone(), stage, cause, took }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("next_hop", &self.next_hop.address)
            .field("outstanding", &self.awaited.len())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}
