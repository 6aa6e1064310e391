//! Transactions and their messages.

use std::ops::Range;

use super::Received;
use crate::connection::{Connection, Event, Payload, feature_uri};
use crate::ids::{GroupId, Xid};
use crate::message::{
    AdaptedEnd, AdaptedStart, DataLabel, Dum, Fields, Message, OcpResult, OriginalStart,
};
use crate::role::Role;
use crate::smtp::{Profile, ProfileKind};
use crate::transaction::{Subject, Transaction};
use crate::violation::{Rule, Useless, Violation};
use crate::wire::{Atom, NamedValues};

impl Connection {
    pub(super) fn receive_start(&mut self, xid: Xid, group: GroupId) -> Received {
        let invalid = |rule| Err(Violation::transaction(xid, rule));
        if !self.xids.accept(xid.number()) {
            return invalid(Rule::XidNotRising(xid.number()));
        }
        if !self.groups.active.contains_key(&group) {
            return invalid(Rule::TransactionGroup(group.number()));
        }
        if let Some(feature) = self.unmet(group) {
            return invalid(Rule::FeatureRequired(feature));
        }
        if self.transactions.len() >= self.config.transactions {
            return invalid(Rule::TransactionLimit(self.config.transactions));
        }
        self.open_transaction(xid, group);
        Ok(Some(Event::TransactionStarted { xid, group }))
    }

    pub(in crate::connection) fn open_transaction(&mut self, xid: Xid, group: GroupId) {
        let profile = self.groups.profile(group).cloned();
        let now = self.timers.now;
        self.transactions.insert(xid, Transaction::new(group, profile, now));
        self.timers.watch_transaction(now + self.config.transaction_timeout);
    }

    pub(super) fn receive_end(
        &mut self,
        xid: Xid,
        result: OcpResult,
        extensions: &NamedValues,
    ) -> Received {
        // A TE for an inactive xid has nothing to end.
        let Some(transaction) = self.transactions.get(&xid) else {
            if !self.xids.is_past(xid.number()) {
                self.bear(Useless::UnknownIdentifiers)?;
            }
            return Ok(None);
        };
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
        // Only with 400 can it mean that nothing was done.
        let retry = retry && !result.is_success();
        self.end_locally(xid, result, retry);
        Ok(None)
    }

    /// A feature that we require and that is not in effect for this group.
    fn unmet(&self, group: GroupId) -> Option<String> {
        if self.config.requires.is_empty() {
            return None;
        }
        // A group has one profile: that has to be one of those that are required.
        let uris = self.config.requires.iter().filter_map(feature_uri);
        let profiles: Vec<ProfileKind> = uris.filter_map(ProfileKind::from_uri).collect();
        let profile = self.groups.profile(group).map(|profile| Profile::kind(profile));
        if let Some(required) = profiles.first()
            && !profile.is_some_and(|profile| profiles.contains(&profile))
        {
            return Some(required.uri().to_owned());
        }
        let missing = self.missing();
        let uri = feature_uri(missing.first()?)?;
        Some(String::from_utf8_lossy(uri).into_owned())
    }

    /// Messages that need an active transaction.
    pub(super) fn receive_for_transaction(&mut self, message: Message) -> Received {
        let Some(xid) = message.xid() else { return Ok(None) };
        let invalid = |rule: Rule| Violation::transaction(xid, rule);
        let role = self.role;
        let step = match message {
            Message::Ams { .. } | Message::Ame { .. } => self.step(xid),
            _ => self.move_on(xid),
        };
        let Some(transaction) = self.transactions.get_mut(&xid) else {
            // Late messages for a transaction that has ended are dropped.
            if self.xids.is_past(xid.number()) {
                return Ok(None);
            }
            return Err(invalid(Rule::UnknownTransaction(xid.number())));
        };
        step.note(transaction);
        match message {
            Message::Dum(dum) => {
                let (label, begins_body) =
                    receive_data(role, transaction, &dum).map_err(invalid)?;
                if begins_body {
                    transaction.begin_body();
                }
                let modp = dum.modp.map(|percent| (label.id, percent));
                self.payload = Payload::Data { xid, label, left: dum.size };
                match dum.size {
                    0 => self.bear(Useless::Signals)?,
                    _ => self.welcome(),
                }
                Ok(modp.map(|(id, percent)| Event::ModificationExpected { xid, id, percent }))
            }
            Message::Duy { offset, size, extensions, .. } => {
                let event = receive_preserved(xid, transaction, offset..offset + size, &extensions);
                let event = event.map_err(invalid)?;
                match size {
                    0 => self.bear(Useless::Signals)?,
                    _ => self.welcome(),
                }
                Ok(event)
            }
            Message::Ams { services, extensions, .. } => {
                self.welcome();
                match role {
                    Role::Server => self.receive_original_start(xid, &extensions),
                    Role::Processor => self.receive_adapted_start(xid, services, &extensions),
                }
            }
            Message::Ame { result, extensions, .. } => {
                self.welcome();
                self.receive_message_end(xid, result, &extensions)
            }
            message => {
                self.bear(Useless::Signals)?;
                self.receive_signal(xid, &message)
            }
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
        let subject = Subject::new(&start.command, &profile);
        let is_reply = subject.is_reply();
        transaction.original.start(Some(subject)).map_err(invalid)?;
        if !profile.commands().contains(&start.command) {
            return Err(invalid(Rule::NotNegotiated(start.command.to_string())));
        }
        let dialog = self
            .dialogs
            .active
            .get_mut(&start.dialog)
            .ok_or_else(|| invalid(Rule::UnknownDialog(start.dialog.number())))?;
        transaction.dialog = Some(start.dialog);
        let observed = profile.observed().contains(&start.command);
        dialog.begin(xid, is_reply, observed).map_err(invalid)?;
        Ok(Some(Event::OriginalStarted { xid, start: Some(start) }))
    }

    fn receive_adapted_start(
        &mut self,
        xid: Xid,
        services: Vec<Atom>,
        extensions: &NamedValues,
    ) -> Received {
        let limit = self.config.adapted_messages;
        let Some(transaction) = self.transactions.get_mut(&xid) else { return Ok(None) };
        let invalid = |rule: Rule| Violation::transaction(xid, rule);
        let start = match transaction.profile {
            Some(_) => Some(AdaptedStart::read(extensions).map_err(|error| invalid(error.into()))?),
            None => None,
        };
        match &start {
            Some(start) => transaction.start_adapted(start, limit),
            None => transaction.start_adapted(&AdaptedStart::default(), limit),
        }
        .map_err(invalid)?;
        Ok(Some(Event::AdaptedStarted { xid, services, start }))
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
                transaction.original.end(result.is_partial()).map_err(invalid)?;
                Ok(Some(Event::OriginalEnded { xid, result }))
            }
            Role::Processor => {
                let end = match &transaction.profile {
                    Some(_) => {
                        AdaptedEnd::read(extensions).map_err(|error| invalid(error.into()))?
                    }
                    None => AdaptedEnd::default(),
                };
                if result.is_partial() && transaction.adapted.has_started() {
                    transaction.check_early_end(end.id).map_err(invalid)?;
                }
                transaction.check_end(&end).map_err(invalid)?;
                transaction.adapted.end(end.id).map_err(invalid)?;
                Ok(Some(Event::AdaptedEnded { xid, result, end }))
            }
        }
    }
}

/// DUM: what it says of its octets, and whether the body begins with it.
fn receive_data(
    role: Role,
    transaction: &mut Transaction,
    dum: &Dum,
) -> Result<(DataLabel, bool), Rule> {
    let label = match transaction.profile {
        Some(_) => DataLabel::read("DUM", &dum.extensions)?,
        None => DataLabel::default(),
    };
    match role {
        Role::Server => {
            let begins_body = transaction.original.data(dum.offset, dum.size, label.part)?;
            if let Some(kept) = dum.kept {
                transaction.preservation.keep(kept)?;
            }
            // Am-Id is the server's; from a processor it is unexpected.
            Ok((DataLabel { id: None, ..label }, begins_body))
        }
        Role::Processor => {
            let as_is = transaction.original.adaptable_offset(dum.as_is);
            let subject = transaction.original.subject();
            transaction.adapted.data(dum.offset, dum.size, label, subject, as_is)?;
            Ok((label, false))
        }
    }
}

fn receive_preserved(
    xid: Xid,
    transaction: &mut Transaction,
    range: Range<u32>,
    extensions: &NamedValues,
) -> Result<Option<Event>, Rule> {
    let label = match transaction.profile {
        Some(_) => DataLabel::read("DUY", extensions)?,
        None => DataLabel::default(),
    };
    // A promise may go beyond what was sent, but not beyond the message.
    if transaction.original.has_ended() && range.end > transaction.original.octets() {
        return Err(Rule::NotKept);
    }
    transaction.use_preserved(&range, label)?;
    let DataLabel { part, id } = label;
    Ok((!range.is_empty()).then_some(match id {
        None => Event::Preserved { xid, part, range },
        Some(id) => Event::MessagePreserved { xid, id, part, range },
    }))
}
