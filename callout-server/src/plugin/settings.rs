//! What a configuration says of a plugin.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ocp_proto::MAXIMUM;
use ocp_proto::smtp::{Command, EffectName};
use serde::Deserialize;
use services::setting::{EVENTS, commands};
use services::{Content, Settings, SettingsError};
use toml::Spanned;

/// The settings, as written; [`super`] explains them.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Raw {
    address: Option<Spanned<String>>,
    ca: Option<PathBuf>,
    command: Option<Spanned<Vec<String>>>,
    open: Option<Spanned<u32>>,
    answer_octets: Option<Spanned<u32>>,
    failures: Option<Spanned<u32>>,
    revive_seconds: Option<Spanned<u32>>,
    grants: RawGrants,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct RawGrants {
    events: Vec<Spanned<String>>,
    watches: Vec<Spanned<String>>,
    body: Option<Spanned<Body>>,
    change_command: bool,
    fields: Vec<Spanned<String>>,
    replace_body: bool,
    reply: bool,
    effects: Vec<Spanned<String>>,
}

/// Octets of a body, or a word.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Body {
    Octets(u32),
    Word(String),
}

/// A plugin, as configured.
#[derive(Clone, Debug)]
pub(super) struct PluginSettings {
    pub(super) address: Address,
    /// Who signs its certificate, in PEM.
    pub(super) ca: Option<Vec<u8>>,
    /// The program, and its arguments, that is started and kept running; `None` if somebody else does that.
    pub(super) command: Option<Vec<String>>,
    /// Where relative paths start.
    pub(super) directory: PathBuf,
    /// Events that it works on at a time.
    pub(super) open: usize,
    /// Octets of one answer.
    pub(super) answer_octets: usize,
    /// So many failures one after the other, and it is left alone.
    pub(super) failures: u32,
    /// For so long, at first.
    pub(super) revival: Duration,
    pub(super) grants: Grants,
}

/// What a plugin may see and do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grants {
    pub(super) events: Vec<Command>,
    pub(super) watches: Vec<Command>,
    pub(super) content: Content,
    pub(super) change_command: bool,
    pub(super) fields: Vec<FieldName>,
    pub(super) replace_body: bool,
    pub(super) reply: bool,
    pub(super) effects: Vec<EffectName>,
}

/// Where a plugin listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Address {
    Unix(PathBuf),
    /// `http://HOST:PORT`, or `https://` with TLS.
    Http(String),
}

/// A field name, or the beginning of field names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FieldName {
    Is(String),
    StartsWith(String),
}

impl FieldName {
    fn parse(text: &str) -> Result<Self, String> {
        // RFC 5322 section 2.2: printable ASCII without the colon.
        let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
        match text.strip_suffix('*') {
            Some(start) if is_name(start) => Ok(Self::StartsWith(start.to_owned())),
            None if is_name(text) && !text.is_empty() => Ok(Self::Is(text.to_owned())),
            _ => Err(format!(
                "{text:?} is no field name, and not the beginning of one with a * behind it"
            )),
        }
    }

    /// Whether a field of this name is meant. Case does not matter.
    pub(super) fn means(&self, name: &[u8]) -> bool {
        match self {
            Self::Is(known) => known.as_bytes().eq_ignore_ascii_case(name),
            Self::StartsWith(start) => name
                .get(..start.len())
                .is_some_and(|beginning| beginning.eq_ignore_ascii_case(start.as_bytes())),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: has no path behind it".to_owned()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        let port = rest.and_then(|rest| rest.rsplit_once(':')).map(|(_, port)| port.parse::<u16>());
        match port {
            Some(Ok(1..)) => Ok(Self::Http(text.to_owned())),
            _ => Err(format!(
                "{text:?} is no address: unix:PATH, http://HOST:PORT or https://HOST:PORT"
            )),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Http(uri) => f.write_str(uri),
        }
    }
}

impl PluginSettings {
    /// Reads them.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub(super) fn read(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let directory = settings.directory().to_owned();
        let raw: Raw = settings.read()?;
        let address = raw.address.ok_or_else(|| {
            SettingsError::new(
                "address is missing: where the plugin listens, such as unix:/run/plugin.sock",
            )
        })?;
        let parsed = address.get_ref().parse();
        let parsed = parsed.map_err(|error: String| SettingsError::at(address.span(), error))?;
        let is_tls = address.get_ref().starts_with("https:");
        let ca = raw.ca.map(|file| read_file(&directory, &file)).transpose()?;
        if is_tls != ca.is_some() {
            let wrong = "ca, the file with who signs the plugin's certificate, belongs to https:// and to nothing else";
            return Err(SettingsError::at(address.span(), wrong));
        }
        let command = raw.command.map(|command| {
            let (span, command) = (command.span(), command.into_inner());
            match command.is_empty() {
                true => Err(SettingsError::at(span, "command has no program")),
                false => Ok(command),
            }
        });
        let positive = |number: Option<Spanned<u32>>, default: u32| match number {
            Some(number) if *number.get_ref() == 0 => {
                Err(SettingsError::at(number.span(), "0 is none at all: at least 1"))
            }
            number => Ok(number.map_or(default, Spanned::into_inner)),
        };
        let address = match parsed {
            Address::Unix(path) => Address::Unix(directory.join(path)),
            http => http,
        };
        Ok(Self {
            address,
            ca,
            command: command.transpose()?,
            open: positive(raw.open, 32)? as usize,
            answer_octets: positive(raw.answer_octets, 4 * 1024 * 1024)? as usize,
            failures: positive(raw.failures, 5)?,
            revival: Duration::from_secs(positive(raw.revive_seconds, 1)?.into()),
            grants: Grants::checked(raw.grants)?,
            directory,
        })
    }
}

impl Grants {
    fn checked(raw: RawGrants) -> Result<Self, SettingsError> {
        let mut events = commands(&raw.events, &EVENTS, "event")?;
        let watches = commands(&raw.watches, &EVENTS, "event")?;
        if events.is_empty() && watches.is_empty() {
            return Err(SettingsError::new(
                "grants.events is missing: the events that the plugin may see, such as [\"MESSAGE\"]",
            ));
        }
        events.extend(
            watches.iter().filter(|event| !events.contains(event)).cloned().collect::<Vec<_>>(),
        );
        let content = match raw.body {
            None => Content::Header,
            Some(body) => match body.get_ref() {
                Body::Octets(octets) if *octets <= MAXIMUM => Content::Prefix(*octets),
                Body::Word(word) if word == "none" => Content::Header,
                Body::Word(word) if word == "whole" => Content::Whole,
                _ => {
                    let wrong = format!(
                        "a body is \"none\", \"whole\", or so many of its octets, up to {MAXIMUM}"
                    );
                    return Err(SettingsError::at(body.span(), wrong));
                }
            },
        };
        let field = |name: &Spanned<String>| {
            FieldName::parse(name.get_ref()).map_err(|error| SettingsError::at(name.span(), error))
        };
        let effect = |name: &Spanned<String>| {
            EffectName::from_name(name.get_ref().as_bytes()).ok_or_else(|| {
                SettingsError::at(name.span(), format!("{:?} is no side effect", name.get_ref()))
            })
        };
        Ok(Self {
            events,
            watches,
            content,
            change_command: raw.change_command,
            fields: raw.fields.iter().map(field).collect::<Result<_, _>>()?,
            replace_body: raw.replace_body,
            reply: raw.reply,
            effects: raw.effects.iter().map(effect).collect::<Result<_, _>>()?,
        })
    }
}

fn read_file(directory: &Path, file: &Path) -> Result<Vec<u8>, SettingsError> {
    let path = directory.join(file);
    std::fs::read(&path).map_err(|error| SettingsError::new(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use services::setting::documented;

    use super::*;

    fn read(text: &str) -> Result<PluginSettings, SettingsError> {
        PluginSettings::read(Settings::parse(text, Path::new("/etc"))?)
    }

    #[test]
    fn the_example_is_valid() {
        let settings = read(&documented(include_str!("mod.rs"))).unwrap();
        let grants = settings.grants;
        assert_eq!(grants.events, [Command::Mail, Command::Message, Command::Quit]);
        assert_eq!((grants.content, grants.fields.len()), (Content::Whole, 2));
    }

    #[test]
    fn what_is_written_is_meant() {
        let settings = read(
            "address = 'unix:plugin.sock'\ncommand = ['python3', 'p.py']\nopen = 2\n[grants]\nevents = ['MAIL']\n\
             watches = ['MAIL', 'QUIT']\nbody = 100\nfields = ['Subject', 'X-*']\neffects = ['quarantine']\n",
        )
        .unwrap();
        assert_eq!(settings.address, Address::Unix("/etc/plugin.sock".into()));
        assert_eq!((settings.open, settings.failures, settings.answer_octets), (2, 5, 4 << 20));
        let grants = settings.grants;
        assert_eq!(grants.events, [Command::Mail, Command::Quit]);
        assert_eq!(grants.watches, [Command::Mail, Command::Quit]);
        assert_eq!(grants.content, Content::Prefix(100));
        assert_eq!(grants.effects, [EffectName::Quarantine]);
        let means = |name: &[u8]| grants.fields.iter().any(|field| field.means(name));
        for (name, granted) in [
            ("subject", true),
            ("x-spam", true),
            ("X-", true),
            ("X", false),
            ("Subjects", false),
            ("", false),
        ] {
            assert_eq!(means(name.as_bytes()), granted, "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let grants = "[grants]\nevents = ['MESSAGE']\n";
        for (text, span, message) in [
            ("", None, "address is missing"),
            ("address = 'tcp:1'", Some(10..17), "is no address"),
            ("address = 'http://h'", Some(10..20), "is no address"),
            ("address = 'unix:'", Some(10..17), "unix: has no path"),
            ("address = 'https://h:1'", Some(10..23), "belongs to https://"),
            ("address = 'unix:s'\ncommand = []", Some(29..31), "command has no program"),
            ("address = 'unix:s'\nopen = 0", Some(26..27), "at least 1"),
            ("address = 'unix:s'", None, "grants.events is missing"),
            ("address = 'unix:s'\n[grants]\nevents = ['X']", Some(38..41), "is no event"),
            (
                "address = 'unix:s'\n[grants]\nevents = ['MAIL']\nbody = 'all'",
                Some(53..58),
                "a body is",
            ),
            (
                "address = 'unix:s'\n[grants]\nevents = ['MAIL']\nfields = ['a:b']",
                Some(56..61),
                "is no field name",
            ),
            (
                "address = 'unix:s'\n[grants]\nevents = ['MAIL']\neffects = ['fly']",
                Some(57..62),
                "is no side effect",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.span, span, "{text}: {error}");
            assert!(error.message.contains(message), "{text}: {error}");
        }
        let missing =
            read(&format!("address = 'https://h:1'\nca = 'none.pem'\n{grants}")).unwrap_err();
        assert!(missing.message.starts_with("/etc/none.pem: "), "{missing}");
    }
}
