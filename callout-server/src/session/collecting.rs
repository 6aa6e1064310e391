//! The octets of an event on their way in: into memory or a file, within limits.

use std::io;

use bytes::BytesMut;
use bytes::buf::Limit;
use ocp_proto::smtp::{CommandLine, Part, Profile, Reply};
use ocp_proto::{Connection, OcpResult, OriginalStart, Xid};
use opes_mta::telemetry::spans;
use tracing::info_span;

use super::Session;
use super::transaction::{Completed, Stage, Transaction};
use crate::spool::{Content, Full, Room, Written};

/// Octets of a body to come from which on they are read straight to where they belong: below, one read
/// that brings other messages with them is better.
const STRAIGHT_OCTETS: u32 = 8 * 1024;

/// Octets of a reply, with the command before it: what [`Reply`] and [`CommandLine`] can hold. Worst
/// case a transaction of a group for replies: that many.
const LONGEST_REPLY: u32 = (CommandLine::LONGEST + Reply::LONGEST) as u32;

/// Where octets of a transaction's body are read to.
pub(crate) struct BodyRoom {
    xid: Xid,
    room: Room,
}

impl Session {
    pub(super) fn receive(
        &mut self,
        connection: &mut Connection,
        xid: Xid,
        start: Option<OriginalStart>,
    ) {
        let limit = self.message_octets();
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let Some(start) = start else {
            return self.refuse(connection, xid, "the group has no SMTP profile", false);
        };
        transaction.span = info_span!(
            "transaction",
            connection = self.id.number(),
            dialog = start.dialog.number(),
            xid = xid.number(),
            command = start.command.name(),
        );
        spans::detach(&transaction.span);
        let kind = connection.transaction_profile(xid).map(Profile::kind).unwrap_or_default();
        transaction.open.is_about(&self.server.metrics, kind, &start.command);
        transaction.dialog = Some(start.dialog);
        self.recorder.begin(xid, kind, &start, &transaction.chain);
        // What the processor keeps to itself needs no place here.
        let profile = connection.transaction_profile(xid).and_then(Profile::as_command);
        let leave = profile.and_then(|profile| profile.leave_at_body);
        let announced = start.body_size.map(|size| leave.map_or(size, |leave| leave.min(size)));
        if announced.is_some_and(|size| size > limit) {
            return self.refuse(connection, xid, &too_large(limit), false);
        }
        // What becomes of a reply changes nothing in the dialog: that its command did.
        if !is_reply(connection, xid) {
            self.server.change_dialog(self.id, start.dialog, |dialog| {
                dialog.latest = Some((xid, start.command.clone()));
            });
        }
        let content = Box::new(Content::new(&self.generation.spool, announced));
        transaction.stage =
            Stage::Receiving { start, content, is_complete: false, is_paused: false };
    }

    pub(super) fn collect(
        &mut self,
        connection: &mut Connection,
        xid: Xid,
        part: Option<Part>,
        octets: &[u8],
    ) {
        let limit = match is_reply(connection, xid) {
            true => LONGEST_REPLY,
            false => self.message_octets(),
        };
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let Some(content) = transaction.collecting() else { return };
        if content.len() + octets.len() > limit as usize {
            return self.refuse(connection, xid, &too_large(limit), false);
        }
        let taken = match part {
            Some(Part::MessageBody) => content.push_body(octets, &self.generation.spool),
            _ => content.push_first(octets),
        };
        self.taken(connection, xid, taken);
    }

    /// Room for octets of the body that comes next, to be read straight to where they belong, if they
    /// are worth it. [`Session::put_back`] has to follow before anything else is done.
    pub(crate) fn take_room(&mut self, connection: &Connection) -> Option<BodyRoom> {
        let (xid, left) = connection.awaited_body()?;
        if left < STRAIGHT_OCTETS {
            return None;
        }
        let limit = self.message_octets() as usize;
        let content = self.transactions.get_mut(&xid)?.collecting()?;
        // What is too large is refused where all other octets come along.
        let most = limit.checked_sub(content.len()).filter(|most| *most >= left as usize)?;
        let room = content.take_room(most.min(left as usize), &self.generation.spool);
        Some(BodyRoom { xid, room })
    }

    /// Takes that room back, and what was read into it.
    pub(crate) fn put_back(&mut self, connection: &mut Connection, room: BodyRoom) {
        let BodyRoom { xid, room } = room;
        let transaction = self.transactions.get_mut(&xid);
        let Some(content) = transaction.and_then(Transaction::collecting) else { return };
        let is_empty = room.octets() == 0;
        let taken = content.put_back(room, &self.generation.spool);
        if !is_empty {
            self.taken(connection, xid, taken);
        }
    }

    /// Octets were taken, or there was no room for them.
    fn taken(&mut self, connection: &mut Connection, xid: Xid, taken: Result<(), Full>) {
        match taken {
            Ok(()) => self.write(connection, xid),
            Err(full) => self.refuse_full(connection, xid, full),
        }
    }

    /// Writes to the file what is due, and pauses the processor while the disk is behind.
    fn write(&mut self, connection: &mut Connection, xid: Xid) {
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let Stage::Receiving { content, is_complete, is_paused, .. } = &mut transaction.stage
        else {
            return;
        };
        let next = content.next_write(&self.generation.spool, *is_complete);
        match content.is_behind() {
            true => self.behind = Some(xid),
            false => self.behind = self.behind.filter(|behind| *behind != xid),
        }
        match next {
            Ok(Some(write)) => {
                self.tasks.spawn_blocking(move || Completed::Written(xid, write.run()));
            }
            Ok(None) => {}
            Err(full) => return self.refuse_full(connection, xid, full),
        }
        if *is_complete {
            return;
        }
        // Both fail only if the transaction has ended meanwhile.
        if !*is_paused && content.should_pause() {
            *is_paused = true;
            let _ = connection.want_pause(xid, u32::try_from(content.len()).unwrap_or(u32::MAX));
        } else if *is_paused && content.may_go_on() {
            *is_paused = false;
            let _ = connection.want_more(xid, None);
        }
    }

    pub(super) fn written(
        &mut self,
        connection: &mut Connection,
        xid: Xid,
        written: io::Result<Written>,
    ) {
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let Stage::Receiving { content, is_complete, .. } = &mut transaction.stage else { return };
        let is_complete = *is_complete;
        match written {
            Ok(written) => content.written(written),
            Err(error) => return self.refuse_io(connection, xid, &error),
        }
        self.write(connection, xid);
        if is_complete {
            self.ask(connection, xid);
        }
    }

    fn refuse_full(&mut self, connection: &mut Connection, xid: Xid, full: Full) {
        self.refuse(connection, xid, &full.to_string(), true);
    }

    /// The original has ended.
    pub(super) fn work(&mut self, connection: &mut Connection, xid: Xid, result: &OcpResult) {
        if result.is_partial() && connection.rest_from(xid).is_none() {
            // never report an incomplete message as clean.
            return self.refuse(connection, xid, "the message is incomplete (AME 206)", false);
        }
        self.complete(connection, xid);
    }

    /// What has come of the original is what the services get.
    pub(super) fn complete(&mut self, connection: &mut Connection, xid: Xid) {
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let Stage::Receiving { is_complete: is_complete @ false, .. } = &mut transaction.stage
        else {
            return;
        };
        *is_complete = true;
        self.write(connection, xid);
        self.ask(connection, xid);
    }

    fn message_octets(&self) -> u32 {
        let limit = self.generation.config.limits.message_octets;
        self.access.limits().and_then(|limits| limits.message_octets).unwrap_or(limit).min(limit)
    }
}

impl BodyRoom {
    /// Where the octets go; never full.
    pub(crate) fn free(&mut self) -> Limit<&mut BytesMut> {
        self.room.free()
    }
}

fn is_reply(connection: &Connection, xid: Xid) -> bool {
    connection.transaction_profile(xid).and_then(Profile::as_reply).is_some()
}

fn too_large(limit: u32) -> String {
    format!("the message has more than the {limit} octets that this server takes")
}
