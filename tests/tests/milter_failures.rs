//! Callout servers that are away, late, or not the same any more, behind a real Postfix: mail is put off or
//! waits, never lost and never unscanned.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::time::Duration;

use ocp_proto::smtp::Command;
use services::mail::Edits;
use services::{Change, Declaration, Finding, Outcome, Request};
use tests::gateway::{Gateway, told};
use tests::scripted::{Script, Scripted, reply, sender};
use tests::smtp::Client;
use tests::text;

const MAIL: &[u8] = b"Subject: x\r\n\r\nbody\r\n";
const PUT_OFF: &str = "451 4.3.0 Message could not be checked, try again later";

/// A server's life ends before this answer.
const FOR_EVER: Duration = Duration::from_secs(3_600);

/// Marks messages; thinks for ever about those of `hold`.
fn marker() -> Script {
    let declaration = Declaration::on([Command::Message]);
    Script { name: "mark", declaration, answer: |request| mark(request, FOR_EVER) }
}

/// The same server after a restart: it answers everybody.
fn restarted() -> Script {
    Script { answer: |request| mark(request, Duration::ZERO), ..marker() }
}

fn mark(request: &Request, hold: Duration) -> (Duration, Outcome) {
    let mut edits = Edits::new();
    request.mail().iter().for_each(|mail| edits.prepend_field(mail, "X-Mark", "1"));
    let time = if sender(request) == "hold" { hold } else { Duration::ZERO };
    (time, Outcome::changed(Change::Content(edits), "marked"))
}

/// Refuses the sender `bad`, and wants no content.
fn guard() -> Script {
    let answer = |request: &Request| {
        let outcome = match sender(request).as_str() {
            "bad" => Outcome::changed(Change::Reply(reply("553 5.1.8 not you\r\n")), "refused"),
            _ => Outcome::unchanged(Finding::new("passed")),
        };
        (Duration::ZERO, outcome)
    };
    Script { name: "mark", declaration: Declaration::on([Command::Mail]), answer }
}

fn gateway(story: &str, server: &Scripted, more: &str) -> Option<Gateway> {
    let config = format!(
        "[[group]]\nname = \"mark\"\nservices = [\"mark\"]\nservers = [\"{}\"]\n{more}",
        server.address
    );
    Gateway::start(story, &config, &[])
}

fn marked() -> Vec<u8> {
    [b"X-Mark: 1\r\n", MAIL].concat()
}

#[test]
fn without_a_server_mail_is_put_off_and_the_log_says_why() {
    let server = Scripted::start(&[marker()]);
    let address = server.address.clone();
    let Some(mut gateway) =
        gateway("a callout server that is down", &server, "overload = \"tempfail\"\n")
    else {
        return;
    };
    drop(server);
    let mut client = Client::greeted(gateway.port());
    assert_eq!(client.mail("a@a.example", &["b@b.example"], MAIL), PUT_OFF);
    let failed = gateway.milter.wait_for("adaptation failed");
    assert_eq!(text(&failed, "services"), "ocp://service/mark", "{failed}");
    assert_eq!(
        (text(&failed, "event"), text(&failed, "stage")),
        ("MESSAGE".into(), "start".into())
    );
    let cause = text(&failed, "cause");
    assert!(cause.contains(&address), "{failed}");
    assert!(failed["milliseconds"].is_u64() && failed["policy"] == "tempfail", "{failed}");
    let line = gateway.milter.wait_for("message");
    let envelope = "<a@a.example> -> <b@b.example>";
    let failure = format!("failure: MESSAGE, start: {cause}");
    assert_eq!(told(&line), format!("tempfail {envelope}\nreason: {PUT_OFF}\n{failure}"));

    // The same session, once the server is back; nothing of the failure is left.
    let _server = Scripted::start_at(&address, &[restarted()]);
    gateway.milter.wait_for("the server is there");
    let reply = client.mail("a@a.example", &["b@b.example"], MAIL);
    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
    assert_eq!(gateway.told(), format!("modify {envelope}\nverdicts: mark=marked"));
    assert_eq!(gateway.hop.wait_for(1)[0].without_received(), marked());
    assert!(gateway.hop.is_empty());
}

#[test]
fn a_server_that_is_late_is_not_waited_for() {
    let server = Scripted::start(&[marker()]);
    let Some(mut gateway) =
        gateway("a callout server that is slow", &server, "content-deadline = 1\n")
    else {
        return;
    };
    let mut client = Client::greeted(gateway.port());
    assert_eq!(client.mail("hold@a.example", &["b@b.example"], MAIL), PUT_OFF);
    let failure = "failure: MESSAGE, waiting for the answer: no answer within 1s";
    let expected =
        format!("tempfail <hold@a.example> -> <b@b.example>\nreason: {PUT_OFF}\n{failure}");
    assert_eq!(gateway.told(), expected);
    let reply = client.mail("a@a.example", &["b@b.example"], MAIL);
    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
    assert_eq!(gateway.hop.wait_for(1)[0].without_received(), marked());
}

#[test]
fn a_server_restarted_in_mid_mail_gets_the_mail_again() {
    let server = Scripted::start(&[marker()]);
    let address = server.address.clone();
    let Some(mut gateway) = gateway("a callout server restarted in mid-mail", &server, "") else {
        return;
    };
    let mut client = Client::greeted(gateway.port());
    client.say("MAIL FROM:<hold@a.example>");
    client.say("RCPT TO:<b@b.example>");
    client.say("DATA");
    client.send(&[MAIL, b".\r\n"].concat());
    assert_eq!(server.next_event(), "MESSAGE mark");
    drop(server);
    let server = Scripted::start_at(&address, &[restarted()]);
    let reply = client.reply();
    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
    assert_eq!(server.next_event(), "MESSAGE mark");
    let expected = "modify <hold@a.example> -> <b@b.example>\nverdicts: mark=marked";
    assert_eq!(gateway.told(), expected);
    assert_eq!(gateway.hop.wait_for(1)[0].without_received(), marked());
}

#[test]
fn a_server_that_wants_more_than_before_is_heard_at_the_end() {
    // Postfix was told that nobody answers MAIL; now somebody does.
    let server = Scripted::start(&[marker()]);
    let address = server.address.clone();
    let Some(mut gateway) = gateway("a callout server that wants more", &server, "") else {
        return;
    };
    let mut client = Client::greeted(gateway.port());
    drop(server);
    let server = Scripted::start_at(&address, &[guard()]);
    gateway.milter.wait_for("the server is there");
    assert_eq!(client.mail("bad@a.example", &["b@b.example"], MAIL), "553 5.1.8 not you");
    assert_eq!(
        gateway.told(),
        "reject <bad@a.example> -> -\nreason: 553 5.1.8 not you\nverdicts: mark=refused"
    );
    // It is no matter of the next message.
    let reply = client.mail("good@a.example", &["b@b.example"], MAIL);
    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
    assert_eq!(gateway.told(), "accept <good@a.example> -> <b@b.example>\nverdicts: mark=passed");
    assert_eq!(gateway.hop.wait_for(1)[0].without_received(), MAIL);

    // Postfix does not send content in this session; now somebody wants it.
    let mut client = Client::greeted(gateway.port());
    drop(server);
    let _server = Scripted::start_at(&address, &[marker()]);
    gateway.milter.wait_for("the server is there");
    assert_eq!(client.mail("a@a.example", &["b@b.example"], MAIL), PUT_OFF);
    let failure = "failure: no server wanted content when the mail server connected";
    let expected = format!("tempfail <a@a.example> -> <b@b.example>\nreason: {PUT_OFF}\n{failure}");
    assert_eq!(gateway.told(), expected);
    let mut client = Client::greeted(gateway.port());
    let reply = client.mail("a@a.example", &["b@b.example"], MAIL);
    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
    assert_eq!(gateway.hop.wait_for(1)[0].without_received(), marked());
}

#[test]
fn a_mail_server_that_goes_away_leaves_a_line() {
    let server = Scripted::start(&[marker()]);
    let config = format!(
        "[[group]]\nname = \"mark\"\nservices = [\"mark\"]\nservers = [\"{}\"]\n",
        server.address
    );
    let story = "a mail server that does not wait";
    // Less than the ten seconds in which it would hear of progress.
    let Some(mut gateway) = Gateway::start(story, &config, &["milter_content_timeout = 1s"]) else {
        return;
    };
    let mut client = Client::greeted(gateway.port());
    let reply = client.mail("hold@a.example", &["b@b.example"], MAIL);
    assert_eq!(reply, "451 4.7.1 Service unavailable - try again later");
    assert_eq!(gateway.told(), "abandoned <hold@a.example> -> <b@b.example>");
    let broke = gateway.milter.wait_for("the mail server's connection broke");
    assert_eq!(text(&broke, "cause"), "the MTA went away in the middle of the end of the message");
    assert!(gateway.hop.is_empty());
}
