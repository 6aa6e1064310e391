//! The body of the fuzz target `milter`; a unit test runs it over the corpus.

use bytes::{Buf, Bytes, BytesMut};

use super::options::VERSION;
use super::packet::MAXIMUM_PACKET;
use super::{
    Command, Decision, Decoder, InvalidPacket, Misuse, Modification, Packet, Reply, Session, Stage,
    Step, Steps, Wanted, negotiate,
};

/// Octets as an MTA may send them: however they are cut, the same packets come out; a command that was
/// understood is written and read again as the same; the session lets no content come without a sender
/// and a recipient; and what is appended as an answer can be read in one way only.
///
/// # Panics
/// If that is not so.
pub fn milter(octets: &[u8]) {
    let (packets, error) = packets(octets, octets.len().max(1));
    let piece = 1 + octets.len() % 7;
    assert_eq!(self::packets(octets, piece), (packets.clone(), error), "fragmentation matters");
    let commands: Vec<_> = packets.into_iter().map_while(|p| Command::parse(p).ok()).collect();
    commands.iter().for_each(check_round_trip);
    dialog(&commands);
    check_reply(octets);
}

fn packets(octets: &[u8], piece: usize) -> (Vec<Packet>, Option<InvalidPacket>) {
    let mut decoder = Decoder::new(MAXIMUM_PACKET);
    let (mut input, mut packets) = (BytesMut::new(), Vec::new());
    for piece in octets.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(error) => return (packets, Some(error)),
            }
        }
    }
    (packets, None)
}

fn check_round_trip(command: &Command) {
    let mut written = BytesMut::new();
    command.encode(&mut written);
    let (packets, error) = packets(&written, written.len());
    let again: Vec<_> = packets.into_iter().map(Command::parse).collect();
    assert_eq!((again, error), (vec![Ok(command.clone())], None), "written and read otherwise");
}

/// What a message has, seen from outside.
#[derive(Default)]
struct Envelope {
    sender: bool,
    recipients: usize,
}

/// Each command goes to a session, and each answer is chosen by the place of its command.
fn dialog(commands: &[Command]) {
    let (mut session, mut steps, mut envelope) = (Session::new(), Steps::NONE, Envelope::default());
    let mut out = BytesMut::new();
    for (place, command) in commands.iter().enumerate() {
        let Ok(step) = session.receive(command) else { return };
        match (step, command) {
            (Step::Negotiate, Command::Negotiate(offer)) => {
                // Nothing is left out where version 6 is offered, as MTAs do, and all that can be where
                // it is a higher one.
                let useful_steps = if offer.version > VERSION {
                    offer.steps
                } else {
                    Steps::SKIP.and(Steps::REJECTED_RECIPIENTS).and(Steps::LEADING_SPACE)
                };
                let useful_actions = offer.actions;
                let wanted = Wanted { useful_actions, useful_steps, ..Wanted::default() };
                let Ok(agreed) = negotiate(offer, &wanted) else { return };
                session.agree(&agreed, &mut out).expect("there is an offer");
                steps = agreed.steps;
            }
            (Step::Stage { stage, answer, .. }, _) => {
                assert!(steps.send(stage), "{stage:?} was not wanted");
                assert_eq!(answer, steps.await_answer(stage));
                envelope.check(stage, steps);
                let decision = if answer {
                    answer_to(&mut session, stage, commands, place)
                } else {
                    assert_eq!(
                        session.decide(&Decision::Continue, &mut out),
                        Err(Misuse::NotAwaited)
                    );
                    Decision::Continue
                };
                envelope.follow(stage, &decision);
            }
            (Step::RejectedRecipient { answer: true }, _) => {
                session.decide(&Decision::Continue, &mut out).expect("the MTA waits");
            }
            (Step::Abort { .. } | Step::NewConnection | Step::Quit, _) => {
                envelope = Envelope::default();
            }
            _ => {}
        }
    }
}

impl Envelope {
    fn check(&self, stage: Stage, steps: Steps) {
        let is_content = (Stage::Data..=Stage::EndOfMessage).contains(&stage);
        if is_content || stage == Stage::Rcpt {
            assert!(self.sender || !steps.send(Stage::Mail), "{stage:?} without a sender");
        }
        if is_content {
            let is_there = self.recipients > 0 || !steps.send(Stage::Rcpt);
            assert!(is_there, "{stage:?} without a recipient");
        }
    }

    fn follow(&mut self, stage: Stage, decision: &Decision) {
        let goes_on = matches!(decision, Decision::Continue | Decision::Skip);
        let is_refused =
            matches!(decision, Decision::Reject | Decision::Tempfail | Decision::Reply(_));
        match stage {
            Stage::Mail if goes_on => *self = Self { sender: true, recipients: 0 },
            Stage::Rcpt if goes_on => self.recipients += 1,
            Stage::Rcpt | Stage::Unknown if goes_on || is_refused => {}
            Stage::Helo | Stage::EndOfMessage => *self = Self::default(),
            _ if goes_on => {}
            _ => *self = Self::default(),
        }
    }
}

/// Answers a stage, with modifications before if it is the end of a message.
fn answer_to(session: &mut Session, stage: Stage, commands: &[Command], place: usize) -> Decision {
    let mut out = BytesMut::new();
    let again = session.receive(&Command::Abort);
    assert!(again.is_err(), "{again:?} while an answer is awaited");
    if stage == Stage::EndOfMessage {
        for modification in commands.iter().filter_map(|command| modification(command, place)) {
            out.clear();
            if session.modify(&modification, &mut out).is_ok() {
                assert_eq!(read_modification(&out), modification, "read otherwise");
            } else {
                assert!(out.is_empty(), "appended and refused");
            }
        }
    }
    let text = Bytes::from_static(b"5.7.1 100% no");
    let decisions = [
        Decision::Continue,
        Decision::Continue,
        Decision::Accept,
        Decision::Reject,
        Decision::Tempfail,
        Decision::Discard,
        Decision::Skip,
        Decision::Reply(Reply::new(550, vec![text]).expect("it is valid")),
    ];
    // Mostly on: dialogs that end at once show little.
    let chosen = decisions.get((place * 7) % 40).cloned().unwrap_or(Decision::Continue);
    session.progress(&mut out).expect("an answer is awaited");
    if session.decide(&chosen, &mut out).is_ok() {
        return chosen;
    }
    session.decide(&Decision::Continue, &mut out).expect("all stages take it");
    Decision::Continue
}

/// What an adapted message could ask for that has these octets in it.
fn modification(command: &Command, place: usize) -> Option<Modification> {
    let index = u32::try_from(place).unwrap_or_default();
    Some(match command {
        Command::Mail(path) => Modification::ChangeSender {
            address: path.address.clone(),
            arguments: path.arguments.first().cloned(),
        },
        Command::Rcpt(path) => Modification::AddRecipient {
            address: path.address.clone(),
            arguments: path.arguments.first().cloned(),
        },
        Command::Header { name, value } => match place % 3 {
            0 => Modification::AddField { name: name.clone(), value: value.clone() },
            1 => Modification::InsertField { index, name: name.clone(), value: value.clone() },
            _ => Modification::ChangeField { index, name: name.clone(), value: value.clone() },
        },
        Command::Helo(name) => Modification::DeleteRecipient { address: name.clone() },
        Command::Unknown(line) => Modification::Quarantine(line.clone()),
        Command::Body(octets) => Modification::ReplaceBody(octets.clone()),
        _ => return None,
    })
}

/// Reads what was appended as Postfix does: strings up to their NULs, and nothing behind them.
pub(super) fn read_modification(written: &[u8]) -> Modification {
    let (packets, error) = packets(written, written.len());
    assert_eq!(error, None);
    let body: Vec<_> = packets.iter().filter(|p| p.letter == b'b').map(|p| &p.data[..]).collect();
    if !body.is_empty() {
        assert!(body.iter().all(|chunk| chunk.len() <= super::response::BODY_CHUNK));
        assert_eq!(body.len(), packets.len());
        return Modification::ReplaceBody(body.concat().into());
    }
    let [packet] = &packets[..] else { panic!("{} packets", packets.len()) };
    assert!(packet.data.len() <= super::response::MAXIMUM_DATA);
    let mut data = packet.data.clone();
    let index = if matches!(packet.letter, b'i' | b'm') { data.get_u32() } else { 0 };
    let mut strings: Vec<Bytes> =
        data.split(|octet| *octet == 0).map(Bytes::copy_from_slice).collect();
    assert_eq!(strings.pop(), Some(Bytes::new()), "the last string ends with NUL");
    let mut strings = strings.into_iter();
    let first = strings.next().expect("there is a string");
    let second = strings.next();
    assert_eq!(strings.next(), None);
    match (packet.letter, second) {
        (b'+', None) => Modification::AddRecipient { address: first, arguments: None },
        (b'2', arguments @ Some(_)) => Modification::AddRecipient { address: first, arguments },
        (b'-', None) => Modification::DeleteRecipient { address: first },
        (b'e', arguments) => Modification::ChangeSender { address: first, arguments },
        (b'h', Some(value)) => Modification::AddField { name: first, value },
        (b'i', Some(value)) => Modification::InsertField { index, name: first, value },
        (b'm', Some(value)) => Modification::ChangeField { index, name: first, value },
        (b'q', None) => Modification::Quarantine(first),
        other => panic!("{other:?}"),
    }
}

/// Lines as a reply: what is accepted says the same to an MTA, and is taken by Postfix.
fn check_reply(octets: &[u8]) {
    let lines: Vec<_> = octets.split(|octet| *octet == b'\n').map(Bytes::copy_from_slice).collect();
    let code = 395 + u16::try_from(octets.len() % 210).unwrap_or_default();
    let Ok(reply) = Reply::new(code, lines.clone()) else { return };
    let mut out = BytesMut::new();
    Decision::Reply(reply).encode(&mut out);
    let (packets, _) = packets(&out, out.len());
    let [packet] = &packets[..] else { panic!("{} packets", packets.len()) };
    assert_eq!(read_reply(&packet.data), (code, lines));
}

/// Code and lines of a reply, if Postfix takes it (`milter8_valid_smtp_reply`) and sendmail too
/// (`MILTER_CHECK_REPLYCODE`).
fn read_reply(data: &[u8]) -> (u16, Vec<Bytes>) {
    let text = data.strip_suffix(b"\0").expect("it ends with NUL");
    assert!(!text.contains(&0));
    let lines: Vec<&[u8]> = text.split(|octet| *octet == b'\n').collect();
    let mut code = None;
    let mut read = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let is_last = index + 1 == lines.len();
        let line = if is_last { line } else { line.strip_suffix(b"\r").expect("CR before LF") };
        assert!(!line.contains(&b'\r'));
        let (digits, rest) = line.split_at_checked(3).expect("a code");
        assert!(matches!(digits.first(), Some(b'4' | b'5')));
        assert!(code.is_none_or(|code| code == digits), "one code");
        code = Some(digits);
        let (separator, text) = rest.split_at_checked(1).expect("a separator");
        assert_eq!(separator, if is_last { b" " } else { b"-" });
        let first = text.first().filter(|first| first.is_ascii_digit());
        assert!(first.is_none_or(|first| digits.first() == Some(first)));
        let parts: Vec<&[u8]> = text.split(|octet| *octet == b'%').collect();
        assert!(parts.len() % 2 == 1, "each % is doubled");
        let between = parts.iter().skip(1).step_by(2);
        between.for_each(|between| assert!(between.is_empty(), "each % is doubled"));
        read.push(Bytes::from(
            parts.iter().step_by(2).copied().collect::<Vec<_>>().join(&b"%"[..]),
        ));
    }
    let code = std::str::from_utf8(code.expect("there is a line")).expect("digits");
    (code.parse().expect("a number"), read)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::milter::packet;

    #[test]
    fn the_corpus_holds() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/milter");
        let mut files = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            super::milter(&std::fs::read(entry.unwrap().path()).unwrap());
            files += 1;
        }
        assert!(files >= 8, "{files} seeds");
    }

    proptest! {
        #[test]
        fn any_octets_hold(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::milter(&octets);
        }

        /// Dialogs that are mostly right get further than random octets.
        #[test]
        fn near_dialogs_hold(
            steps in any::<u32>(),
            order in proptest::collection::vec(0_usize..24, 0..60),
        ) {
            let pieces: [&[u8]; 15] = [
                b"M<a@b>\0SIZE=1\0", b"R<c@d>\0", b"T", b"LSubject\0 hi\n\tthere\0", b"N", b"Bbody\r\n",
                b"E", b"E.", b"A", b"Hname\0", b"K", b"Ca\x004\0\x19127.0.0.1\0",
                b"DR{rcpt_mailer}\0error\0", b"UFOO\0", b"Q",
            ];
            let offer = [&b"O\0\0\0\x07\0\0\x01\xff"[..], &steps.to_be_bytes()].concat();
            // The first pieces make a whole message in their order.
            let order = order.into_iter().enumerate().map(|(at, n)| if n > 14 { at % 7 } else { n });
            let body = [&offer[..], pieces[11]].into_iter().chain(order.map(|n| pieces[n]));
            let mut octets = bytes::BytesMut::new();
            for piece in body {
                packet::encode(&mut octets, piece[0], |out| out.extend_from_slice(&piece[1..]));
            }
            super::milter(&octets);
        }
    }
}
