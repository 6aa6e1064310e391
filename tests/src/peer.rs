//! An OPES processor that a story scripts octet by octet, so that it can be as hostile as it likes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::PATIENCE;

/// What ends a message and is in no payload of these stories.
const END: &[u8] = b";\r\n";

/// One end of a TCP connection.
pub struct Peer {
    stream: TcpStream,
    /// Octets that came and that nobody has asked for.
    unread: Vec<u8>,
}

impl Peer {
    /// Connects to a server.
    ///
    /// # Panics
    /// If nobody listens there.
    pub fn connect(address: &str) -> Self {
        Self::new(TcpStream::connect(address).expect("the server listens"))
    }

    /// A peer over a connection that is there already.
    ///
    /// # Panics
    /// If the system refuses the options.
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time that is not zero");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time that is not zero");
        stream.set_nodelay(true).expect("TCP has no delay");
        Self { stream, unread: Vec::new() }
    }

    /// Connects, makes an offer, and opens group 1 of `services` and dialog 1.
    ///
    /// # Panics
    /// If the server does not agree.
    pub fn open(address: &str, services: &[&str]) -> Self {
        let mut peer = Self::connect(address);
        peer.send(opening(services).concat());
        peer.synchronise();
        peer
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Its address as the server's log has it.
    ///
    /// # Panics
    /// If the system does not know it.
    pub fn name(&self) -> String {
        self.stream.local_addr().expect("it is connected").to_string()
    }

    /// Sends octets.
    ///
    /// # Panics
    /// If the other side does not take them.
    pub fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.try_send(octets).expect("the other side reads");
    }

    /// Sends octets.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_send(&mut self, octets: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(octets.as_ref())
    }

    /// What comes up to `end`, and it.
    ///
    /// # Panics
    /// If it does not come.
    pub fn read_until(&mut self, end: &[u8]) -> String {
        let mut looked = 0;
        loop {
            let found = self.unread[looked..].windows(end.len()).position(|found| found == end);
            if let Some(at) = found {
                let rest = self.unread.split_off(looked + at + end.len());
                let taken = std::mem::replace(&mut self.unread, rest);
                return String::from_utf8_lossy(&taken).into_owned();
            }
            looked = self.unread.len().saturating_sub(end.len() - 1);
            let more = self.read();
            let came = String::from_utf8_lossy(&self.unread);
            assert!(matches!(more, Ok(1..)), "{more:?} instead of {end:?} after {came}");
        }
    }

    /// What comes up to the end of a message that begins so, and it.
    ///
    /// # Panics
    /// If it does not come.
    pub fn read_message(&mut self, start: &str) -> String {
        let mut read = self.read_until(start.as_bytes());
        if !start.as_bytes().ends_with(END) {
            read.push_str(&self.read_until(END));
        }
        read
    }

    /// Everything until the other side ends the connection, by whatever means.
    ///
    /// # Panics
    /// If it does not.
    pub fn read_to_end(mut self) -> String {
        let waits = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
        };
        loop {
            match self.read() {
                Ok(1..) => {}
                Err(error) if waits(&error) => panic!("the connection does not end"),
                Ok(0) | Err(_) => return String::from_utf8_lossy(&self.unread).into_owned(),
            }
        }
    }

    /// Reads until the other side ends the connection, or breaks it off if nothing comes for a while;
    /// whether the other side ended it.
    ///
    /// # Panics
    /// If the system refuses the options.
    pub fn end_when_quiet(mut self, quiet: Duration) -> bool {
        self.stream.set_read_timeout(Some(quiet)).expect("a time that is not zero");
        loop {
            match self.read() {
                Ok(1..) => self.unread.clear(),
                Ok(0) => return true,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return true,
                Err(_) => {
                    self.reset();
                    return false;
                }
            }
        }
    }

    /// Waits until the other side has acted on everything that was sent.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn synchronise(&mut self) -> String {
        self.send("PQ;\r\n");
        self.read_message("PA;\r\n")
    }

    /// Says that nothing more comes, and listens on.
    ///
    /// # Panics
    /// If the connection is over.
    pub fn end_output(&self) {
        self.stream.shutdown(Shutdown::Write).expect("it is connected");
    }

    /// Breaks the connection off: the other side gets RST.
    ///
    /// # Panics
    /// If the system refuses the option.
    pub fn reset(self) {
        self.reset_when_dropped();
    }

    /// When this is dropped, the other side gets RST.
    ///
    /// # Panics
    /// If the system refuses the option.
    pub fn reset_when_dropped(&self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("TCP lingers");
    }

    /// Reads once.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(&mut self) -> io::Result<usize> {
        let mut octets = [0; 64 * 1024];
        let count = self.stream.read(&mut octets)?;
        self.unread.extend_from_slice(&octets[..count]);
        Ok(count)
    }

    /// What came and was not asked for yet.
    pub fn unread(&self) -> &[u8] {
        &self.unread
    }
}

/// A well-behaved processor that works on while others attack.
pub struct Witness {
    stop: Sender<()>,
    thread: JoinHandle<(u32, Duration)>,
}

/// Between two transactions of a witness.
const PAUSE: Duration = Duration::from_millis(20);

impl Witness {
    /// Starts it on a connection of its own.
    pub fn start(address: &str) -> Self {
        let mut peer = Peer::open(address, &["log", "virus-scan"]);
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut slowest = Duration::ZERO;
            let mut xid = 0;
            loop {
                xid += 1;
                let started = Instant::now();
                transact(&mut peer, xid);
                slowest = slowest.max(started.elapsed());
                if stopped.recv_timeout(PAUSE) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            peer.send("Dialog-End 1;\r\nCE;\r\n");
            assert_eq!(peer.read_to_end(), "");
            (xid, slowest)
        });
        Self { stop, thread }
    }

    /// Stops it: how many transactions it had, and how long the slowest took.
    ///
    /// # Panics
    /// If one of them went wrong.
    pub fn stop(self) -> (u32, Duration) {
        let _ = self.stop.send(());
        self.thread.join().expect("every transaction of the witness is answered")
    }
}

/// A clean mail on a connection with group 1 and dialog 1, answered as it has to be.
///
/// # Panics
/// If the answer is another one.
pub fn transact(peer: &mut Peer, xid: u32) {
    let (header, body) = ("Subject: clean\r\n\r\n", "Nothing special.\r\n");
    peer.send(message(xid, 1, header, body, true).concat());
    let answer = peer.read_message(&format!("TE {xid}"));
    let kept = format!("DUY {xid} 0 {};\r\n", header.len());
    assert!(answer.contains(&kept) && answer.ends_with(&format!("TE {xid};\r\n")), "{answer}");
    peer.send(outcome(1, xid));
}

/// A whole session with one clean mail on a connection of its own.
///
/// # Panics
/// If anything of it is not as it has to be.
pub fn clean_session(address: &str) {
    let mut peer = Peer::open(address, &["mail-from", "virus-scan", "log"]);
    transact(&mut peer, 1);
    peer.send("Dialog-End 1;\r\nCE;\r\n");
    assert_eq!(peer.read_to_end(), "");
}

/// An atom of any octets.
pub fn quoted(text: &str) -> String {
    format!("\"{}:{text}\"", text.len())
}

/// CS, the offers, group 1 with these services, and dialog 1.
pub fn opening(services: &[&str]) -> Vec<Vec<u8>> {
    let uri = |name: &&str| format!("{{{}}}", quoted(&format!("ocp://service/{name}")));
    let services: Vec<String> = services.iter().map(uri).collect();
    vec![
        b"CS;\r\n".to_vec(),
        b"NO ({\"17:ocp://smtp/dialog\"\r\nVersion: 1\r\n});\r\n".to_vec(),
        format!("SGC 1 ({});\r\n", services.join(",")).into_bytes(),
        b"NO ({\"18:ocp://smtp/command\"\r\nCommands: (CONNECT,HELO,MAIL,RCPT,DATA,MESSAGE,RSET,\
          QUIT)\r\nSide-Effects: (add-recipient,delete-recipient,change-sender,quarantine,discard)\
          \r\n})\r\nSG: 1\r\n;\r\n"
            .to_vec(),
        dialog(1),
    ]
}

/// Dialog-Start.
pub fn dialog(id: u32) -> Vec<u8> {
    format!(
        "Dialog-Start {id}\r\nActivation: receiving\r\nProtocol: ESMTP\r\nClient-Address: {}\r\n\
         Client-Name: {}\r\n;\r\n",
        quoted("192.0.2.138"),
        quoted("client.example.net")
    )
    .into_bytes()
}

/// The messages of an event that is a command line.
pub fn command(xid: u32, dialog: u32, line: &str, kept: bool) -> Vec<Vec<u8>> {
    let verb = line.split(' ').next().unwrap_or_default();
    vec![
        format!("TS {xid} 1;\r\n").into_bytes(),
        format!("AMS {xid}\r\nDialog: {dialog}\r\nCommand: {verb}\r\n{};\r\n", envelope(verb))
            .into_bytes(),
        data(xid, 0, "command", line, kept),
        format!("AME {xid};\r\n").into_bytes(),
    ]
}

/// The messages of an event that is a mail's content.
pub fn message(xid: u32, dialog: u32, header: &str, body: &str, kept: bool) -> Vec<Vec<u8>> {
    vec![
        format!("TS {xid} 1;\r\n").into_bytes(),
        format!(
            "AMS {xid}\r\nDialog: {dialog}\r\nCommand: MESSAGE\r\n{}AM-EL: {}\r\n;\r\n",
            envelope("MESSAGE"),
            body.len()
        )
        .into_bytes(),
        data(xid, 0, "message-header", header, kept),
        data(xid, header.len(), "message-body", body, kept),
        format!("AME {xid};\r\n").into_bytes(),
    ]
}

/// DUM.
pub fn data(xid: u32, offset: usize, part: &str, octets: &str, kept: bool) -> Vec<u8> {
    let kept = match kept {
        true => format!("Kept: {{0 {}}}\r\n", offset + octets.len()),
        false => String::new(),
    };
    let size = octets.len();
    format!("DUM {xid} {offset}\r\n{kept}AM-Part: {part}\r\n\r\n{size}:{octets}\r\n;\r\n")
        .into_bytes()
}

/// Dialog-Outcome: it was done.
pub fn outcome(dialog: u32, xid: u32) -> Vec<u8> {
    format!("Dialog-Outcome {dialog} {xid} {{200}};\r\n").into_bytes()
}

fn envelope(verb: &str) -> String {
    match verb {
        "RCPT" | "DATA" | "MESSAGE" => format!(
            "Sender: {{{}}}\r\nRecipients: ({{{}}})\r\n",
            quoted("<steve@example.org>"),
            quoted("<paul@example.com>")
        ),
        _ => String::new(),
    }
}
