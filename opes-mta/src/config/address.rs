//! Senders and recipients that rules name.

use std::fmt;
use std::str::FromStr;

use ocp_proto::smtp::Address;

/// Envelope addresses: `ann@example.org`, the domain `example.org`, `.example.org` for it and all below
/// it, or the null sender `<>`. Case does not matter, nor whether a local part is quoted. An address
/// without a domain, such as `<postmaster>`, is in no domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressPattern {
    /// `<>`.
    Null,
    /// This mailbox, local part and domain.
    Mailbox(String, String),
    /// All mailboxes of this domain.
    Domain(String),
    /// All mailboxes of this domain and of those below it.
    Below(String),
}

impl AddressPattern {
    /// Whether an address is one of them.
    pub fn matches(&self, address: &Address) -> bool {
        if let Self::Null = self {
            return address.is_null();
        }
        let Some((local, domain)) = address.local_and_domain() else { return false };
        let domain = canonical_domain(&String::from_utf8_lossy(domain));
        match self {
            Self::Null => false,
            Self::Mailbox(known_local, known_domain) => {
                domain == *known_domain
                    && canonical_local(&String::from_utf8_lossy(local)) == *known_local
            }
            Self::Domain(known) => domain == *known,
            Self::Below(known) => domain
                .strip_suffix(known.as_str())
                .is_some_and(|before| before.is_empty() || before.ends_with('.')),
        }
    }
}

/// Without the quotes and backslashes that mean nothing (RFC 5321 section 4.1.2), in lower case: nobody
/// escapes a rule by writing a name in another way.
fn canonical_local(local: &str) -> String {
    let Some(quoted) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return local.to_lowercase();
    };
    let mut characters = quoted.chars();
    let mut plain = String::new();
    while let Some(character) = characters.next() {
        let meant = if character == '\\' { characters.next() } else { Some(character) };
        plain.extend(meant);
    }
    plain.to_lowercase()
}

/// In lower case and without the dot at the end that some mail servers let pass.
fn canonical_domain(domain: &str) -> String {
    domain.strip_suffix('.').unwrap_or(domain).to_lowercase()
}

/// Labels with dots between them, or an address in brackets.
fn is_domain(domain: &str) -> bool {
    if let Some(literal) = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return !literal.is_empty() && literal.chars().all(|c| c.is_ascii_graphic());
    }
    let part = |c: char| c.is_ascii_alphanumeric() || !c.is_ascii() || matches!(c, '-' | '_');
    domain.split('.').all(|label| !label.is_empty() && label.chars().all(part))
}

impl FromStr for AddressPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no address (a@example.org), domain (example.org), domain with all \
                 below it (.example.org) or null sender (<>)"
            )
        };
        if text == "<>" {
            return Ok(Self::Null);
        }
        let (local, domain) = match text.rsplit_once('@') {
            Some((local, domain)) => (Some(local), domain),
            None => (None, text),
        };
        let (below, domain) = match (local, domain.strip_prefix('.')) {
            (None, Some(domain)) => (true, domain),
            _ => (false, domain),
        };
        // `*@example.org` would be somebody whose name is a star.
        let sound = |local: &str| {
            let wrong = |c: char| c.is_control() || matches!(c, '<' | '>' | '*');
            !local.is_empty() && !local.chars().any(wrong)
        };
        if !is_domain(domain) || !local.is_none_or(sound) {
            return Err(wrong());
        }
        let domain = canonical_domain(domain);
        Ok(match local {
            Some(local) => Self::Mailbox(canonical_local(local), domain),
            None if below => Self::Below(domain),
            None => Self::Domain(domain),
        })
    }
}

impl fmt::Display for AddressPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("<>"),
            Self::Mailbox(local, domain) => write!(f, "{local}@{domain}"),
            Self::Domain(domain) => f.write_str(domain),
            Self::Below(domain) => write!(f, ".{domain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_names_what_it_says() {
        let cases = [
            ("a@example.org", "<A@Example.ORG>", true),
            ("a@example.org", "<\"a\"@example.org>", true),
            ("a@example.org", "<\"\\a\"@example.org.>", true),
            ("\"a b\"@example.org", "<\"a\\ b\"@example.org>", true),
            ("a@example.org", "<a@x.example.org>", false),
            ("a@example.org", "<b@example.org>", false),
            ("Example.org", "<a@example.ORG>", true),
            ("example.org", "<\"a@other.net\"@example.org>", true),
            ("other.net", "<\"a@other.net\"@example.org>", false),
            ("example.org", "<a@x.example.org>", false),
            ("example.org", "<example.org>", false),
            (".example.org", "<a@example.org>", true),
            (".example.org", "<a@x.y.example.org>", true),
            (".example.org", "<a@badexample.org>", false),
            ("a@[192.0.2.1]", "<a@[192.0.2.1]>", true),
            ("bücher.example", "<a@BÜCHER.example>", true),
            ("<>", "<>", true),
            ("<>", "<a@b>", false),
            (".org", "<>", false),
        ];
        for (pattern, path, expected) in cases {
            let pattern: AddressPattern = pattern.parse().unwrap();
            let address = Address::new(path).unwrap();
            assert_eq!(pattern.matches(&address), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn what_names_nobody_is_refused() {
        for wrong in [
            "",
            ".",
            "a b",
            "a@",
            "@example.org",
            "a@.example.org",
            "*.example.org",
            "*@example.org",
            "example.org.",
            "..example.org",
            "<a@example.org>",
            "a\n@example.org",
            "/a@b/",
        ] {
            assert!(wrong.parse::<AddressPattern>().is_err(), "{wrong}");
        }
    }
}
