//! Compressed RTF ([MS-OXRTFCP]), as Outlook sends the text of messages.

use std::io::{self, ErrorKind, Read};

/// Octets before the content: sizes, kind and checksum.
const HEADER: usize = 16;
const UNCOMPRESSED: &[u8] = b"MELA";
const COMPRESSED: &[u8] = b"LZFu";

/// What the dictionary starts with ([MS-OXRTFCP] section 2.1.2.1).
const KNOWN: &[u8] = b"{\\rtf1\\ansi\\mac\\deff0\\deftab720{\\fonttbl;}{\\f0\\fnil \\froman \\fswiss \\fmodern \\fscript \
\\fdecor MS Sans SerifSymbolArialTimes New RomanCourier{\\colortbl\\red0\\green0\\blue0\r\n\\par \\pard\\plain\\f0\\fs20\\b\\i\\u\\tab\\tx";

/// The dictionary's size, a power of two.
const DICTIONARY: usize = 4_096;

/// Reads what was compressed. At its end, wherever that is, it stops.
pub(super) struct CompressedRtf<R> {
    octets: io::Bytes<io::BufReader<R>>,
    is_compressed: bool,
    dictionary: [u8; DICTIONARY],
    /// Where the next octet goes.
    write: usize,
    /// Octets of the dictionary that are still to be copied, and where they stand.
    copy: (usize, usize),
    /// What the next tokens are, from the lowest bit on; and how many are left.
    control: (u8, u32),
    has_ended: bool,
}

impl<R: Read> CompressedRtf<R> {
    /// # Errors
    /// If it is of no known kind.
    pub(super) fn new(content: R) -> io::Result<Self> {
        let mut content = io::BufReader::new(content);
        let mut header = [0; HEADER];
        content.read_exact(&mut header)?;
        let kind = header.get(8..12).unwrap_or_default();
        if kind != COMPRESSED && kind != UNCOMPRESSED {
            return Err(io::Error::new(ErrorKind::InvalidData, "unknown compression of RTF"));
        }
        let mut dictionary = [b' '; DICTIONARY];
        for (slot, known) in dictionary.iter_mut().zip(KNOWN) {
            *slot = *known;
        }
        Ok(Self {
            octets: content.bytes(),
            is_compressed: kind == COMPRESSED,
            dictionary,
            write: KNOWN.len(),
            copy: (0, 0),
            control: (0, 0),
            has_ended: false,
        })
    }

    fn next(&mut self) -> io::Result<Option<u8>> {
        if !self.is_compressed {
            return self.octets.next().transpose();
        }
        while !self.has_ended {
            let (at, left) = self.copy;
            if left > 0 {
                self.copy = ((at + 1) % DICTIONARY, left - 1);
                let octet = self.dictionary.get(at).copied().unwrap_or_default();
                return Ok(Some(self.put(octet)));
            }
            let (control, tokens) = self.control;
            if tokens == 0 {
                let Some(control) = self.octets.next().transpose()? else { break };
                self.control = (control, 8);
                continue;
            }
            self.control = (control >> 1, tokens - 1);
            let Some(first) = self.octets.next().transpose()? else { break };
            if control & 1 == 0 {
                return Ok(Some(self.put(first)));
            }
            let Some(second) = self.octets.next().transpose()? else { break };
            let token = usize::from(u16::from_be_bytes([first, second]));
            let at = token >> 4;
            if at == self.write {
                break;
            }
            self.copy = (at, (token & 0xf) + 2);
        }
        self.has_ended = true;
        Ok(None)
    }

    fn put(&mut self, octet: u8) -> u8 {
        if let Some(slot) = self.dictionary.get_mut(self.write) {
            *slot = octet;
        }
        self.write = (self.write + 1) % DICTIONARY;
        octet
    }
}

impl<R: Read> Read for CompressedRtf<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        for slot in buffer {
            let Some(octet) = self.next()? else { break };
            *slot = octet;
            count += 1;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(octets: &[u8]) -> io::Result<String> {
        let mut text = String::new();
        CompressedRtf::new(octets)?.read_to_string(&mut text)?;
        Ok(text)
    }

    /// The examples of [MS-OXRTFCP] section 4.
    #[test]
    fn the_examples_of_the_specification() {
        let simple = [
            0x2d, 0, 0, 0, 0x2b, 0, 0, 0, 0x4c, 0x5a, 0x46, 0x75, 0xf1, 0xc5, 0xc7, 0xa7, 3, 0,
            0x0a, 0, 0x72, 0x63, 0x70, 0x67, 0x31, 0x32, 0x35, 0x42, 0x32, 0x0a, 0xf3, 0x20, 0x68,
            0x65, 0x6c, 0x09, 0, 0x20, 0x62, 0x77, 0x05, 0xb0, 0x6c, 0x64, 0x7d, 0x0a, 0x80, 0x0f,
            0xa0,
        ];
        let expected = "{\\rtf1\\ansi\\ansicpg1252\\pard hello world}\r\n";
        assert_eq!(read(&simple).unwrap(), expected);
        let crossing = [
            0x1a, 0, 0, 0, 0x1c, 0, 0, 0, 0x4c, 0x5a, 0x46, 0x75, 0xe2, 0xd4, 0x4b, 0x51, 0x41, 0,
            4, 0x20, 0x57, 0x58, 0x59, 0x5a, 0x0d, 0x6e, 0x7d, 1, 0x0e, 0xb0,
        ];
        assert_eq!(read(&crossing).unwrap(), "{\\rtf1 WXYZWXYZWXYZWXYZWXYZ}");
    }

    #[test]
    fn what_is_cut_short_or_not_compressed() {
        let header = |kind: &[u8]| [&[0; 8], kind, &[0; 4]].concat();
        assert_eq!(read(&[&header(UNCOMPRESSED), &b"{\\rtf1}"[..]].concat()).unwrap(), "{\\rtf1}");
        assert_eq!(read(&[&header(COMPRESSED), &b"\0ab"[..]].concat()).unwrap(), "ab");
        assert_eq!(read(&header(b"none")).unwrap_err().to_string(), "unknown compression of RTF");
        assert_eq!(read(b"short").unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
