//! The body of the fuzz target `spool`.

use crate::quarantine::Kept;
use crate::spool::Entry;
use crate::store::{Moment, Record, parse, to_text};

/// The octets as what is known of an entry: they are refused with a reason or read, and what was read is the same
/// after it was written, by the spool and by the quarantine.
///
/// # Panics
/// If that is not so.
pub fn spool(octets: &[u8]) {
    round_trip::<Entry>(octets);
    round_trip::<Kept>(octets);
    if let Ok(entry) = parse::<Entry>(octets) {
        let (due, last) = (entry.due(), Moment::LAST);
        assert!(due.is_none() || !entry.is_settled(), "due and settled");
        if due.is_some() {
            assert!(entry.due_recipients(last).next().is_some(), "due for nobody");
        }
        assert!(!entry.status(last).is_empty());
    }
}

fn round_trip<T: Record + PartialEq + std::fmt::Debug>(octets: &[u8]) {
    match parse::<T>(octets) {
        Err(reason) => assert!(!reason.is_empty()),
        Ok(record) => {
            let written = to_text(&record).expect("it can be written");
            assert_eq!(parse::<T>(&written), Ok(record), "written and read otherwise");
        }
    }
}
