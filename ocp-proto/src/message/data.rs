//! DUM, DUY and DPI (RFC 4037 sections 11.9 to 11.11), DWSR, DWSS, DSS, DWP, DPM and DWM (11.12 to
//! 11.17).

use super::Message;
use super::definition::{DefinitionError, Fields, Kind, Positions};
use super::transaction::write_extensions;
use crate::ids::{Xid, parse_number};
use crate::role::Role;
use crate::wire::{Encoder, Head, Name, NamedValues, Value};

/// Data Use Mine, without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dum {
    /// The transaction.
    pub xid: Xid,
    /// Where in the sender's flow the octets belong.
    pub offset: u32,
    /// Octets of the payload.
    pub size: u32,
    /// From the processor: what it keeps.
    pub kept: Option<Kept>,
    /// From the server: the octets are those of the original message at this offset.
    pub as_is: Option<u32>,
    /// From the server: percent of certainty that the message will be modified.
    pub modp: Option<u32>,
    /// Named parameters that Core does not know.
    pub extensions: NamedValues,
}

/// What the processor keeps; the sum may exceed 31 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// First octet of the original message.
    pub offset: u32,
    /// Number of octets.
    pub size: u32,
}

impl Kept {
    /// Written as the structure that the grammar allows; the decoder reads the two values that RFC
    /// 4037 section 11.9 declares as the same.
    pub(crate) fn write(self, out: &mut Encoder<'_>) {
        out.named_numbers("Kept", [self.offset, self.size]);
    }

    fn from_value(value: &Value) -> Option<Self> {
        let members = &value.as_structure()?.members;
        let number = |at: usize| parse_number(members.get(at)?.as_atom()?);
        Some(Self { offset: number(0)?, size: number(1)? })
    }
}

pub(super) fn read(kind: Kind, head: &Head, sender: Role) -> Result<Message, DefinitionError> {
    let message = kind.name();
    let positions = Positions { message, head };
    let fields = Fields { message, named: &head.named };
    let xid = positions.number(0, "xid", Xid::new)?;
    let number = |position, parameter| positions.number(position, parameter, Some);
    Ok(match kind {
        Kind::Dum => Message::Dum(read_dum(xid, head, &positions, &fields, sender)?),
        Kind::Duy => Message::Duy {
            xid,
            offset: number(1, "org-offset")?,
            size: number(2, "org-size")?,
            extensions: head.named.clone(),
        },
        Kind::Dpi => {
            Message::Dpi { xid, offset: number(1, "org-offset")?, size: number(2, "org-size")? }
        }
        Kind::Dwsr => Message::Dwsr { xid, size: number(1, "org-size")? },
        Kind::Dwss => Message::Dwss { xid },
        Kind::Dss => Message::Dss { xid },
        Kind::Dwp => Message::Dwp { xid, offset: number(1, "your-offset")? },
        Kind::Dpm => Message::Dpm { xid },
        _ => Message::Dwm { xid, size_request: fields.number("Size-request", "size")? },
    })
}

fn read_dum(
    xid: Xid,
    head: &Head,
    positions: &Positions<'_>,
    fields: &Fields<'_>,
    sender: Role,
) -> Result<Dum, DefinitionError> {
    let missing = DefinitionError::Missing { message: "DUM", parameter: "payload" };
    let mut dum = Dum {
        xid,
        offset: positions.number(1, "my-offset", Some)?,
        size: head.payload.ok_or(missing)?,
        kept: None,
        as_is: None,
        modp: None,
        extensions: head.named.clone(),
    };
    match sender {
        Role::Processor => {
            dum.kept = fields.read("Kept", "org-offset org-size", Kept::from_value)?
        }
        Role::Server => {
            // An invalid As-is is ignored, whatever is wrong with it (section 11.9, A-17).
            dum.as_is = fields.number("As-is", "offset").unwrap_or_default();
            dum.modp = fields.read("Modp", "percent", |value| {
                parse_number(value.as_atom()?).filter(|percent| *percent <= 100)
            })?;
        }
    }
    Ok(dum)
}

pub(super) fn write(message: &Message, out: &mut Encoder<'_>) {
    if let Some(xid) = message.xid() {
        out.number(xid.number());
    }
    match message {
        Message::Dum(dum) => {
            out.number(dum.offset);
            write_dum(dum, out);
        }
        Message::Duy { offset, size, extensions, .. } => {
            out.number(*offset);
            out.number(*size);
            write_extensions(out, extensions);
        }
        Message::Dpi { offset, size, .. } => {
            out.number(*offset);
            out.number(*size);
        }
        Message::Dwsr { size: number, .. } | Message::Dwp { offset: number, .. } => {
            out.number(*number);
        }
        Message::Dwm { size_request: Some(size), .. } => {
            out.named_number("Size-request", *size);
        }
        _ => {}
    }
}

fn write_dum(dum: &Dum, out: &mut Encoder<'_>) {
    if let Some(kept) = dum.kept {
        kept.write(out);
    }
    if let Some(offset) = dum.as_is {
        out.named_number("As-is", offset);
    }
    if let Some(percent) = dum.modp {
        out.named_number("Modp", percent);
    }
    let core = |name: &Name| matches!(name.as_str(), "Kept" | "As-is" | "Modp");
    for (name, value) in dum.extensions.iter().filter(|(name, _)| !core(name)) {
        out.named(name.as_str(), value);
    }
}
