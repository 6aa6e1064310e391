//! Mail that waits in a spool, on its way to a next hop over real sockets.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ocp_proto::smtp::Address;
use opes_mta::delivery::Delivery;
use opes_mta::relay::NextHop;
use opes_mta::spool::{Limits, NewEntry, Schedule, Spool, State};
use tests::smtp::{Delivered, NextHop as Hop};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const MESSAGE: &[u8] = b"Subject: x\r\n\r\n.dot\r\nlast\r\n";
const PATIENCE: Duration = Duration::from_secs(30);

fn address(path: &str) -> Address {
    Address::new(format!("<{path}>")).unwrap()
}

fn spool(folder: &Path) -> Spool {
    Spool::open(folder, Limits::default()).unwrap().0
}

fn put(spool: &Spool, entry: NewEntry) {
    let mut writer = spool.accept(entry, SystemTime::now()).unwrap();
    writer.write(MESSAGE).unwrap();
    writer.commit().unwrap();
}

/// Delivers until `done`.
async fn deliver(spool: &Spool, address: &str, done: impl Fn(&Spool) -> bool) {
    let next_hop = Arc::new(NextHop::new(address.parse().unwrap(), "mta.example"));
    let delivery = Delivery::new(spool.clone(), next_hop, &[], Schedule::default());
    let stop = CancellationToken::new();
    let running = tokio::spawn(delivery.run(stop.clone()));
    let waited = timeout(PATIENCE, async {
        while !done(spool) {
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("it comes to an end");
    stop.cancel();
    running.await.unwrap();
}

fn is_empty(spool: &Spool) -> bool {
    spool.entries().unwrap().0.is_empty()
}

fn arrived(hop: &Hop, count: usize) -> Vec<Delivered> {
    let mut mails = hop.wait_for(count);
    mails.sort_by(|one, other| one.sender.cmp(&other.sender));
    assert!(hop.is_empty());
    mails
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_is_delivered_once_to_all() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, hop) = (spool(folder.path()), Hop::start());
    for sender in ["a@a.example", "b@a.example", "c@a.example"] {
        let recipients = vec![address("one@b.example"), address("two@b.example")];
        put(&spool, NewEntry::new(address(sender), recipients));
    }
    let held = NewEntry {
        hold: Some("for review".into()),
        ..NewEntry::new(address("held@a.example"), vec![address("one@b.example")])
    };
    put(&spool, held);
    let only_held = |spool: &Spool| spool.entries().unwrap().0.len() == 1;
    deliver(&spool, &format!("127.0.0.1:{}", hop.port), only_held).await;
    let mails = arrived(&hop, 3);
    for (mail, sender) in mails.iter().zip(["a@a.example", "b@a.example", "c@a.example"]) {
        assert_eq!((&mail.sender[..], &mail.octets[..]), (sender, MESSAGE));
        assert_eq!(mail.recipients, ["one@b.example", "two@b.example"]);
    }
    let (held, broken) = spool.entries().unwrap();
    assert_eq!((held[0].sender.to_string(), broken.len()), ("<held@a.example>".into(), 0));
}

/// The report is mail like any other, and goes the same way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_can_not_be_reached_is_reported_to_the_sender() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, hop) = (spool(folder.path()), Hop::start());
    // The next hop does not offer that.
    let odd = address("odd@b.example").with_parameters(vec!["X-NEW=1".into()]).unwrap();
    put(&spool, NewEntry::new(address("a@a.example"), vec![odd.clone(), address("one@b.example")]));
    // Nobody is told of a notification (RFC 3464 section 2).
    put(&spool, NewEntry::new(Address::null(), vec![odd]));
    deliver(&spool, &format!("127.0.0.1:{}", hop.port), is_empty).await;
    let mails = arrived(&hop, 2);
    assert_eq!(
        (&mails[0].sender[..], &mails[0].recipients[..]),
        ("", &["a@a.example".to_owned()][..])
    );
    let report = String::from_utf8_lossy(&mails[0].octets).into_owned();
    assert!(
        report.contains("Final-Recipient: rfc822; odd@b.example\r\nAction: failed\r\n"),
        "{report}"
    );
    assert!(report.contains("Status: 5.3.3\r\n") && !report.contains("one@b.example"), "{report}");
    assert_eq!(
        (&mails[1].sender[..], &mails[1].recipients[..]),
        ("a@a.example", &["one@b.example".to_owned()][..])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_next_hop_mail_waits_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let spool = spool(folder.path());
    put(&spool, NewEntry::new(address("a@a.example"), vec![address("one@b.example")]));
    let nowhere = format!("unix:{}", folder.path().join("none").display());
    let state = |spool: &Spool| spool.entries().unwrap().0[0].recipients[0].state.clone();
    deliver(&spool, &nowhere, |spool| state(spool) != State::Queued).await;
    let State::Deferred { until, attempts, reply } = state(&spool) else { panic!() };
    assert_eq!(attempts, 1);
    assert!(reply.contains(&nowhere) && reply.contains("No such file"), "{reply}");
    let wait = SystemTime::from(until).duration_since(SystemTime::now()).unwrap();
    assert!((280..=331).contains(&wait.as_secs()), "{wait:?}");
}
