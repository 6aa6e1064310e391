//! The body of `smtp_session`.

use bytes::{Buf, BytesMut};
use ocp_proto::smtp::{Envelope, Reply};

use crate::smtp::command::{Command, Hello};
use crate::smtp::session::{Event, Protocol, Refusal, Replies, Session, Settings};

/// Octets as a client may send them, behind two that say how the session is spoken and which replies it
/// gives: however they are cut, the same events come out and the same replies; and the envelope is the one
/// that the accepted commands make.
///
/// # Panics
/// If that is not so.
pub fn smtp_session(octets: &[u8]) {
    let [kind, seed, octets @ ..] = octets else { return };
    let whole = talk(octets, octets.len().max(1), *kind, *seed);
    let piece = 1 + octets.len() % 7;
    assert_eq!(talk(octets, piece, *kind, *seed), whole, "fragmentation matters");
}

/// What a client may see of a session, and its front end.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// Up to STARTTLS, which is refused if something is behind it in one piece.
    events: Vec<Event>,
    written: BytesMut,
    ending: Ending,
}

#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Open,
    Over,
    Tls,
}

fn talk(octets: &[u8], piece: usize, kind: u8, seed: u8) -> Seen {
    let protocol = if kind & 1 == 0 { Protocol::Smtp } else { Protocol::Lmtp };
    let settings =
        Settings { protocol, largest_chunk: 50, most_recipients: 3, ..Settings::default() };
    let mut peer = Peer::new(Session::new(settings), protocol, seed);
    peer.reply("220 ready");
    let mut input = BytesMut::new();
    for piece in octets.chunks(piece) {
        input.extend_from_slice(piece);
        while let Some(event) = peer.session.receive(&mut input) {
            if matches!(&event, Event::Command(request) if request.command == Command::StartTls)
                || event == Event::Refused(Refusal::Injected)
            {
                check_tls(&mut peer);
                return peer.seen(Ending::Tls);
            }
            peer.take(event);
        }
    }
    let ending = if peer.session.is_over() { Ending::Over } else { Ending::Open };
    peer.seen(ending)
}

/// Whatever was before, nothing is left of it.
fn check_tls(peer: &mut Peer) {
    let mut input = BytesMut::new();
    if peer.session.refuse(&mut BytesMut::new()).is_ok() {
        assert!(peer.session.is_over());
        return;
    }
    peer.session.answer(&reply("220 go on"), &mut BytesMut::new()).expect("it is awaited");
    assert_eq!(peer.session.receive(&mut input), Some(Event::StartTls));
    peer.session.secured().expect("it was told");
    assert_eq!(*peer.session.envelope(), Envelope::default());
    input.extend_from_slice(b"MAIL FROM:<>\r\n");
    assert!(matches!(peer.session.receive(&mut input), Some(Event::Refused(Refusal::First(_)))));
    peer.session.refuse(&mut BytesMut::new()).expect("it was refused");
}

/// A front end that takes and refuses as its seed says, and knows what has to be.
struct Peer {
    session: Session,
    protocol: Protocol,
    seed: u64,
    events: Vec<Event>,
    written: BytesMut,
    replies: usize,
    // The model: what the accepted commands make.
    is_greeted: bool,
    envelope: Envelope,
    has_content: bool,
}

impl Peer {
    fn new(session: Session, protocol: Protocol, seed: u8) -> Self {
        Self {
            session,
            protocol,
            seed: seed.into(),
            events: Vec::new(),
            written: BytesMut::new(),
            replies: 0,
            is_greeted: false,
            envelope: Envelope::default(),
            has_content: false,
        }
    }

    fn reply(&mut self, line: &str) {
        self.session.answer(&reply(line), &mut self.written).expect("it is awaited");
        self.replies += 1;
    }

    /// Mostly on: dialogs that end at once show little.
    fn reply_mostly(&mut self, success: &str) -> bool {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        let line = match (self.seed >> 33) % 12 {
            0 => "451 4.3.0 later",
            1 => "550 5.7.1 no",
            _ => success,
        };
        self.reply(line);
        line == success
    }

    fn take(&mut self, event: Event) {
        match &event {
            Event::Command(request) => self.take_command(&request.command),
            Event::Refused(refusal) => self.take_refusal(*refusal),
            Event::Content(octets) => {
                assert!(!octets.is_empty());
                self.check_content();
            }
            Event::ChunkEnd => {
                self.check_content();
                if !self.reply_mostly("250 ok") {
                    self.clear();
                }
            }
            Event::ContentEnd(replies) => {
                self.check_content();
                self.take_content_end(*replies);
            }
            Event::AuthLine(_) => {
                self.reply_mostly("235 yes");
            }
            Event::StartTls => panic!("STARTTLS was not accepted"),
        }
        if !self.session.is_over() {
            assert!(!self.session.awaits_reply() || matches!(event, Event::Content(_)));
            assert_eq!(*self.session.envelope(), self.envelope, "behind {event:?}");
        }
        self.keep(event);
    }

    fn take_command(&mut self, command: &Command) {
        match command {
            Command::Hello { verb, .. } => {
                assert_eq!(*verb == Hello::Lhlo, self.protocol == Protocol::Lmtp);
                if self.reply_mostly("250 x") {
                    self.is_greeted = true;
                    self.clear();
                }
            }
            Command::Mail(path) => {
                assert!(self.is_greeted && self.envelope.sender.is_none());
                if self.reply_mostly("250 ok") {
                    self.envelope.sender = Some(path.address.clone());
                }
            }
            Command::Rcpt(path) => {
                assert!(self.envelope.sender.is_some() && !self.has_content);
                if self.reply_mostly("250 ok") {
                    self.envelope.recipients.push(path.address.clone());
                }
            }
            Command::Data => {
                assert!(!self.envelope.recipients.is_empty() && !self.has_content);
                self.has_content = self.reply_mostly("354 go on");
            }
            Command::Bdat(chunk) => {
                assert!(!self.session.awaits_reply(), "its octets come first");
                assert!(!self.envelope.recipients.is_empty() && chunk.size <= 50);
                self.has_content = true;
            }
            Command::Rset => {
                if self.reply_mostly("250 ok") {
                    self.clear();
                }
            }
            Command::Xclient(_) => {
                assert!(self.envelope.sender.is_none());
                if self.reply_mostly("220 ready") {
                    self.is_greeted = false;
                }
            }
            Command::Auth { .. } => {
                assert!(self.is_greeted && self.envelope.sender.is_none());
                self.reply_mostly("334 ");
            }
            Command::Quit => {
                self.reply("221 bye");
                assert!(self.session.is_over());
            }
            _ => {
                self.reply_mostly("250 ok");
            }
        }
    }

    fn take_refusal(&mut self, refusal: Refusal) {
        let before = self.written.len();
        self.session.refuse(&mut self.written).expect("it was refused");
        let replies = count_replies(self.written.get(before..).unwrap_or_default());
        self.replies += replies;
        if refusal == Refusal::ChunkTooLarge {
            assert!(replies == 1 || replies == self.envelope.recipients.len());
            self.clear();
        } else {
            assert_eq!(replies, 1);
        }
        assert_eq!(self.session.is_over(), refusal.is_fatal());
    }

    fn check_content(&self) {
        let is_for_somebody =
            self.envelope.sender.is_some() && !self.envelope.recipients.is_empty();
        assert!(is_for_somebody && self.has_content, "content without an envelope");
    }

    fn take_content_end(&mut self, replies: Replies) {
        assert_eq!(replies == Replies::Recipients, self.protocol == Protocol::Lmtp);
        let is_announced = replies == Replies::OneOrRecipients && self.reply_mostly("353 begin");
        if is_announced || replies == Replies::Recipients {
            for _ in 0..self.envelope.recipients.len() {
                assert_eq!(
                    *self.session.envelope(),
                    self.envelope,
                    "it stays until the last reply"
                );
                self.reply_mostly("250 ok");
            }
        }
        if is_announced || replies == Replies::One {
            self.reply_mostly("250 ok");
        }
        self.clear();
    }

    fn clear(&mut self) {
        self.envelope = Envelope::default();
        self.has_content = false;
    }

    /// Pieces of content are put together: where they are cut is no matter.
    fn keep(&mut self, event: Event) {
        match (self.events.last_mut(), event) {
            (Some(Event::Content(before)), Event::Content(octets)) => {
                *before = [&before[..], &octets].concat().into();
            }
            (_, event) => self.events.push(event),
        }
    }

    fn seen(mut self, ending: Ending) -> Seen {
        assert_eq!(count_replies(&self.written), self.replies);
        // What may become an end is kept back, and a piece of it may not have come.
        if let Some(Event::Content(_)) = self.events.last() {
            self.events.pop();
        }
        Seen { events: self.events, written: self.written, ending }
    }
}

fn reply(line: &str) -> Reply {
    Reply::parse(format!("{line}\r\n")).expect("it is valid")
}

/// So many replies of a line are in these octets, and nothing else.
fn count_replies(mut octets: &[u8]) -> usize {
    let mut count = 0;
    while let Some(end) = memchr::memmem::find(octets, b"\r\n") {
        Reply::parse(octets.get(..end + 2).unwrap_or_default().to_vec()).expect("it is a reply");
        octets.advance(end + 2);
        count += 1;
    }
    assert!(octets.is_empty());
    count
}
