//! What a peer may do wrong: one variant for each rule, and the scope of the reaction (RFC 4037
//! section 5).

use crate::ids::{DialogId, MAXIMUM, Xid};
use crate::message::DefinitionError;
use crate::wire::SyntaxError;

/// A broken rule and what it ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}")]
pub struct Violation {
    /// What ends.
    pub scope: Scope,
    /// Which rule was broken. Its text is the reason that the peer gets.
    pub rule: Rule,
}

impl Violation {
    pub(crate) fn connection(rule: impl Into<Rule>) -> Self {
        Self { scope: Scope::Connection, rule: rule.into() }
    }

    pub(crate) fn transaction(xid: Xid, rule: impl Into<Rule>) -> Self {
        Self { scope: Scope::Transaction(xid), rule: rule.into() }
    }

    pub(crate) fn dialog(dialog: DialogId, rule: impl Into<Rule>) -> Self {
        Self { scope: Scope::Dialog(dialog), rule: rule.into() }
    }
}

/// What a violation ends. Everything else on the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One transaction: TE 400.
    Transaction(Xid),
    /// One dialog and its transactions: Dialog-End 400 (profile section 3).
    Dialog(DialogId),
    /// The connection: CE 400. Also when the scope can't be told (RFC 4037 section 5).
    Connection,
}

/// The rules that a peer can break.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// The octets are no OCP.
    #[error("{0}")]
    Syntax(#[from] SyntaxError),
    /// A message does not fit its definition.
    #[error("{0}")]
    Definition(#[from] DefinitionError),
    /// Something else came before CS.
    #[error("the first message is CS (RFC 4037 section 11.1)")]
    FirstMessageNotCs,
    /// The processor did something else before its first offer.
    #[error("the processor makes an offer immediately after its CS (RFC 4037 section 6.1)")]
    OfferExpected,
    /// A message that is not allowed in a Negotiation Phase.
    #[error("{0} in a Negotiation Phase (RFC 4037 section 6.1)")]
    NotInPhase(&'static str),
    /// NR without an offer.
    #[error("NR without a pending offer (RFC 4037 section 11.18)")]
    UnexpectedResponse,
    /// NR with another group than the offer's.
    #[error("NR repeats the SG of the offer, and has none otherwise (RFC 4037 section 11.19)")]
    ResponseGroup,
    /// NR chose more than was offered.
    #[error("NR chooses {0} that were not offered (SMTP profile section 2)")]
    BeyondOffer(&'static str),
    /// NO for a group that does not exist.
    #[error("NO for a service group that does not exist (RFC 4037 section 11.18)")]
    OfferGroup,
    /// SGC with a number that is not higher than all before.
    #[error("sg-id {0} is not higher than every earlier one (RFC 4037 section 10.2)")]
    GroupNotRising(u32),
    /// SGD of a group that does not exist.
    #[error("there is no service group {0} (RFC 4037 section 11.4)")]
    UnknownGroup(u32),
    /// More groups than we keep.
    #[error("more than {0} service groups")]
    GroupLimit(usize),
    /// TS with a number that is not higher than all before.
    #[error("xid {0} is not higher than every earlier one (RFC 4037 section 10.2)")]
    XidNotRising(u32),
    /// A message for a transaction that never began.
    #[error("there is no transaction {0} (RFC 4037 section 11)")]
    UnknownTransaction(u32),
    /// TS for a group that does not exist.
    #[error("there is no service group {0} for this transaction (RFC 4037 section 11.5)")]
    TransactionGroup(u32),
    /// More transactions than we work on.
    #[error("more than {0} transactions at a time")]
    TransactionLimit(usize),
    /// A second AMS.
    #[error("the application message has started already (RFC 4037 section 2.4)")]
    StartedTwice,
    /// Data or AME without AMS.
    #[error("{0} before AMS (RFC 4037 section 11.7)")]
    NotStarted(&'static str),
    /// Data or AME after AME.
    #[error("{0} after AME (RFC 4037 section 11.8)")]
    AfterEnd(&'static str),
    /// A gap or an overlap.
    #[error("gap in data offsets: {found} instead of {expected} (RFC 4037 section 11.9)")]
    Offset {
        /// The next offset of the flow.
        expected: u32,
        /// The offset that came.
        found: u32,
    },
    /// More octets than OCP can count.
    #[error("more than {MAXIMUM} octets in one application message (RFC 4037 section 10.3)")]
    TooLarge,
    /// Kept took back a promise that DUY relied on.
    #[error("Kept withdraws octets after DUY was used (RFC 4037 section 11.9)")]
    KeptWithdrawn,
    /// DUY of octets that nobody promised to keep.
    #[error("DUY of octets that are not kept (RFC 4037 section 11.10)")]
    NotKept,
    /// DUY of what only goes before the reply.
    #[error("DUY of auxiliary octets (SMTP profile section 4)")]
    AuxiliaryUsed,
    /// DUY of octets that DPI gave up.
    #[error("DUY of octets declared disposable (RFC 4037 section 11.11)")]
    Disposable,
    /// DPI took back what an earlier one gave up.
    #[error("DPI grows (RFC 4037 section 11.11)")]
    InterestGrows,
    /// AME 206 without DSS.
    #[error("AME 206 before DSS (RFC 4037 section 11.13)")]
    EarlyEnd,
    /// DSS that nobody asked for.
    #[error("DSS without DWSS (RFC 4037 section 11.14)")]
    UnsolicitedStop,
    /// AMS of a command-profile transaction for an unknown dialog.
    #[error("there is no dialog {0} (SMTP profile section 3)")]
    UnknownDialog(u32),
    /// Dialog-Start with a number that is not higher than all before.
    #[error("dialog-id {0} is not higher than every earlier one (SMTP profile section 3)")]
    DialogNotRising(u32),
    /// More dialogs than we keep.
    #[error("more than {0} dialogs at a time")]
    DialogLimit(usize),
    /// A second command, or reply, of a dialog while the first is being worked on.
    #[error("another event of this dialog is open (SMTP profile section 3)")]
    DialogBusy,
    /// An event that was not negotiated.
    #[error("{0} was not negotiated (SMTP profile section 4)")]
    NotNegotiated(String),
    /// A DUM without AM-Part.
    #[error("every DUM names one part (SMTP profile section 4)")]
    PartMissing,
    /// A part that this message can't have, or not in this order.
    #[error("part {0} does not fit here (SMTP profile section 4)")]
    PartOrder(&'static str),
    /// A feature that we require was not agreed on.
    #[error("{0} is required here and was not negotiated (RFC 4037 section 6.1)")]
    FeatureRequired(String),
    /// Two features that exclude each other.
    #[error("{0} conflicts with a feature in effect (RFC 4037 section 11.18)")]
    Conflict(String),
    /// Octets that are not protected by the TLS that was agreed on.
    #[error("octets behind the NO or NR that starts TLS (SMTP profile section 9)")]
    OctetsBehindTls,
    /// AME 206 of the processor before the DSS that it owes.
    #[error("AME 206 after DWSS and before DSS (RFC 4037 section 8.3)")]
    PartialBeforeStop,
    /// AME 206 of the processor before the octets that DWSR still wanted.
    #[error("AME 206 before the {0} octets that DWSR asked for (RFC 4037 section 11.12)")]
    PartialTooEarly(u32),
    /// DWSS or DSS where the adapted flow can't end early.
    #[error(
        "{0} where the adapted flow cannot end early (RFC 4037 section 8, SMTP profile section 4)"
    )]
    NoEarlyEnd(&'static str),
    /// Modp 0, and octets that change.
    #[error("Modp 0 with changed octets (RFC 4037 section 11.9)")]
    ModpBroken,
    /// Something that does not go with several adapted messages.
    #[error("{0} (SMTP profile section 5)")]
    SeveralMessages(&'static str),
    /// More adapted messages than we keep.
    #[error("more than {0} adapted messages in one transaction")]
    AdaptedMessageLimit(usize),
    /// An answer that may not be used again.
    #[error("Valid-For to {0}, whose answers are used once (SMTP profile section 4)")]
    NotReusable(String),
    /// More messages without use than we bear.
    #[error("too many {0} (RFC 4037 section 13)")]
    Useless(Useless),
    /// Too little progress.
    #[error("{what}: fewer than {octets} octets in {seconds} s (RFC 4037 section 2.7)")]
    TooSlow {
        /// Who or what is slow.
        what: &'static str,
        /// What progress is.
        octets: u32,
        /// The time for it.
        seconds: u64,
    },
    /// No progress.
    #[error("timeout: {0} (RFC 4037 section 2.7)")]
    Timeout(&'static str),
}

/// Messages that cost their sender little, and us something for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Useless {
    /// DUM without octets, DWP, DPM, DWM, DPI, DWSR, DWSS and DSS.
    #[error("messages that carry no data")]
    Signals,
    /// PQ, PA, PR, AQ and AA.
    #[error("queries")]
    Queries,
    /// NO.
    #[error("offers")]
    Offers,
    /// What has no name, no meaning, or the wrong sender.
    #[error("unknown messages")]
    UnknownMessages,
    /// What names a transaction or a dialog that does not exist.
    #[error("messages for transactions and dialogs that do not exist")]
    UnknownIdentifiers,
}
