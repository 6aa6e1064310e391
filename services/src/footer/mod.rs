//! `footer`: adds a text to messages: a disclaimer behind what their author wrote, or a banner before it.
//!
//! Where the text is shown it is added: to the plain text and to the HTML of the same message, each in its own
//! charset and encoding, and no octet around it changes. What is signed or encrypted becomes, octet for octet,
//! one part of a new message, and the text another one; so does a message whose text can't hold what is added
//! (another charset, 7bit), and one that has no text. A report of delivery (RFC 3462) stays as it is.
//!
//! The verdict is `added`, `wrapped` or `left`. A DKIM signature does not survive: sign behind this service.
//!
//! ```toml
//! text = """                # needed
//! Example Ltd, 1 Example Street
//! """
//! html = "<p>Example Ltd, <b>1 Example Street</b></p>"   # else the text
//! place = "end"             # or top
//! signed = "wrap"           # or leave
//! ```

mod html;
mod insert;
mod place;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use ocp_proto::smtp::{Command, FailurePolicy};
use serde::Deserialize;
use toml::Spanned;

use crate::mail::{Edits, Mail, SpoolError};
use crate::notification::text_entity;
use crate::outcome::{Change, Finding, Outcome};
use crate::registry::{Kind, Settings, SettingsError};
use crate::service::{Declaration, Request, Service, ServiceError, compute};
use insert::insertion;
use place::{Shown, shown};

/// The kind `footer`.
pub const KIND: Kind = Kind {
    name: "footer",
    summary: "adds a disclaimer or a banner to text and HTML; wraps what is signed",
    needs_settings: true,
    build: |settings| Ok(Arc::new(Footer::new(settings)?)),
};

/// The longest text, and the longest HTML, in octets. Worst case a message: three times both.
const LONGEST: usize = 64 * 1024;

/// The settings, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Config {
    /// What is added to plain text.
    text: Option<Spanned<String>>,
    /// What is added to HTML, a fragment of the body; the text if absent.
    html: Option<Spanned<String>>,
    #[serde(default)]
    place: Place,
    #[serde(default)]
    signed: Signed,
}

/// Where the text goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Place {
    /// Behind what is there.
    #[default]
    End,
    /// Before it.
    Top,
}

/// What happens to signed and encrypted messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Signed {
    /// They become a part of a new message.
    #[default]
    Wrap,
    /// They stay as they are.
    Leave,
}

/// The service.
struct Footer(Arc<Added>);

/// What is added, and how.
#[derive(Debug)]
struct Added {
    /// Its lines, without the end of the last one.
    text: String,
    /// ASCII, with references for all other characters.
    html: String,
    place: Place,
    signed: Signed,
}

impl Footer {
    fn new(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let Config { text, html, place, signed } = settings.read()?;
        let text = text.ok_or_else(|| SettingsError::new("footer needs a text"))?;
        let checked = |value: Spanned<String>, name: &str| {
            let span = value.span();
            let value = value.into_inner();
            let is_control = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
            if value.trim().is_empty() {
                Err(SettingsError::at(span, format!("{name} is empty")))
            } else if value.len() > LONGEST {
                let message = format!("{name} has more than {LONGEST} octets");
                Err(SettingsError::at(span, message))
            } else if value.chars().any(is_control) {
                Err(SettingsError::at(span, format!("{name} holds a control character")))
            } else {
                Ok(value.trim_end().replace("\r\n", "\n").replace('\r', "\n"))
            }
        };
        let text = checked(text, "text")?;
        let html = match html {
            Some(html) => html::ascii(&checked(html, "html")?),
            None => html::of_text(&text),
        };
        Ok(Self(Arc::new(Added { text, html, place, signed })))
    }
}

impl Added {
    /// What becomes of a message.
    fn add(&self, mail: &Mail) -> Result<Outcome, SpoolError> {
        let parts = mail.parts()?;
        let why = match shown(parts) {
            Shown::Report => return Ok(left("a report of delivery")),
            Shown::Signed if self.signed == Signed::Leave => {
                return Ok(left("signed or encrypted"));
            }
            Shown::Signed => "signed or encrypted",
            Shown::Nowhere => "no text is shown",
            Shown::In(found) => {
                let mut edits = Edits::new();
                let mut fits = !found.is_empty();
                for part in found {
                    match insertion(mail, part, self)? {
                        Some(edit) => edits.replace(edit.range, edit.insert),
                        None => fits = false,
                    }
                }
                if fits {
                    return Ok(Outcome::changed(Change::Content(edits), "added"));
                }
                "the text can't hold it"
            }
        };
        let own = text_entity("plain", &self.text, mail.line_ending());
        let (before, behind) = match self.place {
            Place::Top => (Some(own), None),
            Place::End => (None, Some(own)),
        };
        let mut edits = Edits::new();
        edits.wrap(mail, before.as_deref(), behind.as_deref())?;
        let finding = Finding::new("wrapped").with_reason(why);
        Ok(Outcome::changed(Change::Content(edits), "wrapped").with_finding(finding))
    }
}

fn left(why: &'static str) -> Outcome {
    Outcome::unchanged(Finding::new("left").with_reason(why))
}

impl Service for Footer {
    fn declaration(&self) -> Declaration {
        // A message without it is better than none.
        let on_failure = FailurePolicy::Accept;
        Declaration { on_failure, ..Declaration::on([Command::Message]) }
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        async move {
            let Some(mail) = request.mail().cloned() else {
                return Ok(left("no message"));
            };
            let added = Arc::clone(&self.0);
            Ok(compute(mail.len(), move || added.add(&mail)).await??)
        }
        .boxed()
    }
}
