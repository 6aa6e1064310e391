//! Pausing one flow: DWP, DPM and DWM, on the side that sends the flow's data (RFC 4037 sections
//! 11.15 to 11.17, A-20).

/// How far the peer lets us send.
///
/// ```text
///            DWP ahead of us          offset reached: DPM
///  Flowing ──────────────────▶ Marked ──────────────────▶ Paused
///     ▲                           │ DWM                     │ DWM
///     └───────────────────────────┴─────────────────────────┘
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pause {
    #[default]
    Flowing,
    Marked {
        /// The first octet that is not wanted.
        offset: u32,
        /// DWP that were not answered yet.
        owed: u32,
    },
    Paused,
}

impl Pause {
    /// DWP, while the flow has this many octets: how many DPM to send now. Each DWP gets one, at
    /// once if the flow is paused already.
    pub(crate) fn want(&mut self, offset: u32, octets: u32) -> u32 {
        let (earlier, owed) = match *self {
            Self::Paused => return 1,
            Self::Flowing => (offset, 0),
            Self::Marked { offset, owed } => (offset, owed),
        };
        *self = Self::Marked { offset: offset.min(earlier), owed: owed.saturating_add(1) };
        self.reach(octets)
    }

    /// The flow has come to this many octets: how many DPM to send now.
    pub(crate) fn reach(&mut self, octets: u32) -> u32 {
        match *self {
            Self::Marked { offset, owed } if octets >= offset => {
                *self = Self::Paused;
                owed
            }
            _ => 0,
        }
    }

    /// DWM: cancels a pause, and one that has not come yet.
    pub(crate) fn more(&mut self) {
        *self = Self::Flowing;
    }

    /// How many octets may follow these; `None` if there is no pause in sight.
    pub(crate) fn room(self, octets: u32) -> Option<u32> {
        match self {
            Self::Flowing => None,
            Self::Marked { offset, .. } => Some(offset.saturating_sub(octets)),
            Self::Paused => Some(0),
        }
    }

    /// Whether no data may be sent.
    pub(crate) fn is_paused(self) -> bool {
        self == Self::Paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dwp_is_answered_once() {
        let mut pause = Pause::default();
        assert_eq!((pause.want(10, 0), pause.room(0)), (0, Some(10)));
        assert_eq!((pause.want(20, 4), pause.room(4)), (0, Some(6)));
        assert_eq!(pause.reach(9), 0);
        assert_eq!(pause.reach(10), 2);
        assert_eq!(pause.reach(10), 0);
        assert_eq!(pause.want(99, 10), 1);
        pause.more();
        assert_eq!(pause.room(10), None);
        assert_eq!((pause.want(10, 10), pause.is_paused()), (1, true));
    }

    #[test]
    fn dwm_cancels_what_has_not_come() {
        let mut pause = Pause::default();
        assert_eq!(pause.want(10, 0), 0);
        pause.more();
        assert_eq!(pause.reach(10), 0);
        assert!(!pause.is_paused());
    }
}
