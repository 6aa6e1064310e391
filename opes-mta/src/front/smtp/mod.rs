//! The SMTP front end: a proxy between a client and the next hop becomes an OPES processor.
//!
//! What the client says goes to the next hop as the services have made it, command by command, and the
//! next hop's replies are the client's: nothing is accepted that the next hop has not accepted. Content
//! goes on once the services have seen all of it.

mod broken;
mod carry;
mod client;
mod content;
mod deliver;
mod dialogue;
mod hello;
mod introduction;
mod listen;
mod mail;
mod peer;
mod plan;
mod recipients;
mod replies;
mod stored;
mod tls;

use ocp_proto::smtp::{Command, CommandProfile, EffectName, Part, ReplyProfile};

use crate::processor::Offers;
pub(crate) use content::LONGEST_HEADER;
pub use introduction::Introduce;
pub use listen::{Listeners, Settings};
pub use peer::Trust;
pub use stored::Stores;
pub use tls::Tls;

impl Settings {
    /// What the proxy can vector out and carry out.
    pub fn offers(&self) -> Offers {
        let side_effects = vec![
            EffectName::AddRecipient,
            EffectName::DeleteRecipient,
            EffectName::SetRecipients,
            EffectName::ChangeSender,
            EffectName::RetryCommand,
            EffectName::Disconnect,
        ];
        let replies = ReplyProfile {
            commands: vec![
                Command::Greeting,
                Command::Helo,
                Command::Mail,
                Command::Rcpt,
                Command::Message,
                Command::Rset,
                Command::Vrfy,
                Command::Expn,
                Command::Noop,
                Command::Quit,
            ],
            auxiliary_parts: vec![Part::Command],
            side_effects,
            ..ReplyProfile::default()
        };
        Offers { commands: self.offer(), replies: Some(replies) }
    }

    fn offer(&self) -> CommandProfile {
        let mut side_effects = vec![
            EffectName::AddRecipient,
            EffectName::DeleteRecipient,
            EffectName::SetRecipients,
            EffectName::ChangeSender,
            EffectName::Discard,
            EffectName::Disconnect,
        ];
        side_effects.extend(self.stores.quarantine.is_some().then_some(EffectName::Quarantine));
        if self.stores.spool.is_some() {
            side_effects.extend([EffectName::Hold, EffectName::Delay]);
            side_effects.extend((!self.routes.is_empty()).then_some(EffectName::Route));
        }
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
            // Clients that get one reply for all get what is configured.
            recipient_replies: true,
            ..CommandProfile::default()
        }
    }
}
