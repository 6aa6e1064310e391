//! Settings of `virus-scan`.

use std::path::PathBuf;

use serde::Deserialize;

use super::cache::CacheSettings;
use crate::content::{Limits, Policy, Tag};

/// Settings of `virus-scan`; every one has a default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct VirusScanSettings {
    /// What happens to infected mail; default `reject`.
    pub action: Action,
    /// What happens to mail that is beyond a limit, so that something was not looked at; default
    /// `reject`: a sender who means well hears of it at once.
    pub on_limit: Policy,
    /// What happens to mail with something that only a password opens, members of archives and Office files; default
    /// `accept`.
    pub on_encrypted: Policy,
    /// What happens to mail with macros in an Office file (VBA, or Excel 4 macro sheets), also in archives; by default
    /// nobody looks for them.
    pub on_macros: Option<Policy>,
    /// What happens to mail that could not be scanned, since no clamd answers or something else failed; by default the
    /// service fails, and its `on-failure` decides.
    pub on_error: Option<Policy>,
    /// What happens to mail with a broken archive, or one of a kind that is not read (7z, rar, ...);
    /// default `accept`. Its octets are searched as they are.
    pub on_unreadable: Policy,
    /// How mail is marked that passes all the same; default a field `X-Content-Warning`.
    pub tag: Tag,
    /// A folder with ClamAV signature files (`.hdb`, `.hsb`, `.ndb`), read once; none by default. A
    /// body signature takes about 3 KB of memory: for whole databases there is clamd.
    pub signatures: Option<PathBuf>,
    /// Where clamd listens, `host:port` or `unix:/path`; none by default. Of several the one that has least to do is
    /// asked, and the next if it fails.
    pub clamd: Option<ClamdAddresses>,
    /// Seconds that clamd may take for a message, all of several together; default 60. While it loads a new database it may
    /// answer nobody for half a minute.
    pub clamd_timeout: u64,
    /// Seconds for which clamd is asked again while none can be reached, or ends connections: it may be starting; default
    /// 10, 0: not at all. More than the service's deadline is of no use.
    pub clamd_retry: u64,
    /// Seconds between two times that each clamd is asked whether it answers (PING); default 10, 0: never. One that does
    /// not is asked after the others, and the status page says why.
    pub clamd_ping: u64,
    /// What clamd said of octets that come again.
    pub clamd_cache: CacheSettings,
    /// The largest message that clamd gets, in octets; larger ones are beyond a limit, and so are those that clamd finds
    /// larger than its own `StreamMaxLength`. Default 25 MiB.
    pub clamd_size: usize,
    /// Messages that are scanned at the same time; default 8. Others wait. The worst case of memory
    /// is this many times `limits.memory` and 8 MiB; of a message in memory the largest decoded part
    /// comes on top. clamd is asked this often at a time.
    pub scans: usize,
    /// The notice in the place of a replaced part; `{virus}` and `{place}` are filled in.
    pub notice: String,
    /// Bounds on unpacking.
    pub limits: Limits,
}

/// One clamd, or several that are worth the same.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum ClamdAddresses {
    /// `"unix:/run/clamav/clamd.ctl"`.
    One(String),
    /// `["192.0.2.1:3310", "192.0.2.2:3310"]`.
    Several(Vec<String>),
}

impl ClamdAddresses {
    /// Each of them.
    pub fn addresses(&self) -> &[String] {
        match self {
            Self::One(address) => std::slice::from_ref(address),
            Self::Several(addresses) => addresses,
        }
    }
}

/// What happens to infected mail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is refused.
    #[default]
    Reject,
    /// A notice takes the place of the part, or of the message if no part is to blame alone.
    Replace,
    /// The MTA keeps it for review; refused where it can't.
    Quarantine,
    /// The MTA takes it and drops it, and nobody hears of it; refused where it can't.
    Discard,
    /// It passes with a mark.
    Tag,
}

impl Default for VirusScanSettings {
    fn default() -> Self {
        Self {
            action: Action::Reject,
            on_limit: Policy::Reject,
            on_encrypted: Policy::Accept,
            on_macros: None,
            on_error: None,
            on_unreadable: Policy::Accept,
            tag: Tag::default(),
            signatures: None,
            clamd: None,
            clamd_timeout: 60,
            clamd_retry: 10,
            clamd_ping: 10,
            clamd_cache: CacheSettings::default(),
            clamd_size: 25 * 1024 * 1024,
            scans: 8,
            notice: "An infected attachment was removed here.\nFound: {virus}\nIn: {place}\n"
                .to_owned(),
            limits: Limits::default(),
        }
    }
}
