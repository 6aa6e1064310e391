//! A client's commands.

use std::sync::Arc;

use bytes::Bytes;
use ocp_proto::smtp::{Address, Command as Verb, CommandLine, Reply};

use super::Client;
use crate::bypass;
use crate::front::smtp::broken::Broken;
use crate::front::smtp::deliver::envelope_line;
use crate::front::smtp::dialogue::{Speaks, Terms, Told};
use crate::front::smtp::hello::{self, Offer};
use crate::front::smtp::replies;
use crate::passage::Retry;
use crate::relay::{Connection, NextHop, RelayError};
use crate::smtp::extensions::PRDR;
use crate::smtp::{Command, Hello, Path, Protocol, Request};

impl Client {
    pub(super) async fn command(&mut self, request: Request) -> Result<(), Broken> {
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
            Command::StartTls if self.settings.tls.is_none() => self.answer(&replies::unknown()),
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
                Ok(line) => {
                    let said = self.hop.command(&line).await?;
                    Ok(self.made_of(Verb::Helo, Some(line), said).await)
                }
                Err(_) => Ok(replies::syntax()),
            };
        }
        let Ok(name) = std::str::from_utf8(name) else { return Ok(replies::syntax()) };
        let origin = self.dialogue.origin();
        let said = match self.introduction.hello(&mut self.hop, &origin, name).await {
            Ok(reply) => reply,
            Err(error) => error.reply().cloned().ok_or(error)?,
        };
        let said_there =
            if self.hop.next_hop().protocol == Protocol::Lmtp { "LHLO" } else { "EHLO" };
        let line = CommandLine::new(format!("{said_there} {name}")).ok();
        let reply = self.made_of(Verb::Helo, line, said).await;
        Ok(match verb {
            _ if !reply.is_success() => reply,
            Hello::Helo => hello::without_extensions(&reply),
            _ => hello::answer(&reply, self.offer()),
        })
    }

    fn offer(&self) -> Offer {
        Offer {
            speaking: self.is_heard,
            starttls: self.settings.tls.is_some() && !self.session.is_secure(),
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
            Told::Pass(line) => match self.introduce(command).await? {
                Some(refused) => {
                    self.dialogue.replied(command, &refused, false);
                    refused
                }
                None => self.send(command, line).await?,
            },
        };
        self.answer(&reply)
    }

    /// The next hop gets MAIL or RCPT, and what services want to be tried instead: the client's reply.
    async fn send(&mut self, command: &Verb, line: CommandLine) -> Result<Reply, Broken> {
        let mut said = self.hop.command(&line).await?;
        // What the next hop has taken may have to be undone there.
        let (mut took, mut retries) = (said.is_success(), 0);
        let mut tried = Retry { line, next_hop: None };
        let reply = loop {
            let line = Some(tried.line.clone());
            let made = self.dialogue.made_of(command.clone(), line, said, retries).await;
            // The same again would get the same reply.
            let Some(retry) = made.retry.filter(|retry| *retry != tried) else { break made.reply };
            match self.retry(command, &retry).await? {
                Retried::Not => break made.reply,
                Retried::NotThere => break replies::not_there(),
                Retried::Replied(reply) => said = reply,
            }
            self.dialogue.retried(&retry);
            took |= said.is_success() && retry.next_hop.is_none();
            (tried, retries) = (retry, retries + 1);
        };
        self.dialogue.replied(command, &reply, took);
        if *command == Verb::Mail && took && !reply.is_success() {
            self.reset().await?;
        }
        Ok(reply)
    }

    /// Sends a command again.
    async fn retry(&mut self, command: &Verb, retry: &Retry) -> Result<Retried, Broken> {
        let Some(name) = &retry.next_hop else {
            return Ok(Retried::Replied(self.hop.command(&retry.line).await?));
        };
        let settings = &self.settings;
        let route = settings.route(name).filter(|_| settings.stores.spool.is_some());
        let Some(route) = route.filter(|_| *command == Verb::Rcpt) else {
            let cause = format!("{command} does not go to the next hop {name} (--route)");
            self.dialogue.not_retried(&cause);
            return Ok(Retried::Not);
        };
        match asked_there(route, self.dialogue.sender(), &retry.line).await {
            Ok(reply) => Ok(Retried::Replied(reply)),
            Err(error) => {
                self.dialogue.not_retried(&error.to_string());
                Ok(error.reply().cloned().map_or(Retried::NotThere, Retried::Replied))
            }
        }
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
            Some(line) => {
                let said = self.hop.command(&line).await?;
                match line.command() {
                    Some(command) => self.made_of(command, Some(line), said).await,
                    None => said,
                }
            }
            None => replies::syntax(),
        };
        self.answer(&reply)
    }
}

/// What comes of a command that is sent again.
enum Retried {
    /// This reply.
    Replied(Reply),
    /// The other next hop is not there now.
    NotThere,
    /// It does not go there.
    Not,
}

/// What another next hop says to RCPT from this sender. It gets no message: that comes from the spool.
async fn asked_there(
    next_hop: &Arc<NextHop>,
    mut sender: Address,
    line: &CommandLine,
) -> Result<Reply, RelayError> {
    let mut there = Connection::open(next_hop).await?;
    // What they ask for, the message asks for.
    sender.parameters.clear();
    let mut reply = match envelope_line("MAIL FROM:", &sender) {
        Some(mail) => there.command(&mail).await?,
        None => replies::syntax(),
    };
    if reply.is_success() {
        reply = there.command(line).await?;
    }
    there.quit().await;
    Ok(reply)
}
