//! Traces for OpenTelemetry, of both programs: `[telemetry]`, and where log lines and spans go.
//!
//! Spans ([`spans`]) go to a collector by OTLP over gRPC, in batches, on a thread of their own. At most 2,048 wait for that
//! (`OTEL_BSP_MAX_QUEUE_SIZE`), 2 KiB each at the most; those beyond are dropped: mail never waits for a collector. They name
//! neither senders nor recipients, nor anything that stands in a mail.
//!
//! A build without the feature `opentelemetry` makes no spans, and refuses `[telemetry]`.

#[cfg(feature = "opentelemetry")]
mod export;
mod gathered;
mod json;
pub mod spans;

use std::io::{self, IsTerminal};
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

pub use gathered::{flush, idle};

/// `[telemetry]`, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RawTelemetry {
    endpoint: Option<Spanned<String>>,
    service_name: Option<Spanned<String>>,
    sample: Option<Spanned<f64>>,
}

/// Where traces go. What is `None` is said by the variables of OpenTelemetry's SDK (`OTEL_EXPORTER_OTLP_ENDPOINT`,
/// `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`), or by its defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// The collector, `http://HOST:PORT`.
    pub endpoint: Option<String>,
    /// What this program is called there.
    pub service_name: Option<String>,
    /// The part of the traces that is exported, from 0 to 1.
    pub sample: Option<f64>,
}

impl Telemetry {
    /// Checks them.
    ///
    /// # Errors
    /// What is wrong, and where in the file.
    pub fn checked(raw: &Spanned<RawTelemetry>) -> Result<Self, (Range<usize>, String)> {
        if !cfg!(feature = "opentelemetry") {
            let wrong = "this program was built without OpenTelemetry: build it with \
                --features opentelemetry, or remove [telemetry]";
            return Err((raw.span(), wrong.to_owned()));
        }
        let RawTelemetry { endpoint, service_name, sample } = raw.get_ref();
        if let Some(wrong) = endpoint.as_ref().filter(|endpoint| !is_endpoint(endpoint.get_ref())) {
            let cause = format!("{:?} is no collector: http://HOST:PORT", wrong.get_ref());
            return Err((wrong.span(), cause));
        }
        if let Some(empty) = service_name.as_ref().filter(|name| name.get_ref().is_empty()) {
            return Err((empty.span(), "a service name has at least one letter".to_owned()));
        }
        let is_part = |sample: &Spanned<f64>| (0.0..=1.0).contains(sample.get_ref());
        if let Some(wrong) = sample.as_ref().filter(|sample| !is_part(sample)) {
            return Err((
                wrong.span(),
                "a sample is a part of the traces, from 0.0 to 1.0".to_owned(),
            ));
        }
        let text =
            |text: &Option<Spanned<String>>| text.as_ref().map(|text| text.get_ref().clone());
        Ok(Self {
            endpoint: text(endpoint),
            service_name: text(service_name),
            sample: sample.as_ref().map(|sample| *sample.get_ref()),
        })
    }
}

impl std::fmt::Display for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.endpoint {
            Some(endpoint) => write!(f, "to {endpoint}")?,
            None => write!(f, "to OTEL_EXPORTER_OTLP_ENDPOINT, or http://localhost:4317")?,
        }
        self.sample.map_or(Ok(()), |part| write!(f, ", {part} of them"))
    }
}

/// Without TLS: the collector, or an agent of it, is on the machine or in its network.
fn is_endpoint(text: &str) -> bool {
    let port = text.strip_prefix("http://").and_then(|rest| rest.rsplit_once(':'));
    port.is_some_and(|(host, port)| !host.is_empty() && matches!(port.parse::<u16>(), Ok(1..)))
}

/// Log lines, as they look.
pub type Lines = Box<dyn Layer<Registry> + Send + Sync>;

/// How log lines look, on the standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Human,
    /// An object a line.
    Json,
}

impl Form {
    /// For people on a terminal, JSON otherwise.
    pub fn of_terminal() -> Self {
        if io::stderr().is_terminal() { Self::Human } else { Self::Json }
    }

    /// The lines.
    pub fn lines(self) -> Lines {
        // Who reads the log may end before us; to say so where nobody reads is a panic.
        let lines = fmt::layer().with_writer(gathered::Gathered).log_internal_errors(false);
        match self {
            Self::Human => lines.with_ansi(io::stderr().is_terminal()).with_target(false).boxed(),
            Self::Json => lines.fmt_fields(json::JsonFields).event_format(json::JsonEvents).boxed(),
        }
    }
}

/// Traces that are being exported, if they are.
#[derive(Debug)]
#[must_use = "the last ones go out at its end"]
pub struct Traces {
    #[cfg(feature = "opentelemetry")]
    provider: Option<opentelemetry_sdk::trace::SdkTracerProvider>,
}

/// Which log lines there are, which can be changed.
pub struct Level(Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>);

impl Level {
    fn new<S: 'static>(handle: reload::Handle<EnvFilter, S>) -> Self {
        Self(Box::new(move |filter| handle.reload(filter)))
    }

    /// From now on those that this filter lets pass.
    ///
    /// # Errors
    /// If there are no log lines any more.
    pub fn change(&self, filter: EnvFilter) -> Result<(), reload::Error> {
        self.0(filter)
    }
}

impl std::fmt::Debug for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Level").finish_non_exhaustive()
    }
}

/// Begins: log lines that the filter lets pass, and spans if the settings are there. In the runtime that is to export
/// them. `program` is the service's name unless somebody says another one.
///
/// # Errors
/// If the variables of OpenTelemetry's SDK can't be used.
pub fn start(
    lines: Lines,
    filter: EnvFilter,
    settings: Option<&Telemetry>,
    program: &'static str,
) -> anyhow::Result<(Traces, Level)> {
    #[cfg(feature = "opentelemetry")]
    if let Some(settings) = settings {
        return export::start(lines, filter, settings, program);
    }
    let _ = (settings, program);
    let (filter, handle) = reload::Layer::new(filter);
    tracing_subscriber::registry().with(lines).with(filter).init();
    let traces = Traces {
        #[cfg(feature = "opentelemetry")]
        provider: None,
    };
    Ok((traces, Level::new(handle)))
}

impl Traces {
    /// Sends what waits, for at most 5 seconds.
    pub fn end(self) {
        #[cfg(feature = "opentelemetry")]
        if let Some(provider) = &self.provider {
            export::end(provider);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct File {
        telemetry: Spanned<RawTelemetry>,
    }

    fn checked(text: &str) -> Result<Telemetry, (Range<usize>, String)> {
        let text = format!("[telemetry]\n{text}");
        Telemetry::checked(&toml::from_str::<File>(&text).unwrap().telemetry)
    }

    #[test]
    #[cfg(not(feature = "opentelemetry"))]
    fn a_build_without_it_says_so() {
        let (span, cause) = checked("sample = 0.5\n").unwrap_err();
        assert_eq!(span.start, 0);
        assert!(cause.starts_with("this program was built without OpenTelemetry"), "{cause}");
    }

    /// `# key` lines of the examples.
    #[test]
    #[cfg(feature = "opentelemetry")]
    fn the_examples_are_valid() {
        for program in ["callout-server", "opes-mta"] {
            let path = format!("{}/../deploy/{program}.toml", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(path).unwrap();
            let (_, section) = text.split_once("# [telemetry]\n").unwrap();
            let keys = section.lines().map_while(|line| line.strip_prefix("# "));
            let keys: Vec<_> = keys.filter(|line| line.contains(" = ")).collect();
            let settings = checked(&keys.join("\n")).unwrap();
            assert_eq!(settings.to_string(), "to http://localhost:4317, 1 of them");
            assert_eq!(settings.service_name.as_deref(), Some(program));
        }
    }

    #[test]
    #[cfg(feature = "opentelemetry")]
    fn what_is_written_is_meant() {
        let nothing = Telemetry { endpoint: None, service_name: None, sample: None };
        assert_eq!(checked(""), Ok(nothing));
        let text = "endpoint = \"http://127.0.0.1:4317\"\nservice-name = \"mx1\"\nsample = 0.1\n";
        let all = Telemetry {
            endpoint: Some("http://127.0.0.1:4317".to_owned()),
            service_name: Some("mx1".to_owned()),
            sample: Some(0.1),
        };
        assert_eq!(checked(text), Ok(all));
        for (text, cause) in [
            ("endpoint = \"https://c:4317\"", "is no collector"),
            ("endpoint = \"http://c\"", "is no collector"),
            ("endpoint = \"http://:1\"", "is no collector"),
            ("sample = 1.5", "from 0.0 to 1.0"),
            ("sample = nan", "from 0.0 to 1.0"),
            ("service-name = \"\"", "at least one letter"),
        ] {
            let (span, found) = checked(text).unwrap_err();
            let value = text.find("= ").unwrap() + 2;
            assert_eq!(span, 12 + value..12 + text.len(), "{text}");
            assert!(found.contains(cause), "{text}: {found}");
        }
    }
}
