//! What the peer's messages do.

use std::sync::Arc;

use super::event::{Closed, Event, Offer, Response, feature_uri};
use super::{Connection, Payload, Stage};
use crate::ids::{DialogId, GroupId, Xid};
use crate::message::{
    AdaptedEnd, AdaptedStart, DataLabel, DefinitionError, DialogMessage, Dum, Fields, Kind,
    Message, Negotiation, OcpResult, OriginalStart, Selection,
};
use crate::role::Role;
use crate::smtp::{COMMAND_PROFILE, CommandProfile, DIALOG};
use crate::transaction::Transaction;
use crate::violation::{Rule, Violation};
use crate::wire::{Frame, Head, NamedValues, Structure};

/// What a message led to.
type Received = Result<Option<Event>, Violation>;

impl Connection {
    pub(super) fn receive(&mut self, frame: Frame) -> Received {
        let consumed = self.decoder.consumed();
        let received = consumed - self.consumed;
        self.consumed = consumed;
        match (frame, self.payload) {
            (Frame::Head(head), _) => self.receive_head(head, received),
            (Frame::Chunk(octets), Payload::Data { xid, part }) => {
                Ok(self.count(xid, received).then_some(Event::Data { xid, part, octets }))
            }
            (Frame::End, Payload::Data { xid, .. }) => {
                self.count(xid, received);
                Ok(None)
            }
            (Frame::Chunk(_) | Frame::End, Payload::Skipped) => Ok(None),
        }
    }

    /// Counts octets of a message for a transaction; whether it is active.
    fn count(&mut self, xid: Xid, octets: u64) -> bool {
        let now = self.timers.now;
        let transaction = self.transactions.get_mut(&xid);
        transaction.is_some_and(|transaction| {
            transaction.progress = now;
            transaction.traffic.received += octets;
            true
        })
    }

    fn receive_head(&mut self, head: Head, octets: u64) -> Received {
        self.payload = Payload::Skipped;
        if self.stage == Stage::Opening {
            if head.name != *Kind::Cs.name() {
                return Err(Violation::connection(Rule::FirstMessageNotCs));
            }
            self.stage = Stage::Open;
            return Ok(Some(Event::Started));
        }
        let peer = self.role.peer();
        let message = match Message::parse(&head, peer, self.dialogs.enabled) {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(None),
            Err(violation) => return self.unless_late(violation),
        };
        if message == Message::Cs {
            return Ok(None);
        }
        self.negotiation.check(message.kind(), peer).map_err(Violation::connection)?;
        let xid = message.xid();
        let starts = message.kind() == Kind::Ts;
        if let Some(xid) = xid.filter(|_| !starts) {
            self.count_head(xid, octets);
        }
        let received = self.receive_message(message);
        if let Some(xid) = xid.filter(|_| starts) {
            self.count_head(xid, octets);
        }
        received
    }

    fn count_head(&mut self, xid: Xid, octets: u64) {
        if let Some(transaction) = self.transactions.get_mut(&xid) {
            transaction.traffic.received += octets;
        }
    }

    /// What is wrong with a message for a transaction that has ended is no longer of interest
    ///
    fn unless_late(&self, violation: Violation) -> Received {
        match violation.scope {
            crate::violation::Scope::Transaction(xid)
                if self.xids.is_past(xid.number()) && !self.has_transaction(xid) =>
            {
                Ok(None)
            }
            _ => Err(violation),
        }
    }

    fn receive_message(&mut self, message: Message) -> Received {
        match message {
            Message::Cs | Message::Aa { .. } => Ok(None),
            Message::Ce(result) => {
                self.over(Closed::ByPeer(result));
                Ok(None)
            }
            Message::Sgc { group, services } => self.receive_group(group, services),
            Message::Sgd { group } => match self.groups.active.remove(&group) {
                Some(_) => Ok(Some(Event::GroupDestroyed { group })),
                None => Err(Violation::connection(Rule::UnknownGroup(group.number()))),
            },
            Message::No(offer) => self.receive_offer(offer),
            Message::Nr(selection) => self.receive_response(selection),
            Message::Aq { feature } => {
                let uri = feature_uri(&feature).unwrap_or_default();
                let supported = self.config.features.iter().any(|known| known == uri);
                self.send(&Message::Aa { supported });
                Ok(None)
            }
            Message::Pq { xid } => {
                let (xid, original_octets) = self.progress_of(xid);
                self.send(&Message::Pa { xid, original_octets });
                Ok(None)
            }
            Message::Pa { xid, original_octets } | Message::Pr { xid, original_octets } => {
                Ok(self.receive_progress(xid, original_octets))
            }
            Message::Dialog(message) => self.receive_dialog(message),
            Message::Ts { xid, group } => self.receive_start(xid, group),
            Message::Te { xid, result, extensions } => self.receive_end(xid, result, &extensions),
            message => self.receive_for_transaction(message),
        }
    }

    fn receive_group(&mut self, group: GroupId, services: Vec<Structure>) -> Received {
        if !self.groups.numbers.accept(group.number()) {
            return Err(Violation::connection(Rule::GroupNotRising(group.number())));
        }
        if self.groups.active.len() >= self.config.groups {
            return Err(Violation::connection(Rule::GroupLimit(self.config.groups)));
        }
        self.groups.active.insert(group, None);
        Ok(Some(Event::GroupCreated { group, services }))
    }

    fn receive_offer(&mut self, offer: Negotiation) -> Received {
        let Negotiation { features, group, pending } = offer;
        if group.is_some_and(|group| !self.groups.active.contains_key(&group)) {
            return Err(Violation::connection(Rule::OfferGroup));
        }
        let offer = Offer { features, group, pending };
        let owed = self.negotiation.received_offer(&offer, self.role);
        Ok(owed.then_some(Event::Offered(offer)))
    }

    fn receive_response(&mut self, selection: Selection) -> Received {
        let Selection { mut feature, group, rejects, unknowns, pending } = selection;
        let offer =
            self.negotiation.received_response(group, pending).map_err(Violation::connection)?;
        // Section 11.19: what was not offered can't be selected; the negotiation failed.
        let offered = |selected: &Structure| {
            offer.features.iter().find(|feature| feature_uri(feature) == feature_uri(selected))
        };
        match feature.as_ref().and_then(offered).cloned() {
            Some(offered) => {
                if let Some(selected) = &feature {
                    self.enable(selected, &offered, group).map_err(Violation::connection)?;
                }
            }
            None => feature = None,
        }
        Ok(Some(Event::Responded(Response { feature, group, rejects, unknowns, pending })))
    }

    /// Puts a selected feature into effect (RFC 4037 section 11.19).
    pub(super) fn enable(
        &mut self,
        selected: &Structure,
        offered: &Structure,
        group: Option<GroupId>,
    ) -> Result<(), Rule> {
        match feature_uri(selected) {
            Some(uri) if uri == DIALOG.as_bytes() => self.dialogs.enabled = true,
            Some(uri) if uri == COMMAND_PROFILE.as_bytes() => {
                let read = |feature| {
                    CommandProfile::from_structure(feature).ok_or(DefinitionError::Type {
                        message: "NR",
                        parameter: "feature",
                        expected: "SMTP-Command-Profile",
                    })
                };
                let profile = read(selected)?;
                if let Some(excess) = profile.beyond(&read(offered)?) {
                    return Err(Rule::BeyondOffer(excess));
                }
                let profile = Some(Arc::new(profile));
                match group.and_then(|group| self.groups.active.get_mut(&group)) {
                    Some(slot) => *slot = profile,
                    None => self.groups.common = profile,
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What PA and PR say: the xid if we work on it, octets while its original flow is open.
    pub(super) fn progress_of(&self, xid: Option<Xid>) -> (Option<Xid>, Option<u32>) {
        let xid = xid.filter(|xid| self.transactions.contains_key(xid));
        let octets = xid
            .and_then(|xid| self.transactions.get(&xid))
            .filter(|transaction| transaction.original.is_open())
            .map(|transaction| transaction.original.octets());
        (xid, octets)
    }

    fn receive_progress(&mut self, xid: Option<Xid>, octets: Option<u32>) -> Option<Event> {
        if let Some(xid) = xid {
            self.transactions.get_mut(&xid)?.progress = self.timers.now;
        }
        Some(Event::Progress { xid, original_octets: octets })
    }

    fn receive_dialog(&mut self, message: DialogMessage) -> Received {
        match message {
            DialogMessage::Start { dialog, facts } => self.receive_dialog_start(dialog, *facts),
            DialogMessage::Update { dialog, update } => Ok(self
                .is_active(dialog)?
                .then_some(Event::DialogUpdated { dialog, update: *update })),
            DialogMessage::Outcome { dialog, xid, result, reply, queue_id } => Ok(self
                .is_active(dialog)?
                .then_some(Event::DialogOutcome { dialog, xid, result, reply, queue_id })),
            DialogMessage::End { dialog, result } => {
                self.end_dialog_locally(dialog, result);
                Ok(None)
            }
            DialogMessage::Drain => Ok(Some(Event::Draining)),
        }
    }

    fn receive_dialog_start(
        &mut self,
        dialog: DialogId,
        facts: crate::smtp::DialogFacts,
    ) -> Received {
        if !self.dialogs.numbers.accept(dialog.number()) {
            return Err(Violation::dialog(dialog, Rule::DialogNotRising(dialog.number())));
        }
        if self.dialogs.active.len() >= self.config.dialogs {
            return Err(Violation::dialog(dialog, Rule::DialogLimit(self.config.dialogs)));
        }
        self.dialogs.active.insert(dialog, super::Dialog::default());
        Ok(Some(Event::DialogStarted { dialog, facts }))
    }

    /// Whether a dialog is active; one that has ended is passed over, one that never began is a
    /// violation.
    fn is_active(&self, dialog: DialogId) -> Result<bool, Violation> {
        let active = self.dialogs.active.contains_key(&dialog);
        if !active && !self.dialogs.numbers.is_past(dialog.number()) {
            return Err(Violation::dialog(dialog, Rule::UnknownDialog(dialog.number())));
        }
        Ok(active)
    }

    fn receive_start(&mut self, xid: Xid, group: GroupId) -> Received {
        let invalid = |rule| Err(Violation::transaction(xid, rule));
        if !self.xids.accept(xid.number()) {
            return invalid(Rule::XidNotRising(xid.number()));
        }
        if !self.groups.active.contains_key(&group) {
            return invalid(Rule::TransactionGroup(group.number()));
        }
        if self.transactions.len() >= self.config.transactions {
            return invalid(Rule::TransactionLimit(self.config.transactions));
        }
        self.open_transaction(xid, group);
        Ok(Some(Event::TransactionStarted { xid, group }))
    }

    pub(super) fn open_transaction(&mut self, xid: Xid, group: GroupId) {
        let profile = self.groups.profile(group).cloned();
        let now = self.timers.now;
        self.transactions.insert(xid, Transaction::new(profile, now));
        self.timers.watch_transaction(now + self.config.transaction_timeout);
    }

    fn receive_end(&mut self, xid: Xid, result: OcpResult, extensions: &NamedValues) -> Received {
        // A TE for an inactive xid has nothing to end.
        let Some(transaction) = self.transactions.get(&xid) else { return Ok(None) };
        let retry = transaction.profile.is_some()
            && Fields { message: "TE", named: extensions }
                .boolean("Retry")
                .map_err(|error| Violation::transaction(xid, error))?;
        let result = match result {
            // Profile section 4: nothing commits without the whole adapted message.
            result
                if self.role == Role::Processor
                    && result.is_success()
                    && !transaction.adapted.is_complete() =>
            {
                OcpResult::failure("TE before the end of the adapted message")
            }
            // Section 10.10: 206 is for AME only, and unknown codes are failures.
            result if !result.is_success() && result.code != 400 => {
                OcpResult { code: 400, ..result }
            }
            result => result,
        };
        self.end_locally(xid, result, retry);
        Ok(None)
    }

    /// Messages that need an active transaction.
    fn receive_for_transaction(&mut self, message: Message) -> Received {
        let Some(xid) = message.xid() else { return Ok(None) };
        let invalid = |rule: Rule| Violation::transaction(xid, rule);
        let Some(transaction) = self.transactions.get_mut(&xid) else {
            // Late messages for a transaction that has ended are dropped.
            if self.xids.is_past(xid.number()) {
                return Ok(None);
            }
            return Err(invalid(Rule::UnknownTransaction(xid.number())));
        };
        transaction.progress = self.timers.now;
        match message {
            Message::Ams { services, extensions, .. } => match self.role {
                Role::Server => self.receive_original_start(xid, &extensions),
                Role::Processor => {
                    let transaction = self.transactions.get_mut(&xid);
                    receive_adapted_start(xid, transaction, services, &extensions)
                }
            },
            Message::Dum(dum) => {
                let part = receive_data(self.role, transaction, &dum).map_err(invalid)?;
                self.payload = Payload::Data { xid, part };
                Ok(None)
            }
            Message::Duy { offset, size, extensions, .. } => {
                receive_preserved(xid, transaction, offset..offset + size, &extensions)
                    .map_err(invalid)
            }
            Message::Dpi { offset, size, .. } => {
                transaction.preservation.narrow(offset, size).map_err(invalid)?;
                Ok(None)
            }
            Message::Ame { result, extensions, .. } => {
                self.receive_message_end(xid, result, &extensions)
            }
            Message::Dss { .. } if !transaction.adapted.has_ended() => {
                // Section 11.14: never ignored; we have not asked for it.
                Err(invalid(Rule::UnsolicitedStop))
            }
            _ => Ok(None),
        }
    }

    fn receive_original_start(&mut self, xid: Xid, extensions: &NamedValues) -> Received {
        let invalid = |rule: Rule| Violation::transaction(xid, rule);
        let Some(transaction) = self.transactions.get_mut(&xid) else { return Ok(None) };
        let Some(profile) = transaction.profile.clone() else {
            transaction.original.start(None).map_err(invalid)?;
            return Ok(Some(Event::OriginalStarted { xid, start: None }));
        };
        let start = OriginalStart::read(extensions).map_err(|error| invalid(error.into()))?;
        transaction.original.start(Some(start.command.clone())).map_err(invalid)?;
        if !profile.commands.contains(&start.command) {
            return Err(invalid(Rule::NotNegotiated(start.command.to_string())));
        }
        let dialog = self
            .dialogs
            .active
            .get_mut(&start.dialog)
            .ok_or_else(|| invalid(Rule::UnknownDialog(start.dialog.number())))?;
        transaction.dialog = Some(start.dialog);
        if !profile.observed.contains(&start.command) {
            if dialog.busy.is_some() {
                return Err(invalid(Rule::DialogBusy));
            }
            dialog.busy = Some(xid);
        }
        dialog.open.push(xid);
        Ok(Some(Event::OriginalStarted { xid, start: Some(start) }))
    }

    fn receive_message_end(
        &mut self,
        xid: Xid,
        result: OcpResult,
        extensions: &NamedValues,
    ) -> Received {
        let invalid = |rule: Rule| Violation::transaction(xid, rule);
        let Some(transaction) = self.transactions.get_mut(&xid) else { return Ok(None) };
        if !result.is_success() && !result.is_partial() {
            // Section 10.10: a failure destroys the message, and with it the transaction. A server
            // may refuse so even before its AMS.
            let result = OcpResult { code: 400, ..result };
            self.send_transaction_end(xid, &result, false);
            self.end_locally(xid, result, false);
            return Ok(None);
        }
        match self.role {
            Role::Server => {
                transaction.original.end().map_err(invalid)?;
                Ok(Some(Event::OriginalEnded { xid, result }))
            }
            Role::Processor => {
                if result.is_partial() && transaction.adapted.has_started() {
                    return Err(invalid(Rule::EarlyEnd));
                }
                transaction.adapted.end().map_err(invalid)?;
                let end = match &transaction.profile {
                    Some(profile) => {
                        let end =
                            AdaptedEnd::read(extensions).map_err(|error| invalid(error.into()))?;
                        let mut names = end.side_effects.iter().map(|effect| effect.name());
                        if let Some(name) = names.find(|name| !profile.side_effects.contains(name))
                        {
                            return Err(invalid(Rule::NotNegotiated(name.to_string())));
                        }
                        end
                    }
                    None => AdaptedEnd::default(),
                };
                Ok(Some(Event::AdaptedEnded { xid, result, end }))
            }
        }
    }
}

fn receive_adapted_start(
    xid: Xid,
    transaction: Option<&mut Transaction>,
    services: Vec<bytes::Bytes>,
    extensions: &NamedValues,
) -> Received {
    let Some(transaction) = transaction else { return Ok(None) };
    let invalid = |rule: Rule| Violation::transaction(xid, rule);
    let start = match transaction.profile {
        Some(_) => Some(AdaptedStart::read(extensions).map_err(|error| invalid(error.into()))?),
        None => None,
    };
    transaction.adapted.start().map_err(invalid)?;
    Ok(Some(Event::AdaptedStarted { xid, services, start }))
}

fn receive_data(
    role: Role,
    transaction: &mut Transaction,
    dum: &Dum,
) -> Result<Option<crate::smtp::Part>, Rule> {
    let label = match transaction.profile {
        Some(_) => DataLabel::read("DUM", &dum.extensions)?,
        None => DataLabel::default(),
    };
    match role {
        Role::Server => {
            transaction.original.data(dum.offset, dum.size, label.part)?;
            if let Some(kept) = dum.kept {
                transaction.preservation.keep(kept)?;
            }
        }
        Role::Processor => {
            let command = transaction.original.command();
            transaction.adapted.data(dum.offset, dum.size, label.part, command)?;
        }
    }
    Ok(label.part)
}

fn receive_preserved(
    xid: Xid,
    transaction: &mut Transaction,
    range: std::ops::Range<u32>,
    extensions: &NamedValues,
) -> Result<Option<Event>, Rule> {
    let label = match transaction.profile {
        Some(_) => DataLabel::read("DUY", extensions)?,
        None => DataLabel::default(),
    };
    // Only what was sent is announced as kept, so this also bounds the range by what exists.
    transaction.preservation.take(&range)?;
    let command = transaction.original.command();
    let header = transaction.original.header();
    transaction.adapted.preserved(&range, label.part, command, header)?;
    Ok((!range.is_empty()).then_some(Event::Preserved { xid, part: label.part, range }))
}
