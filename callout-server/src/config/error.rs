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
    /// Where it is; the first one is what `line_and_column` says.
    spans: Vec<Range<usize>>,
}

impl ConfigError {
    pub(crate) fn new(
        file: &Path,
        text: &str,
        message: impl fmt::Display,
        spans: impl IntoIterator<Item = Range<usize>>,
    ) -> Self {
        let name = file.display().to_string();
        // The parser's messages may have lines of their own; the first one says it.
        let message = message.to_string();
        let message = message.trim_end().to_owned();
        let source_text = NamedSource::new(name, text.to_owned());
        Self { message, source_text, spans: spans.into_iter().collect() }
    }

    /// The position of the error, both counted from 1, if it has one.
    pub fn line_and_column(&self) -> Option<(usize, usize)> {
        let before = self.source_text.inner().get(..self.spans.first()?.start)?;
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Some((line, column))
    }
}

impl Diagnostic for ConfigError {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        (!self.spans.is_empty()).then_some(&self.source_text as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.spans.iter().cloned().map(LabeledSpan::underline)))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new("deploy/callout-server.toml lists and explains every key"))
    }
}
