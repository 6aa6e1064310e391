//! What steers the flows: pauses, early ends, and interest in preserved data (RFC 4037 sections 7, 8
//! and 11.11 to 11.17).

use super::Misuse;
use crate::connection::Connection;
use crate::ids::Xid;
use crate::role::Role;
use crate::violation::Rule;

impl Connection {
    /// Asks the peer to pause its data at an offset of its message (DWP). It may send more all the
    /// same: data that comes is accepted.
    ///
    /// # Errors
    /// If there is no such transaction, or the peer's message has ended.
    pub fn want_pause(&mut self, xid: Xid, offset: u32) -> Result<(), Misuse> {
        let peer = self.role.peer();
        let transaction = self.transaction(xid)?;
        if transaction.has_ended(peer) {
            return Err(Rule::AfterEnd("DWP").into());
        }
        transaction.pause_wanted = true;
        self.write_for(xid, "DWP", |out| {
            out.number(offset);
        });
        Ok(())
    }

    /// Asks the peer for more data (DWM), at least `size` octets if it can: a pause is over.
    ///
    /// # Errors
    /// If there is no such transaction, or the peer's message has ended.
    pub fn want_more(&mut self, xid: Xid, size: Option<u32>) -> Result<(), Misuse> {
        let peer = self.role.peer();
        let step = self.step(xid);
        let transaction = self.transaction(xid)?;
        if transaction.has_ended(peer) {
            return Err(Rule::AfterEnd("DWM").into());
        }
        transaction.pause_wanted = false;
        transaction.peer_paused = false;
        step.note(transaction);
        self.write_for(xid, "DWM", |out| {
            if let Some(size) = size {
                out.named_number("Size-request", size);
            }
        });
        Ok(())
    }

    /// Server: asks for no more than `size` octets of the original message (DWSR).
    ///
    /// # Errors
    /// If there is no such transaction, or the original has ended.
    pub fn want_stop_receiving(&mut self, xid: Xid, size: u32) -> Result<(), Misuse> {
        self.check_role(Role::Server)?;
        let transaction = self.transaction(xid)?;
        if transaction.original.has_ended() {
            return Err(Rule::AfterEnd("DWSR").into());
        }
        transaction.stop.receiving = Some(size);
        self.write_for(xid, "DWSR", |out| {
            out.number(size);
        });
        Ok(())
    }

    /// Server: asks to leave the rest of the message to the processor (DWSS). The answer goes on as
    /// usual until `Event::StopSending` comes, which may be never.
    ///
    /// # Errors
    /// If there is no such transaction; if it was asked for before; with several adapted messages, or a
    /// reply; once the adapted message has ended, or the original has with 206.
    pub fn want_stop_sending(&mut self, xid: Xid) -> Result<(), Misuse> {
        self.check_role(Role::Server)?;
        let transaction = self.transaction(xid)?;
        let possible = !transaction.stop.sending
            && !transaction.is_reply()
            && !transaction.adapted.is_several()
            && !transaction.adapted.has_ended()
            && !transaction.original.is_partial();
        if !possible {
            return Err(Rule::NoEarlyEnd("DWSS").into());
        }
        transaction.stop.sending = true;
        self.write_for(xid, "DWSS", |_| {});
        Ok(())
    }

    /// Server: gets out of the loop (RFC 4037 section 8.3): asks to leave the rest to the processor,
    /// and for no more than `size` octets of the original (DWSS, DWSR).
    ///
    /// # Errors
    /// See [`Connection::want_stop_sending`] and [`Connection::want_stop_receiving`].
    pub fn want_to_leave(&mut self, xid: Xid, size: u32) -> Result<(), Misuse> {
        self.check_role(Role::Server)?;
        if self.transaction(xid)?.original.has_ended() {
            return Err(Rule::AfterEnd("DWSR").into());
        }
        self.want_stop_sending(xid)?;
        self.want_stop_receiving(xid, size)
    }

    /// Server: declares that DUY will name no octets of the original but these (DPI); `size` 0 for
    /// none at all.
    ///
    /// # Errors
    /// If there is no such transaction; if it grows.
    pub fn want_preserved(&mut self, xid: Xid, offset: u32, size: u32) -> Result<(), Misuse> {
        self.check_role(Role::Server)?;
        self.transaction(xid)?.preservation.narrow(offset, size)?;
        self.write_for(xid, "DPI", |out| {
            out.number(offset);
            out.number(size);
        });
        Ok(())
    }

    /// DPM, one for each DWP.
    pub(in crate::connection) fn send_paused(&mut self, xid: Xid, owed: u32) {
        for _ in 0..owed {
            self.write_for(xid, "DPM", |_| {});
        }
    }
}
