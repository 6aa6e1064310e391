//! Macros and passwords of Office files, older ones (OLE compound files) and newer ones (zip archives).
//!
//! A newer file is an archive whose members are looked at one by one: what says that there are macros is the name of a
//! member, what its list of content types says, or the project itself, which is a compound file.

use std::io;
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

use super::archive::{read_u16, read_u32};
use super::compound::{Compound, Entry, is_compound};
use crate::mail::{Octets, Window};

/// What an Office file holds besides its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Office {
    /// Which macros, for people.
    pub(super) macros: Option<&'static str>,
    /// Only a password opens it.
    pub(super) is_encrypted: bool,
}

const VBA: &str = "VBA macros";
const EXCEL4: &str = "Excel 4 macros";

/// Workbooks and presentations that are looked into in one file.
const MOST_STREAMS: usize = 16;
/// Sheets of one workbook.
const MOST_SHEETS: usize = 4_096;

/// Content types of files and parts with macros ([MS-OFFMACRO2] section 2.2, and what Excel writes for sheets with
/// those of version 4). Types are compared without case, and the list may be in UTF-16.
static TYPES: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let words = ["macroEnabled", "ms-office.vbaProject", "excel.macrosheet", "intlmacrosheet"];
    let wide = |word: &str, first: bool| -> Vec<u8> {
        word.bytes().flat_map(|o| if first { [o, 0] } else { [0, o] }).collect()
    };
    let patterns = words
        .iter()
        .flat_map(|word| [word.as_bytes().to_vec(), wide(word, true), wide(word, false)]);
    AhoCorasick::builder().ascii_case_insensitive(true).build(patterns).expect("a few short words")
});

/// What is known of a file by its names and its octets.
pub(super) fn office(names: &[String], head: &[u8], octets: &Octets) -> io::Result<Office> {
    if is_compound(head) {
        return compound(octets);
    }
    let macros = match by_name(names) {
        None if is_sheet_of_its_own(head) => Some(EXCEL4),
        None if names.iter().any(|name| is_list_of_types(name)) => declared(octets)?,
        known => known,
    };
    Ok(Office { macros, is_encrypted: false })
}

/// Members that hold macros, whatever is in them.
fn by_name(names: &[String]) -> Option<&'static str> {
    names.iter().find_map(|name| {
        let name = name.to_ascii_lowercase().replace('\\', "/");
        match name.rsplit('/').next() {
            Some("vbaproject.bin") => Some(VBA),
            _ if name.contains("xl/macrosheets/") => Some(EXCEL4),
            _ => None,
        }
    })
}

fn is_list_of_types(name: &str) -> bool {
    name.trim_start_matches(['/', '\\']).eq_ignore_ascii_case("[Content_Types].xml")
}

/// What a list of content types says.
fn declared(octets: &Octets) -> io::Result<Option<&'static str>> {
    /// The longest pattern, without one octet.
    const OVERLAP: usize = 40;
    for window in octets.windows(OVERLAP) {
        if TYPES.is_match(&*window?.1) {
            return Ok(Some("content types with macros"));
        }
    }
    Ok(None)
}

/// Excel before version 5 wrote each sheet into a file of its own: BIFF 2 to 4, the type of the sheet behind the version.
fn is_sheet_of_its_own(head: &[u8]) -> bool {
    matches!(head, [0x09, 0x00 | 0x02 | 0x04, 4..=8, 0, _, _, 0x40, 0, ..])
}

fn compound(octets: &Octets) -> io::Result<Office> {
    let mut file = Compound::new(octets)?;
    let mut office = Office::default();
    let mut streams: Vec<Entry> = Vec::new();
    let found = file.find(|entry| {
        let name = entry.name.to_ascii_lowercase();
        match name.as_str() {
            // The project's folder: of Excel, of Word (any name, this in practice), and what is in each.
            "_vba_project_cur" | "_vba_project" => return Some(VBA),
            "macros" if !entry.is_stream => return Some(VBA),
            "encryptedpackage" | "encryptedsummary" => office.is_encrypted = true,
            "workbook" | "book" | "powerpoint document" | "worddocument"
                if entry.is_stream && streams.len() < MOST_STREAMS =>
            {
                streams.push(entry);
            }
            _ => {}
        }
        None
    });
    office.macros = found?;
    for entry in streams {
        let content = file.stream(&entry)?;
        let inside = match entry.name.to_ascii_lowercase().as_str() {
            "worddocument" => document(&content)?,
            "powerpoint document" => presentation(content)?,
            _ => workbook(content)?,
        };
        office.macros = office.macros.or(inside.macros);
        office.is_encrypted |= inside.is_encrypted;
    }
    Ok(office)
}

/// The flag fEncrypted of a document ([MS-DOC] section 2.5.2).
fn document(content: &Octets) -> io::Result<Office> {
    let flags = read_u16(&content.read(0..12)?, 10);
    Ok(Office { is_encrypted: flags.is_some_and(|flags| flags & 0x100 != 0), macros: None })
}

/// The records of a workbook: its sheets ([MS-XLS] section 2.4.28), each with its kind in two places, and whether
/// there is a password (section 2.4.117).
fn workbook(content: Octets) -> io::Result<Office> {
    const BOF: usize = 0x0809;
    const SHEET: usize = 0x0085;
    const PASSWORD: usize = 0x002f;
    const END: usize = 0x000a;
    let mut window = Window::new(content);
    let mut office = Office::default();
    let (mut at, mut sheets) = (0, 0);
    loop {
        let record = window.at(at, 14)?;
        let (Some(kind), Some(length)) = (read_u16(record, 0), read_u16(record, 2)) else { break };
        match kind {
            PASSWORD => office.is_encrypted = true,
            // A file of one sheet.
            BOF if read_u16(record, 6) == Some(0x40) => office.macros = Some(EXCEL4),
            SHEET if sheets < MOST_SHEETS => {
                sheets += 1;
                let declared = record.get(9) == Some(&1);
                let start = read_u32(record, 4).unwrap_or(usize::MAX);
                let begin = window.at(start, 8)?;
                let is_macro_sheet =
                    read_u16(begin, 0) == Some(BOF) && read_u16(begin, 6) == Some(0x40);
                if declared || is_macro_sheet {
                    office.macros = Some(EXCEL4);
                }
            }
            END => break,
            _ => {}
        }
        at += 4 + length;
    }
    Ok(office)
}

/// What a presentation says of its macros ([MS-PPT] sections 2.4.10 and 2.4.11); the project itself is compressed.
fn presentation(content: Octets) -> io::Result<Office> {
    const INFORMATION: &[u8] = b"\x1f\x00\xff\x03\x14\x00\x00\x00\x02\x00\x00\x04\x0c\x00\x00\x00";
    let finder = memchr::memmem::Finder::new(INFORMATION);
    let mut window = Window::new(content);
    let mut at = 0;
    while let Some(found) = window.find(&finder, at)? {
        let end = found + INFORMATION.len();
        if read_u32(window.at(end, 8)?, 4).is_some_and(|has_macros| has_macros != 0) {
            return Ok(Office { macros: Some(VBA), is_encrypted: false });
        }
        at = end;
    }
    Ok(Office::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{compound, workbook};

    fn look(names: &[&str], octets: &[u8]) -> Office {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let head = octets.get(..64).unwrap_or(octets).to_vec();
        let octets = Octets::from(octets.to_vec());
        let found = office(&names, &head, &octets).unwrap();
        assert_eq!(office(&names, &head, &octets.in_windows(50)).unwrap(), found);
        found
    }

    fn macros(octets: &[u8]) -> Option<&'static str> {
        look(&[], octets).macros
    }

    #[test]
    fn projects_of_older_files() {
        for project in ["/Macros/VBA/dir", "/_VBA_PROJECT_CUR/VBA/dir", "/VBA/_VBA_PROJECT"] {
            assert_eq!(macros(&compound(&[("/WordDocument", b"x"), (project, b"x")])), Some(VBA));
        }
        assert_eq!(macros(&compound(&[("/WordDocument", b"x"), ("/Macros", b"a stream")])), None);
        assert_eq!(macros(&compound(&[("/WordDocument", &[0; 5_000])])), None);
        assert_eq!(macros(b"_VBA_PROJECT"), None);
    }

    #[test]
    fn sheets_with_macros() {
        for size in [0, 10_000] {
            let book = |kinds| compound(&[("/Workbook", &workbook(kinds, false, size))]);
            assert_eq!(macros(&book(&[(0, 0x10), (2, 0x20)])), None);
            assert_eq!(macros(&book(&[(0, 0x10), (1, 0x40)])), Some(EXCEL4));
            assert_eq!(macros(&book(&[(0, 0x10), (0, 0x40)])), Some(EXCEL4), "the list lies");
            assert_eq!(macros(&book(&[(1, 0x10)])), Some(EXCEL4), "the sheet lies");
        }
        assert_eq!(macros(&[9, 4, 6, 0, 0, 0, 0x40, 0, 0, 0]), Some(EXCEL4));
        assert_eq!(macros(&[9, 4, 6, 0, 0, 0, 0x10, 0, 0, 0]), None);
    }

    #[test]
    fn presentations() {
        let presentation = |has_macros: u8| {
            let record = [
                &[0; 5_000][..],
                b"\x1f\0\xff\x03\x14\0\0\0\x02\0\0\x04\x0c\0\0\0\x07\0\0\0",
                &[has_macros, 0, 0, 0, 2, 0, 0, 0],
            ];
            compound(&[("/PowerPoint Document", &record.concat())])
        };
        assert_eq!(macros(&presentation(1)), Some(VBA));
        assert_eq!(macros(&presentation(0)), None);
    }

    #[test]
    fn members_of_newer_files() {
        assert_eq!(look(&["word/vbaProject.bin"], b"").macros, Some(VBA));
        assert_eq!(look(&["WORD\\VBAPROJECT.BIN"], b"").macros, Some(VBA));
        assert_eq!(look(&["xl/macrosheets/sheet1.xml"], b"").macros, Some(EXCEL4));
        assert_eq!(look(&["xl/worksheets/sheet1.xml"], b"").macros, None);
        let types = |name: &str, octets: &[u8]| look(&[name], octets).macros;
        let docm =
            "<Override ContentType=\"application/vnd.ms-word.document.MACROEnabled.main+xml\"/>";
        let padded = format!("{}{docm}", " ".repeat(1_000));
        let wide: Vec<u8> = padded.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for octets in [docm.as_bytes(), padded.as_bytes(), &wide] {
            assert_eq!(types("[Content_Types].xml", octets), Some("content types with macros"));
            assert_eq!(types("other.xml", octets), None);
        }
        assert_eq!(types("[Content_Types].xml", b"<Types/>"), None);
    }

    #[test]
    fn passwords() {
        let encrypted = |octets: &[u8]| look(&[], octets).is_encrypted;
        assert!(encrypted(&compound(&[("/EncryptedPackage", b"x"), ("/EncryptionInfo", b"x")])));
        assert!(encrypted(&compound(&[("/Workbook", &workbook(&[(0, 0x10)], true, 0))])));
        assert!(!encrypted(&compound(&[("/Workbook", &workbook(&[(0, 0x10)], false, 0))])));
        let document = |flags: u8| {
            [&[0xec, 0xa5, 0xc1, 0, 0, 0, 0, 0, 0, 0, 0, flags][..], &[0; 500]].concat()
        };
        assert!(encrypted(&compound(&[("/WordDocument", &document(1))])));
        assert!(!encrypted(&compound(&[("/WordDocument", &document(0))])));
    }
}
