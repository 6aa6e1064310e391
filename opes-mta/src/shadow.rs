//! Groups that are asked and not heard: the log says what they would have done.
//!
//! ```text
//!   Passage ──show (event, id)──▶ Shadow ──at most so many octets──▶ task: Consultation ──▶ Watched
//!                                                                                             │
//!                      a line `shadow` a message, as the line `message` of what took effect ◀─┘
//! ```
//!
//! Nobody waits for them, and their room is their own: a group that only watches can't hold up mail, nor
//! take the memory that mail needs. Where one is too slow, the rest of the dialog is left out, and what
//! it has not seen whole has no line.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ocp_proto::OcpResult;
use ocp_proto::smtp::{Address, Command, DialogFacts, DialogUpdate, EffectName, Reply};
use tokio::sync::mpsc::{Sender, channel};
use tokio::time::Instant;

use crate::apply::Answer;
use crate::config::{self, RecipientsDiffer};
use crate::consult::{Adaptation, Failure};
use crate::event::{Content, Event, address_of};
use crate::group::{Consultation, Group};
use crate::record::{Decision, Record};
use crate::room::Room;
use crate::versions::one_for_all;

/// Events of a dialog that may wait for a group that is only watched.
const MOST_WAITING: usize = 16;

/// What an event takes besides its octets, about. Worst case of all that wait: as many events as have room
/// for that in `shadow-octets`.
const EVENT: u64 = 4 * 1024;

/// One dialog, as it is shown to a group.
#[derive(Debug)]
pub(crate) struct Shadow {
    name: String,
    group: Group,
    /// `None` once something was left out.
    shown: Option<Sender<Shown>>,
    left_out: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Shown {
    /// The room is given back once it was asked about.
    Event {
        event: Event,
        id: String,
        room: Room,
    },
    Update(DialogUpdate),
}

impl Shadow {
    /// A dialog of which that is known. It ends when this is dropped, and what was shown is answered.
    /// `traced`: messages that go on are changed in any case, by the system's trace.
    pub(crate) fn start(
        settings: &config::Group,
        group: &Group,
        facts: DialogFacts,
        traced: bool,
    ) -> Self {
        let (sender, mut shown) = channel(MOST_WAITING);
        let left_out = Arc::new(AtomicBool::new(false));
        let mut watcher = Watcher {
            name: settings.name.clone(),
            group: group.clone(),
            fallback: settings.recipients_differ,
            consultation: Consultation::new(group, facts),
            traced,
            client: None,
            watched: None,
        };
        let is_left_out = Arc::clone(&left_out);
        tokio::spawn(async move {
            while let Some(shown) = shown.recv().await {
                match shown {
                    Shown::Update(update) => watcher.consultation.update(update),
                    Shown::Event { event, id, room } => {
                        watcher.watch(&event, id).await;
                        drop((event, room));
                    }
                }
            }
            if !is_left_out.load(Ordering::Relaxed) {
                watcher.conclude();
            }
        });
        let group = group.clone();
        Self { name: settings.name.clone(), group, shown: Some(sender), left_out }
    }

    /// Shows it an event of the message that the log calls so, if there is room for it.
    pub(crate) fn show(&mut self, event: &Event, id: String, mut room: Room) {
        let octets: usize = event.parts().map(|(_, octets)| octets.len()).sum();
        if room.grow_to(octets as u64 + EVENT) {
            self.send(Shown::Event { event: event.clone(), id, room });
        } else {
            self.leave_out("shadow-octets are in use");
        }
    }

    /// Tells it what is learnt later.
    pub(crate) fn update(&mut self, update: DialogUpdate) {
        self.send(Shown::Update(update));
    }

    fn send(&mut self, shown: Shown) {
        let sent = self.shown.as_ref().is_none_or(|sender| sender.try_send(shown).is_ok());
        if !sent {
            self.leave_out("too many of its events wait");
        }
    }

    fn leave_out(&mut self, cause: &str) {
        // What is told of a message has to be whole.
        self.left_out.store(true, Ordering::Relaxed);
        if self.shown.take().is_some() {
            self.group.metrics().shadow_missed.inc();
            let group = self.name.as_str();
            tracing::warn!(
                group,
                cause,
                "the rest of a dialog is not shown to a group that watches"
            );
        }
    }
}

/// The group's end of a dialog.
struct Watcher {
    name: String,
    group: Group,
    /// What becomes of a message of which recipients get different versions.
    fallback: RecipientsDiffer,
    consultation: Consultation,
    traced: bool,
    /// How the client would have been refused as such.
    client: Option<(Decision, String)>,
    /// The message that is under way.
    watched: Option<Watched>,
}

/// What would have become of a message so far.
struct Watched {
    id: String,
    /// And no client before its first one.
    is_message: bool,
    record: Record,
    sender: Option<Address>,
    recipients: Vec<Address>,
    /// Whether a recipient was taken.
    taken: bool,
    /// How the last recipient was refused that was.
    recipient: Option<(Decision, String)>,
    /// How the whole message was refused.
    refused: Option<(Decision, String)>,
    /// What it would have come to if it was not.
    outcome: Decision,
    /// Why it would have gone on unchecked.
    unchecked: Option<String>,
}

impl Watcher {
    async fn watch(&mut self, event: &Event, id: String) {
        if self.watched.as_ref().is_some_and(|watched| watched.id != id) {
            self.conclude();
        }
        let begin = Instant::now();
        let mut asked = self.consultation.ask(event).await;
        if matches!(&asked, Ok(adaptation) if adaptation.asked.is_none()) {
            // Nobody wanted the event.
            return;
        }
        if let Ok(Adaptation { answer, effects, .. }) = &mut asked
            && let Answer::Several(variants) = answer
        {
            (*answer, *effects) = one_for_all(std::mem::take(variants), self.fallback);
        }
        let name = &self.name;
        let is_client = matches!(event.command, Command::Connect | Command::Helo);
        let watched = self.watched.get_or_insert_with(|| Watched::new(name, id));
        watched.is_message |= !is_client;
        watched.add(event, asked, begin.elapsed());
        if is_client && let Some(refusal) = &watched.refused {
            self.client.get_or_insert_with(|| refusal.clone());
        }
        if event.command == Command::Message {
            if watched.outcome == Decision::Accept && self.traced {
                watched.outcome = Decision::Modify;
            }
            self.conclude();
        }
    }

    /// No more comes of this message.
    fn conclude(&mut self) {
        let watched = self.watched.take();
        if let Some(watched) = watched.filter(|it| it.is_message || it.refused.is_some()) {
            let decision = watched.log(self.consultation.facts(), self.client.as_ref());
            self.group.metrics().shadow_message(decision);
        }
    }
}

impl Watched {
    fn new(group: &str, id: String) -> Self {
        Self {
            record: Record::watched(group, &id),
            id,
            is_message: false,
            sender: None,
            recipients: Vec::new(),
            taken: false,
            recipient: None,
            refused: None,
            outcome: Decision::Accept,
            unchecked: None,
        }
    }

    fn add(&mut self, event: &Event, asked: Result<Adaptation, Failure>, took: Duration) {
        self.see(event);
        let name = event.command.name();
        let refusal = match asked {
            Err(failure) => {
                self.record.took(name, took);
                let refusal = failure.reply().map(|reply| refused(&reply, failure.to_string()));
                if refusal.is_none() {
                    self.unchecked = Some(failure.to_string());
                }
                refusal
            }
            Ok(adaptation) => {
                self.record.add_adaptation(name, &adaptation, took);
                let Adaptation { answer, effects, asked, .. } = adaptation;
                if let Some(asked) = asked {
                    let result = OcpResult::failure("only watched: nothing of it took effect");
                    asked.report(result, None);
                }
                match answer {
                    Answer::Reply(reply) if !reply.is_success() => {
                        Some(refused(&reply, reply.to_string()))
                    }
                    answer => {
                        let changed = !matches!(answer, Answer::Unchanged | Answer::Reply(_));
                        let effects = effects.iter().map(|effect| outcome(effect.name()));
                        let outcomes = effects.chain(changed.then_some(Decision::Modify));
                        self.outcome = outcomes.fold(self.outcome, stronger);
                        None
                    }
                }
            }
        };
        match refusal {
            None => self.taken |= event.command == Command::Rcpt,
            Some(refusal) if event.command == Command::Rcpt => self.recipient = Some(refusal),
            Some(refusal) => {
                self.refused.get_or_insert(refusal);
            }
        }
    }

    /// What the event says of the envelope and of the content.
    fn see(&mut self, event: &Event) {
        match &event.content {
            Content::Line(line) if event.command == Command::Mail => {
                self.sender = address_of(line).ok();
            }
            Content::Message(message) => self.record.octets(message.len()),
            _ => {}
        }
        if event.envelope.sender.is_some() {
            self.sender.clone_from(&event.envelope.sender);
            self.recipients.clone_from(&event.envelope.recipients);
        }
    }

    /// The line in the log; what it says.
    fn log(self, facts: &DialogFacts, client: Option<&(Decision, String)>) -> Decision {
        let nobody = self.recipient.filter(|_| !self.taken);
        let refused = client.cloned().or(self.refused).or(nobody);
        let (decision, reason) = match refused {
            Some((decision, reason)) => (decision, Some(reason)),
            None => (self.outcome, self.unchecked),
        };
        let sender = self.sender.as_ref();
        self.record.log(facts, sender, &self.recipients, decision, reason.as_deref());
        decision
    }
}

fn refused(reply: &Reply, reason: String) -> (Decision, String) {
    (if reply.is_temporary() { Decision::Tempfail } else { Decision::Reject }, reason)
}

/// What a message comes to of which that is asked.
fn outcome(effect: EffectName) -> Decision {
    match effect {
        EffectName::Discard => Decision::Discard,
        EffectName::Quarantine | EffectName::Hold => Decision::Quarantine,
        _ => Decision::Modify,
    }
}

/// The one that decides of two.
fn stronger(one: Decision, other: Decision) -> Decision {
    let order = [Decision::Discard, Decision::Quarantine, Decision::Modify];
    order.into_iter().find(|decision| [one, other].contains(decision)).unwrap_or(one)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use crate::config::{Config, Origin};
    use crate::event::Message;
    use crate::front::milter;
    use crate::passage::Accepted;
    use crate::processor::Processor;

    use super::*;

    /// A group that never answers: what waits for it is bounded, holds up nobody, and is given back.
    #[tokio::test(start_paused = true)]
    async fn what_waits_is_bounded_and_given_back() {
        let text = "[limits]\nshadow-octets = 10000\n[[group]]\nname = \"next\"\n\
            servers = [\"unix:/nonexistent/ocp.sock\"]\nservices = [\"log\"]\nshadow = true\n";
        let config = Config::parse(text, Path::new("test.toml")).unwrap();
        let processor = Processor::start(config, &milter::offer());
        processor.tried().await;
        let facts = DialogFacts::default();
        let mut passage = processor.passage("mx", Origin::Unix, facts);
        let message = Message {
            header: "A: b\r\n\r\n".into(),
            body: bytes::Bytes::from(vec![b'x'; 992]).into(),
        };
        let event = Event::message(message, Default::default());
        let free = |octets| processor.shadow_room().grow_to(octets);
        let begin = Instant::now();
        for _ in 0..3 {
            let advice = passage.ask(event.clone(), Accepted::default()).await.unwrap();
            assert_eq!(advice.answer, Answer::Unchanged);
            // The second one finds no room, and what comes after it is not shown either.
            assert!(free(10_000 - 5_096) && !free(10_000 - 5_095));
        }
        assert!(processor.room().grow_to(processor.config().limits.content_octets));
        drop(passage);
        assert_eq!(begin.elapsed(), Duration::ZERO);
        tokio::time::sleep(processor.config().limits.content_deadline).await;
        assert!(free(10_000));
    }
}
