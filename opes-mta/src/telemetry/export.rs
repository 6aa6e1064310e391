//! Spans on their way to the collector.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::trace::{Status, TraceContextExt, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};
use tracing::{Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

use super::spans::{TARGET, switch_on};
use super::{Level, Lines, Telemetry, Traces};

/// For the last spans, when the program ends.
const END: Duration = Duration::from_secs(5);

pub(super) fn start(
    lines: Lines,
    filter: EnvFilter,
    settings: &Telemetry,
    program: &'static str,
) -> anyhow::Result<(Traces, Level)> {
    let exporter = OtlpExporter::builder().with_tonic();
    let exporter = match &settings.endpoint {
        Some(endpoint) => exporter.with_endpoint(endpoint),
        None => exporter,
    };
    let exporter = exporter.build().context("traces can't be exported")?;
    let mut provider = SdkTracerProvider::builder()
        .with_resource(resource(settings.service_name.clone(), program))
        .with_batch_exporter(Reported { exporter, outage: Outage::default() });
    if let Some(sample) = settings.sample {
        let roots = Sampler::TraceIdRatioBased(sample);
        provider = provider.with_sampler(Sampler::ParentBased(Box::new(roots)));
    }
    let provider = provider.build();
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(program))
        .with_location(false)
        .with_target(false)
        .with_threads(false)
        .with_tracked_inactivity(false);
    let (filter, handle) = reload::Layer::new(filter);
    let lines = lines.with_filter(filter.and(filter_fn(|what| what.target() != TARGET)));
    tracing_subscriber::registry().with(lines).with(spans.with_filter(filter_fn(is_ours))).init();
    switch_on();
    Ok((Traces { provider: Some(provider) }, Level::new(handle)))
}

/// Spans of these programs: log lines, which may name senders and recipients, are none, and what the exporter's own
/// connection does is nobody's mail.
fn is_ours(what: &Metadata<'_>) -> bool {
    what.is_span() && (what.target() == TARGET || what.target().starts_with("callout_server"))
}

fn resource(service_name: Option<String>, program: &'static str) -> Resource {
    // The SDK looks at the variable by itself.
    let is_said = std::env::var_os("OTEL_SERVICE_NAME").is_some();
    let name = service_name.or_else(|| (!is_said).then(|| program.to_owned()));
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_attribute(version);
    match name {
        Some(name) => resource.with_service_name(name).build(),
        None => resource.build(),
    }
}

pub(super) fn end(provider: &SdkTracerProvider) {
    if let Err(error) = provider.shutdown_with_timeout(END) {
        tracing::warn!(%error, "the last traces are lost");
    }
}

pub(super) fn detach(span: &Span) {
    let around = Span::current().context().span().span_context().clone();
    // A span that is filtered out has no parent to lose.
    if span.set_parent(Context::new()).is_ok() {
        span.add_link(around);
    }
}

pub(super) fn set(span: &Span, name: &'static str, value: String) {
    span.set_attribute(name, value);
}

pub(super) fn failed(span: &Span, stage: String) {
    span.set_status(Status::error(stage));
}

/// An exporter of which the log says once that it fails, and once that it works again.
#[derive(Debug)]
struct Reported {
    exporter: OtlpExporter,
    outage: Outage,
}

/// Whether spans get lost, and how many since that began.
#[derive(Debug, Default)]
struct Outage {
    is_on: AtomicBool,
    lost: AtomicU64,
}

/// What is new of it.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Begins,
    Ends { lost: u64 },
}

impl Outage {
    /// So many spans were exported, or were not.
    fn note(&self, is_exported: bool, spans: usize) -> Option<News> {
        let was_on = self.is_on.swap(!is_exported, Ordering::Relaxed);
        if !is_exported {
            self.lost.fetch_add(spans as u64, Ordering::Relaxed);
        }
        match (was_on, is_exported) {
            (false, false) => Some(News::Begins),
            (true, true) => Some(News::Ends { lost: self.lost.swap(0, Ordering::Relaxed) }),
            _ => None,
        }
    }
}

impl SpanExporter for Reported {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exported = self.exporter.export(batch).await;
        match (self.outage.note(exported.is_ok(), spans), &exported) {
            (Some(News::Ends { lost }), _) => tracing::info!(lost, "traces are exported again"),
            (Some(News::Begins), Err(error)) => {
                tracing::warn!(%error, "traces can't be exported: they are lost until they can");
            }
            _ => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_news_twice() {
        let outage = Outage::default();
        let heard = [(true, 5), (false, 2), (false, 3), (true, 1), (true, 1), (false, 1)];
        let news = heard.map(|(is_exported, spans)| outage.note(is_exported, spans));
        let ends = Some(News::Ends { lost: 5 });
        assert_eq!(news, [None, Some(News::Begins), None, ends, None, Some(News::Begins)]);
    }
}
