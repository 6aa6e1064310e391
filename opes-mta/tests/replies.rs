//! A next hop's replies through groups that are asked about them, with servers that are honest or not.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[allow(dead_code)]
mod support;

use ocp_proto::smtp::{
    Command, CommandLine, CommandProfile, DialogFacts, EffectName, Envelope, FailurePolicy, Part,
    ProfileKind, Reply, ReplyProfile, SideEffect,
};
use ocp_proto::{AdaptedEnd, Event, OcpResult};
use opes_mta::config::{Clients, Config, Group, Origin, Rule, Rules};
use opes_mta::consult::{Cause, Failure};
use opes_mta::ocp::ClientError;
use opes_mta::passage::{Accepted, MOST_RETRIES, Passage, ReplyAdvice, ReplyEvent};
use opes_mta::processor::{Offers, Processor};
use support::{Server, Step, answer, answer_with, script, wants};

const LINE: &str = "RCPT TO:<a@b.example>";

fn offers() -> Offers {
    let commands = CommandProfile {
        commands: vec![Command::Mail, Command::Rcpt],
        ..CommandProfile::default()
    };
    Offers {
        commands,
        replies: Some(profile(&[
            EffectName::RetryCommand,
            EffectName::Disconnect,
            EffectName::AddRecipient,
        ])),
    }
}

fn profile(effects: &[EffectName]) -> ReplyProfile {
    ReplyProfile {
        commands: vec![Command::Greeting, Command::Mail, Command::Rcpt, Command::Message],
        auxiliary_parts: vec![Part::Command],
        side_effects: effects.to_vec(),
        on_failure: Some(FailurePolicy::Accept),
        ..ReplyProfile::default()
    }
}

fn all() -> ReplyProfile {
    offers().replies.unwrap()
}

/// A server that says the same of every reply.
fn says(
    profile: ReplyProfile,
    steps: impl Fn(usize) -> Vec<Step> + Send + Sync + 'static,
) -> Server {
    Server::start(1, profile, script(move |_, octets| steps(octets.len())))
}

fn group(name: &str, server: &Server, kind: ProfileKind) -> Group {
    let address = server.address.to_string().parse().unwrap();
    let services = vec!["ocp://service/test".to_owned()];
    Group { profile: kind, connections: 1, ..Group::new(name.to_owned(), vec![address], services) }
}

async fn passage(groups: Vec<Group>, offers: Offers) -> Passage {
    let count = groups.len();
    let config = Config { groups, ..Config::of(Group::new(String::new(), Vec::new(), Vec::new())) };
    let config = Config { rules: Rules::new(Vec::new(), count), ..config };
    let processor = Processor::start(config, offers);
    processor.tried().await;
    processor.passage("test", Origin::Unknown, DialogFacts::default())
}

async fn with(servers: &[&Server]) -> Passage {
    let groups = servers.iter().map(|server| group("replies", server, ProfileKind::Reply));
    passage(groups.collect(), offers()).await
}

fn event(command: Command, reply: &str) -> ReplyEvent {
    ReplyEvent {
        line: CommandLine::new(LINE).ok().filter(|_| command == Command::Rcpt),
        command,
        reply: Reply::parse(format!("{reply}\r\n")).unwrap(),
        envelope: Envelope::default(),
        bypass: Vec::new(),
        retries: 0,
    }
}

async fn ask(passage: &mut Passage, command: Command, reply: &str) -> Result<ReplyAdvice, Failure> {
    passage.ask_reply(event(command, reply), Accepted::default()).await
}

fn reply(text: &'static str) -> Vec<Step> {
    answer([Step::Data(Part::Reply, text.into())])
}

/// The reply stays, and these effects come with it.
fn effects(octets: usize, effects: Vec<SideEffect>) -> Vec<Step> {
    let auxiliary = LINE.len() as u32;
    let end = AdaptedEnd { side_effects: effects, ..AdaptedEnd::default() };
    answer_with([Step::Keep(auxiliary..octets as u32)], end)
}

fn retry(line: &'static str, next_hop: Option<&'static str>) -> SideEffect {
    let line = CommandLine::new(line).unwrap();
    SideEffect::RetryCommand { line, next_hop: next_hop.map(Into::into) }
}

#[tokio::test]
async fn a_reply_is_changed_and_its_command_shown_to_those_who_want_it() {
    let hides = ReplyProfile { auxiliary_parts: Vec::new(), ..all() };
    for (profile, seen) in
        [(all(), &[Some(Part::Command), Some(Part::Reply)][..]), (hides, &[Some(Part::Reply)])]
    {
        let server = says(profile, |_| reply("551 5.1.6 elsewhere\r\n"));
        let mut passage = with(&[&server]).await;
        let mut advice = ask(&mut passage, Command::Rcpt, "550 5.1.1 no").await.unwrap();
        assert_eq!(
            (advice.reply.to_string().as_str(), advice.changed),
            ("551 5.1.6 elsewhere", true)
        );
        assert_eq!((&advice.retry, advice.disconnect), (&None, false));
        advice.report(&OcpResult::ok(), Some(&advice.reply.clone()));
        drop(passage);
        let events = server.events().await;
        let parts: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Data { part, .. } => Some(*part),
                _ => None,
            })
            .collect();
        assert_eq!(parts, seen);
        let told = events.iter().find_map(|event| match event {
            Event::DialogOutcome { result, reply, .. } => {
                Some((result.is_success(), reply.clone()))
            }
            _ => None,
        });
        assert_eq!(told, Some((true, Some("551 5.1.6 elsewhere\r\n".into()))));
    }
}

#[tokio::test]
async fn what_a_reply_may_not_become_voids_the_answer_and_the_policy_decides() {
    let success = |_| reply("250 ok\r\n");
    let refusal = |_| reply("550 no\r\n");
    let none = |_| reply("550 no\n");
    let other_verb = |octets| effects(octets, vec![retry("MAIL FROM:<c@d>", None)]);
    let smuggles = |octets| effects(octets, vec![retry("RCPT TO:<c@d> <e@f>", None)]);
    let twice =
        |octets| effects(octets, vec![retry("RCPT TO:<c@d>", None), retry("RCPT TO:<e@f>", None)]);
    let empty = |_| answer([]);
    type Says = Box<dyn Fn(usize) -> Vec<Step> + Send + Sync>;
    let cases: Vec<(Says, Command, &str, &str)> = vec![
        (Box::new(success), Command::Rcpt, "550 no", "550 is not 250"),
        (Box::new(refusal), Command::Message, "250 taken", "a success of MESSAGE never becomes"),
        (Box::new(none), Command::Rcpt, "550 never", "the reply is none"),
        (Box::new(other_verb), Command::Rcpt, "550 no", "it has another verb"),
        (Box::new(smuggles), Command::Rcpt, "550 no", "the command names no address"),
        (Box::new(twice), Command::Rcpt, "550 no", "one reply to one retried command"),
        (Box::new(other_verb), Command::Rcpt, "250 ok", "only a command that was refused"),
        (Box::new(empty), Command::Rcpt, "550 no", "nothing came back for RCPT"),
    ];
    for (steps, command, original, cause) in cases {
        let server = says(all(), steps);
        let mut strict = group("replies", &server, ProfileKind::Reply);
        strict.on_failure = FailurePolicy::Tempfail;
        let mut passage = passage(vec![strict], offers()).await;
        let failure = ask(&mut passage, command.clone(), original).await.unwrap_err();
        assert!(
            matches!(failure.cause, Cause::Client(ClientError::Answer(_))),
            "{command} {original}: {failure}"
        );
        assert!(failure.to_string().contains(cause), "{failure}");
        assert_eq!(failure.policy, FailurePolicy::Tempfail);
        // The policy can't take back what the next hop has.
        let original = Reply::parse(format!("{original}\r\n")).unwrap();
        let instead = failure.reply_instead_of(&original).map(|reply| reply.code());
        assert_eq!(instead, (command != Command::Message).then_some(451));
    }
}

#[tokio::test]
async fn octets_of_the_command_are_never_the_reply() {
    let server = says(all(), |_| vec![Step::Start, Step::Raw("DUY {x} 0 21;\r\n".to_owned())]);
    let mut passage = with(&[&server]).await;
    let advice = ask(&mut passage, Command::Rcpt, "550 no").await.unwrap();
    assert!(advice.failures[0].contains("DUY of auxiliary octets"), "{:?}", advice.failures);
    assert_eq!((advice.reply.code(), advice.changed), (550, false), "the group may fail");
}

#[tokio::test]
async fn groups_are_asked_in_order_and_the_first_retry_holds() {
    let first = says(all(), |octets| {
        let added = ocp_proto::smtp::Address::new("<copy@b.example>").unwrap();
        let first = retry("RCPT TO:<c@d>", Some("mx.d.example:25"));
        effects(octets, vec![first, SideEffect::AddRecipient(added)])
    });
    let second = Server::start(
        1,
        all(),
        script(|_, octets| {
            assert!(octets.ends_with(b"550 no\r\n"));
            let steps = [Step::Data(Part::Reply, "450 5.1.1 later\r\n".into())];
            let side_effects = vec![retry("RCPT TO:<e@f>", None), SideEffect::Disconnect];
            answer_with(steps, AdaptedEnd { side_effects, ..AdaptedEnd::default() })
        }),
    );
    let mut passage = with(&[&first, &second]).await;
    let advice = ask(&mut passage, Command::Rcpt, "550 no").await.unwrap();
    let retry = advice.retry.as_ref().unwrap();
    assert_eq!(retry.line.as_bytes(), "RCPT TO:<c@d>");
    assert_eq!(retry.next_hop.as_deref(), Some("mx.d.example:25"));
    assert_eq!((advice.reply.code(), advice.disconnect, advice.effects.len()), (450, true, 1));
    assert_eq!(advice.rule.as_deref(), Some("(no rule)"));
    // However often that was done before, there is an end of it.
    let again = |retries| ReplyEvent { retries, ..event(Command::Rcpt, "550 no") };
    let last = again(MOST_RETRIES - 1);
    let advice = passage.ask_reply(last, Accepted::default()).await.unwrap();
    assert!(advice.retry.is_some());
    let beyond = again(MOST_RETRIES);
    let advice = passage.ask_reply(beyond, Accepted::default()).await.unwrap();
    assert_eq!((advice.retry, advice.reply.code()), (None, 450));
}

#[tokio::test]
async fn a_refusal_instead_of_a_success_ends_the_way() {
    let refuses = says(all(), |_| reply("550 5.7.1 not from here\r\n"));
    let accepts = says(all(), |_| reply("250 ok\r\n"));
    let mut passage = with(&[&refuses, &accepts]).await;
    let advice = ask(&mut passage, Command::Mail, "250 ok").await.unwrap();
    assert_eq!((advice.reply.code(), advice.changed), (550, true));
    drop((advice, passage));
    let asked = accepts.events().await;
    assert!(!asked.iter().any(|event| matches!(event, Event::OriginalStarted { .. })), "{asked:?}");
}

#[tokio::test]
async fn groups_are_for_events_or_for_replies() {
    let unchanged = |_: &Command, octets: &[u8]| support::keep(octets);
    let commands = Server::start(1, wants([Command::Mail, Command::Rcpt]), script(unchanged));
    let replies = says(all(), |_| reply("450 5.1.1 later\r\n"));
    let groups = || {
        vec![
            group("commands", &commands, ProfileKind::Command),
            group("replies", &replies, ProfileKind::Reply),
        ]
    };
    let mut both = passage(groups(), offers()).await;
    let line = CommandLine::new(LINE).unwrap();
    let event = opes_mta::event::Event::command(line, Envelope::default()).unwrap();
    let advice = both.ask(event, Accepted::default()).await.unwrap();
    assert_eq!(advice.answer, opes_mta::apply::Answer::Unchanged);
    // A reply group is no reason to hold mail back that the others can't see.
    assert_eq!(
        both.failure_policy(&Command::Rcpt, Accepted::default()),
        Some(FailurePolicy::Tempfail)
    );
    assert_eq!(both.failure_policy(&Command::Message, Accepted::default()), None);
    let advice = ask(&mut both, Command::Rcpt, "550 no").await.unwrap();
    assert_eq!(advice.reply.code(), 450);
    drop((advice, both));
    for (server, lines) in [(commands, 1), (replies, 1)] {
        let started = server.events().await;
        let started = started.iter().filter(|event| matches!(event, Event::OriginalStarted { .. }));
        assert_eq!(started.count(), lines);
    }
}

/// A milter sees no replies of a next hop: the group does not even get a connection.
#[tokio::test]
async fn who_sees_no_replies_asks_nobody_about_them() {
    let address = "127.0.0.1:9".parse().unwrap();
    let mut nowhere = Group::new("replies".to_owned(), vec![address], vec!["x".to_owned()]);
    nowhere.profile = ProfileKind::Reply;
    let config = Config::of(nowhere);
    let processor = Processor::start(config, &offers().commands);
    processor.tried().await;
    assert!(!processor.wants(&Command::Rcpt) && !processor.wants_reply(&Command::Rcpt));
    let mut passage = processor.passage("test", Origin::Unknown, DialogFacts::default());
    let advice = ask(&mut passage, Command::Rcpt, "550 no").await.unwrap();
    assert_eq!((advice.changed, advice.reply.code()), (false, 550));
}

#[tokio::test]
async fn a_server_that_knows_no_replies_is_away() {
    let server =
        Server::start(1, wants([Command::Rcpt]), script(|_, octets| support::keep(octets)));
    let mut strict = group("replies", &server, ProfileKind::Reply);
    strict.overload = opes_mta::group::Overload::Tempfail;
    let processor = Processor::start(Config::of(strict), offers());
    processor.tried().await;
    let mut passage = processor.passage("test", Origin::Unknown, DialogFacts::default());
    let failure = ask(&mut passage, Command::Rcpt, "250 ok").await.unwrap_err();
    let cause = failure.cause.to_string();
    assert!(cause.contains("it declines replies for the services ocp://service/test"), "{cause}");
    assert_eq!(failure.reply_instead_of(&Reply::new(250, "", "ok").unwrap()).unwrap().code(), 451);
    assert!(matches!(failure.cause, Cause::NoServer(_)));
}

/// Rules choose groups for replies as they choose others.
#[tokio::test]
async fn a_rule_takes_a_group_away_from_some_clients() {
    let server = says(all(), |_| reply("450 later\r\n"));
    let rule = Rule {
        name: "local".to_owned(),
        clients: vec!["unix".parse::<Clients>().unwrap()],
        ..Rule::default()
    };
    let config = Config::of(group("replies", &server, ProfileKind::Reply));
    let config = Config { rules: Rules::new(vec![rule], 1), ..config };
    let processor = Processor::start(config, offers());
    processor.tried().await;
    for (origin, code) in [(Origin::Unix, 550), (Origin::Unknown, 450)] {
        let mut passage = processor.passage("test", origin, DialogFacts::default());
        assert_eq!(ask(&mut passage, Command::Rcpt, "550 no").await.unwrap().reply.code(), code);
    }
}
