use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::milter::{Client, MacroName, Macros, Offer, Path, Reply, Wanted, negotiate};

const ALL: Offer =
    Offer { version: 6, actions: Actions::from_bits(0x1ff), steps: Steps::from_bits(0x1f_ffff) };

fn path() -> Path {
    Path { address: Bytes::from_static(b"<a@b>"), arguments: Vec::new() }
}

fn command(stage: Stage) -> Command {
    let text = Bytes::from_static(b"text");
    match stage {
        Stage::Connect => Command::Connect { host: text, client: Client::Unknown },
        Stage::Helo => Command::Helo(text),
        Stage::Mail => Command::Mail(path()),
        Stage::Rcpt => Command::Rcpt(path()),
        Stage::Data => Command::Data,
        Stage::Header => Command::Header { name: text.clone(), value: text },
        Stage::EndOfHeader => Command::EndOfHeader,
        Stage::Body => Command::Body(text),
        Stage::EndOfMessage => Command::EndOfMessage(Bytes::new()),
        Stage::Unknown => Command::Unknown(text),
    }
}

fn rcpt_macros(mailer: &'static str) -> Command {
    let name = MacroName::new("{rcpt_mailer}");
    let values = vec![(name, Bytes::from_static(mailer.as_bytes()))];
    Command::Macros(Macros { stage: Stage::Rcpt, values })
}

/// A session whose MTA leaves out and waits for what these steps say.
fn agreed(steps: Steps) -> Session {
    let mut session = Session::new();
    assert_eq!(session.receive(&Command::Negotiate(ALL)), Ok(Step::Negotiate));
    let useful_actions = Actions::from_bits(0xff);
    let wanted = Wanted { useful_actions, useful_steps: steps, ..Wanted::default() };
    session.agree(&negotiate(&ALL, &wanted).unwrap(), &mut BytesMut::new()).unwrap();
    session
}

/// The stage comes and is answered so.
fn come(session: &mut Session, stage: Stage, decision: &Decision) {
    let step = session.receive(&command(stage));
    let expected = Step::Stage { stage, answer: true, abandons: false };
    assert_eq!(step, Ok(expected));
    session.decide(decision, &mut BytesMut::new()).unwrap();
}

/// A session in which these have come and were accepted.
fn after(stages: &[Stage]) -> Session {
    let mut session = agreed(Steps::SKIP.and(Steps::REJECTED_RECIPIENTS));
    stages.iter().for_each(|stage| come(&mut session, *stage, &Decision::Continue));
    session
}

/// Why the stage may not come.
fn refusal(session: &mut Session, stage: Stage) -> String {
    session.receive(&command(stage)).unwrap_err().to_string()
}

const MESSAGE: [Stage; 8] = [
    Stage::Connect,
    Stage::Helo,
    Stage::Mail,
    Stage::Rcpt,
    Stage::Data,
    Stage::Header,
    Stage::EndOfHeader,
    Stage::Body,
];

#[test]
fn nothing_comes_before_the_negotiation() {
    for stage in Stage::ALL {
        let reason = format!("{} before the options were negotiated", stage.name());
        assert_eq!(refusal(&mut Session::new(), stage), reason);
    }
    for command in [Command::Abort, Command::QuitNewConnection, rcpt_macros("smtp")] {
        let name = command.name();
        let expected = Err(OutOfOrder::BeforeNegotiation(name));
        assert_eq!(Session::new().receive(&command), expected);
        let mut offered = Session::new();
        offered.receive(&Command::Negotiate(ALL)).unwrap();
        assert_eq!(offered.receive(&command), expected, "nor before the answer");
    }
    assert_eq!(Session::new().receive(&Command::Quit), Ok(Step::Quit));
    let twice = agreed(Steps::NONE).receive(&Command::Negotiate(ALL));
    assert_eq!(twice, Err(OutOfOrder::NegotiatedTwice));
}

/// After each prefix of a message, which stages may come.
#[test]
fn the_order_is_that_of_the_table() {
    use Stage::{
        Body, Connect, Data, EndOfHeader, EndOfMessage, Header, Helo, Mail, Rcpt, Unknown,
    };
    let between: &[Stage] = &[Helo, Mail, Unknown];
    let allowed: [(usize, &[Stage]); 9] = [
        (0, &[Connect]),
        (1, between),
        (2, between),
        (3, &[Helo, Mail, Rcpt, Unknown]),
        (4, &[Helo, Mail, Rcpt, Data, Unknown]),
        (5, &[Header, EndOfHeader]),
        (6, &[Header, EndOfHeader]),
        (7, &[Body, EndOfMessage]),
        (8, &[Body, EndOfMessage]),
    ];
    for (count, allowed) in allowed {
        for stage in Stage::ALL {
            let come = after(&MESSAGE[..count]).receive(&command(stage));
            assert_eq!(come.is_ok(), allowed.contains(&stage), "{stage:?} after {count}: {come:?}");
        }
    }
    let texts = [
        (0, Stage::Mail, "MAIL without a client"),
        (2, Stage::Data, "DATA without a message"),
        (3, Stage::Data, "DATA without an accepted recipient"),
        (4, Stage::Header, "a header field behind recipients"),
        (5, Stage::Body, "a piece of the body within the header section"),
        (8, Stage::Mail, "MAIL within the body"),
    ];
    for (count, stage, text) in texts {
        assert_eq!(refusal(&mut after(&MESSAGE[..count]), stage), text);
    }
}

#[test]
fn what_ends_a_message_leaves_nothing_of_it() {
    let reply = Decision::Reply(Reply::new(550, vec![Bytes::new()]).unwrap());
    let ends = [Decision::Reject, Decision::Tempfail, reply, Decision::Accept, Decision::Discard];
    for count in [3, 6, 7, 8] {
        for end in &ends {
            let mut session = after(&MESSAGE[..count - 1]);
            come(&mut session, MESSAGE[count - 1], end);
            for stage in [Stage::Rcpt, Stage::Data, Stage::Header, Stage::Body, Stage::EndOfMessage]
            {
                let reason = format!("{} without a message", stage.name());
                assert_eq!(refusal(&mut session, stage), reason, "{count} {end:?}");
            }
            // Postfix gives a message up that has ended, and begins the next one.
            let abort = session.receive(&Command::Abort);
            assert_eq!(abort, Ok(Step::Abort { abandons: false }));
            MESSAGE[2..].iter().for_each(|stage| come(&mut session, *stage, &Decision::Continue));
        }
    }
}

/// The client may try again, with more recipients or without.
#[test]
fn a_refusal_of_data_leaves_the_message() {
    for end in [Decision::Reject, Decision::Tempfail] {
        let mut session = after(&MESSAGE[..4]);
        for stage in [Stage::Data, Stage::Data, Stage::Rcpt, Stage::Data] {
            come(&mut session, stage, &end);
        }
        assert_eq!(refusal(&mut session, Stage::Header), "a header field behind recipients");
        let abort = session.receive(&Command::Abort);
        assert_eq!(abort, Ok(Step::Abort { abandons: true }));
        assert_eq!(refusal(&mut session, Stage::Data), "DATA without a message");
    }
}

#[test]
fn two_messages_on_a_connection_do_not_share_recipients() {
    let mut session = after(&MESSAGE);
    come(&mut session, Stage::EndOfMessage, &Decision::Continue);
    assert_eq!(refusal(&mut session, Stage::Data), "DATA without a message");
    come(&mut session, Stage::Mail, &Decision::Continue);
    assert_eq!(refusal(&mut session, Stage::Data), "DATA without an accepted recipient");
    come(&mut session, Stage::Rcpt, &Decision::Continue);
    come(&mut session, Stage::Data, &Decision::Continue);
}

#[test]
fn a_message_is_given_up_by_what_begins_another() {
    for count in [3, 4] {
        for stage in [Stage::Helo, Stage::Mail] {
            let mut session = after(&MESSAGE[..count]);
            let step = session.receive(&command(stage));
            assert_eq!(step, Ok(Step::Stage { stage, answer: true, abandons: true }));
            session.decide(&Decision::Continue, &mut BytesMut::new()).unwrap();
            let missing = if stage == Stage::Helo { "a message" } else { "an accepted recipient" };
            assert_eq!(refusal(&mut session, Stage::Data), format!("DATA without {missing}"));
        }
    }
    for count in 1..=8 {
        let mut session = after(&MESSAGE[..count]);
        let abandons = count > 2;
        assert_eq!(session.receive(&Command::Abort), Ok(Step::Abort { abandons }));
        assert_eq!(session.receive(&Command::Abort), Ok(Step::Abort { abandons: false }));
        assert_eq!(refusal(&mut session, Stage::Rcpt), "RCPT without a message");
        let mut session = after(&MESSAGE[..count]);
        assert_eq!(session.receive(&Command::QuitNewConnection), Ok(Step::NewConnection));
        assert_eq!(refusal(&mut session, Stage::Mail), "MAIL without a client");
        MESSAGE.iter().for_each(|stage| come(&mut session, *stage, &Decision::Continue));
        assert_eq!(session.receive(&Command::Quit), Ok(Step::Quit));
        assert_eq!(refusal(&mut session, Stage::Connect), "CONNECT after QUIT");
    }
    let abort = agreed(Steps::NONE).receive(&Command::Abort);
    assert_eq!(abort, Ok(Step::Abort { abandons: false }), "without a client");
}

#[test]
fn a_recipient_counts_if_both_ends_accepted_it() {
    let mut session = after(&MESSAGE[..3]);
    come(&mut session, Stage::Rcpt, &Decision::Reject);
    assert_eq!(refusal(&mut session, Stage::Data), "DATA without an accepted recipient");
    assert_eq!(session.receive(&rcpt_macros("error")), Ok(Step::Facts(Stage::Rcpt)));
    let rejected = session.receive(&command(Stage::Rcpt));
    assert_eq!(rejected, Ok(Step::RejectedRecipient { answer: true }));
    for decision in [Decision::Accept, Decision::Discard] {
        // Postfix would let the whole message pass for it.
        let misuse = Misuse::Decision { decision: decision.name(), stage: "RCPT" };
        assert_eq!(session.decide(&decision, &mut BytesMut::new()), Err(misuse));
    }
    session.decide(&Decision::Continue, &mut BytesMut::new()).unwrap();
    assert_eq!(refusal(&mut session, Stage::Data), "DATA without an accepted recipient");
    assert_eq!(session.receive(&rcpt_macros("smtp")), Ok(Step::Facts(Stage::Rcpt)));
    come(&mut session, Stage::Rcpt, &Decision::Continue);
    come(&mut session, Stage::Rcpt, &Decision::Tempfail);
    come(&mut session, Stage::Data, &Decision::Continue);
    // What was said of one recipient does not hold for the next message's.
    let mut session = after(&MESSAGE[..3]);
    session.receive(&rcpt_macros("error")).unwrap();
    session.receive(&Command::Abort).unwrap();
    come(&mut session, Stage::Mail, &Decision::Continue);
    come(&mut session, Stage::Rcpt, &Decision::Continue);
}

#[test]
fn a_decision_on_the_connection_is_the_last_one() {
    for (count, decision) in [(1, Decision::Accept), (1, Decision::Reject), (2, Decision::Tempfail)]
    {
        let mut session = after(&MESSAGE[..count - 1]);
        come(&mut session, MESSAGE[count - 1], &decision);
        for stage in Stage::ALL {
            let reason = format!("{} after the decision on the whole connection", stage.name());
            assert_eq!(refusal(&mut session, stage), reason);
        }
        session.receive(&Command::Abort).unwrap();
        assert!(session.receive(&command(Stage::Mail)).is_err(), "Abort is about messages");
        assert_eq!(session.receive(&Command::QuitNewConnection), Ok(Step::NewConnection));
        come(&mut session, Stage::Connect, &Decision::Continue);
    }
    let mut session = after(&MESSAGE[..7]);
    come(&mut session, Stage::Body, &Decision::Shutdown);
    assert!(session.receive(&command(Stage::Mail)).is_err());
}

#[test]
fn nothing_comes_while_an_answer_is_awaited() {
    let mut session = after(&MESSAGE[..2]);
    session.receive(&command(Stage::Mail)).unwrap();
    assert_eq!(refusal(&mut session, Stage::Rcpt), "RCPT while the answer to MAIL is awaited");
    let expected = OutOfOrder::Awaited { command: "ABORT", awaited: "MAIL" };
    assert_eq!(session.receive(&Command::Abort), Err(expected));
    assert_eq!(session.receive(&Command::Quit), Ok(Step::Quit));
    let decided = session.decide(&Decision::Continue, &mut BytesMut::new());
    assert_eq!(decided, Err(Misuse::NotAwaited));
}

#[test]
fn stages_without_an_answer_go_on_at_once() {
    let mut session = agreed(Steps::NO_REPLY_CONNECT.and(Steps::NO_REPLY_RCPT));
    let step = session.receive(&command(Stage::Connect));
    assert_eq!(step, Ok(Step::Stage { stage: Stage::Connect, answer: false, abandons: false }));
    let mut out = BytesMut::new();
    assert_eq!(session.decide(&Decision::Continue, &mut out), Err(Misuse::NotAwaited));
    assert!(out.is_empty());
    come(&mut session, Stage::Mail, &Decision::Continue);
    session.receive(&command(Stage::Rcpt)).unwrap();
    come(&mut session, Stage::Data, &Decision::Continue);
}

#[test]
fn stages_that_are_not_sent_are_passed_over() {
    let mut session = agreed(
        Steps::NO_CONNECT.and(Steps::NO_HELO).and(Steps::NO_RCPT).and(Steps::NO_END_OF_HEADER),
    );
    let reason = "CONNECT, which the MTA was asked not to send";
    assert_eq!(refusal(&mut session, Stage::Connect), reason);
    assert_eq!(refusal(&mut session, Stage::Data), "DATA without a client");
    for stage in [Stage::Mail, Stage::Data, Stage::Header, Stage::Body, Stage::EndOfMessage] {
        come(&mut session, stage, &Decision::Continue);
    }
    assert_eq!(refusal(&mut session, Stage::Data), "DATA without a message");
}

#[test]
fn answers_are_those_of_their_stage() {
    let mut out = BytesMut::new();
    let cases = [
        (1, Decision::Discard, "discard is no answer to CONNECT"),
        (4, Decision::Skip, "skip is no answer to RCPT"),
    ];
    for (count, decision, text) in cases {
        let mut session = after(&MESSAGE[..count - 1]);
        session.receive(&command(MESSAGE[count - 1])).unwrap();
        assert_eq!(session.decide(&decision, &mut out).unwrap_err().to_string(), text);
        session.decide(&Decision::Continue, &mut out).unwrap();
    }
    let mut session = after(&MESSAGE[..1]);
    session.receive(&command(Stage::Unknown)).unwrap();
    assert!(session.decide(&Decision::Accept, &mut out).is_err());
    let mut session = agreed(Steps::NONE);
    MESSAGE[..7].iter().for_each(|stage| come(&mut session, *stage, &Decision::Continue));
    session.receive(&command(Stage::Body)).unwrap();
    assert!(session.decide(&Decision::Skip, &mut out).is_err(), "SKIP was not agreed on");
    let mut session = after(&MESSAGE[..7]);
    come(&mut session, Stage::Body, &Decision::Skip);
    come(&mut session, Stage::EndOfMessage, &Decision::Continue);
}

#[test]
fn a_message_is_modified_at_its_end_and_as_agreed() {
    let body = |text: &'static str| Modification::ReplaceBody(Bytes::from_static(text.as_bytes()));
    let quarantine = Modification::Quarantine(Bytes::from_static(b"x"));
    let mut out = BytesMut::new();
    let mut session = after(&MESSAGE);
    assert_eq!(session.modify(&body("a"), &mut out), Err(Misuse::NotAwaited));
    session.receive(&command(Stage::Body)).unwrap();
    assert_eq!(session.modify(&body("a"), &mut out), Err(Misuse::NotAtEnd));
    session.decide(&Decision::Continue, &mut BytesMut::new()).unwrap();
    session.receive(&command(Stage::EndOfMessage)).unwrap();
    session.progress(&mut out).unwrap();
    session.modify(&body("a"), &mut out).unwrap();
    session.modify(&body("b"), &mut out).unwrap();
    session.modify(&quarantine, &mut out).unwrap();
    assert_eq!(session.modify(&body("c"), &mut out), Err(Misuse::BodyInterrupted));
    session.decide(&Decision::Accept, &mut out).unwrap();
    let written = b"\0\0\0\x01p\0\0\0\x02ba\0\0\0\x02bb\0\0\0\x03qx\0\0\0\0\x01a";
    assert_eq!(&out[..], &written[..], "all of it can be written at once");
    let mut session = agreed(Steps::NONE);
    session.actions = Actions::REPLACE_BODY;
    MESSAGE.iter().for_each(|stage| come(&mut session, *stage, &Decision::Continue));
    session.receive(&command(Stage::EndOfMessage)).unwrap();
    let misuse = session.modify(&quarantine, &mut out).unwrap_err();
    assert_eq!(misuse.to_string(), "SMFIF_QUARANTINE was not agreed on with the MTA");
}

proptest! {
    /// Whatever comes in which order, and whatever is answered: content has a sender and a recipient.
    #[test]
    fn content_has_a_sender_and_a_recipient(
        comes in proptest::collection::vec((0_usize..14, 0_usize..8), 0..80),
    ) {
        let mut session = after(&MESSAGE[..1]);
        let (mut sender, mut recipients) = (false, 0);
        for (which, answer) in comes {
            let command = match which {
                10 => Command::Abort,
                11 => rcpt_macros("error"),
                12 => rcpt_macros("smtp"),
                13 => Command::QuitNewConnection,
                stage => command(Stage::ALL[stage]),
            };
            let Ok(step) = session.receive(&command) else { continue };
            let decisions =
                [Decision::Continue, Decision::Reject, Decision::Tempfail, Decision::Accept];
            // Mostly on: else few get as far as to content.
            let mut decision = decisions.get(answer.saturating_sub(4)).unwrap().clone();
            let awaited = session.awaited.is_some();
            if awaited && session.decide(&decision, &mut BytesMut::new()).is_err() {
                decision = Decision::Continue;
                session.decide(&decision, &mut BytesMut::new()).unwrap();
            }
            let goes_on = decision == Decision::Continue;
            match step {
                Step::Stage { stage: Stage::Mail, .. } => (sender, recipients) = (goes_on, 0),
                Step::Stage { stage: Stage::Rcpt, .. } if goes_on => recipients += 1,
                Step::Stage { stage: Stage::Rcpt, .. } if decision != Decision::Accept => {}
                Step::Stage { stage, .. }
                    if (Stage::Data..=Stage::EndOfMessage).contains(&stage) =>
                {
                    prop_assert!(sender && recipients > 0, "{stage:?}");
                    // A refusal of DATA leaves the message.
                    let stays = goes_on || stage == Stage::Data && decision != Decision::Accept;
                    if !stays || stage == Stage::EndOfMessage {
                        (sender, recipients) = (false, 0);
                    }
                }
                Step::Stage { stage: Stage::Unknown, .. }
                | Step::RejectedRecipient { .. }
                | Step::Facts(_) => {}
                _ => (sender, recipients) = (false, 0),
            }
        }
    }
}
