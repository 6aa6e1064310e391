//! Signatures, from ClamAV's text formats
//! (<https://docs.clamav.net/manual/Signatures.html>).

mod content;
mod pattern;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use aho_corasick::{AhoCorasick, BuildError, MatchKind};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::content::FileKind;
use crate::mail::Octets;
use content::Content;
pub(super) use content::Unfinished;
use pattern::{Offset, Pattern};

/// The most lines that are reported; a folder of another program would fill the screen.
const MOST_NOTES: usize = 50;
/// Octets of a literal that content is searched for: enough to be rare.
const LONGEST_LITERAL: usize = 24;
/// The shortest literal: content is full of shorter ones.
const SHORTEST_LITERAL: usize = 2;

/// All signatures of a folder.
#[derive(Debug, Default)]
pub(super) struct Signatures {
    hashes: Hashes,
    bodies: Vec<Body>,
    /// One pattern for each literal, and the body signatures that need it.
    literals: Option<AhoCorasick>,
    users: Vec<Vec<usize>>,
    /// Body signatures that are anchored and have no literal to search for.
    unsearched: Vec<usize>,
    notes: Vec<String>,
    left_out: usize,
}

#[derive(Debug, Default)]
struct Hashes {
    /// Names by digest, by the digest's length and the content's size; `None` for any size.
    names: HashMap<(usize, Option<usize>), HashMap<Vec<u8>, String>>,
}

/// A body signature (`.ndb`).
#[derive(Debug)]
struct Body {
    name: String,
    target: Target,
    offset: Offset,
    pattern: Pattern,
}

/// What a body signature is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// Everything.
    Any,
    /// Files of this kind.
    File(FileKind),
    /// Whole messages.
    Mail,
}

/// Why signatures can't be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// A file or folder can't be read.
    #[error("{path}: {error}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The search automaton can't be built.
    #[error("too many signatures: {0}")]
    Build(#[from] BuildError),
}

impl Signatures {
    /// Reads all signature files of a folder, in the order of their names.
    pub(super) fn load(folder: &Path) -> Result<Self, LoadError> {
        let read = |path: &Path, error| LoadError::Read { path: path.display().to_string(), error };
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut paths: Vec<_> =
            entries.map_err(|error| read(folder, error))?.iter().map(fs::DirEntry::path).collect();
        paths.sort();
        let mut signatures = Self::default();
        for path in paths.iter().filter(|path| path.is_file()) {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            let parse = match path.extension().and_then(|extension| extension.to_str()) {
                Some("hdb" | "hsb") => Self::add_hash,
                Some("ndb") => Self::add_body,
                _ => {
                    signatures.note(format!("{file}: not read: only .hdb, .hsb and .ndb are"));
                    continue;
                }
            };
            let text = fs::read(path).map_err(|error| read(path, error))?;
            for (number, line) in text.split(|octet| *octet == b'\n').enumerate() {
                let line = String::from_utf8_lossy(line.trim_ascii());
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                if let Err(why) = parse(&mut signatures, &line) {
                    signatures.note(format!("{file} line {}: {why}", number + 1));
                }
            }
        }
        if signatures.len() == 0 {
            signatures.note(format!("{}: no signature in any file", folder.display()));
        }
        signatures.build()?;
        Ok(signatures)
    }

    /// How many there are.
    fn len(&self) -> usize {
        self.bodies.len() + self.hashes.names.values().map(HashMap::len).sum::<usize>()
    }

    /// Whether any signature is for whole messages.
    pub(super) fn wants_mail(&self) -> bool {
        self.bodies.iter().any(|body| body.target == Target::Mail)
    }

    /// What was left out, and why.
    pub(super) fn notes(&self) -> Vec<String> {
        let more = self.left_out.checked_sub(1).map(|_| {
            format!("{} more lines of signature files were not understood", self.left_out)
        });
        self.notes.iter().cloned().chain(more).collect()
    }

    /// The name of a signature that these octets have.
    pub(super) fn find(&self, octets: &Octets, is_mail: bool) -> Result<Option<&str>, Unfinished> {
        if let Some(name) = self.hashes.find(octets)? {
            return Ok(Some(name));
        }
        let file = FileKind::of(&octets.read(0..FileKind::HEAD)?);
        let mut content = Content::new(octets);
        let mut verify = |index: usize| -> Result<_, Unfinished> {
            let Some(body) = self.bodies.get(index) else { return Ok(None) };
            let is_target = match body.target {
                Target::Any => true,
                Target::Mail => is_mail,
                Target::File(kind) => file == Some(kind),
            };
            let found = is_target && body.pattern.matches(&mut content, body.offset)?;
            Ok(found.then_some(body.name.as_str()))
        };
        for &index in &self.unsearched {
            if let Some(name) = verify(index)? {
                return Ok(Some(name));
            }
        }
        let Some(literals) = &self.literals else { return Ok(None) };
        let mut seen = vec![false; self.users.len()];
        for window in octets.windows(LONGEST_LITERAL - 1) {
            for found in literals.find_overlapping_iter(&window?.1) {
                let literal = found.pattern().as_usize();
                match seen.get_mut(literal) {
                    Some(seen) if !*seen => *seen = true,
                    _ => continue,
                }
                for &index in self.users.get(literal).into_iter().flatten() {
                    if let Some(name) = verify(index)? {
                        return Ok(Some(name));
                    }
                }
            }
        }
        Ok(None)
    }

    /// `Hash:Size:Name`; the length of the hash says which it is.
    fn add_hash(&mut self, line: &str) -> Result<(), String> {
        let mut fields = line.split(':');
        let (Some(hash), Some(size), Some(name)) = (fields.next(), fields.next(), fields.next())
        else {
            return Err("not of the form Hash:Size:Name".to_owned());
        };
        let hash = pattern::octets(hash)
            .filter(|hash| matches!(hash.len(), 16 | 20 | 32))
            .ok_or("the hash is none of MD5, SHA1, SHA256 in hexadecimal")?;
        let size = match size {
            "*" => None,
            size => Some(size.parse().map_err(|_| format!("{size:?} is no size"))?),
        };
        self.hashes.names.entry((hash.len(), size)).or_default().insert(hash, name.to_owned());
        Ok(())
    }

    /// `Name:TargetType:Offset:HexSignature[:MinFL[:MaxFL]]`.
    fn add_body(&mut self, line: &str) -> Result<(), String> {
        let mut fields = line.split(':');
        let (Some(name), Some(target), Some(offset), Some(pattern)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err("not of the form Name:TargetType:Offset:HexSignature".to_owned());
        };
        let body = Body {
            name: name.to_owned(),
            target: parse_target(target)?,
            offset: parse_offset(offset)?,
            pattern: Pattern::parse(pattern)?,
        };
        if body.pattern.literal().len() < SHORTEST_LITERAL && body.offset == Offset::Any {
            return Err("not supported: no two octets in a row to search for".to_owned());
        }
        self.bodies.push(body);
        Ok(())
    }

    fn build(&mut self) -> Result<(), BuildError> {
        let mut literals: Vec<&[u8]> = Vec::new();
        let mut known: HashMap<&[u8], usize> = HashMap::new();
        for (index, body) in self.bodies.iter().enumerate() {
            let literal = body.pattern.literal();
            let literal = literal.get(..LONGEST_LITERAL).unwrap_or(literal);
            if literal.len() < SHORTEST_LITERAL {
                self.unsearched.push(index);
                continue;
            }
            let place = *known.entry(literal).or_insert_with(|| {
                literals.push(literal);
                self.users.push(Vec::new());
                literals.len() - 1
            });
            if let Some(users) = self.users.get_mut(place) {
                users.push(index);
            }
        }
        if !literals.is_empty() {
            self.literals =
                Some(AhoCorasick::builder().match_kind(MatchKind::Standard).build(literals)?);
        }
        Ok(())
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < MOST_NOTES {
            self.notes.push(note);
        } else {
            self.left_out += 1;
        }
    }
}

impl Hashes {
    fn find(&self, octets: &Octets) -> Result<Option<&str>, Unfinished> {
        let tables = |length| {
            let sizes = [Some(octets.len()), None];
            sizes.into_iter().filter_map(move |size| self.names.get(&(length, size)))
        };
        let wanted = |length| tables(length).next().is_some();
        let mut md5 = wanted(16).then(Md5::new);
        let mut sha1 = wanted(20).then(Sha1::new);
        let mut sha256 = wanted(32).then(Sha256::new);
        if md5.is_none() && sha1.is_none() && sha256.is_none() {
            return Ok(None);
        }
        for chunk in octets.chunks() {
            let chunk = chunk?;
            md5.iter_mut().for_each(|hash| hash.update(&chunk));
            sha1.iter_mut().for_each(|hash| hash.update(&chunk));
            sha256.iter_mut().for_each(|hash| hash.update(&chunk));
        }
        let digests = [
            md5.map(|hash| hash.finalize().to_vec()),
            sha1.map(|hash| hash.finalize().to_vec()),
            sha256.map(|hash| hash.finalize().to_vec()),
        ];
        let mut digests = digests.iter().flatten();
        let found =
            digests.find_map(|digest| tables(digest.len()).find_map(|table| table.get(digest)));
        Ok(found.map(String::as_str))
    }
}

/// ClamAV's target types; 3 and 7 are for text that is normalised by rules of its own.
fn parse_target(target: &str) -> Result<Target, String> {
    Ok(match target {
        "0" => Target::Any,
        "1" => Target::File(FileKind::WindowsExecutable),
        "2" => Target::File(FileKind::Ole),
        "4" => Target::Mail,
        "5" => Target::File(FileKind::Picture),
        "6" => Target::File(FileKind::Elf),
        "9" => Target::File(FileKind::MachO),
        "10" => Target::File(FileKind::Pdf),
        "11" => Target::File(FileKind::Flash),
        "12" => Target::File(FileKind::JavaClass),
        "3" => return Err("not supported: target type 3, normalised HTML".to_owned()),
        "7" => return Err("not supported: target type 7, normalised text".to_owned()),
        other => return Err(format!("not supported: target type {other}")),
    })
}

fn parse_offset(text: &str) -> Result<Offset, String> {
    let unsupported = || format!("not supported: offset {text}");
    let number = |text: &str| text.parse::<usize>().map_err(|_| unsupported());
    let (place, shift) = match text.split_once(',') {
        Some((place, shift)) => (place, number(shift)?),
        None => (text, 0),
    };
    match (place, place.strip_prefix("EOF-")) {
        ("*", _) => Ok(Offset::Any),
        (_, Some(before)) => Ok(Offset::End { before: number(before)?, shift }),
        (at, None) => Ok(Offset::Start { at: number(at)?, shift }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(files: &[(&str, &str)]) -> Signatures {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        Signatures::load(folder.path()).unwrap()
    }

    /// What is found in octets, in memory and in pieces.
    fn find<'s>(signatures: &'s Signatures, octets: &[u8], is_mail: bool) -> Option<&'s str> {
        let octets = Octets::from(octets.to_vec());
        let found = signatures.find(&octets, is_mail).unwrap();
        for window in [1, 7] {
            let stored = octets.clone().in_windows(window);
            assert_eq!(signatures.find(&stored, is_mail).unwrap(), found);
        }
        found
    }

    #[test]
    fn hashes_of_every_kind() {
        let signatures = load(&[
            ("a.hdb", "900150983cd24fb0d6963f7d28e17f72:3:Test.Md5\n# a comment\n\n"),
            (
                "b.hsb",
                "a9993e364706816aba3e25717850c26c9cd0d89d:4:Test.WrongSize\n\
                 d6ae8aa09d0ee5dcb9a4f9e9f5b7a1ed1c1f3a8c:*:Test.Other\n\
                 cb8379ac2098aa165029e3938a51da0bcecfc008fd6795f401178647f96c5b34:*:Test.Sha256:73\n",
            ),
        ]);
        assert_eq!(signatures.len(), 4);
        assert_eq!(signatures.notes(), Vec::<String>::new());
        assert_eq!(find(&signatures, b"abc", false), Some("Test.Md5"));
        assert_eq!(find(&signatures, b"def", false), Some("Test.Sha256"));
        assert_eq!(find(&signatures, b"ghi", false), None);
    }

    #[test]
    fn bodies_by_target_and_offset() {
        let signatures = load(&[(
            "local.ndb",
            "Any:0:*:6576696c\nMail:4:0:46726f6d\nPe:1:*:62616421{-4}21\nEnd:0:EOF-3:656e64\nShort:0:0:61??63:90\n",
        )]);
        assert_eq!(signatures.len(), 5);
        assert!(signatures.wants_mail());
        assert_eq!(find(&signatures, b"an evil text", false), Some("Any"));
        assert_eq!(find(&signatures, b"From: x", false), None);
        assert_eq!(find(&signatures, b"From: x", true), Some("Mail"));
        assert_eq!(find(&signatures, b"the end", false), Some("End"));
        assert_eq!(find(&signatures, b"the end.", false), None);
        assert_eq!(find(&signatures, b"abc", false), Some("Short"));
        let program = [&b"MZ"[..], &[0; 70], b"bad!..!"].concat();
        assert_eq!(find(&signatures, &program, false), Some("Pe"));
        assert_eq!(find(&signatures, &program[1..], false), None);
    }

    #[test]
    fn what_is_left_out_is_reported() {
        let mut many = "A:0:EP+0:6162\nB:3:*:6162\nC:0:*:61??62\nD:0:*\n".to_owned();
        many.push_str(&"x\n".repeat(60));
        let signatures =
            load(&[("b.ndb", &many), ("a.hdb", "12:3:x\n"), ("main.cvd", ""), ("z.ldb", "")]);
        let notes = signatures.notes();
        assert_eq!(notes[0], "a.hdb line 1: the hash is none of MD5, SHA1, SHA256 in hexadecimal");
        assert_eq!(notes[1], "b.ndb line 1: not supported: offset EP+0");
        assert_eq!(notes[2], "b.ndb line 2: not supported: target type 3, normalised HTML");
        assert_eq!(notes[3], "b.ndb line 3: not supported: no two octets in a row to search for");
        assert_eq!(notes[4], "b.ndb line 4: not of the form Name:TargetType:Offset:HexSignature");
        assert_eq!(notes.len(), MOST_NOTES + 1);
        assert_eq!(notes.last().unwrap(), "18 more lines of signature files were not understood");
    }

    #[test]
    fn an_empty_folder_is_noted() {
        let notes = load(&[]).notes();
        assert!(notes[0].ends_with(": no signature in any file"), "{notes:?}");
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = Signatures::load(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/at/all: "), "{error}");
    }

    proptest! {
        #[test]
        fn any_line_is_a_signature_or_is_not(line in ".{0,40}", octets: Vec<u8>) {
            let mut signatures = Signatures::default();
            let _ = signatures.add_hash(&line);
            let _ = signatures.add_body(&line);
            signatures.build().unwrap();
            let _ = signatures.find(&octets.into(), true);
        }
    }
}
