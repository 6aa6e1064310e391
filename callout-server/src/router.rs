//! From the URIs of a service group to the services that it means.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ocp_proto::feature_uri;
use ocp_proto::smtp::{Command, CommandProfile, EffectName, FailurePolicy};
use ocp_proto::wire::{Atom, Structure};
use services::{AddressList, Declaration, Service};

use crate::access::Access;
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
    /// What it wants.
    pub declaration: Declaration,
    /// The service itself.
    pub service: Arc<dyn Service>,
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
            declaration,
            service,
        }
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
    /// Those that want this event.
    pub(crate) fn interested<'a>(&'a self, command: &'a Command) -> impl Iterator<Item = &'a Link> {
        self.links.iter().filter(move |link| link.entry.declaration.events.contains(command))
    }

    /// Those that want an event that may come after this one in the same envelope.
    pub(crate) fn waiting<'a>(&'a self, command: &'a Command) -> impl Iterator<Item = &'a Link> {
        self.links.iter().filter(|link| link.waits(command))
    }

    /// Whether all that want this event answer at once.
    pub(crate) fn is_immediate(&self, command: &Command) -> bool {
        self.interested(command).all(|link| link.entry.declaration.immediate)
    }

    /// What the group wants of an offer: the union of what its services declare (profile section
    /// 2), so that nothing is vectored out that nobody wants.
    pub(crate) fn profile(&self, offer: &CommandProfile) -> CommandProfile {
        let wanted = |command: &&Command| self.interested(command).next().is_some();
        let watched = |command: &&Command| {
            self.interested(command).all(|link| link.entry.declaration.observed.contains(command))
        };
        // A service for some recipients only is why they may differ.
        let differ = self.links.iter().any(|link| link.entry.recipients.is_some());
        let multiple_messages = offer.multiple_messages && differ;
        let recipient_replies = offer.recipient_replies && differ;
        let commands: Vec<Command> = offer.commands.iter().filter(wanted).cloned().collect();
        // Where the processor may leave at any moment no Am-Id is used (profile section 4).
        let may_leave =
            commands.contains(&Command::Message) && !multiple_messages && !recipient_replies;
        CommandProfile {
            observed: commands.iter().filter(watched).cloned().collect(),
            commands,
            side_effects: self.effects().filter(|e| offer.side_effects.contains(e)).collect(),
            on_failure: self.links.iter().map(|link| link.entry.on_failure).max(),
            multiple_messages,
            recipient_replies,
            leave_at_body: self.body_octets().filter(|_| may_leave),
            ..CommandProfile::default()
        }
    }

    /// How much of a body the services need, unless one of them needs it whole.
    fn body_octets(&self) -> Option<u32> {
        let needs = self.interested(&Command::Message).map(|link| link.entry.declaration.content);
        needs.max()?.body_octets()
    }

    /// What services may ask for and the processor can't do: told at negotiation time, not in the
    /// middle of a mail (profile section 6).
    pub(crate) fn missing_effects(&self, offer: &CommandProfile) -> Vec<(&Entry, EffectName)> {
        let all = self.links.iter().flat_map(|link| {
            link.entry.declaration.effects.iter().map(|effect| (&*link.entry, *effect))
        });
        all.filter(|(_, effect)| !offer.side_effects.contains(effect)).collect()
    }

    /// Every effect that some service may ask for, once.
    fn effects(&self) -> impl Iterator<Item = EffectName> {
        EffectName::ALL.iter().copied().filter(|effect| {
            self.links.iter().any(|link| link.entry.declaration.effects.contains(effect))
        })
    }

    /// The names of the services, for logs.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.links.iter().map(|link| link.entry.name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::{BoxFuture, ready};
    use ocp_proto::wire::Value;
    use services::{Content, Finding, Outcome, Request, ServiceError};

    use super::*;

    struct Declared(Declaration);

    impl Service for Declared {
        fn declaration(&self) -> Declaration {
            self.0.clone()
        }

        fn handle<'a>(
            &'a self,
            _request: &'a Request,
        ) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
            ready(Ok(Outcome::unchanged(Finding::new("clean")))).boxed()
        }
    }

    fn router() -> Router {
        let mut router = Router::default();
        let watcher = Declaration {
            observed: vec![Command::Mail, Command::Quit],
            on_failure: FailurePolicy::Accept,
            ..Declaration::on([Command::Mail, Command::Quit])
        };
        let scanner = Declaration {
            effects: vec![EffectName::Quarantine, EffectName::Delay],
            ..Declaration::on([Command::Mail, Command::Message])
        };
        for (name, declaration) in [("watcher", watcher), ("scanner", scanner)] {
            let service = Arc::new(Declared(declaration));
            router.add(Entry::new(name, "", service, Duration::from_secs(1))).unwrap();
        }
        router
    }

    fn named(uri: &'static str) -> Structure {
        Structure { members: vec![Value::atom(uri)], ..Structure::default() }
    }

    #[test]
    fn a_group_wants_the_union_of_its_services_and_no_more_than_was_offered() {
        let chain = router()
            .chain(
                &[named("ocp://service/watcher"), named("ocp://service/scanner")],
                &Access::default(),
            )
            .unwrap();
        let offer = CommandProfile {
            commands: vec![Command::Connect, Command::Mail, Command::Message, Command::Quit],
            side_effects: vec![EffectName::Quarantine, EffectName::Discard],
            ..CommandProfile::default()
        };
        let answer = chain.profile(&offer);
        assert_eq!(answer.commands, [Command::Mail, Command::Message, Command::Quit]);
        assert_eq!(answer.observed, [Command::Quit]);
        assert_eq!(answer.side_effects, [EffectName::Quarantine]);
        assert_eq!(answer.on_failure, Some(FailurePolicy::Tempfail));
        assert_eq!(answer.beyond(&offer), None);
        let missing: Vec<EffectName> =
            chain.missing_effects(&offer).into_iter().map(|(_, effect)| effect).collect();
        assert_eq!(missing, [EffectName::Delay]);
    }

    #[test]
    fn the_rest_of_a_body_stays_where_nobody_needs_it() {
        let mut router = Router::default();
        let needs = [
            ("header", Content::Header),
            ("prefix", Content::Prefix(4_096)),
            ("endless", Content::Prefix(u32::MAX)),
            ("whole", Content::Whole),
        ];
        for (name, content) in needs {
            let declaration = Declaration { content, ..Declaration::on([Command::Message]) };
            let service = Arc::new(Declared(declaration));
            router.add(Entry::new(name, "", service, Duration::from_secs(1))).unwrap();
        }
        // Its `content` is that of events without any.
        let sender = Arc::new(Declared(Declaration::on([Command::Mail])));
        router.add(Entry::new("sender", "", sender, Duration::from_secs(1))).unwrap();
        let some = Arc::new(Declared(Declaration {
            content: Content::Header,
            ..Declaration::on([Command::Message])
        }));
        let mut some = Entry::new("some", "", some, Duration::from_secs(1));
        some.recipients = Some(AddressList::new(&[]).unwrap());
        router.add(some).unwrap();
        let leaves = |names: &[&'static str], offer: &CommandProfile| {
            let uri = |name: &&str| Structure {
                members: vec![Value::atom(format!("ocp://service/{name}"))],
                ..Structure::default()
            };
            let services: Vec<Structure> = names.iter().map(uri).collect();
            router.chain(&services, &Access::default()).unwrap().profile(offer).leave_at_body
        };
        let message = CommandProfile {
            commands: vec![Command::Mail, Command::Message],
            ..CommandProfile::default()
        };
        assert_eq!(leaves(&["header"], &message), Some(0));
        assert_eq!(leaves(&["sender", "prefix", "header"], &message), Some(4_096));
        assert_eq!(leaves(&["header", "endless"], &message), None);
        assert_eq!(leaves(&["header", "whole", "prefix"], &message), None);
        assert_eq!(leaves(&["sender"], &message), None);
        let commands = CommandProfile { commands: vec![Command::Mail], ..message.clone() };
        assert_eq!(leaves(&["header"], &commands), None);
        // Several messages, or one reply for each recipient, need the whole body.
        let several = CommandProfile { multiple_messages: true, ..message.clone() };
        let replies = CommandProfile { recipient_replies: true, ..message.clone() };
        assert_eq!(leaves(&["header"], &several), Some(0));
        assert_eq!(leaves(&["header", "some"], &several), None);
        assert_eq!(leaves(&["header", "some"], &replies), None);
        assert_eq!(leaves(&["header", "some"], &message), Some(0));
    }

    #[test]
    fn an_unknown_service_is_not_skipped() {
        let services = [named("ocp://service/watcher"), named("x:y")];
        let error = router().chain(&services, &Access::default()).unwrap_err();
        assert_eq!(error.to_string(), "there is no service x:y here");
    }
}
