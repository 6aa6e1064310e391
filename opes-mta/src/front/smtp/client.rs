//! One client: its commands to the next hop, and the replies to them, as the services have made them.

mod commands;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ocp_proto::smtp::{Command as Verb, CommandLine, Reply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::broken::Broken;
use super::carry::carry;
use super::deliver::own_line;
use super::dialogue::Dialogue;
use super::introduction::{Introduce, Introduction};
use super::listen::Settings;
use super::plan::Plan;
use super::replies;
use crate::input::make_room;
use crate::relay::{self, Answer, RelayError, Transport};
use crate::smtp::{self, Event, Session};

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
    /// Whether it may say who its client is.
    is_heard: bool,
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
        is_heard,
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
        let greeting = match (refused, self.hop.greeting().cloned()) {
            (Some(refused), _) => refused,
            (None, Some(greeting)) => self.made_of(Verb::Greeting, None, greeting).await,
            (None, None) => replies::no_next_hop(),
        };
        self.answer(&greeting)?;
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
            make_room(&mut self.input, READ);
            let idle = !self.dialogue.has_mail() && self.input.is_empty();
            let count = tokio::select! {
                read = timeout(self.settings.silence, self.stream.read_buf(&mut self.input)) => {
                    read.map_err(|_| Broken::Silence(self.settings.silence))??
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
        let Some(tls) = self.settings.tls.clone() else { return Ok(()) };
        // The client waits for the reply to STARTTLS.
        self.flush().await?;
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let (stream, facts) = tls.accept(plain).await.map_err(Broken::Handshake)?;
        self.stream = stream;
        self.session.secured()?;
        self.dialogue.secured(facts);
        Ok(())
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
        let (provenance, is_known) =
            (self.dialogue.provenance(&plan), self.dialogue.is_known(&plan));
        let (each, stores) = (self.dialogue.hears_of_each(), &self.settings.stores);
        let mut carried = carry(&mut self.hop, stores, plan, &provenance, each, is_known).await?;
        self.dialogue.made_of_content(&mut carried).await;
        let lost = carried.lost.take();
        let told = self.dialogue.carried(carried);
        self.answer_content(&told)?;
        lost.map_or(Ok(()), Err)
    }

    /// What the client gets of a reply that stands for itself.
    async fn made_of(&mut self, command: Verb, line: Option<CommandLine>, said: Reply) -> Reply {
        self.dialogue.made_of(command, line, said, 0).await.reply
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
        let written = timeout(self.settings.silence, async {
            self.stream.write_all_buf(&mut self.output).await?;
            self.stream.flush().await
        });
        Ok(written.await.map_err(|_| Broken::Silence(self.settings.silence))??)
    }
}
