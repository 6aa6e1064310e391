//! From the URIs of a service group to the services that it means.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ocp_proto::feature_uri;
use ocp_proto::smtp::{
    Command, CommandProfile, EffectName, FailurePolicy, Part, ProfileKind, ReplyProfile,
};
use ocp_proto::wire::{Atom, Structure};
use services::{AddressList, Declaration, Service};

use crate::access::Access;
use crate::metrics::ServiceMetrics;
use crate::terms::may_follow;

/// A configured service.
pub struct Entry {
    /// Its name in the configuration.
    pub name: String,
    /// One line for people.
    pub summary: &'static str,
    /// Its URIs: `ocp://service/NAME` first, then those that are mapped to it.
    pub uris: Vec<Atom>,
    /// How long it may take for one event.
    pub deadline: Duration,
    /// What happens to the mail when it fails.
    pub on_failure: FailurePolicy,
    /// The only recipients whose mail it is for; all if `None`.
    pub recipients: Option<AddressList>,
    /// Whether it is skipped for senders who ask for that and whom the processor hears.
    pub bypassable: bool,
    /// Whether it is only tried: it is asked, its verdict says what it would have done, and nothing of that is
    /// done. See [`Entry::in_shadow`].
    pub shadow: bool,
    /// What it wants.
    pub declaration: Declaration,
    /// The service itself.
    pub service: Arc<dyn Service>,
    /// What it has done so far.
    pub(crate) metrics: Arc<ServiceMetrics>,
}

impl Entry {
    /// A service under its own name and with its own failure policy.
    pub fn new(
        name: &str,
        summary: &'static str,
        service: Arc<dyn Service>,
        deadline: Duration,
    ) -> Self {
        let declaration = service.declaration();
        Self {
            name: name.to_owned(),
            summary,
            uris: vec![format!("ocp://service/{name}").into()],
            deadline,
            on_failure: declaration.on_failure,
            recipients: None,
            bypassable: false,
            shadow: false,
            metrics: Arc::new(ServiceMetrics::new(&declaration)),
            declaration,
            service,
        }
    }

    /// The same, only tried: nobody waits for its answers, and its failures change nothing.
    #[must_use]
    pub fn in_shadow(mut self) -> Self {
        let declaration = &mut self.declaration;
        declaration.observed = declaration.events.clone();
        declaration.observed_replies = declaration.replies.clone();
        declaration.notifies = false;
        declaration.distinguishes_recipients = false;
        Self { shadow: true, on_failure: FailurePolicy::Accept, ..self }
    }

    /// The URI under which verdicts and logs name it.
    pub fn uri(&self) -> Atom {
        self.uris.first().cloned().unwrap_or_default()
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("name", &self.name)
            .field("uris", &self.uris)
            .field("deadline", &self.deadline)
            .field("on_failure", &self.on_failure)
            .field("recipients", &self.recipients)
            .field("bypassable", &self.bypassable)
            .field("shadow", &self.shadow)
            .field("declaration", &self.declaration)
            .finish_non_exhaustive()
    }
}

/// The configured services by their URIs.
#[derive(Debug, Default)]
pub struct Router {
    entries: Vec<Arc<Entry>>,
}

impl Router {
    /// Adds a service.
    ///
    /// # Errors
    /// If another one has one of its URIs.
    pub fn add(&mut self, entry: Entry) -> Result<(), String> {
        if let Some((uri, other)) = entry.uris.iter().find_map(|uri| Some((uri, self.find(uri)?))) {
            let uri = String::from_utf8_lossy(uri);
            return Err(format!("{uri} belongs to the service {} already", other.name));
        }
        self.entries.push(Arc::new(entry));
        Ok(())
    }

    /// The service with this URI. URIs are compared octet by octet (RFC 4037 section 10.1, A-24).
    pub fn find(&self, uri: &[u8]) -> Option<&Arc<Entry>> {
        self.entries.iter().find(|entry| entry.uris.iter().any(|known| known == uri))
    }

    /// All services, those of the configuration file first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.iter()
    }

    /// Goes on counting where services of the same names, which want the same, have counted so far.
    pub(crate) fn count_on(&mut self, before: &Self) {
        for entry in self.entries.iter_mut().filter_map(Arc::get_mut) {
            let same = before.entries.iter().find(|known| {
                known.name == entry.name
                    && known.declaration.events == entry.declaration.events
                    && known.declaration.replies == entry.declaration.replies
            });
            if let Some(same) = same {
                entry.metrics = Arc::clone(&same.metrics);
            }
        }
    }

    /// The services of a group, in the order in which they are applied. For a peer without access
    /// to a service there is no such service.
    pub(crate) fn chain(
        &self,
        services: &[Structure],
        access: &Access,
    ) -> Result<Chain, UnknownService> {
        let link = |structure: &Structure| {
            let uri = feature_uri(structure).unwrap_or_default();
            let entry = self.find(uri).filter(|entry| access.has_service(&entry.name));
            let entry = entry.ok_or_else(|| {
                UnknownService(String::from_utf8_lossy(uri).chars().take(200).collect())
            })?;
            Ok(Link { entry: entry.clone(), parameters: Arc::new(structure.clone()) })
        };
        let links = services.iter().map(link).collect::<Result<Vec<_>, _>>()?;
        Ok(Chain { links })
    }
}

/// A group asks for a service that there is not: it is never skipped silently.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no service {0} here")]
pub(crate) struct UnknownService(String);

/// The services of one group in their order.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    links: Vec<Link>,
}

/// One service of a group.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) entry: Arc<Entry>,
    /// The service's parameters in this group (RFC 4037 section 10.13).
    pub(crate) parameters: Arc<Structure>,
}

impl Link {
    /// Whether it wants an event that may come after this one in the same envelope.
    pub(crate) fn waits(&self, command: &Command) -> bool {
        self.entry.declaration.events.iter().any(|event| may_follow(event, command))
    }
}

impl Chain {
    /// Those that want this event, or the reply to it.
    pub(crate) fn interested<'a>(
        &'a self,
        profile: ProfileKind,
        command: &'a Command,
    ) -> impl Iterator<Item = &'a Link> {
        self.links.iter().filter(move |link| {
            let wanted = link.entry.declaration.wanted(profile);
            wanted.contains(command)
        })
    }

    /// Those that want an event that may come after this one in the same envelope.
    pub(crate) fn waiting<'a>(&'a self, command: &'a Command) -> impl Iterator<Item = &'a Link> {
        self.links.iter().filter(|link| link.waits(command))
    }

    /// Whether all that want this event answer at once.
    pub(crate) fn is_immediate(&self, profile: ProfileKind, command: &Command) -> bool {
        self.interested(profile, command).all(|link| link.entry.declaration.immediate)
    }

    /// What the group wants of an offer: the union of what its services declare (profile section
    /// 2), so that nothing is vectored out that nobody wants.
    pub(crate) fn command_profile(&self, offer: &CommandProfile) -> CommandProfile {
        let kind = ProfileKind::Command;
        let (commands, observed) = self.wanted(kind, &offer.commands);
        // A service for some recipients only, or one that treats them differently, is why they may differ.
        let differ = self.links.iter().any(|link| {
            link.entry.recipients.is_some() || link.entry.declaration.distinguishes_recipients
        });
        let notifies = commands.contains(&Command::Message) && self.notifying().next().is_some();
        let multiple_messages = offer.multiple_messages && (differ || notifies);
        let recipient_replies = offer.recipient_replies && differ;
        // Where the processor may leave at any moment no Am-Id is used (profile section 4).
        let may_leave =
            commands.contains(&Command::Message) && !multiple_messages && !recipient_replies;
        CommandProfile {
            observed,
            commands,
            side_effects: self.effects(&offer.side_effects),
            on_failure: self.on_failure(kind),
            multiple_messages,
            recipient_replies,
            leave_at_body: self.body_octets().filter(|_| may_leave),
            ..CommandProfile::default()
        }
    }

    /// The same of an offer for replies.
    pub(crate) fn reply_profile(&self, offer: &ReplyProfile) -> ReplyProfile {
        let kind = ProfileKind::Reply;
        let (commands, observed) = self.wanted(kind, &offer.commands);
        let shown = offer.shows_command()
            && commands.iter().any(|command| {
                let mut links = self.interested(kind, command);
                links.any(|link| link.entry.declaration.wants_replied_command)
            });
        ReplyProfile {
            observed,
            commands,
            auxiliary_parts: if shown { vec![Part::Command] } else { Vec::new() },
            side_effects: self.effects(&offer.side_effects),
            on_failure: self.on_failure(kind),
        }
    }

    /// What of these some service wants, and what of that all who want it only watch.
    fn wanted(&self, kind: ProfileKind, offered: &[Command]) -> (Vec<Command>, Vec<Command>) {
        let wanted = |command: &&Command| self.interested(kind, command).next().is_some();
        let watched = |command: &&Command| {
            let mut links = self.interested(kind, command);
            links.all(|link| link.entry.declaration.watched(kind).contains(command))
        };
        let commands: Vec<Command> = offered.iter().filter(wanted).cloned().collect();
        let observed = commands.iter().filter(watched).cloned().collect();
        (commands, observed)
    }

    /// The strictest policy of the services that want anything of this kind.
    fn on_failure(&self, kind: ProfileKind) -> Option<FailurePolicy> {
        let concerned =
            self.links.iter().filter(|link| !link.entry.declaration.wanted(kind).is_empty());
        concerned.map(|link| link.entry.on_failure).max()
    }

    /// How much of a body the services need, unless one of them needs it whole.
    fn body_octets(&self) -> Option<u32> {
        let links = self.interested(ProfileKind::Command, &Command::Message);
        let needs = links.map(|link| link.entry.declaration.content);
        needs.max()?.body_octets()
    }

    /// What services may ask for and the processor can't do: told at negotiation time, not in the
    /// middle of a mail (profile section 6).
    pub(crate) fn missing_effects(
        &self,
        kind: ProfileKind,
        offered: &[EffectName],
    ) -> Vec<(&Entry, EffectName)> {
        let concerned =
            self.links.iter().filter(|link| !link.entry.declaration.wanted(kind).is_empty());
        let all = concerned.flat_map(|link| {
            link.entry.declaration.effects.iter().map(|effect| (&*link.entry, *effect))
        });
        all.filter(|(_, effect)| effect.is_for(kind) && !offered.contains(effect)).collect()
    }

    /// Those that may have new messages submitted.
    pub(crate) fn notifying(&self) -> impl Iterator<Item = &Entry> {
        let links = self.interested(ProfileKind::Command, &Command::Message);
        links.map(|link| &*link.entry).filter(|entry| entry.declaration.notifies)
    }

    /// What of these effects some service may ask for.
    fn effects(&self, offered: &[EffectName]) -> Vec<EffectName> {
        let asked = |effect: &&EffectName| {
            self.links.iter().any(|link| link.entry.declaration.effects.contains(effect))
        };
        let all = EffectName::ALL.iter().filter(|effect| offered.contains(effect));
        all.filter(asked).copied().collect()
    }

    /// The names of the services, for logs.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.links.iter().map(|link| link.entry.name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests;
