//! Bounds on unpacking.

use serde::Deserialize;

use crate::temporary::TemporaryFolder;

/// Bounds on what is unpacked of one message. Octets of the message's own parts don't count: the
/// server bounds these.
///
/// The defaults are near those of other scanners; a message that keeps within them costs at most
/// about two seconds of one core.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// How many archives, nested messages and encoded files may be inside each other; default 16.
    pub depth: usize,
    /// Members of archives, files in text, and parts of nested messages, all together; default
    /// 10,000. Worst case: about 500 octets each while an archive's directory is read.
    pub members: usize,
    /// Octets unpacked in all; default 256 MiB. Bounds the time, and the temporary files of one
    /// message, which hold no more than this and the message's largest part.
    pub unpacked: usize,
    /// Unpacked octets held in memory at the same time; default 4 MiB. Bounds the memory of one
    /// message: what does not fit goes into temporary files.
    pub memory: usize,
    /// How many times larger than itself an archive may become, above 16 MiB; default 250. Deflate
    /// reaches 1,032 on zeros alone, text and tables stay below 100.
    pub ratio: usize,
}

/// Where the contents of a mail are unpacked, and within which bounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room {
    pub(crate) limits: Limits,
    /// For what does not fit into memory.
    pub(crate) folder: TemporaryFolder,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            depth: 16,
            members: 10_000,
            unpacked: 256 * 1024 * 1024,
            memory: 4 * 1024 * 1024,
            ratio: 250,
        }
    }
}

impl Limits {
    /// Octets in memory while so many messages are looked at: what is unpacked of each, and 8 MiB of
    /// windows over it.
    pub(crate) fn worst_case(&self, scans: usize) -> usize {
        const WINDOWS: usize = 8 * 1024 * 1024;
        self.memory.saturating_add(WINDOWS).saturating_mul(scans)
    }

    /// What every archive may become, whatever its ratio: small ones are no bombs.
    const FREE_OCTETS: usize = 16 * 1024 * 1024;

    /// Octets that an archive of this size may become.
    pub(super) fn allowance(&self, archive: usize) -> usize {
        archive.saturating_mul(self.ratio).max(Self::FREE_OCTETS)
    }
}
