//! The page that RFC 3897 section 3.2 asks for at the system's URI, and a server of that one page.
//!
//! It speaks as much HTTP/1.1 as a page needs (RFC 9112): GET and HEAD, one request a connection. TLS is the
//! matter of a web server in front of it.

mod page;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::{Config, Disclosure, System};

/// Octets of a request's head.
const LONGEST_HEAD: usize = 8_192;

/// For the request and the answer together.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections at a time; one more is closed. Worst case in memory with the head: 512 KiB.
const CONNECTIONS: usize = 64;

/// After an error of `accept` that concerns the whole process, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The page, about to be served.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    site: Arc<Site>,
}

/// The page and where it is.
#[derive(Debug)]
struct Site {
    /// The path of the system's URI; the page is at `/` too.
    path: String,
    page: String,
}

impl Server {
    /// Binds the address, if the configuration has one.
    ///
    /// # Errors
    /// If it can't be bound, and why.
    pub async fn bind(config: &Config) -> io::Result<Option<Self>> {
        let Some((system, disclosure)) = of(config) else { return Ok(None) };
        let listener = TcpListener::bind(disclosure.listen).await.map_err(|error| {
            let message = format!("{} can't be listened on: {error}", disclosure.listen);
            io::Error::new(error.kind(), message)
        })?;
        let page = page::page(config, system, disclosure);
        let site = Arc::new(Site { path: path(&system.uri).to_owned(), page });
        Ok(Some(Self { listener, site }))
    }

    /// Where it listens, with the port that the system chose.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves the page until `stop` is cancelled.
    pub async fn serve(self, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "no reader of the disclosure page could be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let site = Arc::clone(&self.site);
            tokio::spawn(async move {
                // Whoever is too slow, or goes away, has no page.
                let _ = timeout(PATIENCE, site.serve(stream)).await;
                drop(place);
            });
        }
    }
}

impl Site {
    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let mut head = Vec::new();
        let complete = loop {
            let room = LONGEST_HEAD - head.len();
            if ends(&head) || room == 0 {
                break ends(&head);
            }
            if (&mut stream).take(room as u64).read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        };
        let answer = match complete {
            true => self.answer(&head),
            false => refusal("431 Request Header Fields Too Large", ""),
        };
        stream.write_all(&answer).await?;
        stream.shutdown().await
    }

    fn answer(&self, head: &[u8]) -> Vec<u8> {
        let line = head.split(|octet| *octet == b'\n').next().unwrap_or_default();
        let mut words = line.trim_ascii_end().split(|octet| *octet == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return refusal("400 Bad Request", "");
        };
        if !version.starts_with(b"HTTP/1.") {
            return refusal("505 HTTP Version Not Supported", "");
        }
        if !matches!(method, b"GET" | b"HEAD") {
            return refusal("405 Method Not Allowed", "Allow: GET, HEAD\r\n");
        }
        let target = target.split(|octet| *octet == b'?').next().unwrap_or_default();
        if target != b"/" && target != self.path.as_bytes() {
            return refusal("404 Not Found", "");
        }
        let body = if method == b"GET" { self.page.as_bytes() } else { b"" };
        let head = format!(
            "HTTP/1.1 200 OK\r\n\
             Content-Type: text/html; charset=utf-8\r\n\
             Content-Length: {}\r\n\
             Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n\
             X-Content-Type-Options: nosniff\r\n\
             Cache-Control: max-age=300\r\n\
             Connection: close\r\n\r\n",
            self.page.len()
        );
        [head.as_bytes(), body].concat()
    }
}

/// Whether a request's head is whole.
fn ends(head: &[u8]) -> bool {
    memchr::memmem::find(head, b"\r\n\r\n").is_some()
        || memchr::memmem::find(head, b"\n\n").is_some()
}

fn refusal(status: &str, field: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{field}Content-Length: 0\r\nConnection: close\r\n\r\n").into()
}

fn of(config: &Config) -> Option<(&System, &Disclosure)> {
    let system = config.system.as_ref()?;
    system.disclosure.as_ref().map(|disclosure| (system, disclosure))
}

/// The path of a URI with an authority; `/` if it has none.
fn path(uri: &str) -> &str {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let rest = rest.split('?').next().unwrap_or_default();
    rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(request: &[u8]) -> String {
        let site = Site { path: "/opes".to_owned(), page: "<p>page</p>".to_owned() };
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        client.write_all(request).await.unwrap();
        let served = tokio::spawn(async move { site.serve(server).await });
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        served.await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn one_page_is_served_and_nothing_else() {
        let cases: [(&str, &str, &str); 11] = [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "200", "<p>page</p>"),
            ("GET /opes HTTP/1.0\n\n", "200", "<p>page</p>"),
            ("GET /opes?session=1 HTTP/1.1\r\n\r\n", "200", "<p>page</p>"),
            ("HEAD / HTTP/1.1\r\n\r\n", "200", ""),
            ("GET /opes/x HTTP/1.1\r\n\r\n", "404", ""),
            ("GET /../etc/passwd HTTP/1.1\r\n\r\n", "404", ""),
            ("POST / HTTP/1.1\r\n\r\n", "405", ""),
            ("GET / HTTP/2.0\r\n\r\n", "505", ""),
            ("GET /\r\n\r\n", "400", ""),
            ("GET / HTTP/1.1 x\r\n\r\n", "400", ""),
            ("\r\n\r\n", "400", ""),
        ];
        for (request, status, body) in cases {
            let answer = ask(request.as_bytes()).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
            let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
            assert_eq!(rest, body, "{request:?}");
            assert!(head.contains("Connection: close"), "{head}");
            if status == "200" {
                assert!(head.contains("Content-Length: 11\r\n"), "{head}");
            }
        }
    }

    #[tokio::test]
    async fn a_head_has_an_end() {
        let endless = [&b"GET / HTTP/1.1\r\nX: "[..], &[b'x'; LONGEST_HEAD]].concat();
        let answer = ask(&endless).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[test]
    fn the_page_is_at_the_path_of_the_uri() {
        let cases = [
            ("https://a.example", "/"),
            ("https://a.example/", "/"),
            ("https://a.example/opes/x", "/opes/x"),
            ("https://a.example?x=/y", "/"),
            ("https://a.example/opes?x=/y", "/opes"),
        ];
        for (uri, expected) in cases {
            assert_eq!(path(uri), expected, "{uri}");
        }
    }
}
