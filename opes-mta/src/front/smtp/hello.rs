//! What the client is offered: what the next hop offers, as far as it gets through us, and what we do
//! ourselves.

use ocp_proto::smtp::Reply;

use crate::bypass;
use crate::smtp::extensions::{PRDR, STARTTLS};

/// Extensions that concern what goes through us as it is. Others are not passed on: what we do not know
/// may change what follows.
const PASSED_ON: [&str; 9] =
    ["SIZE", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "AUTH", "VRFY", "EXPN", "HELP"];

/// What we do whatever the next hop does.
const OURS: [&str; 3] = ["PIPELINING", "CHUNKING", PRDR];

/// Mechanisms of AUTH behind which what is said may be encrypted for the next hop alone.
const WITH_LAYER: [&str; 4] = ["GSSAPI", "GS2-KRB5", "DIGEST-MD5", "NTLM"];

/// Attributes that a peer is heard with.
const SPEAKING: [&str; 2] = [
    "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE",
    "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT",
];

/// What is offered beyond what gets through of the next hop's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    /// The client may say for whom it speaks (XFORWARD), or who it is (XCLIENT).
    pub(super) speaking: bool,
    /// It may begin TLS.
    pub(super) starttls: bool,
    /// It may authenticate, if the next hop says so.
    pub(super) auth: bool,
    /// It may ask for a reply for each recipient; over LMTP there is one without.
    pub(super) prdr: bool,
    /// It may ask for services to be skipped.
    pub(super) bypass: bool,
}

/// The answer to EHLO, made of the next hop's: its first line, and the extensions.
pub(super) fn answer(hop: &Reply, offer: Offer) -> Reply {
    let mut lines = hop.lines().map(|line| line.get(4..).unwrap_or_default().to_vec());
    let first = lines.next().unwrap_or_default();
    let mut said = vec![first];
    let passed_on = lines.filter_map(|line| passed_on(&line));
    said.extend(passed_on.filter(|line| offer.auth || !is_auth(line)));
    let ours = OURS.iter().filter(|keyword| **keyword != PRDR || offer.prdr);
    said.extend(ours.map(|keyword| keyword.as_bytes().to_vec()));
    if offer.bypass {
        said.push(bypass::PARAMETER.as_bytes().to_vec());
    }
    if offer.starttls {
        said.push(STARTTLS.as_bytes().to_vec());
    }
    if offer.speaking {
        said.extend(SPEAKING.iter().map(|keyword| keyword.as_bytes().to_vec()));
    }
    let mut octets = Vec::new();
    for (number, line) in said.iter().enumerate() {
        let is_last = number + 1 == said.len();
        octets.extend_from_slice(if is_last { b"250 " } else { b"250-" });
        octets.extend_from_slice(line);
        octets.extend_from_slice(b"\r\n");
    }
    Reply::parse(octets).unwrap_or_else(|_| hop.clone())
}

/// The answer to HELO, made of the next hop's to EHLO: its first line.
pub(super) fn without_extensions(hop: &Reply) -> Reply {
    let first = hop.lines().next().unwrap_or_default();
    let octets = [b"250 ", first.get(4..).unwrap_or_default(), b"\r\n"].concat();
    Reply::parse(octets).unwrap_or_else(|_| hop.clone())
}

/// An extension as the client is offered it.
fn passed_on(line: &[u8]) -> Option<Vec<u8>> {
    let is = |known: &&str, word: &[u8]| known.as_bytes().eq_ignore_ascii_case(word);
    let mut words = line.split(|octet| matches!(octet, b' ' | b'='));
    let keyword = words.next()?;
    PASSED_ON.iter().find(|known| is(known, keyword))?;
    if !keyword.eq_ignore_ascii_case(b"AUTH") {
        return Some(line.to_vec());
    }
    let clear = |word: &&[u8]| !WITH_LAYER.iter().any(|known| is(known, word));
    let mechanisms: Vec<_> = words.filter(clear).collect();
    let separator = line.get(keyword.len()..=keyword.len())?;
    Some([keyword, separator, &mechanisms.join(&b' ')].concat())
}

/// Whether a line that is passed on is about AUTH; old servers write `AUTH=`.
fn is_auth(line: &[u8]) -> bool {
    line.get(..4).is_some_and(|keyword| keyword.eq_ignore_ascii_case(b"AUTH"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &'static str) -> Reply {
        Reply::parse(text).unwrap()
    }

    #[test]
    fn what_gets_through_is_offered() {
        let hop = reply(
            "250-mx.example greets you\r\n250-SIZE 1000\r\n250-STARTTLS\r\n250-AUTH PLAIN gssapi LOGIN\r\n\
             250-auth=PLAIN\r\n250-XCLIENT NAME\r\n250-BINARYMIME\r\n250-PIPELINING\r\n250-dsn\r\n\
             250 X-NEW\r\n",
        );
        let expected = "250-mx.example greets you\r\n250-SIZE 1000\r\n250-AUTH PLAIN LOGIN\r\n\
                        250-auth=PLAIN\r\n250-dsn\r\n250-PIPELINING\r\n250 CHUNKING\r\n";
        let offer =
            Offer { speaking: false, starttls: false, auth: true, prdr: false, bypass: false };
        assert_eq!(answer(&hop, offer), reply(expected));
        let without = expected.replace("250-AUTH PLAIN LOGIN\r\n250-auth=PLAIN\r\n", "");
        let bare =
            Reply::parse(without.replace("250 CHUNKING", "250-CHUNKING") + "250 STARTTLS\r\n");
        let secure = answer(&hop, Offer { starttls: true, auth: false, ..offer });
        assert_eq!(secure, bare.unwrap());
        let all = Offer { speaking: true, prdr: true, bypass: true, ..offer };
        let bare = answer(&reply("250 mx\r\n"), all);
        let expected = "250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-PRDR\r\n250-XOPES-BYPASS\r\n\
                        250-XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE\r\n\
                        250 XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\r\n";
        assert_eq!(bare, reply(expected));
    }
}
