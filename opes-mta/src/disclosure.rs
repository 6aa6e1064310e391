//! The page that RFC 3897 section 3.2 asks for at the system's URI, and a server of that one page.

mod page;

use std::io;

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Disclosure, System};
use crate::http::{self, Listener};

/// The page, about to be served.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    site: Site,
}

/// The page and where it is.
#[derive(Clone, Debug)]
struct Site {
    /// The path of the system's URI; the page is at `/` too.
    path: String,
    page: Bytes,
}

impl Server {
    /// Binds the address, if the configuration has one.
    ///
    /// # Errors
    /// If it can't be bound, and why.
    pub async fn bind(config: &Config) -> io::Result<Option<Self>> {
        let Some((system, disclosure)) = of(config) else { return Ok(None) };
        let listener = Listener::bind(disclosure.listen).await?;
        let page = page::page(config, system, disclosure).into();
        let site = Site { path: path(&system.uri).to_owned(), page };
        Ok(Some(Self { listener, site }))
    }

    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> String {
        self.listener.address()
    }

    /// Serves the page until `stop` is cancelled.
    pub async fn serve(self, stop: CancellationToken) {
        let Self { listener, site } = self;
        stop.run_until_cancelled(http::serve(&listener, site.router())).await;
    }
}

impl Site {
    fn router(self) -> Router {
        // The path is not ours: nothing in it is a pattern.
        Router::new().fallback(get(async move |uri: Uri| self.answer(&uri)))
    }

    fn answer(&self, uri: &Uri) -> Response {
        if uri.path() != "/" && uri.path() != self.path {
            return StatusCode::NOT_FOUND.into_response();
        }
        let fields = [
            (CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (CACHE_CONTROL, "max-age=300"),
        ];
        (fields, Html(self.page.clone())).into_response()
    }
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
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn ask(method: &str, target: &str) -> (StatusCode, String) {
        let site = Site { path: "/opes".to_owned(), page: "<p>page</p>".into() };
        let request = Request::builder().method(method).uri(target).body(Body::empty()).unwrap();
        let answer = site.router().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn one_page_is_served_and_nothing_else() {
        let cases = [
            ("GET", "/", 200, "<p>page</p>"),
            ("GET", "/opes", 200, "<p>page</p>"),
            ("GET", "/opes?session=1", 200, "<p>page</p>"),
            ("HEAD", "/", 200, ""),
            ("GET", "/opes/x", 404, ""),
            ("GET", "/../etc/passwd", 404, ""),
            ("POST", "/", 405, ""),
        ];
        for (method, target, status, body) in cases {
            let answer = ask(method, target).await;
            assert_eq!((answer.0.as_u16(), answer.1.as_str()), (status, body), "{method} {target}");
        }
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
