//! One connection of an MTA: packets in, answers out, each stage's answers in one write.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use ocp_proto::smtp::Command as EventCommand;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::dialogue::{Dialogue, Told};
use super::sent::Sent;
use crate::input::make_room;
use crate::metrics::ListenerMetrics;
use crate::milter::{
    Actions, Agreed, CannotAgree, Command, Decision, Decoder, InvalidCommand, InvalidPacket,
    MacroName, MacroStage, Misuse, OutOfOrder, Session, Stage, Step, Steps, Wanted, negotiate,
    packet,
};
use crate::processor::Processor;

/// Octets of one read.
const READ: usize = 64 * 1024;

/// Octets that are missing of a packet from which on nothing is read behind it but the length of the next
/// one: that one gets a place of its own, and what has come of it needs not be moved there.
const LARGE: usize = 16 * 1024;

/// How long an MTA may say nothing: its SMTP client may think for five minutes at each command (RFC
/// 5321 section 4.5.3.2), and libmilter waits as long as this.
const IDLE: Duration = Duration::from_secs(7_210);

/// How long the rest of a packet that has begun may take, and a write.
const PACKET: Duration = Duration::from_secs(60);

/// Why a connection ended otherwise than by the MTA's wish.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the socket: {0}")]
    Socket(#[from] std::io::Error),
    #[error(transparent)]
    Packet(#[from] InvalidPacket),
    #[error(transparent)]
    Command(#[from] InvalidCommand),
    #[error(transparent)]
    Order(#[from] OutOfOrder),
    #[error(transparent)]
    Options(#[from] CannotAgree),
    #[error("our answer: {0}")]
    Answer(#[from] Misuse),
    #[error("nothing came for {0:?}")]
    Silence(Duration),
    #[error("the MTA went away in the middle of {0}")]
    Lost(&'static str),
}

/// A socket that an MTA writes to.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Tells the MTA's system that its octets are here, where no answer does so.
    ///
    /// Postfix writes what it awaits no answer to a piece at a time; its system keeps a small piece back
    /// while an earlier one is not acknowledged (RFC 896), and ours waits 40 ms for an answer that could
    /// take the acknowledgement along (RFC 1122 section 4.2.3.2).
    fn acknowledge(&self);
}

impl Stream for TcpStream {
    fn acknowledge(&self) {
        // Without it everything works, but slowly.
        #[cfg(target_os = "linux")]
        let _ = self.set_quickack(true);
    }
}

impl Stream for UnixStream {
    fn acknowledge(&self) {}
}

/// A connection.
pub(super) struct Connection<S> {
    stream: S,
    input: BytesMut,
    output: BytesMut,
    session: Session,
    /// What the MTA was asked to send of a message.
    sent: Sent,
    /// What the MTA lets us change.
    actions: Actions,
    processor: Arc<Processor>,
    listen: Arc<ListenerMetrics>,
}

impl<S: Stream> Connection<S> {
    pub(super) fn new(stream: S, processor: Arc<Processor>, listen: Arc<ListenerMetrics>) -> Self {
        let session = Session::new();
        let (input, output) = (BytesMut::new(), BytesMut::new());
        let actions = Actions::NONE;
        let sent = Sent::Nothing;
        Self { stream, input, output, session, sent, actions, processor, listen }
    }

    /// Serves it until the MTA ends it, or until `stop` while no message is under way.
    ///
    /// # Errors
    /// What else ended it.
    pub(super) async fn serve(mut self, stop: CancellationToken) -> Result<(), Broken> {
        let mut dialogue = self.dialogue();
        let served = self.converse(&mut dialogue, stop).await;
        dialogue.abandon();
        served
    }

    async fn converse(
        &mut self,
        dialogue: &mut Dialogue,
        stop: CancellationToken,
    ) -> Result<(), Broken> {
        let mut decoder = Decoder::new(packet::MAXIMUM_PACKET);
        loop {
            let mut answered = false;
            while let Some(packet) = decoder.decode(&mut self.input)? {
                let command = Command::parse(packet)?;
                match self.session.receive(&command)? {
                    Step::Negotiate => {
                        self.agree(&command)?;
                        *dialogue = self.dialogue();
                    }
                    Step::Facts(_) => {
                        if let Command::Macros(macros) = command {
                            dialogue.learn(macros);
                        }
                    }
                    Step::Stage { stage, answer, abandons } => {
                        if abandons {
                            dialogue.abandon();
                        }
                        let told = self.work(dialogue, command, stage, answer).await?;
                        self.tell(dialogue, told, stage, answer)?;
                    }
                    Step::RejectedRecipient { answer } => {
                        self.tell(dialogue, Decision::Continue.into(), Stage::Rcpt, answer)?;
                    }
                    Step::Abort { .. } => dialogue.abandon(),
                    Step::NewConnection => {
                        dialogue.abandon();
                        *dialogue = self.dialogue();
                    }
                    Step::Quit => return Ok(()),
                }
                answered |= self.write().await?;
            }
            if !answered {
                self.stream.acknowledge();
            }
            let is_idle = self.input.is_empty();
            let patience = if is_idle { IDLE } else { PACKET };
            let missing = Decoder::missing(&self.input).filter(|missing| *missing >= LARGE);
            let most = missing.unwrap_or(READ);
            make_room(&mut self.input, most);
            let mut room = (&mut self.input).limit(most);
            let read = timeout_at(Instant::now() + patience, self.stream.read_buf(&mut room));
            let count = tokio::select! {
                read = read => read.map_err(|_| Broken::Silence(patience))??,
                () = stop.cancelled(), if is_idle && !dialogue.has_mail() => return Ok(()),
            };
            if count == 0 {
                return match (dialogue.has_mail(), is_idle) {
                    (true, _) => Err(Broken::Lost("a message")),
                    (false, false) => Err(Broken::Lost("a packet")),
                    (false, true) => Ok(()),
                };
            }
        }
    }

    fn dialogue(&self) -> Dialogue {
        let (processor, listen) = (Arc::clone(&self.processor), Arc::clone(&self.listen));
        Dialogue::new(processor, listen, self.sent, self.actions)
    }

    fn agree(&mut self, command: &Command) -> Result<(), Broken> {
        let Command::Negotiate(offer) = command else { return Ok(()) };
        let sent = Sent::wanted(&self.processor);
        let agreed: Agreed = negotiate(offer, &wanted(&self.processor, sent))?;
        self.sent = sent.agreed(agreed.steps);
        self.actions = agreed.actions;
        Ok(self.session.agree(&agreed, &mut self.output)?)
    }

    /// Works on a stage, and tells the MTA so where that takes time.
    async fn work(
        &mut self,
        dialogue: &mut Dialogue,
        command: Command,
        stage: Stage,
        answer: bool,
    ) -> Result<Told, Broken> {
        let progress = self.processor.config().limits.progress_interval;
        let mut work = pin!(dialogue.stage(command));
        loop {
            tokio::select! {
                biased;
                told = &mut work => return Ok(told),
                read = self.stream.read_buf(&mut self.input), if self.input.len() < READ => {
                    if read? == 0 {
                        return Err(Broken::Lost(stage.name()));
                    }
                }
                () = sleep(progress), if answer && stage == Stage::EndOfMessage => {
                    self.session.progress(&mut self.output)?;
                    write(&mut self.stream, &mut self.output).await?;
                    self.listen.told_of_progress();
                }
            }
        }
    }

    /// Appends all answers of a stage. What the MTA has not agreed to ends in the failure policy.
    fn tell(
        &mut self,
        dialogue: &mut Dialogue,
        told: Told,
        stage: Stage,
        answer: bool,
    ) -> Result<(), Broken> {
        let Told { modifications, decision } = told;
        if !answer {
            dialogue.owe(stage, decision);
            return Ok(());
        }
        let before = self.output.len();
        for modification in &modifications {
            if let Err(error) = self.session.modify(modification, &mut self.output) {
                self.output.truncate(before);
                let decision = dialogue.can_not(&error);
                return Ok(self.session.decide(&decision, &mut self.output)?);
            }
        }
        self.listen.modified(&modifications);
        Ok(self.session.decide(&decision, &mut self.output)?)
    }

    /// Writes what there is; whether there was anything.
    async fn write(&mut self) -> Result<bool, Broken> {
        write(&mut self.stream, &mut self.output).await
    }
}

async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    output: &mut BytesMut,
) -> Result<bool, Broken> {
    if output.is_empty() {
        return Ok(false);
    }
    let written = timeout_at(Instant::now() + PACKET, stream.write_all_buf(output)).await;
    written.map_err(|_| Broken::Silence(PACKET))??;
    Ok(true)
}

/// What we want of an MTA: stages that no group wants cost nothing, those that are only watched cost no
/// answer.
pub(super) fn wanted(processor: &Processor, sent: Sent) -> Wanted {
    let mut steps = Steps::LEADING_SPACE
        .and(Steps::NO_UNKNOWN)
        .and(Steps::NO_REPLY_HEADER)
        .and(Steps::NO_REPLY_END_OF_HEADER)
        .and(sent.steps());
    // Who the client is, and the envelope, services want to know at each event.
    let stages = [
        (EventCommand::Connect, Stage::Connect),
        (EventCommand::Helo, Stage::Helo),
        (EventCommand::Mail, Stage::Mail),
        (EventCommand::Rcpt, Stage::Rcpt),
        (EventCommand::Data, Stage::Data),
    ];
    for (command, stage) in stages {
        if !processor.waits_for(&command) {
            steps = steps.and(Steps::not_answered(stage));
        }
    }
    if !processor.wants(&EventCommand::Data) {
        steps = steps.and(Steps::NO_DATA);
    }
    let actions = Actions::ADD_FIELDS
        .and(Actions::CHANGE_FIELDS)
        .and(Actions::REPLACE_BODY)
        .and(Actions::ADD_RECIPIENTS)
        .and(Actions::ADD_RECIPIENTS_WITH_ARGUMENTS)
        .and(Actions::DELETE_RECIPIENTS)
        .and(Actions::CHANGE_SENDER)
        .and(Actions::QUARANTINE)
        .and(Actions::SET_MACROS);
    Wanted {
        needed_actions: Actions::NONE,
        useful_actions: actions,
        needed_steps: Steps::NONE,
        useful_steps: steps,
        macros: macros(),
    }
}

/// The macros that say something to services (`facts`).
fn macros() -> Vec<(MacroStage, Vec<MacroName>)> {
    let stages: [(MacroStage, &[&str]); 4] = [
        (
            MacroStage::Connect,
            &[
                "j",
                "_",
                "daemon_addr",
                "daemon_port",
                "client_addr",
                "client_port",
                "client_name",
                "client_resolve",
            ],
        ),
        (MacroStage::Helo, &["tls_version", "cipher", "cert_subject", "verify"]),
        (MacroStage::Mail, &["i", "auth_type", "auth_authen", "tls_version", "cipher"]),
        (MacroStage::EndOfMessage, &["i"]),
    ];
    let name = |name: &&'static str| MacroName::new(name.as_bytes());
    stages.iter().map(|(stage, names)| (*stage, names.iter().map(name).collect())).collect()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_gets_no_answer_is_acknowledged_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut mta = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        // As the system does once an answer has taken an acknowledgement along.
        stream.set_quickack(false).unwrap();
        mta.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        assert!(!stream.quickack().unwrap());
        stream.acknowledge();
        assert!(stream.quickack().unwrap());
    }
}
