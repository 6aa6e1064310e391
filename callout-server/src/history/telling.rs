//! The history over the control socket: one JSON object a line.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{LARGEST_RECORD, words};
use crate::server::Server;

/// Octets that one reader of lines holds: a line that waits, and one that is sent, each of a record of which each octet
/// takes six at the most.
pub(crate) const LARGEST_LINES: usize = 2 * 6 * LARGEST_RECORD;

/// Which records are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// So many at the most, the newest of those that match.
    pub(crate) last: usize,
    /// Words that each have to stand in them.
    #[serde(default)]
    pub(crate) search: String,
}

/// The records, the oldest first. One is looked up when the one before it was taken: a slow reader holds no more than
/// that, and some may be gone until its turn comes.
pub(crate) async fn lines(
    State(server): State<Arc<Server>>,
    Query(asked): Query<Asked>,
) -> Response {
    let Some(history) = server.history.clone() else {
        let reason = "this server keeps no history: [history] messages is 0\n";
        return (StatusCode::NOT_FOUND, reason).into_response();
    };
    let (sender, receiver) = mpsc::channel(1);
    // A search goes through all of it, which mail should not wait for.
    tokio::task::spawn_blocking(move || {
        let words = words(&asked.search);
        let found = history.newest().filter(|record| record.matches(&words)).take(asked.last);
        let ids: Vec<u64> = found.map(|record| record.id).collect();
        for record in ids.into_iter().rev().filter_map(|id| history.get(id)) {
            let line = serde_json::to_string(&*record).unwrap_or_default() + "\n";
            if sender.blocking_send(Ok::<_, Infallible>(line)).is_err() {
                return;
            }
        }
    });
    let body = Body::from_stream(ReceiverStream::new(receiver));
    ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}
