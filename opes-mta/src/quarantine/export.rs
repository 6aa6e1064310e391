//! Messages in a mailbox.

use std::io::{self, BufRead, Read, Write};

use super::Kept;

/// Octets of a line that are looked at together.
const PIECE: u64 = 64 * 1024;

/// Writes a message as one of a mailbox (RFC 4155): behind a `From ` line and before an empty one, with `>` before lines
/// that begin with `From ` behind any number of `>` (mboxrd), so that no reader splits it.
pub fn mailbox_entry(
    kept: &Kept,
    message: &mut impl BufRead,
    out: &mut impl Write,
) -> io::Result<()> {
    let sender = match kept.sender.mailbox() {
        // Blanks would end it.
        mailbox if mailbox.is_empty() || mailbox.contains(&b' ') => b"MAILER-DAEMON",
        mailbox => mailbox,
    };
    out.write_all(&[b"From ", sender, b" "].concat())?;
    writeln!(out, "{}", kept.arrived.mailbox_date())?;
    let (mut at_start, mut piece) = (true, Vec::new());
    while message.by_ref().take(PIECE).read_until(b'\n', &mut piece)? > 0 {
        let quotes = piece.iter().take_while(|octet| **octet == b'>').count();
        if at_start && piece.get(quotes..).is_some_and(|rest| rest.starts_with(b"From ")) {
            out.write_all(b">")?;
        }
        out.write_all(&piece)?;
        at_start = piece.ends_with(b"\n");
        piece.clear();
    }
    out.write_all(if at_start { b"\n" } else { b"\n\n" })
}
