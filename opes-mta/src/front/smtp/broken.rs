//! Why a client was left.

use std::time::Duration;

use ocp_proto::smtp::Reply;

use super::replies;
use crate::relay::RelayError;
use crate::smtp::Misuse;

/// Why a connection ended before its client wanted it to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the socket: {0}")]
    Socket(#[from] std::io::Error),
    #[error("the client said nothing for {0:?}")]
    Silence(Duration),
    #[error("the client went away in the middle of a message")]
    Lost,
    #[error("the message can't be read: {0}")]
    Content(std::io::Error),
    #[error("the handshake of TLS failed: {0}")]
    Handshake(std::io::Error),
    #[error("{0}")]
    NextHop(#[from] RelayError),
    #[error("the next hop's reply has no place here: {0}")]
    Reply(#[from] Misuse),
}

impl Broken {
    /// Where it broke, for the log.
    pub(super) fn stage(&self) -> &'static str {
        match self {
            Self::Socket(_) | Self::Silence(_) | Self::Lost => "client",
            Self::Content(_) => "content",
            Self::Handshake(_) => "TLS handshake",
            Self::NextHop(error) => error.stage.name(),
            Self::Reply(_) => "reply",
        }
    }

    /// What the client is told before it is left; `None` if there is nobody to be told.
    pub(super) fn reply(&self) -> Option<Reply> {
        match self {
            Self::Socket(_) | Self::Lost | Self::Handshake(_) => None,
            Self::Silence(_) => Some(replies::silence()),
            Self::Content(_) => Some(replies::not_kept()),
            Self::NextHop(_) => Some(replies::no_next_hop()),
            Self::Reply(_) => Some(replies::no_sense()),
        }
    }
}
