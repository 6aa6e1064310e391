//! Traces in messages and replies (profile section 8, RFC 3897, RFC 4902).

use bytes::Bytes;
use ocp_proto::smtp::{Reply, Verdict};

use crate::apply::Adapted;
use crate::config::System;

/// The field that names the system; one more for each pass.
pub const SYSTEM: &str = "OPES-System";
/// The field that names the services.
pub const VIA: &str = "OPES-Via";
/// The field by which a sender asks for services to be skipped.
pub const BYPASS: &str = "OPES-Bypass";

/// The most URIs of one request for bypass.
const MOST_URIS: usize = 32;

impl System {
    /// The system's field, with its line end.
    pub fn field(&self) -> Bytes {
        format!("{SYSTEM}: {}\r\n", self.uri).into()
    }

    /// The message goes on with the system's field of this pass, which services can't remove, and with one
    /// for the services if that is configured. `header` is the section as the services saw it, that field
    /// on top.
    pub fn trace(&self, adapted: &mut Adapted, header: &Bytes, verdicts: &[Verdict]) {
        let field = self.field();
        let expected = count_lines(std::slice::from_ref(header), &field);
        if count_lines(&adapted.header, &field) < expected {
            adapted.header.insert(0, field);
        }
        if self.services_in_trace && !verdicts.is_empty() {
            adapted.header.insert(0, self.via(verdicts));
        }
    }

    fn via(&self, verdicts: &[Verdict]) -> Bytes {
        let mut field = format!("{VIA}: {}", self.uri);
        for verdict in verdicts {
            let uri = printable(&verdict.service);
            field.push_str(&format!(",\r\n\t{uri} ; verdict={}", printable(&verdict.verdict)));
        }
        field.push_str("\r\n");
        field.into()
    }

    /// A service's rejection with trace data behind the text of its last line; as it is if there is no room
    /// for them.
    pub fn trace_reply(&self, reply: &Reply, trace_id: &str) -> Reply {
        let octets = reply.as_bytes();
        let text = octets.strip_suffix(b"\r\n").unwrap_or(octets);
        let traced = [text, format!(" [opes {} {trace_id}]\r\n", self.uri).as_bytes()].concat();
        Reply::parse(traced).unwrap_or_else(|_| reply.clone())
    }
}

/// The services that a message's sender wants to be skipped: URIs, or `*`.
pub fn bypass<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Vec<Bytes> {
    let uris = fields.flat_map(|value| value.split(|octet| *octet == b','));
    let named = uris.map(<[u8]>::trim_ascii).filter(|uri| !uri.is_empty());
    let legal = named.filter(|uri| uri.iter().all(u8::is_ascii_graphic));
    legal.take(MOST_URIS).map(Bytes::copy_from_slice).collect()
}

/// How many lines of a header section are this one.
fn count_lines(stretches: &[Bytes], line: &[u8]) -> usize {
    let whole = stretches.concat();
    whole.split_inclusive(|octet| *octet == b'\n').filter(|found| *found == line).count()
}

fn printable(octets: &[u8]) -> String {
    let legal = |octet: &u8| octet.is_ascii_graphic() && !matches!(octet, b',' | b';');
    octets.iter().map(|octet| if legal(octet) { char::from(*octet) } else { '_' }).collect()
}
