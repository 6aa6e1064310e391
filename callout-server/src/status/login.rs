//! Logging in by a form, and out again.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Form, State};
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Redirect, Response};
use maud::html;
use serde::Deserialize;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use super::Status;
use super::page;
use super::sessions::LIFETIME;
use crate::config::User;

/// The cookie that holds a session's token.
const COOKIE_NAME: &str = "callout_session";

/// After a wrong try nobody tries for so long: a day has 86,400 tries, whoever makes them.
const PENALTY: Duration = Duration::from_secs(1);

/// For a turn to try: some others may be wrong before.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tries, one at a time: hashing a password takes its memory once.
#[derive(Debug)]
pub(super) struct Logins(Arc<Semaphore>);

/// What the form holds.
#[derive(Deserialize)]
pub(super) struct Credentials {
    name: String,
    password: String,
}

/// Why nobody was logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Wrong,
    Busy,
    System,
}

impl Default for Logins {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Logins {
    /// The user of this name and password. An unknown name takes as long as a wrong password.
    async fn attempt(&self, users: &[User], tried: Credentials) -> Result<User, Refusal> {
        let place = timeout(PATIENCE, self.0.clone().acquire_owned()).await;
        let Ok(Ok(place)) = place else { return Err(Refusal::Busy) };
        let known = users.iter().find(|user| user.name == tried.name);
        let Some(measured) = known.or(users.first()).cloned() else { return Err(Refusal::Wrong) };
        let is_known = known.is_some();
        let (said, result) = oneshot::channel();
        // A client that goes away shortens nothing.
        tokio::spawn(async move {
            let checked = move || (measured.password.is(&tried.password), measured);
            let user = match tokio::task::spawn_blocking(checked).await {
                Ok((true, user)) if is_known => Ok(user),
                Ok(_) => Err(Refusal::Wrong),
                Err(_) => Err(Refusal::System),
            };
            let is_wrong = user.is_err();
            let _ = said.send(user);
            if is_wrong {
                sleep(PENALTY).await;
            }
            drop(place);
        });
        result.await.unwrap_or(Err(Refusal::System))
    }
}

/// The form.
pub(super) async fn form(State(status): State<Arc<Status>>, headers: HeaderMap) -> Response {
    match status.is_logged_in(&headers) {
        true => Redirect::to("/").into_response(),
        false => login_page(None).into_response(),
    }
}

/// Begins a session.
pub(super) async fn log_in(
    State(status): State<Arc<Status>>,
    headers: HeaderMap,
    Form(tried): Form<Credentials>,
) -> Response {
    let users = status.server.current().config.admin.users.clone();
    let refusal = match status.logins.attempt(&users, tried).await {
        Ok(user) => {
            let name = user.name.clone();
            match status.sessions.begin(user, Instant::now()) {
                Ok(token) => {
                    info!(user = name, "logged in at the status page");
                    let cookie = cookie(&token, LIFETIME, is_https(&headers));
                    return ([(SET_COOKIE, cookie)], Redirect::to("/")).into_response();
                }
                Err(error) => {
                    error!(%error, "no session can begin");
                    Refusal::System
                }
            }
        }
        Err(refusal) => refusal,
    };
    // Not the name: passwords are typed into its field.
    warn!(?refusal, "a login at the status page was refused");
    let code = match refusal {
        Refusal::Wrong => StatusCode::FORBIDDEN,
        Refusal::Busy => StatusCode::TOO_MANY_REQUESTS,
        Refusal::System => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (code, login_page(Some(refusal))).into_response()
}

/// Ends the session. SameSite keeps other sites from it.
pub(super) async fn log_out(State(status): State<Arc<Status>>, headers: HeaderMap) -> Response {
    if let Some(token) = token(&headers) {
        status.sessions.end(token);
    }
    let cookie = cookie("", Duration::ZERO, is_https(&headers));
    ([(SET_COOKIE, cookie)], Redirect::to("/login")).into_response()
}

/// The session's token in a request.
pub(super) fn token(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    let mut cookies = cookies.flat_map(|cookies| cookies.split(';'));
    cookies.find_map(|cookie| cookie.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='))
}

fn cookie(token: &str, lifetime: Duration, is_https: bool) -> String {
    let secure = if is_https { "; Secure" } else { "" };
    let seconds = lifetime.as_secs();
    format!("{COOKIE_NAME}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}")
}

/// Whether a proxy before us says that it speaks TLS; believing that makes the cookie stricter, and nothing else.
fn is_https(headers: &HeaderMap) -> bool {
    headers.get("x-forwarded-proto").is_some_and(|scheme| scheme.as_bytes() == b"https")
}

fn login_page(refusal: Option<Refusal>) -> Html<String> {
    let said = refusal.map(|refusal| match refusal {
        Refusal::Wrong => "This is not the name and password of a user.",
        Refusal::Busy => "Too many tries at a time. Try again in a few seconds.",
        Refusal::System => "Nobody can log in now; the log says why.",
    });
    page::bare(html! {
        form.login method="post" action="/login" {
            h1 { "callout-server" }
            @if let Some(said) = said {
                p.refused role="alert" { (said) }
            }
            label for="name" { "Name" }
            input id="name" name="name" autocomplete="username" autocapitalize="none" required
                autofocus;
            label for="password" { "Password" }
            input id="password" name="password" type="password" autocomplete="current-password"
                required;
            button type="submit" { "Log in" }
        }
    })
}

#[cfg(test)]
mod tests {
    use services::Password;

    use super::*;

    fn users() -> Vec<User> {
        // Of "secret", with as little work as Argon2 lets be.
        vec![User { name: "ada".to_owned(), password: Password::cheap("secret") }]
    }

    fn credentials(name: &str, password: &str) -> Credentials {
        Credentials { name: name.to_owned(), password: password.to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_try_takes_its_second_and_a_right_one_none() {
        let (logins, users) = (Logins::default(), users());
        let begin = Instant::now();
        for _ in 0..3 {
            let right = logins.attempt(&users, credentials("ada", "secret")).await;
            assert_eq!(right.unwrap().name, "ada");
        }
        assert_eq!(Instant::now(), begin);
        let wrong = [("ada", "Secret"), ("eve", "secret"), ("", "")];
        for (index, (name, password)) in wrong.into_iter().enumerate() {
            let refused = logins.attempt(&users, credentials(name, password)).await;
            assert_eq!(refused, Err(Refusal::Wrong), "{name}");
            // The answer comes at once; the next try has to wait, even if its client has gone.
            let seconds = PENALTY * u32::try_from(index).unwrap();
            assert!(begin.elapsed() - seconds < PENALTY, "{name}");
            drop(timeout(Duration::ZERO, logins.attempt(&users, credentials("ada", "x"))).await);
        }
        assert!(logins.attempt(&users, credentials("ada", "secret")).await.is_ok());
        assert!(begin.elapsed() >= 3 * PENALTY);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_for_a_turn_is_told_so() {
        let (logins, users) = (Logins::default(), users());
        let place = logins.0.clone().acquire_owned().await.unwrap();
        let refused = logins.attempt(&users, credentials("ada", "secret")).await;
        assert_eq!(refused, Err(Refusal::Busy));
        drop(place);
        assert!(logins.attempt(&users, credentials("ada", "secret")).await.is_ok());
        let nobody = logins.attempt(&[], credentials("ada", "secret")).await;
        assert_eq!(nobody, Err(Refusal::Wrong));
    }

    #[test]
    fn a_token_is_found_among_other_cookies() {
        let mut headers = HeaderMap::new();
        assert_eq!(token(&headers), None);
        headers.append(COOKIE, "callout_session2=a; callout_sessio=b".parse().unwrap());
        assert_eq!(token(&headers), None);
        headers.append(COOKIE, "x=y;  callout_session=abc ;z".parse().unwrap());
        assert_eq!(token(&headers), Some("abc"));
    }
}
