//! `log`: one structured record for each event, each message and each reply; it changes nothing.
//!
//! Records go to [`tracing`] with the target `opes::log`. All of them hold the event and what is
//! known of the client and the envelope; a command adds its line, a message its sizes and
//! identifying fields, which takes its header section alone: no body travels to the server for it. Control
//! characters are replaced, texts are cut at 200 characters, and of AUTH only the mechanism is shown. In a group for replies a record holds the next hop's reply and the
//! command that it answers. The server only watches: nobody waits for these records. It wants
//! to see every event: where it is asked no envelope is done early, and no answer is used again.
//!
//! ```toml
//! # trace, debug, info (default), warn or error
//! level = "info"
//! # Which events, and replies to which of them (CONNECT: the banner); all by default. Without MESSAGE no
//! # content travels to the server for it.
//! events = ["CONNECT", "HELO", "MAIL", "RCPT", "MESSAGE", "QUIT"]
//! # Whether MIME parts are counted; false by default, since that takes all of the body.
//! parts = false
//! ```

use std::borrow::Cow;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use ocp_proto::smtp::{Address, Command, FailurePolicy};
use serde::Deserialize;
use toml::Spanned;
use tracing::enabled;

use crate::mail::{Mail, PartKind, SpoolError};
use crate::outcome::{Finding, Outcome};
use crate::registry::{Kind, Settings, SettingsError};
use crate::service::{
    Content, Declaration, Request, Service, ServiceError, compute, mechanism_only,
};
use crate::setting::{EVENTS, commands};

/// The kind `log`.
pub const KIND: Kind = Kind {
    name: "log",
    summary: "a structured record for each event, message and reply; changes nothing",
    needs_settings: false,
    build: |settings| Ok(Arc::new(Log::new(settings)?)),
};

/// The target of the records.
pub const TARGET: &str = "opes::log";

/// The most characters of one text in a record.
const LONGEST_TEXT: usize = 200;
/// The most recipients of one record; their number is always there.
const MOST_RECIPIENTS: usize = 20;

/// The settings, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Config {
    /// The level of the records.
    level: Level,
    /// The events that are recorded; all if absent.
    events: Option<Vec<Spanned<String>>>,
    /// Whether MIME parts are counted.
    parts: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Level {
    Trace,
    Debug,
    #[default]
    Info,
    Warn,
    Error,
}

/// The service.
#[derive(Debug)]
pub struct Log {
    level: Level,
    events: Vec<Command>,
    parts: bool,
}

/// [`tracing::event!`] wants its level at compile time.
macro_rules! record {
    ($level:expr, $($fields:tt)*) => {
        match $level {
            Level::Trace => tracing::trace!(target: TARGET, $($fields)*),
            Level::Debug => tracing::debug!(target: TARGET, $($fields)*),
            Level::Info => tracing::info!(target: TARGET, $($fields)*),
            Level::Warn => tracing::warn!(target: TARGET, $($fields)*),
            Level::Error => tracing::error!(target: TARGET, $($fields)*),
        }
    };
}

impl Log {
    /// The service with these settings.
    ///
    /// # Errors
    /// If a level or an event is unknown.
    pub fn new(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let Config { level, events, parts } = settings.read()?;
        let events = match events {
            None => EVENTS.to_vec(),
            Some(names) => commands(&names, &EVENTS, "event")?,
        };
        Ok(Self { level, events, parts })
    }

    fn is_read(&self) -> bool {
        match self.level {
            Level::Trace => enabled!(target: TARGET, tracing::Level::TRACE),
            Level::Debug => enabled!(target: TARGET, tracing::Level::DEBUG),
            Level::Info => enabled!(target: TARGET, tracing::Level::INFO),
            Level::Warn => enabled!(target: TARGET, tracing::Level::WARN),
            Level::Error => enabled!(target: TARGET, tracing::Level::ERROR),
        }
    }

    fn record(&self, request: &Request, message: Option<Message>) {
        let dialog = &request.dialog;
        let recipients = &request.envelope.recipients;
        let reply = request.reply();
        let line = request.line().or(reply.and_then(|(_, line)| line));
        let line = line.map(|line| match request.command {
            Command::Auth => Cow::Owned(printable(&mechanism_only(line.as_bytes())).into_owned()),
            _ => printable(line.as_bytes()),
        });
        record!(
            self.level,
            event = request.command.name(),
            client = dialog.client_address.as_deref().map(printable).as_deref(),
            client_name = dialog.client_name.as_deref().map(printable).as_deref(),
            helo = dialog.helo.as_deref().map(printable).as_deref(),
            user = dialog.auth.as_ref().map(|auth| printable(&auth.identity)).as_deref(),
            queue_id = dialog.queue_id.as_deref().map(printable).as_deref(),
            line = line.as_deref(),
            reply = reply.map(|(reply, _)| printable(&reply.to_string().into_bytes()).into_owned()),
            sender =
                request.envelope.sender.as_ref().map(|sender| printable(sender.path())).as_deref(),
            recipient_count = (!recipients.is_empty()).then_some(recipients.len()),
            recipients = (!recipients.is_empty()).then(|| paths(recipients)),
            header_octets = message.as_ref().map(|message| message.header_octets),
            body_octets = message.as_ref().and_then(|message| message.body_octets),
            parts = message.as_ref().and_then(|message| message.parts),
            message_id = message.as_ref().and_then(|message| message.message_id.as_deref()),
            from = message.as_ref().and_then(|message| message.from.as_deref()),
            subject = message.as_ref().and_then(|message| message.subject.as_deref()),
            "{}",
            match (&message, reply) {
                (Some(_), _) => "message",
                (_, Some(_)) => "reply",
                _ => "event",
            },
        );
    }
}

impl Service for Log {
    fn declaration(&self) -> Declaration {
        let replies: Vec<_> = self.events.iter().map(replied).collect();
        Declaration {
            observed: self.events.clone(),
            observed_replies: replies.clone(),
            replies,
            wants_replied_command: true,
            on_failure: FailurePolicy::Accept,
            immediate: true,
            content: if self.parts { Content::Whole } else { Content::Header },
            ..Declaration::on(self.events.clone())
        }
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        async move {
            // What nobody reads is not looked for either.
            if !self.is_read() {
                return Ok(Outcome::unchanged(Finding::new("logged")));
            }
            let message = match request.mail().cloned() {
                Some(mail) if self.parts => {
                    Some(compute(mail.len(), move || Message::with_parts(&mail)).await??)
                }
                Some(mail) => Some(Message::of(&mail)),
                None => None,
            };
            self.record(request, message);
            Ok(Outcome::unchanged(Finding::new("logged")))
        }
        .boxed()
    }
}

/// What is recorded of a message.
struct Message {
    header_octets: usize,
    /// Of all of the body, unless the end of it is not here and nobody said how long it is.
    body_octets: Option<usize>,
    /// Parts with content of their own.
    parts: Option<usize>,
    message_id: Option<String>,
    from: Option<String>,
    subject: Option<String>,
}

impl Message {
    fn of(mail: &Mail) -> Self {
        let field =
            |name| mail.field(name).map(|field| printable(field.text().as_bytes()).into_owned());
        Self {
            header_octets: mail.header().len(),
            body_octets: mail.whole_len().map(|octets| octets - mail.header().len()),
            parts: None,
            message_id: field("Message-ID"),
            from: field("From"),
            subject: field("Subject"),
        }
    }

    /// The same, with its parts counted.
    fn with_parts(mail: &Mail) -> Result<Self, SpoolError> {
        let parts = mail.parts()?.iter().filter(|part| part.kind == PartKind::Leaf).count();
        Ok(Self { parts: Some(parts), ..Self::of(mail) })
    }
}

/// The command whose reply follows the event.
fn replied(event: &Command) -> Command {
    match event {
        Command::Connect => Command::Greeting,
        other => other.clone(),
    }
}

fn paths(recipients: &[Address]) -> String {
    let mut paths = String::new();
    for recipient in recipients.iter().take(MOST_RECIPIENTS) {
        if !paths.is_empty() {
            paths.push(' ');
        }
        paths.push_str(&printable(recipient.path()));
    }
    paths
}

/// Text that can stand in a log: control characters replaced, cut.
fn printable(octets: &[u8]) -> Cow<'_, str> {
    let octets = octets.get(..LONGEST_TEXT * 4).unwrap_or(octets);
    let text = String::from_utf8_lossy(octets);
    if text.len() <= LONGEST_TEXT && text.bytes().all(|octet| matches!(octet, b' '..=b'~')) {
        // Nearly all of them, and a record has many.
        return text;
    }
    let replaced = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let mut shown: String = text.chars().take(LONGEST_TEXT).map(replaced).collect();
    if text.chars().nth(LONGEST_TEXT).is_some() {
        shown.push('\u{2026}');
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;
    use std::sync::Mutex;

    use bytes::Bytes;
    use ocp_proto::smtp::{CommandLine, DialogFacts, Envelope};
    use ocp_proto::wire::Structure;

    use super::*;
    use crate::service::Input;
    use crate::setting::documented;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(octets)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn service(settings: &str) -> Result<Log, SettingsError> {
        Log::new(Settings::parse(settings, Path::new(""))?)
    }

    /// The record of one event, as JSON.
    fn record(settings: &str, command: Command, input: Input) -> String {
        let request = Request {
            dialog: Arc::new(DialogFacts {
                client_address: Some("192.0.2.1".into()),
                ..DialogFacts::default()
            }),
            command,
            input,
            envelope: Envelope {
                sender: Some(Address::null()),
                recipients: vec![Address::new("<a@example.org>").unwrap(); 30],
            },
            parameters: Arc::new(Structure { members: Vec::new(), named: Default::default() }),
            granted: Arc::new([]),
            may_notify: false,
        };
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        let service = service(settings).unwrap();
        let handled = tracing::subscriber::with_default(subscriber, || {
            service.handle(&request).now_or_never()
        });
        let outcome = handled.unwrap().unwrap();
        assert_eq!(outcome, Outcome::unchanged(Finding::new("logged")));
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_message_is_one_bounded_record() {
        let header = format!(
            "From: =?utf-8?Q?J=C3=BCrgen?= <j@example.org>\r\nSubject: a\0b{}\r\n\r\n",
            "x".repeat(500)
        );
        let mail = Arc::new(Mail::new(header.into(), "body"));
        let record = record("level = 'warn'\nparts = true", Command::Message, Input::Content(mail));
        assert_eq!(record.lines().count(), 1);
        for part in [
            "\"level\":\"WARN\"",
            "\"target\":\"opes::log\"",
            "\"event\":\"MESSAGE\"",
            "\"client\":\"192.0.2.1\"",
            "\"sender\":\"<>\"",
            "\"recipient_count\":30",
            "\"body_octets\":4",
            "\"parts\":1",
            "J\u{fc}rgen",
            "a\u{fffd}bx",
        ] {
            assert!(record.contains(part), "{part}: {record}");
        }
        assert!(!record.contains("message_id") && !record.contains("\"line\""), "{record}");
        assert!(!record.contains(&"x".repeat(LONGEST_TEXT)), "{record}");
        assert_eq!(record.matches("<a@example.org>").count(), MOST_RECIPIENTS);
    }

    #[test]
    fn what_is_not_counted_needs_no_body() {
        let header = Bytes::from_static(b"Subject: s\r\n\r\n");
        for (mail, octets) in [
            (Mail::new(header.clone(), "body"), Some("\"body_octets\":4,")),
            (Mail::front(header.clone(), "", Some(4)), Some("\"body_octets\":4,")),
            (Mail::front(header, "", None), None),
        ] {
            let record = record("", Command::Message, Input::Content(Arc::new(mail)));
            assert!(record.contains("\"header_octets\":14,"), "{record}");
            assert_eq!(record.contains("body_octets"), octets.is_some(), "{record}");
            assert!(octets.is_none_or(|octets| record.contains(octets)), "{record}");
            assert!(!record.contains("\"parts\""), "{record}");
        }
        assert_eq!(service("").unwrap().declaration().content, Content::Header);
        assert_eq!(service("parts = true").unwrap().declaration().content, Content::Whole);
    }

    #[test]
    fn of_auth_only_the_mechanism_is_shown() {
        let line = CommandLine::new("AUTH PLAIN AGEAc2VjcmV0").unwrap();
        let record = record("", Command::Auth, Input::Line(line));
        assert!(record.contains("\"line\":\"AUTH PLAIN\""), "{record}");
        assert!(!record.contains("AGEA"), "{record}");
    }

    #[test]
    fn a_reply_is_recorded_with_its_command() {
        let reply = ocp_proto::smtp::Reply::new(550, "5.1.1", "no").unwrap();
        let line = CommandLine::new("RCPT TO:<b@c>").ok();
        let record = record("", Command::Rcpt, Input::Reply { reply, line });
        for part in [
            "\"message\":\"reply\"",
            "\"event\":\"RCPT\"",
            "\"line\":\"RCPT TO:<b@c>\"",
            "\"reply\":\"550 5.1.1 no\"",
        ] {
            assert!(record.contains(part), "{part}: {record}");
        }
    }

    #[test]
    fn it_watches_what_it_is_told_to_and_never_stops_mail() {
        let declaration = service("").unwrap().declaration();
        assert_eq!((declaration.events.len(), declaration.observed.len()), (13, 13));
        assert_eq!(declaration.replies, declaration.observed_replies);
        assert_eq!(declaration.replies.first(), Some(&Command::Greeting));
        assert_eq!(declaration.on_failure, FailurePolicy::Accept);
        let declaration = service(&documented(include_str!("log.rs"))).unwrap().declaration();
        assert_eq!(declaration.events.len(), 6);
        let error = service("events = ['MAIL', 'mail']").unwrap_err();
        assert_eq!(error.span, Some(18..24));
        assert!(error.message.starts_with("\"mail\" is no event; these are: CONNECT, HELO,"));
    }
}
