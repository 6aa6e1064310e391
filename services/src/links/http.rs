//! The listener: pages and files over HTTP, for a web server in front of it that speaks TLS.
//!
//! It shares nothing with mail but the threads: whoever asks, and however slowly, has one of [`CONNECTIONS`] places for
//! one request. A download goes on as long as the client takes a piece every [`PATIENCE`].

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Extension, Form, FromRequest, Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Router, middleware};
use futures_util::stream;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::page::{self, Refusal, STYLE};
use super::site::Site;
use super::store::{Name, Record};

/// Connections at a time; more wait in the system's queue. Worst case: so many times [`HEADER_OCTETS`] and twice
/// [`PIECE`].
pub(super) const CONNECTIONS: usize = 64;

/// Octets of a request's header section.
pub(super) const HEADER_OCTETS: usize = 16 * 1024;

/// Octets of a file that are read at a time.
pub(super) const PIECE: usize = 64 * 1024;

/// Octets of a form: a password.
const FORM_OCTETS: usize = 8 * 1024;

/// For a request's header section.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);

/// For an answer, and for each piece of a file.
const PATIENCE: Duration = Duration::from_secs(30);

/// After an error of `accept` that concerns the whole process, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is sent with everything. Nothing but the style sheet is loaded, nothing is run, and nobody shows it in a frame.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("x-robots-tag"), "noindex, nofollow"),
];

/// Pieces that the client of a connection has taken.
#[derive(Clone, Debug, Default)]
struct Taken(Arc<AtomicU64>);

/// Answers until it is dropped.
pub(super) async fn serve(listener: TcpListener, site: Weak<Site>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .max_buf_size(HEADER_OCTETS)
        .keep_alive(false);
    let router = Router::new()
        .fallback(answer)
        .layer(DefaultBodyLimit::max(FORM_OCTETS))
        .layer(middleware::map_response(secured))
        .with_state(site);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // Without a place nothing is accepted. The places are never closed.
    while let Ok(place) = places.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => TokioIo::new(stream),
            Err(error) => {
                warn!(%error, "no connection for links could be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let taken = Taken::default();
        let service = TowerToHyperService::new(router.clone().layer(Extension(taken.clone())));
        let served = http.serve_connection(stream, service);
        tokio::spawn(async move {
            let mut served = std::pin::pin!(served);
            let mut before = 0;
            loop {
                tokio::select! {
                    ended = &mut served => {
                        if let Err(error) = ended {
                            debug!(%error, "connection for links");
                        }
                        break;
                    }
                    () = sleep(PATIENCE) => {
                        let now = taken.0.load(Ordering::Relaxed);
                        if std::mem::replace(&mut before, now) == now {
                            debug!("connection for links: too slow");
                            break;
                        }
                    }
                }
            }
            drop(place);
        });
    }
}

async fn secured(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// A name is the last segment of a path: what stands before it is the matter of the web server in front.
async fn answer(
    State(site): State<Weak<Site>>,
    Extension(taken): Extension<Taken>,
    request: Request,
) -> Response {
    let last = request.uri().path().rsplit('/').next().unwrap_or_default();
    if last == STYLE {
        return ([(CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("links.css"))
            .into_response();
    }
    let Some(site) = site.upgrade() else { return nothing() };
    let known = Name::parse(last).and_then(|name| Some((name, site.find(name)?)));
    let Some((name, record)) = known else { return nothing() };
    match *request.method() {
        Method::GET | Method::HEAD => {
            site.seen(name, &record).await;
            page::file(&record, None).into_response()
        }
        Method::POST => match permitted(&site, name, &record, request).await {
            Ok(()) => download(&site, name, taken).await,
            Err((status, refusal)) => (status, page::file(&record, Some(refusal))).into_response(),
        },
        _ => (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD, POST")]).into_response(),
    }
}

/// What the form holds.
#[derive(Deserialize)]
struct Typed {
    password: String,
}

async fn permitted(
    site: &Site,
    name: Name,
    record: &Record,
    request: Request,
) -> Result<(), (StatusCode, Refusal)> {
    let Some(hash) = &record.password else { return Ok(()) };
    let typed = Form::<Typed>::from_request(request, &()).await;
    let Ok(Form(typed)) = typed else { return Err((StatusCode::FORBIDDEN, Refusal::Wrong)) };
    site.passwords.check(name, hash, typed.password).await.map_err(|refusal| {
        let status = match refusal {
            Refusal::Wrong => StatusCode::FORBIDDEN,
            Refusal::TooMany | Refusal::Busy => StatusCode::TOO_MANY_REQUESTS,
        };
        (status, refusal)
    })
}

async fn download(site: &Arc<Site>, name: Name, taken: Taken) -> Response {
    let (file, record) = match site.download(name).await {
        Ok(Some(opened)) => opened,
        Ok(None) => return nothing(),
        Err(error) => {
            warn!(%error, "a file behind a link can't be read");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    let file = tokio::fs::File::from_std(file);
    let pieces = stream::try_unfold((file, record.octets), move |(mut file, left)| {
        let taken = taken.clone();
        async move {
            taken.0.fetch_add(1, Ordering::Relaxed);
            if left == 0 {
                return Ok::<_, io::Error>(None);
            }
            let mut piece = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
            file.read_exact(&mut piece).await?;
            let left = left - piece.len() as u64;
            Ok(Some((Bytes::from(piece), (file, left))))
        }
    });
    let headers = [
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (CONTENT_LENGTH, record.octets.to_string()),
        (CONTENT_DISPOSITION, disposition(&record.file_name)),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox".to_owned()),
    ];
    (headers, Body::from_stream(pieces)).into_response()
}

fn nothing() -> Response {
    (StatusCode::NOT_FOUND, page::nothing()).into_response()
}

/// A file to be kept, under its name (RFC 6266): in ASCII, and as it is (RFC 8187).
fn disposition(file_name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ' ');
    let ascii: String = file_name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    let mut exact = String::new();
    for octet in file_name.bytes() {
        match octet {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'.' | b'-' | b'_' => {
                exact.push(char::from(octet));
            }
            _ => exact.push_str(&format!("%{octet:02X}")),
        }
    }
    format!("attachment; filename=\"{ascii}\"; filename*=UTF-8''{exact}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_its_name_and_nothing_else_is_said() {
        assert_eq!(
            disposition("a \"b\"; \u{e4}\r\n.pdf"),
            "attachment; filename=\"a _b__ ___.pdf\"; filename*=UTF-8''a%20%22b%22%3B%20%C3%A4%0D%0A.pdf"
        );
    }
}
