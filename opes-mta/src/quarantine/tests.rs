use std::collections::BTreeMap;
use std::io::read_to_string;
use std::time::{Duration, UNIX_EPOCH};

use ocp_proto::smtp::{Address, Verdict};

use super::*;
use crate::front::mbox::{Messages, sender_of};
use crate::spool::{self, NewRecipient};

const TEXT: &str = "Subject: x\r\n\r\nFrom here\r\n>From there";

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn arrival() -> Arrival {
    let address = Address::new("<c@d>").unwrap();
    let verdict = Verdict {
        service: "ocp://service/spam-score".into(),
        verdict: "spam".into(),
        score: Some("7.4/5.0".into()),
        reason: None,
        milliseconds: None,
    };
    Arrival {
        reason: "looks like spam".to_owned(),
        expires: Some(at(100)),
        sender: Address::new("<a@b>").unwrap(),
        recipients: vec![NewRecipient { address, next_hop: Some("relay:25".to_owned()) }],
        client: BTreeMap::from([("client-address".to_owned(), "192.0.2.1".to_owned())]),
        verdicts: vec![verdict],
        stopped_by: vec!["ocp://service/spam-score".to_owned()],
        trace: None,
        queue_id: Some("4bXy".to_owned()),
    }
}

struct Stores {
    folder: tempfile::TempDir,
    quarantine: Quarantine,
    spool: Spool,
}

impl Stores {
    fn new(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (quarantine, _) = Quarantine::open(&folder.path().join("q"), limits).unwrap();
        let (spool, _) = Spool::open(&folder.path().join("s"), Limits::default()).unwrap();
        Self { folder, quarantine, spool }
    }

    fn keep(&self) -> Id {
        let mut writer = self.quarantine.keep(arrival(), at(0)).unwrap();
        writer.write(TEXT.as_bytes()).unwrap();
        writer.commit().unwrap().id
    }

    /// As after the process ended and began again.
    fn again(self) -> Self {
        let Self { folder, quarantine, spool } = self;
        drop((quarantine, spool));
        let (quarantine, recovery) =
            Quarantine::open(&folder.path().join("q"), Limits::default()).unwrap();
        assert_eq!(recovery.broken, []);
        let (spool, _) = Spool::open(&folder.path().join("s"), Limits::default()).unwrap();
        Self { folder, quarantine, spool }
    }

    fn set_state(&self, id: &Id, state: State) {
        let mut locked = self.quarantine.0.folder.lock(id).unwrap();
        let kept = Kept { state, ..locked.record().clone() };
        locked.replace(&self.quarantine.0.folder, kept).unwrap();
    }

    /// Takes all that is due out of the spool.
    fn deliver(&self) -> usize {
        let due = self.spool.due(at(1_000), 9);
        for id in &due {
            let mut claim = self.spool.claim(id, at(1_000)).unwrap().unwrap();
            assert_eq!(read_to_string(claim.message().unwrap()).unwrap(), TEXT);
            let delivered = spool::Settlement::Delivered { reply: "250 ok".to_owned() };
            claim.settle(&[(0, delivered)], None, at(1_000)).unwrap();
        }
        due.len()
    }
}

#[test]
fn what_is_released_goes_to_the_spool_past_who_had_stopped_it() {
    let stores = Stores::new(Limits::default());
    let id = stores.keep();
    let kept = stores.quarantine.entry(&id).unwrap();
    assert_eq!(kept.verdicts[0].score.as_deref(), Some("7.4/5.0"));
    let name = stores.quarantine.release(&id, &stores.spool, at(1)).unwrap();
    let entry = stores.spool.entry(&name).unwrap();
    assert_eq!(entry.skips, ["ocp://service/spam-score"]);
    assert_eq!((entry.sender, entry.awaits), (kept.sender, None));
    assert_eq!(entry.recipients[0].address, kept.recipients[0].address);
    assert_eq!(entry.recipients[0].next_hop.as_deref(), Some("relay:25"));
    assert_eq!(entry.queue_id.as_deref(), Some("4bXy"));
    // Neither before nor after it was delivered it is released again.
    for delivered in [1, 0] {
        let error = stores.quarantine.release(&id, &stores.spool, at(2)).unwrap_err().to_string();
        assert_eq!(error, format!("{id} was released at {}", Moment::from(at(1))));
        assert_eq!(stores.deliver(), delivered);
    }
}

/// A process may end after each step of [`Quarantine::release`]; somebody asks again, or it starts again.
#[test]
fn a_release_that_was_interrupted_is_made_once() {
    for step in 0..4 {
        for asked_again in [false, true] {
            let stores = Stores::new(Limits::default());
            let id = stores.keep();
            let name = release_name(&id).unwrap();
            let releasing = State::Releasing { at: at(1).into() };
            if step >= 1 {
                let locked = stores.quarantine.0.folder.lock(&id).unwrap();
                prepare(&stores.spool, &locked, &name, at(1)).unwrap();
            }
            if step >= 2 {
                stores.set_state(&id, releasing);
            }
            let mut delivered = 0;
            if step >= 3 {
                stores.spool.confirm(&name).unwrap();
                delivered = stores.deliver();
            }
            assert_eq!(stores.deliver(), 0, "it is not to be delivered by halves");
            let stores = stores.again();
            if asked_again {
                stores.quarantine.release(&id, &stores.spool, at(2)).unwrap();
                assert_eq!(delivered + stores.deliver(), 1, "step {step}");
                assert!(stores.quarantine.release(&id, &stores.spool, at(3)).is_err());
            } else {
                let finished = stores.quarantine.finish(&stores.spool, at(2)).unwrap();
                assert_eq!(finished, usize::from(step >= 2), "step {step}");
                assert_eq!(delivered + stores.deliver(), usize::from(step >= 2), "step {step}");
                let is_kept = stores.quarantine.entry(&id).unwrap().state == State::Kept;
                assert_eq!(is_kept, step < 2);
                // What was not released may be still, and what was may not be twice.
                let _ = stores.quarantine.release(&id, &stores.spool, at(3));
                assert_eq!(stores.deliver(), usize::from(step < 2), "step {step}");
            }
        }
    }
}

/// Somebody may hold the entry of the spool just then.
#[test]
fn a_release_that_did_not_come_about_is_withdrawn_once_nobody_is_about_it() {
    let stores = Stores::new(Limits::default());
    let id = stores.keep();
    let name = release_name(&id).unwrap();
    let locked = stores.quarantine.0.folder.lock(&id).unwrap();
    prepare(&stores.spool, &locked, &name, at(1)).unwrap();
    drop(locked);
    let entries: Folder<spool::Entry> = Folder::existing(&stores.folder.path().join("s")).unwrap();
    let busy = entries.lock(&name).unwrap();
    std::thread::scope(|scope| {
        let (finished, finishes) = std::sync::mpsc::channel();
        let stores = &stores;
        scope.spawn(move || finished.send(stores.quarantine.finish(&stores.spool, at(2))).unwrap());
        let early = finishes.recv_timeout(Duration::from_millis(100));
        assert!(early.is_err(), "it waits: {early:?}");
        drop(busy);
        assert_eq!(finishes.recv().unwrap().unwrap(), 0);
    });
    assert!(matches!(stores.spool.entry(&name), Err(StoreError::Unknown { .. })));
}

#[test]
fn a_release_under_way_keeps_its_entry() {
    let stores = Stores::new(Limits::default());
    let id = stores.keep();
    stores.set_state(&id, State::Releasing { at: at(1).into() });
    let error = stores.quarantine.delete(&id).unwrap_err().to_string();
    assert_eq!(error, format!("{id} is half released: release it again first"));
    assert_eq!(stores.quarantine.expire(at(1_000)).unwrap(), 0);
    stores.set_state(&id, State::Kept);
    // Somebody else is about it.
    let locked = stores.quarantine.0.folder.lock(&id).unwrap();
    assert_eq!(stores.quarantine.expire(at(1_000)).unwrap(), 0);
    let busy = stores.quarantine.release(&id, &stores.spool, at(2));
    assert!(matches!(busy, Err(StoreError::Busy { .. })), "{busy:?}");
    drop(locked);
    assert_eq!(stores.quarantine.expire(at(99)).unwrap(), 0);
    assert_eq!(stores.quarantine.expire(at(100)).unwrap(), 1);
    assert!(matches!(stores.quarantine.entry(&id), Err(StoreError::Unknown { .. })));
}

#[test]
fn a_full_quarantine_takes_no_more_until_something_goes() {
    let stores = Stores::new(Limits { entries: 1, octets: 40 });
    let id = stores.keep();
    let error = stores.quarantine.keep(arrival(), at(0)).unwrap_err().to_string();
    assert_eq!(error, "the quarantine is full: it holds 1 entries at the most");
    // Somebody removes it beside the owner, which notices when it looks for what is over.
    let beside = Quarantine::beside(&stores.folder.path().join("q")).unwrap();
    beside.delete(&id).unwrap();
    assert_eq!(stores.quarantine.expire(at(1)).unwrap(), 0);
    let mut writer = stores.quarantine.keep(arrival(), at(0)).unwrap();
    let error = writer.write(&[b'x'; 41]).unwrap_err().to_string();
    assert_eq!(error, "the quarantine is full: it holds 40 octets at the most");
    drop(writer);
    assert!(matches!(
        Quarantine::open(&stores.folder.path().join("q"), Limits::default()),
        Err(StoreError::InUse { kind: "quarantine", .. })
    ));
    stores.keep();
}

#[test]
fn a_mailbox_holds_each_message_whole() {
    let stores = Stores::new(Limits::default());
    let ids = [stores.keep(), stores.keep()];
    let mut mailbox = Vec::new();
    for id in &ids {
        let kept = stores.quarantine.entry(id).unwrap();
        let message = stores.quarantine.message(id).unwrap();
        mailbox_entry(&kept, &mut std::io::BufReader::new(message), &mut mailbox).unwrap();
    }
    let messages: Vec<_> = Messages::new(&mailbox[..]).collect::<Result<_, _>>().unwrap();
    assert_eq!(messages.len(), 2);
    for message in messages {
        assert_eq!(sender_of(&message.from_line.unwrap()).unwrap().path(), "<a@b>");
        let quoted = "Subject: x\r\n\r\n>From here\r\n>>From there\n";
        assert_eq!(message.octets, quoted);
    }
    assert!(mailbox.starts_with(b"From a@b Fri Jan 15 08:00:00 2027\n"));
}
