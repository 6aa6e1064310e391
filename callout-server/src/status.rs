//! The status page: how the server is and what became of the last messages, in a browser, for those who may log in.
//!
//! | path | page |
//! | --- | --- |
//! | `/` | throughput, services, budgets, the last messages |
//! | `/history?q=WORDS` | messages in which each word stands somewhere, 50 a page |
//! | `/history/ID` | one message, with everything that is known of it |
//! | `/login`, `/logout` | a session of one's own; the only requests that change anything |
//!
//! Pages are made here, hold no script, and let none in (Content-Security-Policy). They come from the admin
//! listener, within its places and its time, apart from the way of mail; [`READERS`] at a time look through the
//! history. Without users there is no page.

mod chart;
mod login;
mod messages;
mod overview;
mod page;
mod sessions;
mod throughput;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::login::Logins;
use self::sessions::Sessions;
use self::throughput::Throughput;
use crate::history::History;
use crate::server::Server;

/// Pages at a time for which the history is looked through, each on a thread that mail does not need.
const READERS: usize = 2;

/// Octets of a form: a name and a password.
const FORM_OCTETS: usize = 8 * 1024;

/// Octets of a page, at the most: that of the largest message, of which each octet may take six where it is escaped.
pub(crate) const LARGEST_PAGE: usize = 1024 * 1024;

/// What is sent with every page. Nothing but the style sheet is loaded, nothing is run, and nobody shows it in a frame.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
];

/// What the pages are made of.
#[derive(Debug)]
struct Status {
    server: Arc<Server>,
    stop: CancellationToken,
    sessions: Sessions,
    logins: Logins,
    throughput: Arc<Throughput>,
    readers: Arc<Semaphore>,
    _minutes: AbortOnDropHandle<()>,
}

/// The pages of a server.
pub(crate) fn router(server: Arc<Server>, stop: CancellationToken) -> Router {
    let throughput = Arc::new(Throughput::default());
    let minutes = tokio::spawn(throughput.clone().run(server.clone()));
    let status = Arc::new(Status {
        server,
        stop,
        sessions: Sessions::default(),
        logins: Logins::default(),
        throughput,
        readers: Arc::new(Semaphore::new(READERS)),
        _minutes: AbortOnDropHandle::new(minutes),
    });
    let for_users = middleware::from_fn_with_state(status.clone(), for_users);
    let with_page = middleware::from_fn_with_state(status.clone(), with_page);
    Router::new()
        .route("/", get(overview::overview))
        .route("/history", get(messages::list))
        .route("/history/{id}", get(messages::one))
        .route("/logout", post(login::log_out))
        .route_layer(for_users)
        .route("/login", get(login::form).post(login::log_in))
        .layer(DefaultBodyLimit::max(FORM_OCTETS))
        .route("/status.css", get(style))
        .route_layer(with_page)
        .with_state(status)
        .layer(middleware::map_response(secured))
}

/// Without users there is nothing to be seen.
async fn with_page(State(status): State<Arc<Status>>, request: Request, next: Next) -> Response {
    if status.server.current().config.admin.users.is_empty() {
        let reason = "There is no status page, since nobody may log in: add [[admin.user]] to the \
            configuration, with name and password, which callout-server password makes.\n";
        return (StatusCode::NOT_FOUND, reason).into_response();
    }
    next.run(request).await
}

/// Who is not logged in has to.
async fn for_users(State(status): State<Arc<Status>>, request: Request, next: Next) -> Response {
    match status.is_logged_in(request.headers()) {
        true => next.run(request).await,
        false => Redirect::to("/login").into_response(),
    }
}

async fn secured(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn style() -> Response {
    ([(CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("status/status.css")).into_response()
}

impl Status {
    /// Whether a session goes on, and its user is still one.
    fn is_logged_in(&self, headers: &HeaderMap) -> bool {
        let user =
            login::token(headers).and_then(|token| self.sessions.find(token, Instant::now()));
        user.is_some_and(|user| self.server.current().config.admin.users.contains(&user))
    }

    /// Looks through the history, on a thread that no mail waits for. Without a history there is nothing.
    async fn look<T: Default + Send + 'static>(
        &self,
        look: impl FnOnce(&History) -> T + Send + 'static,
    ) -> T {
        let Some(history) = self.server.history.clone() else { return T::default() };
        // The places are never closed; a client that goes away does not give its place to the next.
        let place = self.readers.clone().acquire_owned().await;
        let looked = tokio::task::spawn_blocking(move || (look(&history), place));
        looked.await.map(|(found, _)| found).unwrap_or_default()
    }
}
