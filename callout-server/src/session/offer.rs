//! What the processor offers, and what of it we select (RFC 4037 section 6, profile section 2).

use ocp_proto::smtp::{DIALOG, DialogFeature, EffectName, Profile, ProfileKind, TLS};
use ocp_proto::wire::{Structure, Value};
use ocp_proto::{Connection, Offer, Response, feature_uri};
use tracing::{debug, error, info};

use super::{Opening, Session};

impl Session {
    pub(super) fn answer_offer(&mut self, connection: &mut Connection, offer: &Offer) {
        let mut response = Response::default();
        for feature in &offer.features {
            let selected = match feature_uri(feature) {
                Some(uri) if uri == TLS.as_bytes() => self.select_tls(offer),
                _ if self.opening == Opening::TlsFirst => None,
                Some(uri) if uri == DIALOG.as_bytes() => select_dialogs(offer, feature),
                uri => match uri.and_then(ProfileKind::from_uri) {
                    Some(kind) => self.select_profile(kind, offer, feature),
                    None => {
                        response.unknowns.push(named_only(feature));
                        continue;
                    }
                },
            };
            match selected {
                Some(selected) => {
                    response.feature = Some(selected);
                    break;
                }
                None => response.rejects.push(named_only(feature)),
            }
        }
        if response.feature.is_some() {
            self.opening = Opening::Past;
        } else if self.opening == Opening::TlsFirst {
            return self.want_tls(connection);
        }
        let dialogs = response.feature.as_ref().and_then(feature_uri) == Some(DIALOG.as_bytes());
        if let Err(misuse) = connection.respond(response) {
            error!(%misuse, "our response broke a rule");
        } else if dialogs && self.is_superseded() {
            // Before that there was nothing to drain.
            let _ = connection.drain();
        }
    }

    fn select_tls(&self, offer: &Offer) -> Option<Structure> {
        let possible = self.opening != Opening::Past && offer.group.is_none();
        possible.then(|| Structure { members: vec![Value::atom(TLS)], ..Structure::default() })
    }

    /// A profile is one group's: what its services want of what was offered.
    fn select_profile(
        &self,
        kind: ProfileKind,
        offer: &Offer,
        feature: &Structure,
    ) -> Option<Structure> {
        let chain = self.groups.get(&offer.group?)?.as_ref().ok()?;
        let allowed = |effect: &EffectName| self.access.has_effect(*effect);
        let (selected, effects): (Profile, _) = match Profile::from_structure(kind, feature)? {
            Profile::Command(mut offered) => {
                offered.side_effects.retain(allowed);
                if !offered.multiple_messages {
                    for service in chain.notifying() {
                        info!(
                            service = service.name,
                            "the service can notify, and several messages are not offered"
                        );
                    }
                }
                (chain.command_profile(&offered).into(), offered.side_effects)
            }
            Profile::Reply(mut offered) => {
                offered.side_effects.retain(allowed);
                (chain.reply_profile(&offered).into(), offered.side_effects)
            }
        };
        for (service, effect) in chain.missing_effects(kind, &effects) {
            info!(
                service = service.name,
                %effect,
                "a side effect that the service can ask for is not offered, or not allowed"
            );
        }
        debug!(services = ?chain.names(), profile = ?selected, "negotiated");
        Some(selected.to_structure())
    }
}

/// Dialogs are the connection's, in version 1.
fn select_dialogs(offer: &Offer, feature: &Structure) -> Option<Structure> {
    let offered = DialogFeature::from_structure(feature)?;
    let possible = offer.group.is_none() && offered.version >= 1;
    possible.then(|| DialogFeature { version: 1 }.to_structure())
}

/// A feature by its URI alone, for Rejects and Unknowns.
fn named_only(feature: &Structure) -> Structure {
    let members = feature.members.iter().take(1).cloned().collect();
    Structure { members, ..Structure::default() }
}
