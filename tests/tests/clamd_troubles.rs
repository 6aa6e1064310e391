//! clamd that reads its database again, hangs, is killed and starts again, while mail comes: nothing passes that it has not
//! looked at.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use tests::clamd::Clamd;
use tests::http::get;
use tests::smtp::{Client, NextHop};
use tests::{CalloutServer, Milter, PATIENCE, not_run};

/// What clamd alone knows to be infected.
const INFECTED: &str = "a marker that clamd alone knows";
/// The same, once it has read its database again.
const NEW: &str = "another marker that clamd knows later";

/// Clients that send at the same time, more than clamd has threads.
const CLIENTS: usize = 8;

struct Story {
    clamd: Mutex<Clamd>,
    admin: String,
    hop: NextHop,
    /// Its scans wait for a clamd that is away, and for one that hangs.
    patient: u16,
    /// Its scans are given up soon.
    impatient: u16,
    numbers: AtomicUsize,
    /// What runs to the end of the story.
    _programs: Mutex<(CalloutServer, [Milter; 2])>,
    _folder: tempfile::TempDir,
}

/// How often mail was taken, put off, and refused.
#[derive(Debug, Default, PartialEq, Eq)]
struct Replies {
    taken: usize,
    put_off: usize,
    refused: usize,
}

impl Replies {
    fn and(self, other: Self) -> Self {
        Self {
            taken: self.taken + other.taken,
            put_off: self.put_off + other.put_off,
            refused: self.refused + other.refused,
        }
    }
}

impl Story {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let clamd = Clamd::start(folder.path(), INFECTED);
        let service = |name: &str, timeout: u64, retry: u64| {
            let address = clamd.address();
            format!(
                "[services.{name}]\nkind = \"virus-scan\"\ndeadline = 70\n[services.{name}.settings]\n\
                 clamd = \"{address}\"\nclamd-timeout = {timeout}\nclamd-retry = {retry}\n"
            )
        };
        let config = format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\n{}{}",
            service("patient", 60, 60),
            service("impatient", 1, 0)
        );
        let mut server = CalloutServer::start(folder.path(), &config, &[]);
        let admin = server.admin();
        let hop = NextHop::start();
        let next_hop = format!("127.0.0.1:{}", hop.port);
        let proxy = |service: &str| {
            let folder = folder.path().join(service);
            std::fs::create_dir(&folder).expect("a folder for it can be made");
            let config = format!(
                "[[group]]\nname = \"g\"\nservices = [\"{service}\"]\nservers = [\"{}\"]\n",
                server.address()
            );
            Milter::start_proxy("127.0.0.1:0", &next_hop, &folder, &config)
        };
        let proxies = ["patient", "impatient"].map(proxy);
        let [patient, impatient] = proxies.each_ref().map(Milter::port);
        Self {
            clamd: Mutex::new(clamd),
            admin,
            hop,
            patient,
            impatient,
            numbers: AtomicUsize::new(0),
            _programs: Mutex::new((server, proxies)),
            _folder: folder,
        }
    }

    fn clamd(&self) -> MutexGuard<'_, Clamd> {
        self.clamd.lock().expect("nobody panics with it")
    }

    /// A mail with this text in it to one of the proxies. No two are the same.
    fn send(&self, proxy: u16, text: &str) -> String {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let mail = format!("Subject: {number}\r\n\r\n{text}\r\n");
        Client::greeted(proxy).mail("a@a.example", &["b@b.example"], mail.as_bytes())
    }

    /// Mail from many clients, every other one infected; of each what it has to be, or put off.
    fn load(&self, proxy: u16, each: usize) -> Replies {
        let client = || {
            let mut replies = Replies::default();
            for number in 0..each {
                let is_infected = number % 2 == 1;
                let text = if is_infected { INFECTED } else { "harmless" };
                let reply = self.send(proxy, text);
                match (reply.get(..3), is_infected) {
                    (Some("250"), false) => replies.taken += 1,
                    (Some("554"), true) => replies.refused += 1,
                    (Some("451"), _) => replies.put_off += 1,
                    _ => panic!("infected: {is_infected}, {reply}"),
                }
            }
            replies
        };
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            let replies = clients.into_iter().map(|client| client.join().expect("it goes well"));
            replies.fold(Replies::default(), Replies::and)
        })
    }

    /// A number among the metrics of `patient`.
    fn measure(&self, name: &str) -> u64 {
        let text = get(&self.admin, "/metrics").body;
        let name = format!("callout_server_{name}{{service=\"patient\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&name));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}: {text}"))
    }

    fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "{what} does not come");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// All that was taken has arrived, and nothing else.
    fn arrived(&self, replies: &Replies) {
        let mails = self.hop.wait_for(replies.taken);
        assert_eq!(mails.len(), replies.taken);
        for mail in mails {
            let text = String::from_utf8_lossy(&mail.octets).into_owned();
            assert!(!text.contains(INFECTED), "{text}");
        }
        assert!(self.hop.is_empty());
    }
}

fn story(name: &str) -> Option<Story> {
    if Clamd::is_there() {
        return Some(Story::start());
    }
    not_run(name, "there is no clamd");
    None
}

#[test]
fn a_database_that_is_read_again_under_load() {
    let Some(story) = story("clamd that reloads") else { return };
    story.clamd().add("second", NEW);
    let replies = thread::scope(|scope| {
        let load = scope.spawn(|| story.load(story.patient, 20));
        for _ in 0..3 {
            story.clamd().signal("-USR2");
            story.send(story.patient, INFECTED);
        }
        load.join().expect("it goes well")
    });
    println!(
        "clamd read its database again: {replies:?}, {} waits",
        story.measure("clamd_retries_total")
    );
    assert_eq!(replies, Replies { taken: 80, put_off: 0, refused: 80 });
    story.arrived(&replies);
    let knows_it =
        || story.send(story.patient, NEW).starts_with("554 5.7.1 message contains Test.second");
    story.until("the other signature", knows_it);
}

#[test]
fn a_clamd_that_is_killed_and_starts_again() {
    let Some(story) = story("clamd that is killed") else { return };
    let while_killed = thread::scope(|scope| {
        let load = scope.spawn(|| story.load(story.impatient, 20));
        story.until("the first mail", || !story.hop.is_empty());
        story.clamd().kill();
        load.join().expect("it goes well")
    });
    let gone = story.load(story.impatient, 2);
    assert_eq!(gone, Replies { taken: 0, put_off: 2 * CLIENTS, refused: 0 });
    let waited = thread::scope(|scope| {
        let load = scope.spawn(|| story.load(story.patient, 2));
        story.until("a scan that waits", || story.measure("clamd_retries_total") > 0);
        story.clamd().start_again();
        load.join().expect("it goes well")
    });
    let retries = story.measure("clamd_retries_total");
    println!(
        "clamd was killed: {while_killed:?}, then {gone:?} of who did not wait, {waited:?} of who did, {retries} waits"
    );
    assert_eq!(waited, Replies { taken: CLIENTS, put_off: 0, refused: CLIENTS });
    story.arrived(&while_killed.and(waited));
}

#[test]
fn a_clamd_that_hangs() {
    let Some(story) = story("clamd that hangs") else { return };
    story.clamd().signal("-STOP");
    let given_up = story.load(story.impatient, 1);
    assert_eq!(given_up, Replies { taken: 0, put_off: CLIENTS, refused: 0 });
    let waited = thread::scope(|scope| {
        let load = scope.spawn(|| story.load(story.patient, 2));
        story.until("the scans", || story.measure("clamd_open_scans") == CLIENTS as u64);
        story.clamd().signal("-CONT");
        load.join().expect("it goes well")
    });
    println!("clamd hung: {given_up:?} of who did not wait, {waited:?} of who did");
    assert_eq!(waited, Replies { taken: CLIENTS, put_off: 0, refused: CLIENTS });
    story.arrived(&waited);
}
