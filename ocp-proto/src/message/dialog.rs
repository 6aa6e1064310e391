//! The messages of the dialogs feature (SMTP profile section 3).

use super::definition::{DefinitionError, Fields, Kind, Positions, boolean};
use super::session::OcpResult;
use crate::ids::{DialogId, Xid};
use crate::smtp::{Activation, Auth, DialogFacts, DialogUpdate, Tls};
use crate::wire::{Atom, Encoder, Head, Name, NamedValues, Structure, Value};

/// A message of the dialogs feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialogMessage {
    /// Dialog-Start.
    Start {
        /// The new dialog.
        dialog: DialogId,
        /// What is known about it.
        facts: Box<DialogFacts>,
    },
    /// Dialog-Update.
    Update {
        /// The dialog.
        dialog: DialogId,
        /// What is new.
        update: Box<DialogUpdate>,
    },
    /// Dialog-Outcome.
    Outcome {
        /// The dialog.
        dialog: DialogId,
        /// The event's transaction.
        xid: Xid,
        /// Whether the MTA succeeded.
        result: OcpResult,
        /// The reply that the peer got.
        reply: Option<Atom>,
        /// The MTA's name for the message.
        queue_id: Option<Atom>,
    },
    /// Dialog-End.
    End {
        /// The dialog.
        dialog: DialogId,
        /// Success, or why not.
        result: OcpResult,
    },
    /// Dialog-Drain.
    Drain,
}

impl DialogMessage {
    /// Which message this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Start { .. } => Kind::DialogStart,
            Self::Update { .. } => Kind::DialogUpdate,
            Self::Outcome { .. } => Kind::DialogOutcome,
            Self::End { .. } => Kind::DialogEnd,
            Self::Drain => Kind::DialogDrain,
        }
    }
}

pub(super) fn read(kind: Kind, head: &Head) -> Result<DialogMessage, DefinitionError> {
    if kind == Kind::DialogDrain {
        return Ok(DialogMessage::Drain);
    }
    let message = kind.name();
    let positions = Positions { message, head };
    let fields = Fields { message, named: &head.named };
    let dialog = positions.number(0, "dialog-id", DialogId::new)?;
    Ok(match kind {
        Kind::DialogStart => DialogMessage::Start { dialog, facts: Box::new(read_facts(&fields)?) },
        Kind::DialogUpdate => DialogMessage::Update {
            dialog,
            update: Box::new(DialogUpdate {
                helo: fields.atom("Helo")?,
                protocol: fields.atom("Protocol")?,
                tls: fields.read("Tls", "tls", tls_from_value)?,
                auth: fields.read("Auth", "auth", auth_from_value)?,
                queue_id: fields.atom("Queue-Id")?,
            }),
        },
        Kind::DialogOutcome => DialogMessage::Outcome {
            dialog,
            xid: positions.number(1, "xid", Xid::new)?,
            result: positions
                .read(2, "result", "result", OcpResult::from_value)?
                .ok_or(DefinitionError::Missing { message, parameter: "result" })?,
            reply: fields.atom("Reply")?,
            queue_id: fields.atom("Queue-Id")?,
        },
        _ => DialogMessage::End { dialog, result: OcpResult::read(&positions, 1)? },
    })
}

fn read_facts(fields: &Fields<'_>) -> Result<DialogFacts, DefinitionError> {
    let activation = |value: &Value| Activation::from_name(value.as_atom()?);
    Ok(DialogFacts {
        activation: fields.read("Activation", "activation", activation)?.unwrap_or_default(),
        protocol: fields.atom("Protocol")?,
        client_address: fields.atom("Client-Address")?,
        client_port: fields.atom("Client-Port")?,
        client_name: fields.atom("Client-Name")?,
        server_address: fields.atom("Server-Address")?,
        server_port: fields.atom("Server-Port")?,
        server_name: fields.atom("Server-Name")?,
        ..DialogFacts::default()
    })
}

fn tls_from_value(value: &Value) -> Option<Tls> {
    let structure = value.as_structure()?;
    Some(Tls {
        protocol: structure.members.first()?.as_atom()?.clone(),
        cipher: structure.members.get(1)?.as_atom()?.clone(),
        client_subject: match structure.named.get("Client-Subject") {
            Some(subject) => Some(subject.as_atom()?.clone()),
            None => None,
        },
        verified: match structure.named.get("Verified") {
            Some(verified) => boolean(verified)?,
            None => false,
        },
    })
}

fn tls_to_value(tls: &Tls) -> Value {
    let mut named = NamedValues::new();
    if let Some(subject) = &tls.client_subject {
        named.push(Name::from_static("Client-Subject"), Value::Atom(subject.clone()));
    }
    if tls.verified {
        named.push(Name::from_static("Verified"), Value::atom("true"));
    }
    let members = vec![Value::Atom(tls.protocol.clone()), Value::Atom(tls.cipher.clone())];
    Value::Structure(Structure { members, named })
}

fn auth_from_value(value: &Value) -> Option<Auth> {
    let members = &value.as_structure()?.members;
    Some(Auth {
        mechanism: members.first()?.as_atom()?.clone(),
        identity: members.get(1)?.as_atom()?.clone(),
    })
}

fn auth_to_value(auth: &Auth) -> Value {
    let members = vec![Value::Atom(auth.mechanism.clone()), Value::Atom(auth.identity.clone())];
    Value::Structure(Structure { members, named: NamedValues::new() })
}

pub(super) fn write(message: &DialogMessage, out: &mut Encoder<'_>) {
    match message {
        DialogMessage::Start { dialog, facts } => {
            out.number(dialog.number());
            write_facts(facts, out);
        }
        DialogMessage::Update { dialog, update } => {
            out.number(dialog.number());
            write_atom(out, "Helo", update.helo.as_ref());
            write_atom(out, "Protocol", update.protocol.as_ref());
            if let Some(tls) = &update.tls {
                out.named("Tls", &tls_to_value(tls));
            }
            if let Some(auth) = &update.auth {
                out.named("Auth", &auth_to_value(auth));
            }
            write_atom(out, "Queue-Id", update.queue_id.as_ref());
        }
        DialogMessage::Outcome { dialog, xid, result, reply, queue_id } => {
            out.number(dialog.number());
            out.number(xid.number());
            out.value(&result.to_value());
            write_atom(out, "Reply", reply.as_ref());
            write_atom(out, "Queue-Id", queue_id.as_ref());
        }
        DialogMessage::End { dialog, result } => {
            out.number(dialog.number());
            result.write(out);
        }
        DialogMessage::Drain => {}
    }
}

fn write_facts(facts: &DialogFacts, out: &mut Encoder<'_>) {
    if facts.activation != Activation::default() {
        out.named_atom("Activation", facts.activation.name().as_bytes());
    }
    let facts = [
        ("Protocol", &facts.protocol),
        ("Client-Address", &facts.client_address),
        ("Client-Port", &facts.client_port),
        ("Client-Name", &facts.client_name),
        ("Server-Address", &facts.server_address),
        ("Server-Port", &facts.server_port),
        ("Server-Name", &facts.server_name),
    ];
    for (name, fact) in facts {
        write_atom(out, name, fact.as_ref());
    }
}

fn write_atom(out: &mut Encoder<'_>, name: &'static str, atom: Option<&Atom>) {
    if let Some(atom) = atom {
        out.named_atom(name, atom);
    }
}
