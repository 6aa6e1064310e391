//! Services that a sender asks to skip (profile section 8, RFC 3897 section 4). Whom to hear is the
//! processor's decision; what may be skipped is that of our configuration.

use ocp_proto::smtp::means_service;
use ocp_proto::wire::Atom;
use services::Finding;

use crate::access::Access;
use crate::router::{Entry, Router};

/// What a processor asks to skip for one event.
#[derive(Clone, Debug, Default)]
pub(crate) enum Bypass {
    /// Nothing.
    #[default]
    None,
    /// These services.
    Named(Vec<Atom>),
    /// Whatever may be skipped.
    All,
}

/// What becomes of it for a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The service is not asked.
    Bypassed,
    /// It is asked all the same.
    Refused,
}

impl Bypass {
    /// A request, as a peer with this access means it. `*`, and a URI that names nothing here, stand
    /// for all (RFC 3897 section 4.3).
    pub(crate) fn new(uris: Vec<Atom>, router: &Router, access: &Access) -> Self {
        let is_known = |uri: &Atom| {
            router.iter().any(|entry| access.has_service(&entry.name) && is_meant(entry, uri))
        };
        match uris.is_empty() {
            true => Self::None,
            false if uris.iter().all(is_known) => Self::Named(uris),
            false => Self::All,
        }
    }

    /// What becomes of it for this service; `None` if it is not meant.
    pub(crate) fn of(&self, entry: &Entry) -> Option<Decision> {
        let is_meant = match self {
            Self::None => false,
            Self::Named(uris) => uris.iter().any(|uri| is_meant(entry, uri)),
            Self::All => true,
        };
        let decision = if entry.bypassable { Decision::Bypassed } else { Decision::Refused };
        is_meant.then_some(decision)
    }
}

impl Decision {
    /// It in the words of a verdict.
    pub(crate) fn finding(self) -> Finding {
        match self {
            Self::Bypassed => Finding::new("bypassed"),
            Self::Refused => Finding::new("bypass-refused").with_reason("not bypassable"),
        }
    }
}

fn is_meant(entry: &Entry, uri: &[u8]) -> bool {
    entry.uris.iter().any(|known| means_service(uri, known))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use bytes::Bytes;
    use ocp_proto::smtp::{Address, Command, Envelope};
    use ocp_proto::wire::{Structure, Value};
    use services::mail::Mail;
    use services::{Input, Registry};

    use super::*;
    use crate::branch::Abilities;
    use crate::chain::{Adapted, Answer, Event};
    use crate::config::Config;

    const GROUP: [&str; 3] = ["virus-scan", "mime-strip", "spam-score"];

    fn config() -> Config {
        let text = "[services.mime-strip]\nbypassable = true\nuris = [\"x:strip\"]\n\
                    [services.spam-score]\nbypassable = true\n";
        Config::parse(text, Path::new("test.toml"), &Registry::builtin()).unwrap()
    }

    async fn answer(config: &Config, uris: &[&'static str], mail: &str) -> Answer {
        let uris = uris.iter().map(|uri| Atom::from_static(uri.as_bytes())).collect();
        let service = |name: &&str| Structure {
            members: vec![Value::atom(format!("ocp://service/{name}"))],
            ..Structure::default()
        };
        let services: Vec<Structure> = GROUP.iter().map(service).collect();
        let access = Access::default();
        let chain = config.router.chain(&services, &access).unwrap();
        let header = mail.find("\r\n\r\n").unwrap() + 4;
        let (header, body) = mail.split_at(header);
        let mail = Mail::new(Bytes::from(header.to_owned()), Bytes::from(body.to_owned()));
        let event = Event {
            dialog: Arc::default(),
            command: Command::Message,
            input: Input::Content(Arc::new(mail)),
            envelope: Envelope { sender: Some(Address::null()), recipients: Vec::new() },
            granted: Arc::new([]),
            abilities: Abilities::default(),
            observed: false,
            bypass: Bypass::new(uris, &config.router, &access),
        };
        chain.run(event).await
    }

    fn words(answer: &Answer) -> Vec<String> {
        let word = |verdict: &ocp_proto::smtp::Verdict| {
            let service = String::from_utf8_lossy(&verdict.service).into_owned();
            let name = service.trim_start_matches("ocp://service/");
            format!("{name} {}", String::from_utf8_lossy(&verdict.verdict))
        };
        answer.verdicts.iter().map(word).collect()
    }

    /// OPES-3897-4-01, OPES-3897-4-02, OPES-3897-4-03, OPES-3897-4-04, OPES-3897-4.1-01,
    /// OPES-3897-4.3-03, OPES-3897-4.3-04
    #[tokio::test]
    async fn what_is_asked_for_and_may_be_skipped_is_skipped() {
        let mail = "Subject: x\r\n\r\nbody\r\n";
        let (scan, strip, spam) = ("virus-scan clean", "mime-strip clean", "spam-score ham");
        let refused = "virus-scan bypass-refused";
        let (no_strip, no_spam) = ("mime-strip bypassed", "spam-score bypassed");
        let cases: &[(&[&'static str], &[&str])] = &[
            (&[], &[scan, strip, spam]),
            (&["ocp://service/spam-score"], &[scan, strip, no_spam]),
            (&["ocp://service/spam-score;x=y"], &[scan, strip, no_spam]),
            (&["x:strip"], &[scan, no_strip, spam]),
            (&["x:strip", "ocp://service/spam-score"], &[scan, no_strip, no_spam]),
            (&["ocp://service/virus-scan"], &[refused, scan, strip, spam]),
            (&["*"], &[refused, scan, no_strip, no_spam]),
            (&["ocp://service/unknown"], &[refused, scan, no_strip, no_spam]),
            (&["x:strip", "nonsense"], &[refused, scan, no_strip, no_spam]),
            // Another service of this server, and not of this group.
            (&["ocp://service/log"], &[scan, strip, spam]),
        ];
        let config = config();
        for (uris, expected) in cases {
            assert_eq!(words(&answer(&config, uris, mail).await), *expected, "{uris:?}");
        }
        let counted = |name: &str| {
            let entry = config.router.find(format!("ocp://service/{name}").as_bytes()).unwrap();
            entry.metrics.counted()
        };
        assert_eq!(counted("virus-scan"), ["command MESSAGE unchanged 10"]);
        let strip = ["command MESSAGE unchanged 5", "command MESSAGE bypassed 5"];
        assert_eq!(counted("mime-strip"), strip);
        let spam = ["command MESSAGE unchanged 4", "command MESSAGE bypassed 6"];
        assert_eq!(counted("spam-score"), spam);
    }

    /// OPES-3897-8.2-02
    #[tokio::test]
    async fn whatever_is_skipped_the_rest_makes_a_whole_message() {
        let mail = "Subject: FREE MONEY\r\nMIME-Version: 1.0\r\n\
                    Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n--b\r\n\
                    Content-Type: application/octet-stream; name=setup.exe\r\n\r\nMZ\r\n--b--\r\n";
        let config = config();
        let subsets: [&[&'static str]; 4] =
            [&[], &["x:strip"], &["ocp://service/spam-score"], &["*"]];
        for uris in subsets {
            let answer = answer(&config, uris, mail).await;
            let made = match &answer.branches[0].adapted {
                Adapted::Unchanged => mail.to_owned(),
                Adapted::Content(mail) => {
                    let body = mail.body().read(0..mail.body().len()).unwrap();
                    let header = String::from_utf8(mail.header().to_vec()).unwrap();
                    header + std::str::from_utf8(&body).unwrap()
                }
                other => panic!("{other:?}"),
            };
            let strips = !uris.contains(&"x:strip") && !uris.contains(&"*");
            assert_eq!(made.contains("\r\nMZ\r\n"), !strips, "{uris:?} {made}");
            let (header, body) = made.split_once("\r\n\r\n").unwrap();
            assert!(header.contains("boundary=b"), "{uris:?} {header}");
            assert!(body.starts_with("--b\r\n") && body.ends_with("\r\n--b--\r\n"), "{body}");
        }
    }
}
