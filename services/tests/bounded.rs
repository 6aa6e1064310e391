//! Large mails go through every service in bounded memory. In a process of their own, since a
//! process's memory says nothing if other tests use it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::time::Instant;

use ocp_proto::smtp::{Command, DialogFacts, Envelope};
use ocp_proto::wire::Structure;
use services::mail::{Mail, Octets};
use services::{Input, Registry, Request, Settings};

/// Octets of a large mail; less where the compiler does not optimise.
const SIZE: usize = if cfg!(debug_assertions) { 32_000_000 } else { 300_000_000 };
/// What the resident memory of the process may grow by; less than any of the mails.
const MOST_GROWTH: usize = 16_000_000;

/// A mail that is written to a file.
struct Spooled {
    file: BufWriter<File>,
    length: usize,
    header: &'static str,
}

impl Write for Spooled {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(octets)?;
        self.length += count;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

const HEADER: &str = "From: <a@example.org>\r\nSubject: large\r\nDate: Mon, 6 May 2024 10:00:00 +0000\r\n\
    MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n";

impl Spooled {
    /// A mail with a text and an attachment whose body comes next.
    fn new(transfer: &str) -> Self {
        let file = BufWriter::new(tempfile::tempfile().unwrap());
        let mut mail = Self { file, length: 0, header: HEADER };
        write!(
            mail,
            "--b\r\n\r\nhello\r\n--b\r\nContent-Type: application/x; name=large.bin\r\n\
             Content-Transfer-Encoding: {transfer}\r\n\r\n"
        )
        .unwrap();
        mail
    }

    fn done(mut self) -> Arc<Mail> {
        if self.header == HEADER {
            self.write_all(b"\r\n--b--\r\n").unwrap();
        }
        let file = self.file.into_inner().unwrap();
        let body = Octets::from_file(Arc::new(file), self.length);
        Arc::new(Mail::new(self.header.into(), body))
    }
}

/// One text, line by line.
fn text() -> Arc<Mail> {
    let file = BufWriter::new(tempfile::tempfile().unwrap());
    let mut mail = Spooled { file, length: 0, header: "Subject: large\r\n\r\n" };
    let mut line = 0;
    while mail.length < SIZE {
        line += 1;
        write!(mail, "Line {line} of a text that goes on and on, as texts of machines do.\r\n")
            .unwrap();
    }
    mail.done()
}

fn eicar() -> Vec<u8> {
    let parts =
        [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$", "EICAR-STANDARD-", "ANTIVIRUS-", "TEST-FILE!$H+H*"];
    parts.concat().into_bytes()
}

/// A zip archive of a large file, and the test virus behind it.
fn archive(size: usize, method: zip::CompressionMethod) -> File {
    let mut writer = zip::ZipWriter::new(tempfile::tempfile().unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    writer.start_file("large.bin", options).unwrap();
    let mut state = 1u64;
    let mut written = 0;
    let mut piece = Vec::new();
    while written < size {
        piece.clear();
        for _ in 0..8_192 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let word = state.to_le_bytes();
            // Half of it repeats, so that it can be compressed and is no bomb.
            piece.extend_from_slice(&[word[7], word[6], word[7], word[6]]);
        }
        writer.write_all(&piece).unwrap();
        written += piece.len();
    }
    writer.start_file("virus.com", options).unwrap();
    writer.write_all(&eicar()).unwrap();
    writer.finish().unwrap()
}

fn octets(file: File) -> Octets {
    let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
    Octets::from_file(Arc::new(file), length)
}

/// An archive as it is, which some systems send.
fn binary() -> Arc<Mail> {
    let mut mail = Spooled::new("binary");
    let archive = octets(archive(SIZE * 2 / 3, zip::CompressionMethod::Stored));
    std::io::copy(&mut archive.reader(), &mut mail).unwrap();
    mail.done()
}

/// An archive in base64.
fn base64() -> Arc<Mail> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut mail = Spooled::new("base64");
    let archive = octets(archive(SIZE * 2 / 3, zip::CompressionMethod::Deflated));
    let mut at = 0;
    while at < archive.len() {
        let line = archive.read(at..at + 57).unwrap();
        at += line.len();
        let mut encoded = [b'='; 78];
        for (group, out) in line.chunks(3).zip(encoded.chunks_mut(4)) {
            let bits = group.iter().fold(0u32, |bits, octet| bits << 8 | u32::from(*octet));
            let bits = bits << (8 * (3 - group.len()));
            for (place, out) in out.iter_mut().enumerate().take(group.len() + 1) {
                *out = ALPHABET[(bits >> (18 - 6 * place) & 63) as usize];
            }
        }
        let length = line.len().div_ceil(3) * 4;
        encoded[length..length + 2].copy_from_slice(b"\r\n");
        mail.write_all(&encoded[..length + 2]).unwrap();
    }
    mail.done()
}

/// Makes what the process uses now its peak, and tells it; where the system can do so.
fn reset_peak() -> Option<usize> {
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    peak()
}

/// The most memory that this process has used since, in octets.
fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok()? * 1024)
}

#[tokio::test]
async fn large_mails_take_little_memory() {
    let Some(_) = reset_peak() else {
        eprintln!("not run: this system does not tell how much memory a process uses");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    // One signature of every sort; none of them is found.
    std::fs::write(folder.path().join("a.hsb"), format!("{}:*:No.Hash:73\n", "ab".repeat(32)))
        .unwrap();
    let body =
        "No.Body:0:*:6d616368696e6573{-1000}646f*206e6f7468696e67206f66207468652073{4}7274\n";
    std::fs::write(folder.path().join("a.ndb"), body).unwrap();
    let scan = "signatures = '.'\naction = 'replace'";
    let links = "folder = 'links'\nlisten = '127.0.0.1:0'\nurl = 'https://f.example'";
    let kinds = [
        ("log", "", ["logged"; 3]),
        ("spam-score", "mark-ham = true", ["ham"; 3]),
        ("mime-strip", "forbidden-names = ['*.doc']", ["clean", "stripped", "stripped"]),
        ("virus-scan", scan, ["clean", "infected", "infected"]),
        ("links", links, ["unchanged", "linked", "linked"]),
        ("normalize", "new-octets = 4000000", ["corrected", "limit", "corrected"]),
    ];
    let registry = Registry::builtin();
    let mails = [("text", text as fn() -> Arc<Mail>), ("binary", binary), ("base64", base64)];
    for (index, (name, mail)) in mails.into_iter().enumerate() {
        let mail = mail();
        for (kind, settings, verdicts) in kinds {
            let settings = Settings::parse(settings, folder.path()).unwrap();
            let service = (registry.find(kind).unwrap().build)(settings).unwrap();
            service.start().await.unwrap();
            let request = Request {
                dialog: Arc::new(DialogFacts::default()),
                command: Command::Message,
                input: Input::Content(Arc::new(Mail::new(
                    mail.header().clone(),
                    mail.body().clone(),
                ))),
                envelope: Envelope::default(),
                parameters: Arc::new(Structure::default()),
                granted: Arc::new([]),
                may_notify: false,
            };
            let before = reset_peak().unwrap();
            let started = Instant::now();
            let outcome = service.handle(&request).await.unwrap();
            let took = started.elapsed().as_secs_f64();
            let grown = peak().unwrap() - before;
            let speed = mail.len() as f64 / 1e6 / took;
            eprintln!(
                "{kind}, {name}: {speed:.0} MB/s, grown by {grown} octets: {:?}",
                outcome.finding
            );
            assert_eq!(outcome.finding.verdict, verdicts[index], "{kind}, {name}");
            if let services::Change::Content(edits) = &outcome.change {
                let next = mail.edited(edits).unwrap();
                assert!(next.body().in_memory().is_none() || next.body().len() < 1_000_000);
                assert!(next.parts().unwrap().len() >= mail.parts().unwrap().len());
            }
            let grown = peak().unwrap() - before;
            assert!(grown < MOST_GROWTH, "{kind}, {name}: grown by {grown} octets");
        }
    }
}
