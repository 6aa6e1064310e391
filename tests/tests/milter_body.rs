//! Bodies that no service looks at to their end, behind a real Postfix: they are not sent, and arrive as they were.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::time::Duration;

use ocp_proto::smtp::Command;
use services::mail::Edits;
use services::{Change, Content, Declaration, Finding, Outcome, Request};
use tests::gateway::{Gateway, told};
use tests::scripted::{Script, Scripted, sender};
use tests::smtp::Client;

const HEADER: &str = "From: a@a.example\r\nSubject: x\r\n\r\n";

/// Octets that milters get of a body at a time (`MILTER_CHUNK_SIZE`).
const CHUNK: usize = 65_535;

/// Marks the header section, or puts a line in front of the body, as the sender is called.
fn edit(request: &Request) -> (Duration, Outcome) {
    let mail = request.mail().expect("it is asked about messages");
    let mut edits = Edits::new();
    match sender(request).as_str() {
        "mark" => edits.prepend_field(mail, "X-Mark", "new"),
        "front" => edits.insert(mail.header().len(), "in front\r\n".into()),
        _ => return (Duration::ZERO, Outcome::unchanged(Finding::new("passed"))),
    }
    (Duration::ZERO, Outcome::changed(Change::Content(edits), "edited"))
}

fn gateway(story: &str, content: Content, group: &str) -> Option<(Scripted, Gateway)> {
    let declaration = Declaration { content, ..Declaration::on([Command::Message]) };
    let server = Scripted::start(&[Script { name: "editor", declaration, answer: edit }]);
    let config = format!(
        "[[group]]\nname = \"editor\"\nservices = [\"editor\"]\nservers = [\"{}\"]\n{group}\n",
        server.address
    );
    let gateway = Gateway::start(story, &config, &[])?;
    Some((server, gateway))
}

/// A mail of so many lines; how many octets its line in the log says that there were, and what it says.
fn send(gateway: &mut Gateway, sender: &str, lines: usize) -> (String, u64, String) {
    let mail = mail(lines);
    let mut client = Client::greeted(gateway.port());
    let reply = client.mail(&format!("{sender}@a.example"), &["b@b.example"], mail.as_bytes());
    let line = gateway.milter.wait_for("message");
    let octets = line["octets"].as_u64().expect("a number");
    (reply, octets, told(&line))
}

fn mail(lines: usize) -> String {
    format!("{HEADER}{}", "0123456789\r\n".repeat(lines))
}

fn delivered(gateway: &Gateway) -> String {
    String::from_utf8_lossy(gateway.hop.wait_for(1)[0].without_received()).into_owned()
}

fn modified(sender: &str) -> String {
    format!("modify <{sender}@a.example> -> <b@b.example>\nverdicts: editor=edited")
}

#[test]
fn a_body_that_nobody_looks_at_is_not_sent() {
    let Some((_server, mut gateway)) = gateway("header sections alone", Content::Header, "") else {
        return;
    };
    for lines in [0, 1, 20_000] {
        for (sender, expected) in
            [("pass", mail(lines)), ("mark", format!("X-Mark: new\r\n{}", mail(lines)))]
        {
            let (reply, octets, told) = send(&mut gateway, sender, lines);
            assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
            assert!(delivered(&gateway) == expected, "{sender}, {lines} lines");
            assert_eq!(octets, HEADER.len() as u64);
            let decision = if sender == "mark" { "modify" } else { "accept" };
            assert!(told.starts_with(&format!("{decision} <{sender}@a.example>")), "{told}");
        }
    }
    // What stands in front of octets that are not here can't be changed: the failure policy decides.
    let (reply, _, told) = send(&mut gateway, "front", 1);
    assert_eq!(reply, "451 4.3.0 Message could not be checked, try again later");
    let failure = "the body was changed before its end, and the mail server has not sent all of it, \
                   which no service wanted: set whole-body = true for the group";
    assert_eq!(
        told,
        format!(
            "tempfail <front@a.example> -> <b@b.example>\nreason: {reply}\nfailure: {failure}\n\
             verdicts: editor=edited"
        )
    );
}

#[test]
fn the_rest_of_a_body_is_skipped() {
    let Some((_server, mut gateway)) = gateway("fronts of bodies", Content::Prefix(100), "") else {
        return;
    };
    let large = mail(20_000);
    let (_, octets, told) = send(&mut gateway, "mark", 20_000);
    assert_eq!((told, octets), (modified("mark"), (HEADER.len() + CHUNK) as u64));
    assert!(delivered(&gateway) == format!("X-Mark: new\r\n{large}"), "octets are missing");
    // All of it has come with what was wanted, or with what the mail server sends at a time.
    for lines in [1, 8, 9, 5_000] {
        let (_, octets, told) = send(&mut gateway, "mark", lines);
        assert_eq!((told, octets), (modified("mark"), mail(lines).len() as u64));
        assert!(delivered(&gateway) == format!("X-Mark: new\r\n{}", mail(lines)), "{lines} lines");
    }
    // Nothing was left out of this one.
    let (_, _, told) = send(&mut gateway, "front", 8);
    assert_eq!(told, modified("front"));
    let body = mail(8).replacen("\r\n\r\n", "\r\n\r\nin front\r\n", 1);
    assert_eq!(delivered(&gateway), body);
    let (reply, ..) = send(&mut gateway, "front", 20_000);
    assert_eq!(reply, "451 4.3.0 Message could not be checked, try again later");
}

#[test]
fn a_group_may_have_whole_bodies_sent() {
    let group = "whole-body = true";
    let Some((_server, mut gateway)) = gateway("whole bodies", Content::Header, group) else {
        return;
    };
    let (_, octets, told) = send(&mut gateway, "front", 20_000);
    assert_eq!((told, octets), (modified("front"), mail(20_000).len() as u64));
    let expected = mail(20_000).replacen("\r\n\r\n", "\r\n\r\nin front\r\n", 1);
    assert!(delivered(&gateway) == expected, "it arrives otherwise");
}
