//! Whatever clients say, and in whatever order: the envelope that services see is the one that is used, and
//! nothing goes on that they have not seen.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ocp_proto::smtp::{Address, Command, CommandLine, EffectName, SideEffect};
use serde_json::Value;
use services::{Change, Declaration, Finding, Outcome, Request};
use tests::random::Random;
use tests::scripted::{Script, Scripted, address, reply, sender};
use tests::smtp::{Client, Delivered, Instead, NextHop, stuffed};
use tests::{Milter, text};

/// Clients.
fn sessions() -> usize {
    if std::env::var_os("OPES_TESTS_FULL").is_some() { 20_000 } else { 1_000 }
}

/// Clients at a time.
const WORKERS: usize = 16;

/// Messages as the service has seen them, by their last line.
static SEEN: Mutex<Vec<(String, Delivered)>> = Mutex::new(Vec::new());

/// Refuses and rewrites what is called after that, and writes down which message it sees for whom.
fn witness() -> Script {
    let declaration = Declaration {
        effects: vec![
            EffectName::AddRecipient,
            EffectName::DeleteRecipient,
            EffectName::ChangeSender,
        ],
        ..Declaration::on([
            Command::Helo,
            Command::Mail,
            Command::Rcpt,
            Command::Data,
            Command::Message,
        ])
    };
    Script { name: "witness", declaration, answer: act }
}

fn act(request: &Request) -> (Duration, Outcome) {
    let passed = Outcome::unchanged(Finding::new("passed"));
    let line = request.line().map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned());
    let line = line.unwrap_or_default();
    let refused = |lines| Outcome::changed(Change::Reply(reply(lines)), "refused");
    let rewritten = |line: &str| {
        let line = CommandLine::new(line.to_owned()).unwrap();
        Outcome::changed(Change::Command(line), "rewritten")
    };
    let outcome = match (&request.command, sender(request).as_str()) {
        (Command::Helo, _) if line.contains("bad") => refused("550 5.7.1 not your name\r\n"),
        (Command::Mail, "refused") => refused("553 5.1.8 unknown sender\r\n"),
        (Command::Mail, "old") => rewritten("MAIL FROM:<new@a.example> RET=HDRS"),
        (Command::Mail, "lost") => rewritten("MAIL FROM:<away@a.example>"),
        (Command::Mail, "more") => {
            passed.with_effect(SideEffect::AddRecipient(address("added@b.example")))
        }
        (Command::Rcpt, _) if line.contains("nobody") => refused("450 4.2.0 not now\r\n"),
        (Command::Rcpt, _) if line.contains("alias") => {
            rewritten("RCPT TO:<real@b.example> NOTIFY=NEVER")
        }
        (Command::Rcpt, _) if line.contains("dead") => rewritten("RCPT TO:<away@b.example>"),
        (Command::Rcpt, _) if line.contains("copy") => {
            passed.with_effect(SideEffect::AddRecipient(address("copied@b.example")))
        }
        (Command::Rcpt, _) if line.contains("astray") => {
            passed.with_effect(SideEffect::AddRecipient(address("away@b.example")))
        }
        (Command::Rcpt, _) if line.contains("hidden") => {
            passed.with_effect(SideEffect::DeleteRecipient(address("b@b.example")))
        }
        (Command::Data, "data") => refused("554 5.7.1 no content from you\r\n"),
        (Command::Data, "swap") => {
            passed.with_effect(SideEffect::ChangeSender(address("swapped@a.example")))
        }
        (Command::Message, from) => {
            let seen = seen(request);
            SEEN.lock().unwrap().push((key(&seen.octets), seen));
            if from == "bad" { refused("554 5.6.0 is bad\r\n") } else { passed }
        }
        _ => passed,
    };
    (Duration::ZERO, outcome)
}

/// The message as it should arrive.
fn seen(request: &Request) -> Delivered {
    let path = |address: &Address| {
        let path = String::from_utf8_lossy(address.path()).into_owned();
        path.trim_start_matches('<').trim_end_matches('>').to_owned()
    };
    let parameters = |address: &Address| {
        let texts = address.parameters.iter().map(|text| String::from_utf8_lossy(text));
        texts.collect::<Vec<_>>().join(" ")
    };
    let sender = request.envelope.sender.as_ref().unwrap();
    let recipients = &request.envelope.recipients;
    let mail = request.mail().unwrap();
    Delivered {
        sender: path(sender),
        recipients: recipients.iter().map(path).collect(),
        parameters: std::iter::once(sender).chain(recipients).map(parameters).collect(),
        octets: mail.whole().read(0..mail.len()).unwrap().to_vec(),
    }
}

/// What a message is known by: its last line.
fn key(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).trim_end().rsplit("\r\n").next().unwrap().to_owned()
}

/// Refuses some addresses always, and everything that there is now and then.
fn next_hop() -> NextHop {
    let count = AtomicUsize::new(0);
    NextHop::unless(move |line| {
        let is_turn = |turn: usize| count.fetch_add(1, Ordering::Relaxed).is_multiple_of(turn);
        match line.get(..4).unwrap_or(line).to_ascii_uppercase().as_str() {
            "MAIL" | "RCPT" if line.contains("away") => Instead::say("550 5.1.1 away"),
            "EHLO" if is_turn(31) => Instead::say("451 4.3.0 not now"),
            "RCPT" if is_turn(17) => Instead::say("452 4.5.3 too many"),
            "DATA" if is_turn(13) => Instead::say("451 4.3.0 no content now"),
            "." if is_turn(11) => Instead::say("452 4.3.1 no room"),
            _ => None,
        }
    })
}

const SENDERS: [&str; 13] = [
    "<a@a.example>",
    "<a@a.example> BODY=8BITMIME",
    "<a@a.example> XOPES-BYPASS=* BODY=8BITMIME",
    "<@one.example,@two.example:routed@a.example>",
    "<>",
    "<\"a>b\"@a.example> RET=FULL ENVID=x",
    "<old@a.example>",
    "<more@a.example>",
    "<swap@a.example>",
    "<bad@a.example>",
    "<data@a.example>",
    "<refused@a.example>",
    "<lost@a.example>",
];

const RECIPIENTS: [&str; 12] = [
    "<b@b.example>",
    "<b@b.example> NOTIFY=SUCCESS,FAILURE",
    "<c@b.example>",
    "<@one.example:routed@b.example>",
    "<\"> <c@b.example\"@b.example>",
    "<alias@b.example>",
    "<copy@b.example>",
    "<hidden@b.example>",
    "<astray@b.example>",
    "<nobody@b.example>",
    "<dead@b.example>",
    "<away@b.example>",
];

/// Commands that bring no message about, and lines that are none; each has one reply.
const NOISE: [&str; 20] = [
    "NOOP",
    "noop with words",
    "VRFY b",
    "HELP",
    "",
    "FOO bar",
    "MAIL",
    "MAIL FROM:a@a.example",
    "MAIL FROM:<a@a.example> BODY",
    "MAIL FROM:<a@a.example> XOPES-BYPASS=+",
    "RCPT TO:<>",
    "RCPT TO:<c@b.example> =",
    "RCPT TO:<c@b.example>\nRCPT TO:<d@b.example>",
    "RCPT TO:<c@b.example>\rDATA",
    "MAIL FROM:<nul\0@a.example>",
    "DATA now",
    "LHLO client.example",
    "EXPN b",
    "XCLIENT ADDR=192.0.2.1",
    "XFORWARD ADDR=192.0.2.1 HELO=other.example",
];

/// What goes out together: octets, and for each reply that comes the message that it is about, if it is.
#[derive(Default)]
struct Group {
    octets: Vec<u8>,
    replies: Vec<Option<String>>,
}

impl Group {
    fn line(&mut self, line: &str) {
        self.octets.extend_from_slice(line.as_bytes());
        self.octets.extend_from_slice(b"\r\n");
        self.replies.push(None);
    }

    fn chunk(&mut self, octets: &str, last: bool) {
        self.line(&format!("BDAT {}{}", octets.len(), if last { " LAST" } else { "" }));
        self.octets.extend_from_slice(octets.as_bytes());
        if last {
            self.replies.pop();
            self.replies.push(Some(key(octets.as_bytes())));
        }
    }
}

/// One client.
struct Player {
    random: Random,
    seed: usize,
    messages: usize,
    /// What DATA was said for and was accepted.
    content: Option<Vec<u8>>,
}

/// What became of messages, as far as a client knows.
#[derive(Default)]
struct Told {
    accepted: Vec<String>,
    refused: Vec<String>,
    /// It went away before it knew.
    open: Vec<String>,
}

impl Player {
    fn one_in(&mut self, count: usize) -> bool {
        self.random.below(count) == 0
    }

    /// The end of a message that no other one has.
    fn text(&mut self) -> String {
        self.messages += 1;
        let start = self.random.one_of(&["", "Subject: x\r\n", "Subject: x\r\n\r\n.\r\n..\r\n"]);
        format!("{start}Id: {}-{}\r\n", self.seed, self.messages)
    }

    /// Commands that are mostly right.
    fn group(&mut self) -> Group {
        let mut group = Group::default();
        if let Some(content) = self.content.take() {
            group.octets = stuffed(&content);
            group.replies.push(Some(key(&content)));
        }
        let likes_order = !self.one_in(3);
        for step in 0..1 + self.random.below(8) {
            match if likes_order { step.min(4) } else { self.random.below(7) } {
                _ if self.one_in(6) => group.line(self.random.one_of(&NOISE)),
                0 | 5 if self.one_in(3) => {
                    let hello = ["EHLO client.example", "RSET", "HELO x", "EHLO bad.example"];
                    group.line(self.random.one_of(&hello));
                }
                0 | 5 => group.line(&format!("MAIL FROM:{}", self.random.one_of(&SENDERS))),
                1 | 2 | 6 => {
                    group.line(&format!("rcpt to:{}", self.random.one_of(&RECIPIENTS)));
                }
                3 if self.one_in(2) => {
                    let (text, last) = (self.text(), !self.one_in(3));
                    group.chunk(&text, last);
                }
                3 => {
                    group.line("DATA");
                    return group;
                }
                _ => {
                    let text = self.text();
                    group.chunk(&text, true);
                }
            }
        }
        group
    }

    fn play(mut self, port: u16) -> Told {
        let mut told = Told::default();
        let (mut client, _) = Client::connect(port);
        client.say("EHLO client.example");
        let groups = 2 + self.random.below(8);
        for number in 0..groups {
            let mut group = self.group();
            let is_last = number + 1 == groups;
            if is_last && self.one_in(3) {
                let end = self.random.below(group.octets.len());
                group.octets.truncate(end);
                self.send(&mut client, &group.octets);
                told.open.extend(group.replies.into_iter().flatten());
                return told;
            }
            self.send(&mut client, &group.octets);
            let is_data = group.octets.ends_with(b"\r\nDATA\r\n") || group.octets == b"DATA\r\n";
            let mut last = String::new();
            for message in group.replies {
                let before = std::mem::replace(&mut last, client.reply());
                let said = String::from_utf8_lossy(&group.octets);
                let seed = self.seed;
                assert!(!last.is_empty(), "{seed}: nothing came behind {before:?} to {said:?}");
                match message {
                    Some(message) if last.starts_with('2') => told.accepted.push(message),
                    Some(message) => told.refused.push(message),
                    None => {}
                }
            }
            if is_data && last.starts_with("354") {
                self.content = Some(self.text().into_bytes());
            }
        }
        if let Some(content) = self.content.take() {
            client.send(&stuffed(&content));
            let accepted = client.reply().starts_with('2');
            let which = if accepted { &mut told.accepted } else { &mut told.refused };
            which.push(key(&content));
        }
        assert_eq!(client.say("QUIT"), "221 2.0.0 bye", "{}", self.seed);
        told
    }

    /// Sends octets, cut anywhere.
    fn send(&mut self, client: &mut Client, octets: &[u8]) {
        let mut rest = octets;
        let longest = self.random.one_of(&[1, 20, 10_000, 10_000]);
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rest.len().min(1 + self.random.below(longest)));
            client.send(piece);
            rest = more;
        }
    }
}

#[test]
fn the_envelope_that_services_see_is_the_one_that_is_used() {
    let server = Scripted::start(&[witness()]);
    let folder = tempfile::tempdir().unwrap();
    let hop = next_hop();
    let config = format!(
        "[[group]]\nname = \"a\"\nservices = [\"witness\"]\nservers = [\"{}\"]\n",
        server.address
    );
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let proxy = Milter::start_proxy("127.0.0.1:0", &next_hop, folder.path(), &config);
    let (port, next) = (proxy.port(), AtomicUsize::new(0));
    let told = Mutex::new(Told::default());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= sessions() {
                        break;
                    }
                    let random = Random::new(seed as u64);
                    let player = Player { random, seed, messages: 0, content: None };
                    let mut known = player.play(port);
                    let mut told = told.lock().unwrap();
                    told.accepted.append(&mut known.accepted);
                    told.refused.append(&mut known.refused);
                    told.open.append(&mut known.open);
                }
            });
        }
    });
    // What is under way ends before that.
    proxy.terminate();
    let (code, lines) = proxy.ended();
    assert_eq!(code, Some(0));
    let delivered = hop.wait_for(hop.len());
    check(&told.into_inner().unwrap(), &delivered);
    let is_taken = |line: &&Value| {
        let decision = text(line, "decision");
        line["message"] == "message" && ["accept", "modify"].contains(&decision.as_str())
    };
    assert_eq!(lines.iter().filter(is_taken).count(), delivered.len());
    assert!(lines.iter().all(|line| line.is_object() && line["level"] != "ERROR"));
}

/// What clients were told is what happened, and services saw it so.
fn check(told: &Told, delivered: &[Delivered]) {
    let (accepted, refused, open) = (told.accepted.len(), told.refused.len(), told.open.len());
    println!("{accepted} messages accepted, {refused} refused, {open} left open");
    let least = sessions() / 4;
    assert!(accepted > least && refused > least && open > 0, "this shows nothing");
    let mut seen: HashMap<String, Delivered> = HashMap::new();
    for (key, mail) in SEEN.lock().unwrap().drain(..) {
        let twice = seen.insert(key.clone(), mail.clone());
        assert_eq!(twice, None, "{key} was shown twice: {}", String::from_utf8_lossy(&mail.octets));
    }
    let mut arrived = HashMap::new();
    for mail in delivered {
        let key = key(&mail.octets);
        assert_eq!(seen.get(&key), Some(mail), "{key}: what services saw, and what arrived");
        assert!(arrived.insert(key.clone(), mail).is_none(), "{key} arrived twice");
    }
    for key in &told.accepted {
        assert!(arrived.remove(key).is_some(), "{key} was accepted and did not arrive");
    }
    for key in arrived.keys() {
        assert!(told.open.contains(key), "{key} was refused and arrived");
    }
}
