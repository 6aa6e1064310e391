//! Lists of addresses.

use ocp_proto::smtp::Address;
use regex::bytes::Regex;
use toml::Spanned;

use super::parse::{Mailbox, is_domain};
use crate::registry::SettingsError;
use crate::setting::pattern;

/// A list of addresses, domains (`example.org`), domains with all below them (`.example.org`) and
/// patterns over the mailbox (`/^bulk-/`), in the order of the settings.
#[derive(Debug)]
pub struct AddressList(Vec<Entry>);

/// One entry and how it is written.
#[derive(Debug)]
struct Entry {
    written: String,
    test: Test,
}

#[derive(Debug)]
enum Test {
    /// `a@example.org`: this mailbox; case does not matter.
    Mailbox(String),
    /// `example.org`: this domain.
    Domain(String),
    /// `.example.org`: this domain and all below it.
    Below(String),
    /// `/pattern/` over the mailbox.
    Pattern(Regex),
}

impl AddressList {
    /// The list with these entries.
    ///
    /// # Errors
    /// If an entry is no address, domain or pattern.
    pub fn new(entries: &[Spanned<String>]) -> Result<Self, SettingsError> {
        let entry = |written: &Spanned<String>| {
            let test = Test::new(written.get_ref())
                .map_err(|message| SettingsError::at(written.span(), message))?;
            Ok(Entry { written: written.get_ref().clone(), test })
        };
        entries.iter().map(entry).collect::<Result<_, _>>().map(Self)
    }

    /// The first entry that names this address, as it is written.
    pub fn find(&self, address: &Address) -> Option<&str> {
        self.find_mailbox(&Mailbox::parse(address.mailbox())?)
    }

    pub(super) fn find_mailbox(&self, mailbox: &Mailbox) -> Option<&str> {
        let canonical = mailbox.canonical();
        let entry = self.0.iter().find(|entry| entry.test.names(mailbox, &canonical))?;
        Some(&entry.written)
    }
}

impl Test {
    fn new(written: &str) -> Result<Self, String> {
        if let Some(inner) = written.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
            return pattern(inner).map(Self::Pattern);
        }
        if written.contains('@') {
            return match Mailbox::parse(written.as_bytes()) {
                Some(mailbox) => Ok(Self::Mailbox(mailbox.canonical().to_lowercase())),
                None => Err(format!("{written:?} is no address")),
            };
        }
        let (domain, below) = match written.strip_prefix('.') {
            Some(domain) => (domain, true),
            None => (written, false),
        };
        if !is_domain(domain) {
            return Err(format!(
                "{written:?} is no address (a@b), domain (example.org), domain with all below it \
                 (.example.org) or pattern (/.../)"
            ));
        }
        let domain = domain.to_lowercase();
        Ok(if below { Self::Below(domain) } else { Self::Domain(domain) })
    }

    fn names(&self, mailbox: &Mailbox, canonical: &str) -> bool {
        match self {
            Self::Mailbox(known) => canonical.to_lowercase() == *known,
            Self::Domain(known) => mailbox.domain == *known,
            Self::Below(known) => mailbox
                .domain
                .strip_suffix(known)
                .is_some_and(|before| before.is_empty() || before.ends_with('.')),
            Self::Pattern(pattern) => pattern.is_match(canonical.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(entry: &str, mailbox: &str) -> bool {
        let list = AddressList::new(&[Spanned::new(0..1, entry.to_owned())]).unwrap();
        let octets = mailbox.as_bytes();
        let mailbox = Mailbox::parse(octets).unwrap();
        let path = Address::new(format!("<{}>", String::from_utf8_lossy(octets))).unwrap();
        assert_eq!(list.find(&path), list.find_mailbox(&mailbox));
        list.find_mailbox(&mailbox).inspect(|written| assert_eq!(*written, entry)).is_some()
    }

    #[test]
    fn each_form_names_what_it_says() {
        let cases = [
            ("a@example.org", "A@Example.ORG", true),
            ("a@example.org", "\"a\"@example.org", true),
            ("a@example.org", "a@x.example.org", false),
            ("Example.org", "a@example.ORG", true),
            ("example.org", "a@x.example.org", false),
            (".example.org", "a@example.org", true),
            (".example.org", "a@x.y.example.org", true),
            (".example.org", "a@badexample.org", false),
            ("/^bulk-[0-9]+@/", "bulk-12@example.org", true),
            ("/^bulk-[0-9]+@/", "bulk-@example.org", false),
            ("a@[192.0.2.1]", "a@[192.0.2.1]", true),
        ];
        for (entry, mailbox, expected) in cases {
            assert_eq!(finds(entry, mailbox), expected, "{entry} {mailbox}");
        }
    }

    #[test]
    fn a_wrong_entry_is_shown_where_it_stands() {
        for entry in ["", ".", "a b", "a@", "/(/", "*@example.org.", "*.example.org"] {
            let error = AddressList::new(&[Spanned::new(4..7, entry.to_owned())]).unwrap_err();
            assert_eq!(error.span, Some(4..7), "{entry}");
            assert!(error.message.contains(" is no "), "{entry}: {error}");
        }
    }
}
