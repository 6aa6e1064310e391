//! The grammar as a state machine: finds the end of a head and notes where its values are.
//!
//! The scanner looks at each octet once, however the head is fragmented: it notes names, atoms and
//! brackets on a tape of offsets, and only a complete head is turned into values.

use smallvec::SmallVec;

use super::atom::Atom;
use super::decode::{Expected, Head};
use super::value::{Name, NamedValues, Structure, Value, is_safe};
use crate::ids::MAXIMUM;
use crate::limits::WireLimits;

/// How far a scan got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// More octets are needed.
    More,
    /// The message ends behind these octets.
    End { length: usize },
    /// A payload of this size follows behind these octets.
    Payload { length: usize, size: u32 },
}

/// What the next octet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    MessageName,
    /// In a name, which ends at the first octet that is not safe.
    Name(Named),
    /// After the name: the colon, then the blank.
    Colon,
    Blank,
    Value,
    /// After an opening bracket.
    FirstItem,
    FirstMember,
    Bare,
    /// In the size of a quoted value or a payload; `digits` so far.
    Size {
        size: u32,
        digits: u8,
        of: Sized,
    },
    /// In quoted data that ends there.
    Quoted {
        end: usize,
    },
    /// After a value.
    After,
    /// After CR.
    LineFeed(Line),
    /// At the start of a line.
    Line(Line),
    /// After `;`.
    FinalCarriageReturn,
    FinalLineFeed,
}

/// Which name it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    Message,
    Parameter,
    Member,
}

/// What has a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sized {
    Quoted,
    Payload,
}

/// Which line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// After the anonymous parameters.
    First,
    /// After a named parameter.
    Next,
    /// After the named parameters and an empty line.
    Payload,
    /// In a structure, after its anonymous members.
    FirstMember,
    /// In a structure, after a named member.
    NextMember,
}

/// Where a value stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Anonymous,
    /// Named parameter. Kept may have a second value.
    Parameter {
        second: bool,
    },
    List,
    Member,
    NamedMember,
}

/// Something found in a head: offsets from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    kind: TokenKind,
    start: u32,
    end: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenKind {
    Name,
    Atom,
    /// The second value of Kept: with the atom before it one structure.
    SecondAtom,
    ListStart,
    StructureStart,
    End,
}

/// The tape's capacity that is kept between messages.
const KEPT_TOKENS: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    state: State,
    /// Octets of the head that were looked at.
    position: usize,
    /// Where the current name or atom starts.
    start: usize,
    place: Place,
    /// The places around this one.
    outer: SmallVec<[Place; 8]>,
    tape: Vec<Token>,
}

impl Scanner {
    pub(super) fn is_at_start(&self) -> bool {
        self.position == 0
    }

    /// Goes on with a head that starts at the first octet of `input`.
    pub(super) fn scan(
        &mut self,
        input: &[u8],
        limits: &WireLimits,
    ) -> Result<Step, (usize, Expected)> {
        while let Some(&octet) = input.get(self.position) {
            if self.position >= limits.head_octets {
                return Err((self.position, Expected::HeadLimit));
            }
            match self.state {
                State::Name(_) | State::Bare => {
                    // A run is no longer than a head may be, however much of it is there at once.
                    let end = input.len().min(limits.head_octets);
                    let rest = input.get(self.position..end).unwrap_or_default();
                    let run = rest.iter().take_while(|octet| is_safe(**octet)).count();
                    self.position += run;
                    if run < rest.len() {
                        self.end_run(limits)?;
                    }
                    continue;
                }
                State::Quoted { end } if self.position < end => {
                    // The size alone tells where data ends; there is nothing to look at.
                    self.position = end.min(input.len());
                    continue;
                }
                _ => {}
            }
            let step =
                self.step(octet, input, limits).map_err(|expected| (self.position, expected))?;
            self.position += 1;
            match step {
                None => {}
                Some(None) => return Ok(Step::End { length: self.position }),
                Some(Some(size)) => return Ok(Step::Payload { length: self.position, size }),
            }
        }
        Ok(Step::More)
    }

    /// A name or a bare value ends before the octet at `position`.
    fn end_run(&mut self, limits: &WireLimits) -> Result<(), (usize, Expected)> {
        let at = self.position;
        let kind = match self.state {
            State::Name(_) => TokenKind::Name,
            _ => self.atom_kind(),
        };
        self.note(kind, self.start, at, limits).map_err(|expected| (at, expected))?;
        self.state = match self.state {
            State::Name(Named::Parameter | Named::Member) => State::Colon,
            _ => State::After,
        };
        Ok(())
    }

    /// Takes one octet; what it ends, if anything: the message, or the size of its payload.
    fn step(
        &mut self,
        octet: u8,
        input: &[u8],
        limits: &WireLimits,
    ) -> Result<Option<Option<u32>>, Expected> {
        self.state = match self.state {
            State::MessageName => self.begin_name(octet, Named::Message, Expected::MessageName)?,
            State::Colon if octet == b':' => State::Blank,
            State::Colon => return Err(Expected::Colon),
            State::Blank if octet == b' ' => State::Value,
            State::Blank => return Err(Expected::Blank),
            State::FirstItem if octet == b')' => self.close(limits)?,
            State::FirstMember if octet == b'}' => self.close(limits)?,
            State::FirstMember if octet == b'\r' => State::LineFeed(Line::FirstMember),
            State::Value | State::FirstItem | State::FirstMember => {
                self.begin_value(octet, limits)?
            }
            State::Size { size, digits, of } => match (octet, of) {
                (b':', Sized::Payload) if digits > 0 => return Ok(Some(Some(size))),
                (b':', Sized::Quoted) if digits > 0 => self.begin_data(size, limits)?,
                _ => add_digit(octet, size, digits, of, limits)?,
            },
            State::Quoted { end } if octet == b'"' => {
                self.note(self.atom_kind(), self.start, end, limits)?;
                State::After
            }
            State::Quoted { .. } => return Err(Expected::ClosingQuote),
            State::After => self.after_value(octet, input, limits)?,
            State::LineFeed(line) if octet == b'\n' => State::Line(line),
            State::LineFeed(_) => return Err(Expected::LineFeed),
            State::Line(line) => self.begin_line(octet, line, limits)?,
            State::FinalCarriageReturn if octet == b'\r' => State::FinalLineFeed,
            State::FinalLineFeed if octet == b'\n' => return Ok(Some(None)),
            State::FinalCarriageReturn | State::FinalLineFeed => return Err(Expected::MessageEnd),
            // `scan` takes runs of safe octets itself.
            State::Name(_) | State::Bare => return Err(Expected::Value),
        };
        Ok(None)
    }

    fn begin_name(
        &mut self,
        octet: u8,
        named: Named,
        expected: Expected,
    ) -> Result<State, Expected> {
        self.start = self.position;
        octet.is_ascii_alphabetic().then_some(State::Name(named)).ok_or(expected)
    }

    fn begin_value(&mut self, octet: u8, limits: &WireLimits) -> Result<State, Expected> {
        self.start = self.position;
        let second = self.place == Place::Parameter { second: true };
        match octet {
            b'"' => Ok(State::Size { size: 0, digits: 0, of: Sized::Quoted }),
            b'(' if !second => {
                self.open(TokenKind::ListStart, Place::List, limits)?;
                Ok(State::FirstItem)
            }
            b'{' if !second => {
                self.open(TokenKind::StructureStart, Place::Member, limits)?;
                Ok(State::FirstMember)
            }
            octet if is_safe(octet) => Ok(State::Bare),
            _ => Err(Expected::Value),
        }
    }

    /// The counted octets begin behind the colon.
    fn begin_data(&mut self, size: u32, limits: &WireLimits) -> Result<State, Expected> {
        self.start = self.position + 1;
        let end = self.start.saturating_add(size as usize);
        if end >= limits.head_octets {
            return Err(Expected::HeadLimit);
        }
        Ok(State::Quoted { end })
    }

    fn begin_line(
        &mut self,
        octet: u8,
        line: Line,
        limits: &WireLimits,
    ) -> Result<State, Expected> {
        match (line, octet) {
            (Line::First | Line::Next, octet) if octet.is_ascii_alphabetic() => {
                self.place = Place::Parameter { second: false };
                self.begin_name(octet, Named::Parameter, Expected::NameOrPayload)
            }
            (Line::FirstMember | Line::NextMember, octet) if octet.is_ascii_alphabetic() => {
                self.place = Place::NamedMember;
                self.begin_name(octet, Named::Member, Expected::MemberName)
            }
            (Line::First | Line::Payload, octet) if octet.is_ascii_digit() => {
                add_digit(octet, 0, 0, Sized::Payload, limits)
            }
            (Line::Next, b';') => Ok(State::FinalCarriageReturn),
            (Line::Next, b'\r') => Ok(State::LineFeed(Line::Payload)),
            (Line::NextMember, b'}') => self.close(limits),
            (Line::First, _) => Err(Expected::NameOrPayload),
            (Line::Next, _) => Err(Expected::NextParameter),
            (Line::Payload, _) => Err(Expected::Size),
            (Line::FirstMember, _) => Err(Expected::MemberName),
            (Line::NextMember, _) => Err(Expected::NextMember),
        }
    }

    fn after_value(
        &mut self,
        octet: u8,
        input: &[u8],
        limits: &WireLimits,
    ) -> Result<State, Expected> {
        match (self.place, octet) {
            (Place::Anonymous | Place::Member, b' ') | (Place::List, b',') => Ok(State::Value),
            (Place::Anonymous, b'\r') => Ok(State::LineFeed(Line::First)),
            (Place::Anonymous, b';') => Ok(State::FinalCarriageReturn),
            (Place::Parameter { .. }, b'\r') => Ok(State::LineFeed(Line::Next)),
            // The two values that RFC 4037 section 11.9 gives to Kept.
            (Place::Parameter { second: false }, b' ') if self.is_kept(input) => {
                self.place = Place::Parameter { second: true };
                Ok(State::Value)
            }
            (Place::List, b')') | (Place::Member, b'}') => self.close(limits),
            (Place::Member, b'\r') => Ok(State::LineFeed(Line::FirstMember)),
            (Place::NamedMember, b'\r') => Ok(State::LineFeed(Line::NextMember)),
            (Place::Anonymous, _) => Err(Expected::AfterAnonymous),
            (Place::Parameter { .. } | Place::NamedMember, _) => Err(Expected::AfterNamed),
            (Place::List, _) => Err(Expected::ListEnd),
            (Place::Member, _) => Err(Expected::AfterMember),
        }
    }

    /// Whether the atom that was just read is the value of a parameter called Kept.
    fn is_kept(&self, input: &[u8]) -> bool {
        match self.tape.as_slice() {
            [.., name, atom] if atom.kind == TokenKind::Atom => {
                input.get(name.start as usize..name.end as usize) == Some(b"Kept")
            }
            _ => false,
        }
    }

    fn atom_kind(&self) -> TokenKind {
        match self.place {
            Place::Parameter { second: true } => TokenKind::SecondAtom,
            _ => TokenKind::Atom,
        }
    }

    fn open(&mut self, kind: TokenKind, place: Place, limits: &WireLimits) -> Result<(), Expected> {
        if self.outer.len() >= limits.depth {
            return Err(Expected::DepthLimit);
        }
        self.note(kind, self.position, self.position, limits)?;
        self.outer.push(std::mem::replace(&mut self.place, place));
        Ok(())
    }

    fn close(&mut self, limits: &WireLimits) -> Result<State, Expected> {
        self.note(TokenKind::End, self.position, self.position, limits)?;
        self.place = self.outer.pop().unwrap_or_default();
        Ok(State::After)
    }

    fn note(
        &mut self,
        kind: TokenKind,
        start: usize,
        end: usize,
        limits: &WireLimits,
    ) -> Result<(), Expected> {
        if self.tape.len() >= limits.values {
            return Err(Expected::ValueLimit);
        }
        let offset = |at| u32::try_from(at).map_err(|_| Expected::HeadLimit);
        self.tape.push(Token { kind, start: offset(start)?, end: offset(end)? });
        Ok(())
    }

    /// Turns the scanned head, with which `octets` begin, into values, and starts over.
    pub(super) fn take(&mut self, octets: &[u8], payload: Option<u32>) -> Head {
        let Self { tape, outer, .. } = self;
        let mut reader = Reader { octets, tokens: tape.iter().copied().peekable() };
        let mut head = Head {
            name: reader.name(),
            anonymous: SmallVec::new(),
            named: NamedValues::new(),
            payload,
        };
        reader.values(|value| head.anonymous.push(value), &mut head.named);
        tape.clear();
        tape.shrink_to(KEPT_TOKENS);
        outer.clear();
        (self.state, self.position, self.place) = Default::default();
        head
    }
}

fn add_digit(
    octet: u8,
    size: u32,
    digits: u8,
    of: Sized,
    limits: &WireLimits,
) -> Result<State, Expected> {
    if !octet.is_ascii_digit() {
        return Err(if digits == 0 { Expected::Size } else { Expected::SizeEnd });
    }
    if digits > 0 && size == 0 {
        return Err(Expected::SizeEnd);
    }
    // At most 2147483647 × 10 + 9: the sum needs more than 32 bits.
    let size = u64::from(size) * 10 + u64::from(octet - b'0');
    let size = u32::try_from(size).ok().filter(|size| *size <= MAXIMUM);
    let size = size.ok_or(Expected::SizeRange)?;
    if of == Sized::Payload && size > limits.payload {
        return Err(Expected::PayloadLimit);
    }
    Ok(State::Size { size, digits: digits.saturating_add(1), of })
}

/// Reads values off the tape. The scanner has checked that they are complete, so the defaults that
/// stand for missing tokens are never used.
struct Reader<'a, I: Iterator<Item = Token>> {
    octets: &'a [u8],
    tokens: std::iter::Peekable<I>,
}

impl<I: Iterator<Item = Token>> Reader<'_, I> {
    fn atom(&self, token: Token) -> Atom {
        Atom::at(self.octets, token.start as usize..token.end as usize)
    }

    fn name(&mut self) -> Name {
        let octets = self.tokens.next().map(|token| self.atom(token));
        Name::from_checked(octets.unwrap_or_default())
    }

    fn value(&mut self) -> Value {
        let token = self.tokens.next();
        token.map_or_else(|| Value::Atom(Atom::new()), |token| self.value_of(token))
    }

    /// The value that begins with this token. The scanner bounds the depth.
    fn value_of(&mut self, token: Token) -> Value {
        match token.kind {
            TokenKind::ListStart => {
                let mut items = Vec::new();
                while let Some(token) = self.tokens.next() {
                    if token.kind == TokenKind::End {
                        break;
                    }
                    items.push(self.value_of(token));
                }
                Value::List(items)
            }
            TokenKind::StructureStart => Value::Structure(self.structure()),
            _ => Value::Atom(self.atom(token)),
        }
    }

    /// Anonymous values, then named ones, up to the end of them.
    fn values(&mut self, mut anonymous: impl FnMut(Value), named: &mut NamedValues) {
        let first = loop {
            match self.tokens.next() {
                None => return,
                Some(token) => match token.kind {
                    TokenKind::End => return,
                    TokenKind::Name => break token,
                    _ => anonymous(self.value_of(token)),
                },
            }
        };
        let pairs = named.pairs();
        let mut next = Some(first);
        while let Some(token) = next.filter(|token| token.kind == TokenKind::Name) {
            let name = Name::from_checked(self.atom(token));
            let value = self.value();
            pairs.push((name, self.with_second(value)));
            next = self.tokens.next();
        }
    }

    fn structure(&mut self) -> Structure {
        let mut structure = Structure::default();
        self.values(|value| structure.members.push(value), &mut structure.named);
        structure
    }

    /// Kept's two values as the structure that they mean.
    fn with_second(&mut self, first: Value) -> Value {
        match self.tokens.next_if(|token| token.kind == TokenKind::SecondAtom) {
            Some(second) => {
                let members = vec![first, Value::Atom(self.atom(second))];
                Value::Structure(Structure { members, named: NamedValues::new() })
            }
            None => first,
        }
    }
}
