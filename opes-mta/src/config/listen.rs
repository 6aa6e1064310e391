//! Where front ends listen.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::ocp::ServerAddress;

/// A front end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// What rules and the log call it.
    pub name: String,
    /// Where mail servers bring it their mail by the milter protocol.
    pub milter: MilterAddress,
}

/// `inet:HOST:PORT` or `unix:PATH`, as Postfix writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MilterAddress {
    /// `HOST:PORT`; the host is a name or an address, IPv6 in brackets.
    Inet(String),
    /// A unix socket.
    Unix(PathBuf),
}

/// An address for those who operate it: `HOST:PORT`.
///
/// # Errors
/// If it is none, or of another kind.
pub fn admin_address(text: &str) -> Result<String, String> {
    match text.parse() {
        Ok(ServerAddress::Tcp(address)) => Ok(address),
        _ => Err(format!("{text} is no address of the admin listener: write HOST:PORT")),
    }
}

impl FromStr for MilterAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").map(PathBuf::from)
            && path.is_absolute()
        {
            return Ok(Self::Unix(path));
        }
        if let Some(rest) = text.strip_prefix("inet:")
            && let Ok(ServerAddress::Tcp(address)) = rest.parse()
        {
            return Ok(Self::Inet(address));
        }
        Err(format!(
            "`{text}` is neither inet:HOST:PORT, such as inet:127.0.0.1:8899, nor unix:/PATH"
        ))
    }
}

impl MilterAddress {
    /// Without `inet:`, as next hops and `opes-mta smtp --listen` have it.
    pub fn without_kind(&self) -> String {
        match self {
            Self::Inet(address) => address.clone(),
            Self::Unix(_) => self.to_string(),
        }
    }
}

impl fmt::Display for MilterAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => write!(f, "inet:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_port_or_a_path() {
        for right in ["inet:127.0.0.1:8899", "inet:[::1]:8899", "inet:localhost:1", "unix:/run/x"] {
            let address = right.parse::<MilterAddress>().unwrap();
            assert_eq!(address.to_string(), right);
            assert_eq!(address.without_kind(), right.strip_prefix("inet:").unwrap_or(right));
        }
        for wrong in [
            "",
            "127.0.0.1:8899",
            "inet:8899",
            "inet:8899@localhost",
            "inet:unix:/x",
            "inet:tls:a:1",
            "inet:::1:8899",
            "unix:",
            "unix:run/x",
            "tls:a:1",
        ] {
            assert!(wrong.parse::<MilterAddress>().is_err(), "{wrong}");
        }
    }
}
