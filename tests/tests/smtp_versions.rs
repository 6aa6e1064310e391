//! `opes-mta smtp` where one message becomes several, has to wait, or goes another way.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::time::Duration;

use ocp_proto::smtp::{Command, EffectName, SideEffect};
use serde_json::Value;
use services::mail::Edits;
use services::{Change, Declaration, Finding, Outcome, Request};
use tests::gateway::told;
use tests::postfix::{self, Port, Postfix};
use tests::scripted::{Script, Scripted, reply, sender};
use tests::smtp::{Client, Delivered, Instead, NextHop};
use tests::{Milter, not_run, text};

const MAIL: &str = "Subject: x\r\n\r\nbody\r\n";
const ANN_BOB: [&str; 2] = ["ann@b.example", "bob@b.example"];

/// Does with content what the sender is called after; for Ann alone, or for everybody.
fn actor(name: &'static str) -> Script {
    let declaration = Declaration {
        effects: vec![
            EffectName::Quarantine,
            EffectName::Hold,
            EffectName::Delay,
            EffectName::Route,
            EffectName::Discard,
            EffectName::Disconnect,
        ],
        ..Declaration::on([Command::Mail, Command::Message])
    };
    Script { name, declaration, answer: act }
}

fn act(request: &Request) -> (Duration, Outcome) {
    let passed = Outcome::unchanged(Finding::new("passed"));
    let refused = |lines| Outcome::changed(Change::Reply(reply(lines)), "refused");
    let route = |port: &str| SideEffect::Route {
        next_hop: format!("127.0.0.1:{port}").into(),
        recipients: Vec::new(),
    };
    let delay = |seconds| SideEffect::Delay { seconds, reason: "greylisted".into() };
    let sender = sender(request);
    let (wish, number) = sender.split_once('-').unwrap_or((&sender, ""));
    let outcome = match (&request.command, wish) {
        (Command::Mail, "away") => {
            refused("550 5.7.1 go away\r\n").with_effect(SideEffect::Disconnect)
        }
        (Command::Mail, "leave") => passed.with_effect(SideEffect::Disconnect),
        (Command::Message, "last") => passed.with_effect(SideEffect::Disconnect),
        (Command::Message, "mark") => {
            let mut edits = Edits::new();
            edits.prepend_field(request.mail().expect("it is about content"), "X-Mark", "new");
            Outcome::changed(Change::Content(edits), "marked")
        }
        (Command::Message, "refuse") => refused("550 5.7.1 not for you\r\n"),
        (Command::Message, "discard") => passed.with_effect(SideEffect::Discard("x".into())),
        (Command::Message, "keep") => passed.with_effect(SideEffect::Quarantine("odd".into())),
        (Command::Message, "hold") => passed.with_effect(SideEffect::Hold("review".into())),
        (Command::Message, "delay") => passed.with_effect(delay(600)),
        (Command::Message, "soon") => passed.with_effect(delay(1)),
        (Command::Message, "route") => passed.with_effect(route(number)),
        _ => passed,
    };
    (Duration::ZERO, outcome)
}

struct Chain {
    _server: Scripted,
    proxy: Milter,
    folder: tempfile::TempDir,
}

/// A proxy whose services act for everybody (`actor`) or for Ann alone (`ann`).
fn chain(next_hop: u16, service: &str, more: &[&str]) -> Chain {
    chain_of("", next_hop, service, more)
}

/// The same of a system with a name, if it has one.
fn chain_of(system: &str, next_hop: u16, service: &str, more: &[&str]) -> Chain {
    let for_ann = |name: &str| (name == "ann").then_some("ann@b.example");
    let server = Scripted::start_for("127.0.0.1:0", &[actor("actor"), actor("ann")], for_ann);
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!(
        "{system}[[group]]\nname = \"actor\"\nservices = [\"{service}\"]\nservers = [\"{}\"]\n",
        server.address
    );
    let next_hop = format!("127.0.0.1:{next_hop}");
    let arguments = [&["--listen", "127.0.0.1:0", "--next-hop", &next_hop], more].concat();
    let proxy = Milter::start_proxy_with(&arguments, folder.path(), &config);
    Chain { _server: server, proxy, folder }
}

const STORES: [&str; 4] = ["--spool", "spool", "--quarantine", "quarantine"];

impl Chain {
    fn mail(&self, sender: &str, recipients: &[&str]) -> String {
        let sender = format!("{sender}@a.example");
        Client::greeted(self.proxy.port()).mail(&sender, recipients, MAIL.as_bytes())
    }

    fn line(&mut self) -> Value {
        self.proxy.wait_for("message")
    }

    /// `opes-mta spool` or `opes-mta quarantine`: what it prints.
    fn run(&self, arguments: &[&str]) -> String {
        let mut command = tests::program("opes-mta");
        let output = command.args(arguments).current_dir(self.folder.path()).output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("it is UTF-8")
    }

    /// The spool's entries.
    fn spool(&self) -> Vec<Value> {
        let listed = self.run(&["spool", "list", "--spool", "spool", "--json"]);
        listed.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect()
    }
}

/// What arrived, in the order of the recipients: `RECIPIENTS: OCTETS`.
fn arrived(mut mails: Vec<Delivered>) -> Vec<(String, String)> {
    mails.sort_by(|one, other| one.recipients.cmp(&other.recipients));
    let octets = |mail: &Delivered| String::from_utf8_lossy(&mail.octets).into_owned();
    mails.iter().map(|mail| (mail.recipients.join(" "), octets(mail))).collect()
}

fn to(recipients: &str, octets: &str) -> (String, String) {
    (recipients.to_owned(), octets.to_owned())
}

#[test]
fn two_recipients_get_two_versions() {
    let hop = NextHop::start();
    let mut chain = chain(hop.port, "ann", &STORES);
    assert_eq!(chain.mail("mark", &ANN_BOB), "250 2.0.0 Ok");
    let marked = format!("X-Mark: new\r\n{MAIL}");
    assert_eq!(arrived(hop.wait_for(2)), [to("ann@b.example", &marked), to("bob@b.example", MAIL)]);
    let line = chain.line();
    assert_eq!(
        told(&line),
        "modify <mark@a.example> -> <ann@b.example> <bob@b.example>\n\
         verdicts: ann=passed, ann=marked"
    );
    let spooled = text(&line, "spooled");
    chain.proxy.terminate();
    let (code, lines) = chain.proxy.ended();
    assert_eq!(code, Some(0));
    let delivered = lines.iter().filter(|line| line["message"] == "delivery");
    let mut delivered: Vec<_> = delivered.map(|line| text(line, "id")).collect();
    delivered.sort();
    assert_eq!(spooled.split(' ').collect::<Vec<_>>(), delivered);
    assert!(hop.is_empty(), "each of them once");
}

#[test]
fn one_message_for_some_goes_straight_on() {
    let hop = NextHop::start();
    let mut chain = chain(hop.port, "ann", &[]);
    assert_eq!(chain.mail("discard", &ANN_BOB), "250 2.0.0 taken", "the next hop's own reply");
    assert_eq!(arrived(hop.wait_for(1)), [to("bob@b.example", MAIL)]);
    assert_eq!(text(&chain.line(), "decision"), "modify");
    // All of it is for her.
    assert_eq!(chain.mail("mark", &["ann@b.example"]), "250 2.0.0 taken");
    assert_eq!(hop.wait_for(1).len(), 1);
    assert_eq!(chain.mail("mark", &["bob@b.example"]), "250 2.0.0 taken");
    assert_eq!(arrived(hop.wait_for(1)), [to("bob@b.example", MAIL)]);
}

#[test]
fn what_can_not_be_told_apart_is_as_configured() {
    let hop = NextHop::start();
    let mut chain = chain(hop.port, "ann", &[]);
    let differ =
        "recipients should get different versions of the message: send it to each of them alone";
    assert_eq!(chain.mail("mark", &ANN_BOB), format!("554 5.5.0 {differ}"), "there is no spool");
    assert!(told(&chain.line()).starts_with("reject <mark@a.example>"));
    assert!(hop.is_empty());
}

#[test]
fn some_refused_is_all_refused_over_smtp() {
    let hop = NextHop::start();
    let chain = chain(hop.port, "ann", &STORES);
    assert_eq!(chain.mail("refuse", &ANN_BOB), "550 5.7.1 not for you");
    assert!(hop.is_empty());
}

#[test]
fn over_lmtp_each_recipient_has_a_version_and_a_reply() {
    let hop = NextHop::start_lmtp();
    let mut chain = chain(hop.port, "ann", &["--protocol", "lmtp"]);
    let (mut client, _) = Client::connect(chain.proxy.port());
    let mut mail = |sender: &str, recipients: &[&str]| {
        client.say("LHLO client.example");
        client.say(&format!("MAIL FROM:<{sender}@a.example>"));
        for recipient in recipients {
            assert_eq!(client.say(&format!("RCPT TO:<{recipient}>")), "250 2.1.5 ok");
        }
        client.say("DATA");
        client.send(format!("{MAIL}.\r\n").as_bytes());
        recipients.iter().map(|_| client.reply()).collect::<Vec<_>>()
    };
    let three = ["full@b.example", "ann@b.example", "bob@b.example"];
    assert_eq!(
        mail("refuse", &three),
        ["452 4.2.2 is full", "550 5.7.1 not for you", "250 2.0.0 bob@b.example has it"]
    );
    let line = told(&chain.line());
    assert!(
        line.contains(
            "refused: <full@b.example> 452 4.2.2 is full; <ann@b.example> 550 5.7.1 not for you"
        ),
        "{line}"
    );
    assert_eq!(arrived(hop.wait_for(1)), [to("full@b.example bob@b.example", MAIL)]);
    assert_eq!(
        mail("mark", &three),
        ["452 4.2.2 is full", "250 2.0.0 ann@b.example has it", "250 2.0.0 bob@b.example has it"]
    );
    let marked = format!("X-Mark: new\r\n{MAIL}");
    assert_eq!(
        arrived(hop.wait_for(2)),
        [to("ann@b.example", &marked), to("full@b.example bob@b.example", MAIL)]
    );
}

/// A next hop that is lost between two versions: who has one hears so, the others come again.
#[test]
fn a_next_hop_lost_between_two_versions() {
    let hop = NextHop::lmtp_unless(|line| {
        line.starts_with("RCPT TO:<ann@").then_some(Instead::HangUp).filter(|_| is_second(line))
    });
    let chain = chain(hop.port, "ann", &["--protocol", "lmtp"]);
    let (mut client, _) = Client::connect(chain.proxy.port());
    for line in [
        "LHLO x",
        "MAIL FROM:<mark@a.example>",
        "RCPT TO:<ann@b.example>",
        "RCPT TO:<bob@b.example>",
    ] {
        assert!(client.say(line).starts_with("250"), "{line}");
    }
    client.say("DATA");
    client.send(format!("{MAIL}.\r\n").as_bytes());
    let mut replies = [client.reply(), client.reply()];
    replies.sort();
    assert_eq!(
        replies,
        [
            "250 2.0.0 bob@b.example has it",
            "451 4.4.2 The next mail server was lost, try again later"
        ]
    );
    assert!(client.reply().starts_with("421 4.4.1 "));
    assert_eq!(arrived(hop.wait_for(1)), [to("bob@b.example", MAIL)]);
}

/// RCPT for her comes once from the client, and once more with her version.
fn is_second(_line: &str) -> bool {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 0
}

#[test]
fn a_message_waits_as_long_as_services_want() {
    let hop = NextHop::start();
    let mut chain = chain(hop.port, "actor", &STORES);
    for (sender, status, member) in [("hold", "hold", "hold"), ("delay", "delayed", "not_before")] {
        assert_eq!(chain.mail(sender, &ANN_BOB), "250 2.0.0 Ok");
        let line = chain.line();
        assert_eq!(text(&line, "decision"), sender);
        let entries = chain.spool();
        assert_eq!((entries.len(), text(&entries[0], "id")), (1, text(&line, "spooled")));
        assert!(entries[0][member].is_string(), "{}", entries[0]);
        let id = text(&line, "spooled");
        assert!(chain.run(&["spool", "list", "--spool", "spool"]).contains(status));
        assert!(hop.is_empty());
        chain.run(&["spool", "release", "--spool", "spool", &id]);
        assert_eq!(arrived(hop.wait_for(1)), [to("ann@b.example bob@b.example", MAIL)]);
        chain.proxy.wait_for("delivery");
    }
    assert_eq!(chain.mail("soon", &["ann@b.example"]), "250 2.0.0 Ok");
    assert_eq!(arrived(hop.wait_for(1)), [to("ann@b.example", MAIL)], "by itself");
}

#[test]
fn some_is_kept_and_the_rest_goes_on() {
    let hop = NextHop::start();
    let mut chain = chain(hop.port, "ann", &STORES);
    assert_eq!(chain.mail("keep", &ANN_BOB), "250 2.0.0 taken");
    assert_eq!(arrived(hop.wait_for(1)), [to("bob@b.example", MAIL)]);
    let line = chain.line();
    assert_eq!(text(&line, "decision"), "quarantine");
    let id = text(&line, "kept");
    let release = ["quarantine", "release", "--store", "quarantine", "--spool", "spool", &id];
    chain.run(&release);
    assert_eq!(arrived(hop.wait_for(1)), [to("ann@b.example", MAIL)]);
}

/// Nobody has the message unless the next hop takes it for those whom it is sent to.
#[test]
fn what_the_next_hop_refuses_is_not_kept_either() {
    let hop = NextHop::unless(|line| (line == ".").then(|| Instead::say("451 4.3.0 later"))?);
    let mut chain = chain(hop.port, "ann", &STORES);
    assert_eq!(chain.mail("keep", &ANN_BOB), "451 4.3.0 later");
    assert_eq!(
        told(&chain.line()).lines().next(),
        Some("tempfail <keep@a.example> -> <ann@b.example> <bob@b.example>")
    );
    assert_eq!(chain.run(&["quarantine", "list", "--store", "quarantine", "--json"]), "");
}

/// OPES-4496-4.7-01
#[test]
fn another_next_hop_where_that_is_allowed() {
    let (hop, other) = (NextHop::start(), NextHop::start());
    let allowed = format!("127.0.0.1:{}", other.port);
    let mut chain = chain(hop.port, "ann", &[&STORES[..], &["--route", &allowed]].concat());
    assert_eq!(chain.mail(&format!("route-{}", other.port), &ANN_BOB), "250 2.0.0 Ok");
    assert_eq!(arrived(other.wait_for(1)), [to("ann@b.example", MAIL)]);
    assert_eq!(arrived(hop.wait_for(1)), [to("bob@b.example", MAIL)]);
    assert_eq!(text(&chain.line(), "decision"), "modify");
    assert_eq!(
        chain.mail("route-1", &ANN_BOB),
        "451 4.3.0 Message could not be checked, try again later"
    );
    let line = told(&chain.line());
    assert!(line.contains("failure: the next hop 127.0.0.1:1 is not allowed (--route)"), "{line}");
    assert!(hop.is_empty() && other.is_empty());
}

/// OPES-4902-3.1-09
#[test]
fn what_is_not_allowed_is_refused_by_nobody_else() {
    let hop = NextHop::start();
    let system = "[system]\nuri = \"https://opes.example.org/\"\nname = \"mx1\"\n";
    let route = format!("127.0.0.1:{}", hop.port);
    let more = [&STORES[..], &["--route", &route]].concat();
    let chain = chain_of(system, hop.port, "actor", &more);
    let refused = chain.mail("refuse", &ANN_BOB);
    assert!(
        refused.starts_with("550 5.7.1 not for you [opes https://opes.example.org/ "),
        "{refused}"
    );
    assert_eq!(
        chain.mail("route-1", &ANN_BOB),
        "451 4.3.0 Message could not be checked, try again later"
    );
    assert!(hop.is_empty());
}

#[test]
fn a_service_closes_the_dialog() {
    let hop = NextHop::start();
    let chain = chain(hop.port, "actor", &[]);
    for (sender, first) in [("away", Some("550 5.7.1 go away")), ("leave", None)] {
        let mut client = Client::greeted(chain.proxy.port());
        client.send(format!("MAIL FROM:<{sender}@a.example>\r\nNOOP\r\n").as_bytes());
        if let Some(first) = first {
            assert_eq!(client.reply(), first);
        }
        assert_eq!(client.reply(), "421 4.7.0 Closing");
        assert_eq!(client.reply(), "", "nothing else is heard");
    }
}

#[test]
fn a_service_of_one_recipient_closes_the_dialog() {
    let hop = NextHop::start();
    let chain = chain(hop.port, "ann", &STORES);
    let mut client = Client::greeted(chain.proxy.port());
    assert_eq!(client.mail("last@a.example", &ANN_BOB, MAIL.as_bytes()), "250 2.0.0 Ok");
    assert_eq!(client.reply(), "421 4.7.0 Closing");
    assert_eq!(hop.wait_for(1).len(), 1);
}

/// A client that asks for a reply for each recipient gets one, whatever the next hop can.
#[test]
fn prdr_has_a_reply_for_each_recipient() {
    let hop = NextHop::start();
    let mut chain = chain(hop.port, "ann", &[]);
    let (mut client, _) = Client::connect(chain.proxy.port());
    assert!(client.say("EHLO client.example").contains("\n250-PRDR\n"));
    let mut mail = |sender: &str, last: usize| {
        let mut line = format!("MAIL FROM:<{sender}@a.example> PRDR");
        for recipient in ["", "ann@b.example", "bob@b.example"] {
            if !recipient.is_empty() {
                line = format!("RCPT TO:<{recipient}>");
            }
            assert!(client.say(&line).starts_with("250 "), "{line}");
        }
        client.say("DATA");
        client.send(format!("{MAIL}.\r\n").as_bytes());
        (0..last).map(|_| client.reply()).collect::<Vec<_>>()
    };
    assert_eq!(
        mail("refuse", 4),
        [
            "353 Each recipient's reply follows",
            "550 5.7.1 not for you",
            "250 2.0.0 taken",
            "250 2.0.0 Ok for some recipients"
        ]
    );
    assert_eq!(arrived(hop.wait_for(1)), [to("bob@b.example", MAIL)]);
    let line = told(&chain.line());
    assert!(line.contains("refused: <ann@b.example> 550 5.7.1 not for you"), "{line}");
    assert_eq!(mail("mark", 1), ["250 2.0.0 taken"], "one is enough where they are the same");
    let marked = format!("X-Mark: new\r\n{MAIL}");
    assert_eq!(arrived(hop.wait_for(2)), [to("ann@b.example", &marked), to("bob@b.example", MAIL)]);
}

#[test]
fn prdr_reaches_a_next_hop_that_speaks_it() {
    let hop = NextHop::unless(|line| match line {
        "EHLO client.example" => Instead::say("250-next.example\r\n250 PRDR"),
        "." => {
            Instead::say("353 wait\r\n250 2.0.0 for one\r\n550 5.7.1 not for two\r\n250 2.0.0 some")
        }
        _ => None,
    });
    let chain = chain(hop.port, "ann", &[]);
    let mut client = Client::greeted(chain.proxy.port());
    client.say("MAIL FROM:<a@a.example> PRDR");
    client.say("RCPT TO:<one@b.example>");
    client.say("RCPT TO:<two@b.example>");
    client.say("DATA");
    client.send(format!("{MAIL}.\r\n").as_bytes());
    let replies: Vec<_> = (0..4).map(|_| client.reply()).collect();
    assert_eq!(
        replies,
        [
            "353 Each recipient's reply follows",
            "250 2.0.0 for one",
            "550 5.7.1 not for two",
            "250 2.0.0 Ok for some recipients"
        ]
    );
    assert_eq!(client.say("NOOP"), "250 ok");
}

/// In front of Postfix's own queue: Postfix's client hears one reply, and each of its recipients gets their own.
#[test]
fn two_versions_through_postfix() {
    if !postfix::is_there() {
        return not_run(
            "two versions through Postfix",
            "there is no Postfix, or no root to start it",
        );
    }
    let hop = NextHop::start();
    let folder = tempfile::tempdir().expect("a folder");
    let again = Port::default().and("smtpd_authorized_xforward_hosts=127.0.0.0/8");
    let behind = Postfix::start(folder.path(), &[again], hop.port, &[]);
    let mut chain = chain(behind.ports[0], "ann", &STORES);
    assert_eq!(chain.mail("mark", &ANN_BOB), "250 2.0.0 Ok");
    let mails = hop.wait_for(2);
    let of = |name: &str| {
        let mail = mails.iter().find(|mail| mail.recipients == [name]).expect("it has arrived");
        String::from_utf8_lossy(mail.without_received()).into_owned()
    };
    assert_eq!(of("ann@b.example"), format!("X-Mark: new\r\n{MAIL}"));
    assert_eq!(of("bob@b.example"), MAIL);
    assert_eq!(text(&chain.line(), "decision"), "modify");
}
