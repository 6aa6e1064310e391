//! How long both sides of the proxy may take.

use std::time::Duration;

use clap::value_parser;
use opes_mta::relay::Timeouts;

/// How long both sides may take, in seconds.
#[derive(Debug, clap::Args)]
#[command(
    next_help_heading = "Timeouts, with the defaults of RFC 5321 section 4.5.3.2 where it has any"
)]
pub(super) struct TimeoutArguments {
    /// A client may say nothing, or not read what we say, for so long; then it gets 421
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds())]
    client_timeout: u32,
    /// The next hop may take so long until it takes a connection
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds())]
    next_hop_connect_timeout: u32,
    /// The next hop may take so long for its greeting, and for each command but DATA (120) and STARTTLS (60)
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds())]
    next_hop_command_timeout: u32,
    /// The next hop may take so long for its reply to content, and not take any of it for 180
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds())]
    next_hop_content_timeout: u32,
    /// The next hop may take so long for its reply to QUIT, on which nothing depends
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds())]
    farewell_timeout: u32,
}

/// A day is more than anybody waits.
fn seconds() -> clap::builder::RangedI64ValueParser<u32> {
    value_parser!(u32).range(1..=86_400)
}

impl TimeoutArguments {
    /// How long a client may say nothing.
    pub(super) fn silence(&self) -> Duration {
        Duration::from_secs(self.client_timeout.into())
    }

    /// How long the next hop may take.
    pub(super) fn next_hop(&self) -> Timeouts {
        let seconds = |count: u32| Duration::from_secs(count.into());
        Timeouts {
            connect: seconds(self.next_hop_connect_timeout),
            greeting: seconds(self.next_hop_command_timeout),
            command: seconds(self.next_hop_command_timeout),
            end_of_content: seconds(self.next_hop_content_timeout),
            quit: seconds(self.farewell_timeout),
            ..Timeouts::default()
        }
    }
}
