//! Premature termination: what DWSR, DWSS and DSS said (RFC 4037 section 8).

/// The wishes of the server, and what the processor granted.
///
/// The adapted flow ends early in this order, and the original flow only after it (section 8.3):
///
/// ```text
///  DWSS ──▶ DSS ──▶ AME 206 of the server, then AME 206 of the processor if DWSR came
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stop {
    /// DWSR: the octets of the original that are still wanted.
    pub(crate) receiving: Option<u32>,
    /// DWSS, or a DSS that Leave-At-Body asked for.
    pub(crate) sending: bool,
    /// DSS: the octets of the original before it. What follows is the processor's to append.
    pub(crate) granted: Option<u32>,
    /// Whether Leave-At-Body has had its effect: the body came to its offset.
    pub(crate) left: bool,
}

impl Stop {
    /// Whether an AME 206 of the processor would come before the DSS that it owes (section 8.3).
    pub(crate) fn awaits_grant(self) -> bool {
        (self.sending || self.left) && self.granted.is_none()
    }
}
