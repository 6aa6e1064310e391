//! Settings of `links`.

use std::path::PathBuf;

use ocp_proto::smtp::Address;
use serde::Deserialize;
use toml::Spanned;

use crate::registry::{Settings, SettingsError};

/// The longest template, in octets, before it is filled in.
const LONGEST: usize = 64 * 1024;

/// The longest time that a file may be kept, in days.
const MOST_DAYS: u64 = 3_650;

/// The settings, as written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Config {
    folder: Option<Spanned<PathBuf>>,
    listen: Option<Spanned<String>>,
    url: Option<Spanned<String>>,
    larger_than: u64,
    types: Vec<Spanned<String>>,
    extensions: Vec<Spanned<String>>,
    signed: Signed,
    days: Spanned<u64>,
    unconfirmed_hours: Spanned<u64>,
    most_downloads: Option<Spanned<u32>>,
    quota: u64,
    form: Form,
    text: Option<Spanned<String>>,
    html: Option<Spanned<String>>,
    password: Spanned<PasswordPolicy>,
    from: Option<Spanned<String>>,
    password_subject: Option<Spanned<String>>,
    password_text: Option<Spanned<String>>,
    stores: Spanned<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            folder: None,
            listen: None,
            url: None,
            larger_than: 10_000_000,
            types: Vec::new(),
            extensions: Vec::new(),
            signed: Signed::Leave,
            days: Spanned::new(0..0, 14),
            unconfirmed_hours: Spanned::new(0..0, 72),
            most_downloads: None,
            quota: 10_000_000_000,
            form: Form::Both,
            text: None,
            html: None,
            password: Spanned::new(0..0, PasswordPolicy::None),
            from: None,
            password_subject: None,
            password_text: None,
            stores: Spanned::new(0..0, 4),
        }
    }
}

/// What happens to attachments in signed and encrypted messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Signed {
    /// They stay.
    Leave,
    /// They become links, and the signature is worth nothing any more.
    Link,
}

/// What stands in the place of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Form {
    /// Plain text.
    Text,
    /// HTML.
    Html,
    /// Both, of which a reader sees one.
    Both,
}

/// Who gets to know the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum PasswordPolicy {
    /// There is none.
    None,
    /// It stands beside the link.
    InNotice,
    /// A new message tells the sender, who tells the recipients in some other way.
    ToSender,
}

/// The settings, checked.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) folder: PathBuf,
    pub(super) listen: String,
    /// What stands before a name; it ends with `/`.
    pub(super) url: String,
    pub(super) larger_than: u64,
    /// Lower case; `video/*` without the star.
    pub(super) types: Vec<String>,
    /// Lower case, with the dot before them.
    pub(super) extensions: Vec<String>,
    pub(super) signed: Signed,
    /// Seconds.
    pub(super) lifetime: u64,
    /// Seconds.
    pub(super) unconfirmed: u64,
    pub(super) most_downloads: Option<u32>,
    pub(super) quota: u64,
    pub(super) form: Form,
    pub(super) text: String,
    pub(super) html: String,
    pub(super) password: PasswordPolicy,
    /// With [`PasswordPolicy::ToSender`].
    pub(super) from: Option<Address>,
    pub(super) password_subject: String,
    pub(super) password_text: String,
    pub(super) stores: usize,
}

const TEXT: &str = "{name} ({size}) can be fetched until {until}:\n{url}\n";
const TEXT_WITH_PASSWORD: &str =
    "{name} ({size}) can be fetched until {until}, with the password {password}:\n{url}\n";
const HTML: &str = "<p><a href=\"{url}\">{name}</a> ({size}) can be fetched until {until}.</p>\n";
const HTML_WITH_PASSWORD: &str = "<p><a href=\"{url}\">{name}</a> ({size}) can be fetched until {until}, \
                                  with the password <code>{password}</code>.</p>\n";
const PASSWORD_SUBJECT: &str = "Password for: {subject}";
const PASSWORD_TEXT: &str = "Large files in your message were replaced by links.\n\nTo: {recipients}\nSubject: {subject}\n\
     Files: {names}\nPassword: {password}\n\nTell it to the recipients, best in some other way than by mail.\n";

impl Checked {
    pub(super) fn read(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let directory = settings.directory().to_owned();
        let config: Config = settings.read()?;
        let missing = |name: &str| SettingsError::new(format!("links needs {name}"));
        let folder = config.folder.ok_or_else(|| missing("a folder"))?;
        let listen = config.listen.ok_or_else(|| missing("an address in listen"))?;
        let url = config.url.ok_or_else(|| missing("the url that its links begin with"))?;
        if listen.get_ref().parse::<std::net::SocketAddr>().is_err() {
            let message = format!("{:?} is no address such as 127.0.0.1:8037", listen.get_ref());
            return Err(SettingsError::at(listen.span(), message));
        }
        let days = within(&config.days, 1, MOST_DAYS, "days")?;
        let hours = within(&config.unconfirmed_hours, 1, MOST_DAYS * 24, "hours")?;
        let stores = within(&config.stores, 1, 64, "messages at the same time")?;
        if let Some(most) = config.most_downloads.as_ref().filter(|most| *most.get_ref() == 0) {
            return Err(SettingsError::at(most.span(), "a file can be fetched at least once"));
        }
        let password = *config.password.get_ref();
        let in_notice = password == PasswordPolicy::InNotice;
        let default = |plain, with_password| if in_notice { with_password } else { plain };
        let needed: &[&str] = if in_notice { &["{url}", "{password}"] } else { &["{url}"] };
        let from = match (password, config.from) {
            (PasswordPolicy::ToSender, Some(from)) => Some(address(&from)?),
            (PasswordPolicy::ToSender, None) => {
                let message = "to-sender needs an address in from";
                return Err(SettingsError::at(config.password.span(), message));
            }
            (_, Some(from)) => {
                return Err(SettingsError::at(
                    from.span(),
                    "from belongs to password = \"to-sender\"",
                ));
            }
            (_, None) => None,
        };
        Ok(Self {
            folder: directory.join(folder.into_inner()),
            listen: listen.into_inner(),
            url: base_url(&url)?,
            larger_than: config.larger_than,
            types: config.types.iter().map(type_pattern).collect::<Result<_, _>>()?,
            extensions: config.extensions.iter().map(extension).collect::<Result<_, _>>()?,
            signed: config.signed,
            lifetime: days * 24 * 3_600,
            unconfirmed: hours * 3_600,
            most_downloads: config.most_downloads.map(Spanned::into_inner),
            quota: config.quota,
            form: config.form,
            text: template(config.text, default(TEXT, TEXT_WITH_PASSWORD), needed)?,
            html: template(config.html, default(HTML, HTML_WITH_PASSWORD), needed)?,
            password,
            from,
            password_subject: template(config.password_subject, PASSWORD_SUBJECT, &[])?,
            password_text: template(config.password_text, PASSWORD_TEXT, &["{password}"])?,
            stores: usize::try_from(stores).unwrap_or(usize::MAX),
        })
    }
}

fn within<T: Copy + TryInto<u64>>(
    value: &Spanned<T>,
    least: u64,
    most: u64,
    what: &str,
) -> Result<u64, SettingsError> {
    let number = (*value.get_ref()).try_into().unwrap_or(u64::MAX);
    match (least..=most).contains(&number) {
        true => Ok(number),
        false => Err(SettingsError::at(value.span(), format!("{least} to {most} {what}"))),
    }
}

/// A template, which holds what nobody could do without.
fn template(
    written: Option<Spanned<String>>,
    default: &str,
    needed: &[&str],
) -> Result<String, SettingsError> {
    let Some(written) = written else { return Ok(default.to_owned()) };
    if written.get_ref().len() > LONGEST {
        let message = format!("a template has at most {LONGEST} octets");
        return Err(SettingsError::at(written.span(), message));
    }
    match needed.iter().find(|needed| !written.get_ref().contains(**needed)) {
        Some(needed) => {
            let message = format!("{needed} stands nowhere in this template");
            Err(SettingsError::at(written.span(), message))
        }
        None => Ok(written.into_inner()),
    }
}

/// A URL that is printable ASCII without quotes, since it stands in HTML and in text.
fn base_url(written: &Spanned<String>) -> Result<String, SettingsError> {
    let url = written.get_ref();
    let host = url.strip_prefix("https://").map(|rest| rest.split('/').next().unwrap_or_default());
    let is_plain = |octet: u8| octet.is_ascii_graphic() && !b"\"'<>&{}?#\\".contains(&octet);
    if host.is_none_or(str::is_empty) || !url.bytes().all(is_plain) {
        let message = format!("{url:?} is no URL such as https://files.example.org/");
        return Err(SettingsError::at(written.span(), message));
    }
    Ok(if url.ends_with('/') { url.clone() } else { format!("{url}/") })
}

fn type_pattern(written: &Spanned<String>) -> Result<String, SettingsError> {
    let pattern = written.get_ref().to_ascii_lowercase();
    match pattern.split_once('/') {
        Some((kind, "*")) if !kind.is_empty() => Ok(format!("{kind}/")),
        Some((kind, rest)) if !kind.is_empty() && !rest.is_empty() && !rest.contains('*') => {
            Ok(pattern)
        }
        _ => {
            let message = format!("{pattern:?} is no type such as application/zip or video/*");
            Err(SettingsError::at(written.span(), message))
        }
    }
}

fn extension(written: &Spanned<String>) -> Result<String, SettingsError> {
    let extension = written.get_ref().trim_start_matches('.').to_lowercase();
    match extension.is_empty() {
        true => Err(SettingsError::at(written.span(), "an extension is not empty")),
        false => Ok(format!(".{extension}")),
    }
}

fn address(written: &Spanned<String>) -> Result<Address, SettingsError> {
    let address = Address::new(format!("<{}>", written.get_ref())).ok();
    address.filter(|address| address.local_and_domain().is_some()).ok_or_else(|| {
        let message = format!("{:?} is no address such as files@example.org", written.get_ref());
        SettingsError::at(written.span(), message)
    })
}
