//! Targets of `report`, as they stand in a configuration.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::http::uri::Scheme;
use ring::hmac;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use toml::Spanned;

use super::queue::Way;
use super::settings::LONGEST_HOST;
use super::syslog::{Address, Syslog};
use super::webhook::{Tls, Webhook};
use crate::registry::SettingsError;

/// The most reports that wait for a target. Worst case: so many times
/// [`Incident::LARGEST`](super::incident::Incident::LARGEST).
const LONGEST_QUEUE: usize = 100_000;

/// The pause behind the first try.
const PAUSE: Duration = Duration::from_secs(1);

/// Octets of a file with a token, a key, or certificates: Debian's list of authorities has 220 KiB.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct TargetConfig {
    /// For rules and the log.
    name: Spanned<String>,
    syslog: Option<Spanned<String>>,
    facility: Option<Spanned<String>>,
    webhook: Option<Spanned<String>>,
    /// The authorities that sign the webhook's certificate, in PEM form.
    ca: Option<Spanned<PathBuf>>,
    token_file: Option<Spanned<PathBuf>>,
    signature_key_file: Option<Spanned<PathBuf>>,
    /// Reports that wait.
    #[serde(default = "queue")]
    queue: Spanned<usize>,
    /// Seconds for a try, from looking up the name to the answer.
    #[serde(default = "seconds")]
    timeout: Spanned<u64>,
    /// Tries after the first one.
    #[serde(default = "retries")]
    retries: Spanned<u32>,
}

fn queue() -> Spanned<usize> {
    Spanned::new(0..0, 500)
}

fn seconds() -> Spanned<u64> {
    Spanned::new(0..0, 10)
}

fn retries() -> Spanned<u32> {
    Spanned::new(0..0, 5)
}

/// Who signs certificates, if nobody says so: Debian's list.
const CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where reports go.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) way: Way,
    /// Reports that wait.
    pub(super) queue: usize,
    pub(super) patience: Patience,
}

/// How often it is tried to send a report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For a try.
    pub(super) timeout: Duration,
    /// After the first try.
    pub(super) retries: u32,
    /// Behind the first try; it gets longer from try to try.
    pub(super) pause: Duration,
}

impl Target {
    /// The target that stands in a configuration.
    pub(super) fn read(
        written: Spanned<TargetConfig>,
        host: &str,
        directory: &Path,
        notes: &mut Vec<String>,
    ) -> Result<Target, SettingsError> {
        let span = written.span();
        let mut target = written.into_inner();
        let (name, queue) = (target.name.get_ref().clone(), *target.queue.get_ref());
        if name.is_empty() || name.len() > LONGEST_HOST {
            let message = format!("a target's name has 1 to {LONGEST_HOST} octets");
            return Err(SettingsError::at(target.name.span(), message));
        }
        if !(1..=LONGEST_QUEUE).contains(&queue) {
            let message = format!("a queue has 1 to {LONGEST_QUEUE} places");
            return Err(SettingsError::at(target.queue.span(), message));
        }
        let timeout = Duration::from_secs(*target.timeout.get_ref());
        if !(1..=3_600).contains(&timeout.as_secs()) {
            let message = "a try may take 1 to 3600 seconds";
            return Err(SettingsError::at(target.timeout.span(), message));
        }
        let retries = *target.retries.get_ref();
        if retries > 1_000 {
            let message = "there are at most 1000 retries";
            return Err(SettingsError::at(target.retries.span(), message));
        }
        let way = match (target.syslog.take(), target.webhook.take()) {
            (Some(address), None) => {
                let of_webhooks = [&target.ca, &target.token_file, &target.signature_key_file];
                if let Some(path) = of_webhooks.into_iter().flatten().next() {
                    return Err(SettingsError::at(path.span(), "this belongs to a webhook"));
                }
                Way::Syslog(Syslog::new(
                    address_of(&address)?,
                    facility(target.facility)?,
                    host.to_owned(),
                ))
            }
            (None, Some(uri)) => {
                if let Some(facility) = &target.facility {
                    return Err(SettingsError::at(facility.span(), "this belongs to syslog"));
                }
                let webhook = webhook(&uri, &target, directory)?;
                if webhook.tls.is_none() && webhook.authorization.is_some() {
                    notes.push(format!("{name}: the token goes to {} without TLS", uri.get_ref()));
                }
                Way::Webhook(Box::new(webhook))
            }
            _ => return Err(SettingsError::at(span, "a target has either syslog or webhook")),
        };
        Ok(Self { name, way, queue, patience: Patience { timeout, retries, pause: PAUSE } })
    }
}

fn address_of(written: &Spanned<String>) -> Result<Address, SettingsError> {
    let has_port = |address: &str| {
        address.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
    };
    match written.get_ref().split_once(':') {
        Some(("udp", address)) if has_port(address) => Ok(Address::Udp(address.to_owned())),
        Some(("tcp", address)) if has_port(address) => Ok(Address::Tcp(address.to_owned())),
        Some(("unix", path)) if !path.is_empty() => Ok(Address::Unix(path.into())),
        _ => {
            let message = format!(
                "{:?} is no syslog server such as udp:HOST:514, tcp:HOST:601 or unix:/dev/log",
                written.get_ref()
            );
            Err(SettingsError::at(written.span(), message))
        }
    }
}

/// RFC 5424 section 6.2.1, by the names that syslog.conf has.
fn facility(written: Option<Spanned<String>>) -> Result<u8, SettingsError> {
    const NAMES: [&str; 20] = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron",
        "authpriv", "ftp", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
        "local7",
    ];
    const MAIL: u8 = 2;
    let Some(written) = written else { return Ok(MAIL) };
    match (0..).zip(NAMES).find(|(_, name)| name == written.get_ref()) {
        // 12 to 15 have no names of their own there.
        Some((number, _)) if number < 12 => Ok(number),
        Some((number, _)) => Ok(number + 4),
        None => {
            let known = NAMES.join(", ");
            let message = format!("{:?} is no facility; these are: {known}", written.get_ref());
            Err(SettingsError::at(written.span(), message))
        }
    }
}

fn webhook(
    written: &Spanned<String>,
    target: &TargetConfig,
    directory: &Path,
) -> Result<Webhook, SettingsError> {
    let invalid = || {
        let message =
            format!("{:?} is no webhook such as https://soc.example.org/opes", written.get_ref());
        SettingsError::at(written.span(), message)
    };
    let uri: Uri = written.get_ref().parse().map_err(|_| invalid())?;
    let is_https = uri.scheme() == Some(&Scheme::HTTPS);
    let is_http = uri.scheme() == Some(&Scheme::HTTP);
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(invalid)?;
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if !(is_https || is_http) || has_user {
        return Err(invalid());
    }
    let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
    let address = format!("{host}:{port}");
    let tls = match is_https {
        true => {
            let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = ServerName::try_from(bare).map_err(|_| invalid())?;
            Some(Tls { config: tls_config(written, target.ca.as_ref(), directory)?, name })
        }
        false => match &target.ca {
            Some(ca) => return Err(SettingsError::at(ca.span(), "this belongs to https")),
            None => None,
        },
    };
    let authorization = match &target.token_file {
        None => None,
        Some(path) => {
            let value = HeaderValue::try_from([b"Bearer ", &secret(path, directory)?[..]].concat());
            let mut value = value.map_err(|_| {
                SettingsError::at(path.span(), "the file holds no token on one line")
            })?;
            value.set_sensitive(true);
            Some(value)
        }
    };
    let signature = match &target.signature_key_file {
        None => None,
        Some(path) => Some(hmac::Key::new(hmac::HMAC_SHA256, &secret(path, directory)?)),
    };
    Ok(Webhook { address, tls, authorization, signature, uri })
}

/// A secret in a file: all of it but line ends behind it.
fn secret(path: &Spanned<PathBuf>, directory: &Path) -> Result<Vec<u8>, SettingsError> {
    let octets = file(path.get_ref(), directory)
        .map_err(|message| SettingsError::at(path.span(), message))?;
    let secret = octets.trim_ascii_end();
    match secret.is_empty() {
        true => Err(SettingsError::at(path.span(), "the file is empty")),
        false => Ok(secret.to_owned()),
    }
}

fn tls_config(
    uri: &Spanned<String>,
    ca: Option<&Spanned<PathBuf>>,
    directory: &Path,
) -> Result<Arc<ClientConfig>, SettingsError> {
    let (path, span) = match ca {
        Some(ca) => (ca.get_ref().as_path(), ca.span()),
        None => (Path::new(CA), uri.span()),
    };
    let wrong = |cause: String| {
        let message = format!("{cause}; ca names a PEM file with who signs the certificate");
        SettingsError::at(span.clone(), message)
    };
    let octets = file(path, directory).map_err(wrong)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&octets) {
        let certificate =
            certificate.map_err(|error| wrong(format!("{} is no PEM: {error}", path.display())))?;
        // Lists of systems hold certificates that nothing can be made of.
        let _ = roots.add(certificate);
    }
    if roots.is_empty() {
        return Err(wrong(format!("{} holds no certificate that can be used", path.display())));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The octets of a file, no more than [`LARGEST_FILE`].
fn file(path: &Path, directory: &Path) -> Result<Vec<u8>, String> {
    let path = directory.join(path);
    let failed = |error: io::Error| format!("{} can't be read: {error}", path.display());
    let opened = File::open(&path).map_err(failed)?;
    let mut octets = Vec::new();
    opened.take(LARGEST_FILE + 1).read_to_end(&mut octets).map_err(failed)?;
    match octets.len() as u64 > LARGEST_FILE {
        true => Err(format!("{} has more than {LARGEST_FILE} octets", path.display())),
        false => Ok(octets),
    }
}
