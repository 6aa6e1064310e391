//! Bounds on single messages. The grammar of RFC 4037 has none; section 13 asks for some.

use crate::ids::MAXIMUM;

/// What one message may cost. What is above a limit is invalid (RFC 4037 section 5), and found out
/// before it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireLimits {
    /// Octets of a message without its payload. The RFC has no bound; 256 KiB hold an envelope of a
    /// thousand recipients. Worst case a connection: that many octets.
    pub head_octets: usize,
    /// Nesting of lists and structures. The RFC has no bound; the profile needs 4.
    pub depth: usize,
    /// Names, values and brackets in one message. The RFC has no bound; a thousand recipients with
    /// parameters need 8,000. Worst case a connection: 16,384 × about 70 octets, 1.1 MiB.
    pub values: usize,
    /// Octets of a payload. The RFC's bound is 2,147,483,647 and so is ours: a payload is handed on
    /// in pieces as it arrives, and its size allocates nothing.
    pub payload: u32,
}

impl Default for WireLimits {
    fn default() -> Self {
        Self { head_octets: 256 * 1024, depth: 64, values: 16_384, payload: MAXIMUM }
    }
}

/// A stock of messages: each one takes from it, time and useful messages refill it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// How many may come at once.
    pub burst: u32,
    /// How many a second in the long run.
    pub per_second: u32,
}

/// What a peer may send without use before its connection ends. RFC 4037 has no bound; section 13
/// asks for some. Late messages of a transaction that has ended are none of these: they were on
/// their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UselessLimits {
    /// DUM without octets, DWP, DPM, DWM, DPI, DWSR, DWSS and DSS; each DUM with octets and each
    /// AMS and AME gives one back. Worst case: one DPM of up to 17 octets for each.
    pub signals: Allowance,
    /// PQ, PA, PR, AQ and AA. Worst case: one PA of up to 40 octets for each.
    pub queries: Allowance,
    /// NO. Worst case: one NR for each, as large as the offer.
    pub offers: Allowance,
    /// What has no name, no meaning, or the wrong sender. Worst case: reading it.
    pub unknown_messages: Allowance,
    /// What names a transaction or a dialog that does not exist. Worst case: one TE or Dialog-End of
    /// up to 600 octets for each.
    pub unknown_identifiers: Allowance,
}

impl Default for UselessLimits {
    fn default() -> Self {
        Self {
            signals: Allowance { burst: 4_096, per_second: 256 },
            queries: Allowance { burst: 1_024, per_second: 64 },
            offers: Allowance { burst: 64, per_second: 1 },
            unknown_messages: Allowance { burst: 256, per_second: 16 },
            unknown_identifiers: Allowance { burst: 128, per_second: 8 },
        }
    }
}
