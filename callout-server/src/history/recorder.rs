//! Puts together what becomes of the events of one connection, an envelope at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use ocp_proto::smtp::{Command, DialogFacts, ProfileKind};
use ocp_proto::wire::Atom;
use ocp_proto::{DialogId, IdMap, OcpResult, OriginalStart, Xid};
use services::Input;

use super::History;
use super::draft::Draft;
use super::text::Text;
use crate::chain::Answer;
use crate::driver::now;
use crate::metrics::EventResult;
use crate::router::Chain;

/// Envelopes of a dialog that wait for their last answers and outcomes: mostly one, since an MTA tells the
/// outcome before it goes on, but for events that it does not wait for.
const MOST_DRAFTS: usize = 4;

/// The drafts of one connection. Without a history every call does nothing.
#[derive(Debug)]
pub(crate) struct Recorder {
    history: Option<Arc<History>>,
    peer: Text,
    connection: u64,
    dialogs: IdMap<DialogId, Drafts>,
}

/// Those of one dialog, the oldest first.
#[derive(Debug, Default)]
struct Drafts {
    open: VecDeque<Draft>,
    /// The queue id of the envelope before: until the MTA says another one, the next has none.
    queue_id_before: Option<Atom>,
}

impl Recorder {
    /// For what comes over a connection.
    pub(crate) fn new(history: Option<Arc<History>>, peer: &str, connection: u64) -> Self {
        Self { history, peer: peer.into(), connection, dialogs: IdMap::default() }
    }

    /// An event begins.
    pub(crate) fn begin(
        &mut self,
        xid: Xid,
        kind: ProfileKind,
        start: &OriginalStart,
        chain: &Chain,
    ) {
        let Some(history) = &self.history else { return };
        let now = now();
        let drafts = self.dialogs.entry(start.dialog).or_default();
        if !drafts.open.iter().any(|draft| draft.takes(kind, start)) {
            drafts.complete(kind);
            drafts.settle(history);
            if drafts.open.len() >= MOST_DRAFTS {
                drafts.open.pop_front().into_iter().for_each(|draft| history.finish(draft));
            }
            let room = history.open.reservation();
            let draft = Draft::new(kind, self.peer.clone(), self.connection, room, now);
            drafts.open.push_back(draft);
        }
        if let Some(draft) = drafts.open.iter_mut().find(|draft| draft.takes(kind, start)) {
            draft.begin(xid, start, chain, now);
        }
        drafts.settle(history);
    }

    /// The services are asked about an event.
    pub(crate) fn ask(
        &mut self,
        dialog: DialogId,
        xid: Xid,
        facts: &DialogFacts,
        command: &Command,
        input: &Input,
    ) {
        self.change(dialog, xid, |draft, at, queue_id_before| {
            draft.ask(at, facts, queue_id_before, command, input);
        });
    }

    /// They have answered.
    pub(crate) fn answer(&mut self, dialog: DialogId, xid: Xid, answer: &Answer) {
        self.change(dialog, xid, |draft, at, _| draft.answer(at, answer));
    }

    /// The answer is out, or there will be none, for this cause.
    pub(crate) fn end(
        &mut self,
        dialog: DialogId,
        xid: Xid,
        result: EventResult,
        cause: Option<&str>,
    ) {
        self.change(dialog, xid, |draft, at, _| draft.end(at, result, cause, now()));
    }

    /// The MTA says what became of an event (Dialog-Outcome).
    pub(crate) fn outcome(
        &mut self,
        dialog: DialogId,
        xid: Xid,
        result: &OcpResult,
        reply: Option<&Atom>,
        queue_id: Option<&Atom>,
    ) {
        self.change(dialog, xid, |draft, at, _| draft.outcome(at, result, reply, queue_id));
    }

    /// A dialog is over.
    pub(crate) fn end_dialog(&mut self, dialog: DialogId) {
        let Some(history) = &self.history else { return };
        let drafts = self.dialogs.remove(&dialog).unwrap_or_default();
        drafts.open.into_iter().for_each(|draft| history.finish(draft));
    }

    fn change(
        &mut self,
        dialog: DialogId,
        xid: Xid,
        change: impl FnOnce(&mut Draft, usize, Option<&Atom>),
    ) {
        let Some(history) = &self.history else { return };
        let Some(drafts) = self.dialogs.get_mut(&dialog) else { return };
        let mut found = drafts.open.iter_mut().rev();
        let Some((draft, at)) = found.find_map(|draft| draft.find(xid).map(|at| (draft, at)))
        else {
            return;
        };
        change(draft, at, drafts.queue_id_before.as_ref());
        drafts.settle(history);
    }
}

impl Drafts {
    /// The next event is of another envelope than those of this kind so far.
    fn complete(&mut self, kind: ProfileKind) {
        for draft in self.open.iter_mut().filter(|draft| draft.kind() == kind) {
            draft.complete();
            self.queue_id_before = draft.queue_id().cloned();
        }
    }

    /// Finishes those of which all is known, and gives up those that find no room.
    fn settle(&mut self, history: &History) {
        let mut at = 0;
        while let Some(draft) = self.open.get_mut(at) {
            if !draft.settle() {
                self.open.remove(at);
                history.leave_out();
            } else if draft.is_over() {
                self.queue_id_before = draft.queue_id().cloned();
                self.open.remove(at).into_iter().for_each(|draft| history.finish(draft));
            } else {
                at += 1;
            }
        }
    }
}

impl Drop for Recorder {
    /// The connection is over, and so are its dialogs.
    fn drop(&mut self) {
        let Some(history) = &self.history else { return };
        for drafts in self.dialogs.drain().map(|(_, drafts)| drafts) {
            drafts.open.into_iter().for_each(|draft| history.finish(draft));
        }
    }
}
