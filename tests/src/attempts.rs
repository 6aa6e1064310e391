//! A client as mail servers are: it brings a message again until it has a final reply, over connections that
//! may be lost at any moment, and remembers each attempt.

use std::io::{BufRead, BufReader, ErrorKind, Result, Write};
use std::net::TcpStream;
use std::time::Instant;

use crate::PATIENCE;
use crate::smtp::stuffed;

/// Messages on one connection.
const SESSION: usize = 5;

/// One attempt to bring a message.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it began.
    pub begin: Instant,
    /// When there was a reply, or the connection was lost.
    pub end: Instant,
    /// The first reply that is no success, or the last one; `None` if the connection was lost before.
    pub reply: Option<String>,
    /// Whether the message was sent to its end.
    pub is_sent: bool,
}

impl Attempt {
    /// Whether the message was taken.
    pub fn is_accepted(&self) -> bool {
        self.is_sent && self.starts_with("250")
    }

    /// Whether it was refused for good.
    pub fn is_refused(&self) -> bool {
        self.starts_with("5")
    }

    /// Whether the next hop may have the message all the same: there was no reply to its end, or it
    /// says that the next hop was lost.
    pub fn is_open(&self) -> bool {
        self.is_sent && (self.reply.is_none() || self.starts_with("421"))
    }

    fn starts_with(&self, code: &str) -> bool {
        self.reply.as_ref().is_some_and(|reply| reply.starts_with(code))
    }
}

/// A client of one server.
pub struct Sender {
    port: u16,
    connection: Option<BufReader<TcpStream>>,
    messages: usize,
}

impl Sender {
    /// One that has not connected yet.
    pub fn new(port: u16) -> Self {
        Self { port, connection: None, messages: 0 }
    }

    /// Brings a message, once. A connection that was of no use is closed.
    pub fn attempt(&mut self, sender: &str, recipient: &str, message: &[u8]) -> Attempt {
        let begin = Instant::now();
        let mut is_sent = false;
        let reply = self.bring(sender, recipient, message, &mut is_sent).ok();
        let attempt = Attempt { begin, end: Instant::now(), reply, is_sent };
        self.messages += 1;
        if !attempt.is_accepted() || self.messages.is_multiple_of(SESSION) {
            self.connection = None;
        }
        attempt
    }

    fn bring(
        &mut self,
        sender: &str,
        recipient: &str,
        message: &[u8],
        is_sent: &mut bool,
    ) -> Result<String> {
        if self.connection.is_none() {
            let stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            let connection = self.connection.insert(BufReader::new(stream));
            let greeting = reply(connection)?;
            if !greeting.starts_with("220") {
                return Ok(greeting);
            }
            let hello = say(connection, "EHLO client.example")?;
            if !hello.starts_with("250") {
                return Ok(hello);
            }
        }
        let Some(connection) = &mut self.connection else {
            return Err(ErrorKind::NotConnected.into());
        };
        for line in [format!("MAIL FROM:<{sender}>"), format!("RCPT TO:<{recipient}>")] {
            let said = say(connection, &line)?;
            if !said.starts_with("250") {
                return Ok(said);
            }
        }
        let said = say(connection, "DATA")?;
        if !said.starts_with("354") {
            return Ok(said);
        }
        let octets = stuffed(message);
        let (content, end) = octets.split_at(octets.len() - ".\r\n".len());
        connection.get_mut().write_all(content)?;
        *is_sent = true;
        connection.get_mut().write_all(end)?;
        reply(connection)
    }
}

fn say(connection: &mut BufReader<TcpStream>, line: &str) -> Result<String> {
    connection.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
    reply(connection)
}

/// The next reply, all its lines with LF between them.
fn reply(connection: &mut BufReader<TcpStream>) -> Result<String> {
    let mut reply = String::new();
    loop {
        let start = reply.len();
        // A line that was cut is no reply.
        if connection.read_line(&mut reply)? == 0 || !reply.ends_with('\n') {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if reply.as_bytes().get(start + 3) != Some(&b'-') {
            reply.truncate(reply.trim_end().len());
            return Ok(reply.replace("\r\n", "\n"));
        }
    }
}
