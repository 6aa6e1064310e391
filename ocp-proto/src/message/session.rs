//! CS, CE, SGC and SGD (RFC 4037 sections 11.1 to 11.4), and results (section 10.10).

use super::Message;
use super::definition::{self, DefinitionError, Kind, Positions};
use crate::ids::{GroupId, parse_number};
use crate::wire::{Atom, Encoder, Head, NamedValues, Structure, Value};

/// How something ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OcpResult {
    /// 200: success; 206: partial, AME only; everything else is a failure.
    pub code: u32,
    /// For people.
    pub reason: Option<Atom>,
}

/// The longest reason that we send; a bound of ours.
const LONGEST_REASON: usize = 512;

impl OcpResult {
    /// 200, which is also what an absent result means.
    pub fn ok() -> Self {
        Self { code: 200, reason: None }
    }

    /// 206: the sender left the rest of its message out.
    pub fn partial() -> Self {
        Self { code: 206, reason: None }
    }

    /// 400 with a reason, cut to 512 octets.
    pub fn failure(reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        let mut end = reason.len().min(LONGEST_REASON);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
        Self { code: 400, reason: Some(reason.into()) }
    }

    /// Whether this is 200.
    pub fn is_success(&self) -> bool {
        self.code == 200
    }

    /// Whether this is 206.
    pub fn is_partial(&self) -> bool {
        self.code == 206
    }

    /// The reason as text; empty if there is none.
    pub fn reason(&self) -> String {
        self.reason.as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned()
    }

    pub(super) fn from_value(value: &Value) -> Option<Self> {
        let members = &value.as_structure()?.members;
        let code = parse_number(members.first()?.as_atom()?)?;
        let reason = match members.get(1) {
            Some(reason) => Some(reason.as_atom()?.clone()),
            None => None,
        };
        Some(Self { code, reason })
    }

    pub(super) fn read(
        positions: &Positions<'_>,
        position: usize,
    ) -> Result<Self, DefinitionError> {
        let result = positions.read(position, "result", "result", Self::from_value)?;
        Ok(result.unwrap_or_else(Self::ok))
    }

    /// Writes the result, unless its absence says the same.
    pub(crate) fn write(&self, out: &mut Encoder<'_>) {
        if *self != Self::ok() {
            out.value(&self.to_value());
        }
    }

    pub(super) fn to_value(&self) -> Value {
        let mut members = vec![Value::number(self.code)];
        members.extend(self.reason.clone().map(Value::Atom));
        Value::Structure(Structure { members, named: NamedValues::new() })
    }
}

pub(super) fn read(kind: Kind, head: &Head) -> Result<Message, DefinitionError> {
    let message = kind.name();
    let positions = Positions { message, head };
    let group = || positions.number(0, "sg-id", GroupId::new);
    Ok(match kind {
        Kind::Ce => Message::Ce(OcpResult::read(&positions, 0)?),
        Kind::Sgc => Message::Sgc {
            group: group()?,
            services: positions
                .read(1, "services", "services", definition::list_by_uri)?
                .ok_or(DefinitionError::Missing { message, parameter: "services" })?,
        },
        Kind::Sgd => Message::Sgd { group: group()? },
        _ => Message::Cs,
    })
}

pub(super) fn write(message: &Message, out: &mut Encoder<'_>) {
    match message {
        Message::Ce(result) => result.write(out),
        Message::Sgc { group, services } => {
            out.number(group.number());
            out.value(&Value::List(services.iter().cloned().map(Value::Structure).collect()));
        }
        Message::Sgd { group } => {
            out.number(group.number());
        }
        _ => {}
    }
}
