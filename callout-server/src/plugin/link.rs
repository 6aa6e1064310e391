//! The connection to a plugin, and what goes over it.

use std::error::Error;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use hyper_util::rt::TokioIo;
use ocp_proto::smtp::Command;
use services::{Content, Finding, Outcome, Request, ServiceError, compute};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri};
use tonic::{Code, Status};

use super::breaker::Breaker;
use super::proto::handle_request::Piece;
use super::proto::plugin_client::PluginClient;
use super::proto::{DescribeRequest, Event, HandleRequest};
use super::settings::{Address, PluginSettings};
use super::wire;
use crate::pieces::Pieces;

/// For a connection to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection that says nothing is asked for life so often, and given up after as long again.
const PING: Duration = Duration::from_secs(10);
/// An event that was given up sooner says nothing of the plugin: its peer may have gone.
const GIVEN_UP: Duration = Duration::from_secs(1);

/// A plugin as its service reaches it.
#[derive(Debug)]
pub(super) struct Link {
    settings: Arc<PluginSettings>,
    endpoint: Endpoint,
    client: OnceLock<PluginClient<Channel>>,
    /// Events that it works on.
    places: Semaphore,
    breaker: Mutex<Breaker>,
    /// What it wants; not known before it has been asked, and after the connection was lost.
    wanted: Mutex<Option<Arc<Wanted>>>,
}

/// What a plugin has said that it wants.
#[derive(Debug)]
struct Wanted {
    events: Vec<Command>,
    content: Content,
}

/// An event that came to nothing.
struct Failure {
    error: ServiceError,
    /// Whether the plugin is not there. One that fails at an event, or whose answer is void, is: whoever sends mail at
    /// which it fails is not to have it left alone.
    is_away: bool,
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        Self { error, is_away: false }
    }
}

/// An event that the plugin has; it counts as a failure if nobody says what came of it.
struct Attempt<'a> {
    link: &'a Link,
    begin: Instant,
    is_over: bool,
}

impl Link {
    /// One that connects once it is used.
    ///
    /// # Errors
    /// If the address or the certificate can't be used.
    pub(super) fn new(settings: Arc<PluginSettings>) -> Result<Self, String> {
        Ok(Self {
            endpoint: endpoint(&settings)?,
            client: OnceLock::new(),
            places: Semaphore::new(settings.open),
            breaker: Mutex::new(Breaker::new(settings.failures, settings.revival)),
            wanted: Mutex::default(),
            settings,
        })
    }

    /// That it is left alone now, and why.
    pub(super) fn condition(&self) -> Option<String> {
        self.breaker().condition(Instant::now())
    }

    /// Asks the plugin about an event.
    ///
    /// # Errors
    /// Where it failed, and how.
    pub(super) async fn ask(&self, request: &Request) -> Result<Outcome, ServiceError> {
        // What does not go to the plugin says nothing of it.
        if self.known().as_ref().is_some_and(|wanted| !wanted.events.contains(&request.command)) {
            return Ok(unasked());
        }
        self.breaker().admit(Instant::now()).map_err(|cause| ServiceError::new("plugin", cause))?;
        let mut attempt = Attempt { link: self, begin: Instant::now(), is_over: false };
        let asked = self.attempt(request).await;
        attempt.is_over = true;
        match &asked {
            Err(failure) if failure.is_away => self.failed(failure.error.to_string()),
            _ => {
                if self.breaker().answered() {
                    tracing::info!(plugin = %self.settings.address, "the plugin is back");
                }
            }
        }
        asked.map_err(|failure| failure.error)
    }

    /// Events that it works on.
    pub(super) fn open_events(&self) -> u64 {
        (self.settings.open - self.places.available_permits()) as u64
    }

    /// Whether it has failed so often that it is left alone, or tried again.
    pub(super) fn is_left_alone(&self) -> bool {
        self.breaker().is_open()
    }

    async fn attempt(&self, request: &Request) -> Result<Outcome, Failure> {
        let place = self.places.acquire().await;
        let _place = place.map_err(|error| ServiceError::new("plugin", error))?;
        let wanted = self.wanted().await?;
        if !wanted.events.contains(&request.command) {
            return Ok(unasked());
        }
        let requests = Requests::of(request, wanted.content);
        let answered = self.client().handle(requests).await;
        let answer = answered.map_err(|status| self.lost("handle", &status))?.into_inner();
        let outcome = wire::outcome(answer).map_err(|error| ServiceError::new("answer", error))?;
        let (settings, request) = (Arc::clone(&self.settings), request.clone());
        let octets = request.mail().map_or(0, |mail| mail.len());
        let checked =
            compute(octets, move || settings.grants.check(&outcome, &request).map(|()| outcome));
        Ok(checked.await?.map_err(|error| ServiceError::new("grants", error))?)
    }

    /// What it wants, which has to be within what is granted.
    async fn wanted(&self) -> Result<Arc<Wanted>, Failure> {
        if let Some(wanted) = self.known().clone() {
            return Ok(wanted);
        }
        let asked = DescribeRequest { server_version: env!("CARGO_PKG_VERSION").to_owned() };
        let described = self.client().describe(asked).await;
        let described = described.map_err(|status| self.lost("describe", &status))?.into_inner();
        let too_much = |what: String| {
            ServiceError::new("describe", format!("the plugin wants {what}, which is not granted"))
        };
        let grants = &self.settings.grants;
        let event = |name: &String| {
            let event = grants.events.iter().find(|event| event.name() == name);
            event.cloned().ok_or_else(|| too_much(name.chars().take(64).collect()))
        };
        let events = described.events.iter().map(event).collect::<Result<Vec<_>, _>>()?;
        let content = match described.body_octets {
            None => grants.content,
            Some(0) => Content::Header,
            Some(octets) => Content::Prefix(octets),
        };
        let is_granted =
            |name: &&String| grants.effects.iter().any(|effect| effect.name() == *name);
        if let Some(effect) = described.effects.iter().find(|name| !is_granted(name)) {
            let effect: String = effect.chars().take(64).collect();
            return Err(too_much(format!("the side effect {effect}")).into());
        }
        if content > grants.content {
            return Err(too_much(content.to_string()).into());
        }
        let name: String = described.name.chars().take(64).collect();
        let names: Vec<_> = events.iter().map(Command::name).collect();
        tracing::info!(
            plugin = %self.settings.address,
            name = ?name,
            events = names.join(" "),
            %content,
            "the plugin is there"
        );
        let wanted = Arc::new(Wanted { events, content });
        *self.known() = Some(Arc::clone(&wanted));
        Ok(wanted)
    }

    fn client(&self) -> PluginClient<Channel> {
        let client = self.client.get_or_init(|| {
            let channel = match &self.settings.address {
                Address::Unix(path) => {
                    let path = path.clone();
                    let connect = move |_: Uri| connect_unix(path.clone());
                    self.endpoint.connect_with_connector_lazy(tower::service_fn(connect))
                }
                Address::Http(_) => self.endpoint.connect_lazy(),
            };
            PluginClient::new(channel).max_decoding_message_size(self.settings.answer_octets)
        });
        client.clone()
    }

    /// A call that failed.
    fn lost(&self, stage: &'static str, status: &Status) -> Failure {
        // What the plugin says has no source; what happened to the connection does.
        let is_away = status.source().is_some() || status.code() == Code::Unavailable;
        if is_away {
            // It may want something else once it is back.
            *self.known() = None;
        }
        Failure { error: ServiceError::new(stage, describe(status)), is_away }
    }

    fn failed(&self, cause: String) {
        let pause = self.breaker().failed(cause.clone(), Instant::now());
        if let Some(pause) = pause {
            let (plugin, seconds) = (&self.settings.address, pause.as_secs());
            tracing::warn!(%plugin, seconds, cause, "the plugin is left alone: too many failures");
        }
    }

    fn known(&self) -> MutexGuard<'_, Option<Arc<Wanted>>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // No change is left half done by a panic.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let took = self.begin.elapsed();
        match self.is_over {
            true => {}
            false if took < GIVEN_UP => self.link.breaker().withdrawn(),
            false => self.link.failed(format!("no answer within {:.1} s", took.as_secs_f64())),
        }
    }
}

/// Of an event that the plugin does not want.
fn unasked() -> Outcome {
    Outcome::unchanged(Finding::new("unasked"))
}

fn endpoint(settings: &PluginSettings) -> Result<Endpoint, String> {
    let uri = match &settings.address {
        // Where it is says the connector.
        Address::Unix(_) => "http://plugin".to_owned(),
        Address::Http(uri) => uri.clone(),
    };
    let endpoint = Endpoint::from_shared(uri).map_err(|error| error.to_string())?;
    let endpoint = endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    match &settings.ca {
        None => Ok(endpoint),
        Some(ca) => {
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
            endpoint.tls_config(tls).map_err(|error| causes(&error))
        }
    }
}

async fn connect_unix(path: PathBuf) -> std::io::Result<TokioIo<UnixStream>> {
    UnixStream::connect(path).await.map(TokioIo::new)
}

/// An event, and as much of its body as is wanted.
struct Requests {
    event: Option<Event>,
    body: Option<Pieces>,
}

impl Requests {
    fn of(request: &Request, content: Content) -> Self {
        let body = request.mail().map(|mail| {
            let wanted = content.body_octets().map_or(usize::MAX, |octets| octets as usize);
            Pieces::of(mail.body().slice(0..mail.body().len().min(wanted)))
        });
        Self { event: Some(wire::event(request)), body }
    }
}

impl Stream for Requests {
    type Item = HandleRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<HandleRequest>> {
        let piece = match (self.event.take(), &mut self.body) {
            (Some(event), _) => Some(Piece::Event(event)),
            (None, Some(body)) => ready!(Pin::new(body).poll_next(cx)).map(Piece::Body),
            (None, None) => None,
        };
        Poll::Ready(piece.map(|piece| HandleRequest { piece: Some(piece) }))
    }
}

/// What a status says, in one line that is not too long: it is the plugin's.
fn describe(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    if let Some(source) = status.source() {
        text = format!("{text}: {}", causes(source));
    }
    text.replace(char::is_control, " ").chars().take(300).collect()
}

fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
