//! Transactions: an event's octets come in, services work on it, its answer goes out.
//!
//! ```text
//!               TS           AMS           AME, DSS        services done             all sent
//! transaction ─────▶ Started ────▶ Receiving ────▶ Working ──────────────▶ Answering ──────────▶ TE
//! ```
//!
//! DSS comes where Leave-At-Body was negotiated: what was sent before it is answered without waiting
//! for more (RFC 4037 section 11.14), and the processor appends the rest by itself.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use ocp_proto::{Connection, DialogId, GroupId, OcpResult, OriginalStart, Xid};
use services::Commitment;
use tokio::task::{AbortHandle, JoinError};
use tracing::{Span, error, info, warn};

use super::Session;
use super::answering::Decision;
use crate::adapt::{Original, Outgoing};
use crate::chain::{Answer, milliseconds};
use crate::driver::now;
use crate::metrics::{EventResult, OpenTransaction};
use crate::router::Chain;
use crate::spool::{Content, Written};

/// One event on its way through the services.
pub(super) struct Transaction {
    pub(super) chain: Arc<Chain>,
    pub(super) stage: Stage,
    pub(super) span: Span,
    pub(super) started: Instant,
    /// Whose event it is, once that is known.
    pub(super) dialog: Option<DialogId>,
    /// What services keep only if the answer counts, and the event goes on.
    pub(super) commitments: Vec<Commitment>,
    /// Counts it; dropped, it is one without an answer.
    pub(super) open: OpenTransaction,
}

pub(super) enum Stage {
    Started,
    Receiving {
        start: OriginalStart,
        content: Box<Content>,
        /// No more octets come, or count.
        is_complete: bool,
        is_paused: bool,
    },
    Working {
        original: Original,
        task: AbortHandle,
        progress: Instant,
    },
    /// The peer has not taken all, or octets have to be read first.
    Answering(Box<(Outgoing, Decision)>),
}

/// What was done for a transaction, away from the connection.
pub(crate) enum Completed {
    /// Its services have answered.
    Answered(Xid, Answer),
    /// Octets of its content are in the file.
    Written(Xid, io::Result<Written>),
    /// Octets of its content were read from the file.
    Read(Xid, io::Result<Bytes>),
}

impl Session {
    /// Waits for services and files; for ever if none works. Safe to cancel.
    pub(crate) async fn completed(&mut self) -> Result<Completed, JoinError> {
        match self.tasks.join_next().await {
            Some(completed) => completed,
            None => std::future::pending().await,
        }
    }

    /// Goes on with what was done, and with whatever else is done by now.
    pub(crate) fn handle_completed(
        &mut self,
        connection: &mut Connection,
        completed: Result<Completed, JoinError>,
    ) {
        let mut next = Some(completed);
        while let Some(completed) = next {
            match completed {
                Ok(Completed::Answered(xid, answer)) => self.answer(connection, xid, answer),
                Ok(Completed::Written(xid, written)) => self.written(connection, xid, written),
                Ok(Completed::Read(xid, read)) => self.read(connection, xid, read),
                Err(error) if error.is_cancelled() => {}
                Err(error) => self.fail(connection, &error),
            }
            next = self.tasks.try_join_next();
        }
        self.close_if_drained(connection);
    }

    /// When [`Session::handle_timeout`] wants to be called next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next_progress
    }

    /// Says that we are still at work where nothing was said for a while (profile section 7).
    pub(crate) fn handle_timeout(&mut self, connection: &mut Connection, now: Instant) {
        if self.next_progress.is_none_or(|next| now < next) {
            return;
        }
        let interval = self.generation.config.timeouts.progress;
        for (xid, transaction) in &mut self.transactions {
            if let Stage::Working { progress, .. } = &mut transaction.stage
                && *progress <= now
            {
                *progress = now + interval;
                connection.report_progress(Some(*xid));
            }
        }
        self.next_progress = self.transactions.values().filter_map(Transaction::progress).min();
    }

    pub(super) fn start(&mut self, connection: &mut Connection, xid: Xid, group: GroupId) {
        let open = self.server.metrics.started();
        let chain = match self.chain(group) {
            Ok(chain) => chain,
            Err((reason, retry)) => {
                open.end(EventResult::Refused);
                return refuse(connection, xid, &reason, retry);
            }
        };
        let (stage, span, started) = (Stage::Started, Span::none(), now());
        let (dialog, commitments) = (None, Vec::new());
        let transaction = Transaction { chain, stage, span, started, dialog, commitments, open };
        self.transactions.insert(xid, transaction);
    }

    /// The services of a transaction that may begin; or why it may not, and whether that may change.
    fn chain(&self, group: GroupId) -> Result<Arc<Chain>, (String, bool)> {
        let chain = match self.groups.get(&group) {
            Some(Ok(chain)) => chain,
            Some(Err(error)) => return Err((error.to_string(), false)),
            None => return Err(("there is no such service group".to_owned(), false)),
        };
        let limit = self.access.limits().and_then(|limits| limits.transactions);
        match limit.is_some_and(|limit| self.transactions.len() >= limit) {
            true => Err(("too many transactions at a time".to_owned(), true)),
            false => Ok(chain.clone()),
        }
    }

    /// A task that ended without an answer, which no service can cause.
    fn fail(&mut self, connection: &mut Connection, error: &JoinError) {
        let failed = self.transactions.iter().find(|(_, transaction)| {
            matches!(&transaction.stage, Stage::Working { task, .. } if task.id() == error.id())
        });
        if let Some(xid) = failed.map(|(xid, _)| *xid) {
            self.refuse(connection, xid, "the server failed", true);
        }
    }

    /// Ends a transaction without an answer: the processor's failure policy decides.
    pub(super) fn refuse(
        &mut self,
        connection: &mut Connection,
        xid: Xid,
        reason: &str,
        retry: bool,
    ) {
        self.behind = self.behind.filter(|behind| *behind != xid);
        if let Some(transaction) = self.transactions.remove(&xid) {
            let _entered = transaction.span.enter();
            warn!(
                xid = xid.number(),
                reason,
                took_ms = milliseconds(transaction.started.elapsed()),
                "refused"
            );
            if let Some(dialog) = transaction.dialog {
                self.recorder.end(dialog, xid, EventResult::Refused, Some(reason));
            }
            transaction.open.end(EventResult::Refused);
        }
        refuse(connection, xid, reason, retry);
    }

    pub(super) fn refuse_io(&mut self, connection: &mut Connection, xid: Xid, error: &io::Error) {
        let folder = self.generation.config.spool.folder.display();
        error!(xid = xid.number(), %folder, cause = %error, "the spool failed");
        self.refuse(connection, xid, "the server's spool failed", true);
    }

    /// The processor, a violation or a time-out ended it.
    pub(super) fn forget(&mut self, xid: Xid, result: &OcpResult) {
        self.behind = self.behind.filter(|behind| *behind != xid);
        let Some(transaction) = self.transactions.remove(&xid) else { return };
        if let Stage::Working { task, .. } = &transaction.stage {
            task.abort();
        }
        if let Some(dialog) = transaction.dialog {
            let (result, cause) = (EventResult::Unanswered, result.reason());
            self.recorder.end(dialog, xid, result, Some(&cause));
        }
        let _entered = transaction.span.enter();
        info!(
            xid = xid.number(),
            reason = result.reason(),
            took_ms = milliseconds(transaction.started.elapsed()),
            "ended without an answer"
        );
    }
}

impl Transaction {
    /// Where octets of the event go, as long as any are wanted.
    pub(super) fn collecting(&mut self) -> Option<&mut Content> {
        match &mut self.stage {
            Stage::Receiving { content, is_complete: false, .. } => Some(content),
            _ => None,
        }
    }

    fn progress(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Working { progress, .. } => Some(*progress),
            _ => None,
        }
    }
}

pub(super) fn refuse(connection: &mut Connection, xid: Xid, reason: &str, retry: bool) {
    let _ = connection.end_transaction(xid, &OcpResult::failure(reason), retry);
}
