//! The original message, which the processor sends.

use super::{DataHead, Misuse, data_size};
use crate::connection::{Connection, Event, OutgoingPayload};
use crate::ids::Xid;
use crate::message::{DataLabel, Kept, Message, OcpResult, OriginalStart};
use crate::role::Role;
use crate::smtp::{COMMAND_PROFILE, Part};
use crate::transaction::Subject;
use crate::violation::Rule;
use crate::wire::NamedValues;

/// What a processor says of octets of its message (DUM).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OriginalData {
    /// Their part; needed if the group has a profile.
    pub part: Option<Part>,
    /// What is kept from now on, until the transaction ends: it may grow, beyond these octets too,
    /// and gives up only what DPI declared disposable. Unchanged if `None`.
    pub kept: Option<Kept>,
}

impl Connection {
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
            .ok_or_else(|| Misuse::NotNegotiated(COMMAND_PROFILE.to_owned()))?;
        if !profile.commands().contains(&start.command) {
            return Err(Misuse::NotNegotiated(start.command.to_string()));
        }
        let Some(dialog) = self.dialogs.active.get_mut(&start.dialog) else {
            return Err(Misuse::UnknownDialog(start.dialog));
        };
        let subject = Subject::new(&start.command, &profile);
        let is_reply = subject.is_reply();
        if transaction.original.has_started() {
            return Err(Rule::StartedTwice.into());
        }
        dialog.begin(xid, is_reply, profile.observed().contains(&start.command))?;
        transaction.original.start(Some(subject))?;
        transaction.dialog = Some(start.dialog);
        self.write_for(xid, "AMS", |out| start.write(out));
        Ok(())
    }

    /// Processor: starts the original message of a group without a profile (AMS): OCP Core alone, whose
    /// octets have no parts.
    ///
    /// # Errors
    /// If it has started; if the group has a profile.
    pub fn start_core_original(&mut self, xid: Xid) -> Result<(), Misuse> {
        self.check_role(Role::Processor)?;
        let transaction = self.transaction(xid)?;
        if transaction.profile.is_some() {
            return Err(Rule::PartMissing.into());
        }
        transaction.original.start(None)?;
        self.write_for(xid, "AMS", |_| {});
        Ok(())
    }

    /// Processor: sends octets of the original message (DUM). With `keeps`, all octets so far are
    /// announced as kept and must stay available until the transaction ends.
    ///
    /// # Errors
    /// See [`Connection::send_original_data`].
    pub fn send_original(
        &mut self,
        xid: Xid,
        part: Part,
        octets: impl Into<OutgoingPayload>,
        keeps: bool,
    ) -> Result<(), Misuse> {
        let octets = octets.into();
        let size = data_size(&octets)?;
        let sent = self.transactions.get(&xid).map_or(0, |known| known.original.octets());
        let kept = keeps.then(|| Kept { offset: 0, size: sent.saturating_add(size) });
        self.send_original_data(xid, OriginalData { part: Some(part), kept }, octets)
    }

    /// Processor: sends octets of the original message (DUM); none at all to announce something.
    ///
    /// # Errors
    /// If the message is not open, the part does not fit, or it grows too large; if `kept` takes a
    /// promise back; beyond [`Connection::may_send`].
    pub fn send_original_data(
        &mut self,
        xid: Xid,
        data: OriginalData,
        octets: impl Into<OutgoingPayload>,
    ) -> Result<(), Misuse> {
        self.check_role(Role::Processor)?;
        let octets = octets.into();
        let size = data_size(&octets)?;
        let transaction = self.transaction(xid)?;
        let offset = transaction.original.octets();
        transaction.check_room(offset, size)?;
        if data.kept.is_some_and(|kept| !transaction.preservation.honours(kept)) {
            return Err(Rule::KeptWithdrawn.into());
        }
        let begins_body = transaction.original.data(offset, size, data.part)?;
        if let Some(kept) = data.kept {
            transaction.preservation.keep(kept)?;
        }
        let owed = transaction.pause.reach(offset + size);
        let leaves = transaction.leaves_now();
        let label = DataLabel { part: data.part, id: None };
        let head = DataHead { offset, kept: data.kept, label, ..DataHead::default() };
        self.send_data(xid, &head, octets);
        if begins_body {
            self.begin_body(xid);
        }
        if leaves {
            self.leave_at_body(xid);
        }
        self.send_paused(xid, owed);
        Ok(())
    }

    /// The size of the header is known: what the server's profile says of the body becomes what its
    /// messages would say (profile section 2).
    fn begin_body(&mut self, xid: Xid) {
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        transaction.begin_body();
        let Some(profile) = transaction.command_profile().cloned() else { return };
        if let Some(offset) = profile.pause_at_body.map(|offset| transaction.body_offset(offset)) {
            // Its DPM goes out with the others.
            let sent = transaction.original.octets();
            let owed = transaction.pause.want(offset, sent);
            self.events.push_back(Event::PauseWanted { xid, offset });
            self.send_paused(xid, owed);
        }
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        if let Some(size) = profile.stop_receiving_body.map(|size| transaction.body_offset(size)) {
            transaction.stop.receiving = Some(size);
            self.events.push_back(Event::StopReceivingWanted { xid, size });
        }
    }

    /// Leave-At-Body: as if DWSS and then DWSR had come.
    fn leave_at_body(&mut self, xid: Xid) {
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        if !transaction.leaves_now() || transaction.adapted.has_ended() {
            return;
        }
        let size = transaction.original.octets();
        transaction.stop.left = true;
        transaction.stop.receiving = Some(size);
        self.events.push_back(Event::StopSendingWanted { xid });
        self.events.push_back(Event::StopReceivingWanted { xid, size });
    }

    /// Processor: ends the original message (AME); with 206 the rest of it is left out.
    ///
    /// # Errors
    /// If it is not open; for 206 before the octets that DWSR still wants, or after DWSS and before
    /// DSS.
    pub fn end_original(&mut self, xid: Xid, result: OcpResult) -> Result<(), Misuse> {
        self.check_role(Role::Processor)?;
        let transaction = self.transaction(xid)?;
        if result.is_partial() {
            let ended = transaction.adapted.has_ended();
            // Section 8.3: the server could not end its flow early any more.
            if transaction.stop.awaits_grant() && !ended {
                return Err(Rule::PartialBeforeStop.into());
            }
            let sent = transaction.original.octets();
            if let Some(size) = transaction.stop.receiving.filter(|size| sent < *size) {
                return Err(Rule::PartialTooEarly(size).into());
            }
        }
        transaction.original.end(result.is_partial())?;
        // AME comes instead of DPM.
        transaction.pause.more();
        let extensions = NamedValues::new();
        self.send_for(xid, |connection| {
            connection.send(&Message::Ame { xid, result, extensions });
        });
        Ok(())
    }

    /// Processor: lets the server end its adapted message early (DSS). From now on every original
    /// octet that is sent, or held back, is ours to append: it stays at hand until the transaction
    /// ends.
    ///
    /// # Errors
    /// Unless DWSS or Leave-At-Body asked for it; once either message has ended in a way that makes it impossible.
    pub fn stop_sending(&mut self, xid: Xid) -> Result<(), Misuse> {
        self.check_role(Role::Processor)?;
        let transaction = self.transaction(xid)?;
        // Leave-At-Body asks for it only while there is something to leave.
        let asked = transaction.stop.sending || transaction.original.is_open();
        let possible = transaction.stop.awaits_grant()
            && asked
            && !transaction.original.is_partial()
            && !transaction.adapted.has_ended()
            && !transaction.adapted.is_several();
        if !possible {
            return Err(Rule::NoEarlyEnd("DSS").into());
        }
        transaction.stop.granted = Some(transaction.original.octets());
        self.write_for(xid, "DSS", |_| {});
        Ok(())
    }
}
