//! What became of a mail, as data, as a line, and as JSON.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use ocp_proto::Traffic;
use ocp_proto::smtp::{Address, Command, Reply, SideEffect, Verdict};
use serde::Serialize;

use crate::apply::Notification;

/// What became of a mail.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its name.
    pub file: String,
    /// What was decided.
    pub decision: Decision,
    /// What an SMTP peer would get, if not a success of the next hop's.
    pub reply: Option<Reply>,
    /// What the services asked for besides, in this order.
    pub effects: Vec<SideEffect>,
    /// What each service found, event by event.
    pub services: Vec<Verdict>,
    /// The envelope's sender in the end.
    pub sender: Address,
    /// The envelope's recipients in the end.
    pub recipients: Vec<Address>,
    /// Recipients that were refused, and how.
    pub refused: Vec<(Address, Reply)>,
    /// What becomes of it for whom, where its recipients differ; then `decision` is that of all of
    /// them, or modify.
    pub versions: Vec<Version>,
    /// New messages that the services want to have submitted. Nobody does.
    pub notifications: Vec<Notification>,
    /// Events that got an earlier answer again, which still held, in order; the services were not asked.
    pub reused: Vec<Command>,
    /// After which event the services wanted no more of this envelope, if they said so before its end.
    pub done_after: Option<Command>,
    /// Why the services could not do their work, if they could not.
    pub error: Option<String>,
    /// Octets on the wire, message heads included.
    pub traffic: Traffic,
    /// How long all of it took.
    pub elapsed: Duration,
    /// What goes on, after all adaptations: slices of the original and new octets. Empty unless the
    /// mail is accepted or modified, and if it has `versions`.
    pub message: Vec<Bytes>,
}

/// What becomes of a mail for some of its recipients (SMTP profile section 5).
#[derive(Clone, Debug)]
pub struct Version {
    /// Whom it is for.
    pub recipients: Vec<Address>,
    /// What was decided.
    pub decision: Decision,
    /// What they get as the answer to their content, if not a success of the next hop's.
    pub reply: Option<Reply>,
    /// What the services asked for besides.
    pub effects: Vec<SideEffect>,
    /// What goes on to them; empty unless accepted or modified.
    pub message: Vec<Bytes>,
}

/// What was decided about a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It goes on as it was.
    Accept,
    /// It goes on with other octets, or another envelope.
    Modify,
    /// It is refused; the reply says whether for now or for good.
    Reject,
    /// It is dropped without a word.
    Discard,
    /// It is kept for review.
    Quarantine,
    /// It could not be processed.
    Error,
}

/// One mail in JSON.
#[derive(Serialize)]
struct Row<'a> {
    file: &'a str,
    decision: Decision,
    reply: Option<String>,
    effects: Vec<String>,
    services: Vec<ServiceRow>,
    octets_sent: u64,
    octets_returned: u64,
    ms: u128,
    sender: String,
    recipients: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused: Vec<RefusedRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    versions: Vec<VersionRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notifications: Vec<NotificationRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reused: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_after: Option<&'a str>,
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct VersionRow {
    recipients: Vec<String>,
    decision: Decision,
    reply: Option<String>,
    effects: Vec<String>,
}

#[derive(Serialize)]
struct NotificationRow {
    sender: String,
    recipients: Vec<String>,
    octets: usize,
}

#[derive(Serialize)]
struct ServiceRow {
    uri: String,
    verdict: String,
    score: Option<String>,
    reason: Option<String>,
    ms: Option<u32>,
}

#[derive(Serialize)]
struct RefusedRow {
    recipient: String,
    reply: String,
}

impl Report {
    /// A mail that could not be processed at all.
    pub fn error(file: String, error: String) -> Self {
        Self {
            file,
            decision: Decision::Error,
            reply: None,
            effects: Vec::new(),
            services: Vec::new(),
            sender: Address::null(),
            recipients: Vec::new(),
            refused: Vec::new(),
            versions: Vec::new(),
            notifications: Vec::new(),
            reused: Vec::new(),
            done_after: None,
            error: Some(error),
            traffic: Traffic::default(),
            elapsed: Duration::ZERO,
            message: Vec::new(),
        }
    }

    /// One JSON object without a line end.
    pub fn to_json(&self) -> String {
        let row = Row {
            file: &self.file,
            decision: self.decision,
            reply: self.reply.as_ref().map(Reply::to_string),
            effects: self.effects.iter().map(describe).collect(),
            services: self.services.iter().map(ServiceRow::new).collect(),
            octets_sent: self.traffic.sent,
            octets_returned: self.traffic.received,
            ms: self.elapsed.as_millis(),
            sender: self.sender.to_string(),
            recipients: self.recipients.iter().map(Address::to_string).collect(),
            refused: self.refused.iter().map(RefusedRow::new).collect(),
            versions: self.versions.iter().map(VersionRow::new).collect(),
            notifications: self.notifications.iter().map(NotificationRow::new).collect(),
            reused: self.reused.iter().map(Command::name).collect(),
            done_after: self.done_after.as_ref().map(Command::name),
            error: self.error.as_deref(),
        };
        serde_json::to_string(&row).unwrap_or_default()
    }

    /// One line for people, its name padded to `width` characters.
    pub fn to_line(&self, width: usize) -> String {
        let line = format!(
            "{:<10}  {:<width$}  sent {:>11}  returned {:>11}  in {:>6} ms  {}",
            self.decision.name(),
            self.file,
            grouped(self.traffic.sent),
            grouped(self.traffic.received),
            grouped(u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX)),
            self.why(),
        );
        printable(line.trim_end())
    }

    /// By whom and why, for people: what gave a reason, or else the last word; the reply and the
    /// side effects; what was not asked.
    pub fn why(&self) -> String {
        let mut words: Vec<String> =
            self.services.iter().filter(|verdict| verdict.reason.is_some()).map(found).collect();
        if words.is_empty() && self.decision != Decision::Accept {
            words.extend(self.services.last().map(found));
        }
        // The reply to a failure is ours and says less than the error.
        let reply = self.reply.as_ref().filter(|_| self.error.is_none());
        words.extend(reply.map(Reply::to_string));
        words.extend(self.effects.iter().map(describe));
        words.extend(self.refused.iter().map(|(to, reply)| format!("not {to}: {reply}")));
        words.extend(self.versions.iter().map(Version::words));
        words.extend(
            self.notifications.iter().map(|new| format!("notifies {}", list(&new.recipients))),
        );
        if !self.reused.is_empty() {
            let events: Vec<_> = self.reused.iter().map(Command::name).collect();
            words.push(format!("earlier answer to {}", events.join(", ")));
        }
        words.extend(self.done_after.iter().map(|event| format!("no more asked after {event}")));
        words.extend(self.error.clone());
        words.join("; ")
    }
}

impl Version {
    /// `modify for <a@b> <c@d>`
    fn words(&self) -> String {
        let mut words = format!("{} for {}", self.decision, list(&self.recipients));
        let effects = self.effects.iter().map(describe);
        for detail in self.reply.iter().map(Reply::to_string).chain(effects) {
            words.push_str(&format!(" ({detail})"));
        }
        words
    }
}

impl Decision {
    /// All of them, in the order of summaries.
    pub const ALL: [Self; 6] =
        [Self::Accept, Self::Modify, Self::Reject, Self::Discard, Self::Quarantine, Self::Error];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Modify => "modify",
            Self::Reject => "reject",
            Self::Discard => "discard",
            Self::Quarantine => "quarantine",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl ServiceRow {
    fn new(verdict: &Verdict) -> Self {
        Self {
            uri: text(&verdict.service),
            verdict: text(&verdict.verdict),
            score: verdict.score.as_deref().map(text),
            reason: verdict.reason.as_deref().map(text),
            ms: verdict.milliseconds,
        }
    }
}

impl VersionRow {
    fn new(version: &Version) -> Self {
        Self {
            recipients: version.recipients.iter().map(Address::to_string).collect(),
            decision: version.decision,
            reply: version.reply.as_ref().map(Reply::to_string),
            effects: version.effects.iter().map(describe).collect(),
        }
    }
}

impl NotificationRow {
    fn new(notification: &Notification) -> Self {
        let Notification { sender, recipients, message } = notification;
        Self {
            sender: sender.to_string(),
            recipients: recipients.iter().map(Address::to_string).collect(),
            octets: message.header.iter().map(Bytes::len).sum::<usize>() + message.body.len(),
        }
    }
}

impl RefusedRow {
    fn new((recipient, reply): &(Address, Reply)) -> Self {
        Self { recipient: recipient.to_string(), reply: reply.to_string() }
    }
}

/// Sums over many mails.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    counts: [u64; Decision::ALL.len()],
    traffic: Traffic,
}

impl Summary {
    /// Counts one mail.
    pub fn add(&mut self, report: &Report) {
        for (count, decision) in self.counts.iter_mut().zip(Decision::ALL) {
            *count += u64::from(decision == report.decision);
        }
        self.traffic.sent += report.traffic.sent;
        self.traffic.received += report.traffic.received;
    }

    /// How many mails were decided so.
    pub fn count(&self, decision: Decision) -> u64 {
        let of = self.counts.iter().zip(Decision::ALL).find(|(_, each)| *each == decision);
        of.map_or(0, |(count, _)| *count)
    }

    /// One line for people.
    pub fn to_line(&self, elapsed: Duration) -> String {
        let mails: u64 = self.counts.iter().sum();
        let named = self.counts.iter().zip(Decision::ALL).filter(|(count, _)| **count > 0);
        let decisions: Vec<String> =
            named.map(|(count, decision)| format!("{} {decision}", grouped(*count))).collect();
        format!(
            "{} {}: {}; {} octets sent, {} returned, {:.1} s",
            grouped(mails),
            if mails == 1 { "mail" } else { "mails" },
            if decisions.is_empty() { "nothing to do".to_owned() } else { decisions.join(", ") },
            grouped(self.traffic.sent),
            grouped(self.traffic.received),
            elapsed.as_secs_f64()
        )
    }
}

/// `spam-score: spam 7.4/5.0 (GTUBE)`
fn found(verdict: &Verdict) -> String {
    let uri = text(&verdict.service);
    let service = uri.strip_prefix("ocp://service/").unwrap_or(&uri);
    let mut words = format!("{service}: {}", text(&verdict.verdict));
    if let Some(score) = &verdict.score {
        words.push(' ');
        words.push_str(&text(score));
    }
    if let Some(reason) = &verdict.reason {
        words.push_str(&format!(" ({})", text(reason)));
    }
    words
}

/// A side effect in words.
fn describe(effect: &SideEffect) -> String {
    let name = effect.name();
    match effect {
        SideEffect::AddRecipient(address)
        | SideEffect::DeleteRecipient(address)
        | SideEffect::ChangeSender(address) => format!("{name} {address}"),
        SideEffect::SetRecipients(addresses) => format!("{name} {}", list(addresses)),
        SideEffect::Quarantine(reason) | SideEffect::Hold(reason) | SideEffect::Discard(reason) => {
            format!("{name} {}", text(reason))
        }
        SideEffect::Delay { seconds, reason } => format!("{name} {seconds} {}", text(reason)),
        SideEffect::Route { next_hop, recipients } => {
            format!("{name} {} {}", text(next_hop), list(recipients)).trim_end().to_owned()
        }
        SideEffect::RetryCommand { line, .. } => format!("{name} {}", text(line.as_bytes())),
        SideEffect::Disconnect => name.to_string(),
    }
}

/// `<a@b> <c@d>`
fn list(addresses: &[Address]) -> String {
    addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(" ")
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// Text that moves no cursor and turns no direction: what a peer or a file name says goes to a
/// terminal.
pub fn printable(text: &str) -> String {
    let harmful =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if harmful(character) {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

/// `1,234,567`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::Adapted;

    fn report() -> Report {
        Report {
            decision: Decision::Modify,
            error: None,
            services: vec![
                Verdict {
                    service: "ocp://service/virus-scan".into(),
                    verdict: "clean".into(),
                    score: None,
                    reason: None,
                    milliseconds: Some(1),
                },
                Verdict {
                    service: "ocp://service/spam-score".into(),
                    verdict: "spam".into(),
                    score: Some("7.4/5.0".into()),
                    reason: Some("GTUBE\u{1b}[2J".into()),
                    milliseconds: None,
                },
            ],
            effects: vec![SideEffect::DeleteRecipient(Address::new("<a@b>").unwrap())],
            traffic: Traffic { sent: 2_849, received: 512 },
            elapsed: Duration::from_millis(3),
            ..Report::error("spam/x.eml".into(), String::new())
        }
    }

    #[test]
    fn a_line_names_decision_cost_service_and_cause() {
        assert_eq!(
            report().to_line(12),
            "modify      spam/x.eml    sent       2,849  returned         512  in      3 ms  \
             spam-score: spam 7.4/5.0 (GTUBE\\u{1b}[2J); delete-recipient <a@b>"
        );
    }

    #[test]
    fn new_messages_are_named() {
        let address = |path: &'static str| Address::new(path).unwrap();
        let new = Notification {
            sender: Address::null(),
            recipients: vec![address("<a@b>"), address("<c@d>")],
            message: Adapted { header: vec!["A: b\r\n\r\n".into()], body: "c".into() },
        };
        let report = Report { notifications: vec![new], ..report() };
        assert!(report.why().ends_with("; notifies <a@b> <c@d>"), "{}", report.why());
        let row: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        let expected =
            serde_json::json!([{"sender": "<>", "recipients": ["<a@b>", "<c@d>"], "octets": 9}]);
        assert_eq!(row["notifications"], expected);
    }

    #[test]
    fn json_has_the_promised_members() {
        let row: serde_json::Value = serde_json::from_str(&report().to_json()).unwrap();
        assert_eq!(row["decision"], "modify");
        assert_eq!(row["reply"], serde_json::Value::Null);
        assert_eq!(row["effects"][0], "delete-recipient <a@b>");
        assert_eq!(row["services"][1]["uri"], "ocp://service/spam-score");
        assert_eq!(row["services"][1]["score"], "7.4/5.0");
        assert_eq!(row["services"][0]["ms"], 1);
        assert_eq!((&row["octets_sent"], &row["octets_returned"]), (&2_849.into(), &512.into()));
    }

    #[test]
    fn a_summary_counts() {
        let mut summary = Summary::default();
        summary.add(&report());
        summary.add(&Report::error("b".into(), "no".into()));
        assert_eq!(
            summary.to_line(Duration::from_millis(1_260)),
            "2 mails: 1 modify, 1 error; 2,849 octets sent, 512 returned, 1.3 s"
        );
        assert_eq!(summary.count(Decision::Error), 1);
    }
}
