//! What went wrong at the next hop: where, why, and after what time.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ocp_proto::smtp::Reply;

use super::address::NextHopAddress;
use super::stage::Stage;
use crate::smtp::reply::{EnhancedStatus, InvalidReply};

/// Why something was not done at the next hop.
#[derive(Clone, Debug, thiserror::Error)]
#[error("next hop {next_hop}, {stage}: {cause} (after {:.3} s)", .took.as_secs_f64())]
pub struct RelayError {
    /// Which next hop.
    pub next_hop: NextHopAddress,
    /// What it was about.
    pub stage: Stage,
    /// Why.
    pub cause: Cause,
    /// How long it took to fail.
    pub took: Duration,
}

impl RelayError {
    /// What the next hop said, if it refused.
    pub fn reply(&self) -> Option<&Reply> {
        match &self.cause {
            Cause::Refused(reply) => Some(reply),
            _ => None,
        }
    }

    /// Whether trying again is of no use. What is said about the connection, such as 554 instead of a
    /// greeting, is no word on a message: somebody may put it right.
    pub fn is_permanent(&self) -> bool {
        match &self.cause {
            // RFC 5321 section 4.5.3.1.10: 552 to RCPT means that others of them come later.
            Cause::Refused(reply) => {
                reply.is_permanent()
                    && self.stage.is_about_message()
                    && !(self.stage == Stage::Rcpt && reply.code() == 552)
            }
            Cause::Unfit { .. } => true,
            _ => false,
        }
    }

    /// The enhanced status code that a notification gives (RFC 3463).
    pub fn status(&self) -> EnhancedStatus {
        let status = match &self.cause {
            Cause::Refused(reply) => EnhancedStatus::of_or_class(reply),
            Cause::Unfit { status, .. } => *status,
            Cause::Resolve(_) => EnhancedStatus::new(4, 4, 3),
            Cause::Connect(_) => EnhancedStatus::new(4, 4, 1),
            Cause::Silence(_) | Cause::HungUp | Cause::Transport(_) | Cause::Aborted => {
                EnhancedStatus::new(4, 4, 2)
            }
            Cause::NoTls | Cause::Handshake(_) | Cause::PlainText => EnhancedStatus::new(4, 7, 5),
            Cause::Content(_) => EnhancedStatus::new(4, 3, 0),
            Cause::NoXclient => EnhancedStatus::new(4, 3, 5),
            Cause::Reply(_) | Cause::Unasked | Cause::NothingAsked | Cause::Line => {
                EnhancedStatus::new(4, 5, 0)
            }
        };
        EnhancedStatus { class: if self.is_permanent() { 5 } else { 4 }, ..status }
    }
}

/// Why.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Cause {
    /// Its name has no address.
    #[error("no address was found for its name: {0}")]
    Resolve(Arc<io::Error>),
    /// None of its addresses takes a connection.
    #[error("no connection: {0}")]
    Connect(Attempts),
    /// It said nothing for so long.
    #[error("no answer within {:.3} s", .0.as_secs_f64())]
    Silence(Duration),
    /// The connection is over.
    #[error("it hung up")]
    HungUp,
    /// The system can't go on.
    #[error("the connection broke: {0}")]
    Transport(Arc<io::Error>),
    /// It does not speak SMTP.
    #[error("it does not speak SMTP: {0}")]
    Reply(#[from] InvalidReply),
    /// It said no, or something else than there is to say.
    #[error("it said: {0}")]
    Refused(Reply),
    /// It said something though nothing was asked.
    #[error("it spoke without being asked")]
    Unasked,
    /// Octets stood behind its answer to STARTTLS: somebody else may have put them there (RFC 3207
    /// section 6).
    #[error("plain text stands behind its answer to STARTTLS")]
    PlainText,
    /// It can't what is required.
    #[error("it does not offer STARTTLS, and TLS is required")]
    NoTls,
    /// It can't be told who the client is.
    #[error("it does not offer XCLIENT, and would take every client for us")]
    NoXclient,
    /// TLS failed.
    #[error("{0}")]
    Handshake(String),
    /// The message can't go there as it is.
    #[error("{status} {what}")]
    Unfit {
        /// Its enhanced status code.
        status: EnhancedStatus,
        /// What does not fit.
        what: String,
    },
    /// The message can't be read here.
    #[error("the content can't be read: {0}")]
    Content(Arc<io::Error>),
    /// We have hung up in the middle of a message.
    #[error("the message was given up, and its connection with it")]
    Aborted,
    /// A mistake of ours: an answer is awaited, but nothing was asked.
    #[error("nothing was asked")]
    NothingAsked,
    /// A mistake of ours: this is no line.
    #[error("what should be sent is no line, or a longer one than may be")]
    Line,
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset => Self::HungUp,
            _ => Self::Transport(Arc::new(error)),
        }
    }
}

/// Each address that was tried, and why it did not do.
#[derive(Clone, Debug, Default)]
pub struct Attempts(pub Vec<(Option<SocketAddr>, Arc<io::Error>)>);

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (address, error)) in self.0.iter().enumerate() {
            let joint = if index > 0 { "; " } else { "" };
            match address {
                Some(address) => write!(f, "{joint}{address}: {error}")?,
                None => write!(f, "{joint}{error}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(stage: Stage, text: &'static str) -> RelayError {
        let cause = Cause::Refused(Reply::parse(text).unwrap());
        let next_hop = "mx.example:25".parse().unwrap();
        RelayError { next_hop, stage, cause, took: Duration::from_millis(1_500) }
    }

    #[test]
    fn an_error_says_where_why_and_after_what_time() {
        let error = refused(Stage::Rcpt, "550 5.1.1 unknown\r\n");
        assert_eq!(
            error.to_string(),
            "next hop mx.example:25, RCPT: it said: 550 5.1.1 unknown (after 1.500 s)"
        );
    }

    #[test]
    fn only_what_is_said_about_a_message_is_for_good() {
        for (stage, text, is_permanent, status) in [
            (Stage::Rcpt, "550 5.1.1 x\r\n", true, "5.1.1"),
            (Stage::Rcpt, "552 5.5.3 too many\r\n", false, "4.5.3"),
            (Stage::EndOfContent, "552 x\r\n", true, "5.0.0"),
            (Stage::Mail, "451 4.3.0 x\r\n", false, "4.3.0"),
            (Stage::Greeting, "554 5.7.1 x\r\n", false, "4.7.1"),
            (Stage::Data, "250 2.0.0 x\r\n", false, "4.0.0"),
        ] {
            let error = refused(stage, text);
            assert_eq!(
                (error.is_permanent(), error.status().to_string().as_str()),
                (is_permanent, status),
                "{text}"
            );
        }
    }
}
