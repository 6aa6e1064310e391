//! What the services make of the next hop's replies.

use ocp_proto::OcpResult;
use ocp_proto::smtp::{Address, Command, CommandLine, Envelope, Reply};

use super::{Dialogue, accepted};
use crate::event::address_of;
use crate::front::smtp::carry::Carried;
use crate::front::smtp::plan::Fate;
use crate::passage::{Accepted, ReplyEvent, Retry};
use crate::record::Record;
use crate::relay::Answer;

/// What becomes of a next hop's reply.
pub(in crate::front::smtp) struct Made {
    /// The client gets this, unless the retry can be sent.
    pub(in crate::front::smtp) reply: Reply,
    /// What is sent instead.
    pub(in crate::front::smtp) retry: Option<Retry>,
}

impl Dialogue {
    /// The next hop has replied to a command, which was sent again so often before.
    pub(in crate::front::smtp) async fn made_of(
        &mut self,
        command: Command,
        line: Option<CommandLine>,
        reply: Reply,
        retries: u32,
    ) -> Made {
        if !self.advisor.processor().wants_reply(&command) {
            return Made { reply, retry: None };
        }
        let envelope = self.mail.as_ref().map(|mail| mail.envelope()).unwrap_or_default();
        self.made_within(envelope, command, line, reply, retries).await
    }

    async fn made_within(
        &mut self,
        envelope: Envelope,
        command: Command,
        line: Option<CommandLine>,
        reply: Reply,
        retries: u32,
    ) -> Made {
        let bypass = self.mail.as_ref().map(|mail| mail.heard_bypass(&self.advisor));
        let bypass = bypass.unwrap_or_default();
        let is_rcpt = command == Command::Rcpt;
        let event = ReplyEvent { command, line, reply, envelope, bypass, retries };
        let mut advice = match &mut self.mail {
            None => {
                self.advisor.ask_reply(event, Accepted::default(), &mut Record::default()).await
            }
            Some(mail) => {
                let recipient = mail.asked.as_ref().filter(|_| is_rcpt).map(|asked| &asked.given);
                let accepted = Accepted { recipient, ..accepted(&mail.sender, &mail.recipients) };
                self.advisor.ask_reply(event, accepted, &mut mail.record).await
            }
        };
        self.disconnects |= advice.disconnect;
        if let Some(asked) = self.mail.as_mut().and_then(|mail| mail.asked.as_mut()) {
            asked.effects = std::mem::take(&mut advice.effects);
        }
        let told = advice.reply.clone();
        advice.report(&OcpResult::ok(), Some(&told));
        Made { reply: advice.reply, retry: advice.retry }
    }

    /// From whom the message comes, as the next hop knows it.
    pub(in crate::front::smtp) fn sender(&self) -> Address {
        let sender = self.mail.as_ref().and_then(|mail| mail.envelope().sender);
        sender.unwrap_or_else(Address::null)
    }

    /// A command was sent again, maybe to another next hop.
    pub(in crate::front::smtp) fn retried(&mut self, retry: &Retry) {
        let asked = self.mail.as_mut().and_then(|mail| mail.asked.as_mut());
        if let (Some(asked), Ok(address)) = (asked, address_of(&retry.line)) {
            (asked.passed, asked.next_hop) = (address, retry.next_hop.clone());
        }
    }

    /// A command can't be sent again as a service wants it.
    pub(in crate::front::smtp) fn not_retried(&mut self, cause: &str) {
        tracing::warn!(stage = "retry", cause, "a command is not sent again");
        self.mail.iter_mut().for_each(|mail| mail.record.failed(cause.to_owned()));
    }

    /// The next hop has replied to content.
    pub(in crate::front::smtp) async fn made_of_content(&mut self, carried: &mut Carried) {
        if !self.advisor.processor().wants_reply(&Command::Message) {
            return;
        }
        for (part, answer) in carried.parts.iter_mut().filter(|(part, _)| part.fate == Fate::Send) {
            match answer {
                Answer::One(reply) | Answer::Prdr { all: reply, .. } => {
                    *reply = self.made_of_message(part.envelope.clone(), reply).await;
                }
                Answer::Each(each) => {
                    for (recipient, reply) in part.envelope.recipients.iter().zip(each) {
                        let recipients = vec![recipient.clone()];
                        let envelope = Envelope { recipients, ..part.envelope.clone() };
                        *reply = self.made_of_message(envelope, reply).await;
                    }
                }
            }
        }
    }

    async fn made_of_message(&mut self, envelope: Envelope, reply: &Reply) -> Reply {
        self.made_within(envelope, Command::Message, None, reply.clone(), 0).await.reply
    }
}
