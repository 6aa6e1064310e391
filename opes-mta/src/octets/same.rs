//! Whether octets are the same, however they are cut.

use std::sync::Arc;

use bytes::Bytes;

use super::{Octets, Stored, TemporaryFile};

/// Octets that are compared: what is left of a piece.
#[derive(Clone, Copy)]
pub(crate) enum View<'a> {
    Memory(&'a [u8]),
    Stored { file: &'a Arc<TemporaryFile>, start: u64, end: u64 },
}

impl<'a> From<&'a Bytes> for View<'a> {
    fn from(octets: &'a Bytes) -> Self {
        Self::Memory(octets)
    }
}

impl<'a> From<&'a Octets> for View<'a> {
    fn from(octets: &'a Octets) -> Self {
        match octets {
            Octets::Memory(octets) => Self::Memory(octets),
            Octets::Stored(Stored { file, range }) => {
                Self::Stored { file, start: range.start, end: range.end }
            }
        }
    }
}

impl View<'_> {
    fn is_empty(self) -> bool {
        match self {
            Self::Memory(octets) => octets.is_empty(),
            Self::Stored { start, end, .. } => start == end,
        }
    }

    /// What is left of both behind the octets that both have; `None` if those differ.
    fn behind(self, other: Self) -> Option<(Self, Self)> {
        match (self, other) {
            (Self::Memory(one), Self::Memory(other)) => {
                let length = one.len().min(other.len());
                let ((same, after), (found, behind)) =
                    (one.split_at(length), other.split_at(length));
                // What was kept is the original itself: there is nothing to compare.
                let is_same = same.as_ptr() == found.as_ptr() || same == found;
                is_same.then_some((Self::Memory(after), Self::Memory(behind)))
            }
            (
                Self::Stored { file, start, end },
                Self::Stored { file: other, start: from, end: to },
            ) => {
                let length = (end - start).min(to - from);
                (Arc::ptr_eq(file, other) && start == from).then_some((
                    Self::Stored { file, start: start + length, end },
                    Self::Stored { file: other, start: from + length, end: to },
                ))
            }
            _ => None,
        }
    }
}

/// Whether pieces put together are the same octets, as far as that is known without reading a file: octets
/// in memory differ from those in a file.
pub(crate) fn is_same<'a, A: Into<View<'a>>, B: Into<View<'a>>>(
    one: impl IntoIterator<Item = A>,
    other: impl IntoIterator<Item = B>,
) -> bool {
    let mut others = other.into_iter().map(Into::into).filter(|piece| !piece.is_empty());
    let mut rest = View::Memory(&[]);
    for piece in one {
        let mut piece = piece.into();
        while !piece.is_empty() {
            if rest.is_empty() {
                let Some(next) = others.next() else { return false };
                rest = next;
            }
            let Some(behind) = piece.behind(rest) else { return false };
            (piece, rest) = behind;
        }
    }
    rest.is_empty() && others.next().is_none()
}
