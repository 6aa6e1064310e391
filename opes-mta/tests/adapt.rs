//! Stored mail through a scripted server over a real socket: what an honest server can do, and what
//! a lying, hanging or failing one can't.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use ocp_proto::smtp::{
    Address, Command, CommandProfile, EffectName, FailurePolicy, Part, SideEffect, Verdict,
};
use ocp_proto::wire::Atom;
use ocp_proto::{AdaptedEnd, Event, OcpResult};
use opes_mta::consult::Policy;
use opes_mta::front::file::{self, StoredMail, adapt};
use opes_mta::ocp::{Client, ConnectError, Upstream};
use opes_mta::report::{Decision, Report};
use support::{Script, Server, Step, answer, answer_with, keep, reply, script, wants};

const MAIL: &[u8] = b"From: a@b.example\nSubject: hi\n\nbody with a bare LF\n";
const HEADER: u32 = 31;

fn mail() -> StoredMail {
    let mut mail = StoredMail::new("mail.eml", Bytes::from_static(MAIL));
    mail.sender = address("<a@b.example>");
    mail.recipients = vec![address("<c@d.example>"), address("<e@f.example>")];
    mail
}

fn address(path: &'static str) -> Address {
    Address::new(path).unwrap()
}

/// One mail, one server, and what the server saw.
async fn run(profile: CommandProfile, play: Script) -> (Report, Vec<Event>) {
    run_with(&mail(), profile, play, Policy::default()).await
}

async fn run_with(
    mail: &StoredMail,
    profile: CommandProfile,
    play: Script,
    policy: Policy,
) -> (Report, Vec<Event>) {
    let server = Server::start(1, profile, play);
    let client = server.client().await;
    let report = adapt(&client, mail, &policy).await;
    client.close().await;
    (report, server.events().await)
}

fn message(steps: impl Fn() -> Vec<Step> + Send + Sync + 'static) -> Script {
    script(move |_, _| steps())
}

fn outcomes(seen: &[Event]) -> Vec<(u32, Option<Atom>)> {
    let outcome = |event: &Event| match event {
        Event::DialogOutcome { result, reply, .. } => Some((result.code, reply.clone())),
        _ => None,
    };
    seen.iter().filter_map(outcome).collect()
}

#[tokio::test]
async fn a_server_that_changes_nothing_returns_nothing() {
    let commands = [Command::Mail, Command::Rcpt, Command::Message];
    let (report, seen) = run(wants(commands), script(|_, octets| keep(octets))).await;
    assert_eq!((report.decision, &report.error), (Decision::Accept, &None));
    assert_eq!(report.message.concat(), MAIL);
    assert_eq!(report.recipients, mail().recipients);
    assert!(report.traffic.received < 250, "{:?}", report.traffic);
    assert_eq!(outcomes(&seen), vec![(200, None); 4]);
    let starts: Vec<_> = seen
        .iter()
        .filter_map(|event| match event {
            Event::OriginalStarted { start: Some(start), .. } => Some(start),
            _ => None,
        })
        .collect();
    assert_eq!(starts[0].sender, None);
    assert_eq!(starts[1].sender, Some(address("<a@b.example>")));
    assert_eq!(starts[2].recipients, [address("<c@d.example>")]);
    assert_eq!(starts[3].recipients, mail().recipients);
    assert_eq!(starts[3].body_size, Some(MAIL.len() as u32 - HEADER));
    assert!(
        matches!(seen.iter().rev().nth(1), Some(Event::DialogEnded { result, .. }) if result.is_success()),
        "{seen:?}"
    );
}

#[tokio::test]
async fn a_server_is_asked_only_what_it_wants() {
    let (report, seen) = run(wants([]), script(|_, octets| keep(octets))).await;
    assert_eq!((report.decision, report.traffic.sent), (Decision::Accept, 0));
    assert!(!seen.iter().any(|event| matches!(event, Event::TransactionStarted { .. })));
}

#[tokio::test]
async fn a_mark_is_inserted_and_the_rest_stays() {
    let verdict = Verdict {
        service: "ocp://service/test".into(),
        verdict: "spam".into(),
        score: Some("7".into()),
        reason: None,
        milliseconds: Some(2),
    };
    let end = AdaptedEnd { verdicts: vec![verdict.clone()], ..AdaptedEnd::default() };
    let play = message(move || {
        let mark = Step::Data(Part::MessageHeader, "X-Spam: yes\n".into());
        answer_with([mark, Step::Keep(0..MAIL.len() as u32)], end.clone())
    });
    let (report, _) = run(wants([Command::Message]), play).await;
    assert_eq!((report.decision, &report.error), (Decision::Modify, &None));
    assert_eq!(report.message.concat(), [b"X-Spam: yes\n", MAIL].concat());
    assert_eq!(report.services, [verdict]);
    assert_eq!(report.why(), "test: spam 7");
}

#[tokio::test]
async fn large_mail_is_kept_whatever_its_size() {
    let octets = [MAIL, &vec![b'x'; 25_000_000]].concat();
    let size = octets.len() as u32;
    let mail = StoredMail { octets: octets.into(), ..mail() };
    let play = message(move || {
        let mark = Step::Data(Part::MessageHeader, "X-Spam: yes\n".into());
        answer([mark, Step::Keep(0..HEADER), Step::Keep(HEADER..size)])
    });
    let (report, _) = run_with(&mail, wants([Command::Message]), play, Policy::default()).await;
    assert_eq!((report.decision, &report.error), (Decision::Modify, &None));
    assert!(report.traffic.received < 250, "{:?}", report.traffic);
    assert_eq!(report.message[2].as_ptr(), mail.octets[HEADER as usize..].as_ptr());
}

#[tokio::test]
async fn a_dialog_that_is_behind_loses_nothing() {
    let octets = [MAIL, &vec![b'x'; 5_000]].concat();
    let size = octets.len() as u32;
    let mail = StoredMail { octets: octets.clone().into(), ..mail() };
    // Far more pieces than a dialog's queue holds, in one write.
    let play = message(move || {
        let single = (HEADER..size).map(|at| Step::Keep(at..at + 1));
        answer([Step::Keep(0..HEADER)].into_iter().chain(single))
    });
    let (report, _) = run_with(&mail, wants([Command::Message]), play, Policy::default()).await;
    assert_eq!((report.decision, report.error), (Decision::Accept, None));
    assert_eq!(report.message.concat(), octets);
}

#[tokio::test]
async fn commands_are_rewritten_and_refused() {
    let play = script(|command, octets| match command {
        Command::Mail => {
            answer([Step::Data(Part::Command, "MAIL FROM:<new@b.example> SMTPUTF8".into())])
        }
        Command::Rcpt if octets.ends_with(b"<c@d.example>") => {
            answer([reply("550 5.1.1 no such user\r\n")])
        }
        _ => keep(octets),
    });
    let (report, seen) = run(wants([Command::Mail, Command::Rcpt, Command::Message]), play).await;
    assert_eq!((report.decision, &report.error), (Decision::Modify, &None));
    assert_eq!(report.sender.path(), "<new@b.example>");
    assert_eq!(report.recipients, [address("<e@f.example>")]);
    assert_eq!(report.refused[0].0, address("<c@d.example>"));
    assert_eq!(outcomes(&seen)[1], (200, Some("550 5.1.1 no such user\r\n".into())));
}

#[tokio::test]
async fn a_refused_sender_ends_the_dialog() {
    let play = message(|| answer([reply("550 5.1.8 bad sender\r\n")]));
    let (report, seen) = run(wants([Command::Mail, Command::Message]), play).await;
    assert_eq!(report.decision, Decision::Reject);
    assert_eq!(report.reply.unwrap().to_string(), "550 5.1.8 bad sender");
    assert_eq!(report.message, Vec::<Bytes>::new());
    let started = |event: &&Event| matches!(event, Event::TransactionStarted { .. });
    assert_eq!(seen.iter().filter(started).count(), 1);
}

#[tokio::test]
async fn a_mail_without_an_accepted_recipient_is_rejected() {
    let play = message(|| answer([reply("450 4.2.1 later\r\n")]));
    let (report, _) = run(wants([Command::Rcpt, Command::Message]), play).await;
    assert_eq!((report.decision, report.refused.len()), (Decision::Reject, 2));
    assert_eq!(report.reply.unwrap().code(), 450);
}

#[tokio::test]
async fn side_effects_are_carried_out_in_order() {
    let effects = vec![
        SideEffect::DeleteRecipient(address("<c@d.example>")),
        SideEffect::AddRecipient(address("<g@h.example>")),
        SideEffect::ChangeSender(Address::null()),
        SideEffect::Quarantine("suspicious".into()),
    ];
    let mut profile = wants([Command::Message]);
    profile.side_effects = effects.iter().map(SideEffect::name).collect();
    let end = AdaptedEnd { side_effects: effects.clone(), ..AdaptedEnd::default() };
    let play =
        script(move |_, octets| answer_with([Step::Keep(0..octets.len() as u32)], end.clone()));
    let (report, _) = run(profile, play).await;
    assert_eq!((report.decision, &report.error), (Decision::Quarantine, &None));
    assert_eq!(report.effects, effects);
    assert!(report.sender.is_null());
    assert_eq!(report.recipients, [address("<e@f.example>"), address("<g@h.example>")]);
    assert_eq!(report.message, Vec::<Bytes>::new());
}

#[tokio::test]
async fn an_observer_changes_nothing() {
    let mut profile = wants([Command::Message]);
    profile.observed = vec![Command::Message];
    let (report, _) = run(profile, message(|| answer([reply("554 no\r\n")]))).await;
    assert_eq!((report.decision, report.reply, report.error), (Decision::Accept, None, None));
}

/// What a server says wrongly, and the cause that the report names.
#[tokio::test]
async fn a_lie_voids_the_whole_answer() {
    let mark = || Step::Data(Part::MessageHeader, "X-Spam: yes\n".into());
    let quarantine = AdaptedEnd {
        side_effects: vec![SideEffect::AddRecipient(address("<a@b> NOTIFY=<x>"))],
        ..AdaptedEnd::default()
    };
    let raw = |text: &str| vec![Step::Start, mark(), Step::Raw(text.to_owned())];
    let cases: Vec<(Vec<Step>, &str)> = vec![
        (
            raw("DUY {x} 20 900;\r\n"),
            "receiving the answer: the transaction failed: DUY of octets that are not kept (RFC 4037 section 11.10)",
        ),
        (
            raw("DUY {x} 2147483647 1;\r\n"),
            "receiving the answer: the transaction failed: DUY of octets that are not kept (RFC 4037 section 11.10)",
        ),
        (
            raw("TE {x};\r\n"),
            "receiving the answer: the transaction failed: TE before the end of the adapted message",
        ),
        (
            vec![Step::Raw("AMS {x}\r\nAm-Id: 1\r\nRole: variant\r\n;\r\n".into())],
            "waiting for the answer: the transaction failed: Multiple-Messages was not negotiated (SMTP profile section 4)",
        ),
        (
            raw("AME {x}\r\nSide-Effects: ({discard \"1:x\"})\r\n;\r\n"),
            "receiving the answer: the transaction failed: discard was not negotiated (SMTP profile section 4)",
        ),
        (
            answer([reply("550 a\r\n250 b\r\n")]),
            "checking the answer: the answer is void: the reply is none: the code is followed by '-' on all lines of a reply but the last",
        ),
        (
            answer([reply("550 a\rRCPT TO:<x@y>\r\n")]),
            "checking the answer: the answer is void: the reply is none: octet 0x0d is not allowed in a reply",
        ),
        (
            answer([reply("250 yours\r\n")]),
            "checking the answer: the answer is void: 250 is no answer to MESSAGE (SMTP profile section 4)",
        ),
        (
            answer([mark(), Step::Keep(0..5)]),
            "checking the answer: the answer is void: the header section does not end where its part ends",
        ),
        (answer([]), "checking the answer: the answer is void: nothing came back for MESSAGE"),
        (
            answer_with([mark(), Step::Keep(0..MAIL.len() as u32)], quarantine),
            "checking the answer: the answer is void: address <a@b> NOTIFY=<x>: an address is one path without blanks and brackets outside of quotes",
        ),
        (
            vec![Step::Finish(OcpResult::failure("overloaded"), true)],
            "waiting for the answer: the transaction failed: overloaded",
        ),
        (
            vec![Step::EndDialog],
            "waiting for the answer: the server ended the dialog: too many dialogs",
        ),
        (vec![Step::HangUp], "waiting for the answer: the connection is lost: the server hung up"),
        (
            [raw("DUM {x} 12\r\nAM-Part: message-body\r\n\r\n99:cut"), vec![Step::HangUp]].concat(),
            "receiving the answer: the connection is lost: the server hung up in the middle of an OCP message",
        ),
        (
            vec![Step::Raw("CE {400 \"4:bye!\"};\r\n".into())],
            "waiting for the answer: the connection is lost: the server closed it: bye!",
        ),
    ];
    for (steps, cause) in cases {
        let mut profile = wants([Command::Message]);
        profile.side_effects = vec![EffectName::AddRecipient];
        let (report, _) = run(profile, message(move || steps.clone())).await;
        assert_eq!(report.error.as_deref(), Some(format!("MESSAGE, {cause}").as_str()));
        assert_eq!(report.decision, Decision::Error, "{cause}");
        assert_eq!(report.message, Vec::<Bytes>::new(), "{cause}");
        assert_eq!(report.recipients, mail().recipients, "{cause}");
    }
}

#[tokio::test]
async fn the_stricter_policy_decides() {
    use FailurePolicy::{Accept, Reject, Tempfail};
    for (servers, ours, decision, code) in [
        (Some(Accept), Accept, Decision::Accept, None),
        (Some(Accept), Tempfail, Decision::Error, Some(451)),
        (Some(Reject), Accept, Decision::Reject, Some(554)),
        (Some(Tempfail), Reject, Decision::Reject, Some(554)),
        (None, Accept, Decision::Error, Some(451)),
    ] {
        let profile = CommandProfile { on_failure: servers, ..wants([Command::Message]) };
        let policy = Policy { on_failure: ours, ..Policy::default() };
        let play = message(|| vec![Step::Finish(OcpResult::failure("broken"), false)]);
        let (report, _) = run_with(&mail(), profile, play, policy).await;
        assert_eq!(report.decision, decision, "{servers:?} {ours:?}");
        assert_eq!(report.reply.map(|reply| reply.code()), code);
        assert!(report.error.is_some());
        let goes_on = if decision == Decision::Accept { MAIL } else { b"" };
        assert_eq!(report.message.concat(), goes_on);
    }
}

#[tokio::test]
async fn a_hanging_server_is_given_up_and_told() {
    let policy = Policy {
        command_deadline: Duration::from_millis(1_500),
        content_deadline: Duration::from_millis(2_000),
        ..Policy::default()
    };
    for (command, cause) in [
        (Command::Mail, "MAIL, waiting for the answer: no answer within 1.5s"),
        (Command::Message, "MESSAGE, waiting for the answer: no answer within 2s"),
    ] {
        let (report, seen) =
            run_with(&mail(), wants([command]), message(Vec::new), policy.clone()).await;
        assert_eq!((report.decision, report.error.as_deref()), (Decision::Error, Some(cause)));
        assert!(report.traffic.sent > 0);
        assert!(
            seen.iter().any(|event| matches!(
                event,
                Event::TransactionEnded { result, .. } if result.code == 400
            )),
            "{seen:?}"
        );
    }
    // One that begins to answer and then hangs.
    let (report, _) =
        run_with(&mail(), wants([Command::Message]), message(|| vec![Step::Start]), policy).await;
    let cause = "MESSAGE, receiving the answer: no answer within 2s";
    assert_eq!(report.error.as_deref(), Some(cause));
}

/// A server that leaves the loop after the header: it gets no octet of the body, and the rest of the
/// message is ours to append (RFC 4037 section 8.3).
#[tokio::test]
async fn a_server_may_leave_the_rest_to_us() {
    let header = MAIL.windows(2).position(|octets| octets == b"\n\n").unwrap() + 2;
    let play = script(move |_, octets| {
        assert_eq!(octets, &MAIL[..header], "nothing of the body was sent");
        vec![
            Step::Start,
            Step::Data(Part::MessageHeader, Bytes::from_static(b"X: 1\r\n")),
            Step::Keep(0..octets.len() as u32),
            Step::Raw("AME {x} {206};\r\nTE {x};\r\n".into()),
        ]
    });
    let profile = CommandProfile { leave_at_body: Some(0), ..wants([Command::Message]) };
    let (report, _) = run(profile, play).await;
    assert_eq!((report.decision, report.error), (Decision::Modify, None));
    assert_eq!(report.message.concat(), [b"X: 1\r\n", MAIL].concat());
}

/// Several messages for one: what each recipient gets, and what voids all of it.
#[tokio::test]
async fn recipients_get_versions_of_their_own() {
    let to = |path: &'static str| Address::new(path).unwrap();
    let mail = StoredMail { recipients: vec![to("<a@x>"), to("<b@x>"), to("<c@x>")], ..mail() };
    let profile = CommandProfile {
        multiple_messages: true,
        recipient_replies: true,
        ..wants([Command::Message])
    };
    let size = MAIL.len();
    let header = MAIL.windows(2).position(|octets| octets == b"\n\n").unwrap() + 2;
    let marked = format!(
        "AMS {{x}}\r\nAm-Id: 1\r\nRole: variant\r\nRecipients: ({{\"5:<b@x>\"}})\r\n;\r\n\
         DUM {{x}} 0\r\nAM-Part: message-header\r\nAm-Id: 1\r\n\r\n6:X: 1\r\n\r\n;\r\n\
         DUY {{x}} 0 {header}\r\nAm-Id: 1\r\n;\r\nDUY {{x}} {header} {}\r\nAm-Id: 1\r\n;\r\n\
         AME {{x}}\r\nAm-Id: 1\r\n;\r\n",
        size - header
    );
    let refused = "AMS {x}\r\nAm-Id: 2\r\nRole: reply\r\nRecipients: ({\"5:<c@x>\"})\r\n;\r\n\
        DUM {x} 0\r\nAM-Part: reply\r\nAm-Id: 2\r\n\r\n8:550 no\r\n\r\n;\r\n\
        AME {x}\r\nAm-Id: 2\r\n;\r\n";
    let rest = format!(
        "AMS {{x}}\r\nAm-Id: 3\r\nRole: variant\r\n;\r\nDUY {{x}} 0 {header}\r\nAm-Id: 3\r\n;\r\n\
         DUY {{x}} {header} {}\r\nAm-Id: 3\r\n;\r\nAME {{x}}\r\nAm-Id: 3\r\n;\r\n",
        size - header
    );
    let whole = format!("{marked}{refused}{rest}TE {{x}};\r\n");
    let play = message(move || vec![Step::Raw(whole.clone())]);
    let (report, _) = run_with(&mail, profile.clone(), play, Policy::default()).await;
    assert_eq!((report.decision, report.error.as_deref()), (Decision::Modify, None));
    let versions: Vec<_> = report
        .versions
        .iter()
        .map(|version| {
            let recipients: Vec<_> = version.recipients.iter().map(ToString::to_string).collect();
            (recipients.concat(), version.decision, version.message.concat())
        })
        .collect();
    assert_eq!(
        versions,
        [
            ("<b@x>".to_owned(), Decision::Modify, [b"X: 1\r\n", MAIL].concat()),
            ("<c@x>".to_owned(), Decision::Reject, Vec::new()),
            ("<a@x>".to_owned(), Decision::Accept, MAIL.to_vec()),
        ]
    );

    let partial = format!("{marked}TE {{x}};\r\n");
    let play = message(move || vec![Step::Raw(partial.clone())]);
    let (report, _) = run_with(&mail, profile, play, Policy::default()).await;
    let cause =
        "MESSAGE, checking the answer: the answer is void: nothing is said of the recipient <a@x>";
    assert_eq!((report.decision, report.error.as_deref()), (Decision::Error, Some(cause)));
}

#[tokio::test]
async fn endless_data_is_cut_off() {
    let play = message(|| vec![Step::Start, Step::Endless(Part::MessageBody)]);
    let (report, _) = run(wants([Command::Message]), play).await;
    let limit = MAIL.len() + Policy::default().answer_allowance;
    let cause = format!(
        "MESSAGE, receiving the answer: the answer is void: more than {limit} octets came back"
    );
    assert_eq!((report.decision, report.error), (Decision::Error, Some(cause)));
}

/// A server that waits for the end of many mails at a time holds all of them in memory.
#[tokio::test]
async fn mails_that_go_out_together_go_one_after_the_other() {
    let play = script(|_, octets| keep(octets));
    let server = Server::start(1, wants([Command::Message]), play);
    let client = server.client().await;
    // The last octet of a whole turn is the mail's as well.
    let whole = [MAIL, &vec![b'x'; 1024 * 1024 - MAIL.len()]].concat();
    let mails: Vec<StoredMail> = (0..8)
        .map(|number| {
            let octets = whole[..whole.len() - number % 3].to_vec();
            StoredMail::new(number.to_string(), octets.into())
        })
        .collect();
    let policy = Policy::default();
    let reports = mails.iter().map(|mail| adapt(&client, mail, &policy));
    futures_util::future::join_all(reports).await;
    client.close().await;
    let mut open = None;
    let mut ended = 0;
    for event in server.events().await {
        match event {
            Event::Data { xid, .. } => assert_eq!(*open.get_or_insert(xid), xid),
            Event::OriginalEnded { xid, .. } => {
                assert_eq!(open.take(), Some(xid));
                ended += 1;
            }
            _ => {}
        }
    }
    assert_eq!(ended, 8);
}

#[tokio::test]
async fn a_failed_mail_leaves_the_connection_to_the_others() {
    let play = script(|_, octets| match octets.starts_with(b"Bad") {
        true => vec![Step::Start, Step::Raw("DUY {x} 0 900000000;\r\n".into())],
        false => keep(octets),
    });
    let server = Server::start(1, wants([Command::Message]), play);
    let client = server.client().await;
    let mails: Vec<StoredMail> = (0..40)
        .map(|number| {
            let field = if number % 4 == 0 { "Bad" } else { "Good" };
            let octets = format!("{field}: {number}\n\n{}", "x".repeat(number * 10_000));
            StoredMail::new(number.to_string(), octets.into())
        })
        .collect();
    let policy = Policy::default();
    let reports = mails.iter().map(|mail| adapt(&client, mail, &policy));
    let reports = futures_util::future::join_all(reports).await;
    for (number, report) in reports.iter().enumerate() {
        let expected = if number % 4 == 0 { Decision::Error } else { Decision::Accept };
        assert_eq!(report.decision, expected, "{number}: {:?}", report.error);
    }
    client.close().await;
    drop(server.events().await);
}

#[tokio::test]
async fn a_lost_or_drained_connection_is_replaced() {
    for last in [Step::HangUp, Step::Drain] {
        let play = script(move |_, octets| [keep(octets), vec![last.clone()]].concat());
        let server = Server::start(2, wants([Command::Message]), play);
        let upstream = Upstream::connect(server.target()).await.unwrap();
        for _ in 0..2 {
            let client = upstream.client().await.unwrap();
            let report = adapt(&client, &mail(), &Policy::default()).await;
            assert_eq!(report.decision, Decision::Accept, "{:?}", report.error);
            while client.is_usable() {
                tokio::task::yield_now().await;
            }
        }
        drop(upstream);
        drop(server.events().await);
    }
}

/// The server drains a connection before a dialog has begun there: it begins on the next one.
#[tokio::test]
async fn a_dialog_begins_where_it_may() {
    let play = script(|_, octets| [keep(octets), vec![Step::Drain]].concat());
    let server = Server::start(2, wants([Command::Message]), play);
    let upstream = Upstream::connect(server.target()).await.unwrap();
    for _ in 0..2 {
        let dialog = upstream.begin(file::facts(), &Policy::default()).await.unwrap();
        let report = file::adapt_in(&dialog, &mail(), &Policy::default()).await;
        assert_eq!(report.decision, Decision::Accept, "{:?}", report.error);
        dialog.client().unusable().await;
        assert!(dialog.client().is_drained());
    }
    drop(upstream);
    drop(server.events().await);
}

#[tokio::test]
async fn a_unix_socket_does_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ocp.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        support::serve(stream, wants([Command::Message]), script(|_, octets| keep(octets)))
    });
    let address = format!("unix:{}", path.display()).parse().unwrap();
    let target = file::target(address, vec!["ocp://service/test".to_owned()]);
    let client = Client::connect(&target).await.unwrap();
    let report = adapt(&client, &mail(), &Policy::default()).await;
    assert_eq!((report.decision, report.error), (Decision::Accept, None));
    client.close().await;
    let seen = tokio::task::spawn_blocking(|| server.join().unwrap()).await.unwrap();
    let closed = Event::Closed(ocp_proto::Closed::ByPeer(OcpResult::ok()));
    assert_eq!(seen.last(), Some(&closed));
}

#[tokio::test]
async fn what_is_no_callout_server_is_named() {
    // Nobody listens there any more.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::start(0, wants([]), message(Vec::new));
    let mut target = server.target();
    drop(server.events().await);
    let error = Client::connect(&target).await.unwrap_err();
    assert!(matches!(error, ConnectError::Transport { .. }), "{error}");

    // Somebody who says nothing.
    target.server = listener.local_addr().unwrap().to_string().parse().unwrap();
    target.connect_timeout = Duration::from_millis(400);
    let error = Client::connect(&target).await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout { stage: "OCP negotiation", .. }), "{error}");
}

/// Every sample goes out and comes back octet for octet: content is never repaired on the way.
#[tokio::test]
async fn samples_come_back_octet_for_octet() {
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/testdata");
    let own = ["\r\n", "A: b", "A: b\r\n\r\n", "\0\n\n\r\r\n", "A: \u{ff}\n\nx\r"];
    let mut mails: Vec<StoredMail> = own
        .iter()
        .map(|text| StoredMail::new("own", Bytes::from_static(text.as_bytes())))
        .collect();
    for folder in ["ham", "spam", "torture", "virus", "gtube", "normalise", "auth"] {
        let Ok(sources) = opes_mta::front::source::find(&[format!("{samples}/{folder}").into()])
        else {
            continue;
        };
        for source in sources {
            source.read(None, &[], |found| {
                mails.push(found.mail.unwrap());
                true
            });
        }
    }
    let commands = [Command::Mail, Command::Message];
    let server = Server::start(1, wants(commands), script(|_, octets| keep(octets)));
    let client = server.client().await;
    let policy = Policy::default();
    for mail in &mails {
        let report = adapt(&client, mail, &policy).await;
        assert_eq!((report.decision, report.error), (Decision::Accept, None), "{}", mail.name);
        assert_eq!(report.message.concat(), mail.octets, "{}", mail.name);
    }
    client.close().await;
    let seen = server.events().await;
    let dialogs = seen.iter().filter(|event| matches!(event, Event::DialogStarted { .. })).count();
    assert_eq!(dialogs, mails.len());
}
