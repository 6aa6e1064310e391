//! Operations of the corpus, and others.

use proptest::prelude::*;

use super::*;

#[test]
fn the_corpus_holds() {
    crate::fuzzing::run_corpus("operations", operations);
}

#[test]
fn a_whole_transaction_succeeds() {
    use Operation as O;
    let both = [Role::Server; 4].map(|role| (O::Deliver(role, 255), 0));
    let mut all = vec![(O::Start, 0), (O::Header(20), 0), (O::Body(90), 0), (O::EndOriginal, 0)];
    all.extend(both);
    all.extend([(O::StartAdapted, 0), (O::Insert(5), 0), (O::Preserved(0, 110), 0)]);
    all.extend([(O::EndAdapted, 0), (O::Finish, 0)]);
    let mut world = World::new(0).unwrap();
    for (operation, transaction) in &all {
        world.act(*operation, *transaction);
    }
    world.quiesce();
    let trace = &world.traces[0];
    assert_eq!(world.processor.transactions(), 0);
    assert_eq!(trace.rebuilt[&None].len(), 115);
    world.settle();
}

#[test]
fn a_whole_reply_succeeds_and_its_command_stays_where_it_is() {
    use Operation as O;
    let both = [Role::Server; 4].map(|role| (O::Deliver(role, 255), 0));
    let mut all = vec![(O::Start, 0), (O::Header(20), 0), (O::Body(90), 0), (O::EndOriginal, 0)];
    all.extend(both);
    all.extend([(O::StartAdapted, 0), (O::Preserved(10, 30), 0), (O::Insert(5), 0)]);
    all.extend([(O::Preserved(20, 90), 0), (O::EndAdapted, 0), (O::Finish, 0)]);
    let mut world = World::new(64).unwrap();
    for (operation, transaction) in &all {
        world.act(*operation, *transaction);
    }
    world.quiesce();
    assert_eq!(world.processor.transactions(), 0);
    assert_eq!(world.traces[0].rebuilt[&None].len(), 95);
    world.settle();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn both_ends_agree_whatever_they_do(
        flags in any::<u8>(),
        triples in proptest::collection::vec(any::<[u8; 3]>(), 0..120),
    ) {
        let operations: Vec<_> = triples.iter().map(|octets| Operation::read(*octets)).collect();
        run(flags, &operations);
    }

    /// Mostly in an order that gets far, with something else in between.
    #[test]
    fn what_gets_far_arrives_octet_for_octet(
        flags in any::<u8>(),
        others in proptest::collection::vec((any::<u8>(), any::<[u8; 3]>()), 0..12),
    ) {
        let sensible: &[u8] = &[0, 1, 2, 25, 26, 18, 2, 7, 14, 15, 25, 26, 6, 9, 10, 19, 2, 4, 27, 25, 10, 12, 20];
        let step = |which: &u8| Operation::read([*which, 0x3f, 0]);
        let mut operations: Vec<_> = sensible.iter().map(step).collect();
        for (at, octets) in others {
            let at = usize::from(at) % (operations.len() + 1);
            operations.insert(at, Operation::read(octets));
        }
        run(flags, &operations);
    }

    /// The same without enemies: nothing at all is refused by the other end.
    #[test]
    fn what_is_allowed_is_accepted(
        flags in any::<u8>(),
        triples in proptest::collection::vec((0u8..30, any::<u8>(), 0u8..2), 0..200),
    ) {
        let friendly = |triple: &(u8, u8, u8)| Operation::read([triple.0, triple.1, triple.2]);
        let operations: Vec<_> = triples
            .iter()
            .map(friendly)
            .filter(|(operation, _)| !matches!(operation, Operation::Hostile(..)))
            .collect();
        run(flags, &operations);
    }
}
