//! The table of messages, and the types of their parameters (RFC 4037 sections 10 and 11).

use crate::ids::{Xid, parse_number};
use crate::role::Role;
use crate::violation::Scope;
use crate::wire::{Atom, Head, Name, NamedValues, Structure, Value};

/// What a message's violations end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeKind {
    /// The connection.
    Connection,
    /// The transaction that the first anonymous parameter names.
    Transaction,
    /// That transaction, or the connection if none is named.
    OptionalTransaction,
    /// The dialog that the first anonymous parameter names.
    Dialog,
}

macro_rules! messages {
    ($($kind:ident $name:literal $processor:literal $server:literal $scope:ident $phase:literal $section:literal,)*) => {
        /// The messages.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind {
            $(#[doc = concat!("`", $name, "`, ", $section, ".")] $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The message of this name.
            pub fn of(name: &Name) -> Option<Self> {
                match name.as_str() {
                    $($name => Some(Self::$kind),)*
                    _ => None,
                }
            }

            /// The name on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// Whether this agent sends it; from the other it is unexpected.
            pub fn sent_by(self, role: Role) -> bool {
                let (processor, server) = match self { $(Self::$kind => ($processor, $server),)* };
                match role {
                    Role::Processor => processor,
                    Role::Server => server,
                }
            }

            /// What its violations end.
            pub fn scope(self) -> ScopeKind {
                match self { $(Self::$kind => ScopeKind::$scope,)* }
            }

            /// Whether it may be sent in a Negotiation Phase (RFC 4037 section 6.1).
            pub fn in_phase(self) -> bool {
                match self { $(Self::$kind => $phase,)* }
            }

            /// Where it is defined.
            pub fn section(self) -> &'static str {
                match self { $(Self::$kind => $section,)* }
            }
        }
    };
}

messages! {
    // kind       name             P     S     scope               phase section
    Cs            "CS"             true  true  Connection          false "RFC 4037 section 11.1",
    Ce            "CE"             true  true  Connection          true  "RFC 4037 section 11.2",
    Sgc           "SGC"            true  false Connection          false "RFC 4037 section 11.3",
    Sgd           "SGD"            true  false Connection          false "RFC 4037 section 11.4",
    Ts            "TS"             true  false Transaction         false "RFC 4037 section 11.5",
    Te            "TE"             true  true  Transaction         false "RFC 4037 section 11.6",
    Ams           "AMS"            true  true  Transaction         false "RFC 4037 section 11.7",
    Ame           "AME"            true  true  Transaction         false "RFC 4037 section 11.8",
    Dum           "DUM"            true  true  Transaction         false "RFC 4037 section 11.9",
    Duy           "DUY"            false true  Transaction         false "RFC 4037 section 11.10",
    Dpi           "DPI"            false true  Transaction         false "RFC 4037 section 11.11",
    Dwsr          "DWSR"           false true  Transaction         false "RFC 4037 section 11.12",
    Dwss          "DWSS"           false true  Transaction         false "RFC 4037 section 11.13",
    Dss           "DSS"            true  false Transaction         false "RFC 4037 section 11.14",
    Dwp           "DWP"            true  true  Transaction         false "RFC 4037 section 11.15",
    Dpm           "DPM"            true  true  Transaction         false "RFC 4037 section 11.16",
    Dwm           "DWM"            true  true  Transaction         false "RFC 4037 section 11.17",
    No            "NO"             true  true  Connection          true  "RFC 4037 section 11.18",
    Nr            "NR"             true  true  Connection          true  "RFC 4037 section 11.19",
    Aq            "AQ"             true  true  Connection          true  "RFC 4037 section 11.20",
    Aa            "AA"             true  true  Connection          true  "RFC 4037 section 11.21",
    Pq            "PQ"             true  true  OptionalTransaction true  "RFC 4037 section 11.22",
    Pa            "PA"             true  true  OptionalTransaction true  "RFC 4037 section 11.23",
    Pr            "PR"             true  true  OptionalTransaction true  "RFC 4037 section 11.24",
    DialogStart   "Dialog-Start"   true  false Dialog              false "SMTP profile section 3",
    DialogUpdate  "Dialog-Update"  true  false Dialog              false "SMTP profile section 3",
    DialogOutcome "Dialog-Outcome" true  false Dialog              false "SMTP profile section 3",
    DialogEnd     "Dialog-End"     true  true  Dialog              false "SMTP profile section 3",
    DialogDrain   "Dialog-Drain"   false true  Connection          false "SMTP profile section 3",
}

impl Kind {
    /// Whether the message belongs to the dialogs feature.
    pub fn is_dialog(self) -> bool {
        matches!(
            self,
            Self::DialogStart
                | Self::DialogUpdate
                | Self::DialogOutcome
                | Self::DialogEnd
                | Self::DialogDrain
        )
    }

    /// The scope of this message's violations: what cannot be determined is the connection's (RFC
    /// 4037 section 5).
    pub(crate) fn scope_of(self, head: &Head) -> Scope {
        match self.scope() {
            ScopeKind::Connection => Scope::Connection,
            ScopeKind::Transaction | ScopeKind::OptionalTransaction => anonymous_number(head, 0)
                .and_then(Xid::new)
                .map_or(Scope::Connection, Scope::Transaction),
            ScopeKind::Dialog => super::dialog_of(head).map_or(Scope::Connection, Scope::Dialog),
        }
    }
}

/// A message that does not fit its definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// A required parameter is missing.
    #[error("{message} without {parameter}")]
    Missing {
        /// The message.
        message: &'static str,
        /// The parameter.
        parameter: &'static str,
    },
    /// A parameter is not of its type.
    #[error("{parameter} of {message} is no {expected}")]
    Type {
        /// The message.
        message: &'static str,
        /// The parameter.
        parameter: &'static str,
        /// Its type (RFC 4037 section 10, or the profile's).
        expected: &'static str,
    },
    /// A name occurs twice among the named values of a message or a structure (section 11, A-22).
    #[error("{0} occurs twice")]
    Repeated(String),
}

/// Whether no name is repeated, in the message and in every structure of it.
pub(super) fn check_names(head: &Head) -> Result<(), DefinitionError> {
    check_values(&head.named, &head.anonymous)
}

fn check_values(named: &NamedValues, values: &[Value]) -> Result<(), DefinitionError> {
    if let Some(name) = named.repeated() {
        let name: String = name.as_str().chars().take(64).collect();
        return Err(DefinitionError::Repeated(name));
    }
    // The decoder bounds the depth.
    named.iter().map(|(_, value)| value).chain(values).try_for_each(|value| match value {
        Value::Atom(_) => Ok(()),
        Value::List(items) => check_values(&NamedValues::new(), items),
        Value::Structure(structure) => check_values(&structure.named, &structure.members),
    })
}

/// The anonymous parameter at this position as a number.
pub(super) fn anonymous_number(head: &Head, position: usize) -> Option<u32> {
    parse_number(head.anonymous.get(position)?.as_atom()?)
}

/// Typed access to anonymous parameters.
pub(super) struct Positions<'a> {
    pub(super) message: &'static str,
    pub(super) head: &'a Head,
}

impl<'a> Positions<'a> {
    pub(super) fn number<T>(
        &self,
        position: usize,
        parameter: &'static str,
        new: impl Fn(u32) -> Option<T>,
    ) -> Result<T, DefinitionError> {
        self.read(position, parameter, parameter, |value| new(parse_number(value.as_atom()?)?))?
            .ok_or(DefinitionError::Missing { message: self.message, parameter })
    }

    pub(super) fn read<T>(
        &self,
        position: usize,
        parameter: &'static str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, DefinitionError> {
        let message = self.message;
        let value = self.head.anonymous.get(position);
        value
            .map(|value| read(value).ok_or(DefinitionError::Type { message, parameter, expected }))
            .transpose()
    }
}

/// Typed access to named parameters; absent ones are `None` or empty.
pub(crate) struct Fields<'a> {
    pub(crate) message: &'static str,
    pub(crate) named: &'a NamedValues,
}

impl<'a> Fields<'a> {
    pub(crate) fn read<T>(
        &self,
        parameter: &'static str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, DefinitionError> {
        let message = self.message;
        self.named
            .get(parameter)
            .map(|value| read(value).ok_or(DefinitionError::Type { message, parameter, expected }))
            .transpose()
    }

    pub(crate) fn number(
        &self,
        parameter: &'static str,
        expected: &'static str,
    ) -> Result<Option<u32>, DefinitionError> {
        self.read(parameter, expected, |value| parse_number(value.as_atom()?))
    }

    pub(crate) fn identifier<T>(
        &self,
        parameter: &'static str,
        new: impl Fn(u32) -> Option<T>,
    ) -> Result<Option<T>, DefinitionError> {
        self.read(parameter, "uni", |value| new(parse_number(value.as_atom()?)?))
    }

    pub(crate) fn atom(&self, parameter: &'static str) -> Result<Option<Atom>, DefinitionError> {
        self.read(parameter, "atom", |value| value.as_atom().cloned())
    }

    pub(crate) fn boolean(&self, parameter: &'static str) -> Result<bool, DefinitionError> {
        Ok(self.read(parameter, "boolean", boolean)?.unwrap_or(false))
    }

    pub(crate) fn list_of<T>(
        &self,
        parameter: &'static str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Vec<T>, DefinitionError> {
        let list = self.read(parameter, expected, |value| {
            value.as_list()?.iter().map(&read).collect::<Option<Vec<T>>>()
        })?;
        Ok(list.unwrap_or_default())
    }
}

/// `true` or `false` (section 10.6).
pub(super) fn boolean(value: &Value) -> Option<bool> {
    match value.as_atom()?.as_ref() {
        b"true" => Some(true),
        b"false" => Some(false),
        _ => None,
    }
}

/// A structure whose first member is a URI: a feature or a service (sections 10.11 and 10.13).
pub(super) fn named_by_uri(value: &Value) -> Option<&Structure> {
    let structure = value.as_structure()?;
    let uri = structure.members.first()?.as_atom()?;
    is_uri(uri).then_some(structure)
}

/// Any run of URI characters (section 10.1, A-24).
fn is_uri(octets: &[u8]) -> bool {
    !octets.is_empty()
        && octets.iter().all(|octet| {
            octet.is_ascii_alphanumeric() || b";/?:@&=+$,-_.!~*'()%#[]".contains(octet)
        })
}

/// A list of features or services.
pub(super) fn list_by_uri(value: &Value) -> Option<Vec<Structure>> {
    value.as_list()?.iter().map(|item| named_by_uri(item).cloned()).collect()
}
