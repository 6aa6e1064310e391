//! Base64 and quoted-printable (RFC 2045 sections 6.7 and 6.8) and encoded words, for what services write themselves.

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

/// The longest line of quoted-printable (RFC 2045 section 6.7).
const LONGEST_LINE: usize = 76;

/// Octets in quoted-printable. Line ends stay, those of their own and those of soft breaks alike.
pub(crate) fn encode_quoted_printable(octets: &[u8], line_end: &str) -> String {
    let mut text = String::with_capacity(octets.len() + octets.len() / 16);
    for line in octets.split_inclusive(|octet| *octet == b'\n') {
        let content = line.strip_suffix(b"\n").map(|rest| rest.strip_suffix(b"\r").unwrap_or(rest));
        let has_end = content.is_some();
        let content = content.unwrap_or(line);
        let mut length = 0;
        for (at, &octet) in content.iter().enumerate() {
            let is_last = at + 1 == content.len();
            // A blank at the end of a line does not survive.
            let is_plain = matches!(octet, b'!'..=b'<' | b'>'..=b'~')
                || (matches!(octet, b' ' | b'\t') && !is_last);
            let width = if is_plain { 1 } else { 3 };
            let most = if is_last { LONGEST_LINE } else { LONGEST_LINE - 1 };
            if length + width > most {
                text.push('=');
                text.push_str(line_end);
                length = 0;
            }
            match is_plain {
                true => text.push(char::from(octet)),
                false => text.push_str(&format!("={octet:02X}")),
            }
            length += width;
        }
        if has_end {
            text.push_str(line_end);
        }
    }
    text
}

/// Octets of text in an encoded word: 65 characters with all around it, where RFC 2047 section 2 allows 75 in a word
/// and 76 in a line.
const WORD_OCTETS: usize = 39;

/// A text in encoded words (RFC 2047), each of which stands for whole characters.
pub(crate) fn encoded_words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    for character in text.chars() {
        if word.len() + character.len_utf8() > WORD_OCTETS {
            words.push(std::mem::take(&mut word));
        }
        word.push(character);
    }
    words.push(word);
    words.iter().map(|word| format!("=?utf-8?B?{}?=", encode_base64(word.as_bytes()))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mail::{Mail, decode_base64};

    fn quoted_printable(encoded: &str) -> Vec<u8> {
        let header = "Content-Transfer-Encoding: quoted-printable\r\n\r\n".into();
        let mail = Mail::new(header, encoded.as_bytes().to_vec());
        mail.decoded(&mail.parts().unwrap()[0], usize::MAX).unwrap().octets.to_vec()
    }

    #[test]
    fn lines_stay_short() {
        let text = format!("{}=\u{fc} \r\n\tx ", "y".repeat(75));
        let encoded = encode_quoted_printable(text.as_bytes(), "\r\n");
        let full = encode_quoted_printable(&[b'y'; 78], "\r\n");
        assert_eq!(
            full,
            format!("{}=\r\nyyy", "y".repeat(75)),
            "a soft break takes the last place"
        );
        assert_eq!(encoded, format!("{}=\r\n=3D=C3=BC=20\r\n\tx=20", "y".repeat(75)));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(lines in prop::collection::vec("[^\r\n]{0,200}", 0..6), more: Vec<u8>) {
            let octets = lines.join("\r\n").into_bytes();
            let encoded = encode_quoted_printable(&octets, "\r\n");
            prop_assert!(encoded.lines().all(|line| line.len() <= LONGEST_LINE && line.is_ascii()));
            prop_assert_eq!(quoted_printable(&encoded), octets);
            prop_assert_eq!(decode_base64(encode_base64(&more).as_bytes(), usize::MAX), more);
        }
    }
}
