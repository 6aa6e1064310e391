//! NO, NR, AQ and AA (RFC 4037 sections 11.18 to 11.21).

use super::Message;
use super::definition::{
    DefinitionError, Fields, Kind, Positions, boolean, list_by_uri, named_by_uri,
};
use crate::ids::GroupId;
use crate::wire::{Encoder, Head, Structure, Value};

/// What NO says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Negotiation {
    /// Features, the most preferred first.
    pub features: Vec<Structure>,
    /// `SG`.
    pub group: Option<GroupId>,
    /// `Offer-Pending`.
    pub pending: bool,
}

/// What NR says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The selected feature.
    pub feature: Option<Structure>,
    /// `SG`.
    pub group: Option<GroupId>,
    /// `Rejects`.
    pub rejects: Vec<Structure>,
    /// `Unknowns`.
    pub unknowns: Vec<Structure>,
    /// `Offer-Pending`.
    pub pending: bool,
}

pub(super) fn read(kind: Kind, head: &Head) -> Result<Message, DefinitionError> {
    let message = kind.name();
    let positions = Positions { message, head };
    let fields = Fields { message, named: &head.named };
    let feature = || positions.read(0, "feature", "feature", |v| named_by_uri(v).cloned());
    let missing = |parameter| DefinitionError::Missing { message, parameter };
    let list = |name| fields.read(name, "features", list_by_uri).map(Option::unwrap_or_default);
    Ok(match kind {
        Kind::No => Message::No(Negotiation {
            features: positions
                .read(0, "features", "features", list_by_uri)?
                .ok_or(missing("features"))?,
            group: fields.identifier("SG", GroupId::new)?,
            pending: fields.boolean("Offer-Pending")?,
        }),
        Kind::Nr => Message::Nr(Selection {
            feature: feature()?,
            group: fields.identifier("SG", GroupId::new)?,
            rejects: list("Rejects")?,
            unknowns: list("Unknowns")?,
            pending: fields.boolean("Offer-Pending")?,
        }),
        Kind::Aq => Message::Aq { feature: feature()?.ok_or(missing("feature"))? },
        _ => Message::Aa {
            supported: positions
                .read(0, "boolean", "boolean", boolean)?
                .ok_or(missing("boolean"))?,
        },
    })
}

pub(super) fn write(message: &Message, out: &mut Encoder<'_>) {
    match message {
        Message::No(offer) => {
            out.value(&structures(&offer.features));
            write_common(out, offer.group, offer.pending);
        }
        Message::Nr(response) => {
            if let Some(feature) = &response.feature {
                out.value(&Value::Structure(feature.clone()));
            }
            for (name, features) in
                [("Rejects", &response.rejects), ("Unknowns", &response.unknowns)]
            {
                if !features.is_empty() {
                    out.named(name, &structures(features));
                }
            }
            write_common(out, response.group, response.pending);
        }
        Message::Aq { feature } => {
            out.value(&Value::Structure(feature.clone()));
        }
        Message::Aa { supported } => {
            out.atom(if *supported { b"true" } else { b"false" });
        }
        _ => {}
    }
}

fn write_common(out: &mut Encoder<'_>, group: Option<GroupId>, pending: bool) {
    if let Some(group) = group {
        out.named_number("SG", group.number());
    }
    if pending {
        out.named_atom("Offer-Pending", b"true");
    }
}

fn structures(features: &[Structure]) -> Value {
    Value::List(features.iter().cloned().map(Value::Structure).collect())
}
