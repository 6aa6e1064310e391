//! Whether a file is what its name says.

use super::compound::is_compound;
use super::sniff::{self, FileKind};

/// What octets are, as far as their start tells.
fn kind(head: &[u8]) -> Option<&'static str> {
    if let Some(archive) = sniff::archive(head) {
        return Some(match archive {
            sniff::Archive::Zip => "zip",
            sniff::Archive::Gzip => "gzip",
            sniff::Archive::Tar => "tar",
            sniff::Archive::Cabinet => "cabinet",
            sniff::Archive::Tnef => "winmail.dat",
        });
    }
    if is_compound(head) {
        return Some("ole");
    }
    sniff::unread_archive(head).or_else(|| FileKind::of(head).map(FileKind::name))
}

/// What files of this extension may be. Text has no kind; an Office file with a password is an OLE file whatever its name
/// says, and Office opens files of its other forms under each other's names.
fn expected(extension: &str) -> Option<&'static [&'static str]> {
    Some(match extension {
        "txt" | "csv" | "htm" | "html" | "xml" | "json" | "md" | "log" | "ics" | "vcf" | "eml" => {
            &["script"]
        }
        "pdf" => &["pdf"],
        "png" | "gif" | "jpg" | "jpeg" | "jpe" => &["picture"],
        "bmp" | "tif" | "tiff" | "webp" | "ico" | "mp3" | "mp4" | "avi" | "wav" | "rtf" => &[],
        "doc" | "dot" | "xls" | "xlt" | "ppt" | "pps" | "pot" | "docx" | "docm" | "dotx"
        | "dotm" | "xlsx" | "xlsm" | "xltx" | "xltm" | "xlsb" | "pptx" | "pptm" | "ppsx" => {
            &["ole", "zip"]
        }
        "odt" | "ods" | "odp" | "epub" | "zip" => &["zip"],
        "gz" | "tgz" => &["gzip"],
        "tar" => &["tar"],
        "cab" => &["cabinet"],
        "7z" => &["7z"],
        "rar" => &["rar"],
        "xz" => &["xz"],
        "bz2" => &["bzip2"],
        _ => return None,
    })
}

/// What a file is and its name does not say; `None` if either is not known, or both say the same.
pub(super) fn mismatch(extension: &str, head: &[u8]) -> Option<&'static str> {
    let expected = expected(extension)?;
    kind(head).filter(|kind| !expected.contains(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{compound, gzip, tar, zip};

    #[test]
    fn a_name_that_lies() {
        let program = [&b"MZ"[..], &[0; 64]].concat();
        assert_eq!(mismatch("pdf", &program), Some("windows-executable"));
        assert_eq!(mismatch("txt", &program), Some("windows-executable"));
        assert_eq!(mismatch("jpg", b"%PDF-1.4"), Some("pdf"));
        assert_eq!(mismatch("docx", b"Rar!\x1a\x07\0"), Some("rar"));
        assert_eq!(mismatch("gz", &zip(&[("a", b"b")])), Some("zip"));
        assert_eq!(mismatch("zip", &tar(&[("a", b"b")])), Some("tar"));
        assert_eq!(mismatch("rtf", &compound(&[])), Some("ole"));
    }

    #[test]
    fn a_name_that_says_what_it_is_or_nothing() {
        assert_eq!(mismatch("pdf", b"%PDF-1.4"), None);
        assert_eq!(mismatch("xlsx", &compound(&[])), None, "with a password");
        assert_eq!(mismatch("doc", &zip(&[("a", b"b")])), None);
        assert_eq!(mismatch("tgz", &gzip(b"x")), None);
        assert_eq!(mismatch("pdf", b"what is this?"), None);
        assert_eq!(mismatch("dat", b"%PDF-1.4"), None);
        assert_eq!(mismatch("txt", b"#!/bin/sh"), None);
    }
}
