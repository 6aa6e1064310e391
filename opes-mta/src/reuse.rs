//! Answers that hold for a while: what a server has said of a command is used again, without a
//! transaction, for the same command line while the facts that it named are the same (profile section
//! 4, `Valid-For`; RFC 3836 section 3.13).
//!
//! They belong to one connection, as the service group does that they are valid for: a server that was
//! started anew, perhaps with other settings, is asked anew.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ocp_proto::smtp::{CommandLine, DialogFacts, Fact, Reply, Validity, Verdict};
use ocp_proto::wire::Atom;
use tokio::time::Instant;

use crate::apply::Answer;
use crate::consult::Adaptation;
use crate::event::{Content, Event};

/// The longest that an answer is used again, however long the server says.
pub const LONGEST_REUSE: Duration = Duration::from_secs(3_600);

/// The most answers of a connection; more drop the oldest ones. They are looked through one by one,
/// which takes less time than a transaction does.
const MOST_ANSWERS: usize = 1_024;

/// The most octets of these answers, with what they depend on. Worst case a connection: that much.
const MOST_OCTETS: usize = 1024 * 1024;

/// The answers of one connection that may be used again, the oldest one first.
#[derive(Debug, Default)]
pub(crate) struct ReusableAnswers(Mutex<VecDeque<Reusable>>);

/// One answer, and what has to be the same for it.
#[derive(Debug)]
struct Reusable {
    /// Empty for CONNECT.
    line: Bytes,
    named: BTreeSet<Fact>,
    /// What the named facts were.
    facts: Facts,
    until: Instant,
    answer: Answer,
    verdicts: Vec<Verdict>,
    envelope_done: bool,
}

/// What some facts are, each in its place.
type Facts = Vec<Option<Atom>>;

impl ReusableAnswers {
    /// The answer to this event, if one is there that holds.
    pub(crate) fn find(
        &self,
        event: &Event,
        dialog: &DialogFacts,
        now: Instant,
    ) -> Option<Adaptation> {
        let line = line(event)?;
        let answers = self.answers();
        // The latest one says best what the server thinks.
        let found = answers.iter().rev().find(|known| {
            now < known.until
                && known.line == line
                && known.facts == facts(&known.named, event, dialog)
        })?;
        Some(Adaptation {
            answer: found.answer.clone(),
            verdicts: found.verdicts.clone(),
            envelope_done: found.envelope_done,
            reused: true,
            ..Adaptation::unchanged()
        })
    }

    /// Keeps the answer to an event that was asked about at `asked`, if the server lets us. One with
    /// side effects or notifications is none to be used again: they are for the one event.
    pub(crate) fn keep(
        &self,
        event: &Event,
        dialog: &DialogFacts,
        adaptation: &Adaptation,
        asked: Instant,
    ) {
        let Some((line, validity)) = line(event).zip(adaptation.validity.as_ref()) else { return };
        if !(adaptation.effects.is_empty() && adaptation.notifications.is_empty()) {
            return;
        }
        let Some(answer) = copied_answer(&adaptation.answer) else { return };
        let Validity { seconds, with } = validity;
        let lasts = Duration::from_secs(u64::from(*seconds)).min(LONGEST_REUSE);
        let new = Reusable {
            line: copied(&line),
            named: with.clone(),
            facts: facts(with, event, dialog),
            until: asked + lasts,
            answer,
            verdicts: adaptation.verdicts.iter().map(copied_verdict).collect(),
            envelope_done: adaptation.envelope_done,
        };
        let mut answers = self.answers();
        answers.retain(|known| known.until > asked && !known.is_for_the_same(&new));
        answers.push_back(new);
        let mut octets: usize = answers.iter().map(Reusable::octets).sum();
        while answers.len() > MOST_ANSWERS || octets > MOST_OCTETS {
            let Some(oldest) = answers.pop_front() else { return };
            octets -= oldest.octets();
        }
    }

    fn answers(&self) -> MutexGuard<'_, VecDeque<Reusable>> {
        // No change is left half done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reusable {
    fn is_for_the_same(&self, other: &Self) -> bool {
        self.line == other.line && self.named == other.named && self.facts == other.facts
    }

    /// Octets of memory, near enough.
    fn octets(&self) -> usize {
        let answer = match &self.answer {
            Answer::Line(line) => line.as_bytes().len(),
            Answer::Reply(reply) => reply.as_bytes().len(),
            Answer::Unchanged | Answer::Message(_) | Answer::Several(_) => 0,
        };
        let facts = self.facts.iter().flatten().map(|fact| fact.len()).sum::<usize>();
        let verdict = |verdict: &Verdict| {
            let texts = [Some(&verdict.service), Some(&verdict.verdict)];
            let texts = texts.into_iter().chain([verdict.score.as_ref(), verdict.reason.as_ref()]);
            size_of::<Verdict>() + texts.flatten().map(|text| text.len()).sum::<usize>()
        };
        let verdicts = self.verdicts.iter().map(verdict).sum::<usize>();
        size_of::<Self>() + self.line.len() + facts + answer + verdicts
    }
}

/// What these facts are now. That there is none is a fact too.
fn facts(named: &BTreeSet<Fact>, event: &Event, dialog: &DialogFacts) -> Facts {
    let mut facts = Facts::new();
    for fact in named {
        match fact {
            Fact::Client => {
                facts.push(dialog.client_address.clone());
                facts.push(dialog.client_name.clone());
            }
            Fact::Helo => facts.push(dialog.helo.clone()),
            Fact::Auth => {
                facts.push(dialog.auth.as_ref().map(|auth| auth.mechanism.clone()));
                facts.push(dialog.auth.as_ref().map(|auth| auth.identity.clone()));
            }
            // Neither a parameter nor the end of a path has a blank, so this stands for one sender.
            Fact::Sender => facts.push(event.envelope.sender.as_ref().map(|sender| {
                let parts = [sender.path()].into_iter().chain(&sender.parameters);
                parts.map(|part| &part[..]).collect::<Vec<_>>().join(&b' ').into()
            })),
        }
    }
    facts
}

/// The line that an answer would be used again for; `None` if it never is. A sender that services may be
/// skipped for gets other answers than others do.
fn line(event: &Event) -> Option<Bytes> {
    if !event.command.is_reusable() || !event.bypass.is_empty() {
        return None;
    }
    match &event.content {
        Content::Nothing => Some(Bytes::new()),
        Content::Line(line) => Some(line.as_bytes().clone()),
        Content::Message(_) | Content::Reply(_) => None,
    }
}

/// A slice would hold back the whole buffer that it arrived in.
fn copied(octets: &Bytes) -> Bytes {
    Bytes::copy_from_slice(octets)
}

fn copied_answer(answer: &Answer) -> Option<Answer> {
    match answer {
        Answer::Unchanged => Some(Answer::Unchanged),
        Answer::Line(line) => CommandLine::new(copied(line.as_bytes())).ok().map(Answer::Line),
        Answer::Reply(reply) => Reply::parse(copied(reply.as_bytes())).ok().map(Answer::Reply),
        Answer::Message(_) | Answer::Several(_) => None,
    }
}

/// No service works when its answer is used again, so it takes no time.
fn copied_verdict(verdict: &Verdict) -> Verdict {
    Verdict { milliseconds: None, ..verdict.clone() }
}

#[cfg(test)]
mod tests {
    use ocp_proto::smtp::{Address, Auth, Envelope, SideEffect};
    use proptest::prelude::*;

    use super::*;

    const LINES: [&str; 3] = ["MAIL FROM:<a@b>", "MAIL FROM:<a@b> SIZE=1", "RCPT TO:<a@b>"];

    fn command(line: &str) -> Event {
        let line = CommandLine::new(line.to_owned()).unwrap();
        Event::command(line, Envelope::default()).unwrap()
    }

    fn answered(seconds: u32, facts: &[Fact]) -> Adaptation {
        let validity = facts.iter().fold(Validity::new(seconds), |v, fact| v.with_fact(*fact));
        Adaptation { validity: Some(validity), ..Adaptation::unchanged() }
    }

    fn saying(text: &str) -> Vec<Verdict> {
        vec![Verdict {
            service: "ocp://service/test".into(),
            verdict: text.to_owned().into(),
            score: None,
            reason: None,
            milliseconds: Some(3),
        }]
    }

    #[test]
    fn it_holds_for_its_time_and_an_hour_at_the_most() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let (event, facts) = (command(LINES[0]), DialogFacts::default());
        for (said, holds) in [(60, 60), (3_600, 3_600), (ocp_proto::MAXIMUM, 3_600)] {
            let answers = ReusableAnswers::default();
            answers.keep(&event, &facts, &answered(said, &[]), now);
            let found = |after| answers.find(&event, &facts, now + after).is_some();
            assert!(found(holds * second - second), "{said}");
            assert!(!found(holds * second), "{said}");
        }
    }

    #[test]
    fn what_comes_back_says_where_it_comes_from() {
        let (now, facts) = (Instant::now(), DialogFacts::default());
        let reply = Reply::new(550, "5.7.1", "no").unwrap();
        let adaptation = Adaptation {
            answer: Answer::Reply(reply),
            verdicts: saying("denied"),
            envelope_done: true,
            traffic: ocp_proto::Traffic { sent: 9, received: 9 },
            ..answered(60, &[])
        };
        let answers = ReusableAnswers::default();
        answers.keep(&command(LINES[0]), &facts, &adaptation, now);
        let found = answers.find(&command(LINES[0]), &facts, now).unwrap();
        assert_eq!(found.answer, adaptation.answer);
        assert!(found.reused && found.envelope_done && found.validity.is_none());
        assert!(found.traffic.sent == 0 && found.asked.is_none());
        assert_eq!(found.verdicts[0].verdict, "denied");
        assert_eq!(found.verdicts[0].milliseconds, None, "no service worked");
    }

    #[test]
    fn some_answers_are_for_one_event_only() {
        let (now, facts) = (Instant::now(), DialogFacts::default());
        let effect = SideEffect::Quarantine("why".into());
        let notification = crate::apply::Notification {
            sender: Address::null(),
            recipients: Vec::new(),
            message: crate::apply::Adapted::default(),
        };
        let bypassing = Event { bypass: vec!["*".into()], ..command(LINES[0]) };
        let cases = [
            ("no time", command(LINES[0]), Adaptation::unchanged()),
            ("DATA", command("DATA"), answered(60, &[])),
            ("bypassed", bypassing.clone(), answered(60, &[])),
            (
                "effects",
                command(LINES[0]),
                Adaptation { effects: vec![effect], ..answered(60, &[]) },
            ),
            (
                "notifications",
                command(LINES[0]),
                Adaptation { notifications: vec![notification], ..answered(60, &[]) },
            ),
        ];
        for (case, event, adaptation) in cases {
            let answers = ReusableAnswers::default();
            answers.keep(&event, &facts, &adaptation, now);
            assert!(answers.answers().is_empty(), "{case}");
        }
        let answers = ReusableAnswers::default();
        answers.keep(&command(LINES[0]), &facts, &answered(60, &[]), now);
        assert!(answers.find(&bypassing, &facts, now).is_none());
    }

    #[test]
    fn a_server_that_says_much_is_kept_within_bounds() {
        let (now, facts) = (Instant::now(), DialogFacts::default());
        let line = |number: usize| command(&format!("RCPT TO:<{number}@b>"));
        let answers = ReusableAnswers::default();
        for number in 0..MOST_ANSWERS + 10 {
            answers.keep(&line(number), &facts, &answered(60, &[]), now);
        }
        assert_eq!(answers.answers().len(), MOST_ANSWERS);
        assert!(answers.find(&line(9), &facts, now).is_none());
        assert!(answers.find(&line(10), &facts, now).is_some());

        let large = Adaptation { verdicts: saying(&"x".repeat(100_000)), ..answered(60, &[]) };
        for number in 0..20 {
            answers.keep(&line(number), &facts, &large, now);
            let octets: usize = answers.answers().iter().map(Reusable::octets).sum();
            assert!(octets <= MOST_OCTETS, "{octets}");
        }
        assert_eq!(answers.answers().len(), 10);
        let huge = Adaptation { verdicts: saying(&"x".repeat(MOST_OCTETS)), ..answered(60, &[]) };
        answers.keep(&line(0), &facts, &huge, now);
        assert!(answers.answers().is_empty());

        for said in [10, 20, 30] {
            answers.keep(&line(0), &facts, &answered(said, &[]), now);
        }
        assert_eq!(answers.answers().len(), 1, "the latest replaces the others");
        answers.keep(&line(1), &facts, &answered(60, &[]), now + Duration::from_secs(30));
        assert_eq!(answers.answers().len(), 1, "what holds no more goes");
    }

    /// One of two values or none, for each fact.
    fn known(client: u8, helo: u8, auth: u8, sender: u8) -> (DialogFacts, Option<Address>) {
        let value = |number: u8| match number {
            0 => None,
            number => Some(Atom::from(vec![b'a' + number])),
        };
        let auth = value(auth % 3).map(|identity| Auth { mechanism: "PLAIN".into(), identity });
        let sender = match sender % 4 {
            0 => None,
            1 => Some(Address::null()),
            2 => Some(Address::new("<a@b>").unwrap()),
            _ => {
                let sender = Address::new("<a@b>").unwrap();
                Some(sender.with_parameters(vec!["SIZE=1".into()]).unwrap())
            }
        };
        let dialog = DialogFacts {
            client_address: value(client % 3),
            client_name: value(client / 3 % 3),
            helo: value(helo % 3),
            auth,
            ..DialogFacts::default()
        };
        (dialog, sender)
    }

    proptest! {
        /// Whatever was kept and is asked: an answer that comes back was given to this line while the
        /// facts that it named were what they are now, and its time is not over.
        #[test]
        fn an_answer_is_used_again_only_where_its_facts_are_equal(
            steps in prop::collection::vec(
                (0..LINES.len(), any::<[u8; 4]>(), 0..16_u8, 1..100_u32, any::<bool>()),
                1..60,
            ),
        ) {
            let begin = Instant::now();
            let answers = ReusableAnswers::default();
            let mut given: Vec<(usize, [u8; 4], Vec<Fact>, Instant)> = Vec::new();
            for (step, (line, values, named, seconds, keeps)) in (0_u32..).zip(steps) {
                let now = begin + Duration::from_secs(u64::from(step) * 5);
                let [client, helo, auth, sender] = values;
                let (dialog, sender) = known(client, helo, auth, sender);
                let mut event = command(LINES[line]);
                event.envelope.sender = sender.clone();
                if keeps {
                    let named: Vec<Fact> = Fact::ALL
                        .into_iter()
                        .zip(0..)
                        .filter(|(_, bit)| named >> bit & 1 == 1)
                        .map(|(fact, _)| fact)
                        .collect();
                    let adaptation =
                        Adaptation { verdicts: saying(&given.len().to_string()), ..answered(seconds, &named) };
                    answers.keep(&event, &dialog, &adaptation, now);
                    given.push((line, values, named, now + Duration::from_secs(seconds.into())));
                }
                let found = answers.find(&event, &dialog, now);
                prop_assert!(!keeps || found.is_some());
                let Some(found) = found else { continue };
                let number: usize =
                    std::str::from_utf8(&found.verdicts[0].verdict).unwrap().parse().unwrap();
                let (of, then, named, until) = &given[number];
                prop_assert!(*of == line && now < *until);
                let (before, from) = known(then[0], then[1], then[2], then[3]);
                for fact in named {
                    let same = match fact {
                        Fact::Client => {
                            before.client_address == dialog.client_address
                                && before.client_name == dialog.client_name
                        }
                        Fact::Helo => before.helo == dialog.helo,
                        Fact::Auth => before.auth == dialog.auth,
                        Fact::Sender => from == sender,
                    };
                    prop_assert!(same, "{fact}: {before:?} {dialog:?} {from:?} {sender:?}");
                }
            }
        }
    }
}
