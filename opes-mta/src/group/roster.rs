//! The servers of a group as they are now, and which of them takes an event.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ocp_proto::smtp::{CommandProfile, Profile};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::NoServer;
use super::health::Health;
use super::settings::{GroupSettings, Overload};
use super::union::{union, without_policy};
use crate::attempt::Deadline;
use crate::metrics::{GroupMetrics, LostConnection};
use crate::ocp::{Client, ConnectError, ServerAddress, Target};

/// Between two connections to a server that has the first one left at once. A reload leaves them that soon only if
/// another one follows on its heels.
const DRAINED_PAUSE: Duration = Duration::from_millis(100);

/// All servers of a group.
#[derive(Debug)]
pub(super) struct Roster {
    pub(super) metrics: GroupMetrics,
    settings: GroupSettings,
    state: Mutex<State>,
    /// Something may be there for those that wait.
    changed: Notify,
    /// Events that wait for a server, the oldest first. Only that one looks for places.
    queue: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    servers: Vec<Server>,
    /// What we offer to all of them.
    offer: Profile,
    /// What the servers want, see [`super::Group::profile`].
    profile: Arc<Profile>,
}

#[derive(Debug)]
struct Server {
    address: ServerAddress,
    health: Health,
    /// Connections that take new dialogs; at most as many as the settings say.
    links: Vec<Arc<Link>>,
    /// What it wanted when it was last there.
    profile: Option<Profile>,
    /// Why it is away; `None` if it never was.
    cause: Option<String>,
    /// It wants us to leave our connections for others, which are not made yet: from when on they may be.
    moves: Option<Instant>,
    /// The one that looks after its connections waits here.
    keeper: Arc<Notify>,
}

/// A connection, and what is open on it. Counts rise under the lock of [`Roster::state`].
#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: Client,
    since: Instant,
    events: AtomicUsize,
    dialogs: AtomicUsize,
}

/// Room for an event at a server, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) server: usize,
    pub(super) link: Arc<Link>,
    roster: Arc<Roster>,
}

/// A connection that a dialog is on, for which it counts until this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    server: usize,
    link: Arc<Link>,
}

/// How a server is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerStanding {
    /// Whether it gets events: it is not ejected, and has a connection.
    pub(crate) is_up: bool,
    /// Connections that take new dialogs.
    pub(crate) connections: usize,
    /// Events that are open.
    pub(crate) events: usize,
    /// Dialogs that are open.
    pub(crate) dialogs: usize,
}

/// What there is to do about a server's connections.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Make one.
    Connect,
    /// Nothing before then.
    Wait(Instant),
    /// Nothing before something happens.
    Rest,
}

impl Roster {
    pub(super) fn new(targets: &[Target], settings: GroupSettings) -> Self {
        let now = Instant::now();
        let server = |target: &Target| Server {
            address: target.server.clone(),
            health: Health::new(&settings, now),
            links: Vec::new(),
            profile: None,
            cause: None,
            moves: None,
            keeper: Arc::default(),
        };
        let servers = targets.iter().map(server).collect();
        let nothing = || Profile::Command(CommandProfile::default());
        let offer = targets.first().map_or_else(nothing, |target| target.offer.clone());
        let profile = Arc::new(without_policy(&offer));
        let metrics = GroupMetrics::new(offer.commands(), targets.len());
        let state = Mutex::new(State { servers, offer, profile });
        let (changed, queue) = (Notify::new(), tokio::sync::Mutex::default());
        Self { metrics, settings, state, changed, queue }
    }

    /// Room for an event, at that connection if that is possible; otherwise at the one of two random
    /// servers that has less to do. Waits for it if that is what the group does.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn place(
        self: &Arc<Self>,
        preferred: Option<&Seat>,
        refused: &[usize],
        deadline: Deadline,
    ) -> Result<Place, NoServer> {
        let found = || self.place_now(preferred, refused);
        if self.settings.overload != Overload::Wait {
            return self.place_soon(preferred, refused, deadline).await;
        }
        let mut has_waited = false;
        // One that can't go everywhere is not to hold up the others.
        let queued = match refused {
            [] => match timeout_at(deadline.end, self.queue.lock()).await {
                Ok(turn) => Some(turn),
                Err(_) => return found(),
            },
            _ => None,
        };
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match found() {
                Err(NoServer::Busy | NoServer::Away(_)) if !deadline.has_passed() => {
                    if !std::mem::replace(&mut has_waited, true) {
                        self.metrics.waited.inc();
                    }
                    // What is there at the deadline is seen by the last look.
                    let _ = timeout_at(deadline.end, changed).await;
                }
                found => {
                    drop(queued);
                    return found;
                }
            }
        }
    }

    /// Room for an event, without waiting for more than servers that replace their connections: they are there.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn place_soon(
        self: &Arc<Self>,
        preferred: Option<&Seat>,
        refused: &[usize],
        deadline: Deadline,
    ) -> Result<Place, NoServer> {
        let mut has_waited = false;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.place_now(preferred, refused) {
                Err(NoServer::Away(_)) if self.moves() && !deadline.has_passed() => {
                    if !std::mem::replace(&mut has_waited, true) {
                        self.metrics.waited.inc();
                    }
                    let _ = timeout_at(deadline.end, changed).await;
                }
                placed => return placed,
            }
        }
    }

    /// Whether a server that is there has none but connections that it wants us to leave.
    fn moves(&self) -> bool {
        let drained = |server: &Server| server.links.iter().any(|link| link.client.is_drained());
        let moves = |server: &Server| server.moves.is_some() || drained(server);
        self.state().servers.iter().any(|server| server.lightest().is_none() && moves(server))
    }

    /// Room for an event, without waiting.
    ///
    /// # Errors
    /// As there.
    pub(super) fn place_now(
        self: &Arc<Self>,
        preferred: Option<&Seat>,
        refused: &[usize],
    ) -> Result<Place, NoServer> {
        let state = self.state();
        let room = |server: &Server| server.events() < self.settings.open_limit as usize;
        let others = || state.servers.iter().enumerate().filter(|(at, _)| !refused.contains(at));
        if let Some(Seat { server, link }) = preferred
            && !(refused.contains(server) || link.client.closed().is_some())
            && state.servers.get(*server).is_some_and(room)
        {
            return Ok(self.take(*server, link));
        }
        let usable = || others().filter(|(_, server)| server.lightest().is_some());
        let with_room = |is_in| {
            let all = usable().filter(|(_, server)| server.health.is_in() == is_in && room(server));
            all.map(|(at, server)| (at, server.load())).collect::<Vec<_>>()
        };
        // One that is out and can be reached is better than none.
        let chosen = lighter_of_two(&with_room(true)).or_else(|| lighter_of_two(&with_room(false)));
        if let Some(at) = chosen
            && let Some(link) = state.servers.get(at).and_then(Server::lightest)
        {
            return Ok(self.take(at, link));
        }
        Err(match usable().next() {
            Some(_) => NoServer::Busy,
            None if refused.is_empty() => NoServer::Away(state.causes()),
            None => NoServer::Others,
        })
    }

    /// What there is to do about the connections of a server.
    pub(super) fn step(&self, server: usize) -> Step {
        let mut state = self.state();
        let now = Instant::now();
        let Some(known) = state.servers.get_mut(server) else { return Step::Rest };
        let (swept, lost) = known.sweep(now, |why| self.metrics.lost(server, why));
        let ejected = (0..lost).any(|_| known.health.failed(now));
        if ejected {
            self.metrics.ejected(server);
        }
        let step = match (known.health.tried_at(), known.moves) {
            (Some(at), _) if now < at => Step::Wait(at),
            (None, _) if known.links.len() >= self.settings.connections.max(1) as usize => {
                Step::Rest
            }
            (_, Some(at)) if now < at => Step::Wait(at),
            _ => Step::Connect,
        };
        if swept > 0 {
            known.log_loss(ejected);
            state.agree();
            self.changed.notify_waiters();
        }
        step
    }

    /// Something about a server may have changed.
    pub(super) fn keeper(&self, server: usize) -> Arc<Notify> {
        self.state()
            .servers
            .get(server)
            .map(|server| Arc::clone(&server.keeper))
            .unwrap_or_default()
    }

    /// A new connection. One that has been out starts with that alone: those from before are no longer
    /// for new dialogs.
    pub(super) fn connected(&self, server: usize, client: Client) {
        let mut state = self.state();
        let Some(known) = state.servers.get_mut(server) else { return };
        match known.health.tried_at() {
            // Ejected in between.
            Some(at) if Instant::now() < at => return,
            Some(_) => known.links.clear(),
            None => {}
        }
        if !known.health.is_in() {
            tracing::info!(server = %known.address, "the server is there");
        }
        known.health.reached();
        known.moves = None;
        known.profile = Some(client.profile().clone());
        known.links.push(Arc::new(Link::new(client)));
        state.agree();
        self.changed.notify_waiters();
    }

    /// No connection came about.
    pub(super) fn unreachable(&self, server: usize, error: &ConnectError) {
        let mut state = self.state();
        let Some(known) = state.servers.get_mut(server) else { return };
        let first = known.cause.is_none();
        known.moves = None;
        let was_in = known.health.unreachable(Instant::now());
        if was_in {
            self.metrics.ejected(server);
        }
        if was_in || first {
            tracing::warn!(server = %known.address, cause = %error, "the server is away");
        }
        known.cause = Some(error.to_string());
        state.agree();
        self.changed.notify_waiters();
    }

    /// A server failed at an event; lost connections are seen by [`Roster::step`].
    pub(super) fn failed(&self, server: usize, cause: &str) {
        let mut state = self.state();
        let Some(known) = state.servers.get_mut(server) else { return };
        known.cause = Some(cause.to_owned());
        if known.health.failed(Instant::now()) {
            tracing::warn!(server = %known.address, cause, "ejected: too many failures");
            self.metrics.ejected(server);
            known.keeper.notify_one();
            state.agree();
        }
    }

    /// A server answered an event.
    pub(super) fn answered(&self, server: usize) {
        if let Some(known) = self.state().servers.get_mut(server) {
            known.health.answered();
        }
    }

    /// How they are now.
    pub(super) fn servers(&self) -> Vec<ServerStanding> {
        self.state().servers.iter().map(Server::standing).collect()
    }

    /// What the servers want.
    pub(super) fn profile(&self) -> Arc<Profile> {
        Arc::clone(&self.state().profile)
    }

    /// The ends of its connections.
    pub(super) fn ends(&self) -> Vec<impl Future<Output = ()> + Send + use<>> {
        let state = self.state();
        let links = state.servers.iter().flat_map(|server| &server.links);
        links.map(|link| link.client.ended()).collect()
    }

    /// Waits until each server was tried once.
    pub(super) async fn tried(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let tried = |server: &Server| server.profile.is_some() || server.cause.is_some();
            if self.state().servers.iter().all(tried) {
                return;
            }
            changed.await;
        }
    }

    fn take(self: &Arc<Self>, server: usize, link: &Arc<Link>) -> Place {
        link.events.fetch_add(1, Ordering::Relaxed);
        Place { server, link: Arc::clone(link), roster: Arc::clone(self) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No change is left half done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Puts together what the servers want.
    fn agree(&mut self) {
        let is_there = |server: &&Server| server.health.is_in() && !server.links.is_empty();
        let there =
            self.servers.iter().filter(is_there).filter_map(|server| server.profile.as_ref());
        let known = self.servers.iter().filter_map(|server| server.profile.as_ref());
        let profile = union(there).or_else(|| union(known));
        self.profile = Arc::new(profile.unwrap_or_else(|| without_policy(&self.offer)));
    }

    fn causes(&self) -> String {
        let cause = |server: &Server| {
            let cause = server.cause.as_deref().unwrap_or("not connected yet");
            format!("{}: {cause}", server.address)
        };
        self.servers.iter().map(cause).collect::<Vec<_>>().join("; ")
    }
}

impl Server {
    /// Forgets connections that take no new dialogs, and says why of each: how many there were, and how many of
    /// those are lost. That a server wants us to leave others is no failure: it may have a new configuration.
    fn sweep(&mut self, now: Instant, mut tell: impl FnMut(LostConnection)) -> (usize, usize) {
        let before = self.links.len();
        let mut lost = 0;
        for link in self.links.extract_if(.., |link| !link.client.is_usable()) {
            self.cause = Some(match link.client.closed() {
                Some(cause) => {
                    tell(LostConnection::Lost);
                    lost += 1;
                    format!("the connection is lost: {cause}")
                }
                None => {
                    tell(LostConnection::Drained);
                    let is_young = now < link.since + DRAINED_PAUSE;
                    self.moves = Some(if is_young { now + DRAINED_PAUSE } else { now });
                    "the server takes no new dialogs".to_owned()
                }
            });
        }
        (before - self.links.len(), lost)
    }

    fn standing(&self) -> ServerStanding {
        let (events, dialogs) = self.load();
        let connections = self.links.iter().filter(|link| link.client.is_usable()).count();
        let is_up = self.health.is_in() && connections > 0;
        ServerStanding { is_up, connections, events, dialogs }
    }

    fn log_loss(&self, ejected: bool) {
        let (server, cause) = (&self.address, self.cause.as_deref().unwrap_or_default());
        if ejected {
            tracing::warn!(%server, cause, "ejected: too many failures");
        } else {
            tracing::info!(%server, cause, "a connection is replaced");
        }
    }

    /// The connection for a new dialog.
    fn lightest(&self) -> Option<&Arc<Link>> {
        let usable = self.links.iter().filter(|link| link.client.is_usable());
        usable.min_by_key(|link| link.load())
    }

    fn events(&self) -> usize {
        self.load().0
    }

    /// Events, then dialogs.
    fn load(&self) -> (usize, usize) {
        let loads = self.links.iter().map(|link| link.load());
        loads.fold((0, 0), |(events, dialogs), (e, d)| (events + e, dialogs + d))
    }
}

impl Link {
    fn new(client: Client) -> Self {
        let (events, dialogs) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { client, since: Instant::now(), events, dialogs }
    }

    fn load(&self) -> (usize, usize) {
        (self.events.load(Ordering::Relaxed), self.dialogs.load(Ordering::Relaxed))
    }
}

impl Seat {
    /// For a dialog that begins at this place.
    pub(super) fn new(place: &Place) -> Self {
        place.link.dialogs.fetch_add(1, Ordering::Relaxed);
        Self { server: place.server, link: Arc::clone(&place.link) }
    }

    /// Whether it is on the connection of this place.
    pub(super) fn is_at(&self, place: &Place) -> bool {
        Arc::ptr_eq(&self.link, &place.link)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.link.dialogs.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.link.events.fetch_sub(1, Ordering::Relaxed);
        self.roster.changed.notify_waiters();
    }
}

/// Power of two choices: of two that chance names, the one with less to do. Whoever takes the least
/// loaded of all sends everybody there at once.
fn lighter_of_two(loads: &[(usize, (usize, usize))]) -> Option<usize> {
    let count = loads.len();
    if count < 2 {
        return loads.first().map(|(server, _)| *server);
    }
    let first = fastrand::usize(..count);
    let second = (first + fastrand::usize(1..count)) % count;
    let two = [loads.get(first)?, loads.get(second)?];
    two.into_iter().min_by_key(|(_, load)| *load).map(|(server, _)| *server)
}
