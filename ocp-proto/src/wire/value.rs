//! Values: atoms, lists and structures (RFC 4037 section 3.1).

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use super::atom::Atom;
use super::encode::Digits;

/// A name of a message, a named parameter or a named member: a letter, then letters, digits, `-`
/// and `_`. Case matters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Atom);

impl Name {
    /// A name of this program.
    ///
    /// # Panics
    /// If `name` is not a name; give constants only.
    pub const fn from_static(name: &'static str) -> Self {
        assert!(is_name(name.as_bytes()), "not a name");
        Self(Atom::from_static(name.as_bytes()))
    }

    /// The octets as a name, or `None` if the grammar does not allow them.
    pub fn new(octets: Atom) -> Option<Self> {
        is_name(&octets).then_some(Self(octets))
    }

    /// The name as text; names are ASCII.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Wraps octets that the decoder has checked already.
    pub(crate) fn from_checked(octets: Atom) -> Self {
        debug_assert!(is_name(&octets));
        Self(octets)
    }
}

const fn is_name(octets: &[u8]) -> bool {
    let Some((first, mut rest)) = octets.split_first() else { return false };
    if !first.is_ascii_alphabetic() {
        return false;
    }
    while let Some((octet, tail)) = rest.split_first() {
        if !is_safe(*octet) {
            return false;
        }
        rest = tail;
    }
    true
}

/// Whether the octet may stand in names and bare values (`safe-OCTET`).
#[inline]
#[allow(clippy::indexing_slicing, reason = "there is an entry for each octet")]
pub const fn is_safe(octet: u8) -> bool {
    SAFE[octet as usize]
}

/// Looked up rather than compared: it is asked about each octet of a head.
#[allow(clippy::indexing_slicing, reason = "there is an entry for each octet")]
const SAFE: [bool; 256] = {
    let mut safe = [false; 256];
    let mut octet = 0_u8;
    while octet.is_ascii() {
        safe[octet as usize] = octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
        octet += 1;
    }
    safe
};

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A value. Bare and quoted atoms are the same value once the quoting is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// An octet string, without its quoting.
    Atom(Atom),
    /// Values in order.
    List(Vec<Value>),
    /// Anonymous and named members.
    Structure(Structure),
}

impl Value {
    /// An atom of these octets.
    pub fn atom(octets: impl Into<Atom>) -> Self {
        Self::Atom(octets.into())
    }

    /// A decimal number.
    pub fn number(number: u32) -> Self {
        Self::Atom(Digits::of(number).as_slice().into())
    }

    /// The octets, if this is an atom.
    pub fn as_atom(&self) -> Option<&Atom> {
        match self {
            Self::Atom(octets) => Some(octets),
            _ => None,
        }
    }

    /// The items, if this is a list.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// The structure, if this is one.
    pub fn as_structure(&self) -> Option<&Structure> {
        match self {
            Self::Structure(structure) => Some(structure),
            _ => None,
        }
    }
}

/// `{anonymous members CRLF named members CRLF}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Structure {
    /// Anonymous members: their position is their meaning.
    pub members: Vec<Value>,
    /// Named members.
    pub named: NamedValues,
}

/// Named parameters or named members, in the order of the wire. The decoder keeps repeated names,
/// so that the typed layer can say which message they make invalid (RFC 4037 section 11).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedValues(Option<Arc<Pairs>>);

/// Few in one block with their count: messages have up to five, structures up to three.
pub(super) type Pairs = SmallVec<[(Name, Value); 4]>;

impl NamedValues {
    /// No values.
    pub const fn new() -> Self {
        Self(None)
    }

    /// Appends a value.
    pub fn push(&mut self, name: Name, value: Value) {
        self.pairs().push((name, value));
    }

    /// The pairs, to append to.
    pub(super) fn pairs(&mut self) -> &mut Pairs {
        Arc::make_mut(self.0.get_or_insert_default())
    }

    /// The first value of this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// The first name that occurs more than once.
    pub fn repeated(&self) -> Option<&Name> {
        match self.as_slice() {
            [] | [_] => None,
            // Few names: comparing all pairs is cheapest, and needs no memory.
            few if few.len() <= 16 => few.iter().enumerate().find_map(|(index, (name, _))| {
                few.iter().take(index).any(|(earlier, _)| earlier == name).then_some(name)
            }),
            many => {
                let mut names: Vec<&Name> = many.iter().map(|(name, _)| name).collect();
                names.sort_unstable();
                names.windows(2).find_map(|pair| match pair {
                    [a, b] if a == b => Some(*a),
                    _ => None,
                })
            }
        }
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = &(Name, Value)> {
        self.as_slice().iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn as_slice(&self) -> &[(Name, Value)] {
        self.0.as_deref().map_or(&[], SmallVec::as_slice)
    }
}

impl FromIterator<(Name, Value)> for NamedValues {
    fn from_iter<I: IntoIterator<Item = (Name, Value)>>(pairs: I) -> Self {
        let pairs: Pairs = pairs.into_iter().collect();
        Self((!pairs.is_empty()).then(|| Arc::new(pairs)))
    }
}

impl IntoIterator for NamedValues {
    type Item = (Name, Value);
    type IntoIter = smallvec::IntoIter<[(Name, Value); 4]>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.map(Arc::unwrap_or_clone).unwrap_or_default().into_iter()
    }
}
