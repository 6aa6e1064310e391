//! `recipient-retry`: has a recipient that the next hop refuses tried again, under another address or
//! at another next hop.
//!
//! It looks at replies to RCPT, so its group has to be one for replies, and the processor has to offer
//! `retry-command` (profile section 6). Where it does not, refusals stay what they are, and the log says
//! so when the group is negotiated. What the sender hears is the reply to the command that is tried
//! again; the first refusal is what it hears if that can't be sent.
//!
//! ```toml
//! # The first rule that is found in the recipient and in the reply applies. Patterns have the syntax of
//! # the `regex` crate with ASCII classes; case matters. `recipient` is looked for in the mailbox as it
//! # is written, `reply` in the first line of the reply; without it every refusal is meant. The stretch
//! # of the mailbox that was found is replaced by `address`, where `$1` or `${name}` stand for groups.
//! # Parameters stay as they are.
//! [[rule]]
//! recipient = '^(.+)@old\.example$'
//! reply = '^55[01]'
//! address = '${1}@new.example'
//!
//! # The same address, somewhere else; or both. The processor has to allow that next hop.
//! [[rule]]
//! recipient = '@branch\.example$'
//! next-hop = "mx.branch.example:25"
//! ```

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt, ready};
use ocp_proto::smtp::{Command, CommandLine, EffectName, FailurePolicy, Reply, SideEffect};
use ocp_proto::wire::Atom;
use regex::bytes::Regex;
use serde::Deserialize;
use toml::Spanned;

use crate::mail_from::parse::{Mailbox, PathCommand};
use crate::outcome::{Finding, Outcome};
use crate::registry::{Kind, Settings, SettingsError};
use crate::service::{Declaration, Request, Service, ServiceError};
use crate::setting::pattern;

/// The kind `recipient-retry`.
pub const KIND: Kind = Kind {
    name: "recipient-retry",
    summary: "has refused recipients tried again, under another address or at another next hop",
    needs_settings: false,
    build: |settings| Ok(Arc::new(RecipientRetry::new(settings)?)),
};

/// The longest name of a host (RFC 5321 section 4.5.3.1.2).
const LONGEST_HOST: usize = 255;

/// The settings, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Config {
    /// In order; the first one that applies does.
    rule: Vec<Spanned<RawRule>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawRule {
    /// What is looked for in the mailbox.
    recipient: Spanned<String>,
    /// What is looked for in the first line of the refusal; any if absent.
    reply: Option<Spanned<String>>,
    /// What stands in the place of what was found in the mailbox; that itself if absent.
    address: Option<String>,
    /// Where to, `host:port`; where it was refused if absent.
    next_hop: Option<Spanned<String>>,
}

#[derive(Debug)]
struct Rule {
    recipient: Regex,
    reply: Option<Regex>,
    address: Option<String>,
    next_hop: Option<Atom>,
}

/// The service.
#[derive(Debug)]
pub struct RecipientRetry {
    rules: Vec<Rule>,
}

impl RecipientRetry {
    /// The service with these settings.
    ///
    /// # Errors
    /// If a pattern or a next hop is not valid, or a rule changes nothing.
    pub fn new(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let Config { rule } = settings.read()?;
        Ok(Self { rules: rule.iter().map(Rule::new).collect::<Result<_, _>>()? })
    }

    /// The command that is to be tried, where to, and what people are told of it; `None` if no rule
    /// applies or nothing changes.
    fn retried(
        &self,
        line: &CommandLine,
        reply: &Reply,
    ) -> Result<Option<(SideEffect, String)>, ServiceError> {
        let octets = line.as_bytes();
        // What is no mailbox has no other one.
        let Ok(command) = PathCommand::rcpt(octets) else { return Ok(None) };
        let Some(mailbox) = &command.mailbox else { return Ok(None) };
        let old = mailbox.written.as_bytes();
        let first = reply.lines().next().unwrap_or_default();
        let Some(rule) = self.rules.iter().find(|rule| {
            rule.recipient.is_match(old)
                && rule.reply.as_ref().is_none_or(|wanted| wanted.is_match(first))
        }) else {
            return Ok(None);
        };
        let new = match &rule.address {
            Some(address) => rule.recipient.replace(old, address.as_bytes()),
            None => old.into(),
        };
        if new == old && rule.next_hop.is_none() {
            return Ok(None);
        }
        let carries = |mailbox: Mailbox| command.smtputf8 || !mailbox.needs_smtputf8();
        let is_valid = Mailbox::parse(&new).is_some_and(carries);
        let path = [b"<", &new[..], b">"].concat();
        let shown = format!("<{}> to <{}>", mailbox.written, String::from_utf8_lossy(&new));
        let line = match CommandLine::new(command.with_path(octets, &path)) {
            Ok(line) if is_valid => line,
            _ => {
                let cause = format!("the rule {:?} makes {shown}: no address", rule.recipient);
                return Err(ServiceError::new("address", cause));
            }
        };
        let place = rule.next_hop.as_ref().map(|hop| String::from_utf8_lossy(hop).into_owned());
        let shown = place.map_or_else(|| shown.clone(), |hop| format!("{shown} at {hop}"));
        let next_hop = rule.next_hop.clone();
        Ok(Some((SideEffect::RetryCommand { line, next_hop }, shown)))
    }

    fn answer(&self, request: &Request) -> Result<Outcome, ServiceError> {
        let unchanged = || Outcome::unchanged(Finding::new("unchanged"));
        let Some((reply, Some(line))) = request.reply() else { return Ok(unchanged()) };
        if !(reply.is_temporary() || reply.is_permanent()) {
            return Ok(unchanged());
        }
        let Some((retry, shown)) = self.retried(line, reply)? else { return Ok(unchanged()) };
        if !request.may(EffectName::RetryCommand) {
            let reason = "the processor does not offer retry-command";
            return Ok(unchanged().with_finding(Finding::new("unchanged").with_reason(reason)));
        }
        let finding = Finding::new("retried").with_reason(shown);
        Ok(unchanged().with_finding(finding).with_effect(retry))
    }
}

impl Service for RecipientRetry {
    fn declaration(&self) -> Declaration {
        let wanted = (!self.rules.is_empty()).then_some(Command::Rcpt);
        Declaration {
            effects: vec![EffectName::RetryCommand],
            on_failure: FailurePolicy::Accept,
            immediate: true,
            ..Declaration::on_replies(wanted)
        }
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        ready(self.answer(request)).boxed()
    }
}

impl Rule {
    fn new(raw: &Spanned<RawRule>) -> Result<Self, SettingsError> {
        let RawRule { recipient, reply, address, next_hop } = raw.get_ref();
        if address.is_none() && next_hop.is_none() {
            let message = "a rule without address and next-hop changes nothing";
            return Err(SettingsError::at(raw.span(), message));
        }
        let compiled = |text: &Spanned<String>| {
            pattern(text.get_ref()).map_err(|message| SettingsError::at(text.span(), message))
        };
        Ok(Self {
            recipient: compiled(recipient)?,
            reply: reply.as_ref().map(compiled).transpose()?,
            address: address.clone(),
            next_hop: next_hop.as_ref().map(self::next_hop).transpose()?,
        })
    }
}

/// `host:port`, the host a name or an address, one of IPv6 in brackets.
fn next_hop(text: &Spanned<String>) -> Result<Atom, SettingsError> {
    let wrong =
        || SettingsError::at(text.span(), "a next hop is HOST:PORT, such as mx.example.org:25");
    let (host, port) = text.get_ref().rsplit_once(':').ok_or_else(wrong)?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c))
        }
    };
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    match is_host && is_port && host.len() <= LONGEST_HOST {
        true => Ok(text.get_ref().clone().into()),
        false => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ocp_proto::smtp::{Envelope, may_replace};

    use super::*;
    use crate::service::Input;
    use crate::setting::documented;

    fn service(settings: &str) -> Result<RecipientRetry, SettingsError> {
        RecipientRetry::new(Settings::parse(settings, Path::new(""))?)
    }

    /// The line that is tried again and where, or the verdict.
    fn answer(settings: &str, granted: &[EffectName], line: &str, reply: &str) -> String {
        let reply = Reply::parse(reply.replace('|', "\r\n") + "\r\n").unwrap();
        let line = CommandLine::new(line.to_owned()).unwrap();
        let request = Request {
            dialog: Arc::default(),
            command: Command::Rcpt,
            input: Input::Reply { reply: reply.clone(), line: Some(line) },
            envelope: Envelope::default(),
            parameters: Arc::default(),
            granted: granted.into(),
            may_notify: false,
        };
        let outcome = match service(settings).unwrap().answer(&request) {
            Ok(outcome) => outcome,
            Err(error) => return format!("error: {error}"),
        };
        assert_eq!(may_replace(&Command::Rcpt, &reply, &reply, &outcome.effects), Ok(()));
        match outcome.effects.first() {
            Some(SideEffect::RetryCommand { line, next_hop }) => {
                let hop = next_hop.as_deref().map(String::from_utf8_lossy);
                let line = String::from_utf8_lossy(line.as_bytes());
                hop.map_or_else(|| line.to_string(), |hop| format!("{line} at {hop}"))
            }
            _ => outcome.finding.verdict.into_owned(),
        }
    }

    #[test]
    fn a_refused_recipient_is_tried_where_the_rules_say() {
        let settings = documented(include_str!("recipient_retry.rs"));
        let may = &[EffectName::RetryCommand];
        let cases = [
            ("RCPT TO:<a@old.example>", "550 5.1.1 no", "RCPT TO:<a@new.example>"),
            (
                "Rcpt to: <a.b@old.example> NOTIFY=NEVER",
                "551-moved|551 away",
                "Rcpt to: <a.b@new.example> NOTIFY=NEVER",
            ),
            ("RCPT TO:<a@old.example>", "450 4.2.0 later", "unchanged"),
            ("RCPT TO:<a@old.example>", "250 2.1.5 Ok", "unchanged"),
            (
                "RCPT TO:<a@branch.example>",
                "450 4.2.0 later",
                "RCPT TO:<a@branch.example> at mx.branch.example:25",
            ),
            ("RCPT TO:<a@other.example>", "550 no", "unchanged"),
            ("RCPT TO:<Postmaster>", "550 no", "unchanged"),
            ("RCPT TO:<>", "550 no", "unchanged"),
            ("RCPT a@old.example", "501 no", "unchanged"),
        ];
        for (line, reply, expected) in cases {
            assert_eq!(answer(&settings, may, line, reply), expected, "{line} {reply}");
            assert_eq!(answer(&settings, &[], line, reply), "unchanged", "not granted");
        }
    }

    #[test]
    fn what_is_no_address_is_a_failure_and_the_same_one_is_not_tried() {
        let may = &[EffectName::RetryCommand];
        let rule = |address: &str| format!("[[rule]]\nrecipient = '^.*$'\naddress = '{address}'");
        let try_it = |address: &str| answer(&rule(address), may, "RCPT TO:<a@b>", "550 no");
        assert_eq!(try_it("a@b"), "unchanged");
        for wrong in ["", "a", "c@d> X=<e@f", "\u{fc}@b"] {
            assert!(try_it(wrong).starts_with("error: address: the rule "), "{wrong}");
        }
        let utf8 = answer(&rule("\u{fc}@b"), may, "RCPT TO:<\u{e4}@b> SMTPUTF8", "550 no");
        assert_eq!(utf8, "RCPT TO:<\u{fc}@b> SMTPUTF8");
    }

    #[test]
    fn without_rules_it_wants_nothing() {
        assert!(service("").unwrap().declaration().replies.is_empty());
        let settings = documented(include_str!("recipient_retry.rs"));
        let declaration = service(&settings).unwrap().declaration();
        assert_eq!(declaration.replies, [Command::Rcpt]);
        assert!(declaration.wants_replied_command && declaration.events.is_empty());
        assert_eq!(declaration.effects, [EffectName::RetryCommand]);
    }

    #[test]
    fn wrong_settings_are_shown_where_they_stand() {
        let span = |rule: &str| {
            let settings = format!("rule = [{{ {rule} }}]");
            let error = service(&settings).unwrap_err();
            settings.get(error.span.unwrap_or_default()).unwrap_or_default().to_owned()
        };
        assert_eq!(span("recipient = '(', address = ''"), "'('");
        assert_eq!(span("recipient = 'a', reply = '[', address = ''"), "'['");
        assert_eq!(span("recipient = 'a', adress = ''"), "adress");
        assert_eq!(span("recipient = 'a'"), "{ recipient = 'a' }");
        for hop in
            ["mx", "mx:", "mx:0", "mx:65536", ":25", "m x:25", "[::g]:25", "::1:25", "a:b:25"]
        {
            assert_eq!(span(&format!("recipient = 'a', next-hop = '{hop}'")), format!("'{hop}'"));
        }
        for hop in ["mx.example.org:25", "192.0.2.1:2525", "[2001:db8::1]:25"] {
            service(&format!("rule = [{{ recipient = 'a', next-hop = '{hop}' }}]")).unwrap();
        }
    }
}
