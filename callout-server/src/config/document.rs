//! The text of a configuration file, and where in it a key stands.

use std::fmt::Display;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;

/// A configuration file that was read.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    path: PathBuf,
    text: String,
}

impl Document {
    /// Reads a file.
    ///
    /// # Errors
    /// If it can't be read, or anybody could have written it.
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError::new(path, "", format!("{} can't be read: {error}", path.display()), None)
        })?;
        if is_open_to_all(path) {
            let path_shown = path.display();
            let cause = format!("everybody can change {path_shown}: chmod o-w {path_shown}");
            return Err(ConfigError::new(path, "", cause, None));
        }
        Ok(Self { path: path.to_owned(), text })
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What stands in it.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// `[admin] control`, whatever else is wrong with the file.
    ///
    /// # Errors
    /// If it is no TOML, or says nothing of a control socket.
    pub(crate) fn control(&self) -> Result<PathBuf, ConfigError> {
        let table = DeTable::parse(&self.text).map_err(|error| {
            ConfigError::new(&self.path, &self.text, error.message(), error.span())
        })?;
        match find(table.get_ref(), &["admin", "control"]).map(Spanned::get_ref) {
            Some(DeValue::String(path)) => Ok(self.folder().join(path.as_ref())),
            _ => {
                let message = "there is no control socket here: control in [admin] is missing";
                Err(self.error(&[&["admin"]], message))
            }
        }
    }

    /// An error at these keys; at the table that one would stand in if it is not there.
    pub(crate) fn error(&self, keys: &[&[&str]], message: impl Display) -> ConfigError {
        let table = DeTable::parse(&self.text).ok();
        let nearest = |keys: &&[&str]| {
            let table = table.as_ref()?.get_ref();
            (1..=keys.len()).rev().find_map(|length| find(table, keys.get(..length)?))
        };
        let found = keys.iter().filter_map(nearest).map(Spanned::span);
        ConfigError::new(&self.path, &self.text, message, found)
    }

    /// What its relative paths start at.
    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }
}

/// The value of a key in tables within tables.
fn find<'a, 'i>(table: &'a DeTable<'i>, keys: &[&str]) -> Option<&'a Spanned<DeValue<'i>>> {
    let (first, rest) = keys.split_first()?;
    let value = table.get(*first)?;
    match (rest, value.get_ref()) {
        ([], _) => Some(value),
        (rest, DeValue::Table(table)) => find(table, rest),
        _ => None,
    }
}

/// Whether every user of this machine may write to a file: it says who may do what, and whose mail goes
/// where (RFC 3837 section 3).
fn is_open_to_all(path: &Path) -> bool {
    const WRITABLE_BY_OTHERS: u32 = 0o002;
    let mode = std::fs::metadata(path).map(|file| file.permissions().mode());
    mode.is_ok_and(|mode| mode & WRITABLE_BY_OTHERS != 0)
}
