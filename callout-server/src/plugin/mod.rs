//! `plugin`: a service that runs outside of this process, in any language, and speaks gRPC.
//!
//! The protocol is `proto/opes/plugin/v1/plugin.proto`; `services/PLUGINS.md` explains it. What a plugin may see
//! and do is granted here, and nothing else: an answer beyond that is void as a whole, and the failure policy
//! decides. So it does when the plugin is not there, late, or answers nonsense. One that is not there, or late, some times in
//! a row is left alone for a while.
//!
//! ```toml
//! # Where the plugin listens: unix:PATH, http://HOST:PORT, or https://HOST:PORT with ca, a file in PEM with who
//! # signs its certificate.
//! address = "unix:footer.sock"
//! # A program that is started with the server, kept running, and ended with it; without it somebody else does
//! # that. It finds the address in OPES_PLUGIN_ADDRESS. What it prints is logged.
//! command = ["python3", "footer.py"]
//! # Events that it works on at a time; others wait.
//! open = 32
//! # The largest answer, in octets.
//! answer-octets = 4194304
//! # So many times in a row not there or late, and it is left alone for so many seconds; then one event tries it.
//! # Each time that fails takes twice as long, a minute at the most.
//! failures = 5
//! revive-seconds = 1
//!
//! [grants]
//! # The events that it may see; those in watches it only watches: nobody waits for its answer.
//! events = ["MAIL", "MESSAGE"]
//! watches = ["QUIT"]
//! # Of the body of a message: "none" (default), "whole", or its first octets.
//! body = "whole"
//! # Whether it may replace command lines, edit bodies, and reply instead of letting an event pass.
//! change-command = false
//! replace-body = true
//! reply = true
//! # The header fields that it may add, change and remove; * stands for any end of a name.
//! fields = ["Subject", "X-Footer-*"]
//! # The side effects that it may ask for.
//! effects = ["quarantine"]
//! ```

mod breaker;
mod child;
#[doc(hidden)]
pub mod fuzzing;
mod grants;
mod link;
mod settings;
mod wire;

use std::sync::{Arc, OnceLock};

use futures_util::future::{BoxFuture, FutureExt, ready};
use services::{
    Declaration, Kind, Measure, MeasureKind, Outcome, Request, Service, ServiceError, Settings,
    SettingsError,
};

use self::child::Program;
use self::link::Link;
use self::settings::PluginSettings;

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod proto {
    tonic::include_proto!("opes.plugin.v1");
}

/// The kind `plugin`.
pub const KIND: Kind = Kind {
    name: "plugin",
    summary: "a program of your own, asked over gRPC",
    needs_settings: true,
    build: |settings| Ok(Arc::new(Plugin::new(settings)?)),
};

/// The service.
#[derive(Debug)]
pub struct Plugin {
    settings: Arc<PluginSettings>,
    link: Link,
    program: OnceLock<Arc<Program>>,
}

impl Plugin {
    /// The service with these settings; nothing is connected or started yet.
    ///
    /// # Errors
    /// What is wrong with them, and where.
    pub fn new(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let settings = Arc::new(PluginSettings::read(settings)?);
        let link = Link::new(Arc::clone(&settings)).map_err(SettingsError::new)?;
        Ok(Self { settings, link, program: OnceLock::new() })
    }
}

impl Service for Plugin {
    fn declaration(&self) -> Declaration {
        let grants = &self.settings.grants;
        Declaration {
            observed: grants.watches.clone(),
            content: grants.content,
            effects: grants.effects.clone(),
            ..Declaration::on(grants.events.clone())
        }
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        self.link.ask(request).boxed()
    }

    fn measures(&self) -> Vec<Measure> {
        let gauge = |name, help, value| Measure {
            name,
            help,
            kind: MeasureKind::Gauge,
            label: None,
            value,
        };
        let help = "Events that a plugin works on";
        let mut measures = vec![gauge("plugin_open_events", help, self.link.open_events())];
        let help = "1: a plugin is left alone, since it failed several times in a row";
        measures.push(gauge("plugin_left_alone", help, self.link.is_left_alone().into()));
        if self.settings.command.is_some() {
            measures.push(Measure {
                name: "plugin_starts",
                help: "How often the program of a plugin was started",
                kind: MeasureKind::Counter,
                label: None,
                value: self.program.get().map_or(0, |program| program.starts()),
            });
        }
        measures
    }

    fn start(&self) -> BoxFuture<'_, Result<(), ServiceError>> {
        let Some(command) = &self.settings.command else { return ready(Ok(())).boxed() };
        async move {
            let failed = |cause: String| ServiceError::new("start", cause);
            let (program, is_new) = Program::of(&self.settings, command).map_err(failed)?;
            // It is kept running whatever becomes of this start.
            let program = self.program.get_or_init(|| program);
            match is_new {
                true => program.listens(&self.settings.address).await.map_err(failed),
                // If it has ended, it is on its way back.
                false => Ok(()),
            }
        }
        .boxed()
    }

    fn condition(&self) -> Option<String> {
        self.link.condition()
    }

    /// Answers, in the form in which they come and as they are used.
    fn worst_case_memory(&self) -> usize {
        self.settings.open.saturating_mul(self.settings.answer_octets).saturating_mul(2)
    }

    fn notes(&self) -> Vec<String> {
        let grants = &self.settings.grants;
        let mut notes = vec![format!("a plugin at {}", self.settings.address)];
        if grants.replace_body && grants.content == services::Content::Header {
            notes.push(
                "it may edit bodies, and sees none of them: grants.body is missing".to_owned(),
            );
        }
        notes
    }
}
