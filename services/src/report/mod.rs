//! `report`: tells syslog servers and webhooks what other services of its group found, and what becomes of the mail.
//!
//! It concludes, as `notify` does: it stands anywhere in its group, is asked once all others have answered, and
//! changes nothing. A report is put into a queue, and no mail waits for more: a target that is slow, or away, costs
//! reports, which are counted and logged. Each target has a queue of its own and gets one report at a time. What is in a
//! queue when the server ends is lost, and logged.
//!
//! A report is a JSON object in ASCII on one line: whatever a stranger writes into a mail begins no other line. To syslog it
//! goes as the message of RFC 5424: over UDP (RFC 5426), where it has at most 2,048 octets and texts are cut
//! shorter for that, over TCP with octet counting (RFC 6587 section 3.4.1), or to a unix datagram socket. To a webhook it is
//! POSTed as `application/json`; every answer of 200 to 299 takes it. Others and failures are tried again, but those
//! of 400 to 499 besides 408 and 429. The header field `Opes-Signature: sha256=HEX` holds the HMAC-SHA256 of the
//! body (RFC 2104) where there is a key for that. A report may arrive twice: then with the same `id`.
//!
//! | member | what it is |
//! | --- | --- |
//! | `version` | 1; members may come, and none goes within a version |
//! | `id`, `time`, `host` | of the report: 32 hexadecimal digits, RFC 3339 in UTC, the server's name |
//! | `severity` | that of the rule; of several the most severe: `emergency`, `alert`, `critical`, `error`, `warning`, `notice`, `info`, `debug` |
//! | `event` | `MESSAGE`, or another one of `events` |
//! | `fates` | what becomes of it: `refused`, `put-off`, `discarded`, `quarantined`, `held`, `changed`, `passed-on`; several where recipients differ |
//! | `replies` | the replies instead of the event |
//! | `findings` | objects with `service`, `verdict`, `score` and `reason`: what the rules are about, or all if they are about a fate |
//! | `client`, `client-name`, `helo`, `user`, `queue-id` | what is known of the dialog; `user` is whom AUTH has named |
//! | `line` | the command line; of AUTH the mechanism alone |
//! | `sender`, `recipients`, `recipient-count` | the envelope; no more than 16 recipients |
//! | `fields` | the first header field of each name that the settings list |
//!
//! Members that are not known are left out. A text has its control characters replaced and is cut at 512 octets of JSON;
//! one that was cut ends with `\u2026`. Of a message's text there is nothing.
//!
//! The verdict is `reported`, `dropped` (some target's queue was full) or `quiet`.
//!
//! ```toml
//! events = ["MESSAGE"]                        # what it is told of; each that is not MESSAGE costs a transaction
//! fields = ["Message-ID", "From", "Subject"]  # header fields that reports show
//! host = "mx.example.org"                     # the system's name if absent
//!
//! [[rules]]                                   # needed; each that matches reports
//! found = ["virus-scan=infected", "*=failed"] # verdicts; * stands for any service, or any verdict
//! fates = ["refused", "quarantined"]          # or what becomes of it
//! severity = "warning"
//! targets = ["siem", "soc"]                   # all if absent
//!
//! [[targets]]                                 # needed
//! name = "siem"
//! syslog = "tcp:192.0.2.1:601"                # or udp:HOST:PORT, unix:/dev/log
//! facility = "mail"
//! queue = 500                                 # reports that wait; a further one is dropped
//! timeout = 10                                # seconds for a try
//! retries = 5                                 # 1 s after the first try, and twice as long each time, a minute at the most
//!
//! [[targets]]
//! name = "soc"
//! webhook = "https://soc.example.org/opes"    # or http://
//! ca = "/etc/ssl/certs/ca-certificates.crt"   # who signs its certificate
//! # token-file = "soc.token"                  # sent as Authorization: Bearer
//! # signature-key-file = "soc.key"
//! ```

mod incident;
mod queue;
mod settings;
mod syslog;
mod target;
#[cfg(test)]
mod tests;
mod webhook;

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::{BoxFuture, FutureExt, ready};
use ocp_proto::smtp::FailurePolicy;

use crate::conclusion::{Conclusion, Found};
use crate::measure::{Measure, MeasureKind};
use crate::outcome::{Finding, Outcome};
use crate::registry::{Kind, Settings, SettingsError};
use crate::service::{Content, Declaration, Request, Service, ServiceError};
use incident::{Facts, Incident};
use queue::Queue;
use settings::{Checked, Rule};

/// The kind `report`.
pub const KIND: Kind = Kind {
    name: "report",
    summary: "tells syslog servers and webhooks what others found",
    needs_settings: true,
    build: |settings| Ok(Arc::new(Report::new(settings)?)),
};

struct Report {
    settings: Checked,
    queues: Vec<Queue>,
}

impl Report {
    fn new(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let (settings, targets) = settings::read(settings)?;
        Ok(Self { settings, queues: targets.into_iter().map(Queue::new).collect() })
    }

    /// Puts a report into the queue of each target that a rule names which matches.
    fn report(&self, conclusion: &Conclusion<'_>) -> Outcome {
        let fates = conclusion.fate_names();
        let matching: Vec<&Rule> = self
            .settings
            .rules
            .iter()
            .filter(|rule| rule.matches(conclusion.found, &fates))
            .collect();
        if matching.is_empty() {
            return Outcome::unchanged(Finding::new("quiet"));
        }
        let facts = Facts::of(conclusion, &self.settings, SystemTime::now());
        let (mut told, mut dropped) = (Vec::new(), Vec::new());
        for (index, queue) in self.queues.iter().enumerate() {
            let rules = || matching.iter().filter(|rule| rule.targets.contains(&index));
            let Some(severity) = rules().map(|rule| rule.severity).min() else { continue };
            let is_about = |found: &&Found| rules().any(|rule| rule.is_about(found, &fates));
            let findings = conclusion.found.iter().filter(is_about);
            let incident = Incident::new(facts.clone(), severity, findings);
            match queue.put(incident) {
                true => told.push(queue.name()),
                false => dropped.push(queue.name()),
            }
        }
        let finding = match dropped.is_empty() {
            true => Finding::new("reported").with_reason(told.join(" ")),
            false => {
                let reason = format!("the queue is full: {}", dropped.join(" "));
                Finding::new("dropped").with_reason(reason)
            }
        };
        Outcome::unchanged(finding)
    }
}

impl Service for Report {
    fn declaration(&self) -> Declaration {
        Declaration {
            content: Content::Header,
            concludes: true,
            immediate: true,
            // Mail that nobody is told of is better than none.
            on_failure: FailurePolicy::Accept,
            ..Declaration::on(self.settings.events.iter().cloned())
        }
    }

    fn handle<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        ready(Ok(Outcome::unchanged(Finding::new("quiet")))).boxed()
    }

    fn conclude<'a>(
        &'a self,
        conclusion: &'a Conclusion<'a>,
    ) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        ready(Ok(self.report(conclusion))).boxed()
    }

    fn start(&self) -> BoxFuture<'_, Result<(), ServiceError>> {
        self.queues.iter().for_each(Queue::start);
        ready(Ok(())).boxed()
    }

    fn worst_case_memory(&self) -> usize {
        let queued = self.queues.iter().map(Queue::capacity).fold(0, usize::saturating_add);
        queued.saturating_mul(Incident::LARGEST)
    }

    fn measures(&self) -> Vec<Measure> {
        let sum = |of: fn(&Queue) -> u64| self.queues.iter().map(of).sum();
        let counter = |result, value| Measure {
            name: "reports",
            help: "Reports, by what became of them: sent, failed after all tries, dropped for a full queue",
            kind: MeasureKind::Counter,
            label: Some(("result", result)),
            value,
        };
        let gauge = |name, help, value| Measure {
            name,
            help,
            kind: MeasureKind::Gauge,
            label: None,
            value,
        };
        vec![
            counter("sent", sum(Queue::sent)),
            counter("failed", sum(Queue::failed)),
            counter("dropped", sum(Queue::dropped)),
            gauge("reports_waiting", "Reports in queues", sum(Queue::waiting)),
            gauge(
                "report_targets_failing",
                "Targets of reports where the last try failed",
                sum(|queue| queue.failure().is_some().into()),
            ),
        ]
    }

    fn condition(&self) -> Option<String> {
        let failing = self.queues.iter().filter_map(|queue| {
            Some(format!("no report reaches {}: {}", queue.name(), queue.failure()?))
        });
        Some(failing.collect::<Vec<_>>().join("; ")).filter(|condition| !condition.is_empty())
    }

    fn notes(&self) -> Vec<String> {
        self.settings.notes.clone()
    }
}
