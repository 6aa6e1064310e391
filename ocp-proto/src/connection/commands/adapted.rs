//! The adapted message or messages, which the server sends.

use std::ops::Range;

use super::{DataHead, Misuse, data_size};
use crate::connection::{Connection, OutgoingPayload};
use crate::ids::{AdaptedMessageId, Xid};
use crate::message::{AdaptedEnd, AdaptedStart, DataLabel, OcpResult, services_value};
use crate::role::Role;
use crate::smtp::{Part, Profile};
use crate::transaction::{Subject, Transaction};
use crate::violation::Rule;
use crate::wire::Atom;

/// What a server says of octets of an adapted message (DUM).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdaptedData {
    /// Which of several messages; `None` for the only one.
    pub id: Option<AdaptedMessageId>,
    /// Their part; needed if the group has a profile.
    pub part: Option<Part>,
    /// Where in the original message the same octets stand. Left out on the wire if they were not
    /// received yet (RFC 4037 section 11.9).
    pub as_is: Option<u32>,
    /// Percent of certainty that octets will change, 0 to 100. Left out on the wire if it was said
    /// before. 0 is a promise: all octets of the message have to be DUY or As-is, each at its own
    /// offset.
    pub modp: Option<u32>,
}

impl Connection {
    /// Server: starts the adapted message, or one of several with an Am-Id (AMS). `services` are
    /// named if they differ from those of the group (RFC 4037 section 11.7).
    ///
    /// # Errors
    /// If it has started; if an Am-Id breaks a rule of profile section 5.
    pub fn start_adapted(
        &mut self,
        xid: Xid,
        services: Vec<Atom>,
        start: &AdaptedStart,
    ) -> Result<(), Misuse> {
        self.check_role(Role::Server)?;
        let (limit, step) = (self.config.adapted_messages, self.step(xid));
        let transaction = self.transaction(xid)?;
        transaction.start_adapted(start, limit)?;
        step.note(transaction);
        self.write_for(xid, "AMS", |out| {
            if !services.is_empty() {
                out.named("Services", &services_value(services));
            }
            start.write(out);
        });
        Ok(())
    }

    /// Server: sends octets of the only adapted message (DUM). `as_is` says where in the original
    /// message the same octets stand.
    ///
    /// # Errors
    /// See [`Connection::send_adapted_data`].
    pub fn send_adapted(
        &mut self,
        xid: Xid,
        part: Part,
        octets: impl Into<OutgoingPayload>,
        as_is: Option<u32>,
    ) -> Result<(), Misuse> {
        let data = AdaptedData { part: Some(part), as_is, ..AdaptedData::default() };
        self.send_adapted_data(xid, data, octets)
    }

    /// Server: sends octets of an adapted message (DUM).
    ///
    /// # Errors
    /// If the message is not open, the part does not fit, or it grows too large; beyond
    /// [`Connection::may_send`]; if Modp 0 is or was said and octets change.
    pub fn send_adapted_data(
        &mut self,
        xid: Xid,
        data: AdaptedData,
        octets: impl Into<OutgoingPayload>,
    ) -> Result<(), Misuse> {
        self.check_role(Role::Server)?;
        let octets = octets.into();
        let size = data_size(&octets)?;
        let under_way = self.under_way(xid);
        let transaction = self.transaction(xid)?;
        transaction.check_room(transaction.adapted.octets(), size)?;
        let AdaptedData { id, part, as_is, modp } = data;
        let offset = transaction.adapted.octets_of(id);
        // Section 11.9: only data that was already received can be the same.
        let received = transaction.original.octets() - under_way;
        let as_is = as_is.filter(|at| at.checked_add(size).is_some_and(|end| end <= received));
        let stands_at = transaction.original.adaptable_offset(as_is);
        let changes = size > 0 && stands_at != Some(offset);
        let promised = modp == Some(0) || transaction.adapted.is_promised_unchanged(id);
        if promised && (changes || transaction.adapted.has_changed(id)) {
            return Err(Rule::ModpBroken.into());
        }
        let label = DataLabel { part, id };
        let subject = transaction.original.subject();
        transaction.adapted.data(offset, size, label, subject, stands_at)?;
        let modp = match modp.map(|percent| percent.min(100)) {
            Some(percent) if transaction.adapted.expect_changes(id, percent)? => Some(percent),
            _ => None,
        };
        let owed = transaction.pause.reach(transaction.adapted.octets());
        self.send_data(xid, &DataHead { offset, kept: None, as_is, modp, label }, octets);
        self.send_paused(xid, owed);
        Ok(())
    }

    /// Server: uses octets of the original message that the processor keeps (DUY) in the only
    /// adapted message. They keep their part unless one is named.
    ///
    /// # Errors
    /// See [`Connection::use_preserved_data`].
    pub fn use_preserved(
        &mut self,
        xid: Xid,
        range: Range<u32>,
        part: Option<Part>,
    ) -> Result<(), Misuse> {
        self.use_preserved_data(xid, range, DataLabel { part, id: None })
    }

    /// Server: uses octets of the original message that the processor keeps (DUY).
    ///
    /// # Errors
    /// If the range is not in [`Connection::preserved`], the message is not open, or the part does
    /// not fit; beyond [`Connection::may_send`]; if Modp 0 was said and they stand elsewhere.
    pub fn use_preserved_data(
        &mut self,
        xid: Xid,
        range: Range<u32>,
        label: DataLabel,
    ) -> Result<(), Misuse> {
        self.check_role(Role::Server)?;
        let under_way = self.under_way(xid);
        let transaction = self.transaction(xid)?;
        let size = range.end.saturating_sub(range.start);
        transaction.check_room(transaction.adapted.octets(), size)?;
        let received = transaction.original.octets() - under_way;
        if range.end > received || range.start > range.end {
            return Err(Rule::NotKept.into());
        }
        let stands_at = transaction.original.adaptable_offset(Some(range.start));
        let moved = stands_at != Some(transaction.adapted.octets_of(label.id));
        if moved && transaction.adapted.is_promised_unchanged(label.id) {
            return Err(Rule::ModpBroken.into());
        }
        transaction.use_preserved(&range, label)?;
        let owed = transaction.pause.reach(transaction.adapted.octets());
        self.write_for(xid, "DUY", |out| {
            out.number(range.start);
            out.number(range.end - range.start);
            label.write(out);
        });
        self.send_paused(xid, owed);
        Ok(())
    }

    /// Server: ends the adapted message, or one of several (AME).
    ///
    /// # Errors
    /// If it is not open; for side effects that were not negotiated; for Valid-For where the
    /// profile has none.
    pub fn end_adapted(&mut self, xid: Xid, end: &AdaptedEnd) -> Result<(), Misuse> {
        self.check_role(Role::Server)?;
        let transaction = self.transaction(xid)?;
        transaction.check_end(end)?;
        transaction.end_adapted(end.id)?;
        self.write_for(xid, "AME", |out| end.write(out));
        Ok(())
    }

    /// Server: ends the adapted message early (AME 206), after DSS: the processor appends the rest
    /// of the original.
    ///
    /// # Errors
    /// Before DSS; otherwise as [`Connection::end_adapted`].
    pub fn end_adapted_early(&mut self, xid: Xid, end: &AdaptedEnd) -> Result<(), Misuse> {
        self.check_role(Role::Server)?;
        let transaction = self.transaction(xid)?;
        transaction.check_early_end(end.id)?;
        transaction.check_end(end)?;
        transaction.end_adapted(None)?;
        self.write_for(xid, "AME", |out| {
            OcpResult::partial().write(out);
            end.write(out);
        });
        Ok(())
    }
}

/// What holds for the adapted messages on either side.
impl Transaction {
    /// Whether that many octets may follow these of our own.
    pub(super) fn check_room(&self, octets: u32, size: u32) -> Result<(), Misuse> {
        match self.pause.room(octets) {
            Some(octets) if octets < size || octets == 0 => Err(Misuse::Paused { octets }),
            _ => Ok(()),
        }
    }

    pub(in crate::connection) fn start_adapted(
        &mut self,
        start: &AdaptedStart,
        limit: usize,
    ) -> Result<(), Rule> {
        if start.id.is_some() && self.stop.sending {
            return Err(Rule::SeveralMessages("Am-Id after DWSS"));
        }
        let profile = self.profile.as_deref().and_then(Profile::as_command);
        self.adapted.start(start, self.original.subject(), profile, limit)
    }

    pub(in crate::connection) fn use_preserved(
        &mut self,
        range: &Range<u32>,
        label: DataLabel,
    ) -> Result<(), Rule> {
        // Profile section 4: auxiliary octets are none of the message that is adapted.
        if !range.is_empty() && range.start < self.original.usable_from() {
            return Err(Rule::AuxiliaryUsed);
        }
        self.preservation.take(range)?;
        let subject = self.original.subject();
        self.adapted.preserved(range, label, subject, self.original.first_part())
    }

    pub(in crate::connection) fn end_adapted(
        &mut self,
        id: Option<AdaptedMessageId>,
    ) -> Result<(), Rule> {
        self.adapted.end(id)?;
        if self.adapted.has_ended() {
            // AME comes instead of DPM.
            self.pause.more();
        }
        Ok(())
    }

    /// What AME says besides: side effects were negotiated, and only some answers can be used again, but
    /// no replies to one command.
    pub(in crate::connection) fn check_end(&self, end: &AdaptedEnd) -> Result<(), Rule> {
        let granted = self.profile.as_ref().map_or(&[][..], |profile| profile.side_effects());
        let mut names = end.side_effects.iter().map(|effect| effect.name());
        if let Some(name) = names.find(|name| !granted.contains(name)) {
            return Err(Rule::NotNegotiated(name.to_string()));
        }
        match self.original.subject() {
            Some(Subject::Event(command)) if command.is_reusable() => Ok(()),
            Some(Subject::Event(command)) if end.valid_for.is_some() => {
                Err(Rule::NotReusable(command.to_string()))
            }
            Some(Subject::Reply { command, .. }) if end.valid_for.is_some() => {
                Err(Rule::NotReusable(format!("a reply to {command}")))
            }
            _ => Ok(()),
        }
    }

    /// AME 206 of the server answers DSS, and there is one adapted message.
    pub(in crate::connection) fn check_early_end(
        &self,
        id: Option<AdaptedMessageId>,
    ) -> Result<(), Rule> {
        if id.is_some() || self.adapted.is_several() {
            return Err(Rule::NoEarlyEnd("AME 206"));
        }
        self.stop.granted.map(|_| ()).ok_or(Rule::EarlyEnd)
    }
}
