//! Packets to commands.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use super::{Client, Command, MacroName, Macros, Path, Stage, is_field_name};
use crate::milter::options::Offer;
use crate::milter::packet::Packet;

/// The most strings in one command. Postfix sends some ten macros and arguments. Worst case a command:
/// 1,024 × 32 octets beside its packet.
pub const MAXIMUM_STRINGS: usize = 1_024;

/// A command that is not what its letter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("milter command {}, octet {at} of its data: {rule}", shown(*letter))]
pub struct InvalidCommand {
    /// The command's letter.
    pub letter: u8,
    /// Where in its data.
    pub at: usize,
    /// What has to stand there.
    pub rule: Rule,
}

fn shown(letter: u8) -> String {
    match letter {
        letter if letter.is_ascii_graphic() => format!("'{}'", char::from(letter)),
        letter => format!("0x{letter:02x}"),
    }
}

/// What has to stand in a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "their texts say it")]
pub enum Rule {
    #[error("no such command in version 6")]
    Letter,
    #[error("nothing follows")]
    End,
    #[error("a string that ends with NUL")]
    String,
    #[error("no more than {MAXIMUM_STRINGS} strings")]
    Count,
    #[error("version, actions and steps, of four octets each")]
    Offer,
    #[error("the letter of a stage")]
    Stage,
    #[error("the name of a macro")]
    MacroName,
    #[error("a value for each macro")]
    MacroValue,
    #[error("an address family: 4, 6, L or U")]
    Family,
    #[error("a port of two octets")]
    Port,
    #[error("an address of its family")]
    Address,
    #[error("an address of the envelope")]
    Path,
    #[error("the name of a header field: visible characters without a colon")]
    FieldName,
}

impl Command {
    /// Reads what a packet says; all of it has to have a meaning.
    ///
    /// # Errors
    /// The first octet that should not be there.
    pub fn parse(packet: Packet) -> Result<Self, InvalidCommand> {
        let Packet { letter, data } = packet;
        let mut reader = Reader { letter, length: data.len(), left: data };
        let command = match letter {
            b'B' => return Ok(Self::Body(reader.left)),
            b'E' => return Ok(Self::EndOfMessage(reader.left)),
            b'O' => Self::Negotiate(reader.offer()?),
            b'D' => Self::Macros(reader.macros()?),
            b'C' => Self::Connect { host: reader.string()?, client: reader.client()? },
            b'H' => Self::Helo(reader.string()?),
            b'M' => Self::Mail(reader.path()?),
            b'R' => Self::Rcpt(reader.path()?),
            b'T' => Self::Data,
            b'L' => Self::Header { name: reader.field_name()?, value: reader.string()? },
            b'N' => Self::EndOfHeader,
            b'A' => Self::Abort,
            b'Q' => Self::Quit,
            b'K' => Self::QuitNewConnection,
            b'U' => Self::Unknown(reader.string()?),
            _ => return Err(reader.invalid(Rule::Letter)),
        };
        if reader.left.is_empty() { Ok(command) } else { Err(reader.invalid(Rule::End)) }
    }
}

/// Data of a packet, taken from its front.
struct Reader {
    letter: u8,
    length: usize,
    left: Bytes,
}

impl Reader {
    /// The rule that the next octet breaks.
    fn invalid(&self, rule: Rule) -> InvalidCommand {
        InvalidCommand { letter: self.letter, at: self.length - self.left.len(), rule }
    }

    fn string(&mut self) -> Result<Bytes, InvalidCommand> {
        let end = memchr::memchr(0, &self.left).ok_or_else(|| self.invalid(Rule::String))?;
        let string = self.left.split_to(end);
        self.octets::<1>(Rule::String)?;
        Ok(string)
    }

    /// A string that is valid; if not, it broke this rule.
    fn string_if<T>(
        &mut self,
        rule: Rule,
        valid: impl FnOnce(Bytes) -> Option<T>,
    ) -> Result<T, InvalidCommand> {
        let invalid = self.invalid(rule);
        valid(self.string()?).ok_or(invalid)
    }

    fn octets<const N: usize>(&mut self, rule: Rule) -> Result<[u8; N], InvalidCommand> {
        let octets = *self.left.first_chunk::<N>().ok_or_else(|| self.invalid(rule))?;
        drop(self.left.split_to(N));
        Ok(octets)
    }

    /// Each of the strings that are left.
    fn rest<T>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<T, InvalidCommand>,
    ) -> Result<Vec<T>, InvalidCommand> {
        let mut all = Vec::new();
        while !self.left.is_empty() {
            if all.len() == MAXIMUM_STRINGS {
                return Err(self.invalid(Rule::Count));
            }
            all.push(one(self)?);
        }
        Ok(all)
    }

    fn offer(&mut self) -> Result<Offer, InvalidCommand> {
        let mut number = || self.octets(Rule::Offer).map(u32::from_be_bytes);
        Ok(Offer::new(number()?, number()?, number()?))
    }

    fn macros(&mut self) -> Result<Macros, InvalidCommand> {
        let invalid = self.invalid(Rule::Stage);
        let [letter] = self.octets(Rule::Stage)?;
        let stage = Stage::ALL.into_iter().find(|stage| stage.letter() == letter).ok_or(invalid)?;
        let values = self.rest(|reader| {
            let name = reader.string_if(Rule::MacroName, |name| {
                let name = MacroName::new(name);
                (!name.as_str().is_empty()).then_some(name)
            })?;
            if reader.left.is_empty() {
                return Err(reader.invalid(Rule::MacroValue));
            }
            Ok((name, reader.string()?))
        })?;
        Ok(Macros { stage, values })
    }

    fn client(&mut self) -> Result<Client, InvalidCommand> {
        let invalid = self.invalid(Rule::Family);
        let [family] = self.octets(Rule::Family)?;
        if family == b'U' {
            return Ok(Client::Unknown);
        }
        if !matches!(family, b'4' | b'6' | b'L') {
            return Err(invalid);
        }
        let port = u16::from_be_bytes(self.octets(Rule::Port)?);
        if family == b'L' {
            return Ok(Client::Unix(self.string()?));
        }
        let address = self.string_if(Rule::Address, |text| address(family, &text))?;
        Ok(Client::Internet { address, port })
    }

    fn path(&mut self) -> Result<Path, InvalidCommand> {
        let nonempty = |address: Bytes| (!address.is_empty()).then_some(address);
        let address = self.string_if(Rule::Path, nonempty)?;
        Ok(Path { address, arguments: self.rest(Self::string)? })
    }

    fn field_name(&mut self) -> Result<Bytes, InvalidCommand> {
        self.string_if(Rule::FieldName, |name| is_field_name(&name).then_some(name))
    }
}

/// sendmail writes `IPv6:` before an address, and both may write a zone behind it.
fn address(family: u8, text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if family == b'4' {
        return text.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let text = text.strip_prefix("IPv6:").unwrap_or(text);
    let address = text.split_once('%').map_or(text, |(address, _zone)| address);
    address.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}
