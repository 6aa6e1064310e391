//! Messages that are larger than the memory that `opes-mta smtp` may use for them.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use ocp_proto::smtp::{Command, EffectName, SideEffect};
use services::mail::Edits;
use services::{Change, Declaration, Finding, Outcome, Request};
use tempfile::tempdir;
use tests::scripted::{Script, Scripted, sender};
use tests::smtp::Client;
use tests::{CalloutServer, Milter, files, program, text};

const MIB: u64 = 1024 * 1024;

/// What the proxy's memory may grow by for one message at a time, whatever its size.
const MOST_GROWTH: u64 = 32 * MIB;

/// What it may grow by for each of many at a time. What is read together with a piece is held together with it,
/// so that memory-octets count three times; then there are a block that is filled, one to the server and one to
/// the next hop; and as much again for what the allocator holds back.
const MOST_GROWTH_EACH: u64 = 8 * MIB;

const HEADER: &str = "From: a@a.example\r\nSubject: large\r\n\r\n";

/// Octets of a line of the body, with CRLF.
const LINE: usize = 500;

/// Lines that the client sends at a time.
const LINES: u64 = 100;

/// How many lines the body of a large message has.
fn lines() -> u64 {
    let size = if std::env::var_os("OPES_TESTS_FULL").is_some() { 300 } else { 32 } * MIB;
    size / LINE as u64
}

/// A line that says which one it is, after a dot now and then.
fn write_line(number: u64, line: &mut Vec<u8>) {
    let start = line.len();
    line.extend_from_slice(if number.is_multiple_of(7) { b"." } else { b"-" });
    line.extend_from_slice(format!("{number:012}").as_bytes());
    line.resize(start + LINE - 2, b'a' + (number % 26) as u8);
    line.extend_from_slice(b"\r\n");
}

/// What a message came to.
#[derive(Debug, PartialEq, Eq)]
struct Arrived {
    header: String,
    /// Lines of the body that are those of a large message, in order.
    lines: u64,
    /// The first that is not.
    wrong: Option<String>,
}

impl Arrived {
    /// A header section, and so many lines.
    fn of(header: &str, lines: u64) -> Self {
        Self { header: header.to_owned(), lines, wrong: None }
    }

    /// Reads a message up to its end: of the line behind it if dots are stuffed.
    fn read(reader: &mut impl BufRead, is_stuffed: bool) -> std::io::Result<Self> {
        let mut arrived = Self::of("", 0);
        let (mut line, mut expected, mut is_body) = (Vec::new(), Vec::new(), false);
        loop {
            line.clear();
            let count = reader.read_until(b'\n', &mut line)?;
            if count == 0 && is_stuffed {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if count == 0 || is_stuffed && line == b".\r\n" {
                return Ok(arrived);
            }
            let line = &line[usize::from(is_stuffed && line[0] == b'.')..];
            if !is_body {
                arrived.header.push_str(&String::from_utf8_lossy(line));
                is_body = line == b"\r\n";
                continue;
            }
            expected.clear();
            write_line(arrived.lines, &mut expected);
            if line == expected && arrived.wrong.is_none() {
                arrived.lines += 1;
            } else {
                arrived.wrong.get_or_insert_with(|| String::from_utf8_lossy(line).into_owned());
            }
        }
    }
}

/// A next hop that compares what arrives, and keeps none of it.
struct Comparing {
    port: u16,
    arrived: Receiver<Arrived>,
}

impl Comparing {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let port = listener.local_addr().expect("it is bound").port();
        let (sender, arrived) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let sender = sender.clone();
                // A proxy that goes away has nothing more for us.
                thread::spawn(move || drop(Self::serve(stream, &sender)));
            }
        });
        Self { port, arrived }
    }

    fn serve(mut stream: TcpStream, arrived: &Sender<Arrived>) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::with_capacity(256 * 1024, stream.try_clone()?);
        stream.write_all(b"220 next.example ESMTP\r\n")?;
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 {
            if line.starts_with("DATA") {
                stream.write_all(b"354 go on\r\n")?;
                let message = Arrived::read(&mut reader, true)?;
                arrived.send(message).map_err(std::io::Error::other)?;
            }
            stream.write_all(b"250 2.0.0 ok\r\n")?;
            line.clear();
        }
        Ok(())
    }

    fn next(&self) -> Arrived {
        self.arrived.recv_timeout(Duration::from_secs(120)).expect("a message arrives")
    }
}

/// Says MAIL and RCPT.
fn begin(client: &mut Client, sender: &str) {
    for command in [&format!("MAIL FROM:<{sender}@a.example>"), "RCPT TO:<b@b.example>"] {
        let reply = client.say(command);
        assert!(reply.starts_with("250"), "{command}: {reply}");
    }
}

/// A large message by DATA: the reply to it.
fn by_data(client: &mut Client, sender: &str, lines: u64) -> String {
    begin(client, sender);
    let reply = client.say("DATA");
    assert!(reply.starts_with("354"), "{reply}");
    client.send(HEADER.as_bytes());
    let mut octets = Vec::new();
    for number in 0..lines {
        if number.is_multiple_of(7) {
            octets.push(b'.');
        }
        write_line(number, &mut octets);
        if number % LINES == LINES - 1 || number == lines - 1 {
            client.send(&octets);
            octets.clear();
        }
    }
    client.send(b".\r\n");
    client.reply()
}

/// The same in chunks of about 5 MB: the reply to the last, or the first that is no success.
fn by_bdat(client: &mut Client, sender: &str, lines: u64) -> String {
    begin(client, sender);
    let reply = chunks(client, lines);
    if reply.starts_with("250") { client.say("BDAT 0 LAST") } else { reply }
}

/// All chunks but the last one, which is empty: the last reply, or the first that is no success.
fn chunks(client: &mut Client, lines: u64) -> String {
    let (mut octets, mut reply) = (HEADER.as_bytes().to_vec(), String::new());
    for number in 0..lines {
        write_line(number, &mut octets);
        if number % 10_000 == 9_999 || number == lines - 1 {
            client.send(format!("BDAT {}\r\n", octets.len()).as_bytes());
            client.send(&octets);
            octets.clear();
            reply = client.reply();
            if !reply.starts_with("250") {
                return reply;
            }
        }
    }
    reply
}

fn group(server: &str, service: &str) -> String {
    format!(
        "[[group]]\nname = \"a\"\nservers = [\"{server}\"]\nservices = [\"{service}\"]\n\
         content-deadline = 270\n[limits]\nmessage-octets = 400000000\n"
    )
}

fn proxy(folder: &Path, hop: &Comparing, config: &str) -> Milter {
    let next_hop = format!("127.0.0.1:{}", hop.port);
    Milter::start_proxy("127.0.0.1:0", &next_hop, folder, config)
}

const SERVER: &str =
    "[limits]\nmessage-octets = 400000000\n[services.log.settings]\nparts = true\n";

/// The temporary files that the proxy has.
fn temporary(proxy: &Milter) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", proxy.pid())).expect("it runs");
    let links = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().ends_with(" (deleted)")).count()
}

/// Somebody may still have a slice of a message whose client has its reply: a service that only watched.
fn all_are_gone(proxy: &Milter) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while temporary(proxy) > 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(temporary(proxy), 0);
}

#[test]
fn a_large_message_passes_octet_for_octet_in_bounded_memory() {
    let folder = tempdir().expect("a folder");
    let server = CalloutServer::start(folder.path(), SERVER, &[]);
    let hop = Comparing::start();
    let proxy = proxy(folder.path(), &hop, &group(server.address(), "log"));
    let mut client = Client::greeted(proxy.port());
    // A small message first: what every message costs is not what this is about.
    assert!(by_data(&mut client, "a", 1).starts_with("250"));
    assert_eq!(hop.next(), Arrived::of(HEADER, 1));
    let before = proxy.memory();
    for name in ["DATA", "BDAT"] {
        let begin = Instant::now();
        let reply = match name {
            "DATA" => by_data(&mut client, "a", lines()),
            _ => by_bdat(&mut client, "a", lines()),
        };
        assert!(reply.starts_with("250"), "{name}: {reply}");
        assert_eq!(hop.next(), Arrived::of(HEADER, lines()), "{name}");
        let (growth, took) = (proxy.peak_memory().saturating_sub(before), begin.elapsed());
        let size = lines() * LINE as u64 / MIB;
        println!("{name}: {} KiB of growth for {size} MiB in {took:?}", growth >> 10);
        assert!(growth < MOST_GROWTH, "{name}: {growth} octets");
    }
    all_are_gone(&proxy);
}

#[test]
fn many_large_messages_at_a_time_take_bounded_memory() {
    const CLIENTS: u64 = 10;
    let folder = tempdir().expect("a folder");
    let server = CalloutServer::start(folder.path(), SERVER, &[]);
    let hop = Comparing::start();
    let proxy = proxy(folder.path(), &hop, &group(server.address(), "log"));
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::greeted(proxy.port())).collect();
    for client in &mut clients {
        assert!(by_data(client, "a", 1).starts_with("250"));
        hop.next();
    }
    let before = proxy.memory();
    thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| {
                let reply = by_data(client, "a", lines());
                assert!(reply.starts_with("250"), "{reply}");
            });
        }
    });
    for _ in 0..CLIENTS {
        assert_eq!(hop.next(), Arrived::of(HEADER, lines()));
    }
    let growth = proxy.peak_memory().saturating_sub(before);
    println!("{} KiB of growth for {CLIENTS} messages", growth >> 10);
    assert!(growth < CLIENTS * MOST_GROWTH_EACH, "{growth} octets");
    all_are_gone(&proxy);
}

/// Marks what comes from `mark`, and keeps what comes from `keep`.
fn marking(name: &'static str) -> Script {
    let effects = vec![EffectName::Quarantine];
    let declaration = Declaration { effects, ..Declaration::on([Command::Message]) };
    Script { name, declaration, answer: mark }
}

fn mark(request: &Request) -> (Duration, Outcome) {
    let mut edits = Edits::new();
    edits.prepend_field(request.mail().expect("it is about content"), "X-Mark", "new");
    let outcome = match sender(request).as_str() {
        "mark" => Outcome::changed(Change::Content(edits), "marked"),
        "keep" => Outcome::changed(Change::Content(edits), "marked")
            .with_effect(SideEffect::Quarantine("to be looked at".into())),
        _ => Outcome::unchanged(Finding::new("passed")),
    };
    (Duration::ZERO, outcome)
}

#[test]
fn a_large_message_that_is_marked_or_kept_stays_in_its_file() {
    let folder = tempdir().expect("a folder");
    let server = Scripted::start_with(SERVER, &[marking("marking"), marking("again")]);
    let hop = Comparing::start();
    let config = folder.path().join("opes-mta.toml");
    // The second group sees what the first has made of it, and the third one watches.
    let more = |name, service, rest| {
        let address = &server.address;
        format!(
            "[[group]]\nname = \"{name}\"\nservers = [\"{address}\"]\nservices = [\"{service}\"]\n\
             content-deadline = 270\n{rest}"
        )
    };
    let groups = [more("b", "again", ""), more("c", "again", "shadow = true\n")].concat();
    let first = group(&server.address, "marking");
    fs::write(&config, format!("{first}shadow-octets = 1073741824\n{groups}")).expect("a file");
    let mut command = program("opes-mta");
    let next_hop = format!("127.0.0.1:{}", hop.port);
    command.args(["smtp", "--listen", "127.0.0.1:0", "--next-hop", &next_hop, "--config"]);
    command.arg(config).arg("--quarantine").arg(folder.path().join("quarantine"));
    command.arg("--spool").arg(folder.path().join("spool"));
    let mut proxy = Milter::run(command);
    let mut client = Client::greeted(proxy.port());
    let marked = format!("X-Mark: new\r\nX-Mark: new\r\n{HEADER}");
    assert!(by_data(&mut client, "mark", 1).starts_with("250"));
    assert_eq!(hop.next(), Arrived::of(&marked, 1));
    let before = proxy.memory();
    let reply = by_data(&mut client, "mark", lines());
    assert!(reply.starts_with("250"), "{reply}");
    assert_eq!(hop.next(), Arrived::of(&marked, lines()));
    let reply = by_data(&mut client, "keep", lines());
    assert!(reply.starts_with("250"), "{reply}");
    let growth = proxy.peak_memory().saturating_sub(before);
    println!("{} KiB of growth", growth >> 10);
    assert!(growth < MOST_GROWTH, "{growth} octets");
    assert_eq!(hop.arrived.try_iter().count(), 0);
    let size = (marked.len() as u64) + lines() * LINE as u64;
    let is_it = |path: &&std::path::PathBuf| path.metadata().is_ok_and(|file| file.len() == size);
    let kept = files(&folder.path().join("quarantine"));
    let kept = kept.iter().find(is_it).expect("it is kept");
    let mut kept = BufReader::new(File::open(kept).expect("it is a file"));
    assert_eq!(Arrived::read(&mut kept, false).expect("it is read"), Arrived::of(&marked, lines()));
    for _ in 0..3 {
        let line = proxy.wait_for("shadow");
        assert!(matches!(text(&line, "decision").as_str(), "modify" | "quarantine"), "{line}");
    }
    all_are_gone(&proxy);
}

#[test]
fn a_full_disk_budget_puts_a_message_off_and_not_the_next_one() {
    let folder = tempdir().expect("a folder");
    let server = Scripted::start_with(SERVER, &[marking("marking")]);
    let hop = Comparing::start();
    let lines = 32 * MIB / LINE as u64;
    let config = group(&server.address, "marking").replace("400000000", "40000000");
    let mut proxy = proxy(folder.path(), &hop, &format!("{config}disk-octets = 40000000\n"));
    let [mut first, mut second] = [(); 2].map(|()| Client::greeted(proxy.port()));
    begin(&mut first, "a");
    assert!(chunks(&mut first, lines).starts_with("250"));
    assert_eq!(temporary(&proxy), 1);
    let reply = by_data(&mut second, "b", lines);
    assert_eq!(reply, "452 4.3.1 Too much mail is under way, try again later");
    let line = proxy.wait_for("a message is refused");
    assert_eq!(text(&line, "stage"), "content");
    assert_eq!(text(&line, "cause"), "temporary files have disk-octets already");
    assert_eq!(temporary(&proxy), 1, "that of the other one");
    assert!(by_data(&mut second, "b", 1).starts_with("250"), "a small one needs no file");
    assert_eq!(hop.next(), Arrived::of(HEADER, 1));
    assert!(first.say("BDAT 0 LAST").starts_with("250"));
    assert_eq!(hop.next(), Arrived::of(HEADER, lines));
    all_are_gone(&proxy);
    assert!(by_data(&mut second, "mark", lines).starts_with("250"));
    assert_eq!(hop.next(), Arrived::of(&format!("X-Mark: new\r\n{HEADER}"), lines));
    all_are_gone(&proxy);
}

/// Cuts the proxy's temporary file off, as if the disk had lost it.
fn truncate(proxy: &Milter) {
    for entry in fs::read_dir(format!("/proc/{}/fd", proxy.pid())).expect("it runs") {
        let path = entry.expect("its entries too").path();
        if fs::read_link(&path).is_ok_and(|link| link.to_string_lossy().ends_with(" (deleted)")) {
            let file = File::options().write(true).open(path).expect("it can be opened");
            file.set_len(0).expect("it can be cut off");
        }
    }
}

#[test]
fn a_message_that_cannot_be_read_any_more_is_put_off_and_goes_nowhere() {
    let folder = tempdir().expect("a folder");
    let server = Scripted::start(&[marking("marking")]);
    let hop = Comparing::start();
    let asked =
        group(&server.address, "marking").replace("content", "on-failure = \"accept\"\ncontent");
    let unasked = format!("{asked}[[rule]]\ngroups = []\n");
    for (config, expected) in [
        (asked, [("adaptation failed", "sending"), ("message", "")]),
        (unasked, [("message", ""), ("the dialog of a client broke", "content")]),
    ] {
        let mut proxy = proxy(folder.path(), &hop, &config);
        let mut client = Client::greeted(proxy.port());
        begin(&mut client, "a");
        assert!(chunks(&mut client, 10_000).starts_with("250"));
        truncate(&proxy);
        let reply = client.say("BDAT 0 LAST");
        assert!(reply.starts_with("451 4.3.0 "), "{reply}");
        for (message, stage) in expected {
            let line = proxy.wait_for(message);
            if message == "message" {
                assert_eq!(text(&line, "decision"), "tempfail", "{line}");
                continue;
            }
            let cause = text(&line, "cause");
            let said = "can't be read: a temporary file in /";
            assert!(cause.contains(said), "{cause}");
            assert_eq!(text(&line, "stage"), stage);
        }
        all_are_gone(&proxy);
    }
    assert_eq!(hop.arrived.try_iter().count(), 0);
}

#[test]
fn what_comes_without_an_end_of_its_header_section_is_refused() {
    let folder = tempdir().expect("a folder");
    let server = Scripted::start(&[marking("marking")]);
    let hop = Comparing::start();
    let mut proxy = proxy(folder.path(), &hop, &group(&server.address, "marking"));
    let mut client = Client::greeted(proxy.port());
    begin(&mut client, "a");
    assert!(client.say("DATA").starts_with("354"));
    let field = format!("X-Field: {}\r\n", "x".repeat(989));
    client.send(field.repeat(1_049).as_bytes());
    client.send(b".\r\n");
    assert_eq!(client.reply(), "552 5.3.4 The header section is too large");
    let line = proxy.wait_for("a message is refused");
    assert_eq!(text(&line, "stage"), "content");
    assert_eq!(text(&line, "cause"), "the header section has more than 1048576 octets");
    assert!(by_data(&mut client, "a", 1).starts_with("250"));
    assert_eq!(hop.next(), Arrived::of(HEADER, 1));
}
