//! Who is on the other side, and what it says of the client that it speaks for.

use std::net::IpAddr;

use ocp_proto::smtp::{Activation, Auth, DialogFacts};
use ocp_proto::wire::Atom;

use crate::config::{Clients, Origin};
use crate::front::facts::{address, port, text};
use crate::relay;
use crate::smtp::Attribute;
use crate::smtp::extensions::XCLIENT;

/// Peers that are heard when they say who their client is (XFORWARD, XCLIENT). Everybody else could be anybody.
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
            b"LOGIN" => facts.auth = said.and_then(|value| text(value)).map(authenticated),
            b"DESTADDR" => facts.server_address = said.and_then(|value| address(value)),
            b"DESTPORT" => facts.server_port = said.and_then(|value| port(value)),
            _ => {}
        }
    }
    origin
}

/// A client that has authenticated elsewhere: by what, the peer does not say.
fn authenticated(identity: Atom) -> Auth {
    Auth { mechanism: XCLIENT.into(), identity }
}

/// What a next hop may learn of a client.
pub(super) fn origin(facts: &DialogFacts) -> relay::Origin {
    let known = |fact: &Option<Atom>| {
        fact.as_deref().map(|fact| String::from_utf8_lossy(fact).into_owned())
    };
    let address = |fact: &Option<Atom>| known(fact).and_then(|address| address.parse().ok());
    let port = |fact: &Option<Atom>| known(fact).and_then(|port| port.parse().ok());
    let destination = address(&facts.server_address).zip(port(&facts.server_port));
    let login =
        facts.auth.as_ref().map(|auth| String::from_utf8_lossy(&auth.identity).into_owned());
    relay::Origin {
        name: known(&facts.client_name),
        address: address(&facts.client_address),
        port: port(&facts.client_port),
        protocol: known(&facts.protocol),
        helo: known(&facts.helo),
        login: login.filter(|login| !login.is_empty()),
        destination: destination.map(|(address, port): (IpAddr, u16)| (address, port).into()),
        identifier: known(&facts.queue_id),
        is_local: None,
    }
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

    #[test]
    fn what_a_peer_says_of_its_client_may_be_said_to_the_next_hop() {
        let mut facts = DialogFacts::default();
        let said = "NAME=a.example ADDR=192.0.2.7 PORT=4 LOGIN=ann DESTADDR=::1 DESTPORT=25 HELO=a";
        forward(&mut facts, &attributes(said));
        let auth = facts.auth.as_ref().map(|auth| (&auth.mechanism[..], &auth.identity[..]));
        assert_eq!(auth, Some((&b"XCLIENT"[..], &b"ann"[..])));
        let expected = relay::Origin {
            name: Some("a.example".to_owned()),
            address: Some("192.0.2.7".parse().unwrap()),
            port: Some(4),
            login: Some("ann".to_owned()),
            destination: Some("[::1]:25".parse().unwrap()),
            helo: Some("a".to_owned()),
            ..relay::Origin::default()
        };
        assert_eq!(origin(&facts), expected);
        // Whom the next hop has seen to itself has no name here.
        facts.auth = Some(Auth { mechanism: "PLAIN".into(), identity: Atom::new() });
        assert_eq!(origin(&facts).login, None);
    }
}
