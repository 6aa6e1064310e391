//! What is in a mail, as far as a mail client and its user could get: decoded parts, nested
//! messages, uuencoded files and `data:` URIs in text, and the members of archives, recursively and
//! within bounds.

mod archive;
mod compound;
mod extension;
pub(crate) mod fuzzing;
mod limits;
mod office;
mod policy;
mod scans;
mod sniff;
mod store;
mod tag;
#[cfg(test)]
mod tests;
mod walk;
mod walker;

pub use limits::Limits;
pub(crate) use limits::Room;
pub use policy::Policy;
pub(crate) use policy::{applied, effects, fill, printable};
pub(crate) use scans::{Scan, Scans};
pub use sniff::FileKind;
pub(crate) use store::stored_part;
pub use tag::Tag;
pub(crate) use walk::{Next, Object, Origin, Remarks, outermost, part_labels, walk};
