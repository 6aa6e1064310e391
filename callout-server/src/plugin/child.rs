//! A plugin that is started here, and kept running.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::settings::PluginSettings;

/// Between an end and the next start, at first; each time twice as long.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest time in between.
const LONGEST: Duration = Duration::from_secs(60);
/// One that has run so long begins anew with the shortest.
const STEADY: Duration = Duration::from_secs(60);
/// The longest line of its output that is logged, in octets.
const LONGEST_LINE: usize = 1_024;

/// Starts the program whenever it does not run, and counts that. Never ends; the program ends when this is dropped.
pub(super) async fn keep(settings: Arc<PluginSettings>, starts: Arc<AtomicU64>) {
    let Some([program, arguments @ ..]) = settings.command.as_deref() else { return };
    let mut pause = SHORTEST;
    loop {
        let begin = Instant::now();
        let started = Command::new(program)
            .args(arguments)
            .current_dir(if settings.directory.as_os_str().is_empty() {
                ".".as_ref()
            } else {
                settings.directory.as_path()
            })
            .env("OPES_PLUGIN_ADDRESS", settings.address.to_string())
            // Nothing comes there; its end says that the server has gone, even if that was killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let cause = match started {
            Ok(child) => {
                starts.fetch_add(1, Ordering::Relaxed);
                run(program, child).await
            }
            Err(error) => format!("it can't be started: {error}"),
        };
        if begin.elapsed() >= STEADY {
            pause = SHORTEST;
        }
        tracing::warn!(
            program,
            cause,
            seconds = pause.as_secs(),
            "a plugin has ended and is started again"
        );
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}

/// Until it ends: how it did.
async fn run(program: &str, mut child: Child) -> String {
    tracing::info!(program, pid = child.id(), "a plugin is started");
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // To wait for it would close its input.
    let _input = child.stdin.take();
    let logged = async {
        tokio::join!(log(program, stdout), log(program, stderr));
    };
    tokio::pin!(logged);
    let ended = tokio::select! {
        ended = child.wait() => ended,
        () = &mut logged => child.wait().await,
    };
    match ended {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

/// What it says, line by line.
async fn log(program: &str, output: Option<impl AsyncRead + Unpin>) {
    let Some(output) = output else { return };
    let mut output = BufReader::new(output);
    loop {
        let Ok(octets) = output.fill_buf().await else { return };
        if octets.is_empty() {
            return;
        }
        let end = memchr::memchr(b'\n', octets).map_or(octets.len(), |end| end + 1);
        let line = octets.get(..end.min(LONGEST_LINE)).unwrap_or_default();
        let line = String::from_utf8_lossy(line.trim_ascii_end()).replace(char::is_control, " ");
        if !line.is_empty() {
            tracing::info!(program, line, "a plugin says");
        }
        output.consume(end);
    }
}
