//! A configuration as a file, with every default in it.

use opes_mta::telemetry::Telemetry;
use toml::{Table, Value};

use super::checked::{
    AdminConfig, Config, Limits, LogConfig, LogFormat, ServiceConfig, SpoolConfig, Timeouts,
};
use super::operators::HistoryConfig;
use crate::access::{Rule, RuleLimits};
use crate::branch::Fallback;
use crate::tls::{ClientCertificates, TlsSettings};

impl Config {
    /// The whole configuration as the text of a file, which means the same. Settings of services are those that were
    /// given, with relative paths as they were; all other paths are whole. No secret is among it: of keys it has the
    /// paths, and users of the status page, whose hashes are nobody else's business, are left out.
    pub fn dump(&self) -> String {
        // Tables and values of a configuration have a text.
        toml::to_string(&self.table()).unwrap_or_default()
    }

    /// The same, to compare with.
    pub(super) fn table(&self) -> Table {
        // Named one by one, so that none is forgotten.
        let Self {
            listen,
            limits,
            timeouts,
            spool,
            log,
            telemetry,
            admin,
            history,
            recipients_differ,
            tls,
            access,
            services,
            router: _,
        } = self;
        let mut table = Table::new();
        table.insert("listen".to_owned(), texts(listen));
        let fallback = match recipients_differ {
            Fallback::Reject => "reject",
            Fallback::Tempfail => "tempfail",
            Fallback::Quarantine => "quarantine",
        };
        table.insert("recipients-differ".to_owned(), fallback.into());
        if let Some(telemetry) = telemetry {
            // It means something without any keys.
            table.insert("telemetry".to_owned(), telemetry_table(telemetry).into());
        }
        let mut section = |name: &str, section: Table| {
            if !section.is_empty() {
                table.insert(name.to_owned(), section.into());
            }
        };
        section("limits", limits_table(limits));
        section("timeouts", timeouts_table(timeouts));
        section("spool", spool_table(spool));
        section("log", log_table(log));
        section("admin", admin_table(admin));
        section("history", history_table(history));
        section("tls", tls.as_ref().map(|tls| tls_table(&tls.settings)).unwrap_or_default());
        let named = services.iter().map(|service| (service.name.clone(), service_table(service)));
        section("services", named.map(|(name, table)| (name, table.into())).collect());
        if !access.is_empty() {
            let rules = access.iter().map(|rule| Value::from(rule_table(rule)));
            table.insert("access".to_owned(), rules.collect::<Vec<_>>().into());
        }
        table
    }
}

/// Only what is there; numbers are within what a file can say, since they came from one.
fn section<const N: usize>(values: [(&str, Option<Value>); N]) -> Table {
    let present = values.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    present.collect()
}

fn number(number: impl TryInto<i64>) -> Option<Value> {
    Some(number.try_into().unwrap_or(i64::MAX).into())
}

fn texts<T: ToString>(texts: impl IntoIterator<Item = T>) -> Value {
    texts.into_iter().map(|text| Value::from(text.to_string())).collect::<Vec<_>>().into()
}

fn limits_table(limits: &Limits) -> Table {
    let Limits {
        connections,
        groups,
        dialogs,
        transactions,
        message_octets,
        content_octets,
        unsent_octets,
        wire,
    } = limits;
    section([
        ("connections", number(*connections)),
        ("groups", number(*groups)),
        ("dialogs", number(*dialogs)),
        ("transactions", number(*transactions)),
        ("message-octets", number(*message_octets)),
        ("content-octets", number(*content_octets)),
        ("unsent-octets", number(*unsent_octets)),
        ("head-octets", number(wire.head_octets)),
        ("values", number(wire.values)),
        ("nesting", number(wire.depth)),
    ])
}

fn timeouts_table(timeouts: &Timeouts) -> Table {
    let Timeouts { handshake, transaction, transaction_octets, idle, ping, progress, drain } =
        timeouts;
    section([
        ("handshake", number(handshake.as_secs())),
        ("transaction", number(transaction.as_secs())),
        ("transaction-octets", number(*transaction_octets)),
        ("idle", number(idle.as_secs())),
        ("ping", number(ping.as_secs())),
        ("progress", number(progress.as_secs())),
        ("drain", number(drain.as_secs())),
    ])
}

fn spool_table(spool: &SpoolConfig) -> Table {
    let SpoolConfig { folder, threshold, octets } = spool;
    section([
        ("folder", Some(folder.display().to_string().into())),
        ("threshold-octets", number(*threshold)),
        ("octets", number(*octets)),
    ])
}

fn log_table(log: &LogConfig) -> Table {
    let LogConfig { format, level } = log;
    let format = match format {
        LogFormat::Auto => "auto",
        LogFormat::Human => "human",
        LogFormat::Json => "json",
    };
    section([("format", Some(format.into())), ("level", Some(level.as_str().into()))])
}

fn telemetry_table(telemetry: &Telemetry) -> Table {
    let Telemetry { endpoint, service_name, sample } = telemetry;
    section([
        ("endpoint", endpoint.as_deref().map(Value::from)),
        ("service-name", service_name.as_deref().map(Value::from)),
        ("sample", sample.map(Value::from)),
    ])
}

fn admin_table(admin: &AdminConfig) -> Table {
    let AdminConfig { listen, control, users: _ } = admin;
    section([
        ("listen", listen.as_deref().map(Value::from)),
        ("control", control.as_ref().map(|path| path.display().to_string().into())),
    ])
}

fn history_table(history: &HistoryConfig) -> Table {
    let HistoryConfig { messages, octets } = history;
    section([("messages", number(*messages)), ("octets", number(*octets))])
}

fn tls_table(tls: &TlsSettings) -> Table {
    let TlsSettings { certificate, key, client_ca, client_certificates, required } = tls;
    let client_certificates = match client_certificates {
        ClientCertificates::None => "none",
        ClientCertificates::Optional => "optional",
        ClientCertificates::Required => "required",
    };
    section([
        ("certificate", Some(certificate.display().to_string().into())),
        ("key", Some(key.display().to_string().into())),
        ("client-ca", client_ca.as_ref().map(|path| path.display().to_string().into())),
        ("client-certificates", Some(client_certificates.into())),
        ("required", Some((*required).into())),
    ])
}

fn rule_table(rule: &Rule) -> Table {
    let RuleLimits { connections, dialogs, transactions, message_octets } = &rule.limits;
    let limits = section([
        ("connections", connections.and_then(number)),
        ("dialogs", dialogs.and_then(number)),
        ("transactions", transactions.and_then(number)),
        ("message-octets", message_octets.and_then(number)),
    ]);
    let effects = rule.effects.as_ref().map(|effects| effects.iter().map(|effect| effect.name()));
    section([
        ("name", Some(rule.name.as_str().into())),
        ("clients", Some(texts(&rule.clients)).filter(|_| !rule.clients.is_empty())),
        ("certificates", Some(texts(&rule.certificates)).filter(|_| !rule.certificates.is_empty())),
        ("deny", Some(rule.deny.into())),
        ("services", rule.services.as_ref().map(texts)),
        ("effects", effects.map(texts)),
        ("limits", Some(limits).filter(|limits| !limits.is_empty()).map(Value::from)),
    ])
}

fn service_table(service: &ServiceConfig) -> Table {
    let ServiceConfig {
        name: _,
        kind,
        uris,
        enabled,
        deadline,
        on_failure,
        recipients,
        bypassable,
        shadow,
        settings,
    } = service;
    section([
        ("kind", Some((*kind).into())),
        ("uris", Some(texts(uris)).filter(|_| !uris.is_empty())),
        ("enabled", Some((*enabled).into())),
        ("deadline", number(deadline.as_secs())),
        ("on-failure", on_failure.map(|policy| policy.to_string().into())),
        ("recipients", recipients.as_ref().map(texts)),
        ("bypassable", Some((*bypassable).into())),
        ("shadow", Some((*shadow).into())),
        ("settings", settings.clone()),
    ])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ::tests::certificates::Authority;
    use services::Password;

    use super::*;

    fn parse(text: &str, path: &Path) -> Config {
        Config::parse(text, path, &crate::registry())
            .unwrap_or_else(|error| panic!("{:?}\n{text}", miette::Report::new(error)))
    }

    /// What is dumped is a file that means the same; its text.
    fn dumped(text: &str, path: &Path) -> String {
        let config = parse(text, path);
        let dump = config.dump();
        let again = parse(&dump, path);
        assert_eq!(again.dump(), dump);
        let meaning = |config: &Config| {
            let mut services: Vec<String> =
                config.router.iter().map(|entry| format!("{entry:?}")).collect();
            services.sort();
            (services, format!("{:?}", config.access))
        };
        assert_eq!(meaning(&again), meaning(&config), "{dump}");
        dump
    }

    #[test]
    fn the_defaults_are_all_there() {
        let dump = dumped("", Path::new("test.toml"));
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/callout-server.toml");
        let example = std::fs::read_to_string(path).unwrap();
        let keys = example.lines().filter(|line| !line.starts_with(['#', ' ', ']']));
        let missing: Vec<&str> = keys.filter(|line| !dump.contains(line.trim())).collect();
        assert!(missing.is_empty(), "{missing:?} in {dump}");
        for kind in crate::registry().iter().filter(|kind| !kind.needs_settings) {
            assert!(dump.contains(&format!("[services.{}]\n", kind.name)), "{dump}");
        }
    }

    #[test]
    fn the_example_with_everything_that_is_commented_out_is_dumped() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/callout-server.toml");
        let text = super::super::uncommented(&std::fs::read_to_string(path).unwrap());
        let dump = dumped(&text, Path::new(path));
        for part in
            ["[services.footer.settings.grants]\n", "[[access]]\n", "control = ", "deny = true"]
        {
            assert!(dump.contains(part), "{part} in {dump}");
        }
    }

    #[test]
    fn what_differs_from_the_defaults_is_dumped() {
        let hash = Password::hash("secret").unwrap().to_string();
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path(), "clients");
        authority.sign("server", &["ocp.example.net"]);
        let text = r#"
            listen = ["unix:/run/x", "tls:[::1]:4038"]
            recipients-differ = "quarantine"
            limits = { connections = 3, nesting = 9 }
            timeouts = { drain = 5 }
            spool = { folder = ".", octets = 7 }
            log = { format = "json", level = "info,opes::log=debug" }
            admin = { listen = "127.0.0.1:9037", control = "control", user = [{ name = "ada", password = "HASH" }] }
            history = { messages = 3 }
            [tls]
            certificate = "server.pem"
            key = "server.key"
            client-ca = "clients.pem"
            client-certificates = "optional"
            required = true
            [[access]]
            name = "one"
            clients = ["unix", "192.0.2.0/24"]
            certificates = ["*.example.net"]
            services = ["log"]
            effects = ["quarantine"]
            limits = { dialogs = 2 }
            [[access]]
            services = []
            effects = []
            [[access]]
            deny = true
            [services.spam-score]
            shadow = true
            [services.mime-strip]
            enabled = false
            settings = { inside-archives = false }
            [services.other]
            kind = "log"
            uris = ["http://example.com/other"]
            deadline = 3
            on-failure = "reject"
            bypassable = true
            recipients = ["example.org", "/^a@/"]
        "#;
        let text = &text.replace("HASH", &hash);
        let file = folder.path().join("test.toml");
        let dump = dumped(text, &file);
        assert!(!dump.contains("PRIVATE") && !dump.contains("argon2"), "{dump}");
        let again = parse(&dump, &file);
        assert!(again.router.find(b"ocp://service/mime-strip").is_none());
        let given = parse(text, &file);
        assert_eq!(given.admin.users.len(), 1);
        assert_eq!(again.admin, AdminConfig { users: Vec::new(), ..given.admin });
        assert_eq!(again.history, given.history);
        assert_eq!(again.spool.folder, folder.path().join("."));
    }
}
