//! Where a client is: that of an SMTP dialog, or of a callout server.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the network.
    Address(IpAddr),
    /// On this host, at a unix socket.
    Unix,
    /// The mail server does not say. No set of clients has it.
    Unknown,
}

/// A set of clients: `192.0.2.0/24`, `2001:db8::/32`, `::1`, or `unix` for unix sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Every unix socket.
    Unix,
    /// The addresses whose first bits are those of this one.
    Network(IpAddr, u8),
}

impl Clients {
    /// Whether a client is one of them.
    pub fn contain(&self, origin: Origin) -> bool {
        match (self, origin) {
            (Self::Unix, Origin::Unix) => true,
            (Self::Network(network, length), Origin::Address(address)) => {
                // An IPv4 client of an IPv6 socket has an address of the form ::ffff:192.0.2.1.
                let address = address.to_canonical();
                address.is_ipv4() == network.is_ipv4()
                    && first_bits(address, *length) == first_bits(*network, *length)
            }
            _ => false,
        }
    }
}

/// The first bits of an address, the others cut off.
fn first_bits(address: IpAddr, length: u8) -> u128 {
    let (bits, width) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    // A shift by all 128 bits is none.
    bits.checked_shr(width - u32::from(length).min(width)).unwrap_or_default()
}

impl FromStr for Clients {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let wrong = || {
            format!("{text} is no address: write 192.0.2.0/24, 2001:db8::/32, a whole one, or unix")
        };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let length: u8 = length.map_or(Ok(width), str::parse).map_err(|_| wrong())?;
        if length > width {
            return Err(format!("{text}: the prefix has more than {width} bits"));
        }
        if address.to_canonical() != address {
            return Err(format!("{text}: write the IPv4 address {}", address.to_canonical()));
        }
        let bits = first_bits(address, width);
        let behind = u32::from(width - length);
        if bits.trailing_zeros() < behind {
            return Err(format!("{text}: there are bits behind the first {length}"));
        }
        Ok(Self::Network(address, length))
    }
}

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix => f.write_str("unix"),
            Self::Network(address, length) => write!(f, "{address}/{length}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_the_addresses_with_their_first_bits() {
        let cases = [
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("192.0.2.128/25", "192.0.2.127", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.0/24", "::ffff:192.0.2.7", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "192.0.2.1", false),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("::1", "::1", true),
            ("unix", "127.0.0.1", false),
        ];
        for (network, address, inside) in cases {
            let clients: Clients = network.parse().unwrap();
            let origin = Origin::Address(address.parse().unwrap());
            assert_eq!(clients.contain(origin), inside, "{network} {address}");
            assert!(!clients.contain(Origin::Unknown), "{network}");
        }
        assert!(Clients::Unix.contain(Origin::Unix));
        assert!(!"0.0.0.0/0".parse::<Clients>().unwrap().contain(Origin::Unix));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for wrong in [
            "",
            "unix:",
            "/",
            "192.0.2.0/",
            "192.0.2.0/33",
            "::/129",
            "192.0.2/24",
            "192.0.2.1/24",
            "192.0.2.1/0",
            "2001:db8::1/32",
            "::ffff:192.0.2.0/120",
            "192.0.2.0/-1",
            "host",
            "192.0.2.0/24/8",
        ] {
            assert!(wrong.parse::<Clients>().is_err(), "{wrong}");
        }
        for right in ["0.0.0.0/0", "::/0", "192.0.2.0/23", "2001:db8::/32"] {
            assert_eq!(right.parse::<Clients>().unwrap().to_string(), right);
        }
    }
}
