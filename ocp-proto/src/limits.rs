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
