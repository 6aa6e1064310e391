//! Offers, responses and features (RFC 4037 section 6).

use std::sync::Arc;

use super::Received;
use crate::connection::event::{Event, Offer, Response, feature_uri};
use crate::connection::{Connection, Features};
use crate::ids::GroupId;
use crate::message::{DefinitionError, Message, Negotiation, Selection};
use crate::role::Role;
use crate::smtp::{DIALOG, Profile, ProfileKind, TLS};
use crate::violation::{Rule, Useless, Violation};
use crate::wire::Structure;

impl Connection {
    pub(super) fn receive_offer(&mut self, offer: Negotiation) -> Received {
        self.bear(Useless::Offers)?;
        let Negotiation { features, group, pending } = offer;
        // Groups are the processor's: a server can name only those that it knows of.
        if group.is_some_and(|group| !self.groups.active.contains_key(&group)) {
            return Err(Violation::connection(Rule::OfferGroup));
        }
        let offer = Offer { features, group, pending };
        let owed = self.negotiation.received_offer(&offer, self.role);
        Ok(owed.then_some(Event::Offered(offer)))
    }

    pub(super) fn receive_response(&mut self, selection: Selection) -> Received {
        let Selection { mut feature, group, rejects, unknowns, pending } = selection;
        let now = self.timers.now;
        let offer = self
            .negotiation
            .received_response(group, pending, now)
            .map_err(Violation::connection)?;
        // Section 11.19: what was not offered can't be selected; the negotiation failed.
        let offered = |selected: &Structure| {
            offer.features.iter().find(|feature| feature_uri(feature) == feature_uri(selected))
        };
        match feature.as_ref().and_then(offered) {
            Some(offered) => {
                if let Some(selected) = &feature {
                    self.enable(selected, offered, group).map_err(Violation::connection)?;
                }
            }
            None => feature = None,
        }
        if feature.as_ref().and_then(feature_uri) == Some(TLS.as_bytes()) {
            if self.role == Role::Processor && !self.input.is_empty() {
                return Err(Violation::connection(Rule::OctetsBehindTls));
            }
            self.start_tls();
        }
        if !offer.pending && !pending {
            let missing = self.missing();
            let insists = self.can_insist(&missing);
            self.insist(missing, insists);
        }
        self.release();
        let response = Response { feature, group, rejects, unknowns, pending };
        // A violation has told its event already, and nothing may follow it.
        Ok((!self.is_over()).then_some(Event::Responded(response)))
    }

    /// Puts a selected feature into effect (RFC 4037 section 11.19).
    pub(in crate::connection) fn enable(
        &mut self,
        selected: &Structure,
        offered: &Structure,
        group: Option<GroupId>,
    ) -> Result<(), Rule> {
        let Some(uri) = feature_uri(selected) else { return Ok(()) };
        if self.groups.conflicts(uri, group) {
            return Err(Rule::Conflict(String::from_utf8_lossy(uri).into_owned()));
        }
        if let Some(kind) = ProfileKind::from_uri(uri) {
            let read = |feature| {
                Profile::from_structure(kind, feature).ok_or(DefinitionError::Type {
                    message: "NR",
                    parameter: "feature",
                    expected: kind.feature(),
                })
            };
            let profile = read(selected)?;
            if let Some(excess) = profile.beyond(&read(offered)?) {
                return Err(Rule::BeyondOffer(excess));
            }
            self.features(group).profile = Some(Arc::new(profile));
        } else if uri == DIALOG.as_bytes() {
            self.dialogs.enabled = true;
        } else {
            let features = self.features(group);
            if !features.has(uri) {
                features.others.push(uri.into());
            }
        }
        Ok(())
    }

    fn features(&mut self, group: Option<GroupId>) -> &mut Features {
        match group.and_then(|group| self.groups.active.get_mut(&group)) {
            Some(features) => features,
            None => &mut self.groups.common,
        }
    }

    pub(super) fn receive_query(&mut self, feature: &Structure) {
        let uri = feature_uri(feature).unwrap_or_default();
        let supported = self.config.features.iter().any(|known| known == uri);
        self.send(&Message::Aa { supported });
    }

    /// AA: one that nobody asked for has no effect.
    pub(super) fn receive_ability(&mut self, supported: bool) -> Option<Event> {
        let feature = self.negotiation.asked.pop_front()?;
        Some(Event::Ability { feature, supported })
    }
}
