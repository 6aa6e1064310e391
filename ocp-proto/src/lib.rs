//! OCP Core (RFC 4037) and its SMTP profile as a sans-IO library.
//!
//! A [`Connection`] is one end of an OCP connection: octets and the time go in, events and octets
//! come out. It holds no socket and no clock.
//!
//! ```text
//!            octets                frames            messages             events
//!  transport ──────▶ wire::Decoder ──────▶ message::parse ──────▶ Connection ──────▶ application
//!                                                                  │ transactions
//!                                                                  │ negotiation, groups, dialogs
//!  transport ◀────── Output ◀────── wire::Encoder ◀────── message::encode ◀────── commands
//! ```
//!
//! The profile is specified in `SMTP-PROFILE.md` beside this crate.

#[cfg(feature = "codec")]
pub mod codec;
mod connection;
#[doc(hidden)]
pub mod fuzzing;
mod ids;
mod limits;
pub mod message;
mod role;
pub mod smtp;
mod transaction;
mod violation;
pub mod wire;

pub use connection::{
    AdaptedData, Closed, Config, Connection, Event, Misuse, Offer, OriginalData, OutgoingPayload,
    Output, Response, feature_uri,
};
pub use ids::{AdaptedMessageId, DialogId, GroupId, IdHasher, IdMap, MAXIMUM, Xid, parse_number};
pub use limits::{Allowance, UselessLimits, WireLimits};
pub use message::{AdaptedEnd, AdaptedRole, AdaptedStart, DataLabel, OcpResult, OriginalStart};
pub use role::Role;
pub use transaction::Traffic;
pub use violation::{Rule, Scope, Useless, Violation};
