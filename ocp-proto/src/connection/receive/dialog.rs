//! Dialogs (profile section 3).

use super::Received;
use crate::connection::{Connection, Dialog, Event};
use crate::ids::DialogId;
use crate::message::DialogMessage;
use crate::smtp::DialogFacts;
use crate::violation::{Rule, Useless, Violation};

impl Connection {
    pub(super) fn receive_dialog(&mut self, message: DialogMessage) -> Received {
        match message {
            DialogMessage::Start { dialog, facts } => self.receive_dialog_start(dialog, facts),
            DialogMessage::Update { dialog, update } => Ok(self
                .active_dialog(dialog)?
                .is_some()
                .then_some(Event::DialogUpdated { dialog, update })),
            DialogMessage::Outcome { dialog, xid, result, reply, queue_id } => {
                // Once for each event: what services commit on it, they commit once.
                let known = self.active_dialog(dialog)?;
                let first = known.is_some_and(|known| known.outcome(xid));
                let outcome = Event::DialogOutcome { dialog, xid, result, reply, queue_id };
                Ok(first.then_some(outcome))
            }
            DialogMessage::End { dialog, result } => {
                if !self.dialogs.active.contains_key(&dialog) {
                    self.bear(Useless::UnknownIdentifiers)?;
                }
                self.end_dialog_locally(dialog, result);
                Ok(None)
            }
            DialogMessage::Drain => {
                self.dialogs.draining = true;
                Ok(Some(Event::Draining))
            }
        }
    }

    fn receive_dialog_start(&mut self, dialog: DialogId, facts: Box<DialogFacts>) -> Received {
        if !self.dialogs.numbers.accept(dialog.number()) {
            return Err(Violation::dialog(dialog, Rule::DialogNotRising(dialog.number())));
        }
        if self.dialogs.active.len() >= self.config.dialogs {
            return Err(Violation::dialog(dialog, Rule::DialogLimit(self.config.dialogs)));
        }
        self.dialogs.active.insert(dialog, Dialog::default());
        Ok(Some(Event::DialogStarted { dialog, facts }))
    }

    /// An active dialog; one that has ended is passed over, one that never began is a violation.
    fn active_dialog(&mut self, dialog: DialogId) -> Result<Option<&mut Dialog>, Violation> {
        let active = self.dialogs.active.get_mut(&dialog);
        if active.is_none() && !self.dialogs.numbers.is_past(dialog.number()) {
            return Err(Violation::dialog(dialog, Rule::UnknownDialog(dialog.number())));
        }
        Ok(active)
    }
}
