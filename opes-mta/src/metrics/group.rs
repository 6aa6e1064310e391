//! What is counted of a group: what its answers came to, and what mail waited for them.

use std::time::Duration;

use ocp_proto::Traffic;
use ocp_proto::smtp::{Command, FailurePolicy, ProfileKind};
use prometheus_client::metrics::counter::Counter;

use crate::apply::Answer;
use crate::attempt::Blame;
use crate::consult::{Adaptation, Cause, Failure, Stage};
use crate::event::Event;
use crate::group::NoServer;
use crate::instruments::{Histogram, Table};
use crate::record::Decision;

/// What is counted of a group.
#[derive(Debug)]
pub(crate) struct GroupMetrics {
    pub(super) events: Table<Command, Table<Outcome, Histogram>>,
    pub(super) failures: Table<(FailedStage, FailurePolicy), Counter>,
    /// Times that no server had room for an event at once.
    pub(crate) waited: Counter,
    /// Events that should have been watched, and that no server has seen.
    pub(crate) unwatched: Counter,
    pub(super) traffic: TrafficMetrics,
    /// By their position.
    servers: Vec<ServerMetrics>,
    /// Of a group that only watches: messages by what would have become of them.
    pub(super) shadow_messages: Table<Decision, Counter>,
    /// Dialogs of which it has not seen all, since it was too slow.
    pub(crate) shadow_missed: Counter,
}

/// Octets on the wire, and those that were spared.
#[derive(Debug, Default)]
pub(super) struct TrafficMetrics {
    pub(super) sent: Counter,
    pub(super) received: Counter,
    pub(super) preserved: Counter,
}

/// What is counted of a server.
#[derive(Debug)]
pub(crate) struct ServerMetrics {
    pub(super) attempts: Table<AttemptResult, Counter>,
    pub(super) lost: Table<LostConnection, Counter>,
    pub(super) ejections: Counter,
}

/// What asking a group came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The event stays as it is.
    Unchanged,
    /// Another command line or message, or another reply in the place of a reply.
    Modified,
    /// A reply instead of it.
    Replied,
    /// Recipients differ.
    Several,
    /// Nobody waited: the services only watch.
    Watched,
    /// An earlier answer held, and nobody was asked.
    Reused,
    /// The failure policy decided.
    Failed,
}

/// How far an event had come that could not be adapted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailedStage {
    /// No server was there.
    Away,
    /// All servers had as many events as they may have.
    Busy,
    Start,
    Send,
    Wait,
    Receive,
    Check,
}

/// What an attempt with a server came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptResult {
    /// An answer that may be given.
    Answered,
    /// The services failed, or the answer is void.
    Failed,
    /// The server takes nothing more now.
    Refused,
    /// The server was late.
    Late,
    /// The connection was lost.
    Lost,
}

/// Why a connection takes no new dialogs any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LostConnection {
    /// It is over.
    Lost,
    /// The server lets it run out.
    Drained,
}

impl GroupMetrics {
    /// Nothing is counted yet, of events that so many servers may be asked about.
    pub(crate) fn new(commands: &[Command], servers: usize) -> Self {
        let outcomes = || Table::new(Outcome::ALL, Histogram::default);
        let policies = [FailurePolicy::Accept, FailurePolicy::Tempfail, FailurePolicy::Reject];
        let stages = FailedStage::ALL.into_iter();
        let failures = stages.flat_map(|stage| policies.map(|policy| (stage, policy)));
        Self {
            events: Table::new(commands.iter().cloned(), outcomes),
            failures: Table::new(failures, Counter::default),
            waited: Counter::default(),
            unwatched: Counter::default(),
            traffic: TrafficMetrics::default(),
            servers: (0..servers).map(|_| ServerMetrics::new()).collect(),
            shadow_messages: Table::new(Decision::ALL, Counter::default),
            shadow_missed: Counter::default(),
        }
    }

    /// An event was adapted, or stays as it is; it waited for so long.
    pub(crate) fn adapted(&self, event: &Event, adaptation: &Adaptation, waited: Duration) {
        self.observe(&event.command, Outcome::of(event, adaptation), waited);
    }

    /// An event is watched, and went on after so long.
    pub(crate) fn watched(&self, event: &Event, waited: Duration) {
        self.observe(&event.command, Outcome::Watched, waited);
    }

    /// An event could not be adapted.
    pub(crate) fn failed(&self, failure: &Failure) {
        self.observe(&failure.command, Outcome::Failed, failure.elapsed);
        self.failures.count((FailedStage::of(failure), failure.policy));
    }

    /// What a transaction cost on the wire, and how many octets of its answer did not travel.
    pub(crate) fn moved(&self, traffic: Traffic, preserved: u64) {
        self.traffic.sent.inc_by(traffic.sent);
        self.traffic.received.inc_by(traffic.received);
        self.traffic.preserved.inc_by(preserved);
    }

    /// A server was asked.
    pub(crate) fn attempted(&self, server: usize, result: AttemptResult) {
        if let Some(server) = self.servers.get(server) {
            server.attempts.count(result);
        }
    }

    /// A connection to a server is of no more use for new dialogs.
    pub(crate) fn lost(&self, server: usize, why: LostConnection) {
        if let Some(server) = self.servers.get(server) {
            server.lost.count(why);
        }
    }

    /// A server gets no more events for now.
    pub(crate) fn ejected(&self, server: usize) {
        if let Some(server) = self.servers.get(server) {
            server.ejections.inc();
        }
    }

    /// What would have become of a message is in the log.
    pub(crate) fn shadow_message(&self, decision: Decision) {
        self.shadow_messages.count(decision);
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = &ServerMetrics> {
        self.servers.iter()
    }

    fn observe(&self, command: &Command, outcome: Outcome, waited: Duration) {
        let outcomes = self.events.get(command);
        if let Some(waits) = outcomes.and_then(|outcomes| outcomes.get(&outcome)) {
            waits.observe(waited);
        }
    }
}

impl ServerMetrics {
    fn new() -> Self {
        Self {
            attempts: Table::new(AttemptResult::ALL, Counter::default),
            lost: Table::new([LostConnection::Lost, LostConnection::Drained], Counter::default),
            ejections: Counter::default(),
        }
    }
}

impl Outcome {
    const ALL: [Self; 7] = [
        Self::Unchanged,
        Self::Modified,
        Self::Replied,
        Self::Several,
        Self::Watched,
        Self::Reused,
        Self::Failed,
    ];

    fn of(event: &Event, adaptation: &Adaptation) -> Self {
        match &adaptation.answer {
            _ if adaptation.reused => Self::Reused,
            Answer::Unchanged => Self::Unchanged,
            Answer::Reply(_) if event.profile() == ProfileKind::Command => Self::Replied,
            Answer::Line(_) | Answer::Message(_) | Answer::Reply(_) => Self::Modified,
            Answer::Several(_) => Self::Several,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Modified => "modified",
            Self::Replied => "replied",
            Self::Several => "several",
            Self::Watched => "watched",
            Self::Reused => "reused",
            Self::Failed => "failed",
        }
    }
}

impl FailedStage {
    const ALL: [Self; 7] =
        [Self::Away, Self::Busy, Self::Start, Self::Send, Self::Wait, Self::Receive, Self::Check];

    fn of(failure: &Failure) -> Self {
        match (&failure.cause, failure.stage) {
            (Cause::NoServer(NoServer::Busy), _) => Self::Busy,
            (Cause::NoServer(_), _) => Self::Away,
            (_, Stage::Start) => Self::Start,
            (_, Stage::Send) => Self::Send,
            (_, Stage::Wait) => Self::Wait,
            (_, Stage::Receive) => Self::Receive,
            (_, Stage::Check) => Self::Check,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Busy => "busy",
            Self::Start => "start",
            Self::Send => "send",
            Self::Wait => "wait",
            Self::Receive => "receive",
            Self::Check => "check",
        }
    }
}

impl AttemptResult {
    const ALL: [Self; 5] = [Self::Answered, Self::Failed, Self::Refused, Self::Late, Self::Lost];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Late => "late",
            Self::Lost => "lost",
        }
    }
}

impl From<Blame> for AttemptResult {
    fn from(blame: Blame) -> Self {
        match blame {
            Blame::Answered => Self::Failed,
            Blame::Refused => Self::Refused,
            Blame::Late => Self::Late,
            Blame::Lost => Self::Lost,
        }
    }
}

impl LostConnection {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Drained => "drained",
        }
    }
}

#[cfg(test)]
mod tests {
    use ocp_proto::smtp::{CommandLine, Envelope, Reply};

    use super::*;
    use crate::event::Replied;

    #[test]
    fn an_adaptation_has_one_outcome() {
        let line = || CommandLine::new("RCPT TO:<a@b.example>").unwrap();
        let refusal = || Reply::parse("550 5.1.1 no\r\n").unwrap();
        let event = Event::command(line(), Envelope::default()).unwrap();
        let replied = Replied { line: Some(line()), reply: refusal() };
        let replied = Event::reply(Command::Rcpt, replied, Envelope::default());
        let cases = [
            (&event, Answer::Unchanged, false, Outcome::Unchanged),
            (&event, Answer::Line(line()), false, Outcome::Modified),
            (&event, Answer::Reply(refusal()), false, Outcome::Replied),
            (&replied, Answer::Reply(refusal()), false, Outcome::Modified),
            (&event, Answer::Several(Vec::new()), false, Outcome::Several),
            (&event, Answer::Reply(refusal()), true, Outcome::Reused),
        ];
        for (event, answer, reused, outcome) in cases {
            let adaptation = Adaptation { answer, reused, ..Adaptation::unchanged() };
            assert_eq!(Outcome::of(event, &adaptation), outcome, "{adaptation:?}");
        }
    }

    #[test]
    fn a_failure_is_counted_by_its_stage_unless_no_server_was_there() {
        let failure = |stage, cause| Failure {
            command: Command::Rcpt,
            server: None,
            dialog: None,
            xid: None,
            stage,
            cause,
            policy: FailurePolicy::Reject,
            attempts: 1,
            elapsed: Duration::ZERO,
            traffic: Traffic::default(),
        };
        let metrics = GroupMetrics::new(&[Command::Rcpt], 1);
        let late = Cause::Deadline(Duration::from_secs(1));
        for (stage, cause) in [
            (Stage::Start, NoServer::Away("refused".to_owned()).into()),
            (Stage::Start, NoServer::Busy.into()),
            (Stage::Start, late.clone()),
            (Stage::Wait, late),
        ] {
            metrics.failed(&failure(stage, cause));
        }
        let counted = metrics.failures.iter().filter(|(_, count)| count.get() > 0);
        let counted: Vec<_> =
            counted.map(|((stage, policy), count)| (stage.name(), *policy, count.get())).collect();
        let stages = ["away", "busy", "start", "wait"];
        assert_eq!(counted, stages.map(|stage| (stage, FailurePolicy::Reject, 1)));
        let waits =
            metrics.events.get(&Command::Rcpt).and_then(|waits| waits.get(&Outcome::Failed));
        assert_eq!(waits.unwrap().count(), 4);
    }
}
