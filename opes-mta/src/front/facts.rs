//! Facts about a client in the form in which services get them.

use std::net::IpAddr;

use ocp_proto::wire::Atom;

/// Octets of a value, at most: longer ones say nothing that is worth the room.
const LONGEST_VALUE: usize = 1_024;

/// A value that can be passed on. Control characters become question marks: without them it could be
/// somebody else's name.
pub(super) fn text(value: &[u8]) -> Option<Atom> {
    let is_sound = !value.is_empty() && value.len() <= LONGEST_VALUE;
    let plain = |octet: &u8| if octet.is_ascii_control() { b'?' } else { *octet };
    is_sound.then(|| value.iter().map(plain).collect::<Vec<_>>().into())
}

/// An IP address in its usual form; sendmail and Postfix may put `IPv6:` before it, as SMTP does.
pub(super) fn address(value: &[u8]) -> Option<Atom> {
    let value = std::str::from_utf8(value).ok()?;
    let prefix = value.get(..5).filter(|start| start.eq_ignore_ascii_case("IPv6:"));
    let address: IpAddr = value.get(prefix.map_or(0, str::len)..)?.parse().ok()?;
    Some(address.to_string().into())
}

pub(super) fn port(value: &[u8]) -> Option<Atom> {
    let port: u16 = std::str::from_utf8(value).ok()?.parse().ok()?;
    (port > 0).then(|| port.to_string().into())
}
