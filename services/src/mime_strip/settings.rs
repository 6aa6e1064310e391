//! Settings of `mime-strip`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use crate::content::{FileKind, Limits, Policy, Tag};

/// Settings of `mime-strip`; every one has a default. Case matters nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct MimeStripSettings {
    /// Forbidden file names: patterns with `*` and `?`, or regular expressions between slashes. By
    /// default names that end in a Windows class identifier, which counts as a hidden extension.
    pub forbidden_names: Vec<String>,
    /// Forbidden last extensions of file names, without the dot; by default those of programs,
    /// scripts and shortcuts that a double click runs, and of disk images that hide them.
    pub forbidden_extensions: Vec<String>,
    /// Forbidden declared types, such as `application/x-ms*`; by default those of programs.
    pub forbidden_types: Vec<String>,
    /// What files must not be, whatever their name; by default programs and shortcuts.
    pub forbidden_content: Vec<FileKind>,
    /// Whether the files in archives count too: the whole archive is removed; default true. Macros and passwords
    /// are those of a file with all that is in it, and count all the same.
    pub inside_archives: bool,
    /// Rules that go before what is forbidden for all: the first one that is about a file decides; at most 55.
    pub rules: Vec<RuleSettings>,
    /// Messages that are looked at in depth at the same time; default 8. Others wait. The worst case
    /// of memory is this many times `limits.memory` and 8 MiB; of a message in memory the largest
    /// decoded part comes on top.
    pub scans: usize,
    /// What happens to mail that is beyond a limit, so that something was not looked at; default
    /// `reject`.
    pub on_limit: Policy,
    /// How mail is marked that passes all the same; default a field `X-Content-Warning`.
    pub tag: Tag,
    /// The notice in the place of what was removed, for languages that have none in `notices`; `{name}`, `{type}` and
    /// `{reason}` are filled in. By default the one that is built in.
    pub notice: Option<String>,
    /// The language of notices; default `en`. Built in are `cs`, `de`, `en`, `es`, `fr`, `it`, `nl`, `pl` and `pt`.
    pub language: Option<Spanned<String>>,
    /// The languages of some recipients, in order.
    pub languages: Vec<LanguageSettings>,
    /// Notices in files of one's own, UTF-8 and at most 64 KiB, by language.
    pub notices: BTreeMap<String, Spanned<PathBuf>>,
    /// Bounds on unpacking.
    pub limits: Limits,
}

/// What happens to some files in some mail.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RuleSettings {
    /// Which way the mail goes; both by default.
    pub direction: Option<Direction>,
    /// The only senders whose mail it is about, as in lists of `mail-from`: addresses, domains, `.domains` with all below
    /// them, `/patterns/`.
    pub senders: Option<Vec<Spanned<String>>>,
    /// The only recipients whose mail it is about. Where the MTA can, each gets a version of their own.
    pub recipients: Option<Vec<Spanned<String>>>,
    /// As `forbidden-names`.
    #[serde(default)]
    pub names: Vec<Spanned<String>>,
    /// As `forbidden-extensions`.
    #[serde(default)]
    pub extensions: Vec<String>,
    /// As `forbidden-types`.
    #[serde(default)]
    pub types: Vec<Spanned<String>>,
    /// As `forbidden-content`.
    #[serde(default)]
    pub content: Vec<FileKind>,
    /// Office files with macros.
    #[serde(default)]
    pub macros: bool,
    /// What only a password opens: members of archives, and Office files.
    #[serde(default)]
    pub encrypted: bool,
    /// Files whose extension says something else than their octets.
    #[serde(default)]
    pub mismatched: bool,
    /// Files of more octets, decoded.
    pub larger_than: Option<usize>,
    /// What happens to a file that is any of these.
    pub action: Spanned<Action>,
    /// The notice for `replace`, instead of that of the recipients' language.
    pub notice: Option<String>,
    /// The language of the notice, whoever the recipients are.
    pub language: Option<Spanned<String>>,
}

/// Which way a mail goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From elsewhere.
    Inbound,
    /// From one's own people: the client has authenticated, or the MTA is the client (`sending`).
    Outbound,
}

/// What happens to a file, or to the message that it is in. In the order of strictness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It passes; what is in it is looked at.
    Accept,
    /// It passes, and the message is marked.
    Tag,
    /// A notice takes its place.
    Replace,
    /// It goes; a message or a multipart of which nothing would be left gets a notice.
    Strip,
    /// The MTA keeps the message for review; refused where it can't.
    Quarantine,
    /// The sender shall try again later.
    Tempfail,
    /// The MTA takes the message and drops it; refused where it can't.
    Discard,
    /// The message is refused.
    Reject,
}

/// The language of some recipients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LanguageSettings {
    /// Who they are, as in rules.
    pub recipients: Vec<Spanned<String>>,
    /// Their language.
    pub language: Spanned<String>,
}

impl Action {
    /// What happens to the message as a whole; `None` if its parts are edited.
    pub(super) fn policy(self) -> Option<Policy> {
        Some(match self {
            Self::Accept | Self::Tag | Self::Replace | Self::Strip => return None,
            Self::Quarantine => Policy::Quarantine,
            Self::Tempfail => Policy::Tempfail,
            Self::Discard => Policy::Discard,
            Self::Reject => Policy::Reject,
        })
    }
}

impl Default for MimeStripSettings {
    fn default() -> Self {
        Self {
            forbidden_names: vec!["*.{????????-????-????-????-????????????}".to_owned()],
            forbidden_extensions: owned(EXTENSIONS),
            forbidden_types: owned(TYPES),
            forbidden_content: vec![
                FileKind::WindowsExecutable,
                FileKind::Elf,
                FileKind::MachO,
                FileKind::JavaClass,
                FileKind::Dex,
                FileKind::WindowsShortcut,
                FileKind::HtmlHelp,
                FileKind::RegistryFile,
            ],
            inside_archives: true,
            rules: Vec::new(),
            scans: 8,
            on_limit: Policy::Reject,
            tag: Tag::default(),
            notice: None,
            language: None,
            languages: Vec::new(),
            notices: BTreeMap::new(),
            limits: Limits::default(),
        }
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

const EXTENSIONS: &[&str] = &[
    "ade",
    "adp",
    "apk",
    "appx",
    "appxbundle",
    "bat",
    "chm",
    "cmd",
    "com",
    "cpl",
    "dll",
    "dmg",
    "exe",
    "gadget",
    "hlp",
    "hta",
    "img",
    "inf",
    "ins",
    "iso",
    "isp",
    "jar",
    "jnlp",
    "js",
    "jse",
    "lnk",
    "mde",
    "msc",
    "msh",
    "msi",
    "msix",
    "msp",
    "mst",
    "ocx",
    "pif",
    "ps1",
    "ps1xml",
    "ps2",
    "psc1",
    "psc2",
    "psm1",
    "reg",
    "scf",
    "scr",
    "sct",
    "settingcontent-ms",
    "shb",
    "shs",
    "sys",
    "url",
    "vb",
    "vbe",
    "vbs",
    "vhd",
    "vhdx",
    "vxd",
    "ws",
    "wsc",
    "wsf",
    "wsh",
    "xll",
];

const TYPES: &[&str] = &[
    "application/hta",
    "application/java-archive",
    "application/vnd.microsoft.portable-executable",
    "application/x-dosexec",
    "application/x-executable",
    "application/x-ms-dos-executable",
    "application/x-ms-installer",
    "application/x-ms-shortcut",
    "application/x-msdos-program",
    "application/x-msdownload",
    "application/x-msi",
    "application/x-sharedlib",
];
