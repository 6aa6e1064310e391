//! The kinds of services: name, summary, and how to build one from its settings.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use crate::service::Service;
use crate::temporary::TemporaryFolder;
use crate::{
    footer, links, log, mail_from, mime_strip, normalize, notify, recipient_retry, reply_filter,
    report, spam_score, virus_scan,
};

/// A kind of service.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its name in configurations; its URI is `ocp://service/NAME`.
    pub name: &'static str,
    /// One line for `callout-server services`.
    pub summary: &'static str,
    /// Whether there is no service of this kind before a configuration says how: it has no defaults that make
    /// sense.
    pub needs_settings: bool,
    /// Builds a service from its settings.
    pub build: fn(Settings<'_>) -> Result<Arc<dyn Service>, SettingsError>,
}

/// The kinds that this program knows.
#[derive(Clone, Debug, Default)]
pub struct Registry(Vec<Kind>);

impl Registry {
    /// The built-in services. A new one is a line here.
    pub fn builtin() -> Self {
        Self(vec![
            log::KIND,
            mail_from::KIND,
            spam_score::KIND,
            virus_scan::KIND,
            mime_strip::KIND,
            footer::KIND,
            links::KIND,
            normalize::KIND,
            notify::KIND,
            report::KIND,
            reply_filter::KIND,
            recipient_retry::KIND,
        ])
    }

    /// Adds a kind; it replaces one of the same name.
    pub fn register(&mut self, kind: Kind) {
        self.0.retain(|known| known.name != kind.name);
        self.0.push(kind);
    }

    /// The kind of this name.
    pub fn find(&self, name: &str) -> Option<&Kind> {
        self.0.iter().find(|kind| kind.name == name)
    }

    /// All kinds in order.
    pub fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.0.iter()
    }
}

/// The settings of one service: a table of the configuration, or nothing.
pub struct Settings<'a> {
    table: Option<toml::de::ValueDeserializer<'a>>,
    directory: PathBuf,
    temporary: TemporaryFolder,
}

impl<'a> Settings<'a> {
    /// Settings from a table; relative paths in it start at `directory`.
    pub fn new(table: toml::de::ValueDeserializer<'a>, directory: &Path) -> Self {
        Self { table: Some(table), directory: directory.to_owned(), ..Self::none() }
    }

    /// Settings from a TOML text of their own; relative paths in it start at `directory`.
    ///
    /// # Errors
    /// If the text is no TOML.
    pub fn parse(text: &'a str, directory: &Path) -> Result<Self, SettingsError> {
        let table = DeTable::parse(text).map_err(SettingsError::from)?;
        let table = toml::Spanned::new(table.span(), DeValue::Table(table.into_inner()));
        Ok(Self::new(table.into(), directory))
    }

    /// No settings: every service has defaults that make sense.
    pub fn none() -> Self {
        Self { table: None, directory: PathBuf::new(), temporary: TemporaryFolder::default() }
    }

    /// The same, for a service that keeps its temporary files in `folder`; in the system's if nobody
    /// says so.
    #[must_use]
    pub fn with_temporary_folder(self, folder: TemporaryFolder) -> Self {
        Self { temporary: folder, ..self }
    }

    /// Where the service's temporary files belong.
    pub fn temporary_folder(&self) -> &TemporaryFolder {
        &self.temporary
    }

    /// Where relative paths start.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads the table; `T` should deny unknown fields.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn read<T: DeserializeOwned + Default>(self) -> Result<T, SettingsError> {
        match self.table {
            Some(table) => T::deserialize(table).map_err(SettingsError::from),
            None => Ok(T::default()),
        }
    }
}

/// Settings that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SettingsError {
    /// What is wrong and what to do.
    pub message: String,
    /// Where in the configuration, in octets, if known.
    pub span: Option<Range<usize>>,
}

impl SettingsError {
    /// An error that is in no particular place.
    pub fn new(message: impl ToString) -> Self {
        Self { message: message.to_string(), span: None }
    }

    /// An error in one value, such as a [`toml::Spanned`] one.
    pub fn at(span: Range<usize>, message: impl ToString) -> Self {
        Self { message: message.to_string(), span: Some(span) }
    }
}

impl From<toml::de::Error> for SettingsError {
    fn from(error: toml::de::Error) -> Self {
        Self { message: error.message().to_owned(), span: error.span() }
    }
}
