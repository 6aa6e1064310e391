//! Mailbox files (RFC 4155), and files that hold one message.

use std::io::{self, BufRead, Read};

use bytes::Bytes;
use ocp_proto::MAXIMUM;
use ocp_proto::smtp::Address;

use crate::event::{header_end, parse_address};

/// The messages of a file, read one at a time.
///
/// A file that begins with `From ` is a mailbox: a message begins behind each such line that
/// stands at the start or after an empty line. The empty line before it, and one at the end of the
/// file, separates messages and belongs to none, unless it ends a header section. Everything else
/// stays octet for octet, `>From ` too: whether such a line was quoted (mboxrd, mboxo) or written
/// so can't be told, and a wrong guess would break signatures.
///
/// Any other file is one message. Worst case: one message in memory.
#[derive(Debug)]
pub struct Messages<R> {
    reader: R,
    state: State,
    number: usize,
}

#[derive(Debug)]
enum State {
    Start,
    /// Behind this `From ` line.
    Mailbox(Bytes),
    Done,
}

/// One message of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its number in a mailbox, from 1; `None` if the file is one message.
    pub number: Option<usize>,
    /// The `From ` line before it.
    pub from_line: Option<Bytes>,
    /// The message.
    pub octets: Bytes,
}

impl<R: BufRead> Messages<R> {
    /// The messages of what `reader` delivers.
    pub fn new(reader: R) -> Self {
        Self { reader, state: State::Start, number: 0 }
    }

    fn read(&mut self) -> io::Result<Option<Stored>> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Done => Ok(None),
            State::Start => {
                let mut octets = Vec::new();
                self.read_line(&mut octets)?;
                if octets.starts_with(b"From ") {
                    return self.read_message(octets.into()).map(Some);
                }
                let rest = u64::from(MAXIMUM).saturating_sub(octets.len() as u64) + 1;
                self.reader.by_ref().take(rest).read_to_end(&mut octets)?;
                check_size(&octets)?;
                Ok(Some(Stored { number: None, from_line: None, octets: octets.into() }))
            }
            State::Mailbox(from_line) => self.read_message(from_line).map(Some),
        }
    }

    /// Reads up to the next `From ` line.
    fn read_message(&mut self, from_line: Bytes) -> io::Result<Stored> {
        let mut octets = Vec::new();
        let mut after_empty = false;
        loop {
            let start = octets.len();
            self.read_line(&mut octets)?;
            let line = octets.get(start..).unwrap_or_default();
            if line.is_empty() {
                break;
            }
            if after_empty && line.starts_with(b"From ") {
                self.state = State::Mailbox(octets.split_off(start).into());
                break;
            }
            after_empty = matches!(line, b"\n" | b"\r\n");
        }
        if after_empty && header_end(&octets) != Some(octets.len()) {
            octets.pop();
            octets.pop_if(|octet| *octet == b'\r');
        }
        self.number += 1;
        Ok(Stored { number: Some(self.number), from_line: Some(from_line), octets: octets.into() })
    }

    fn read_line(&mut self, octets: &mut Vec<u8>) -> io::Result<()> {
        let rest = u64::from(MAXIMUM).saturating_sub(octets.len() as u64) + 1;
        self.reader.by_ref().take(rest).read_until(b'\n', octets)?;
        check_size(octets)
    }
}

fn check_size(octets: &[u8]) -> io::Result<()> {
    if octets.len() > MAXIMUM as usize {
        let message = format!("a message above {MAXIMUM} octets, more than OCP can say");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(())
}

impl<R: BufRead> Iterator for Messages<R> {
    type Item = io::Result<Stored>;

    /// The next message; after an error there are no more.
    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// The address of a `From ` line: an address, or `MAILER-DAEMON` for the null sender. Other names
/// (`-` in Thunderbird's) are none.
pub fn sender_of(from_line: &[u8]) -> Option<Address> {
    let rest = from_line.strip_prefix(b"From ")?.trim_ascii_start();
    let word = rest.split(u8::is_ascii_whitespace).next()?;
    match std::str::from_utf8(word).ok()? {
        "MAILER-DAEMON" => Some(Address::null()),
        word if word.contains('@') => parse_address(word).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn messages(octets: &[u8]) -> Vec<Stored> {
        Messages::new(octets).collect::<Result<_, _>>().unwrap()
    }

    fn contents(octets: &[u8]) -> Vec<Vec<u8>> {
        messages(octets).into_iter().map(|stored| stored.octets.to_vec()).collect()
    }

    #[test]
    fn a_mailbox_is_split_at_from_lines_after_empty_lines() {
        let mailbox = b"From a@b Mon\nA: 1\n\ntext\nFrom the start\n>From quoted\n\nFrom c@d Tue\nB: 2\n\nx\n\n";
        assert_eq!(
            contents(mailbox),
            [&b"A: 1\n\ntext\nFrom the start\n>From quoted\n"[..], b"B: 2\n\nx\n"]
        );
        let found = messages(mailbox);
        assert_eq!(found[1].number, Some(2));
        assert_eq!(sender_of(found[1].from_line.as_ref().unwrap()).unwrap().path(), "<c@d>");
        // The empty line that ends a header section stays.
        assert_eq!(
            contents(b"From a\nA: 1\n\nFrom b\nB: 2\r\n\r\n"),
            [&b"A: 1\n\n"[..], b"B: 2\r\n\r\n"]
        );
    }

    #[test]
    fn any_other_file_is_one_message() {
        for octets in [&b"From: a\n\nFrom b\n\nFrom c\n"[..], b"", b"\n", b"x"] {
            let stored = Stored { number: None, from_line: None, octets: octets.to_vec().into() };
            assert_eq!(messages(octets), [stored]);
        }
    }

    #[test]
    fn from_lines_name_senders_in_several_ways() {
        let sender = |line: &str| sender_of(line.as_bytes()).map(|sender| sender.to_string());
        assert_eq!(sender("From a@b  Mon Jan  1\n").as_deref(), Some("<a@b>"));
        assert_eq!(sender("From MAILER-DAEMON Mon\n").as_deref(), Some("<>"));
        assert_eq!(sender("From - Mon\n"), None);
        assert_eq!(sender("From \n"), None);
    }

    proptest! {
        #[test]
        fn nothing_but_separators_is_lost(text in "(From |From |\n|\r\n|A: b|x|>){0,40}") {
            let mailbox = format!("From {text}").into_bytes();
            let mut rest = &mailbox[..];
            for Stored { from_line, octets, .. } in messages(&mailbox) {
                rest = rest.strip_prefix(&from_line.unwrap()[..]).unwrap();
                rest = rest.strip_prefix(&octets[..]).unwrap();
                if !rest.starts_with(b"From ") && !rest.is_empty() {
                    let after = rest.strip_prefix(b"\r\n").or(rest.strip_prefix(b"\n"));
                    rest = after.unwrap();
                }
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn what_was_put_in_comes_out(
            bodies in proptest::collection::vec("([a-z]{0,5}(\r\n|\n)){0,6}[a-z]{1,5}\n", 1..6),
        ) {
            let contents_in: Vec<Vec<u8>> =
                bodies.iter().map(|body| format!("A: b\n\n{body}").into_bytes()).collect();
            let mailbox: Vec<u8> = contents_in
                .iter()
                .flat_map(|content| [b"From a@b Mon\n", &content[..], b"\n"].concat())
                .collect();
            prop_assert_eq!(contents(&mailbox), contents_in);
        }
    }
}
