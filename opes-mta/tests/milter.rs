//! A real Postfix talks to a program made with libmilter and to one made with our module, which answer
//! alike: the same dialogs, packet for packet.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command as Program, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use opes_mta::milter::packet::MAXIMUM_PACKET;
use opes_mta::milter::{
    Actions, Client, Command, Decision, Decoder, MacroName, MacroStage, Modification, Packet,
    Reply, Session, Stage, Step, Steps, Wanted, negotiate,
};
use tempfile::tempdir;
use tests::postfix::{Port, Postfix};
use tests::smtp::{self, NextHop};

const PATIENCE: Duration = Duration::from_secs(60);

/// A message with a folded field, a field without a blank behind its colon, and one with a tab.
const MESSAGE: &[u8] =
    b"Subject: one\r\n two\r\nX-Gone:at once\r\nX-Tab:\tyes\r\nMessage-ID: <a@b>\r\n\
    Date: Sat, 01 Jan 2000 00:00:00 +0000\r\nFrom: a@example.com\r\n\r\nHello\r\n\r\n.dot\r\n";

/// What a client says in one connection, separated by commas; `.` and its like are a message after DATA.
const DIALOGS: &[(&str, &str)] = &[
    ("mail", "MAIL FROM:<a@example.com> SIZE=100, RCPT TO:<b@example.com>, ."),
    ("two-mails", "MAIL FROM:<a@b>, RCPT TO:<b@c>, ., MAIL FROM:<c@d>, RCPT TO:<d@e>, ."),
    ("nothing", "NOOP"),
    ("no-recipient", "MAIL FROM:<a@b>, DATA, RSET, DATA, RCPT TO:<a@b>"),
    ("reset", "MAIL FROM:<a@b>, RSET, RSET, MAIL FROM:<>, RCPT TO:<b@c>, ."),
    (
        "helo-again",
        "MAIL FROM:<a@b>, EHLO helo-again, RCPT TO:<b@c>, MAIL FROM:<a@b>, RCPT TO:<b@c>, HELO helo-again, DATA",
    ),
    (
        "refused-sender",
        "MAIL FROM:<refused@b>, RCPT TO:<b@c>, MAIL FROM:<later@b>, MAIL FROM:<a@b>, RCPT TO:<b@c>, .",
    ),
    ("refused-recipient", "MAIL FROM:<a@b>, RCPT TO:<refused@c>, RCPT TO:<b@c>, ."),
    (
        "refused-recipients",
        "MAIL FROM:<a@b>, RCPT TO:<refused@c>, RCPT TO:<refused@d>, DATA, RSET, MAIL FROM:<a@b>, DATA",
    ),
    ("rejected-recipient", "MAIL FROM:<a@b>, RCPT TO:<b@nowhere.example>, RCPT TO:<b@c>, ."),
    ("rejected-only", "MAIL FROM:<a@b>, RCPT TO:<b@nowhere.example>, DATA"),
    ("accepted", "MAIL FROM:<taken@b>, RCPT TO:<b@c>, ., MAIL FROM:<a@b>, RCPT TO:<b@c>, ."),
    ("discarded", "MAIL FROM:<thrown@b>, RCPT TO:<b@c>, ., MAIL FROM:<a@b>"),
    ("unwanted", "MAIL FROM:<unwanted@b>, RCPT TO:<b@c>, ., MAIL FROM:<a@b>, RCPT TO:<b@c>, ."),
    ("changed", "MAIL FROM:<changed@b>, RCPT TO:<b@example.com>, RCPT TO:<c@example.com>, ."),
    ("unknown", "FOO bar, MAIL FROM:<a@b>, FOO, RCPT TO:<b@c>, ."),
    ("header-only", "MAIL FROM:<a@b>, RCPT TO:<b@c>, .header"),
    ("empty", "MAIL FROM:<a@b>, RCPT TO:<b@c>, .empty"),
    ("large", "MAIL FROM:<a@b>, RCPT TO:<b@c>, .large"),
    ("front", "MAIL FROM:<front@b>, RCPT TO:<b@c>, .large"),
    ("large-field", "MAIL FROM:<a@b>, RCPT TO:<b@c>, .field"),
];

#[test]
fn postfix_has_the_same_dialogs_with_libmilter_and_with_us() {
    if !tests::postfix::is_there() {
        return tests::not_run("milter dialogs", "Postfix is not installed, or we are not root");
    }
    let folder = tempdir().unwrap();
    let Some(program) = libmilter_program(folder.path()) else {
        return tests::not_run("milter dialogs", "there is no C compiler with libmilter-dev");
    };
    let modes = [false, true];
    let peers = modes.map(|silent| LibmilterPeer::start(&program, silent));
    let theirs = peers.each_ref().map(|peer| Tee::start(&peer.address));
    let ours = modes.map(|silent| Tee::start(&our_peer(silent)));
    let port = |tee: &Tee| {
        Port::with_milter(&format!("inet:{}", tee.address)).and("smtpd_helo_required=no")
    };
    let ports: Vec<_> = theirs.iter().chain(&ours).map(port).collect();
    let hop = NextHop::start();
    let rejecting = "smtpd_recipient_restrictions = check_recipient_access inline:{nowhere.example=\
                     REJECT}, permit_mynetworks, reject";
    let parameters = [rejecting, "smtpd_soft_error_limit = 100"];
    let postfix = Postfix::start(folder.path(), &ports, hop.port, &parameters);
    for (mode, silent) in modes.into_iter().enumerate() {
        for (name, lines) in DIALOGS {
            let [theirs, ours] =
                [(&theirs[mode], postfix.ports[mode]), (&ours[mode], postfix.ports[mode + 2])]
                    .map(|(tee, port)| (replies(port, name, lines), tee.wait_for(name)));
            assert_eq!(ours.0, theirs.0, "{name}, silent: {silent}: what the client is told");
            let (ours, theirs) = (ours.1, theirs.1);
            assert_eq!(ours.commands(), theirs.commands(), "{name}, silent: {silent}");
            assert_eq!(ours.answers(), theirs.answers(), "{name}, silent: {silent}");
        }
    }
    let log = postfix.log();
    assert!(!log.contains("warning: milter"), "{log}");
    // What was changed was quarantined too, each time.
    assert_eq!(postfix.queued("hold").len(), 4);
}

/// What the client is told, without what differs each time.
fn replies(port: u16, name: &str, lines: &str) -> Vec<String> {
    let (mut client, greeting) = smtp::Client::connect(port);
    let mut replies = vec![greeting, client.say(&format!("EHLO {name}"))];
    for line in lines.split(", ") {
        let reply = match line {
            "." => content(&mut client, MESSAGE),
            ".header" => content(&mut client, b"Subject: all\r\n"),
            ".empty" => content(&mut client, b""),
            ".large" => content(
                &mut client,
                &[b"A: b\r\n\r\n", &b"0123456789\r\n".repeat(20_000)[..]].concat(),
            ),
            ".field" => content(
                &mut client,
                &[b"A:", &b" 0123456789\r\n".repeat(3_000)[..], b"\r\nx\r\n"].concat(),
            ),
            line => client.say(line),
        };
        let queued = reply.find("queued as").unwrap_or(reply.len());
        replies.push(reply[..queued].to_owned());
    }
    replies.push(client.say("QUIT"));
    replies
}

/// DATA, and the message if it is asked for.
fn content(client: &mut smtp::Client, message: &[u8]) -> String {
    let reply = client.say("DATA");
    if !reply.starts_with("354") {
        return reply;
    }
    let stuffed = String::from_utf8_lossy(message).replace("\n.", "\n..");
    client.send(stuffed.as_bytes());
    client.send(b".\r\n");
    client.reply()
}

/// Listens before a milter and keeps what both ends of each connection say.
struct Tee {
    address: String,
    recordings: Receiver<Recording>,
}

/// One connection of Postfix to a milter.
#[derive(Default)]
struct Recording {
    to_milter: Vec<u8>,
    to_postfix: Vec<u8>,
}

impl Tee {
    fn start(milter: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, recordings) = channel();
        let milter = milter.to_owned();
        std::thread::spawn(move || {
            for postfix in listener.incoming().map_while(Result::ok) {
                let milter = TcpStream::connect(&milter).unwrap();
                let sender: Sender<Recording> = sender.clone();
                std::thread::spawn(move || {
                    let (from, to) = (milter.try_clone().unwrap(), postfix.try_clone().unwrap());
                    let answers = std::thread::spawn(move || copy(from, to));
                    let to_milter = copy(postfix, milter);
                    let to_postfix = answers.join().unwrap();
                    // Nobody waits for what comes after the test.
                    let _ = sender.send(Recording { to_milter, to_postfix });
                });
            }
        });
        Self { address, recordings }
    }

    /// The next connection whose client gave this name.
    fn wait_for(&self, name: &str) -> Recording {
        loop {
            let recording = self.recordings.recv_timeout(PATIENCE).unwrap();
            let greeted = Command::Helo(Bytes::copy_from_slice(name.as_bytes()));
            if recording.commands().contains(&greeted) {
                return recording;
            }
        }
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; 65_536]);
    to.set_nodelay(true).unwrap();
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        all.extend_from_slice(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    all
}

fn packets(octets: &[u8]) -> Vec<Packet> {
    let mut input = BytesMut::from(octets);
    let mut decoder = Decoder::new(MAXIMUM_PACKET);
    let packets = std::iter::from_fn(|| decoder.decode(&mut input).unwrap()).collect();
    assert!(input.is_empty(), "whole packets");
    packets
}

impl Recording {
    /// The commands, all of which have to be valid, without what differs each time.
    fn commands(&self) -> Vec<Command> {
        let mut commands: Vec<_> =
            packets(&self.to_milter).into_iter().map(|p| Command::parse(p).unwrap()).collect();
        for command in &mut commands {
            match command {
                Command::Connect { client: Client::Internet { port, .. }, .. } => *port = 0,
                Command::Macros(macros) => {
                    let differing = |name: &MacroName| name.as_str() == b"i";
                    let values = macros.values.iter_mut().filter(|(name, _)| differing(name));
                    values.for_each(|(_, value)| *value = Bytes::new());
                }
                _ => {}
            }
        }
        commands
    }

    fn answers(&self) -> Vec<Packet> {
        packets(&self.to_postfix)
    }
}

/// Compiles the peer, if there is what it takes.
fn libmilter_program(folder: &Path) -> Option<std::path::PathBuf> {
    let program = folder.join("peer");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/milter/peer.c");
    if !Path::new("/usr/include/libmilter/mfapi.h").exists() {
        return None;
    }
    let arguments = [source, "-lmilter", "-lpthread", "-o"];
    let status = Program::new("cc").args(arguments).arg(&program).status().ok()?;
    assert!(status.success(), "{source} can't be compiled");
    Some(program)
}

/// The program with libmilter, killed at the end.
struct LibmilterPeer {
    child: Child,
    address: String,
}

impl LibmilterPeer {
    fn start(program: &Path, silent: bool) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Program::new(program);
        command.arg(format!("inet:{}@127.0.0.1", free.port())).stdin(Stdio::null());
        command.args(silent.then_some("silent"));
        let peer = Self { child: command.spawn().unwrap(), address: free.to_string() };
        let deadline = std::time::Instant::now() + PATIENCE;
        while TcpStream::connect(free).is_err() {
            assert!(std::time::Instant::now() < deadline, "the peer does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        peer
    }
}

impl Drop for LibmilterPeer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same peer, made with our module: where it listens.
fn our_peer(silent: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || respond(stream, silent));
        }
    });
    address
}

fn wanted(silent: bool) -> Wanted {
    let names = |names: &[&'static str]| names.iter().map(|name| MacroName::new(*name)).collect();
    let stages = [
        Stage::Connect,
        Stage::Helo,
        Stage::Data,
        Stage::Header,
        Stage::EndOfHeader,
        Stage::Body,
        Stage::Unknown,
    ];
    let quiet = stages.into_iter().map(Steps::not_answered).fold(Steps::NONE, Steps::and);
    Wanted {
        needed_actions: Actions::from_bits(0x1ff),
        needed_steps: Steps::SKIP.and(Steps::REJECTED_RECIPIENTS).and(Steps::LEADING_SPACE),
        useful_steps: if silent { quiet } else { Steps::NONE },
        macros: vec![
            (MacroStage::Mail, names(&["i", "{mail_addr}"])),
            (MacroStage::Rcpt, names(&["i", "{rcpt_addr}", "{rcpt_host}", "{rcpt_mailer}"])),
        ],
        ..Wanted::default()
    }
}

/// One connection, all answers to a stage in one write.
fn respond(mut stream: TcpStream, silent: bool) {
    stream.set_nodelay(true).unwrap();
    let mut decoder = Decoder::new(MAXIMUM_PACKET);
    let mut session = Session::new();
    let (mut input, mut out, mut buffer) = (BytesMut::new(), BytesMut::new(), vec![0; 65_536]);
    let mut sender = Bytes::new();
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        input.extend_from_slice(&buffer[..count]);
        while let Some(packet) = decoder.decode(&mut input).unwrap() {
            let command = Command::parse(packet).unwrap();
            let step = session.receive(&command).unwrap();
            if let Command::Mail(path) = &command {
                sender = path.address.clone();
            }
            match (step, &command) {
                (Step::Negotiate, Command::Negotiate(offer)) => {
                    let agreed = negotiate(offer, &wanted(silent)).unwrap();
                    session.agree(&agreed, &mut out).unwrap();
                }
                (Step::Stage { answer: true, .. }, _) => {
                    answer(&mut session, &command, &sender, &mut out);
                }
                (Step::RejectedRecipient { answer: true }, _) => {
                    session.decide(&Decision::Continue, &mut out).unwrap();
                }
                (Step::Quit, _) => return,
                _ => {}
            }
            stream.write_all(&out.split()).unwrap();
        }
    }
}

/// As `peer.c` does.
fn answer(session: &mut Session, command: &Command, sender: &[u8], out: &mut BytesMut) {
    let text = |line: &'static str| Bytes::from_static(line.as_bytes());
    let has = |address: &[u8], part: &str| String::from_utf8_lossy(address).contains(part);
    let reply = |code, lines: &[&'static str]| {
        Decision::Reply(Reply::new(code, lines.iter().map(|line| text(line)).collect()).unwrap())
    };
    let decision = match command {
        Command::Mail(path) if has(&path.address, "refused") => Decision::Reject,
        Command::Mail(path) if has(&path.address, "later") => Decision::Tempfail,
        Command::Mail(path) if has(&path.address, "taken") => Decision::Accept,
        Command::Mail(path) if has(&path.address, "thrown") => Decision::Discard,
        Command::Rcpt(path) if has(&path.address, "refused") => {
            reply(550, &["5.7.1 not here,", "5.7.1 100% sure"])
        }
        Command::Body(_) if has(sender, "front") => Decision::Skip,
        Command::EndOfMessage(_) if has(sender, "unwanted") => reply(554, &["5.7.1 unwanted"]),
        Command::EndOfMessage(_) if has(sender, "changed") => {
            session.progress(out).unwrap();
            for modification in modifications() {
                session.modify(&modification, out).unwrap();
            }
            Decision::Continue
        }
        _ => Decision::Continue,
    };
    session.decide(&decision, out).unwrap();
}

fn modifications() -> Vec<Modification> {
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    vec![
        Modification::AddField { name: text("X-Added"), value: text(" one\n\ttwo") },
        Modification::InsertField { index: 0, name: text("X-First"), value: text(" yes") },
        Modification::ChangeField { index: 1, name: text("Subject"), value: text(" new") },
        Modification::ChangeField { index: 1, name: text("X-Gone"), value: Bytes::new() },
        Modification::ChangeSender {
            address: text("<new@example.com>"),
            arguments: Some(text("RET=HDRS")),
        },
        Modification::AddRecipient { address: text("<more@example.com>"), arguments: None },
        Modification::AddRecipient {
            address: text("<most@example.com>"),
            arguments: Some(text("NOTIFY=NEVER")),
        },
        Modification::DeleteRecipient { address: text("<b@example.com>") },
        Modification::ReplaceBody(vec![b'x'; 70_000].into()),
        Modification::Quarantine(text("for review")),
    ]
}
