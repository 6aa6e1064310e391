//! The two agents of an OCP connection (RFC 4037 section 2.2).

use std::fmt;

/// Which agent of the connection something concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The OPES processor, that is the OCP client: for mail, the MTA's side.
    Processor,
    /// The callout server.
    Server,
}

impl Role {
    /// The agent at the other end.
    pub fn peer(self) -> Self {
        match self {
            Self::Processor => Self::Server,
            Self::Server => Self::Processor,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Processor => "processor",
            Self::Server => "callout server",
        })
    }
}
