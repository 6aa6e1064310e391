//! Delivery status notifications (RFC 3464), with what RFC 3461 lets a sender ask for.

mod fields;

use std::io::{self, Read, Seek, SeekFrom};
use std::time::SystemTime;

use bytes::Bytes;
use ocp_proto::smtp::Address;
use ocp_proto::wire::Atom;

use self::fields::{Fields, diagnostic, original_recipient, printable, status, xtext};
use super::{Entry, Moment, Recipient, Trace};
use crate::event::header_end;
use crate::store::address::parameter;
use crate::trace::SYSTEM;

/// Octets of a header section that is returned, at most.
const LONGEST_HEADER: u64 = 256 * 1024;

/// Who reports.
#[derive(Clone, Debug)]
pub struct Reporter {
    /// The name of this mail server, a domain.
    pub name: String,
    /// Octets of a message that is returned whole where its sender asks for that (RET=FULL); of a longer one the
    /// header section is.
    pub most_returned: u64,
}

/// What is to be reported of a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is given up.
    Failed {
        /// What the next hop said, or why.
        reply: String,
    },
    /// It takes longer.
    Delayed {
        /// What the next hop said, or why.
        reply: String,
        /// Until when it is tried.
        until: SystemTime,
    },
    /// A next hop took it that does not speak of such notifications (RFC 3461 section 5.2.2).
    Relayed {
        /// What the next hop said.
        reply: String,
    },
}

/// A notification: `before`, then so many octets of the message that it is about from its beginning, then `after`.
#[derive(Clone, Debug)]
pub struct Report {
    /// The null sender, with the ESMTP parameters that the octets ask for.
    pub sender: Address,
    /// Who gets it.
    pub recipient: Address,
    /// Its header section, and its body up to what is returned.
    pub before: Bytes,
    /// Octets of the message.
    pub returned: u64,
    /// The end of its body.
    pub after: Bytes,
    /// The places of recipients whose delay it reports.
    pub(super) delays: Vec<usize>,
}

impl Reporter {
    /// The notification of what happened to recipients, which are named by their places; `None` if the sender is
    /// null (RFC 3464 section 2) or wants to hear of nothing of that (RFC 3461 section 4.1). `message` is that
    /// of the entry.
    pub fn compose(
        &self,
        entry: &Entry,
        message: &mut (impl Read + Seek),
        events: &[(usize, Event)],
        now: SystemTime,
    ) -> io::Result<Option<Report>> {
        let told: Vec<Told<'_>> =
            events.iter().filter_map(|(place, event)| Told::new(entry, *place, event)).collect();
        if entry.sender.is_null() || told.is_empty() {
            return Ok(None);
        }
        let returned = self.returned(entry, message, &told)?;
        let notice = Notice { reporter: self, entry, told, returned, now: now.into() };
        Ok(Some(notice.report()))
    }

    /// What is returned, and whether it needs eight bits.
    fn returned(
        &self,
        entry: &Entry,
        message: &mut (impl Read + Seek),
        told: &[Told<'_>],
    ) -> io::Result<Returned> {
        // RFC 3461 section 4.3: RET is about failures.
        let failed = told.iter().any(|told| matches!(told.event, Event::Failed { .. }));
        let full = parameter(&entry.sender, "RET").is_some_and(|v| v.eq_ignore_ascii_case(b"FULL"));
        let whole = full && failed && entry.octets <= self.most_returned;
        message.seek(SeekFrom::Start(0))?;
        if !whole {
            let mut start = Vec::new();
            message.take(LONGEST_HEADER).read_to_end(&mut start)?;
            let lines = memchr::memrchr(b'\n', &start).map_or(0, |end| end + 1);
            start.truncate(header_end(&start).unwrap_or(lines));
            let octets = start.len() as u64;
            return Ok(Returned { whole, octets, ascii: start.is_ascii() });
        }
        let (mut ascii, mut piece) = (true, vec![0; 64 * 1024]);
        loop {
            let count = message.read(&mut piece)?;
            ascii &= piece.get(..count).unwrap_or_default().is_ascii();
            if count == 0 {
                return Ok(Returned { whole, octets: entry.octets, ascii });
            }
        }
    }
}

/// A recipient that the sender hears of.
struct Told<'a> {
    place: usize,
    recipient: &'a Recipient,
    event: &'a Event,
}

impl<'a> Told<'a> {
    fn new(entry: &'a Entry, place: usize, event: &'a Event) -> Option<Self> {
        let recipient = entry.recipients.get(place)?;
        let wanted = match event {
            Event::Failed { .. } => "FAILURE",
            Event::Delayed { .. } if recipient.delay_reported => return None,
            Event::Delayed { .. } => "DELAY",
            Event::Relayed { .. } => "SUCCESS",
        };
        let wants = match parameter(&recipient.address, "NOTIFY") {
            // Without a word on it the mail server chooses between FAILURE and FAILURE,DELAY.
            None => wanted != "SUCCESS",
            Some(words) => words
                .split(|octet| *octet == b',')
                .any(|word| word.eq_ignore_ascii_case(wanted.as_bytes())),
        };
        wants.then_some(Self { place, recipient, event })
    }
}

struct Returned {
    whole: bool,
    octets: u64,
    ascii: bool,
}

struct Notice<'a> {
    reporter: &'a Reporter,
    entry: &'a Entry,
    told: Vec<Told<'a>>,
    returned: Returned,
    now: Moment,
}

impl Notice<'_> {
    fn report(&self) -> Report {
        // It can't be guessed, so the message can't hold it.
        let boundary = format!("=_{}-{:016x}", self.entry.id, fastrand::u64(..));
        let is_global = self.is_global();
        let ascii = self.returned.ascii && !is_global;
        let mut out = Fields::default();
        self.header(&mut out, &boundary, ascii);
        out.line(&format!("--{boundary}"));
        self.explanation(&mut out);
        out.line(&format!("--{boundary}"));
        let (status, whole, header) = match is_global {
            true => ("message/global-delivery-status", "message/global", "message/global-headers"),
            false => ("message/delivery-status", "message/rfc822", "text/rfc822-headers"),
        };
        out.field("Content-Type", status);
        out.encoding(!is_global);
        out.line("");
        self.status(&mut out, is_global);
        out.line(&format!("--{boundary}"));
        out.field("Content-Type", if self.returned.whole { whole } else { header });
        out.encoding(self.returned.ascii);
        out.line("");
        let mut parameters = Vec::new();
        if !ascii {
            parameters.push(Atom::from_static(b"BODY=8BITMIME"));
        }
        if is_global {
            parameters.push(Atom::from_static(b"SMTPUTF8"));
        }
        let sender = Address::null().with_parameters(parameters);
        let recipient = Address::new(self.entry.sender.path().clone());
        let is_delay = |told: &&Told<'_>| matches!(told.event, Event::Delayed { .. });
        Report {
            sender: sender.unwrap_or_else(|_| Address::null()),
            recipient: recipient.unwrap_or_else(|_| Address::null()),
            before: out.into_octets(),
            returned: self.returned.octets,
            after: format!("\r\n--{boundary}--\r\n").into(),
            delays: self.told.iter().filter(is_delay).map(|told| told.place).collect(),
        }
    }

    /// Whether it has addresses, or returns a header, that only SMTPUTF8 lets through (RFC 6533).
    fn is_global(&self) -> bool {
        let is_told = self.told.iter().any(|told| !told.recipient.address.path().is_ascii());
        let asked = parameter(&self.entry.sender, "SMTPUTF8").is_some();
        is_told || !self.entry.sender.path().is_ascii() || asked && !self.returned.ascii
    }

    fn header(&self, out: &mut Fields, boundary: &str, ascii: bool) {
        let (id, name, now) = (&self.entry.id, &self.reporter.name, self.now);
        let has = |wanted: fn(&Event) -> bool| self.told.iter().any(|told| wanted(told.event));
        let subject = match () {
            () if has(|event| matches!(event, Event::Failed { .. })) => {
                "Mail could not be delivered"
            }
            () if has(|event| matches!(event, Event::Delayed { .. })) => "Mail is delayed",
            () => "Mail was relayed",
        };
        if let Some(trace) = &self.entry.trace {
            out.field(SYSTEM, &system(trace));
        }
        out.field("Date", &now.date_time());
        out.field("From", &format!("Mail Delivery System <postmaster@{name}>"));
        out.field("To", &String::from_utf8_lossy(self.entry.sender.mailbox()));
        out.field("Subject", subject);
        out.field("Message-ID", &format!("<{id}.{}@{name}>", now.milliseconds()));
        out.field("Auto-Submitted", "auto-replied");
        out.field("MIME-Version", "1.0");
        out.field(
            "Content-Type",
            &format!("multipart/report; report-type=delivery-status; boundary=\"{boundary}\""),
        );
        out.encoding(ascii);
        out.line("");
    }

    fn explanation(&self, out: &mut Fields) {
        out.field("Content-Type", "text/plain; charset=utf-8");
        out.encoding(!self.is_global());
        out.line("");
        out.line(&format!("This is the mail server {}.", self.reporter.name));
        for Told { recipient, event, .. } in &self.told {
            out.line("");
            let (what, reply) = match event {
                Event::Failed { reply } => ("could not be delivered to".to_owned(), reply),
                Event::Delayed { reply, until } => {
                    let until = Moment::from(*until).date_time();
                    (format!("is delayed, and tried until {until}, for"), reply)
                }
                Event::Relayed { reply } => {
                    ("went on to a mail server that confirms no delivery, for".to_owned(), reply)
                }
            };
            out.line(&format!("Your message {what}"));
            out.line(&format!("    {}", recipient.address));
            out.line(&format!("    {}", printable(reply)));
        }
        if let Some(trace) = &self.entry.trace {
            out.line("");
            out.line("It passed this OPES system, which its operator finds by the name behind it:");
            out.line(&printable(&format!("    {} {}", trace.system, trace.id)));
        }
        out.line("");
    }

    /// RFC 3464 section 2.2 and 2.3.
    fn status(&self, out: &mut Fields, is_global: bool) {
        let Self { entry, reporter, .. } = self;
        if let Some(envelope_id) = parameter(&entry.sender, "ENVID") {
            out.field("Original-Envelope-Id", &xtext(envelope_id));
        }
        out.field("Reporting-MTA", &format!("dns; {}", reporter.name));
        out.field("Arrival-Date", &entry.arrived.date_time());
        out.field("X-OPES-Spool-Id", entry.id.as_str());
        if let Some(trace) = &entry.trace {
            out.field("X-OPES-System", &system(trace));
            if !trace.verdicts.is_empty() {
                out.field("X-OPES-Verdicts", &printable(&trace.verdicts));
            }
        }
        for told in &self.told {
            out.line("");
            self.recipient_status(out, told, if is_global { "utf-8" } else { "rfc822" });
        }
        out.line("");
    }

    fn recipient_status(&self, out: &mut Fields, told: &Told<'_>, address_type: &str) {
        let Told { recipient, event, .. } = told;
        if let Some(original) = parameter(&recipient.address, "ORCPT") {
            out.field("Original-Recipient", &original_recipient(original));
        }
        let mailbox = String::from_utf8_lossy(recipient.address.mailbox());
        out.field("Final-Recipient", &format!("{address_type}; {mailbox}"));
        let (action, class, reply) = match event {
            Event::Failed { reply } => ("failed", '5', reply),
            Event::Delayed { reply, .. } => ("delayed", '4', reply),
            Event::Relayed { reply } => ("relayed", '2', reply),
        };
        out.field("Action", action);
        out.field("Status", &status(reply, class));
        if let Some(next_hop) = &recipient.next_hop {
            out.field("Remote-MTA", &format!("dns; {}", printable(next_hop)));
        }
        out.field("Diagnostic-Code", &diagnostic(reply));
        out.field("Last-Attempt-Date", &self.now.date_time());
        if let Event::Delayed { until, .. } = event {
            out.field("Will-Retry-Until", &Moment::from(*until).date_time());
        }
    }
}

/// The system that a message has passed, as its own field names it.
fn system(trace: &Trace) -> String {
    let Trace { system, processor, id, .. } = trace;
    printable(&format!("{system} ; processor={processor} ; session={id}"))
}

#[cfg(test)]
mod tests;
