//! Settings of `mime-strip`.

use serde::Deserialize;

use crate::content::{FileKind, Limits, Policy};

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
    /// Whether the files in archives count too: the whole archive is removed; default true.
    pub inside_archives: bool,
    /// Messages that are looked at in depth at the same time; default 8. Others wait. The worst case
    /// of memory is this many times `limits.memory` and 8 MiB; of a message in memory the largest
    /// decoded part comes on top.
    pub scans: usize,
    /// What happens to mail that is beyond a limit, so that something was not looked at; default
    /// `reject`.
    pub on_limit: Policy,
    /// The notice in the place of what was removed; `{name}`, `{type}` and `{reason}` are filled
    /// in.
    pub notice: String,
    /// Bounds on unpacking.
    pub limits: Limits,
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
            scans: 8,
            on_limit: Policy::Reject,
            notice:
                "An attachment was removed here.\nName: {name}\nType: {type}\nReason: {reason}\n"
                    .to_owned(),
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
