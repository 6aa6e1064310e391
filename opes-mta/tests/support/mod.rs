//! A callout server that plays a script, honest or not.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::{Buf, Bytes};
use ocp_proto::smtp::{Command, CommandProfile, DIALOG, FailurePolicy, Part, Profile};
use ocp_proto::{
    AdaptedEnd, AdaptedStart, Config, Connection, Event, OcpResult, Response, Role, Xid,
};
use opes_mta::front::file;
use opes_mta::ocp::{Client, ServerAddress, Target};

/// One step of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// AMS.
    Start,
    /// DUY.
    Keep(Range<u32>),
    /// DUM.
    Data(Part, Bytes),
    /// AME.
    End(AdaptedEnd),
    /// TE.
    Finish(OcpResult, bool),
    /// These octets, whatever they mean; `{x}` is the xid.
    Raw(String),
    /// The same data for ever.
    Endless(Part),
    /// The transport goes.
    HangUp,
    /// Dialog-End for the dialog of the event.
    EndDialog,
    /// Dialog-Drain.
    Drain,
}

/// What a server answers to an event with these octets.
pub(crate) type Script = Arc<dyn Fn(&Command, &[u8]) -> Vec<Step> + Send + Sync>;

pub(crate) fn script(
    play: impl Fn(&Command, &[u8]) -> Vec<Step> + Send + Sync + 'static,
) -> Script {
    Arc::new(play)
}

/// AMS, DUY of everything, AME, TE.
pub(crate) fn keep(octets: &[u8]) -> Vec<Step> {
    answer([Step::Keep(0..octets.len() as u32)])
}

pub(crate) fn answer(steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    answer_with(steps, AdaptedEnd::default())
}

pub(crate) fn answer_with(steps: impl IntoIterator<Item = Step>, end: AdaptedEnd) -> Vec<Step> {
    let mut all = vec![Step::Start];
    all.extend(steps);
    all.extend([Step::End(end), Step::Finish(OcpResult::ok(), false)]);
    all
}

pub(crate) fn reply(text: &'static str) -> Step {
    Step::Data(Part::Reply, Bytes::from_static(text.as_bytes()))
}

/// A profile of a server that wants these events.
pub(crate) fn wants(commands: impl IntoIterator<Item = Command>) -> CommandProfile {
    CommandProfile {
        commands: commands.into_iter().collect(),
        on_failure: Some(FailurePolicy::Tempfail),
        ..CommandProfile::default()
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    thread: JoinHandle<Vec<Event>>,
}

impl Server {
    /// Serves that many connections on a port of the system's choice.
    pub(crate) fn start(connections: usize, profile: impl Into<Profile>, play: Script) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), connections, profile, play)
    }

    /// Serves where another one has served.
    pub(crate) fn start_at(
        address: SocketAddr,
        connections: usize,
        profile: impl Into<Profile>,
        play: Script,
    ) -> Self {
        let profile = profile.into();
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let peers: Vec<_> = (0..connections)
                .map(|_| {
                    let (stream, _) = listener.accept().unwrap();
                    let (profile, play) = (profile.clone(), Arc::clone(&play));
                    std::thread::spawn(move || serve(stream, profile, play))
                })
                .collect();
            peers.into_iter().flat_map(|peer| peer.join().unwrap()).collect()
        });
        Self { address, thread }
    }

    pub(crate) fn target(&self) -> Target {
        let server: ServerAddress = self.address.to_string().parse().unwrap();
        file::target(server, vec!["ocp://service/test".to_owned()])
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.target()).await.unwrap()
    }

    /// What the server saw, once its connections are over.
    pub(crate) async fn events(self) -> Vec<Event> {
        tokio::task::spawn_blocking(|| self.thread.join().unwrap()).await.unwrap()
    }
}

/// Serves one connection.
pub(crate) fn serve(
    stream: impl Read + Write,
    profile: impl Into<Profile>,
    play: Script,
) -> Vec<Event> {
    Peer::new(stream, profile.into(), play).run()
}

struct Peer<S> {
    stream: S,
    connection: Connection,
    profile: Profile,
    play: Script,
    open: HashMap<Xid, (Command, ocp_proto::DialogId, Vec<u8>)>,
    seen: Vec<Event>,
}

impl<S: Read + Write> Peer<S> {
    fn new(stream: S, profile: Profile, play: Script) -> Self {
        let connection = Connection::new(Role::Server, Config::default(), Instant::now());
        Self { stream, connection, profile, play, open: HashMap::new(), seen: Vec::new() }
    }

    fn run(mut self) -> Vec<Event> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            while let Some(event) = self.connection.poll_event() {
                if self.handle(&event).is_none() {
                    return self.seen;
                }
                self.seen.push(event);
            }
            if self.flush().is_none() || self.connection.is_closed() {
                return self.seen;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => self.connection.handle_end_of_input(),
                Ok(count) => {
                    self.connection.input().extend_from_slice(&buffer[..count]);
                    self.connection.handle_input(Instant::now());
                }
            }
        }
    }

    fn flush(&mut self) -> Option<()> {
        let count = self.connection.output().remaining();
        let octets = self.connection.output().copy_to_bytes(count);
        self.stream.write_all(&octets).ok()
    }

    /// `None` when the transport is gone.
    fn handle(&mut self, event: &Event) -> Option<()> {
        match event {
            Event::Offered(offer) => {
                let feature = match offer.group {
                    None => offer.feature(DIALOG).cloned(),
                    Some(_) => Some(self.profile.to_structure()),
                };
                // A profile that was not offered is declined.
                let _ = self.connection.respond(Response { feature, ..Response::default() });
            }
            Event::OriginalStarted { xid, start: Some(start) } => {
                self.open.insert(*xid, (start.command.clone(), start.dialog, Vec::new()));
            }
            Event::Data { xid, octets, .. } => {
                self.open.get_mut(xid).unwrap().2.extend_from_slice(octets);
            }
            Event::Paused { xid } => self.connection.want_more(*xid, None).unwrap(),
            Event::OriginalEnded { xid, .. } => {
                let (command, dialog, octets) = self.open.remove(xid).unwrap();
                for step in (self.play)(&command, &octets) {
                    self.step(*xid, dialog, step)?;
                }
            }
            _ => {}
        }
        Some(())
    }

    fn step(&mut self, xid: Xid, dialog: ocp_proto::DialogId, step: Step) -> Option<()> {
        let connection = &mut self.connection;
        match step {
            Step::Start => {
                connection.start_adapted(xid, Vec::new(), &AdaptedStart::default()).unwrap();
            }
            Step::Keep(range) => connection.use_preserved(xid, range, None).unwrap(),
            Step::Data(part, octets) => connection.send_adapted(xid, part, octets, None).unwrap(),
            Step::End(end) => connection.end_adapted(xid, &end).unwrap(),
            Step::Finish(result, retry) => {
                connection.end_transaction(xid, &result, retry).unwrap();
            }
            Step::EndDialog => {
                connection.end_dialog(dialog, OcpResult::failure("too many dialogs")).unwrap();
            }
            Step::Drain => connection.drain().unwrap(),
            Step::Raw(text) => {
                self.flush()?;
                let text = text.replace("{x}", &xid.to_string());
                self.stream.write_all(text.as_bytes()).ok()?;
            }
            Step::Endless(part) => {
                let octets = Bytes::from(vec![b'x'; 64 * 1024]);
                loop {
                    self.connection.send_adapted(xid, part, octets.clone(), None).unwrap();
                    self.flush()?;
                }
            }
            Step::HangUp => {
                self.flush()?;
                return None;
            }
        }
        Some(())
    }
}
