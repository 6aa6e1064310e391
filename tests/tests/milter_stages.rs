//! Refusals at every stage of a session with a real Postfix, and what its client reads.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::net::Ipv4Addr;
use std::time::Duration;

use ocp_proto::smtp::Command;
use serde_json::Value;
use services::{Change, Declaration, Finding, Outcome, Request};
use tests::gateway::{Gateway, told};
use tests::scripted::{Script, Scripted, reply, sender};
use tests::smtp::Client;

const MAIL: &[u8] = b"Subject: x\r\n\r\nbody\r\n";

/// Refuses clients, names, senders, recipients and mails by what they are called.
fn door() -> Script {
    let events = [
        Command::Connect,
        Command::Helo,
        Command::Mail,
        Command::Rcpt,
        Command::Data,
        Command::Message,
    ];
    Script { name: "door", declaration: Declaration::on(events), answer: at_the_door }
}

fn at_the_door(request: &Request) -> (Duration, Outcome) {
    let line = request.line().map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned());
    let line = line.unwrap_or_default();
    let refused = match request.command {
        Command::Connect if request.dialog.client_address.as_deref() == Some(b"127.0.0.2") => {
            Some("554 5.7.1 not from there\r\n")
        }
        Command::Helo if line == "HELO bad.example" => {
            Some("550-5.7.1 100% sure that\r\n550 5.7.1 this is not your name\r\n")
        }
        Command::Mail if sender(request) == "mail" => Some("553 5.1.8 100% unknown sender\r\n"),
        Command::Rcpt if line == "RCPT TO:<nobody@b.example>" => {
            Some("550-5.1.1 %s is no recipient\r\n550 5.1.1 here\r\n")
        }
        Command::Rcpt if line == "RCPT TO:<later@b.example>" => Some("452 4.2.2 mailbox full\r\n"),
        Command::Data if sender(request) == "data" => Some("554 5.7.1 no content from you\r\n"),
        Command::Message if sender(request) == "end" => {
            Some("554-5.6.0 50%% or\r\n554-5.6.0 more of it\r\n554 5.6.0 is bad\r\n")
        }
        Command::Message if sender(request) == "later" => Some("451 4.7.1 come back later\r\n"),
        _ => None,
    };
    let outcome = match refused {
        Some(lines) => Outcome::changed(Change::Reply(reply(lines)), "refused"),
        None => Outcome::unchanged(Finding::new("passed")),
    };
    (Duration::ZERO, outcome)
}

fn gateway(story: &str) -> Option<(Scripted, Gateway)> {
    let server = Scripted::start(&[door()]);
    let config = format!(
        "[[group]]\nname = \"door\"\nservices = [\"door\"]\nservers = [\"{}\"]\n",
        server.address
    );
    let gateway = Gateway::start(story, &config, &[])?;
    Some((server, gateway))
}

#[test]
fn refusals_reach_the_client_as_they_are() {
    let Some((_server, mut gateway)) = gateway("refusals through Postfix") else { return };
    let port = gateway.port();

    // CONNECT: Postfix greets the client nevertheless, and refuses all that it says.
    let (mut client, greeting) = Client::connect_from(Ipv4Addr::new(127, 0, 0, 2), port);
    assert_eq!(greeting, "554 mx.example ESMTP not accepting connections");
    client.say("EHLO client.example");
    assert_eq!(client.say("MAIL FROM:<a@a.example>"), "554 5.7.1 not from there");
    assert_eq!(
        gateway.told(),
        "reject - -> -\nreason: 554 5.7.1 not from there\nverdicts: door=refused"
    );

    // HELO: Postfix tells of it at the next command.
    let (mut client, _) = Client::connect(port);
    client.say("EHLO bad.example");
    assert_eq!(
        client.say("MAIL FROM:<a@a.example>"),
        "550-5.7.1 100% sure that\n550 5.7.1 this is not your name"
    );
    let reason = "550 5.7.1 100% sure that / 550 5.7.1 this is not your name";
    let expected = format!("reject - -> -\nreason: {reason}\nverdicts: door=refused");
    assert_eq!(gateway.told(), expected);

    let mut client = Client::greeted(port);
    let refused = "553 5.1.8 100% unknown sender";
    assert_eq!(client.say("MAIL FROM:<mail@a.example>"), refused);
    let expected =
        format!("reject <mail@a.example> -> -\nreason: {refused}\nverdicts: door=refused");
    assert_eq!(gateway.told(), expected);

    // Content: some lines, and a `%` that stays one.
    let reply = client.mail("end@a.example", &["b@b.example"], MAIL);
    assert_eq!(reply, "554-5.6.0 50%% or\n554-5.6.0 more of it\n554 5.6.0 is bad");
    let verdicts = "verdicts: door=passed, door=passed, door=passed, door=refused";
    let reason = "554 5.6.0 50%% or / 554 5.6.0 more of it / 554 5.6.0 is bad";
    let expected = format!("reject <end@a.example> -> <b@b.example>\nreason: {reason}\n{verdicts}");
    assert_eq!(gateway.told(), expected);

    let reply = client.mail("later@a.example", &["b@b.example"], MAIL);
    assert_eq!(reply, "451 4.7.1 come back later");
    let expected =
        format!("tempfail <later@a.example> -> <b@b.example>\nreason: {reply}\n{verdicts}");
    assert_eq!(gateway.told(), expected);
    assert!(gateway.hop.is_empty());
}

/// OPES-4496-4.4-01
#[test]
fn a_refused_recipient_is_no_matter_of_the_others() {
    let Some((_server, mut gateway)) = gateway("refused recipients through Postfix") else {
        return;
    };
    let mut client = Client::greeted(gateway.port());
    client.say("MAIL FROM:<>");
    assert_eq!(
        client.say("RCPT TO:<nobody@b.example>"),
        "550-5.1.1 %s is no recipient\n550 5.1.1 here"
    );
    assert_eq!(client.say("RCPT TO:<later@b.example>"), "452 4.2.2 mailbox full");
    assert_eq!(client.say("RCPT TO:<b@b.example>"), "250 2.1.5 Ok");
    let reply = client.data(MAIL);
    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
    let delivered = gateway.hop.wait_for(1).remove(0);
    assert_eq!(
        (&delivered.sender[..], &delivered.recipients[..]),
        ("", &["b@b.example".to_owned()][..])
    );
    assert_eq!(delivered.without_received(), MAIL);
    let verdicts =
        "verdicts: door=passed, door=refused, door=refused, door=passed, door=passed, door=passed";
    let refused = "refused: <nobody@b.example> 550 5.1.1 %s is no recipient / 550 5.1.1 here; \
                   <later@b.example> 452 4.2.2 mailbox full";
    let line = gateway.milter.wait_for("message");
    assert_eq!(told(&line), format!("accept <> -> <b@b.example>\n{refused}\n{verdicts}"));
    assert_eq!(line["refused_count"], 2);

    // Nobody is left: the client gives up, which is what the refusal has come to.
    client.say("MAIL FROM:<a@a.example>");
    client.say("RCPT TO:<later@b.example>");
    drop(client);
    let expected = "tempfail <a@a.example> -> -\nrefused: <later@b.example> 452 4.2.2 mailbox full\n\
                    verdicts: door=passed, door=refused";
    assert_eq!(gateway.told(), expected);
}

#[test]
fn a_session_goes_on_after_a_refusal() {
    let Some((_server, mut gateway)) = gateway("two mails on one connection") else { return };
    let mut client = Client::greeted(gateway.port());
    assert_eq!(client.say("DATA"), "503 5.5.1 Error: need RCPT command");
    client.mail("a@a.example", &["b@b.example"], MAIL);
    let first = gateway.milter.wait_for("message");
    let is_queued = |id: &str| (8..20).contains(&id.len());
    assert!(is_queued(first["queue_id"].as_str().expect("there is one")), "{first}");
    gateway.hop.wait_for(1);

    // The message before has a queue id, this one has none.
    assert_eq!(client.say("MAIL FROM:<mail@a.example>"), "553 5.1.8 100% unknown sender");
    let refused = gateway.milter.wait_for("message");
    assert_eq!((&refused["decision"], &refused["queue_id"]), (&"reject".into(), &Value::Null));

    // DATA without MAIL is not passed on to us, nor is what follows it taken for a message.
    assert_eq!(client.say("DATA"), "503 5.5.1 Error: need RCPT command");
    assert_eq!(client.say("MAIL FROM:<data@a.example>"), "250 2.1.0 Ok");
    assert_eq!(client.say("RCPT TO:<b@b.example>"), "250 2.1.5 Ok");
    assert_eq!(client.say("DATA"), "554 5.7.1 no content from you");
    assert_eq!(
        gateway.told(),
        "reject <data@a.example> -> <b@b.example>\nreason: 554 5.7.1 no content from you\n\
         verdicts: door=passed, door=passed, door=refused"
    );
    // Whoever tries again hears the same, and nothing of it gets by.
    assert_eq!(client.say("DATA"), "554 5.7.1 no content from you");
    assert_eq!(client.say("RCPT TO:<c@b.example>"), "554 5.7.1 no content from you");
    assert_eq!(client.say("DATA"), "554 5.7.1 no content from you");
    assert_eq!(client.say("RSET"), "250 2.0.0 Ok");
    assert_eq!(client.say("DATA"), "503 5.5.1 Error: need RCPT command");

    // What was begun and given up is not part of what follows.
    client.say("MAIL FROM:<a@a.example>");
    client.say("RCPT TO:<one@b.example>");
    // Postfix tells of RSET with the next command.
    client.say("RSET");
    let reply = client.mail("c@a.example", &["two@b.example"], MAIL);
    assert_eq!(
        gateway.told(),
        "abandoned <a@a.example> -> <one@b.example>\nverdicts: door=passed, door=passed"
    );
    let line = gateway.milter.wait_for("message");
    assert!(reply.ends_with(line["queue_id"].as_str().expect("there is one")), "{line} {reply}");
    let verdicts = "verdicts: door=passed, door=passed, door=passed, door=passed";
    assert_eq!(told(&line), format!("accept <c@a.example> -> <two@b.example>\n{verdicts}"));
    let delivered = gateway.hop.wait_for(1).remove(0);
    assert_eq!(delivered.recipients, ["two@b.example"]);
    assert_eq!(delivered.without_received(), MAIL);

    // The MTA goes away in the middle of a message.
    client.say("MAIL FROM:<a@a.example>");
    client.say("RCPT TO:<one@b.example>");
    drop(client);
    assert_eq!(
        gateway.told(),
        "abandoned <a@a.example> -> <one@b.example>\nverdicts: door=passed, door=passed"
    );
    assert!(gateway.hop.is_empty());
}
