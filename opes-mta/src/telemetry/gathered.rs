//! Log lines on their way to the standard error.
//!
//! A thread that says when it has nothing else to do ([`idle`]) gathers its lines until then: a lock and a system call for
//! many of them. Before that go warnings and errors, with what was said before them; all that there is when it is much; and
//! all before somebody gets an answer that they speak of ([`flush`]). Other threads write each line by itself.

use std::cell::RefCell;
use std::io::{self, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Octets of lines that are written even if the thread is busy.
const MUCH: usize = 32 * 1024;

thread_local! {
    static LINES: RefCell<Lines> = const { RefCell::new(Lines::new()) };
}

/// This thread has nothing to do: to be called before it waits, by [`on_thread_park`] of its runtime.
///
/// [`on_thread_park`]: tokio::runtime::Builder::on_thread_park
pub fn idle() {
    with_lines(|lines| {
        lines.are_gathered = true;
        lines.write_to(&mut io::stderr())
    });
}

/// Writes the lines that this thread has gathered.
pub fn flush() {
    with_lines(|lines| lines.write_to(&mut io::stderr()));
}

/// A line that can't be written is lost: where should that be said?
fn with_lines(work: impl FnOnce(&mut Lines) -> io::Result<()>) {
    let _ = LINES.try_with(|lines| work(&mut lines.borrow_mut()));
}

/// The lines of a thread.
struct Lines {
    octets: Vec<u8>,
    /// Whether the thread says when it is idle.
    are_gathered: bool,
}

impl Lines {
    const fn new() -> Self {
        Self { octets: Vec::new(), are_gathered: false }
    }

    fn add(&mut self, line: &[u8], is_urgent: bool, out: &mut impl Write) -> io::Result<()> {
        self.octets.extend_from_slice(line);
        match is_urgent || !self.are_gathered || self.octets.len() >= MUCH {
            true => self.write_to(out),
            false => Ok(()),
        }
    }

    fn write_to(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.octets.is_empty() {
            return Ok(());
        }
        let written = out.write_all(&self.octets);
        self.octets.clear();
        self.octets.shrink_to(MUCH);
        written
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.write_to(&mut io::stderr());
    }
}

/// The standard error, by way of the thread's lines.
#[derive(Debug)]
pub(super) struct Gathered;

/// Takes one line, at once.
pub(super) struct Line {
    is_urgent: bool,
}

impl<'w> MakeWriter<'w> for Gathered {
    type Writer = Line;

    fn make_writer(&'w self) -> Line {
        Line { is_urgent: true }
    }

    fn make_writer_for(&'w self, metadata: &Metadata<'_>) -> Line {
        Line { is_urgent: *metadata.level() <= Level::WARN }
    }
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_urgent = self.is_urgent;
        let add =
            |lines: &RefCell<Lines>| lines.borrow_mut().add(line, is_urgent, &mut io::stderr());
        // A thread that ends gathers nothing any more.
        LINES.try_with(add).unwrap_or_else(|_| io::stderr().write_all(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was written, by calls.
    #[derive(Default)]
    struct Calls(Vec<Vec<u8>>);

    impl Write for Calls {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.push(octets.to_vec());
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_thread_that_never_says_that_it_is_idle_writes_each_line() {
        let (mut lines, mut calls) = (Lines::new(), Calls::default());
        lines.add(b"one\n", false, &mut calls).unwrap();
        lines.add(b"two\n", false, &mut calls).unwrap();
        assert_eq!(calls.0, [b"one\n", b"two\n"]);
    }

    #[test]
    fn lines_are_written_together_in_their_order() {
        let (mut lines, mut calls) = (Lines::new(), Calls::default());
        lines.are_gathered = true;
        lines.add(b"one\n", false, &mut calls).unwrap();
        lines.add(b"two\n", false, &mut calls).unwrap();
        assert!(calls.0.is_empty());
        lines.write_to(&mut calls).unwrap();
        lines.write_to(&mut calls).unwrap();
        lines.add(b"three\n", false, &mut calls).unwrap();
        lines.add(b"a warning\n", true, &mut calls).unwrap();
        let wanted: [&[u8]; 2] = [b"one\ntwo\n", b"three\na warning\n"];
        assert_eq!(calls.0, wanted);
    }

    #[test]
    fn many_lines_do_not_wait() {
        let (mut lines, mut calls) = (Lines::new(), Calls::default());
        lines.are_gathered = true;
        let line = [b'x'; 1024];
        for _ in 0..32 {
            assert!(calls.0.is_empty());
            lines.add(&line, false, &mut calls).unwrap();
        }
        assert_eq!(calls.0.len(), 1);
        assert_eq!(calls.0[0].len(), MUCH);
        assert!(lines.octets.is_empty());
        assert!(lines.octets.capacity() <= MUCH);
    }
}
