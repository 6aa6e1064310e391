//! The mails of the demo: our own texts, the same octets every time.

use bytes::Bytes;

use super::mime::{attachment, mail, multipart, text, zip};

/// A mail of the demo.
#[derive(Debug)]
pub(crate) struct DemoMail {
    /// What it is, for people.
    pub(crate) name: &'static str,
    /// The path of MAIL FROM, in angle brackets.
    pub(crate) sender: &'static str,
    /// The paths of RCPT TO.
    pub(crate) recipients: &'static [&'static str],
    /// Header section and body.
    pub(crate) octets: Bytes,
    /// What should become of it.
    pub(crate) expectation: Expectation,
}

/// What should become of a mail; the names are those of services, without `ocp://service/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expectation {
    /// It comes back octet for octet.
    Unchanged,
    /// This service changes it.
    Modified(&'static str),
    /// This service rejects it.
    Rejected(&'static str),
}

/// One recipient is enough for most.
const BEN: &[&str] = &["<ben@example.com>"];

/// The mails of the demo, in the order of the table. The last takes 20 MB.
pub(crate) fn mails() -> Vec<DemoMail> {
    use Expectation::{Modified, Rejected, Unchanged};
    let from_ann = |name, octets, expectation| DemoMail {
        name,
        sender: "<ann@example.org>",
        recipients: BEN,
        octets: Bytes::from(octets),
        expectation,
    };
    vec![
        from_ann("a note", note(), Unchanged),
        DemoMail {
            recipients: &["<ben@example.com>", "<carla@example.com>"],
            ..from_ann("minutes with a PDF", minutes(), Unchanged)
        },
        from_ann("a signed mail", signed(), Unchanged),
        DemoMail {
            sender: "<bounces+ben=example.com@news.example.net>",
            ..from_ann("a newsletter", newsletter(), Unchanged)
        },
        DemoMail {
            sender: "<winner4821@prize-office.example>",
            ..from_ann("ordinary spam", spam(), Modified("spam-score"))
        },
        from_ann("GTUBE, the spam test", gtube_mail(), Rejected("spam-score")),
        from_ann(
            "EICAR in a zip in a zip in a forwarded mail",
            eicar_mail(),
            Rejected("virus-scan"),
        ),
        from_ann("EICAR where only some clients see it", hidden(), Rejected("virus-scan")),
        from_ann("a program, setup.exe", program(), Modified("mime-strip")),
        DemoMail {
            sender: "<steve@@example..org>",
            ..from_ann("a sender that is no address", note(), Rejected("mail-from"))
        },
        from_ann("20 MB of measurements", measurements(), Unchanged),
    ]
}

/// The fields that most of the mails begin with.
fn header(number: u32, subject: &str, content_type: &str) -> String {
    format!(
        "Received: from mail.example.org (mail.example.org [192.0.2.25])\n\
         \tby mx.example.com with ESMTPS id 4c{number:04}; Tue, 3 Nov 2026 08:{number:02}:07 +0100\n\
         Date: Tue, 3 Nov 2026 08:{number:02}:00 +0100\n\
         From: Ann Example <ann@example.org>\n\
         To: Ben Example <ben@example.com>\n\
         Message-ID: <20261103.{number}@mail.example.org>\n\
         Subject: {subject}\n\
         Content-Type: {content_type}\n"
    )
}

const PLAIN: &str = "text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit";

fn note() -> Vec<u8> {
    let body = "Hello Ben,\n\n\
        the train was late, so I will be in the office at ten. Could you open the\n\
        window in the small room? The projector is still warm from yesterday.\n\n\
        See you,\nAnn\n";
    mail(&header(1, "Ten o'clock", PLAIN), body)
}

fn minutes() -> Vec<u8> {
    let letter = "Lieber Ben,\n\nanbei das Protokoll vom Dienstag, mit den Änderungen von Zoë.\n\n\
        Grüße\nAnn\n";
    let mut pdf = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<</Type/Catalog/Pages 2 0 R>>\nendobj\n\
        2 0 obj\n<</Type/Pages/Kids[]/Count 0>>\nendobj\n"
        .to_vec();
    pdf.extend(noise(6_000));
    pdf.extend_from_slice(b"\ntrailer\n<</Size 3/Root 1 0 R>>\n%%EOF\n");
    let parts = [text("plain", letter), attachment("application/pdf", "Protokoll.pdf", &pdf)];
    let subject = "=?utf-8?Q?Protokoll_und_=C3=84nderungen?=";
    let header = header(2, subject, "multipart/mixed; boundary=\"=_minutes\"");
    mail(&header, &multipart("=_minutes", &parts))
}

/// Folds, spaces and a body that a signature was made over: any octet that moves breaks it.
fn signed() -> Vec<u8> {
    let signature = "DKIM-Signature: v=1; a=ed25519-sha256; c=simple/simple; d=example.org;\n\
        \ts=autumn; h=from : to :\n  subject : date; bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\n\
        \tb=AnOwnTextWithoutAKeyStandsHereWhereASignatureWouldBe0123456789ab\n\t cdefghijklmnop==\n";
    let header = format!("{signature}{}", header(3, "  Signed,   with spaces", PLAIN));
    mail(&header, "Every space  counts here.   \n\n\n")
}

fn newsletter() -> Vec<u8> {
    let header = "Date: Tue, 3 Nov 2026 08:04:00 +0100\n\
        From: Garden Post <post@news.example.net>\n\
        To: ben@example.com\n\
        Message-ID: <gp-2026-11@news.example.net>\n\
        Subject: Garden Post, November: what to plant before the frost\n\
        List-Id: Garden Post <garden-post.news.example.net>\n\
        List-Unsubscribe: <https://news.example.net/u/7f3a>\n\
        List-Unsubscribe-Post: List-Unsubscribe=One-Click\n\
        Content-Type: multipart/alternative; boundary=\"=_post\"\n";
    let plain = "Garlic and broad beans go in now; tulips until the middle of the month.\n\
        The whole calendar: https://news.example.net/november\n\n\
        You get this letter because you asked for it on our web site.\n";
    let html = "<html><head><title>Garden Post</title></head><body>\n\
        <h1>November</h1>\n\
        <p>Garlic and broad beans go in now; tulips until the middle of the month.</p>\n\
        <p><a href=\"https://news.example.net/november\">The whole calendar</a></p>\n\
        <p><small>You get this letter because you asked for it on our web site.\n\
        <a href=\"https://news.example.net/u/7f3a\">Leave the list</a></small></p>\n\
        </body></html>\n";
    mail(header, &multipart("=_post", &[text("plain", plain), text("html", html)]))
}

fn spam() -> Vec<u8> {
    let header = "Date: Tue, 3 Nov 2026 08:05:00 +0100\n\
        From: \"Prize Office\" <claims@lucky-draw.example>\n\
        Reply-To: barrister.johnson@mail-box.example\n\
        To: ben@example.com\n\
        Message-ID: <4821@lucky-draw.example>\n\
        Subject: CONGRATULATIONS!!! YOU HAVE WON\n\
        Content-Type: text/html; charset=utf-8\n\
        Content-Transfer-Encoding: 8bit\n";
    let body = "<html><body><font color=\"red\" size=\"7\">DEAR FRIEND,</font>\n\
        <p>You are the lucky WINNER of our online lottery. This is 100% FREE and risk free,\n\
        there is no obligation! Act now: this is a limited time offer.</p>\n\
        <p><a href=\"http://lucky-draw.example/claim?id=4821\">CLICK HERE</a> to claim your prize\n\
        of $850,000.00 by bank transfer. Send your bank account number today.</p>\n\
        </body></html>\n";
    mail(header, body)
}

fn gtube_mail() -> Vec<u8> {
    let body = format!("This line is what every spam filter is tried with:\n\n{}\n", gtube());
    mail(&header(6, "A test of the spam filter", PLAIN), &body)
}

fn eicar_mail() -> Vec<u8> {
    let archive = zip("documents.zip", &zip("invoice.com", eicar().as_bytes()));
    let inner = [
        text("plain", "The invoice is in the archive.\n"),
        attachment("application/zip", "invoice.zip", &archive),
    ];
    let forwarded = format!(
        "Content-Type: message/rfc822\n\n\
         Date: Mon, 2 Nov 2026 17:30:00 +0100\n\
         From: accounts@example.net\n\
         To: ann@example.org\n\
         Subject: Your invoice\n\
         MIME-Version: 1.0\n\
         Content-Type: multipart/mixed; boundary=\"=_invoice\"\n\n{}",
        multipart("=_invoice", &inner)
    );
    let parts = [text("plain", "Ben, do you know what this is? I can't open it.\n"), forwarded];
    let header = header(7, "Fwd: Your invoice", "multipart/mixed; boundary=\"=_forward\"");
    mail(&header, &multipart("=_forward", &parts))
}

/// A part behind the last delimiter, where a message is over for most clients and for most filters.
fn hidden() -> Vec<u8> {
    let seen = multipart("=_list", &[text("plain", "Ben, the list is attached.\n")]);
    let behind = attachment("application/octet-stream", "list.com", eicar().as_bytes());
    let header = header(11, "The list", "multipart/mixed; boundary=\"=_list\"");
    mail(&header, &format!("{seen}--=_list\n{behind}\n--=_list--\n"))
}

fn program() -> Vec<u8> {
    // What a program of DOS begins with, and nothing that could run.
    let mut harmless = b"MZ\x90\0\x03\0\0\0\x04\0\0\0\xff\xff\0\0".to_vec();
    harmless.resize(4_096, 0);
    let parts = [
        text("plain", "The new version of the time sheet is attached.\n"),
        attachment("application/octet-stream", "setup.exe", &harmless),
    ];
    let header = header(8, "The new time sheet", "multipart/mixed; boundary=\"=_program\"");
    mail(&header, &multipart("=_program", &parts))
}

fn measurements() -> Vec<u8> {
    /// What gives 20 MB of base64 with its line ends.
    const OCTETS: usize = 14_600_000;
    let parts = [
        text("plain", "The measurements of October.\n"),
        attachment("application/octet-stream", "october.dat", &noise(OCTETS)),
    ];
    let header = header(10, "October", "multipart/mixed; boundary=\"=_october\"");
    mail(&header, &multipart("=_october", &parts))
}

/// The spam test (GTUBE), in pieces here so that nobody's filter rejects this file.
fn gtube() -> String {
    ["XJS*C4JDBQADN1", ".NSBN3*2IDNEN*", "GTUBE-STANDARD-", "ANTI-UBE-TEST-EMAIL", "*C.34X"]
        .concat()
}

/// The virus test (EICAR), in pieces here so that nobody's scanner takes this file away.
fn eicar() -> String {
    ["X5O!P%@AP[4\\PZX54", "(P^)7CC)7}$EICAR-", "STANDARD-ANTIVIRUS", "-TEST-FILE!$H+H*"].concat()
}

/// Octets without a pattern, always the same (xorshift64).
fn noise(count: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut octets = Vec::with_capacity(count + 8);
    while octets.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        octets.extend_from_slice(&state.to_le_bytes());
    }
    octets.truncate(count);
    octets
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use services::mail::{Mail, header_length};

    use super::*;

    static MAILS: LazyLock<Vec<DemoMail>> = LazyLock::new(mails);

    fn parsed(demo: &DemoMail) -> Mail {
        let header = header_length(&demo.octets);
        Mail::new(demo.octets.slice(..header), demo.octets.slice(header..))
    }

    #[test]
    fn every_line_ends_with_crlf_and_none_is_too_long() {
        for demo in MAILS.iter() {
            assert!(demo.octets.ends_with(b"\r\n"), "{}", demo.name);
            for line in demo.octets.split(|octet| *octet == b'\n') {
                let Some((last, text)) = line.split_last() else { continue };
                assert!(*last == b'\r' && !text.contains(&b'\r'), "{}: {line:?}", demo.name);
                assert!(text.len() <= 998, "{}", demo.name);
            }
        }
    }

    #[test]
    fn every_mail_has_the_fields_of_a_mail_and_whole_parts() {
        for demo in MAILS.iter() {
            let mail = parsed(demo);
            for name in ["Date", "From", "To", "Subject", "MIME-Version", "Content-Type"] {
                assert_eq!(mail.fields_named(name).count(), 1, "{name} in {}", demo.name);
            }
            assert_eq!(mail.is_truncated().unwrap(), None);
            let parts = mail.parts().unwrap();
            let leaves = parts.iter().filter(|part| part.content_type.is_text()).count();
            assert!(leaves >= 1, "{}", demo.name);
        }
    }

    #[test]
    fn the_mails_are_the_same_every_time() {
        assert!(MAILS.iter().zip(&mails()).all(|(a, b)| a.octets == b.octets));
    }

    #[test]
    fn the_virus_test_lies_four_deep_and_comes_out_again() {
        let demo = MAILS.iter().find(|d| d.expectation == Expectation::Rejected("virus-scan"));
        let mail = parsed(demo.unwrap());
        let parts = mail.parts().unwrap();
        let part = parts.iter().find(|p| p.names.contains(&"invoice.zip".into())).unwrap();
        assert_eq!(part.depth, 3);
        let mut octets = mail.decoded(part, 10_000).unwrap().octets.to_vec();
        for _ in 0..2 {
            let mut archive = zip::ZipArchive::new(std::io::Cursor::new(octets)).unwrap();
            octets = Vec::new();
            std::io::copy(&mut archive.by_index(0).unwrap(), &mut octets).unwrap();
        }
        assert_eq!(octets.len(), 68);
        assert_eq!(octets, eicar().as_bytes());
    }

    #[test]
    fn the_hidden_one_is_behind_the_end() {
        let demo = MAILS.iter().find(|demo| demo.name.contains("only some clients")).unwrap();
        let mail = parsed(demo);
        assert!(mail.parts().unwrap().iter().all(|part| part.names.is_empty()));
        let others = mail.other_parts().unwrap().iter();
        let hidden = others.map(|other| &other.part).find(|part| !part.names.is_empty()).unwrap();
        assert_eq!(mail.decoded(hidden, 100).unwrap().octets, eicar().as_bytes());
    }

    #[test]
    fn no_test_string_stands_in_this_file_in_one_piece() {
        let source = include_str!("mails.rs");
        assert!(!source.contains(&eicar()) && !source.contains(&gtube()));
    }

    #[test]
    fn the_large_one_is_20_mb() {
        let largest = MAILS.iter().map(|demo| demo.octets.len()).max().unwrap();
        assert!((19_900_000..20_100_000).contains(&largest), "{largest}");
    }
}
