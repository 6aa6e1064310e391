//! Transport security, as far as it is negotiated (profile section 9). The handshake is the driver's.

use std::time::Instant;

use super::{Connection, Event, Misuse};
use crate::smtp::TLS;
use crate::violation::{Rule, Violation};

/// Transport security that is negotiated.
///
/// ```text
/// Plain ──NR with tls──▶ Handshaking ──tls_started──▶ Started
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlsStage {
    Plain,
    Handshaking,
    Started,
}

impl Connection {
    /// The handshake that [`Event::StartTls`] asked for is done: from now on the transport is
    /// protected. What was held back goes out.
    ///
    /// # Errors
    /// If no handshake was asked for.
    pub fn tls_started(&mut self, now: Instant) -> Result<(), Misuse> {
        if !self.is_handshaking() {
            return Err(Misuse::NotNegotiated(TLS.to_owned()));
        }
        self.timers.received(now);
        if !self.input.is_empty() {
            self.violate(Violation::connection(Rule::OctetsBehindTls));
            return Ok(());
        }
        self.tls = TlsStage::Started;
        self.release();
        Ok(())
    }

    /// Whether TLS was agreed on, and its handshake done.
    pub fn has_tls(&self) -> bool {
        self.tls == TlsStage::Started
    }

    /// Both agents start the handshake now.
    pub(super) fn start_tls(&mut self) {
        self.tls = TlsStage::Handshaking;
        self.timers.tls = self.timers.now;
        self.events.push_back(Event::StartTls);
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls == TlsStage::Handshaking && !self.is_over()
    }
}
