//! In which order commands may come, and what may be answered.
//!
//! ```text
//!  Negotiation ─Negotiate─▶ Connection ─Connect─▶ Between ─Mail─▶ Sender ─Rcpt─▶ Recipients
//!                              ▲                   ▲  ▲                               │ Data
//!                   QuitNewConnection              │  └─EndOfMessage─ Body ◀──── Header section
//!                                     Abort, Helo, refusals         EndOfHeader
//! ```
//!
//! A stage that the MTA was asked not to send is passed over. No content comes without a sender and a
//! recipient that were accepted: what ends a message, its refusal as well, leads back to `Between`. Where
//! MAIL is not sent, a message begins behind the end of the last one, Abort or HELO.

mod refusal;

use bytes::BytesMut;

use super::command::{Command, Stage};
use super::modification::Modification;
use super::options::{Actions, Agreed, Steps};
use super::response::{Decision, encode_progress};

pub use refusal::{Misuse, OutOfOrder};

/// How far a dialog is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was offered.
    Negotiation,
    /// The offer is to be answered.
    Offered,
    /// No client is there.
    Connection,
    /// A client, and no message.
    Between,
    /// A sender was accepted.
    Sender,
    /// A recipient was accepted.
    Recipients,
    /// DATA was accepted.
    HeaderSection,
    /// The header section was accepted.
    Body,
    /// The connection was accepted or refused as a whole: nothing more is asked about this client.
    Decided,
    /// The MTA has gone.
    Ended,
}

/// The table: where a stage may come, and where its acceptance leads. A second MAIL without an end
/// of the first message, and HELO, give that message up, as RFC 5321 section 4.1.4 has it for EHLO; Postfix
/// sends Abort behind such a HELO, not before it.
fn row(stage: Stage) -> (&'static [State], Option<State>) {
    use State::{Between, Body, Connection, HeaderSection, Recipients, Sender};
    match stage {
        Stage::Connect => (&[Connection], Some(Between)),
        Stage::Helo => (&[Between, Sender, Recipients], Some(Between)),
        Stage::Mail => (&[Between, Sender, Recipients], Some(Sender)),
        Stage::Rcpt => (&[Sender, Recipients], Some(Recipients)),
        Stage::Data => (&[Recipients], Some(HeaderSection)),
        Stage::Header => (&[HeaderSection], Some(HeaderSection)),
        Stage::EndOfHeader => (&[HeaderSection], Some(Body)),
        Stage::Body => (&[Body], Some(Body)),
        Stage::EndOfMessage => (&[Body], Some(Between)),
        Stage::Unknown => (&[Between, Sender, Recipients], None),
    }
}

impl State {
    /// The stage without which nothing goes on from here, and where it leads.
    fn way_on(self) -> Option<(Stage, State)> {
        let stage = match self {
            Self::Connection => Stage::Connect,
            Self::Between => Stage::Mail,
            Self::Sender => Stage::Rcpt,
            Self::Recipients => Stage::Data,
            Self::HeaderSection => Stage::EndOfHeader,
            _ => return None,
        };
        row(stage).1.map(|next| (stage, next))
    }

    fn is_in_message(self) -> bool {
        matches!(self, Self::Sender | Self::Recipients | Self::HeaderSection | Self::Body)
    }

    fn description(self) -> &'static str {
        match self {
            Self::Negotiation | Self::Offered => "before the options were negotiated",
            Self::Connection => "without a client",
            Self::Between => "without a message",
            Self::Sender => "without an accepted recipient",
            Self::Recipients => "behind recipients",
            Self::HeaderSection => "within the header section",
            Self::Body => "within the body",
            Self::Decided => "after the decision on the whole connection",
            Self::Ended => "after QUIT",
        }
    }
}

/// One connection of an MTA: which command may come now, and which answer.
///
/// After [`receive`](Self::receive) the [`Step`] says what is to be done. If the MTA waits for an answer,
/// nothing more is received before [`decide`](Self::decide); [`modify`](Self::modify) and
/// [`progress`](Self::progress) may come before it. All of them append to the same buffer, which is best
/// written at once. What it holds is a few octets, whatever comes.
#[derive(Debug)]
pub struct Session {
    state: State,
    /// The actions and steps agreed on; none before.
    actions: Actions,
    steps: Steps,
    awaited: Option<Awaited>,
    /// The macros of the next recipient say that the MTA has rejected it.
    rejected_next: bool,
    /// Whether the packets of a new body have begun, and whether they have ended.
    new_body: NewBody,
}

/// An answer that the MTA waits for.
#[derive(Clone, Copy, Debug)]
struct Awaited {
    stage: Stage,
    /// Whether it is a recipient that the MTA has rejected.
    is_rejected: bool,
    /// Where acceptance leads, and refusal of this command alone.
    accepted: State,
    refused: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NewBody {
    NotBegun,
    Going,
    Over,
}

/// What a command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An offer: [`Session::agree`], or the connection ends.
    Negotiate,
    /// Facts for a stage: kept until the same stage's next ones, or until what they were about ends.
    Facts(Stage),
    /// A stage has come.
    Stage {
        /// The stage.
        stage: Stage,
        /// Whether the MTA waits for an answer.
        answer: bool,
        /// Whether a message that was under way is given up by it.
        abandons: bool,
    },
    /// A recipient that the MTA has rejected has come: to be known, not to be delivered to.
    RejectedRecipient {
        /// Whether the MTA waits for an answer.
        answer: bool,
    },
    /// The message that was under way is given up, with all that is known of it.
    Abort {
        /// Whether there was one.
        abandons: bool,
    },
    /// The client is gone, with all that is known of it and of its message; another one follows.
    NewConnection,
    /// The client and the MTA are gone.
    Quit,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// The session of a connection that has begun.
    pub fn new() -> Self {
        Self {
            state: State::Negotiation,
            actions: Actions::NONE,
            steps: Steps::NONE,
            awaited: None,
            rejected_next: false,
            new_body: NewBody::NotBegun,
        }
    }

    /// Takes the next command.
    ///
    /// # Errors
    /// The command may not come now.
    pub fn receive(&mut self, command: &Command) -> Result<Step, OutOfOrder> {
        self.check(command)?;
        let is_rejected = std::mem::take(&mut self.rejected_next);
        if let Some(stage) = command.stage() {
            return self.receive_stage(stage, is_rejected);
        }
        let abandons = self.state.is_in_message();
        Ok(match command {
            Command::Negotiate(_) => {
                self.state = State::Offered;
                Step::Negotiate
            }
            Command::Macros(macros) => {
                self.rejected_next = self.steps.contain(Steps::REJECTED_RECIPIENTS)
                    && macros.stage == Stage::Rcpt
                    && macros.get("rcpt_mailer").is_some_and(|mailer| mailer == "error");
                Step::Facts(macros.stage)
            }
            Command::Abort => {
                if abandons {
                    self.state = State::Between;
                }
                Step::Abort { abandons }
            }
            Command::QuitNewConnection => {
                self.state = State::Connection;
                Step::NewConnection
            }
            // All others are stages, but for QUIT.
            _ => {
                self.awaited = None;
                self.state = State::Ended;
                Step::Quit
            }
        })
    }

    /// What holds for all commands. QUIT may come at any time.
    fn check(&self, command: &Command) -> Result<(), OutOfOrder> {
        let (name, is_offer) = (command.name(), matches!(command, Command::Negotiate(_)));
        match (self.state, self.awaited) {
            (State::Ended, _) => Err(self.out_of_order(name)),
            _ if matches!(command, Command::Quit) => Ok(()),
            (_, Some(awaited)) => {
                Err(OutOfOrder::Awaited { command: name, awaited: awaited.stage.name() })
            }
            (State::Negotiation, None) if is_offer => Ok(()),
            (_, None) if is_offer => Err(OutOfOrder::NegotiatedTwice),
            (State::Negotiation | State::Offered, None) => Err(OutOfOrder::BeforeNegotiation(name)),
            _ => Ok(()),
        }
    }

    fn receive_stage(&mut self, stage: Stage, is_rejected: bool) -> Result<Step, OutOfOrder> {
        if !self.steps.send(stage) {
            return Err(OutOfOrder::NotWanted(stage.name()));
        }
        if !self.may_come(stage) {
            return Err(self.out_of_order(stage.name()));
        }
        let is_rejected = is_rejected && stage == Stage::Rcpt;
        let abandons = matches!(stage, Stage::Mail | Stage::Helo) && self.state.is_in_message();
        let refused = match stage {
            // The client may go on with the message, whose DATA Postfix sends each time it is tried.
            Stage::Rcpt | Stage::Data | Stage::Unknown => self.state,
            Stage::Connect | Stage::Helo => State::Decided,
            _ => State::Between,
        };
        let accepted = match row(stage).1 {
            Some(next) if !is_rejected => next,
            _ => self.state,
        };
        let answer = self.steps.await_answer(stage);
        if answer {
            self.new_body = NewBody::NotBegun;
            self.awaited = Some(Awaited { stage, is_rejected, accepted, refused });
        } else {
            self.state = accepted;
        }
        Ok(match is_rejected {
            true => Step::RejectedRecipient { answer },
            false => Step::Stage { stage, answer, abandons },
        })
    }

    /// Whether the table has this stage here, or where those lead that the MTA was asked not to send.
    fn may_come(&self, stage: Stage) -> bool {
        let mut state = self.state;
        while !row(stage).0.contains(&state) {
            match state.way_on() {
                Some((passed, next)) if !self.steps.send(passed) => state = next,
                _ => return false,
            }
        }
        true
    }

    fn out_of_order(&self, command: &'static str) -> OutOfOrder {
        OutOfOrder::Order { command, state: self.state.description() }
    }

    /// Appends the answer to the offer.
    ///
    /// # Errors
    /// There is no offer, or it was answered.
    pub fn agree(&mut self, agreed: &Agreed, out: &mut BytesMut) -> Result<(), Misuse> {
        if self.state != State::Offered {
            return Err(Misuse::NotAwaited);
        }
        agreed.encode(out);
        self.actions = agreed.actions;
        self.steps = agreed.steps;
        self.state = State::Connection;
        Ok(())
    }

    /// Appends a sign that the answer is being worked on: the MTA's timeout starts anew. Postfix takes it
    /// at any stage, sendmail at the end of a message only.
    ///
    /// # Errors
    /// No answer is awaited.
    pub fn progress(&mut self, out: &mut BytesMut) -> Result<(), Misuse> {
        self.awaited.ok_or(Misuse::NotAwaited)?;
        self.interrupt_body();
        encode_progress(out);
        Ok(())
    }

    /// Appends a modification of the message at its end.
    ///
    /// # Errors
    /// It is not the end, it was not agreed on, or the MTA could take it for something else.
    pub fn modify(
        &mut self,
        modification: &Modification,
        out: &mut BytesMut,
    ) -> Result<(), Misuse> {
        let awaited = self.awaited.ok_or(Misuse::NotAwaited)?;
        if awaited.stage != Stage::EndOfMessage {
            return Err(Misuse::NotAtEnd);
        }
        let action = modification.action();
        if !self.actions.contain(action) {
            return Err(Misuse::NotAgreed(action));
        }
        if !matches!(modification, Modification::ReplaceBody(_)) {
            self.interrupt_body();
        } else if self.new_body == NewBody::Over {
            return Err(Misuse::BodyInterrupted);
        } else {
            self.new_body = NewBody::Going;
        }
        Ok(modification.encode(out)?)
    }

    fn interrupt_body(&mut self) {
        if self.new_body == NewBody::Going {
            self.new_body = NewBody::Over;
        }
    }

    /// Appends the answer to the stage that came last.
    ///
    /// # Errors
    /// None is awaited, or the stage can't have this one.
    pub fn decide(&mut self, decision: &Decision, out: &mut BytesMut) -> Result<(), Misuse> {
        let awaited = self.awaited.ok_or(Misuse::NotAwaited)?;
        if !self.can_be(decision, awaited) {
            let (decision, stage) = (decision.name(), awaited.stage.name());
            return Err(Misuse::Decision { decision, stage });
        }
        let is_of_connection = matches!(awaited.stage, Stage::Connect | Stage::Helo);
        decision.encode(out);
        self.awaited = None;
        self.state = match decision {
            Decision::Continue | Decision::Skip => awaited.accepted,
            Decision::Reject | Decision::Tempfail | Decision::Reply(_) => awaited.refused,
            Decision::Accept | Decision::Discard if !is_of_connection => State::Between,
            _ => State::Decided,
        };
        Ok(())
    }

    fn can_be(&self, decision: &Decision, Awaited { stage, is_rejected, .. }: Awaited) -> bool {
        match decision {
            // Of a recipient that Postfix has rejected and of a command that it does not know, it would
            // take these for the whole message.
            Decision::Accept => !is_rejected && stage != Stage::Unknown,
            Decision::Discard => {
                !is_rejected && !matches!(stage, Stage::Unknown | Stage::Connect | Stage::Helo)
            }
            Decision::Skip => stage == Stage::Body && self.steps.contain(Steps::SKIP),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests;
