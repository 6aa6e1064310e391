//! Operations at both ends of a connection, with octets under way between them, beside a model that
//! only knows octets.

mod world;

use crate::role::Role;
use world::World;

/// Something that an application, the network or a hostile peer does. Most have effect only in some
/// states: elsewhere they have to be refused.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    /// A new dialog with a message.
    Start,
    Header(u8),
    Body(u8),
    EndOriginal,
    EndOriginalEarly,
    StopSending,
    StartAdapted,
    /// One of several.
    StartVariant(u8),
    Insert(u8),
    Preserved(u8, u8),
    EndAdapted,
    EndAdaptedEarly,
    StopReceivingWanted(u8),
    StopSendingWanted,
    Leave(u8),
    InterestIn(u8, u8),
    PauseWanted(Role, u8),
    MoreWanted(Role),
    Finish,
    GiveUp(Role),
    Offer(Role, bool),
    Ping(Role),
    /// TLS, which is agreed on first or never.
    OfferTls(Role),
    TlsStarted(Role),
    /// Lets octets arrive: that many of those under way to this end.
    Deliver(Role, u8),
    /// A message that breaks a rule of its transaction, to this end.
    Hostile(Role, u8),
}

impl Operation {
    /// Every three octets are one operation: which, with what, and for which transaction.
    fn read(octets: [u8; 3]) -> (Self, u8) {
        let [which, with, transaction] = octets;
        let role = if with & 1 == 0 { Role::Processor } else { Role::Server };
        let operation = match which % 30 {
            0 => Self::Start,
            1 => Self::Header(with),
            2 | 3 => Self::Body(with),
            4 => Self::EndOriginal,
            5 => Self::EndOriginalEarly,
            6 => Self::StopSending,
            7 => Self::StartAdapted,
            8 => Self::StartVariant(with),
            9 => Self::Insert(with),
            10 | 11 => Self::Preserved(with, transaction),
            12 => Self::EndAdapted,
            13 => Self::EndAdaptedEarly,
            14 => Self::StopReceivingWanted(with),
            15 => Self::StopSendingWanted,
            16 => Self::Leave(with),
            17 => Self::InterestIn(with, transaction),
            18 => Self::PauseWanted(role, with),
            19 => Self::MoreWanted(role),
            20 => Self::Finish,
            21 => Self::GiveUp(role),
            22 => Self::Offer(role, with & 2 == 0),
            23 => Self::Ping(role),
            24 => Self::Hostile(role, with),
            28 => Self::OfferTls(role),
            29 => Self::TlsStarted(role),
            _ => Self::Deliver(role, with),
        };
        (operation, transaction)
    }
}

/// Operations as octets: whatever they are and however they interleave, nothing panics, what is
/// refused sends nothing, what one end may send the other accepts, messages arrive octet for octet,
/// and a hostile message ends its own transaction only.
///
/// # Panics
/// If that is not so.
pub fn operations(octets: &[u8]) {
    let Some((flags, rest)) = octets.split_first() else { return };
    let (triples, _) = rest.as_chunks::<3>();
    let operations: Vec<_> = triples.iter().map(|triple| Operation::read(*triple)).collect();
    run(*flags, &operations);
}

/// Runs operations between two ends whose profile the flags choose.
fn run(flags: u8, operations: &[(Operation, u8)]) {
    let Ok(mut world) = World::new(flags) else { return };
    for (operation, transaction) in operations {
        world.act(*operation, usize::from(*transaction));
    }
    world.settle();
}

#[cfg(test)]
mod tests;
