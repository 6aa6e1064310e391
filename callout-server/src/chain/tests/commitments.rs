//! What services keep only if the message goes on.

use std::sync::Mutex;

use services::{Prepared, Settlement};

use super::*;

/// What services hear, each under its own name.
type Heard = Arc<Mutex<Vec<(&'static str, Settlement)>>>;

struct File(&'static str, Heard);

impl Prepared for File {
    fn settle(&self, settlement: Settlement) {
        self.1.lock().unwrap().push((self.0, settlement));
    }
}

/// A service that has prepared something under this name.
fn prepares(
    name: &'static str,
    heard: &Heard,
    outcome: impl Fn() -> Outcome + Send + Sync + 'static,
) -> (Arc<dyn Service>, FailurePolicy) {
    let heard = Arc::clone(heard);
    scripted(
        move |_| Ok(outcome().with_commitment(Commitment::new(File(name, Arc::clone(&heard))))),
    )
}

fn refused() -> Outcome {
    Outcome::changed(Change::Reply(Reply::new(550, "5.7.1", "no").unwrap()), "spam")
}

fn discarded() -> Outcome {
    clean().with_effect(SideEffect::Discard("x".into()))
}

#[tokio::test]
async fn what_is_prepared_for_an_answer_goes_with_it() {
    let heard = Heard::default();
    let event = || Event {
        granted: Arc::new([EffectName::Discard]),
        ..to(&["<a@x.example>", "<b@y.example>"], true, true)
    };
    let now = || heard.lock().unwrap().split_off(0);
    let answer = chain(vec![prepares("one", &heard, clean), prepares("two", &heard, clean)]);
    let answer = answer.run(event()).await;
    assert_eq!((answer.commitments.len(), now()), (2, Vec::new()));
    answer.commitments[1].settle(Settlement::Taken);
    drop(answer);
    assert_eq!(now(), [("two", Settlement::Taken), ("one", Settlement::Void)]);
    // Nobody gets it, or the answer does not count.
    let void = || clean().with_effect(SideEffect::Quarantine("x".into()));
    for last in [refused as fn() -> Outcome, discarded, void] {
        let answer = chain(vec![prepares("one", &heard, clean), prepares("two", &heard, last)]);
        let answer = answer.run(event()).await;
        let failed = words(&answer) == [&b"clean"[..], b"failed"];
        let nobody = answer.branches[0].reaches_nobody();
        assert!(failed || nobody && answer.commitments.is_empty());
        assert!(now().contains(&("two", Settlement::Void)));
    }
}
