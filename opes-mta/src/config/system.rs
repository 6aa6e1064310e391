//! Who we are: the OPES system (RFC 3897 section 3) and its disclosure page.

use std::net::SocketAddr;

use super::checked::Checker;
use super::error::ConfigError;
use super::raw::{RawDisclosure, RawSystem};

/// The OPES system that this processor belongs to, and what it says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// The system's identifier, an absolute URI that a browser opens: the disclosure page. It stands in
    /// trace fields and replies as it is.
    pub uri: String,
    /// This processor's name within the system: letters, digits, `.`, `-` and `_`.
    pub name: String,
    /// Whether messages say which services they passed (`OPES-Via`).
    pub services_in_trace: bool,
    /// The page, if we are to serve it.
    pub disclosure: Option<Disclosure>,
}

/// What RFC 3897 section 3.2 asks a system to disclose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disclosure {
    /// Where the page is served (HTTP).
    pub listen: SocketAddr,
    /// Who runs the system and answers for its privacy policy.
    pub operator: String,
    /// Where that policy stands.
    pub privacy_policy: String,
    /// Whom to turn to.
    pub contact: String,
    /// What becomes of references within messages and between them (RFC 3897 section 3.2).
    pub reference_validity: String,
}

/// Octets of a URI in a trace field or a reply: what fits into a line with all that stands beside it.
const LONGEST_URI: usize = 200;

impl Checker<'_> {
    pub(super) fn system(&self, raw: &RawSystem) -> Result<System, ConfigError> {
        let disclosure = raw.disclosure.as_ref().map(|page| self.disclosure(page)).transpose()?;
        Ok(System {
            uri: self.value(&raw.uri, system_uri)?,
            name: self.value(&raw.name, processor_name)?,
            services_in_trace: raw.services_in_trace.unwrap_or(false),
            disclosure,
        })
    }

    fn disclosure(&self, raw: &RawDisclosure) -> Result<Disclosure, ConfigError> {
        Ok(Disclosure {
            listen: self.value(&raw.listen, |text| {
                text.parse().map_err(|_| {
                    format!("{text:?} is no address with a port, such as 127.0.0.1:8080")
                })
            })?,
            operator: self.value(&raw.operator, text)?,
            privacy_policy: self.value(&raw.privacy_policy, web_address)?,
            contact: self.value(&raw.contact, text)?,
            reference_validity: self.value(&raw.reference_validity, text)?,
        })
    }
}

/// RFC 3897 section 3.2 wants the identifier unique among all systems: a name that means another host
/// everywhere is none.
fn system_uri(text: &str) -> Result<String, String> {
    let uri = web_address(text)?;
    let host = host(&uri).unwrap_or_default().to_ascii_lowercase();
    let local = host == "localhost" || host.ends_with(".localhost") || !host.contains('.');
    if local || host.starts_with("127.") {
        return Err(format!("{text:?} means another system on every host: use a domain of yours"));
    }
    if uri.len() > LONGEST_URI {
        return Err(format!("the URI has {} octets; {LONGEST_URI} is the most", uri.len()));
    }
    // In a trace field a list, a parameter or a comment would begin (RFC 5322 section 3.2.2), in a reply
    // the trace would end (profile section 8).
    if let Some(octet) = uri.chars().find(|c| ",;()[]\\".contains(*c)) {
        return Err(format!("{text:?} can't stand in trace fields: it has a `{octet}`"));
    }
    Ok(uri)
}

/// An absolute URI (RFC 3986 section 4.3, without fragment) that a browser opens.
fn web_address(text: &str) -> Result<String, String> {
    let sound = |c: char| c.is_ascii_graphic() && !"\"<>`{}|^#".contains(c);
    match host(text) {
        Some(host) if !host.is_empty() && text.chars().all(sound) => Ok(text.to_owned()),
        _ => Err(format!("{text:?} is no absolute URI, such as https://opes.example.org/")),
    }
}

/// The host of an `http` or `https` URI, without user and port.
fn host(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let authority = rest.split(['/', '?']).next()?;
    let host = authority.rsplit('@').next()?;
    host.split(':').next()
}

fn processor_name(text: &str) -> Result<String, String> {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match text.chars().all(sound) && (1..=64).contains(&text.len()) {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is no name: 1 to 64 letters, digits, `.`, `-` and `_`")),
    }
}

/// Something for people: not empty, and without control characters.
pub(super) fn text(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("there is nothing".to_owned()),
        _ if text.chars().any(char::is_control) => Err(format!("{text:?} has control characters")),
        trimmed => Ok(trimmed.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OPES-3897-3.2-01, OPES-3897-3.1-05, OPES-BIND-03
    #[test]
    fn a_system_has_a_web_address_of_its_own() {
        for right in [
            "https://opes.example.org/",
            "http://example.org",
            "HTTPS://user@example.org:8443/opes?page=1",
            "https://192.0.2.1/",
        ] {
            assert_eq!(system_uri(right).unwrap(), right);
        }
        let long = format!("https://example.org/{}", "x".repeat(200));
        let cases = [
            ("", "no absolute URI"),
            ("opes.example.org", "no absolute URI"),
            ("/opes", "no absolute URI"),
            ("//example.org/", "no absolute URI"),
            ("https://", "no absolute URI"),
            ("https:///x", "no absolute URI"),
            ("https://:80/", "no absolute URI"),
            ("mailto:a@example.org", "no absolute URI"),
            ("https://example.org/#x", "no absolute URI"),
            ("https://example.org/ x", "no absolute URI"),
            ("https://example.org/\r\nBcc: a@b", "no absolute URI"),
            ("https://exämple.org/", "no absolute URI"),
            ("https://localhost/", "another system"),
            ("https://mx.localhost/", "another system"),
            ("https://mx:80/", "another system"),
            ("https://127.0.0.1/", "another system"),
            ("https://example.org/a;b", "a `;`"),
            ("https://example.org/a]", "a `]`"),
            (&long, "220 octets"),
        ];
        for (wrong, cause) in cases {
            let error = system_uri(wrong).expect_err(wrong);
            assert!(error.contains(cause), "{wrong}: {error}");
        }
    }

    #[test]
    fn names_stand_in_trace_fields() {
        assert_eq!(processor_name("mx-1.example_net").unwrap(), "mx-1.example_net");
        for wrong in ["", "a b", "a;b", "ä", &"x".repeat(65)] {
            assert!(processor_name(wrong).is_err(), "{wrong}");
        }
        assert_eq!(text(" Example Ltd ").unwrap(), "Example Ltd");
        assert!(text(" ").is_err() && text("a\nb").is_err());
    }
}
