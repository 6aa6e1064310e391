//! What a connection is allowed to cost, and how long it waits.

use std::time::Duration;

use crate::limits::{UselessLimits, WireLimits};
use crate::wire::{Atom, Structure};

/// Limits and timeouts of one connection. RFC 4037 bounds none of them; section 13 asks for bounds.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bounds on single messages.
    pub wire: WireLimits,
    /// Service groups at a time. Worst case: groups × [`WireLimits::head_octets`].
    pub groups: usize,
    /// Dialogs at a time. Worst case: dialogs × [`WireLimits::head_octets`].
    pub dialogs: usize,
    /// Transactions at a time. Worst case: transactions × about 400 octets, besides what the
    /// application buffers.
    pub transactions: usize,
    /// Adapted messages in a transaction that has several (profile section 5). Worst case a
    /// transaction: that many × about 64 octets, and the recipients of as many
    /// [`WireLimits::head_octets`].
    pub adapted_messages: usize,
    /// What messages without use may cost.
    pub useless: UselessLimits,
    /// Features that have to be in effect. One that is missing at the end of a Negotiation Phase
    /// is offered by a server, which keeps the Phase open (RFC 4037 section 6.1); if it is declined,
    /// and at once for TLS, which only processors offer, and in a processor, the connection ends.
    /// No transaction starts before; with one of the two profiles here, none in a group without it, and
    /// with both, none in a group without either.
    pub requires: Vec<Structure>,
    /// URIs of the features that AQ is answered `true` for.
    pub features: Vec<Atom>,
    /// From the start of the connection to the peer's CS and the processor's first offer.
    pub handshake_timeout: Duration,
    /// From our offer to its answer.
    pub negotiation_timeout: Duration,
    /// A transaction that the peer does not carry on within that time fails; a connection ends on
    /// which a message that has begun does not come on, or our octets are not read.
    pub transaction_timeout: Duration,
    /// Octets that count as progress within that time: at a server of a transaction's messages; of a
    /// message that has begun; of ours, if so many wait to be read. Fewer do if nothing is left to
    /// come. 1: each octet.
    pub least_octets: u32,
    /// A connection on which the peer sends nothing for that long is pinged (PQ).
    pub idle_timeout: Duration,
    /// And ended if it sends nothing for that long after the ping.
    pub ping_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            wire: WireLimits::default(),
            groups: 16,
            dialogs: 1_024,
            transactions: 1_024,
            adapted_messages: 256,
            useless: UselessLimits::default(),
            requires: Vec::new(),
            features: Vec::new(),
            handshake_timeout: Duration::from_secs(30),
            negotiation_timeout: Duration::from_secs(30),
            transaction_timeout: Duration::from_secs(120),
            least_octets: 2_048,
            idle_timeout: Duration::from_secs(120),
            ping_timeout: Duration::from_secs(30),
        }
    }
}
