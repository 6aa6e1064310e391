//! Base64 (RFC 2045 section 6.8), for what services write themselves.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Groups of four characters in a line: 76 of them.
const GROUPS: usize = 19;

/// Octets in base64, in lines of 76 characters with CRLF between them.
pub(crate) fn encode_base64(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len() / 3 * 4 + octets.len() / 28 + 4);
    for (index, group) in octets.chunks(3).enumerate() {
        if index > 0 && index % GROUPS == 0 {
            text.push_str("\r\n");
        }
        let bits = group.iter().fold(0u32, |bits, octet| bits << 8 | u32::from(*octet));
        let bits = bits << (8 * (3 - group.len()));
        for place in 0..4 {
            let sextet = (bits >> (18 - 6 * place) & 63) as usize;
            let character = ALPHABET.get(sextet).filter(|_| place <= group.len());
            text.push(character.map_or('=', |octet| char::from(*octet)));
        }
    }
    text
}
