//! What is counted, and how it is told.
//!
//! What happens on a mail's way is counted by atomic numbers, which lie where it happens: in [`Metrics`],
//! one for the server, and in [`ServiceMetrics`], one for each service. [`exposition`] reads them when
//! somebody asks, and what the server knows anyway: dialogs and budgets.
//!
//! Every label is a word of this program or of its configuration. What peers send is none, so they can't
//! add series: there are at the most some 200, and 5 for each service and 61 for each event that it wants.

mod told;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use ocp_proto::smtp::{Command, ProfileKind};
use ocp_proto::wire::Atom;
use opes_mta::instruments::{Buckets, Exposition, Histogram, Open, Table};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Unit;
use serde::{Deserialize, Serialize};
use services::{Change, Declaration, ServiceError};

use crate::chain::Adapted;
use crate::server::Server;

/// A kind of event.
type Kind = (ProfileKind, Command);

/// The event of a transaction that has none with a name of its own: another verb, or nothing before it
/// ended. No verb of a peer has lower-case letters.
const OTHER: &[u8] = b"other";

/// What the server counts, without its services.
#[derive(Debug)]
pub(crate) struct Metrics {
    connections: Gauge,
    superseded: Gauge,
    reloaded: Counter,
    reload_failed: Counter,
    /// Whether the last one came into use, that of the beginning counted.
    last_reload: Gauge,
    /// Connections that a rule of access refused.
    pub(crate) denied: Counter,
    /// Connections beyond the limit.
    pub(crate) too_many: Counter,
    /// Octets of OCP, before TLS, from peers; those that are dropped at a connection's end do not count.
    pub(crate) received: Counter,
    /// The same to them; the last messages of a connection do not count.
    pub(crate) sent: Counter,
    /// Octets of commands, messages and replies that came for services.
    pub(crate) content_received: Counter,
    /// Octets of them that answers named (DUY) and did not send back.
    pub(crate) content_reused: Counter,
    /// Octets of bodies that never came, since no service needs them (Leave-At-Body).
    pub(crate) content_left: Counter,
    transactions: Gauge,
    events: Table<Kind, Arc<Results>>,
}

/// How often an event had which result.
type Results = Table<EventResult, Counter>;

/// What became of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EventResult {
    /// It stays as it is.
    Unchanged,
    /// Another command line, other content, or another reply in the place of a reply.
    Modified,
    /// A reply instead of it.
    Replied,
    /// Recipients differ.
    Several,
    /// The server could not or would not work on it: the processor's failure policy decides.
    Refused,
    /// The processor gave it up, broke a rule, or went away before there was an answer.
    #[default]
    Unanswered,
}

/// A transaction that is open. Its event is counted when it is dropped: as unanswered, unless something
/// else was said.
#[derive(Debug)]
pub(crate) struct OpenTransaction {
    _open: Open,
    results: Option<Arc<Results>>,
    result: EventResult,
}

/// What is counted of one service.
#[derive(Debug)]
pub(crate) struct ServiceMetrics {
    events: Table<Kind, ServiceEvent>,
    failures: Table<FailedStage, Counter>,
}

/// One kind of event that a service wants.
#[derive(Debug)]
struct ServiceEvent {
    durations: Table<ServiceResult, Histogram>,
    bypassed: Counter,
}

/// What a service made of an event, or would have made in shadow; effects and new messages do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceResult {
    Unchanged,
    Changed,
    Replied,
    Failed,
}

/// At which stage a service failed. Those of its own are one: their number is the service's affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailedStage {
    /// No answer in time.
    Deadline,
    Panic,
    /// An answer beyond what it may say.
    Answer,
    /// The content could not be read.
    Spool,
    /// What the service itself reports.
    Service,
}

/// What a service has done so far, with all events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceTotals {
    /// Its answers: unchanged, changed, replied, failed.
    pub(crate) results: [u64; ServiceResult::ALL.len()],
    pub(crate) bypassed: u64,
    /// At which stages it failed, if it did.
    pub(crate) failures: Vec<(&'static str, u64)>,
    pub(crate) took: Buckets,
}

impl Default for Metrics {
    fn default() -> Self {
        let commands = || Command::named().chain([Command::Other(Atom::from_static(OTHER))]);
        let kinds = ProfileKind::ALL.into_iter();
        let kinds = kinds.flat_map(|profile| commands().map(move |command| (profile, command)));
        let ok = Gauge::default();
        ok.set(1);
        Self {
            connections: Gauge::default(),
            superseded: Gauge::default(),
            reloaded: Counter::default(),
            reload_failed: Counter::default(),
            last_reload: ok,
            denied: Counter::default(),
            too_many: Counter::default(),
            received: Counter::default(),
            sent: Counter::default(),
            content_received: Counter::default(),
            content_reused: Counter::default(),
            content_left: Counter::default(),
            transactions: Gauge::default(),
            events: Table::new(kinds, || Arc::new(Table::new(EventResult::ALL, Counter::default))),
        }
    }
}

impl Metrics {
    /// A connection is served as long as this is held.
    pub(crate) fn connected(&self) -> Open {
        Open::new(&self.connections)
    }

    /// The configuration was read again, and came into use or not.
    pub(crate) fn reloaded(&self, is_used: bool) {
        let counter = if is_used { &self.reloaded } else { &self.reload_failed };
        counter.inc();
        self.last_reload.set(is_used.into());
    }

    /// A connection goes on under a configuration that was replaced as long as this is held.
    pub(crate) fn superseded(&self) -> Open {
        Open::new(&self.superseded)
    }

    /// A transaction has begun; which event it is about is not known yet.
    pub(crate) fn started(&self) -> OpenTransaction {
        OpenTransaction {
            _open: Open::new(&self.transactions),
            results: self.results(ProfileKind::Command, &Command::Other(Atom::default())),
            result: EventResult::Unanswered,
        }
    }

    /// Connections that are served.
    pub(crate) fn open_connections(&self) -> i64 {
        self.connections.get()
    }

    /// Events that are received, worked on or answered.
    pub(crate) fn open_transactions(&self) -> i64 {
        self.transactions.get()
    }

    /// The messages so far, by what became of them.
    pub(crate) fn messages(&self) -> impl Iterator<Item = (EventResult, u64)> {
        let results = self.events.get(&(ProfileKind::Command, Command::Message));
        let results = results.into_iter().flat_map(|results| results.iter());
        results.map(|(result, counter)| (*result, counter.get()))
    }

    fn results(&self, profile: ProfileKind, command: &Command) -> Option<Arc<Results>> {
        let command = match command {
            Command::Other(_) => Command::Other(Atom::from_static(OTHER)),
            named => named.clone(),
        };
        self.events.get(&(profile, command)).cloned()
    }
}

impl OpenTransaction {
    /// Which event it is about is known.
    pub(crate) fn is_about(&mut self, metrics: &Metrics, profile: ProfileKind, command: &Command) {
        self.results = metrics.results(profile, command);
    }

    /// Ends it with a result.
    pub(crate) fn end(mut self, result: EventResult) {
        self.result = result;
    }
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        if let Some(results) = &self.results {
            results.count(self.result);
        }
    }
}

impl ServiceMetrics {
    /// Nothing is counted yet, for all that a service wants.
    pub(crate) fn new(declaration: &Declaration) -> Self {
        let wanted = |profile| {
            let commands = declaration.wanted(profile).iter().cloned();
            commands.map(move |command| (profile, command))
        };
        let kinds = ProfileKind::ALL.into_iter().flat_map(wanted);
        let event = || ServiceEvent {
            durations: Table::new(ServiceResult::ALL, Histogram::default),
            bypassed: Counter::default(),
        };
        Self {
            events: Table::new(kinds, event),
            failures: Table::new(FailedStage::ALL, Counter::default),
        }
    }

    /// The service took so long for an event.
    pub(crate) fn answered(
        &self,
        profile: ProfileKind,
        command: &Command,
        result: ServiceResult,
        took: Duration,
    ) {
        let event = self.events.get(&(profile, command.clone()));
        if let Some(durations) = event.and_then(|event| event.durations.get(&result)) {
            durations.observe(took);
        }
    }

    /// The service failed after so long.
    pub(crate) fn failed(
        &self,
        profile: ProfileKind,
        command: &Command,
        error: &ServiceError,
        took: Duration,
    ) {
        self.answered(profile, command, ServiceResult::Failed, took);
        self.failures.count(FailedStage::of(error));
    }

    /// What it has done so far.
    pub(crate) fn totals(&self) -> ServiceTotals {
        let (mut results, mut took) = ([0; ServiceResult::ALL.len()], Buckets::default());
        let mut bypassed = 0;
        for (_, event) in self.events.iter() {
            bypassed += event.bypassed.get();
            for ((_, durations), sum) in event.durations.iter().zip(&mut results) {
                *sum += durations.count();
                took.add(&durations.buckets());
            }
        }
        let failures = self.failures.iter().map(|(stage, count)| (stage.name(), count.get()));
        let failures = failures.filter(|(_, count)| *count > 0).collect();
        ServiceTotals { results, bypassed, failures, took }
    }

    /// The service was not asked, since the sender wants it skipped.
    pub(crate) fn bypassed(&self, profile: ProfileKind, command: &Command) {
        if let Some(event) = self.events.get(&(profile, command.clone())) {
            event.bypassed.inc();
        }
    }
}

impl EventResult {
    const ALL: [Self; 6] = [
        Self::Unchanged,
        Self::Modified,
        Self::Replied,
        Self::Several,
        Self::Refused,
        Self::Unanswered,
    ];

    /// What this is of an answer.
    pub(crate) fn of(adapted: &Adapted) -> Self {
        match adapted {
            Adapted::Unchanged => Self::Unchanged,
            Adapted::Command(_) | Adapted::Content(_) | Adapted::OtherReply(_) => Self::Modified,
            Adapted::Reply(_) => Self::Replied,
        }
    }

    /// The word for it, in the log too.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Modified => "modified",
            Self::Replied => "replied",
            Self::Several => "several",
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
        }
    }
}

impl ServiceResult {
    const ALL: [Self; 4] = [Self::Unchanged, Self::Changed, Self::Replied, Self::Failed];

    /// What an answer is that may be given. A reply to an event that is one stands in its place.
    pub(crate) fn of(change: &Change, profile: ProfileKind) -> Self {
        match change {
            Change::None => Self::Unchanged,
            Change::Reply(_) if profile == ProfileKind::Command => Self::Replied,
            Change::Command(_) | Change::Content(_) | Change::Reply(_) => Self::Changed,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Changed => "changed",
            Self::Replied => "replied",
            Self::Failed => "failed",
        }
    }
}

impl FailedStage {
    const ALL: [Self; 5] = [Self::Deadline, Self::Panic, Self::Answer, Self::Spool, Self::Service];

    fn of(error: &ServiceError) -> Self {
        let known = Self::ALL.into_iter().find(|stage| stage.name() == error.stage);
        known.unwrap_or(Self::Service)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Panic => "panic",
            Self::Answer => "answer",
            Self::Spool => "spool",
            Self::Service => "service",
        }
    }
}

impl ServiceTotals {
    /// Whether it had anything to do yet.
    pub(crate) fn is_asked(&self) -> bool {
        self.results.iter().sum::<u64>() + self.bypassed > 0
    }
}

/// All metrics of a server as text.
pub(crate) fn exposition(server: Arc<Server>) -> Exposition {
    Exposition::new("callout_server", Collected(server))
}

/// The server, as it is asked for its metrics.
#[derive(Debug)]
struct Collected(Arc<Server>);

impl Collector for Collected {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let server = &*self.0;
        let mut families = Families { encoder, octets: Unit::Other("octets".to_owned()) };
        families.build()?;
        families.configuration(server)?;
        families.connections(server)?;
        families.octets(server)?;
        families.events(&server.metrics)?;
        families.services(server)?;
        families.told(server)
    }
}

/// Families of metrics, on their way to the text.
struct Families<'a> {
    encoder: DescriptorEncoder<'a>,
    octets: Unit,
}

impl Families<'_> {
    fn build(&mut self) -> fmt::Result {
        let info = MetricType::Info;
        let mut build = self.encoder.encode_descriptor("build", "The program", None, info)?;
        build.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }

    fn configuration(&mut self, server: &Server) -> fmt::Result {
        let metrics = &server.metrics;
        let help = "How often the configuration was to be read again, by whether it came into use";
        let mut reloads =
            self.encoder.encode_descriptor("reloads", help, None, MetricType::Counter)?;
        for (result, counter) in [("ok", &metrics.reloaded), ("failed", &metrics.reload_failed)] {
            counter.encode(reloads.encode_family(&[("result", result)])?)?;
        }
        let help = "1 if the configuration that was read last is in use, otherwise 0";
        self.gauge("last_reload_successful", help, &metrics.last_reload)?;
        let since = server.current().since.duration_since(UNIX_EPOCH).unwrap_or_default();
        let help = "When the configuration in use was loaded, in seconds since 1970";
        let (unit, gauge) = (Some(&Unit::Seconds), MetricType::Gauge);
        let loaded =
            self.encoder.encode_descriptor("config_loaded_timestamp", help, unit, gauge)?;
        ConstGauge::new(since.as_secs_f64()).encode(loaded)?;
        let help = "Connections that go on under a configuration that was replaced";
        self.gauge("superseded_connections", help, &metrics.superseded)
    }

    fn connections(&mut self, server: &Server) -> fmt::Result {
        let metrics = &server.metrics;
        self.gauge("open_connections", "Connections that are served", &metrics.connections)?;
        let name = "connections";
        let help = "Connections that were accepted, with those that were refused then";
        let mut all = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        all.encode_counter::<NoLabelSet, _, u64>(&server.connections(), None)?;
        let name = "refused_connections";
        let help = "Connections that were refused: by access rules, or beyond a limit";
        let mut refused = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (reason, counter) in [("access", &metrics.denied), ("limit", &metrics.too_many)] {
            counter.encode(refused.encode_family(&[("reason", reason)])?)?;
        }
        let dialogs = ConstGauge::new(server.open_dialogs());
        self.gauge("open_dialogs", "SMTP dialogs that are open, on all connections", &dialogs)?;
        let help = "Events that are received, worked on or answered, on all connections";
        self.gauge("open_transactions", help, &metrics.transactions)
    }

    fn octets(&mut self, server: &Server) -> fmt::Result {
        let (metrics, spool) = (&server.metrics, &server.budgets);
        let counters = [
            (
                "received",
                "Octets of OCP that came from peers, before a connection ends, without TLS",
                &metrics.received,
            ),
            (
                "sent",
                "Octets of OCP that went to peers, before a connection ends, without TLS",
                &metrics.sent,
            ),
            (
                "content_received",
                "Octets of commands, messages and replies that came for services",
                &metrics.content_received,
            ),
            (
                "content_reused",
                "Octets of them that answers named (DUY) and did not send back",
                &metrics.content_reused,
            ),
            (
                "content_left",
                "Octets of bodies that never came, since no service needs them (Leave-At-Body)",
                &metrics.content_left,
            ),
        ];
        for (name, help, counter) in counters {
            let (unit, counted) = (Some(&self.octets), MetricType::Counter);
            counter.encode(self.encoder.encode_descriptor(name, help, unit, counted)?)?;
        }
        let gauges = [
            ("content_used", "Octets of content in memory", spool.memory.used()),
            (
                "content_limit",
                "The most that may be ([limits] content-octets)",
                spool.memory.most(),
            ),
            ("spool_used", "Octets of bodies in files", spool.disk.used()),
            ("spool_limit", "The most that may be ([spool] octets)", spool.disk.most()),
        ];
        for (name, help, value) in gauges {
            let (unit, gauge) = (Some(&self.octets), MetricType::Gauge);
            let encoder = self.encoder.encode_descriptor(name, help, unit, gauge)?;
            ConstGauge::new(value).encode(encoder)?;
        }
        Ok(())
    }

    fn events(&mut self, metrics: &Metrics) -> fmt::Result {
        let help = "Events that are over, by their result; other: a verb without a name of its own, \
                    or nothing that said what it is";
        let mut events =
            self.encoder.encode_descriptor("events", help, None, MetricType::Counter)?;
        for ((profile, command), results) in metrics.events.iter() {
            for (result, counter) in results.iter() {
                let result = ("result", result.name());
                let labels =
                    [("profile", profile_name(*profile)), ("event", command.name()), result];
                counter.encode(events.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    /// Series of a service and an event that have nothing to tell are left out, if they are many.
    fn services(&mut self, server: &Server) -> fmt::Result {
        let current = server.current();
        let entries = || current.config.router.iter();
        let (name, help) = ("service_duration", "What services took for an event, by their result");
        let (unit, histogram) = (Some(&Unit::Seconds), MetricType::Histogram);
        let mut durations = self.encoder.encode_descriptor(name, help, unit, histogram)?;
        for entry in entries() {
            for ((profile, command), event) in entry.metrics.events.iter() {
                let durations_by = event.durations.iter().filter(|(_, took)| took.count() > 0);
                for (result, took) in durations_by {
                    let labels = [
                        ("service", entry.name.as_str()),
                        ("profile", profile_name(*profile)),
                        ("event", command.name()),
                        ("result", result.name()),
                    ];
                    took.encode(durations.encode_family(&labels)?)?;
                }
            }
        }
        let help = "Events for which services were skipped, since a sender asked for it";
        let mut bypassed =
            self.encoder.encode_descriptor("service_bypassed", help, None, MetricType::Counter)?;
        for entry in entries().filter(|entry| entry.bypassable) {
            for ((profile, command), event) in entry.metrics.events.iter() {
                let labels = [
                    ("service", entry.name.as_str()),
                    ("profile", profile_name(*profile)),
                    ("event", command.name()),
                ];
                event.bypassed.encode(bypassed.encode_family(&labels)?)?;
            }
        }
        let help = "Failures of services; service: at a stage of its own, which the log names";
        let mut failures =
            self.encoder.encode_descriptor("service_failures", help, None, MetricType::Counter)?;
        for entry in entries() {
            for (stage, counter) in entry.metrics.failures.iter() {
                let labels = [("service", entry.name.as_str()), ("stage", stage.name())];
                counter.encode(failures.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, gauge: &impl EncodeMetric) -> fmt::Result {
        gauge.encode(self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }
}

fn profile_name(profile: ProfileKind) -> &'static str {
    match profile {
        ProfileKind::Command => "command",
        ProfileKind::Reply => "reply",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use services::Registry as Services;

    use super::*;
    use crate::config::Config;

    impl ServiceMetrics {
        /// What has been counted, a line each.
        pub(crate) fn counted(&self) -> Vec<String> {
            let mut lines = Vec::new();
            let mut count = |what: String, count: u64| {
                if count > 0 {
                    lines.push(format!("{what} {count}"));
                }
            };
            for ((profile, command), event) in self.events.iter() {
                let event_name = format!("{} {command}", profile_name(*profile));
                for (result, took) in event.durations.iter() {
                    count(format!("{event_name} {}", result.name()), took.count());
                }
                count(format!("{event_name} bypassed"), event.bypassed.get());
            }
            for (stage, counter) in self.failures.iter() {
                count(format!("failure {}", stage.name()), counter.get());
            }
            lines
        }
    }

    impl Metrics {
        /// The events that have been counted, a line each.
        pub(crate) fn counted(&self) -> Vec<String> {
            let mut lines = Vec::new();
            for ((profile, command), results) in self.events.iter() {
                for (result, counter) in results.iter().filter(|(_, counter)| counter.get() > 0) {
                    let (profile, count) = (profile_name(*profile), counter.get());
                    lines.push(format!("{profile} {} {} {count}", command.name(), result.name()));
                }
            }
            lines
        }
    }

    #[test]
    fn a_transaction_is_counted_once_by_its_event_and_its_end() {
        let metrics = Metrics::default();
        let about = |profile, name: &str| {
            let mut transaction = metrics.started();
            let command = Command::from_name(name.as_bytes()).unwrap();
            transaction.is_about(&metrics, profile, &command);
            transaction
        };
        let mail = about(ProfileKind::Command, "MAIL");
        let replied_mail = about(ProfileKind::Reply, "MAIL");
        let verb = about(ProfileKind::Command, "XVERB");
        let other_verb = about(ProfileKind::Command, "OTHER");
        let unknown = metrics.started();
        assert_eq!(metrics.transactions.get(), 5);
        assert!(metrics.counted().is_empty());
        mail.end(EventResult::Modified);
        replied_mail.end(EventResult::Replied);
        drop(verb);
        other_verb.end(EventResult::Unchanged);
        unknown.end(EventResult::Refused);
        assert_eq!(metrics.transactions.get(), 0);
        assert_eq!(
            metrics.counted(),
            [
                "command MAIL modified 1",
                "command other unchanged 1",
                "command other refused 1",
                "command other unanswered 1",
                "reply MAIL replied 1",
            ]
        );
    }

    #[test]
    fn the_totals_of_a_service_are_those_of_all_its_events() {
        let metrics = ServiceMetrics::new(&Declaration::on([Command::Mail, Command::Message]));
        let command = ProfileKind::Command;
        let took = Duration::from_millis(2);
        metrics.answered(command, &Command::Mail, ServiceResult::Unchanged, took);
        metrics.answered(command, &Command::Message, ServiceResult::Unchanged, took);
        metrics.answered(command, &Command::Message, ServiceResult::Replied, took);
        let error = ServiceError::new("deadline", "late");
        metrics.failed(command, &Command::Message, &error, Duration::from_secs(15));
        metrics.bypassed(command, &Command::Message);
        let totals = metrics.totals();
        assert_eq!((totals.results, totals.bypassed), ([2, 0, 1, 1], 1));
        assert_eq!(totals.failures, [("deadline", 1)]);
        assert_eq!((totals.took.counts[3], totals.took.counts[10]), (3, 1));
    }

    /// Names and events are the configuration's: whatever it says, each series stands there once, and on
    /// a line of its own.
    #[test]
    fn each_series_is_told_once_whatever_is_configured() {
        let text = "[services.\"a\\\"b\\n\"]\nkind = \"log\"\nbypassable = true\n\
            settings = { events = [\"MAIL\", \"MAIL\"] }\n";
        let config = Config::parse(text, Path::new(""), &Services::builtin()).unwrap();
        let server = Arc::new(Server::new(config));
        let took = Duration::from_millis(1);
        for entry in server.current().config.router.iter() {
            for command in Command::named() {
                for result in ServiceResult::ALL {
                    entry.metrics.answered(ProfileKind::Command, &command, result, took);
                }
            }
        }
        let told = exposition(server).text().unwrap();
        let (told, end) = told.split_at(told.len() - "# EOF\n".len());
        assert_eq!(end, "# EOF\n");
        let mut known = HashSet::new();
        for line in told.lines().filter(|line| !line.starts_with("# ")) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(
                series.starts_with("callout_server_") && value.parse::<f64>().is_ok(),
                "{line}"
            );
            assert!(known.insert(series), "{series} stands there twice");
        }
        let odd = "callout_server_service_duration_seconds_count{service=\"a\\\"b\\n\",\
            profile=\"command\",event=\"MAIL\",result=\"unchanged\"}";
        assert!(known.contains(odd), "{known:#?}");
    }
}
