//! `spam-score`: scores a message by rules; marks it from one score on, refuses it from another.
//!
//! From `mark` on the message gets `X-Spam-Flag: YES`, `X-Spam-Score` and `X-Spam-Status`, from
//! `reject` on it is refused with `550 5.7.1`. Fields of these names, and `X-Spam-Level`, that came
//! with the message are removed first: only this service may say so. All other octets stay.
//!
//! ```toml
//! mark = 5.0
//! # `inf`: never.
//! reject = 15.0
//! reject-reply = "550 5.7.1 Message refused: it looks like spam"
//! # Whether other messages get `X-Spam-Score` and `X-Spam-Status: No` too; not by default.
//! mark-ham = true
//! # Octets of decoded text, and as many of HTML, that are looked at. Time and memory grow with it.
//! text-limit = 524288
//! # Rules instead of the built-in ones:
//! # rules = "spam-rules.toml"
//!
//! # Other scores for rules that are there; 0 turns a rule off.
//! [scores]
//! GTUBE = 100.0
//! SUBJECT_ALL_CAPS = 0.0
//! ```
//!
//! # Rules
//! A rule file is TOML, and a rule is one of these four; all that fit are added up. Patterns have the
//! syntax of the `regex` crate over UTF-8 octets, with ASCII classes unless they say `(?u)`.
//!
//! ```toml
//! [[rule]]
//! name = "SUBJECT_PRIZE"
//! score = 1.5
//! description = "says that you won"
//! field = "Subject"              # each value of this field, decoded
//! pattern = '(?i)\byou (have )?won\b'
//!
//! [[rule]]
//! name = "URI_NUMBER"
//! score = 1.0
//! in = "uri"                     # header (raw), text (subject and visible text; a paragraph is a
//! pattern = '^https?://[0-9.]+/' # line), html, uri, file-name, sender, recipient (envelope)
//!
//! [[rule]]
//! name = "NO_DATE"
//! score = 0.5
//! fact = "missing-date"          # see below
//!
//! [[rule]]
//! name = "PRIZE_AND_NUMBER"
//! score = 2.0
//! of = ["SUBJECT_PRIZE", "URI_NUMBER", "NO_DATE"]  # rules above this one
//! at-least = 2                   # all of them if absent
//! unless = ["NO_DATE"]           # any rule may have exceptions
//! ```
//!
//! Facts: `missing-date`, `bad-date`, `date-past`, `date-future` (against the first Received field),
//! `missing-message-id`, `bad-message-id`, `missing-from`, `missing-recipients`, `missing-subject`,
//! `subject-all-caps`, `sender-differs` (envelope and From), `reply-to-differs`,
//! `from-name-differs` (an address in the name), `from-is-recipient`, `html-only`, `image-only`,
//! `link-differs` (the text shows another host), `hidden-characters`, `mixed-scripts`,
//! `ascii-in-base64`, `html-attachment`.
//!
//! The rule GTUBE is always there: the Generic Test for Unsolicited Bulk Email in decoded text
//! scores 1000.

mod fact;
mod html;
mod rules;
mod view;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use ocp_proto::smtp::{Command, Envelope, FailurePolicy, Reply};
use serde::Deserialize;
use toml::Spanned;

use self::rules::{DEFAULT, Found, RuleError, Rules};
use self::view::View;
use crate::mail::{Edits, Mail, SpoolError};
use crate::outcome::{Change, Finding, Outcome};
use crate::registry::{Kind, Settings, SettingsError};
use crate::service::{Declaration, Request, Service, ServiceError, compute};
use crate::setting::refusal;

/// The kind `spam-score`.
pub const KIND: Kind = Kind {
    name: "spam-score",
    summary: "scores messages by rules: marks spam, refuses the worst",
    needs_settings: false,
    build: |settings| Ok(Arc::new(SpamScore::new(settings)?)),
};

/// The fields that only this service may set.
const OWN_FIELDS: [&str; 4] = ["X-Spam-Flag", "X-Spam-Score", "X-Spam-Status", "X-Spam-Level"];
/// The longest value of `X-Spam-Status`: the line stays under 900 octets, and below the 998 of
/// RFC 5322 section 2.1.1.
const LONGEST_STATUS: usize = 850;
/// How many rules a finding names.
const MOST_REASONS: usize = 8;
/// The largest rule file, in octets.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

/// The settings, as written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Config {
    /// From this score on a message is marked.
    mark: Spanned<f64>,
    /// From this score on it is refused; not below `mark`.
    reject: Spanned<f64>,
    /// How it is refused; 4xx or 5xx.
    reject_reply: Spanned<String>,
    /// Whether messages below `mark` get fields too.
    mark_ham: bool,
    /// Octets of decoded text that are looked at, and as many of HTML: 512 KiB, which costs about
    /// 2 MiB of memory and 50 ms of one processor for a message.
    text_limit: usize,
    /// A file with rules; the built-in ones if absent.
    rules: Option<Spanned<PathBuf>>,
    /// Scores by name of the rule, instead of its own.
    scores: BTreeMap<Spanned<String>, f64>,
}

impl Default for Config {
    fn default() -> Self {
        let reply = "550 5.7.1 Message refused: it looks like spam";
        Self {
            mark: Spanned::new(0..0, 5.0),
            reject: Spanned::new(0..0, 15.0),
            reject_reply: Spanned::new(0..0, reply.to_owned()),
            mark_ham: false,
            text_limit: 512 * 1024,
            rules: None,
            scores: BTreeMap::new(),
        }
    }
}

/// The service.
#[derive(Debug)]
pub struct SpamScore(Arc<Judge>);

/// What judges, apart from the threads on which it does.
#[derive(Debug)]
struct Judge {
    rules: Rules,
    mark: f64,
    reject: f64,
    reject_reply: Reply,
    mark_ham: bool,
    text_limit: usize,
}

impl SpamScore {
    /// The service with these settings.
    ///
    /// # Errors
    /// If a rule or a setting is not valid, or the rule file can't be read.
    pub fn new(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let directory = settings.directory().to_owned();
        let Config { mark, reject, reject_reply, mark_ham, text_limit, rules, scores } =
            settings.read()?;
        if mark.get_ref().is_nan() {
            return Err(SettingsError::at(mark.span(), "`mark` is a number"));
        }
        if reject.get_ref().is_nan() || reject < mark {
            return Err(SettingsError::at(reject.span(), "`reject` is not below `mark`"));
        }
        let mut rules = match rules {
            None => Rules::parse(DEFAULT)
                .map_err(|error| file_error("the built-in rules", DEFAULT, error))?,
            Some(path) => rule_file(&directory.join(path.get_ref()))
                .map_err(|error| SettingsError::at(path.span(), error.message))?,
        };
        for (name, score) in scores {
            let problem = match (score.is_finite(), rules.set_score(name.get_ref(), score)) {
                (true, true) => continue,
                (false, _) => "a score is a finite number".to_owned(),
                (_, false) => format!("there is no rule {:?}", name.get_ref()),
            };
            return Err(SettingsError::at(name.span(), problem));
        }
        Ok(Self(Arc::new(Judge {
            rules,
            mark: mark.into_inner(),
            reject: reject.into_inner(),
            reject_reply: refusal(&reject_reply)?,
            mark_ham,
            text_limit,
        })))
    }
}

impl Judge {
    fn judge(&self, mail: &Mail, envelope: &Envelope) -> Result<Outcome, SpoolError> {
        let view = View::new(mail, envelope, self.text_limit)?;
        let found = self.rules.look_at(&view);
        let finding = |verdict| {
            let reasons = found.rules.iter().take(MOST_REASONS);
            let reasons: Vec<_> =
                reasons.map(|(name, score)| format!("{name} {score:.1}")).collect();
            let finding = Finding::new(verdict).with_score(self.shown_score(&found));
            if reasons.is_empty() { finding } else { finding.with_reason(reasons.join(", ")) }
        };
        if found.score >= self.reject {
            let reply = Change::Reply(self.reject_reply.clone());
            return Ok(Outcome::changed(reply, "rejected").with_finding(finding("rejected")));
        }
        let is_spam = found.score >= self.mark;
        let mut edits = Edits::new();
        for name in OWN_FIELDS {
            edits.remove_fields(mail, name);
        }
        if is_spam {
            edits.prepend_field(mail, "X-Spam-Flag", "YES");
        }
        if is_spam || self.mark_ham {
            edits.prepend_field(mail, "X-Spam-Score", &format!("{:.1}", found.score));
            edits.prepend_field(mail, "X-Spam-Status", &self.status(&found, is_spam));
        }
        let finding = finding(if is_spam { "spam" } else { "ham" });
        let change = if edits.is_empty() { Change::None } else { Change::Content(edits) };
        Ok(Outcome { change, ..Outcome::unchanged(finding) })
    }

    /// `7.4/5.0`.
    fn shown_score(&self, found: &Found<'_>) -> String {
        format!("{:.1}/{:.1}", found.score, self.mark)
    }

    /// The value of `X-Spam-Status`, as filters have written it for twenty years.
    fn status(&self, found: &Found<'_>, is_spam: bool) -> String {
        let word = if is_spam { "Yes" } else { "No" };
        let mut status =
            format!("{word}, score={:.1} required={:.1} tests=", found.score, self.mark);
        if found.rules.is_empty() {
            status.push_str("none");
        }
        for (index, (name, _)) in found.rules.iter().enumerate() {
            if status.len() + 1 + name.len() > LONGEST_STATUS {
                break;
            }
            if index > 0 {
                status.push(',');
            }
            status.push_str(name);
        }
        status
    }
}

impl Service for SpamScore {
    fn declaration(&self) -> Declaration {
        Declaration { on_failure: FailurePolicy::Accept, ..Declaration::on([Command::Message]) }
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        let judged = async {
            let Some(mail) = request.mail().cloned() else {
                return Ok(Outcome::unchanged(Finding::new("unchanged")));
            };
            let (judge, envelope) = (self.0.clone(), request.envelope.clone());
            Ok(compute(mail.len(), move || judge.judge(&mail, &envelope)).await??)
        };
        judged.boxed()
    }
}

fn rule_file(path: &Path) -> Result<Rules, SettingsError> {
    let shown = path.display();
    let unreadable = |error| SettingsError::new(format!("{shown} can't be read: {error}"));
    if std::fs::metadata(path).map_err(unreadable)?.len() > LARGEST_FILE {
        return Err(SettingsError::new(format!("{shown} is larger than {LARGEST_FILE} octets")));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    Rules::parse(&text).map_err(|error| file_error(&shown.to_string(), &text, error))
}

/// The error with the line and column of the file that it is in.
fn file_error(file: &str, text: &str, error: RuleError) -> SettingsError {
    let RuleError { span, message } = error;
    SettingsError::new(match span {
        Some(Range { start, .. }) => {
            let before = text.get(..start).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            format!("{file}, line {line}, column {column}: {message}")
        }
        None => format!("{file}: {message}"),
    })
}

#[cfg(test)]
mod tests;
