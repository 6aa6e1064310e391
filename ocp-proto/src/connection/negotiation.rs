//! Offers and responses (RFC 4037 section 6).
//!
//! ```text
//!            NO sent                        NR received
//!   quiet ───────────▶ own offer pending ───────────────▶ quiet
//!            NO received                    NR sent
//!   quiet ───────────▶ peer's offer open ───────────────▶ quiet
//!
//!   own offer pending, NO received: the processor disregards it, the server forgets its own.
//! ```

use std::time::Instant;

use super::event::Offer;
use crate::ids::GroupId;
use crate::message::Kind;
use crate::role::Role;
use crate::violation::Rule;

/// The negotiation state of one connection.
#[derive(Debug, Default)]
pub(super) struct NegotiationState {
    own: Option<(Offer, Instant)>,
    peer: Option<Offer>,
    /// Whether the peer itself sent the NR of a pair with Offer-Pending true: only then it provably
    /// knows that the Phase is open (A-10).
    peer_is_bound: bool,
    /// Whether the peer has made an offer.
    peer_has_offered: bool,
}

impl NegotiationState {
    /// Our NO goes out.
    pub(super) fn sent_offer(&mut self, offer: Offer, now: Instant) {
        self.own = Some((offer, now));
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

    /// Our NR goes out: the offer that it answers.
    pub(super) fn sent_response(&mut self, pending: bool) -> Option<Offer> {
        let offer = self.peer.take()?;
        if !offer.pending && !pending {
            self.peer_is_bound = false;
        }
        Some(offer)
    }

    /// The peer's NR: the offer that it answers.
    pub(super) fn received_response(
        &mut self,
        group: Option<GroupId>,
        pending: bool,
    ) -> Result<Offer, Rule> {
        let (offer, _) = self.own.take().ok_or(Rule::UnexpectedResponse)?;
        if offer.group != group {
            return Err(Rule::ResponseGroup);
        }
        self.peer_is_bound = offer.pending || pending;
        Ok(offer)
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

    /// Since when our offer waits for its answer.
    pub(super) fn pending_since(&self) -> Option<Instant> {
        self.own.as_ref().map(|(_, since)| *since)
    }

    /// Whether the peer has made an offer.
    pub(super) fn peer_has_offered(&self) -> bool {
        self.peer_has_offered
    }
}
