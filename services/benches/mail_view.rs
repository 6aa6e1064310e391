//! The mail view and edits beside `mail-parser` alone and Python's email package, on the same mails in one run.
//!
//! `mail-parser` and Python decode all that they parse. The view does not, so there is one line for the view, one for it
//! with every reading of the mail, one with all leaves decoded, and one for the edits that take the largest part out.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::hint::black_box;
use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mail_parser::MessageParser;
use services::mail::{Edits, Mail, Notice, PartKind, header_length};

/// How long each thing is measured.
const TIME: Duration = Duration::from_millis(700);

fn main() {
    let mails = [
        ("text, 4 KB", text(4)),
        ("text and HTML, 40 KB", alternative(40)),
        ("50 parts, 500 KB", parts(50, 10)),
        ("attachment, 10 MB", parts(1, 10_000)),
    ];
    println!("times of mail-parser; above 1 is faster\n");
    println!(
        "{:24}{:>12}{:>8}{:>14}{:>10}{:>8}{:>8}",
        "", "mail-parser", "view", "all readings", "decoded", "strip", "Python"
    );
    for (name, mail) in mails {
        let peer = measure(|| parsed(&mail));
        let times = [
            measure(|| view(&mail)),
            measure(|| all_readings(&mail)),
            measure(|| decoded(&mail)),
            measure(|| strip(&mail)),
        ];
        let [view, all, decoded, strip] = times.map(|time| peer / time);
        let python =
            python(&mail).map_or("not here".to_owned(), |time| format!("{:.2}", peer / time));
        let rate = format!("{:.0} MB/s", mail.len() as f64 / peer / 1e6);
        println!("{name:24}{rate:>12}{view:>8.2}{all:>14.2}{decoded:>10.2}{strip:>8.2}{python:>8}");
    }
}

/// Seconds that it takes.
fn measure(mut what: impl FnMut() -> usize) -> f64 {
    black_box(what());
    let start = Instant::now();
    let mut rounds = 0_u32;
    while start.elapsed() < TIME {
        black_box(what());
        rounds += 1;
    }
    start.elapsed().as_secs_f64() / f64::from(rounds)
}

fn mail(octets: &Bytes) -> Mail {
    let header = header_length(octets);
    Mail::new(octets.slice(..header), octets.slice(header..))
}

fn parsed(octets: &Bytes) -> usize {
    MessageParser::default().parse(&octets[..]).unwrap().parts.len()
}

fn view(octets: &Bytes) -> usize {
    mail(octets).parts().unwrap().len()
}

fn all_readings(octets: &Bytes) -> usize {
    let mail = mail(octets);
    mail.parts().unwrap().len() + mail.other_parts().unwrap().len()
}

fn decoded(octets: &Bytes) -> usize {
    let mail = mail(octets);
    let leaves = mail.parts().unwrap().iter().filter(|part| part.kind == PartKind::Leaf);
    leaves
        .map(|part| match part.content_type.is_text() {
            true => mail.text(part, usize::MAX).unwrap().len(),
            false => mail.decoded(part, usize::MAX).unwrap().octets.len(),
        })
        .sum()
}

fn strip(octets: &Bytes) -> usize {
    let mail = mail(octets);
    let leaves = mail.parts().unwrap().iter().filter(|part| part.kind == PartKind::Leaf);
    let largest = leaves.max_by_key(|part| part.body.len()).unwrap();
    let mut edits = Edits::new();
    let notice = Notice { text: "removed", filename: Some("removed.txt") };
    edits.replace_part(&mail, largest, notice).unwrap();
    mail.edited(&edits).unwrap().version().body.len()
}

/// Seconds that Python's email package takes to parse a mail and decode its leaves.
fn python(octets: &Bytes) -> Option<f64> {
    const PROGRAM: &str = "
import email, email.policy, sys, time
octets = open(sys.argv[1], 'rb').read()
start, rounds = time.perf_counter(), 0
while rounds == 0 or time.perf_counter() - start < 0.7:
    mail = email.message_from_bytes(octets, policy=email.policy.default)
    for part in mail.walk():
        part.get_payload(decode=True)
    rounds += 1
print((time.perf_counter() - start) / rounds)
";
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(octets).unwrap();
    let output = Command::new("python3").args(["-c", PROGRAM]).arg(file.path()).output().ok()?;
    let mut time = String::new();
    output.stdout.as_slice().read_to_string(&mut time).ok()?;
    time.trim().parse().ok()
}

const HEADER: &str = "Received: from mail.example.org (mail.example.org [192.0.2.1])\r\n\
    \tby mx.example.com (Postfix) with ESMTPS id 4XyzAB1234\r\n\
    \tfor <paul@example.com>; Mon,  1 Jun 2026 12:00:00 +0000 (UTC)\r\n\
    From: =?utf-8?Q?Andr=C3=A9?= <steve@example.org>\r\nTo: Paul <paul@example.com>\r\n\
    Subject: What the measuring instruments say\r\nDate: Mon, 1 Jun 2026 12:00:00 +0000\r\n\
    Message-ID: <1@example.org>\r\nMIME-Version: 1.0\r\n";

const LINE: &str = "The water stands at four metres and twelve, and does not rise.\r\n";

fn text(kilobytes: usize) -> Bytes {
    let body = LINE.repeat(kilobytes * 1_000 / LINE.len());
    format!("{HEADER}Content-Type: text/plain; charset=utf-8\r\n\r\n{body}").into()
}

fn alternative(kilobytes: usize) -> Bytes {
    let lines = kilobytes * 500 / LINE.len();
    let html = format!("<p style=3D\"x\">{}</p>=\r\n", LINE.trim_end());
    format!(
        "{HEADER}Content-Type: multipart/alternative; boundary=\"=_b\"\r\n\r\n\
         --=_b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{}\r\n\
         --=_b\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n{}\r\n\
         --=_b--\r\n",
        LINE.repeat(lines),
        html.repeat(lines)
    )
    .into()
}

/// So many attachments of so many kilobytes each, encoded.
fn parts(count: usize, kilobytes: usize) -> Bytes {
    let line = "TWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcmsuTWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcmsuIC4u\r\n";
    let content = line.repeat(kilobytes * 1_000 / line.len());
    let part = |nth: usize| {
        format!(
            "--=_b\r\nContent-Type: application/pdf; name=\"report {nth}.pdf\"\r\nContent-Transfer-Encoding: base64\r\n\
             Content-Disposition: attachment; filename=\"report {nth}.pdf\"\r\n\r\n{content}\r\n"
        )
    };
    let parts: String = (0..count).map(part).collect();
    format!("{HEADER}Content-Type: multipart/mixed; boundary=\"=_b\"\r\n\r\n{parts}--=_b--\r\n")
        .into()
}
