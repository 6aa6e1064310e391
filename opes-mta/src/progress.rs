//! How far a run has come: a bar on a terminal, log lines elsewhere.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use opes_mta::front::source::Source;
use opes_mta::report::Report;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// From how many octets on one file is worth a bar.
const LARGE: u64 = 16 * 1024 * 1024;

/// The bar, hidden unless there is somebody to see it and enough to wait for.
#[derive(Clone, Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new(sources: &[Source]) -> Self {
        let octets: u64 = sources.iter().map(|source| source.octets).sum();
        let worth_it = sources.len() > 1 || octets > LARGE;
        if !worth_it || !io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(octets);
        let template = "{bar:40} {binary_bytes} of {binary_total_bytes}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// Logs for people on a terminal, for machines elsewhere.
    pub(crate) fn init_tracing(&self) {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(self.clone());
        if io::stderr().is_terminal() {
            builder.init();
        } else {
            builder.json().init();
        }
    }

    /// One mail is done, `octets` of its source.
    pub(crate) fn advance(&self, report: &Report, octets: u64) {
        self.0.inc(octets);
        tracing::info!(file = report.file, decision = %report.decision, why = report.why(), "mail");
    }

    /// Prints something while the bar is out of the way.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// Log lines, written while the bar is out of the way.
pub(crate) struct LogWriter<'a>(&'a Progress);

impl Write for LogWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Progress {
    type Writer = LogWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LogWriter(self)
    }
}
