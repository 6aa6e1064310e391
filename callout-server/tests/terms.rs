//! What an answer says beyond its event, from the services of a group to the processor: envelopes
//! that are done early, and answers that are used again.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use callout_server::{Address, Config, Entry, Listeners, Server};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use ocp_proto::smtp::{Auth, Command, CommandLine, DialogFacts, Envelope, Fact, Validity, Verdict};
use opes_mta::consult::{Policy, begin, consult};
use opes_mta::event::Event;
use opes_mta::front::file::{self, StoredMail};
use opes_mta::ocp::Client;
use opes_mta::report::Decision;
use services::{Declaration, Finding, Outcome, Registry, Request, Service, ServiceError};
use tokio_util::sync::CancellationToken;

/// A client of a server with these services in its group.
async fn client(services: Vec<Arc<dyn Service>>) -> Client {
    let mut config = Config::parse("", Path::new(""), &Registry::default()).unwrap();
    let mut uris = Vec::new();
    for (service, number) in services.into_iter().zip(0..) {
        let entry = Entry::new(&format!("s{number}"), "", service, Duration::from_secs(60));
        uris.push(String::from_utf8(entry.uri().to_vec()).unwrap());
        config.router.add(entry).unwrap();
    }
    let address: Address = "127.0.0.1:0".parse().unwrap();
    let listeners = Listeners::bind(&[address]).await.unwrap();
    let address = listeners.addresses().remove(0);
    let server = Arc::new(Server::new(config));
    tokio::spawn(listeners.serve(server, CancellationToken::new()));
    let mut target = file::target(address.to_string().parse().unwrap(), uris);
    let mut offer = target.offer.as_command().unwrap().clone();
    offer.commands.insert(0, Command::Helo);
    target.offer = offer.into();
    Client::connect(&target).await.unwrap()
}

/// Has enough of an envelope once a line that ends so came, as long as it is asked; keeps what it saw.
struct Enough {
    events: &'static [Command],
    line: &'static [u8],
    saw: Arc<Mutex<Vec<Command>>>,
}

impl Service for Enough {
    fn declaration(&self) -> Declaration {
        Declaration::on(self.events.iter().cloned())
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        self.saw.lock().unwrap().push(request.command.clone());
        let ends = |octets: &[u8]| octets.ends_with(self.line);
        let enough = request.line().is_some_and(|line| ends(line.as_bytes()))
            || request.envelope.sender.as_ref().is_some_and(|sender| ends(sender.path()));
        let outcome = Outcome::unchanged(Finding::new("seen"));
        ready(Ok(if enough { outcome.with_envelope_done() } else { outcome })).boxed()
    }
}

#[tokio::test]
async fn an_envelope_is_done_once_all_agree() {
    use Command::{Mail, Message, Rcpt};
    let saw = [Arc::default(), Arc::default()];
    let services: Vec<Arc<dyn Service>> = vec![
        Arc::new(Enough {
            events: &[Mail, Rcpt, Message],
            line: b"<trusted@x>",
            saw: Arc::clone(&saw[0]),
        }),
        Arc::new(Enough { events: &[Rcpt, Message], line: b"<done@y>", saw: Arc::clone(&saw[1]) }),
    ];
    let client = client(services).await;
    type Case = (&'static str, &'static [&'static str], Option<Command>, &'static [Command]);
    let cases: [Case; 5] = [
        ("<trusted@x>", &["<a@y>"], None, &[Mail, Rcpt, Message]),
        ("<trusted@x>", &["<a@y>", "<done@y>", "<b@y>"], Some(Rcpt), &[Mail, Rcpt, Rcpt]),
        // What was said of the last envelope is not said of this one.
        ("<trusted@x>", &["<b@y>"], None, &[Mail, Rcpt, Message]),
        ("<other@x>", &["<done@y>"], None, &[Mail, Rcpt, Message]),
        ("<trusted@x>", &[], None, &[Mail, Message]),
    ];
    for (sender, recipients, done_after, expected) in cases {
        let mut mail = StoredMail::new("a.eml", Bytes::from_static(b"Subject: x\r\n\r\nx\r\n"));
        let address = |path: &str| ocp_proto::smtp::Address::new(path.to_owned()).unwrap();
        mail.sender = address(sender);
        mail.recipients = recipients.iter().map(|path| address(path)).collect();
        let report = file::adapt(&client, &mail, &Policy::default()).await;
        assert_eq!((report.decision, report.error), (Decision::Accept, None));
        assert_eq!(report.done_after, done_after, "{sender} {recipients:?}");
        assert_eq!(report.recipients, mail.recipients);
        assert_eq!(std::mem::take(&mut *saw[0].lock().unwrap()), expected);
        let later: Vec<_> = expected.iter().filter(|event| **event != Mail).cloned().collect();
        assert_eq!(std::mem::take(&mut *saw[1].lock().unwrap()), later);
    }
    client.close().await;
}

/// Says what some facts are, and that its answer holds while they are so: those facts whose letters
/// the recipient's name has.
struct Depends {
    facts: &'static [Fact],
    asked: Arc<AtomicUsize>,
}

fn letter(fact: Fact) -> char {
    fact.name().chars().next().unwrap()
}

fn shown(facts: &[Fact], dialog: &DialogFacts, envelope: &Envelope) -> String {
    let value = |fact: &Fact| match fact {
        Fact::Client => dialog.client_address.clone(),
        Fact::Helo => dialog.helo.clone(),
        Fact::Auth => dialog.auth.as_ref().map(|auth| auth.identity.clone()),
        Fact::Sender => envelope.sender.as_ref().map(|sender| sender.path().clone()),
    };
    facts.iter().map(|fact| format!("{fact} {:?} ", value(fact))).collect()
}

/// The facts that an answer to this line depends on.
fn named(facts: &[Fact], line: &CommandLine) -> Vec<Fact> {
    let name = String::from_utf8(line.as_bytes()["RCPT TO:<".len()..].to_vec()).unwrap();
    let name = name.split('@').next().unwrap().to_owned();
    facts.iter().copied().filter(|fact| name.contains(letter(*fact))).collect()
}

impl Service for Depends {
    fn declaration(&self) -> Declaration {
        Declaration::on([Command::Rcpt])
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let named = named(self.facts, request.line().unwrap());
        let found = shown(&named, &request.dialog, &request.envelope);
        let validity = named.into_iter().fold(Validity::new(60), Validity::with_fact);
        let finding = Finding::new("seen").with_reason(found);
        ready(Ok(Outcome::unchanged(finding).with_validity(validity))).boxed()
    }
}

/// Every line in every dialog, twice: an answer that is used again is the one that would be given.
#[tokio::test]
async fn an_answer_is_used_again_only_where_its_facts_are_equal() {
    const FIRST: &[Fact] = &[Fact::Client, Fact::Sender];
    const SECOND: &[Fact] = &[Fact::Helo, Fact::Auth];
    let asked: Arc<AtomicUsize> = Arc::default();
    let service = |facts| -> Arc<dyn Service> { Arc::new(Depends { facts, asked: asked.clone() }) };
    let client = client(vec![service(FIRST), service(SECOND)]).await;
    let policy = Policy::default();
    let bits = |number: u8| (0..4).map(move |bit| number >> bit & 1 == 1);
    for facts in (0..16).chain(0..16) {
        let values: Vec<bool> = bits(facts).collect();
        let dialog = DialogFacts {
            client_address: Some(if values[0] { "192.0.2.1" } else { "192.0.2.2" }.into()),
            helo: values[1].then(|| "helo".into()),
            auth: values[2]
                .then(|| Auth { mechanism: "PLAIN".into(), identity: "somebody".into() }),
            ..DialogFacts::default()
        };
        let sender = if values[3] { "<s@x>" } else { "<>" };
        let sender = Some(ocp_proto::smtp::Address::new(sender).unwrap());
        let envelope = Envelope { sender, ..Envelope::default() };
        let open = begin(&client, dialog.clone(), &policy).await.unwrap();
        for line in 0..16 {
            let letters = Fact::ALL.into_iter().zip(bits(line)).filter(|(_, is_named)| *is_named);
            let name: String = letters.map(|(fact, _)| letter(fact)).collect();
            let line = CommandLine::new(format!("RCPT TO:<{name}@y>")).unwrap();
            let event = Event::command(line.clone(), envelope.clone()).unwrap();
            let adaptation = consult(&open, &event, &policy).await.unwrap();
            let reason = |verdict: &Verdict| verdict.reason.clone().unwrap();
            let reasons: Vec<_> = adaptation.verdicts.iter().map(reason).collect();
            let expected = [FIRST, SECOND].map(|of| shown(&named(of, &line), &dialog, &envelope));
            assert_eq!(reasons, expected, "{name} reused: {}", adaptation.reused);
        }
    }
    client.close().await;
    // Two services, and for each line as many answers as its facts have values: 3^4, of 512.
    assert_eq!(asked.load(Ordering::SeqCst), 2 * 81);
}
