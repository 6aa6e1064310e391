//! The task that looks after the connections to one server.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::roster::{Roster, Step};
use crate::ocp::{Client, Target};

/// Makes connections to a server, replaces those that are lost or drained, and tries again after a
/// pause when it is out: a connection with its negotiation is the probe. Never ends.
pub(super) async fn keep(roster: Arc<Roster>, server: usize, target: Target) {
    let woken = roster.keeper(server);
    let mut ends = JoinSet::new();
    loop {
        let pause = match roster.step(server) {
            Step::Connect => {
                match Client::connect(&target).await {
                    Ok(client) => {
                        ends.spawn(client.unusable());
                        roster.connected(server, client);
                    }
                    Err(error) => roster.unreachable(server, &error),
                }
                continue;
            }
            Step::Wait(until) => Some(until),
            Step::Rest => None,
        };
        tokio::select! {
            () = woken.notified() => {}
            Some(_) = ends.join_next() => {}
            () = async {
                match pause {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            } => {}
        }
    }
}
