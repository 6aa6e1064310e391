//! The body of the fuzz target `normalize`; unit tests run it over the corpora.

use std::path::Path;
use std::sync::Arc;

use ocp_proto::smtp::{Command, DialogFacts, Envelope};
use ocp_proto::wire::Structure;

use super::Normalize;
use crate::mail::{Edits, Mail, header_length};
use crate::outcome::Change;
use crate::registry::Settings;
use crate::service::{Input, Request};

/// Why reading does not fail here.
const IN_MEMORY: &str = "octets in memory can be read";

/// Any octets as a mail that is put right: what is no edit stays, what comes out is a mail whose header section ends
/// where it should, and there is nothing left to put right in it.
///
/// # Panics
/// If that is not so.
pub fn normalize(octets: &[u8]) {
    let all = "signed = [\"nul\", \"line-ends\", \"boundaries\", \"charset\", \"long-lines\"]";
    for settings in ["", all, "[message]\nline-ends = \"leave\"", "new-octets = 500"] {
        let settings = Settings::parse(settings, Path::new("")).expect("it is TOML");
        let service = Normalize::new(settings).expect("the settings are valid");
        let mail = read(octets);
        let window = 1 + usize::from(octets.first().copied().unwrap_or_default()) % 64;
        let window = window + octets.len() / 64;
        let stored = Mail::new(mail.header().clone(), mail.body().clone().in_windows(window));
        let (once, verdict) = normalized(&service, mail);
        // Boundaries and identifiers are of the moment, their lengths are not.
        let (from_windows, same) = normalized(&service, stored);
        assert_eq!((from_windows.len(), &same), (once.len(), &verdict), "wherever the octets lie");
        if verdict == "limit" {
            continue;
        }
        let again = read(&once);
        let (twice, verdict) = normalized(&service, again);
        assert!(twice == once, "{verdict}: {}", String::from_utf8_lossy(&once));
        assert!(matches!(verdict.as_str(), "unchanged" | "left"), "{verdict}");
    }
}

/// What becomes of a mail, and the verdict.
fn normalized(service: &Normalize, mail: Mail) -> (Vec<u8>, String) {
    let mail = Arc::new(mail);
    let request = Request {
        dialog: Arc::new(DialogFacts::default()),
        command: Command::Message,
        input: Input::Content(Arc::clone(&mail)),
        envelope: Envelope::default(),
        parameters: Arc::new(Structure::default()),
        granted: Arc::new([]),
        may_notify: false,
    };
    let outcome = service.normalized(&request).expect(IN_MEMORY);
    let verdict = outcome.finding.verdict.into_owned();
    let all = |mail: &Mail| {
        let body = mail.body().read(0..mail.body().len()).expect(IN_MEMORY);
        [mail.header().clone(), body].concat()
    };
    let Change::Content(edits) = outcome.change else { return (all(&mail), verdict) };
    let edited = mail.edited(&edits).expect("no two of the edits overlap");
    let octets = all(&edited);
    assert_eq!(octets, edited_naively(&all(&mail), &edits));
    assert_eq!(header_length(&octets), edited.header().len());
    (octets, verdict)
}

fn edited_naively(octets: &[u8], edits: &Edits) -> Vec<u8> {
    let mut edited = Vec::new();
    let mut at = 0;
    for edit in edits.iter() {
        edited.extend_from_slice(octets.get(at..edit.range.start).expect("in their order"));
        edited.extend_from_slice(&edit.insert);
        at = edit.range.end;
    }
    edited.extend_from_slice(octets.get(at..).expect("within the mail"));
    edited
}

fn read(octets: &[u8]) -> Mail {
    let (header, body) = octets.split_at(header_length(octets));
    Mail::new(header.to_vec().into(), body.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_corpora_hold() {
        for target in ["mail", "normalize"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
            let mut files = 0;
            for entry in std::fs::read_dir(folder).unwrap() {
                normalize(&std::fs::read(entry.unwrap().path()).unwrap());
                files += 1;
            }
            assert!(files >= 8, "{files} seeds");
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_put_right(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            normalize(&octets);
        }

        #[test]
        fn malformed_mails_are_put_right(pieces in proptest::collection::vec(prop_oneof![
            Just("Content-Type: multipart/mixed; boundary=b\r\n"), Just("\r\n"), Just("\n"), Just("\r"),
            Just("--b\r\n"), Just("--b--\r\n"), Just("Content-Type: multipart/x\r\n"), Just("\r\n\r\n"),
            Just("Content-Type: message/rfc822\n"), Just("Content-Type: text/plain; charset=x\r\n"),
            Just("Content-Transfer-Encoding: base64\r\n"), Just("Content-Transfer-Encoding: x(\r\n"),
            Just("Content-Transfer-Encoding: quoted-printable\r\n"), Just("a=3D=\r\n"), Just("=ZZ"),
            Just("text"), Just("\0"), Just("begin 644 a\r\n"), Just("#86)C\r\n"), Just("end\r\n"),
            Just("Subject: \u{fc} x \u{e4}\r\n"), Just("From: \"\u{fc}\" <a@b>, \u{fc}@c\r\n"), Just("\u{fc}"),
            Just("X : y\r\n"), Just(" \r\n"), Just("no field\r\n"), Just("Date: x\r\n"),
            Just("DKIM-Signature: x\r\n"), Just("Content-Type: multipart/signed; boundary=\"b\"\r\n"),
            Just("-----BEGIN PGP MESSAGE-----\r\n"), Just("aGVs*bG8=\r\n"), Just("Content-Type: text/html\r\n"),
            Just("Content-Disposition: attachment; filename=\u{fc}.doc\r\n"),
            proptest::string::string_regex("[ab]{500}( [ab]{600})?").unwrap().prop_map(|text| &*text.leak()),
        ], 0..30)) {
            normalize(pieces.concat().as_bytes());
        }
    }
}
