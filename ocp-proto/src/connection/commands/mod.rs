//! What the application does: a file for each family of commands.

mod adapted;
mod dialog;
mod negotiation;
mod original;
mod steering;

use std::time::Instant;

use bytes::Buf;

pub use adapted::AdaptedData;
pub use original::OriginalData;

use super::event::Closed;
use super::{Connection, Features, OutgoingPayload, Stage};
use crate::ids::{DialogId, GroupId, Xid};
use crate::message::{DataLabel, Kept, Message, OcpResult};
use crate::role::Role;
use crate::transaction::Transaction;
use crate::violation::Rule;
use crate::wire::{Encoder, PAYLOAD_TAIL, Structure};

/// A command that the protocol does not allow now. Nothing was changed or sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// The connection is over.
    #[error("the connection is over")]
    Over,
    /// Only the other agent does that.
    #[error("only a {0} does that")]
    Role(Role),
    /// Our offer is not answered yet.
    #[error("our offer is not answered yet (RFC 4037 section 6.1)")]
    OfferPending,
    /// A Negotiation Phase is open.
    #[error("a Negotiation Phase is open (RFC 4037 section 6.1)")]
    PhaseOpen,
    /// The processor has not made its first offer.
    #[error("the processor makes an offer immediately after its CS (RFC 4037 section 6.1)")]
    OfferFirst,
    /// Transactions of the group are open.
    #[error("service group {0} has open transactions (RFC 4037 section 11.18)")]
    GroupBusy(GroupId),
    /// The server wants no new dialogs.
    #[error("the server wants no new dialogs on this connection (SMTP profile section 3)")]
    Draining,
    /// The peer wants the data paused.
    #[error("the peer wants a pause: {octets} octets may be sent (RFC 4037 section 11.15)")]
    Paused {
        /// As `Connection::may_send` says.
        octets: u32,
    },
    /// There is no offer to respond to.
    #[error("there is no offer to respond to")]
    NoOffer,
    /// All identifiers of this connection are used up.
    #[error("all identifiers of this connection are used up (RFC 4037 section 10.2)")]
    Exhausted,
    /// More at a time than configured.
    #[error("more than {0} at a time")]
    Limit(usize),
    /// No such group.
    #[error("there is no service group {0}")]
    UnknownGroup(GroupId),
    /// No such dialog, or it has ended.
    #[error("there is no dialog {0}")]
    UnknownDialog(DialogId),
    /// No such transaction, or it has ended.
    #[error("there is no transaction {0}")]
    UnknownTransaction(Xid),
    /// A feature is needed that was not negotiated.
    #[error("{0} was not negotiated")]
    NotNegotiated(String),
    /// The state of the transaction does not allow it.
    #[error(transparent)]
    Rule(#[from] Rule),
}

impl Connection {
    /// Ends the connection (CE).
    pub fn close(&mut self, result: OcpResult) {
        if !self.is_over() {
            self.send(&Message::Ce(result));
            self.over(Closed::ByUs);
        }
    }

    /// Processor: creates a service group (SGC).
    ///
    /// # Errors
    /// During a Negotiation Phase; beyond the limit.
    pub fn create_group(&mut self, services: Vec<Structure>) -> Result<GroupId, Misuse> {
        self.check_role(Role::Processor)?;
        self.check_quiet()?;
        if self.groups.active.len() >= self.config.groups {
            return Err(Misuse::Limit(self.config.groups));
        }
        let number = self.groups.numbers.create().ok_or(Misuse::Exhausted)?;
        let group = GroupId::new(number).ok_or(Misuse::Exhausted)?;
        self.groups.active.insert(group, Features::default());
        self.send(&Message::Sgc { group, services });
        Ok(group)
    }

    /// Processor: destroys a service group (SGD).
    ///
    /// # Errors
    /// During a Negotiation Phase; if there is no such group.
    pub fn destroy_group(&mut self, group: GroupId) -> Result<(), Misuse> {
        self.check_role(Role::Processor)?;
        self.check_quiet()?;
        self.check_group(group)?;
        self.groups.active.remove(&group);
        self.send(&Message::Sgd { group });
        Ok(())
    }

    /// Processor: starts a transaction (TS).
    ///
    /// # Errors
    /// During a Negotiation Phase; for an unknown group; beyond the limit.
    pub fn start_transaction(&mut self, group: GroupId, now: Instant) -> Result<Xid, Misuse> {
        self.timers.now = now;
        self.check_role(Role::Processor)?;
        self.check_quiet()?;
        self.check_offered()?;
        self.check_group(group)?;
        if self.transactions.len() >= self.config.transactions {
            return Err(Misuse::Limit(self.config.transactions));
        }
        let xid = self.xids.create().and_then(Xid::new).ok_or(Misuse::Exhausted)?;
        self.open_transaction(xid, group);
        self.send_for(xid, |connection| connection.send(&Message::Ts { xid, group }));
        Ok(xid)
    }

    /// Ends a transaction (TE). A server says with `retry` that nothing was done and another server
    /// may try. No event follows: the returned octets are what the transaction cost.
    ///
    /// # Errors
    /// If there is no such transaction.
    pub fn end_transaction(
        &mut self,
        xid: Xid,
        result: &OcpResult,
        retry: bool,
    ) -> Result<crate::transaction::Traffic, Misuse> {
        self.transaction(xid)?;
        self.send_for(xid, |connection| connection.send_transaction_end(xid, result, retry));
        Ok(self.forget(xid).map(|transaction| transaction.traffic).unwrap_or_default())
    }

    /// Asks the peer whether it is there, and works on a transaction (PQ).
    pub fn ping(&mut self, xid: Option<Xid>) {
        if !self.is_over() {
            let xid = xid.filter(|xid| self.has_transaction(*xid));
            self.send(&Message::Pq { xid });
        }
    }

    /// Tells the peer that we are there, and work on a transaction (PR).
    pub fn report_progress(&mut self, xid: Option<Xid>) {
        if !self.is_over() {
            let (xid, original_octets) = self.progress_of(xid);
            self.send(&Message::Pr { xid, original_octets });
        }
    }

    pub(super) fn send_transaction_end(&mut self, xid: Xid, result: &OcpResult, retry: bool) {
        let mut out = Encoder::new(self.out(false).tail(), "TE");
        out.number(xid.number());
        result.write(&mut out);
        if retry && !result.is_success() {
            out.named_atom("Retry", b"true");
        }
        out.finish();
    }

    fn send_data(&mut self, xid: Xid, head: &DataHead, octets: OutgoingPayload) {
        self.send_for(xid, |connection| {
            let output = connection.out(false);
            let mut out = Encoder::new(output.tail(), "DUM");
            out.number(xid.number());
            out.number(head.offset);
            if let Some(kept) = head.kept {
                kept.write(&mut out);
            }
            if let Some(offset) = head.as_is {
                out.named_number("As-is", offset);
            }
            if let Some(percent) = head.modp {
                out.named_number("Modp", percent);
            }
            head.label.write(&mut out);
            out.payload(u32::try_from(octets.len()).unwrap_or(u32::MAX));
            octets.into_iter().for_each(|piece| output.push(piece));
            output.tail().extend_from_slice(PAYLOAD_TAIL);
        });
    }

    /// Writes a message without payload whose first parameter is the xid.
    fn write_for(&mut self, xid: Xid, name: &str, write: impl FnOnce(&mut Encoder<'_>)) {
        self.send_for(xid, |connection| {
            let mut out = Encoder::new(connection.out(false).tail(), name);
            out.number(xid.number());
            write(&mut out);
            out.finish();
        });
    }

    /// Sends something for a transaction and counts its octets.
    pub(super) fn send_for(&mut self, xid: Xid, send: impl FnOnce(&mut Self)) {
        let before = self.output.remaining() + self.held.remaining();
        send(self);
        let sent = self.output.remaining() + self.held.remaining() - before;
        let step = self.move_on(xid);
        if let Some(transaction) = self.transactions.get_mut(&xid) {
            transaction.traffic.sent += sent as u64;
            step.note(transaction);
        }
    }

    fn transaction(&mut self, xid: Xid) -> Result<&mut Transaction, Misuse> {
        self.transactions.get_mut(&xid).ok_or(Misuse::UnknownTransaction(xid))
    }

    fn check_role(&self, role: Role) -> Result<(), Misuse> {
        match (self.stage, self.role == role) {
            (Stage::Over, _) => Err(Misuse::Over),
            (_, false) => Err(Misuse::Role(role)),
            (_, true) => Ok(()),
        }
    }

    /// What begins something waits for the end of a Negotiation Phase (RFC 4037 section 6.1): it
    /// would begin under rules that are about to change.
    fn check_quiet(&self) -> Result<(), Misuse> {
        match self.stage {
            Stage::Over => Err(Misuse::Over),
            _ if self.negotiation.is_pending() => Err(Misuse::OfferPending),
            _ if self.negotiation.is_open() => Err(Misuse::PhaseOpen),
            _ => Ok(()),
        }
    }

    fn check_offered(&self) -> Result<(), Misuse> {
        self.negotiation.has_offered().then_some(()).ok_or(Misuse::OfferFirst)
    }

    fn check_group(&self, group: GroupId) -> Result<(), Misuse> {
        let exists = self.groups.active.contains_key(&group);
        exists.then_some(()).ok_or(Misuse::UnknownGroup(group))
    }

    fn check_dialog(&self, dialog: DialogId) -> Result<(), Misuse> {
        let exists = self.dialogs.active.contains_key(&dialog);
        exists.then_some(()).ok_or(Misuse::UnknownDialog(dialog))
    }
}

/// What stands before the payload of a DUM.
#[derive(Default)]
struct DataHead {
    offset: u32,
    kept: Option<Kept>,
    as_is: Option<u32>,
    modp: Option<u32>,
    label: DataLabel,
}

fn data_size(octets: &OutgoingPayload) -> Result<u32, Misuse> {
    u32::try_from(octets.len()).map_err(|_| Rule::TooLarge.into())
}
