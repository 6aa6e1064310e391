//! clamd, asked over its INSTREAM command
//! (<https://docs.clamav.net/manual/Usage/Scanning.html#clamd>).

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use clamav_client::tokio::{TransportProtocol, get_version, ping, scan_stream};
use futures_util::stream;
use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::mail::{Octets, SpoolError};
use crate::service::ServiceError;

/// How long connecting may take, and commands that take no time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Octets of a piece of the message.
const CHUNK: usize = 64 * 1024;
/// The longest answer: `stream: NAME FOUND`.
const LONGEST_ANSWER: usize = 4_096;

/// Where clamd listens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Tcp(String),
    Unix(PathBuf),
}

/// A clamd.
#[derive(Clone, Debug)]
pub(super) struct Clamd {
    address: Address,
}

/// What clamd says of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing found.
    Clean,
    /// A signature's name.
    Found(String),
    /// It is larger than clamd's `StreamMaxLength`.
    TooLarge,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unanswered {
    pub(super) error: ServiceError,
    /// clamd could not be reached, or ended the connection: it may be about to start again.
    pub(super) may_pass: bool,
}

impl From<SpoolError> for Unanswered {
    fn from(error: SpoolError) -> Self {
        Self { error: error.into(), may_pass: false }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self::Tcp(text.to_owned()))
            }
            _ => Err(format!("clamd: {text:?} is neither host:port nor unix:/path")),
        }
    }
}

impl Clamd {
    /// A clamd at this address, or why it is none.
    pub(super) fn new(address: &str) -> Result<Self, String> {
        Ok(Self { address: address.parse()? })
    }

    /// Asks about octets, in pieces, for so long. A connection that breaks before there is an answer is tried once
    /// more: clamd ends connections when it restarts.
    pub(super) async fn scan(
        &self,
        pieces: &[Octets],
        limit: Duration,
    ) -> Result<Answer, Unanswered> {
        let attempts = async {
            match self.attempt(pieces).await {
                Err(_) => self.attempt(pieces).await,
                answered => answered,
            }
        };
        let answered = timeout(limit, attempts).await.unwrap_or_else(|_| {
            let seconds = limit.as_secs();
            Err(io::Error::new(ErrorKind::TimedOut, format!("no answer within {seconds} s")))
        });
        pieces.iter().try_for_each(Octets::check)?;
        let answer = answered.map_err(|error| Unanswered {
            may_pass: error.kind() != ErrorKind::TimedOut,
            error: self.error(error),
        })?;
        parse_answer(&answer)
            .map_err(|error| Unanswered { error: self.error(error), may_pass: false })
    }

    /// Whether it answers PING.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) async fn ping(&self) -> Result<(), ServiceError> {
        let answer = self.ask(ping(self), CONNECT_TIMEOUT).await?;
        match answer.trim_ascii_end() {
            b"PONG" | b"PONG\0" => Ok(()),
            _ => Err(self.error(format!("answered {:?} to PING", shown(&answer)))),
        }
    }

    /// Its version and that of its database, such as `ClamAV 1.4.3/27700/Mon Jul 14 08:30:10 2025`; `None` if it does
    /// not say which database it has.
    ///
    /// # Errors
    /// If it does not answer.
    pub(super) async fn database(&self, limit: Duration) -> Result<Option<String>, ServiceError> {
        let answer = self.ask(get_version(self), limit).await?;
        let answer = String::from_utf8_lossy(&answer);
        let answer = answer.trim_matches(['\0', '\n', '\r', ' ']);
        let number = answer.split('/').nth(1).and_then(|number| number.parse::<u32>().ok());
        Ok(number.map(|_| answer.to_owned()))
    }

    /// The answer to a command that takes no time.
    async fn ask(
        &self,
        answer: impl Future<Output = io::Result<Vec<u8>>>,
        limit: Duration,
    ) -> Result<Vec<u8>, ServiceError> {
        let limit = limit.min(CONNECT_TIMEOUT);
        let answer = timeout(limit, answer).await.unwrap_or_else(|_| {
            let seconds = limit.as_secs();
            Err(io::Error::new(ErrorKind::TimedOut, format!("no answer within {seconds} s")))
        });
        answer.map_err(|error| self.error(error))
    }

    async fn attempt(&self, pieces: &[Octets]) -> io::Result<Vec<u8>> {
        let in_memory = pieces.iter().all(|piece| piece.in_memory().is_some());
        let pieces = pieces.to_vec();
        let chunks = pieces.into_iter().flat_map(|piece| piece.chunks());
        let content = stream::try_unfold(chunks, move |mut chunks| async move {
            let read = move || chunks.next().map(|chunk| (chunk, chunks));
            // Reading a file may take its time.
            let next = match in_memory {
                true => read(),
                false => spawn_blocking(read).await.map_err(io::Error::other)?,
            };
            next.map(|(chunk, chunks)| Ok((chunk?, chunks))).transpose()
        });
        let answer = scan_stream(Box::pin(content), self, Some(CHUNK)).await?;
        if answer.is_empty() {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "no answer"));
        }
        Ok(answer)
    }

    fn error(&self, cause: impl ToString) -> ServiceError {
        ServiceError::new("clamd", format!("{self}: {}", cause.to_string()))
    }
}

impl fmt::Display for Clamd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp(address) => f.write_str(address),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

/// `stream: OK`, `stream: NAME FOUND`, or an error.
fn parse_answer(answer: &[u8]) -> Result<Answer, String> {
    let text = String::from_utf8_lossy(answer);
    let text = text.trim_matches(['\0', '\n', '\r', ' ']);
    let (_, result) = text.split_once(": ").unwrap_or(("", text));
    match (result, result.strip_suffix(" FOUND")) {
        ("OK", _) => Ok(Answer::Clean),
        (_, Some(name)) if !name.is_empty() => Ok(Answer::Found(name.to_owned())),
        _ if text.starts_with("INSTREAM size limit exceeded") => Ok(Answer::TooLarge),
        _ => Err(format!("answered {:?}", shown(text.as_bytes()))),
    }
}

/// The start of an answer, for people.
fn shown(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let text = text.trim_matches(['\0', '\n', '\r', ' ']);
    text.chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl TransportProtocol for Clamd {
    type Stream = Connection;

    async fn connect(&self) -> io::Result<Connection> {
        let connecting = async {
            Ok(match &self.address {
                Address::Tcp(address) => {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    Stream::Tcp(stream)
                }
                Address::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
            })
        };
        let stream = timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| {
            let seconds = CONNECT_TIMEOUT.as_secs();
            let cause = format!("can't be reached within {seconds} s");
            Err(io::Error::new(ErrorKind::TimedOut, cause))
        })?;
        // Room for a piece and its length, so that they leave together.
        let stream = BufWriter::with_capacity(2 * CHUNK, stream);
        Ok(Connection { stream, left: LONGEST_ANSWER, is_ended: false })
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection to clamd that reads no more than an answer.
///
/// Before clamd ends one that sends too much it says so. What is written after that goes nowhere, so that its answer is
/// read.
pub(super) struct Connection {
    stream: BufWriter<Stream>,
    left: usize,
    /// It takes no more.
    is_ended: bool,
}

impl Connection {
    /// What came of writing. An end of the connection is none.
    fn written<T>(&mut self, polled: Poll<io::Result<T>>, all: T) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(Err(error)) if is_end(&error) => {
                self.is_ended = true;
                Poll::Ready(Ok(all))
            }
            polled => polled,
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(Err(error)) if is_end(&error) && self.left < LONGEST_ANSWER => {
                Poll::Ready(Ok(()))
            }
            polled => polled,
        };
        let read = buffer.filled().len() - before;
        match self.left.checked_sub(read) {
            Some(LONGEST_ANSWER) if self.is_ended && polled.is_ready() => {
                let cause = "it ended the connection before it had all";
                return Poll::Ready(Err(io::Error::new(ErrorKind::UnexpectedEof, cause)));
            }
            Some(left) => self.left = left,
            None => {
                buffer.set_filled(before);
                return Poll::Ready(Err(io::Error::other("an answer without end")));
            }
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_ended {
            return Poll::Ready(Ok(octets.len()));
        }
        let polled = Pin::new(&mut self.stream).poll_write(context, octets);
        self.written(polled, octets.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_ended {
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.written(polled, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, octets),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, octets),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::fixtures::{spooled, whole};
    use crate::mail::Mail;

    /// Asks about a whole mail.
    async fn scan_mail(clamd: &Clamd, mail: &Mail) -> Result<Answer, ServiceError> {
        let pieces = [mail.header().clone().into(), mail.body().clone()];
        clamd.scan(&pieces, Duration::from_secs(30)).await.map_err(|unanswered| unanswered.error)
    }

    /// A clamd that reads a whole stream and answers so, as often as there are answers.
    async fn answering(answers: Vec<Vec<u8>>) -> (Clamd, tokio::task::JoinHandle<Vec<Vec<u8>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let mut got = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut command = [0; 10];
                stream.read_exact(&mut command).await.unwrap();
                assert_eq!(&command, b"zINSTREAM\0");
                let mut content = Vec::new();
                loop {
                    let size = usize::try_from(stream.read_u32().await.unwrap()).unwrap();
                    let start = content.len();
                    content.resize(start + size, 0);
                    stream.read_exact(&mut content[start..]).await.unwrap();
                    if size == 0 {
                        break;
                    }
                }
                got.push(content);
                stream.write_all(&answer).await.unwrap();
            }
            got
        });
        (Clamd::new(&address).unwrap(), server)
    }

    async fn ask(answers: &[&[u8]]) -> Result<Answer, String> {
        let (clamd, server) =
            answering(answers.iter().map(|answer| answer.to_vec()).collect()).await;
        let mail = Mail::new("A: b\r\n\r\n".into(), Bytes::from(vec![b'x'; 200_000]));
        let answer = scan_mail(&clamd, &mail).await;
        for content in server.await.unwrap() {
            assert_eq!(content.len(), mail.len());
            assert!(content.starts_with(mail.header()));
        }
        answer.map_err(|error| {
            assert_eq!(error.stage, "clamd");
            error.cause.split_once(": ").unwrap().1.to_owned()
        })
    }

    #[tokio::test]
    async fn answers_are_clean_found_or_an_error() {
        assert_eq!(ask(&[b"stream: OK\0"]).await, Ok(Answer::Clean));
        assert_eq!(ask(&[b"stream: Eicar FOUND\0"]).await, Ok(Answer::Found("Eicar".to_owned())));
        assert_eq!(ask(&[b"INSTREAM size limit exceeded. ERROR\0"]).await, Ok(Answer::TooLarge));
        assert_eq!(
            ask(&[b"COMMAND READ TIMED OUT\0"]).await,
            Err("answered \"COMMAND READ TIMED OUT\"".to_owned())
        );
        assert_eq!(ask(&[b"stream:  FOUND"]).await, Err("answered \"stream:  FOUND\"".to_owned()));
    }

    #[tokio::test]
    async fn a_mail_in_a_file_is_sent_in_pieces() {
        let (clamd, server) = answering(vec![b"stream: OK\0".to_vec()]).await;
        let body: Vec<u8> = (0..400_000u32).map(|n| n.to_le_bytes()[1]).collect();
        let mail = spooled(&Mail::new("A: b\r\n\r\n".into(), body));
        assert_eq!(scan_mail(&clamd, &mail).await, Ok(Answer::Clean));
        assert!(server.await.unwrap() == [whole(&mail)]);
        let file = tempfile::tempfile().unwrap();
        let unreadable = Mail::new(Bytes::new(), Octets::from_file(Arc::new(file), 9));
        let (clamd, server) = answering(vec![Vec::new(); 2]).await;
        assert_eq!(scan_mail(&clamd, &unreadable).await.unwrap_err().stage, "spool");
        server.abort();
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_tried_once_more() {
        assert_eq!(ask(&[b"", b"stream: OK\0"]).await, Ok(Answer::Clean));
        assert_eq!(ask(&[b"", b""]).await, Err("no answer".to_owned()));
    }

    #[tokio::test]
    async fn an_answer_has_an_end() {
        let endless = vec![b'x'; LONGEST_ANSWER + 1];
        assert_eq!(ask(&[&endless, &endless]).await, Err("an answer without end".to_owned()));
    }

    #[tokio::test]
    async fn a_clamd_that_says_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let clamd = Clamd::new(&address).unwrap();
        let unanswered = clamd.scan(&["x".into()], Duration::ZERO).await.unwrap_err();
        let expected = format!("clamd: {address}: no answer within 0 s");
        assert_eq!((unanswered.error.to_string(), unanswered.may_pass), (expected, false));
    }

    /// A clamd that answers any command so, each in a connection of its own.
    async fn saying(answers: &[&'static str]) -> Clamd {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answers = answers.to_vec();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                assert!(stream.read(&mut [0; 64]).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Clamd::new(&address).unwrap()
    }

    #[tokio::test]
    async fn ping_and_the_number_of_the_database() {
        let clamd = saying(&["PONG\0", "PONG\n", "what?\0"]).await;
        assert_eq!(clamd.ping().await, Ok(()));
        assert_eq!(clamd.ping().await, Ok(()));
        let error = clamd.ping().await.unwrap_err();
        assert!(error.cause.ends_with(": answered \"what?\" to PING"), "{error}");
        assert!(clamd.ping().await.is_err(), "it has gone");
        let version = "ClamAV 1.4.3/27700/Mon Jul 14 08:30:10 2025";
        let clamd =
            saying(&["ClamAV 1.4.3/27700/Mon Jul 14 08:30:10 2025\n", "ClamAV 1.4.3\n"]).await;
        assert_eq!(clamd.database(CONNECT_TIMEOUT).await, Ok(Some(version.to_owned())));
        assert_eq!(clamd.database(CONNECT_TIMEOUT).await, Ok(None));
    }

    /// clamd says why, and goes, while there is more to send than fits on the way.
    #[tokio::test]
    async fn what_clamd_said_before_it_went_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let clamd = Clamd::new(&listener.local_addr().unwrap().to_string()).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 5_000]).await.unwrap();
            stream.write_all(b"INSTREAM size limit exceeded. ERROR\0").await.unwrap();
        });
        let mail = Mail::new("A: b\r\n\r\n".into(), Bytes::from(vec![b'x'; 30_000_000]));
        assert_eq!(scan_mail(&clamd, &mail).await, Ok(Answer::TooLarge));
    }

    #[test]
    fn addresses() {
        assert_eq!("unix:/run/x".parse(), Ok(Address::Unix("/run/x".into())));
        assert_eq!("[::1]:3310".parse(), Ok(Address::Tcp("[::1]:3310".to_owned())));
        for wrong in ["", "/run/x", "localhost", ":3310", "host:port"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
