//! From the file to values that can be relied on.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ocp_proto::WireLimits;
use ocp_proto::smtp::{COMMAND_PROFILE, DIALOG, FailurePolicy, REPLY_PROFILE, TLS};
use ocp_proto::wire::Atom;
use opes_mta::telemetry::Telemetry;
use serde::Deserialize;
use services::{AddressList, Kind, Registry, Settings, TemporaryFolder};
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer, ValueDeserializer};

use super::raw::{Raw, RawAdmin, RawLimits, RawService, RawSpool, RawTimeouts};
use super::{ConfigError, Document, HistoryConfig, User};
use crate::access::Rules;
use crate::branch::Fallback;
use crate::listen::Address;
use crate::router::{Entry, Router};
use crate::tls::Tls;

/// Everything that an operator can set.
#[derive(Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: Vec<Address>,
    /// What may be used up.
    pub limits: Limits,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// Where large messages go.
    pub spool: SpoolConfig,
    /// What is logged, and how.
    pub log: LogConfig,
    /// Where traces go; there are none if `None`.
    pub telemetry: Option<Telemetry>,
    /// Where to answer those who operate the server.
    pub admin: AdminConfig,
    /// How much of the last messages they may look up.
    pub history: HistoryConfig,
    /// What happens where some recipients are refused and the processor has one reply for all.
    pub recipients_differ: Fallback,
    /// Certificates, if there is TLS.
    pub tls: Option<Tls>,
    /// Who may use what.
    pub access: Rules,
    /// The services as they are configured, with those that are switched off.
    pub(crate) services: Vec<ServiceConfig>,
    /// The services by their URIs.
    pub router: Router,
}

/// How a service is configured.
#[derive(Clone, Debug)]
pub(crate) struct ServiceConfig {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    /// Those that are mapped to it besides its own.
    pub(crate) uris: Vec<String>,
    pub(crate) enabled: bool,
    pub(crate) deadline: Duration,
    /// Its own if nobody says another one; `None` in shadow.
    pub(crate) on_failure: Option<FailurePolicy>,
    pub(crate) recipients: Option<Vec<String>>,
    pub(crate) bypassable: bool,
    pub(crate) shadow: bool,
    /// As they were given.
    pub(crate) settings: Option<toml::Value>,
}

/// Bounds on what peers can make the server use. Worst case in memory: `content_octets` three times
/// over (a message, its next version, and decoded parts of it), and for each connection
/// `unsent_octets`, one message's head and 64 KiB of input, with TLS 128 KiB more. Besides, 16 MiB of
/// buffers are kept for the next messages.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time; more are refused with CE 400.
    pub connections: usize,
    /// Service groups of a connection; one more ends it (RFC 4037 section 11.3).
    pub groups: usize,
    /// Dialogs of a connection; one more is refused with Dialog-End 400.
    pub dialogs: usize,
    /// Transactions of a connection at a time; one more is refused with TE 400.
    pub transactions: usize,
    /// Octets of one message, without those that stay with the processor (`Leave-At-Body`); a larger
    /// one is refused with TE 400.
    pub message_octets: u32,
    /// Octets of all messages that are being worked on; beyond it messages are refused with TE 400
    /// and Retry.
    pub content_octets: usize,
    /// Octets that a peer has not taken yet; beyond it its connection is read no further.
    pub unsent_octets: usize,
    /// Bounds on single OCP messages.
    pub wire: WireLimits,
}

/// How long to wait.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// For the TLS handshake; and for CS and the first offer.
    pub handshake: Duration,
    /// For more of a message's octets; and for more of an OCP message that has begun, and for a peer to
    /// take more of ours.
    pub transaction: Duration,
    /// Octets of each that count as more. 2,048 in 120 s: 17 octets a second keep a transaction, the
    /// slowest line that carries mail is faster.
    pub transaction_octets: u32,
    /// For anything from the peer; then it is pinged.
    pub idle: Duration,
    /// For the answer to the ping.
    pub ping: Duration,
    /// Between signs of life while services work (profile section 7).
    pub progress: Duration,
    /// For open dialogs when the server is told to stop.
    pub drain: Duration,
}

/// Where large messages go while they are worked on, and what services unpack. The files have no
/// names and go with the process.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// The folder.
    pub folder: PathBuf,
    /// Octets of a message body that stay in memory; a larger one goes to a file.
    pub threshold: usize,
    /// Octets of all files of messages at a time; beyond it messages are refused with TE 400 and Retry.
    /// Services bound their own: `limits.unpacked` of each message, of which `scans` are looked into.
    pub octets: usize,
}

/// Where to answer those who operate the server; nowhere by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminConfig {
    /// `HOST:PORT`, for everybody who gets there.
    pub listen: Option<String>,
    /// A unix socket for the user of the process, and root.
    pub control: Option<PathBuf>,
    /// Who may log in at the status page there.
    pub users: Vec<User>,
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Lines for people or for programs.
    pub format: LogFormat,
    /// Directives such as `info` or `info,opes::log=debug`; the variable `RUST_LOG` replaces them.
    pub level: String,
}

/// Lines for people or for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Default deadline of a service for one event. Four services in a row stay below the 80 s that a
/// processor waits (profile section 7).
const DEADLINE: Duration = Duration::from_secs(15);

/// Octets of input that a connection may hold.
const READ_BUFFER: usize = 64 * 1024;

impl Config {
    /// What holds without a configuration file.
    ///
    /// # Errors
    /// If a service of `registry` can't be built without settings.
    pub fn embedded(registry: &Registry) -> Result<Self, ConfigError> {
        Self::parse("", Path::new("(embedded defaults)"), registry)
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn load(path: &Path, registry: &Registry) -> Result<Self, ConfigError> {
        let document = Document::load(path)?;
        Self::parse(document.text(), document.path(), registry)
    }

    /// Checks the text of a file; relative paths in it start at the folder of `path`.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str, path: &Path, registry: &Registry) -> Result<Self, ConfigError> {
        let checker = Checker { text, path, registry };
        let mut table =
            DeTable::parse(text).map_err(|error| checker.error(error.message(), error.span()))?;
        let services = table.get_mut().remove("services");
        let raw = Raw::deserialize(Deserializer::from(table))
            .map_err(|error| checker.error(error.message(), error.span()))?;
        let tls = raw.tls.as_ref().map(|tls| checker.tls(tls)).transpose()?;
        let address = if tls.is_some() { str::parse } else { Address::without_tls };
        let listen = match raw.listen {
            None => vec![Address::default()],
            Some(addresses) => {
                addresses.iter().map(|a| checker.value(a, address)).collect::<Result<_, _>>()?
            }
        };
        let level = raw.log.level.as_ref();
        let level = level.map(|level| checker.value(level, log_directives)).transpose()?;
        let telemetry = raw.telemetry.as_ref().map(Telemetry::checked).transpose();
        let telemetry = telemetry.map_err(|(span, wrong)| checker.error(wrong, Some(span)))?;
        let admin = raw.admin.as_ref().map(|admin| checker.admin(admin)).transpose()?;
        let spool = checker.spool(&raw.spool)?;
        let (services, router) = checker.services(services, &spool.folder.clone().into())?;
        Ok(Self {
            listen,
            limits: limits(&raw.limits),
            timeouts: timeouts(&raw.timeouts),
            spool,
            log: LogConfig {
                format: raw.log.format.unwrap_or_default(),
                level: level.unwrap_or_else(|| "info".to_owned()),
            },
            telemetry,
            admin: admin.unwrap_or_default(),
            history: checker.history(&raw.history)?,
            recipients_differ: raw.recipients_differ.unwrap_or_default(),
            access: checker.access(&raw.access, tls.as_ref(), &router)?,
            tls,
            services,
            router,
        })
    }

    /// What peers can make the server hold in memory at the most: what it is for, and octets.
    pub fn worst_case_memory(&self) -> Vec<(String, usize)> {
        let limits = &self.limits;
        let messages = limits.content_octets;
        // One TLS record each way and what waits for it.
        let tls = if self.tls.is_some() { 128 * 1024 } else { 0 };
        let connection = limits.unsent_octets + limits.wire.head_octets + READ_BUFFER + tls;
        let mut uses = vec![
            ("messages that are worked on (content-octets)".to_owned(), messages),
            ("decoded parts of messages in memory".to_owned(), messages),
            (
                format!("{} connections (unsent-octets, head-octets, 64 KiB)", limits.connections),
                connection.saturating_mul(limits.connections),
            ),
            ("buffers kept for the next messages".to_owned(), crate::buffers::WORST_CASE),
        ];
        match crate::admin::worst_case_memory(&self.admin) {
            0 => {}
            octets => uses.push(("those who ask at [admin]".to_owned(), octets)),
        }
        if let Some(history) = self.kept_history() {
            uses.push(("history, with what is not done with".to_owned(), 2 * history.octets));
        }
        let services = self
            .router
            .iter()
            .map(|entry| (format!("service {}", entry.name), entry.service.worst_case_memory()));
        uses.extend(services.filter(|(_, octets)| *octets > 0));
        uses
    }

    /// What is kept of the last messages, if anything is, and somebody may read it.
    pub(crate) fn kept_history(&self) -> Option<&HistoryConfig> {
        let is_read = self.admin.control.is_some() || !self.admin.users.is_empty();
        Some(&self.history).filter(|history| is_read && history.messages > 0)
    }

    /// The part that one connection obeys.
    pub(crate) fn connection(&self) -> ocp_proto::Config {
        ocp_proto::Config {
            wire: self.limits.wire.clone(),
            groups: self.limits.groups,
            dialogs: self.limits.dialogs,
            transactions: self.limits.transactions,
            features: [DIALOG, COMMAND_PROFILE, REPLY_PROFILE]
                .into_iter()
                .chain(self.tls.as_ref().map(|_| TLS))
                .map(Atom::from)
                .collect(),
            handshake_timeout: self.timeouts.handshake,
            transaction_timeout: self.timeouts.transaction,
            least_octets: self.timeouts.transaction_octets,
            idle_timeout: self.timeouts.idle,
            ping_timeout: self.timeouts.ping,
            ..ocp_proto::Config::default()
        }
    }
}

fn limits(raw: &RawLimits) -> Limits {
    let wire = WireLimits::default();
    let or = |value: Option<std::num::NonZeroUsize>, default| value.map_or(default, |n| n.get());
    Limits {
        connections: or(raw.connections, 1_024),
        groups: or(raw.groups, 16),
        dialogs: or(raw.dialogs, 1_024),
        transactions: or(raw.transactions, 1_024),
        message_octets: raw.message_octets.map_or(100 * 1024 * 1024, |n| n.get()),
        content_octets: or(raw.content_octets, 1024 * 1024 * 1024),
        unsent_octets: or(raw.unsent_octets, 1024 * 1024),
        wire: WireLimits {
            head_octets: or(raw.head_octets, wire.head_octets),
            values: or(raw.values, wire.values),
            depth: or(raw.nesting, wire.depth),
            ..wire
        },
    }
}

fn timeouts(raw: &RawTimeouts) -> Timeouts {
    let or = |value: Option<std::num::NonZeroU32>, default: u32| {
        Duration::from_secs(value.map_or(default, |n| n.get()).into())
    };
    Timeouts {
        handshake: or(raw.handshake, 30),
        transaction: or(raw.transaction, 120),
        transaction_octets: raw.transaction_octets.map_or(2_048, |n| n.get()),
        idle: or(raw.idle, 120),
        ping: or(raw.ping, 30),
        progress: or(raw.progress, 10),
        drain: or(raw.drain, 30),
    }
}

fn log_directives(directives: &str) -> Result<String, tracing_subscriber::filter::ParseError> {
    tracing_subscriber::EnvFilter::builder().parse(directives).map(|_| directives.to_owned())
}

/// One file and what it may name.
pub(super) struct Checker<'a> {
    text: &'a str,
    pub(super) path: &'a Path,
    registry: &'a Registry,
}

impl Checker<'_> {
    pub(super) fn error(
        &self,
        message: impl std::fmt::Display,
        span: Option<Range<usize>>,
    ) -> ConfigError {
        ConfigError::new(self.path, self.text, message, span)
    }

    /// A value of the file that has a syntax of its own.
    pub(super) fn value<T, E: std::fmt::Display>(
        &self,
        text: &Spanned<String>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T, ConfigError> {
        parse(text.get_ref()).map_err(|error| self.error(error, Some(text.span())))
    }

    fn admin(&self, raw: &Spanned<RawAdmin>) -> Result<AdminConfig, ConfigError> {
        let RawAdmin { listen, control, user } = raw.get_ref();
        if listen.is_none() && control.is_none() {
            let message = "admin has neither listen nor control: it would answer nobody";
            return Err(self.error(message, Some(raw.span())));
        }
        let listen =
            listen.as_ref().map(|listen| self.value(listen, Address::of_admin)).transpose()?;
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let control = control.as_ref().map(|control| folder.join(control.get_ref()));
        if let Some(first) = user.first().filter(|_| listen.is_none()) {
            let message = "users log in at [admin] listen, which is missing";
            return Err(self.error(message, Some(first.span())));
        }
        Ok(AdminConfig { listen, control, users: self.users(user)? })
    }

    fn spool(&self, raw: &RawSpool) -> Result<SpoolConfig, ConfigError> {
        let folder = match &raw.folder {
            None => std::env::temp_dir(),
            Some(folder) => {
                let folder_of_file = self.path.parent().unwrap_or(Path::new(""));
                let path = folder_of_file.join(folder.get_ref());
                if !path.is_dir() {
                    let message = format!("{} is no folder", path.display());
                    return Err(self.error(message, Some(folder.span())));
                }
                path
            }
        };
        Ok(SpoolConfig {
            folder,
            threshold: raw.threshold_octets.map_or(4 * 1024 * 1024, |n| n.get()),
            octets: raw.octets.map_or(4 * 1024 * 1024 * 1024, |n| n.get()),
        })
    }

    /// The services of the file, and with their defaults those that it does not mention; a URI that
    /// the file gives to another service is that service's.
    fn services(
        &self,
        services: Option<Spanned<DeValue<'_>>>,
        temporary: &TemporaryFolder,
    ) -> Result<(Vec<ServiceConfig>, Router), ConfigError> {
        let mut router = Router::default();
        let mut configured: Vec<ServiceConfig> = Vec::new();
        if let Some(services) = services {
            let span = services.span();
            let DeValue::Table(table) = services.into_inner() else {
                return Err(self.error("services is a table: write [services.NAME]", Some(span)));
            };
            for (name, value) in table {
                let (service, entry) = self.service(name.get_ref(), value, temporary)?;
                if service.enabled {
                    let taken = router.add(entry);
                    taken.map_err(|error| self.error(error, Some(name.span())))?;
                }
                configured.push(service);
            }
        }
        let is_default = |kind: &&Kind| {
            !kind.needs_settings && !configured.iter().any(|service| service.name == kind.name)
        };
        let kinds: Vec<&Kind> = self.registry.iter().filter(is_default).collect();
        for kind in kinds {
            let settings = Settings::none().with_temporary_folder(temporary.clone());
            let service = (kind.build)(settings)
                .map_err(|error| self.error(format!("{}: {error}", kind.name), None))?;
            let entry = Entry::new(kind.name, kind.summary, service, DEADLINE);
            configured.push(ServiceConfig::of(&entry, kind));
            router.add(entry).map_err(|error| self.error(error, None))?;
        }
        Ok((configured, router))
    }

    /// One service.
    fn service(
        &self,
        name: &str,
        value: Spanned<DeValue<'_>>,
        temporary: &TemporaryFolder,
    ) -> Result<(ServiceConfig, Entry), ConfigError> {
        let span = value.span();
        let DeValue::Table(mut table) = value.into_inner() else {
            return Err(self.error(format!("{name} is a table: [services.{name}]"), Some(span)));
        };
        let settings = table.remove("settings");
        let raw = RawService::deserialize(Deserializer::from(Spanned::new(span.clone(), table)))
            .map_err(|error| self.error(error.message(), error.span()))?;
        let (kind_name, kind_span) = match &raw.kind {
            Some(kind) => (kind.get_ref().as_str(), kind.span()),
            None => (name, span),
        };
        let kind = self.registry.find(kind_name).ok_or_else(|| {
            let known: Vec<&str> = self.registry.iter().map(|kind| kind.name).collect();
            let message =
                format!("there is no kind of service {kind_name}; known: {}", known.join(", "));
            self.error(message, Some(kind_span.clone()))
        })?;
        let directory = self.path.parent().unwrap_or(Path::new(""));
        let settings_span = settings.as_ref().map(Spanned::span);
        let given =
            settings.clone().map(|given| toml::Value::deserialize(ValueDeserializer::from(given)));
        let given = given.transpose().map_err(|error| self.error(error.message(), error.span()))?;
        let settings = match settings {
            Some(settings) => Settings::new(ValueDeserializer::from(settings), directory),
            None => Settings::none(),
        };
        let settings = settings.with_temporary_folder(temporary.clone());
        let service: Arc<dyn services::Service> = (kind.build)(settings).map_err(|error| {
            let span = error.span.clone().or(settings_span).or(Some(kind_span));
            self.error(format!("{name}: {error}"), span)
        })?;
        let deadline = raw.deadline.map_or(DEADLINE, |s| Duration::from_secs(s.get().into()));
        let mut entry = Entry::new(name, kind.summary, service, deadline);
        if let Some(policy) = &raw.on_failure {
            entry.on_failure = self.value(policy, |text| {
                FailurePolicy::from_name(text.as_bytes())
                    .ok_or_else(|| format!("{text} is no policy: accept, tempfail or reject"))
            })?;
        }
        if let Some(recipients) = &raw.recipients {
            let list = AddressList::new(recipients);
            entry.recipients = Some(list.map_err(|error| self.error(error.message, error.span))?);
        }
        if let Some(bypassable) = &raw.bypassable {
            if *bypassable.get_ref() && entry.declaration.indispensable {
                let message = format!("{kind_name} can't be bypassable: others rely on it");
                return Err(self.error(message, Some(bypassable.span())));
            }
            entry.bypassable = *bypassable.get_ref();
        }
        for uri in &raw.uris {
            let uri = self.value(uri, |text| match text.bytes().all(|b| b.is_ascii_graphic()) {
                true if !text.is_empty() => Ok(text.to_owned().into()),
                _ => Err("a URI has printable ASCII characters only, and at least one"),
            })?;
            entry.uris.push(uri);
        }
        match &raw.on_failure {
            Some(policy) if raw.shadow => {
                let message = "with shadow = true a failure changes nothing: leave on-failure out";
                Err(self.error(message, Some(policy.span())))
            }
            _ => {
                let entry = if raw.shadow { entry.in_shadow() } else { entry };
                let text = |texts: &[Spanned<String>]| {
                    texts.iter().map(|text| text.get_ref().clone()).collect()
                };
                let configured = ServiceConfig {
                    uris: text(&raw.uris),
                    enabled: raw.enabled != Some(false),
                    recipients: raw.recipients.as_deref().map(text),
                    settings: given,
                    ..ServiceConfig::of(&entry, kind)
                };
                Ok((configured, entry))
            }
        }
    }
}

impl ServiceConfig {
    /// What an entry says of it.
    fn of(entry: &Entry, kind: &Kind) -> Self {
        Self {
            name: entry.name.clone(),
            kind: kind.name,
            uris: Vec::new(),
            enabled: true,
            deadline: entry.deadline,
            on_failure: (!entry.shadow).then_some(entry.on_failure),
            recipients: None,
            bypassable: entry.bypassable,
            shadow: entry.shadow,
            settings: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("test.toml"), &Registry::builtin())
    }

    #[test]
    fn no_file_is_needed() {
        let config = Config::embedded(&Registry::builtin()).unwrap();
        assert_eq!(config.listen, [Address::default()]);
        for kind in Registry::builtin().iter() {
            let uri = format!("ocp://service/{}", kind.name);
            let is_there = config.router.find(uri.as_bytes()).is_some();
            assert_eq!(is_there, !kind.needs_settings, "{uri}");
        }
    }

    #[test]
    fn the_commented_example_is_valid_and_says_the_defaults() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/callout-server.toml");
        let config = Config::load(Path::new(path), &crate::registry()).unwrap();
        let defaults = Config::embedded(&crate::registry()).unwrap();
        assert_eq!(format!("{config:?}"), format!("{defaults:?}"));
        // Uncommented lines that begin with `#key` are examples, and valid too.
        let text = std::fs::read_to_string(path).unwrap();
        let uncommented = super::super::uncommented(&text);
        if let Err(error) = Config::parse(&uncommented, Path::new(path), &crate::registry()) {
            panic!("{:?}\n{uncommented}", miette::Report::new(error));
        }
    }

    #[test]
    fn what_is_wrong_has_a_line_and_a_column() {
        let cases = [
            ("listen = [\"127.0.0.1:4037\"]\nlisen = 1\n", (2, 1), "unknown field `lisen`"),
            ("listen = [\n  \"nonsense\"\n]\n", (2, 3), "nonsense"),
            ("[limits]\nconnections = 0\n", (2, 15), "0"),
            ("[limits]\nconnections = \"x\"\n", (2, 15), "invalid type"),
            ("[log]\nlevel = \"opes=loud\"\n", (2, 9), ""),
            ("[log]\nformat = \"xml\"\n", (2, 10), "xml"),
            (
                "[admin]\nlisten = \"unix:/x\"\n",
                (2, 10),
                "unix:/x is no address of the admin listener",
            ),
            ("[admin]\nlisten = \"localhost\"\n", (2, 10), "write HOST:PORT"),
            ("[admin]\n", (1, 1), "admin has neither listen nor control"),
            ("services = 3\n", (1, 12), "services is a table"),
            ("[services.nothing]\n", (1, 1), "there is no kind of service nothing"),
            ("[services.log]\nkind = \"nothing\"\n", (2, 8), "there is no kind"),
            ("[services.log]\ndeadlin = 1\n", (2, 1), "unknown field `deadlin`"),
            ("[services.log]\non-failure = \"drop\"\n", (2, 14), "drop is no policy"),
            ("[services.log]\nuris = [\"\"]\n", (2, 9), "a URI has"),
            (
                "[services.log]\nshadow = true\non-failure = \"reject\"\n",
                (3, 14),
                "with shadow = true a failure changes nothing",
            ),
            (
                "[[services.reply-filter.settings.rule]]\ntext = '('\nreplacement = ''\n",
                (2, 8),
                "\"(\" is no regular expression",
            ),
            (
                "[[services.recipient-retry.settings.rule]]\nrecipient = 'a'\nnext-hop = 'mx'\n",
                (3, 12),
                "a next hop is HOST:PORT",
            ),
            (
                "[services.a]\nkind = \"virus-scan\"\nbypassable = true\n",
                (3, 14),
                "virus-scan can't be bypassable",
            ),
            (
                "[services.a]\nkind = \"log\"\nuris = [\"ocp://service/log\"]\n[services.log]\n",
                (4, 11),
                "ocp://service/log belongs to the service a already",
            ),
            ("[services.log.settings]\nnonsense = 1\n", (2, 1), "unknown field `nonsense`"),
            ("a = [1\n", (1, 7), ""),
        ];
        for (text, position, message) in cases {
            let error = parse(text).expect_err(text);
            assert_eq!(error.line_and_column(), Some(position), "{text}: {error}");
            assert!(error.to_string().contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn traces_take_a_build_that_makes_them() {
        let error = parse("[telemetry]\nendpoint = \"nowhere\"\n").unwrap_err();
        let (place, cause) = match cfg!(feature = "opentelemetry") {
            true => ((2, 12), "is no collector"),
            false => ((1, 1), "built without OpenTelemetry"),
        };
        assert_eq!(error.line_and_column(), Some(place), "{error}");
        assert!(error.to_string().contains(cause), "{error}");
    }

    #[test]
    fn services_get_the_folder_of_the_spool() {
        let mut registry = Registry::default();
        registry.register(services::Kind {
            name: "probe",
            summary: "",
            needs_settings: false,
            build: |settings| {
                let folder = format!("{:?}", settings.temporary_folder());
                Err(services::SettingsError::new(folder))
            },
        });
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("test.toml");
        let expected = format!("TemporaryFolder({:?})", folder.path().join("."));
        for service in ["", "[services.probe]\n", "[services.probe.settings]\nx = 1\n"] {
            let text = format!("[spool]\nfolder = \".\"\n{service}");
            let error = Config::parse(&text, &file, &registry).unwrap_err();
            assert!(error.to_string().contains(&expected), "{service}: {error}");
        }
    }

    /// OPES-3897-8.2-01, OPES-3897-4.4-01, OPES-4902-3.2-03
    #[test]
    fn nothing_is_bypassable_unless_it_is_configured() {
        let bypassable = |text: &str| -> Vec<String> {
            let config = parse(text).unwrap();
            let entries = config.router.iter().filter(|entry| entry.bypassable);
            entries.map(|entry| entry.name.clone()).collect()
        };
        assert!(bypassable("").is_empty());
        assert_eq!(bypassable("[services.spam-score]\nbypassable = true\n"), ["spam-score"]);
        assert!(bypassable("[services.virus-scan]\nbypassable = false\n").is_empty());
    }

    #[test]
    fn services_can_be_mapped_renamed_and_switched_off() {
        let config = parse(
            "[services.audit]\nkind = \"log\"\nuris = [\"http://example.com/audit\"]\ndeadline = 3\n\
             on-failure = \"reject\"\n[services.log]\nenabled = false\n",
        )
        .unwrap();
        assert!(config.router.find(b"ocp://service/log").is_none());
        let audit = config.router.find(b"http://example.com/audit").unwrap();
        assert_eq!(audit.name, "audit");
        assert_eq!(
            (audit.deadline, audit.on_failure),
            (Duration::from_secs(3), FailurePolicy::Reject)
        );
        assert!(config.router.find(b"ocp://service/audit").is_some());
    }
}
