//! What the subcommands do.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap_complete::Shell;
use miette::{IntoDiagnostic, Result, WrapErr, miette};
use ocp_proto::smtp::Command;
use opes_mta::ocp::{ServerAddress, probe};
use opes_mta::{manual, service_manager, telemetry};
use services::{Password, Registry};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::access::Rule;
use crate::admin::Admin;
use crate::config::{AdminConfig, Document};
use crate::history::{Asked, Record};
use crate::reload::{Reloader, Source};
use crate::tls::{ClientCertificates, Tls};
use crate::{Config, Control, Entry, Listeners, Server, demo, logging};

/// Octets that are read for a password; longer ones are none.
const LONGEST_LINE: u64 = 4 * 1024;

/// How long a healthy server may take for its answer; a busy one has tasks that wait for a turn.
const HEALTHY: Duration = Duration::from_secs(5);

/// Serves until a signal, then drains. SIGHUP reads the configuration again.
pub(crate) fn serve(registry: &Registry, source: Source) -> Result<()> {
    let (config, _) = source.load(registry)?;
    let runtime = runtime()?;
    let (traces, level) = {
        let _entered = runtime.enter();
        logging::start(&config.log, config.telemetry.as_ref())
            .map_err(|error| miette!("{error:#}"))?
    };
    let served = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).into_diagnostic()?;
        let mut interrupt = signal(SignalKind::interrupt()).into_diagnostic()?;
        let mut hangup = signal(SignalKind::hangup()).into_diagnostic()?;
        let listeners = Listeners::bind(&config.listen).await.into_diagnostic()?;
        for address in listeners.addresses() {
            info!(%address, "listening");
        }
        let admin = bind_admin(&config.admin).await.into_diagnostic()?;
        let server = Arc::new(Server::new(config));
        let stop = CancellationToken::new();
        let reloader = Reloader::new(server.clone(), registry.clone(), source, level, stop.clone());
        let reloader = Arc::new(reloader);
        // What follows ends with the process.
        for admin in admin {
            info!(address = admin.address(), "admin listening");
            tokio::spawn(admin.serve(server.clone(), stop.clone(), reloader.clone()));
        }
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                // The log says what came of it.
                let _ = reloader.reload().await;
            }
        });
        service_manager::ready();
        let signalled = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            let seconds = server.current().config.timeouts.drain.as_secs();
            info!(dialogs = server.open_dialogs(), seconds, "stopping: open dialogs may end");
            service_manager::stopping();
            stop.cancel();
        };
        tokio::join!(listeners.serve(server.clone(), stop.clone()), signalled);
        info!("stopped");
        Ok(())
    });
    traces.end();
    served
}

/// Where those who operate the server are answered.
async fn bind_admin(config: &AdminConfig) -> io::Result<Vec<Admin>> {
    let mut bound = Vec::new();
    if let Some(address) = &config.listen {
        bound.push(Admin::bind(address).await?);
    }
    if let Some(path) = &config.control {
        bound.push(Admin::bind_control(path.clone()).await?);
    }
    Ok(bound)
}

/// A line of what is printed; writing to a string can't fail.
macro_rules! say {
    ($out:ident, $($line:tt)*) => {{
        $out.push_str(&format!($($line)*));
        $out.push('\n');
    }};
}

/// Prints all at once; whoever has read enough may hang up.
fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).into_diagnostic(),
        _ => Ok(()),
    }
}

/// Checks a configuration and prints what it means.
pub(crate) fn check(registry: &Registry, file: Option<PathBuf>) -> Result<()> {
    let name = file.as_ref().map_or("embedded defaults".to_owned(), |f| f.display().to_string());
    let config = load(registry, file)?;
    let mut out = String::new();
    say!(out, "{name}: valid");
    let addresses: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    say!(out, "listens on {}", addresses.join(", "));
    let AdminConfig { listen, control, users } = &config.admin;
    if let Some(address) = listen {
        say!(out, "admin: http://{address}: /metrics, /healthz, /readyz");
        match users.as_slice() {
            [] => say!(out, "  no status page: nobody may log in ([[admin.user]])"),
            users => {
                let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
                say!(out, "  status page for {}", names.join(", "));
            }
        }
    }
    if let Some(path) = control {
        say!(out, "admin: control socket {}, for its user and root", path.display());
    }
    if listen.is_none() && control.is_none() {
        say!(out, "admin: none");
    }
    if let Some(telemetry) = &config.telemetry {
        say!(out, "traces: {telemetry}");
    }
    describe_security(&mut out, &config);
    let uses = config.worst_case_memory();
    let all = uses.iter().fold(0usize, |all, (_, octets)| all.saturating_add(*octets));
    say!(out, "memory: {} at the most that peers can make it hold", mebibytes(all));
    for (what, octets) in uses {
        say!(out, "  {:>12}  {what}", mebibytes(octets));
    }
    let spool = &config.spool;
    say!(out, "spool: {} at the most in {}", mebibytes(spool.octets), spool.folder.display());
    for entry in config.router.iter() {
        say!(out, "service {}", entry.name);
        describe(&mut out, entry);
        for note in entry.service.notes() {
            say!(out, "  note: {note}");
        }
    }
    print(&out)
}

fn mebibytes(octets: usize) -> String {
    format!("{} MiB", octets.div_ceil(1024 * 1024))
}

/// Who is let in, and how.
fn describe_security(out: &mut String, config: &Config) {
    match &config.tls {
        None => say!(out, "TLS: none"),
        Some(Tls { settings, .. }) => {
            say!(out, "TLS: certificate {}", settings.certificate.display());
            let client_ca = settings.client_ca.iter().map(|path| path.display());
            let clients = match settings.client_certificates {
                ClientCertificates::None => "not asked for".to_owned(),
                ClientCertificates::Optional => "optional".to_owned(),
                ClientCertificates::Required => "required".to_owned(),
            };
            let signed = client_ca.map(|path| format!(", signed by {path}")).collect::<String>();
            say!(out, "  client certificates {clients}{signed}");
            let required =
                if settings.required { "required over TCP" } else { "may be negotiated" };
            say!(out, "  {required}");
        }
    }
    for rule in config.access.iter() {
        say!(out, "access {rule}");
    }
    if config.access.is_empty() {
        say!(out, "access: everybody may use everything");
    } else if !config.access.iter().any(Rule::matches_everybody) {
        say!(out, "access: everybody else is denied");
    }
}

/// Lists the services.
pub(crate) fn services(registry: &Registry, file: Option<PathBuf>) -> Result<()> {
    let mut out = String::new();
    for entry in load(registry, file)?.router.iter() {
        say!(out, "{}: {}", entry.name, entry.summary);
        describe(&mut out, entry);
    }
    print(&out)
}

fn describe(out: &mut String, entry: &Entry) {
    let declaration = &entry.declaration;
    let uris: Vec<_> = entry.uris.iter().map(|uri| String::from_utf8_lossy(uri)).collect();
    let names = |commands: &[Command]| {
        let names: Vec<&str> = commands.iter().map(Command::name).collect();
        names.join(" ")
    };
    let effects: Vec<&str> = declaration.effects.iter().map(|effect| effect.name()).collect();
    say!(out, "  uri         {}", uris.join(", "));
    if !declaration.events.is_empty() {
        say!(out, "  events      {}", names(&declaration.events));
    }
    if !declaration.replies.is_empty() {
        say!(out, "  replies to  {}", names(&declaration.replies));
    }
    if declaration.events.is_empty() && declaration.replies.is_empty() {
        say!(out, "  events      none: it has no rules");
    }
    if declaration.events.contains(&Command::Message) {
        say!(out, "  needs       {}", declaration.content);
    }
    if !effects.is_empty() {
        say!(out, "  effects     {}", effects.join(" "));
    }
    if declaration.notifies {
        say!(out, "  notifies    new messages may be submitted; the MTA says so if it can't");
    }
    if declaration.distinguishes_recipients {
        say!(out, "  recipients  may get versions of their own, if the MTA can do that");
    }
    if entry.bypassable {
        say!(out, "  bypass      skipped for senders who ask for it and whom the MTA hears");
    }
    if entry.shadow {
        say!(out, "  shadow      its verdicts say what it would do, and nothing of that is done");
    }
    say!(
        out,
        "  on failure  {}, after {} s at the latest",
        entry.on_failure,
        entry.deadline.as_secs()
    );
}

/// Shows what the server does to a mail of every kind.
pub(crate) fn demo(registry: &Registry) -> Result<()> {
    let mut config = load(registry, None)?;
    config.log.level = "error".to_owned();
    let (traces, _) = logging::start(&config.log, None).map_err(|error| miette!("{error:#}"))?;
    let shown = runtime()?.block_on(demo::run(config));
    traces.end();
    shown
}

/// Asks a running server whether it answers.
pub(crate) fn healthy(server: ServerAddress) -> Result<()> {
    runtime()?.block_on(probe(server, HEALTHY)).into_diagnostic()
}

/// Prints the metrics of a running server.
pub(crate) fn metrics(control: &Control) -> Result<()> {
    print(&runtime()?.block_on(control.get("/metrics"))?)
}

/// Has a running server read its configuration again.
pub(crate) fn reload(control: &Control) -> Result<()> {
    print(&runtime()?.block_on(control.post("/reload"))?)
}

/// Prints a configuration with every default in it; that of a running server if there is one to ask.
pub(crate) fn dump(
    registry: &Registry,
    running: Option<&Control>,
    file: Option<PathBuf>,
) -> Result<()> {
    print(&match running {
        Some(control) => runtime()?.block_on(control.get("/config"))?,
        None => load(registry, file)?.dump(),
    })
}

/// Prints the last messages of a running server.
pub(crate) fn history(control: &Control, asked: &Asked, json: bool) -> Result<()> {
    let asked = serde_urlencoded::to_string(asked).into_diagnostic()?;
    let lines = runtime()?.block_on(control.get(&format!("/history?{asked}")))?;
    if json {
        return print(&lines);
    }
    let mut out = String::new();
    for line in lines.lines() {
        let record: Record = serde_json::from_str(line)
            .into_diagnostic()
            .wrap_err("the server answers something else: is it of another version?")?;
        say!(out, "{record}");
    }
    match out.is_empty() {
        true => print("no messages\n"),
        false => print(&out),
    }
}

/// Hashes a password for the configuration.
pub(crate) fn password() -> Result<()> {
    let password = match io::stdin().is_terminal() {
        true => {
            let password = rpassword::prompt_password("Password: ").into_diagnostic()?;
            let again = rpassword::prompt_password("Once more: ").into_diagnostic()?;
            if password != again {
                return Err(miette!("these are two different passwords"));
            }
            password
        }
        false => {
            let mut line = String::new();
            io::stdin().lock().take(LONGEST_LINE).read_line(&mut line).into_diagnostic()?;
            line.trim_end_matches(['\r', '\n']).to_owned()
        }
    };
    print(&format!("password = \"{}\"\n", Password::hash(&password).into_diagnostic()?))
}

/// The control socket that was named, or that of a configuration file.
pub(crate) fn control(path: Option<PathBuf>, file: Option<PathBuf>) -> Result<Control> {
    match (path, file) {
        (Some(path), _) => Ok(Control::new(path)),
        (None, Some(file)) => Ok(Control::new(Document::load(&file)?.control()?)),
        (None, None) => Err(miette!(
            "which server? Name its control socket (--control) or its configuration (--config)"
        )),
    }
}

/// Writes the man pages.
pub(crate) fn man(command: clap::Command, folder: &Path) -> Result<()> {
    manual::pages(command, folder).into_diagnostic().wrap_err("the man pages can't be written")
}

/// Writes completions for a shell.
pub(crate) fn completions(command: clap::Command, shell: Shell, folder: &Path) -> Result<()> {
    let written = manual::completions(command, shell, folder);
    written.into_diagnostic().wrap_err("the completions can't be written")
}

fn load(registry: &Registry, file: Option<PathBuf>) -> Result<Config> {
    Ok(match file {
        Some(file) => Config::load(&file, registry)?,
        None => Config::embedded(registry)?,
    })
}

/// Its threads write their log lines when they have nothing else to do, or before an answer leaves.
fn runtime() -> Result<Runtime> {
    let runtime = Builder::new_multi_thread().enable_all().on_thread_park(telemetry::idle).build();
    runtime.into_diagnostic().wrap_err("the runtime can't be started")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::BoxFuture;
    use services::{Declaration, Outcome, Request, Service, ServiceError};

    use super::*;

    struct Notifier(bool);

    impl Service for Notifier {
        fn declaration(&self) -> Declaration {
            Declaration { notifies: self.0, ..Declaration::on([Command::Message]) }
        }

        fn handle<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
            Box::pin(std::future::pending())
        }
    }

    #[test]
    fn who_may_notify_is_said() {
        for notifies in [true, false] {
            let service = Arc::new(Notifier(notifies));
            let mut out = String::new();
            describe(&mut out, &Entry::new("x", "", service, Duration::from_secs(1)));
            let line = "  notifies    new messages may be submitted; the MTA says so if it can't\n";
            assert_eq!(out.contains(line), notifies, "{out}");
        }
    }
}
