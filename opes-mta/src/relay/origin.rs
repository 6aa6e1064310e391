//! Who the client's client is, for a next hop that wants to know (Postfix's XCLIENT and XFORWARD).

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use ocp_proto::smtp::{CommandLine, Reply};
use tokio::time::Instant;

use super::connection::Connection;
use super::error::{Cause, RelayError};
use super::stage::Stage;
use crate::smtp::extensions::{Extensions, XCLIENT, XFORWARD};

/// Octets of an XFORWARD command, at most: more attributes come in more commands, as Postfix's own client
/// does it.
const LONGEST_XFORWARD: usize = 510;

/// Octets of a value, at most: more than that is no name.
const LONGEST_VALUE: usize = 255;

/// What is known of the client that a message or a dialog comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Its verified host name.
    pub name: Option<String>,
    /// Its address.
    pub address: Option<IpAddr>,
    /// Its port.
    pub port: Option<u16>,
    /// What it speaks: SMTP or ESMTP.
    pub protocol: Option<String>,
    /// What it called itself in HELO.
    pub helo: Option<String>,
    /// Who it is by AUTH.
    pub login: Option<String>,
    /// The address and port that it connected to.
    pub destination: Option<SocketAddr>,
    /// The id of its message in our log.
    pub identifier: Option<String>,
    /// Whether it is a machine of ours.
    pub is_local: Option<bool>,
}

impl Origin {
    /// The attributes by name that belong to a keyword; what is not known has no value.
    fn attributes(&self, keyword: &str) -> Vec<(&'static str, Option<String>)> {
        let host = |address: IpAddr| match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("IPV6:{address}"),
        };
        let mut attributes = vec![
            ("NAME", self.name.clone()),
            ("ADDR", self.address.map(host)),
            ("PORT", self.port.map(|port| port.to_string())),
            ("PROTO", self.protocol.clone()),
            ("HELO", self.helo.clone()),
        ];
        if keyword == XCLIENT {
            attributes.extend([
                ("LOGIN", self.login.clone()),
                ("DESTADDR", self.destination.map(|to| host(to.ip()))),
                ("DESTPORT", self.destination.map(|to| to.port().to_string())),
            ]);
        } else {
            let source = self.is_local.map(|local| if local { "LOCAL" } else { "REMOTE" });
            attributes.extend([
                ("IDENT", self.identifier.clone()),
                ("SOURCE", source.map(str::to_owned)),
            ]);
        }
        attributes
    }

    /// Commands with the attributes that the next hop offers to hear behind this keyword.
    fn commands(&self, keyword: &str, extensions: &Extensions, longest: usize) -> Vec<String> {
        let mut commands = Vec::new();
        let mut line = String::new();
        for (name, value) in self.attributes(keyword) {
            // Postfix knows no protocol and no source that is not known.
            let is_void = matches!(name, "PROTO" | "SOURCE") && value.is_none();
            if is_void || !extensions.has_parameter(keyword, name) {
                continue;
            }
            let value = value.filter(|value| !value.is_empty() && value.len() <= LONGEST_VALUE);
            let value = value.map_or_else(|| "[UNAVAILABLE]".to_owned(), |value| xtext(&value));
            let attribute = format!(" {name}={value}");
            if line.is_empty() || line.len() + attribute.len() > longest {
                commands.extend((!line.is_empty()).then(|| std::mem::take(&mut line)));
                line.push_str(keyword);
            }
            line.push_str(&attribute);
        }
        commands.extend((!line.is_empty()).then_some(line));
        commands
    }
}

impl Connection {
    /// Says who the client is by XCLIENT, as if it had connected to the next hop itself. EHLO has to come
    /// again after it.
    ///
    /// # Errors
    /// If it refuses, does not answer, or does not offer that: it would take the client for us.
    pub async fn xclient(&mut self, origin: &Origin) -> Result<(), RelayError> {
        if !self.extensions.has_parameter(XCLIENT, "ADDR") {
            return Err(self.error(Stage::Origin, Instant::now(), Cause::NoXclient));
        }
        let commands = origin.commands(XCLIENT, &self.extensions, CommandLine::LONGEST);
        for command in &commands {
            let since = Instant::now();
            let reply = self.say(command).await?;
            // It starts over with its greeting.
            if reply.code() != 220 {
                return Err(self.refusal(Stage::Origin, since, reply));
            }
        }
        (self.extensions, self.hello) = (Extensions::default(), None);
        Ok(())
    }

    /// Says who the client is by XFORWARD, for the next hop's log; `false` if that is not offered. It
    /// holds for the next message.
    ///
    /// # Errors
    /// If it refuses, or does not answer.
    pub async fn xforward(&mut self, origin: &Origin) -> Result<bool, RelayError> {
        let commands = origin.commands(XFORWARD, &self.extensions, LONGEST_XFORWARD);
        for command in &commands {
            let since = Instant::now();
            let reply = self.say(command).await?;
            if !reply.is_success() {
                return Err(self.refusal(Stage::Origin, since, reply));
            }
        }
        self.forwarded = (!commands.is_empty()).then(|| origin.clone());
        Ok(!commands.is_empty())
    }

    /// Says once more what XFORWARD said last, if it did: Postfix forgets that with the envelope (RSET). What it
    /// makes of it is for its log alone.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn xforward_again(&mut self) -> Result<(), RelayError> {
        let Some(origin) = self.forwarded.clone() else { return Ok(()) };
        match self.xforward(&origin).await {
            Err(error) if error.reply().is_none() => Err(error),
            _ => Ok(()),
        }
    }

    async fn say(&mut self, command: &str) -> Result<Reply, RelayError> {
        let line = self.line(command.to_owned())?;
        self.command(&line).await
    }
}

/// RFC 3461 section 4: what is neither printable nor `+` or `=` stands in hexadecimal digits.
fn xtext(value: &str) -> String {
    let mut written = String::with_capacity(value.len());
    for octet in value.bytes() {
        match octet {
            b'!'..=b'~' if !matches!(octet, b'+' | b'=') => written.push(char::from(octet)),
            // A `String` takes everything.
            _ => drop(write!(written, "+{octet:02X}")),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(text: &'static str) -> Extensions {
        Extensions::of(&Reply::parse(text).unwrap())
    }

    #[test]
    fn attributes_are_those_that_are_offered_and_can_not_hold_another() {
        let origin = Origin {
            name: Some("a b+c=d\r\nQUIT".to_owned()),
            address: Some("2001:db8::1".parse().unwrap()),
            login: Some("ann".to_owned()),
            destination: Some("192.0.2.1:25".parse().unwrap()),
            is_local: Some(false),
            ..Origin::default()
        };
        let offered = offers(
            "250-mx\r\n250-XCLIENT NAME ADDR LOGIN DESTADDR OTHER\r\n250 XFORWARD ADDR HELO SOURCE LOGIN\r\n",
        );
        assert_eq!(
            origin.commands(XCLIENT, &offered, 2_000),
            [
                "XCLIENT NAME=a+20b+2Bc+3Dd+0D+0AQUIT ADDR=IPV6:2001:db8::1 LOGIN=ann DESTADDR=192.0.2.1"
            ]
        );
        assert_eq!(
            origin.commands(XFORWARD, &offered, 2_000),
            ["XFORWARD ADDR=IPV6:2001:db8::1 HELO=[UNAVAILABLE] SOURCE=REMOTE"]
        );
        let none = offers("250 mx\r\n");
        assert!(origin.commands(XCLIENT, &none, 2_000).is_empty());
    }

    #[test]
    fn a_line_that_is_full_is_followed_by_another() {
        let origin = Origin {
            name: Some("n".repeat(LONGEST_VALUE)),
            helo: Some("h".repeat(LONGEST_VALUE)),
            identifier: Some("i".repeat(LONGEST_VALUE + 1)),
            ..Origin::default()
        };
        let offered = offers("250-mx\r\n250 XFORWARD NAME HELO IDENT\r\n");
        let commands = origin.commands(XFORWARD, &offered, LONGEST_XFORWARD);
        let (name, helo) = ("n".repeat(LONGEST_VALUE), "h".repeat(LONGEST_VALUE));
        assert_eq!(
            commands,
            [format!("XFORWARD NAME={name}"), format!("XFORWARD HELO={helo} IDENT=[UNAVAILABLE]")]
        );
    }
}
