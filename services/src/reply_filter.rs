//! `reply-filter`: changes the text of a next hop's replies, such as the names of internal hosts in
//! them, or their language.
//!
//! It looks at replies, so its group has to be one for replies (profile section 2). Reply code and
//! enhanced status code (RFC 3463) of each line stay as they are. So do 220 to STARTTLS, 235 and every
//! 3xx, which are never altered, and in the reply to EHLO the lines behind the first: they are the
//! next hop's extensions.
//!
//! ```toml
//! # The replies to which commands, GREETING being the banner; all that there are by default.
//! replies = ["GREETING", "HELO", "MAIL", "RCPT", "DATA", "MESSAGE"]
//!
//! # Rules apply one after the other, each to what the ones before it made. Patterns have the syntax of
//! # the `regex` crate with ASCII classes. Every stretch of a line's text in which `text` is found is
//! # replaced; `$1` or `${name}` stand for groups.
//! [[rule]]
//! text = '\bmx[0-9]+\.internal\b'
//! replacement = "mail.example.com"
//!
//! # A rule may be for some replies only: `code` is found in the reply code or in the enhanced status
//! # code of the first line, `command` in the command line (GREETING and MESSAGE, which have none, are
//! # called so).
//! [[rule]]
//! command = '^(?i:RCPT) '
//! code = '^5\.1\.1$'
//! text = '.+'
//! replacement = "Diesen Empfaenger gibt es hier nicht"
//! ```

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt, ready};
use ocp_proto::smtp::{Command, CommandLine, FailurePolicy, Reply, is_fixed};
use regex::bytes::Regex;
use serde::Deserialize;
use toml::Spanned;

use crate::outcome::{Change, Finding, Outcome};
use crate::registry::{Kind, Settings, SettingsError};
use crate::service::{Declaration, Request, Service, ServiceError};
use crate::setting::{EVENTS, commands, pattern};

/// The kind `reply-filter`.
pub const KIND: Kind = Kind {
    name: "reply-filter",
    summary: "changes the text of a next hop's replies by rules",
    needs_settings: false,
    build: |settings| Ok(Arc::new(ReplyFilter::new(settings)?)),
};

/// The settings, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Config {
    /// Commands whose replies are looked at; all if absent.
    replies: Option<Vec<Spanned<String>>>,
    /// What is changed, in order.
    rule: Vec<RawRule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawRule {
    /// What is looked for in the command line; any if absent.
    command: Option<Spanned<String>>,
    /// What is looked for in the reply code, or else in the enhanced status code; any if absent.
    code: Option<Spanned<String>>,
    /// What is looked for in the text of each line.
    text: Spanned<String>,
    /// What stands in its place.
    replacement: Spanned<String>,
}

#[derive(Debug)]
struct Rule {
    command: Option<Regex>,
    code: Option<Regex>,
    text: Regex,
    replacement: Vec<u8>,
}

/// The service.
#[derive(Debug)]
pub struct ReplyFilter {
    replies: Vec<Command>,
    rules: Vec<Rule>,
}

impl ReplyFilter {
    /// The service with these settings.
    ///
    /// # Errors
    /// If a command, a pattern or a replacement is not valid.
    pub fn new(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let Config { replies, rule } = settings.read()?;
        let rules: Vec<Rule> = rule.iter().map(Rule::new).collect::<Result<_, _>>()?;
        let replies = match replies {
            _ if rules.is_empty() => Vec::new(),
            None => self::replies().to_vec(),
            Some(names) => commands(&names, &self::replies(), "command with a reply")?,
        };
        Ok(Self { replies, rules })
    }

    /// The reply as the rules make it; `None` if it stays.
    fn filtered(
        &self,
        command: &Command,
        reply: &Reply,
        line: Option<&CommandLine>,
    ) -> Result<Option<Reply>, ServiceError> {
        if is_fixed(command, reply) {
            return Ok(None);
        }
        let mut lines: Vec<Line> = reply.lines().map(Line::of).collect();
        let code = reply.code().to_string();
        let status = lines.first().map(|line| line.status).unwrap_or_default();
        let called = line.map_or(command.name().as_bytes(), |line| line.as_bytes());
        // Behind the first line of the reply to EHLO stand extensions.
        let texts = if *command == Command::Helo { 1 } else { lines.len() };
        let rules = self.rules.iter().filter(|rule| {
            let in_codes =
                |wanted: &Regex| wanted.is_match(code.as_bytes()) || wanted.is_match(status);
            rule.command.as_ref().is_none_or(|wanted| wanted.is_match(called))
                && rule.code.as_ref().is_none_or(in_codes)
        });
        let mut changed = false;
        for rule in rules {
            for line in lines.iter_mut().take(texts) {
                if let Some(text) = rule.applied(&line.text)? {
                    changed |= text != line.text;
                    line.text = text;
                }
            }
        }
        if !changed {
            return Ok(None);
        }
        let octets: Vec<u8> = lines.iter().flat_map(Line::octets).collect();
        Reply::parse(octets).map(Some).map_err(|error| ServiceError::new("replacement", error))
    }
}

impl Service for ReplyFilter {
    fn declaration(&self) -> Declaration {
        Declaration {
            wants_replied_command: self.rules.iter().any(|rule| rule.command.is_some()),
            on_failure: FailurePolicy::Accept,
            immediate: true,
            ..Declaration::on_replies(self.replies.clone())
        }
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        let unchanged = || Outcome::unchanged(Finding::new("unchanged"));
        let outcome = match request.reply() {
            Some((reply, line)) => self.filtered(&request.command, reply, line).map(|filtered| {
                filtered.map_or_else(unchanged, |reply| {
                    Outcome::changed(Change::Reply(reply), "rewritten")
                })
            }),
            None => Ok(unchanged()),
        };
        ready(outcome).boxed()
    }
}

impl Rule {
    fn new(raw: &RawRule) -> Result<Self, SettingsError> {
        let compiled = |text: &Spanned<String>| {
            pattern(text.get_ref()).map_err(|message| SettingsError::at(text.span(), message))
        };
        let replacement = raw.replacement.get_ref().as_bytes();
        // RFC 5321 section 4.2: textstring.
        if !replacement.iter().all(|octet| matches!(octet, b'\t' | b' '..=b'~')) {
            let message = "the text of a reply is printable ASCII (RFC 5321 section 4.2)";
            return Err(SettingsError::at(raw.replacement.span(), message));
        }
        Ok(Self {
            command: raw.command.as_ref().map(compiled).transpose()?,
            code: raw.code.as_ref().map(compiled).transpose()?,
            text: compiled(&raw.text)?,
            replacement: replacement.to_vec(),
        })
    }

    /// The text with every stretch replaced; `None` if there is nothing to replace.
    fn applied(&self, text: &[u8]) -> Result<Option<Vec<u8>>, ServiceError> {
        let mut new = Vec::new();
        let mut at = 0;
        for found in self.text.captures_iter(text) {
            let Some(all) = found.get(0) else { continue };
            new.extend_from_slice(text.get(at..all.start()).unwrap_or_default());
            found.expand(&self.replacement, &mut new);
            at = all.end();
            // A pattern may be found at each octet, and each time all of the text stand in its place.
            if new.len() > Reply::LONGEST_LINE {
                let cause = format!("{:?} makes a line that is too long", self.text.as_str());
                return Err(ServiceError::new("replacement", cause));
            }
        }
        if at == 0 && new.is_empty() {
            return Ok(None);
        }
        new.extend_from_slice(text.get(at..).unwrap_or_default());
        Ok(Some(new))
    }
}

/// One line of a reply.
struct Line<'a> {
    /// The code and what follows it: `-`, a blank, or nothing.
    code: &'a [u8],
    /// The enhanced status code, if there is one, and the blank behind it.
    status: &'a [u8],
    blank: &'a [u8],
    text: Vec<u8>,
}

impl<'a> Line<'a> {
    fn of(line: &'a [u8]) -> Self {
        let (code, rest) = line.split_at(line.len().min(4));
        let length = status_length(rest).unwrap_or(0);
        let (status, rest) = rest.split_at(length);
        let (blank, text) = rest.split_at(usize::from(length > 0 && !rest.is_empty()));
        Self { code, status, blank, text: text.to_vec() }
    }

    fn octets(&self) -> Vec<u8> {
        [self.code, self.status, self.blank, &self.text, b"\r\n"].concat()
    }
}

/// Octets of the enhanced status code that a text begins with (RFC 2034 section 4, RFC 3463 section 2).
fn status_length(text: &[u8]) -> Option<usize> {
    let end = text.iter().position(|octet| *octet == b' ').unwrap_or(text.len());
    let mut parts = text.get(..end)?.split(|octet| *octet == b'.');
    let is_class = parts.next().is_some_and(|class| matches!(class, b"2" | b"4" | b"5"));
    let is_number =
        |part: &[u8]| (1..=3).contains(&part.len()) && part.iter().all(u8::is_ascii_digit);
    let numbers = [parts.next()?, parts.next()?].into_iter().all(is_number);
    (is_class && numbers && parts.next().is_none()).then_some(end)
}

/// Every command whose replies services see: the banner stands for CONNECT.
fn replies() -> [Command; 13] {
    EVENTS.map(|event| if event.has_reply() { event } else { Command::Greeting })
}

#[cfg(test)]
mod tests;
