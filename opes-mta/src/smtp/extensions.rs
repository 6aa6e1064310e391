//! What a server can do: the keywords of its answer to EHLO or LHLO (RFC 5321 section 4.1.1.1).

use bytes::Bytes;
use ocp_proto::smtp::Reply;

/// Commands may follow each other without waiting (RFC 2920).
pub const PIPELINING: &str = "PIPELINING";
/// How large a message may be (RFC 1870).
pub const SIZE: &str = "SIZE";
/// Octets above 127 in content (RFC 6152).
pub const EIGHT_BIT_MIME: &str = "8BITMIME";
/// Content that is not made of lines (RFC 3030).
pub const BINARY_MIME: &str = "BINARYMIME";
/// Addresses and header fields in UTF-8 (RFC 6531).
pub const SMTPUTF8: &str = "SMTPUTF8";
/// Notifications as the sender wants them (RFC 3461).
pub const DSN: &str = "DSN";
/// Content in chunks of known length, by BDAT (RFC 3030).
pub const CHUNKING: &str = "CHUNKING";
/// TLS (RFC 3207).
pub const STARTTLS: &str = "STARTTLS";
/// Authentication (RFC 4954).
pub const AUTH: &str = "AUTH";
/// Who the client's client is, as if it had connected itself (Postfix).
pub const XCLIENT: &str = "XCLIENT";
/// Who the client's client is, for the log (Postfix).
pub const XFORWARD: &str = "XFORWARD";
/// One reply a recipient behind the content (draft-hall-prdr).
pub const PRDR: &str = "PRDR";
/// Enhanced status codes in replies (RFC 2034).
pub const ENHANCED_STATUS_CODES: &str = "ENHANCEDSTATUSCODES";

/// The keywords of a server with their parameters, as it wrote them and in its order. Keywords are
/// compared without regard to case; of several lines with the same one the first counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions(Vec<Bytes>);

impl Extensions {
    /// The keywords of an answer to EHLO or LHLO; its first line is the server's greeting. Lines that no
    /// keyword starts are left out.
    pub fn of(reply: &Reply) -> Self {
        let octets = reply.as_bytes();
        let lines = reply.lines().skip(1).filter_map(|line| line.get(4..));
        let lines = lines.map(<[u8]>::trim_ascii).filter(|line| is_keyword(keyword(line)));
        Self(lines.map(|line| octets.slice_ref(line)).collect())
    }

    /// Whether the server knows this keyword.
    pub fn offers(&self, keyword: &str) -> bool {
        self.line(keyword).is_some()
    }

    /// What stands behind a keyword, such as the mechanisms of AUTH or the attributes of XCLIENT; nothing
    /// if the server does not know it.
    pub fn parameters(&self, keyword: &str) -> impl Iterator<Item = &[u8]> {
        let line = self.line(keyword).map(AsRef::as_ref).unwrap_or_default();
        line.split(|octet: &u8| *octet == b' ').skip(1).filter(|parameter| !parameter.is_empty())
    }

    /// Whether this parameter stands behind a keyword, without regard to case.
    pub fn has_parameter(&self, keyword: &str, parameter: &str) -> bool {
        self.parameters(keyword).any(|found| found.eq_ignore_ascii_case(parameter.as_bytes()))
    }

    /// The most octets that a message may have, if the server says so (RFC 1870 section 4: without a
    /// number or with 0 there is no such limit).
    pub fn maximum_size(&self) -> Option<u64> {
        let digits = std::str::from_utf8(self.parameters(SIZE).next()?).ok()?;
        digits.parse().ok().filter(|size| *size > 0)
    }

    /// The lines as they were written, without code and line end.
    pub fn lines(&self) -> impl Iterator<Item = &Bytes> {
        self.0.iter()
    }

    fn line(&self, wanted: &str) -> Option<&Bytes> {
        self.0.iter().find(|line| keyword(line).eq_ignore_ascii_case(wanted.as_bytes()))
    }
}

fn keyword(line: &[u8]) -> &[u8] {
    line.split(|octet| *octet == b' ').next().unwrap_or_default()
}

/// RFC 5321 section 4.1.1.1, `ehlo-keyword`; `AUTH=LOGIN` of old servers is one too.
fn is_keyword(word: &[u8]) -> bool {
    let mut octets = word.iter();
    octets.next().is_some_and(u8::is_ascii_alphanumeric) && octets.all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extensions(text: &'static str) -> Extensions {
        Extensions::of(&Reply::parse(text).unwrap())
    }

    #[test]
    fn keywords_are_found_as_they_are_meant_and_kept_as_they_are_written() {
        let found = extensions(
            "250-mx.example PIPELINING\r\n250-Size 1000 \r\n250-auth PLAIN  login\r\n250-\r\n\
             250-*x\r\n250-X-OTHER a=b\r\n250 xclient NAME ADDR\r\n",
        );
        let lines: Vec<_> = found.lines().collect();
        assert_eq!(lines, ["Size 1000", "auth PLAIN  login", "X-OTHER a=b", "xclient NAME ADDR"]);
        assert!(!found.offers(PIPELINING), "the greeting is no keyword");
        assert_eq!(found.maximum_size(), Some(1_000));
        let mechanisms: Vec<_> = found.parameters(AUTH).collect();
        assert_eq!(mechanisms, [&b"PLAIN"[..], b"login"]);
        assert!(found.has_parameter(XCLIENT, "addr") && !found.has_parameter(XCLIENT, "PORT"));
        assert_eq!(found.parameters(DSN).count(), 0);
    }

    #[test]
    fn a_size_that_is_no_limit_is_none() {
        for text in ["SIZE", "SIZE 0", "SIZE x", "SIZE -1", "SIZE 99999999999999999999"] {
            let reply = Reply::parse(format!("250-mx\r\n250 {text}\r\n")).unwrap();
            let found = Extensions::of(&reply);
            assert_eq!((found.offers(SIZE), found.maximum_size()), (true, None), "{text}");
        }
    }
}
