//! The messages of the story: what each is known by, and what becomes of it.

/// What services make of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It gets fields of spam-score, and arrives.
    Marked,
    /// It is kept, with these fields.
    Infected,
    /// It is refused for its content.
    Spam,
    /// It is refused for its sender.
    Denied,
}

/// Lines of a large message, and of another one.
const LINES: (usize, usize) = (1_500, 40);

/// What the message with this number is.
pub(crate) fn kind(number: usize) -> Kind {
    match number % 10 {
        1 | 4 => Kind::Infected,
        6 => Kind::Spam,
        8 => Kind::Denied,
        _ => Kind::Marked,
    }
}

/// Its sender, who has sent no other one.
pub(crate) fn sender(number: usize) -> String {
    let domain = if kind(number) == Kind::Denied { "denied.example" } else { "a.example" };
    format!("n{number}@{domain}")
}

/// Its octets.
pub(crate) fn message(number: usize) -> Vec<u8> {
    let header = format!(
        "From: <{}>\r\nTo: <b@b.example>\r\nDate: Thu, 26 Nov 2026 10:00:00 +0000\r\n\
         Message-ID: <{number}@a.example>\r\nSubject: message\r\n",
        sender(number)
    );
    let lines = if number.is_multiple_of(10) { LINES.0 } else { LINES.1 };
    let body = format!(".{number} is what this is.\r\n").repeat(lines);
    let message = match kind(number) {
        Kind::Infected => format!(
            "{header}MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
             --b\r\n\r\n{body}--b\r\nContent-Disposition: attachment\r\n\r\n{}\r\n--b--\r\n",
            eicar()
        ),
        Kind::Spam => format!("{header}\r\n{body}{}\r\n", gtube()),
        Kind::Marked | Kind::Denied => format!("{header}\r\n{body}"),
    };
    message.into_bytes()
}

/// The number in a message.
pub(crate) fn number(message: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(message).ok()?;
    let id = text.lines().find_map(|line| line.strip_prefix("Message-ID: <"))?;
    id.split('@').next()?.parse().ok()
}

/// A test virus, put together here.
fn eicar() -> String {
    [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-", "STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"].concat()
}

/// A text that spam-score refuses, put together here.
fn gtube() -> String {
    ["XJS*C4JDBQADN1.NSBN3*2IDNEN*", "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"].concat()
}
