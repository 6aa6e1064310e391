//! What a service is: [`Service`], what it sees ([`Request`]) and what it declares
//! ([`Declaration`]).

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock};

use futures_util::future::{BoxFuture, FutureExt, ready};
use ocp_proto::MAXIMUM;
use ocp_proto::smtp::{
    Address, Command, CommandLine, DialogFacts, EffectName, Envelope, FailurePolicy, ProfileKind,
    Reply,
};
use ocp_proto::wire::Structure;
use tokio::sync::Semaphore;

use crate::conclusion::Conclusion;
use crate::mail::{Mail, SpoolError};
use crate::measure::Measure;
use crate::outcome::{Finding, Outcome};

/// A module that looks at events of SMTP dialogs and may change them.
///
/// One value serves every dialog of the process at the same time, so state of its own needs
/// its own synchronisation. A service sees what the services before it in the chain made. Temporary
/// files belong into [`Settings::temporary_folder`](crate::Settings::temporary_folder).
///
/// # Adding a service
/// One file with the type, and one line of registration. This one works on header sections alone
/// ([`Content::Header`]), so in a group of its like no body leaves the processor:
///
/// ```
/// use std::sync::Arc;
///
/// use bytes::Bytes;
/// use futures_util::future::{BoxFuture, FutureExt, ready};
/// use ocp_proto::smtp::Command;
/// use services::mail::Edits;
/// use services::{Change, Content, Declaration, Kind, Outcome, Registry, Request, Service, ServiceError};
///
/// /// Adds one header field to every message.
/// struct Greeter;
///
/// impl Service for Greeter {
///     fn declaration(&self) -> Declaration {
///         Declaration { content: Content::Header, ..Declaration::on([Command::Message]) }
///     }
///
///     fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
///         let mut edits = Edits::new();
///         edits.insert(0, Bytes::from_static(b"X-Greeting: hello\r\n"));
///         ready(Ok(Outcome::changed(Change::Content(edits), "greeted"))).boxed()
///     }
/// }
///
/// let mut registry = Registry::builtin();
/// registry.register(Kind {
///     name: "greeter",
///     summary: "adds a greeting",
///     needs_settings: false,
///     build: |_settings| Ok(Arc::new(Greeter)),
/// });
/// assert!(registry.find("greeter").is_some());
/// ```
pub trait Service: Send + Sync + 'static {
    /// What the service wants to see and may do; asked once, when the configuration is loaded.
    fn declaration(&self) -> Declaration;

    /// Looks at one event.
    ///
    /// The chain runs this under the service's deadline and drops the future when it passes, so
    /// work that can't be dropped belongs into [`compute`], with bounds of its own.
    ///
    /// # Errors
    /// When the service could not do its work; the configured failure policy decides then.
    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>>;

    /// Says what should be told of an event, once all services of the group have answered. Only services are asked
    /// that [declare](Declaration::concludes) it, instead of [`handle`](Self::handle), and under the same deadline. The
    /// outcome changes nothing and asks for no effects: it may have notifications.
    ///
    /// # Errors
    /// When the service could not do its work. The event is what it is all the same.
    fn conclude<'a>(
        &'a self,
        _conclusion: &'a Conclusion<'a>,
    ) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        ready(Ok(Outcome::unchanged(Finding::new("unchanged")))).boxed()
    }

    /// How the service treats a recipient of a message: those with the same number get the same of it. Services are
    /// asked that [declare](Declaration::distinguishes_recipients) it: where recipients can get versions of their own,
    /// [`handle`](Self::handle) sees those of one number at a time; otherwise it sees all of them together, and has one
    /// answer for them.
    fn treatment(&self, _recipient: &Address) -> u64 {
        0
    }

    /// The server is about to use the service; called once, in its runtime. What the service needs for its whole
    /// life begins here, and ends when it is dropped. A configuration that is loaded while the server runs is not used
    /// before all its services have started.
    ///
    /// # Errors
    /// When the service can't work. Then such a configuration is not used at all; a server that begins goes on without
    /// it, and each event that it would be asked about fails.
    fn start(&self) -> BoxFuture<'_, Result<(), ServiceError>> {
        ready(Ok(())).boxed()
    }

    /// Octets of memory that the service may hold at the most besides the messages themselves, for
    /// all that it works on at a time; `callout-server check` adds them up.
    fn worst_case_memory(&self) -> usize {
        0
    }

    /// What the service tells of itself. It is asked whenever somebody reads the metrics: it waits for nothing.
    fn measures(&self) -> Vec<Measure> {
        Vec::new()
    }

    /// How the service is at this moment, in a few words, if those who operate the server should know: a plugin that
    /// is left alone says so, and why.
    fn condition(&self) -> Option<String> {
        None
    }

    /// What an operator should know about this configuration, such as signature lines that are not
    /// supported; `callout-server check` prints it.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What a service wants to see and may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// The events that it wants.
    pub events: Vec<Command>,
    /// Those of them that it only watches: nobody waits for its answer.
    pub observed: Vec<Command>,
    /// The commands whose replies it wants, where the processor is an SMTP client;
    /// [`Command::Greeting`] for the banner. A service group is for events or for replies.
    pub replies: Vec<Command>,
    /// Those of them that it only watches.
    pub observed_replies: Vec<Command>,
    /// Whether it wants to see the command line that a reply answers.
    pub wants_replied_command: bool,
    /// How much of the content of [`Command::Message`] it needs; what it does not need it must not
    /// edit.
    pub content: Content,
    /// The side effects that it may ask for.
    pub effects: Vec<EffectName>,
    /// Whether it may have new messages submitted ([`Outcome::with_notification`]). The group gets whole
    /// messages then, whatever [`Declaration::content`] says: the rest of a body stays with the processor
    /// only where each message has one answer (profile section 5).
    pub notifies: bool,
    /// Whether it may treat recipients of a message differently ([`Service::treatment`]). The group gets whole
    /// messages then, as with [`Declaration::notifies`].
    pub distinguishes_recipients: bool,
    /// What happens to the mail when the service fails, unless configured otherwise.
    pub on_failure: FailurePolicy,
    /// Whether it is told what the group has made of an event ([`Service::conclude`]), and not asked about it.
    pub concludes: bool,
    /// Whether it answers within microseconds, for content of at most 64 KiB, and waits for nothing:
    /// then it is asked on the spot. All others get a task for each event, since they would hold up
    /// their connection's other transactions.
    pub immediate: bool,
    /// Whether a sender may never ask for it to be skipped, whatever is configured: others rely on it
    /// (RFC 3897 section 8.2).
    pub indispensable: bool,
}

impl Declaration {
    /// A service that wants these events with the whole content, asks for no side effects, and
    /// makes the sender try again later when it fails.
    pub fn on(events: impl IntoIterator<Item = Command>) -> Self {
        Self {
            events: events.into_iter().collect(),
            observed: Vec::new(),
            replies: Vec::new(),
            observed_replies: Vec::new(),
            wants_replied_command: false,
            content: Content::Whole,
            effects: Vec::new(),
            notifies: false,
            distinguishes_recipients: false,
            on_failure: FailurePolicy::Tempfail,
            concludes: false,
            immediate: false,
            indispensable: false,
        }
    }

    /// The same for one that wants the replies to these commands, and those with the command lines.
    pub fn on_replies(replies: impl IntoIterator<Item = Command>) -> Self {
        let replies = replies.into_iter().collect();
        Self { replies, wants_replied_command: true, ..Self::on([]) }
    }

    /// What it wants in a group of this profile.
    pub fn wanted(&self, profile: ProfileKind) -> &[Command] {
        match profile {
            ProfileKind::Command => &self.events,
            ProfileKind::Reply => &self.replies,
        }
    }

    /// What of that it only watches.
    pub fn watched(&self, profile: ProfileKind) -> &[Command] {
        match profile {
            ProfileKind::Command => &self.observed,
            ProfileKind::Reply => &self.observed_replies,
        }
    }
}

/// How much of a message's content a service needs.
///
/// If no service of a group needs the whole, the server leaves the rest of each body to the
/// processor (`Leave-At-Body`, profile section 2): the services see the front of the message then,
/// and [`Mail::is_cut`] says so. They may always see more than they need: what others need, what came
/// along with it, or the whole message, if it is short, if the processor does not act on the wish, or
/// if recipients may get versions of their own or a service may notify (profile section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// The header section only.
    Header,
    /// The header section and the first so many octets of the body, as the processor sent it:
    /// services before this one may have made that more or less. Beyond 2,147,483,647, which OCP
    /// can't count, it is the whole.
    Prefix(u32),
    /// Header section and body.
    Whole,
}

impl Content {
    /// Octets of the body that are needed; all if `None`.
    pub fn body_octets(self) -> Option<u32> {
        match self {
            Self::Header => Some(0),
            Self::Prefix(octets) => Some(octets).filter(|octets| *octets <= MAXIMUM),
            Self::Whole => None,
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.body_octets() {
            Some(0) => f.write_str("the header section"),
            Some(octets) => write!(f, "the header section and {octets} octets of the body"),
            None => f.write_str("the whole message"),
        }
    }
}

/// One event, as a service sees it.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is known about the dialog.
    pub dialog: Arc<DialogFacts>,
    /// Which event it is; if that is a reply, the command that it answers.
    pub command: Command,
    /// The event's octets.
    pub input: Input,
    /// The envelope in force: what the MTA has accepted before this event.
    pub envelope: Envelope,
    /// The service's parameters in this service group (RFC 4037 section 10.13).
    pub parameters: Arc<Structure>,
    /// The side effects that were negotiated; others must not be asked for.
    pub granted: Arc<[EffectName]>,
    /// Whether the answer may have new messages: it is about content, somebody waits for it, the service
    /// [declares](Declaration::notifies) it, and the processor takes several messages. One that can't submit them says
    /// so in its log.
    pub may_notify: bool,
}

impl Request {
    /// Whether the processor can carry out this side effect.
    pub fn may(&self, effect: EffectName) -> bool {
        self.granted.contains(&effect)
    }

    /// The command line, if this event is a command.
    pub fn line(&self) -> Option<&CommandLine> {
        match &self.input {
            Input::Line(line) => Some(line),
            _ => None,
        }
    }

    /// The reply, if this event is one, and the command line that it answers: if the processor shows
    /// that, and not for the banner and content.
    pub fn reply(&self) -> Option<(&Reply, Option<&CommandLine>)> {
        match &self.input {
            Input::Reply { reply, line } => Some((reply, line.as_ref())),
            _ => None,
        }
    }

    /// The message, if this event is one.
    pub fn mail(&self) -> Option<&Arc<Mail>> {
        match &self.input {
            Input::Content(mail) => Some(mail),
            _ => None,
        }
    }
}

/// What may be shown of an AUTH line. A processor leaves initial responses out (profile section 4); if one does not,
/// they go no further all the same.
pub fn mechanism_only(line: &[u8]) -> Vec<u8> {
    let words: Vec<_> = line.split(|octet| *octet == b' ').take(2).collect();
    words.join(&b' ')
}

/// The octets of an event.
#[derive(Clone, Debug)]
pub enum Input {
    /// CONNECT has none.
    Nothing,
    /// A command line.
    Line(CommandLine),
    /// A message, as the services before this one made it.
    Content(Arc<Mail>),
    /// The next hop's reply, as the services before this one made it.
    Reply {
        /// The reply.
        reply: Reply,
        /// The command line that the next hop got, if it is shown.
        line: Option<CommandLine>,
    },
}

impl Input {
    /// The profile that an event of this kind belongs to.
    pub fn profile(&self) -> ProfileKind {
        match self {
            Self::Reply { .. } => ProfileKind::Reply,
            Self::Nothing | Self::Line(_) | Self::Content(_) => ProfileKind::Command,
        }
    }
}

/// A service that could not do its work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{stage}: {cause}")]
pub struct ServiceError {
    /// What the service was doing, such as `clamd`.
    pub stage: &'static str,
    /// What went wrong.
    pub cause: String,
}

impl ServiceError {
    /// An error at this stage.
    pub fn new(stage: &'static str, cause: impl ToString) -> Self {
        Self { stage, cause: cause.to_string() }
    }
}

impl From<SpoolError> for ServiceError {
    fn from(error: SpoolError) -> Self {
        Self::new("spool", error)
    }
}

/// Content above this size is worked on outside the threads that serve sockets; below it, moving
/// the work costs more than doing it.
const INLINE_OCTETS: usize = 64 * 1024;

/// What [`compute`] works on at a time: more would only share the processors, and hold memory
/// meanwhile.
static PLACES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    Arc::new(Semaphore::new(processors * 2))
});

/// Runs work that takes time in proportion to `octets`, without holding up other connections. Work
/// that has begun goes on when nobody waits for it any more, and keeps its place until it ends.
///
/// # Errors
/// If the work panics.
pub async fn compute<T: Send + 'static>(
    octets: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ServiceError> {
    if octets <= INLINE_OCTETS {
        return Ok(work());
    }
    let failed = |error: &dyn fmt::Display| ServiceError::new("compute", error);
    let place = Arc::clone(&PLACES).acquire_owned().await.map_err(|error| failed(&error))?;
    let work = move || {
        let _place = place;
        work()
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_ordered() {
        let needs = [
            (Content::Header, Some(0), "the header section"),
            (Content::Prefix(9), Some(9), "the header section and 9 octets of the body"),
            (Content::Prefix(MAXIMUM + 1), None, "the whole message"),
            (Content::Whole, None, "the whole message"),
        ];
        assert!(needs.is_sorted_by(|a, b| a.0 < b.0));
        for (content, octets, text) in needs {
            assert_eq!((content.body_octets(), content.to_string()), (octets, text.to_owned()));
        }
    }
}
