//! Offers, responses and queries (RFC 4037 section 6).

use super::Misuse;
use crate::connection::event::{Offer, Response, feature_uri};
use crate::connection::{Connection, TlsStage};
use crate::message::{Message, Negotiation, Selection};
use crate::role::Role;
use crate::smtp::{DIALOG, ProfileKind, TLS};
use crate::violation::{Rule, Violation};
use crate::wire::Structure;

/// Queries (AQ) that may wait for their answers.
const QUERIES: usize = 16;

impl Connection {
    /// Offers features (NO). While the offer is unanswered, and longer if either side says
    /// Offer-Pending, only messages of the Negotiation Phase go out: those of transactions under way
    /// are held back, and what would begin something is refused.
    ///
    /// # Errors
    /// While our last offer is unanswered, or the peer's; for an unknown group, or one with open
    /// transactions; for a feature that conflicts with one in effect.
    pub fn offer(&mut self, offer: Offer) -> Result<(), Misuse> {
        if self.is_over() {
            return Err(Misuse::Over);
        }
        if self.negotiation.is_pending() {
            return Err(Misuse::OfferPending);
        }
        if self.negotiation.owes_response() || self.is_handshaking() {
            return Err(Misuse::PhaseOpen);
        }
        if let Some(group) = offer.group {
            self.check_group(group)?;
            if self.transactions.values().any(|transaction| transaction.group == group) {
                return Err(Misuse::GroupBusy(group));
            }
        }
        for uri in offer.features.iter().filter_map(feature_uri) {
            if self.groups.conflicts(uri, offer.group) {
                return Err(Rule::Conflict(text(uri)).into());
            }
            let own = self.role == Role::Processor && offer.group.is_none();
            if uri == TLS.as_bytes() && (!own || self.tls != TlsStage::Plain) {
                return Err(Misuse::NotNegotiated(TLS.to_owned()));
            }
        }
        let Offer { features, group, pending } = offer.clone();
        self.send(&Message::No(Negotiation { features, group, pending }));
        self.negotiation.sent_offer(offer, self.timers.now);
        Ok(())
    }

    /// Answers the peer's offer (NR). The group is the offer's. A feature that cannot be selected
    /// is declined on the wire, and the reason returned.
    ///
    /// # Errors
    /// Without an offer; for a feature that was not offered, or more of one than was; for one that
    /// conflicts with a feature in effect; for TLS with octets behind the offer, which ends the
    /// connection.
    pub fn respond(&mut self, response: Response) -> Result<(), Misuse> {
        if self.is_over() {
            return Err(Misuse::Over);
        }
        let Response { feature, mut rejects, unknowns, pending, .. } = response;
        let offer = self.negotiation.take_offer().ok_or(Misuse::NoOffer)?;
        let group = offer.group;
        let enabled = feature.as_ref().map_or(Ok(()), |feature| self.select(feature, &offer));
        let selected = feature.clone().filter(|_| enabled.is_ok());
        rejects.extend(feature.filter(|_| enabled.is_err()).map(named_only));
        let starts_tls = selected.as_ref().and_then(feature_uri) == Some(TLS.as_bytes());
        if starts_tls && !self.input.is_empty() {
            self.violate(Violation::connection(Rule::OctetsBehindTls));
            return Err(Rule::OctetsBehindTls.into());
        }
        // A Phase does not end before what we require is in effect.
        let missing = match offer.pending || pending {
            true => Vec::new(),
            false => self.missing(),
        };
        let insists = self.can_insist(&missing);
        let pending = pending || insists;
        self.negotiation.sent_response(&offer, pending, self.timers.now);
        // Whatever we were asked to select, the peer gets its answer.
        let selection = Selection { feature: selected, group, rejects, unknowns, pending };
        self.send(&Message::Nr(selection));
        if starts_tls {
            self.start_tls();
        }
        self.insist(missing, insists);
        self.release();
        enabled
    }

    /// Asks whether the peer supports a feature (AQ); [`crate::Event::Ability`] answers.
    ///
    /// # Errors
    /// Once the connection is over; beyond 16 unanswered queries.
    pub fn query(&mut self, feature: Structure) -> Result<(), Misuse> {
        if self.is_over() {
            return Err(Misuse::Over);
        }
        if self.negotiation.asked.len() >= QUERIES {
            return Err(Misuse::Limit(QUERIES));
        }
        self.send(&Message::Aq { feature: feature.clone() });
        self.negotiation.asked.push_back(feature);
        Ok(())
    }

    /// Puts an offered feature into effect that we select.
    fn select(&mut self, feature: &Structure, offer: &Offer) -> Result<(), Misuse> {
        let uri = feature_uri(feature).unwrap_or_default();
        let offered = offer.features.iter().find(|offered| feature_uri(offered) == Some(uri));
        let offered = offered.ok_or_else(|| Misuse::NotNegotiated(text(uri)))?;
        let may_start = self.role == Role::Server && self.tls == TlsStage::Plain;
        if uri == TLS.as_bytes() && (offer.group.is_some() || !may_start) {
            return Err(Misuse::NotNegotiated(TLS.to_owned()));
        }
        self.enable(feature, offered, offer.group).map_err(Misuse::from)
    }

    /// What we require of the whole connection and is not in effect.
    pub(in crate::connection) fn missing(&self) -> Vec<Structure> {
        let in_effect = |feature: &&Structure| match feature_uri(feature).unwrap_or_default() {
            uri if uri == DIALOG.as_bytes() => self.dialogs.enabled,
            uri if uri == TLS.as_bytes() => self.tls != TlsStage::Plain,
            // A group's, checked where a transaction of it starts.
            uri if ProfileKind::from_uri(uri).is_some() => true,
            uri => self.groups.common.has(uri),
        };
        self.config.requires.iter().filter(|feature| !in_effect(feature)).cloned().collect()
    }

    /// Whether we can offer by ourselves what is missing: a server, once, and not TLS.
    pub(in crate::connection) fn can_insist(&self, missing: &[Structure]) -> bool {
        let tls = missing.iter().any(|feature| feature_uri(feature) == Some(TLS.as_bytes()));
        let once = self.role == Role::Server && !self.negotiation.has_insisted;
        !missing.is_empty() && once && !tls
    }

    /// A Phase would end without features that we require: they are offered, or the connection ends
    /// (RFC 4037 section 6.1).
    pub(in crate::connection) fn insist(&mut self, missing: Vec<Structure>, offers: bool) {
        if offers {
            self.negotiation.has_insisted = true;
            // Nothing else is pending: the Phase was about to end.
            let _ = self.offer(Offer { features: missing, ..Offer::default() });
        } else if let Some(feature) = missing.first() {
            let rule = Rule::FeatureRequired(text(feature_uri(feature).unwrap_or_default()));
            self.violate(Violation::connection(rule));
        }
    }
}

fn text(uri: &[u8]) -> String {
    String::from_utf8_lossy(uri).into_owned()
}

/// A feature without its attributes.
fn named_only(feature: Structure) -> Structure {
    Structure { members: feature.members.into_iter().take(1).collect(), ..Structure::default() }
}
