//! Side effects: what a service asks the MTA to do besides changing octets (profile section 6).

use std::fmt;

use super::address::Address;
use super::command::CommandLine;
use super::profile::ProfileKind;
use crate::ids::parse_number;
use crate::wire::{Atom, Name, NamedValues, Structure, Value};

macro_rules! effect_names {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The name of a side effect; what is negotiated.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EffectName {
            $($(#[$doc])* $variant,)*
        }

        impl EffectName {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

effect_names! {
    /// Deliver to one more recipient.
    AddRecipient = "add-recipient",
    /// Deliver no longer to a recipient.
    DeleteRecipient = "delete-recipient",
    /// Deliver to these and nobody else.
    SetRecipients = "set-recipients",
    /// Use another return path.
    ChangeSender = "change-sender",
    /// Keep the message for review instead of delivering it.
    Quarantine = "quarantine",
    /// Put it into a special queue.
    Hold = "hold",
    /// Forward it later.
    Delay = "delay",
    /// Use another next hop.
    Route = "route",
    /// Accept and drop it.
    Discard = "discard",
    /// Drop the reply and send another command.
    RetryCommand = "retry-command",
    /// Close the dialog.
    Disconnect = "disconnect",
}

impl EffectName {
    /// The effect of this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.iter().copied().find(|effect| effect.name().as_bytes() == name)
    }

    /// Whether it may come with what is answered to an event of this profile (profile section 6).
    pub fn is_for(self, profile: ProfileKind) -> bool {
        match self {
            Self::AddRecipient
            | Self::DeleteRecipient
            | Self::SetRecipients
            | Self::ChangeSender
            | Self::Disconnect => true,
            Self::RetryCommand => profile == ProfileKind::Reply,
            Self::Quarantine | Self::Hold | Self::Delay | Self::Route | Self::Discard => {
                profile == ProfileKind::Command
            }
        }
    }
}

impl fmt::Display for EffectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One side effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SideEffect {
    /// Deliver to one more recipient.
    AddRecipient(Address),
    /// Deliver no longer to this recipient.
    DeleteRecipient(Address),
    /// Deliver to these and nobody else.
    SetRecipients(Vec<Address>),
    /// Use this return path.
    ChangeSender(Address),
    /// Keep the message for review; the reason.
    Quarantine(Atom),
    /// Put it into this queue.
    Hold(Atom),
    /// Forward it no sooner than that.
    Delay {
        /// Seconds from now.
        seconds: u32,
        /// Why.
        reason: Atom,
    },
    /// Use another next hop.
    Route {
        /// `host:port`.
        next_hop: Atom,
        /// For these recipients only; all if empty.
        recipients: Vec<Address>,
    },
    /// Accept and drop; the reason.
    Discard(Atom),
    /// Drop the reply and send this command.
    RetryCommand {
        /// The command to send.
        line: CommandLine,
        /// Where to, `host:port`, if not to the same next hop.
        next_hop: Option<Atom>,
    },
    /// Close the dialog.
    Disconnect,
}

/// The longest reason, queue name or next hop; a bound of ours.
const LONGEST_TEXT: usize = 1_024;

impl SideEffect {
    /// Its name.
    pub fn name(&self) -> EffectName {
        match self {
            Self::AddRecipient(_) => EffectName::AddRecipient,
            Self::DeleteRecipient(_) => EffectName::DeleteRecipient,
            Self::SetRecipients(_) => EffectName::SetRecipients,
            Self::ChangeSender(_) => EffectName::ChangeSender,
            Self::Quarantine(_) => EffectName::Quarantine,
            Self::Hold(_) => EffectName::Hold,
            Self::Delay { .. } => EffectName::Delay,
            Self::Route { .. } => EffectName::Route,
            Self::Discard(_) => EffectName::Discard,
            Self::RetryCommand { .. } => EffectName::RetryCommand,
            Self::Disconnect => EffectName::Disconnect,
        }
    }

    /// The side effect in a value, or `None` if it is none or unknown.
    pub fn from_value(value: &Value) -> Option<Self> {
        let structure = value.as_structure()?;
        let named = |name| structure.named.get(name);
        let text_at = |index: usize| text(structure.members.get(index)?);
        let name = EffectName::from_name(structure.members.first()?.as_atom()?)?;
        Some(match name {
            EffectName::AddRecipient => Self::AddRecipient(Address::from_value(named("Address")?)?),
            EffectName::DeleteRecipient => {
                Self::DeleteRecipient(Address::from_value(named("Address")?)?)
            }
            EffectName::SetRecipients => {
                Self::SetRecipients(Address::list_from_value(named("Addresses")?)?)
            }
            EffectName::ChangeSender => Self::ChangeSender(Address::from_value(named("Address")?)?),
            EffectName::Quarantine => Self::Quarantine(text_at(1)?),
            EffectName::Hold => Self::Hold(text_at(1)?),
            EffectName::Delay => Self::Delay {
                seconds: parse_number(structure.members.get(1)?.as_atom()?)?,
                reason: text_at(2)?,
            },
            EffectName::Route => Self::Route {
                next_hop: text_at(1)?,
                recipients: match named("Recipients") {
                    Some(recipients) => Address::list_from_value(recipients)?,
                    None => Vec::new(),
                },
            },
            EffectName::Discard => Self::Discard(text_at(1)?),
            EffectName::RetryCommand => Self::RetryCommand {
                line: CommandLine::new(structure.members.get(1)?.as_atom()?.to_bytes()).ok()?,
                next_hop: match named("Next-Hop") {
                    Some(next_hop) => Some(text(next_hop)?),
                    None => None,
                },
            },
            EffectName::Disconnect => Self::Disconnect,
        })
    }

    /// The side effect as a value.
    pub fn to_value(&self) -> Value {
        let mut members = vec![Value::atom(self.name().name())];
        let mut named = NamedValues::new();
        match self {
            Self::AddRecipient(address)
            | Self::DeleteRecipient(address)
            | Self::ChangeSender(address) => {
                named.push(Name::from_static("Address"), address.to_value());
            }
            Self::SetRecipients(addresses) => {
                named.push(Name::from_static("Addresses"), Address::list_to_value(addresses));
            }
            Self::Quarantine(text) | Self::Hold(text) | Self::Discard(text) => {
                members.push(Value::Atom(text.clone()));
            }
            Self::Delay { seconds, reason } => {
                members.push(Value::number(*seconds));
                members.push(Value::Atom(reason.clone()));
            }
            Self::Route { next_hop, recipients } => {
                members.push(Value::Atom(next_hop.clone()));
                if !recipients.is_empty() {
                    let recipients = Address::list_to_value(recipients);
                    named.push(Name::from_static("Recipients"), recipients);
                }
            }
            Self::RetryCommand { line, next_hop } => {
                members.push(Value::atom(line.as_bytes()));
                if let Some(next_hop) = next_hop {
                    named.push(Name::from_static("Next-Hop"), Value::Atom(next_hop.clone()));
                }
            }
            Self::Disconnect => {}
        }
        Value::Structure(Structure { members, named })
    }
}

/// Text that goes to logs, queues and reports: bounded, without control characters.
fn text(value: &Value) -> Option<Atom> {
    let text = value.as_atom()?;
    let sound = text.len() <= LONGEST_TEXT && !text.iter().any(u8::is_ascii_control);
    sound.then(|| text.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_effect_survives_the_wire() {
        let address = || Address::new("<a@b>").unwrap();
        let text = || Atom::from_static(b"because");
        let all = [
            SideEffect::AddRecipient(address()),
            SideEffect::DeleteRecipient(address()),
            SideEffect::SetRecipients(vec![address(), Address::new("<c@d>").unwrap()]),
            SideEffect::ChangeSender(Address::null()),
            SideEffect::Quarantine(text()),
            SideEffect::Hold(text()),
            SideEffect::Delay { seconds: 600, reason: text() },
            SideEffect::Route { next_hop: text(), recipients: vec![address()] },
            SideEffect::Discard(text()),
            SideEffect::RetryCommand {
                line: CommandLine::new("RCPT TO:<a@b>").unwrap(),
                next_hop: Some(text()),
            },
            SideEffect::Disconnect,
        ];
        assert_eq!(all.len(), EffectName::ALL.len());
        for effect in all {
            assert_eq!(EffectName::from_name(effect.name().name().as_bytes()), Some(effect.name()));
            assert_eq!(SideEffect::from_value(&effect.to_value()), Some(effect));
        }
    }

    #[test]
    fn a_reason_holds_no_line_end() {
        let effect = SideEffect::Quarantine(Atom::from_static(b"a\r\nb"));
        assert_eq!(SideEffect::from_value(&effect.to_value()), None);
    }
}
