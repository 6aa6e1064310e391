//! A real Postfix whose mail goes on while callout servers behind `opes-mta` are killed and restarted.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::postfix::{self, Port, Postfix};
use tests::smtp::{Client, NextHop};
use tests::{CalloutServer, Enough, Milter, not_run, text};

/// SMTP clients at a time.
const CLIENTS: usize = 10;
/// Messages on one connection.
const SESSION: usize = 10;
/// Messages that come through before the next server is killed.
const BETWEEN: usize = 25;
/// Between two looks at how far it has come.
const PAUSE: Duration = Duration::from_millis(5);
/// For all of it.
const PATIENCE: Duration = Duration::from_secs(300);

/// Servers that are killed, one after the other.
fn kills() -> usize {
    if std::env::var_os("OPES_TESTS_FULL").is_some() { 40 } else { 8 }
}

/// What became of all messages.
struct Outcome {
    /// Messages that were brought.
    messages: usize,
    /// Refusals; each message was brought again after that, until it was accepted.
    refusals: Vec<String>,
    /// What arrived, by the number.
    delivered: BTreeMap<usize, Vec<Vec<u8>>>,
    /// The log of `opes-mta`.
    lines: Vec<Value>,
}

fn start(folder: &Path, number: usize, address: &str) -> CalloutServer {
    let folder = folder.join(number.to_string());
    std::fs::create_dir_all(&folder).expect("a folder");
    let config = "[services.spam-score.settings]\nmark-ham = true\n";
    CalloutServer::start_at(address, &folder, config, &[])
}

fn message(number: usize) -> String {
    let line = "x".repeat(70) + "\r\n";
    format!("From: a@a.example\r\nSubject: {number}\r\n\r\n{}", line.repeat(56))
}

/// Brings messages, each until it is accepted, while the servers of a group, so many of them, are killed in turn; `None`
/// without Postfix.
fn run(story: &str, servers: usize, group: &str) -> Option<Outcome> {
    if !postfix::is_there() {
        not_run(story, "there is no Postfix, or no root to start it");
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut running: Vec<_> =
        (0..servers).map(|number| start(folder.path(), number, "127.0.0.1:0")).collect();
    let addresses: Vec<_> = running.iter().map(|server| server.address().to_owned()).collect();
    let config = format!(
        "[[group]]\nname = \"mail\"\nservices = [\"mail-from\", \"spam-score\"]\n\
         on-failure = \"tempfail\"\nservers = {addresses:?}\n{group}"
    );
    let milter = Milter::start(folder.path(), &config);
    let hop = NextHop::start();
    let ports = [Port::with_milter(&milter.address)];
    let postfix = Postfix::start(folder.path(), &ports, hop.port, &[]);

    let brought = Brought::default();
    let refusals = std::thread::scope(|scope| {
        let enough = Enough(&brought.enough);
        let client = || brought.bring(postfix.ports[0]);
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        for kill in 0..kills() {
            brought.wait_for(BETWEEN);
            let number = kill % servers;
            running.remove(number).kill();
            let mut again = start(folder.path(), number, &addresses[number]);
            // Only one is away at a time: an event is asked about at three servers, no more.
            again.wait_for("connected");
            running.insert(number, again);
        }
        brought.wait_for(BETWEEN);
        drop(enough);
        let refusals = clients.into_iter().flat_map(|client| client.join().expect("a client"));
        refusals.collect::<Vec<_>>()
    });
    let messages = brought.begun.into_inner();

    let mut delivered: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
    for mail in hop.wait_for(messages) {
        let subject = find(&mail.octets, "Subject: ").expect("a subject");
        delivered.entry(subject.parse().expect("a number")).or_default().push(mail.octets);
    }
    let begin = Instant::now();
    while ["incoming", "active", "deferred"].iter().any(|queue| !postfix.queued(queue).is_empty()) {
        assert!(begin.elapsed() < PATIENCE, "Postfix keeps mail: {}", postfix.log());
        std::thread::sleep(PAUSE);
    }
    assert!(hop.is_empty(), "more arrived than was accepted");
    milter.terminate();
    let (code, lines) = milter.ended();
    assert_eq!(code, Some(0));
    println!("{messages} messages, {} servers killed, {} refusals", kills(), refusals.len());
    Some(Outcome { messages, refusals, delivered, lines })
}

/// How far the clients have come.
#[derive(Default)]
struct Brought {
    begun: AtomicUsize,
    done: AtomicUsize,
    /// They begin no more.
    enough: AtomicBool,
}

impl Brought {
    /// Waits until so many more were accepted.
    fn wait_for(&self, more: usize) {
        let (begin, done) = (Instant::now(), self.done.load(Ordering::Relaxed));
        while self.done.load(Ordering::Relaxed) < done + more {
            assert!(begin.elapsed() < PATIENCE, "the clients stand still");
            std::thread::sleep(PAUSE);
        }
    }

    /// A client that brings the next messages, some on each connection: the refusals.
    fn bring(&self, port: u16) -> Vec<String> {
        let mut refusals = Vec::new();
        while !self.enough.load(Ordering::Relaxed) {
            let mut client = Client::greeted(port);
            for _ in 0..SESSION {
                let number = self.begun.fetch_add(1, Ordering::Relaxed);
                let sender = format!("{number}@a.example");
                loop {
                    let reply = client.mail(&sender, &["b@b.example"], message(number).as_bytes());
                    if reply.starts_with("250 2.0.0 Ok: queued as ") {
                        break;
                    }
                    client.say("RSET");
                    refusals.push(reply);
                }
                self.done.fetch_add(1, Ordering::Relaxed);
            }
            client.say("QUIT");
        }
        refusals
    }
}

/// The rest of the first line that starts so.
fn find<'a>(octets: &'a [u8], start: &str) -> Option<&'a str> {
    std::str::from_utf8(octets).ok()?.lines().find_map(|line| line.strip_prefix(start))
}

impl Outcome {
    /// All arrived once, whole, with what the service adds to each.
    fn check_delivered(&self) {
        assert!(self.delivered.keys().copied().eq(0..self.messages), "{:?}", self.delivered.keys());
        for (number, mails) in &self.delivered {
            assert_eq!(mails.len(), 1, "{number} arrived {} times", mails.len());
            let mail = String::from_utf8_lossy(&mails[0]);
            assert_eq!(mail.matches("X-Spam-Status: ").count(), 1, "{number} unscanned: {mail}");
            assert!(mail.ends_with(&message(*number)), "{number}: {mail}");
        }
    }
}

/// Whoever is killed, another one has the same mail in hand a moment later.
#[test]
fn no_mail_fails_while_one_of_three_servers_is_killed() {
    let Some(outcome) = run("mail while one of three callout servers is killed", 3, "") else {
        return;
    };
    let failures = outcome.lines.iter().filter(|line| line["message"] == "adaptation failed");
    assert_eq!(failures.collect::<Vec<_>>(), Vec::<&Value>::new());
    assert!(outcome.refusals.is_empty(), "{:?}", outcome.refusals);
    outcome.check_delivered();
    let elsewhere = outcome.lines.iter().filter(|line| line["message"] == "asking another server");
    println!("{} events were tried elsewhere", elsewhere.count());
}

/// Where there is no other server the client tries again later, and the log says why.
#[test]
fn no_mail_is_lost_while_the_only_server_is_killed() {
    let story = "mail while the only callout server is killed";
    let Some(outcome) = run(story, 1, "overload = \"tempfail\"\n") else { return };
    outcome.check_delivered();
    let refused = &outcome.refusals;
    assert!(!refused.is_empty(), "nobody noticed that the server was away");
    for reply in refused {
        assert_eq!(reply, "451 4.3.0 Message could not be checked, try again later");
    }
    let failures = outcome.lines.iter().filter(|line| line["message"] == "adaptation failed");
    let failures: Vec<_> = failures.collect();
    assert_eq!(failures.len(), refused.len(), "{failures:#?}");
    for line in failures {
        let services = "ocp://service/mail-from ocp://service/spam-score";
        assert_eq!((&line["services"], &line["policy"]), (&services.into(), &"tempfail".into()));
        assert!(line["milliseconds"].is_u64() && !text(line, "stage").is_empty(), "{line}");
        assert!(["MAIL", "MESSAGE"].contains(&&text(line, "event")[..]), "{line}");
        let (cause, server) = (text(line, "cause"), text(line, "server"));
        let away = cause.starts_with("no callout server is there: 127.0.0.1:");
        assert!(away || (cause.contains("lost") && !server.is_empty()), "{line}");
    }
    let lines = outcome.lines.iter().filter(|line| line["message"] == "message");
    let tempfail = lines.filter(|line| line["decision"] == "tempfail").count();
    assert_eq!(tempfail, refused.len(), "a line a message says what became of it");
}
