//! What happened on a connection: the values that `Connection::poll_event` returns.

use std::ops::Range;

use bytes::Bytes;

use crate::ids::{AdaptedMessageId, DialogId, GroupId, Xid};
use crate::message::{AdaptedEnd, AdaptedStart, OcpResult, OriginalStart};
use crate::smtp::{DialogFacts, DialogUpdate, Part};
use crate::transaction::Traffic;
use crate::violation::Violation;
use crate::wire::{Atom, Structure};

/// Something that the application should know or has to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer's CS came.
    Started,
    /// The peer offers features (NO); answer with `Connection::respond` before the next
    /// `poll_event`, which otherwise declines it.
    Offered(Offer),
    /// The peer answered our offer (NR).
    Responded(Response),
    /// The peer answered our query (AA).
    Ability {
        /// The feature that we asked about.
        feature: Structure,
        /// Whether an offer of it can succeed.
        supported: bool,
    },
    /// TLS was agreed on. Flush the output, take nothing more from the transport into the input, do
    /// the handshake (the processor is the TLS client), then call `Connection::tls_started`; until
    /// then nothing is decoded, and what is sent waits.
    StartTls,
    /// Server: the processor created a service group (SGC).
    GroupCreated {
        /// The new group.
        group: GroupId,
        /// Its services in order: the first anonymous member is the URI.
        services: Vec<Structure>,
    },
    /// Server: the processor destroyed a service group (SGD). Its transactions go on.
    GroupDestroyed {
        /// The group that is no more.
        group: GroupId,
    },
    /// Server: a dialog began.
    DialogStarted {
        /// The new dialog.
        dialog: DialogId,
        /// What is known about it.
        facts: Box<DialogFacts>,
    },
    /// Server: more is known about a dialog.
    DialogUpdated {
        /// The dialog.
        dialog: DialogId,
        /// What is new.
        update: Box<DialogUpdate>,
    },
    /// Server: what the MTA made of an event.
    DialogOutcome {
        /// The dialog.
        dialog: DialogId,
        /// The event's transaction, which has ended.
        xid: Xid,
        /// Whether the MTA succeeded.
        result: OcpResult,
        /// The reply that the peer got.
        reply: Option<Atom>,
        /// The MTA's name for the message.
        queue_id: Option<Atom>,
    },
    /// A dialog ended: by the peer, or because of its violation. Its transactions have ended before
    /// this event.
    DialogEnded {
        /// The dialog.
        dialog: DialogId,
        /// Success, or why not.
        result: OcpResult,
    },
    /// Processor: start no new dialogs on this connection (Dialog-Drain).
    Draining,
    /// Server: a transaction began (TS).
    TransactionStarted {
        /// The new transaction.
        xid: Xid,
        /// The group whose services are asked for.
        group: GroupId,
    },
    /// Server: the original message began (AMS).
    OriginalStarted {
        /// The transaction.
        xid: Xid,
        /// The profile's facts, if the group has one.
        start: Option<OriginalStart>,
    },
    /// Processor: an adapted message began (AMS).
    AdaptedStarted {
        /// The transaction.
        xid: Xid,
        /// The URIs of the services that may be applied, if the server named them.
        services: Vec<Atom>,
        /// The profile's facts, if the group has one.
        start: Option<AdaptedStart>,
    },
    /// Octets of the peer's message (DUM): as they arrived, a DUM may come in several pieces.
    Data {
        /// The transaction.
        xid: Xid,
        /// What they belong to, if the group has a profile.
        part: Option<Part>,
        /// The octets; never empty.
        octets: Bytes,
    },
    /// Processor: octets of one of several adapted messages (DUM with Am-Id).
    MessageData {
        /// The transaction.
        xid: Xid,
        /// Which message.
        id: AdaptedMessageId,
        /// What they belong to.
        part: Option<Part>,
        /// The octets; never empty.
        octets: Bytes,
    },
    /// Processor: use these octets of the original message in one of several adapted messages (DUY
    /// with Am-Id).
    MessagePreserved {
        /// The transaction.
        xid: Xid,
        /// Which message.
        id: AdaptedMessageId,
        /// The part that they take; their own if `None`.
        part: Option<Part>,
        /// Octets of the original message.
        range: Range<u32>,
    },
    /// Processor: how certain the server is that octets of the message will change (Modp). 0 and 100
    /// can be relied on.
    ModificationExpected {
        /// The transaction.
        xid: Xid,
        /// Which of several messages.
        id: Option<AdaptedMessageId>,
        /// 0 to 100.
        percent: u32,
    },
    /// Processor: the server will refer to no other octets than these by DUY any more (DPI); others
    /// need not be kept. It bounds nothing that was not sent yet.
    PreservationInterest {
        /// The transaction.
        xid: Xid,
        /// Octets of the original message.
        range: Range<u32>,
    },
    /// The peer wants no data from an offset on, for a while (DWP). `Connection::may_send` says how
    /// much may still be sent; the DPM goes out by itself.
    PauseWanted {
        /// The transaction.
        xid: Xid,
        /// Octets of our flow, of all our messages together if there are several.
        offset: u32,
    },
    /// The peer has paused its data (DPM): it waits for `Connection::want_more`.
    Paused {
        /// The transaction.
        xid: Xid,
    },
    /// The peer wants more data (DWM): a pause is over.
    MoreWanted {
        /// The transaction.
        xid: Xid,
        /// Octets that it suggests as the least, if it does.
        size: Option<u32>,
    },
    /// Processor: the server wants no more than that many octets of the original message (DWSR, or
    /// Stop-Receiving-Body): end it with 206 once they were sent.
    StopReceivingWanted {
        /// The transaction.
        xid: Xid,
        /// Octets of the original message that are still wanted.
        size: u32,
    },
    /// Processor: the server wants to leave the rest to us (DWSS, or Leave-At-Body). Answer with
    /// `Connection::stop_sending` if every original octet that is sent from now on, or not sent,
    /// stays at hand; not answering refuses.
    StopSendingWanted {
        /// The transaction.
        xid: Xid,
    },
    /// Server: the processor appends the original from this offset on by itself (DSS). End an
    /// adapted message that has begun by `Connection::end_adapted_early` before the next
    /// `poll_event`, which otherwise does it; one that has not begun as soon as the answer to what
    /// came before that offset is known.
    StopSending {
        /// The transaction.
        xid: Xid,
        /// Octets of the original message that were sent before DSS: they are ours to answer.
        octets: u32,
    },
    /// Processor: use these octets of the original message, which we promised to keep (DUY).
    Preserved {
        /// The transaction.
        xid: Xid,
        /// The part that they take; their own if `None`.
        part: Option<Part>,
        /// Octets of the original message.
        range: Range<u32>,
    },
    /// Server: the original message ended (AME).
    OriginalEnded {
        /// The transaction.
        xid: Xid,
        /// 200: complete; 206: the processor left the rest out. Failures end the transaction.
        result: OcpResult,
    },
    /// Processor: an adapted message ended (AME). Nothing of it takes effect before
    /// [`Event::TransactionEnded`] with a success (profile section 4).
    AdaptedEnded {
        /// The transaction.
        xid: Xid,
        /// 200, or 206 after our DSS: append the original from `Connection::rest_from` on. Failures
        /// end the transaction.
        result: OcpResult,
        /// The profile's facts.
        end: AdaptedEnd,
    },
    /// A transaction ended: the peer's TE, or a violation, a time-out or a lost connection, which
    /// count as failures. There are no later events for it.
    TransactionEnded {
        /// The transaction, unknown to the application if it never started.
        xid: Xid,
        /// How it ended.
        result: OcpResult,
        /// Whether another server may try: nothing was done (profile section 4, TE `Retry`), or the
        /// transaction stood still for too long.
        retry: bool,
        /// What it cost on the wire.
        traffic: Traffic,
    },
    /// The peer is alive and, with an xid, works on that transaction (PA, PR).
    Progress {
        /// The transaction, if one was named.
        xid: Option<Xid>,
        /// Octets of the original message that it has sent or received.
        original_octets: Option<u32>,
    },
    /// The peer broke a rule with a transaction or dialog that never began here, a start beyond a
    /// limit for example. Its end went out; nothing is left to do.
    Refused(Violation),
    /// The connection is over; every transaction's end was told before. Flush the output, then
    /// close the transport.
    Closed(Closed),
}

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// We ended it on request.
    ByUs,
    /// The peer's CE, with its result.
    ByPeer(OcpResult),
    /// The transport ended without CE, counted as a failure (RFC 4037 section 11.2).
    Lost {
        /// Whether a message was cut in two.
        mid_message: bool,
    },
    /// The peer broke a rule; our CE said which.
    Violation(Violation),
}

/// An offer (NO).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Features, the most preferred first; the first anonymous member of each is its URI.
    pub features: Vec<Structure>,
    /// The group that the negotiation is for; the connection if `None`.
    pub group: Option<GroupId>,
    /// Whether the sender wants to go on negotiating afterwards.
    pub pending: bool,
}

/// A response (NR).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The selected feature, or `None` to decline.
    pub feature: Option<Structure>,
    /// The group of the offer. `Connection::respond` fills it in.
    pub group: Option<GroupId>,
    /// Offered features that are known but not possible now.
    pub rejects: Vec<Structure>,
    /// Offered features that are not known.
    pub unknowns: Vec<Structure>,
    /// Whether the sender wants to go on negotiating afterwards.
    pub pending: bool,
}

impl Offer {
    /// The offered feature with this URI.
    pub fn feature(&self, uri: &str) -> Option<&Structure> {
        self.features.iter().find(|feature| feature_uri(feature) == Some(uri.as_bytes()))
    }
}

/// The URI of a feature or service: its first anonymous member.
pub fn feature_uri(feature: &Structure) -> Option<&[u8]> {
    feature.members.first()?.as_atom().map(AsRef::as_ref)
}
