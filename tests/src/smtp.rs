//! SMTP as the stories speak it: a client that says exactly what it is told, and a next hop that keeps
//! what arrives.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use socket2::{Domain, Socket, Type};

use crate::PATIENCE;

/// A client, one command at a time.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects: the client and the greeting.
    ///
    /// # Panics
    /// If nobody listens there, or says no greeting.
    pub fn connect(port: u16) -> (Self, String) {
        Self::over(TcpStream::connect(("127.0.0.1", port)).expect("the server listens"))
    }

    /// Connects from another address of loopback.
    ///
    /// # Panics
    /// As [`Client::connect`].
    pub fn connect_from(address: Ipv4Addr, port: u16) -> (Self, String) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there are sockets");
        socket.bind(&SocketAddrV4::new(address, 0).into()).expect("loopback has that address");
        let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        socket.connect(&server.into()).expect("the server listens");
        Self::over(socket.into())
    }

    fn over(stream: TcpStream) -> (Self, String) {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        stream.set_nodelay(true).expect("a socket has no delay");
        let mut client = Self { stream: BufReader::new(stream) };
        let greeting = client.reply();
        (client, greeting)
    }

    /// A client that has said EHLO.
    ///
    /// # Panics
    /// If it is not greeted.
    pub fn greeted(port: u16) -> Self {
        let (mut client, greeting) = Self::connect(port);
        assert!(greeting.starts_with("220 "), "{greeting}");
        let reply = client.say("EHLO client.example");
        assert!(reply.starts_with("250"), "{reply}");
        client
    }

    /// Says a line: the reply to it, all its lines with LF between them.
    ///
    /// # Panics
    /// If the connection is lost.
    pub fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// Sends octets.
    ///
    /// # Panics
    /// If the connection is lost.
    pub fn send(&mut self, octets: &[u8]) {
        self.stream.get_mut().write_all(octets).expect("the server reads");
    }

    /// The next reply; empty if the connection ended.
    ///
    /// # Panics
    /// If it comes too late.
    pub fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            let count = self.stream.read_line(&mut line).expect("the server answers in time");
            let line = line.trim_end();
            reply.push_str(line);
            if count == 0 || line.as_bytes().get(3) != Some(&b'-') {
                return reply;
            }
            reply.push('\n');
        }
    }

    /// Sends a message with its dots stuffed, after DATA was accepted: the reply.
    ///
    /// # Panics
    /// If DATA is not accepted, or the connection is lost.
    pub fn data(&mut self, message: &[u8]) -> String {
        let reply = self.say("DATA");
        assert!(reply.starts_with("354"), "{reply}");
        self.send(&stuffed(message));
        self.reply()
    }

    /// A whole mail in one transaction: the first reply that is no success, or the last one.
    ///
    /// # Panics
    /// If the connection is lost.
    pub fn mail(&mut self, sender: &str, recipients: &[&str], message: &[u8]) -> String {
        let mut commands = vec![format!("MAIL FROM:<{sender}>")];
        commands.extend(recipients.iter().map(|recipient| format!("RCPT TO:<{recipient}>")));
        for command in commands {
            let reply = self.say(&command);
            if !reply.starts_with('2') {
                return reply;
            }
        }
        let reply = self.say("DATA");
        if !reply.starts_with("354") {
            return reply;
        }
        self.send(&stuffed(message));
        self.reply()
    }
}

/// A message as it goes over the wire, with the line that ends it.
pub fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(message.len() + 5);
    for line in message.split_inclusive(|octet| *octet == b'\n') {
        if line.first() == Some(&b'.') {
            octets.push(b'.');
        }
        octets.extend_from_slice(line);
    }
    octets.extend_from_slice(b".\r\n");
    octets
}

/// A mail that arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// The path of MAIL FROM, without brackets.
    pub sender: String,
    /// The paths of RCPT TO, without brackets.
    pub recipients: Vec<String>,
    /// What stood behind the addresses.
    pub parameters: Vec<String>,
    /// The message, dots no longer stuffed.
    pub octets: Vec<u8>,
}

impl Delivered {
    /// The message without the fields that the relay put before it, which end with its Received field.
    ///
    /// # Panics
    /// If there is no such field.
    pub fn without_received(&self) -> &[u8] {
        let octets = &self.octets[..];
        assert!(octets.starts_with(b"Received: "), "{}", String::from_utf8_lossy(octets));
        let mut at = 0;
        loop {
            let line = octets[at..].iter().position(|octet| *octet == b'\n').expect("a line");
            at += line + 1;
            if !matches!(octets.get(at), Some(b' ' | b'\t')) {
                return &octets[at..];
            }
        }
    }
}

/// What a next hop does where a story does not want it to take what it hears.
#[derive(Clone, Debug)]
pub enum Instead {
    /// Says this; it has taken what it heard only if that is a success.
    Say(Vec<u8>),
    /// Closes the connection.
    HangUp,
}

impl Instead {
    /// Says one line.
    pub fn say(line: &str) -> Option<Self> {
        Some(Self::Say(format!("{line}\r\n").into()))
    }
}

/// What a story makes of a line, see [`NextHop::unless`].
type Unless = dyn Fn(&str) -> Option<Instead> + Send + Sync;

/// A next hop that takes everything that comes in its order.
#[derive(Clone)]
pub struct NextHop {
    /// Its port on loopback.
    pub port: u16,
    is_lmtp: bool,
    unless: Arc<Unless>,
    arrived: Arc<(Mutex<Vec<Delivered>>, Condvar)>,
}

impl NextHop {
    /// Listens on a free port, until the process ends.
    ///
    /// # Panics
    /// If there is none.
    pub fn start() -> Self {
        Self::speaking(false, |_| None)
    }

    /// The same for LMTP: `nobody` is no recipient, and content is refused for `full` and for `gone`.
    ///
    /// # Panics
    /// As [`NextHop::start`].
    pub fn start_lmtp() -> Self {
        Self::speaking(true, |line| {
            let is_nobody = line.starts_with("RCPT") && path(line).0.starts_with("nobody@");
            is_nobody.then(|| Instead::Say(b"550 5.1.1 nobody there\r\n".to_vec()))
        })
    }

    /// As [`NextHop::start`], unless the story says what it does instead of taking a line: a command, `.`
    /// for the end of a message, or an empty one for a new connection.
    ///
    /// # Panics
    /// As there.
    pub fn unless(says: impl Fn(&str) -> Option<Instead> + Send + Sync + 'static) -> Self {
        Self::speaking(false, says)
    }

    /// The same for LMTP, as [`NextHop::start_lmtp`].
    ///
    /// # Panics
    /// As there.
    pub fn lmtp_unless(says: impl Fn(&str) -> Option<Instead> + Send + Sync + 'static) -> Self {
        Self::speaking(true, says)
    }

    fn speaking(
        is_lmtp: bool,
        unless: impl Fn(&str) -> Option<Instead> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let port = listener.local_addr().expect("it is bound").port();
        let arrived = Arc::new((Mutex::default(), Condvar::new()));
        let hop = Self { port, is_lmtp, unless: Arc::new(unless), arrived };
        let accepting = hop.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let hop = accepting.clone();
                // A relay that goes away has nothing more for us.
                std::thread::spawn(move || drop(hop.serve(stream)));
            }
        });
        hop
    }

    /// Takes out what has arrived once there are so many; what else there is stays.
    ///
    /// # Panics
    /// If they do not come.
    pub fn wait_for(&self, count: usize) -> Vec<Delivered> {
        let (mails, changed) = &*self.arrived;
        let mails = mails.lock().expect("nobody panics with it");
        let (mut mails, late) = changed
            .wait_timeout_while(mails, PATIENCE, |mails| mails.len() < count)
            .expect("nobody panics with it");
        assert!(!late.timed_out(), "{} of {count} mails arrived", mails.len());
        mails.drain(..count).collect()
    }

    /// How many have arrived and were not taken out.
    ///
    /// # Panics
    /// Never: nobody panics with the lock.
    pub fn len(&self) -> usize {
        self.arrived.0.lock().expect("nobody panics with it").len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut dialogue = HopDialogue { hop: self, writer: stream.try_clone()?, mail: None };
        let mut reader = BufReader::new(stream);
        if !dialogue.say("", "220 next.example ESMTP")? {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || !dialogue.take(line.trim_end(), &mut reader)? {
                return Ok(());
            }
        }
    }
}

/// One connection to the next hop.
struct HopDialogue<'a> {
    hop: &'a NextHop,
    writer: TcpStream,
    mail: Option<Delivered>,
}

impl HopDialogue<'_> {
    /// Acts on a command; whether there may be another one.
    fn take(&mut self, line: &str, reader: &mut impl BufRead) -> std::io::Result<bool> {
        const ORDER: &str = "503 5.5.1 not now";
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        match (verb.as_str(), &mut self.mail) {
            ("EHLO", _) if self.hop.is_lmtp => drop(self.say(line, "500 5.5.1 LMTP")?),
            ("LHLO", _) if self.hop.is_lmtp => {
                if self.say(line, "250-next.example\r\n250 8BITMIME")? {
                    self.mail = None;
                }
            }
            ("EHLO", _) => {
                let taken = "250-next.example\r\n250-8BITMIME\r\n250-DSN\r\n250 SMTPUTF8";
                if self.say(line, taken)? {
                    self.mail = None;
                }
            }
            ("MAIL", None) => {
                if self.say(line, "250 2.1.0 ok")? {
                    let (sender, parameters) = path(line);
                    let parameters = vec![parameters];
                    self.mail = Some(Delivered { sender, parameters, ..Delivered::default() });
                }
            }
            ("RCPT", Some(_)) => {
                if self.say(line, "250 2.1.5 ok")?
                    && let Some(mail) = &mut self.mail
                {
                    let (path, parameters) = path(line);
                    mail.recipients.push(path);
                    mail.parameters.push(parameters);
                }
            }
            // For a story in which it offers CHUNKING: of one chunk. Refused, it leaves the envelope.
            ("BDAT", Some(mail)) if !self.hop.is_lmtp => {
                let words: Vec<_> = line.split(' ').collect();
                let ["BDAT", size, "LAST"] = words[..] else { panic!("{line:?} is not the last") };
                mail.octets = vec![0; size.parse().expect("a size")];
                reader.read_exact(&mut mail.octets)?;
                if self.say(line, "250 2.0.0 taken")? {
                    let mail = self.mail.take();
                    self.hop.arrived.0.lock().expect("nobody panics with it").extend(mail);
                    self.hop.arrived.1.notify_all();
                }
            }
            ("DATA", Some(mail)) if !mail.recipients.is_empty() => {
                if self.say(line, "354 go on")? {
                    let octets = content(reader)?;
                    let mail = self.mail.take().map(|mail| Delivered { octets, ..mail });
                    let recipients = mail.iter().flat_map(|mail| &mail.recipients);
                    let each: Vec<_> = recipients.map(|recipient| replied(recipient)).collect();
                    let one = "250 2.0.0 taken".to_owned();
                    let taken = if self.hop.is_lmtp { each.join("\r\n") } else { one };
                    let (reply, _) = self.reply(".", &taken)?;
                    let is_taken = self.hop.is_lmtp || reply.starts_with(b"2");
                    // Who hears that it has arrived may look for it at once.
                    if is_taken {
                        self.hop.arrived.0.lock().expect("nobody panics with it").extend(mail);
                        self.hop.arrived.1.notify_all();
                    }
                    self.writer.write_all(&reply)?;
                }
            }
            ("MAIL" | "RCPT" | "DATA", _) => drop(self.say(line, ORDER)?),
            ("RSET" | "HELO", _) => {
                if self.say(line, "250 ok")? {
                    self.mail = None;
                }
            }
            ("QUIT", _) => {
                self.say(line, "221 2.0.0 bye")?;
                return Ok(false);
            }
            _ => drop(self.say(line, "250 ok")?),
        }
        Ok(true)
    }

    /// Answers a line by this reply, or as the story says; whether it was taken.
    fn say(&mut self, line: &str, taken: &str) -> std::io::Result<bool> {
        let (reply, is_taken) = self.reply(line, taken)?;
        self.writer.write_all(&reply)?;
        Ok(is_taken)
    }

    /// The same, but for saying it.
    fn reply(&self, line: &str, taken: &str) -> std::io::Result<(Vec<u8>, bool)> {
        match (self.hop.unless)(line) {
            None => Ok((format!("{taken}\r\n").into(), matches!(taken.as_bytes()[0], b'2' | b'3'))),
            Some(Instead::Say(reply)) => {
                let is_taken = taken.starts_with('2') && reply.starts_with(b"2");
                Ok((reply, is_taken))
            }
            Some(Instead::HangUp) => Err(std::io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

/// What LMTP says to content for a recipient.
fn replied(recipient: &str) -> String {
    match recipient.split('@').next() {
        Some("full") => "452 4.2.2 is full".to_owned(),
        Some("gone") => "550 5.2.1 is gone".to_owned(),
        _ => format!("250 2.0.0 {recipient} has it"),
    }
}

/// Whether this is what Postfix says to a message that it has taken; behind BDAT it says how many octets.
pub fn is_queued(reply: &str) -> bool {
    reply.starts_with("250 2.0.0 Ok: ") && reply.contains("queued as ")
}

/// The path of MAIL or RCPT, and what stands behind it.
fn path(line: &str) -> (String, String) {
    let (_, rest) = line.split_once('<').unwrap_or_default();
    let (path, parameters) = rest.rsplit_once('>').unwrap_or_default();
    (path.to_owned(), parameters.trim().to_owned())
}

fn content(reader: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    loop {
        let start = octets.len();
        if reader.read_until(b'\n', &mut octets)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if &octets[start..] == b".\r\n" {
            octets.truncate(start);
            return Ok(octets);
        }
        if octets[start] == b'.' {
            octets.remove(start);
        }
    }
}
