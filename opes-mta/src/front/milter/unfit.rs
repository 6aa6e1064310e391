//! What an answer may say, but milter can't.

use ocp_proto::smtp::{Address, EffectName};

use crate::milter::Actions;

/// Why an answer can't be carried out by milter: nothing of it is, and the failure policy decides.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The header section does not end with its first empty line.
    #[error("milter can't pass on a header section that does not end with its only empty line")]
    HeaderEnd,
    /// A line that is no field, such as that of an mbox, or whose name is none.
    #[error("milter can't pass on the header line {0:?}: it is no field with a name in ASCII")]
    NoField(String),
    /// NUL, or CR inside of a line.
    #[error("milter can't pass on octet 0x{octet:02x} in the header field {field}")]
    Octet {
        /// The field's name.
        field: String,
        /// The octet.
        octet: u8,
    },
    /// A field that the MTA might cut.
    #[error(
        "milter can't pass on the header field {field} of {octets} octets: {most} are the most"
    )]
    Length {
        /// The field's name.
        field: String,
        /// Its octets.
        octets: usize,
        /// How many there may be.
        most: usize,
    },
    /// A change in front of octets that the mail server was told not to send.
    #[error(
        "the body was changed before its end, and the mail server has not sent all of it, which no \
         service wanted: set whole-body = true for the group"
    )]
    BodyNotSent,
    /// Octets that are not in memory, and can't be read.
    #[error("octets of the body can't be read: {0}")]
    Unreadable(String),
    /// A change that the MTA does not take from us.
    #[error("the MTA has not agreed to {0}")]
    NotAgreed(Actions),
    /// An effect that milter has no word for.
    #[error("milter can't carry out {0}")]
    Effect(EffectName),
    /// A control character in a reason.
    #[error("milter can't pass on the reason of {effect}: it holds octet 0x{octet:02x}")]
    Reason {
        /// The effect.
        effect: EffectName,
        /// The octet.
        octet: u8,
    },
    /// An ESMTP parameter that the MTA would drop.
    #[error("milter can't pass on the parameter {parameter:?} of {address}")]
    Parameter {
        /// Whose parameter it is.
        address: Address,
        /// The parameter.
        parameter: String,
    },
    /// The null address as recipient.
    #[error("milter can't add the recipient <>")]
    NullRecipient,
}
