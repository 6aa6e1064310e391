//! Settings of `normalize`.

use encoding_rs::Encoding;
use ocp_proto::smtp::{Command, Reply};
use serde::Deserialize;
use toml::Spanned;

use super::corrections::{CORRECTIONS, Correction};
use crate::content::{Policy, Tag};
use crate::mail_from::parse::is_domain;
use crate::registry::{Settings, SettingsError};
use crate::setting::refusal;

/// What happens where something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Action {
    /// It is put right; refused, if it is a command for which there is no other form.
    Correct,
    /// The message or the command is refused.
    Reject,
    /// Nobody looks for it.
    Leave,
}

/// The settings, as written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Config {
    /// The charset of octets beyond ASCII that are no UTF-8 and say nothing of theirs.
    charset: Spanned<String>,
    /// The domain of a new Message-ID.
    domain: Option<Spanned<String>>,
    /// What is put right in what is signed or encrypted, too.
    signed: Vec<Spanned<String>>,
    /// What happens to a message that could not be put right as a whole.
    on_limit: Policy,
    /// How it is marked then.
    tag: Tag,
    /// The most new octets a message, with 256 more for each edit. Worst case: twice that
    /// for each of `scans`.
    new_octets: usize,
    /// Messages of more than 64 KiB that are put right at a time; others wait.
    scans: usize,
    /// How a message is refused.
    reject_reply: Option<Spanned<String>>,
    message: MessageActions,
    commands: CommandActions,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            charset: Spanned::new(0..0, "windows-1252".to_owned()),
            domain: None,
            signed: Vec::new(),
            on_limit: Policy::Accept,
            tag: Tag::default(),
            new_octets: 16 * 1024 * 1024,
            scans: 4,
            reject_reply: None,
            message: MessageActions::default(),
            commands: CommandActions::default(),
        }
    }
}

/// What happens to each fault of a message.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct MessageActions {
    pub(super) nul: Action,
    pub(super) line_ends: Action,
    pub(super) header_lines: Action,
    pub(super) boundaries: Action,
    pub(super) doubled_fields: Action,
    pub(super) raw_fields: Action,
    pub(super) long_fields: Action,
    pub(super) uuencode: Action,
    pub(super) transfer_encoding: Action,
    pub(super) base64: Action,
    pub(super) quoted_printable: Action,
    pub(super) charset: Action,
    pub(super) long_lines: Action,
    pub(super) date: Action,
    pub(super) message_id: Action,
    pub(super) from: Action,
    pub(super) mime_version: Action,
}

impl Default for MessageActions {
    fn default() -> Self {
        Self {
            nul: Action::Correct,
            line_ends: Action::Correct,
            header_lines: Action::Correct,
            boundaries: Action::Correct,
            doubled_fields: Action::Correct,
            raw_fields: Action::Correct,
            long_fields: Action::Correct,
            uuencode: Action::Correct,
            transfer_encoding: Action::Correct,
            base64: Action::Correct,
            quoted_printable: Action::Correct,
            charset: Action::Correct,
            long_lines: Action::Correct,
            date: Action::Correct,
            message_id: Action::Correct,
            // An author is a claim: nobody should make it for somebody else unasked.
            from: Action::Leave,
            mime_version: Action::Correct,
        }
    }
}

/// What happens to each fault of a command.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct CommandActions {
    pub(super) length: Action,
    pub(super) local_part_length: Action,
    pub(super) control_characters: Action,
    pub(super) syntax: Action,
    pub(super) smtputf8: Action,
    pub(super) source_route: Action,
    pub(super) quotes: Action,
    pub(super) local_part: Action,
    pub(super) percent_hack: Action,
    pub(super) bang_path: Action,
    pub(super) helo: Action,
}

impl Default for CommandActions {
    fn default() -> Self {
        Self {
            length: Action::Reject,
            // Return paths that encode a recipient are everyday mail.
            local_part_length: Action::Leave,
            control_characters: Action::Reject,
            syntax: Action::Reject,
            smtputf8: Action::Reject,
            source_route: Action::Correct,
            quotes: Action::Correct,
            local_part: Action::Reject,
            percent_hack: Action::Reject,
            bang_path: Action::Reject,
            helo: Action::Reject,
        }
    }
}

impl CommandActions {
    /// Whether nobody looks for anything.
    fn is_off(&self) -> bool {
        let Self { length, local_part_length, control_characters, syntax, smtputf8, .. } = *self;
        let Self { source_route, quotes, local_part, percent_hack, bang_path, helo, .. } = *self;
        let syntactic = [length, local_part_length, control_characters, syntax, smtputf8, helo];
        let others = [source_route, quotes, local_part, percent_hack, bang_path];
        syntactic.into_iter().chain(others).all(|action| action == Action::Leave)
    }
}

/// The settings, checked.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) charset: &'static Encoding,
    pub(super) domain: Option<String>,
    /// Names of corrections.
    pub(super) signed: Vec<&'static str>,
    pub(super) on_limit: Policy,
    pub(super) tag: Tag,
    pub(super) new_octets: usize,
    pub(super) scans: usize,
    pub(super) reject_reply: Option<Reply>,
    pub(super) message: MessageActions,
    pub(super) commands: CommandActions,
}

impl Checked {
    /// The events in which there is something to look for.
    pub(super) fn events(&self) -> Vec<Command> {
        let is_on = |correction: &Correction| (correction.action)(&self.message) != Action::Leave;
        let mut events = Vec::new();
        if !self.commands.is_off() {
            events.extend([Command::Helo, Command::Mail, Command::Rcpt]);
        }
        if CORRECTIONS.iter().any(is_on) {
            events.push(Command::Message);
        }
        events
    }

    pub(super) fn read(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let Config {
            charset,
            domain,
            signed,
            on_limit,
            tag,
            new_octets,
            scans,
            reject_reply,
            message,
            commands,
        } = settings.read()?;
        let domain = domain.map(|domain| match is_domain(domain.get_ref()) {
            true => Ok(domain.into_inner()),
            false => {
                let message = format!("{:?} is no domain such as example.org", domain.get_ref());
                Err(SettingsError::at(domain.span(), message))
            }
        });
        Ok(Self {
            charset: known_charset(&charset)?,
            domain: domain.transpose()?,
            signed: signed.iter().map(correction).collect::<Result<_, _>>()?,
            on_limit,
            tag,
            new_octets,
            scans,
            reject_reply: reject_reply.as_ref().map(refusal).transpose()?,
            message,
            commands,
        })
    }
}

/// A charset that any octets can be read in, with ASCII as it is.
fn known_charset(label: &Spanned<String>) -> Result<&'static Encoding, SettingsError> {
    let found = Encoding::for_label(label.get_ref().as_bytes());
    found.filter(|charset| charset.is_single_byte() && charset.is_ascii_compatible()).ok_or_else(
        || {
            let message = format!(
                "{:?} is no charset of one octet a character, such as windows-1252 or iso-8859-2",
                label.get_ref()
            );
            SettingsError::at(label.span(), message)
        },
    )
}

fn correction(name: &Spanned<String>) -> Result<&'static str, SettingsError> {
    let mut known = CORRECTIONS.iter().map(|correction| correction.name);
    known.clone().find(|known| known == name.get_ref()).ok_or_else(|| {
        let message = format!(
            "{:?} is no correction; these are: {}",
            name.get_ref(),
            known.by_ref().collect::<Vec<_>>().join(", ")
        );
        SettingsError::at(name.span(), message)
    })
}
