//! Log lines as JSON: an object a line, with the fields of the event beside time, level and target, and those of the span
//! that it happened in.
//!
//! The lines are those of [`tracing_subscriber::fmt::format::Json`], flattened and with the current span; a test compares
//! them. That reads and writes the fields of the span again for each event, which took an eighth of a server that logs
//! every message; here they are written once, when the span begins.

use std::cell::RefCell;
use std::fmt::{self, Debug, Write};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::span::Record;
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes events.
#[derive(Debug)]
pub(super) struct JsonEvents;

/// Writes the fields of spans: `"name":value`, with commas between.
#[derive(Debug)]
pub(super) struct JsonFields;

thread_local! {
    /// The line that is written, so that each needs no memory of its own.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The longest line whose memory is kept.
const LONGEST_KEPT: usize = 64 * 1024;

impl<S, N> FormatEvent<S, N> for JsonEvents
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // A value that logs while it is shown has a line of its own.
        let mut line = LINE.take();
        line.clear();
        let written = write_event(context, event, &mut line);
        let written = written
            .and_then(|()| writer.write_str(std::str::from_utf8(&line).map_err(|_| fmt::Error)?));
        if line.capacity() <= LONGEST_KEPT {
            LINE.set(line);
        }
        written
    }
}

fn write_event<S, N>(
    context: &FmtContext<'_, S, N>,
    event: &Event<'_>,
    line: &mut Vec<u8>,
) -> fmt::Result
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    let metadata = event.metadata();
    line.extend_from_slice(b"{\"timestamp\":\"");
    SystemTime.format_time(&mut Writer::new(&mut Text(line)))?;
    line.extend_from_slice(b"\",\"level\":\"");
    line.extend_from_slice(metadata.level().as_str().as_bytes());
    line.push(b'"');
    let mut fields = Fields { out: line, is_first: false, target: None };
    event.record(&mut fields);
    let target = fields.target.take();
    put(line, ",\"target\":", target.as_deref().unwrap_or(metadata.target()));
    let span = event.parent().and_then(|id| context.span(id)).or_else(|| context.lookup_current());
    if let Some(span) = span {
        line.extend_from_slice(b",\"span\":{");
        if let Some(fields) = span.extensions().get::<FormattedFields<N>>()
            && !fields.is_empty()
        {
            line.extend_from_slice(fields.as_bytes());
            line.push(b',');
        }
        put(line, "\"name\":", span.name());
        line.push(b'}');
    }
    line.extend_from_slice(b"}\n");
    Ok(())
}

impl<'w> FormatFields<'w> for JsonFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut out = Vec::new();
        fields.record(&mut Fields { out: &mut out, is_first: true, target: None });
        writer.write_str(std::str::from_utf8(&out).map_err(|_| fmt::Error)?)
    }

    /// A field has one value: none is recorded twice.
    fn add_fields(
        &self,
        current: &'w mut FormattedFields<Self>,
        fields: &Record<'_>,
    ) -> fmt::Result {
        let is_first = current.is_empty();
        let mut out = Vec::new();
        fields.record(&mut Fields { out: &mut out, is_first, target: None });
        current.as_writer().write_str(std::str::from_utf8(&out).map_err(|_| fmt::Error)?)
    }
}

/// Writes fields.
struct Fields<'o> {
    out: &'o mut Vec<u8>,
    /// Whether there is no comma before the next one.
    is_first: bool,
    /// Where an event of the `log` crate comes from.
    target: Option<String>,
}

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: impl Serialize) {
        if field.name().starts_with("log.") {
            return;
        }
        if !std::mem::replace(&mut self.is_first, false) {
            self.out.push(b',');
        }
        let name = field.name();
        put(self.out, "", name.strip_prefix("r#").unwrap_or(name));
        put(self.out, ":", value);
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            self.target = Some(value.to_owned());
        }
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, Shown(value));
    }
}

/// A value as a text.
struct Shown<'v>(&'v dyn Debug);

impl Serialize for Shown<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:?}", self.0))
    }
}

/// Writes a value behind a text.
fn put(out: &mut Vec<u8>, before: &str, value: impl Serialize) {
    out.extend_from_slice(before.as_bytes());
    let start = out.len();
    // What does not show itself is nothing.
    if serde_json::to_writer(&mut *out, &value).is_err() {
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}

/// Octets that text is appended to.
struct Text<'o>(&'o mut Vec<u8>);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::Value;
    use tracing::field::Empty;
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(octets)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'w> MakeWriter<'w> for Written {
        type Writer = Self;

        fn make_writer(&'w self) -> Self {
            self.clone()
        }
    }

    impl Written {
        /// The lines, without what says when.
        fn lines(&self) -> Vec<Value> {
            let octets = self.0.lock().unwrap();
            let lines = octets.split_inclusive(|octet| *octet == b'\n').map(|line| {
                let mut line: Value = serde_json::from_slice(line).unwrap();
                let timestamp = line.as_object_mut().unwrap().remove("timestamp").unwrap();
                let timestamp = timestamp.as_str().unwrap().len();
                assert_eq!(timestamp, "2026-11-26T12:55:13.859716Z".len());
                line
            });
            lines.collect()
        }
    }

    struct Loud;

    impl Debug for Loud {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            tracing::info!("inside");
            f.write_str("loud \"\u{7}\u{fc}\"\n")
        }
    }

    fn some_events() {
        tracing::info!("no field");
        tracing::warn!(target: "elsewhere", r#type = "x", big = u64::MAX, small = -3, yes = true, half = 0.5, "fields");
        tracing::error!(huge = u128::MAX, not = f64::NAN, absent = Option::<u64>::None, "more");
        tracing::info!(shown = ?Loud, text = "quote \" backslash \\ control \u{1} \u{e4}\n", "{} texts", 2);
        tracing::debug!(only = 1);
        let outer = tracing::info_span!("outer", id = 7, name_of = "a \"b\"", later = Empty);
        let inner = tracing::info_span!(parent: &outer, "inner");
        outer.in_scope(|| tracing::info!("in outer"));
        outer.record("later", "now");
        outer.in_scope(|| tracing::info!(later = 2, "recorded"));
        inner.in_scope(|| tracing::info!("in inner"));
        tracing::info!(parent: &outer, "below");
        let empty = tracing::info_span!("empty", later = Empty);
        empty.record("later", tracing::field::debug(vec![1]));
        empty.in_scope(|| tracing::info!("recorded first"));
    }

    #[test]
    fn lines_are_those_of_the_library() {
        let (ours, theirs) = (Written::default(), Written::default());
        let library = tracing_subscriber::fmt::layer().json().flatten_event(true);
        let library = library.with_span_list(false).with_writer(theirs.clone());
        let layer = tracing_subscriber::fmt::layer().fmt_fields(JsonFields);
        let layer = layer.event_format(JsonEvents).with_writer(ours.clone());
        tracing::subscriber::with_default(
            tracing_subscriber::registry().with(library),
            some_events,
        );
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), some_events);
        assert_eq!(theirs.lines().len(), 10);
        assert_eq!(ours.lines(), theirs.lines());
    }
}
