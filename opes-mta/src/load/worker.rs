//! One dialog under load: an event after the other, each a transaction.

use std::sync::Arc;
use std::time::Instant;

use ocp_proto::OcpResult;
use ocp_proto::smtp::{Activation, DialogFacts};
use opes_mta::apply::Answer;
use opes_mta::consult::{Policy, consult};
use opes_mta::event::Event;
use opes_mta::ocp::{Dialog, Upstream};

use super::figures::Figures;

/// A dialog, begun anew when it is lost.
pub(crate) struct Worker {
    upstream: Arc<Upstream>,
    events: Arc<[Event]>,
    policy: Policy,
    dialog: Option<Dialog>,
    /// The event that is next.
    next: usize,
}

impl Worker {
    pub(crate) fn new(upstream: Arc<Upstream>, events: Arc<[Event]>) -> Self {
        // The server is to be measured, so it is asked each time.
        let policy = Policy { reuse: false, ..Policy::default() };
        Self { upstream, events, policy, dialog: None, next: 0 }
    }

    /// One transaction after the other until then. Without a server there is nothing to wait for.
    pub(crate) async fn run(mut self, until: Instant) -> (Self, Figures) {
        let mut figures = Figures::new(self.events.len());
        while Instant::now() < until {
            // Where the server drains the connection, the next round of events has a dialog on another one.
            let ends = |dialog: &Dialog| self.next == 0 && dialog.client().is_drained();
            let begun = match self.dialog.take().filter(|dialog| !ends(dialog)) {
                Some(dialog) => Ok(dialog),
                None => self.begin().await,
            };
            match begun {
                Ok(dialog) => self.dialog = self.transact(dialog, &mut figures).await,
                Err(cause) => {
                    figures.failed(cause);
                    break;
                }
            }
        }
        (self, figures)
    }

    async fn begin(&self) -> Result<Dialog, String> {
        let facts = DialogFacts { activation: Activation::Receiving, ..DialogFacts::default() };
        self.upstream.begin(facts, &self.policy).await.map_err(|error| error.to_string())
    }

    /// One transaction; the dialog, unless it failed.
    async fn transact(&mut self, dialog: Dialog, figures: &mut Figures) -> Option<Dialog> {
        let at = self.next;
        self.next = (at + 1) % self.events.len();
        let begun = Instant::now();
        let adaptation = match consult(&dialog, self.events.get(at)?, &self.policy).await {
            Ok(adaptation) => adaptation,
            Err(failure) => {
                figures.failed(failure.to_string());
                return None;
            }
        };
        figures.answered(at, adaptation.traffic, begun.elapsed());
        let reply = match adaptation.answer {
            Answer::Unchanged => {
                figures.unchanged += 1;
                None
            }
            Answer::Line(_) | Answer::Message(_) | Answer::Several(_) => {
                figures.modified += 1;
                None
            }
            Answer::Reply(reply) => {
                figures.replied += 1;
                Some(reply)
            }
        };
        if let Some(asked) = adaptation.asked {
            asked.report(OcpResult::ok(), reply);
        }
        Some(dialog)
    }
}
