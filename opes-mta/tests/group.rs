//! Groups of scripted servers over real sockets: whichever fails, and whenever, each event is adapted
//! once or fails by the policy.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[allow(dead_code, reason = "other tests play the rest")]
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use ocp_proto::smtp::{
    Address, Command, CommandLine, CommandProfile, DialogFacts, DialogUpdate, Envelope,
    FailurePolicy, Part,
};
use ocp_proto::{Event as Seen, OcpResult, OriginalStart};
use opes_mta::apply::Answer;
use opes_mta::consult::{Adaptation, Policy};
use opes_mta::event::{Event, Message};
use opes_mta::front::file;
use opes_mta::group::{Consultation, Group, GroupSettings, Overload};
use support::{Script, Server, Step, answer, keep, reply, script, wants};
use tokio::time::{Instant, timeout};

const MAIL: &[u8] = b"From: a@b.example\r\nSubject: hi\r\n\r\nbody\r\n";
const ALL: [Command; 3] = [Command::Mail, Command::Rcpt, Command::Message];

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(3_600);

fn settings() -> GroupSettings {
    GroupSettings {
        connections: 1,
        revival: Duration::from_millis(20),
        longest_revival: Duration::from_millis(100),
        ..GroupSettings::default()
    }
}

async fn group(servers: &[&Server], settings: GroupSettings) -> Group {
    let group = Group::start(servers.iter().map(|server| server.target()).collect(), settings);
    group.tried().await;
    group
}

fn address(path: &'static str) -> Address {
    Address::new(path).unwrap()
}

fn envelope() -> Envelope {
    Envelope { sender: Some(address("<a@b.example>")), recipients: vec![address("<c@d.example>")] }
}

fn message() -> Event {
    Event::message(Message::split(Bytes::from_static(MAIL)), envelope())
}

fn command(line: &'static str) -> Event {
    Event::command(CommandLine::new(line).unwrap(), Envelope::default()).unwrap()
}

fn mail_from() -> Event {
    command("MAIL FROM:<a@b.example>")
}

fn consultation(group: &Group) -> Consultation {
    Consultation::new(group, DialogFacts::default())
}

fn text(adaptation: Adaptation) -> Vec<u8> {
    match adaptation.answer {
        Answer::Unchanged => MAIL.to_vec(),
        Answer::Message(adapted) => adapted.read().unwrap().concat(),
        other => panic!("{other:?}"),
    }
}

fn mark() -> Vec<Step> {
    let mark = Step::Data(Part::MessageHeader, "X-Spam: no\r\n".into());
    answer([mark, Step::Keep(0..MAIL.len() as u32)])
}

fn refusal() -> Vec<Step> {
    vec![Step::Finish(OcpResult::failure("too many transactions at a time"), true)]
}

/// The events that a server was asked about.
fn asked(seen: &[Seen]) -> Vec<Command> {
    let starts = seen.iter().filter_map(|event| match event {
        Seen::OriginalStarted { start: Some(OriginalStart { command, .. }), .. } => Some(command),
        _ => None,
    });
    starts.cloned().collect()
}

fn outcomes(seen: &[Seen]) -> usize {
    seen.iter().filter(|event| matches!(event, Seen::DialogOutcome { .. })).count()
}

fn dialogs(seen: &[Seen]) -> usize {
    seen.iter().filter(|event| matches!(event, Seen::DialogStarted { .. })).count()
}

/// Whoever is asked first does `first`, all others `then`.
fn first_then(
    first: Vec<Step>,
    then: impl Fn(&[u8]) -> Vec<Step> + Send + Sync + 'static,
) -> Script {
    let count = AtomicUsize::new(0);
    script(move |_, octets| match count.fetch_add(1, Ordering::Relaxed) {
        0 => first.clone(),
        _ => then(octets),
    })
}

/// Each way in which a server can be lost with a message that it has, or not take it: another one
/// answers, with all that is known, and nothing is adapted twice.
#[tokio::test]
async fn another_server_answers_as_if_nothing_had_been() {
    let part = || vec![Step::Start, Step::Data(Part::MessageHeader, "X-Spam: yes\r\n".into())];
    let cases = [
        vec![Step::HangUp],
        [part(), vec![Step::HangUp]].concat(),
        [mark()[..3].to_vec(), vec![Step::HangUp]].concat(),
        refusal(),
        [part(), refusal()].concat(),
        vec![Step::EndDialog],
        vec![Step::Drain, Step::EndDialog],
        vec![Step::Raw("CE {400 \"4:bye!\"};\r\n".into())],
        vec![Step::Raw("nonsense\r\n;".into())],
        // It says nothing any more.
        part(),
    ];
    for first in cases {
        let play = first_then(first.clone(), |_| mark());
        let servers = [(); 3].map(|()| Server::start(1, wants([Command::Message]), play.clone()));
        let settings = GroupSettings {
            silence: Duration::from_millis(400),
            // Who is lost stays away.
            revival: LONG,
            longest_revival: LONG,
            failures: 1,
            ..settings()
        };
        let group = group(&[&servers[0], &servers[1], &servers[2]], settings).await;
        let facts =
            DialogFacts { client_address: Some("192.0.2.1".into()), ..DialogFacts::default() };
        let mut consultation = Consultation::new(&group, facts.clone());
        let helo = DialogUpdate { helo: Some("client.example".into()), ..DialogUpdate::default() };
        consultation.update(helo.clone());
        let mut adaptation = consultation.ask(&message()).await.unwrap();
        adaptation.asked.take().unwrap().report(OcpResult::ok(), None);
        assert_eq!(text(adaptation), [b"X-Spam: no\r\n", MAIL].concat(), "{first:?}");
        drop((consultation, group));

        let (mut begun, mut updated, mut answered) = (0, 0, 0);
        for server in servers {
            let seen = server.events().await;
            begun += asked(&seen).len();
            answered += outcomes(&seen);
            for event in seen {
                match event {
                    Seen::DialogStarted { facts: told, .. } => assert_eq!(*told, facts),
                    Seen::DialogUpdated { update, .. } => {
                        assert_eq!(*update, helo);
                        updated += 1;
                    }
                    Seen::OriginalStarted { start: Some(start), .. } => {
                        assert_eq!((start.sender, start.recipients.len()), (envelope().sender, 1));
                    }
                    _ => {}
                }
            }
        }
        assert_eq!((begun, updated, answered), (2, 2, 1), "{first:?}");
    }
}

/// What says nothing against the server is not asked again: the policy decides.
#[tokio::test]
async fn failed_services_and_void_answers_are_not_asked_again() {
    let cases = [
        (
            vec![Step::Finish(OcpResult::failure("clamd is down"), false)],
            "MESSAGE, waiting for the answer: the transaction failed: clamd is down",
        ),
        (
            answer([]),
            "MESSAGE, checking the answer: the answer is void: nothing came back for MESSAGE",
        ),
    ];
    for (steps, cause) in cases {
        let play = first_then(steps, keep);
        let servers = [(); 2].map(|()| Server::start(1, wants([Command::Message]), play.clone()));
        let group = group(&[&servers[0], &servers[1]], settings()).await;
        let mut consultation = consultation(&group);
        let failure = consultation.ask(&message()).await.unwrap_err();
        assert_eq!((failure.to_string().as_str(), failure.attempts), (cause, 1));
        assert_eq!(failure.policy, FailurePolicy::Tempfail);
        // One error is that of one event, and the dialog goes on.
        assert_eq!(text(consultation.ask(&message()).await.unwrap()), MAIL);
        drop((consultation, group));
        let mut counts = Vec::new();
        for server in servers {
            let seen = server.events().await;
            counts.push((asked(&seen).len(), dialogs(&seen)));
        }
        counts.sort_unstable();
        assert_eq!(counts, [(0, 0), (2, 1)], "{cause}");
    }
}

/// An event that takes every server with it takes no more than it may.
#[tokio::test]
async fn a_poisonous_event_is_asked_about_a_few_times() {
    let play = script(|_, _| vec![Step::HangUp]);
    let servers = [(); 4].map(|()| Server::start(1, wants([Command::Message]), play.clone()));
    let all: Vec<_> = servers.iter().collect();
    let group = group(&all, GroupSettings { revival: LONG, failures: 1, ..settings() }).await;
    let failure = consultation(&group).ask(&message()).await.unwrap_err();
    assert_eq!(
        (failure.to_string().as_str(), failure.attempts),
        ("MESSAGE, waiting for the answer: the connection is lost: the server hung up", 3)
    );
    drop(group);
    let mut begun = 0;
    for server in servers {
        begun += asked(&server.events().await).len();
    }
    assert_eq!(begun, 3);
}

#[tokio::test]
async fn without_a_server_the_policy_decides_at_once_or_at_the_deadline() {
    use FailurePolicy::{Accept, Reject, Tempfail};
    for (servers, ours, overload, expected) in [
        (None, Accept, Overload::Tempfail, Tempfail),
        (None, Accept, Overload::Bypass, Tempfail),
        (Some(Accept), Reject, Overload::Bypass, Accept),
        (Some(Accept), Reject, Overload::Tempfail, Tempfail),
        (Some(Tempfail), Accept, Overload::Bypass, Tempfail),
        (Some(Reject), Accept, Overload::Tempfail, Reject),
        (Some(Accept), Reject, Overload::Wait, Reject),
        (Some(Accept), Accept, Overload::Wait, Accept),
    ] {
        let profile = CommandProfile { on_failure: servers, ..wants([Command::Message]) };
        let server = Server::start(1, profile, script(|_, _| vec![Step::HangUp]));
        let policy = Policy {
            on_failure: ours,
            content_deadline: Duration::from_millis(300),
            ..Policy::default()
        };
        let settings = GroupSettings { overload, policy, attempts: 1, ..settings() };
        let group = group(&[&server], settings).await;
        consultation(&group).ask(&message()).await.unwrap_err();
        let seen = server.events().await;
        assert_eq!(asked(&seen).len(), 1);
        let began = Instant::now();
        let failure = consultation(&group).ask(&message()).await.unwrap_err();
        let text = failure.to_string();
        assert!(
            text.starts_with("MESSAGE, start: no callout server is there: 127.0.0.1:"),
            "{text}"
        );
        assert_eq!((failure.policy, failure.attempts), (expected, 0), "{servers:?} {overload:?}");
        let waited = began.elapsed() >= Duration::from_millis(300);
        assert_eq!(waited, overload == Overload::Wait);
        assert_eq!(failure.reply().is_none(), expected == Accept);
    }
}

/// Before anybody was there nobody knows what is wanted: everything is, and fails for the time being.
#[tokio::test(start_paused = true)]
async fn a_group_that_never_was_there_lets_nothing_pass() {
    let target = file::target("unix:/nonexistent/ocp.sock".parse().unwrap(), vec!["a:b".into()]);
    let group = Group::start(vec![target.clone()], GroupSettings::default());
    group.tried().await;
    assert_eq!(group.profile().commands(), target.offer.commands());
    for (event, seconds) in [(mail_from(), 20), (message(), 80)] {
        let began = Instant::now();
        let failure = consultation(&group).ask(&event).await.unwrap_err();
        assert_eq!(failure.policy, FailurePolicy::Tempfail);
        assert!(failure.to_string().contains("/nonexistent/ocp.sock: cannot connect"), "{failure}");
        assert_eq!(began.elapsed().as_secs(), seconds);
        assert_eq!(failure.elapsed.as_secs(), seconds);
    }
    // Whoever shares the time with others has less of it.
    let began = Instant::now();
    let end = began + Duration::from_secs(7);
    consultation(&group).ask_until(&message(), end).await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 7);
}

#[tokio::test]
async fn a_server_that_is_restarted_takes_what_has_waited() {
    let server = Server::start(1, wants([Command::Message]), script(|_, _| vec![Step::HangUp]));
    let group = group(&[&server], settings()).await;
    let place = server.address;
    let mut consultation = consultation(&group);
    let event = message();
    let restart = async {
        // Its thread ends with the connection that it hung up.
        assert_eq!(asked(&server.events().await).len(), 1);
        Server::start_at(place, 1, wants([Command::Message]), script(|_, octets| keep(octets)))
    };
    let (adaptation, server) = tokio::join!(consultation.ask(&event), restart);
    assert_eq!(text(adaptation.unwrap()), MAIL);
    drop((consultation, group));
    assert_eq!(asked(&server.events().await).len(), 1);
}

/// The open dialog stays, the next one goes to a new connection.
#[tokio::test]
async fn a_drained_connection_gets_no_new_dialogs() {
    let play = first_then([keep(b"MAIL FROM:<a@b.example>"), vec![Step::Drain]].concat(), keep);
    let server = Server::start(2, wants([Command::Mail, Command::Rcpt]), play);
    let group = group(&[&server], settings()).await;
    let (mut first, mut second) = (consultation(&group), consultation(&group));
    first.ask(&mail_from()).await.unwrap();
    // Answered by the new connection: the drained one would refuse the dialog.
    second.ask(&mail_from()).await.unwrap();
    first.ask(&command("RCPT TO:<c@d.example>")).await.unwrap();
    drop((first, second, group));
    let seen = server.events().await;
    assert_eq!(asked(&seen), [Command::Mail, Command::Rcpt, Command::Mail]);
    assert_eq!(dialogs(&seen), 2);
}

/// One that gets a new configuration wants its connections left, however often: that is no failure of it, and
/// even who waits for no server waits until there is another connection.
#[tokio::test]
async fn a_server_that_drains_all_its_connections_is_there() {
    for overload in [Overload::Wait, Overload::Bypass, Overload::Tempfail] {
        let play = script(|_, octets| [keep(octets), vec![Step::Drain]].concat());
        let server = Server::start(7, wants([Command::Mail]), play);
        let settings = GroupSettings {
            failures: 1,
            failure_window: LONG,
            revival: LONG,
            longest_revival: LONG,
            overload,
            ..settings()
        };
        let group = group(&[&server], settings).await;
        for _ in 0..7 {
            let adaptation = consultation(&group).ask(&mail_from()).await.unwrap();
            assert!(adaptation.asked.is_some(), "{overload:?}: nobody was asked");
        }
        drop(group);
        assert_eq!(asked(&server.events().await).len(), 7);
    }
}

#[tokio::test]
async fn a_busy_group_waits_or_fails_or_lets_pass() {
    use FailurePolicy::{Accept, Tempfail};
    for (overload, expected) in [
        (Overload::Wait, None),
        (Overload::Bypass, Some(Accept)),
        (Overload::Tempfail, Some(Tempfail)),
    ] {
        let profile =
            CommandProfile { on_failure: Some(Accept), ..wants([Command::Mail, Command::Message]) };
        // MAIL is never answered.
        let play = script(|command, octets| match command {
            Command::Mail => Vec::new(),
            _ => keep(octets),
        });
        let server = Server::start(1, profile, play);
        let settings = GroupSettings { overload, open_limit: 1, ..settings() };
        let group = group(&[&server], settings).await;
        let (mut first, mut second) = (consultation(&group), consultation(&group));
        let (mail_from, message) = (mail_from(), message());
        let mut holding = Box::pin(first.ask(&mail_from));
        assert!(futures_util::poll!(&mut holding).is_pending());
        let mut waiting = Box::pin(second.ask(&message));
        match expected {
            Some(policy) => {
                let failure = waiting.await.unwrap_err();
                let cause = "MESSAGE, start: all callout servers are busy";
                assert_eq!((failure.to_string().as_str(), failure.policy), (cause, policy));
                drop(holding);
            }
            None => {
                assert!(futures_util::poll!(&mut waiting).is_pending());
                drop(holding);
                assert_eq!(text(waiting.await.unwrap()), MAIL);
            }
        }
        drop((first, second, group));
        drop(server.events().await);
    }
}

#[tokio::test]
async fn dialogs_spread_over_the_servers() {
    let play = script(|_, octets| keep(octets));
    let servers = [(); 3].map(|()| Server::start(1, wants([Command::Mail]), play.clone()));
    let group = group(&[&servers[0], &servers[1], &servers[2]], settings()).await;
    let mut open = Vec::new();
    for _ in 0..300 {
        let mut dialog = consultation(&group);
        dialog.ask(&mail_from()).await.unwrap();
        open.push(dialog);
    }
    drop((open, group));
    for server in servers {
        let count = dialogs(&server.events().await);
        // Two choices keep the counts within a few of each other; one would be off by dozens.
        assert!((95..=105).contains(&count), "{count}");
    }
}

#[tokio::test]
async fn a_server_that_fails_too_often_is_left_alone() {
    let bad = Server::start(1, wants([Command::Mail]), script(|_, _| refusal()));
    let good = Server::start(1, wants([Command::Mail]), script(|_, octets| keep(octets)));
    let settings = GroupSettings {
        failures: 4,
        failure_window: LONG,
        revival: LONG,
        longest_revival: LONG,
        ..settings()
    };
    let group = group(&[&bad, &good], settings).await;
    for _ in 0..100 {
        consultation(&group).ask(&mail_from()).await.unwrap();
    }
    drop(group);
    assert_eq!(asked(&bad.events().await).len(), 4);
    assert_eq!(asked(&good.events().await).len(), 100);
}

/// Nobody waits for what is only watched; it goes out in its place, and its outcome is told once it
/// has been answered.
#[tokio::test]
async fn a_watched_event_holds_nobody_up() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen_order = Arc::clone(&order);
    let play = script(move |command, octets| {
        seen_order.lock().unwrap().push(command.clone());
        match command {
            Command::Mail => Vec::new(),
            _ => keep(octets),
        }
    });
    let profile = CommandProfile { observed: vec![Command::Mail, Command::Rcpt], ..wants(ALL) };
    let server = Server::start(1, profile, play);
    let settings = GroupSettings { silence: Duration::from_secs(1), ..settings() };
    let group = group(&[&server], settings).await;
    let mut dialog = consultation(&group);
    let mail = dialog.ask(&mail_from()).await.unwrap();
    let rcpt = dialog.ask(&command("RCPT TO:<c@d.example>")).await.unwrap();
    let content = dialog.ask(&message()).await.unwrap();
    assert_eq!(*order.lock().unwrap(), ALL);
    assert_eq!((mail.answer, rcpt.answer), (Answer::Unchanged, Answer::Unchanged));
    // MAIL is never answered, so nobody is told of its outcome.
    for asked in [mail.asked, rcpt.asked, content.asked] {
        asked.unwrap().report(OcpResult::ok(), None);
    }
    drop((dialog, group));
    let seen = timeout(LONG, server.events()).await.unwrap();
    assert_eq!(outcomes(&seen), 2);
}

/// A rolling upgrade: servers want different events.
#[tokio::test]
async fn what_nobody_wants_costs_nothing() {
    let play = script(|_, octets| keep(octets));
    let old = Server::start(1, wants([Command::Message]), play.clone());
    let new = Server::start(1, wants([Command::Message, Command::Mail]), play);
    let group = group(&[&old, &new], settings()).await;
    let mut wanted = group.profile().commands().to_vec();
    wanted.sort_by_key(ToString::to_string);
    assert_eq!(wanted, [Command::Mail, Command::Message]);
    let mut dialog = consultation(&group);
    let unwanted = dialog.ask(&command("RCPT TO:<c@d.example>")).await.unwrap();
    assert!(unwanted.asked.is_none());
    drop((dialog, group));
    for server in [old, new] {
        assert_eq!(dialogs(&server.events().await), 0);
    }
}

/// A late server is given up at the deadline of the stage, and the next event begins anew.
#[tokio::test]
async fn the_deadline_holds_for_all_attempts_together() {
    let play = first_then(vec![Step::EndDialog], |_| Vec::new());
    let play = script(move |command, octets| match command {
        Command::Mail => play(command, octets),
        _ => answer([reply("550 5.7.1 no\r\n")]),
    });
    let servers = [(); 2].map(|()| Server::start(1, wants(ALL), play.clone()));
    let policy = Policy { command_deadline: Duration::from_millis(500), ..Policy::default() };
    let settings = GroupSettings { policy, ..settings() };
    let group = group(&[&servers[0], &servers[1]], settings).await;
    let mut dialog = consultation(&group);
    let failure = dialog.ask(&mail_from()).await.unwrap_err();
    assert_eq!(
        (failure.to_string().as_str(), failure.attempts),
        ("MAIL, waiting for the answer: no answer within 500ms", 2)
    );
    let next = dialog.ask(&command("RCPT TO:<c@d.example>")).await.unwrap();
    assert!(matches!(next.answer, Answer::Reply(reply) if reply.code() == 550));
    drop((dialog, group));
    for server in servers {
        drop(server.events().await);
    }
}

/// However close the end of a connection comes: nobody waits for an answer that nobody gives.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_asks_while_a_connection_ends_is_told() {
    const ROUNDS: usize = 400;
    let server = Server::start(ROUNDS, wants(ALL), script(|_, _| mark()));
    for round in 0..ROUNDS {
        let client = server.client().await;
        let askers: Vec<_> = (0..4)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move {
                    let ask = |_| client.start_dialog(DialogFacts::default());
                    while join_all((0..20).map(ask)).await.iter().all(Result::is_ok) {}
                })
            })
            .collect();
        tokio::task::yield_now().await;
        client.clone().close().await;
        for asker in askers {
            timeout(Duration::from_secs(20), asker)
                .await
                .unwrap_or_else(|_| panic!("round {round}"))
                .unwrap();
        }
    }
    server.events().await;
}
