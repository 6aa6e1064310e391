//! How the server is.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Html;
use maud::{Markup, html};

use super::messages::table;
use super::page::{Page, Place, number, octets};
use super::throughput::Messages;
use super::{Status, chart};
use crate::history::{History, Record};
use crate::metrics::ServiceTotals;
use crate::router::Entry;

/// Messages that are shown.
const MOST_MESSAGES: usize = 10;

/// Different verdicts of a service that are shown: a plugin may have a new one for each message.
const MOST_VERDICTS: usize = 6;

/// How often each service came to which verdict, in the messages that are kept.
#[derive(Debug, Default)]
struct Verdicts(HashMap<String, HashMap<String, u64>>);

/// The page.
pub(super) async fn overview(State(status): State<Arc<Status>>) -> Html<String> {
    let look = |history: &History| {
        let (mut verdicts, mut messages) = (Verdicts::default(), Vec::new());
        for record in history.newest() {
            verdicts.add(&record);
            if messages.len() < MOST_MESSAGES {
                messages.push(record);
            }
        }
        (verdicts, messages)
    };
    let (verdicts, messages) = status.look(look).await;
    let page = Page { title: "Overview".to_owned(), place: Place::Overview, is_live: true };
    page.with(html! {
        h1 { "Overview" }
        (status.figures())
        (status.throughput())
        (status.services(&verdicts))
        (status.budgets())
        section aria-labelledby="last" {
            h2 id="last" { "Last messages" }
            (table(&messages))
            @if !messages.is_empty() {
                p { a href="/history" { "All messages that are kept" } }
            }
        }
    })
}

impl Status {
    fn figures(&self) -> Markup {
        let server = &self.server;
        let minutes = self.throughput.minutes(Messages::of(&server.metrics));
        let mut hour = Messages::default();
        minutes.iter().for_each(|minute| hour += *minute);
        let open = |count: i64| number(u64::try_from(count).unwrap_or_default());
        let state = match self.stop.is_cancelled() {
            true => ("Draining", "it lets open dialogs end, and stops"),
            false => ("Ready", "it takes connections"),
        };
        html! {
            dl.figures {
                div { dt { "State" } dd { (state.0) } dd.note { (state.1) } }
                div {
                    dt { "Messages in the last hour" }
                    dd { (number(hour.sum())) }
                    dd.note { (number(hour.replied)) " replied, " (number(hour.failed)) " failed" }
                }
                div {
                    dt { "Connections" }
                    dd { (open(server.metrics.open_connections())) }
                    dd.note { (number(server.connections())) " so far" }
                }
                div { dt { "Dialogs" } dd { (number(server.open_dialogs() as u64)) } dd.note { "open" } }
                div {
                    dt { "Transactions" }
                    dd { (open(server.metrics.open_transactions())) }
                    dd.note { "open" }
                }
            }
        }
    }

    fn throughput(&self) -> Markup {
        let minutes = self.throughput.minutes(Messages::of(&self.server.metrics));
        let most = minutes.iter().map(|minute| minute.sum()).max().unwrap_or_default();
        html! {
            section aria-labelledby="throughput" {
                h2 id="throughput" { "Messages a minute" }
                figure {
                    (chart::hour(&minutes))
                    figcaption {
                        span { "an hour ago" }
                        span.legend {
                            span.key.passed { "passed, changed or not" }
                            span.key.replied { "replied" }
                            span.key.failed { "failed" }
                            span { "at the most " (number(most)) }
                        }
                        span { "now" }
                    }
                }
            }
        }
    }

    fn services(&self, verdicts: &Verdicts) -> Markup {
        let current = self.server.current();
        let entries = current.config.router.iter();
        let entries = entries.map(|entry| (entry, entry.metrics.totals()));
        let (asked, unasked): (Vec<_>, Vec<_>) = entries
            .partition(|(entry, totals)| totals.is_asked() || entry.service.condition().is_some());
        let unasked: Vec<&str> = unasked.iter().map(|(entry, _)| entry.name.as_str()).collect();
        html! {
            section aria-labelledby="services" {
                h2 id="services" { "Services" }
                p.note {
                    "Since the server started; verdicts in the messages that are kept. Half of the answers took no longer \
                     than p50, 99 of 100 no longer than p99."
                }
                div.services {
                    @for (entry, totals) in &asked { (service(entry, totals, verdicts)) }
                }
                @if !unasked.is_empty() {
                    p.note { "Not asked yet: " (unasked.join(", ")) "." }
                }
            }
        }
    }

    fn budgets(&self) -> Markup {
        let spool = &self.server.budgets;
        let budgets = [
            ("Content in memory", "[limits] content-octets", &spool.memory),
            ("Bodies in files", "[spool] octets", &spool.disk),
        ];
        html! {
            section aria-labelledby="budgets" {
                h2 id="budgets" { "Budgets" }
                dl.budgets {
                    @for (name, key, budget) in budgets {
                        div {
                            dt { (name) }
                            dd {
                                (chart::used(name, budget.used(), budget.most()))
                                (octets(budget.used() as u64)) " of " (octets(budget.most() as u64))
                                " (" (key) ")"
                            }
                        }
                    }
                }
                @if let Some(history) = &self.server.history {
                    @let left_out = history.left_out();
                    p.note {
                        (number(history.len() as u64)) " messages are kept"
                        @if left_out > 0 {
                            "; " (number(left_out)) " events are in none of them, since too many messages were open \
                             at a time ([history] octets)"
                        }
                        "."
                    }
                }
            }
        }
    }
}

fn service(entry: &Entry, totals: &ServiceTotals, verdicts: &Verdicts) -> Markup {
    let [unchanged, changed, replied, failed] = totals.results;
    let parts = [
        ("passed", unchanged),
        ("changed", changed),
        ("replied", replied),
        ("failed", failed),
        ("bypassed", totals.bypassed),
    ];
    let names = ["unchanged", "changed", "replied", "failed", "bypassed"];
    let asked: u64 = totals.results.iter().sum();
    let quantiles = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];
    let quantiles = quantiles.map(|(name, share)| (name, totals.took.quantile(share)));
    html! {
        article.service {
            h3 {
                (entry.name)
                @if entry.shadow { " " span.badge.shadow { "shadow" } }
            }
            @if let Some(condition) = entry.service.condition() {
                p.condition { (condition) }
            }
                (chart::parts(&format!("What became of its {asked} events"), &parts))
                p.counts {
                    @for (name, (class, count)) in names.into_iter().zip(parts).filter(|(_, (_, count))| *count > 0) {
                        span.key.(class) { (number(count)) " " (name) }
                    }
                }
                @if !totals.failures.is_empty() {
                    p.condition {
                        "Failed at: "
                        @for (index, (stage, count)) in totals.failures.iter().enumerate() {
                            @if index > 0 { ", " }
                            (stage) " " (number(*count))
                        }
                    }
                }
                @let found = verdicts.of(&entry.name);
                @if !found.is_empty() {
                    p.counts {
                        @for (verdict, count) in found { span { bdi { (verdict) } " " (number(count)) } }
                    }
                }
                div.took {
                    (chart::latency(&totals.took))
                    dl {
                        @for (name, quantile) in quantiles {
                            div { dt { (name) } dd { (quantile.map_or("–".to_owned(), chart::at_most)) } }
                        }
                    }
                }
        }
    }
}

impl Verdicts {
    fn add(&mut self, record: &Record) {
        for finding in record.events.iter().flat_map(|event| &event.findings) {
            let verdicts = self.0.entry(finding.service.to_string()).or_default();
            *verdicts.entry(finding.verdict.to_string()).or_default() += 1;
        }
    }

    /// Those of a service, the most frequent first; the rest as one.
    fn of(&self, service: &str) -> Vec<(String, u64)> {
        let verdicts = self.0.get(service).into_iter().flatten();
        let mut verdicts: Vec<_> =
            verdicts.map(|(verdict, count)| (verdict.clone(), *count)).collect();
        verdicts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let rest = verdicts.split_off(verdicts.len().min(MOST_VERDICTS));
        let others: u64 = rest.iter().map(|(_, count)| count).sum();
        verdicts.extend((others > 0).then(|| ("others".to_owned(), others)));
        verdicts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_verdicts_are_others() {
        let counts = (1..=8).map(|count| (format!("v{count}"), count)).collect();
        let verdicts = Verdicts(HashMap::from([("s".to_owned(), counts)]));
        let of = verdicts.of("s");
        let of: Vec<(&str, u64)> =
            of.iter().map(|(verdict, count)| (verdict.as_str(), *count)).collect();
        assert_eq!(
            of,
            [("v8", 8), ("v7", 7), ("v6", 6), ("v5", 5), ("v4", 4), ("v3", 3), ("others", 3)]
        );
        assert!(verdicts.of("other").is_empty());
    }
}
