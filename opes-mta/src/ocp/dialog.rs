//! The handles of what happens on a connection: a dialog, a transaction under way, and one that has
//! ended.

use std::sync::{Arc, Weak};

use ocp_proto::smtp::{Command, DialogFacts, DialogUpdate, Reply};
use ocp_proto::{DialogId, OcpResult, OriginalStart, Xid};
use tokio::sync::oneshot;

use super::client::Client;
use super::driver::{Ended, Ticket};
use super::requests::{Request, Transact};
use crate::apply::Assembly;

/// One SMTP dialog. It ends when this and the transactions that it began are dropped.
#[derive(Debug)]
pub struct Dialog {
    open: Arc<Open>,
    facts: DialogFacts,
}

/// A dialog that the server knows of.
#[derive(Debug)]
struct Open {
    client: Client,
    id: DialogId,
}

/// A transaction under way. Dropping it before its end ends it with TE 400.
#[derive(Debug)]
pub(crate) struct Transaction {
    dialog: Arc<Open>,
    ticket: Ticket,
    ended: oneshot::Receiver<Ended>,
    over: bool,
}

/// Who was asked about an event, and wants to know its outcome.
#[derive(Debug)]
pub struct Asked(Asker);

#[derive(Debug)]
enum Asker {
    /// The server, in this transaction.
    Server { dialog: Weak<Open>, xid: Xid },
    /// Somebody who waits for the end of the transaction, to tell the server then.
    Waiter(oneshot::Sender<Outcome>),
}

/// What became of an event.
pub(crate) type Outcome = (OcpResult, Option<Reply>);

impl Dialog {
    /// A dialog that the server was told of, but for what Dialog-Start has no place for.
    pub(super) fn new(client: Client, id: DialogId, facts: DialogFacts) -> Self {
        let DialogFacts { helo, tls, auth, queue_id, .. } = facts.clone();
        let mut dialog = Self { open: Arc::new(Open { client, id }), facts };
        let update = DialogUpdate { helo, tls, auth, queue_id, ..DialogUpdate::default() };
        if update != DialogUpdate::default() {
            dialog.update(update);
        }
        dialog
    }

    /// Tells the server what is learnt later (Dialog-Update). After STARTTLS, Helo and Auth have to be
    /// learnt anew (RFC 3207 section 4.2).
    pub fn update(&mut self, update: DialogUpdate) {
        learn(&mut self.facts, update.clone());
        let (dialog, update) = (self.id(), Box::new(update));
        self.client().handle.request(Request::UpdateDialog { dialog, update });
    }

    /// The connection.
    pub fn client(&self) -> &Client {
        &self.open.client
    }

    /// The dialog's number.
    pub fn id(&self) -> DialogId {
        self.open.id
    }

    /// What the server was told of it.
    pub fn facts(&self) -> &DialogFacts {
        &self.facts
    }

    /// Sends an event in a transaction of its own, behind all that was asked for before. What `answer`
    /// keeps goes out, and what comes back is added to it.
    pub(crate) fn transact(&self, start: OriginalStart, answer: Assembly) -> Transaction {
        self.send(start, answer, false)
    }

    /// The same of an event that is only watched: it may wait a little for others to go with it.
    pub(crate) fn show(&self, start: OriginalStart, answer: Assembly) -> Transaction {
        self.send(start, answer, true)
    }

    fn send(&self, start: OriginalStart, answer: Assembly, is_watched: bool) -> Transaction {
        let Client { handle, negotiated } = self.client();
        let ticket = handle.state.ticket();
        let (told, ended) = oneshot::channel();
        let group = negotiated.group;
        let transact = Transact { ticket, group, start, is_watched, answer, ended: told };
        handle.request(Request::Transact(Box::new(transact)));
        Transaction { dialog: Arc::clone(&self.open), ticket, ended, over: false }
    }
}

/// Merges what is learnt later over what is known of a dialog. After STARTTLS, Helo and Auth have to
/// be learnt anew (RFC 3207 section 4.2).
pub(crate) fn learn(facts: &mut DialogFacts, update: DialogUpdate) {
    if update.tls.is_some() && update.tls != facts.tls {
        facts.after(&Command::StartTls);
    }
    facts.update(update);
}

impl Drop for Open {
    fn drop(&mut self) {
        let result = OcpResult::ok();
        self.client.handle.request(Request::EndDialog { dialog: self.id, result });
    }
}

impl Transaction {
    /// How it ended. Safe to cancel; once it is known, there is nothing more to wait for.
    pub(crate) async fn ended(&mut self) -> Ended {
        let ended = (&mut self.ended).await;
        self.over = true;
        ended.unwrap_or_else(|_| Ended::early(self.dialog.client.handle.closed()))
    }

    /// Ends it (TE 400): what it had come to until then, or how it ended just before.
    pub(crate) async fn give_up(&mut self, reason: String) -> Ended {
        self.request_end(reason);
        self.ended().await
    }

    /// What it is for those who report its outcome.
    pub(crate) fn asked(&self, xid: Xid) -> Asked {
        Asked(Asker::Server { dialog: Arc::downgrade(&self.dialog), xid })
    }

    /// The connection.
    pub(crate) fn client(&self) -> &Client {
        &self.dialog.client
    }

    /// The dialog's number.
    pub(crate) fn dialog(&self) -> DialogId {
        self.dialog.id
    }

    fn request_end(&self, reason: String) {
        let ticket = self.ticket;
        self.dialog.client.handle.request(Request::GiveUp { ticket, reason });
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.over {
            self.request_end("nobody waits for the answer".to_owned());
        }
    }
}

impl Asked {
    /// Where somebody else waits for the end of the transaction.
    pub(crate) fn later() -> (Self, oneshot::Receiver<Outcome>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Asker::Waiter(sender)), receiver)
    }

    /// Tells the server that was asked what became of the event (Dialog-Outcome). Where the dialog
    /// with it is over, nobody wants to know.
    pub fn report(self, result: OcpResult, reply: Option<Reply>) {
        match self.0 {
            Asker::Server { dialog, xid } => {
                let Some(open) = dialog.upgrade() else { return };
                let dialog = open.id;
                open.client.handle.request(Request::Outcome { dialog, xid, result, reply });
            }
            Asker::Waiter(waiter) => drop(waiter.send((result, reply))),
        }
    }
}
