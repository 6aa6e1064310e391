//! What a service prepares with an answer, and keeps only if the message goes on with it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Something that a service has prepared for one message, such as a file that its answer links to.
pub trait Prepared: Send + Sync + 'static {
    /// What has become of the message; said once. It is said where connections are served: what takes time belongs
    /// elsewhere.
    fn settle(&self, settlement: Settlement);
}

/// What has become of a message, as far as it is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It has gone on, with what the service made of it.
    Taken,
    /// It has not, or without that: a later service has refused it, the answer did not count, the next hop or the
    /// MTA has refused it.
    Void,
    /// Nobody knows: the answer took effect, and the MTA has not said what became of it.
    Unknown,
}

/// A promise to tell the service what becomes of its message. Whoever has the last copy and drops it says
/// [`Settlement::Void`].
///
/// The server says [`Settlement::Taken`] or [`Settlement::Void`] once the processor has told the outcome of the event
/// (Dialog-Outcome), and [`Settlement::Unknown`] if it does not until the dialog ends. A process that is killed says nothing: what is
/// prepared has to end by itself.
#[derive(Clone)]
pub struct Commitment(Arc<Unsettled>);

struct Unsettled {
    prepared: Box<dyn Prepared>,
    is_settled: AtomicBool,
}

impl Commitment {
    /// A promise about what was prepared.
    pub fn new(prepared: impl Prepared) -> Self {
        Self(Arc::new(Unsettled {
            prepared: Box::new(prepared),
            is_settled: AtomicBool::new(false),
        }))
    }

    /// Says what has become of the message. The first word counts, of all copies.
    pub fn settle(&self, settlement: Settlement) {
        self.0.settle(settlement);
    }
}

impl Unsettled {
    fn settle(&self, settlement: Settlement) {
        if !self.is_settled.swap(true, Ordering::Relaxed) {
            self.prepared.settle(settlement);
        }
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.settle(Settlement::Void);
    }
}

impl PartialEq for Commitment {
    /// Whether they are copies of one.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Commitment {}

impl fmt::Debug for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Commitment")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Said(Arc<Mutex<Vec<Settlement>>>);

    impl Prepared for Said {
        fn settle(&self, settlement: Settlement) {
            self.0.lock().unwrap().push(settlement);
        }
    }

    #[test]
    fn the_service_is_told_once_by_the_first_word_or_the_last_copy() {
        let said = Arc::<Mutex<Vec<Settlement>>>::default();
        let commitment = || Commitment::new(Said(Arc::clone(&said)));
        let one = commitment();
        let copy = one.clone();
        assert!(one == copy && one != commitment());
        assert_eq!(said.lock().unwrap().split_off(0), [Settlement::Void]);
        drop(one);
        assert!(said.lock().unwrap().is_empty());
        copy.settle(Settlement::Taken);
        copy.settle(Settlement::Void);
        drop(copy);
        assert_eq!(said.lock().unwrap().split_off(0), [Settlement::Taken]);
    }
}
