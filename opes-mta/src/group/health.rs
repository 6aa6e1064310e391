//! Whether a server can be relied on. No clock: `now` comes in.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::settings::GroupSettings;

/// What a server has done of late.
///
/// ```text
///              failures in the window           the attempt succeeds
///   in ───────────────────────────────▶ out ───────────────────────────▶ in
///    └─ can't be reached ─────────────▶  │ ▲
///                                        └─┘ the attempt fails: twice the pause
/// ```
///
/// A pause that has grown shrinks only once an event is answered: a server that can be reached and
/// fails at everything does not come back every second.
#[derive(Debug)]
pub(super) struct Health {
    most: usize,
    window: Duration,
    shortest: Duration,
    longest: Duration,
    /// How long the next time out lasts.
    pause: Duration,
    standing: Standing,
}

#[derive(Debug)]
enum Standing {
    /// It gets events. At most [`Health::most`] failures.
    In { failures: VecDeque<Instant> },
    /// It is tried again from then on.
    Out { until: Instant },
}

impl Health {
    /// A server that nobody has tried yet.
    pub(super) fn new(settings: &GroupSettings, now: Instant) -> Self {
        Self {
            most: settings.failures.max(1) as usize,
            window: settings.failure_window,
            shortest: settings.revival,
            longest: settings.longest_revival.max(settings.revival),
            pause: settings.revival,
            standing: Standing::Out { until: now },
        }
    }

    /// It failed at something; whether that puts it out.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        let Standing::In { failures } = &mut self.standing else { return false };
        failures.retain(|at| now.saturating_duration_since(*at) < self.window);
        failures.push_back(now);
        let ejected = failures.len() >= self.most;
        if ejected {
            self.put_out(now);
        }
        ejected
    }

    /// It can't be reached; whether that puts it out.
    pub(super) fn unreachable(&mut self, now: Instant) -> bool {
        let was_in = self.is_in();
        self.put_out(now);
        was_in
    }

    /// It was reached.
    pub(super) fn reached(&mut self) {
        if !self.is_in() {
            self.standing = Standing::In { failures: VecDeque::new() };
        }
    }

    /// It answered an event.
    pub(super) fn answered(&mut self) {
        if self.is_in() {
            self.pause = self.shortest;
        }
    }

    /// Whether it gets events.
    pub(super) fn is_in(&self) -> bool {
        self.tried_at().is_none()
    }

    /// From when on it is tried again; `None` if it is in.
    pub(super) fn tried_at(&self) -> Option<Instant> {
        match self.standing {
            Standing::In { .. } => None,
            Standing::Out { until } => Some(until),
        }
    }

    fn put_out(&mut self, now: Instant) {
        self.standing = Standing::Out { until: now + self.pause };
        self.pause = (self.pause * 2).min(self.longest);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings() -> GroupSettings {
        GroupSettings {
            failures: 3,
            failure_window: 10 * SECOND,
            revival: SECOND,
            longest_revival: 5 * SECOND,
            ..GroupSettings::default()
        }
    }

    fn server(now: Instant) -> Health {
        let mut health = Health::new(&settings(), now);
        health.reached();
        health
    }

    #[test]
    fn failures_count_within_the_window() {
        let now = Instant::now();
        for (times, ejected) in [
            (&[0, 1, 2][..], true),
            (&[0, 0, 0], true),
            (&[0, 1, 10], false),
            (&[0, 1, 9], true),
            (&[0, 9, 18, 27, 36], false),
            (&[0, 9, 18, 18], true),
        ] {
            let mut health = server(now);
            let (last, first) = times.split_last().unwrap();
            for at in first {
                assert!(!health.failed(now + *at * SECOND), "{times:?}");
            }
            assert_eq!(health.failed(now + *last * SECOND), ejected, "{times:?}");
            assert_eq!(health.is_in(), !ejected);
            let until = now + (*last + 1) * SECOND;
            assert_eq!(health.tried_at(), ejected.then_some(until));
        }
    }

    #[test]
    fn the_pause_doubles_until_an_event_is_answered() {
        let now = Instant::now();
        let mut health = Health::new(&settings(), now);
        assert_eq!(health.tried_at(), Some(now), "a new server is tried at once");
        let pause = |health: &Health| health.tried_at().unwrap().duration_since(now);
        for seconds in [1, 2, 4, 5, 5] {
            assert!(!health.unreachable(now));
            assert_eq!(pause(&health), seconds * SECOND);
        }
        health.reached();
        assert!(health.unreachable(now));
        assert_eq!(pause(&health), 5 * SECOND, "to be reached is not enough");
        health.answered();
        health.reached();
        health.answered();
        assert!(health.unreachable(now));
        assert_eq!(pause(&health), SECOND);
    }

    proptest! {
        /// Whatever happens: it is out exactly if that many failures lie within the window since it
        /// came in, or it could not be reached; and it is out for between the two pauses.
        #[test]
        fn it_is_out_for_a_reason(steps in prop::collection::vec((0..4_u8, 0..6_u32), 0..200)) {
            let settings = settings();
            let mut now = Instant::now();
            let mut health = Health::new(&settings, now);
            let (mut is_in, mut failures) = (false, Vec::<Instant>::new());
            for (step, seconds) in steps {
                now += seconds * SECOND;
                let mut put_out = false;
                match step {
                    0 => {
                        failures.push(now);
                        let recent = failures.iter().filter(|at| now - **at < 10 * SECOND).count();
                        put_out = is_in && recent >= 3;
                        prop_assert_eq!(health.failed(now), put_out);
                    }
                    1 => {
                        prop_assert_eq!(health.unreachable(now), is_in);
                        put_out = true;
                    }
                    2 => {
                        if !is_in {
                            failures.clear();
                        }
                        health.reached();
                        is_in = true;
                    }
                    _ => health.answered(),
                }
                is_in &= !put_out;
                prop_assert_eq!(health.is_in(), is_in);
                if put_out {
                    let pause = health.tried_at().unwrap() - now;
                    prop_assert!((SECOND..=5 * SECOND).contains(&pause), "{:?}", pause);
                }
                if let Standing::In { failures } = &health.standing {
                    prop_assert!(failures.len() < 3);
                }
            }
        }
    }
}
