//! Requests to skip services (profile section 8, RFC 3897 section 4): what a message asks for, what a
//! group of callout servers is told of it, and what became of it.

use ocp_proto::smtp::{Verdict, means_service};
use ocp_proto::wire::Atom;

use crate::config::{Group, System};
use crate::smtp::xtext;

/// The field by which a sender asks for services to be skipped.
pub const FIELD: &str = "OPES-Bypass";

/// The extension of EHLO, and the parameter of MAIL, by which it does.
pub const PARAMETER: &str = "XOPES-BYPASS";

/// All services.
const ALL: &[u8] = b"*";

/// The most URIs of a request, and the most octets of one; what has more asks for all services. Worst case
/// in an OCP message: the product, 32,000 octets.
const MOST_URIS: usize = 32;
const LONGEST_URI: usize = 1_000;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All that it means was skipped.
    Ok,
    /// Some of it was.
    Partial,
    /// Nothing was: no server lets it be skipped.
    Denied,
    /// Nobody was asked: its sender is not one who is heard.
    Ignored,
}

impl Outcome {
    /// Of a request that was heard.
    pub fn of(verdicts: &[Verdict]) -> Self {
        let said = |word: &[u8]| verdicts.iter().any(|verdict| verdict.verdict == word);
        match (said(b"bypassed"), said(b"bypass-refused")) {
            (_, false) => Self::Ok,
            (true, true) => Self::Partial,
            (false, true) => Self::Denied,
        }
    }

    /// It in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Partial => "partial",
            Self::Denied => "denied",
            Self::Ignored => "ignored",
        }
    }

    /// It in a trace field, where it is nobody's business whom we hear.
    pub fn parameter(self) -> &'static str {
        match self {
            Self::Ignored => Self::Denied.name(),
            other => other.name(),
        }
    }
}

/// The services that a message asks to skip, of its fields of that name: URIs, `*` alone, or nothing. What
/// is no URI, or too long, can't be told from any service: it stands for all.
pub fn request<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Vec<Atom> {
    let mut uris = Vec::new();
    for entry in fields.flat_map(entries).map(<[u8]>::trim_ascii).filter(|uri| !uri.is_empty()) {
        let is_uri = entry.iter().all(u8::is_ascii_graphic) && entry.len() <= LONGEST_URI;
        if entry == ALL || !is_uri || uris.len() == MOST_URIS {
            return vec![Atom::from_static(ALL)];
        }
        uris.push(entry.into());
    }
    uris
}

/// The services that MAIL asks to skip by the value of its parameter, in xtext (RFC 3461 section 4); `None` if it has
/// none that can be read.
pub(crate) fn parameter(value: Option<&[u8]>) -> Option<Vec<Atom>> {
    let decoded = xtext(value?)?;
    Some(request([&decoded[..]].into_iter())).filter(|uris| !uris.is_empty())
}

/// The services that two requests ask to skip.
pub(crate) fn both(one: Vec<Atom>, mut other: Vec<Atom>) -> Vec<Atom> {
    other.retain(|uri| !one.contains(uri));
    let uris = [one, other].concat();
    let is_all = uris.len() > MOST_URIS || uris.iter().any(|uri| uri == ALL);
    if is_all { vec![Atom::from_static(ALL)] } else { uris }
}

/// Between commas; one inside of a URI is no delimiter, but for one that a blank or another URI follows
/// (RFC 4236 section 4 leaves it open).
fn entries(field: &[u8]) -> Vec<&[u8]> {
    let mut entries = Vec::new();
    let mut start = 0;
    for at in memchr::memchr_iter(b',', field) {
        let before = field.get(..at).and_then(<[u8]>::last);
        let after = field.get(at + 1..).unwrap_or_default();
        let blank = |octet: Option<&u8>| octet.is_none_or(u8::is_ascii_whitespace);
        if blank(before) || blank(after.first()) || begins_with_scheme(after) {
            entries.push(field.get(start..at).unwrap_or_default());
            start = at + 1;
        }
    }
    entries.push(field.get(start..).unwrap_or_default());
    entries
}

/// `*`, another comma, or the scheme of a URI (RFC 3986 section 3.1).
fn begins_with_scheme(octets: &[u8]) -> bool {
    if matches!(octets.first(), Some(b'*' | b',')) {
        return true;
    }
    let scheme = octets
        .iter()
        .take_while(|o| o.is_ascii_alphanumeric() || matches!(o, b'+' | b'-' | b'.'))
        .count();
    octets.first().is_some_and(u8::is_ascii_alphabetic) && octets.get(scheme) == Some(&b':')
}

/// What this group's servers are told: services of other groups are none of theirs. Our system's URI stands
/// for all services (RFC 3897 section 4), and so does one that nobody knows, which is for the servers
/// to say: they may know a service by more URIs than we do.
pub fn for_group(
    request: &[Atom],
    system: Option<&System>,
    group: &Group,
    groups: &[Group],
) -> Vec<Atom> {
    let means_all = |uri: &Atom| {
        uri == ALL || system.is_some_and(|system| means_service(uri, system.uri.as_bytes()))
    };
    if request.iter().any(means_all) {
        return vec![Atom::from_static(ALL)];
    }
    let has = |group: &Group, uri: &Atom| {
        group.services.iter().any(|service| means_service(uri, service.as_bytes()))
    };
    let concerns = |uri: &&Atom| has(group, uri) || !groups.iter().any(|other| has(other, uri));
    request.iter().filter(concerns).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(fields: &[&str]) -> Vec<String> {
        let uris = request(fields.iter().map(|field| field.as_bytes()));
        uris.iter().map(|uri| String::from_utf8_lossy(uri).into_owned()).collect()
    }

    /// OPES-4236-5-01, OPES-3897-4.1-01, OPES-3897-4.3-01, OPES-BIND-04, OPES-BIND-14
    #[test]
    fn a_request_is_a_list_of_uris_or_an_asterisk() {
        let (a, b) = ("ocp://service/a", "ocp://service/b");
        let many = vec![a; 33].join(", ");
        let long = format!("x:{}", "a".repeat(999));
        let cases: &[(&[&str], &[&str])] = &[
            (&[], &[]),
            (&["", " , ,, \r\n\t,"], &[]),
            (&[" *"], &["*"]),
            (&[" ocp://service/a"], &[a]),
            (&[" ocp://service/a,\r\n\tocp://service/b"], &[a, b]),
            (&["ocp://service/a,ocp://service/b"], &[a, b]),
            (&["ocp://service/a", "ocp://service/b"], &[a, b]),
            (&["ocp://service/a , x:y?a,b"], &[a, "x:y?a,b"]),
            (&["ocp://service/a, *"], &["*"]),
            (&["ocp://service/a,*"], &["*"]),
            (&["two words"], &["*"]),
            (&["x:\u{e4}"], &["*"]),
            (&["x:\0"], &["*"]),
            (&[&many], &["*"]),
            (&[&long], &["*"]),
        ];
        for (fields, expected) in cases {
            assert_eq!(asked(fields), *expected, "{fields:?}");
        }
    }

    /// OPES-BIND-17, OPES-BIND-18, OPES-BIND-20
    #[test]
    fn a_parameter_asks_as_the_field_does() {
        for (value, expected) in [
            ("*", &["*"][..]),
            ("ocp://service/a", &["ocp://service/a"]),
            ("ocp://service/a,ocp://service/b+3Dc", &["ocp://service/a", "ocp://service/b=c"]),
            ("two+20words", &["*"]),
        ] {
            assert_eq!(parameter(Some(value.as_bytes())).unwrap(), expected, "{value}");
        }
        for value in [None, Some(""), Some(","), Some("+ZZ"), Some("+0D"), Some("a+")] {
            assert_eq!(parameter(value.map(str::as_bytes)), None, "{value:?}");
        }
    }

    /// OPES-3897-4-02, OPES-3897-4.3-04
    #[test]
    fn a_group_hears_of_its_own_services_and_of_what_nobody_knows() {
        let group = |name: &str, services: &[&str]| {
            let services = services.iter().map(|name| format!("ocp://service/{name}")).collect();
            Group::new(name.to_owned(), Vec::new(), services)
        };
        let groups = [group("one", &["a", "b"]), group("two", &["b", "c"])];
        let system = System {
            uri: "https://opes.example/".to_owned(),
            name: "mx1".to_owned(),
            services_in_trace: false,
            disclosure: None,
        };
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("", &[], &[]),
            ("*", &["*"], &["*"]),
            ("ocp://service/a", &["ocp://service/a"], &[]),
            ("ocp://service/b", &["ocp://service/b"], &["ocp://service/b"]),
            ("ocp://service/c;x=1", &[], &["ocp://service/c;x=1"]),
            ("x:y, ocp://service/a", &["x:y", "ocp://service/a"], &["x:y"]),
            ("https://opes.example/?session=1", &["*"], &["*"]),
        ];
        for (field, one, two) in cases {
            let uris = request([field.as_bytes()].into_iter());
            for (group, expected) in groups.iter().zip([one, two]) {
                let told = for_group(&uris, Some(&system), group, &groups);
                assert_eq!(told, *expected, "{field} {}", group.name);
            }
        }
    }

    /// OPES-BIND-16
    #[test]
    fn the_outcome_is_that_of_all_services() {
        let outcome = |words: &[&'static str]| {
            let verdict = |word: &&'static str| Verdict {
                service: "ocp://service/a".into(),
                verdict: Atom::from_static(word.as_bytes()),
                score: None,
                reason: None,
                milliseconds: None,
            };
            Outcome::of(&words.iter().map(verdict).collect::<Vec<_>>()).parameter()
        };
        assert_eq!(outcome(&["clean"]), "ok");
        assert_eq!(outcome(&["bypassed", "clean"]), "ok");
        assert_eq!(outcome(&["bypassed", "bypass-refused", "clean"]), "partial");
        assert_eq!(outcome(&["bypass-refused", "clean"]), "denied");
        assert_eq!((Outcome::Ignored.name(), Outcome::Ignored.parameter()), ("ignored", "denied"));
    }
}
