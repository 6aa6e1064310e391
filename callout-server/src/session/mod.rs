//! One OCP connection: its groups, its dialogs, and in [`transaction`] its transactions: their octets come in
//! ([`collecting`]), services work on them, and their answers go out ([`answering`]).
//!
//! Services work in tasks of their own, or at once if they are quick; the session only collects octets
//! and hands answers on.

mod answering;
mod collecting;
mod offer;
mod transaction;
mod unsettled;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use ocp_proto::smtp::TLS;
use ocp_proto::wire::Structure;
use ocp_proto::{Closed, Connection, DialogId, Event, GroupId, IdMap, OcpResult, Xid};
use opes_mta::instruments::Open;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::access::{Access, Peer};
use crate::driver::Shared;
use crate::generation::Generation;
use crate::history::Recorder;
use crate::router::{Chain, UnknownService};
use crate::server::{ConnectionId, Server};
pub(crate) use collecting::BodyRoom;
pub(crate) use transaction::Completed;
use transaction::Transaction;
use unsettled::Unsettled;

/// The application behind one [`Connection`].
pub(crate) struct Session {
    id: ConnectionId,
    server: Arc<Server>,
    generation: Arc<Generation>,
    peer: Peer,
    access: Access,
    opening: Opening,
    groups: IdMap<GroupId, Result<Arc<Chain>, UnknownService>>,
    dialogs: HashSet<DialogId>,
    transactions: IdMap<Xid, Transaction>,
    tasks: JoinSet<Completed>,
    recorder: Recorder,
    unsettled: Unsettled,
    /// The one whose content has to reach the disk before anything else is read.
    behind: Option<Xid>,
    /// Those whose answers the peer has not taken whole.
    answering: VecDeque<Xid>,
    /// No sign of life is due before that.
    next_progress: Option<Instant>,
    draining: bool,
    superseded: Option<Superseded>,
}

/// Another configuration has taken the place of this connection's.
struct Superseded {
    /// Whether a dialog has begun since, and that was logged.
    is_noted: bool,
    _counted: Open,
}

/// What the processor may do with TLS now (profile section 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// It has to negotiate it before anything else.
    TlsFirst,
    /// It may, since nothing else was agreed on.
    TlsPossible,
    /// It is too late for it, there is none, or it is done.
    Past,
}

impl Session {
    /// A session for a connection that has just been accepted. Without `access` TLS has to come
    /// first.
    pub(crate) fn new(
        id: ConnectionId,
        shared: &Shared,
        peer: Peer,
        access: Option<Access>,
    ) -> Self {
        let Shared { server, generation, .. } = shared.clone();
        let opening = match access {
            None => Opening::TlsFirst,
            Some(_) if generation.config.tls.is_some() && peer.names.is_none() => {
                Opening::TlsPossible
            }
            Some(_) => Opening::Past,
        };
        let (history, origin) = (server.history.clone(), peer.origin.to_string());
        Self {
            id,
            server,
            generation,
            peer,
            access: access.unwrap_or_default(),
            opening,
            groups: IdMap::default(),
            dialogs: HashSet::new(),
            transactions: IdMap::default(),
            tasks: JoinSet::new(),
            recorder: Recorder::new(history, &origin, id.number()),
            unsettled: Unsettled::default(),
            behind: None,
            answering: VecDeque::new(),
            next_progress: None,
            draining: false,
            superseded: None,
        }
    }

    /// TLS is there, and says whom we have to do with.
    pub(crate) fn identify(&mut self, connection: &mut Connection, names: Vec<String>) {
        self.opening = Opening::Past;
        self.peer.names = Some(names);
        // Its place among those of a rule for plain text is free.
        self.access = Access::default();
        match self.server.admit(&self.generation.config, &self.peer) {
            Ok(access) => self.access = access.inspect(Access::record).unwrap_or_default(),
            Err(refusal) => connection.close(OcpResult::failure(refusal.to_string())),
        }
    }

    /// Acts on what happened on the connection.
    pub(crate) fn handle(&mut self, connection: &mut Connection, event: Event) {
        let opens = matches!(event, Event::Started | Event::Offered(_) | Event::Closed(_));
        if self.opening == Opening::TlsFirst && !opens {
            return self.want_tls(connection);
        }
        match event {
            Event::Offered(offer) => self.answer_offer(connection, &offer),
            Event::GroupCreated { group, services } => self.create_group(group, &services),
            Event::GroupDestroyed { group } => {
                self.groups.remove(&group);
            }
            Event::DialogStarted { dialog, .. } if self.draining => {
                let _ = connection.end_dialog(dialog, OcpResult::failure("the server is stopping"));
            }
            Event::DialogStarted { dialog, .. } if self.has_all_dialogs() => {
                let _ = connection.end_dialog(dialog, OcpResult::failure("too many dialogs"));
            }
            Event::DialogStarted { dialog, facts } => {
                self.note_if_superseded();
                self.dialogs.insert(dialog);
                self.server.start_dialog(self.id, dialog, *facts);
            }
            Event::DialogUpdated { dialog, update } => {
                self.server.change_dialog(self.id, dialog, |known| {
                    Arc::make_mut(&mut known.facts).update(*update);
                });
            }
            Event::DialogOutcome { dialog, xid, result, reply, queue_id } => {
                let (reply, queue_id) = (reply.as_ref(), queue_id.as_ref());
                self.recorder.outcome(dialog, xid, &result, reply, queue_id);
                self.unsettled.settle(dialog, xid, &result);
                self.server.change_dialog(self.id, dialog, |known| match &known.latest {
                    Some((latest, command)) if *latest == xid && result.is_success() => {
                        Arc::make_mut(&mut known.facts).after(command);
                    }
                    _ => {}
                });
            }
            Event::DialogEnded { dialog, .. } => {
                self.dialogs.remove(&dialog);
                self.recorder.end_dialog(dialog);
                self.unsettled.end_dialog(dialog);
                self.server.end_dialog(self.id, dialog);
            }
            Event::TransactionStarted { xid, group } => self.start(connection, xid, group),
            Event::OriginalStarted { xid, start } => self.receive(connection, xid, start),
            Event::Data { xid, part, octets } => self.collect(connection, xid, part, &octets),
            Event::StopSending { xid, .. } => self.complete(connection, xid),
            Event::OriginalEnded { xid, result } => self.work(connection, xid, &result),
            Event::TransactionEnded { xid, result, .. } => self.forget(xid, &result),
            Event::Refused(violation) => warn!(%violation, "refused"),
            Event::Closed(closed) => self.log_end(&closed),
            // What is left is for processors, or a wish that the answer need not follow.
            _ => {}
        }
        self.close_if_drained(connection);
    }

    /// Whether nothing more should be read, since the disk is behind.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// Takes no new dialogs; the connection ends with its last dialog and transaction.
    pub(crate) fn drain(&mut self, connection: &mut Connection) {
        self.draining = true;
        let _ = connection.drain();
        self.close_if_drained(connection);
    }

    /// New dialogs belong on another connection, under the configuration that has taken the place of this one's. What is
    /// open goes on, and so do peers that do not listen.
    pub(crate) fn supersede(&mut self, connection: &mut Connection) {
        let counted = self.server.metrics.superseded();
        self.superseded = Some(Superseded { is_noted: false, _counted: counted });
        let _ = connection.drain();
    }

    /// Whether that was done.
    pub(crate) fn is_superseded(&self) -> bool {
        self.superseded.is_some()
    }

    /// Says it once: such a dialog may have been on its way when the peer was asked.
    fn note_if_superseded(&mut self) {
        if let Some(superseded) = &mut self.superseded
            && !std::mem::replace(&mut superseded.is_noted, true)
        {
            info!(
                "a dialog begins under a configuration that was replaced: the peer was asked to begin it elsewhere"
            );
        }
    }

    fn close_if_drained(&self, connection: &mut Connection) {
        if self.draining && self.dialogs.is_empty() && connection.transactions() == 0 {
            connection.close(OcpResult::ok());
        }
    }

    fn want_tls(&self, connection: &mut Connection) {
        warn!("the processor did not negotiate TLS");
        connection.close(OcpResult::failure(format!("TLS has to be negotiated first ({TLS})")));
    }

    fn has_all_dialogs(&self) -> bool {
        let limit = self.access.limits().and_then(|limits| limits.dialogs);
        limit.is_some_and(|limit| self.dialogs.len() >= limit)
    }

    fn create_group(&mut self, group: GroupId, services: &[Structure]) {
        self.opening = Opening::Past;
        let chain = self.generation.config.router.chain(services, &self.access).map(Arc::new);
        if let Err(error) = &chain {
            warn!(group = group.number(), %error, "its transactions will be refused");
        }
        self.groups.insert(group, chain);
    }

    fn log_end(&self, closed: &Closed) {
        match closed {
            Closed::ByUs => debug!("connection ended by us"),
            Closed::ByPeer(result) if result.is_success() => debug!("connection ended by the peer"),
            Closed::ByPeer(result) => warn!(reason = result.reason(), "the peer gave up"),
            Closed::Lost { mid_message } => info!(mid_message, "connection lost"),
            Closed::Violation(violation) => warn!(%violation, "the peer broke a rule"),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for dialog in &self.dialogs {
            self.server.end_dialog(self.id, *dialog);
        }
    }
}
