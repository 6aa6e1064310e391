//! What may not come, and what may not be answered.

use crate::milter::options::Actions;
use crate::milter::response::InvalidModification;

/// A command that may not come now. The connection ends: both ends no longer mean the same message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfOrder {
    /// Something came before the offer.
    #[error("{0} before the options were negotiated")]
    BeforeNegotiation(&'static str),
    /// A second offer.
    #[error("a second negotiation of options on one connection")]
    NegotiatedTwice,
    /// The MTA did not wait for our answer.
    #[error("{command} while the answer to {awaited} is awaited")]
    Awaited {
        /// What came.
        command: &'static str,
        /// What the answer is about.
        awaited: &'static str,
    },
    /// A stage that was not to be sent.
    #[error("{0}, which the MTA was asked not to send")]
    NotWanted(&'static str),
    /// Something is missing before it.
    #[error("{command} {state}")]
    Order {
        /// What came.
        command: &'static str,
        /// What is missing, or what was already.
        state: &'static str,
    },
}

/// An answer of ours that is none here. Nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// The MTA does not wait for anything.
    #[error("the MTA waits for no answer")]
    NotAwaited,
    /// An answer that this stage can't have.
    #[error("{decision} is no answer to {stage}")]
    Decision {
        /// The answer.
        decision: &'static str,
        /// The stage.
        stage: &'static str,
    },
    /// A modification before the end of the message.
    #[error("a message is modified at its end only")]
    NotAtEnd,
    /// A modification that was not agreed on.
    #[error("{0} was not agreed on with the MTA")]
    NotAgreed(Actions),
    /// A second body, or the rest of one after something else: Postfix takes the pieces in one run.
    #[error("the pieces of a new body are sent one after the other")]
    BodyInterrupted,
    /// A modification that would do harm.
    #[error(transparent)]
    Modification(#[from] InvalidModification),
}
