//! What services keep only if an event goes on, from the answer until the processor tells its outcome.

use std::collections::VecDeque;

use ocp_proto::{DialogId, OcpResult, Xid};
use services::{Commitment, Settlement};

/// The commitments of a connection's answers whose outcome is not known. Where nobody says what has become of them, that
/// is so for good: at the dialog's end, and at the connection's.
#[derive(Debug, Default)]
pub(super) struct Unsettled(Option<Box<Events>>);

/// Most connections have none, and those should take little room.
type Events = VecDeque<(DialogId, Xid, Vec<Commitment>)>;

/// The most events. A dialog has one such event open at a time and an outcome behind it: more are those of a processor that
/// tells none.
const MOST: usize = 10_000;

impl Unsettled {
    /// The answer to an event has been sent.
    pub(super) fn add(&mut self, dialog: DialogId, xid: Xid, commitments: Vec<Commitment>) {
        if commitments.is_empty() {
            return;
        }
        let events = self.0.get_or_insert_default();
        if events.len() >= MOST
            && let Some((_, _, oldest)) = events.pop_front()
        {
            say(&oldest, Settlement::Unknown);
        }
        events.push_back((dialog, xid, commitments));
    }

    /// The processor says what has become of it.
    pub(super) fn settle(&mut self, dialog: DialogId, xid: Xid, result: &OcpResult) {
        let settlement = match result.is_success() {
            true => Settlement::Taken,
            false => Settlement::Void,
        };
        self.end(settlement, |of, event| of == dialog && event == xid);
    }

    /// Nobody will say it any more.
    pub(super) fn end_dialog(&mut self, dialog: DialogId) {
        self.end(Settlement::Unknown, |of, _| of == dialog);
    }

    fn end(&mut self, settlement: Settlement, is_meant: impl Fn(DialogId, Xid) -> bool) {
        let Some(events) = &mut self.0 else { return };
        events.retain(|(dialog, xid, commitments)| {
            let is_meant = is_meant(*dialog, *xid);
            if is_meant {
                say(commitments, settlement);
            }
            !is_meant
        });
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.end(Settlement::Unknown, |_, _| true);
    }
}

fn say(commitments: &[Commitment], settlement: Settlement) {
    commitments.iter().for_each(|commitment| commitment.settle(settlement));
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use services::Prepared;

    use super::*;

    struct Said(u32, Arc<Mutex<Vec<(u32, Settlement)>>>);

    impl Prepared for Said {
        fn settle(&self, settlement: Settlement) {
            self.1.lock().unwrap().push((self.0, settlement));
        }
    }

    #[test]
    fn each_event_is_settled_by_its_own_outcome_or_the_end() {
        let said = Arc::<Mutex<Vec<(u32, Settlement)>>>::default();
        let new = || said.lock().unwrap().split_off(0);
        let (dialog, xid) = (|n| DialogId::new(n).unwrap(), |n| Xid::new(n).unwrap());
        let mut unsettled = Unsettled::default();
        for (of, event) in [(1, 1), (1, 2), (2, 3), (2, 4), (3, 5)] {
            let commitment = Commitment::new(Said(event, Arc::clone(&said)));
            unsettled.add(dialog(of), xid(event), vec![commitment]);
        }
        unsettled.settle(dialog(1), xid(1), &OcpResult::ok());
        unsettled.settle(dialog(2), xid(3), &OcpResult::failure("refused"));
        unsettled.settle(dialog(2), xid(5), &OcpResult::ok());
        assert_eq!(new(), [(1, Settlement::Taken), (3, Settlement::Void)]);
        unsettled.end_dialog(dialog(1));
        assert_eq!(new(), [(2, Settlement::Unknown)]);
        drop(unsettled);
        assert_eq!(new(), [(4, Settlement::Unknown), (5, Settlement::Unknown)]);
    }
}
