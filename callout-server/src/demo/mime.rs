//! Just enough MIME to write the demo's mails. Lines end with `\n` until the mail is whole.

use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;

/// Octets in a line of base64, before its line end (RFC 2045 section 6.8).
const LINE: usize = 76;

/// A mail with these fields, besides MIME-Version, and this body. The lines of both end with `\n`.
pub(super) fn mail(header: &str, body: &str) -> Vec<u8> {
    format!("{header}MIME-Version: 1.0\n\n{body}").replace('\n', "\r\n").into_bytes()
}

/// A multipart body of these parts.
pub(super) fn multipart(boundary: &str, parts: &[String]) -> String {
    let mut body = String::new();
    for part in parts {
        body.push_str(&format!("--{boundary}\n{part}\n"));
    }
    body + &format!("--{boundary}--\n")
}

/// A part of text.
pub(super) fn text(subtype: &str, text: &str) -> String {
    format!(
        "Content-Type: text/{subtype}; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n{text}"
    )
}

/// A part with a file in base64.
pub(super) fn attachment(content_type: &str, name: &str, octets: &[u8]) -> String {
    format!(
        "Content-Type: {content_type}; name=\"{name}\"\n\
         Content-Transfer-Encoding: base64\n\
         Content-Disposition: attachment; filename=\"{name}\"\n\n{}",
        base64(octets)
    )
}

/// A zip archive with one file in it.
pub(super) fn zip(name: &str, octets: &[u8]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().last_modified_time(zip::DateTime::default());
    archive
        .start_file(name, options)
        .and_then(|()| Ok(archive.write_all(octets)?))
        .and_then(|()| archive.finish())
        .expect("memory takes everything, and one short name is valid")
        .into_inner()
}

fn base64(octets: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::with_capacity(octets.len() / 3 * 4 + octets.len() / 57 + 8);
    let mut column = 0;
    for group in octets.chunks(3) {
        let bits = group.iter().fold(0, |bits, octet| bits << 8 | usize::from(*octet));
        let bits = bits << (8 * (3 - group.len()));
        for position in 0..4 {
            let value = bits >> (18 - 6 * position) & 0x3f;
            let digit = ALPHABET.get(value).filter(|_| position <= group.len()).unwrap_or(&b'=');
            encoded.push(char::from(*digit));
        }
        column += 4;
        if column == LINE {
            encoded.push('\n');
            column = 0;
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_comes_back() {
        for size in [0, 1, 2, 3, 56, 57, 58, 1_000] {
            let octets: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let encoded = base64(&octets);
            assert!(encoded.lines().all(|line| line.len() <= LINE));
            assert_eq!(services::mail::decode_base64(encoded.as_bytes(), 2_000), octets);
        }
        assert_eq!(base64(b"hello"), "aGVsbG8=");
    }
}
