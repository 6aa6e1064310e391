//! What an MTA can do, what we want, and what comes of it (`SMFIC_OPTNEG`).

use std::fmt;

use bytes::{BufMut, BytesMut};

use super::command::{MacroName, Stage};
use super::packet::{encode, put_string};

/// The version that we speak: that of sendmail 8.14 and Postfix 2.6.
pub const VERSION: u32 = 6;

macro_rules! flags {
    ($(#[$about:meta])* $type:ident { $($(#[$doc:meta])* $name:ident = $bit:literal $wire:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $type(u32);

        impl $type {
            $($(#[$doc])* #[doc = concat!("(`", $wire, "`).")] pub const $name: Self = Self($bit);)*

            /// None of them.
            pub const NONE: Self = Self(0);

            /// Flags as they stand on the wire.
            pub const fn from_bits(bits: u32) -> Self {
                Self(bits)
            }

            /// As they stand on the wire.
            pub const fn bits(self) -> u32 {
                self.0
            }

            /// These and those.
            #[must_use]
            pub const fn and(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// Those of these that are there too.
            #[must_use]
            pub const fn within(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }

            /// Those of these that are not there.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// Whether all of those are among these.
            pub const fn contain(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }
        }

        impl fmt::Display for $type {
            /// Their names, separated by blanks.
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut left = self.0;
                let mut blank = "";
                for (bit, name) in [$(($bit, $wire)),*] {
                    if left & bit != 0 {
                        write!(formatter, "{blank}{name}")?;
                        blank = " ";
                        left &= !bit;
                    }
                }
                if left == 0 { Ok(()) } else { write!(formatter, "{blank}0x{left:x}") }
            }
        }
    };
}

flags! {
    /// What a milter may do to a message at its end.
    Actions {
        /// Add and insert fields
        ADD_FIELDS = 0x001 "SMFIF_ADDHDRS",
        /// Replace the body
        REPLACE_BODY = 0x002 "SMFIF_CHGBODY",
        /// Add recipients
        ADD_RECIPIENTS = 0x004 "SMFIF_ADDRCPT",
        /// Delete recipients
        DELETE_RECIPIENTS = 0x008 "SMFIF_DELRCPT",
        /// Change and delete fields
        CHANGE_FIELDS = 0x010 "SMFIF_CHGHDRS",
        /// Keep the message for review
        QUARANTINE = 0x020 "SMFIF_QUARANTINE",
        /// Change the envelope sender
        CHANGE_SENDER = 0x040 "SMFIF_CHGFROM",
        /// Add recipients with ESMTP arguments
        ADD_RECIPIENTS_WITH_ARGUMENTS = 0x080 "SMFIF_ADDRCPT_PAR",
        /// Say which macros it wants
        SET_MACROS = 0x100 "SMFIF_SETSYMLIST",
    }
}

flags! {
    /// What the MTA sends, and which answers it waits for.
    Steps {
        /// CONNECT is not sent
        NO_CONNECT = 0x01 "SMFIP_NOCONNECT",
        /// HELO is not sent
        NO_HELO = 0x02 "SMFIP_NOHELO",
        /// MAIL is not sent
        NO_MAIL = 0x04 "SMFIP_NOMAIL",
        /// RCPT is not sent
        NO_RCPT = 0x08 "SMFIP_NORCPT",
        /// The body is not sent
        NO_BODY = 0x10 "SMFIP_NOBODY",
        /// Header fields are not sent
        NO_HEADER = 0x20 "SMFIP_NOHDRS",
        /// The end of the header section is not sent
        NO_END_OF_HEADER = 0x40 "SMFIP_NOEOH",
        /// Header fields are not answered
        NO_REPLY_HEADER = 0x80 "SMFIP_NR_HDR",
        /// Unknown commands are not sent
        NO_UNKNOWN = 0x100 "SMFIP_NOUNKNOWN",
        /// DATA is not sent
        NO_DATA = 0x200 "SMFIP_NODATA",
        /// The MTA takes SKIP for an answer
        SKIP = 0x400 "SMFIP_SKIP",
        /// Recipients that the MTA has rejected are sent
        REJECTED_RECIPIENTS = 0x800 "SMFIP_RCPT_REJ",
        /// CONNECT is not answered
        NO_REPLY_CONNECT = 0x1000 "SMFIP_NR_CONN",
        /// HELO is not answered
        NO_REPLY_HELO = 0x2000 "SMFIP_NR_HELO",
        /// MAIL is not answered
        NO_REPLY_MAIL = 0x4000 "SMFIP_NR_MAIL",
        /// RCPT is not answered
        NO_REPLY_RCPT = 0x8000 "SMFIP_NR_RCPT",
        /// DATA is not answered
        NO_REPLY_DATA = 0x1_0000 "SMFIP_NR_DATA",
        /// Unknown commands are not answered
        NO_REPLY_UNKNOWN = 0x2_0000 "SMFIP_NR_UNKN",
        /// The end of the header section is not answered
        NO_REPLY_END_OF_HEADER = 0x4_0000 "SMFIP_NR_EOH",
        /// Pieces of the body are not answered
        NO_REPLY_BODY = 0x8_0000 "SMFIP_NR_BODY",
        /// Values of header fields keep their leading blank, both ways
        LEADING_SPACE = 0x10_0000 "SMFIP_HDR_LEADSPC",
        /// Packets have up to 262,143 octets of data
        DATA_256K = 0x1000_0000 "SMFIP_MDS_256K",
        /// Packets have up to 1,048,575 octets of data
        DATA_1M = 0x2000_0000 "SMFIP_MDS_1M",
    }
}

impl Steps {
    /// The flag that keeps the MTA from sending a stage.
    pub fn not_sent(stage: Stage) -> Self {
        match stage {
            Stage::Connect => Self::NO_CONNECT,
            Stage::Helo => Self::NO_HELO,
            Stage::Mail => Self::NO_MAIL,
            Stage::Rcpt => Self::NO_RCPT,
            Stage::Data => Self::NO_DATA,
            Stage::Header => Self::NO_HEADER,
            Stage::EndOfHeader => Self::NO_END_OF_HEADER,
            Stage::Body => Self::NO_BODY,
            Stage::Unknown => Self::NO_UNKNOWN,
            Stage::EndOfMessage => Self::NONE,
        }
    }

    /// The flag that keeps the MTA from waiting for an answer to a stage.
    pub fn not_answered(stage: Stage) -> Self {
        match stage {
            Stage::Connect => Self::NO_REPLY_CONNECT,
            Stage::Helo => Self::NO_REPLY_HELO,
            Stage::Mail => Self::NO_REPLY_MAIL,
            Stage::Rcpt => Self::NO_REPLY_RCPT,
            Stage::Data => Self::NO_REPLY_DATA,
            Stage::Header => Self::NO_REPLY_HEADER,
            Stage::EndOfHeader => Self::NO_REPLY_END_OF_HEADER,
            Stage::Body => Self::NO_REPLY_BODY,
            Stage::Unknown => Self::NO_REPLY_UNKNOWN,
            Stage::EndOfMessage => Self::NONE,
        }
    }

    /// Whether the MTA sends this stage.
    pub fn send(self, stage: Stage) -> bool {
        self.within(Self::not_sent(stage)) == Self::NONE
    }

    /// Whether the MTA waits for an answer to this stage.
    pub fn await_answer(self, stage: Stage) -> bool {
        self.within(Self::not_answered(stage)) == Self::NONE
    }
}

/// What an MTA offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The highest version that it speaks.
    pub version: u32,
    /// What it lets a milter do.
    pub actions: Actions,
    /// What it can leave out, or do beyond.
    pub steps: Steps,
}

impl Offer {
    /// An offer as its numbers stand on the wire.
    pub(super) fn new(version: u32, actions: u32, steps: u32) -> Self {
        Self { version, actions: Actions(actions), steps: Steps(steps) }
    }

    pub(super) fn write(&self, out: &mut BytesMut) {
        out.put_u32(self.version);
        out.put_u32(self.actions.0);
        out.put_u32(self.steps.0);
    }
}

/// The stages that macros can be asked for (`SMFIM_*`): the MTA sends those for header fields and the body
/// as for the ends of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "they are the stages of these names")]
pub enum MacroStage {
    Connect = 0,
    Helo = 1,
    Mail = 2,
    Rcpt = 3,
    Data = 4,
    EndOfMessage = 5,
    EndOfHeader = 6,
}

/// What we want of an MTA.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// What we could not work without.
    pub needed_actions: Actions,
    /// What we use if it is there.
    pub useful_actions: Actions,
    /// What we could not work without.
    pub needed_steps: Steps,
    /// What we use if it is there. Stages that the MTA can't leave out come, and are to be answered.
    pub useful_steps: Steps,
    /// Macros instead of those that the MTA's configuration names, where an MTA lets us ask; a stage
    /// without any keeps the configured ones.
    pub macros: Vec<(MacroStage, Vec<MacroName>)>,
}

/// What both ends do from here on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// What a milter may do.
    pub actions: Actions,
    /// What is sent and answered.
    pub steps: Steps,
    /// The macros that we ask for.
    pub macros: Vec<(MacroStage, Vec<MacroName>)>,
}

/// Why we can't work with an MTA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotAgree {
    /// It speaks an old version.
    #[error(
        "the MTA speaks version {0} of the milter protocol and version 6 is needed: sendmail 8.14, or \
         Postfix 2.6 with milter_protocol = 6"
    )]
    Version(u32),
    /// It does not let us do something.
    #[error("the MTA does not allow {0}, which is needed here")]
    Actions(Actions),
    /// It can't leave out or do something.
    #[error("the MTA has no {0}, which is needed here")]
    Steps(Steps),
}

/// Takes of an offer what is wanted, and no more.
///
/// # Errors
/// What is needed and was not offered.
pub fn negotiate(offered: &Offer, wanted: &Wanted) -> Result<Agreed, CannotAgree> {
    if offered.version < VERSION {
        return Err(CannotAgree::Version(offered.version));
    }
    let missing = wanted.needed_actions.without(offered.actions);
    if missing != Actions::NONE {
        return Err(CannotAgree::Actions(missing));
    }
    let missing = wanted.needed_steps.without(offered.steps);
    if missing != Steps::NONE {
        return Err(CannotAgree::Steps(missing));
    }
    let mut actions = wanted.needed_actions.and(wanted.useful_actions).within(offered.actions);
    let mut macros = Vec::new();
    if !wanted.macros.is_empty() && offered.actions.contain(Actions::SET_MACROS) {
        actions = actions.and(Actions::SET_MACROS);
        macros.clone_from(&wanted.macros);
    }
    let steps = wanted.needed_steps.and(wanted.useful_steps).within(offered.steps);
    Ok(Agreed { actions, steps, macros })
}

impl Agreed {
    /// The most octets of data that one packet has, either way.
    pub fn maximum_data(&self) -> usize {
        if self.steps.contain(Steps::DATA_1M) {
            1_048_575
        } else if self.steps.contain(Steps::DATA_256K) {
            262_143
        } else {
            65_535
        }
    }

    /// Appends the answer to the offer.
    pub(super) fn encode(&self, out: &mut BytesMut) {
        encode(out, b'O', |out| {
            Offer { version: VERSION, actions: self.actions, steps: self.steps }.write(out);
            for (stage, names) in &self.macros {
                out.put_u32(*stage as u32);
                let mut list = BytesMut::new();
                for (index, name) in names.iter().enumerate() {
                    if index > 0 {
                        list.put_u8(b' ');
                    }
                    name.write(&mut list);
                }
                put_string(out, &list);
            }
        });
    }
}

#[cfg(test)]
mod tests;
