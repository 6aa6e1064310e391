//! Enhanced status codes (RFC 3463) in replies (RFC 2034).

use std::fmt;

use ocp_proto::smtp::Reply;

/// Class, subject and detail, such as 5.7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EnhancedStatus {
    /// 2, 4 or 5.
    pub class: u8,
    /// 0 to 999.
    pub subject: u16,
    /// 0 to 999.
    pub detail: u16,
}

impl EnhancedStatus {
    /// The status of these three numbers.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }

    /// The status that the first line of a reply starts with. One of another class than the reply's code
    /// is none (RFC 2034 section 4).
    pub fn of(reply: &Reply) -> Option<Self> {
        let line = reply.as_bytes().split(|octet| *octet == b'\r').next()?;
        let word = line.get(4..)?.split(|octet| *octet == b' ').next()?;
        let mut numbers = word.split(|octet| *octet == b'.').map(number);
        let (class, subject, detail) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let is_whole = numbers.next().is_none();
        let fits = matches!(class, 2 | 4 | 5) && class == reply.code() / 100;
        let class = u8::try_from(class).ok()?;
        (is_whole && fits).then_some(Self { class, subject, detail })
    }

    /// What a reply says, or its class alone (X.0.0) if it has no status.
    pub fn of_or_class(reply: &Reply) -> Self {
        let class = u8::try_from(reply.code() / 100).unwrap_or(4);
        // Of a class that is no status, such as 3, nothing is known for good.
        let class = if matches!(class, 2 | 4 | 5) { class } else { 4 };
        Self::of(reply).unwrap_or(Self::new(class, 0, 0))
    }
}

/// One to three digits.
fn number(digits: &[u8]) -> Option<u16> {
    let is_number = (1..=3).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')))
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_that_of_the_first_line_and_of_the_class_of_its_code() {
        let status = |text: &'static str| EnhancedStatus::of(&Reply::parse(text).unwrap());
        let refused = EnhancedStatus::new(5, 7, 1);
        assert_eq!(status("550 5.7.1 no\r\n"), Some(refused));
        assert_eq!(status("550-5.7.1\r\n550 5.1.1 x\r\n"), Some(refused));
        assert_eq!(status("250 2.100.999 x\r\n"), Some(EnhancedStatus::new(2, 100, 999)));
        for none in [
            "550 4.7.1 x\r\n",
            "550 5.7 x\r\n",
            "550 5.7.1.1 x\r\n",
            "550 5.7.1000 x\r\n",
            "550 5..1 x\r\n",
            "550 5.7.1x\r\n",
            "354 3.0.0 x\r\n",
            "550\r\n",
        ] {
            assert_eq!(status(none), None, "{none}");
        }
        let class = |text: &'static str| EnhancedStatus::of_or_class(&Reply::parse(text).unwrap());
        assert_eq!(class("452 x\r\n").to_string(), "4.0.0");
        assert_eq!(class("354 x\r\n").to_string(), "4.0.0");
    }
}
