//! `mail-from`: checks the sender of MAIL, and may rewrite it.
//!
//! In this order: the syntax of the command (RFC 5321 section 4.1.2, RFC 6531), the null sender,
//! the lists, the rewriting rules. What is refused, and how:
//!
//! | what | reply |
//! | --- | --- |
//! | not `MAIL FROM:`, or wrong parameters | `501 5.5.4` |
//! | a path that is not valid | `501 5.1.7` (RFC 3463 section 3.2: bad sender's mailbox address syntax) |
//! | an address beyond ASCII without SMTPUTF8 | `553 5.6.7` (RFC 6531 section 3.5) |
//! | the null sender, if it is refused | `550 5.7.1` |
//! | a sender of the deny list | `550 5.7.1`, or `deny-reply` |
//!
//! No reply repeats what the peer sent.
//!
//! ```toml
//! # An entry is an address, a domain, a domain with all below it, or a pattern (syntax of the
//! # `regex` crate, ASCII classes) over the mailbox: local part without quotes, domain in lower
//! # case. Case matters in patterns only. `allow` wins over `deny`.
//! allow = ["postmaster@bulk.example", ".partner.example"]
//! deny = ["bulk.example", "/^bounce-[0-9]+@/"]
//! deny-reply = "550 5.7.1 We take no mail from this sender"
//! # `<>`, the sender of bounces: "accept" (default) or "reject".
//! null-sender = "accept"
//! # Seconds for which a processor may use the answer to the same command line again, 86400 at the
//! # most; without it, it asks each time. Refusals too: an answer depends on nothing but the line and
//! # these settings. What is answered so stands in no log of this server, and a processor may learn of
//! # new settings that much later.
//! valid-for = 300
//!
//! # The first rule whose pattern is found in the mailbox applies: that stretch is replaced, `$1` or
//! # `${name}` stand for groups. An empty result is the null sender. Source routes go; the verb and
//! # the parameters stay as they are.
//! [[rewrite]]
//! pattern = '^(.+)@old\.example$'
//! replacement = '${1}@new.example'
//! ```

mod list;
pub(crate) mod parse;

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt, ready};
use ocp_proto::smtp::{Address, Command, CommandLine, Reply, Validity};
use regex::bytes::Regex;
use serde::Deserialize;
use toml::Spanned;

pub use self::list::AddressList;
use self::parse::{Mailbox, PathCommand, PathError};
use crate::outcome::{Change, Finding, Outcome};
use crate::registry::{Kind, Settings, SettingsError};
use crate::service::{Declaration, Request, Service, ServiceError};
use crate::setting::{pattern, refusal};

/// The kind `mail-from`.
pub const KIND: Kind = Kind {
    name: "mail-from",
    summary: "checks the sender: syntax, allow and deny lists, null sender; rewrites it",
    needs_settings: false,
    build: |settings| Ok(Arc::new(MailFrom::new(settings)?)),
};

/// The settings, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Config {
    /// Senders that the deny list does not reach.
    allow: Vec<Spanned<String>>,
    /// Senders that are refused.
    deny: Vec<Spanned<String>>,
    /// How they are refused; 4xx or 5xx.
    deny_reply: Option<Spanned<String>>,
    /// What becomes of `<>`.
    null_sender: NullSender,
    /// Seconds for which an answer may be used again.
    valid_for: Option<Spanned<u32>>,
    /// Rewriting rules, in order.
    rewrite: Vec<Rewrite>,
}

/// The longest that an answer may be used again, in seconds: a list that was changed holds everywhere
/// within a day.
const LONGEST_VALIDITY: u32 = 86_400;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum NullSender {
    #[default]
    Accept,
    Reject,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Rewrite {
    /// What is looked for in the mailbox.
    pattern: Spanned<String>,
    /// What stands in its place.
    replacement: String,
}

/// The service.
#[derive(Debug)]
pub struct MailFrom {
    allow: AddressList,
    deny: AddressList,
    deny_reply: Option<Reply>,
    null_sender: NullSender,
    validity: Option<Validity>,
    rewrite: Vec<(Regex, String)>,
}

impl MailFrom {
    /// The service with these settings.
    ///
    /// # Errors
    /// If an entry, a pattern, the reply or the time is not valid.
    pub fn new(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let Config { allow, deny, deny_reply, null_sender, valid_for, rewrite } =
            settings.read()?;
        let rule = |Rewrite { pattern: text, replacement }| match pattern(text.get_ref()) {
            Ok(pattern) => Ok((pattern, replacement)),
            Err(message) => Err(SettingsError::at(text.span(), message)),
        };
        Ok(Self {
            allow: AddressList::new(&allow)?,
            deny: AddressList::new(&deny)?,
            deny_reply: deny_reply.as_ref().map(refusal).transpose()?,
            null_sender,
            validity: valid_for.map(validity).transpose()?,
            rewrite: rewrite.into_iter().map(rule).collect::<Result<_, _>>()?,
        })
    }

    fn check(&self, line: &CommandLine) -> Result<Outcome, ServiceError> {
        let octets = line.as_bytes();
        let command = match PathCommand::mail(octets) {
            Ok(command) => command,
            Err(error) => {
                let (enhanced, text) = match error {
                    PathError::Verb => ("5.5.4", "Syntax: MAIL FROM:<address>"),
                    PathError::Path => ("5.1.7", "Bad sender address syntax"),
                    PathError::Parameters => ("5.5.4", "Bad MAIL parameters"),
                };
                return refused(501, enhanced, text, "malformed");
            }
        };
        let Some(mailbox) = &command.mailbox else {
            return match self.null_sender {
                NullSender::Accept => Ok(unchanged("unchanged", "null sender")),
                NullSender::Reject => refused(550, "5.7.1", "Null sender refused", "denied"),
            };
        };
        if mailbox.needs_smtputf8() && !command.smtputf8 {
            let text = "A sender address beyond ASCII needs SMTPUTF8";
            return refused(553, "5.6.7", text, "malformed");
        }
        let allowed = self.allow.find_mailbox(mailbox);
        if allowed.is_none()
            && let Some(entry) = self.deny.find_mailbox(mailbox)
        {
            let outcome = match &self.deny_reply {
                Some(reply) => Outcome::changed(Change::Reply(reply.clone()), "denied"),
                None => refused(550, "5.7.1", "Sender refused", "denied")?,
            };
            return Ok(outcome.with_finding(Finding::new("denied").with_reason(entry)));
        }
        match (self.rewritten(&command, mailbox, octets)?, allowed) {
            (Some((line, reason)), _) => Ok(Outcome::changed(Change::Command(line), "rewritten")
                .with_finding(Finding::new("rewritten").with_reason(reason))),
            (None, Some(entry)) => Ok(unchanged("allowed", entry)),
            (None, None) => Ok(Outcome::unchanged(Finding::new("unchanged"))),
        }
    }

    /// The line with another sender and what became of it, if a rule applies and changes something.
    fn rewritten(
        &self,
        command: &PathCommand,
        mailbox: &Mailbox,
        line: &[u8],
    ) -> Result<Option<(CommandLine, String)>, ServiceError> {
        let old = mailbox.written.as_bytes();
        let Some((pattern, replacement)) =
            self.rewrite.iter().find(|(pattern, _)| pattern.is_match(old))
        else {
            return Ok(None);
        };
        let new = pattern.replace(old, replacement.as_bytes());
        if new == old {
            return Ok(None);
        }
        let carries = |mailbox: Mailbox| command.smtputf8 || !mailbox.needs_smtputf8();
        let is_valid = new.is_empty() || Mailbox::parse(&new).is_some_and(carries);
        let path = [b"<", &new[..], b">"].concat();
        let line = CommandLine::new(command.with_path(line, &path));
        let (old, new) = (&mailbox.written, String::from_utf8_lossy(&new));
        match (Address::new(path), line) {
            (Ok(_), Ok(line)) if is_valid => Ok(Some((line, format!("<{old}> to <{new}>")))),
            _ => {
                let cause = format!("the rule {pattern:?} makes {new:?} of {old:?}: no address");
                Err(ServiceError::new("rewrite", cause))
            }
        }
    }
}

impl Service for MailFrom {
    fn declaration(&self) -> Declaration {
        Declaration::on([Command::Mail])
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        let outcome = match request.line() {
            Some(line) if request.command == Command::Mail => self.check(line).map(|outcome| {
                // A refusal holds as long: the same line meets the same lists.
                Outcome { validity: self.validity.clone(), ..outcome }
            }),
            _ => Ok(Outcome::unchanged(Finding::new("unchanged"))),
        };
        ready(outcome).boxed()
    }
}

fn validity(seconds: Spanned<u32>) -> Result<Validity, SettingsError> {
    match *seconds.get_ref() {
        0 => Err(SettingsError::at(seconds.span(), "leave it out, and no answer is used again")),
        1..=LONGEST_VALIDITY => Ok(Validity::new(seconds.into_inner())),
        _ => {
            let message = format!("answers hold for {LONGEST_VALIDITY} seconds at the most");
            Err(SettingsError::at(seconds.span(), message))
        }
    }
}

fn unchanged(verdict: &'static str, reason: &str) -> Outcome {
    Outcome::unchanged(Finding::new(verdict).with_reason(reason))
}

fn refused(
    code: u16,
    enhanced: &str,
    text: &str,
    verdict: &'static str,
) -> Result<Outcome, ServiceError> {
    let reply = Reply::new(code, enhanced, text)
        .map_err(|error| ServiceError::new("mail-from reply", error))?;
    Ok(Outcome::changed(Change::Reply(reply), verdict)
        .with_finding(Finding::new(verdict).with_reason(text)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ocp_proto::smtp::Envelope;

    use super::*;
    use crate::service::Input;
    use crate::setting::documented;

    fn service(settings: &str) -> Result<MailFrom, SettingsError> {
        MailFrom::new(Settings::parse(settings, Path::new(""))?)
    }

    /// What becomes of a line: its reply, its new form, or the verdict.
    fn answer(settings: &str, line: &str) -> String {
        let outcome = service(settings).unwrap().check(&CommandLine::new(line.to_owned()).unwrap());
        match outcome {
            Err(error) => format!("error: {error}"),
            Ok(Outcome { change: Change::Reply(reply), .. }) => reply.to_string(),
            Ok(Outcome { change: Change::Command(line), .. }) => {
                String::from_utf8(line.as_bytes().to_vec()).unwrap()
            }
            Ok(outcome) => outcome.finding.verdict.into_owned(),
        }
    }

    #[test]
    fn syntax_is_refused_without_an_echo() {
        let cases = [
            ("MAIL FROM:<a@b.example>", "unchanged"),
            ("MAIL FROM:<evil\x07>", "501 5.1.7 Bad sender address syntax"),
            ("MAIL <a@b>", "501 5.5.4 Syntax: MAIL FROM:<address>"),
            ("MAIL FROM:<a@b> =", "501 5.5.4 Bad MAIL parameters"),
            ("MAIL FROM:<\u{fc}@b>", "553 5.6.7 A sender address beyond ASCII needs SMTPUTF8"),
            ("MAIL FROM:<\u{fc}@b> smtputf8", "unchanged"),
        ];
        for (line, expected) in cases {
            assert_eq!(answer("", line), expected, "{line}");
        }
    }

    #[test]
    fn allow_wins_over_deny() {
        let settings = documented(include_str!("mod.rs"));
        let cases = [
            ("MAIL FROM:<a@bulk.example>", "550 5.7.1 We take no mail from this sender"),
            ("MAIL FROM:<@relay:a@bulk.example>", "550 5.7.1 We take no mail from this sender"),
            ("MAIL FROM:<Postmaster@bulk.example>", "allowed"),
            ("MAIL FROM:<bounce-1@x.partner.example>", "allowed"),
            ("MAIL FROM:<bounce-1@other.example>", "550 5.7.1 We take no mail from this sender"),
            (
                "MAIL FROM:<\"bounce-1\"@other.example>",
                "550 5.7.1 We take no mail from this sender",
            ),
            ("MAIL FROM:<>", "unchanged"),
        ];
        for (line, expected) in cases {
            assert_eq!(answer(&settings, line), expected, "{line}");
        }
        assert_eq!(answer("deny = ['b']", "MAIL FROM:<a@b>"), "550 5.7.1 Sender refused");
        assert_eq!(
            answer("null-sender = 'reject'", "MAIL FROM:<>"),
            "550 5.7.1 Null sender refused"
        );
    }

    #[test]
    fn rewriting_keeps_verb_and_parameters() {
        let settings = documented(include_str!("mod.rs"));
        assert_eq!(
            answer(&settings, "Mail from: <@r:a@old.example> SIZE=1  BODY=7BIT"),
            "Mail from: <a@new.example> SIZE=1  BODY=7BIT"
        );
        assert_eq!(answer(&settings, "MAIL FROM:<a@older.example>"), "unchanged");
        let null = "rewrite = [{pattern = '^a@.*', replacement = ''}]";
        assert_eq!(answer(null, "MAIL FROM:<a@b> X"), "MAIL FROM:<> X");
        let broken = "rewrite = [{pattern = '@.*', replacement = '@\u{fc}>'}]";
        let error = answer(broken, "MAIL FROM:<a@b> SMTPUTF8");
        assert!(error.starts_with("error: rewrite: the rule Regex(\"@.*\") makes"), "{error}");
        let beyond = "rewrite = [{pattern = '@.*', replacement = '@\u{fc}'}]";
        assert!(answer(beyond, "MAIL FROM:<a@b>").starts_with("error: "));
        let two = "rewrite = [{pattern = '@.*', replacement = '@c> X=1'}]";
        assert!(answer(two, "MAIL FROM:<a@b>").starts_with("error: "));
        assert_eq!(answer(beyond, "MAIL FROM:<a@b> SMTPUTF8"), "MAIL FROM:<a@\u{fc}> SMTPUTF8");
    }

    #[test]
    fn an_answer_holds_for_its_line_as_long_as_it_is_told_to() {
        let validity = |settings: &str, line: &'static str| {
            let request = Request {
                dialog: Arc::default(),
                command: Command::Mail,
                input: Input::Line(CommandLine::new(line).unwrap()),
                envelope: Envelope::default(),
                parameters: Arc::default(),
                granted: Arc::new([]),
                may_notify: false,
            };
            let handled = service(settings).unwrap().handle(&request).now_or_never();
            handled.unwrap().unwrap().validity
        };
        let settings = documented(include_str!("mod.rs"));
        for line in ["MAIL FROM:<a@b.example>", "MAIL FROM:<a@bulk.example>", "MAIL <a@b>"] {
            assert_eq!(validity(&settings, line), Some(Validity::new(300)), "{line}");
            assert_eq!(validity("", line), None, "{line}");
        }
    }

    #[test]
    fn wrong_settings_are_shown_where_they_stand() {
        let span = |settings: &str| {
            let error = service(settings).unwrap_err();
            settings.get(error.span.unwrap_or_default()).unwrap_or_default().to_owned()
        };
        assert_eq!(span("deny = ['a', 'b c']"), "'b c'");
        assert_eq!(span("rewrite = [{pattern = '(', replacement = ''}]"), "'('");
        assert_eq!(span("deny-reply = '250 ok'"), "'250 ok'");
        assert_eq!(span("null-sender = 'maybe'"), "'maybe'");
        assert_eq!(span("valid-for = 0"), "0");
        assert_eq!(span("valid-for = 86_401"), "86_401");
        assert_eq!(span("denied = []"), "denied");
    }
}
