mod model;

use std::io::read_to_string;
use std::time::{Duration, UNIX_EPOCH};

use ocp_proto::smtp::Address;

use super::report::Report;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn address(path: &str) -> Address {
    Address::new(path.to_owned()).unwrap()
}

fn to(recipients: &[&str]) -> NewEntry {
    NewEntry::new(address("<s@x>"), recipients.iter().map(|path| address(path)).collect())
}

fn put(spool: &Spool, entry: NewEntry, text: &str) -> Id {
    let mut writer = spool.accept(entry, at(0)).unwrap();
    writer.write_pieces(&[text.to_owned().into()]).unwrap();
    writer.commit().unwrap().id
}

fn open(folder: &Path) -> Spool {
    let (spool, recovery) = Spool::open(folder, Limits::default()).unwrap();
    assert_eq!(recovery.broken, []);
    spool
}

fn deferred(seconds: u64) -> Settlement {
    Settlement::Deferred { until: at(seconds), reply: "450 later".to_owned() }
}

fn delivered() -> Settlement {
    Settlement::Delivered { reply: "250 ok".to_owned() }
}

fn failed() -> Settlement {
    Settlement::Failed { reply: "550 no".to_owned() }
}

fn report() -> Report {
    Report {
        sender: Address::null(),
        recipient: address("<s@x>"),
        before: "before:".into(),
        returned: 4,
        after: ":after".into(),
        delays: Vec::new(),
    }
}

fn text(spool: &Spool, id: &Id) -> String {
    read_to_string(spool.message(id).unwrap()).unwrap()
}

#[test]
fn a_message_waits_until_all_have_it() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let id = put(&spool, to(&["<a@b>", "<c@d>"]), "Hello");
    assert_eq!(spool.due(at(0), 9), std::slice::from_ref(&id));
    let mut claim = spool.claim(&id, at(0)).unwrap().unwrap();
    assert!(spool.claim(&id, at(0)).unwrap().is_none(), "it is claimed");
    assert_eq!((spool.due(at(0), 9), spool.next_due()), (Vec::new(), None));
    assert_eq!(read_to_string(claim.message().unwrap()).unwrap(), "Hello");
    claim.settle(&[(0, delivered()), (1, deferred(300)), (7, delivered())], None, at(1)).unwrap();
    assert!(!claim.is_done());
    drop(claim);
    assert_eq!(spool.next_due(), Some(at(300)));
    assert!(spool.claim(&id, at(299)).unwrap().is_none());

    drop(spool);
    let spool = open(folder.path());
    let mut claim = spool.claim(&id, at(300)).unwrap().unwrap();
    let due: Vec<usize> =
        claim.entry().due_recipients(at(300).into()).map(|(place, _)| place).collect();
    assert_eq!(due, [1]);
    assert_eq!(claim.entry().recipients[1].state.attempts(), 1);
    // What is settled stays so.
    claim.settle(&[(0, failed()), (1, deferred(900))], None, at(300)).unwrap();
    assert_eq!(claim.entry().recipients[0].state.reply(), Some("250 ok"));
    assert_eq!(claim.entry().recipients[1].state.attempts(), 2);
    claim.settle(&[(1, delivered())], None, at(301)).unwrap();
    assert!(claim.is_done());
    drop(claim);
    assert!(matches!(spool.entry(&id), Err(StoreError::Unknown { .. })));
    assert_eq!(std::fs::read_dir(folder.path().join("spool")).unwrap().count(), 0);
}

#[test]
fn how_many_entries_do_what_is_known_without_a_look_at_them() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let standing = |queued, active, held, oldest: Option<u64>| Standing {
        queued,
        active,
        held,
        oldest: oldest.map(|seconds| at(seconds).into()),
    };
    assert_eq!(spool.standing(), Standing::default());
    let first = put(&spool, to(&["<a@b>"]), "1");
    let delayed = NewEntry { not_before: Some(at(50)), ..to(&["<a@b>"]) };
    put(&spool, delayed, "2");
    let held = NewEntry { hold: Some("odd".to_owned()), ..to(&["<a@b>"]) };
    let held = put(&spool, held, "3");
    assert_eq!(spool.standing(), standing(2, 0, 1, Some(0)));
    let claim = spool.claim(&first, at(0)).unwrap().unwrap();
    assert_eq!(spool.standing(), standing(1, 1, 1, Some(0)), "its age counts until it is gone");
    drop(claim);
    assert_eq!(spool.standing(), standing(2, 0, 1, Some(0)));
    let mut claim = spool.claim(&first, at(0)).unwrap().unwrap();
    claim.settle(&[(0, delivered())], None, at(1)).unwrap();
    drop(claim);
    assert_eq!(spool.standing(), standing(1, 0, 1, Some(50)));
    spool.release(&held, at(9)).unwrap();
    assert_eq!(spool.standing(), standing(2, 0, 0, Some(9)));
    assert_eq!(spool.usage().0, Share { entries: 2, octets: 2 });
}

#[test]
fn one_process_at_a_time_owns_it() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let error = Spool::open(folder.path(), Limits::default()).unwrap_err().to_string();
    let expected = format!(
        "the spool {} is in use by process {}: one process at a time works on it",
        folder.path().display(),
        std::process::id()
    );
    assert_eq!(error, expected);
    drop(spool);
    open(folder.path());
    let error = Spool::beside(&folder.path().join("none")).unwrap_err().to_string();
    assert!(error.ends_with("none is no spool: it has no folder `spool` in it"), "{error}");
}

#[test]
fn a_full_spool_takes_no_more_until_something_goes() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { entries: 2, octets: 10 };
    let (spool, _) = Spool::open(folder.path(), limits).unwrap();
    let id = put(&spool, to(&["<a@b>"]), "123456");
    let mut second = spool.accept(to(&["<a@b>"]), at(0)).unwrap();
    let third = spool.accept(to(&["<a@b>"]), at(0)).unwrap_err().to_string();
    assert_eq!(third, "the spool is full: it holds 2 entries at the most");
    second.write(b"1234").unwrap();
    let more = second.write(b"5").unwrap_err().to_string();
    assert_eq!(more, "the spool is full: it holds 10 octets at the most");
    drop(second);
    // The report is not refused, or a full spool could not give up what fills it.
    let other = put(&spool, to(&["<a@b>"]), "1234");
    let mut claim = spool.claim(&id, at(0)).unwrap().unwrap();
    claim.settle(&[(0, failed())], Some(&report()), at(0)).unwrap();
    drop(claim);
    assert!(spool.accept(to(&["<a@b>"]), at(0)).is_err());
    spool.delete(&other).unwrap();
    spool.delete(&id.derived("report-1").unwrap()).unwrap();
    drop(spool);
    // What is there counts at the next start.
    let (spool, _) = Spool::open(folder.path(), limits).unwrap();
    put(&spool, to(&["<a@b>"]), "1234567890");
    let mut writer = spool.accept(to(&["<a@b>"]), at(0)).unwrap();
    assert!(writer.write(b"1").is_err());
}

#[test]
fn hold_delay_and_release() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let delayed = NewEntry { not_before: Some(at(60)), ..to(&["<a@b>"]) };
    let id = put(&spool, delayed, "x");
    assert_eq!(spool.next_due(), Some(at(60)));
    spool.flush(&id, at(1)).unwrap();
    assert_eq!(spool.next_due(), Some(at(60)), "a delay stays");
    spool.hold(&id, "why").unwrap();
    assert_eq!(spool.next_due(), None);
    assert_eq!(spool.entry(&id).unwrap().status(at(0).into()), "hold");
    spool.release(&id, at(30)).unwrap();
    assert_eq!(spool.due(at(30), 1), std::slice::from_ref(&id));
    assert_eq!(spool.entry(&id).unwrap().begins(), at(30).into(), "its age counts from then on");
    let error = spool.release(&id, at(30)).unwrap_err().to_string();
    assert_eq!(error, format!("{id} is neither on hold nor delayed"));
}

#[test]
fn the_owner_hears_what_others_do_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let owner = open(folder.path());
    let beside = Spool::beside(folder.path()).unwrap();
    let ids = [0, 1, 2].map(|_| put(&owner, to(&["<a@b>"]), "x"));
    for id in &ids {
        let mut claim = owner.claim(id, at(0)).unwrap().unwrap();
        assert!(matches!(beside.flush(id, at(5)), Err(StoreError::Busy { .. })));
        claim.settle(&[(0, deferred(600))], None, at(0)).unwrap();
    }
    beside.flush(&ids[0], at(5)).unwrap();
    beside.hold(&ids[1], "why").unwrap();
    beside.delete(&ids[2]).unwrap();
    assert_eq!(owner.next_due(), Some(at(600)));
    assert_eq!(owner.refresh().unwrap(), 3);
    assert_eq!(owner.due(at(600), 9), [ids[0].clone()]);
    assert_eq!(owner.next_due(), Some(at(5)));
    assert_eq!(owner.refresh().unwrap(), 0);
    let put_beside = put(&beside, to(&["<a@b>"]), "x");
    assert_eq!(owner.refresh().unwrap(), 1);
    assert_eq!(owner.due(at(0), 9), [put_beside]);
}

#[test]
fn what_was_changed_beside_is_seen_by_a_claim_before_anybody_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let owner = open(folder.path());
    let beside = Spool::beside(folder.path()).unwrap();
    let ids = [0, 1].map(|_| put(&owner, to(&["<a@b>"]), "x"));
    beside.hold(&ids[0], "why").unwrap();
    beside.delete(&ids[1]).unwrap();
    for id in &ids {
        assert!(owner.claim(id, at(0)).unwrap().is_none());
    }
    assert_eq!(owner.due(at(0), 9), []);
}

#[test]
fn somebody_at_work_beside_puts_an_attempt_off() {
    let folder = tempfile::tempdir().unwrap();
    let owner = open(folder.path());
    let id = put(&owner, to(&["<a@b>"]), "x");
    let folder: Folder<Entry> = Folder::existing(folder.path()).unwrap();
    let locked = folder.lock(&id).unwrap();
    assert!(owner.claim(&id, at(5)).unwrap().is_none());
    assert_eq!(owner.next_due(), Some(at(6)));
    drop(locked);
    assert!(owner.claim(&id, at(6)).unwrap().is_some());
}

#[test]
fn what_could_not_be_noted_is_due_later_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let id = put(&spool, to(&["<a@b>"]), "x");
    spool.claim(&id, at(0)).unwrap().unwrap().put_off(at(300));
    assert_eq!((spool.due(at(299), 9), spool.next_due()), (Vec::new(), Some(at(300))));
    assert!(spool.claim(&id, at(300)).unwrap().is_some());
}

/// A command beside it may be about an entry just when its owner starts.
#[test]
fn what_was_prepared_for_nothing_is_removed_once_nobody_is_about_it() {
    let folder = tempfile::tempdir().unwrap();
    let (path, now) = (folder.path(), at(0));
    let spool = open(path);
    let gone = Id::new(now.into());
    let prepare = |awaits: Awaits, name: &str| {
        let name = gone.derived(name).unwrap();
        spool.prepare(to(&["<a@b>"]), awaits, name, now.into()).unwrap().commit().unwrap().id
    };
    let follower = prepare(Awaits::Leader { of: gone.clone() }, "with-1");
    drop(spool);
    let beside: Folder<Entry> = Folder::existing(path).unwrap();
    let locked = beside.lock(&follower).unwrap();
    std::thread::scope(|scope| {
        let (opened, opens) = std::sync::mpsc::channel();
        scope.spawn(move || opened.send(Spool::open(path, Limits::default())).unwrap());
        let early = opens.recv_timeout(std::time::Duration::from_millis(100));
        assert!(early.is_err(), "it waits: {early:?}");
        drop(locked);
        let (spool, _) = opens.recv().unwrap().unwrap();
        assert!(matches!(spool.entry(&follower), Err(StoreError::Unknown { .. })));
    });
}

#[test]
fn a_report_and_what_it_says_are_there_together() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let id = put(&spool, to(&["<a@b>", "<c@d>"]), "Hello");
    let mut claim = spool.claim(&id, at(0)).unwrap().unwrap();
    let both = Report { delays: vec![1], ..report() };
    claim.settle(&[(0, failed()), (1, deferred(9))], Some(&both), at(0)).unwrap();
    let reported = spool.entry(&id).unwrap().recipients.into_iter().map(|r| r.delay_reported);
    assert_eq!(reported.collect::<Vec<_>>(), [false, true]);
    let first = id.derived("report-1").unwrap();
    let entry = spool.entry(&first).unwrap();
    assert_eq!((entry.awaits, entry.sender), (None, Address::null()));
    assert_eq!(text(&spool, &first), "before:Hell:after");
    claim.settle(&[(1, failed())], Some(&report()), at(9)).unwrap();
    drop(claim);
    let second = id.derived("report-2").unwrap();
    assert_eq!(spool.due(at(9), 9), [first, second]);
}

/// A process may end after each of the steps of [`Claim::settle`].
#[test]
fn a_report_that_was_interrupted_counts_if_what_it_is_about_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let mut ids = [0, 1, 2].map(|_| put(&spool, to(&["<a@b>"]), "Hello"));
    ids.sort();
    for id in &ids {
        let awaits = Awaits::Report { of: id.clone(), number: 1 };
        let name = id.derived("report-1").unwrap();
        spool.prepare(to(&["<s@x>"]), awaits, name, at(0).into()).unwrap().commit().unwrap();
    }
    // The second has counted it, the third is done and gone.
    let mut locked = spool.0.folder.lock(&ids[1]).unwrap();
    let entry = Entry { reports: 1, ..locked.record().clone() };
    locked.replace(&spool.0.folder, entry).unwrap();
    drop(locked);
    spool.delete(&ids[2]).unwrap();
    let [none, second, third] = ids.clone().map(|id| id.derived("report-1").unwrap());
    assert_eq!(spool.due(at(0), 9), ids[..2]);
    assert_eq!(spool.entry(&second).unwrap().status(at(0).into()), "unfinished");

    drop(spool);
    let spool = open(folder.path());
    let mut expected = vec![ids[0].clone(), ids[1].clone(), second, third];
    expected.sort();
    let mut due = spool.due(at(0), 9);
    due.sort();
    assert_eq!(due, expected);
    assert!(matches!(spool.entry(&none), Err(StoreError::Unknown { .. })));
    // It is made again under the same name.
    let mut claim = spool.claim(&ids[0], at(0)).unwrap().unwrap();
    claim.settle(&[(0, failed())], Some(&report()), at(0)).unwrap();
    assert_eq!(text(&spool, &none), "before:Hell:after");
}

#[test]
fn a_broken_entry_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let (bad, good) = (put(&spool, to(&["<a@b>"]), "x"), put(&spool, to(&["<a@b>"]), "x"));
    let file = folder.path().join("spool").join(format!("{bad}.json"));
    std::fs::write(&file, "{").unwrap();
    let error = spool.claim(&bad, at(0)).unwrap_err().to_string();
    assert!(error.starts_with(&file.display().to_string()), "{error}");
    assert_eq!(spool.due(at(0), 9), std::slice::from_ref(&good));
    drop(spool);
    let (spool, recovery) = Spool::open(folder.path(), Limits::default()).unwrap();
    assert_eq!((recovery.entries, recovery.broken.len()), (1, 1));
    assert_eq!(recovery.broken[0].file, file);
    assert_eq!(spool.due(at(0) + SECOND, 9), [good]);
}

#[test]
fn nobody_is_no_recipient() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    for entry in [to(&[]), to(&["<>"])] {
        let refused = spool.accept(entry, at(0)).unwrap().commit();
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path().join("spool")).unwrap().count(), 0);
}

fn batch(spool: &Spool, count: usize) -> Batch {
    let mut batch = spool.batch(at(0));
    for number in 0..count {
        batch.add(to(&["<a@b>"]), |writer| writer.write(number.to_string().as_bytes())).unwrap();
    }
    batch
}

#[test]
fn what_is_accepted_together_is_delivered_like_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    assert!(batch(&spool, 0).is_empty());
    assert_eq!(batch(&spool, 0).commit().unwrap(), []);
    let several = batch(&spool, 3);
    assert_eq!(spool.due(at(0), 9), [], "none of them is accepted yet");
    let ids = several.commit().unwrap();
    assert_eq!(ids[2], ids[0].derived("with-2").unwrap());
    assert_eq!(ids.iter().map(|id| text(&spool, id)).collect::<String>(), "012");
    let alone = batch(&spool, 1).commit().unwrap();
    let due: std::collections::BTreeSet<_> = spool.due(at(0), 9).into_iter().collect();
    assert_eq!(due, ids.into_iter().chain(alone).collect());
    assert!(spool.entries().unwrap().0.iter().all(|entry| entry.awaits.is_none()));
}

#[test]
fn what_is_not_accepted_together_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    drop(batch(&spool, 3));
    let mut broken_off = batch(&spool, 2);
    let nobody = NewEntry { recipients: Vec::new(), ..to(&["<a@b>"]) };
    let refused = broken_off.add(nobody, |writer| writer.write(b"x")).unwrap_err();
    assert!(refused.to_string().contains("it has no recipients"), "{refused}");
    drop(broken_off);
    assert_eq!(spool.entries().unwrap().0, []);
    assert_eq!(std::fs::read_dir(folder.path().join("spool")).unwrap().count(), 0);
}

#[test]
fn who_leads_a_batch_stays_until_all_of_it_counts() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path());
    let leader = {
        let mut writer = spool.accept(to(&["<a@b>"]), at(0)).unwrap();
        writer.awaits(Awaits::Followers);
        writer.commit().unwrap().id
    };
    let follower = |of: &Id, name: &str| {
        let awaits = Awaits::Leader { of: of.clone() };
        let writer = spool.prepare(to(&["<c@d>"]), awaits, of.derived(name).unwrap(), at(0).into());
        writer.unwrap().commit().unwrap().id
    };
    let (counts, gone) = (follower(&leader, "with-1"), Id::new(at(0).into()));
    let lost = follower(&gone, "with-1");
    let refused = spool.delete(&leader).unwrap_err();
    assert!(refused.to_string().contains("is half accepted"), "{refused}");
    assert_eq!(spool.due(at(0), 9), []);

    drop(spool);
    let spool = open(folder.path());
    assert!(matches!(spool.entry(&lost), Err(StoreError::Unknown { .. })));
    let due: std::collections::BTreeSet<_> = spool.due(at(0), 9).into_iter().collect();
    assert_eq!(due, [leader, counts].into());
}
