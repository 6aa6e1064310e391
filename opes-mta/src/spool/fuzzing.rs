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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seeds() -> Vec<Vec<u8>> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/spool");
        let files = std::fs::read_dir(folder).unwrap();
        files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
    }

    #[test]
    fn the_corpus_holds() {
        let seeds = seeds();
        seeds.iter().for_each(|seed| super::spool(seed));
        let sound = |seed: &&Vec<u8>| parse::<Entry>(seed).is_ok() || parse::<Kept>(seed).is_ok();
        assert_eq!((seeds.len(), seeds.iter().filter(sound).count()), (11, 9));
    }

    proptest! {
        /// Files that are mostly right get further than random octets.
        #[test]
        fn files_that_are_nearly_right_hold(
            seed in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(),
            cut in 0_usize..9,
            put in proptest::collection::vec(any::<u8>(), 0..4),
        ) {
            let seeds = seeds();
            let seed = seed.get(&seeds);
            let start = at.index(seed.len());
            let end = seed.len().min(start + cut);
            super::spool(&[&seed[..start], &put, &seed[end..]].concat());
        }
    }
}
