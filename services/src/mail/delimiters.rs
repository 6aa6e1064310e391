//! The lines between parts (RFC 2046 section 5.1.1).

use std::io;
use std::ops::Range;

use memchr::memmem::Finder;

use super::octets::Octets;
use super::window::Window;

/// A line that begins with two hyphens and the boundary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delimiter {
    /// Where it begins.
    pub(super) at: usize,
    /// Where the next line begins, if this one has an end.
    pub(super) next: Option<usize>,
    /// Whether it is the last one.
    pub(super) closes: bool,
    /// Whether it is one by the rules: behind a line feed, with nothing but blanks behind the boundary, or two
    /// hyphens. Some clients take others for delimiters too.
    pub(super) is_exact: bool,
}

/// The delimiters in a body.
pub(super) struct Delimiters {
    finder: Finder<'static>,
    window: Window,
    at: usize,
}

impl Delimiters {
    /// Those of a boundary, which is not empty.
    pub(super) fn new(body: Octets, boundary: &[u8]) -> Self {
        let finder = Finder::new(&[b"--", boundary].concat()).into_owned();
        Self { finder, window: Window::new(body), at: 0 }
    }

    /// The next one, exact or not.
    pub(super) fn next(&mut self) -> io::Result<Option<Delimiter>> {
        while let Some(at) = self.window.find(&self.finder, self.at)? {
            let behind = at + self.finder.needle().len();
            self.at = behind;
            let before = match at {
                0 => Some(b'\n'),
                _ => self.window.octet(at - 1)?,
            };
            if !matches!(before, Some(b'\n' | b'\r')) {
                continue;
            }
            let exact = match before {
                Some(b'\n') => self.exact_line(behind)?,
                _ => None,
            };
            return Ok(Some(match exact {
                Some((closes, next)) => Delimiter { at, next, closes, is_exact: true },
                None => {
                    let next = self.line_end(behind)?;
                    Delimiter { at, next, closes: false, is_exact: false }
                }
            }));
        }
        Ok(None)
    }

    /// The next exact one.
    pub(super) fn next_exact(&mut self) -> io::Result<Option<Delimiter>> {
        loop {
            match self.next()? {
                Some(delimiter) if !delimiter.is_exact => {}
                found => return Ok(found),
            }
        }
    }

    /// The rest of a delimiter line: blanks, and perhaps two hyphens. Whether they are there, and where the next line
    /// begins; `None` if there is more.
    fn exact_line(&mut self, mut at: usize) -> io::Result<Option<(bool, Option<usize>)>> {
        let mut hyphens = 0;
        let mut blank_behind = false;
        loop {
            let here = self.window.at(at, 1)?;
            let (mut is_end, mut next) = (here.is_empty(), None);
            for octet in here {
                at += 1;
                match octet {
                    b'\n' => (is_end, next) = (true, Some(at)),
                    b'-' if hyphens < 2 && !blank_behind => hyphens += 1,
                    octet if octet.is_ascii_whitespace() => blank_behind = hyphens > 0,
                    _ => return Ok(None),
                }
                if is_end {
                    break;
                }
            }
            if is_end {
                return Ok((hyphens != 1).then_some((hyphens == 2, next)));
            }
        }
    }

    /// Where the line behind this one begins, if any CR or LF ends it.
    fn line_end(&mut self, mut at: usize) -> io::Result<Option<usize>> {
        loop {
            let here = self.window.at(at, 1)?;
            if here.is_empty() {
                return Ok(None);
            }
            match memchr::memchr2(b'\r', b'\n', here) {
                Some(end) => {
                    let is_pair = self.window.at(at + end, 2)?.starts_with(b"\r\n");
                    return Ok(Some(at + end + 1 + usize::from(is_pair)));
                }
                None => at += here.len(),
            }
        }
    }

    /// The stretch up to a delimiter: the line end before that belongs to it.
    pub(super) fn stretch(&mut self, start: usize, delimiter: usize) -> io::Result<Range<usize>> {
        let mut end = delimiter.max(start);
        for line_end in [b'\n', b'\r'] {
            if end > start && self.window.octet(end - 1)? == Some(line_end) {
                end -= 1;
            }
        }
        Ok(start..end)
    }

    /// Octets of the body.
    pub(super) fn len(&self) -> usize {
        self.window.len()
    }
}

/// The parts of a body by the rules: at most one more than `most` of them. A missing last delimiter ends the last part
/// where the octets end.
pub(super) fn between_delimiters(
    body: Octets,
    boundary: &[u8],
    most: usize,
) -> io::Result<Vec<Range<usize>>> {
    let mut delimiters = Delimiters::new(body, boundary);
    let mut ranges = Vec::new();
    let mut open: Option<usize> = None;
    while let Some(delimiter) = delimiters.next_exact()? {
        if let Some(start) = open.take() {
            ranges.push(delimiters.stretch(start, delimiter.at)?);
        }
        if delimiter.closes || ranges.len() > most {
            return Ok(ranges);
        }
        // Without the end of its line a delimiter opens nothing.
        open = delimiter.next;
    }
    ranges.extend(open.map(|start| start..delimiters.len()));
    Ok(ranges)
}
