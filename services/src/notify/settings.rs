//! Settings of `notify`.

use ocp_proto::smtp::Address;
use serde::Deserialize;
use toml::Spanned;

use crate::conclusion::{FindingPattern, Found};
use crate::notification::Notification;
use crate::registry::{Settings, SettingsError};

/// The longest subject and the longest text, in octets, before they are filled in.
pub(super) const LONGEST: usize = 64 * 1024;

/// The settings, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Config {
    from: Option<Spanned<String>>,
    #[serde(default)]
    rules: Vec<RuleConfig>,
    #[serde(default)]
    limits: Limits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RuleConfig {
    found: Spanned<Vec<Spanned<String>>>,
    to: Spanned<Vec<Spanned<String>>>,
    subject: Option<Spanned<String>>,
    text: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Limits {
    address_hour: u32,
    hour: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { address_hour: 10, hour: 100 }
    }
}

/// What stands there if a rule has no subject.
const SUBJECT: &str = "{service}: {verdict}";
/// The same of the text.
const TEXT: &str = "A message from {from} for {recipients} was {fate}.\n\n\
                    {service} says {verdict}: {reason}\n\
                    Its subject: {subject}\n\
                    It came from: {client}\n\
                    In the log it is: {queue-id}\n";

/// The settings, checked.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) from: Address,
    pub(super) rules: Vec<Rule>,
    pub(super) address_hour: u32,
    pub(super) hour: u32,
}

/// Whom to tell of what, and how.
#[derive(Debug)]
pub(super) struct Rule {
    found: Vec<FindingPattern>,
    pub(super) to: Vec<Recipient>,
    pub(super) subject: String,
    pub(super) text: String,
}

/// Whom.
#[derive(Debug)]
pub(super) enum Recipient {
    Address(Address),
    /// The message's sender.
    Sender,
    /// Its recipients.
    Recipients,
}

impl Rule {
    /// Whether it is about this.
    pub(super) fn names(&self, found: &Found) -> bool {
        self.found.iter().any(|pattern| pattern.matches(found))
    }
}

impl Checked {
    pub(super) fn read(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let Config { from, rules, limits } = settings.read()?;
        let from = from.ok_or_else(|| SettingsError::new("notify needs an address in from"))?;
        if rules.is_empty() {
            return Err(SettingsError::new("notify needs rules"));
        }
        if rules.len() > Notification::MOST {
            let most = Notification::MOST;
            return Err(SettingsError::new(format!("notify has at most {most} rules")));
        }
        Ok(Self {
            from: address(&from)?,
            rules: rules.into_iter().map(rule).collect::<Result<_, _>>()?,
            address_hour: limits.address_hour,
            hour: limits.hour,
        })
    }
}

fn rule(raw: RuleConfig) -> Result<Rule, SettingsError> {
    let RuleConfig { found, to, subject, text } = raw;
    for (list, name) in [(&found, "found"), (&to, "to")] {
        if list.get_ref().is_empty() {
            return Err(SettingsError::at(list.span(), format!("{name} is empty")));
        }
    }
    let to_whom = |written: &Spanned<String>| {
        Ok(match written.get_ref().as_str() {
            "sender" => Recipient::Sender,
            "recipients" => Recipient::Recipients,
            _ => Recipient::Address(address(written)?),
        })
    };
    let template = |written: Option<Spanned<String>>, default: &str| match written {
        None => Ok(default.to_owned()),
        Some(written) if written.get_ref().len() > LONGEST => {
            let message = format!("a template has at most {LONGEST} octets");
            Err(SettingsError::at(written.span(), message))
        }
        Some(written) => Ok(written.into_inner()),
    };
    Ok(Rule {
        found: found.get_ref().iter().map(FindingPattern::read).collect::<Result<_, _>>()?,
        to: to.get_ref().iter().map(to_whom).collect::<Result<_, SettingsError>>()?,
        subject: template(subject, SUBJECT)?,
        text: template(text, TEXT)?,
    })
}

fn address(written: &Spanned<String>) -> Result<Address, SettingsError> {
    let address = Address::new(format!("<{}>", written.get_ref())).ok();
    address.filter(|address| address.local_and_domain().is_some()).ok_or_else(|| {
        let message =
            format!("{:?} is no address such as postmaster@example.org", written.get_ref());
        SettingsError::at(written.span(), message)
    })
}
