//! What is counted, and how it is told.
//!
//! Atomic numbers count what happens on a mail's way. They lie where it happens: a [`ListenerMetrics`] at each
//! listener, `GroupMetrics` in each group, [`NextHopMetrics`] at each next hop, [`DeliveryMetrics`] in the
//! delivery of the spool. Who counts has them at hand: no names are looked up on the way. A [`Subject`] reads them
//! when somebody asks, and what is known anyway: servers, budgets and stores.
//!
//! Every label is a word of this program, of its configuration or of its command line. What peers send is none, so
//! they can't add series. There are at the most some 25, and 24 for each listener, 7 for each next hop, 36 for each
//! group, 12 for each of its servers, and 105 for each event that the group may be asked about.

mod group;
mod listener;
mod next_hop;
mod subject;

pub(crate) use group::{AttemptResult, GroupMetrics, LostConnection};
pub use listener::{FrontEnd, ListenerMetrics};
pub use next_hop::{DeliveryMetrics, DeliveryResult, NextHopMetrics};
pub use subject::{Proxied, Subject, longest_text};
