//! What a group has made of an event, for services that tell others of it.

use ocp_proto::smtp::{Address, Reply, SideEffect};

use crate::outcome::Finding;
use crate::service::Request;

/// What has become of an event once all services of the group have answered.
#[derive(Clone, Copy, Debug)]
pub struct Conclusion<'a> {
    /// The event as the processor sent it, with all of its recipients.
    pub request: &'a Request,
    /// What services found, in their order; one that was asked about recipients apart has several.
    pub found: &'a [Found],
    /// What becomes of it; several where recipients differ.
    pub fates: &'a [Fate],
}

/// What a service found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The service, as the configuration calls it.
    pub service: String,
    /// What it said.
    pub finding: Finding,
}

/// What becomes of an event for some recipients, or for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Whom it is about; empty if the event names no recipients.
    pub recipients: Vec<Address>,
    /// The reply instead of the event.
    pub reply: Option<Reply>,
    /// Whether its octets were changed.
    pub is_changed: bool,
    /// What the MTA is asked to do besides.
    pub effects: Vec<SideEffect>,
}
