//! What can be said about a mail and no pattern can say.

use mail_parser::HeaderValue;
use mail_parser::parsers::MessageStream;
use serde::Deserialize;

use super::view::View;

/// A fact that a rule may be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fact {
    /// There is no Date field.
    MissingDate,
    /// The Date field holds no date.
    BadDate,
    /// The date is more than four days before the last server got the message.
    DatePast,
    /// The date is more than one day after the last server got the message.
    DateFuture,
    /// There is no Message-ID field.
    MissingMessageId,
    /// The Message-ID is not `<left@right>`.
    BadMessageId,
    /// There is no From field.
    MissingFrom,
    /// There is neither To nor Cc.
    MissingRecipients,
    /// There is no subject, or an empty one.
    MissingSubject,
    /// The subject has eight letters or more, all of them capitals.
    SubjectAllCaps,
    /// The envelope's sender and From are of different organisations.
    SenderDiffers,
    /// Reply-To and From are of different organisations.
    ReplyToDiffers,
    /// The name in From shows an address of another organisation.
    FromNameDiffers,
    /// From is one of the recipients.
    FromIsRecipient,
    /// There is HTML and no plain text.
    HtmlOnly,
    /// There are images and fewer than 200 characters of text.
    ImageOnly,
    /// A link shows an address of another organisation than the one it goes to.
    LinkDiffers,
    /// Three times or more, a character without width stands inside a word.
    HiddenCharacters,
    /// Three words or more mix Latin with Cyrillic or Greek letters.
    MixedScripts,
    /// ASCII text is in base64.
    AsciiInBase64,
    /// An HTML page is attached.
    HtmlAttachment,
}

const DAY: i64 = 24 * 60 * 60;

impl Fact {
    /// Whether it is one of this mail.
    pub(super) fn holds(self, view: &View<'_>) -> bool {
        let is_missing = |name| view.field(name).is_none();
        match self {
            Self::MissingDate => is_missing("date"),
            Self::BadDate => view.field("date").is_some_and(|date| timestamp(date).is_none()),
            Self::DatePast => delay(view).is_some_and(|delay| delay > 4 * DAY),
            Self::DateFuture => delay(view).is_some_and(|delay| delay < -DAY),
            Self::MissingMessageId => is_missing("message-id"),
            Self::BadMessageId => view.field("message-id").is_some_and(|id| !is_message_id(id)),
            Self::MissingFrom => is_missing("from"),
            Self::MissingRecipients => is_missing("to") && is_missing("cc"),
            Self::MissingSubject => view.field("subject").is_none_or(str::is_empty),
            Self::SubjectAllCaps => view.field("subject").is_some_and(is_all_caps),
            Self::SenderDiffers => sender_differs(view),
            Self::ReplyToDiffers => differ(from_domain(view), domain_of_field(view, "reply-to")),
            Self::FromNameDiffers => from_name_differs(view),
            Self::FromIsRecipient => from_is_recipient(view),
            Self::HtmlOnly => !view.html.is_empty() && !view.has_plain_text,
            Self::ImageOnly => view.images > 0 && body_text(view).chars().nth(200).is_none(),
            Self::LinkDiffers => {
                view.links.iter().any(|link| differ(host(&link.text), host(&link.uri)))
            }
            Self::HiddenCharacters => view.hidden_characters >= 3,
            Self::MixedScripts => {
                view.text.split_whitespace().filter(|word| mixes_scripts(word)).nth(2).is_some()
            }
            Self::AsciiInBase64 => view.has_ascii_in_base64,
            Self::HtmlAttachment => {
                let ends = [".htm", ".html", ".shtml", ".xhtml", ".svg"];
                let is_page = |name: &&str| {
                    let name = name.trim_end().to_ascii_lowercase();
                    ends.iter().any(|end| name.ends_with(end))
                };
                view.file_names.iter().any(is_page)
            }
        }
    }
}

/// Seconds from Date to the time in the first Received field, which the last server wrote. No clock
/// here: stored mail is judged like new mail.
fn delay(view: &View<'_>) -> Option<i64> {
    let (_, received) = view.field("received")?.rsplit_once(';')?;
    Some(timestamp(received)? - timestamp(view.field("date")?)?)
}

fn timestamp(date: &str) -> Option<i64> {
    let line = format!("{}\n", date.trim());
    match MessageStream::new(line.as_bytes()).parse_date() {
        HeaderValue::DateTime(date) if date.is_valid() => Some(date.to_timestamp()),
        _ => None,
    }
}

fn is_message_id(id: &str) -> bool {
    let inner = id.trim().strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    let halves = inner.and_then(|inner| inner.split_once('@'));
    halves.is_some_and(|(left, right)| !left.is_empty() && !right.is_empty())
}

fn is_all_caps(subject: &str) -> bool {
    let letters = || subject.chars().filter(|character| character.is_alphabetic());
    letters().nth(7).is_some() && letters().all(char::is_uppercase)
}

fn sender_differs(view: &View<'_>) -> bool {
    let sender = view.envelope.sender.as_ref().and_then(|sender| sender.local_and_domain());
    let domain = sender.and_then(|(_, domain)| std::str::from_utf8(domain).ok());
    differ(domain, from_domain(view))
}

fn from_domain<'a>(view: &'a View<'_>) -> Option<&'a str> {
    domain_of_field(view, "from")
}

fn domain_of_field<'a>(view: &'a View<'_>, name: &str) -> Option<&'a str> {
    Some(name_and_address(view.field(name)?).1.rsplit_once('@')?.1)
}

fn from_name_differs(view: &View<'_>) -> bool {
    let Some(from) = view.field("from") else { return false };
    let (name, address) = name_and_address(from);
    let shown = name.split(|c: char| c.is_whitespace() || "\"'<>()[],;:".contains(c));
    let domains = shown.filter_map(|word| word.rsplit_once('@')).map(|(_, domain)| domain);
    let is_domain = |domain: &&str| domain.contains('.');
    let domain = address.rsplit_once('@').map(|(_, domain)| domain);
    domains.filter(is_domain).any(|shown| differ(Some(shown), domain))
}

fn from_is_recipient(view: &View<'_>) -> bool {
    let Some(from) = view.field("from").map(|from| name_and_address(from).1) else { return false };
    let is_from = |mailbox: &[u8]| mailbox.eq_ignore_ascii_case(from.as_bytes());
    !from.is_empty() && view.envelope.recipients.iter().any(|path| is_from(path.mailbox()))
}

/// A display name and the address behind it; of several addresses the first.
fn name_and_address(value: &str) -> (&str, &str) {
    match value.split_once('<') {
        Some((name, rest)) => (name, rest.split('>').next().unwrap_or_default().trim()),
        None => {
            let first = value.split([',', '(']).next().unwrap_or_default();
            ("", first.trim())
        }
    }
}

/// The host of a web address; of a text only if it is one.
fn host(text: &str) -> Option<&str> {
    let text = text.trim();
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        let start = text.get(..scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then(|| text.get(scheme.len()..)).flatten()
    });
    let is_web =
        rest.is_some() || text.get(..4).is_some_and(|www| www.eq_ignore_ascii_case("www."));
    let rest = rest.unwrap_or(text);
    let host = rest.split(['/', '?', '#', ':']).next()?;
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-');
    (is_web && host.contains('.') && host.chars().all(is_name)).then_some(host)
}

/// Whether both are known and belong to different organisations.
fn differ(one: Option<&str>, other: Option<&str>) -> bool {
    one.zip(other).is_some_and(|(one, other)| organisation(one) != organisation(other))
}

/// The part of a domain that somebody registered, without a list of public suffixes: two labels,
/// three if they look like `co.uk`.
fn organisation(domain: &str) -> String {
    let domain = domain.trim_end_matches(['.', '>']).to_ascii_lowercase();
    let mut labels = domain.rsplit('.');
    let (last, second) = (labels.next().unwrap_or_default(), labels.next().unwrap_or_default());
    let third = labels.next().filter(|_| last.len() == 2 && second.len() <= 3);
    let length = last.len() + 1 + second.len() + third.map_or(0, |third| third.len() + 1);
    domain.get(domain.len().saturating_sub(length)..).unwrap_or_default().to_owned()
}

/// The text without the subject, which is its first line.
fn body_text<'a>(view: &'a View<'_>) -> &'a str {
    if view.field("subject").is_none_or(str::is_empty) {
        return &view.text;
    }
    view.text.split_once('\n').map_or("", |(_, body)| body)
}

fn mixes_scripts(word: &str) -> bool {
    let is_lookalike = |c: char| matches!(c, '\u{370}'..='\u{3ff}' | '\u{400}'..='\u{52f}');
    word.chars().any(|c| c.is_ascii_alphabetic()) && word.chars().any(is_lookalike)
}

#[cfg(test)]
mod tests {
    use ocp_proto::smtp::{Address, Envelope};

    use super::super::view::tests::mail;
    use super::*;

    fn holds(fact: Fact, text: &str) -> bool {
        let mail = mail(text);
        let envelope = Envelope {
            sender: Some(Address::new("<bounce@lists.a.co.uk>").unwrap()),
            recipients: vec![Address::new("<Me@b.example>").unwrap()],
        };
        fact.holds(&View::new(&mail, &envelope, 10_000).unwrap())
    }

    #[test]
    fn each_fact_holds_for_what_it_says() {
        use Fact::*;
        let received = |date: &str| {
            format!("Received: by x; Mon, 6 May 2024 10:00:00 +0200 (CEST)\nDate: {date}\n\n")
        };
        let html = |body: &str| format!("Content-Type: text/html\n\n{body}");
        let cases = [
            (MissingDate, "A: b\n\n".to_owned(), true),
            (MissingDate, "date: x\n\n".to_owned(), false),
            (BadDate, "Date: soon\n\n".to_owned(), true),
            (BadDate, "Date: Mon, 6 May 2024 10:11:11 +0200\n\n".to_owned(), false),
            (DatePast, received("Mon, 29 Apr 2024 10:00:00 +0000"), true),
            (DatePast, received("Sat, 4 May 2024 10:00:00 +0000"), false),
            (DateFuture, received("Wed, 8 May 2024 10:00:00 +0000"), true),
            (DateFuture, received("Mon, 6 May 2024 09:00:00 +0000"), false),
            (MissingMessageId, "A: b\n\n".to_owned(), true),
            (BadMessageId, "Message-ID: 12@x\n\n".to_owned(), true),
            (BadMessageId, "Message-ID: <12@x>\n\n".to_owned(), false),
            (MissingFrom, "A: b\n\n".to_owned(), true),
            (MissingRecipients, "Cc: b\n\n".to_owned(), false),
            (MissingRecipients, "A: b\n\n".to_owned(), true),
            (MissingSubject, "Subject:  \n\n".to_owned(), true),
            (SubjectAllCaps, "Subject: URGENT \u{dc}BER 1\n\n".to_owned(), true),
            (SubjectAllCaps, "Subject: RE: FAQ\n\n".to_owned(), false),
            (SubjectAllCaps, "Subject: URGENT offer\n\n".to_owned(), false),
            (SenderDiffers, "From: x <y@Mail.A.co.uk>\n\n".to_owned(), false),
            (SenderDiffers, "From: y@b.co.uk (x)\n\n".to_owned(), true),
            (ReplyToDiffers, "From: y@a.example\nReply-To: <z@b.example>\n\n".to_owned(), true),
            (ReplyToDiffers, "From: y@a.example\nReply-To: z@x.a.example\n\n".to_owned(), false),
            (FromNameDiffers, "From: \"pay@bank.example\" <y@a.example>\n\n".to_owned(), true),
            (FromNameDiffers, "From: \"y@a.example\" <y@a.example>\n\n".to_owned(), false),
            (FromIsRecipient, "From: <me@b.example>\n\n".to_owned(), true),
            (FromIsRecipient, "From: <you@b.example>\n\n".to_owned(), false),
            (HtmlOnly, html("x"), true),
            (HtmlOnly, "A: b\n\n<html>".to_owned(), false),
            (ImageOnly, html("<img src=x>buy"), true),
            (ImageOnly, html(&format!("<img src=x>{}", "text ".repeat(50))), false),
            (
                LinkDiffers,
                html("<a href=http://evil.example/>https://www.bank.example/x</a>"),
                true,
            ),
            (LinkDiffers, html("<a href=http://x.bank.example/>www.bank.example</a>"), false),
            (LinkDiffers, html("<a href=http://evil.example/>our bank</a>"), false),
            (HiddenCharacters, html("V&zwnj;ia&zwnj;gr&#8203;a"), true),
            (HiddenCharacters, html("a &zwnj; &zwnj; &zwnj; b&shy;c&shy;d&shy;e"), false),
            (MixedScripts, "A: b\n\np\u{430}y y\u{43e}ur b\u{456}ll".to_owned(), true),
            (
                MixedScripts,
                "A: b\n\n\u{430}\u{43e} or \u{456}\u{456} and 5\u{456}".to_owned(),
                false,
            ),
            (AsciiInBase64, "Content-Transfer-Encoding: base64\n\naGVsbG8=".to_owned(), true),
            (AsciiInBase64, "Content-Transfer-Encoding: base64\n\nw7w=".to_owned(), false),
            (HtmlAttachment, "Content-Type: x/y; name=Invoice.HTML\n\n".to_owned(), true),
            (HtmlAttachment, "Content-Type: x/y; name=html.pdf\n\n".to_owned(), false),
        ];
        for (fact, text, expected) in cases {
            assert_eq!(holds(fact, &text), expected, "{fact:?}: {text}");
        }
    }
}
