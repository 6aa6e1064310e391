//! Asking a running server over its control socket.

use std::io;
use std::path::{Path, PathBuf};

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use miette::Diagnostic;
use tokio::net::UnixStream;

/// Octets of an answer, at the most: it is text for people, or a file for programs.
const ANSWER_OCTETS: usize = 64 * 1024 * 1024;

/// The control socket of a running server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control(PathBuf);

/// Why there is no answer that helps.
#[derive(Debug, Diagnostic, thiserror::Error)]
pub enum ControlError {
    /// Nobody answers there, or not to the end.
    #[error(
        "the server can't be asked at {}: {cause}; does it run with this [admin] control, and are you its user or root?",
        path.display()
    )]
    Unreachable {
        /// The control socket.
        path: PathBuf,
        /// What went wrong.
        cause: String,
    },
    /// The server says no; its words.
    #[error("{0}")]
    Refused(String),
}

impl Control {
    /// The server with its control socket there.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// GET: what the server tells.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn get(&self, path: &str) -> Result<String, ControlError> {
        self.ask(Method::GET, path).await
    }

    /// POST: has the server do something; what it says of it.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn post(&self, path: &str) -> Result<String, ControlError> {
        self.ask(Method::POST, path).await
    }

    async fn ask(&self, method: Method, path: &str) -> Result<String, ControlError> {
        let answered = self.exchange(method, path).await;
        let (status, text) = answered.map_err(|cause| ControlError::Unreachable {
            path: self.0.clone(),
            cause: cause.to_string(),
        })?;
        match status.is_success() {
            true => Ok(text),
            false => Err(ControlError::Refused(text.trim_end().to_owned())),
        }
    }

    /// One request, one answer, on a connection of its own.
    async fn exchange(&self, method: Method, path: &str) -> io::Result<(StatusCode, String)> {
        let stream = TokioIo::new(UnixStream::connect(&self.0).await?);
        let (mut sender, connection) = handshake(stream).await.map_err(io::Error::other)?;
        // It ends with the answer.
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "control");
        let request = request.body(Body::empty()).map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let octets = to_bytes(Body::new(response.into_body()), ANSWER_OCTETS).await;
        let octets = octets.map_err(io::Error::other)?;
        Ok((status, String::from_utf8_lossy(&octets).into_owned()))
    }
}
