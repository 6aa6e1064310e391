//! How a group of servers is used.

use std::time::Duration;

use ocp_proto::smtp::FailurePolicy;
use serde::Deserialize;

use crate::consult::Policy;
use crate::ocp::Target;

/// Limits, times and policies of a group. The defaults suit a mail server whose peers wait for a
/// reply for five minutes (RFC 5321 section 4.5.3.2) and callout servers that tell of progress every
/// ten seconds.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// Deadlines of an event, over all attempts at it, and what happens when adaptation fails.
    pub policy: Policy,
    /// Connections to each server; many dialogs share one. 2: a server moves the octets of a
    /// connection on one core.
    pub connections: u32,
    /// Events open at a server at a time; beyond that it is busy. 256. Worst case: servers × that many
    /// events, whose octets the front ends hold anyway.
    pub open_limit: u32,
    /// Servers that are asked about an event, the first included. 3: an event that crashes servers
    /// takes no more of them with it.
    pub attempts: usize,
    /// What happens when no server takes an event. [`Overload::Wait`].
    pub overload: Overload,
    /// That many failures of a server within [`failure_window`](Self::failure_window) eject it: a
    /// connection that is lost, an event that it has no room for, or is late with. 5.
    pub failures: u32,
    /// How long a failure counts. 10 s.
    pub failure_window: Duration,
    /// How long an ejected server, or one that can't be reached, is left alone before it is tried
    /// again. 1 s; each further time takes twice as long, until it has answered an event.
    pub revival: Duration,
    /// The most that [`revival`](Self::revival) grows to. 10 s: mail that waits for a server that comes back
    /// waits no longer than that, and one that is gone costs an attempt to connect.
    pub longest_revival: Duration,
    /// An event of which the server says nothing for that long, not even progress, is tried elsewhere.
    /// 15 s: more than a server's interval of progress, less than the deadline of a command.
    pub silence: Duration,
    /// A connection on which nothing comes for that long is asked for life (PQ). 10 s.
    pub ping_after: Duration,
    /// And given up without an answer for that long. 5 s.
    pub ping_timeout: Duration,
    /// Events of a dialog that are only watched and under way at a time; more make the dialog wait.
    /// 16. Worst case a dialog: that many events in memory, some of them for a few milliseconds until they are
    /// sent together.
    pub watched_events: usize,
}

/// What happens when all servers of a group are busy, or none is there.
///
/// The servers' own policy (On-Failure) holds in any case: the processor may only be stricter (SMTP
/// profile section 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overload {
    /// The event waits for a server until its deadline. Then it has failed as any other.
    #[default]
    Wait,
    /// The event goes on at once without adaptation, if the services let it (On-Failure: accept),
    /// whatever our own policy is.
    Bypass,
    /// The event fails at once, for the time being.
    Tempfail,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            connections: 2,
            open_limit: 256,
            attempts: 3,
            overload: Overload::default(),
            failures: 5,
            failure_window: Duration::from_secs(10),
            revival: Duration::from_secs(1),
            longest_revival: Duration::from_secs(10),
            silence: Duration::from_secs(15),
            ping_after: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(5),
            watched_events: 16,
        }
    }
}

impl GroupSettings {
    /// Our own policy where no server takes an event.
    pub(super) fn overload_policy(&self) -> FailurePolicy {
        match self.overload {
            Overload::Wait => self.policy.on_failure,
            Overload::Bypass => FailurePolicy::Accept,
            Overload::Tempfail => FailurePolicy::Tempfail,
        }
    }

    /// A server with the times of the group.
    pub(super) fn apply(&self, mut target: Target) -> Target {
        target.connection.transaction_timeout = self.silence;
        target.connection.idle_timeout = self.ping_after;
        target.connection.ping_timeout = self.ping_timeout;
        target
    }
}
