//! The features that the profile negotiates (profile section 2).

use std::fmt;

use super::command::{Command, Part};
use super::effect::EffectName;
use super::profile::ProfileKind;
use crate::ids::parse_number;
use crate::wire::{Atom, Name, NamedValues, Structure, Value};

/// URI of the dialogs feature.
pub const DIALOG: &str = "ocp://smtp/dialog";
/// URI of the command profile.
pub const COMMAND_PROFILE: &str = "ocp://smtp/command";
/// URI of the reply profile.
pub const REPLY_PROFILE: &str = "ocp://smtp/reply";

/// URI of transport security (profile section 9).
pub const TLS: &str = "http://www.iana.org/assignments/opes/ocp/tls";

/// What happens to mail when adaptation fails, from the mildest to the strictest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailurePolicy {
    /// The mail goes on as it is.
    Accept,
    /// The sender is told to try again later.
    #[default]
    Tempfail,
    /// The mail is refused.
    Reject,
}

impl FailurePolicy {
    /// The name on the wire and in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Tempfail => "tempfail",
            Self::Reject => "reject",
        }
    }

    /// The policy of this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Self::Accept, Self::Tempfail, Self::Reject]
            .into_iter()
            .find(|policy| policy.name().as_bytes() == name)
    }
}

impl fmt::Display for FailurePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `SMTP-Dialog`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialogFeature {
    /// Version of the profile; 1.
    pub version: u32,
}

/// `SMTP-Command-Profile`: in an offer what the processor can do, in a response what the server
/// wants of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandProfile {
    /// The events that are vectored out.
    pub commands: Vec<Command>,
    /// Those that the server only watches.
    pub observed: Vec<Command>,
    /// Side effects that may be asked for.
    pub side_effects: Vec<EffectName>,
    /// Several adapted messages in a transaction.
    pub multiple_messages: bool,
    /// A reply for each recipient.
    pub recipient_replies: bool,
    /// The strictest policy of the group's services.
    pub on_failure: Option<FailurePolicy>,
    /// Pause the body at this size.
    pub pause_at_body: Option<u32>,
    /// The server wants no more of the body than that.
    pub stop_receiving_body: Option<u32>,
    /// The server leaves the loop at this offset of the body.
    pub leave_at_body: Option<u32>,
    /// The server uses no more preserved data than the header and that much of the body.
    pub preservation_interest_body: Option<u32>,
}

/// `SMTP-Reply-Profile`: in an offer what the processor can do, in a response what the server wants
/// of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplyProfile {
    /// The commands whose replies are vectored out; GREETING for the banner.
    pub commands: Vec<Command>,
    /// Auxiliary parts; [`Part::Command`] is the only one.
    pub auxiliary_parts: Vec<Part>,
    /// Those whose replies the server only watches.
    pub observed: Vec<Command>,
    /// Side effects that may be asked for.
    pub side_effects: Vec<EffectName>,
    /// The strictest policy of the group's services.
    pub on_failure: Option<FailurePolicy>,
}

impl DialogFeature {
    /// The feature in a value with the URI [`DIALOG`]; the version defaults to 1.
    pub fn from_structure(structure: &Structure) -> Option<Self> {
        let version = match structure.named.get("Version") {
            Some(version) => parse_number(version.as_atom()?)?,
            None => 1,
        };
        Some(Self { version })
    }

    /// The feature as a structure.
    pub fn to_structure(self) -> Structure {
        let mut named = NamedValues::new();
        named.push(Name::from_static("Version"), Value::number(self.version));
        Structure { members: vec![Value::atom(DIALOG)], named }
    }
}

impl CommandProfile {
    /// The feature in a value with the URI [`COMMAND_PROFILE`], or `None` if a member has the wrong
    /// type. Effects that this version does not know, or that replies alone have, are left out: they
    /// can't be asked for.
    pub fn from_structure(structure: &Structure) -> Option<Self> {
        let members = Members(structure);
        let is_event = |command: &Command| *command != Command::Greeting;
        Some(Self {
            commands: members.commands("Commands", is_event)?,
            observed: members.commands("Observed", is_event)?,
            side_effects: members.effects(ProfileKind::Command)?,
            multiple_messages: members.boolean("Multiple-Messages")?,
            recipient_replies: members.boolean("Recipient-Replies")?,
            on_failure: members.failure_policy("On-Failure")?,
            pause_at_body: members.size("Pause-At-Body")?,
            stop_receiving_body: members.size("Stop-Receiving-Body")?,
            leave_at_body: members.size("Leave-At-Body")?,
            preservation_interest_body: members.size("Preservation-Interest-Body")?,
        })
    }

    /// The feature as a structure; absent and empty members are left out.
    pub fn to_structure(&self) -> Structure {
        let mut named = NamedValues::new();
        push_names(&mut named, "Commands", self.commands.iter().map(Command::name));
        push_names(&mut named, "Observed", self.observed.iter().map(Command::name));
        push_names(&mut named, "Side-Effects", self.side_effects.iter().map(|e| e.name()));
        push_flag(&mut named, "Multiple-Messages", self.multiple_messages);
        push_flag(&mut named, "Recipient-Replies", self.recipient_replies);
        push_failure_policy(&mut named, self.on_failure);
        let sizes = [
            ("Pause-At-Body", self.pause_at_body),
            ("Stop-Receiving-Body", self.stop_receiving_body),
            ("Leave-At-Body", self.leave_at_body),
            ("Preservation-Interest-Body", self.preservation_interest_body),
        ];
        for (name, size) in sizes {
            if let Some(size) = size {
                named.push(Name::from_static(name), Value::number(size));
            }
        }
        Structure { members: vec![Value::atom(COMMAND_PROFILE)], named }
    }

    /// What of this response goes beyond `offer`, if anything: choosing what was not offered is a
    /// violation (profile section 2).
    pub fn beyond(&self, offer: &Self) -> Option<&'static str> {
        if !self.commands.iter().all(|command| offer.commands.contains(command)) {
            return Some("Commands");
        }
        if !self.observed.iter().all(|command| self.commands.contains(command)) {
            return Some("Observed");
        }
        if !self.side_effects.iter().all(|effect| offer.side_effects.contains(effect)) {
            return Some("Side-Effects");
        }
        if self.multiple_messages && !offer.multiple_messages {
            return Some("Multiple-Messages");
        }
        (self.recipient_replies && !offer.recipient_replies).then_some("Recipient-Replies")
    }
}

impl ReplyProfile {
    /// The feature in a value with the URI [`REPLY_PROFILE`], or `None` if a member has the wrong
    /// type, or names what has no reply (CONNECT). Effects that this version or this profile does not
    /// know are left out, and so are parts that are not auxiliary (RFC 4236 section 3.2.3).
    pub fn from_structure(structure: &Structure) -> Option<Self> {
        let members = Members(structure);
        let mut auxiliary_parts = members.list("Aux-Parts", Part::from_name)?;
        auxiliary_parts.retain(|part| *part == Part::Command);
        Some(Self {
            commands: members.commands("Commands", Command::has_reply)?,
            auxiliary_parts,
            observed: members.commands("Observed", Command::has_reply)?,
            side_effects: members.effects(ProfileKind::Reply)?,
            on_failure: members.failure_policy("On-Failure")?,
        })
    }

    /// Whether the command goes before the reply to it, if it has a line.
    pub fn shows_command(&self) -> bool {
        self.auxiliary_parts.contains(&Part::Command)
    }

    /// The feature as a structure; absent and empty members are left out.
    pub fn to_structure(&self) -> Structure {
        let mut named = NamedValues::new();
        push_names(&mut named, "Commands", self.commands.iter().map(Command::name));
        push_names(&mut named, "Aux-Parts", self.auxiliary_parts.iter().map(|p| p.name()));
        push_names(&mut named, "Observed", self.observed.iter().map(Command::name));
        push_names(&mut named, "Side-Effects", self.side_effects.iter().map(|e| e.name()));
        push_failure_policy(&mut named, self.on_failure);
        Structure { members: vec![Value::atom(REPLY_PROFILE)], named }
    }

    /// What of this response goes beyond `offer`, see [`CommandProfile::beyond`].
    pub fn beyond(&self, offer: &Self) -> Option<&'static str> {
        if !self.commands.iter().all(|command| offer.commands.contains(command)) {
            return Some("Commands");
        }
        if !self.observed.iter().all(|command| self.commands.contains(command)) {
            return Some("Observed");
        }
        if !self.side_effects.iter().all(|effect| offer.side_effects.contains(effect)) {
            return Some("Side-Effects");
        }
        (self.shows_command() && !offer.shows_command()).then_some("Aux-Parts")
    }
}

/// Typed access to a feature's named members. The outer `Option` is the type check.
struct Members<'a>(&'a Structure);

impl Members<'_> {
    fn list<T>(&self, name: &str, read: impl Fn(&[u8]) -> Option<T>) -> Option<Vec<T>> {
        match self.0.named.get(name) {
            Some(list) => list.as_list()?.iter().map(|item| read(item.as_atom()?)).collect(),
            None => Some(Vec::new()),
        }
    }

    fn commands(&self, name: &str, fits: impl Fn(&Command) -> bool) -> Option<Vec<Command>> {
        self.list(name, |command| Command::from_name(command).filter(&fits))
    }

    fn effects(&self, profile: ProfileKind) -> Option<Vec<EffectName>> {
        let known = self.list("Side-Effects", |effect| Some(EffectName::from_name(effect)))?;
        Some(known.into_iter().flatten().filter(|effect| effect.is_for(profile)).collect())
    }

    fn atom(&self, name: &str) -> Option<Option<&Atom>> {
        match self.0.named.get(name) {
            Some(value) => value.as_atom().map(Some),
            None => Some(None),
        }
    }

    fn boolean(&self, name: &str) -> Option<bool> {
        match self.atom(name)?.map(AsRef::as_ref) {
            None | Some(b"false") => Some(false),
            Some(b"true") => Some(true),
            Some(_) => None,
        }
    }

    fn size(&self, name: &str) -> Option<Option<u32>> {
        match self.atom(name)? {
            Some(number) => parse_number(number).map(Some),
            None => Some(None),
        }
    }

    fn failure_policy(&self, name: &str) -> Option<Option<FailurePolicy>> {
        match self.atom(name)? {
            Some(policy) => FailurePolicy::from_name(policy).map(Some),
            None => Some(None),
        }
    }
}

/// A list of names; an empty list is left out.
fn push_names<'a>(
    named: &mut NamedValues,
    name: &'static str,
    names: impl Iterator<Item = &'a str>,
) {
    let names: Vec<Value> = names.map(|text| Value::atom(text.to_owned())).collect();
    if !names.is_empty() {
        named.push(Name::from_static(name), Value::List(names));
    }
}

fn push_failure_policy(named: &mut NamedValues, policy: Option<FailurePolicy>) {
    if let Some(policy) = policy {
        named.push(Name::from_static("On-Failure"), Value::atom(policy.name()));
    }
}

fn push_flag(named: &mut NamedValues, name: &'static str, flag: bool) {
    if flag {
        named.push(Name::from_static(name), Value::atom("true"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> CommandProfile {
        CommandProfile {
            commands: vec![Command::Mail, Command::Message],
            observed: vec![Command::Mail],
            side_effects: vec![EffectName::Quarantine],
            on_failure: Some(FailurePolicy::Reject),
            leave_at_body: Some(4096),
            ..CommandProfile::default()
        }
    }

    #[test]
    fn the_profile_survives_the_wire() {
        assert_eq!(CommandProfile::from_structure(&profile().to_structure()), Some(profile()));
        let reply = ReplyProfile {
            commands: vec![Command::Greeting],
            auxiliary_parts: vec![Part::Command],
            ..ReplyProfile::default()
        };
        assert_eq!(ReplyProfile::from_structure(&reply.to_structure()), Some(reply));
    }

    #[test]
    fn a_profile_names_its_own_events_and_effects() {
        let named = |commands: &[&str], effects: &[&str], parts: &[&str]| {
            let mut named = NamedValues::new();
            push_names(&mut named, "Commands", commands.iter().copied());
            push_names(&mut named, "Side-Effects", effects.iter().copied());
            push_names(&mut named, "Aux-Parts", parts.iter().copied());
            Structure { members: Vec::new(), named }
        };
        let effects = ["retry-command", "quarantine", "add-recipient", "x"];
        let structure = named(&["MAIL"], &effects, &["reply", "command"]);
        let reply = ReplyProfile::from_structure(&structure).unwrap();
        assert_eq!(reply.side_effects, [EffectName::RetryCommand, EffectName::AddRecipient]);
        assert_eq!(reply.auxiliary_parts, [Part::Command]);
        let command = CommandProfile::from_structure(&structure).unwrap();
        assert_eq!(command.side_effects, [EffectName::Quarantine, EffectName::AddRecipient]);
        assert_eq!(CommandProfile::from_structure(&named(&["GREETING"], &[], &[])), None);
        assert_eq!(ReplyProfile::from_structure(&named(&["CONNECT"], &[], &[])), None);
        assert_eq!(ReplyProfile::from_structure(&named(&["MAIL"], &[], &["x"])), None);
    }

    #[test]
    fn choosing_more_of_replies_than_was_offered_is_seen() {
        let whole = ReplyProfile {
            commands: vec![Command::Rcpt],
            auxiliary_parts: vec![Part::Command],
            observed: vec![Command::Rcpt],
            side_effects: vec![EffectName::RetryCommand],
            on_failure: None,
        };
        assert_eq!(whole.beyond(&ReplyProfile { observed: Vec::new(), ..whole.clone() }), None);
        let less = |offer: ReplyProfile| whole.beyond(&offer);
        assert_eq!(less(ReplyProfile { commands: vec![], ..whole.clone() }), Some("Commands"));
        assert_eq!(
            less(ReplyProfile { side_effects: vec![], ..whole.clone() }),
            Some("Side-Effects")
        );
        assert_eq!(
            less(ReplyProfile { auxiliary_parts: vec![], ..whole.clone() }),
            Some("Aux-Parts")
        );
        let other = ReplyProfile { observed: vec![Command::Mail], ..whole.clone() };
        assert_eq!(other.beyond(&whole), Some("Observed"));
    }

    #[test]
    fn choosing_what_was_not_offered_is_seen() {
        let offer = CommandProfile { commands: vec![Command::Message], ..profile() };
        assert_eq!(profile().beyond(&offer), Some("Commands"));
        assert_eq!(profile().beyond(&profile()), None);
        let offer = CommandProfile { side_effects: Vec::new(), ..profile() };
        assert_eq!(profile().beyond(&offer), Some("Side-Effects"));
    }
}
