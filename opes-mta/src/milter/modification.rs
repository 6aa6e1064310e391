//! What a milter may do to a message at its end.

use bytes::Bytes;

/// One change of a message or of its envelope, allowed after the end of the message only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Modification {
    /// One more recipient (`SMFIR_ADDRCPT`, or `SMFIR_ADDRCPT_PAR` with arguments).
    AddRecipient {
        /// In angle brackets.
        address: Bytes,
        /// ESMTP arguments separated by blanks; Postfix takes NOTIFY and ORCPT.
        arguments: Option<Bytes>,
    },
    /// One recipient less (`SMFIR_DELRCPT`).
    DeleteRecipient {
        /// As it was given with RCPT TO.
        address: Bytes,
    },
    /// Another envelope sender (`SMFIR_CHGFROM`).
    ChangeSender {
        /// In angle brackets.
        address: Bytes,
        /// ESMTP arguments separated by blanks; Postfix takes RET and ENVID.
        arguments: Option<Bytes>,
    },
    /// A field at the end of the header section (`SMFIR_ADDHEADER`).
    AddField {
        /// Before the colon.
        name: Bytes,
        /// Behind the colon, with its leading blank (`SMFIP_HDR_LEADSPC`), without the last line end; lines
        /// of a folded field end with LF.
        value: Bytes,
    },
    /// A field before the field that is at this index now (`SMFIR_INSHEADER`).
    InsertField {
        /// Fields before it, of all names.
        index: u32,
        /// As in `AddField`.
        name: Bytes,
        /// As in `AddField`.
        value: Bytes,
    },
    /// Another value of a field (`SMFIR_CHGHEADER`).
    ChangeField {
        /// Which of the fields of this name, from 1 on.
        index: u32,
        /// The field's name.
        name: Bytes,
        /// As in `AddField`; empty: the field goes.
        value: Bytes,
    },
    /// The first, or a further, piece of another body (`SMFIR_REPLBODY`).
    ReplaceBody(Bytes),
    /// Keep the message for review (`SMFIR_QUARANTINE`).
    Quarantine(Bytes),
}

impl Modification {
    /// The words for what there is.
    pub(crate) const NAMES: [&'static str; 8] = [
        "add-recipient",
        "delete-recipient",
        "change-sender",
        "add-field",
        "insert-field",
        "change-field",
        "replace-body",
        "quarantine",
    ];

    /// The word for what it does.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::AddRecipient { .. } => "add-recipient",
            Self::DeleteRecipient { .. } => "delete-recipient",
            Self::ChangeSender { .. } => "change-sender",
            Self::AddField { .. } => "add-field",
            Self::InsertField { .. } => "insert-field",
            Self::ChangeField { .. } => "change-field",
            Self::ReplaceBody(_) => "replace-body",
            Self::Quarantine(_) => "quarantine",
        }
    }
}
