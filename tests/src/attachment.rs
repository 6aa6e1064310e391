//! Mails with a text and an attachment.

/// A mail with a text and one attachment.
pub fn with_attachment(name: &str, octets: &[u8]) -> String {
    format!(
        "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
         --b\r\n\r\nhello\r\n--b\r\n{}\r\n--b--\r\n",
        attachment(name, octets)
    )
}

/// The attachment: its fields, and its octets in quoted-printable, each in three characters.
pub fn attachment(name: &str, octets: &[u8]) -> String {
    let line = |octets: &[u8]| octets.iter().map(|octet| format!("={octet:02X}")).collect();
    let lines: Vec<String> = octets.chunks(24).map(line).collect();
    format!(
        "Content-Type: application/octet-stream; name=\"{name}\"\r\n\
         Content-Transfer-Encoding: quoted-printable\r\n\r\n{}",
        lines.join("=\r\n")
    )
}

/// What stands in the mail of [`with_attachment`] in the place of the attachment, with this text.
pub fn with_notice(text: &str) -> String {
    let notice = format!(
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\
         Content-Disposition: attachment; filename=\"removed.txt\"\r\n\r\n{text}"
    );
    with_attachment("", b"").replace(&attachment("", b""), &notice)
}

/// The same mail without the attachment.
pub fn without_attachment() -> String {
    with_attachment("", b"").replace(&format!("--b\r\n{}\r\n", attachment("", b"")), "")
}

/// The least that is a document of Word with macros: the header of a compound file, and a folder `Macros`.
pub fn document_with_macros() -> Vec<u8> {
    let mut octets = vec![0; 640];
    octets[..8].copy_from_slice(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1");
    let name: Vec<u8> = "Macros\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    octets[512..512 + name.len()].copy_from_slice(&name);
    octets[512 + 64] = u8::try_from(name.len()).expect("a short name");
    octets[512 + 66] = 1;
    octets
}
