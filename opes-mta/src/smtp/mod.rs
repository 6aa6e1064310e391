//! SMTP (RFC 5321) and LMTP (RFC 2033) without sockets: octets to events and back as a server speaks them,
//! and what a client reads ([`reply`], [`extensions`]).
//!
//! ```text
//!  octets ──▶ line::Decoder ──▶ Request::parse ─┐
//!         ──▶ content::Decoder, bdat::Framing ──┴──▶ Session::receive ──▶ Event
//!  octets ◀── Session::{answer, refuse} ◀── Reply
//! ```
//!
//! The client asks and we answer: a driver reads octets, takes one event after the other, gives each
//! reply to the [`Session`], and writes what it appended. Nothing but CRLF ends a line, nothing but
//! CRLF.CRLF the content of DATA, and nothing that was not understood is passed over: both ends mean the
//! same commands, or the connection ends. [`content::Encoder`] is the way of content to the next hop.

pub mod bdat;
pub mod command;
pub mod content;
pub mod extensions;
#[doc(hidden)]
pub mod fuzzing;
pub mod line;
pub mod reply;
pub mod session;

pub(crate) use command::xtext;
pub use command::{Attribute, Command, Hello, InvalidCommand, Path, Request, Secret};
pub use session::{Event, Misuse, Protocol, Refusal, Replies, Session, Settings};
