//! What the MTA sends (`SMFIC_*`).

mod parse;

use std::net::IpAddr;

use bytes::{BufMut, Bytes, BytesMut};

use super::options::Offer;
use super::packet::{encode, put_string};

pub use parse::{InvalidCommand, MAXIMUM_STRINGS, Rule};

/// One command of the MTA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// What the MTA speaks, and what it can do (`SMFIC_OPTNEG`).
    Negotiate(Offer),
    /// Facts for a stage that follows, or that is not sent (`SMFIC_MACRO`).
    Macros(Macros),
    /// A client has connected (`SMFIC_CONNECT`).
    Connect {
        /// Its name; its address in brackets if it has none.
        host: Bytes,
        /// Where it connected from.
        client: Client,
    },
    /// HELO or EHLO, and the name that was given (`SMFIC_HELO`).
    Helo(Bytes),
    /// MAIL FROM (`SMFIC_MAIL`).
    Mail(Path),
    /// RCPT TO (`SMFIC_RCPT`).
    Rcpt(Path),
    /// DATA, or the first BDAT (`SMFIC_DATA`).
    Data,
    /// A header field (`SMFIC_HEADER`).
    Header {
        /// Before the colon, and before blanks in front of it.
        name: Bytes,
        /// Behind the colon, with its leading blank if `SMFIP_HDR_LEADSPC` was agreed on, without the last
        /// line end; lines of a folded field end with LF.
        value: Bytes,
    },
    /// The header section is complete (`SMFIC_EOH`).
    EndOfHeader,
    /// A piece of the body, with CRLF at the end of lines (`SMFIC_BODY`).
    Body(Bytes),
    /// The message is complete; a last piece of the body, mostly empty (`SMFIC_BODYEOB`).
    EndOfMessage(Bytes),
    /// The message is given up, if there is one (`SMFIC_ABORT`).
    Abort,
    /// The client is gone, and so is the MTA (`SMFIC_QUIT`).
    Quit,
    /// The client is gone, and another one follows (`SMFIC_QUIT_NC`).
    QuitNewConnection,
    /// A command line that the MTA does not know (`SMFIC_UNKNOWN`).
    Unknown(Bytes),
}

/// What can be asked about and answered: the stages of a dialog, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "they are the commands of these names")]
pub enum Stage {
    Connect,
    Helo,
    Mail,
    Rcpt,
    Data,
    Header,
    EndOfHeader,
    Body,
    EndOfMessage,
    Unknown,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Connect,
        Self::Helo,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Header,
        Self::EndOfHeader,
        Self::Body,
        Self::EndOfMessage,
        Self::Unknown,
    ];

    /// Its letter in packets.
    pub fn letter(self) -> u8 {
        match self {
            Self::Connect => b'C',
            Self::Helo => b'H',
            Self::Mail => b'M',
            Self::Rcpt => b'R',
            Self::Data => b'T',
            Self::Header => b'L',
            Self::EndOfHeader => b'N',
            Self::Body => b'B',
            Self::EndOfMessage => b'E',
            Self::Unknown => b'U',
        }
    }

    /// What it is, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Helo => "HELO",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Header => "a header field",
            Self::EndOfHeader => "the end of the header section",
            Self::Body => "a piece of the body",
            Self::EndOfMessage => "the end of the message",
            Self::Unknown => "an unknown command",
        }
    }
}

/// Where a client connected from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    /// Over IPv4 or IPv6 (`SMFIA_INET`, `SMFIA_INET6`).
    Internet {
        /// Its address; a zone is left out.
        address: IpAddr,
        /// Its port; 0 if the MTA does not tell.
        port: u16,
    },
    /// Over a unix socket (`SMFIA_UNIX`), of this path.
    Unix(Bytes),
    /// The MTA can't tell (`SMFIA_UNKNOWN`).
    Unknown,
}

/// An address of the envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// As the client gave it: mostly in angle brackets.
    pub address: Bytes,
    /// Its ESMTP arguments.
    pub arguments: Vec<Bytes>,
}

/// Facts that the MTA gives for a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Macros {
    /// The stage.
    pub stage: Stage,
    /// Names and values.
    pub values: Vec<(MacroName, Bytes)>,
}

impl Macros {
    /// The value of a macro, whose name is given without braces.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.values.iter().find(|(known, _)| known.as_str() == name.as_bytes()).map(|(_, v)| v)
    }
}

/// The name of a macro: `i` and `{i}` are the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MacroName(Bytes);

impl MacroName {
    /// A name with or without braces.
    pub fn new(name: impl Into<Bytes>) -> Self {
        let name = name.into();
        let inside = name.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}"));
        Self(inside.map(|inside| name.slice_ref(inside)).unwrap_or(name))
    }

    /// The name without braces.
    pub fn as_str(&self) -> &[u8] {
        &self.0
    }

    /// As sendmail writes it: a single letter stands alone, others in braces.
    pub fn write(&self, out: &mut BytesMut) {
        if self.0.len() == 1 {
            return out.put_slice(&self.0);
        }
        out.put_u8(b'{');
        out.put_slice(&self.0);
        out.put_u8(b'}');
    }
}

impl Command {
    /// Appends the packet, as an MTA does.
    pub fn encode(&self, out: &mut BytesMut) {
        encode(out, self.letter(), |out| match self {
            Self::Negotiate(offer) => offer.write(out),
            Self::Macros(macros) => {
                out.put_u8(macros.stage.letter());
                for (name, value) in &macros.values {
                    name.write(out);
                    out.put_u8(0);
                    put_string(out, value);
                }
            }
            Self::Connect { host, client } => {
                put_string(out, host);
                write_client(client, out);
            }
            Self::Mail(path) | Self::Rcpt(path) => {
                put_string(out, &path.address);
                path.arguments.iter().for_each(|argument| put_string(out, argument));
            }
            Self::Header { name, value } => {
                put_string(out, name);
                put_string(out, value);
            }
            Self::Body(octets) | Self::EndOfMessage(octets) => out.put_slice(octets),
            Self::Helo(string) | Self::Unknown(string) => put_string(out, string),
            Self::Data | Self::EndOfHeader | Self::Abort | Self::Quit | Self::QuitNewConnection => {
            }
        });
    }

    /// The stage that it is; `None` for what is about the connection or the protocol.
    pub fn stage(&self) -> Option<Stage> {
        Some(match self {
            Self::Connect { .. } => Stage::Connect,
            Self::Helo(_) => Stage::Helo,
            Self::Mail(_) => Stage::Mail,
            Self::Rcpt(_) => Stage::Rcpt,
            Self::Data => Stage::Data,
            Self::Header { .. } => Stage::Header,
            Self::EndOfHeader => Stage::EndOfHeader,
            Self::Body(_) => Stage::Body,
            Self::EndOfMessage(_) => Stage::EndOfMessage,
            Self::Unknown(_) => Stage::Unknown,
            Self::Negotiate(_)
            | Self::Macros(_)
            | Self::Abort
            | Self::Quit
            | Self::QuitNewConnection => return None,
        })
    }

    /// What it is, for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Negotiate(_) => "a negotiation of options",
            Self::Macros(_) => "macros",
            Self::Abort => "ABORT",
            Self::Quit => "QUIT",
            Self::QuitNewConnection => "QUIT for a new connection",
            _ => self.stage().map_or("", Stage::name),
        }
    }

    fn letter(&self) -> u8 {
        match self {
            Self::Negotiate(_) => b'O',
            Self::Macros(_) => b'D',
            Self::Abort => b'A',
            Self::Quit => b'Q',
            Self::QuitNewConnection => b'K',
            _ => self.stage().map_or(0, Stage::letter),
        }
    }
}

fn write_client(client: &Client, out: &mut BytesMut) {
    let (family, port, address) = match client {
        Client::Internet { address: IpAddr::V4(address), port } => {
            (b'4', *port, address.to_string())
        }
        Client::Internet { address: IpAddr::V6(address), port } => {
            (b'6', *port, address.to_string())
        }
        Client::Unix(path) => {
            out.put_slice(b"L\0\0");
            return put_string(out, path);
        }
        Client::Unknown => return out.put_u8(b'U'),
    };
    out.put_u8(family);
    out.put_u16(port);
    put_string(out, address.as_bytes());
}

/// RFC 5322 section 2.2, and what is beyond ASCII (RFC 6532 has no such names, MTAs pass them).
pub(super) fn is_field_name(name: &[u8]) -> bool {
    let valid = |octet: &u8| *octet > b' ' && *octet != b':' && *octet != 0x7f;
    !name.is_empty() && name.iter().all(valid)
}

#[cfg(test)]
mod tests;
