//! What groups want, and which services there are.

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use ocp_proto::wire::Value;
use services::{Content, Finding, Outcome, Request, ServiceError};

use super::*;

struct Declared(Declaration);

impl Service for Declared {
    fn declaration(&self) -> Declaration {
        self.0.clone()
    }

    fn handle<'a>(&'a self, _request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        ready(Ok(Outcome::unchanged(Finding::new("clean")))).boxed()
    }
}

fn router() -> Router {
    let mut router = Router::default();
    let watcher = Declaration {
        observed: vec![Command::Mail, Command::Quit],
        on_failure: FailurePolicy::Accept,
        ..Declaration::on([Command::Mail, Command::Quit])
    };
    let scanner = Declaration {
        effects: vec![EffectName::Quarantine, EffectName::Delay],
        ..Declaration::on([Command::Mail, Command::Message])
    };
    for (name, declaration) in [("watcher", watcher), ("scanner", scanner)] {
        let service = Arc::new(Declared(declaration));
        router.add(Entry::new(name, "", service, Duration::from_secs(1))).unwrap();
    }
    router
}

fn named(uri: &'static str) -> Structure {
    Structure { members: vec![Value::atom(uri)], ..Structure::default() }
}

#[test]
fn a_group_wants_the_union_of_its_services_and_no_more_than_was_offered() {
    let chain = router()
        .chain(
            &[named("ocp://service/watcher"), named("ocp://service/scanner")],
            &Access::default(),
        )
        .unwrap();
    let offer = CommandProfile {
        commands: vec![Command::Connect, Command::Mail, Command::Message, Command::Quit],
        side_effects: vec![EffectName::Quarantine, EffectName::Discard],
        ..CommandProfile::default()
    };
    let answer = chain.command_profile(&offer);
    assert_eq!(answer.commands, [Command::Mail, Command::Message, Command::Quit]);
    assert_eq!(answer.observed, [Command::Quit]);
    assert_eq!(answer.side_effects, [EffectName::Quarantine]);
    assert_eq!(answer.on_failure, Some(FailurePolicy::Tempfail));
    assert_eq!(answer.beyond(&offer), None);
    let missing = chain.missing_effects(ProfileKind::Command, &offer.side_effects);
    let missing: Vec<EffectName> = missing.into_iter().map(|(_, effect)| effect).collect();
    assert_eq!(missing, [EffectName::Delay]);
    // Nobody here looks at replies.
    let offer =
        ReplyProfile { commands: vec![Command::Mail, Command::Rcpt], ..ReplyProfile::default() };
    assert_eq!(chain.reply_profile(&offer), ReplyProfile::default());
    assert!(chain.missing_effects(ProfileKind::Reply, &[]).is_empty());
}

#[test]
fn a_group_for_replies_wants_what_its_services_want_of_them() {
    let mut router = Router::default();
    let retries = Declaration {
        effects: vec![EffectName::RetryCommand, EffectName::Quarantine],
        ..Declaration::on_replies([Command::Rcpt])
    };
    let watches = Declaration {
        observed_replies: vec![Command::Rcpt, Command::Greeting],
        wants_replied_command: false,
        on_failure: FailurePolicy::Accept,
        ..Declaration::on_replies([Command::Rcpt, Command::Greeting])
    };
    let scans =
        Declaration { on_failure: FailurePolicy::Reject, ..Declaration::on([Command::Rcpt]) };
    for (name, declaration) in [("retries", retries), ("watches", watches), ("scans", scans)] {
        let service = Arc::new(Declared(declaration));
        router.add(Entry::new(name, "", service, Duration::from_secs(1))).unwrap();
    }
    let offer = ReplyProfile {
        commands: vec![Command::Greeting, Command::Mail, Command::Rcpt],
        auxiliary_parts: vec![Part::Command],
        side_effects: vec![EffectName::AddRecipient, EffectName::RetryCommand],
        ..ReplyProfile::default()
    };
    let chain = |names: &[&'static str]| {
        let services: Vec<Structure> = names.iter().map(|name| named(name)).collect();
        router.chain(&services, &Access::default()).unwrap()
    };
    let all = chain(&["ocp://service/retries", "ocp://service/watches", "ocp://service/scans"]);
    let answer = all.reply_profile(&offer);
    let expected = ReplyProfile {
        commands: vec![Command::Greeting, Command::Rcpt],
        auxiliary_parts: vec![Part::Command],
        observed: vec![Command::Greeting],
        side_effects: vec![EffectName::RetryCommand],
        on_failure: Some(FailurePolicy::Tempfail),
    };
    assert_eq!((answer.beyond(&offer), answer), (None, expected));
    // Its quarantine is none of replies.
    assert!(all.missing_effects(ProfileKind::Reply, &offer.side_effects).is_empty());
    let watches = chain(&["ocp://service/watches"]).reply_profile(&offer);
    assert_eq!(watches.auxiliary_parts, []);
    assert_eq!(watches.observed, [Command::Greeting, Command::Rcpt]);
    // And a group for commands has nothing to do with those that look at replies.
    let offer = CommandProfile { commands: vec![Command::Rcpt], ..CommandProfile::default() };
    let answer = chain(&["ocp://service/retries"]).command_profile(&offer);
    assert_eq!(answer, CommandProfile::default());
}

#[test]
fn the_rest_of_a_body_stays_where_nobody_needs_it() {
    let mut router = Router::default();
    let needs = [
        ("header", Content::Header),
        ("prefix", Content::Prefix(4_096)),
        ("endless", Content::Prefix(u32::MAX)),
        ("whole", Content::Whole),
    ];
    for (name, content) in needs {
        let declaration = Declaration { content, ..Declaration::on([Command::Message]) };
        let service = Arc::new(Declared(declaration));
        router.add(Entry::new(name, "", service, Duration::from_secs(1))).unwrap();
    }
    // Its `content` is that of events without any.
    let sender = Arc::new(Declared(Declaration::on([Command::Mail])));
    router.add(Entry::new("sender", "", sender, Duration::from_secs(1))).unwrap();
    let some = Arc::new(Declared(Declaration {
        content: Content::Header,
        ..Declaration::on([Command::Message])
    }));
    let mut some = Entry::new("some", "", some, Duration::from_secs(1));
    some.recipients = Some(AddressList::new(&[]).unwrap());
    router.add(some).unwrap();
    let leaves = |names: &[&'static str], offer: &CommandProfile| {
        let uri = |name: &&str| Structure {
            members: vec![Value::atom(format!("ocp://service/{name}"))],
            ..Structure::default()
        };
        let services: Vec<Structure> = names.iter().map(uri).collect();
        router.chain(&services, &Access::default()).unwrap().command_profile(offer).leave_at_body
    };
    let message = CommandProfile {
        commands: vec![Command::Mail, Command::Message],
        ..CommandProfile::default()
    };
    assert_eq!(leaves(&["header"], &message), Some(0));
    assert_eq!(leaves(&["sender", "prefix", "header"], &message), Some(4_096));
    assert_eq!(leaves(&["header", "endless"], &message), None);
    assert_eq!(leaves(&["header", "whole", "prefix"], &message), None);
    assert_eq!(leaves(&["sender"], &message), None);
    let commands = CommandProfile { commands: vec![Command::Mail], ..message.clone() };
    assert_eq!(leaves(&["header"], &commands), None);
    // Several messages, or one reply for each recipient, need the whole body.
    let several = CommandProfile { multiple_messages: true, ..message.clone() };
    let replies = CommandProfile { recipient_replies: true, ..message.clone() };
    assert_eq!(leaves(&["header"], &several), Some(0));
    assert_eq!(leaves(&["header", "some"], &several), None);
    assert_eq!(leaves(&["header", "some"], &replies), None);
    assert_eq!(leaves(&["header", "some"], &message), Some(0));
}

#[test]
fn a_group_that_notifies_or_distinguishes_needs_several_messages_and_whole_ones() {
    let mut router = Router::default();
    let notifies = |events: &[Command]| Declaration {
        content: Content::Header,
        notifies: true,
        ..Declaration::on(events.iter().cloned())
    };
    let header = Declaration { notifies: false, ..notifies(&[Command::Message]) };
    let differs = Declaration { distinguishes_recipients: true, ..header.clone() };
    for (name, declaration) in [
        ("notifies", notifies(&[Command::Message])),
        ("senders", notifies(&[Command::Mail])),
        ("header", header),
        ("differs", differs.clone()),
    ] {
        let service = Arc::new(Declared(declaration));
        router.add(Entry::new(name, "", service, Duration::from_secs(1))).unwrap();
    }
    let shadow = Entry::new("tried", "", Arc::new(Declared(differs)), Duration::from_secs(1));
    router.add(shadow.in_shadow()).unwrap();
    let offer = CommandProfile {
        commands: vec![Command::Mail, Command::Message],
        multiple_messages: true,
        recipient_replies: true,
        ..CommandProfile::default()
    };
    let selected = |names: &[&'static str], offer: &CommandProfile| {
        let services: Vec<Structure> = names.iter().map(|name| named(name)).collect();
        let chain = router.chain(&services, &Access::default()).unwrap();
        let selected = chain.command_profile(offer);
        assert_eq!(selected.beyond(offer), None);
        let differ = names.contains(&"ocp://service/differs");
        assert_eq!(selected.recipient_replies, differ && offer.recipient_replies);
        (selected.multiple_messages, selected.leave_at_body, chain.notifying().count())
    };
    let both = ["ocp://service/header", "ocp://service/notifies"];
    assert_eq!(selected(&both, &offer), (true, None, 1));
    assert_eq!(selected(&both[..1], &offer), (false, Some(0), 0));
    let alone = CommandProfile { multiple_messages: false, ..offer.clone() };
    assert_eq!(selected(&both, &alone), (false, Some(0), 1), "nobody can be notified then");
    assert_eq!(selected(&[both[0], "ocp://service/differs"], &offer), (true, None, 0));
    assert_eq!(selected(&[both[0], "ocp://service/tried"], &offer), (false, Some(0), 0));
    // Only content has notifications.
    assert_eq!(selected(&[both[0], "ocp://service/senders"], &offer), (false, Some(0), 0));
}

#[test]
fn an_unknown_service_is_not_skipped() {
    let services = [named("ocp://service/watcher"), named("x:y")];
    let error = router().chain(&services, &Access::default()).unwrap_err();
    assert_eq!(error.to_string(), "there is no service x:y here");
}
