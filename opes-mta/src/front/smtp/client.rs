//! One client: its commands to the next hop, and the replies to them, as the services have made them.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ocp_proto::smtp::{Command as Verb, CommandLine, Reply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::broken::Broken;
use super::carry::carry;
use super::deliver::{envelope_line, own_line};
use super::dialogue::{Dialogue, Speaks, Terms, Told};
use super::hello::{self, Offer};
use super::introduction::{Introduce, Introduction};
use super::listen::Settings;
use super::plan::Plan;
use super::replies;
use super::tls::Tls;
use crate::bypass;
use crate::relay::{self, Answer, RelayError, Transport};
use crate::smtp::extensions::PRDR;
use crate::smtp::{self, Command, Event, Hello, Path, Protocol, Request, Session};

/// Octets of one read.
const READ: usize = 64 * 1024;

/// A client and its next hop.
pub(super) struct Client {
    stream: Transport,
    input: BytesMut,
    output: BytesMut,
    session: Session,
    dialogue: Dialogue,
    hop: relay::Connection,
    introduction: Introduction,
    /// What it is offered STARTTLS with.
    tls: Option<Arc<Tls>>,
    /// Whether it may say who its client is.
    is_heard: bool,
    /// How long it may say nothing.
    silence: Duration,
    /// DATA or BDAT was refused by a service, or is to be.
    refused_content: Option<Reply>,
    /// By which the client authenticates, as long as it does.
    mechanism: Option<Bytes>,
    settings: Arc<Settings>,
}

/// Serves a client until one of both goes away, or until `stop` where no message is under way.
///
/// # Errors
/// What else ended it.
pub(super) async fn serve(
    mut stream: Transport,
    settings: &Arc<Settings>,
    dialogue: Dialogue,
    is_heard: bool,
    stop: CancellationToken,
) -> Result<(), Broken> {
    let protocol = settings.next_hop.protocol;
    let session = Session::new(smtp::Settings { protocol, ..smtp::Settings::default() });
    let hop = match connect(settings).await {
        Ok(hop) => hop,
        Err(error) => {
            // The client may have gone already.
            let _ = timeout(settings.silence, stream.write_all(replies::no_next_hop().as_bytes()))
                .await;
            return Err(error.into());
        }
    };
    let (input, output) = (BytesMut::new(), BytesMut::new());
    let mut client = Client {
        stream,
        input,
        output,
        session,
        dialogue,
        hop,
        introduction: Introduction::new(settings.introduce),
        tls: settings.tls.clone(),
        is_heard,
        silence: settings.silence,
        refused_content: None,
        mechanism: None,
        settings: Arc::clone(settings),
    };
    let served = client.converse(stop).await;
    if let Some(reply) = served.as_ref().err().and_then(Broken::reply) {
        client.dialogue.failed(&reply);
        client.session.hang_up(&reply, &mut client.output);
        // The client may have gone already.
        let _ = client.flush().await;
    }
    client.dialogue.abandon();
    // It may have gone already.
    client.hop.quit().await;
    served
}

/// A next hop that has greeted us, with TLS if that is wanted. Then it has heard our own name before, and so has
/// one that has to say whether it takes XCLIENT.
async fn connect(settings: &Settings) -> Result<relay::Connection, RelayError> {
    let next_hop = &settings.next_hop;
    match next_hop.tls.is_wanted() || settings.introduce == Introduce::Xclient {
        true => relay::Connection::open(next_hop).await,
        false => relay::Connection::connect(next_hop).await,
    }
}

impl Client {
    async fn converse(&mut self, stop: CancellationToken) -> Result<(), Broken> {
        // Who speaks for others says first for whom.
        let refused = if self.is_heard { None } else { self.dialogue.begin().await };
        let greeting = refused.or_else(|| self.hop.greeting().cloned());
        self.answer(&greeting.unwrap_or_else(replies::no_next_hop))?;
        loop {
            while let Some(event) = self.session.receive(&mut self.input) {
                self.handle(event).await?;
                if self.dialogue.disconnects() && !self.session.is_over() {
                    self.session.hang_up(&replies::disconnected(), &mut self.output);
                }
                // Commands that came together may get replies of a thousand times their octets.
                if self.output.len() >= READ {
                    self.flush().await?;
                }
            }
            self.flush().await?;
            if self.session.is_over() {
                return Ok(());
            }
            self.input.reserve(READ);
            let idle = !self.dialogue.has_mail() && self.input.is_empty();
            let count = tokio::select! {
                read = timeout(self.silence, self.stream.read_buf(&mut self.input)) => {
                    read.map_err(|_| Broken::Silence(self.silence))??
                }
                () = stop.cancelled(), if idle => {
                    self.session.hang_up(&replies::stopping(), &mut self.output);
                    return self.flush().await;
                }
            };
            if count == 0 {
                return if self.dialogue.has_mail() { Err(Broken::Lost) } else { Ok(()) };
            }
        }
    }

    async fn handle(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Refused(_) => {
                if self.mechanism.take().is_some() {
                    // RFC 4954 section 4: the exchange is given up.
                    self.hop.push_response(b"*")?;
                    self.hop.reply().await?;
                }
                Ok(self.session.refuse(&mut self.output)?)
            }
            Event::Command(request) => self.command(request).await,
            Event::Content(octets) => {
                self.dialogue.content(octets).await;
                Ok(())
            }
            Event::ChunkEnd => self.answer(&replies::chunk()),
            Event::ContentEnd(_) => self.message().await,
            Event::AuthLine(secret) => {
                self.hop.push_response(secret.octets())?;
                let reply = self.hop.reply().await?;
                self.authenticated(&reply);
                self.answer(&reply)
            }
            Event::StartTls => self.start_tls().await,
        }
    }

    /// The handshake; then the session begins anew.
    async fn start_tls(&mut self) -> Result<(), Broken> {
        let Some(tls) = self.tls.clone() else { return Ok(()) };
        // The client waits for the reply to STARTTLS.
        self.flush().await?;
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let (stream, facts) = tls.accept(plain).await.map_err(Broken::Handshake)?;
        self.stream = stream;
        self.session.secured()?;
        self.dialogue.secured(facts);
        Ok(())
    }

    async fn command(&mut self, request: Request) -> Result<(), Broken> {
        match &request.command {
            Command::Hello { verb, name } => {
                let reply = match self.dialogue.greet(name).await {
                    Some(refused) => refused,
                    None => self.hello(*verb, name).await?,
                };
                self.answer(&reply)
            }
            Command::Mail(path) => self.mail(path).await,
            Command::Rcpt(path) => self.rcpt(path).await,
            Command::Data => {
                let refused = self.dialogue.data().await;
                self.answer(&refused.unwrap_or_else(replies::go_on))
            }
            // Its octets come first, whatever the services say.
            Command::Bdat(_) => {
                let refused = self.dialogue.data().await;
                self.refused_content = refused.or(self.refused_content.take());
                Ok(())
            }
            Command::Rset => {
                self.dialogue.abandon();
                self.pass(&request).await
            }
            Command::Vrfy(_) | Command::Expn(_) | Command::Help(_) | Command::Noop(_) => {
                self.pass(&request).await
            }
            Command::Quit => {
                self.dialogue.abandon();
                self.pass(&request).await
            }
            Command::Auth { .. } if !self.may_authenticate() => {
                self.answer(&replies::auth_needs_tls())
            }
            Command::Auth { mechanism, .. } => {
                let reply = match CommandLine::new(request.octets().clone()) {
                    Ok(line) => self.hop.command(&line).await?,
                    Err(_) => replies::syntax(),
                };
                self.mechanism = Some(mechanism.clone());
                self.authenticated(&reply);
                self.answer(&reply)
            }
            Command::Xforward(attributes) if self.is_heard => {
                self.dialogue.speak(Speaks::ForAnother, attributes);
                self.answer(&replies::taken())
            }
            Command::Xclient(_) if self.is_heard && self.session.is_authenticated() => {
                self.answer(&replies::xclient_too_late())
            }
            Command::Xclient(attributes) if self.is_heard => {
                self.dialogue.speak(Speaks::AsAnother, attributes);
                let greeting = self.hop.greeting().cloned();
                self.answer(&greeting.unwrap_or_else(replies::no_next_hop))
            }
            Command::Xforward(_) | Command::Xclient(_) => self.answer(&replies::not_heard()),
            Command::StartTls if self.tls.is_none() => self.answer(&replies::unknown()),
            Command::StartTls if self.session.is_authenticated() => {
                self.answer(&replies::tls_too_late())
            }
            Command::StartTls => self.answer(&replies::begin_tls()),
            Command::Other(_) => self.answer(&replies::unknown()),
        }
    }

    /// The next hop hears the client's name, and the client what gets through of what it offers.
    async fn hello(&mut self, verb: Hello, name: &Bytes) -> Result<Reply, Broken> {
        if verb == Hello::Helo && !self.introduction.is_wanted() {
            let line = CommandLine::new([b"HELO ", &name[..]].concat());
            return match line {
                Ok(line) => Ok(self.hop.command(&line).await?),
                Err(_) => Ok(replies::syntax()),
            };
        }
        let Ok(name) = std::str::from_utf8(name) else { return Ok(replies::syntax()) };
        let origin = self.dialogue.origin();
        match self.introduction.hello(&mut self.hop, &origin, name).await {
            Ok(reply) if verb == Hello::Helo => Ok(hello::without_extensions(&reply)),
            Ok(reply) => Ok(hello::answer(&reply, self.offer())),
            Err(error) => match error.reply() {
                Some(reply) => Ok(reply.clone()),
                None => Err(error.into()),
            },
        }
    }

    fn offer(&self) -> Offer {
        Offer {
            speaking: self.is_heard,
            starttls: self.tls.is_some() && !self.session.is_secure(),
            auth: self.may_authenticate(),
            prdr: self.hop.next_hop().protocol == Protocol::Smtp,
            bypass: self.dialogue.takes_bypass(),
        }
    }

    /// What the next hop hears within TLS is not said in plain text before.
    fn may_authenticate(&self) -> bool {
        self.session.is_secure() || !self.hop.is_secured()
    }

    async fn mail(&mut self, path: &Path) -> Result<(), Broken> {
        self.refused_content = None;
        let mut sender = path.address.clone();
        sender.parameters.retain(|parameter| self.gets_through(parameter));
        let asked = path.parameter(bypass::PARAMETER).filter(|_| self.dialogue.takes_bypass());
        let bypass = asked.map_or(Some(Vec::new()), bypass::parameter);
        let has_prdr = path.parameter(PRDR).is_some() && self.offer().prdr;
        let told = match (envelope_line("MAIL FROM:", &sender), bypass) {
            (Some(line), Some(bypass)) => {
                self.dialogue.mail(line, &sender, Terms { has_prdr, bypass }).await
            }
            (None, _) => Told::Refuse(replies::syntax()),
            (_, None) => Told::Refuse(replies::no_bypass()),
        };
        self.carry_out(&Verb::Mail, told).await
    }

    /// Whether a parameter of MAIL goes to the next hop: not one that we take ourselves and it does not know.
    fn gets_through(&self, parameter: &[u8]) -> bool {
        let keyword = parameter.split(|octet| *octet == b'=').next().unwrap_or_default();
        let is = |ours: &str| keyword.eq_ignore_ascii_case(ours.as_bytes());
        let is_ours = is(PRDR) || is(bypass::PARAMETER) && self.dialogue.takes_bypass();
        !is_ours
            || std::str::from_utf8(keyword).is_ok_and(|name| self.hop.extensions().offers(name))
    }

    async fn rcpt(&mut self, path: &Path) -> Result<(), Broken> {
        let told = match envelope_line("RCPT TO:", &path.address) {
            Some(line) => self.dialogue.rcpt(line, &path.address).await,
            None => Told::Refuse(replies::syntax()),
        };
        self.carry_out(&Verb::Rcpt, told).await
    }

    async fn carry_out(&mut self, command: &Verb, told: Told) -> Result<(), Broken> {
        let reply = match told {
            Told::Refuse(reply) => reply,
            Told::Pass(line) => {
                let reply = match self.introduce(command).await? {
                    Some(refused) => refused,
                    None => self.hop.command(&line).await?,
                };
                self.dialogue.replied(command, &reply);
                reply
            }
        };
        self.answer(&reply)
    }

    /// A next hop that is to know whose message comes hears so; what it refuses that with.
    async fn introduce(&mut self, command: &Verb) -> Result<Option<Reply>, Broken> {
        if *command != Verb::Mail {
            return Ok(None);
        }
        let origin = self.dialogue.origin();
        match self.introduction.message(&mut self.hop, &origin).await {
            Ok(()) => Ok(None),
            Err(error) => error.reply().cloned().map(Some).ok_or_else(|| error.into()),
        }
    }

    /// A command that services are not asked about.
    async fn pass(&mut self, request: &Request) -> Result<(), Broken> {
        let reply = match request.line() {
            Some(line) => self.hop.command(&line).await?,
            None => replies::syntax(),
        };
        self.answer(&reply)
    }

    /// The content is complete: the client hears what the services or the next hop make of it.
    async fn message(&mut self) -> Result<(), Broken> {
        if let Some(reply) = self.refused_content.take() {
            self.reset().await?;
            return self.answer_content(&Answer::One(reply));
        }
        let plan = match self.session.bare() {
            Some(_) => Plan::refuse(replies::bare_line_end()),
            None => self.dialogue.message().await,
        };
        let (provenance, is_known) = (self.dialogue.provenance(), self.dialogue.is_known(&plan));
        let (each, stores) = (self.dialogue.hears_of_each(), &self.settings.stores);
        let mut carried = carry(&mut self.hop, stores, plan, &provenance, each, is_known).await?;
        let lost = carried.lost.take();
        let told = self.dialogue.carried(carried);
        self.answer_content(&told)?;
        lost.map_or(Ok(()), Err)
    }

    /// The next hop forgets the envelope that it knows.
    async fn reset(&mut self) -> Result<Reply, Broken> {
        Ok(self.hop.command(&own_line("RSET")).await?)
    }

    fn authenticated(&mut self, reply: &Reply) {
        // 334: the exchange goes on.
        if reply.code() != 334
            && let Some(mechanism) = self.mechanism.take()
            && reply.is_success()
        {
            self.dialogue.authenticated(&mechanism);
        }
    }

    /// Content gets one reply, or one for each recipient (LMTP), or those and one for all (PRDR).
    fn answer_content(&mut self, answer: &Answer) -> Result<(), Broken> {
        if let Answer::Prdr { each, all } = answer {
            self.answer(&replies::each_follows())?;
            return each.iter().chain([all]).try_for_each(|reply| self.answer(reply));
        }
        let mut recipients = 0..;
        while self.session.awaits_reply() {
            let reply = recipients.next().and_then(|recipient| answer.of(recipient));
            match reply {
                Some(reply) => self.answer(reply)?,
                None => self.answer(&replies::no_sense())?,
            }
        }
        Ok(())
    }

    fn answer(&mut self, reply: &Reply) -> Result<(), Broken> {
        Ok(self.session.answer(reply, &mut self.output)?)
    }

    async fn flush(&mut self) -> Result<(), Broken> {
        if self.output.is_empty() {
            return Ok(());
        }
        let written = timeout(self.silence, async {
            self.stream.write_all_buf(&mut self.output).await?;
            self.stream.flush().await
        });
        Ok(written.await.map_err(|_| Broken::Silence(self.silence))??)
    }
}
