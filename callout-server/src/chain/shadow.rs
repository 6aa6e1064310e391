//! What a service that is only tried would have done.

use services::{Change, Finding, Outcome};

/// What it found, with what it would have done as the reason; a line in the log says it too.
pub(super) fn finding(service: &str, outcome: Outcome) -> Finding {
    let would = would(&outcome);
    let Finding { verdict, score, reason } = outcome.finding;
    tracing::info!(service, %verdict, score, reason, would, "shadow");
    let said = reason.map(|reason| format!("; {reason}")).unwrap_or_default();
    let reason = Some(format!("in shadow, would {would}{said}"));
    Finding { verdict, score, reason }
}

fn would(outcome: &Outcome) -> String {
    let mut would = match &outcome.change {
        Change::None => Vec::new(),
        Change::Command(_) => vec!["change the command line".to_owned()],
        Change::Content(edits) => {
            vec![format!("edit the message in {} places", edits.iter().count())]
        }
        Change::Reply(reply) => vec![format!("reply {}", reply.to_string().trim_end())],
    };
    would.extend(outcome.effects.iter().map(|effect| effect.name().to_string()));
    if !outcome.notifications.is_empty() {
        would.push(format!("submit {} new messages", outcome.notifications.len()));
    }
    match would.is_empty() {
        true => "change nothing".to_owned(),
        false => would.join(", "),
    }
}
