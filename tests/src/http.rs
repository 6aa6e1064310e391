//! HTTP as plain as it can be: a request on a connection of its own, and what came back.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use crate::PATIENCE;

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The header section.
    pub header: String,
    /// What stands behind it.
    pub body: String,
}

/// A connection that waits no longer than a story does.
///
/// # Panics
/// If nobody listens there.
pub fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time that is not zero");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time that is not zero");
    stream
}

/// GET.
///
/// # Panics
/// If no whole answer comes.
pub fn get(address: &str, path: &str) -> Response {
    request(address, "GET", path)
}

/// A request without a body; it does not ask for the end of the connection, which comes by itself.
///
/// # Panics
/// If no whole answer comes, or if the connection stays.
pub fn request(address: &str, method: &str, path: &str) -> Response {
    send(address, &format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"))
}

fn send(address: &str, request: &str) -> Response {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).expect("the server reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server answers and closes");
    let (header, body) = answer.split_once("\r\n\r\n").expect("a header section");
    let status = header.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status in {header}"));
    Response { status, header: header.to_owned(), body: body.to_owned() }
}

/// GET with one more header field.
///
/// # Panics
/// If no whole answer comes.
pub fn get_with(address: &str, path: &str, field: &str) -> Response {
    send(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{field}\r\n\r\n"))
}

/// POST of a form, with more header fields, each with its line end.
///
/// # Panics
/// If no whole answer comes.
pub fn post(address: &str, path: &str, fields: &str, form: &str) -> Response {
    let length = form.len();
    let kind = "Content-Type: application/x-www-form-urlencoded";
    let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}");
    send(address, &format!("{head}\r\n{kind}\r\n{fields}\r\n{form}"))
}

/// What a program counts: the series, without the program's name before theirs, and their values.
#[derive(Clone, Debug)]
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    /// Asks for them.
    ///
    /// # Panics
    /// If that is no OpenMetrics text.
    pub fn of(address: &str) -> Self {
        let response = get(address, "/metrics");
        assert_eq!(response.status, 200, "{response:?}");
        let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert!(response.header.contains(kind), "{}", response.header);
        let text = response.body.strip_suffix("# EOF\n").expect("the text is whole");
        let series = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let prefixes = ["callout_server_", "opes_mta_"];
            let without = prefixes.iter().find_map(|prefix| series.strip_prefix(prefix));
            let series = without.expect("the program's name");
            (series.to_owned(), value.parse().expect("a number"))
        });
        Self(series.collect())
    }

    /// They, once they are as they are waited for.
    ///
    /// # Panics
    /// If they never are.
    pub fn when(address: &str, wanted: impl Fn(&Self) -> bool) -> Self {
        for _ in 0..10_000 {
            let metrics = Self::of(address);
            if wanted(&metrics) {
                return metrics;
            }
        }
        panic!("they never were: {:#?}", Self::of(address).0);
    }

    /// The value of a series.
    ///
    /// # Panics
    /// If there is no such series.
    pub fn value(&self, series: &str) -> f64 {
        let value = self.0.get(series);
        *value.unwrap_or_else(|| panic!("no {series} in {:#?}", self.0.keys()))
    }

    /// The series of a family whose value is not 0, by their labels.
    pub fn nonzero(&self, family: &str) -> Vec<(&str, f64)> {
        let prefix = format!("{family}{{");
        let series = self.0.iter().filter(|(_, value)| **value != 0.0);
        let labels = series.filter_map(|(series, value)| {
            Some((series.strip_prefix(&prefix)?.strip_suffix('}')?, *value))
        });
        labels.collect()
    }
}
