//! What a report says: bounded, and in ASCII on one line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mail_parser::DateTime;
use ocp_proto::smtp::Command;
use serde::{Deserialize, Serialize};

use super::settings::Checked;
use crate::conclusion::{Conclusion, FateName, Found};
use crate::service::{Request, mechanism_only};

/// The version of the object: a member that goes, or means something else, makes another one.
const VERSION: u32 = 1;

/// How severe an incident is (RFC 5424 section 6.2.1), the most severe first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Severity {
    Emergency,
    Alert,
    Critical,
    Error,
    #[default]
    Warning,
    Notice,
    Info,
    Debug,
}

/// How much of what is told.
struct Widths {
    /// Octets of a text, as JSON.
    text: usize,
    /// Findings, and replies.
    some: usize,
    /// Recipients.
    recipients: usize,
}

/// What is kept.
const WIDE: Widths = Widths { text: 512, some: 8, recipients: 16 };

/// What fits into a datagram.
const NARROW: Widths = Widths { text: 40, some: 2, recipients: 2 };

/// One incident, as one target is told of it.
#[derive(Clone, Debug)]
pub(super) struct Incident {
    pub(super) severity: Severity,
    findings: Vec<FindingTexts>,
    facts: Arc<Facts>,
}

/// What all targets are told.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Facts {
    id: String,
    pub(super) time: String,
    host: String,
    event: String,
    fates: Vec<FateName>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    replies: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    helo: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    recipients: Vec<String>,
    recipient_count: usize,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    fields: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Serialize)]
struct FindingTexts {
    service: String,
    verdict: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Facts {
    pub(super) fn of(
        conclusion: &Conclusion<'_>,
        settings: &Checked,
        now: SystemTime,
    ) -> Arc<Self> {
        let Request { dialog, envelope, command, .. } = conclusion.request;
        let text = |octets: &[u8]| cut(&String::from_utf8_lossy(octets), WIDE.text);
        let optional = |octets: Option<&[u8]>| octets.map(text);
        let line = conclusion.request.line().map(|line| match command {
            Command::Auth => text(&mechanism_only(line.as_bytes())),
            _ => text(line.as_bytes()),
        });
        let mail = conclusion.request.mail();
        let fields = settings.fields.iter().filter_map(|name| {
            Some((name.clone(), cut(mail?.field(name)?.text().trim(), WIDE.text)))
        });
        let replies = conclusion.fates.iter().filter_map(|fate| fate.reply.as_ref());
        let recipients = envelope.recipients.iter().take(WIDE.recipients);
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let time = DateTime::from_timestamp(i64::try_from(seconds).unwrap_or_default());
        Arc::new(Self {
            id: format!("{:032x}", fastrand::u128(..)),
            time: time.to_rfc3339(),
            host: settings.host.clone(),
            event: text(command.name().as_bytes()),
            fates: conclusion.fate_names(),
            replies: replies
                .take(WIDE.some)
                .map(|reply| cut(&reply.to_string(), WIDE.text))
                .collect(),
            client: optional(dialog.client_address.as_deref()),
            client_name: optional(dialog.client_name.as_deref()),
            helo: optional(dialog.helo.as_deref()),
            user: optional(dialog.auth.as_ref().map(|auth| &*auth.identity)),
            queue_id: optional(dialog.queue_id.as_deref()),
            line,
            sender: optional(envelope.sender.as_ref().map(|sender| &**sender.path())),
            recipients: recipients.map(|recipient| text(recipient.path())).collect(),
            recipient_count: envelope.recipients.len(),
            fields: fields.collect(),
        })
    }

    fn narrow(&self) -> Self {
        let text = |text: &String| cut(text, NARROW.text);
        let optional = |text: &Option<String>| text.as_ref().map(|text| cut(text, NARROW.text));
        Self {
            id: self.id.clone(),
            time: self.time.clone(),
            host: self.host.clone(),
            event: text(&self.event),
            fates: self.fates.clone(),
            replies: self.replies.iter().take(NARROW.some).map(text).collect(),
            client: optional(&self.client),
            client_name: optional(&self.client_name),
            helo: optional(&self.helo),
            user: optional(&self.user),
            queue_id: optional(&self.queue_id),
            line: optional(&self.line),
            sender: optional(&self.sender),
            recipients: self.recipients.iter().take(NARROW.recipients).map(text).collect(),
            recipient_count: self.recipient_count,
            fields: self.fields.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
        }
    }
}

impl FindingTexts {
    fn of(found: &Found) -> Self {
        let Found { service, finding } = found;
        let text = |text: &str| cut(text, WIDE.text);
        Self {
            service: text(service),
            verdict: text(&finding.verdict),
            score: finding.score.as_deref().map(text),
            reason: finding.reason.as_deref().map(text),
        }
    }

    fn narrow(&self) -> Self {
        let text = |text: &String| cut(text, NARROW.text);
        Self {
            service: text(&self.service),
            verdict: text(&self.verdict),
            score: self.score.as_ref().map(text),
            reason: self.reason.as_ref().map(text),
        }
    }
}

impl Incident {
    /// Octets of the largest one: [`WIDE`], and the names of members.
    pub(super) const LARGEST: usize =
        WIDE.text * (8 + 8 + WIDE.recipients + WIDE.some + 4 * WIDE.some) + 4 * 1024;

    pub(super) fn new<'a>(
        facts: Arc<Facts>,
        severity: Severity,
        found: impl Iterator<Item = &'a Found>,
    ) -> Self {
        Self { severity, findings: found.take(WIDE.some).map(FindingTexts::of).collect(), facts }
    }

    pub(super) fn time(&self) -> &str {
        &self.facts.time
    }

    /// The object.
    pub(super) fn json(&self) -> String {
        ascii(&self.facts, self.severity, &self.findings)
    }

    /// The same in at most `octets` where it can be: with less of each text, and less of what there are several of.
    pub(super) fn json_within(&self, octets: usize) -> String {
        let json = self.json();
        if json.len() <= octets {
            return json;
        }
        let findings: Vec<_> =
            self.findings.iter().take(NARROW.some).map(FindingTexts::narrow).collect();
        ascii(&self.facts.narrow(), self.severity, &findings)
    }
}

/// JSON in ASCII: what is not stands in strings alone, and there as `\uXXXX` (RFC 8259 section 7). A terminal shows what is
/// there, and a syslog server needs no byte order mark (RFC 5424 section 6.4).
fn ascii(facts: &Facts, severity: Severity, findings: &[FindingTexts]) -> String {
    #[derive(Serialize)]
    struct Object<'a> {
        version: u32,
        severity: Severity,
        #[serde(flatten)]
        facts: &'a Facts,
        findings: &'a [FindingTexts],
    }
    let object = Object { version: VERSION, severity, facts, findings };
    // Strings, numbers and lists: there is nothing that JSON can't say.
    let json = serde_json::to_string(&object).unwrap_or_default();
    let mut ascii = String::with_capacity(json.len());
    let mut units = [0; 2];
    for character in json.chars() {
        match character.is_ascii() {
            true => ascii.push(character),
            false => {
                for unit in character.encode_utf16(&mut units) {
                    ascii.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    ascii
}

/// A text that takes at most `most` octets as JSON, without control characters.
fn cut(text: &str, most: usize) -> String {
    const MORE: char = '\u{2026}';
    let octets = |character: char| match character {
        '"' | '\\' => 2,
        character if character.is_ascii() => 1,
        character => 6 * character.len_utf16(),
    };
    let mut cut = String::new();
    let (mut length, mut with_more) = (0, 0);
    for character in text.chars() {
        let character = match character.is_control() {
            true => char::REPLACEMENT_CHARACTER,
            false => character,
        };
        length += octets(character);
        if length > most {
            cut.truncate(with_more);
            cut.push(MORE);
            break;
        }
        cut.push(character);
        if length + octets(MORE) <= most {
            with_more = cut.len();
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_what_it_takes_as_json() {
        for (text, most, expected) in [
            ("abcdef", 6, "abcdef"),
            ("abcdefghij", 9, "abc\u{2026}"),
            ("\"\"\"\"\"", 10, "\"\"\"\"\""),
            ("\"\"\"\"\"\"", 10, "\"\"\u{2026}"),
            ("a\r\nb\u{7f}", 32, "a\u{fffd}\u{fffd}b\u{fffd}"),
            ("\u{1f600}\u{1f600}", 23, "\u{1f600}\u{2026}"),
            ("\u{1f600}\u{1f600}", 24, "\u{1f600}\u{1f600}"),
            ("xyz", 2, "\u{2026}"),
            ("", 0, ""),
        ] {
            assert_eq!(cut(text, most), expected, "{text:?} {most}");
        }
    }

    #[test]
    fn the_most_severe_comes_first() {
        assert!(Severity::Emergency < Severity::Warning && Severity::Warning < Severity::Debug);
        assert_eq!(Severity::Debug as u8, 7);
    }
}
