//! What services may do to a next hop's reply, and what their failures do to it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use ocp_proto::smtp::{CommandLine, Envelope, ProfileKind, Validity};
use ocp_proto::wire::{Structure, Value};
use services::mail::Edits;
use services::{Declaration, Finding, Outcome, Service, ServiceError};

use super::*;
use crate::access::Access;
use crate::branch::Abilities;
use crate::bypass::Bypass;
use crate::chain::{Answer, Event};
use crate::router::{Chain, Entry, Router};

type Answers = fn(&Request) -> Result<Outcome, ServiceError>;

/// A service that wants the replies to everything.
struct Scripted(Answers);

impl Service for Scripted {
    fn declaration(&self) -> Declaration {
        use Command::{Data, Greeting, Mail, Message, Rcpt, Rset, StartTls};
        Declaration::on_replies([Greeting, Mail, Rcpt, Data, Message, Rset, StartTls])
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        ready((self.0)(request)).boxed()
    }
}

fn chain(services: &[(Answers, FailurePolicy)]) -> Chain {
    let mut router = Router::default();
    let mut group = Vec::new();
    for (index, (answers, policy)) in services.iter().enumerate() {
        let service = Arc::new(Scripted(*answers));
        let mut entry = Entry::new(&format!("s{index}"), "", service, Duration::from_secs(5));
        entry.on_failure = *policy;
        let members = vec![Value::Atom(entry.uri())];
        group.push(Structure { members, ..Structure::default() });
        router.add(entry).unwrap();
    }
    router.chain(&group, &Access::default()).unwrap()
}

fn event(command: Command, reply: &str) -> Event {
    let line = CommandLine::new("RCPT TO:<a@b>").ok().filter(|_| command == Command::Rcpt);
    let reply = Reply::parse(format!("{reply}\r\n")).unwrap();
    Event {
        dialog: Arc::default(),
        command,
        input: Input::Reply { reply, line },
        envelope: Envelope::default(),
        granted: Arc::new([EffectName::RetryCommand, EffectName::Disconnect]),
        abilities: Abilities::default(),
        observed: false,
        bypass: Bypass::default(),
    }
}

async fn answer(services: &[Answers], event: Event) -> Answer {
    let services: Vec<_> =
        services.iter().map(|answers| (*answers, FailurePolicy::Accept)).collect();
    chain(&services).run(event).await
}

/// What the peer gets: the code and text, `retry` and `disconnect` behind it if they are asked for, and
/// the verdicts.
fn told(answer: &Answer) -> String {
    let branch = &answer.branches[0];
    let mut told = match &branch.adapted {
        Adapted::Unchanged => "unchanged".to_owned(),
        Adapted::Reply(reply) => format!("ended: {reply}"),
        Adapted::OtherReply(reply) => reply.to_string(),
        other => panic!("{other:?}"),
    };
    for effect in &branch.effects {
        told.push_str(&format!(" +{}", effect.name()));
    }
    let verdicts = answer.verdicts.iter().map(|v| String::from_utf8_lossy(&v.verdict));
    format!("{told} [{}]", verdicts.collect::<Vec<_>>().join(" "))
}

fn says(reply: &'static str) -> Outcome {
    let reply = Reply::parse(format!("{reply}\r\n")).unwrap();
    Outcome::changed(Change::Reply(reply), "changed")
}

fn retry(line: &'static str) -> SideEffect {
    SideEffect::RetryCommand { line: CommandLine::new(line).unwrap(), next_hop: None }
}

fn clean() -> Outcome {
    Outcome::unchanged(Finding::new("clean"))
}

#[tokio::test]
async fn each_service_sees_the_reply_that_the_ones_before_it_made_and_its_command() {
    let first: Answers = |_| Ok(says("550 5.1.1 first"));
    let second: Answers = |request| {
        let (reply, line) = request.reply().unwrap();
        let seen = format!("{reply} to {:?}", line.unwrap().as_bytes());
        assert!(request.line().is_none() && request.command == Command::Rcpt);
        Ok(says("550 5.1.1 second").with_finding(Finding::new("seen").with_reason(seen)))
    };
    let answer = answer(&[first, second], event(Command::Rcpt, "550 no")).await;
    assert_eq!(told(&answer), "550 5.1.1 second [changed seen]");
    let reason = answer.verdicts[1].reason.as_deref().unwrap();
    assert_eq!(reason, b"550 5.1.1 first to b\"RCPT TO:<a@b>\"");
}

#[tokio::test]
async fn an_answer_beyond_the_rules_is_the_failure_of_its_service() {
    let succeeds: Answers = |_| Ok(says("250 ok"));
    let refuses: Answers = |_| Ok(says("550 no"));
    let retries: Answers = |_| Ok(clean().with_effect(retry("RCPT TO:<c@d>")));
    let other_verb: Answers = |_| Ok(clean().with_effect(retry("VRFY c")));
    let edits: Answers = |_| Ok(Outcome::changed(Change::Content(Edits::new()), "edited"));
    let line: Answers = |_| {
        let line = CommandLine::new("RCPT TO:<c@d>").unwrap();
        Ok(Outcome::changed(Change::Command(line), "rewritten"))
    };
    let ungranted: Answers = |_| Ok(clean().with_effect(SideEffect::Discard("x".into())));
    let disconnects: Answers = |_| Ok(says("421 bye").with_effect(SideEffect::Disconnect));
    for (services, command, reply, expected) in [
        (vec![succeeds], Command::Rcpt, "550 no", "unchanged [failed]"),
        (vec![refuses], Command::Message, "250 ok", "unchanged [failed]"),
        (vec![refuses], Command::Data, "354 go", "unchanged [failed]"),
        (vec![refuses], Command::StartTls, "220 go", "unchanged [failed]"),
        // A rejection ends the chain, whatever the ones behind it would say.
        (vec![refuses, succeeds], Command::Rcpt, "250 ok", "ended: 550 no [changed]"),
        (vec![refuses, retries], Command::Rcpt, "250 ok", "ended: 550 no [changed]"),
        (vec![retries], Command::Rcpt, "250 ok", "unchanged [failed]"),
        (vec![retries], Command::Rcpt, "550 no", "unchanged +retry-command [clean]"),
        (
            vec![retries, retries],
            Command::Rcpt,
            "550 no",
            "unchanged +retry-command [clean failed]",
        ),
        (vec![other_verb], Command::Rcpt, "550 no", "unchanged [failed]"),
        (vec![edits, line, ungranted], Command::Rcpt, "550 no", "unchanged [failed failed failed]"),
        (vec![disconnects], Command::Mail, "550 no", "421 bye +disconnect [changed]"),
    ] {
        let answer = answer(&services, event(command.clone(), reply)).await;
        assert_eq!(told(&answer), expected, "{command} {reply}");
    }
}

#[tokio::test]
async fn a_failure_stands_in_the_place_of_a_reply_where_that_may_be_another() {
    let fails: Answers = |_| Err(ServiceError::new("test", "broken"));
    let retries: Answers = |_| Ok(clean().with_effect(retry("RCPT TO:<c@d>")));
    let unavailable =
        "ended: 451 4.3.0 Mail inspection is not available now, try again later [failed]";
    for (command, reply, policy, expected) in [
        (Command::Rcpt, "250 ok", FailurePolicy::Tempfail, unavailable),
        (Command::Rcpt, "550 no", FailurePolicy::Tempfail, unavailable),
        (
            Command::Greeting,
            "220 hi",
            FailurePolicy::Reject,
            "ended: 554 5.3.0 Mail inspection failed, mail refused [failed]",
        ),
        // The message is the next hop's, content comes, and the envelope is gone.
        (Command::Message, "250 ok", FailurePolicy::Reject, "unchanged [failed failed]"),
        (Command::Data, "354 go", FailurePolicy::Tempfail, "unchanged [failed failed]"),
        (Command::Rset, "250 ok", FailurePolicy::Reject, "unchanged [failed failed]"),
        (Command::Rcpt, "550 no", FailurePolicy::Accept, "unchanged +retry-command [failed clean]"),
    ] {
        let group = chain(&[(fails, policy), (retries, FailurePolicy::Accept)]);
        let answer = group.run(event(command.clone(), reply)).await;
        assert_eq!(told(&answer), expected, "{command} {reply} {policy}");
    }
}

#[tokio::test]
async fn a_reply_says_nothing_about_other_events() {
    let outcome: Answers = |_| Ok(clean().with_envelope_done().with_validity(Validity::new(60)));
    let answered = answer(&[outcome], event(Command::Rcpt, "550 no")).await;
    assert_eq!(answered.terms, crate::terms::Terms::default());
    // Of a reply that is only watched nothing changes.
    let changes: Answers = |_| Ok(says("550 5.1.1 other"));
    let observed = Event { observed: true, ..event(Command::Rcpt, "550 no") };
    assert_eq!(told(&answer(&[changes], observed.clone()).await), "unchanged [failed]");
    let group = chain(&[(changes, FailurePolicy::Reject)]);
    assert_eq!(told(&group.run(observed).await), "unchanged [failed]");
}

#[tokio::test]
async fn another_reply_is_counted_as_a_change() {
    let other = |_: &Request| {
        let reply = Reply::new(550, "5.1.1", "nobody").unwrap();
        Ok(Outcome::changed(Change::Reply(reply), "rewritten"))
    };
    let chain = chain(&[(other, FailurePolicy::Accept)]);
    chain.run(event(Command::Rcpt, "550 5.1.1 mx1.internal has no such user")).await;
    let links = chain.interested(ProfileKind::Reply, &Command::Rcpt);
    let counted: Vec<_> = links.map(|link| link.entry.metrics.counted()).collect();
    assert_eq!(counted, [["reply RCPT changed 1"]]);
}
