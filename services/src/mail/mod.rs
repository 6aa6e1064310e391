//! A mail, as services see it: octets, a lazily parsed view, and edits over them.
//!
//! Offsets are octets from the start of the header section and run on through the body. Nothing
//! here copies or re-serialises what it does not change: signatures depend on every octet.

mod decode;
mod edit;
mod field;
mod structure;
mod version;

pub use decode::{Decoded, Transfer, Uuencoded, data_uris, decode_base64, uuencoded};
pub use edit::{Edit, EditError, Edits, Notice};
pub use field::{Field, decode_words, unfold};
pub use structure::{ContentType, Part, PartKind};
pub use version::{Mail, Segment, Version, header_length};
