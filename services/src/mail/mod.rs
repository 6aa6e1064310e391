//! A mail, as services see it: octets, a lazily parsed view, and edits over them.
//!
//! Offsets are octets from the start of the header section and run on through the body. Nothing
//! here copies or re-serialises what it does not change: signatures depend on every octet.
//!
//! The header section is in memory; the body is there too, or in a spool file ([`Octets`]), of which
//! a window at a time is read. Whatever reads the body can fail, therefore, and says so with a
//! [`SpoolError`], which a service passes on with `?`.

mod codec;
mod decode;
mod delimiters;
mod edit;
mod embedded;
mod encode;
mod field;
mod octets;
mod other_headers;
mod parameters;
mod readings;
mod splice;
mod structure;
mod version;
mod window;

pub(crate) use codec::Base64Rule;
pub(crate) use decode::decoder_by;
pub use decode::{Decoded, Decoder, Transfer, decode_base64};
pub use edit::{Edit, EditError, Edits, Notice};
pub use embedded::{Embedded, data_uris, uuencoded};
pub(crate) use encode::{encode_base64, encode_quoted_printable, encoded_words};
pub use field::{Field, decode_words, unfold};
pub(crate) use field::{ends, field_name, trim_line_end};
pub use octets::{Octets, SpoolError};
pub use parameters::ContentType;
pub use readings::OtherPart;
pub(crate) use structure::header_of;
pub use structure::{Part, PartKind};
pub use version::{Mail, Segment, Version, header_length};
pub use window::Reader;
pub(crate) use window::Window;
