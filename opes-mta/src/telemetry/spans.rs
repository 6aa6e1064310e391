//! The spans that there are. Names are those of the log, in which the same ids stand.
//!
//! ```text
//! opes-mta        dialog ── event, or reply ── consultation ── attempt       a trace for each SMTP dialog
//! callout-server  transaction ── service                                     a trace for each event
//!                 connection                                                 linked by its transactions
//! ```
//!
//! OCP with the SMTP profile carries no trace context: an attempt and its transaction have `dialog` and `xid` in common,
//! and the server that was asked; `queue_id` besides, where it is known.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

use ocp_proto::smtp::{Command, DialogFacts};
use tracing::Span;

/// By which spans that no log line shows are known.
pub(super) const TARGET: &str = "telemetry";

/// Whether there is somebody to make spans for.
static IS_ON: AtomicBool = AtomicBool::new(false);

fn is_on() -> bool {
    cfg!(feature = "opentelemetry") && IS_ON.load(Ordering::Relaxed)
}

#[cfg(feature = "opentelemetry")]
pub(super) fn switch_on() {
    IS_ON.store(true, Ordering::Relaxed);
}

macro_rules! span {
    ($($fields:tt)*) => {
        if is_on() { tracing::info_span!(target: TARGET, $($fields)*) } else { Span::none() }
    };
}

/// An SMTP dialog at a front end, the root of a trace.
pub(crate) fn dialog(listen: &str, facts: &DialogFacts, id: impl Display) -> Span {
    span!(parent: None, "dialog", %id, listen, activation = facts.activation.name())
}

/// An event of a dialog, at all groups that are asked; `id` is that of the message's line in the log.
pub(crate) fn event(
    dialog: &Span,
    command: &Command,
    id: impl Display,
    facts: &DialogFacts,
) -> Span {
    span!(parent: dialog, "event", event = %command, %id, queue_id = queue_id(facts))
}

/// A next hop's reply to a command, at all groups that are asked.
pub(crate) fn reply(dialog: &Span, command: &Command, id: impl Display) -> Span {
    span!(parent: dialog, "reply", event = %command, %id)
}

/// What a group of servers is asked.
pub(crate) fn consultation(services: &[String], command: &Command) -> Span {
    span!("consultation", services = services.join(" "), event = %command)
}

/// What one server of a group is asked.
pub(crate) fn attempt(server: impl Display) -> Span {
    span!("attempt", %server)
}

/// What a service of the chain is asked.
pub fn service(name: &str) -> Span {
    span!("service", service = name)
}

/// Makes a span the root of a trace of its own, with a link to the span that it is in. Connections live for days: what
/// happens on one is not one trace. Before the span is entered.
pub fn detach(span: &Span) {
    #[cfg(feature = "opentelemetry")]
    if is_on() {
        super::export::detach(span);
    }
    let _ = span;
}

/// One more attribute of a span.
pub fn set(span: &Span, name: &'static str, value: impl Display) {
    #[cfg(feature = "opentelemetry")]
    if is_on() {
        super::export::set(span, name, value.to_string());
    }
    let _ = (span, name, value);
}

/// What the span is about has failed, at this stage; the log says why.
pub fn failed(span: &Span, stage: impl Display) {
    #[cfg(feature = "opentelemetry")]
    if is_on() {
        super::export::failed(span, stage.to_string());
    }
    let _ = (span, stage);
}

/// As the log has it, up to 64 characters: they may be a peer's.
pub fn queue_id(facts: &DialogFacts) -> Option<String> {
    facts.queue_id.as_deref().map(|id| String::from_utf8_lossy(id).chars().take(64).collect())
}
