//! What RFC 4037 asks of an extension, shown by the profile's text.

use std::collections::BTreeSet;

use ocp_proto::message::Kind;

const PROFILE: &str = include_str!("../../SMTP-PROFILE.md");

/// OCP-9-06, OCP-9-01, OCP-10-03, OCP-10-04
#[test]
fn every_new_element_is_declared_under_a_tag() {
    assert!(PROFILE.contains("The namespace tag is `SMTP`"));
    for kind in Kind::ALL.iter().filter(|kind| kind.is_dialog()) {
        let name = kind.name();
        assert!(PROFILE.contains(&format!("{name}:")), "{name} is not declared");
    }
    for name in [
        "smtp-command",
        "am-part",
        "am-id",
        "dialog-id",
        "address",
        "side-effect",
        "verdict",
        "tls",
        "auth",
    ] {
        let line =
            PROFILE.lines().map(str::trim).find(|line| line.starts_with(&format!("{name}:")));
        let declared = line.unwrap_or_else(|| panic!("{name} is not declared"));
        let formats = ["extends atom", "extends uni", "extends structure", "extends list"];
        assert_eq!(
            formats.iter().filter(|format| declared.contains(*format)).count(),
            1,
            "{declared}"
        );
    }
    for name in ["AMS", "DUM", "DUY", "AME", "TE"] {
        assert!(PROFILE.contains(&format!("{name}: extends Core::{name} with {{")), "{name}");
    }
}

/// OCP-10.13-02, OCP-11.21-02, OCP-11-02, OCP-15.1-01, OCP-15.1-03
#[test]
fn the_profile_says_what_extensions_have_to_say() {
    for sentence in [
        "services are named `ocp://service/NAME`; they define no further members",
        "AA true means that an offer of it can succeed on this connection",
        "The order of named parameters and members means nothing",
        "the message format stays untouched, every change is",
        "Without them negotiated, an agent behaves as RFC 4037 says",
    ] {
        let text = PROFILE.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(sentence), "{sentence}");
    }
}

/// OCP-3.4-02
#[test]
fn messages_of_the_profile_have_long_names() {
    let names: BTreeSet<&str> =
        Kind::ALL.iter().filter(|kind| kind.is_dialog()).map(|kind| kind.name()).collect();
    assert_eq!(names.len(), 5);
    assert!(names.iter().all(|name| name.len() > 8));
}
