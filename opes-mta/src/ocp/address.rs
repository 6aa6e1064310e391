//! Where a callout server listens.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// `HOST:PORT`, `tls:HOST:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    /// A TCP port; the host is a name or an address, IPv6 in brackets.
    Tcp(String),
    /// A TCP port on which TLS comes first, without negotiation.
    Tls(String),
    /// A unix socket.
    Unix(PathBuf),
}

/// Neither `HOST:PORT`, with or without `tls:` before it, nor `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither HOST:PORT, such as 127.0.0.1:4037, nor tls:HOST:PORT, nor unix:PATH")]
pub struct AddressSyntax(String);

impl FromStr for ServerAddress {
    type Err = AddressSyntax;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || AddressSyntax(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(wrong()) } else { Ok(Self::Unix(path.into())) };
        }
        let (address, tls) = match text.strip_prefix("tls:") {
            Some(address) => (address, true),
            None => (text, false),
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        if host.is_empty() || bare_ipv6 || port.parse::<u16>().is_err() {
            return Err(wrong());
        }
        let address = address.to_owned();
        Ok(if tls { Self::Tls(address) } else { Self::Tcp(address) })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Tls(address) => write!(f, "tls:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_port_or_a_path() {
        for right in [
            "127.0.0.1:4037",
            "[::1]:4037",
            "mail.example:4037",
            "unix:/run/ocp.sock",
            "tls:mail.example:4038",
            "tls:[::1]:4038",
        ] {
            assert_eq!(right.parse::<ServerAddress>().unwrap().to_string(), right);
        }
        for wrong in [
            "",
            "localhost",
            ":4037",
            "::1:4037",
            "a:70000",
            "a:b",
            "unix:",
            "tls:",
            "tls:a",
            "tls:::1:1",
        ] {
            assert_eq!(wrong.parse::<ServerAddress>(), Err(AddressSyntax(wrong.into())));
        }
    }
}
