//! Groups that are asked and not heard: the log says what they would have done.

use ocp_proto::OcpResult;
use ocp_proto::smtp::{DialogFacts, DialogUpdate};
use tokio::sync::mpsc::{Sender, channel};

use crate::apply::Answer;
use crate::consult::Adaptation;
use crate::event::Event;
use crate::group::{Consultation, Group};

/// Events of a dialog that may wait for a group that is only watched. Worst case a dialog: that many
/// messages, which are those that were worked on meanwhile.
const MOST_WAITING: usize = 16;

/// One dialog, as it is shown to a group.
#[derive(Debug)]
pub(crate) struct Shadow {
    group: String,
    shown: Sender<Shown>,
}

#[derive(Debug)]
enum Shown {
    Event(Event),
    Update(DialogUpdate),
}

impl Shadow {
    /// A dialog of which that is known. It ends when this is dropped, and what was shown is answered.
    pub(crate) fn start(name: &str, group: &Group, facts: DialogFacts) -> Self {
        let (sender, mut shown) = channel(MOST_WAITING);
        let mut consultation = Consultation::new(group, facts);
        let name = name.to_owned();
        let group = name.clone();
        tokio::spawn(async move {
            while let Some(shown) = shown.recv().await {
                match shown {
                    Shown::Update(update) => consultation.update(update),
                    // A failure has its line in the log already.
                    Shown::Event(event) => {
                        if let Ok(adaptation) = consultation.ask(&event).await {
                            log(&group, consultation.facts(), &event, adaptation);
                        }
                    }
                }
            }
        });
        Self { group: name, shown: sender }
    }

    /// Shows it an event.
    pub(crate) fn show(&self, event: &Event) {
        self.send(Shown::Event(event.clone()));
    }

    /// Tells it what is learnt later.
    pub(crate) fn update(&self, update: DialogUpdate) {
        self.send(Shown::Update(update));
    }

    fn send(&self, shown: Shown) {
        if self.shown.try_send(shown).is_err() {
            tracing::warn!(
                group = self.group,
                "a group that is only watched is too slow: left out"
            );
        }
    }
}

fn log(group: &str, facts: &DialogFacts, event: &Event, adaptation: Adaptation) {
    let Adaptation { answer, effects, verdicts, asked, .. } = adaptation;
    // Nobody wanted the event.
    let Some(asked) = asked else { return };
    let decision = match &answer {
        Answer::Unchanged => "accept".to_owned(),
        Answer::Line(_) | Answer::Message(_) | Answer::Several(_) => "modify".to_owned(),
        Answer::Reply(reply) => reply.to_string(),
    };
    let effects: Vec<_> = effects.iter().map(|effect| effect.name().to_string()).collect();
    tracing::info!(
        group,
        event = %event.command,
        queue_id = facts.queue_id.as_deref().map(String::from_utf8_lossy).as_deref(),
        decision,
        effects = effects.join(" "),
        verdicts = crate::record::summary(&verdicts),
        "shadow"
    );
    asked.report(OcpResult::failure("only watched: nothing of it took effect"), None);
}
