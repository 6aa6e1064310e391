//! What a service tells of itself besides its answers.

/// A number for those who operate the server: with the service's name as label it stands among the server's
/// metrics, next to those of other services of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measure {
    /// In lower case with `_`, without the unit of a counter (`_total`); of all services that tell one of this name,
    /// help and kind are the same.
    pub name: &'static str,
    /// What it counts, in a few words.
    pub help: &'static str,
    /// Whether it only grows.
    pub kind: MeasureKind,
    /// What it is about, where there are several of a name; never what a peer has sent.
    pub label: Option<(&'static str, &'static str)>,
    /// How much it is now.
    pub value: u64,
}

/// Whether a number only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeasureKind {
    /// It does, from the start of the process on.
    Counter,
    /// It is how things stand.
    Gauge,
}
