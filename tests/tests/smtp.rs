//! `opes-mta smtp` between a client and the next hop, alone and behind a real Postfix.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::net::Ipv4Addr;
use std::time::Duration;

use ocp_proto::smtp::{Command, CommandLine, EffectName, SideEffect};
use services::mail::{Edits, Mail};
use services::{Change, Declaration, Finding, Outcome, Request};
use tests::actor::config;
use tests::gateway::told;
use tests::postfix::{self, Port, Postfix};
use tests::scripted::{Script, Scripted, address, reply, sender};
use tests::smtp::{Client, NextHop, is_queued};
use tests::{Milter, not_run, text};

const MAIL: &str =
    "From: a@a.example\r\nSubject:  spaces\r\n\tand a fold\r\n\r\nfirst\r\n.dot\r\n..\r\nlast\r\n";

/// Does at each stage what the client, the sender or the recipient is called after.
fn actor() -> Script {
    let declaration = Declaration {
        effects: vec![
            EffectName::AddRecipient,
            EffectName::DeleteRecipient,
            EffectName::ChangeSender,
            EffectName::Discard,
            EffectName::Quarantine,
        ],
        ..Declaration::on([
            Command::Connect,
            Command::Helo,
            Command::Mail,
            Command::Rcpt,
            Command::Data,
            Command::Message,
        ])
    };
    Script { name: "actor", declaration, answer: act }
}

fn act(request: &Request) -> (Duration, Outcome) {
    let passed = Outcome::unchanged(Finding::new("passed"));
    let line = request.line().map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned());
    let line = line.unwrap_or_default();
    let refused = |lines| Outcome::changed(Change::Reply(reply(lines)), "refused");
    let command = |line: &str| {
        let line = CommandLine::new(line.to_owned()).expect("it is a line");
        Outcome::changed(Change::Command(line), "rewritten")
    };
    let client = request.dialog.client_address.as_deref().unwrap_or_default();
    let outcome = match (&request.command, sender(request).as_str()) {
        (Command::Connect, _) if client == b"127.0.0.2" => refused("554 5.7.1 not from there\r\n"),
        (Command::Helo, _) if line == "HELO bad.example" => refused("550 5.7.1 not your name\r\n"),
        (Command::Mail, "refused") => refused("553 5.1.8 unknown sender\r\n"),
        (Command::Mail, "old") => command("MAIL FROM:<new@a.example> RET=HDRS"),
        (Command::Rcpt, _) if line.contains("nobody") => refused("550 5.1.1 nobody here\r\n"),
        (Command::Rcpt, _) if line.contains("alias") => command("RCPT TO:<real@b.example>"),
        (Command::Data, "data") => refused("554 5.7.1 no content from you\r\n"),
        (Command::Message, "bad") => refused("554 5.6.0 is bad\r\n"),
        (Command::Message, "mark") => edited(request, |edits, mail| {
            edits.prepend_field(mail, "X-Mark", "new");
        }),
        (Command::Message, "body") => edited(request, |edits, mail| {
            edits.replace(mail.header().len()..mail.len(), "new\r\n.\r\n".into());
        }),
        (Command::Message, "add") => {
            passed.with_effect(SideEffect::AddRecipient(address("added@b.example")))
        }
        (Command::Message, "delete") => {
            passed.with_effect(SideEffect::DeleteRecipient(address("c@b.example")))
        }
        (Command::Message, "sender") => {
            passed.with_effect(SideEffect::ChangeSender(address("other@a.example")))
        }
        (Command::Message, "bare") => edited(request, |edits, mail| {
            edits.replace(mail.header().len()..mail.len(), "one\ntwo\r\n".into());
        }),
        (Command::Message, "odd") => edited(request, |edits, mail| {
            edits.prepend_field(mail, "X-Odd", "yes");
        })
        .with_effect(SideEffect::Quarantine("looks odd".into())),
        (Command::Message, "discard") => passed.with_effect(SideEffect::Discard("x".into())),
        _ => passed,
    };
    (Duration::ZERO, outcome)
}

fn edited(request: &Request, edit: impl FnOnce(&mut Edits, &Mail)) -> Outcome {
    let mut edits = Edits::new();
    edit(&mut edits, request.mail().expect("it is about content"));
    Outcome::changed(Change::Content(edits), "edited")
}

struct Chain {
    _server: Scripted,
    proxy: Milter,
    hop: NextHop,
    _folder: tempfile::TempDir,
}

/// A client reaches the proxy itself.
fn chain(more: &str) -> Chain {
    let server = Scripted::start(&[actor()]);
    let folder = tempfile::tempdir().expect("a folder");
    let hop = NextHop::start();
    let config = format!("{}{more}", config(&server));
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let proxy = Milter::start_proxy("127.0.0.1:0", &next_hop, folder.path(), &config);
    Chain { _server: server, proxy, hop, _folder: folder }
}

impl Chain {
    fn told(&mut self) -> String {
        told(&self.proxy.wait_for("message"))
    }
}

#[test]
fn what_services_make_of_mail_is_what_the_next_hop_gets() {
    let mut chain = chain("");
    let mut client = Client::greeted(chain.proxy.port());
    let cases = [
        ("accept", "accept", MAIL.to_owned(), "accept", &["b@b.example", "c@b.example"][..]),
        (
            "mark",
            "mark",
            format!("X-Mark: new\r\n{MAIL}"),
            "modify",
            &["b@b.example", "c@b.example"],
        ),
        (
            "body",
            "body",
            format!(
                "{}\r\nnew\r\n.\r\n",
                MAIL.split_inclusive("fold\r\n").next().expect("a header")
            ),
            "modify",
            &["b@b.example", "c@b.example"],
        ),
        (
            "add",
            "add",
            MAIL.to_owned(),
            "modify",
            &["b@b.example", "c@b.example", "added@b.example"],
        ),
        ("delete", "delete", MAIL.to_owned(), "modify", &["b@b.example"]),
        ("sender", "other", MAIL.to_owned(), "modify", &["b@b.example", "c@b.example"]),
        ("old", "new", MAIL.to_owned(), "modify", &["b@b.example", "c@b.example"]),
    ];
    for (sender, sent_by, expected, decision, recipients) in cases {
        let from = format!("{sender}@a.example");
        let reply = client.mail(&from, &["b@b.example", "c@b.example"], MAIL.as_bytes());
        assert_eq!(reply, "250 2.0.0 taken", "{sender}");
        let delivered = chain.hop.wait_for(1).remove(0);
        assert_eq!(String::from_utf8_lossy(&delivered.octets), expected, "{sender}");
        assert_eq!(delivered.sender, format!("{sent_by}@a.example"));
        assert_eq!(delivered.recipients, recipients, "{sender}");
        let line = chain.told();
        let envelope = format!("{decision} <{from}> -> <b@b.example> <c@b.example>\n");
        assert!(line.starts_with(&envelope), "{line}");
    }
    // Of an address that was rewritten the parameters are the service's.
    client.say("MAIL FROM:<old@a.example>");
    assert_eq!(client.say("RCPT TO:<alias@b.example>"), "250 2.1.5 ok");
    assert_eq!(client.data(MAIL.as_bytes()), "250 2.0.0 taken");
    let delivered = chain.hop.wait_for(1).remove(0);
    assert_eq!(
        (&delivered.sender[..], &delivered.recipients[..]),
        ("new@a.example", &["real@b.example".to_owned()][..])
    );
    assert_eq!(delivered.parameters[0], "RET=HDRS");
    assert!(chain.hop.is_empty());
}

#[test]
fn refusals_reach_the_client_and_nothing_the_next_hop() {
    let mut chain = chain("");
    let port = chain.proxy.port();
    let mut client = Client::greeted(port);
    assert_eq!(client.say("MAIL FROM:<refused@a.example>"), "553 5.1.8 unknown sender");
    assert!(chain.told().starts_with("reject <refused@a.example> -> -\nreason: 553 5.1.8 "));
    assert_eq!(client.say("MAIL FROM:<data@a.example>"), "250 2.1.0 ok");
    assert_eq!(client.say("RCPT TO:<nobody@b.example>"), "550 5.1.1 nobody here");
    assert_eq!(client.say("RCPT TO:<b@b.example>"), "250 2.1.5 ok");
    assert_eq!(client.say("DATA"), "554 5.7.1 no content from you");
    let line = chain.told();
    assert!(line.starts_with("reject <data@a.example> -> <b@b.example>\n"), "{line}");
    assert!(line.contains("\nrefused: <nobody@b.example> 550 5.1.1 nobody here"), "{line}");
    // Whoever sends it all the same is not let by.
    assert_eq!(client.say("DATA"), "354 End data with <CR><LF>.<CR><LF>");
    client.send(b"Subject: x\r\n\r\nx\r\n.\r\n");
    assert_eq!(client.reply(), "501 5.5.4 This can't be checked");
    assert_eq!(client.say("RSET"), "250 ok");
    assert_eq!(client.mail("bad@a.example", &["b@b.example"], MAIL.as_bytes()), "554 5.6.0 is bad");
    assert!(chain.told().starts_with("reject <bad@a.example> -> <b@b.example>\n"));
    // Taken, and goes nowhere.
    assert_eq!(client.mail("discard@a.example", &["b@b.example"], MAIL.as_bytes()), "250 2.0.0 Ok");
    assert!(chain.told().starts_with("discard <discard@a.example> -> <b@b.example>\n"));
    assert_eq!(client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes()), "250 2.0.0 taken");
    assert_eq!(chain.hop.wait_for(1)[0].octets, MAIL.as_bytes());
    assert!(chain.hop.is_empty());
}

/// Nobody who could be anybody is heard when he speaks for others.
#[test]
fn clients_are_refused_by_where_they_are() {
    let server = Scripted::start(&[actor()]);
    let folder = tempfile::tempdir().expect("a folder");
    let hop = NextHop::start();
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let arguments = ["--listen", "127.0.0.1:0", "--trust", "unix", "--next-hop", &next_hop];
    let proxy = Milter::start_proxy_with(&arguments, folder.path(), &config(&server));
    let (_, greeting) = Client::connect_from(Ipv4Addr::new(127, 0, 0, 2), proxy.port());
    assert_eq!(greeting, "554 5.7.1 not from there");
    let (mut client, greeting) = Client::connect(proxy.port());
    assert_eq!(greeting, "220 next.example ESMTP");
    assert_eq!(client.say("EHLO bad.example"), "550 5.7.1 not your name");
    let offered = "250-next.example\n250-8BITMIME\n250-DSN\n250-SMTPUTF8\n250-PIPELINING\n250-CHUNKING\n250-PRDR\n\
         250 XOPES-BYPASS";
    assert_eq!(client.say("EHLO client.example"), offered);
    assert_eq!(client.say("XFORWARD ADDR=192.0.2.1"), "550 5.7.0 You may not speak for others");
    assert_eq!(client.say("STARTTLS"), "502 5.5.1 This command does not get through here");
    assert_eq!(client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes()), "250 2.0.0 taken");
}

/// A service must not make two messages of one either.
#[test]
fn what_services_make_is_smuggled_neither() {
    let mut chain = chain("");
    let mut client = Client::greeted(chain.proxy.port());
    let reply = client.mail("bare@a.example", &["b@b.example"], MAIL.as_bytes());
    assert_eq!(reply, "554 5.6.0 The message can't be passed on as it was adapted");
    let line = chain.told();
    assert!(
        line.starts_with("reject <bare@a.example> -> <b@b.example>\nreason: 554 5.6.0 "),
        "{line}"
    );
    assert!(chain.hop.is_empty());
}

/// What is kept goes nowhere until somebody releases it, and then once.
#[test]
fn what_is_kept_is_released_once() {
    let server = Scripted::start(&[actor()]);
    let folder = tempfile::tempdir().expect("a folder");
    let hop = NextHop::start();
    let (quarantine, spool) = (folder.path().join("quarantine"), folder.path().join("spool"));
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let stores = ["--quarantine", "quarantine", "--spool", "spool"];
    let arguments = [&["--listen", "127.0.0.1:0", "--next-hop", &next_hop], &stores[..]].concat();
    let mut proxy = Milter::start_proxy_with(&arguments, folder.path(), &config(&server));
    let mut client = Client::greeted(proxy.port());
    let recipients = ["b@b.example", "c@b.example"];
    assert_eq!(client.mail("odd@a.example", &recipients, MAIL.as_bytes()), "250 2.0.0 Ok");
    let line = told(&proxy.wait_for("message"));
    assert!(
        line.starts_with("quarantine <odd@a.example> -> <b@b.example> <c@b.example>"),
        "{line}"
    );
    assert_eq!(client.mail("a@a.example", &["d@b.example"], MAIL.as_bytes()), "250 2.0.0 taken");
    assert_eq!(hop.wait_for(1)[0].recipients, ["d@b.example"]);

    let run = |arguments: &[&str]| {
        let mut command = tests::program("opes-mta");
        command.arg("quarantine").args(arguments).arg("--store").arg(&quarantine);
        if arguments[0] == "release" {
            command.arg("--spool").arg(&spool);
        }
        let output = command.output().expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let (code, listed) = run(&["list", "--json"]);
    assert_eq!((code, listed.lines().count()), (Some(0), 1), "{listed}");
    let kept: serde_json::Value = serde_json::from_str(&listed).expect("it is JSON");
    assert_eq!(
        (text(&kept, "reason"), text(&kept["client"], "address")),
        ("looks odd".into(), "127.0.0.1".into())
    );
    let id = text(&kept, "id");
    assert_eq!(run(&["release", &id]).0, Some(0));
    let delivered = hop.wait_for(1).remove(0);
    assert_eq!(
        (&delivered.sender[..], &delivered.recipients[..]),
        ("odd@a.example", &recipients.map(str::to_owned)[..])
    );
    assert_eq!(String::from_utf8_lossy(&delivered.octets), format!("X-Odd: yes\r\n{MAIL}"));
    proxy.wait_for("delivery");
    run(&["release", &id]);
    proxy.terminate();
    assert_eq!(proxy.ended().0, Some(0));
    assert!(hop.is_empty(), "it is released once");
}

/// Whoever speaks for a client that is refused hears so at each of its messages, until he speaks for another.
#[test]
fn a_client_that_was_refused_stays_so_by_any_name() {
    let chain = chain("");
    let mut client = Client::greeted(chain.proxy.port());
    assert_eq!(client.say("XFORWARD ADDR=127.0.0.2 NAME=a.example"), "250 2.0.0 Ok");
    for name in ["client.example", "other.example"] {
        assert_eq!(client.say("MAIL FROM:<a@a.example>"), "554 5.7.1 not from there", "{name}");
        assert_eq!(client.say(&format!("EHLO {name}")), "554 5.7.1 not from there");
    }
    assert_eq!(client.say("XFORWARD ADDR=127.0.0.3"), "250 2.0.0 Ok");
    assert_eq!(client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes()), "250 2.0.0 taken");
    assert_eq!(chain.hop.wait_for(1).len(), 1);
}

#[test]
fn commands_come_together_and_content_in_chunks() {
    let chain = chain("");
    let mut client = Client::greeted(chain.proxy.port());
    client.send(b"MAIL FROM:<mark@a.example> BODY=8BITMIME\r\nRCPT TO:<nobody@b.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n");
    let replies: Vec<_> = (0..4).map(|_| client.reply()).collect();
    assert_eq!(
        replies,
        [
            "250 2.1.0 ok",
            "550 5.1.1 nobody here",
            "250 2.1.5 ok",
            "354 End data with <CR><LF>.<CR><LF>",
        ]
    );
    client
        .send(b"Subject: x\r\n\r\n..\r\n.\r\nMAIL FROM:<a@a.example>\r\nRCPT TO:<c@b.example>\r\n");
    let replies: Vec<_> = (0..3).map(|_| client.reply()).collect();
    assert_eq!(replies, ["250 2.0.0 taken", "250 2.1.0 ok", "250 2.1.5 ok"]);
    client.send(b"BDAT 12\r\nSubject: y\r\nBDAT 8 LAST\r\n\r\n.\r\nz\r\n");
    assert_eq!(client.reply(), "250 2.0.0 Octets received");
    assert_eq!(client.reply(), "250 2.0.0 taken");
    let delivered = chain.hop.wait_for(2);
    assert_eq!(
        String::from_utf8_lossy(&delivered[0].octets),
        "X-Mark: new\r\nSubject: x\r\n\r\n.\r\n"
    );
    assert_eq!(delivered[0].parameters[0], "BODY=8BITMIME");
    assert_eq!(String::from_utf8_lossy(&delivered[1].octets), "Subject: y\r\n\r\n.\r\nz\r\n");
}

/// Nothing but CRLF.CRLF ends content, and what somebody else could take for its end goes nowhere.
#[test]
fn nothing_is_smuggled() {
    let chain = chain("");
    for end in ["\n.\n", "\n.\r\n", "\r.\r", "\r\n.\n", "\r\n.\r", "\r.\r\n"] {
        let mut client = Client::greeted(chain.proxy.port());
        client.say("MAIL FROM:<a@a.example>");
        client.say("RCPT TO:<b@b.example>");
        client.say("DATA");
        let smuggled = "MAIL FROM:<admin@a.example>\r\nRCPT TO:<c@b.example>\r\nDATA\r\nx\r\n.\r\n";
        client.send(format!("Subject: x\r\n\r\nx{end}{smuggled}").as_bytes());
        assert_eq!(
            client.reply(),
            "550 5.6.0 A line of the message ends with CR or LF alone",
            "{end:?}"
        );
        assert_eq!(client.say("NOOP"), "250 ok");
    }
    assert!(chain.hop.is_empty());
}

#[test]
fn without_a_next_hop_nothing_is_taken() {
    let server = Scripted::start(&[actor()]);
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("none");
    let next_hop = format!("unix:{}", socket.display());
    let mut proxy = Milter::start_proxy("127.0.0.1:0", &next_hop, folder.path(), &config(&server));
    let (_, greeting) = Client::connect(proxy.port());
    assert_eq!(greeting, "421 4.4.1 The next mail server is not there, try again later");
    let line = proxy.wait_for("the dialog of a client broke");
    assert!(text(&line, "cause").contains(&next_hop), "{line}");
}

#[test]
fn what_is_too_large_is_refused() {
    let mut chain = chain("[limits]\nmessage-octets = 60000\n");
    let mut client = Client::greeted(chain.proxy.port());
    let large = format!("Subject: x\r\n\r\n{}", "0123456789\r\n".repeat(6_000));
    let reply = client.mail("a@a.example", &["b@b.example"], large.as_bytes());
    assert_eq!(reply, "552 5.3.4 The message is too large");
    let line = chain.told();
    assert!(line.contains("failure: the message has more than 60000 octets"), "{line}");
    assert_eq!(client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes()), "250 2.0.0 taken");
}

/// In front of Postfix's own queue: what services see is what Postfix's client is, and Postfix takes the mail
/// only if the next hop, which is Postfix again, has taken it.
#[test]
fn it_is_the_proxy_filter_of_postfix() {
    if !postfix::is_there() {
        return not_run(
            "the proxy filter of Postfix",
            "there is no Postfix, or no root to start it",
        );
    }
    let server = Scripted::start(&[actor()]);
    let folder = tempfile::tempdir().expect("a folder");
    let hop = NextHop::start();
    let ports = [
        Port::default().and("smtpd_proxy_filter=unix:proxy"),
        Port::default().and("smtpd_authorized_xforward_hosts=127.0.0.0/8"),
    ];
    let postfix = Postfix::start(folder.path(), &ports, hop.port, &[]);
    let socket = format!("unix:{}/postfix/queue/proxy", folder.path().display());
    let next_hop = format!("127.0.0.1:{}", postfix.ports[1]);
    let mut proxy = Milter::start_proxy(&socket, &next_hop, folder.path(), &config(&server));
    let mut client = Client::greeted(postfix.ports[0]);
    let mut mail = |sender: &str| {
        client.mail(&format!("{sender}@a.example"), &["b@b.example"], MAIL.as_bytes())
    };
    assert!(is_queued(&mail("accept")));
    assert_eq!(mail("bad"), "554 5.6.0 is bad");
    assert!(is_queued(&mail("mark")));
    let delivered = hop.wait_for(2);
    assert!(delivered.iter().all(|mail| mail.recipients == ["b@b.example"]));
    let marked = String::from_utf8_lossy(&delivered[1].octets).into_owned();
    assert!(
        marked.contains("X-Mark: new\r\n") && marked.ends_with(MAIL.split_at(MAIL.len() - 20).1),
        "{marked}"
    );
    for (sender, decision) in [("accept", "accept"), ("bad", "reject"), ("mark", "modify")] {
        let line = proxy.wait_for("message");
        assert_eq!(
            (text(&line, "decision"), text(&line, "sender")),
            (decision.to_owned(), format!("<{sender}@a.example>"))
        );
        assert_eq!(text(&line, "client"), "127.0.0.1", "{line}");
    }
    let (mut client, _) = Client::connect_from(Ipv4Addr::new(127, 0, 0, 2), postfix.ports[0]);
    client.say("EHLO client.example");
    let reply = client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes());
    assert_eq!(reply, "554 5.7.1 not from there");
    assert!(hop.is_empty());
}
