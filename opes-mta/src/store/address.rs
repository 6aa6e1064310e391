//! Addresses in files: `{"path": "<a@b>", "parameters": ["NOTIFY=NEVER"]}`.
//!
//! Octets that are no UTF-8 can't stand in JSON's texts: such a path or parameter is a list of numbers.

use ocp_proto::smtp::Address;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    path: Octets,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parameters: Vec<Octets>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Octets {
    Text(String),
    Numbers(Vec<u8>),
}

impl Octets {
    fn new(octets: &[u8]) -> Self {
        match std::str::from_utf8(octets) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Numbers(octets.to_owned()),
        }
    }

    fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.into_bytes(),
            Self::Numbers(numbers) => numbers,
        }
    }
}

/// Writes an address; for `#[serde(with)]`.
pub fn serialize<S: Serializer>(address: &Address, serializer: S) -> Result<S::Ok, S::Error> {
    Written {
        path: Octets::new(address.path()),
        parameters: address.parameters.iter().map(|parameter| Octets::new(parameter)).collect(),
    }
    .serialize(serializer)
}

/// Reads an address; for `#[serde(with)]`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
    let Written { path, parameters } = Written::deserialize(deserializer)?;
    let parameters = parameters.into_iter().map(|parameter| parameter.into_vec().into()).collect();
    Address::new(path.into_vec())
        .and_then(|address| address.with_parameters(parameters))
        .map_err(D::Error::custom)
}

/// The value of an ESMTP parameter of an address, whatever the case of its name.
pub fn parameter<'a>(address: &'a Address, name: &str) -> Option<&'a [u8]> {
    address.parameters.iter().find_map(|parameter| {
        let (written, value) = parameter.split_at_checked(name.len())?;
        match value.split_first() {
            _ if !written.eq_ignore_ascii_case(name.as_bytes()) => None,
            None => Some(value),
            Some((b'=', value)) => Some(value),
            Some(_) => None,
        }
    })
}
