//! A plugin that is started here, and kept running.
//!
//! It is known by its address: services with the same program at the same address have one running for all of them.
//! So it runs on where a configuration that says nothing else of it takes the place of another.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::settings::{Address, PluginSettings};

/// For one that has just been started to listen.
const READY: Duration = Duration::from_secs(15);
/// Between two looks whether it does.
const LOOK: Duration = Duration::from_millis(20);
/// Between an end and the next start, at first; each time twice as long.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest time in between.
const LONGEST: Duration = Duration::from_secs(60);
/// One that has run so long begins anew with the shortest.
const STEADY: Duration = Duration::from_secs(60);
/// The longest line of its output that is logged, in octets.
const LONGEST_LINE: usize = 1_024;

/// Those that run, by where they listen.
static RUNNING: LazyLock<Mutex<HashMap<Address, Weak<Program>>>> = LazyLock::new(Mutex::default);

/// A program that is kept running, until this is dropped.
#[derive(Debug)]
pub(super) struct Program {
    command: Vec<String>,
    directory: PathBuf,
    /// How often it was started.
    starts: Arc<AtomicU64>,
    /// How it ended last.
    ended: watch::Receiver<Option<String>>,
}

impl Program {
    /// The program of these settings, and whether it is started now or runs there already.
    ///
    /// # Errors
    /// If another one runs there.
    pub(super) fn of(
        settings: &Arc<PluginSettings>,
        command: &[String],
    ) -> Result<(Arc<Self>, bool), String> {
        // No change is left half done by a panic.
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, program| program.strong_count() > 0);
        if let Some(program) = running.get(&settings.address).and_then(Weak::upgrade) {
            let is_same = program.command == command && program.directory == settings.directory;
            return match is_same {
                true => Ok((program, false)),
                false => Err(format!(
                    "{} still runs at {} for dialogs that are open: give another program another address",
                    program.name(),
                    settings.address
                )),
            };
        }
        let starts = Arc::<AtomicU64>::default();
        let (tell, ended) = watch::channel(None);
        // It ends once nobody hears it.
        tokio::spawn(keep(Arc::clone(settings), Arc::clone(&starts), tell));
        let program = Arc::new(Self {
            command: command.to_vec(),
            directory: settings.directory.clone(),
            starts,
            ended,
        });
        running.insert(settings.address.clone(), Arc::downgrade(&program));
        Ok((program, true))
    }

    /// Waits until it listens, once it is started.
    ///
    /// # Errors
    /// If it can't be started, ends, or takes too long.
    pub(super) async fn listens(&self, address: &Address) -> Result<(), String> {
        let mut ended = self.ended.clone();
        let listens = async {
            tokio::select! {
                () = connected(address) => Ok(()),
                Ok(cause) = ended.wait_for(Option::is_some) => Err(cause.clone().unwrap_or_default()),
            }
        };
        let name = self.name();
        match timeout(READY, listens).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(cause)) => Err(format!("{name} does not run: {cause}")),
            Err(_) => {
                Err(format!("{name} does not listen at {address} within {} s", READY.as_secs()))
            }
        }
    }

    /// How often it was started.
    pub(super) fn starts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed)
    }

    fn name(&self) -> &str {
        self.command.first().map(String::as_str).unwrap_or_default()
    }
}

/// Until somebody listens there.
async fn connected(address: &Address) {
    loop {
        let connected = match address {
            Address::Unix(path) => tokio::net::UnixStream::connect(path).await.is_ok(),
            Address::Http(uri) => match uri.split_once("://") {
                Some((_, host)) => tokio::net::TcpStream::connect(host).await.is_ok(),
                None => false,
            },
        };
        if connected {
            return;
        }
        sleep(LOOK).await;
    }
}

/// Starts the program whenever it does not run, counts that, and tells how it ended. Once nobody listens to that any
/// more, the program is ended, and waited for: the system keeps an entry of one that nobody waits for.
async fn keep(
    settings: Arc<PluginSettings>,
    starts: Arc<AtomicU64>,
    ended: watch::Sender<Option<String>>,
) {
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
                match run(program, child, &ended).await {
                    Some(cause) => cause,
                    None => return,
                }
            }
            Err(error) => format!("it can't be started: {error}"),
        };
        if begin.elapsed() >= STEADY {
            pause = SHORTEST;
        }
        tracing::warn!(
            program,
            cause = cause.as_str(),
            seconds = pause.as_secs(),
            "a plugin has ended and is started again"
        );
        ended.send_replace(Some(cause));
        tokio::select! {
            () = sleep(pause) => {}
            () = ended.closed() => return,
        }
        pause = (pause * 2).min(LONGEST);
    }
}

/// Until it ends: how it did; `None` if nobody needs it any more.
async fn run(
    program: &str,
    mut child: Child,
    needed: &watch::Sender<Option<String>>,
) -> Option<String> {
    tracing::info!(program, pid = child.id(), "a plugin is started");
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // To wait for it would close its input.
    let _input = child.stdin.take();
    let logged = async {
        tokio::join!(log(program, stdout), log(program, stderr));
    };
    tokio::pin!(logged);
    let ended = tokio::select! {
        ended = async {
            tokio::select! {
                ended = child.wait() => ended,
                () = &mut logged => child.wait().await,
            }
        } => ended,
        () = needed.closed() => {
            if let Err(error) = child.kill().await {
                tracing::warn!(program, %error, "a plugin can't be ended");
            }
            return None;
        }
    };
    Some(match ended {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    })
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
