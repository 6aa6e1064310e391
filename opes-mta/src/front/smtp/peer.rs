//! Who is on the other side, and what it says of the client that it speaks for.

use ocp_proto::smtp::{Activation, DialogFacts};

use crate::config::{Clients, Origin};
use crate::front::facts::{address, port, text};
use crate::smtp::Attribute;

/// Peers that are heard when they say who their client is (XFORWARD). Everybody else could be anybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust(pub Vec<Clients>);

impl Trust {
    /// Whether this one is heard.
    pub(super) fn hears(&self, origin: Origin) -> bool {
        self.0.iter().any(|clients| clients.contain(origin))
    }
}

/// The facts of a client that has connected itself.
pub(super) fn connected(activation: Activation, origin: Origin, client_port: u16) -> DialogFacts {
    let client_address = match origin {
        Origin::Address(address) => Some(address.to_canonical().to_string().into()),
        Origin::Unix | Origin::Unknown => None,
    };
    let client_port = (client_port > 0).then(|| client_port.to_string().into());
    DialogFacts { activation, client_address, client_port, ..DialogFacts::default() }
}

/// Puts what a peer says of the client that it speaks for to what it has said before; where that client is
/// comes back if it says so. What the peer does not know (`[UNAVAILABLE]`) is not known.
pub(super) fn forward(facts: &mut DialogFacts, attributes: &[Attribute]) -> Option<Origin> {
    let mut origin = None;
    for Attribute { name, value } in attributes {
        let is_known = !value.is_empty() && !value.starts_with(b"[");
        let said = is_known.then_some(value);
        match &name[..] {
            b"NAME" => facts.client_name = said.and_then(|value| text(value)),
            b"ADDR" => {
                facts.client_address = said.and_then(|value| address(value));
                let known =
                    facts.client_address.as_deref().and_then(|a| std::str::from_utf8(a).ok());
                let known = known.and_then(|a| a.parse().ok());
                origin = Some(known.map_or(Origin::Unknown, Origin::Address));
            }
            b"PORT" => facts.client_port = said.and_then(|value| port(value)),
            b"HELO" => facts.helo = said.and_then(|value| text(value)).or(facts.helo.take()),
            b"PROTO" => facts.protocol = said.and_then(|value| text(value)),
            b"IDENT" => facts.queue_id = said.and_then(|value| text(value)),
            _ => {}
        }
    }
    origin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(text: &str) -> Vec<Attribute> {
        let pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
        let attribute = |(name, value): (&str, &str)| Attribute {
            name: name.to_owned().into(),
            value: value.to_owned().into(),
        };
        pairs.map(attribute).collect()
    }

    #[test]
    fn what_postfix_says_of_its_client_is_what_services_get() {
        let mut facts = DialogFacts::default();
        // Its client of SMTP does not say all of it at once.
        let origin =
            forward(&mut facts, &attributes("NAME=a.example ADDR=IPv6:2001:DB8::1 PORT=40001"));
        let said = attributes("HELO=a PROTO=ESMTP IDENT=4XyZ SOURCE=REMOTE");
        assert_eq!(forward(&mut facts, &said), None);
        let expected = DialogFacts {
            client_name: Some("a.example".into()),
            client_address: Some("2001:db8::1".into()),
            client_port: Some("40001".into()),
            helo: Some("a".into()),
            protocol: Some("ESMTP".into()),
            queue_id: Some("4XyZ".into()),
            ..DialogFacts::default()
        };
        assert_eq!(
            (&facts, origin),
            (&expected, Some(Origin::Address("2001:db8::1".parse().unwrap())))
        );
        let said = attributes(
            "NAME=[UNAVAILABLE] ADDR=unknown PORT=0 HELO=[UNAVAILABLE] PROTO=[UNAVAILABLE] IDENT=",
        );
        assert_eq!(forward(&mut facts, &said), Some(Origin::Unknown));
        assert_eq!(facts, DialogFacts { helo: Some("a".into()), ..DialogFacts::default() });
    }
}
