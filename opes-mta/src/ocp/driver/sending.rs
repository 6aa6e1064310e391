//! The octets of events on their way out: from memory at once, from files once they are read.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use ocp_proto::smtp::Part;
use ocp_proto::{OcpResult, Xid};

use super::{ClientError, Driver};
use crate::kept::Next;
use crate::octets::{self, Stored};

/// Octets of the output above which no octets of events are added. Worst case a connection: that
/// much and one payload more, all of it slices of kept content.
const HIGH_WATER: usize = 512 * 1024;

/// Octets of one DUM, and of one read from a file.
const PAYLOAD: usize = octets::BLOCK;

/// Payloads that are read from files at a time, or have been read and wait for room in the output. Worst case a
/// connection: that many.
pub(crate) const MOST_READS: usize = 4;

/// Octets that an event sends before the others have their turn: whole messages, mostly, since a
/// message that is interleaved with many others stays in the server's memory for longer.
pub(super) const TURN: usize = 1024 * 1024;

/// An event that is not all sent.
pub(super) struct Sending {
    pub(super) xid: Xid,
    /// Octets that are sent.
    pub(super) offset: usize,
    /// Octets that are left of its turn.
    pub(super) turn: usize,
    /// Where its body begins, until that is reached, if the server's profile says something of the
    /// body.
    pub(super) body: Option<usize>,
    /// Where the server leaves the loop (Leave-At-Body).
    pub(super) leaves: Option<usize>,
    /// The next octets, if they were read from a file.
    pub(super) read: Bytes,
}

impl Driver {
    /// Adds octets of events to the output while that is low.
    pub(super) fn send(&mut self) {
        while self.connection.output().remaining() < HIGH_WATER
            && let Some(mut sending) = self.next_sending()
        {
            let xid = sending.xid;
            if sending.body == Some(sending.offset) {
                // What the server's profile says of the body holds from now on.
                sending.body = None;
                let _ = self.connection.send_original(xid, Part::MessageBody, Bytes::new(), true);
                self.sending.push_front(sending);
                self.poll_events();
                continue;
            }
            let Some(transaction) = self.transactions.get_mut(&xid) else { continue };
            if !transaction.is_watched {
                self.lingering.end();
            }
            // DWSR: the server has no use for more.
            let wanted = self.connection.wanted_original(xid).unwrap_or(u32::MAX) as usize;
            let mut room = PAYLOAD.min(wanted.saturating_sub(sending.offset));
            let leaves = sending.leaves.filter(|leaves| sending.offset < *leaves);
            room = leaves.map_or(room, |leaves| room.min(leaves - sending.offset));
            let allowed = self.connection.may_send(xid) as usize;
            let most = room.min(allowed.max(1));
            let Some((part, next)) = transaction.answer.kept().next(sending.offset, most) else {
                transaction.sent = true;
                let kept = transaction.answer.kept();
                let all = sending.offset == kept.octets() && !kept.is_cut();
                let result = if all { OcpResult::ok() } else { OcpResult::partial() };
                // Both fail only if the transaction has ended, which its dialog is told of.
                let _ = self.connection.end_original(xid, result);
                continue;
            };
            if allowed == 0 {
                // It may be paused for long: what was read is read again then.
                sending.read = Bytes::new();
                self.paused.push_back(sending);
                continue;
            }
            let octets = match next {
                Next::AtHand(octets) => octets,
                Next::Stored(stored) if sending.read.is_empty() => {
                    self.read(sending, stored);
                    continue;
                }
                Next::Stored(stored) => {
                    sending.read.split_to(stored.len().min(sending.read.len())).into()
                }
            };
            sending.offset += octets.len();
            sending.turn = sending.turn.saturating_sub(octets.len());
            let all = sending.offset == transaction.answer.kept().octets();
            if let Err(misuse) = self.connection.send_original(xid, part, octets, true) {
                // Without these octets its answer would be awaited in vain.
                self.give_up(xid, misuse.into());
                self.poll_events();
                continue;
            }
            let leaves = sending.leaves == Some(sending.offset);
            // Its end follows its last octet: the server has nothing to do with it before.
            if sending.turn > 0 || all || leaves {
                self.sending.push_front(sending);
                if leaves {
                    self.poll_events();
                }
            } else {
                self.sending.push_back(Sending { turn: TURN, ..sending });
            }
        }
    }

    /// Whose turn it is.
    fn next_sending(&mut self) -> Option<Sending> {
        if !self.to_be_read.is_empty() && self.may_read() {
            self.sending.extend(self.to_be_read.pop_front());
        }
        self.sending.pop_front()
    }

    /// Reads the next octets of an event from a file, on a thread that may wait for the disk; if enough is read
    /// already, once there is less.
    fn read(&mut self, sending: Sending, stored: Stored) {
        if self.may_read() {
            self.reading.push((sending, stored.load(Vec::new())));
        } else {
            self.to_be_read.push_back(sending);
        }
    }

    fn may_read(&self) -> bool {
        let unsent = self.sending.iter().filter(|sending| !sending.read.is_empty()).count();
        self.reading.len() + unsent < MOST_READS
    }

    /// Takes a read that is done; whether there was one.
    pub(super) fn poll_reads(&mut self, cx: &mut Context<'_>) -> bool {
        let done =
            self.reading.iter_mut().enumerate().find_map(|(at, (_, read))| {
                match Pin::new(read).poll(cx) {
                    Poll::Ready(read) => Some((at, read.map_err(io::Error::other).flatten())),
                    Poll::Pending => None,
                }
            });
        let Some((at, read)) = done else { return false };
        let (sending, _) = self.reading.swap_remove(at);
        match read {
            // Its turn goes on.
            Ok(read) => self.sending.push_front(Sending { read: read.into(), ..sending }),
            Err(error) => {
                self.give_up(sending.xid, ClientError::Unreadable(error.to_string()));
                self.poll_events();
            }
        }
        true
    }
}
