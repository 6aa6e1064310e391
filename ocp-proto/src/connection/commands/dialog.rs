//! Dialogs (profile section 3).

use super::Misuse;
use crate::connection::{Connection, Dialog};
use crate::ids::{DialogId, Xid};
use crate::message::{DialogMessage, Message, OcpResult};
use crate::role::Role;
use crate::smtp::{DIALOG, DialogFacts, DialogUpdate, Reply};
use crate::wire::Atom;

impl Connection {
    /// Processor: starts a dialog (Dialog-Start).
    ///
    /// # Errors
    /// Without the dialogs feature; after Dialog-Drain; beyond the limit; in a Negotiation Phase.
    pub fn start_dialog(&mut self, facts: &DialogFacts) -> Result<DialogId, Misuse> {
        self.check_role(Role::Processor)?;
        self.check_quiet()?;
        self.check_offered()?;
        if self.dialogs.draining {
            return Err(Misuse::Draining);
        }
        if !self.dialogs.enabled {
            return Err(Misuse::NotNegotiated(DIALOG.to_owned()));
        }
        if self.dialogs.active.len() >= self.config.dialogs {
            return Err(Misuse::Limit(self.config.dialogs));
        }
        let number = self.dialogs.numbers.create().ok_or(Misuse::Exhausted)?;
        let dialog = DialogId::new(number).ok_or(Misuse::Exhausted)?;
        self.dialogs.active.insert(dialog, Dialog::default());
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
        self.check_dialog(dialog)?;
        let update = Box::new(update.clone());
        self.send(&Message::Dialog(DialogMessage::Update { dialog, update }));
        Ok(())
    }

    /// Processor: tells what became of an event (Dialog-Outcome), once for each.
    ///
    /// # Errors
    /// If there is no such dialog; unless the transaction was the dialog's and has ended, among the
    /// latest 32, and this is the first time.
    pub fn report_outcome(
        &mut self,
        dialog: DialogId,
        xid: Xid,
        result: OcpResult,
        reply: Option<&Reply>,
        queue_id: Option<Atom>,
    ) -> Result<(), Misuse> {
        self.check_role(Role::Processor)?;
        let known = self.dialogs.active.get_mut(&dialog).ok_or(Misuse::UnknownDialog(dialog))?;
        if !known.outcome(xid) {
            return Err(Misuse::UnknownTransaction(xid));
        }
        let reply = reply.map(|reply| reply.as_bytes().into());
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
        self.check_dialog(dialog)?;
        self.send(&Message::Dialog(DialogMessage::End { dialog, result: result.clone() }));
        self.end_dialog_locally(dialog, result);
        Ok(())
    }

    /// Server: asks for no new dialogs on this connection (Dialog-Drain). Without the dialogs
    /// feature there is nothing to say.
    ///
    /// # Errors
    /// For a processor; once the connection is over.
    pub fn drain(&mut self) -> Result<(), Misuse> {
        self.check_role(Role::Server)?;
        if self.dialogs.enabled {
            self.send(&Message::Dialog(DialogMessage::Drain));
        }
        Ok(())
    }
}
