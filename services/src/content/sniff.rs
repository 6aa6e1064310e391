//! What octets are, by the octets alone.

use std::io;

use memchr::memmem;

use crate::mail::{Octets, Window};

/// Octets at the start that tell what a file is; the last ones are those of an ISO 9660 image.
pub(super) const HEAD: usize = 32_774;
/// Octets at the start that tell text from binary data.
const TEXT_PROBE: usize = 1024;
/// How far from the end the end record of a zip archive can stand: its 22 octets and a comment.
const ZIP_END: usize = 22 + 65_535;

/// An archive that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Archive {
    /// PKZIP, also behind other octets, as self-extracting programs are made.
    Zip,
    /// RFC 1952.
    Gzip,
    /// Any tar format: what they share is the header's checksum.
    Tar,
    /// Microsoft cabinet.
    Cabinet,
    /// Outlook's `winmail.dat`.
    Tnef,
}

/// The archive that starts with these octets.
pub(super) fn archive(octets: &[u8]) -> Option<Archive> {
    match octets {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] | [b'P', b'K', 7, 8, ..] => {
            Some(Archive::Zip)
        }
        [0x1f, 0x8b, 8, ..] => Some(Archive::Gzip),
        [b'M', b'S', b'C', b'F', 0, 0, 0, 0, ..] => Some(Archive::Cabinet),
        [0x78, 0x9f, 0x3e, 0x22, ..] => Some(Archive::Tnef),
        _ if is_tar(octets) => Some(Archive::Tar),
        _ => None,
    }
}

/// Whether a zip archive ends with these octets, whatever they start with.
pub(super) fn has_zip_end(octets: &Octets) -> io::Result<bool> {
    let tail = octets.read(octets.len().saturating_sub(ZIP_END)..octets.len())?;
    let has_end = memmem::find(&tail, b"PK\x05\x06").is_some();
    Ok(has_end && Window::new(octets.clone()).count(b"PK\x01\x02", 1)? > 0)
}

/// The checksum over a tar header, in which its own field counts as blanks.
fn is_tar(octets: &[u8]) -> bool {
    let Some(header) = octets.get(..512) else { return false };
    let (before, rest) = header.split_at(148);
    let (field, after) = rest.split_at(8);
    let digits = field.trim_ascii_start();
    let digits = digits.iter().take_while(|octet| matches!(octet, b'0'..=b'7'));
    let declared = digits.fold(0u32, |sum, digit| sum * 8 + u32::from(digit - b'0'));
    let sum: u32 = before.iter().chain(after).map(|octet| u32::from(*octet)).sum();
    header.first() != Some(&0) && declared == sum + 8 * u32::from(b' ')
}

/// The kind of an archive that is known but not read.
pub(super) fn unread_archive(octets: &[u8]) -> Option<&'static str> {
    match octets {
        [b'7', b'z', 0xbc, 0xaf, 0x27, 0x1c, ..] => Some("7z"),
        [b'R', b'a', b'r', b'!', 0x1a, 7, ..] => Some("rar"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', b'&', b'S', b'Y', ..] => Some("bzip2"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        [_, _, b'-', b'l', b'h' | b'z', _, b'-', ..] => Some("lha"),
        _ if octets.get(7..14) == Some(b"**ACE**") => Some("ace"),
        _ if octets.get(32_769..32_774) == Some(b"CD001") => Some("ISO 9660 image"),
        _ => None,
    }
}

/// Whether octets look like text, in which encoded files can stand.
pub(super) fn is_text(octets: &[u8]) -> bool {
    memchr::memchr(0, octets.get(..TEXT_PROBE).unwrap_or(octets)).is_none()
}

/// Whether octets look like a message: they start with header fields, one of which only mail has.
pub(super) fn is_mail(octets: &Octets) -> io::Result<bool> {
    const KNOWN: [&str; 14] = [
        "return-path",
        "received",
        "delivered-to",
        "x-original-to",
        "dkim-signature",
        "arc-seal",
        "message-id",
        "mime-version",
        "from",
        "to",
        "subject",
        "date",
        "content-type",
        "content-transfer-encoding",
    ];
    /// Lines that are looked at, and octets of each.
    const LINES: usize = 10;
    const LINE: usize = 998;
    let mut window = Window::new(octets.clone());
    let (mut at, mut known) = (0, false);
    for number in 0..LINES {
        let here = window.at(at, LINE)?;
        let line = here.get(..LINE).unwrap_or(here);
        let end = memchr::memchr(b'\n', line);
        match line.get(..end.unwrap_or(line.len())).unwrap_or_default().trim_ascii_end() {
            [] => return Ok(known),
            [b' ' | b'\t', ..] if number > 0 => {}
            line => {
                let Some(colon) = memchr::memchr(b':', line) else { return Ok(false) };
                let name = line.get(..colon).unwrap_or_default().trim_ascii_end();
                if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
                    return Ok(false);
                }
                known |= KNOWN.iter().any(|field| name.eq_ignore_ascii_case(field.as_bytes()));
            }
        }
        at = match end {
            Some(end) => at + end + 1,
            None => match window.find(&memmem::Finder::new(b"\n"), at)? {
                Some(end) => end + 1,
                None => break,
            },
        };
    }
    Ok(known)
}

macro_rules! file_kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What a file is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum FileKind {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl FileKind {
            /// The name in configurations.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

file_kinds! {
    /// A program or library for DOS or Windows (MZ, also with PE).
    WindowsExecutable = "windows-executable",
    /// A program or library for Unix systems.
    Elf = "elf",
    /// A program or library for Apple systems.
    MachO = "mach-o",
    /// A compiled Java class.
    JavaClass = "java-class",
    /// A compiled Android program.
    Dex = "dex",
    /// A shortcut (`.lnk`), which can run commands.
    WindowsShortcut = "windows-shortcut",
    /// Compiled HTML help, which can run programs.
    HtmlHelp = "html-help",
    /// A file that changes the Windows registry.
    RegistryFile = "registry-file",
    /// A script with a `#!` line.
    Script = "script",
    /// An OLE compound file: older office documents, but Windows installers too.
    Ole = "ole",
    /// A PDF document.
    Pdf = "pdf",
    /// A Flash film.
    Flash = "flash",
    /// A picture.
    Picture = "picture",
}

impl FileKind {
    /// Octets at the start that tell.
    pub(crate) const HEAD: usize = 64;

    /// The kind of these octets, if known.
    pub(crate) fn of(octets: &[u8]) -> Option<Self> {
        match octets {
            [b'M', b'Z', ..] | [b'Z', b'M', ..] if is_program(octets) => {
                Some(Self::WindowsExecutable)
            }
            [0x7f, b'E', b'L', b'F', ..] => Some(Self::Elf),
            [0xfe, 0xed, 0xfa, 0xce | 0xcf, ..] | [0xce | 0xcf, 0xfa, 0xed, 0xfe, ..] => {
                Some(Self::MachO)
            }
            // Java classes and Apple's "fat" programs share a magic number; class files go on with a
            // version of at least 45, fat programs with a small count.
            [0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, count, ..] if *count < 45 => Some(Self::MachO),
            [0xca, 0xfe, 0xba, 0xbe, ..] => Some(Self::JavaClass),
            [b'd', b'e', b'x', b'\n', ..] => Some(Self::Dex),
            [b'L', 0, 0, 0, 1, 0x14, 2, 0, ..] => Some(Self::WindowsShortcut),
            [b'I', b'T', b'S', b'F', ..] => Some(Self::HtmlHelp),
            [b'#', b'!', b'/' | b' ', ..] => Some(Self::Script),
            [0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1, 0x1a, 0xe1, ..] => Some(Self::Ole),
            [b'%', b'P', b'D', b'F', b'-', ..] => Some(Self::Pdf),
            [b'F' | b'C' | b'Z', b'W', b'S', 1..=50, ..] => Some(Self::Flash),
            [0x89, b'P', b'N', b'G', ..]
            | [b'G', b'I', b'F', b'8', ..]
            | [0xff, 0xd8, 0xff, ..] => Some(Self::Picture),
            _ if is_registry_file(octets) => Some(Self::RegistryFile),
            _ => None,
        }
    }
}

/// Text can start with `MZ` too, but no program header is text.
fn is_program(octets: &[u8]) -> bool {
    octets.get(..64).is_some_and(|header| header.contains(&0))
}

fn is_registry_file(octets: &[u8]) -> bool {
    const WIDE: &[u8] = b"\xff\xfeW\0i\0n\0d\0o\0w\0s\0 \0R\0e\0g\0i\0s\0t\0r\0y\0";
    let octets = octets.strip_prefix(b"\xef\xbb\xbf").unwrap_or(octets);
    octets.starts_with(b"REGEDIT4")
        || octets.starts_with(b"Windows Registry Editor")
        || octets.starts_with(WIDE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_program_and_no_archive() {
        let text = b"MZ is short for Mozambique, and this line goes on for more than 64 octets.";
        assert_eq!(FileKind::of(text), None);
        assert_eq!(archive(text), None);
        assert!(is_text(text) && !is_mail(&text.to_vec().into()).unwrap());
        assert_eq!(
            FileKind::of(&[&b"MZ"[..], &[0; 62]].concat()),
            Some(FileKind::WindowsExecutable)
        );
        assert_eq!(FileKind::of(b"\xca\xfe\xba\xbe\0\0\0\x34"), Some(FileKind::JavaClass));
        assert_eq!(FileKind::of(b"\xca\xfe\xba\xbe\0\0\0\x02"), Some(FileKind::MachO));
    }

    #[test]
    fn a_message_starts_with_fields() {
        let is_mail = |text: &str| {
            let text = Octets::from(text.as_bytes().to_vec());
            let found = is_mail(&text).unwrap();
            assert_eq!(is_mail(&text.in_windows(7)).unwrap(), found);
            found
        };
        assert!(is_mail("X-A: b\r\n c\r\nFrom: a@example.org\r\n\r\nhi"));
        assert!(is_mail(&format!("X-A: {}\nFrom: a", "b".repeat(5_000))));
        assert!(is_mail("From: a"));
        assert!(!is_mail("From me to you: hello\n\n"));
        assert!(!is_mail("Note: nothing\n\nFrom: a"));
        assert!(!is_mail("{\"from\": 1}"));
        assert!(!is_mail(""));
    }
}
