//! From the file to values that can be relied on.

use std::collections::HashSet;
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::address::AddressPattern;
use super::clients::{Clients, Origin};
use super::error::{ConfigError, closest};
use super::group::{Group, seconds};
use super::listen::{Listen, admin_address};
use super::raw::{Raw, RawBypass, RawLimits, RawList, RawListen, RawRule, RawTemporary};
use super::rules::{Rule, Rules};
use super::system::{System, text};
use crate::consult;
use crate::front::smtp::LONGEST_HEADER;
use crate::http;
use crate::metrics;
use crate::ocp::MOST_READS;
use crate::octets::BLOCK;
use crate::telemetry::Telemetry;

/// Everything that an operator can set.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who we are; without it messages and replies have no trace.
    pub system: Option<System>,
    /// Front ends.
    pub listen: Vec<Listen>,
    /// Groups of callout servers; at least one.
    pub groups: Vec<Group>,
    /// Whose mail goes to which groups.
    pub rules: Rules,
    /// What may be used up.
    pub limits: Limits,
    /// Where octets of messages go that are not held in memory.
    pub temporary_folder: PathBuf,
    /// Who may ask for services to be skipped.
    pub bypass: Bypass,
    /// Where to answer those who operate it, `HOST:PORT`; nowhere if `None`.
    pub admin: Option<String>,
    /// Where traces go; there are none if `None`.
    pub telemetry: Option<Telemetry>,
}

/// Bounds on what mail servers and callout servers can make us use. Worst case in memory:
/// `content_octets` twice over (messages, and what servers make of them), `shadow_octets` likewise, and for each connection
/// 1 MiB by which an answer may be longer than its message, and a block of 256 KiB of what is in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of mail servers at a time, at all front ends.
    pub connections: u32,
    /// Octets of one message; the failure policy decides about a larger one that comes by milter, one that comes
    /// by SMTP is refused.
    pub message_octets: u32,
    /// Octets in memory of all messages that are being worked on; beyond it a message is put off (4xx). New
    /// octets that services send take it as well, as far as a message has more in a file than in memory.
    pub content_octets: u64,
    /// Octets of one message that comes by SMTP which are held in memory, besides its header section and up to
    /// 256 KiB at its end; those between are in a file. All of a message that comes by milter is in memory.
    pub memory_octets: usize,
    /// Octets of all messages that are in files; beyond it a message is put off (4xx).
    pub disk_octets: u64,
    /// Octets of all that waits for groups that only watch, and 4 KiB for each event; beyond it they do not see
    /// the rest of a dialog.
    pub shadow_octets: u64,
    /// For a command, all its groups together. Below the 30 s of Postfix's `milter_command_timeout`.
    pub command_deadline: Duration,
    /// For content, all its groups together. Below the 300 s of Postfix's `milter_content_timeout`.
    pub content_deadline: Duration,
    /// How often the mail server is told that its message is being worked on. Below its
    /// `milter_content_timeout`, which begins anew each time.
    pub progress_interval: Duration,
}

/// Whose requests for bypass are heard (profile section 8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bypass {
    /// These clients'.
    pub clients: Vec<Clients>,
    /// Those of clients that have authenticated.
    pub authenticated: bool,
    /// Whether the MAIL parameter `XOPES-BYPASS` is one, besides the field `OPES-Bypass`.
    pub xopes_bypass: bool,
}

impl Config {
    /// That of one group, with the defaults of everything else.
    pub fn of(group: Group) -> Self {
        Self {
            system: None,
            listen: Vec::new(),
            groups: vec![group],
            rules: Rules::new(Vec::new(), 1),
            limits: Limits::default(),
            temporary_folder: std::env::temp_dir(),
            bypass: Bypass::default(),
            admin: None,
            telemetry: None,
        }
    }

    /// Reads and checks a file, and the files that it names.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError::new(path, "", format!("{} can't be read: {error}", path.display()), None)
        })?;
        if is_open_to_all(path) {
            let path_shown = path.display();
            let cause = format!("everybody can change {path_shown}: chmod o-w {path_shown}");
            return Err(ConfigError::new(path, "", cause, None));
        }
        Self::parse(&text, path)
    }

    /// Checks the text of a file; relative paths in it start at the folder of `path`.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let checker = Checker { text, path };
        let raw: Raw =
            toml::from_str(text).map_err(|error| checker.error(error.message(), error.span()))?;
        let limits = checker.limits(&raw.limits)?;
        let system = raw.system.as_ref().map(|system| checker.system(system)).transpose()?;
        let listen = checker.listen(&raw.listen)?;
        let groups = checker.groups(&raw.group, &limits)?;
        let rules = checker.rules(&raw.rule, &listen, &groups)?;
        let bypass = checker.bypass(&raw.bypass)?;
        let temporary_folder = checker.temporary_folder(&raw.temporary)?;
        let admin = raw.admin.as_ref();
        let admin = admin.map(|admin| checker.value(&admin.listen, admin_address)).transpose()?;
        let telemetry = raw.telemetry.as_ref().map(Telemetry::checked).transpose();
        let telemetry = telemetry.map_err(|(span, wrong)| checker.error(wrong, Some(span)))?;
        Ok(Self {
            system,
            listen,
            groups,
            rules,
            limits,
            temporary_folder,
            bypass,
            admin,
            telemetry,
        })
    }

    /// What peers can make us hold in memory at the most: what it is for, and octets.
    pub fn worst_case_memory(&self) -> Vec<(String, u64)> {
        let Limits { connections, content_octets, shadow_octets, .. } = self.limits;
        let allowance = consult::Policy::default().answer_allowance as u64;
        let mut uses = vec![
            ("messages that are worked on (content-octets)".to_owned(), content_octets),
            ("what callout servers make of them".to_owned(), content_octets),
            (
                format!("{connections} answers that are longer than their message"),
                allowance.saturating_mul(connections.into()),
            ),
        ];
        let servers = |group: &Group| group.servers.len() as u64 * u64::from(group.connections);
        let to_servers: u64 = self.groups.iter().map(servers).sum();
        let blocks =
            u64::from(connections) * BLOCK as u64 + to_servers * (MOST_READS * BLOCK) as u64;
        uses.push(("blocks of messages in files on their way out".to_owned(), blocks));
        if self.groups.iter().any(|group| group.shadow.is_some()) {
            uses.push((
                "what is shown to groups that watch (shadow-octets)".to_owned(),
                shadow_octets,
            ));
            uses.push(("what callout servers make of that".to_owned(), shadow_octets));
        }
        if self.admin.is_some() {
            let one = http::HEADER_OCTETS + metrics::longest_text(self);
            uses.push(("the admin listener".to_owned(), (http::CONNECTIONS * one) as u64));
        }
        uses
    }

    /// The names of a rule's groups, in their order.
    pub fn group_names(&self, rule: &Rule) -> Vec<&str> {
        let groups = rule.groups.iter().filter_map(|group| self.groups.get(*group));
        groups.map(|group| group.name.as_str()).collect()
    }
}

impl Limits {
    /// Octets of memory that the largest message takes at the most which comes by SMTP: what is not in a file. By
    /// milter all of it is in memory.
    fn least_memory(&self) -> u64 {
        let around = LONGEST_HEADER + self.memory_octets + BLOCK;
        u64::from(self.message_octets).min(around as u64)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            message_octets: 100 << 20,
            content_octets: 1 << 30,
            memory_octets: 1 << 20,
            disk_octets: 4 << 30,
            shadow_octets: 256 << 20,
            command_deadline: Duration::from_secs(25),
            content_deadline: Duration::from_secs(280),
            progress_interval: Duration::from_secs(10),
        }
    }
}

impl Default for Bypass {
    fn default() -> Self {
        Self { clients: Vec::new(), authenticated: true, xopes_bypass: true }
    }
}

impl Bypass {
    /// Whether this client's requests are heard.
    pub fn hears(&self, origin: Origin, authenticated: bool) -> bool {
        (self.authenticated && authenticated)
            || self.clients.iter().any(|clients| clients.contain(origin))
    }
}

/// One file.
pub(super) struct Checker<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Checker<'_> {
    pub(super) fn error(
        &self,
        message: impl std::fmt::Display,
        span: Option<Range<usize>>,
    ) -> ConfigError {
        ConfigError::new(self.path, self.text, message, span)
    }

    /// Where relative paths start.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// A value of the file that has a syntax of its own.
    pub(super) fn value<T, E: std::fmt::Display>(
        &self,
        text: &Spanned<String>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T, ConfigError> {
        parse(text.get_ref()).map_err(|error| self.error(error, Some(text.span())))
    }

    /// At least one of them.
    pub(super) fn values<T, E: std::fmt::Display>(
        &self,
        raw: &Spanned<Vec<Spanned<String>>>,
        what: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, ConfigError> {
        if raw.get_ref().is_empty() {
            return Err(self.error(format!("there are no {what}"), Some(raw.span())));
        }
        raw.get_ref().iter().map(|text| self.value(text, &parse)).collect()
    }

    /// Names that others refer to.
    pub(super) fn unique<'a>(
        &self,
        names: impl Iterator<Item = &'a Spanned<String>>,
        what: &str,
    ) -> Result<(), ConfigError> {
        let mut seen = HashSet::new();
        for name in names {
            if !seen.insert(name.get_ref().trim()) {
                let message = format!("there is a {what} {} already", name.get_ref());
                return Err(self.error(message, Some(name.span())));
            }
        }
        Ok(())
    }

    fn limits(&self, raw: &RawLimits) -> Result<Limits, ConfigError> {
        let or = Limits::default();
        let message = raw.message_octets.as_ref().map(|octets| octets.get_ref().get());
        let content = raw.content_octets.as_ref().map(|octets| octets.get_ref().get());
        let limits = Limits {
            connections: raw.connections.map_or(or.connections, NonZeroU32::get),
            message_octets: message.unwrap_or(or.message_octets),
            content_octets: content.unwrap_or(or.content_octets),
            memory_octets: raw.memory_octets.map_or(or.memory_octets, |octets| octets as usize),
            disk_octets: raw
                .disk_octets
                .as_ref()
                .map_or(or.disk_octets, |octets| *octets.get_ref()),
            shadow_octets: raw.shadow_octets.map_or(or.shadow_octets, NonZeroU64::get),
            command_deadline: raw.command_deadline.map_or(or.command_deadline, seconds),
            content_deadline: raw.content_deadline.map_or(or.content_deadline, seconds),
            progress_interval: raw.progress_interval.map_or(or.progress_interval, seconds),
        };
        let in_memory = limits.least_memory();
        if in_memory > limits.content_octets {
            let message = format!(
                "a message takes up to {in_memory} octets of memory and has no room in content-octets, {} for all",
                limits.content_octets
            );
            let span = raw.message_octets.as_ref().map(Spanned::span);
            let span = span.or(raw.content_octets.as_ref().map(Spanned::span));
            return Err(self.error(message, span));
        }
        let room = limits.disk_octets.saturating_add(limits.memory_octets as u64);
        if u64::from(limits.message_octets) > room {
            let message = format!(
                "a message of {} octets has no room in memory-octets and disk-octets, {room} in all",
                limits.message_octets
            );
            let span = raw.disk_octets.as_ref().map(Spanned::span);
            let span = span.or(raw.message_octets.as_ref().map(Spanned::span));
            return Err(self.error(message, span));
        }
        Ok(limits)
    }

    fn temporary_folder(&self, raw: &RawTemporary) -> Result<PathBuf, ConfigError> {
        let Some(written) = &raw.folder else { return Ok(std::env::temp_dir()) };
        let folder = self.folder().join(written.get_ref());
        if !folder.is_dir() {
            let message = format!("{} is no folder", folder.display());
            return Err(self.error(message, Some(written.span())));
        }
        Ok(folder)
    }

    fn listen(&self, raw: &[Spanned<RawListen>]) -> Result<Vec<Listen>, ConfigError> {
        let names = raw.iter().map(|listen| listen.get_ref());
        self.unique(names.clone().map(|raw| raw.name.as_ref().unwrap_or(&raw.milter)), "listener")?;
        self.unique(names.clone().map(|raw| &raw.milter), "listener at")?;
        names
            .map(|raw| {
                let milter = self.value(&raw.milter, str::parse)?;
                let name = self.value(raw.name.as_ref().unwrap_or(&raw.milter), text)?;
                Ok(Listen { name, milter })
            })
            .collect()
    }

    fn rules(
        &self,
        raw: &[Spanned<RawRule>],
        listen: &[Listen],
        groups: &[Group],
    ) -> Result<Rules, ConfigError> {
        self.unique(raw.iter().filter_map(|rule| rule.get_ref().name.as_ref()), "rule")?;
        let rules = raw.iter().enumerate().map(|(index, raw)| {
            let number = format!("#{}", index + 1);
            self.rule(number, raw.get_ref(), listen, groups)
        });
        Ok(Rules::new(rules.collect::<Result<_, _>>()?, groups.len()))
    }

    fn rule(
        &self,
        number: String,
        raw: &RawRule,
        listen: &[Listen],
        groups: &[Group],
    ) -> Result<Rule, ConfigError> {
        let mut used = Vec::new();
        for written in &raw.groups {
            let names = groups.iter().map(|group| group.name.as_str());
            let position = self.value(written, |name| position(name, "group", names.clone()))?;
            if used.contains(&position) {
                return Err(self.error("it is there twice", Some(written.span())));
            }
            used.push(position);
        }
        let listener = |name: &str| {
            let names = listen.iter().map(|listen| listen.name.as_str());
            position(name, "listener", names).map(|_| name.to_owned())
        };
        let name = raw.name.as_ref().map(|name| self.value(name, text)).transpose()?;
        Ok(Rule {
            name: name.unwrap_or(number),
            listen: self.condition(&raw.listen, listener)?,
            clients: self.condition(&raw.clients, str::parse)?,
            authenticated: raw.authenticated,
            senders: self.condition(&raw.senders, str::parse)?,
            recipients: self.condition(&raw.recipients, recipient)?,
            all_recipients: self.condition(&raw.all_recipients, recipient)?,
            groups: used,
        })
    }

    /// Whom a rule matches; everybody if it does not say.
    fn condition<T, E: std::fmt::Display>(
        &self,
        raw: &RawList,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, ConfigError> {
        let Some(raw) = raw else { return Ok(Vec::new()) };
        if raw.get_ref().is_empty() {
            let message = "an empty list matches nobody: leave it out to match everybody";
            return Err(self.error(message, Some(raw.span())));
        }
        raw.get_ref().iter().map(|text| self.value(text, &parse)).collect()
    }

    fn bypass(&self, raw: &RawBypass) -> Result<Bypass, ConfigError> {
        let clients = raw.clients.iter().map(|text| self.value(text, str::parse));
        let or = Bypass::default();
        Ok(Bypass {
            clients: clients.collect::<Result<_, _>>()?,
            authenticated: raw.authenticated.unwrap_or(or.authenticated),
            xopes_bypass: raw.xopes_bypass.unwrap_or(or.xopes_bypass),
        })
    }
}

/// Where a name stands among those that there are.
fn position<'a>(
    name: &str,
    what: &str,
    names: impl Iterator<Item = &'a str> + Clone,
) -> Result<usize, String> {
    if let Some(position) = names.clone().position(|known| known == name) {
        return Ok(position);
    }
    let meant = closest(name, names).map(|meant| format!("; did you mean `{meant}`?"));
    Err(format!("there is no {what} `{name}`{}", meant.unwrap_or_default()))
}

fn recipient(text: &str) -> Result<AddressPattern, String> {
    match text.parse()? {
        AddressPattern::Null => Err("a recipient has an address".to_owned()),
        pattern => Ok(pattern),
    }
}

/// Whether every user of this machine may write to a file: it says who may do what, and whose mail goes
/// where (RFC 3837 section 3).
fn is_open_to_all(path: &Path) -> bool {
    const WRITABLE_BY_OTHERS: u32 = 0o002;
    let mode = std::fs::metadata(path).map(|file| file.permissions().mode());
    mode.is_ok_and(|mode| mode & WRITABLE_BY_OTHERS != 0)
}

#[cfg(test)]
mod tests;
