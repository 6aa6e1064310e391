//! Deflated octets (RFC 1951), and the checksum behind them.

use std::io::{self, BufRead, ErrorKind, Read};

use flate2::{Crc, Decompress, FlushDecompress, Status};

/// Deflated octets, inflated. Of a damaged stream all is handed out that stands before the damage, as programs unpack it:
/// the reader of flate2 loses with the error what it has inflated for the same read.
pub(super) struct Inflate<R> {
    input: R,
    state: Decompress,
    ended: Option<Ended>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Whole,
    Damaged,
    CutShort,
}

impl<R: BufRead> Inflate<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, state: Decompress::new(false), ended: None }
    }

    /// Octets of the input that were read so far.
    pub(super) fn consumed(&self) -> u64 {
        self.state.total_in()
    }

    /// What follows the stream, once that has ended.
    pub(super) fn into_rest(self) -> R {
        self.input
    }
}

impl<R: BufRead> Read for Inflate<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.ended {
                None => {}
                Some(Ended::Whole) => return Ok(0),
                Some(Ended::Damaged) => {
                    return Err(io::Error::new(ErrorKind::InvalidData, "corrupt deflate stream"));
                }
                Some(Ended::CutShort) => {
                    let cause = "incomplete deflate stream";
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, cause));
                }
            }
            let before = (self.state.total_in(), self.state.total_out());
            let input = self.input.fill_buf()?;
            let is_end = input.is_empty();
            let flush = if is_end { FlushDecompress::Finish } else { FlushDecompress::None };
            let status = self.state.decompress(input, buffer, flush);
            let [consumed, count] =
                [self.state.total_in() - before.0, self.state.total_out() - before.1]
                    .map(|octets| usize::try_from(octets).unwrap_or_default());
            self.input.consume(consumed);
            self.ended = match status {
                Ok(Status::StreamEnd) => Some(Ended::Whole),
                Ok(_) if is_end && count == 0 => Some(Ended::CutShort),
                // It neither takes nor gives anything.
                Ok(_) if !is_end && consumed == 0 && count == 0 => Some(Ended::Damaged),
                Ok(_) => None,
                Err(_) => Some(Ended::Damaged),
            };
            if count > 0 {
                return Ok(count);
            }
        }
    }
}

/// Octets whose CRC-32 is known.
pub(super) struct Checked<R> {
    content: R,
    crc: Crc,
    expected: u32,
}

impl<R: Read> Checked<R> {
    pub(super) fn new(content: R, expected: u32) -> Self {
        Self { content, crc: Crc::new(), expected }
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.crc.update(buffer.get(..count).unwrap_or_default());
        if count == 0 && !buffer.is_empty() && self.crc.sum() != self.expected {
            return Err(io::Error::new(ErrorKind::InvalidData, "wrong checksum"));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn deflated(octets: &[u8]) -> Vec<u8> {
        let mut writer =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        writer.write_all(octets).unwrap();
        writer.finish().unwrap()
    }

    /// What comes of octets that are read `step` at a time, and how that ends.
    fn inflated(octets: &[u8], step: usize) -> (Vec<u8>, Option<String>) {
        let mut reader = Inflate::new(io::BufReader::with_capacity(step, octets));
        let mut content = Vec::new();
        let error = reader.read_to_end(&mut content).err().map(|error| error.to_string());
        (content, error)
    }

    proptest! {
        #[test]
        fn what_was_deflated_comes_back(octets: Vec<u8>, step in 1..100usize) {
            let packed = [&deflated(&octets)[..], b"behind"].concat();
            prop_assert_eq!(inflated(&packed, step), (octets, None));
        }

        /// However it is read, the same comes of it.
        #[test]
        fn damage_costs_nothing_that_stands_before_it(
            at in 0..4_000usize, octet: u8, step in 1..5_000usize,
        ) {
            let text: Vec<u8> = (0..2_000u32).flat_map(|n| n.to_string().into_bytes()).collect();
            let mut packed = deflated(&text);
            let at = at % packed.len();
            packed[at] = octet;
            let whole = inflated(&packed, 100_000);
            prop_assert_eq!(&inflated(&packed, step), &whole);
            prop_assert_eq!(inflated(&packed, 1), whole);
        }
    }

    #[test]
    fn a_stream_that_is_cut_short_or_damaged_says_so() {
        let packed = deflated(&[b'x'; 1_000]);
        let (content, error) = inflated(&packed[..packed.len() - 1], 8);
        assert_eq!(
            (content.len() > 900, error.as_deref()),
            (true, Some("incomplete deflate stream"))
        );
        let (content, error) = inflated(b"\xff\xff\xff\xff", 8);
        assert_eq!((content.len(), error.as_deref()), (0, Some("corrupt deflate stream")));
    }

    #[test]
    fn a_checksum_is_looked_at_behind_the_last_octet() {
        let mut crc = Crc::new();
        crc.update(b"hello");
        let read = |expected| {
            let mut content = Vec::new();
            let read = Checked::new(&b"hello"[..], expected).read_to_end(&mut content);
            (content, read.map_err(|error| error.to_string()))
        };
        assert_eq!(read(crc.sum()), (b"hello".to_vec(), Ok(5)));
        assert_eq!(read(0), (b"hello".to_vec(), Err("wrong checksum".to_owned())));
    }
}
