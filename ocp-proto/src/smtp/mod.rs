//! The SMTP profile's plain data (profile sections 2 to 6), shared by services and front ends.

mod address;
mod bypass;
mod command;
mod coverage;
mod dialog;
mod effect;
mod feature;
mod profile;
mod replacement;
mod reply;
mod validity;
mod verdict;

pub use address::{Address, AddressError};
pub use bypass::means_service;
pub use command::{Command, CommandLine, CommandLineError, Part};
pub use coverage::uncovered;
pub use dialog::{Activation, Auth, DialogFacts, DialogUpdate, Envelope, Tls};
pub use effect::{EffectName, SideEffect};
pub use feature::{
    COMMAND_PROFILE, CommandProfile, DIALOG, DialogFeature, FailurePolicy, REPLY_PROFILE,
    ReplyProfile, TLS,
};
pub use profile::{Profile, ProfileKind};
pub use replacement::{ReplacementError, is_fixed, may_replace};
pub use reply::{Reply, ReplyError};
pub use validity::{Fact, Validity};
pub use verdict::Verdict;
