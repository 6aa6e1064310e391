//! A process that works on a spool and a quarantine is killed at any moment, again and again: what it said it has is
//! there once and whole, and what it said is done does not come back.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use ocp_proto::smtp::Address;
use opes_mta::octets::Octets;
use opes_mta::quarantine::{Arrival, Quarantine};
use opes_mta::spool::report::{Event, Reporter};
use opes_mta::spool::{Entry, Id, Limits, NewEntry, NewRecipient, Recipient, Settlement, Spool};

/// Where the process that is killed works.
const FOLDER: &str = "OPES_MTA_KILLED_FOLDER";
/// Threads that work at the same time.
const THREADS: u64 = 3;
/// Lines that it may say before it is killed, at most.
const LINES: usize = 60;

fn rounds() -> usize {
    if std::env::var_os("OPES_TESTS_FULL").is_some() { 60 } else { 12 }
}

fn stores(folder: &Path) -> (Quarantine, Spool) {
    let (quarantine, found) = Quarantine::open(&folder.join("q"), Limits::default()).unwrap();
    assert_eq!(found.broken, []);
    let (spool, found) = Spool::open(&folder.join("s"), Limits::default()).unwrap();
    assert_eq!(found.broken, []);
    quarantine.finish(&spool, SystemTime::now()).unwrap();
    (quarantine, spool)
}

fn address(path: &'static str) -> Address {
    Address::new(path.as_bytes()).unwrap()
}

/// A message that says how long it is: one that was cut or mixed up is found out.
fn message(random: &mut fastrand::Rng) -> Vec<Octets> {
    let lines = random.usize(0..400);
    let line = Bytes::from(format!("{:060}\r\n", random.u64(..)));
    let head = Bytes::from(format!("Lines: {lines}\r\nLine: {}\r\n", &line[..60].escape_ascii()));
    std::iter::once(head).chain(std::iter::repeat_n(line, lines)).map(Octets::from).collect()
}

fn is_whole(text: &str) -> bool {
    let mut lines = text.split("\r\n");
    let mut value = |name| lines.next().and_then(|line| line.strip_prefix(name));
    let Some(count) = value("Lines: ").and_then(|count| count.parse::<usize>().ok()) else {
        return false;
    };
    let Some(line) = value("Line: ") else { return false };
    let rest: Vec<&str> = lines.collect();
    rest.len() == count + 1
        && rest[..count].iter().all(|each| *each == line)
        && rest[count].is_empty()
}

/// The process that is killed; it does nothing where no folder is named.
#[test]
#[ignore = "it is started by the other test"]
fn worker() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let (quarantine, spool) = stores(Path::new(&folder));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| work(&quarantine, &spool));
        }
    });
}

fn work(quarantine: &Quarantine, spool: &Spool) {
    let mut random = fastrand::Rng::new();
    loop {
        match random.u8(0..7) {
            0 | 1 => {
                let entry =
                    NewEntry::new(address("<s@x>"), vec![address("<a@b>"), address("<c@d>")]);
                let mut writer = spool.accept(entry, SystemTime::now()).unwrap();
                writer.write_pieces(&message(&mut random)).unwrap();
                println!("accepted {}", writer.commit().unwrap().id);
            }
            2 => keep_and_release(quarantine, spool, &mut random),
            3 => accept_together(spool, &mut random),
            _ => settle(spool, &mut random),
        }
    }
}

/// Several messages, all of them or none: what follows the first has names made of its name.
fn accept_together(spool: &Spool, random: &mut fastrand::Rng) {
    let mut batch = spool.batch(SystemTime::now());
    for _ in 0..3 {
        let entry = NewEntry::new(address("<s@x>"), vec![address("<a@b>")]);
        let message = message(random);
        batch.add(entry, |writer| writer.write_pieces(&message)).unwrap();
    }
    let ids = batch.commit().unwrap();
    println!("accepted {}\naccepted {}\naccepted {}", ids[0], ids[1], ids[2]);
}

fn keep_and_release(quarantine: &Quarantine, spool: &Spool, random: &mut fastrand::Rng) {
    let arrival = Arrival {
        reason: "why".to_owned(),
        expires: None,
        sender: address("<s@x>"),
        recipients: vec![NewRecipient { address: address("<a@b>"), next_hop: None }],
        client: BTreeMap::new(),
        verdicts: Vec::new(),
        stopped_by: Vec::new(),
        trace: None,
        queue_id: None,
    };
    let mut writer = quarantine.keep(arrival, SystemTime::now()).unwrap();
    writer.write_pieces(&message(random)).unwrap();
    let id = writer.commit().unwrap().id;
    println!("kept {id}");
    let name = quarantine.release(&id, spool, SystemTime::now()).unwrap();
    println!("accepted {name}");
}

/// Delivers, defers or gives up one that is due.
fn settle(spool: &Spool, random: &mut fastrand::Rng) {
    let now = SystemTime::now();
    let due: Vec<Id> =
        spool.due(now, 20).into_iter().filter(|id| !id.as_str().contains("report")).collect();
    let Some(id) = random.choice(due) else { return };
    let Some(mut claim) = spool.claim(&id, now).unwrap() else { return };
    let places: Vec<usize> =
        claim.entry().due_recipients(now.into()).map(|(place, _)| place).collect();
    let is_open = |recipient: &&Recipient| !recipient.state.is_settled();
    let are_last = places.len() == claim.entry().recipients.iter().filter(is_open).count();
    let reply = "250 ok".to_owned();
    match random.u8(0..3) {
        0 => {
            let reply = "450 later".to_owned();
            let settlement = Settlement::Deferred { until: now + Duration::from_millis(5), reply };
            claim.settle(&[(places[0], settlement)], None, now).unwrap();
        }
        1 => {
            let reporter = Reporter { name: "mta.example".to_owned(), most_returned: 0 };
            let failure = |place: &usize| (*place, Event::Failed { reply: "550 no".to_owned() });
            let events: Vec<_> = places.iter().map(failure).collect();
            let mut message = claim.message().unwrap();
            let report = reporter.compose(claim.entry(), &mut message, &events, now).unwrap();
            let failed =
                |place: &usize| (*place, Settlement::Failed { reply: "550 no".to_owned() });
            let settlements: Vec<_> = places.iter().map(failed).collect();
            match places.len() == claim.entry().recipients.len() {
                true => println!("reporting {id}"),
                false if are_last => println!("ending {id}"),
                false => {}
            }
            claim.settle(&settlements, report.as_ref(), now).unwrap();
        }
        _ => {
            let delivered =
                |place: &usize| (*place, Settlement::Delivered { reply: reply.clone() });
            let settlements: Vec<_> = places.iter().map(delivered).collect();
            if are_last {
                println!("ending {id}");
            }
            claim.settle(&settlements, None, now).unwrap();
        }
    }
    if claim.is_done() {
        println!("ended {id}");
    }
}

/// What the processes said so far, and what was found after each of them.
#[derive(Default)]
struct Said {
    accepted: BTreeSet<Id>,
    kept: BTreeSet<Id>,
    /// All of their recipients, or those that were left, were about to be settled.
    ending: BTreeSet<Id>,
    ended: BTreeSet<Id>,
    /// As `ending`, with one report about all recipients.
    reporting: BTreeSet<Id>,
    gone: BTreeSet<Id>,
}

impl Said {
    fn hear(&mut self, line: &str) {
        let Some((word, id)) = line.split_once(' ') else { return };
        let set = match word {
            "accepted" => &mut self.accepted,
            "kept" => &mut self.kept,
            "ending" => &mut self.ending,
            "ended" => &mut self.ended,
            "reporting" => &mut self.reporting,
            _ => return,
        };
        set.insert(id.parse().unwrap());
    }

    fn check(&mut self, folder: &Path) {
        let (quarantine, spool) = stores(folder);
        let (entries, broken) = spool.entries().unwrap();
        assert_eq!(broken, []);
        let there: BTreeSet<Id> = entries.iter().map(|entry| entry.id.clone()).collect();
        for entry in &entries {
            assert_eq!(entry.awaits, None);
            self.check_entry(&spool, entry);
        }
        let may_be_gone = |id: &Id| self.ending.contains(id) || self.reporting.contains(id);
        for id in &self.accepted {
            assert!(there.contains(id) || may_be_gone(id), "{id} is lost");
        }
        for id in &there {
            let Some((leader, _)) = id.as_str().split_once("-with-") else { continue };
            let leader: Id = leader.parse().unwrap();
            let followers = ["with-1", "with-2"].map(|name| leader.derived(name).unwrap());
            for other in followers.iter().chain([&leader]) {
                assert!(there.contains(other) || may_be_gone(other), "{other} is not with {id}");
            }
        }
        let back: Vec<_> = self.ended.union(&self.gone).filter(|id| there.contains(id)).collect();
        assert!(back.is_empty(), "{back:?} came back");
        for id in &self.reporting {
            let reported = there.contains(&id.derived("report-1").unwrap());
            let unsettled = there.contains(id);
            // One that failed whole has one report. One whose report was not yet may be delivered later.
            assert!(reported || unsettled || self.ending.contains(id), "{id} has no report");
            assert!(!(reported && unsettled), "{id} is reported, and tried still");
        }
        let (kept, broken) = quarantine.entries().unwrap();
        assert_eq!(broken, []);
        let kept: BTreeSet<Id> = kept.into_iter().map(|kept| kept.id).collect();
        assert!(kept.is_superset(&self.kept), "kept messages are lost");
        let releases = kept.iter().map(|id| id.derived("release").unwrap());
        let known: BTreeSet<Id> = self.accepted.iter().cloned().chain(releases).collect();
        let gone = known.iter().filter(|id| may_be_gone(id) && !there.contains(id));
        self.gone = gone.cloned().collect();
        // What came to nothing may be followed by a report about one recipient alone.
        self.reporting.retain(|id| !there.contains(id));
        for store in ["q/quarantine", "s/spool"] {
            let files = std::fs::read_dir(folder.join(store)).unwrap().count();
            let entries = if store == "s/spool" { entries.len() } else { kept.len() };
            assert_eq!(files, 2 * entries, "leftovers in {store}");
        }
    }

    fn check_entry(&self, spool: &Spool, entry: &Entry) {
        let mut text = String::new();
        spool.message(&entry.id).unwrap().read_to_string(&mut text).unwrap();
        let whole = match entry.id.as_str().contains("report") {
            true => text.ends_with("--\r\n"),
            false => is_whole(&text),
        };
        assert!(whole, "{} is not whole: {text}", entry.id);
    }
}

#[test]
fn nothing_is_lost_or_done_twice_however_often_it_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut said = Said::default();
    for _ in 0..rounds() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "worker", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = 0;
        let enough = fastrand::usize(0..LINES);
        while heard < enough {
            let line = lines.next().expect("it works until it is killed").unwrap();
            heard += 1;
            said.hear(&line);
        }
        child.kill().unwrap();
        lines.map_while(Result::ok).for_each(|line| said.hear(&line));
        child.wait().unwrap();
        said.check(folder.path());
    }
    let Said { accepted, kept, ended, reporting, gone, .. } = &said;
    let counts = [accepted, kept, ended, reporting, gone].map(BTreeSet::len);
    println!("accepted, kept, ended, reported, gone: {counts:?}");
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    // Whatever was kept was released once, or can be.
    let (quarantine, spool) = stores(folder.path());
    for id in kept {
        let name = id.derived("release").unwrap();
        let was_there = spool.entry(&name).is_ok() || gone.contains(&name) || ended.contains(&name);
        assert_ne!(quarantine.release(id, &spool, SystemTime::now()).is_ok(), was_there, "{id}");
    }
}
