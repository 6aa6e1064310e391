//! `[tls]` and `[[access]]`.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};

use ocp_proto::smtp::EffectName;
use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::checked::Checker;
use crate::access::{Rule, RuleLimits, Rules};
use crate::router::Router;
use crate::tls::{ClientCertificates, Tls, TlsFile, TlsSettings};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawTls {
    certificate: Spanned<PathBuf>,
    key: Spanned<PathBuf>,
    client_ca: Option<Spanned<PathBuf>>,
    client_certificates: Option<Spanned<ClientCertificates>>,
    required: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct RawRule {
    name: Option<String>,
    clients: Option<Spanned<Vec<Spanned<String>>>>,
    certificates: Option<Spanned<Vec<Spanned<String>>>>,
    services: Option<Vec<Spanned<String>>>,
    effects: Option<Vec<Spanned<String>>>,
    limits: RawRuleLimits,
    deny: bool,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct RawRuleLimits {
    connections: Option<NonZeroUsize>,
    dialogs: Option<NonZeroUsize>,
    transactions: Option<NonZeroUsize>,
    message_octets: Option<NonZeroU32>,
}

impl Checker<'_> {
    /// The certificates, read.
    pub(super) fn tls(&self, raw: &RawTls) -> Result<Tls, ConfigError> {
        let directory = self.path.parent().unwrap_or(Path::new(""));
        let client_certificates = match (&raw.client_certificates, &raw.client_ca) {
            (None, None) => ClientCertificates::None,
            (None, Some(_)) => ClientCertificates::Required,
            (Some(chosen), None) if *chosen.get_ref() != ClientCertificates::None => {
                let message = "client-ca is missing: the certificates that sign the clients'";
                return Err(self.error(message, Some(chosen.span())));
            }
            (Some(chosen), _) => *chosen.get_ref(),
        };
        let path = |path: &Spanned<PathBuf>| directory.join(path.get_ref());
        let settings = TlsSettings {
            certificate: path(&raw.certificate),
            key: path(&raw.key),
            client_ca: raw.client_ca.as_ref().map(path),
            client_certificates,
            required: raw.required.unwrap_or(false),
        };
        Tls::load(settings).map_err(|error| {
            let span = match error.file {
                TlsFile::Certificate => Some(raw.certificate.span()),
                TlsFile::Key => Some(raw.key.span()),
                TlsFile::ClientCa => raw.client_ca.as_ref().map(Spanned::span),
            };
            self.error(error, span)
        })
    }

    /// The access rules. `tls` says whether clients show certificates.
    pub(super) fn access(
        &self,
        raw: &[Spanned<RawRule>],
        tls: Option<&Tls>,
        router: &Router,
    ) -> Result<Rules, ConfigError> {
        let rules = raw.iter().enumerate().map(|(index, rule)| {
            let name = rule.get_ref().name.clone().unwrap_or_else(|| format!("#{}", index + 1));
            self.rule(name, rule, tls, router)
        });
        Ok(Rules::new(rules.collect::<Result<_, _>>()?))
    }

    fn rule(
        &self,
        name: String,
        raw: &Spanned<RawRule>,
        tls: Option<&Tls>,
        router: &Router,
    ) -> Result<Rule, ConfigError> {
        let RawRule { clients, certificates, services, effects, limits, deny, .. } = raw.get_ref();
        let grants = services.is_some() || effects.is_some() || *limits != RawRuleLimits::default();
        if *deny && grants {
            let message = "a rule that denies has no services, effects and limits";
            return Err(self.error(message, Some(raw.span())));
        }
        let shown =
            tls.is_some_and(|tls| tls.settings.client_certificates != ClientCertificates::None);
        if let Some(certificates) = certificates.as_ref().filter(|_| !shown) {
            let message = "no client shows a certificate: [tls] has no client-ca";
            return Err(self.error(message, Some(certificates.span())));
        }
        let services = services.as_ref().map(|services| {
            let known = |name: &str| match router.iter().any(|entry| entry.name == name) {
                true => Ok(name.to_owned()),
                false => Err(format!("there is no service {name}")),
            };
            services.iter().map(|name| self.value(name, known)).collect::<Result<_, _>>()
        });
        let effects = effects.as_ref().map(|effects| {
            let known = |name: &str| {
                EffectName::from_name(name.as_bytes())
                    .ok_or_else(|| format!("there is no side effect {name}"))
            };
            effects.iter().map(|name| self.value(name, known)).collect::<Result<_, _>>()
        });
        let limits = RuleLimits {
            connections: limits.connections.map(NonZeroUsize::get),
            dialogs: limits.dialogs.map(NonZeroUsize::get),
            transactions: limits.transactions.map(NonZeroUsize::get),
            message_octets: limits.message_octets.map(NonZeroU32::get),
        };
        let mut rule = Rule::new(name, limits);
        rule.clients = self.matched(clients.as_ref())?;
        rule.certificates = self.matched(certificates.as_ref())?;
        rule.deny = *deny;
        rule.services = services.transpose()?;
        rule.effects = effects.transpose()?;
        Ok(rule)
    }

    /// Whom a rule matches; everybody if it does not say.
    fn matched<T: std::str::FromStr<Err = String>>(
        &self,
        raw: Option<&Spanned<Vec<Spanned<String>>>>,
    ) -> Result<Vec<T>, ConfigError> {
        let Some(raw) = raw else { return Ok(Vec::new()) };
        if raw.get_ref().is_empty() {
            let message = "an empty list matches nobody: leave it out to match everybody";
            return Err(self.error(message, Some(raw.span())));
        }
        raw.get_ref().iter().map(|text| self.value(text, str::parse)).collect()
    }
}

#[cfg(test)]
mod tests {
    use ::tests::certificates::Authority;
    use services::Registry;
    use tempfile::{TempDir, tempdir};

    use super::*;
    use crate::config::Config;

    /// A folder with what a configuration may name.
    fn folder() -> TempDir {
        let folder = tempdir().unwrap();
        let authority = Authority::new(folder.path(), "clients");
        authority.sign("server", &["ocp.example.net"]);
        authority.sign("other", &["ocp.example.net"]);
        folder
    }

    fn parse(folder: &TempDir, text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, &folder.path().join("test.toml"), &Registry::builtin())
    }

    const TLS: &str = "[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n";

    #[test]
    fn what_is_wrong_with_tls_and_access_has_a_line_and_a_column() {
        let with = |rest: &str| format!("{TLS}{rest}\n");
        let cases = [
            ("[tls]\ncertificate = \"server.pem\"\n".to_owned(), (1, 1), "missing field `key`"),
            (with("requird = true"), (4, 1), "unknown field `requird`"),
            (with("").replace("server.pem", "none.pem"), (2, 15), "none.pem: can't be read"),
            (with("").replace("server.pem", "server.key"), (2, 15), "has no certificate"),
            (with("").replace("server.key", "server.pem"), (3, 7), "has no private key"),
            (with("").replace("server.key", "other.key"), (3, 7), "is not the key of"),
            (with("client-ca = \"server.key\""), (4, 13), "has no certificate"),
            (with("client-certificates = \"required\""), (4, 23), "client-ca is missing"),
            (with("client-certificates = \"maybe\""), (4, 23), "maybe"),
            ("listen = [\"tls:[::]:1\"]\n".to_owned(), (1, 11), "needs a certificate"),
            (with("[[access]]\ncertificates = [\"a.example\"]"), (5, 16), "no client shows"),
            ("[[access]]\nclients = [\"192.0.2.1/24\"]".to_owned(), (2, 12), "bits behind"),
            ("[[access]]\nclients = []".to_owned(), (2, 11), "matches nobody"),
            ("[[access]]\nservices = [\"virus\"]".to_owned(), (2, 13), "no service virus"),
            ("[[access]]\neffects = [\"erase\"]".to_owned(), (2, 12), "no side effect erase"),
            ("[[access]]\ndeny = true\neffects = []".to_owned(), (1, 1), "a rule that denies"),
            ("[[access]]\nlimits = { dialogs = 0 }".to_owned(), (2, 22), "0"),
            ("[[access]]\nlimits = { groups = 1 }".to_owned(), (2, 12), "unknown field `groups`"),
        ];
        let folder = folder();
        for (text, position, message) in cases {
            let error = parse(&folder, &text).expect_err(&text);
            assert_eq!(error.line_and_column(), Some(position), "{text}: {error}");
            assert!(error.to_string().contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn clients_show_certificates_if_there_is_somebody_to_sign_them() {
        let folder = folder();
        let chosen = |rest: &str| {
            let tls = parse(&folder, &format!("{TLS}{rest}")).unwrap().tls.unwrap();
            tls.settings.client_certificates
        };
        assert_eq!(chosen(""), ClientCertificates::None);
        assert_eq!(chosen("client-ca = \"clients.pem\""), ClientCertificates::Required);
        let optional = "client-ca = \"clients.pem\"\nclient-certificates = \"optional\"";
        assert_eq!(chosen(optional), ClientCertificates::Optional);
    }

    /// `# key` lines of the example are examples too: they need files that are not there.
    #[test]
    fn the_example_of_tls_is_valid_and_says_the_defaults() {
        let folder = folder();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/callout-server.toml");
        let text = std::fs::read_to_string(path).unwrap();
        let section = text.split_once("# [tls]").unwrap().1.split_once("# Services.").unwrap().0;
        let lines = section.lines().filter_map(|line| {
            let line = line.strip_prefix('#')?.trim_start_matches(' ');
            let key = line.split_once(" = ").map(|(key, _)| key);
            let is_key = |key: &str| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
            (line.starts_with('[') || key.is_some_and(is_key)).then(|| format!("{line}\n"))
        });
        let example = format!("[tls]\n{}", lines.collect::<String>()).replace("tls/", "");
        let config = parse(&folder, &example).unwrap();
        let tls = config.tls.unwrap().settings;
        assert_eq!(tls.client_certificates, ClientCertificates::Required);
        assert!(!tls.required);
        let rules: Vec<String> = config.access.iter().map(ToString::to_string).collect();
        assert_eq!(
            rules,
            [
                "#1: clients 192.0.2.66/32: denied",
                "mail servers: clients 192.0.2.0/24 2001:db8::/32, certificates *.mx.example.net \
                 relay.example.net: services virus-scan mime-strip; effects quarantine; \
                 connections 20; dialogs 200; transactions 200; message-octets 52428800",
                "this host: clients 127.0.0.0/8 ::1/128 unix: services all; effects all",
            ]
        );
    }
}
