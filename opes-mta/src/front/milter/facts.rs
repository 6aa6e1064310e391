//! What the MTA tells of a session, as facts of the dialog (profile section 3).
//!
//! Macros are named as in sendmail. Which of them Postfix sends at which stage is a matter of its
//! `milter_*_macros` settings; `smtpd_milter_eval` makes their values. The profile has no place for
//! `v`, `{daemon_name}`, `{cipher_bits}` and `{cert_issuer}`. Two are not to be relied on:
//! `{client_ptr}` is a name that anybody can give himself, and `{auth_author}` is what the client claims
//! with AUTH= of MAIL.

use ocp_proto::smtp::{Activation, Auth, DialogFacts, DialogUpdate, Tls};
use ocp_proto::wire::Atom;

use crate::front::facts::{address, port, text};

/// What comes with `SMFIC_CONNECT`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connect<'a> {
    /// The client's name, or its address in brackets, or `unknown`.
    pub name: &'a [u8],
    /// Its address; none for a local client.
    pub address: Option<&'a [u8]>,
    /// Its port; 0 if unknown.
    pub port: u16,
}

/// The facts that a dialog begins with.
pub fn start<'a>(
    connect: &Connect<'_>,
    macros: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> DialogFacts {
    let macros = Macros::read(macros);
    let client_port = (connect.port > 0).then(|| connect.port.to_string().into());
    DialogFacts {
        activation: Activation::Receiving,
        client_address: connect.address.and_then(address).or(macros.client_addr.and_then(address)),
        client_port: client_port.or(macros.client_port.and_then(port)),
        client_name: macros.client_name(connect.name),
        server_address: macros.daemon_addr.and_then(address),
        server_port: macros.daemon_port.and_then(port),
        server_name: macros.j.and_then(text),
        tls: macros.tls(),
        auth: macros.auth(),
        queue_id: macros.i.and_then(text),
        ..DialogFacts::default()
    }
}

/// What the macros of a stage, and the name if it is that of HELO, tell beyond what is known; `None` if
/// that is nothing. What the MTA does not repeat stays.
pub fn update<'a>(
    known: &DialogFacts,
    helo: Option<&[u8]>,
    macros: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Option<DialogUpdate> {
    let macros = Macros::read(macros);
    let update = DialogUpdate {
        helo: helo.and_then(text).filter(|helo| known.helo.as_ref() != Some(helo)),
        protocol: None,
        tls: macros.tls().filter(|tls| known.tls.as_ref() != Some(tls)),
        auth: macros.auth().filter(|auth| known.auth.as_ref() != Some(auth)),
        queue_id: macros.i.and_then(text).filter(|id| known.queue_id.as_ref() != Some(id)),
    };
    (update != DialogUpdate::default()).then_some(update)
}

macro_rules! macros {
    ($($field:ident = $name:literal,)*) => {
        /// The values of the macros that mean something here; the last one of a name counts.
        #[derive(Clone, Copy, Debug, Default)]
        struct Macros<'a> {
            $($field: Option<&'a [u8]>,)*
        }

        impl<'a> Macros<'a> {
            fn read(macros: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
                let mut found = Self::default();
                for (name, value) in macros {
                    match bare(name) {
                        $($name => found.$field = Some(value),)*
                        _ => {}
                    }
                }
                found
            }
        }
    };
}

macros! {
    i = b"i",
    j = b"j",
    peer = b"_",
    client_addr = b"client_addr",
    client_port = b"client_port",
    client_name = b"client_name",
    client_resolve = b"client_resolve",
    daemon_addr = b"daemon_addr",
    daemon_port = b"daemon_port",
    tls_version = b"tls_version",
    cipher = b"cipher",
    cert_subject = b"cert_subject",
    verify = b"verify",
    auth_type = b"auth_type",
    auth_authen = b"auth_authen",
}

impl Macros<'_> {
    /// The client's name, if its address has this name and the name this address. Postfix gives no
    /// other name with `SMFIC_CONNECT`; sendmail says in `{client_resolve}`, and in `_`, that a name may
    /// be forged.
    fn client_name(&self, connected: &[u8]) -> Option<Atom> {
        let is_verified = match self.client_resolve {
            Some(resolve) => resolve == b"OK",
            None => !self.peer.is_some_and(|peer| peer.ends_with(b"(may be forged)")),
        };
        let name = self.client_name.unwrap_or(connected);
        let is_name = !name.starts_with(b"[") && !name.eq_ignore_ascii_case(b"unknown");
        (is_verified && is_name).then(|| text(name)).flatten()
    }

    /// Postfix gives the subject of a certificate that it trusts only, and no `{verify}`; sendmail gives
    /// both for any.
    fn tls(&self) -> Option<Tls> {
        Some(Tls {
            protocol: self.tls_version.and_then(text)?,
            cipher: self.cipher.and_then(text)?,
            client_subject: self.cert_subject.and_then(text),
            verified: self.verify == Some(b"OK"),
        })
    }

    fn auth(&self) -> Option<Auth> {
        let identity = self.auth_authen.and_then(text)?;
        Some(Auth { mechanism: self.auth_type.and_then(text)?, identity })
    }
}

/// A macro's name without braces: some MTAs send those of one letter with them.
fn bare(name: &[u8]) -> &[u8] {
    name.strip_prefix(b"{").and_then(|name| name.strip_suffix(b"}")).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECT: Connect<'_> =
        Connect { name: b"client.example.net", address: Some(b"192.0.2.138"), port: 40_001 };

    fn macros<'a>(pairs: &'a [(&str, &str)]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))
    }

    #[test]
    fn a_dialog_begins_with_what_postfix_tells() {
        let found = start(
            &CONNECT,
            macros(&[
                ("j", "mx.example.com"),
                ("{daemon_name}", "smtpd"),
                ("{daemon_addr}", "2001:DB8::1"),
                ("daemon_port", "25"),
                ("v", "Postfix 3.7.11"),
                ("_", "client.example.net [192.0.2.138]"),
            ]),
        );
        let expected = DialogFacts {
            client_address: Some("192.0.2.138".into()),
            client_port: Some("40001".into()),
            client_name: Some("client.example.net".into()),
            server_address: Some("2001:db8::1".into()),
            server_port: Some("25".into()),
            server_name: Some("mx.example.com".into()),
            ..DialogFacts::default()
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_name_is_one_that_was_verified() {
        let name = |name: &'static str, pairs: &[(&str, &str)]| {
            start(&Connect { name: name.as_bytes(), ..CONNECT }, macros(pairs)).client_name
        };
        let good = Some(Atom::from_static(b"a.example"));
        assert_eq!(name("a.example", &[]), good);
        assert_eq!(name("a.example", &[("{client_resolve}", "OK")]), good);
        assert_eq!(name("x", &[("{client_name}", "a.example")]), good);
        for resolve in ["FORGED", "FAIL", "TEMP", ""] {
            assert_eq!(name("a.example", &[("client_resolve", resolve)]), None, "{resolve}");
        }
        assert_eq!(name("[192.0.2.138]", &[]), None);
        assert_eq!(name("unknown", &[("client_resolve", "OK")]), None);
        let forged = [("_", "a.example [192.0.2.138] (may be forged)")];
        assert_eq!(name("a.example", &forged), None);
        assert_eq!(name("[192.0.2.138]", &[("client_ptr", "a.example")]), None);
    }

    #[test]
    fn an_address_is_one_or_nothing() {
        let found = |text: &'static str| {
            start(&Connect { address: Some(text.as_bytes()), ..CONNECT }, []).client_address
        };
        assert_eq!(found("IPv6:2001:DB8:0::1"), Some("2001:db8::1".into()));
        assert_eq!(found("ipv6:::1"), Some("::1".into()));
        for wrong in ["", "local", "192.0.2.1\r\nx", "192.0.2.999", "/run/x", "\u{e9}\u{e9}\u{e9}"]
        {
            assert_eq!(found(wrong), None, "{wrong:?}");
        }
        let local = Connect { address: None, port: 0, ..CONNECT };
        let pairs = [("client_addr", "IPv6:::1"), ("client_port", "99999")];
        let found = start(&local, macros(&pairs));
        assert_eq!((found.client_address, found.client_port), (Some("::1".into()), None));
    }

    #[test]
    fn only_news_become_an_update() {
        let mut facts = start(&CONNECT, []);
        let tls = [
            ("{tls_version}", "TLSv1.3"),
            ("{cipher}", "TLS_AES_256_GCM_SHA384"),
            ("{cipher_bits}", "256"),
            ("{cert_subject}", "client"),
        ];
        let found = update(&facts, Some(b"client.example.net"), macros(&tls)).unwrap();
        let expected = Tls {
            protocol: "TLSv1.3".into(),
            cipher: "TLS_AES_256_GCM_SHA384".into(),
            client_subject: Some("client".into()),
            verified: false,
        };
        assert_eq!(found.helo.as_deref(), Some(&b"client.example.net"[..]));
        assert_eq!(found.tls.as_ref(), Some(&expected));
        facts.update(found);
        assert_eq!(update(&facts, Some(b"client.example.net"), macros(&tls)), None);

        let verified = tls.into_iter().chain([("{verify}", "OK")]).collect::<Vec<_>>();
        let found = update(&facts, None, macros(&verified)).unwrap();
        let tls = Some(Tls { verified: true, ..expected });
        assert_eq!(found, DialogUpdate { tls, ..DialogUpdate::default() });

        let auth =
            [("{auth_type}", "PLAIN"), ("{auth_authen}", "steve"), ("{auth_author}", "boss")];
        let found = update(&facts, None, macros(&auth)).unwrap();
        let auth = Some(Auth { mechanism: "PLAIN".into(), identity: "steve".into() });
        assert_eq!(found, DialogUpdate { auth, ..DialogUpdate::default() });
        assert_eq!(update(&facts, None, macros(&[("{auth_authen}", "steve")])), None);

        let found = update(&facts, None, macros(&[("{i}", "4T0000001")])).unwrap();
        let queue_id = Some("4T0000001".into());
        assert_eq!(found, DialogUpdate { queue_id, ..DialogUpdate::default() });
        assert_eq!(update(&facts, None, macros(&[("i", ""), ("", "x"), ("{", "y")])), None);
    }

    #[test]
    fn a_value_is_bounded_and_one_line() {
        let long = "x".repeat(1_025);
        let facts = start(&CONNECT, macros(&[("j", &long), ("i", "a\0b\r\nc")]));
        assert_eq!(facts.server_name, None);
        assert_eq!(facts.queue_id, Some("a?b??c".into()));
        assert_eq!(update(&facts, Some(long.as_bytes()), []), None);
    }
}
