//! What a connection keeps besides its transactions: groups, features and dialogs.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::ids::{DialogId, GroupId, IdMap, Rising, Xid};
use crate::smtp::{Profile, ProfileKind};
use crate::violation::Rule;
use crate::wire::Atom;

/// The service groups, by the processor's numbers.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub(super) active: IdMap<GroupId, Features>,
    pub(super) numbers: Rising,
    /// What was negotiated for the whole connection.
    pub(super) common: Features,
}

/// Features in effect for a group or for the connection.
#[derive(Debug, Default)]
pub(super) struct Features {
    /// The one profile that there is in a scope.
    pub(super) profile: Option<Arc<Profile>>,
    /// The URIs of all others.
    pub(super) others: Vec<Atom>,
}

impl Features {
    pub(super) fn has(&self, uri: &[u8]) -> bool {
        match ProfileKind::from_uri(uri) {
            Some(kind) => self.profile.as_ref().is_some_and(|profile| profile.kind() == kind),
            None => self.others.iter().any(|other| other == uri),
        }
    }
}

impl Groups {
    pub(super) fn profile(&self, group: GroupId) -> Option<&Arc<Profile>> {
        self.active.get(&group)?.profile.as_ref().or(self.common.profile.as_ref())
    }

    /// Whether the other of the two profiles is in effect somewhere in this scope (RFC 4037 section
    /// 11.18, profile section 2).
    pub(super) fn conflicts(&self, uri: &[u8], group: Option<GroupId>) -> bool {
        let Some(kind) = ProfileKind::from_uri(uri) else { return false };
        let has = |features: &Features| features.has(kind.other().uri().as_bytes());
        has(&self.common)
            || match group {
                Some(group) => self.active.get(&group).is_some_and(has),
                None => self.active.values().any(has),
            }
    }
}

/// The dialogs.
#[derive(Debug, Default)]
pub(super) struct Dialogs {
    /// Whether the feature is in effect.
    pub(super) enabled: bool,
    /// Whether the server wants no new ones.
    pub(super) draining: bool,
    pub(super) active: IdMap<DialogId, Dialog>,
    pub(super) numbers: Rising,
}

/// One dialog.
#[derive(Debug, Default)]
pub(super) struct Dialog {
    /// Its open transactions.
    pub(super) open: SmallVec<[Xid; 2]>,
    /// The command, and the reply, that is not merely observed.
    busy: [Option<Xid>; 2],
    /// Those that have ended, and whose outcome was not told yet.
    pub(super) awaiting: SmallVec<[Xid; 4]>,
}

/// Ended transactions of a dialog whose outcome may still be told; older ones are forgotten.
const AWAITING_OUTCOME: usize = 32;

impl Dialog {
    /// A transaction of the dialog begins.
    pub(super) fn begin(&mut self, xid: Xid, is_reply: bool, observed: bool) -> Result<(), Rule> {
        let [command, reply] = &mut self.busy;
        let busy = if is_reply { reply } else { command };
        match observed {
            true => {}
            false if busy.is_some() => return Err(Rule::DialogBusy),
            false => *busy = Some(xid),
        }
        self.open.push(xid);
        Ok(())
    }

    pub(super) fn ended(&mut self, xid: Xid) {
        self.open.retain(|open| *open != xid);
        self.busy = self.busy.map(|busy| busy.filter(|busy| *busy != xid));
        if self.awaiting.len() >= AWAITING_OUTCOME {
            self.awaiting.remove(0);
        }
        self.awaiting.push(xid);
    }

    /// Dialog-Outcome: whether it is the first for this transaction of the dialog.
    pub(super) fn outcome(&mut self, xid: Xid) -> bool {
        let at = self.awaiting.iter().position(|awaiting| *awaiting == xid);
        at.map(|at| self.awaiting.remove(at)).is_some()
    }
}
