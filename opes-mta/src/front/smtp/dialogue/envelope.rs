//! The commands that make an envelope, and DATA.

use ocp_proto::OcpResult;
use ocp_proto::smtp::{Address, Command, CommandLine, Envelope, Reply, SideEffect};

use super::{Dialogue, Terms, Told, accepted, decision_of};
use crate::apply::Answer;
use crate::event::{Event, address_of};
use crate::front::advisor::Refusal;
use crate::front::smtp::content::Content;
use crate::front::smtp::mail::{Asked, Mail};
use crate::front::smtp::replies::syntax;
use crate::passage::{Accepted, Advice};
use crate::record::Record;

impl Dialogue {
    /// Whether MAIL may ask for services to be skipped, whoever is heard.
    pub(in crate::front::smtp) fn takes_bypass(&self) -> bool {
        self.advisor.processor().config().bypass.xopes_bypass
    }

    /// MAIL: the line as it came, without source route.
    pub(in crate::front::smtp) async fn mail(
        &mut self,
        line: CommandLine,
        sender: &Address,
        terms: Terms,
    ) -> Told {
        self.abandon();
        if let Some(refused) = self.begin().await {
            return Told::Refuse(refused);
        }
        let mut mail = Mail {
            sender: sender.clone(),
            recipients: Vec::new(),
            known: Envelope::default(),
            effects: Vec::new(),
            done: false,
            is_data_asked: false,
            record: Record::default(),
            content: Content::new(self.advisor.processor()),
            asked: None,
            is_known_otherwise: false,
            terms,
        };
        let Some(event) = Event::command(line.clone(), Envelope::default()) else {
            return Told::Refuse(syntax());
        };
        let bypass = mail.heard_bypass(&self.advisor);
        let accepted = Accepted { sender: Some(sender), ..Accepted::default() };
        let event = Event { bypass, ..event };
        let said = self.advisor.ask(event, accepted, &mut mail.record).await;
        match self.heard(said) {
            Err(Refusal { reply, .. }) => {
                self.mail = Some(mail);
                self.close(decision_of(&reply), Some(&reply.to_string()));
                Told::Refuse(reply)
            }
            Ok(advice) => {
                let (line, adapted) = adapted_line(&advice, line, sender);
                mail.asked = Some(Asked::new(advice, sender.clone(), adapted));
                self.mail = Some(mail);
                Told::Pass(line)
            }
        }
    }

    /// RCPT, as MAIL.
    pub(in crate::front::smtp) async fn rcpt(
        &mut self,
        line: CommandLine,
        recipient: &Address,
    ) -> Told {
        let Some(mail) = &mut self.mail else { return Told::Pass(line) };
        if mail.done {
            mail.asked = Some(Asked::new(Advice::default(), recipient.clone(), recipient.clone()));
            return Told::Pass(line);
        }
        let Some(event) = Event::command(line.clone(), mail.envelope()) else {
            return Told::Refuse(syntax());
        };
        let accepted = Accepted {
            sender: Some(&mail.sender),
            recipients: &mail.recipients,
            recipient: Some(recipient),
        };
        let event = Event { bypass: mail.heard_bypass(&self.advisor), ..event };
        let said = self.advisor.ask(event, accepted, &mut mail.record).await;
        let heard = self.heard(said);
        let Some(mail) = &mut self.mail else { return Told::Pass(line) };
        match heard {
            Err(Refusal { reply, .. }) => {
                mail.record.refused(recipient, &reply.to_string());
                Told::Refuse(reply)
            }
            Ok(advice) => {
                let (line, adapted) = adapted_line(&advice, line, recipient);
                mail.asked = Some(Asked::new(advice, recipient.clone(), adapted));
                Told::Pass(line)
            }
        }
    }

    /// MAIL or RCPT has its reply. `took` says whether the next hop has taken it, whatever the client hears.
    pub(in crate::front::smtp) fn replied(&mut self, command: &Command, reply: &Reply, took: bool) {
        let Some(mail) = &mut self.mail else { return };
        let Some(asked) = mail.asked.take() else { return };
        let Asked { mut advice, given, passed, next_hop, effects } = asked;
        let result = match reply.is_success() {
            true => OcpResult::ok(),
            false => OcpResult::failure("the next hop refused it"),
        };
        advice.report(&result, Some(reply).filter(|reply| !reply.is_success()));
        mail.is_known_otherwise |= took && !reply.is_success();
        match (command, reply.is_success()) {
            (Command::Mail, true) => {
                mail.known.sender = Some(passed);
                mail.done = advice.envelope_done;
                mail.effects.append(&mut advice.effects);
                mail.effects.extend(effects);
            }
            (Command::Rcpt, true) => {
                let recipients = vec![passed.clone()];
                mail.recipients.push(given);
                mail.known.recipients.push(passed);
                mail.done |= advice.envelope_done;
                mail.effects.append(&mut advice.effects);
                mail.effects.extend(effects);
                let route =
                    |next_hop: String| SideEffect::Route { next_hop: next_hop.into(), recipients };
                mail.effects.extend(next_hop.map(route));
            }
            (Command::Rcpt, false) => mail.record.refused(&given, &reply.to_string()),
            (_, false) => self.close(decision_of(reply), Some(&reply.to_string())),
            (_, true) => {}
        }
    }

    /// DATA, or the first BDAT: what it is refused with, if it is.
    pub(in crate::front::smtp) async fn data(&mut self) -> Option<Reply> {
        let mail = self.mail.as_mut().filter(|mail| !(mail.done || mail.is_data_asked))?;
        mail.is_data_asked = true;
        let event = Event::command(CommandLine::new("DATA").ok()?, mail.envelope())?;
        let event = Event { bypass: mail.heard_bypass(&self.advisor), ..event };
        let accepted = accepted(&mail.sender, &mail.recipients);
        let said = self.advisor.ask(event, accepted, &mut mail.record).await;
        match self.heard(said) {
            Err(Refusal { reply, .. }) => {
                self.close(decision_of(&reply), Some(&reply.to_string()));
                Some(reply)
            }
            Ok(mut advice) => {
                let mail = self.mail.as_mut()?;
                mail.done = advice.envelope_done;
                mail.effects.append(&mut advice.effects);
                advice.report(&OcpResult::ok(), None);
                None
            }
        }
    }
}

/// The line for the next hop, and the address in it.
fn adapted_line(advice: &Advice, line: CommandLine, given: &Address) -> (CommandLine, Address) {
    match &advice.answer {
        Answer::Line(adapted) => match address_of(adapted) {
            Ok(address) => (adapted.clone(), address),
            Err(_) => (line, given.clone()),
        },
        _ => (line, given.clone()),
    }
}
