//! What is wrong with a configuration, and where.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

/// A configuration that can't be used. As a [`miette::Report`] it shows the line and the column.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    message: String,
    source_text: NamedSource<String>,
    span: Option<Range<usize>>,
}

impl ConfigError {
    pub(super) fn new(
        file: &Path,
        text: &str,
        message: impl fmt::Display,
        span: Option<Range<usize>>,
    ) -> Self {
        let name = file.display().to_string();
        let message = message.to_string();
        let message = meant(&message).unwrap_or_else(|| message.trim_end().to_owned());
        Self { message, source_text: NamedSource::new(name, text.to_owned()), span }
    }

    /// The position of the error, both counted from 1, if it has one.
    pub fn line_and_column(&self) -> Option<(usize, usize)> {
        let before = self.source_text.inner().get(..self.span.as_ref()?.start)?;
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Some((line, column))
    }
}

/// The message with what was meant, if it is about a key or a value that does not exist: serde lists
/// those that do.
fn meant(message: &str) -> Option<String> {
    let (unknown, known) = message.split_once(", expected ")?;
    let wrong = ["unknown field `", "unknown variant `"]
        .iter()
        .find_map(|start| unknown.strip_prefix(start)?.strip_suffix('`'))?;
    let meant = closest(wrong, known.split('`').skip(1).step_by(2))?;
    Some(format!("{unknown}; did you mean `{meant}`?"))
}

/// The name that differs in so little that it may have been meant: in a third of it at the most.
pub(super) fn closest<'a>(
    wrong: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .filter(|(distance, name)| *distance <= name.chars().count().div_ceil(3))
        .min()
        .map(|(_, name)| name)
}

impl Diagnostic for ConfigError {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.span.is_some().then_some(&self.source_text as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.span.clone()?;
        Some(Box::new(std::iter::once(LabeledSpan::underline(span))))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new("deploy/opes-mta.toml lists and explains every key"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_close_is_suggested() {
        let known = ["services", "servers", "shadow", "sample"];
        assert_eq!(closest("servces", known), Some("services"));
        assert_eq!(closest("server", known), Some("servers"));
        assert_eq!(closest("shaodw", known), Some("shadow"));
        assert_eq!(closest("timeout", known), None);
        assert_eq!(closest("", known), None);
        assert_eq!(closest("x", [""]), None);
    }
}
