//! What the log says of messages, and where two parties differ.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead, Read};

use serde::{Deserialize, Serialize};

/// How lines of what took effect are called beside the groups that watch.
pub(super) const EFFECTIVE: &str = "effective";

/// Octets of a line; what is longer is no line of ours.
const LONGEST: u64 = 1024 * 1024;

/// What one party made, or would have made, of a message.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Verdict {
    pub(super) decision: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    pub(super) verdicts: String,
}

/// A message that two parties decide otherwise.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Difference {
    pub(super) id: String,
    pub(super) queue_id: Option<String>,
    pub(super) sender: Option<String>,
    pub(super) recipients: String,
    pub(super) first: Verdict,
    pub(super) second: Verdict,
}

/// Messages of a pair of decisions.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) first: String,
    pub(super) second: String,
    pub(super) messages: u64,
}

/// Two parties side by side.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) first: String,
    pub(super) second: String,
    pub(super) agree: u64,
    pub(super) differ: u64,
    /// Messages of which the other one has no line.
    pub(super) only_first: u64,
    pub(super) only_second: u64,
    pub(super) decisions: Vec<Count>,
    /// At most as many as were asked for.
    pub(super) differences: Vec<Difference>,
}

/// All messages of a log. Worst case in memory: the lines about messages.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// By id, in the order in which they came.
    messages: BTreeMap<usize, Message>,
    places: HashMap<String, usize>,
    /// Lines that are not about messages.
    pub(super) others: u64,
}

#[derive(Debug)]
struct Message {
    id: String,
    queue_id: Option<String>,
    sender: Option<String>,
    recipients: String,
    /// By party.
    verdicts: BTreeMap<String, Verdict>,
}

/// A line about a message.
#[derive(Deserialize)]
struct Line {
    message: String,
    id: String,
    group: Option<String>,
    queue_id: Option<String>,
    sender: Option<String>,
    #[serde(default)]
    recipients: String,
    decision: String,
    reason: Option<String>,
    #[serde(default)]
    verdicts: String,
}

impl Log {
    /// Takes the lines of one more file. What stands before the first brace, as a system's log puts it
    /// there, is passed over.
    ///
    /// # Errors
    /// If it can't be read.
    pub(super) fn read(&mut self, mut reader: impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let count = reader.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
            if count == 0 {
                return Ok(());
            }
            if count as u64 == LONGEST && !line.ends_with(b"\n") {
                reader.skip_until(b'\n')?;
                line.clear();
            }
            if !self.take(&line) {
                self.others += 1;
            }
        }
    }

    /// Whether it is about a message.
    fn take(&mut self, line: &[u8]) -> bool {
        let start = line.iter().position(|octet| *octet == b'{').unwrap_or_default();
        let object = line.get(start..).unwrap_or_default();
        let Ok(line) = serde_json::from_slice::<Line>(object) else { return false };
        let party = match (line.message.as_str(), line.group) {
            ("message", None) => EFFECTIVE.to_owned(),
            ("shadow", Some(group)) => group,
            _ => return false,
        };
        let place = self.messages.len();
        let place = *self.places.entry(line.id.clone()).or_insert(place);
        let message = self.messages.entry(place).or_insert_with(|| Message {
            id: line.id,
            queue_id: None,
            sender: None,
            recipients: String::new(),
            verdicts: BTreeMap::new(),
        });
        // Who has seen more of it knows more.
        message.queue_id = message.queue_id.take().or(line.queue_id);
        message.sender = message.sender.take().or(line.sender);
        if message.recipients.len() < line.recipients.len() {
            message.recipients = line.recipients;
        }
        let Line { decision, reason, verdicts, .. } = line;
        message.verdicts.entry(party).or_insert(Verdict { decision, reason, verdicts });
        true
    }

    /// Everybody who has a line: what took effect first.
    pub(super) fn parties(&self) -> Vec<&str> {
        let all = self.messages.values().flat_map(|message| message.verdicts.keys());
        let mut parties: Vec<&str> = all.map(String::as_str).collect();
        parties.sort_unstable_by_key(|party| (*party != EFFECTIVE, *party));
        parties.dedup();
        parties
    }

    /// Two of them side by side, with at most that many messages that differ.
    pub(super) fn compare(&self, first: &str, second: &str, most: usize) -> Comparison {
        let mut comparison = Comparison {
            first: first.to_owned(),
            second: second.to_owned(),
            agree: 0,
            differ: 0,
            only_first: 0,
            only_second: 0,
            decisions: Vec::new(),
            differences: Vec::new(),
        };
        let mut decisions: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for message in self.messages.values() {
            let verdict = |party| message.verdicts.get(party);
            let (one, other) = match (verdict(first), verdict(second)) {
                (Some(one), Some(other)) => (one, other),
                (one, other) => {
                    comparison.only_first += u64::from(one.is_some());
                    comparison.only_second += u64::from(other.is_some());
                    continue;
                }
            };
            *decisions.entry((&one.decision, &other.decision)).or_default() += 1;
            if one.decision == other.decision {
                comparison.agree += 1;
                continue;
            }
            comparison.differ += 1;
            if comparison.differences.len() < most {
                comparison.differences.push(Difference {
                    id: message.id.clone(),
                    queue_id: message.queue_id.clone(),
                    sender: message.sender.clone(),
                    recipients: message.recipients.clone(),
                    first: one.clone(),
                    second: other.clone(),
                });
            }
        }
        let count = |((first, second), messages): ((&str, &str), u64)| Count {
            first: first.to_owned(),
            second: second.to_owned(),
            messages,
        };
        comparison.decisions = decisions.into_iter().map(count).collect();
        comparison
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: &[&str]) -> Log {
        let mut log = Log::default();
        log.read(lines.join("\n").as_bytes()).unwrap();
        log
    }

    fn line(message: &str, id: &str, group: &str, decision: &str) -> String {
        let group =
            if group.is_empty() { String::new() } else { format!(",\"group\":\"{group}\"") };
        format!("{{\"message\":\"{message}\",\"id\":\"{id}\"{group},\"decision\":\"{decision}\"}}")
    }

    #[test]
    fn lines_of_one_message_are_paired_in_any_order() {
        let lines = [
            line("shadow", "a.1", "next", "reject"),
            line("message", "a.1", "", "accept"),
            format!("Nov 25 mx opes-mta[1]: {}", line("message", "a.2", "", "accept")),
            line("shadow", "a.2", "next", "accept"),
            line("message", "b.1", "", "accept"),
            line("shadow", "b.2", "next", "accept"),
            line("shadow", "a.1", "other", "reject"),
        ];
        let log = log(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(log.parties(), ["effective", "next", "other"]);
        assert_eq!(log.others, 0);
        let found = log.compare("effective", "next", 10);
        let counts = (found.agree, found.differ, found.only_first, found.only_second);
        assert_eq!(counts, (1, 1, 1, 1));
        assert_eq!(found.differences[0].id, "a.1");
        let decisions: Vec<_> = found
            .decisions
            .iter()
            .map(|count| (count.first.as_str(), count.second.as_str(), count.messages))
            .collect();
        assert_eq!(decisions, [("accept", "accept", 1), ("accept", "reject", 1)]);
        let groups = log.compare("next", "other", 10);
        assert_eq!((groups.agree, groups.differ, groups.only_first), (1, 0, 2));
        assert!(log.compare("effective", "next", 0).differences.is_empty());
    }

    #[test]
    fn what_is_no_line_about_a_message_is_counted() {
        let whole = line("message", "a.1", "", "accept");
        let long = format!("{}{whole}", "x".repeat(3 * LONGEST as usize / 2));
        let log = log(&["", "{", "[]", "{\"message\":\"listening\"}", &whole[..20], &long, &whole]);
        assert_eq!((log.messages.len(), log.others), (1, 6));
    }
}
