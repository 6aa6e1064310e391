//! Answers that hold for a while, and envelopes that are done early, with a scripted server.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[allow(dead_code, reason = "other tests play the rest")]
mod support;

use std::time::Duration;

use bytes::Bytes;
use ocp_proto::smtp::{
    Address, Auth, Command, CommandLine, CommandProfile, DialogFacts, DialogUpdate, EffectName,
    Envelope, Part, SideEffect, Tls,
};
use ocp_proto::{AdaptedEnd, Event, MAXIMUM, OriginalStart};
use opes_mta::apply::Answer;
use opes_mta::consult::{Adaptation, Policy, begin, consult};
use opes_mta::front::file::{StoredMail, adapt};
use opes_mta::ocp::{Client, Upstream};
use opes_mta::report::Decision;
use support::{Script, Server, Step, answer_with, keep, reply, script, wants};

fn mail(sender: &'static str, recipients: &[&'static str]) -> StoredMail {
    let mut mail = StoredMail::new("a.eml", Bytes::from_static(b"Subject: x\r\n\r\nbody\r\n"));
    mail.sender = Address::new(sender).unwrap();
    mail.recipients = recipients.iter().map(|path| Address::new(*path).unwrap()).collect();
    mail
}

/// What a server says of an answer that may be used again.
fn valid(seconds: u32, facts: &[&'static str]) -> AdaptedEnd {
    let valid_with = facts.iter().map(|fact| fact.as_bytes().into()).collect();
    AdaptedEnd { valid_for: Some(seconds), valid_with, ..AdaptedEnd::default() }
}

fn kept(octets: &[u8], end: AdaptedEnd) -> Vec<Step> {
    answer_with([Step::Keep(0..octets.len() as u32)], end)
}

/// Says this of every MAIL, and nothing of the rest.
fn of_mail(end: AdaptedEnd) -> Script {
    script(move |command, octets| match command {
        Command::Mail => kept(octets, end.clone()),
        _ => keep(octets),
    })
}

/// The events that the server was asked about.
fn asked(seen: &[Event]) -> Vec<Command> {
    let starts = seen.iter().filter_map(|event| match event {
        Event::OriginalStarted { start: Some(OriginalStart { command, .. }), .. } => Some(command),
        _ => None,
    });
    starts.cloned().collect()
}

const ALL: [Command; 3] = [Command::Mail, Command::Rcpt, Command::Message];

#[tokio::test]
async fn the_same_line_is_asked_about_once() {
    use Command::{Mail, Message, Rcpt};
    let play = script(|command, octets| match command {
        Mail if octets.ends_with(b"<bad@x>") => {
            answer_with([reply("550 5.7.1 no\r\n")], valid(60, &[]))
        }
        Mail => {
            let line = Bytes::from([octets, b" BODY=7BIT"].concat());
            answer_with([Step::Data(Part::Command, line)], valid(60, &[]))
        }
        Rcpt => kept(octets, valid(60, &["sender"])),
        _ => keep(octets),
    });
    let server = Server::start(1, wants(ALL), play);
    let client = server.client().await;
    let policy = Policy::default();
    let mails = [
        (mail("<a@b>", &["<c@d>"]), vec![], Decision::Modify),
        (mail("<a@b>", &["<c@d>"]), vec![Mail, Rcpt], Decision::Modify),
        // Another line, and another sender for the same recipient.
        (mail("<b@b>", &["<c@d>"]), vec![], Decision::Modify),
        (mail("<bad@x>", &["<c@d>"]), vec![], Decision::Reject),
        (mail("<bad@x>", &["<c@d>"]), vec![Mail], Decision::Reject),
    ];
    for (mail, reused, decision) in mails {
        let report = adapt(&client, &mail, &policy).await;
        assert_eq!((report.reused, report.decision), (reused, decision), "{}", mail.sender);
        let reply = report.reply.as_ref().map(ToString::to_string);
        assert_eq!(reply.as_deref(), (decision == Decision::Reject).then_some("550 5.7.1 no"));
        assert!(decision == Decision::Reject || report.sender.parameters == ["BODY=7BIT"]);
    }
    client.close().await;
    let seen = server.events().await;
    let expected = [Mail, Rcpt, Message, Message, Mail, Rcpt, Message, Mail];
    assert_eq!(asked(&seen), expected);
    let outcomes = seen.iter().filter(|event| matches!(event, Event::DialogOutcome { .. })).count();
    assert_eq!(outcomes, expected.len(), "what was not asked has no outcome");
}

#[tokio::test]
async fn a_report_says_what_was_not_asked() {
    let end = AdaptedEnd { envelope_done: true, ..valid(60, &[]) };
    let server = Server::start(1, wants(ALL), of_mail(end));
    let client = server.client().await;
    let mail = mail("<a@b>", &["<c@d>", "<e@f>"]);
    let mut lines = Vec::new();
    for _ in 0..2 {
        let report = adapt(&client, &mail, &Policy::default()).await;
        assert_eq!((report.decision, &report.recipients), (Decision::Accept, &mail.recipients));
        assert_eq!(report.message.concat(), mail.octets);
        lines.push((report.why(), report.to_json()));
    }
    client.close().await;
    assert_eq!(asked(&server.events().await), [Command::Mail], "of both mails");
    assert_eq!(lines[0].0, "no more asked after MAIL");
    assert_eq!(lines[1].0, "earlier answer to MAIL; no more asked after MAIL");
    assert!(lines[0].1.contains("\"done_after\":\"MAIL\"") && !lines[0].1.contains("reused"));
    assert!(lines[1].1.contains("\"reused\":[\"MAIL\"],\"done_after\":\"MAIL\""), "{}", lines[1].1);
    assert!(lines[1].1.contains("\"octets_sent\":0,"), "{}", lines[1].1);
}

#[tokio::test]
async fn an_envelope_may_be_done_between_recipients() {
    let play = script(|command, octets| match command {
        Command::Rcpt if octets.ends_with(b"<e@f>") => {
            let end = AdaptedEnd { envelope_done: true, ..AdaptedEnd::default() };
            kept(octets, end)
        }
        _ => keep(octets),
    });
    let server = Server::start(1, wants(ALL), play);
    let client = server.client().await;
    let policy = Policy::default();
    let report = adapt(&client, &mail("<a@b>", &["<c@d>", "<e@f>", "<g@h>"]), &policy).await;
    assert_eq!((report.decision, report.recipients.len()), (Decision::Accept, 3));
    assert_eq!(report.done_after, Some(Command::Rcpt));
    // The next envelope is asked about as if nothing had been said.
    let report = adapt(&client, &mail("<a@b>", &["<c@d>"]), &policy).await;
    assert_eq!((report.done_after, report.reused), (None, Vec::new()));
    client.close().await;
    use Command::{Mail, Message, Rcpt};
    assert_eq!(asked(&server.events().await), [Mail, Rcpt, Rcpt, Mail, Rcpt, Message]);
}

#[tokio::test]
async fn some_answers_are_asked_for_each_time() {
    let quarantine = vec![SideEffect::Quarantine("why".into())];
    let granted =
        CommandProfile { side_effects: vec![EffectName::Quarantine], ..wants([Command::Mail]) };
    let observed = CommandProfile { observed: vec![Command::Mail], ..wants([Command::Mail]) };
    let cases = [
        ("no time", wants([Command::Mail]), valid(0, &[])),
        ("a fact that nobody knows", wants([Command::Mail]), valid(60, &["client", "moon"])),
        ("a side effect", granted, AdaptedEnd { side_effects: quarantine, ..valid(60, &[]) }),
        ("nobody waits for it", observed, valid(60, &[])),
    ];
    for (case, profile, end) in cases {
        let server = Server::start(1, profile, of_mail(end));
        let client = server.client().await;
        for _ in 0..2 {
            let report = adapt(&client, &mail("<a@b>", &[]), &Policy::default()).await;
            assert_eq!((report.error, report.reused), (None, Vec::new()), "{case}");
        }
        client.close().await;
        assert_eq!(asked(&server.events().await), [Command::Mail, Command::Mail], "{case}");
    }
}

/// A server that says for ever is asked again after an hour.
#[tokio::test]
async fn time_ends_it() {
    let server = Server::start(1, wants([Command::Mail]), of_mail(valid(MAXIMUM, &[])));
    let client = server.client().await;
    let again = async |after| {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(after)).await;
        tokio::time::resume();
        adapt(&client, &mail("<a@b>", &[]), &Policy::default()).await.reused
    };
    assert_eq!(again(0).await, []);
    assert_eq!(again(3_590).await, [Command::Mail]);
    assert_eq!(again(10).await, []);
    assert_eq!(again(1).await, [Command::Mail]);
    client.close().await;
    assert_eq!(asked(&server.events().await), [Command::Mail, Command::Mail]);
}

#[tokio::test]
async fn another_connection_is_asked_anew_and_so_is_a_server_under_measurement() {
    let server = Server::start(2, wants([Command::Mail]), of_mail(valid(60, &[])));
    let upstream = Upstream::connect(server.target()).await.unwrap();
    for expected in [vec![], vec![Command::Mail]] {
        let client = upstream.client().await.unwrap();
        let report = adapt(&client, &mail("<a@b>", &[]), &Policy::default()).await;
        assert_eq!(report.reused, expected);
    }
    upstream.close().await;
    let client = server.client().await;
    let unused = Policy { reuse: false, ..Policy::default() };
    for policy in [&Policy::default(), &unused] {
        assert_eq!(adapt(&client, &mail("<a@b>", &[]), policy).await.reused, []);
    }
    client.close().await;
    assert_eq!(asked(&server.events().await), [Command::Mail, Command::Mail, Command::Mail]);
}

async fn ask(client: &Client, line: &'static str, facts: DialogFacts, sender: &str) -> Adaptation {
    let sender = Address::new(sender.to_owned()).unwrap();
    let envelope = Envelope { sender: Some(sender), ..Envelope::default() };
    let event = CommandLine::new(line).unwrap();
    let event = opes_mta::event::Event::command(event, envelope).unwrap();
    let policy = Policy::default();
    let dialog = begin(client, facts, &policy).await.unwrap();
    consult(&dialog, &event, &policy).await.unwrap()
}

/// One fact after the other is named, and each of them changed: what is named decides.
#[tokio::test]
async fn an_answer_is_used_again_only_where_its_facts_are_equal() {
    let facts = |client: &'static str, helo: &'static str, identity: &'static str| DialogFacts {
        client_address: Some(client.into()),
        helo: Some(helo.into()),
        auth: Some(Auth { mechanism: "PLAIN".into(), identity: identity.into() }),
        ..DialogFacts::default()
    };
    let others = [
        ("client", facts("192.0.2.9", "h", "i"), "<s@x>"),
        ("helo", facts("192.0.2.1", "other", "i"), "<s@x>"),
        ("auth", facts("192.0.2.1", "h", "other"), "<s@x>"),
        ("sender", facts("192.0.2.1", "h", "i"), "<other@x>"),
    ];
    for (named, ..) in others.clone() {
        let end = valid(60, &[named]);
        let play = script(move |_, _| answer_with([reply("450 4.7.1 later\r\n")], end.clone()));
        let server = Server::start(1, wants([Command::Rcpt]), play);
        let client = server.client().await;
        let rcpt = "RCPT TO:<c@d>";
        let first = ask(&client, rcpt, facts("192.0.2.1", "h", "i"), "<s@x>").await;
        assert!(!first.reused && first.asked.is_some());
        let again = ask(&client, rcpt, facts("192.0.2.1", "h", "i"), "<s@x>").await;
        assert!(again.reused && again.asked.is_none());
        assert!(matches!(again.answer, Answer::Reply(reply) if reply.code() == 450));
        for (changed, facts, sender) in others.clone() {
            let reused = ask(&client, rcpt, facts, sender).await.reused;
            assert_eq!(reused, changed != named, "{changed} changed, {named} is named");
        }
        client.close().await;
        assert_eq!(asked(&server.events().await).len(), 2, "{named}");
    }
}

/// What is learnt in the course of a dialog counts from then on.
#[tokio::test]
async fn facts_change_in_a_dialog() {
    let end = valid(60, &["helo", "auth"]);
    let play = script(move |_, octets| kept(octets, end.clone()));
    let server = Server::start(1, wants([Command::Rcpt]), play);
    let client = server.client().await;
    let policy = Policy::default();
    let auth = Auth { mechanism: "PLAIN".into(), identity: "i".into() };
    let facts = DialogFacts { helo: Some("h".into()), ..DialogFacts::default() };
    let mut dialog = begin(&client, facts.clone(), &policy).await.unwrap();
    let tls = Tls {
        protocol: "TLSv1.3".into(),
        cipher: "x".into(),
        client_subject: None,
        verified: false,
    };
    let learnt = [
        (DialogUpdate::default(), false),
        (DialogUpdate { auth: Some(auth.clone()), ..DialogUpdate::default() }, false),
        (DialogUpdate { queue_id: Some("4T".into()), ..DialogUpdate::default() }, true),
        // TLS begins anew: nobody has said who they are.
        (DialogUpdate { tls: Some(tls), ..DialogUpdate::default() }, false),
        (DialogUpdate { helo: facts.helo, ..DialogUpdate::default() }, true),
        (DialogUpdate { auth: Some(auth), ..DialogUpdate::default() }, true),
    ];
    for (update, reused) in learnt {
        dialog.update(update.clone());
        let line = CommandLine::new("RCPT TO:<c@d>").unwrap();
        let event = opes_mta::event::Event::command(line, Envelope::default()).unwrap();
        let adaptation = consult(&dialog, &event, &policy).await.unwrap();
        assert_eq!(adaptation.reused, reused, "{update:?}");
    }
    drop(dialog);
    client.close().await;
    let updates = server.events().await;
    let updates = updates.iter().filter(|event| matches!(event, Event::DialogUpdated { .. }));
    assert_eq!(updates.count(), 7, "one at the start");
}
