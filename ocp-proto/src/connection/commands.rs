//! What the application does.

use std::ops::Range;
use std::time::Instant;

use bytes::{Buf, Bytes};

use super::event::{Closed, Offer, Response, feature_uri};
use super::{Connection, Stage};
use crate::ids::{DialogId, GroupId, Xid};
use crate::message::{
    AdaptedEnd, AdaptedStart, DataLabel, DialogMessage, Kept, Message, Negotiation, OcpResult,
    OriginalStart, Selection,
};
use crate::role::Role;
use crate::smtp::{DialogFacts, DialogUpdate, Part, Reply};
use crate::transaction::Transaction;
use crate::violation::Rule;
use crate::wire::{Encoder, NamedValues, PAYLOAD_TAIL, Structure};

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

    /// Offers features (NO).
    ///
    /// # Errors
    /// While our last offer is unanswered; for an unknown group.
    pub fn offer(&mut self, offer: Offer) -> Result<(), Misuse> {
        self.check_quiet()?;
        if let Some(group) = offer.group {
            self.check_group(group)?;
        }
        let Offer { features, group, pending } = offer.clone();
        self.send(&Message::No(Negotiation { features, group, pending }));
        self.negotiation.sent_offer(offer, self.timers.now);
        Ok(())
    }

    /// Answers the peer's offer (NR). The group is the offer's.
    ///
    /// # Errors
    /// Without an offer; for a feature that was not offered, or more of one than was.
    pub fn respond(&mut self, response: Response) -> Result<(), Misuse> {
        if self.is_over() {
            return Err(Misuse::Over);
        }
        let Response { feature, rejects, unknowns, pending, .. } = response;
        let offer = self.negotiation.sent_response(pending).ok_or(Misuse::NoOffer)?;
        let group = offer.group;
        let mut enabled = Ok(());
        let mut selected = None;
        if let Some(feature) = feature {
            let uri = feature_uri(&feature).unwrap_or_default();
            let offered = offer.features.iter().find(|offered| feature_uri(offered) == Some(uri));
            enabled = match offered {
                Some(offered) => self.enable(&feature, offered, group).map_err(Misuse::from),
                None => Err(Misuse::NotNegotiated(String::from_utf8_lossy(uri).into_owned())),
            };
            selected = enabled.is_ok().then_some(feature);
        }
        // Whatever we were asked to select, the peer gets its answer.
        let selection = Selection { feature: selected, group, rejects, unknowns, pending };
        self.send(&Message::Nr(selection));
        enabled
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
        self.groups.active.insert(group, None);
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

    /// Processor: starts a dialog (Dialog-Start).
    ///
    /// # Errors
    /// Without the dialogs feature; beyond the limit.
    pub fn start_dialog(&mut self, facts: &DialogFacts) -> Result<DialogId, Misuse> {
        self.check_role(Role::Processor)?;
        self.check_quiet()?;
        if !self.dialogs.enabled {
            return Err(Misuse::NotNegotiated(crate::smtp::DIALOG.to_owned()));
        }
        if self.dialogs.active.len() >= self.config.dialogs {
            return Err(Misuse::Limit(self.config.dialogs));
        }
        let number = self.dialogs.numbers.create().ok_or(Misuse::Exhausted)?;
        let dialog = DialogId::new(number).ok_or(Misuse::Exhausted)?;
        self.dialogs.active.insert(dialog, super::Dialog::default());
        let facts = Box::new(facts.clone());
        self.send(&Message::Dialog(DialogMessage::Start { dialog, facts }));
        Ok(dialog)
    }

    /// Processor: tells facts learnt later (Dialog-Update).
    ///
    /// # Errors
    /// If there is no such dialog.
    pub fn update_dialog(&mut self, dialog: DialogId, update: &DialogUpdate) -> Result<(), Misuse> {
        self.check_role(Role::Processor)?;
        self.check_quiet()?;
        self.check_dialog(dialog)?;
        let update = Box::new(update.clone());
        self.send(&Message::Dialog(DialogMessage::Update { dialog, update }));
        Ok(())
    }

    /// Processor: tells what became of an event (Dialog-Outcome).
    ///
    /// # Errors
    /// If there is no such dialog.
    pub fn report_outcome(
        &mut self,
        dialog: DialogId,
        xid: Xid,
        result: OcpResult,
        reply: Option<&Reply>,
        queue_id: Option<Bytes>,
    ) -> Result<(), Misuse> {
        self.check_role(Role::Processor)?;
        self.check_quiet()?;
        self.check_dialog(dialog)?;
        let reply = reply.map(|reply| reply.as_bytes().clone());
        self.send(&Message::Dialog(DialogMessage::Outcome {
            dialog,
            xid,
            result,
            reply,
            queue_id,
        }));
        Ok(())
    }

    /// Ends a dialog (Dialog-End); its open transactions end as well.
    ///
    /// # Errors
    /// If there is no such dialog.
    pub fn end_dialog(&mut self, dialog: DialogId, result: OcpResult) -> Result<(), Misuse> {
        self.check_quiet()?;
        self.check_dialog(dialog)?;
        self.send(&Message::Dialog(DialogMessage::End { dialog, result: result.clone() }));
        self.end_dialog_locally(dialog, result);
        Ok(())
    }

    /// Server: asks for no new dialogs on this connection (Dialog-Drain). Without the dialogs
    /// feature there is nothing to say.
    ///
    /// # Errors
    /// During a Negotiation Phase.
    pub fn drain(&mut self) -> Result<(), Misuse> {
        self.check_role(Role::Server)?;
        self.check_quiet()?;
        if self.dialogs.enabled {
            self.send(&Message::Dialog(DialogMessage::Drain));
        }
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
        self.check_group(group)?;
        if self.transactions.len() >= self.config.transactions {
            return Err(Misuse::Limit(self.config.transactions));
        }
        let xid = self.xids.create().and_then(Xid::new).ok_or(Misuse::Exhausted)?;
        self.open_transaction(xid, group);
        self.send_for(xid, |connection| connection.send(&Message::Ts { xid, group }));
        Ok(xid)
    }

    /// Processor: starts the original message (AMS).
    ///
    /// # Errors
    /// If it has started; for an event that was not negotiated; while another event of the dialog
    /// is open.
    pub fn start_original(&mut self, xid: Xid, start: &OriginalStart) -> Result<(), Misuse> {
        self.check_role(Role::Processor)?;
        self.check_dialog(start.dialog)?;
        let transaction = self.transactions.get_mut(&xid).ok_or(Misuse::UnknownTransaction(xid))?;
        let profile = transaction
            .profile
            .clone()
            .ok_or_else(|| Misuse::NotNegotiated(crate::smtp::COMMAND_PROFILE.to_owned()))?;
        if !profile.commands.contains(&start.command) {
            return Err(Misuse::NotNegotiated(start.command.to_string()));
        }
        let observed = profile.observed.contains(&start.command);
        let Some(dialog) = self.dialogs.active.get_mut(&start.dialog) else {
            return Err(Misuse::UnknownDialog(start.dialog));
        };
        if !observed && dialog.busy.is_some() {
            return Err(Rule::DialogBusy.into());
        }
        transaction.original.start(Some(start.command.clone()))?;
        transaction.dialog = Some(start.dialog);
        dialog.open.push(xid);
        if !observed {
            dialog.busy = Some(xid);
        }
        self.write_for(xid, "AMS", |out| start.write(out));
        Ok(())
    }

    /// Processor: sends octets of the original message (DUM). With `keeps`, all octets so far are
    /// announced as kept and must stay available until the transaction ends.
    ///
    /// # Errors
    /// If the message is not open, the part does not fit, or it grows too large.
    pub fn send_original(
        &mut self,
        xid: Xid,
        part: Part,
        octets: Bytes,
        keeps: bool,
    ) -> Result<(), Misuse> {
        self.check_role(Role::Processor)?;
        let size = data_size(&octets)?;
        let transaction = self.transaction(xid)?;
        let offset = transaction.original.octets();
        transaction.original.data(offset, size, Some(part))?;
        let kept = keeps.then(|| Kept { offset: 0, size: transaction.original.octets() });
        if let Some(kept) = kept {
            transaction.preservation.keep(kept)?;
        }
        let label = DataLabel::part(part);
        self.send_data(xid, DataHead { offset, kept, as_is: None, label }, octets);
        Ok(())
    }

    /// Processor: ends the original message (AME).
    ///
    /// # Errors
    /// If it is not open.
    pub fn end_original(&mut self, xid: Xid, result: OcpResult) -> Result<(), Misuse> {
        self.check_role(Role::Processor)?;
        self.transaction(xid)?.original.end()?;
        let extensions = NamedValues::new();
        self.send_for(xid, |connection| {
            connection.send(&Message::Ame { xid, result, extensions });
        });
        Ok(())
    }

    /// Server: starts the adapted message (AMS). `services` are named if they differ from those of
    /// the group (RFC 4037 section 11.7).
    ///
    /// # Errors
    /// If it has started.
    pub fn start_adapted(
        &mut self,
        xid: Xid,
        services: Vec<Bytes>,
        start: &AdaptedStart,
    ) -> Result<(), Misuse> {
        self.check_role(Role::Server)?;
        self.transaction(xid)?.adapted.start()?;
        self.write_for(xid, "AMS", |out| {
            if !services.is_empty() {
                out.named("Services", &crate::message::services_value(services));
            }
            start.write(out);
        });
        Ok(())
    }

    /// Server: sends octets of the adapted message (DUM). `as_is` says where in the original
    /// message the same octets stand.
    ///
    /// # Errors
    /// If the message is not open, the part does not fit, or it grows too large.
    pub fn send_adapted(
        &mut self,
        xid: Xid,
        part: Part,
        octets: Bytes,
        as_is: Option<u32>,
    ) -> Result<(), Misuse> {
        self.check_role(Role::Server)?;
        let size = data_size(&octets)?;
        let transaction = self.transaction(xid)?;
        let offset = transaction.adapted.octets();
        let command = transaction.original.command();
        transaction.adapted.data(offset, size, Some(part), command)?;
        // Section 11.9: only data that was already received can be the same.
        let received = transaction.original.octets();
        let as_is = as_is.filter(|at| at.checked_add(size).is_some_and(|end| end <= received));
        let label = DataLabel::part(part);
        self.send_data(xid, DataHead { offset, kept: None, as_is, label }, octets);
        Ok(())
    }

    /// Server: uses octets of the original message that the processor keeps (DUY). They keep their
    /// part unless one is named.
    ///
    /// # Errors
    /// If the range is not in [`Connection::preserved`], the message is not open, or the part does
    /// not fit.
    pub fn use_preserved(
        &mut self,
        xid: Xid,
        range: Range<u32>,
        part: Option<Part>,
    ) -> Result<(), Misuse> {
        self.check_role(Role::Server)?;
        let transaction = self.transaction(xid)?;
        if range.end > transaction.original.octets() || range.start > range.end {
            return Err(Rule::NotKept.into());
        }
        transaction.preservation.take(&range)?;
        let command = transaction.original.command();
        let header = transaction.original.header();
        transaction.adapted.preserved(&range, part, command, header)?;
        let label = DataLabel { part, id: None };
        self.write_for(xid, "DUY", |out| {
            out.number(range.start);
            out.number(range.end - range.start);
            label.write(out);
        });
        Ok(())
    }

    /// Server: ends the adapted message (AME).
    ///
    /// # Errors
    /// If it is not open; for side effects that were not negotiated.
    pub fn end_adapted(&mut self, xid: Xid, end: &AdaptedEnd) -> Result<(), Misuse> {
        self.check_role(Role::Server)?;
        let transaction = self.transaction(xid)?;
        let granted = transaction.profile.as_ref().map_or(&[][..], |p| &p.side_effects);
        let excess = end.side_effects.iter().find(|effect| !granted.contains(&effect.name()));
        if let Some(effect) = excess {
            return Err(Misuse::NotNegotiated(effect.name().to_string()));
        }
        transaction.adapted.end()?;
        self.write_for(xid, "AME", |out| end.write(out));
        Ok(())
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
        let mut out = Encoder::new(self.output.tail(), "TE");
        out.number(xid.number());
        result.write(&mut out);
        if retry && !result.is_success() {
            out.named_atom("Retry", b"true");
        }
        out.finish();
    }

    fn send_data(&mut self, xid: Xid, head: DataHead, octets: Bytes) {
        self.send_for(xid, |connection| {
            let mut out = Encoder::new(connection.output.tail(), "DUM");
            out.number(xid.number());
            out.number(head.offset);
            if let Some(kept) = head.kept {
                out.named("Kept", &kept.to_value());
            }
            if let Some(offset) = head.as_is {
                out.named_number("As-is", offset);
            }
            head.label.write(&mut out);
            out.payload(u32::try_from(octets.len()).unwrap_or(u32::MAX));
            connection.output.push(octets);
            connection.output.tail().extend_from_slice(PAYLOAD_TAIL);
        });
    }

    /// Writes a message without payload whose first parameter is the xid.
    fn write_for(&mut self, xid: Xid, name: &str, write: impl FnOnce(&mut Encoder<'_>)) {
        self.send_for(xid, |connection| {
            let mut out = Encoder::new(connection.output.tail(), name);
            out.number(xid.number());
            write(&mut out);
            out.finish();
        });
    }

    /// Sends something for a transaction and counts its octets.
    fn send_for(&mut self, xid: Xid, send: impl FnOnce(&mut Self)) {
        let before = self.output.remaining();
        send(self);
        let sent = self.output.remaining() - before;
        if let Some(transaction) = self.transactions.get_mut(&xid) {
            transaction.traffic.sent += sent as u64;
            transaction.progress = self.timers.now;
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

    /// Only Phase messages are sent while our offer is pending (RFC 4037 section 6.1).
    fn check_quiet(&self) -> Result<(), Misuse> {
        match (self.stage, self.negotiation.pending_since()) {
            (Stage::Over, _) => Err(Misuse::Over),
            (_, Some(_)) => Err(Misuse::OfferPending),
            (_, None) => Ok(()),
        }
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
struct DataHead {
    offset: u32,
    kept: Option<Kept>,
    as_is: Option<u32>,
    label: DataLabel,
}

fn data_size(octets: &Bytes) -> Result<u32, Misuse> {
    u32::try_from(octets.len()).map_err(|_| Rule::TooLarge.into())
}
