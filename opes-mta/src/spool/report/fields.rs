//! The lines of a notification.

use bytes::Bytes;

/// Where a field is folded (RFC 5322 section 2.1.1).
const LINE: usize = 78;
/// Characters of what a next hop said: a field of them stays within a line of 998 octets.
const LONGEST_TEXT: usize = 900;

/// Lines with their line ends.
#[derive(Debug, Default)]
pub(super) struct Fields(String);

impl Fields {
    /// A line.
    pub(super) fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push_str("\r\n");
    }

    /// A field, folded at its blanks.
    pub(super) fn field(&mut self, name: &str, value: &str) {
        self.0.push_str(name);
        self.0.push(':');
        let mut line = name.len() + 1;
        for (number, word) in value.split(' ').filter(|word| !word.is_empty()).enumerate() {
            let folds = number > 0 && line + 1 + word.len() > LINE;
            self.0.push_str(if folds { "\r\n " } else { " " });
            line = if folds { 1 } else { line + 1 } + word.len();
            self.0.push_str(word);
        }
        self.0.push_str("\r\n");
    }

    /// How a part is encoded: not at all.
    pub(super) fn encoding(&mut self, ascii: bool) {
        self.field("Content-Transfer-Encoding", if ascii { "7bit" } else { "8bit" });
    }

    pub(super) fn into_octets(self) -> Bytes {
        self.0.into()
    }
}

/// What a peer said, without what would end a line or is no ASCII.
pub(super) fn printable(text: &str) -> String {
    let shown = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    text.chars().take(LONGEST_TEXT).map(shown).collect()
}

/// The status code (RFC 3463): the one of the reply or of our own words if there is one, or one that says its
/// class.
pub(super) fn status(reply: &str, class: char) -> String {
    let (code, text) = reply.split_at_checked(3).unwrap_or_default();
    if !is_code(code) {
        // Nothing was said until it was too late: delivery time expired.
        let expired = if class == '2' { "2.0.0" } else { "4.4.7" };
        return enhanced(reply, &["2", "4", "5"]).unwrap_or(expired).to_owned();
    }
    let first = code.get(..1).unwrap_or_default();
    let status = enhanced(text.trim_start_matches(['-', ' ']), &[first]);
    status.map_or_else(|| format!("{first}.0.0"), str::to_owned)
}

/// The status code that a text begins with, if it is of one of these classes.
fn enhanced<'a>(text: &'a str, classes: &[&str]) -> Option<&'a str> {
    let word = text.split(' ').next()?;
    let numbers: Vec<&str> = word.split('.').collect();
    let is_number = |number: &&str| {
        (1..=3).contains(&number.len()) && number.bytes().all(|octet| octet.is_ascii_digit())
    };
    let [class, _, _] = &numbers[..] else { return None };
    (numbers.iter().all(is_number) && classes.contains(class)).then_some(word)
}

/// The field's value for what a next hop said, or for our own words.
pub(super) fn diagnostic(reply: &str) -> String {
    let code = reply.get(..3).unwrap_or_default();
    let kind = if is_code(code) { "smtp" } else { "x-opes-mta" };
    format!("{kind}; {}", printable(reply))
}

fn is_code(code: &str) -> bool {
    matches!(code.as_bytes(), [b'2'..=b'5', second, third] if second.is_ascii_digit() && third.is_ascii_digit())
}

/// The field's value for ORCPT, `rfc822;xtext` (RFC 3461 section 4.2).
pub(super) fn original_recipient(value: &[u8]) -> String {
    let at = memchr::memchr(b';', value);
    let (kind, address) = match at.and_then(|at| value.split_at_checked(at)) {
        Some((kind, address)) => (kind, address.get(1..).unwrap_or_default()),
        None => (&b"rfc822"[..], value),
    };
    format!("{}; {}", printable(&String::from_utf8_lossy(kind)), xtext(address))
}

/// What stands in xtext (RFC 3461 section 4), or the xtext itself where that is not printable.
pub(super) fn xtext(octets: &[u8]) -> String {
    let written = || printable(&String::from_utf8_lossy(octets));
    let (mut decoded, mut rest) = (String::new(), octets);
    while let Some((octet, after)) = rest.split_first() {
        let (octet, after) = match (octet, after) {
            (b'+', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high * 16 + low, after),
                _ => return written(),
            },
            (octet, after) => (*octet, after),
        };
        if !octet.is_ascii_graphic() && octet != b' ' {
            return written();
        }
        decoded.push(char::from(octet));
        rest = after;
    }
    printable(&decoded)
}

fn digit(octet: u8) -> Option<u8> {
    match octet {
        b'0'..=b'9' => Some(octet - b'0'),
        b'A'..=b'F' => Some(octet - b'A' + 10),
        _ => None,
    }
}
