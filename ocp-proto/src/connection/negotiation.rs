//! Offers and responses, and the Negotiation Phases that they make (RFC 4037 section 6).
//!
//! ```text
//!          NO sent                        NR received
//!  quiet ───────────▶ own offer pending ───────────────▶ quiet, or
//!          NO received                    NR sent        a further offer expected
//!  quiet ───────────▶ peer's offer open ───────────────▶ if NO or NR said Offer-Pending
//!
//!  own offer pending, NO received: the processor disregards it, the server forgets its own.
//! ```
//!
//! A Phase is open in every state but `quiet` (A-08). Who sends NO behaves so before the peer knows.

use std::collections::VecDeque;
use std::time::Instant;

use super::event::Offer;
use crate::ids::GroupId;
use crate::message::Kind;
use crate::role::Role;
use crate::smtp::TLS;
use crate::violation::Rule;
use crate::wire::Structure;

/// The negotiation state of one connection.
#[derive(Debug, Default)]
pub(super) struct NegotiationState {
    own: Option<(Offer, Instant)>,
    peer: Option<Offer>,
    /// Since when a further offer is expected from either agent.
    expects: Option<Instant>,
    /// Whether the peer itself sent the NR of a pair with Offer-Pending true: only then it provably
    /// knows that the Phase is open (A-10).
    peer_is_bound: bool,
    /// Whether the peer has made an offer.
    peer_has_offered: bool,
    /// Whether we have made one.
    has_offered: bool,
    /// Whether we have offered what we require.
    pub(super) has_insisted: bool,
    /// Features that AQ asked about, the oldest first.
    pub(super) asked: VecDeque<Structure>,
}

impl NegotiationState {
    /// Our NO goes out.
    pub(super) fn sent_offer(&mut self, offer: Offer, now: Instant) {
        self.own = Some((offer, now));
        self.has_offered = true;
    }

    /// The peer's NO; whether it has to be answered.
    pub(super) fn received_offer(&mut self, offer: &Offer, role: Role) -> bool {
        self.peer_has_offered = true;
        match role {
            // Section 11.18: a processor disregards offers while its own is pending.
            Role::Processor if self.own.is_some() => return false,
            // And a server forgets its own.
            Role::Server => self.own = None,
            Role::Processor => {}
        }
        self.peer = Some(offer.clone());
        true
    }

    /// Our NR goes out, with this Offer-Pending.
    pub(super) fn sent_response(&mut self, offer: &Offer, pending: bool, now: Instant) {
        let open = offer.pending || pending;
        self.peer_is_bound &= open;
        self.expects = open.then_some(now);
    }

    /// The peer's NR: the offer that it answers.
    pub(super) fn received_response(
        &mut self,
        group: Option<GroupId>,
        pending: bool,
        now: Instant,
    ) -> Result<Offer, Rule> {
        let (offer, _) = self.own.take().ok_or(Rule::UnexpectedResponse)?;
        if offer.group != group {
            return Err(Rule::ResponseGroup);
        }
        self.peer_is_bound = offer.pending || pending;
        self.expects = self.peer_is_bound.then_some(now);
        Ok(offer)
    }

    /// Takes the peer's offer in order to answer it.
    pub(super) fn take_offer(&mut self) -> Option<Offer> {
        self.peer.take()
    }

    /// Whether the peer may send this message now.
    pub(super) fn check(&self, kind: Kind, peer: Role) -> Result<(), Rule> {
        // Section 6.1, A-09: groups may come before the first offer, for its sake.
        let early = kind.in_phase() || matches!(kind, Kind::Sgc | Kind::Sgd);
        if peer == Role::Processor && !self.peer_has_offered && !early {
            return Err(Rule::OfferExpected);
        }
        if self.peer_is_bound && !kind.in_phase() {
            return Err(Rule::NotInPhase(kind.name()));
        }
        Ok(())
    }

    /// Whether an offer of the peer waits for our answer.
    pub(super) fn owes_response(&self) -> bool {
        self.peer.is_some()
    }

    /// Whether our offer waits for its answer.
    pub(super) fn is_pending(&self) -> bool {
        self.own.is_some()
    }

    /// Whether that offer has TLS in it.
    pub(super) fn offers_tls(&self) -> bool {
        self.own.as_ref().is_some_and(|(offer, _)| offer.feature(TLS).is_some())
    }

    /// Whether only messages of a Negotiation Phase may be sent.
    pub(super) fn is_open(&self) -> bool {
        self.own.is_some() || self.peer.is_some() || self.expects.is_some()
    }

    /// Since when the peer's answer or a further offer is awaited.
    pub(super) fn awaits_since(&self) -> Option<Instant> {
        self.own.as_ref().map(|(_, since)| *since).or(self.expects)
    }

    /// Whether the peer has made an offer.
    pub(super) fn peer_has_offered(&self) -> bool {
        self.peer_has_offered
    }

    /// Whether we have made one.
    pub(super) fn has_offered(&self) -> bool {
        self.has_offered
    }
}
