//! Dialogs: what is known about an SMTP session (profile section 3).

use super::address::Address;
use super::command::Command;
use crate::wire::Atom;

/// Where in its life the processor adapts a message (profile section 1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The MTA is the SMTP server.
    #[default]
    Receiving,
    /// Stored mail.
    Queued,
    /// The MTA is the SMTP client.
    Sending,
    /// Both at once.
    Proxy,
}

impl Activation {
    const ALL: [Self; 4] = [Self::Receiving, Self::Queued, Self::Sending, Self::Proxy];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Proxy => "proxy",
        }
    }

    /// The activation point of this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|activation| activation.name().as_bytes() == name)
    }
}

/// What TLS gave the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Protocol version, such as `TLSv1.3`.
    pub protocol: Atom,
    /// Cipher suite.
    pub cipher: Atom,
    /// Subject of the client's certificate.
    pub client_subject: Option<Atom>,
    /// Whether that certificate was verified.
    pub verified: bool,
}

/// Who authenticated; never a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// SASL mechanism.
    pub mechanism: Atom,
    /// Authenticated identity.
    pub identity: Atom,
}

/// What is known about a dialog: Dialog-Start, with every Dialog-Update merged over it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DialogFacts {
    /// Activation point.
    pub activation: Activation,
    /// SMTP, ESMTP, LMTP or SUBMIT.
    pub protocol: Option<Atom>,
    /// The peer's address.
    pub client_address: Option<Atom>,
    /// The peer's port.
    pub client_port: Option<Atom>,
    /// The peer's name, only if verified.
    pub client_name: Option<Atom>,
    /// The MTA's own address.
    pub server_address: Option<Atom>,
    /// The MTA's own port.
    pub server_port: Option<Atom>,
    /// The MTA's own name.
    pub server_name: Option<Atom>,
    /// The name that the peer gave in HELO, EHLO or LHLO.
    pub helo: Option<Atom>,
    /// TLS, once it is on.
    pub tls: Option<Tls>,
    /// Authentication, once it succeeded.
    pub auth: Option<Auth>,
    /// The MTA's name for the message.
    pub queue_id: Option<Atom>,
}

/// Facts learnt later; what is absent stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DialogUpdate {
    /// See [`DialogFacts::helo`].
    pub helo: Option<Atom>,
    /// See [`DialogFacts::protocol`].
    pub protocol: Option<Atom>,
    /// See [`DialogFacts::tls`].
    pub tls: Option<Tls>,
    /// See [`DialogFacts::auth`].
    pub auth: Option<Auth>,
    /// See [`DialogFacts::queue_id`].
    pub queue_id: Option<Atom>,
}

impl DialogFacts {
    /// Merges later facts over the earlier ones.
    pub fn update(&mut self, update: DialogUpdate) {
        let DialogUpdate { helo, protocol, tls, auth, queue_id } = update;
        self.helo = helo.or(self.helo.take());
        self.protocol = protocol.or(self.protocol.take());
        self.tls = tls.or(self.tls.take());
        self.auth = auth.or(self.auth.take());
        self.queue_id = queue_id.or(self.queue_id.take());
    }

    /// What an accepted event clears: STARTTLS begins the session anew (RFC 3207 section 4.2).
    pub fn after(&mut self, command: &Command) {
        if *command == Command::StartTls {
            self.helo = None;
            self.auth = None;
        }
    }
}

/// The envelope in force: what the MTA accepted after all adaptations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// The return path; `None` before MAIL.
    pub sender: Option<Address>,
    /// The accepted recipients in order.
    pub recipients: Vec<Address>,
}

impl Envelope {
    /// What an event does to the envelope: HELO, RSET, STARTTLS and the end of MESSAGE, whether it
    /// succeeded or not, clear it (profile section 3).
    pub fn after(&mut self, command: &Command) {
        if matches!(command, Command::Helo | Command::Rset | Command::StartTls | Command::Message) {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_facts_go_over_earlier_ones() {
        let mut facts = DialogFacts { helo: Some("a".into()), ..DialogFacts::default() };
        facts.update(DialogUpdate { queue_id: Some("4T".into()), ..DialogUpdate::default() });
        assert_eq!(
            (facts.helo.as_deref(), facts.queue_id.as_deref()),
            (Some(&b"a"[..]), Some(&b"4T"[..]))
        );
        facts.after(&Command::StartTls);
        assert_eq!(facts.helo, None);
    }

    #[test]
    fn the_envelope_is_a_table() {
        let full = Envelope { sender: Some(Address::null()), recipients: vec![Address::null()] };
        for command in [Command::Helo, Command::Rset, Command::StartTls, Command::Message] {
            let mut envelope = full.clone();
            envelope.after(&command);
            assert_eq!(envelope, Envelope::default(), "{command}");
        }
        for command in [Command::Mail, Command::Rcpt, Command::Data, Command::Noop, Command::Auth] {
            let mut envelope = full.clone();
            envelope.after(&command);
            assert_eq!(envelope, full, "{command}");
        }
    }
}
