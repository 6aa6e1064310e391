//! Marks on mail that passes all the same.

use serde::Deserialize;

use super::policy::printable;
use crate::mail::{Edits, Mail};

/// How mail is marked that passes all the same: for people, in front of its subject, or for programs, by a field.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Tag {
    /// What stands in front of the subject, ASCII.
    subject: Option<String>,
    /// The name of a field with verdict and reason, instead of those that are there.
    field: Option<String>,
}

/// A tag, as written.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Raw {
    subject: Option<String>,
    field: Option<String>,
}

/// The longest text in front of a subject, so that its line stays below 998 octets where it was below 900.
const LONGEST_SUBJECT: usize = 64;

/// Fields that a tag could do harm with: others go by them, or there is one of them.
const NEEDED: [&str; 16] = [
    "received",
    "return-path",
    "dkim-signature",
    "authentication-results",
    "from",
    "sender",
    "reply-to",
    "to",
    "cc",
    "bcc",
    "date",
    "message-id",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "content-disposition",
];

impl TryFrom<Raw> for Tag {
    type Error = String;

    fn try_from(Raw { subject, field }: Raw) -> Result<Self, String> {
        if let Some(subject) = &subject {
            let is_plain = subject.bytes().all(|octet| octet == b' ' || octet.is_ascii_graphic());
            if !is_plain || subject.trim().is_empty() || subject.len() > LONGEST_SUBJECT {
                return Err(format!(
                    "subject is text in ASCII, at most {LONGEST_SUBJECT} octets, such as \"[macros] \""
                ));
            }
        }
        if let Some(name) = &field {
            let is_name = name.bytes().all(|octet| octet.is_ascii_graphic() && octet != b':');
            if !is_name || name.is_empty() || name.len() > LONGEST_SUBJECT {
                return Err(format!("{name:?} is no name of a field"));
            }
            if name.eq_ignore_ascii_case("subject") || NEEDED.contains(&&*name.to_lowercase()) {
                return Err(format!(
                    "the field {name} means something else: take one like X-Filter"
                ));
            }
        }
        if subject.is_none() && field.is_none() {
            return Err("a tag has a subject, a field, or both".to_owned());
        }
        Ok(Self { subject, field })
    }
}

impl Default for Tag {
    fn default() -> Self {
        Self { subject: None, field: Some("X-Content-Warning".to_owned()) }
    }
}

impl Tag {
    /// Marks a mail. A subject that has the text already, since the mail comes again, stays.
    pub(crate) fn mark(&self, mail: &Mail, verdict: &str, reason: &str, edits: &mut Edits) {
        if let Some(name) = &self.field {
            edits.remove_fields(mail, name);
            edits.prepend_field(mail, name, &printable(&format!("{verdict}: {reason}")));
        }
        let Some(text) = &self.subject else { return };
        match mail.field("Subject") {
            Some(field) => {
                let value = field.raw_value();
                let shown = value.trim_ascii_start();
                if !shown.starts_with(text.trim().as_bytes()) {
                    edits.insert(field.value.end - shown.len(), text.clone().into());
                }
            }
            None => edits.prepend_field(mail, "Subject", text.trim()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{mail, whole};

    fn tag(text: &str) -> Result<Tag, String> {
        let table = toml::de::ValueDeserializer::parse(text).unwrap();
        Tag::deserialize(table).map_err(|error| error.message().to_owned())
    }

    fn marked(tag: &Tag, octets: &'static str) -> String {
        let mail = mail(octets);
        let mut edits = Edits::new();
        tag.mark(&mail, "macro", "VBA\r\nX: y", &mut edits);
        String::from_utf8(whole(&mail.edited(&edits).unwrap())).unwrap()
    }

    #[test]
    fn a_subject_has_the_text_once() {
        let tag = tag("{ subject = \"[odd] \" }").unwrap();
        for (before, after) in [
            ("A: b\r\nSubject: x\r\n\r\nhi", "A: b\r\nSubject: [odd] x\r\n\r\nhi"),
            ("Subject:\r\n x\r\n\r\nhi", "Subject:\r\n [odd] x\r\n\r\nhi"),
            ("Subject: [odd] x\r\n\r\nhi", "Subject: [odd] x\r\n\r\nhi"),
            ("Subject: =?utf-8?Q?=C3=BC?=\n\nhi", "Subject: [odd] =?utf-8?Q?=C3=BC?=\n\nhi"),
            ("A: b\n\nhi", "Subject: [odd]\nA: b\n\nhi"),
        ] {
            assert_eq!(marked(&tag, before), after);
        }
    }

    #[test]
    fn a_field_has_one_line_and_is_the_only_one_of_its_name() {
        let tag = tag("{ field = \"X-Odd\" }").unwrap();
        let after = marked(&tag, "x-odd: clean\r\nA: b\r\n\r\nhi");
        assert_eq!(after, "X-Odd: macro: VBA??X: y\r\nA: b\r\n\r\nhi");
        let after = marked(&Tag::default(), "A: b\r\n\r\nhi");
        assert_eq!(after, "X-Content-Warning: macro: VBA??X: y\r\nA: b\r\n\r\nhi");
    }

    #[test]
    fn a_tag_that_can_not_be_used_says_why() {
        for (text, why) in [
            ("{ subject = \"\u{fc}\" }", "subject is text in ASCII"),
            ("{ subject = \" \" }", "subject is text in ASCII"),
            ("{ subject = \"a\\r\\nb\" }", "subject is text in ASCII"),
            ("{ field = \"a b\" }", "\"a b\" is no name of a field"),
            ("{ field = \"From\" }", "the field From means something else"),
            ("{}", "a tag has a subject, a field, or both"),
            ("{ fields = 1 }", "unknown field `fields`"),
        ] {
            let error = tag(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
