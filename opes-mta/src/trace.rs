//! Traces in messages and replies (profile section 8, RFC 3897, RFC 4902).

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use ocp_proto::smtp::{Reply, Verdict};

use crate::apply::Adapted;
use crate::bypass::{self, Outcome};
use crate::config::System;
use crate::event::whole;
use crate::spool::Trace;

/// The field that names the system; one more for each pass.
pub const SYSTEM: &str = "OPES-System";
/// The field that names the services.
pub const VIA: &str = "OPES-Via";

/// Fields that nobody changes, removes or puts in another order: those of other systems and ours, requests
/// that are for the next hop too (RFC 3897 section 4.3), and those of mail servers (RFC 5321 section 4.4).
const TRACE: [&str; 4] = [SYSTEM, VIA, bypass::FIELD, "Received"];

/// Where a field is folded (RFC 5322 section 2.1.1).
const LINE: usize = 78;

/// Services that are named, at most, and octets of what a server says of each. Octets that can't stand in
/// a field take three, so no line has more than the 998 that are allowed.
const MOST_SERVICES: usize = 64;
const LONGEST_WORD: usize = 300;

/// What one pass of a message says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    /// The system that it passes.
    pub system: &'a System,
    /// What the log finds it by.
    pub id: &'a str,
}

impl Pass<'_> {
    /// The system's field as services see it, with its line end.
    pub fn field(&self) -> Bytes {
        folded(SYSTEM, self.entry())
    }

    /// The message goes on with the fields of this pass on top, and with the trace fields that it came
    /// with, whatever services did to them. `header` is the section as it came, and `adapted` is made of
    /// it with our field on top. Services are named if that is configured, or if the message names
    /// others (RFC 4236 section 4).
    pub fn complete(
        &self,
        adapted: &mut Adapted,
        header: &Bytes,
        bypass: Option<Outcome>,
        verdicts: &[Verdict],
    ) {
        let made = whole(&adapted.header);
        let mut section = Vec::new();
        let has_via = fields(header).any(|field| is_named(slice(header, &field), VIA));
        if has_via || self.system.services_in_trace && !verdicts.is_empty() {
            section.push(self.via(verdicts));
        }
        let mut entry = self.entry();
        entry.extend(bypass.map(|outcome| format!("; bypass={}", outcome.parameter())));
        section.push(folded(SYSTEM, entry));
        let ours = self.field();
        let came = traces(header).map(|field| slice(header, &field));
        let left = traces(&made).map(|field| slice(&made, &field));
        if std::iter::once(&ours[..]).chain(came).eq(left)
            && let Some(field) = traces(&made).next()
        {
            section.extend([made.slice(..field.start), made.slice(field.end..)]);
        } else {
            tracing::warn!(id = self.id, "a service changed trace fields: they are as they were");
            section.extend(traces(header).map(|field| header.slice(field)));
            let mut others = BytesMut::with_capacity(made.len());
            let is_other = |field: &Range<usize>| !is_trace(slice(&made, field));
            fields(&made).filter(is_other).for_each(|f| others.extend_from_slice(slice(&made, &f)));
            section.push(others.freeze());
        }
        section.retain(|stretch| !stretch.is_empty());
        adapted.header = section;
    }

    /// How often the message has passed this system before, or says so: anybody can write such a field,
    /// so that is for the log.
    pub fn earlier(&self, header: &Bytes) -> usize {
        let is_ours = |field: &Range<usize>| {
            let field = slice(header, field);
            let value = field.get(SYSTEM.len() + 1..).unwrap_or_default().trim_ascii_start();
            let after = value.strip_prefix(self.system.uri.as_bytes());
            is_named(field, SYSTEM)
                && after.is_some_and(|after| {
                    after.first().is_none_or(|o| matches!(o, b' ' | b'\t' | b'\r' | b';' | b','))
                })
        };
        fields(header).filter(is_ours).count()
    }

    /// A service's rejection with trace data behind its text, or in a line of their own.
    pub fn reply(&self, reply: &Reply) -> Reply {
        let text = reply.as_bytes().strip_suffix(b"\r\n").unwrap_or(reply.as_bytes());
        let trace = format!("[opes {} {}]\r\n", self.system.uri, token(self.id));
        let behind = [text, b" ", trace.as_bytes()].concat();
        Reply::parse(behind)
            .or_else(|_| Reply::parse(with_line(text, &trace)))
            .unwrap_or_else(|_| reply.clone())
    }

    /// What the spool and the quarantine know of this pass, for reports.
    pub(crate) fn record(&self, verdicts: &[Verdict]) -> Trace {
        Trace {
            system: self.system.uri.clone(),
            processor: self.system.name.clone(),
            id: self.id.to_owned(),
            verdicts: Verdict::summary(verdicts),
        }
    }

    fn entry(&self) -> Vec<String> {
        let System { uri, name, .. } = self.system;
        vec![uri.clone(), format!("; processor={name}"), format!("; session={}", token(self.id))]
    }

    fn via(&self, verdicts: &[Verdict]) -> Bytes {
        let mut words = vec![self.system.uri.clone()];
        for verdict in verdicts.iter().take(MOST_SERVICES) {
            if let Some(last) = words.last_mut() {
                last.push(',');
            }
            words.push(uri(&verdict.service));
            words.push(format!("; verdict={}", token(&String::from_utf8_lossy(&verdict.verdict))));
        }
        folded(VIA, words)
    }
}

/// The lines of a reply without the last line end, and one more of the same codes.
fn with_line(text: &[u8], line: &str) -> Vec<u8> {
    let last = memchr::memrchr(b'\n', text).map_or(0, |at| at + 1);
    let (before, last) = text.split_at(last);
    let (code, rest) = last.split_at(last.len().min(3));
    let rest = rest.get(1..).unwrap_or_default();
    // RFC 2034 section 4: each line has the enhanced code.
    let enhanced = rest.split(|octet| *octet == b' ').next().unwrap_or_default();
    let is_code = enhanced.split(|octet| *octet == b'.').count() == 3
        && enhanced.iter().all(|octet| octet.is_ascii_digit() || *octet == b'.');
    let enhanced = if is_code { [enhanced, b" "].concat() } else { Vec::new() };
    [before, code, b"-", rest, b"\r\n", code, b" ", &enhanced, line.as_bytes()].concat()
}

/// A field of words, folded between them.
fn folded(name: &str, words: Vec<String>) -> Bytes {
    let mut field = format!("{name}:");
    let mut line = field.len();
    for word in words {
        let folds = line + 1 + word.len() > LINE && line > name.len() + 1;
        field.push_str(if folds { "\r\n\t" } else { " " });
        line = if folds { 1 } else { line + 1 } + word.len();
        field.push_str(&word);
    }
    field.push_str("\r\n");
    field.into()
}

/// The fields of a header section with their folds and line ends; the empty line at its end is one too.
fn fields(header: &Bytes) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        while at < header.len() {
            let rest = header.get(at..).unwrap_or_default();
            at += memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
            if !matches!(header.get(at), Some(b' ' | b'\t')) {
                break;
            }
        }
        (start < at).then_some(start..at)
    })
}

/// What stands behind the colon of every field of this name, with its folds.
pub(crate) fn values<'a>(header: &'a Bytes, name: &str) -> impl Iterator<Item = &'a [u8]> {
    fields(header)
        .map(|field| slice(header, &field))
        .filter(move |field| is_named(field, name))
        .map(|field| {
            let colon = memchr::memchr(b':', field).map_or(0, |at| at + 1);
            field.get(colon..).unwrap_or_default().trim_ascii()
        })
}

fn traces(header: &Bytes) -> impl Iterator<Item = Range<usize>> {
    fields(header).filter(|field| is_trace(slice(header, field)))
}

fn is_trace(field: &[u8]) -> bool {
    TRACE.iter().any(|name| is_named(field, name))
}

/// RFC 5322 section 4.5 lets blanks stand before the colon.
fn is_named(field: &[u8], name: &str) -> bool {
    let colon = memchr::memchr(b':', field).unwrap_or(0);
    let written = field.get(..colon).unwrap_or_default().trim_ascii_end();
    written.eq_ignore_ascii_case(name.as_bytes())
}

fn slice<'a>(header: &'a Bytes, field: &Range<usize>) -> &'a [u8] {
    header.get(field.clone()).unwrap_or_default()
}

/// A URI that a server gave, without what would end it.
fn uri(octets: &[u8]) -> String {
    let legal = |octet: &u8| octet.is_ascii_graphic() && !b",;<>\"()[]\\".contains(octet);
    let mut uri = String::new();
    for octet in octets.iter().take(LONGEST_WORD) {
        match legal(octet) {
            true => uri.push(char::from(*octet)),
            false => uri.push_str(&format!("%{octet:02X}")),
        }
    }
    uri
}

/// The value of a parameter.
fn token(text: &str) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.chars().take(LONGEST_WORD).map(|c| if legal(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests;
