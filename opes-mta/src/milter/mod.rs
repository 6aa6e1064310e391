//! The milter protocol, version 6, as an MTA's peer speaks it (`libmilter/mfdef.h` of sendmail and
//! `src/milter/milter8.c` of Postfix are what there is of a specification): octets to packets and back,
//! without sockets.
//!
//! ```text
//!  octets ──▶ packet::Decoder ──▶ Command::parse ──▶ Session::receive ──▶ Step
//!  octets ◀── Session::{agree, progress, modify, decide} ◀── Decision, Modification
//! ```
//!
//! The MTA asks and we answer: a driver reads octets, takes one packet after the other, gives each
//! command to the [`Session`], and writes all that the session appended for one stage at once.

pub mod command;
#[doc(hidden)]
pub mod fuzzing;
mod modification;
pub mod options;
pub mod packet;
pub mod response;
pub mod session;

pub use command::{Client, Command, InvalidCommand, MacroName, Macros, Path, Stage};
pub use modification::Modification;
pub use options::{Actions, Agreed, CannotAgree, MacroStage, Offer, Steps, Wanted, negotiate};
pub use packet::{Decoder, InvalidPacket, Packet};
pub use response::{Decision, InvalidModification, InvalidReply, Reply};
pub use session::{Misuse, OutOfOrder, Session, Step};
