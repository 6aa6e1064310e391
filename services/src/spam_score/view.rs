//! What rules look at.

use std::collections::HashMap;
use std::sync::LazyLock;

use ocp_proto::smtp::Envelope;
use regex::Regex;

use super::html::{Html, LONGEST_URI, Link, MOST_URIS, cut};
use crate::mail::{Mail, Part, PartKind, SpoolError, Transfer, decode_words};

/// The most fields that are decoded.
const MOST_FIELDS: usize = 500;
/// The most octets of one field's value. Worst case with [`MOST_FIELDS`]: 2 MiB.
const LONGEST_FIELD: usize = 4 * 1024;
/// The most octets of the raw header section that patterns look at.
const LONGEST_HEADER: usize = 64 * 1024;

/// Addresses in text. What ends a sentence is trimmed afterwards.
static URI: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"(?i)\b(?:https?://|ftp://|www\.)[^\s<>"'()\[\]{}|\\^`]+"#)
        .expect("a constant pattern, compiled by every test of this module")
});

/// A mail and its envelope, decoded once for all rules.
pub(super) struct View<'a> {
    pub(super) mail: &'a Mail,
    pub(super) envelope: &'a Envelope,
    /// Decoded values by lower-case name, in order.
    fields: HashMap<String, Vec<String>>,
    /// The subject, then the visible text of all text parts: blanks collapsed, a paragraph a line.
    pub(super) text: String,
    /// HTML as it is written, decoded.
    pub(super) html: String,
    /// Addresses in text and HTML.
    pub(super) uris: Vec<String>,
    pub(super) links: Vec<Link>,
    pub(super) file_names: Vec<&'a str>,
    /// Images that HTML shows.
    pub(super) images: usize,
    /// Characters without width inside words.
    pub(super) hidden_characters: usize,
    pub(super) has_plain_text: bool,
    /// Whether some text is ASCII and in base64 all the same.
    pub(super) has_ascii_in_base64: bool,
}

impl<'a> View<'a> {
    /// Decodes a mail, at most `limit` octets of text and as much HTML; of its parts no more is read
    /// than that takes.
    pub(super) fn new(
        mail: &'a Mail,
        envelope: &'a Envelope,
        limit: usize,
    ) -> Result<Self, SpoolError> {
        let mut view = Self {
            mail,
            envelope,
            fields: fields(mail),
            text: String::new(),
            html: String::new(),
            uris: Vec::new(),
            links: Vec::new(),
            file_names: Vec::new(),
            images: 0,
            hidden_characters: 0,
            has_plain_text: false,
            has_ascii_in_base64: false,
        };
        let subject = view.field("subject").unwrap_or_default().to_owned();
        view.add_text(&subject, limit);
        for part in mail.parts()? {
            view.file_names.extend(part.names.iter().map(String::as_str));
            if part.kind == PartKind::Leaf && part.content_type.is_text() {
                view.add_part(part, limit)?;
            }
        }
        Ok(view)
    }

    /// The first value of a field; the name in lower case.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields(name).first().map(String::as_str)
    }

    /// All values of a field; the name in lower case.
    pub(super) fn fields(&self, name: &str) -> &[String] {
        self.fields.get(name).map_or(&[], Vec::as_slice)
    }

    /// The header section as it is.
    pub(super) fn header(&self) -> &'a [u8] {
        let header = self.mail.header();
        header.get(..LONGEST_HEADER).unwrap_or(header)
    }

    fn add_part(&mut self, part: &Part, limit: usize) -> Result<(), SpoolError> {
        let is_html = part.content_type.essence == "text/html";
        let left = limit.saturating_sub(if is_html { self.html.len() } else { self.text.len() });
        if left == 0 {
            return Ok(());
        }
        let mut text = self.mail.text(part, left)?;
        cut(&mut text, left);
        self.has_ascii_in_base64 |= part.transfer == Transfer::Base64 && text.is_ascii();
        if !is_html {
            self.has_plain_text |= part.content_type.essence == "text/plain";
            self.add_uris(&text);
            self.add_text(&text, limit);
            return Ok(());
        }
        let html = Html::read(&text);
        self.html.push_str(&text);
        let room = MOST_URIS.saturating_sub(self.uris.len());
        self.uris.extend(html.uris.into_iter().take(room));
        self.links.extend(html.links);
        self.images += html.images;
        self.add_uris(&html.text);
        self.add_text(&html.text, limit);
        Ok(())
    }

    fn add_uris(&mut self, text: &str) {
        let room = MOST_URIS.saturating_sub(self.uris.len());
        for found in URI.find_iter(text).take(room) {
            let mut uri =
                found.as_str().trim_end_matches(['.', ',', ';', ':', '!', '?']).to_owned();
            cut(&mut uri, LONGEST_URI);
            self.uris.push(uri);
        }
    }

    /// Appends a text as one or more lines: blanks become one, an empty line ends a paragraph,
    /// characters without width go.
    fn add_text(&mut self, text: &str, limit: usize) {
        let mut line_ends = 0;
        let mut blank = false;
        let mut last = ' ';
        let mut is_hidden = false;
        for character in text.chars() {
            if self.text.len() >= limit {
                break;
            }
            if character.is_whitespace() {
                line_ends += usize::from(character == '\n');
                blank = true;
                continue;
            }
            if is_without_width(character) {
                // Soft hyphens have their uses.
                is_hidden |= character != '\u{ad}';
                continue;
            }
            if blank && !self.text.is_empty() && !self.text.ends_with('\n') {
                self.text.push(if line_ends > 1 { '\n' } else { ' ' });
            } else if is_hidden && last.is_ascii_alphabetic() && character.is_ascii_alphabetic() {
                self.hidden_characters += 1;
            }
            self.text.push(character);
            last = character;
            (blank, is_hidden, line_ends) = (false, false, 0);
        }
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
    }
}

fn fields(mail: &Mail) -> HashMap<String, Vec<String>> {
    let mut fields: HashMap<String, Vec<String>> = HashMap::new();
    for field in mail.fields().iter().take(MOST_FIELDS) {
        let name = String::from_utf8_lossy(field.raw_name()).to_ascii_lowercase();
        let value = field.raw_value();
        let value = decode_words(value.get(..LONGEST_FIELD).unwrap_or(value));
        fields.entry(name).or_default().push(value);
    }
    fields
}

fn is_without_width(character: char) -> bool {
    matches!(character, '\u{ad}' | '\u{34f}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::mail::header_length;

    pub(in crate::spam_score) fn mail(text: &str) -> Mail {
        let octets = bytes::Bytes::from(text.to_owned());
        let header = header_length(&octets);
        Mail::new(octets.slice(..header), octets.slice(header..))
    }

    #[test]
    fn text_is_what_people_read() {
        let mail = mail(
            "Subject: =?utf-8?Q?caf=C3=A9?=\nContent-Type: multipart/alternative; boundary=b\n\n\
             --b\n\none\ntwo  th\u{200b}r\u{ad}ee\n\n\nfour www.a.example/x?y=1.\n--b\n\
             Content-Type: text/html\nContent-Transfer-Encoding: quoted-printable\n\n\
             <p>fi=\nve</p> <a href=3D'http://b.example'>six</a> http://c.example\n\
             --b\nContent-Type: application/x; name=doc.exe\nContent-Transfer-Encoding: base64\n\nAAAA\n--b--\n",
        );
        let envelope = Envelope::default();
        let view = View::new(&mail, &envelope, 1_000).unwrap();
        assert_eq!(
            view.text,
            "caf\u{e9}\none two three\nfour www.a.example/x?y=1.\nfive six http://c.example\n"
        );
        assert!(view.html.contains("<p>five</p>"), "{}", view.html);
        assert_eq!(view.uris, ["www.a.example/x?y=1", "http://b.example", "http://c.example"]);
        assert_eq!((view.hidden_characters, view.has_plain_text), (1, true));
        assert_eq!(view.file_names, ["doc.exe"]);
    }

    #[test]
    fn text_is_bounded() {
        let mail = mail(&format!("Subject: s\n\n{}", "\u{fc} ".repeat(1_000)));
        let envelope = Envelope::default();
        let view = View::new(&mail, &envelope, 100).unwrap();
        assert!((90..=102).contains(&view.text.len()), "{}", view.text.len());
    }
}
