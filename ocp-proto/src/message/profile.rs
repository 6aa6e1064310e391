//! What the SMTP profile adds to AMS, DUM, DUY, AME and TE (profile section 4).

use super::{DefinitionError, Fields};
use crate::ids::{AdaptedMessageId, DialogId};
use crate::smtp::{Address, Command, Part, SideEffect, Validity, Verdict};
use crate::wire::{Atom, Encoder, NamedValues, Value};

/// The processor's AMS: which event this is, and the envelope in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginalStart {
    /// The dialog that the event belongs to.
    pub dialog: DialogId,
    /// Which event; in a group for replies, the command that the reply answers.
    pub command: Command,
    /// The accepted sender, on RCPT, DATA and MESSAGE.
    pub sender: Option<Address>,
    /// The accepted recipients, on RCPT, DATA and MESSAGE.
    pub recipients: Vec<Address>,
    /// Services that this sender may skip.
    pub bypass: Vec<Atom>,
    /// Octets of the message body, if known.
    pub body_size: Option<u32>,
}

/// What an adapted message is for (profile section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdaptedRole {
    /// A text for some recipients.
    Variant,
    /// A reply for some recipients, or for all.
    Reply,
    /// A new message to be submitted, besides what becomes of the event.
    Notification,
}

impl AdaptedRole {
    const ALL: [Self; 3] = [Self::Variant, Self::Reply, Self::Notification];

    fn name(self) -> &'static str {
        match self {
            Self::Variant => "variant",
            Self::Reply => "reply",
            Self::Notification => "notification",
        }
    }

    fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name().as_bytes() == name)
    }
}

/// The server's AMS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdaptedStart {
    /// Which of several adapted messages; `None` for the only one.
    pub id: Option<AdaptedMessageId>,
    /// What it is for; `None` for the only one.
    pub role: Option<AdaptedRole>,
    /// The sender of a notification; null if there is none.
    pub sender: Option<Address>,
    /// Whom it is for; of a variant the rest if empty, of a reply all.
    pub recipients: Vec<Address>,
}

/// The server's AME.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdaptedEnd {
    /// Which of several adapted messages; `None` for the only one.
    pub id: Option<AdaptedMessageId>,
    /// What the MTA should do besides, in this order.
    pub side_effects: Vec<SideEffect>,
    /// Send no more events of this envelope.
    pub envelope_done: bool,
    /// What each service found.
    pub verdicts: Vec<Verdict>,
    /// Seconds for which the answer may be used again.
    pub valid_for: Option<u32>,
    /// The facts that must be the same then.
    pub valid_with: Vec<Atom>,
}

/// What a DUM or DUY says of its octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataLabel {
    /// The part that they belong to.
    pub part: Option<Part>,
    /// Which of several adapted messages.
    pub id: Option<AdaptedMessageId>,
}

impl OriginalStart {
    /// An event of a dialog without envelope.
    pub fn new(dialog: DialogId, command: Command) -> Self {
        Self {
            dialog,
            command,
            sender: None,
            recipients: Vec::new(),
            bypass: Vec::new(),
            body_size: None,
        }
    }

    pub(crate) fn read(named: &NamedValues) -> Result<Self, DefinitionError> {
        let fields = Fields { message: "AMS", named };
        Ok(Self {
            dialog: fields
                .identifier("Dialog", DialogId::new)?
                .ok_or(DefinitionError::Missing { message: "AMS", parameter: "Dialog" })?,
            command: fields
                .read("Command", "smtp-command", |v| Command::from_name(v.as_atom()?))?
                .ok_or(DefinitionError::Missing { message: "AMS", parameter: "Command" })?,
            sender: fields.read("Sender", "address", Address::from_value)?,
            recipients: fields.list_of("Recipients", "addresses", Address::from_value)?,
            bypass: fields.list_of("Bypass", "list of uri", |v| v.as_atom().cloned())?,
            body_size: fields.number("AM-EL", "size")?,
        })
    }

    pub(crate) fn write(&self, out: &mut Encoder<'_>) {
        out.named_number("Dialog", self.dialog.number());
        out.named_atom("Command", self.command.name().as_bytes());
        if let Some(sender) = &self.sender {
            out.named("Sender", &sender.to_value());
        }
        write_addresses(out, &self.recipients);
        if !self.bypass.is_empty() {
            let uris = self.bypass.iter().cloned().map(Value::Atom).collect();
            out.named("Bypass", &Value::List(uris));
        }
        if let Some(size) = self.body_size {
            out.named_number("AM-EL", size);
        }
    }
}

impl AdaptedStart {
    pub(crate) fn read(named: &NamedValues) -> Result<Self, DefinitionError> {
        let fields = Fields { message: "AMS", named };
        Ok(Self {
            id: fields.identifier("Am-Id", AdaptedMessageId::new)?,
            role: fields.read("Role", "role", |v| AdaptedRole::from_name(v.as_atom()?))?,
            sender: fields.read("Sender", "address", Address::from_value)?,
            recipients: fields.list_of("Recipients", "addresses", Address::from_value)?,
        })
    }

    pub(crate) fn write(&self, out: &mut Encoder<'_>) {
        write_id(out, self.id);
        if let Some(role) = self.role {
            out.named_atom("Role", role.name().as_bytes());
        }
        if let Some(sender) = &self.sender {
            out.named("Sender", &sender.to_value());
        }
        write_addresses(out, &self.recipients);
    }
}

impl AdaptedEnd {
    /// How long the answer may be used again; `None` if it may not, or with facts that we don't know.
    pub fn validity(&self) -> Option<Validity> {
        Validity::from_names(self.valid_for?, &self.valid_with)
    }

    pub(crate) fn read(named: &NamedValues) -> Result<Self, DefinitionError> {
        let fields = Fields { message: "AME", named };
        Ok(Self {
            id: fields.identifier("Am-Id", AdaptedMessageId::new)?,
            side_effects: fields.list_of(
                "Side-Effects",
                "list of side-effect",
                SideEffect::from_value,
            )?,
            envelope_done: fields.boolean("Envelope-Done")?,
            verdicts: fields.list_of("Verdicts", "list of verdict", Verdict::from_value)?,
            valid_for: fields.number("Valid-For", "size")?,
            valid_with: fields.list_of("Valid-With", "list of atom", |v| v.as_atom().cloned())?,
        })
    }

    pub(crate) fn write(&self, out: &mut Encoder<'_>) {
        write_id(out, self.id);
        if !self.side_effects.is_empty() {
            let effects = self.side_effects.iter().map(SideEffect::to_value).collect();
            out.named("Side-Effects", &Value::List(effects));
        }
        if self.envelope_done {
            out.named_atom("Envelope-Done", b"true");
        }
        if !self.verdicts.is_empty() {
            let verdicts = self.verdicts.iter().map(Verdict::to_value).collect();
            out.named("Verdicts", &Value::List(verdicts));
        }
        if let Some(seconds) = self.valid_for {
            out.named_number("Valid-For", seconds);
        }
        if !self.valid_with.is_empty() {
            let facts = self.valid_with.iter().cloned().map(Value::Atom).collect();
            out.named("Valid-With", &Value::List(facts));
        }
    }
}

impl DataLabel {
    /// Octets of this part of the only adapted message.
    pub fn part(part: Part) -> Self {
        Self { part: Some(part), id: None }
    }

    pub(crate) fn read(
        message: &'static str,
        named: &NamedValues,
    ) -> Result<Self, DefinitionError> {
        let fields = Fields { message, named };
        Ok(Self {
            part: fields.read("AM-Part", "am-part", |v| Part::from_name(v.as_atom()?))?,
            id: fields.identifier("Am-Id", AdaptedMessageId::new)?,
        })
    }

    pub(crate) fn write(self, out: &mut Encoder<'_>) {
        if let Some(part) = self.part {
            out.named_atom("AM-Part", part.name().as_bytes());
        }
        write_id(out, self.id);
    }
}

fn write_id(out: &mut Encoder<'_>, id: Option<AdaptedMessageId>) {
    if let Some(id) = id {
        out.named_number("Am-Id", id.number());
    }
}

fn write_addresses(out: &mut Encoder<'_>, addresses: &[Address]) {
    if !addresses.is_empty() {
        out.named("Recipients", &Address::list_to_value(addresses));
    }
}
