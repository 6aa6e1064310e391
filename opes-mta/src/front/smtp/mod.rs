//! The SMTP front end: a proxy between a client and the next hop becomes an OPES processor.
//!
//! What the client says goes to the next hop as the services have made it, command by command, and the
//! next hop's replies are the client's: nothing is accepted that the next hop has not accepted. Content
//! goes on once the services have seen all of it.

mod broken;
mod client;
mod content;
mod deliver;
mod dialogue;
mod hello;
mod introduction;
mod listen;
mod mail;
mod peer;
mod recipients;
mod replies;
mod tls;

use ocp_proto::smtp::{Command, CommandProfile, EffectName};

pub use introduction::Introduce;
pub use listen::{Listeners, Settings};
pub use peer::Trust;
pub use tls::Tls;

/// What the proxy can vector out and carry out, with a quarantine or without.
pub fn offer(keeps: bool) -> CommandProfile {
    let mut side_effects = vec![
        EffectName::AddRecipient,
        EffectName::DeleteRecipient,
        EffectName::SetRecipients,
        EffectName::ChangeSender,
        EffectName::Discard,
    ];
    side_effects.extend(keeps.then_some(EffectName::Quarantine));
    CommandProfile {
        commands: vec![
            Command::Connect,
            Command::Helo,
            Command::Mail,
            Command::Rcpt,
            Command::Data,
            Command::Message,
        ],
        side_effects,
        multiple_messages: true,
        ..CommandProfile::default()
    }
}
