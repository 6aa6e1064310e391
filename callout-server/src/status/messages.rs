//! The last messages: a list that can be searched, and one of them with everything that is known.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use super::Status;
use super::page::{Page, Place, octets};
use crate::history::{Event, Finding, History, Profile, Record, Text, Version, words};
use crate::metrics::EventResult;

/// Messages of one page.
const PAGE: usize = 50;

/// Recipients that a list names; the message's own page has more.
const MOST_RECIPIENTS: usize = 2;

/// Findings that a list shows, for the same reason.
const MOST_FINDINGS: usize = 6;

/// Which messages are asked for.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Asked {
    /// Words that each have to stand in them.
    #[serde(default)]
    q: String,
    /// Only those before that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<u64>,
}

/// The list.
pub(super) async fn list(
    State(status): State<Arc<Status>>,
    Query(asked): Query<Asked>,
) -> Html<String> {
    let (words, before) = (words(&asked.q), asked.before.unwrap_or(u64::MAX));
    let look = move |history: &History| {
        let found = history.before(before).filter(|record| record.matches(&words));
        // One more shows that there are more.
        found.take(PAGE + 1).collect::<Vec<_>>()
    };
    let mut found = status.look(look).await;
    let more = found.len() > PAGE;
    found.truncate(PAGE);
    let older = found.last().filter(|_| more).map(|last| {
        let older = Asked { q: asked.q.clone(), before: Some(last.id) };
        format!("/history?{}", serde_urlencoded::to_string(older).unwrap_or_default())
    });
    let page = Page { title: "History".to_owned(), place: Place::History, is_live: false };
    page.with(html! {
        h1 { "History" }
        form.search role="search" action="/history" {
            label for="q" { "Search" }
            input id="q" name="q" type="search" value=(asked.q) maxlength="200"
                placeholder="addresses, queue id, client, verdict, reply";
            button type="submit" { "Search" }
        }
        @if status.server.history.is_none() {
            p { "No messages are kept: [history] messages is 0." }
        } @else {
            (table(&found))
        }
        nav.turn aria-label="Pages of the history" {
            @if asked.before.is_some() {
                @let newest = Asked { q: asked.q.clone(), before: None };
                a href=(format!("/history?{}", serde_urlencoded::to_string(newest).unwrap_or_default())) { "Newest" }
            }
            @if let Some(older) = older {
                a rel="next" href=(older) { "Older" }
            }
        }
    })
}

/// One message.
pub(super) async fn one(State(status): State<Arc<Status>>, Path(id): Path<u64>) -> Response {
    let title = format!("Message {id}");
    let page = Page { title, place: Place::History, is_live: false };
    let found = status.server.history.as_ref().and_then(|history| history.get(id));
    let Some(record) = found else {
        let gone = html! {
            h1 { "Message " (id) }
            p { "It is not there: there is no such message yet, or newer ones have taken its place ([history])." }
        };
        return (StatusCode::NOT_FOUND, page.with(gone)).into_response();
    };
    page.with(message(&record)).into_response()
}

/// A row a message, which leads to its page.
pub(super) fn table(records: &[Arc<Record>]) -> Markup {
    if records.is_empty() {
        return html! { p { "No messages." } };
    }
    // The roles stay where a phone shows rows as cards, and the browser sees no table any more.
    html! {
        table.messages role="table" {
            thead role="rowgroup" {
                tr role="row" {
                    @for name in ["Time", "Result", "From", "To", "Client", "What was said"] {
                        th role="columnheader" scope="col" { (name) }
                    }
                }
            }
            tbody role="rowgroup" {
                @for record in records { (row(record)) }
            }
        }
    }
}

fn row(record: &Record) -> Markup {
    let (date, time) = moment(record);
    let client = &record.facts.client_address;
    html! {
        tr role="row" {
            td.time role="cell" {
                a href=(format!("/history/{}", record.id)) { (time) } " " span.note { (date) }
            }
            td role="cell" data-label="Result" { (badge(record.result)) }
            td role="cell" data-label="From" { (text(record.sender.as_ref())) }
            td role="cell" data-label="To" {
                (recipients(&record.recipients, record.recipient_count, MOST_RECIPIENTS))
                @let refused = record.refused_recipients();
                @if refused > 0 { " " span.badge.replied { (refused) " refused" } }
            }
            td role="cell" data-label="Client" { (text(client.as_ref().or(record.facts.helo.as_ref()))) }
            td.said role="cell" data-label="Said" { (said(record)) }
        }
    }
}

/// What tells most in one line: a reply, why it failed, or else what the services found.
fn said(record: &Record) -> Markup {
    let cause = record.events.iter().find_map(|event| event.cause.as_ref());
    if let Some(said) = record.reply().or(cause) {
        return text(Some(said));
    }
    let events = record.events.iter();
    let findings = match record.message() {
        Some(message) => message.findings.iter().collect::<Vec<_>>(),
        None => events.flat_map(|event| &event.findings).collect(),
    };
    let findings = findings.into_iter().filter(|finding| finding.verdict.as_str() != "logged");
    html! {
        @for finding in findings.take(MOST_FINDINGS) {
            span.finding { bdi { (finding.service) } " " (verdict(finding)) } " "
        }
    }
}

fn message(record: &Record) -> Markup {
    let (date, time) = moment(record);
    let facts = &record.facts;
    let octets = record.octets.map(|size| Text::from(octets(size)));
    let known = [
        ("Queue id", record.queue_id.as_ref()),
        ("Client", facts.client_address.as_ref()),
        ("Client's name", facts.client_name.as_ref()),
        ("HELO", facts.helo.as_ref()),
        ("User", facts.user.as_ref()),
        ("Protocol", facts.protocol.as_ref()),
        ("TLS", facts.tls.as_ref()),
        ("Activation", Some(&facts.activation)),
        ("Size", octets.as_ref()),
        ("Asked by", Some(&record.peer)),
    ];
    let unasked = record.unasked();
    html! {
        h1 { "Message " (record.id) " " (badge(record.result)) }
        p.note { (date) " " (time) ", " (record.took_ms) " ms"
            @if record.profile == Profile::Reply { ", replies of the next hop" } }
        section aria-label="Envelope" {
            dl.facts {
                div { dt { "From" } dd { (text(record.sender.as_ref())) } }
                div { dt { "To" } dd { (recipients(&record.recipients, record.recipient_count, usize::MAX)) } }
                @for (name, value) in known.into_iter().filter(|(_, value)| value.is_some()) {
                    div { dt { (name) } dd { (text(value)) } }
                }
                div { dt { "Connection" } dd { (record.connection) } }
                @if !unasked.is_empty() {
                    div { dt { "Not asked" } dd { (unasked.join(", ")) } }
                }
            }
        }
        section aria-labelledby="events" {
            h2 id="events" { "Events" }
            ol.events {
                @for event in &record.events { li { (explained(event)) } }
            }
            @if record.events_left_out > 0 {
                p { "And " (record.events_left_out) " more events, which are not kept." }
            }
        }
    }
}

fn explained(event: &Event) -> Markup {
    html! {
        h3 { bdi { (event.title()) } " " (badge(event.result)) }
        p.note { "after " (event.after_ms) " ms, took " (event.took_ms) " ms" }
        @if let Some(cause) = &event.cause {
            p.condition { bdi { (cause) } }
        }
        @if let Some(reply) = &event.next_hop_reply {
            p { "The next hop replied: " q { bdi { (reply) } } }
        }
        @if !event.findings.is_empty() {
            table.findings role="table" {
                thead role="rowgroup" {
                    tr role="row" {
                        @for name in ["Service", "Verdict", "Score", "Reason", "Took"] {
                            th role="columnheader" scope="col" { (name) }
                        }
                    }
                }
                tbody role="rowgroup" {
                    @for finding in &event.findings {
                        tr role="row" {
                            td role="cell" data-label="Service" { bdi { (finding.service) } }
                            td role="cell" data-label="Verdict" { (verdict(finding)) }
                            (detail("Score", finding.score.as_ref()))
                            (detail("Reason", finding.reason.as_ref()))
                            td role="cell" data-label="Took" { (finding.took_ms) " ms" }
                        }
                    }
                }
            }
        }
        @for version in event.versions.iter().filter(|version| version.says_more()) {
            (answer(version))
        }
        @if event.notifications > 0 {
            p { "New messages that services wanted to have submitted: " (event.notifications) }
        }
        @if let Some(outcome) = &event.outcome {
            p.note {
                "Outcome at the MTA: " (outcome.word())
                @for said in [&outcome.reason, &outcome.reply].into_iter().flatten() {
                    " " q { bdi { (said) } }
                }
            }
        }
    }
}

fn answer(version: &Version) -> Markup {
    html! {
        p.answer {
            @if version.recipients.is_empty() {
                "Answer: "
            } @else {
                "For " (recipients(&version.recipients, version.recipient_count, usize::MAX)) ": "
                (badge(version.result)) " "
            }
            @if let Some(reply) = &version.reply { q { bdi { (reply) } } " " }
            @for effect in &version.effects { span.effect { bdi { (effect) } } " " }
        }
    }
}

fn verdict(finding: &Finding) -> Markup {
    let class = (finding.verdict.as_str() == "failed").then_some("failed");
    html! { b class=[class] { bdi { (finding.verdict) } } }
}

/// A cell that a phone leaves out where nothing is in it.
fn detail(label: &str, value: Option<&Text>) -> Markup {
    html! {
        td role="cell" data-label=(label) class=[value.is_none().then_some("empty")] { (text(value)) }
    }
}

/// Date and time, to the second.
fn moment(record: &Record) -> (String, String) {
    let moment = record.time.to_string();
    let (date, time) = moment.split_once('T').unwrap_or_default();
    (date.to_owned(), time.get(..8).unwrap_or_default().to_owned())
}

fn badge(result: EventResult) -> Markup {
    html! { span.badge.(result.name()) { (result.name()) } }
}

/// In an element that keeps the direction of its writing to itself.
fn text(text: Option<&Text>) -> Markup {
    html! {
        @match text {
            Some(text) => bdi { (text) },
            None => span.note { "–" },
        }
    }
}

fn recipients(named: &[Text], count: u64, most: usize) -> Markup {
    let shown = named.iter().take(most);
    let more = count.saturating_sub(shown.len() as u64);
    html! {
        @if count == 0 { span.note { "–" } }
        @for (index, recipient) in shown.enumerate() {
            @if index > 0 { ", " }
            bdi { (recipient) }
        }
        @if more > 0 { " and " (more) " more" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::LARGEST_RECORD;
    use crate::status::LARGEST_PAGE;

    /// As many findings as a record may have, all of whose texts are so long and take the most room in a page.
    fn largest(length: usize) -> Record {
        let text = || Text::from("\"".repeat(length));
        let mut record: Record = serde_json::from_value(serde_json::json!({
            "id": 1,
            "time": "2026-11-26T10:00:00.000Z",
            "took_ms": 1,
            "profile": "command",
            "peer": "192.0.2.7:4321",
            "connection": 1,
            "activation": "receiving",
            "sender": text(),
            "recipients": [text(), text(), text()],
            "recipient_count": 3,
            "result": "unchanged",
            "services": [],
            "events": [],
            "events_left_out": 0,
        }))
        .unwrap();
        let finding = Finding {
            service: text(),
            verdict: text(),
            score: Some(text()),
            reason: Some(text()),
            took_ms: 1,
        };
        let event = Event {
            event: Text::from("MESSAGE"),
            findings: vec![finding; 32],
            cause: Some(text()),
            ..Event::default()
        };
        while record.size() + event.size() <= LARGEST_RECORD {
            record.events.push(event.clone());
        }
        record
    }

    #[test]
    fn the_largest_pages_are_within_their_bound() {
        for length in [0, 1, 10, 100, 500] {
            let record = Arc::new(largest(length));
            let one = message(&record).into_string().len();
            let list = table(&vec![record; PAGE]).into_string().len();
            // The rest of a page is some 2 KiB.
            let bound = LARGEST_PAGE - 8 * 1024;
            assert!(one < bound && list < bound, "{length}: {one} and {list} octets");
        }
    }
}
