//! `blocklist`: refuses clients by their addresses.
//!
//! ```toml
//! [services.blocklist.settings]
//! clients = ["192.0.2.1", "2001:db8::1"]
//! ```

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt, ready};
use ocp_proto::smtp::{Command, Reply};
use serde::Deserialize;
use services::{
    Change, Declaration, Finding, Kind, Outcome, Request, Service, ServiceError, Settings,
    SettingsError,
};

/// The kind `blocklist`.
pub(crate) const KIND: Kind = Kind {
    name: "blocklist",
    summary: "refuses clients by their addresses",
    // Without settings nobody is on the list, which is harmless.
    needs_settings: false,
    build: |settings| Ok(Arc::new(Blocklist::new(settings)?)),
};

/// The settings, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Config {
    clients: HashSet<IpAddr>,
}

struct Blocklist {
    clients: HashSet<IpAddr>,
    refusal: Reply,
}

impl Blocklist {
    fn new(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let Config { clients } = settings.read()?;
        let refusal = Reply::new(550, "5.7.1", "We take no mail from this client");
        Ok(Self { clients, refusal: refusal.map_err(SettingsError::new)? })
    }

    fn judge(&self, request: &Request) -> Outcome {
        let client = request.dialog.client_address.as_deref();
        let client = client.and_then(|client| std::str::from_utf8(client).ok()?.parse().ok());
        match client.is_some_and(|client| self.clients.contains(&client)) {
            true => Outcome::changed(Change::Reply(self.refusal.clone()), "blocked"),
            false => Outcome::unchanged(Finding::new("unknown")),
        }
    }
}

impl Service for Blocklist {
    fn declaration(&self) -> Declaration {
        // It looks into a table and waits for nothing, so it needs no task of its own.
        Declaration { immediate: true, ..Declaration::on([Command::Mail]) }
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        ready(Ok(self.judge(request))).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ocp_proto::smtp::{CommandLine, DialogFacts, Envelope};
    use services::Input;

    use super::*;

    #[test]
    fn who_is_on_the_list_is_refused() {
        let settings = Settings::parse("clients = ['192.0.2.1']", Path::new("")).unwrap();
        let service = Blocklist::new(settings).unwrap();
        for (client, verdict) in
            [(Some("192.0.2.1"), "blocked"), (Some("192.0.2.2"), "unknown"), (None, "unknown")]
        {
            let request = Request {
                dialog: Arc::new(DialogFacts {
                    client_address: client.map(Into::into),
                    ..DialogFacts::default()
                }),
                command: Command::Mail,
                input: Input::Line(CommandLine::new("MAIL FROM:<a@b.example>").unwrap()),
                envelope: Envelope::default(),
                parameters: Arc::default(),
                granted: Arc::new([]),
                may_notify: false,
            };
            assert_eq!(service.judge(&request).finding.verdict, verdict, "{client:?}");
        }
    }
}
