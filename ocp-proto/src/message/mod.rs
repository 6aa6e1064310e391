//! Frames to typed messages and back (RFC 4037 sections 10 and 11).
//!
//! [`Message::parse`] takes a frame's head and accounts for everything in it: required parameters
//! are there and of the right type, unknown ones are passed over, and what the wrong agent sent is
//! unexpected, not invalid (reading A-06). Parameters of the SMTP profile stay in `extensions`
//! until the transaction's negotiated features say whether they mean anything.

mod data;
mod definition;
mod dialog;
mod negotiation;
mod profile;
mod session;
mod transaction;

use bytes::BytesMut;

pub use data::{Dum, Kept};
pub use definition::{DefinitionError, Kind, ScopeKind};
pub use dialog::DialogMessage;
pub use negotiation::{Negotiation, Selection};
pub use profile::{AdaptedEnd, AdaptedRole, AdaptedStart, DataLabel, OriginalStart};
pub use session::OcpResult;

pub(crate) use definition::Fields;
pub(crate) use transaction::services_value;

use crate::ids::{DialogId, GroupId, Xid};
use crate::role::Role;
use crate::violation::{Scope, Violation};
use crate::wire::{Atom, Encoder, Head, NamedValues, Structure};

/// A message of OCP Core or of the SMTP profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Connection Start.
    Cs,
    /// Connection End.
    Ce(OcpResult),
    /// Service Group Created.
    Sgc {
        /// The new group.
        group: GroupId,
        /// Its services in order.
        services: Vec<Structure>,
    },
    /// Service Group Destroyed.
    Sgd {
        /// The group.
        group: GroupId,
    },
    /// Negotiation Offer.
    No(Negotiation),
    /// Negotiation Response.
    Nr(Selection),
    /// Ability Query.
    Aq {
        /// The feature that is asked about.
        feature: Structure,
    },
    /// Ability Answer.
    Aa {
        /// Whether it is supported.
        supported: bool,
    },
    /// Transaction Start.
    Ts {
        /// The new transaction.
        xid: Xid,
        /// Its service group.
        group: GroupId,
    },
    /// Transaction End.
    Te {
        /// The transaction.
        xid: Xid,
        /// How it ended.
        result: OcpResult,
        /// Named parameters that Core does not know.
        extensions: NamedValues,
    },
    /// Application Message Start.
    Ams {
        /// The transaction.
        xid: Xid,
        /// From the server: the URIs of the services that may be applied.
        services: Vec<Atom>,
        /// Named parameters that Core does not know.
        extensions: NamedValues,
    },
    /// Application Message End.
    Ame {
        /// The transaction.
        xid: Xid,
        /// How the message ended.
        result: OcpResult,
        /// Named parameters that Core does not know.
        extensions: NamedValues,
    },
    /// Data Use Mine.
    Dum(Dum),
    /// Data Use Yours.
    Duy {
        /// The transaction.
        xid: Xid,
        /// First octet of the original message.
        offset: u32,
        /// Number of octets.
        size: u32,
        /// Named parameters that Core does not know.
        extensions: NamedValues,
    },
    /// Data Preservation Interest.
    Dpi {
        /// The transaction.
        xid: Xid,
        /// First octet of interest.
        offset: u32,
        /// Number of octets; the sum may exceed 31 bits.
        size: u32,
    },
    /// Want Stop Receiving Data.
    Dwsr {
        /// The transaction.
        xid: Xid,
        /// Octets that are still wanted.
        size: u32,
    },
    /// Want Stop Sending Data.
    Dwss {
        /// The transaction.
        xid: Xid,
    },
    /// Stop Sending Data.
    Dss {
        /// The transaction.
        xid: Xid,
    },
    /// Want Data Paused.
    Dwp {
        /// The transaction.
        xid: Xid,
        /// Where to pause.
        offset: u32,
    },
    /// Paused My Data.
    Dpm {
        /// The transaction.
        xid: Xid,
    },
    /// Want More Data.
    Dwm {
        /// The transaction.
        xid: Xid,
        /// A suggested minimum.
        size_request: Option<u32>,
    },
    /// Progress Query.
    Pq {
        /// The transaction that is asked about.
        xid: Option<Xid>,
    },
    /// Progress Answer.
    Pa {
        /// The transaction, if its sender works on it.
        xid: Option<Xid>,
        /// Original octets sent or received, while the original flow is open.
        original_octets: Option<u32>,
    },
    /// Progress Report.
    Pr {
        /// The transaction, if its sender works on it.
        xid: Option<Xid>,
        /// Original octets sent or received, while the original flow is open.
        original_octets: Option<u32>,
    },
    /// A message of the dialogs feature.
    Dialog(DialogMessage),
}

impl Message {
    /// Reads a message that `sender` sent. `dialogs` says whether the dialogs feature is in effect;
    /// without it its messages are unknown.
    ///
    /// `Ok(None)` is a valid message without meaning: unknown, or sent by the wrong agent.
    ///
    /// # Errors
    /// The first rule of its definition that the message breaks, with the scope of section 5.
    pub fn parse(head: &Head, sender: Role, dialogs: bool) -> Result<Option<Self>, Violation> {
        let kind = Kind::of(&head.name).filter(|kind| dialogs || !kind.is_dialog());
        if kind.is_some_and(|kind| !kind.sent_by(sender)) {
            return Ok(None);
        }
        let scope = kind.map_or(Scope::Connection, |kind| kind.scope_of(head));
        let invalid = |rule: DefinitionError| Violation { scope, rule: rule.into() };
        definition::check_names(head).map_err(invalid)?;
        let Some(kind) = kind else { return Ok(None) };
        Self::read(kind, head, sender).map(Some).map_err(invalid)
    }

    fn read(kind: Kind, head: &Head, sender: Role) -> Result<Self, DefinitionError> {
        match kind {
            Kind::Cs | Kind::Ce | Kind::Sgc | Kind::Sgd => session::read(kind, head),
            Kind::No | Kind::Nr | Kind::Aq | Kind::Aa => negotiation::read(kind, head),
            Kind::Ts | Kind::Te | Kind::Ams | Kind::Ame | Kind::Pq | Kind::Pa | Kind::Pr => {
                transaction::read(kind, head, sender)
            }
            Kind::Dum
            | Kind::Duy
            | Kind::Dpi
            | Kind::Dwsr
            | Kind::Dwss
            | Kind::Dss
            | Kind::Dwp
            | Kind::Dpm
            | Kind::Dwm => data::read(kind, head, sender),
            Kind::DialogStart
            | Kind::DialogUpdate
            | Kind::DialogOutcome
            | Kind::DialogEnd
            | Kind::DialogDrain => dialog::read(kind, head).map(Self::Dialog),
        }
    }

    /// Which message this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Cs => Kind::Cs,
            Self::Ce(_) => Kind::Ce,
            Self::Sgc { .. } => Kind::Sgc,
            Self::Sgd { .. } => Kind::Sgd,
            Self::No(_) => Kind::No,
            Self::Nr(_) => Kind::Nr,
            Self::Aq { .. } => Kind::Aq,
            Self::Aa { .. } => Kind::Aa,
            Self::Ts { .. } => Kind::Ts,
            Self::Te { .. } => Kind::Te,
            Self::Ams { .. } => Kind::Ams,
            Self::Ame { .. } => Kind::Ame,
            Self::Dum(_) => Kind::Dum,
            Self::Duy { .. } => Kind::Duy,
            Self::Dpi { .. } => Kind::Dpi,
            Self::Dwsr { .. } => Kind::Dwsr,
            Self::Dwss { .. } => Kind::Dwss,
            Self::Dss { .. } => Kind::Dss,
            Self::Dwp { .. } => Kind::Dwp,
            Self::Dpm { .. } => Kind::Dpm,
            Self::Dwm { .. } => Kind::Dwm,
            Self::Pq { .. } => Kind::Pq,
            Self::Pa { .. } => Kind::Pa,
            Self::Pr { .. } => Kind::Pr,
            Self::Dialog(message) => message.kind(),
        }
    }

    /// The transaction that the message names.
    pub fn xid(&self) -> Option<Xid> {
        match self {
            Self::Ts { xid, .. }
            | Self::Te { xid, .. }
            | Self::Ams { xid, .. }
            | Self::Ame { xid, .. }
            | Self::Duy { xid, .. }
            | Self::Dpi { xid, .. }
            | Self::Dwsr { xid, .. }
            | Self::Dwss { xid }
            | Self::Dss { xid }
            | Self::Dwp { xid, .. }
            | Self::Dpm { xid }
            | Self::Dwm { xid, .. } => Some(*xid),
            Self::Dum(dum) => Some(dum.xid),
            Self::Pq { xid } | Self::Pa { xid, .. } | Self::Pr { xid, .. } => *xid,
            _ => None,
        }
    }

    /// Writes the message in its strict form. Of a DUM this is everything before its payload.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut encoder = Encoder::new(out, self.kind().name());
        match self {
            Self::Cs | Self::Ce(_) | Self::Sgc { .. } | Self::Sgd { .. } => {
                session::write(self, &mut encoder);
            }
            Self::No(_) | Self::Nr(_) | Self::Aq { .. } | Self::Aa { .. } => {
                negotiation::write(self, &mut encoder);
            }
            Self::Dialog(message) => dialog::write(message, &mut encoder),
            Self::Dum(dum) => {
                data::write(self, &mut encoder);
                encoder.payload(dum.size);
                return;
            }
            Self::Ts { .. }
            | Self::Te { .. }
            | Self::Ams { .. }
            | Self::Ame { .. }
            | Self::Pq { .. }
            | Self::Pa { .. }
            | Self::Pr { .. } => transaction::write(self, &mut encoder),
            _ => data::write(self, &mut encoder),
        }
        encoder.finish();
    }
}

/// The dialog that a dialog message names, if it names one.
pub(crate) fn dialog_of(head: &Head) -> Option<DialogId> {
    definition::anonymous_number(head, 0).and_then(DialogId::new)
}
