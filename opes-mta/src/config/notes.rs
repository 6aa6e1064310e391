//! What is valid and may still not be meant.

use std::collections::HashSet;

use ocp_proto::smtp::ProfileKind;

use super::checked::Config;
use super::rules::Rule;
use crate::group::Overload;

impl Config {
    /// What an operator should know of this configuration: a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.system.is_none() {
            notes.push(
                "there is no [system]: messages and replies do not say who adapted them (RFC 3897 \
                 wants it)"
                    .to_owned(),
            );
        }
        if self.listen.is_empty() {
            notes.push("there is no [[listen]]: no mail server can bring its mail".to_owned());
        }
        let (message, content) = (self.limits.message_octets, self.limits.content_octets);
        if !self.listen.is_empty() && u64::from(message) > content {
            notes.push(format!(
                "a message of more than content-octets, {content}, is always put off if it comes by milter, whatever \
                 message-octets, {message}, allows: it is in memory as a whole"
            ));
        }
        for group in self.groups.iter().filter(|group| group.overload == Overload::Bypass) {
            notes.push(format!(
                "group {}: while its servers are busy, mail goes on unchecked where their policy \
                 allows it",
                group.name
            ));
        }
        for group in self.groups.iter().filter(|group| group.profile == ProfileKind::Reply) {
            notes.push(format!(
                "group {} is for replies of a next hop: opes-mta milter, which sees none, does not ask it",
                group.name
            ));
        }
        self.rules(&mut notes);
        notes
    }

    fn rules(&self, notes: &mut Vec<String>) {
        let mut decided_by: Option<&Rule> = None;
        let mut used: HashSet<usize> = HashSet::new();
        for rule in self.rules.written() {
            if let Some(earlier) = decided_by {
                let (name, earlier) = (&rule.name, &earlier.name);
                notes.push(format!("rule {name} never decides: {earlier} matches everybody"));
                continue;
            }
            if rule.matches_everybody() {
                decided_by = Some(rule);
            }
            used.extend(&rule.groups);
            notes.extend(self.rule(rule).map(|note| format!("rule {}: {note}", rule.name)));
        }
        if decided_by.is_none() {
            // Where no rule matches, all groups are asked.
            return;
        }
        for (position, group) in self.groups.iter().enumerate() {
            if !used.contains(&position) {
                notes.push(format!("group {} is in no rule that decides", group.name));
            }
        }
    }

    fn rule(&self, rule: &Rule) -> Option<&'static str> {
        if rule.groups.is_empty() {
            let proven = !rule.clients.is_empty() || rule.authenticated == Some(true);
            if !rule.recipients.is_empty() {
                return Some(
                    "one such recipient is enough for nobody to look at a message: all-recipients \
                     wants all of them",
                );
            }
            return (!rule.senders.is_empty() && !proven).then_some(
                "anybody can claim to be such a sender, and nobody looks at their mail: add clients \
                 or authenticated = true",
            );
        }
        let groups = || rule.groups.iter().filter_map(|group| self.groups.get(*group));
        let mut for_commands = groups().filter(|group| group.profile == ProfileKind::Command);
        if for_commands.clone().next().is_none() {
            return Some("all of its groups are for replies: nobody looks at the mail itself");
        }
        for_commands.all(|group| group.shadow.is_some()).then_some("all of its groups only watch")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_may_not_be_meant_is_said() {
        let group = |name: &str, rest: &str| {
            format!(
                "[[group]]\nname = \"{name}\"\nservers = [\"a:1\"]\nservices = [\"log\"]\n{rest}\n"
            )
        };
        let head = format!(
            "[system]\nuri = \"https://example.org/\"\nname = \"a\"\n\
             [[listen]]\nmilter = \"inet:127.0.0.1:1\"\n{}{}",
            group("clean", ""),
            group("watch", "shadow = true"),
        );
        let rule = |rest: &str| format!("{head}[[rule]]\nname = \"r\"\n{rest}\n");
        let cases = [
            (head.clone(), vec![]),
            (group("clean", ""), vec!["there is no [system]", "there is no [[listen]]"]),
            (
                format!("{head}{}", group("busy", "overload = \"bypass\"")),
                vec!["group busy: while"],
            ),
            (
                format!("{head}{}", group("replies", "profile = \"reply\"")),
                vec!["group replies is for replies of a next hop"],
            ),
            (
                format!(
                    "{head}{}[[rule]]\nclients = [\"unix\"]\ngroups = [\"replies\"]\n",
                    group("replies", "profile = \"reply\"")
                ),
                vec!["group replies is for", "rule #1: all of its groups are for replies"],
            ),
            (
                format!(
                    "{head}{}[[rule]]\nclients = [\"unix\"]\ngroups = [\"watch\", \"replies\"]\n",
                    group("replies", "profile = \"reply\"")
                ),
                vec!["group replies is for", "rule #1: all of its groups only watch"],
            ),
            (
                format!("{head}[limits]\nmessage-octets = 3000000\ncontent-octets = 2999999\n"),
                vec!["more than content-octets, 2999999, is always put off if it comes by milter"],
            ),
            (rule("groups = []"), vec!["clean is in no rule", "watch is in no rule"]),
            (rule("clients = [\"unix\"]\ngroups = []"), vec![]),
            (rule("senders = [\"a.b\"]\ngroups = []"), vec!["rule r: anybody can claim"]),
            (rule("senders = [\"a.b\"]\nclients = [\"unix\"]\ngroups = []"), vec![]),
            (rule("senders = [\"a.b\"]\nauthenticated = true\ngroups = []"), vec![]),
            (
                rule("senders = [\"a.b\"]\nauthenticated = false\ngroups = []"),
                vec!["anybody can claim"],
            ),
            (rule("recipients = [\"a.b\"]\ngroups = []"), vec!["rule r: one such recipient"]),
            (rule("recipients = [\"a.b\"]\ngroups = [\"clean\"]"), vec![]),
            (rule("all-recipients = [\"a.b\"]\ngroups = []"), vec![]),
            (rule("clients = [\"unix\"]\ngroups = [\"watch\"]"), vec!["r: all of its groups only"]),
            (
                format!(
                    "{}[[rule]]\nclients = [\"unix\"]\ngroups = [\"watch\"]\n",
                    rule("groups = [\"clean\"]")
                ),
                vec!["rule #2 never decides: r matches everybody", "group watch is in no rule"],
            ),
        ];
        for (text, expected) in cases {
            let notes = Config::parse(&text, Path::new("test.toml")).unwrap().notes();
            assert_eq!(notes.len(), expected.len(), "{text}: {notes:?}");
            for (note, expected) in notes.iter().zip(expected) {
                assert!(note.contains(expected), "{text}: {note}");
            }
        }
    }
}
