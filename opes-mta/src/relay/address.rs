//! Where the next hop listens.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// `HOST:PORT`, `[IPv6]:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NextHopAddress {
    /// A TCP port.
    Tcp {
        /// A name or an address, IPv6 without its brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// Neither `HOST:PORT` nor `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither HOST:PORT, such as mail.example:25 or [::1]:25, nor unix:PATH")]
pub struct AddressSyntax(String);

impl FromStr for NextHopAddress {
    type Err = AddressSyntax;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || AddressSyntax(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(wrong()) } else { Ok(Self::Unix(path.into())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_right = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '[', ']', '/', ' ']),
        };
        let host = bracketed.unwrap_or(host).to_owned();
        if is_right { Ok(Self::Tcp { host, port }) } else { Err(wrong()) }
    }
}

impl fmt::Display for NextHopAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_port_or_a_path() {
        for right in ["127.0.0.1:25", "[::1]:24", "mail.example:25", "unix:/run/lmtp"] {
            assert_eq!(right.parse::<NextHopAddress>().unwrap().to_string(), right);
        }
        for wrong in [
            "", "mail", ":25", "::1:25", "[::1]", "[x]:25", "a:70000", "a:0", "a:b", "unix:",
            "a b:25",
        ] {
            assert_eq!(wrong.parse::<NextHopAddress>(), Err(AddressSyntax(wrong.into())));
        }
    }
}
