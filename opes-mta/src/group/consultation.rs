//! One SMTP dialog as a group of servers sees it.

use std::sync::Arc;

use ocp_proto::Traffic;
use ocp_proto::smtp::{DialogFacts, DialogUpdate, Profile};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use super::roster::{Place, Seat};
use super::{Group, NoServer};
use crate::attempt::{Blame, Broken, Deadline, attempt, conclude, is_enough, open_dialog, show};
use crate::consult::{Adaptation, Cause, Failure, Stage};
use crate::event::Event;
use crate::metrics::{AttemptResult, GroupMetrics};
use crate::ocp::{Asked, Dialog, learn};
use crate::telemetry::spans;

/// One SMTP dialog, wherever its server is.
///
/// The dialog with a server begins with the first event that the services want. Where it is lost, one
/// begins at another server with the facts known by then; since each event carries the envelope in
/// force, nothing else has to be told again. Dropping it ends the dialog.
///
/// An error is that of one event. The next one is asked about as if nothing had been.
#[derive(Debug)]
pub struct Consultation {
    group: Group,
    facts: DialogFacts,
    current: Option<Current>,
    /// Room for events that are only watched.
    watching: Arc<Semaphore>,
}

/// The dialog with a server.
#[derive(Debug)]
struct Current {
    dialog: Dialog,
    seat: Seat,
}

/// The attempts at one event.
#[derive(Debug)]
struct Attempts {
    deadline: Deadline,
    count: usize,
    /// Servers that have been asked and had no room, or said nothing.
    refused: Vec<usize>,
    last: Option<Broken>,
    traffic: Traffic,
}

impl Consultation {
    /// A dialog of which that is known.
    pub fn new(group: &Group, facts: DialogFacts) -> Self {
        let watching = Arc::new(Semaphore::new(group.settings().watched_events.max(1)));
        Self { group: group.clone(), facts, current: None, watching }
    }

    /// What is learnt later. After STARTTLS, Helo and Auth have to be learnt anew (RFC 3207 section
    /// 4.2).
    pub fn update(&mut self, update: DialogUpdate) {
        learn(&mut self.facts, update.clone());
        if let Some(current) = &mut self.current {
            current.dialog.update(update);
        }
    }

    /// What is known of the dialog.
    pub fn facts(&self) -> &DialogFacts {
        &self.facts
    }

    /// Asks the services about an event, within the deadline of its stage.
    ///
    /// Events that nobody wants cost nothing. Those that are only watched are sent, in their place among
    /// the others, and nobody waits for an answer: they stay as they are, whatever becomes of them.
    ///
    /// # Errors
    /// When no server has answered in time, or an answer is void. [`Failure::policy`] says what to do;
    /// a line in the log says what happened. Safe to cancel: the server is told.
    pub async fn ask(&mut self, event: &Event) -> Result<Adaptation, Failure> {
        let deadline = self.group.settings().policy.deadline(event.has_content());
        self.ask_within(event, deadline).await
    }

    /// As [`Consultation::ask`], and not beyond `end`: for groups that share the time of an event.
    ///
    /// # Errors
    /// As there.
    pub async fn ask_until(&mut self, event: &Event, end: Instant) -> Result<Adaptation, Failure> {
        let deadline = self.group.settings().policy.deadline(event.has_content()).or_at(end);
        self.ask_within(event, deadline).await
    }

    async fn ask_within(
        &mut self,
        event: &Event,
        deadline: Deadline,
    ) -> Result<Adaptation, Failure> {
        // A connection that was lost between two events is none of this one's failures.
        self.current.take_if(|current| current.dialog.client().closed().is_some());
        let interest = |profile: &Profile| {
            let command = &event.command;
            let wanted = profile.kind() == event.profile() && profile.commands().contains(command);
            (wanted, profile.observed().contains(command))
        };
        let (wanted, watched) = match &self.current {
            Some(current) => interest(current.dialog.client().profile()),
            None => interest(&self.group.profile()),
        };
        if !wanted {
            return Ok(Adaptation::unchanged());
        }
        let mut attempts = Attempts::new(deadline);
        let span = spans::consultation(self.group.services(), &event.command);
        let asked = async {
            match watched {
                true => self.watch(event, &mut attempts).await,
                false => self.consult(event, &mut attempts).await,
            }
        };
        let asked = asked.instrument(span.clone()).await;
        match asked {
            Ok(mut adaptation) => {
                adaptation.traffic.sent += attempts.traffic.sent;
                adaptation.traffic.received += attempts.traffic.received;
                self.group.metrics().moved(adaptation.traffic, adaptation.preserved);
                Ok(adaptation)
            }
            Err(cause) => {
                let failure = self.failure(event, attempts, cause);
                self.group.metrics().moved(failure.traffic, 0);
                self.group.metrics().failed(&failure);
                spans::failed(&span, failure.stage);
                failure.log(self.group.services());
                Err(failure)
            }
        }
    }

    /// One attempt after the other; an error is why there are no more of them.
    async fn consult(
        &mut self,
        event: &Event,
        attempts: &mut Attempts,
    ) -> Result<Adaptation, NoServer> {
        let roster = Arc::clone(&self.group.0.roster);
        loop {
            let preferred = self.current.as_ref().map(|current| &current.seat);
            let place = roster.place(preferred, &attempts.refused, attempts.deadline).await?;
            let server = place.server;
            let span = spans::attempt(place.link.client.server());
            let attempt = self.attempt(&place, event, attempts.deadline).instrument(span.clone());
            let broken = match attempt.await {
                Ok(adaptation) => {
                    if adaptation.asked.is_some() {
                        roster.answered(server);
                        roster.metrics.attempted(server, AttemptResult::Answered);
                    }
                    if adaptation.asked.is_some() || adaptation.reused {
                        let waited = attempts.deadline.begin.elapsed();
                        roster.metrics.adapted(event, &adaptation, waited);
                    }
                    return Ok(adaptation);
                }
                Err(broken) => broken,
            };
            spans::failed(&span, broken.stage);
            let blame = match broken.blame() {
                // It is on its way out: a connection made later may do.
                Blame::Refused if !place.link.client.is_usable() => Blame::Lost,
                blame => blame,
            };
            if broken.cause != Cause::BodyNotSent {
                roster.metrics.attempted(server, blame.into());
            }
            if blame > Blame::Answered {
                self.current = None;
            }
            if matches!(blame, Blame::Refused | Blame::Late) {
                roster.failed(server, &broken.cause.to_string());
                attempts.refused.push(server);
            }
            let again = matches!(blame, Blame::Refused | Blame::Lost)
                && attempts.count + 1 < self.group.settings().attempts
                && !attempts.deadline.has_passed();
            if again {
                let (server, event) = (place.link.client.server(), &event.command);
                tracing::info!(%server, %event, cause = %broken.cause, "asking another server");
            }
            attempts.add(broken);
            if !again {
                return Err(NoServer::Others);
            }
        }
    }

    async fn attempt(
        &mut self,
        place: &Place,
        event: &Event,
        deadline: Deadline,
    ) -> Result<Adaptation, Broken> {
        let group = self.group.clone();
        let current = self.begin(place, deadline).await?;
        attempt(&current.dialog, event, &group.settings().policy, deadline).await
    }

    /// The dialog with the server of that place, begun there if it is somewhere else.
    async fn begin(&mut self, place: &Place, deadline: Deadline) -> Result<&Current, Broken> {
        let current = match self.current.take().filter(|current| current.seat.is_at(place)) {
            Some(current) => current,
            None => {
                let seat = Seat::new(place);
                let dialog = open_dialog(&place.link.client, self.facts.clone(), deadline).await?;
                Current { dialog, seat }
            }
        };
        Ok(self.current.insert(current))
    }

    /// Sends an event that is only watched; its answer is waited for elsewhere. Without a server that
    /// takes it now there is nothing to wait for.
    async fn watch(
        &mut self,
        event: &Event,
        attempts: &mut Attempts,
    ) -> Result<Adaptation, NoServer> {
        let roster = Arc::clone(&self.group.0.roster);
        let deadline = attempts.deadline;
        let preferred = self.current.as_ref().map(|current| &current.seat);
        let place = match roster.place_soon(preferred, &[], deadline).await {
            Ok(place) => place,
            Err(cause) => return Ok(self.unseen(event, &cause.to_string())),
        };
        if !place.link.client.profile().observed().contains(&event.command) {
            // This server does more than watch, or does not want it at all.
            drop(place);
            return self.consult(event, attempts).await;
        }
        let Some(watching) = self.room_to_watch(deadline).await else {
            return Ok(self.unseen(event, "too many events of the dialog are under way"));
        };
        let policy = self.group.settings().policy.clone();
        let current = match self.begin(&place, deadline).await {
            Ok(current) => current,
            Err(broken) => {
                let cause = broken.cause.to_string();
                return Ok(self.unseen(event, &cause));
            }
        };
        if !is_enough(&current.dialog, event) {
            return Ok(self.unseen(event, &Cause::BodyNotSent.to_string()));
        }
        let mut transaction = show(&current.dialog, event, &policy);
        let (asked, outcome) = Asked::later();
        roster.metrics.watched(event, deadline.begin.elapsed());
        let event = event.clone();
        tokio::spawn(async move {
            let concluded = conclude(&mut transaction, &event, deadline).await;
            let server = place.server;
            drop((place, watching));
            match concluded {
                Ok(adaptation) => {
                    roster.answered(server);
                    roster.metrics.attempted(server, AttemptResult::Answered);
                    roster.metrics.moved(adaptation.traffic, adaptation.preserved);
                    // Without an outcome, nobody has told us.
                    if let (Some(asked), Ok((result, reply))) = (adaptation.asked, outcome.await) {
                        asked.report(result, reply);
                    }
                }
                Err(broken) => {
                    roster.metrics.attempted(server, broken.blame().into());
                    roster.metrics.moved(broken.traffic, 0);
                    unseen(&roster.metrics, &event, &broken.cause.to_string());
                }
            }
        });
        Ok(Adaptation { asked: Some(asked), ..Adaptation::unchanged() })
    }

    /// Room for one more event that is only watched. Who waits for it waits for those that are under way, which
    /// then linger no more.
    async fn room_to_watch(&self, deadline: Deadline) -> Option<OwnedSemaphorePermit> {
        if let Ok(room) = Arc::clone(&self.watching).try_acquire_owned() {
            return Some(room);
        }
        if let Some(current) = &self.current {
            current.dialog.client().hurry();
        }
        let room = Arc::clone(&self.watching).acquire_owned();
        timeout_at(deadline.end, room).await.ok()?.ok()
    }

    /// An event that is only watched, and that the watcher did not see.
    fn unseen(&self, event: &Event, cause: &str) -> Adaptation {
        unseen(self.group.metrics(), event, cause);
        Adaptation::unchanged()
    }

    /// What came of it: of the last attempt, unless it is a server that is missing.
    fn failure(&self, event: &Event, attempts: Attempts, cause: NoServer) -> Failure {
        let settings = self.group.settings();
        let Attempts { deadline, count, last, traffic, .. } = attempts;
        let command = event.command.clone();
        let failure = match (last, cause) {
            (Some(broken), NoServer::Others) => {
                broken.into_failure(command, &settings.policy, deadline)
            }
            (last, cause) => {
                let servers = self.group.profile().on_failure().unwrap_or_default();
                let servers = last.map_or(servers, |broken| servers.max(broken.on_failure));
                Failure {
                    command,
                    server: None,
                    dialog: None,
                    xid: None,
                    stage: Stage::Start,
                    cause: cause.into(),
                    policy: servers.max(settings.overload_policy()),
                    attempts: count,
                    elapsed: deadline.begin.elapsed(),
                    traffic,
                }
            }
        };
        Failure { attempts: count, traffic, ..failure }
    }
}

fn unseen(metrics: &GroupMetrics, event: &Event, cause: &str) {
    metrics.unwatched.inc();
    tracing::warn!(event = %event.command, cause, "an event was not watched");
}

impl Attempts {
    fn new(deadline: Deadline) -> Self {
        let traffic = Traffic::default();
        Self { deadline, count: 0, refused: Vec::new(), last: None, traffic }
    }

    fn add(&mut self, broken: Broken) {
        self.count += 1;
        self.traffic.sent += broken.traffic.sent;
        self.traffic.received += broken.traffic.received;
        self.last = Some(broken);
    }
}
