//! The admin listener: how a program is, over HTTP, for those who operate it.
//!
//! | path | answer |
//! | --- | --- |
//! | `/metrics` | all metrics, as OpenMetrics text |
//! | `/healthz` | 200 as long as the process serves |
//! | `/readyz` | 200 while it takes connections; 503 with a reason while it only lets what is open end |
//!
//! It changes nothing, and no metric tells anything of a message.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::instruments::Exposition;

/// The answers, for [`serve`](crate::http::serve). `readiness` says why the program is not ready.
pub fn routes(
    exposition: Exposition,
    readiness: impl Fn() -> Result<(), String> + Clone + Send + Sync + 'static,
) -> Router {
    let exposition = Arc::new(exposition);
    Router::new()
        .route("/metrics", get(async move || metrics(&exposition)))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(async move || ready(readiness())))
}

fn metrics(exposition: &Exposition) -> Response {
    match exposition.text() {
        Ok(text) => ([(CONTENT_TYPE, Exposition::MEDIA_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn ready(readiness: Result<(), String>) -> Response {
    match readiness {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}
