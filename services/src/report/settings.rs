//! Settings of `report`.

use ocp_proto::smtp::Command;
use serde::Deserialize;
use toml::Spanned;

use super::incident::Severity;
use super::target::{Target, TargetConfig};
use crate::conclusion::{FateName, FindingPattern, Found};
use crate::registry::{Settings, SettingsError};
use crate::setting::{EVENTS, commands};

/// The most targets, and the most rules.
const MOST: usize = 16;

/// The most header fields in a report, and the longest name of one: what a datagram can hold.
const MOST_FIELDS: usize = 8;
const LONGEST_NAME: usize = 32;

/// The longest name of a server; Linux has no longer ones.
pub(super) const LONGEST_HOST: usize = 64;

/// The settings, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Config {
    /// The events that it is told of.
    events: Option<Vec<Spanned<String>>>,
    /// The header fields that a report shows.
    fields: Option<Vec<Spanned<String>>>,
    /// What a report calls this server.
    host: Option<Spanned<String>>,
    rules: Vec<Spanned<RuleConfig>>,
    targets: Vec<Spanned<TargetConfig>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RuleConfig {
    #[serde(default)]
    found: Vec<Spanned<String>>,
    #[serde(default)]
    fates: Vec<FateName>,
    #[serde(default)]
    severity: Severity,
    targets: Option<Vec<Spanned<String>>>,
}

/// The settings, checked.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) events: Vec<Command>,
    pub(super) fields: Vec<String>,
    pub(super) host: String,
    pub(super) rules: Vec<Rule>,
    pub(super) notes: Vec<String>,
}

/// What is reported, and to whom.
#[derive(Debug)]
pub(super) struct Rule {
    found: Vec<FindingPattern>,
    fates: Vec<FateName>,
    pub(super) severity: Severity,
    /// By their place among all.
    pub(super) targets: Vec<usize>,
}

impl Rule {
    /// Whether it reports an event.
    pub(super) fn matches(&self, found: &[Found], fates: &[FateName]) -> bool {
        self.is_about_fate(fates) || found.iter().any(|found| self.names(found))
    }

    /// Whether a finding belongs into the report of such an event.
    pub(super) fn is_about(&self, found: &Found, fates: &[FateName]) -> bool {
        self.is_about_fate(fates) || self.names(found)
    }

    fn names(&self, found: &Found) -> bool {
        self.found.iter().any(|pattern| pattern.matches(found))
    }

    fn is_about_fate(&self, fates: &[FateName]) -> bool {
        self.fates.iter().any(|fate| fates.contains(fate))
    }
}

/// What stands in a configuration.
pub(super) fn read(settings: Settings<'_>) -> Result<(Checked, Vec<Target>), SettingsError> {
    let directory = settings.directory().to_owned();
    let Config { events, fields, host, rules, targets } = settings.read()?;
    for (count, what) in [(rules.len(), "rules"), (targets.len(), "targets")] {
        if !(1..=MOST).contains(&count) {
            return Err(SettingsError::new(format!("report needs 1 to {MOST} {what}")));
        }
    }
    let events = match events {
        None => vec![Command::Message],
        Some(names) => commands(&names, &EVENTS, "event")?,
    };
    let host = host_name(host)?;
    let mut notes = Vec::new();
    let mut checked: Vec<Target> = Vec::new();
    for target in targets {
        let span = target.span();
        let target = Target::read(target, &host, &directory, &mut notes)?;
        if checked.iter().any(|other| other.name == target.name) {
            let message = format!("there are two targets {}", target.name);
            return Err(SettingsError::at(span, message));
        }
        checked.push(target);
    }
    let names: Vec<&str> = checked.iter().map(|target| target.name.as_str()).collect();
    let rules = rules.into_iter().map(|rule| rule_of(rule, &names)).collect::<Result<_, _>>()?;
    Ok((Checked { events, fields: field_names(fields)?, host, rules, notes }, checked))
}

fn field_names(written: Option<Vec<Spanned<String>>>) -> Result<Vec<String>, SettingsError> {
    let Some(written) = written else {
        return Ok(["Message-ID", "From", "Subject"].map(str::to_owned).into());
    };
    if let Some(name) = written.get(MOST_FIELDS) {
        let message = format!("a report shows at most {MOST_FIELDS} header fields");
        return Err(SettingsError::at(name.span(), message));
    }
    let name = |name: Spanned<String>| {
        let span = name.span();
        let name = name.into_inner();
        let is_name = |octet: u8| octet.is_ascii_graphic() && octet != b':';
        match (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(is_name) {
            true => Ok(name),
            false => {
                let message = format!(
                    "{name:?} is no name of a header field of at most {LONGEST_NAME} characters"
                );
                Err(SettingsError::at(span, message))
            }
        }
    };
    written.into_iter().map(name).collect()
}

/// A name that syslog can say (RFC 5424 section 6.2.4).
fn host_name(written: Option<Spanned<String>>) -> Result<String, SettingsError> {
    let is_name = |name: &str| {
        (1..=LONGEST_HOST).contains(&name.len())
            && name.bytes().all(|octet| octet.is_ascii_graphic())
    };
    match written {
        Some(name) if is_name(name.get_ref()) => Ok(name.into_inner()),
        Some(name) => {
            let message = format!("host has 1 to {LONGEST_HOST} ASCII characters without blanks");
            Err(SettingsError::at(name.span(), message))
        }
        None => {
            // The first one is hidden from services with ProcSubset=pid.
            let files = ["/proc/sys/kernel/hostname", "/etc/hostname"];
            let names = files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
            let name = names.map(|name| name.trim().to_owned()).find(|name| is_name(name));
            Ok(name.unwrap_or_else(|| "localhost".to_owned()))
        }
    }
}

fn rule_of(written: Spanned<RuleConfig>, names: &[&str]) -> Result<Rule, SettingsError> {
    let span = written.span();
    let RuleConfig { found, fates, severity, targets } = written.into_inner();
    if found.is_empty() && fates.is_empty() {
        return Err(SettingsError::at(span, "a rule of report names found or fates"));
    }
    let target = |written: &Spanned<String>| {
        let place = names.iter().position(|name| name == written.get_ref());
        place.ok_or_else(|| {
            let message =
                format!("{:?} is no target; these are: {}", written.get_ref(), names.join(", "));
            SettingsError::at(written.span(), message)
        })
    };
    let targets = match targets {
        None => (0..names.len()).collect(),
        Some(targets) => targets.iter().map(target).collect::<Result<_, _>>()?,
    };
    let found = found.iter().map(FindingPattern::read).collect::<Result<_, _>>()?;
    Ok(Rule { found, fates, severity, targets })
}
