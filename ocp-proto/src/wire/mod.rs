//! Octets to frames and back (RFC 4037 section 3.1).
//!
//! ```text
//!  socket ──▶ BytesMut ──▶ Decoder ──▶ Frame::Head ─▶ Frame::Chunk* ─▶ Frame::End
//!  socket ◀── BytesMut ◀── Encoder ◀── name, values, payload size
//! ```
//!
//! A message without a payload is one [`Frame::Head`]. A payload follows its head in chunks, as it
//! arrives, and is never collected here; [`Frame::End`] says that the message is complete.

mod atom;
mod decode;
mod encode;
mod scan;
mod value;

pub use atom::Atom;
pub use decode::{Decoder, Expected, Frame, Head, SyntaxError};
pub use encode::{Encoder, PAYLOAD_TAIL, write_atom, write_value};
pub use value::{Name, NamedValues, Structure, Value, is_safe};
