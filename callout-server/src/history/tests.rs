//! What the history keeps, and how it puts that together.

use ocp_proto::smtp::{
    Address, Command, CommandLine, DialogFacts, ProfileKind, Reply, SideEffect, Verdict,
};
use ocp_proto::{DialogId, OcpResult, OriginalStart, Xid};
use proptest::prelude::*;
use services::Input;
use services::mail::Mail;

use super::*;
use crate::branch::Branch;
use crate::chain::{Adapted, Answer};
use crate::metrics::EventResult;
use crate::router::Chain;
use crate::terms::Terms;

fn history(messages: usize, octets: usize) -> Arc<History> {
    Arc::new(History::new(&HistoryConfig { messages, octets }))
}

/// One connection whose events a test lets happen.
struct Peer {
    history: Arc<History>,
    recorder: Recorder,
    facts: DialogFacts,
    next: u32,
}

impl Peer {
    fn new(history: &Arc<History>) -> Self {
        let recorder = Recorder::new(Some(history.clone()), "192.0.2.7:4321", 3);
        let facts = DialogFacts {
            client_address: Some("192.0.2.1".into()),
            helo: Some("mail.example.org".into()),
            ..DialogFacts::default()
        };
        Self { history: history.clone(), recorder, facts, next: 0 }
    }

    fn begin(&mut self, command: &Command, recipients: &[&str]) -> Xid {
        self.next += 1;
        let xid = Xid::new(self.next).unwrap();
        let has_sender = matches!(command, Command::Rcpt | Command::Data | Command::Message);
        let start = OriginalStart {
            dialog: dialog(),
            command: command.clone(),
            sender: has_sender.then(|| Address::new("<a@example.org>").unwrap()),
            recipients: recipients
                .iter()
                .map(|path| Address::new(path.to_string().into_bytes()).unwrap())
                .collect(),
            bypass: Vec::new(),
            body_size: None,
        };
        self.recorder.begin(xid, ProfileKind::Command, &start, &Chain::default());
        xid
    }

    fn ask(&mut self, xid: Xid, command: &Command, input: Input) {
        self.recorder.ask(dialog(), xid, &self.facts, command, &input);
    }

    fn answer(&mut self, xid: Xid, answer: &Answer) {
        self.recorder.answer(dialog(), xid, answer);
        let result = EventResult::of(&answer.branches[0].adapted);
        self.recorder.end(dialog(), xid, result, None);
    }

    fn outcome(&mut self, xid: Xid) {
        self.recorder.outcome(dialog(), xid, &OcpResult::ok(), None, None);
    }

    /// A command, from its beginning to what the MTA made of it.
    fn command(&mut self, line: &str, recipients: &[&str], answer: &Answer) -> Xid {
        let line = CommandLine::new(line.to_owned().into_bytes()).unwrap();
        let command = line.command().unwrap();
        let xid = self.begin(&command, recipients);
        self.ask(xid, &command, Input::Line(line));
        self.answer(xid, answer);
        self.outcome(xid);
        xid
    }

    fn message(&mut self, recipients: &[&str], answer: &Answer) {
        let xid = self.begin(&Command::Message, recipients);
        self.ask(xid, &Command::Message, content());
        self.answer(xid, answer);
        self.outcome(xid);
    }

    fn end(&mut self) {
        self.recorder.end_dialog(dialog());
    }

    fn records(&self) -> Vec<Arc<Record>> {
        self.history.newest().collect()
    }

    /// What the records' events were, the oldest record first.
    fn titles(&self) -> Vec<Vec<String>> {
        let titles = |record: Arc<Record>| {
            record.events.iter().map(|event| event.title().to_owned()).collect()
        };
        self.records().into_iter().rev().map(titles).collect()
    }
}

/// The record as if nothing had taken any time.
fn timeless(record: &Record) -> Record {
    let mut record = record.clone();
    record.took_ms = 0;
    for event in &mut record.events {
        (event.after_ms, event.took_ms) = (0, 0);
    }
    record
}

fn dialog() -> DialogId {
    DialogId::new(1).unwrap()
}

fn content() -> Input {
    Input::Content(Arc::new(Mail::new("Subject: x\r\n\r\n".into(), bytes::Bytes::from("body"))))
}

fn verdict(verdict: &str, reason: &str) -> Verdict {
    Verdict {
        service: "ocp://service/spam-score".into(),
        verdict: verdict.into(),
        score: Some("7.4/5.0".into()),
        reason: Some(reason.into()),
        milliseconds: Some(3),
    }
}

fn answer(adapted: Adapted, verdicts: Vec<Verdict>) -> Answer {
    let branch = Branch { adapted, ..Branch::new(Vec::new(), Input::Nothing) };
    let (notifications, commitments) = (Vec::new(), Vec::new());
    Answer { branches: vec![branch], notifications, verdicts, commitments, terms: Terms::default() }
}

fn unchanged() -> Answer {
    answer(Adapted::Unchanged, Vec::new())
}

fn refused() -> Answer {
    let reply = Reply::new(550, "5.7.1", "Not from you").unwrap();
    answer(Adapted::Reply(reply), vec![verdict("denied", "on the list")])
}

#[test]
fn an_envelope_is_one_record_that_explains_itself() {
    let history = history(10, LARGEST_RECORD);
    let mut peer = Peer::new(&history);
    peer.command("MAIL FROM:<a@example.org> SIZE=100", &[], &unchanged());
    peer.command("RCPT TO:<b@example.net>", &[], &unchanged());
    peer.command("RCPT TO:<no@example.net>", &["<b@example.net>"], &refused());
    assert_eq!(history.len(), 0, "it is not done with");
    peer.facts.queue_id = Some("4bXyZk2Tz1".into());
    let mut spam = answer(Adapted::Unchanged, vec![verdict("spam", "BULK 1.0")]);
    spam.branches[0].effects = vec![SideEffect::Quarantine("spam".into())];
    peer.message(&["<b@example.net>"], &spam);
    let records = peer.records();
    let [record] = records.as_slice() else { panic!("{records:#?}") };
    assert_eq!((record.id, record.result), (1, EventResult::Unchanged));
    assert_eq!(record.refused_recipients(), 1);
    assert_eq!(record.reply().unwrap().as_str(), "550 5.7.1 Not from you");
    let text = timeless(record).to_string();
    let (first, rest) = text.split_once('\n').unwrap();
    assert!(first.ends_with("Z  unchanged   <a@example.org> to <b@example.net>"), "{first}");
    assert_eq!(
        rest,
        "  #1, 4bXyZk2Tz1, client 192.0.2.1, HELO mail.example.org, receiving, 18 octets, 0 ms, \
         asked by 192.0.2.7:4321 (connection 3)\n\
         \x20 MAIL FROM:<a@example.org> SIZE=100       unchanged, 0 ms\n\
         \x20 RCPT TO:<b@example.net>                  unchanged, 0 ms\n\
         \x20 RCPT TO:<no@example.net>                 replied, 0 ms\n\
         \x20   spam-score: denied (7.4/5.0) (on the list), 3 ms\n\
         \x20   answer: 550 5.7.1 Not from you\n\
         \x20 MESSAGE                                  unchanged, 0 ms\n\
         \x20   spam-score: spam (7.4/5.0) (BULK 1.0), 3 ms\n\
         \x20   answer: [quarantine: spam]\n"
    );
    // What came out is what went in.
    let line = serde_json::to_string(&**record).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), **record);
}

/// The names and the shapes are promised to programs.
#[test]
fn the_fields_of_a_record_stay() {
    let history = history(10, LARGEST_RECORD);
    let mut peer = Peer::new(&history);
    peer.command("MAIL FROM:<a@example.org>", &[], &refused());
    peer.end();
    let mut told = serde_json::to_value(timeless(&peer.records()[0])).unwrap();
    let time = told["time"].take();
    assert_eq!(time.as_str().map(str::len), Some("2026-11-26T10:00:00.000Z".len()), "{time}");
    let expected = serde_json::json!({
        "id": 1,
        "time": null,
        "took_ms": 0,
        "profile": "command",
        "peer": "192.0.2.7:4321",
        "connection": 3,
        "activation": "receiving",
        "protocol": null,
        "client_address": "192.0.2.1",
        "client_name": null,
        "helo": "mail.example.org",
        "user": null,
        "tls": null,
        "queue_id": null,
        "sender": "<a@example.org>",
        "recipients": [],
        "recipient_count": 0,
        "octets": null,
        "result": "replied",
        "services": [],
        "events": [{
            "event": "MAIL",
            "line": "MAIL FROM:<a@example.org>",
            "next_hop_reply": null,
            "after_ms": 0,
            "took_ms": 0,
            "result": "replied",
            "cause": null,
            "findings": [{
                "service": "spam-score",
                "verdict": "denied",
                "score": "7.4/5.0",
                "reason": "on the list",
                "took_ms": 3,
            }],
            "versions": [{
                "recipients": [],
                "recipient_count": 0,
                "result": "replied",
                "reply": "550 5.7.1 Not from you",
                "effects": [],
            }],
            "notifications": 0,
            "outcome": { "success": true, "reason": null, "reply": null },
        }],
        "events_left_out": 0,
    });
    assert_eq!(told, expected);
}

#[test]
fn envelopes_of_a_dialog_are_told_apart() {
    let history = history(20, 4 * LARGEST_RECORD);
    let mut peer = Peer::new(&history);
    let to = ["<b@example.net>"];
    // Refused at MAIL, twice; then a message; then one that ends with RSET; then recipients alone.
    peer.command("MAIL FROM:<1@example.org>", &[], &refused());
    peer.command("MAIL FROM:<a@example.org>", &[], &unchanged());
    peer.message(&to, &unchanged());
    peer.command("MAIL FROM:<a@example.org>", &[], &unchanged());
    peer.command("RCPT TO:<b@example.net>", &[], &unchanged());
    peer.command("RSET", &[], &unchanged());
    peer.command("RCPT TO:<c@example.net>", &[], &unchanged());
    peer.command("RCPT TO:<d@example.net>", &["<c@example.net>"], &unchanged());
    peer.command("RCPT TO:<e@example.net>", &[], &unchanged());
    peer.end();
    let expected: [&[&str]; 5] = [
        &["MAIL FROM:<1@example.org>"],
        &["MAIL FROM:<a@example.org>", "MESSAGE"],
        &["MAIL FROM:<a@example.org>", "RCPT TO:<b@example.net>"],
        &["RSET", "RCPT TO:<c@example.net>", "RCPT TO:<d@example.net>"],
        &["RCPT TO:<e@example.net>"],
    ];
    assert_eq!(peer.titles(), expected);
}

#[test]
fn a_client_that_comes_and_goes_is_no_record_unless_it_is_refused() {
    let history = history(10, LARGEST_RECORD);
    let mut peer = Peer::new(&history);
    for said in [unchanged(), refused()] {
        let xid = peer.begin(&Command::Connect, &[]);
        peer.ask(xid, &Command::Connect, Input::Nothing);
        peer.answer(xid, &said);
        peer.command("EHLO mail.example.org", &[], &unchanged());
        peer.command("QUIT", &[], &unchanged());
        peer.end();
    }
    assert_eq!(peer.titles(), [["CONNECT", "EHLO mail.example.org", "QUIT"]]);
}

/// Nobody waits for what is only watched: the next envelope may begin before the one before it is answered.
#[test]
fn answers_that_nobody_waits_for_find_their_envelope() {
    let history = history(10, LARGEST_RECORD);
    let mut peer = Peer::new(&history);
    let to = ["<b@example.net>"];
    peer.facts.queue_id = Some("A".into());
    let first = peer.begin(&Command::Message, &to);
    peer.ask(first, &Command::Message, content());
    let mail = peer.begin(&Command::Mail, &[]);
    let line = CommandLine::new("MAIL FROM:<c@example.org>").unwrap();
    // The queue id is still that of the message before.
    peer.ask(mail, &Command::Mail, Input::Line(line));
    peer.answer(mail, &refused());
    peer.outcome(mail);
    assert_eq!(history.len(), 0);
    peer.answer(first, &unchanged());
    assert_eq!(history.len(), 0);
    peer.recorder.outcome(
        dialog(),
        first,
        &OcpResult::failure("full"),
        Some(&"452 4.3.1 Full\r\n".into()),
        None,
    );
    assert_eq!(peer.titles(), [["MESSAGE"]]);
    let first = peer.records()[0].clone();
    assert_eq!(first.queue_id.as_ref().unwrap().as_str(), "A");
    let outcome = first.events[0].outcome.clone().unwrap();
    assert_eq!((outcome.success, outcome.reply.unwrap().as_str()), (false, "452 4.3.1 Full"));
    peer.end();
    let second = peer.records()[0].clone();
    assert_eq!((second.queue_id.as_ref(), second.result), (None, EventResult::Replied));
}

#[test]
fn secrets_and_replies_to_nobody_are_not_kept() {
    let history = history(10, LARGEST_RECORD);
    let mut peer = Peer::new(&history);
    peer.command("AUTH PLAIN c2VjcmV0", &[], &refused());
    peer.command("XVERB c2VjcmV0", &[], &unchanged());
    peer.end();
    assert_eq!(peer.titles(), [["AUTH", "XVERB"]]);
    let unknown = Xid::new(99).unwrap();
    peer.answer(unknown, &refused());
    peer.outcome(unknown);
    assert_eq!(history.len(), 1);
}

#[test]
fn a_record_is_bounded_and_its_content_has_a_place() {
    let history = history(10, 4 * LARGEST_RECORD);
    let mut peer = Peer::new(&history);
    let reason = "x".repeat(600);
    let found = answer(Adapted::Unchanged, vec![verdict("ham", &reason); 20]);
    let huge = Verdict { score: Some(reason.as_str().into()), ..verdict(&reason, &reason) };
    let huge = answer(Adapted::Unchanged, vec![huge; 500]);
    peer.command("MAIL FROM:<a@example.org>", &[], &unchanged());
    for _ in 0..300 {
        peer.command("RCPT TO:<b@example.net>", &[], &found);
    }
    let many: Vec<String> = (0..1_000).map(|number| format!("<{number}@example.net>")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    peer.message(&many, &huge);
    let record = peer.records()[0].clone();
    assert!(record.size() <= LARGEST_RECORD, "{} octets", record.size());
    let last = record.events.last().unwrap();
    assert_eq!(last.event.as_str(), "MESSAGE");
    assert!((5..32).contains(&last.findings.len()), "{} findings", last.findings.len());
    assert_eq!(record.events.len() as u64 + record.events_left_out, 302);
    assert_eq!((record.recipients.len(), record.recipient_count), (20, 1_000));
    assert!(record.to_string().contains("<19@example.net> and 980 more\n"), "{record}");
    assert_eq!(history.open.left(), history.open.most());

    // Nor is it larger if all is answered at the end, and all lines are long.
    let line = CommandLine::new(format!("RCPT TO:<{}@example.net>", "x".repeat(900))).unwrap();
    let begin = |_| {
        let xid = peer.begin(&Command::Rcpt, &[]);
        peer.ask(xid, &Command::Rcpt, Input::Line(line.clone()));
        xid
    };
    let open: Vec<Xid> = (0..100).map(begin).collect();
    for xid in open {
        peer.answer(xid, &huge);
        peer.outcome(xid);
    }
    peer.end();
    let record = peer.records()[0].clone();
    assert!(record.size() <= LARGEST_RECORD, "{} octets", record.size());
    assert!(record.events.iter().all(|event| event.result == EventResult::Unchanged));
    assert_eq!(record.events.len() as u64 + record.events_left_out, 100);
}

#[test]
fn what_finds_no_room_is_left_out_and_counted() {
    let history = history(10, LARGEST_RECORD);
    let mut peers: Vec<Peer> = (0..100).map(|_| Peer::new(&history)).collect();
    let found = answer(Adapted::Unchanged, vec![verdict("ham", &"x".repeat(500)); 10]);
    for peer in &mut peers {
        peer.command("MAIL FROM:<a@example.org>", &[], &found);
    }
    let left_out = history.left_out();
    assert!((50..100).contains(&left_out), "{left_out}");
    drop(peers);
    assert_eq!(history.open.left(), history.open.most());
    assert!(history.ring().octets <= LARGEST_RECORD);
}

#[test]
fn without_a_history_nothing_is_put_together() {
    let mut recorder = Recorder::new(None, "x", 1);
    let start = OriginalStart {
        dialog: dialog(),
        command: Command::Message,
        sender: None,
        recipients: Vec::new(),
        bypass: Vec::new(),
        body_size: None,
    };
    let xid = Xid::new(1).unwrap();
    recorder.begin(xid, ProfileKind::Command, &start, &Chain::default());
    recorder.end(dialog(), xid, EventResult::Unchanged, None);
    recorder.end_dialog(dialog());
}

#[test]
fn a_search_wants_each_word_somewhere() {
    let history = history(10, LARGEST_RECORD);
    let mut peer = Peer::new(&history);
    peer.command("MAIL FROM:<Grüße@Example.ORG>", &[], &refused());
    peer.end();
    let record = peer.records()[0].clone();
    for found in [
        "",
        "example.org",
        "  GRÜSSE grüße@ ",
        "192.0.2.1 denied spam-score",
        "replied",
        "not from you 550",
        "192.0.2.7:4321",
    ] {
        let words = words(found);
        let is_found = record.matches(&words);
        assert_eq!(is_found, !found.contains("GRÜSSE"), "{words:?}");
    }
    assert!(!record.matches(&words("example.org unchanged")));
    assert_eq!(words(&"ab ".repeat(1_000)).len(), 67);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever comes: both bounds hold, the newest stay, and each is found by its id.
    #[test]
    fn the_ring_keeps_the_newest_within_its_bounds(
        sizes in proptest::collection::vec(0usize..400, 1..80),
        messages in 1usize..20,
        octets in 0usize..30_000,
    ) {
        let history = history(messages, octets);
        let template = {
            let history = super::tests::history(1, LARGEST_RECORD);
            let mut peer = Peer::new(&history);
            peer.command("MAIL FROM:<a@example.org>", &[], &unchanged());
            peer.end();
            peer.records()[0].clone()
        };
        for (index, size) in sizes.iter().enumerate() {
            let sender = Some("x".repeat(*size).into());
            history.push(Record { sender, ..(*template).clone() });
            let records: Vec<_> = history.newest().collect();
            prop_assert!(records.len() <= messages);
            let taken: usize = records.iter().map(|record| record.size()).sum();
            prop_assert_eq!(history.ring().octets, taken);
            prop_assert!(taken <= octets);
            let newest = index as u64 + 1;
            for (record, id) in records.iter().zip((1..=newest).rev()) {
                prop_assert_eq!(record.id, id);
                let found = history.get(id);
                prop_assert!(found.is_some_and(|found| Arc::ptr_eq(&found, record)));
            }
            let gone = newest - records.len() as u64;
            prop_assert!(history.get(gone).is_none() && history.get(newest + 1).is_none());
            // One more would not have fitted.
            let next = (gone > 0).then(|| sizes[gone as usize - 1]);
            let next = next.map(|size| template.size() + size - "<a@example.org>".len());
            let is_full = next.is_none_or(|next| records.len() == messages || taken + next > octets);
            prop_assert!(is_full, "{} kept, {} gone", records.len(), gone);
        }
    }

    /// Events in any order, answered or not: nothing panics, room is given back, and records keep their bound.
    #[test]
    fn drafts_end_with_their_dialogs(
        steps in proptest::collection::vec((0u8..6, 0usize..6, 0u32..40, any::<bool>()), 0..200),
    ) {
        let commands = [
            Command::Connect,
            Command::Mail,
            Command::Rcpt,
            Command::Data,
            Command::Message,
            Command::Rset,
        ];
        let history = history(1_000, 16 * LARGEST_RECORD);
        let mut peer = Peer::new(&history);
        let answers = [unchanged(), answer(Adapted::Unchanged, vec![verdict("ham", "a reason"); 3])];
        for (step, command, xid, is_refused) in steps {
            let xid = Xid::new(xid).unwrap();
            match step {
                0..3 => {
                    let xid = peer.begin(&commands[command], &[]);
                    peer.ask(xid, &commands[command], content());
                }
                3 => peer.answer(xid, &answers[usize::from(is_refused)]),
                4 => peer.outcome(xid),
                _ if is_refused => peer.end(),
                _ => peer.recorder.end(dialog(), xid, EventResult::Refused, Some("full")),
            }
            let taken: usize = history.open.used();
            prop_assert!(taken <= history.open.most());
        }
        drop(peer);
        prop_assert_eq!(history.open.used(), 0);
        for record in history.newest() {
            prop_assert!(record.size() <= LARGEST_RECORD);
            prop_assert!(record.events.iter().filter(|event| event.event.as_str() == "MESSAGE").count() <= 1);
        }
    }
}
