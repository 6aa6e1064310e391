//! What a service manager is told: systemd, or whatever else sets `NOTIFY_SOCKET` (sd_notify(3)). Without one
//! nothing happens.

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

/// We listen: what is started after us may connect. From now on, if the manager watches (`WATCHDOG_USEC`), it hears
/// twice in that time that the runtime still runs tasks, for as long as it does.
///
/// # Panics
/// If the manager watches and this is called outside of a Tokio runtime.
pub fn ready() {
    tell(NotifyState::Ready);
    if let Some(patience) = sd_notify::watchdog_enabled().filter(|patience| !patience.is_zero()) {
        // A task like those that serve: where none of them gets on, this one doesn't either.
        tokio::spawn(async move {
            let mut beats = interval(patience / 2);
            beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                beats.tick().await;
                tell(NotifyState::Watchdog);
            }
        });
    }
}

/// The configuration is read again; [`reloaded`] follows.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell_all(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "there is no clock for the service manager"),
    }
}

/// We are done with that, whatever came of it.
pub fn reloaded() {
    tell(NotifyState::Ready);
}

/// We were told to stop; what is under way may still end.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    tell_all(&[state]);
}

/// In one message.
fn tell_all(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states)
        && let Some(state) = states.first()
    {
        warn!(%state, %error, "the service manager can't be told");
    }
}
