//! `[[admin.user]]` and `[history]`: who may look at the server, and what there is to see.

use serde::Deserialize;
use services::Password;
use toml::Spanned;

use super::ConfigError;
use super::checked::Checker;
use crate::history::LARGEST_RECORD;

/// Somebody who may log in at the status page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The hash of the password.
    pub password: Password,
}

/// What is kept of the last messages, in memory: their envelopes and what became of them. Nothing is where nobody
/// could read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryConfig {
    /// Messages, at the most; 0: none.
    pub messages: usize,
    /// Octets of them; and as many of those that are not done with, so twice that in the worst case.
    pub octets: usize,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawUser {
    name: Spanned<String>,
    password: Spanned<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct RawHistory {
    messages: Option<usize>,
    octets: Option<Spanned<usize>>,
}

impl Checker<'_> {
    pub(super) fn users(&self, raw: &[Spanned<RawUser>]) -> Result<Vec<User>, ConfigError> {
        let mut users: Vec<User> = Vec::new();
        for RawUser { name, password } in raw.iter().map(Spanned::get_ref) {
            let is_known = |name: &str| users.iter().any(|user| user.name == name);
            let name = self.value(name, |name| match name {
                "" => Err("a user has a name".to_owned()),
                name if is_known(name) => Err(format!("there is a user {name} already")),
                name => Ok(name.to_owned()),
            })?;
            users.push(User { name, password: self.value(password, Password::parse)? });
        }
        Ok(users)
    }

    pub(super) fn history(&self, raw: &RawHistory) -> Result<HistoryConfig, ConfigError> {
        let octets = match &raw.octets {
            None => 8 * 1024 * 1024,
            Some(octets) if *octets.get_ref() < LARGEST_RECORD => {
                let message = format!("one message may take {LARGEST_RECORD} octets");
                return Err(self.error(message, Some(octets.span())));
            }
            Some(octets) => *octets.get_ref(),
        };
        Ok(HistoryConfig { messages: raw.messages.unwrap_or(1_000), octets })
    }
}
