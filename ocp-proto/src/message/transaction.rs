//! TS, TE, AMS and AME (RFC 4037 sections 11.5 to 11.8), PQ, PA and PR (11.22 to 11.24).

use super::Message;
use super::definition::{self, DefinitionError, Fields, Kind, Positions};
use super::session::OcpResult;
use crate::ids::{GroupId, Xid, parse_number};
use crate::role::Role;
use crate::wire::{Atom, Encoder, Head, NamedValues, Structure, Value};

pub(super) fn read(kind: Kind, head: &Head, sender: Role) -> Result<Message, DefinitionError> {
    let message = kind.name();
    let positions = Positions { message, head };
    let fields = Fields { message, named: &head.named };
    let xid = || positions.number(0, "xid", Xid::new);
    let optional_xid =
        || positions.read(0, "xid", "xid", |value| Xid::new(parse_number(value.as_atom()?)?));
    let original_octets = || fields.number("Org-Data", "size");
    Ok(match kind {
        Kind::Ts => Message::Ts { xid: xid()?, group: positions.number(1, "sg-id", GroupId::new)? },
        Kind::Te => Message::Te {
            xid: xid()?,
            result: OcpResult::read(&positions, 1)?,
            extensions: head.named.clone(),
        },
        Kind::Ams => Message::Ams {
            xid: xid()?,
            services: match sender {
                Role::Server => services(&fields)?,
                Role::Processor => Vec::new(),
            },
            extensions: head.named.clone(),
        },
        Kind::Ame => Message::Ame {
            xid: xid()?,
            result: OcpResult::read(&positions, 1)?,
            extensions: head.named.clone(),
        },
        // A malformed xid is answered like an unknown one.
        Kind::Pq => Message::Pq { xid: optional_xid().unwrap_or_default() },
        Kind::Pa => Message::Pa { xid: optional_xid()?, original_octets: original_octets()? },
        _ => Message::Pr { xid: optional_xid()?, original_octets: original_octets()? },
    })
}

fn services(fields: &Fields<'_>) -> Result<Vec<Atom>, DefinitionError> {
    let uri = |service: &Structure| service.members.first()?.as_atom().cloned();
    fields.list_of("Services", "services", |value| uri(definition::named_by_uri(value)?))
}

/// Services named by their URIs alone.
pub(crate) fn services_value(uris: Vec<Atom>) -> Value {
    let service = |uri| {
        Value::Structure(Structure { members: vec![Value::Atom(uri)], named: NamedValues::new() })
    };
    Value::List(uris.into_iter().map(service).collect())
}

pub(super) fn write(message: &Message, out: &mut Encoder<'_>) {
    match message {
        Message::Ts { xid, group } => {
            out.number(xid.number());
            out.number(group.number());
        }
        Message::Te { xid, result, extensions } | Message::Ame { xid, result, extensions } => {
            out.number(xid.number());
            result.write(out);
            write_extensions(out, extensions);
        }
        Message::Ams { xid, services, extensions } => {
            out.number(xid.number());
            if !services.is_empty() {
                out.named("Services", &services_value(services.clone()));
            }
            let others = extensions.iter().filter(|(name, _)| name != "Services");
            others.for_each(|(name, value)| {
                out.named(name.as_str(), value);
            });
        }
        Message::Pq { xid } => write_progress(out, *xid, None),
        Message::Pa { xid, original_octets } | Message::Pr { xid, original_octets } => {
            write_progress(out, *xid, *original_octets);
        }
        _ => {}
    }
}

pub(super) fn write_extensions(out: &mut Encoder<'_>, extensions: &NamedValues) {
    for (name, value) in extensions.iter() {
        out.named(name.as_str(), value);
    }
}

fn write_progress(out: &mut Encoder<'_>, xid: Option<Xid>, original_octets: Option<u32>) {
    if let Some(xid) = xid {
        out.number(xid.number());
    }
    if let Some(octets) = original_octets {
        out.named_number("Org-Data", octets);
    }
}
