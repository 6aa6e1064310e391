//! The bodies of the fuzz targets `content` and `archives`; unit tests run them over the corpora.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{FileKind, Limits, Next, Object, Origin, Remarks, Room, walk};
use crate::mail::{Mail, Octets, SpoolError, header_length};

/// Small bounds, so that a walk that ignores them shows.
const LIMITS: Limits =
    Limits { depth: 6, members: 50, unpacked: 1_000_000, memory: 500_000, ratio: 50 };

/// Why reading does not fail here.
const IN_MEMORY: &str = "octets in memory, and a folder that takes files";

/// Any octets as a mail, with all that is in it: the walk keeps within its bounds, and sees the same however the mail is
/// read.
///
/// # Panics
/// If that is not so.
pub fn content(octets: &[u8]) {
    let (header, body) = octets.split_at(header_length(octets));
    check(Bytes::copy_from_slice(header), Bytes::copy_from_slice(body));
}

/// Any octets as a file in a mail: an archive, an Office file, a text or a message.
///
/// # Panics
/// As [`content`].
pub fn archives(octets: &[u8]) {
    let header = Bytes::from_static(b"Content-Type: application/octet-stream; name=a.doc\r\n\r\n");
    check(header, Bytes::copy_from_slice(octets));
}

/// What a walk says of an object.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    octets: usize,
    macros: Option<&'static str>,
    is_encrypted: bool,
    mismatch: Option<&'static str>,
    kind: Option<FileKind>,
}

fn check(header: Bytes, body: Bytes) {
    let window = 1 + usize::from(body.first().copied().unwrap_or_default()) % 64;
    let stored = Octets::from(body.clone()).in_windows(window);
    let seen = look(&Mail::new(header.clone(), body));
    assert_eq!(look(&Mail::new(header, stored)), seen, "however it is read");
}

/// Everything that is seen, by its place.
fn look(mail: &Mail) -> (BTreeMap<String, Vec<Said>>, Remarks) {
    let room = Room { limits: LIMITS, ..Room::default() };
    let mut seen: BTreeMap<String, Vec<Said>> = BTreeMap::new();
    let (mut members, mut unpacked) = (0, 0);
    let remarks = walk(mail, &room, &mut |object| {
        if object.place.len() > 1 && *object.origin != Origin::RawPart {
            members += 1;
            unpacked += object.octets.len();
            assert!(object.place.len() <= LIMITS.depth + 1, "{:?}", object.place);
        }
        seen.entry(object.location()).or_default().push(said(object)?);
        Ok(Next::Descend)
    });
    // Nested messages are shown as files, and their parts once more for each way to decode them.
    assert!(members <= 4 * LIMITS.members, "{members}");
    assert!(unpacked <= 8 * LIMITS.unpacked, "{unpacked}");
    (seen, remarks.expect(IN_MEMORY))
}

fn said(object: &Object<'_>) -> Result<Said, SpoolError> {
    Ok(Said {
        octets: object.octets.len(),
        macros: object.macros()?,
        is_encrypted: object.is_encrypted()?,
        mismatch: object.mismatch("doc"),
        kind: FileKind::of(object.head),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn corpus(target: &str, body: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        let mut files = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            body(&std::fs::read(entry.unwrap().path()).unwrap());
            files += 1;
        }
        assert!(files >= 8, "{files} seeds");
    }

    #[test]
    fn the_corpus_of_mails_holds() {
        corpus("content", content);
    }

    #[test]
    fn the_corpus_of_files_holds() {
        corpus("archives", archives);
    }
}
