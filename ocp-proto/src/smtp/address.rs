//! Envelope addresses (profile section 2).

use std::fmt;

use crate::wire::{Atom, Name, NamedValues, Structure, Value};

/// A path in angle brackets, source route removed, with its ESMTP parameters. The null sender is
/// `<>`. Compared octet by octet with the envelope, parameters left aside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    path: Atom,
    /// ESMTP parameters as written, such as `NOTIFY=NEVER`.
    pub parameters: Vec<Atom>,
}

/// The longest path, angle brackets included. RFC 5321 section 4.5.3.1.3 says 256; SMTPUTF8 counts
/// octets, and real mail goes beyond, so four times that.
const LONGEST_PATH: usize = 1_024;

/// The longest ESMTP parameter (RFC 5321 leaves it to the 512 octets of the command line; DSN's
/// ORCPT alone adds 500, RFC 3461 section 5.4).
const LONGEST_PARAMETER: usize = 1_024;

impl Address {
    /// The address with this path and no parameters, or what is wrong with it.
    pub fn new(path: impl Into<Atom>) -> Result<Self, AddressError> {
        let path = path.into();
        if path.len() > LONGEST_PATH {
            return Err(AddressError::Length(path.len()));
        }
        let inner = path
            .strip_prefix(b"<")
            .and_then(|rest| rest.strip_suffix(b">"))
            .ok_or(AddressError::Brackets)?;
        match inner.iter().find(|octet| octet.is_ascii_control()) {
            Some(&octet) => Err(AddressError::Octet(octet)),
            None => Ok(Self { path, parameters: Vec::new() }),
        }
    }

    /// The null sender, `<>`.
    pub fn null() -> Self {
        Self { path: Atom::from_static(b"<>"), parameters: Vec::new() }
    }

    /// The same address with ESMTP parameters, or what is wrong with them.
    pub fn with_parameters(mut self, parameters: Vec<Atom>) -> Result<Self, AddressError> {
        for parameter in &parameters {
            if parameter.is_empty() || parameter.len() > LONGEST_PARAMETER {
                return Err(AddressError::Length(parameter.len()));
            }
            if let Some(&octet) = parameter.iter().find(|o| o.is_ascii_control() || **o == b' ') {
                return Err(AddressError::Octet(octet));
            }
        }
        self.parameters = parameters;
        Ok(self)
    }

    /// The path, with its angle brackets.
    pub fn path(&self) -> &Atom {
        &self.path
    }

    /// The mailbox without angle brackets; empty for the null sender.
    pub fn mailbox(&self) -> &[u8] {
        self.path.get(1..self.path.len().saturating_sub(1)).unwrap_or_default()
    }

    /// Whether this is the null sender.
    pub fn is_null(&self) -> bool {
        self.path == b"<>".as_slice()
    }

    /// Local part and domain, split at the last `@` (a quoted local part may hold more of them).
    pub fn local_and_domain(&self) -> Option<(&[u8], &[u8])> {
        let mailbox = self.mailbox();
        let at = memchr::memrchr(b'@', mailbox)?;
        Some((mailbox.get(..at)?, mailbox.get(at + 1..)?))
    }

    /// The address in a value, or `None` if it is none.
    pub fn from_value(value: &Value) -> Option<Self> {
        let structure = value.as_structure()?;
        let address = Self::new(structure.members.first()?.as_atom()?.clone()).ok()?;
        let Some(parameters) = structure.named.get("Params") else { return Some(address) };
        let parameters: Option<Vec<Atom>> =
            parameters.as_list()?.iter().map(|parameter| parameter.as_atom().cloned()).collect();
        address.with_parameters(parameters?).ok()
    }

    /// The address as a value.
    pub fn to_value(&self) -> Value {
        let mut named = NamedValues::new();
        if !self.parameters.is_empty() {
            let parameters = self.parameters.iter().cloned().map(Value::Atom).collect();
            named.push(Name::from_static("Params"), Value::List(parameters));
        }
        Value::Structure(Structure { members: vec![Value::Atom(self.path.clone())], named })
    }

    /// The addresses in a list.
    pub fn list_from_value(value: &Value) -> Option<Vec<Self>> {
        value.as_list()?.iter().map(Self::from_value).collect()
    }

    /// A list of addresses.
    pub fn list_to_value(addresses: &[Self]) -> Value {
        Value::List(addresses.iter().map(Self::to_value).collect())
    }
}

impl fmt::Display for Address {
    /// The path; octets that are no UTF-8 are replaced.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.path))
    }
}

/// Why octets are no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not in angle brackets.
    #[error("an address stands in angle brackets")]
    Brackets,
    /// A control character, or a blank in a parameter.
    #[error("octet 0x{0:02x} is not allowed in an address")]
    Octet(u8),
    /// Too long, or an empty parameter.
    #[error(
        "an address has at most {LONGEST_PATH} octets and each parameter 1 to {LONGEST_PARAMETER}, not {0}"
    )]
    Length(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stands_in_brackets_and_holds_no_line_end() {
        assert_eq!(Address::new("a@b"), Err(AddressError::Brackets));
        assert_eq!(Address::new("<a@b\r\n>"), Err(AddressError::Octet(b'\r')));
        assert_eq!(Address::new(vec![b'<'; 2_000]), Err(AddressError::Length(2_000)));
        assert!(Address::new("<>").unwrap().is_null());
        let quoted = Address::new("<\"a@b\"@example.org>").unwrap();
        assert_eq!(quoted.local_and_domain(), Some((&b"\"a@b\""[..], &b"example.org"[..])));
    }

    #[test]
    fn parameters_survive_the_wire() {
        let address = Address::new("<a@b>").unwrap();
        let address = address.with_parameters(vec![Atom::from_static(b"NOTIFY=NEVER")]).unwrap();
        assert_eq!(Address::from_value(&address.to_value()), Some(address));
        assert_eq!(Address::from_value(&Value::atom("<a@b>")), None);
    }
}
