//! Members of gzip files (RFC 1952).

use std::io::{self, BufRead, ErrorKind, Read};

use flate2::Crc;

use super::inflate::Inflate;
use super::{Each, Ended, Handed, Member, distinct, lossy};
use crate::mail::{Octets, Reader};

/// What a member starts with.
const MAGIC: &[u8] = b"\x1f\x8b\x08";
/// The longest field of a header that has no length of its own, as in other programs.
const LONGEST_FIELD: u64 = 65_535;

/// The one file that a gzip file holds, with the name that its first member has.
pub(super) fn members<B>(octets: &Octets, each: Each<'_, B>) -> Handed<B> {
    let mut reader = octets.reader();
    let name = header(&mut reader)?;
    let mut content = Gzip { member: Some(Inflate::new(reader)), crc: Crc::new() };
    let names = distinct(name.iter().map(|name| lossy(name)).collect());
    each(Member::file(names, &mut content)).map_err(Ended::Left)
}

/// The members of a gzip file one after the other, as section 2.2 has it; what follows them is passed over, as gzip
/// does.
struct Gzip {
    member: Option<Inflate<Reader>>,
    /// Of the member.
    crc: Crc,
}

impl Read for Gzip {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let count = member.read(buffer)?;
            self.crc.update(buffer.get(..count).unwrap_or_default());
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(mut rest) = self.member.take().map(Inflate::into_rest) else { break };
            self.check(&mut rest)?;
            if rest.peek(MAGIC.len())?.starts_with(MAGIC) {
                header(&mut rest)?;
                (self.member, self.crc) = (Some(Inflate::new(rest)), Crc::new());
            }
        }
        Ok(0)
    }
}

impl Gzip {
    /// Reads what stands behind a member: its checksum, and its size modulo 2^32.
    fn check(&self, rest: &mut Reader) -> io::Result<()> {
        let mut trailer = [0; 8];
        rest.read_exact(&mut trailer)?;
        let expected = [self.crc.sum().to_le_bytes(), self.crc.amount().to_le_bytes()].concat();
        match trailer[..] == expected[..] {
            true => Ok(()),
            false => Err(io::Error::new(ErrorKind::InvalidData, "wrong checksum")),
        }
    }
}

/// Reads the header of a member (section 2.3): the name of the file, if it has one.
fn header(reader: &mut Reader) -> io::Result<Option<Vec<u8>>> {
    const HEADER_CHECKSUM: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    let mut fixed = [0; 10];
    reader.read_exact(&mut fixed)?;
    let [_, _, _, flags, ..] = fixed;
    if flags & EXTRA != 0 {
        let mut length = [0; 2];
        reader.read_exact(&mut length)?;
        skip(reader, u16::from_le_bytes(length).into())?;
    }
    let name = if flags & NAME != 0 { Some(text(reader)?) } else { None };
    if flags & COMMENT != 0 {
        text(reader)?;
    }
    if flags & HEADER_CHECKSUM != 0 {
        skip(reader, 2)?;
    }
    Ok(name)
}

fn skip(reader: &mut Reader, octets: u64) -> io::Result<()> {
    io::copy(&mut reader.take(octets), &mut io::sink()).map(|_| ())
}

/// Octets up to a NUL.
fn text(reader: &mut Reader) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    reader.take(LONGEST_FIELD).read_until(0, &mut text)?;
    match text.pop() {
        Some(0) => Ok(text),
        _ => Err(io::Error::new(ErrorKind::InvalidData, "a header without end")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::gzip;

    /// The name, what comes of it, and how that ends.
    fn unpacked(octets: &[u8]) -> (Vec<String>, Vec<u8>, Option<String>) {
        let mut found = (Vec::new(), Vec::new(), None);
        let octets = Octets::from(octets.to_vec()).in_windows(5);
        let handed = members::<()>(&octets, &mut |member| {
            let Member::Files { content, files } = member else { panic!("a file") };
            found.0 = files[0].names.clone();
            found.2 = content.read_to_end(&mut found.1).err().map(|error| error.to_string());
            Ok(())
        });
        if let Err(Ended::Incomplete(super::super::Incomplete::Broken(why))) = handed {
            found.2 = Some(why);
        }
        found
    }

    #[test]
    fn every_field_of_a_header_is_passed_over() {
        let plain = gzip(b"hello");
        let with = |flags: u8, fields: &[u8]| {
            [&plain[..3], &[flags], &plain[4..10], fields, &plain[10..]].concat()
        };
        let hello = b"hello".to_vec();
        assert_eq!(unpacked(&plain), (Vec::new(), hello.clone(), None));
        let all = with(31, b"\x03\0abcname\0comment\0\x12\x34");
        assert_eq!(unpacked(&all), (vec!["name".to_owned()], hello.clone(), None));
        let endless = with(8, &[b'x'; 70_000]);
        assert_eq!(unpacked(&endless).2.as_deref(), Some("a header without end"));
        assert_eq!(unpacked(&plain[..9]).2.as_deref(), Some("failed to fill whole buffer"));
    }

    #[test]
    fn several_members_are_one_file_and_each_is_checked() {
        let both = [gzip(b"hel"), gzip(b"lo")].concat();
        assert_eq!(unpacked(&both), (Vec::new(), b"hello".to_vec(), None));
        assert_eq!(unpacked(&[&both[..], b"junk"].concat()).2, None);
        for at in [both.len() - 1, both.len() - 8, gzip(b"hel").len() - 2] {
            let mut wrong = both.clone();
            wrong[at] ^= 1;
            let (_, content, error) = unpacked(&wrong);
            assert!(b"hello".starts_with(&content), "{content:?}");
            assert_eq!(error.as_deref(), Some("wrong checksum"), "{at}");
        }
    }
}
