//! A next hop that plays a script, honest or not.

#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use opes_mta::relay::NextHop;

/// How long a test waits before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// One connection, as the next hop sees it.
pub(crate) struct Peer<S: Read + Write = TcpStream> {
    stream: BufReader<S>,
}

impl<S: Read + Write> Peer<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Says lines.
    pub(crate) fn say(&mut self, lines: &str) {
        self.send(format!("{}\r\n", lines.replace('\n', "\r\n")).as_bytes());
    }

    /// Sends octets.
    pub(crate) fn send(&mut self, octets: &[u8]) {
        self.stream.get_mut().write_all(octets).unwrap();
        self.stream.get_mut().flush().unwrap();
    }

    /// The next line without its CRLF; empty if there is none.
    pub(crate) fn line(&mut self) -> String {
        let mut line = Vec::new();
        // A client that is gone says nothing more.
        let _ = self.stream.read_until(b'\n', &mut line);
        String::from_utf8(line).unwrap().trim_end_matches("\r\n").to_owned()
    }

    /// Hears this line, and answers.
    pub(crate) fn answer(&mut self, line: &str, reply: &str) {
        assert_eq!(self.line(), line);
        self.say(reply);
    }

    /// Greets, and answers EHLO with these keywords.
    pub(crate) fn greet(&mut self, keywords: &[&str]) {
        self.say("220 mx.example ESMTP");
        assert_eq!(self.line(), "EHLO mta.example");
        self.offer(keywords);
    }

    /// An answer to EHLO.
    pub(crate) fn offer(&mut self, keywords: &[&str]) {
        let lines: String = keywords.iter().map(|keyword| format!("250-{keyword}\n")).collect();
        self.say(&format!("250-mx.example\n{lines}250 HELP"));
    }

    /// So many octets.
    pub(crate) fn octets(&mut self, count: usize) -> Vec<u8> {
        let mut octets = vec![0; count];
        self.stream.read_exact(&mut octets).unwrap();
        octets
    }

    /// What comes until the client is gone.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }

    /// The transport.
    pub(crate) fn into_stream(self) -> S {
        assert_eq!(self.stream.buffer(), b"", "there is more");
        self.stream.into_inner()
    }
}

/// Serves as many connections as there are scripts, one after the other.
pub(crate) struct Script<T> {
    pub(crate) next_hop: NextHop,
    thread: JoinHandle<Vec<T>>,
}

pub(crate) fn serve<T: Send + 'static>(
    scripts: Vec<Box<dyn FnOnce(Peer) -> T + Send>>,
) -> Script<T> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let thread = std::thread::spawn(move || {
        let play = |script: Box<dyn FnOnce(Peer) -> T + Send>| {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            script(Peer::new(stream))
        };
        scripts.into_iter().map(play).collect()
    });
    Script { next_hop: NextHop::new(address, "mta.example"), thread }
}

/// Serves one connection.
pub(crate) fn serve_one<T: Send + 'static>(
    script: impl FnOnce(Peer) -> T + Send + 'static,
) -> Script<T> {
    serve(vec![Box::new(script)])
}

impl<T: Send + 'static> Script<T> {
    pub(crate) fn next_hop(&self) -> Arc<NextHop> {
        Arc::new(self.next_hop.clone())
    }

    /// What the scripts returned.
    pub(crate) async fn ended(self) -> Vec<T> {
        tokio::task::spawn_blocking(|| self.thread.join().unwrap()).await.unwrap()
    }
}
