//! The milter front end: an MTA that speaks the milter protocol becomes an OPES processor.
//!
//! Sources are Postfix (`src/milter/milter8.c`, `src/cleanup/cleanup_milter.c`,
//! `src/smtpd/smtpd_milter.c`) and sendmail (`sendmail/milter.c`, `sendmail/headers.c`): the protocol
//! has no other specification.

mod common;
mod connection;
mod dialogue;
pub mod edits;
pub mod effects;
pub mod facts;
#[doc(hidden)]
pub mod fuzzing;
mod listen;
mod mail;
pub mod message;
mod sent;
mod unfit;
mod words;

use ocp_proto::smtp::{Command, CommandProfile};

pub use listen::Listeners;
pub use unfit::Unfit;

/// What a milter can vector out and carry out. Recipients have one version of a message and one reply to
/// it: servers are asked for versions all the same, since where these differ, the configured fallback is
/// better than a version that was not meant for somebody (`recipients-differ`).
pub fn offer() -> CommandProfile {
    CommandProfile {
        commands: vec![
            Command::Connect,
            Command::Helo,
            Command::Mail,
            Command::Rcpt,
            Command::Data,
            Command::Message,
        ],
        side_effects: effects::CARRIED_OUT.to_vec(),
        multiple_messages: true,
        ..CommandProfile::default()
    }
}
