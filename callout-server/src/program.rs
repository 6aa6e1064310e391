//! The program `callout-server`, for builds with services of one's own as well: serves OPES processors, checks its
//! configuration, shows what it can do.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use opes_mta::ocp::ServerAddress;
use services::Registry;

use crate::history::Asked;
use crate::reload::Source;
use crate::{Address, Control, ControlError, commands};

/// An OPES callout server for mail.
///
/// MTAs that speak OCP (RFC 4037) with the SMTP profile send it what happens in their SMTP dialogs;
/// its services answer with changed commands and content, replies and side effects. The program
/// opes-mta makes an OPES MTA of stored mail and of mail servers.
///
/// Without a subcommand it serves.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArguments,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT; then let open dialogs end and exit with 0.
    ///
    /// SIGHUP reads the configuration again, as `callout-server reload` does.
    Serve(ServeArguments),
    /// Have a running server read its configuration again, with the files that it names: all of it, or
    /// nothing.
    ///
    /// New connections have the new configuration. Those that are open keep the old one; their peers are
    /// asked to begin new dialogs on new connections (Dialog-Drain), and no transaction is cut short. What
    /// is wrong with the new one, such as a service that can't start, is said with line and column, exits
    /// with 1, and leaves the old one in use. listen, listen and control in [admin], [history], [telemetry], and
    /// format in [log] need a restart.
    Reload(ControlArguments),
    /// Show configurations.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check a configuration file and the services that it configures.
    ///
    /// Prints what would be served and what the services have to say, such as signature lines that
    /// they do not support. Exit status 1 if the server would not start; the error names line and
    /// column.
    Check {
        /// The file; the embedded defaults if absent.
        file: Option<PathBuf>,
    },
    /// List the services: URIs, events, side effects, failure policy, deadline.
    Services {
        /// A configuration file; the embedded defaults if absent.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// See it work: a server and a client in this process, over a loopback socket, and a mail of
    /// every kind.
    Demo,
    /// Ask a running server whether it answers: connect, agree on OCP, and leave.
    ///
    /// Says nothing and exits with 0 if it does; within 5 seconds, exits with 1 and says what is wrong
    /// if it doesn't. For health checks of containers, which need no shell then. It is a client like any
    /// other: [[access]] has to let it in, and where TLS is required over TCP ask at a unix socket.
    Healthy {
        /// Where the server listens: HOST:PORT or unix:PATH.
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4037")]
        server: ServerAddress,
    },
    /// Print the metrics of a running server, as OpenMetrics text.
    Metrics(ControlArguments),
    /// Look up the last messages of a running server, and what became of each and why.
    ///
    /// The server keeps their envelopes in memory, and nothing of their content ([history] in its configuration). The
    /// newest comes last. Times are UTC.
    History {
        /// So many messages, at the most.
        #[arg(long, value_name = "N", default_value_t = 20)]
        last: usize,
        /// Only those in which each of these words stands somewhere, in upper or lower case: in an address, a queue id, a
        /// client, a reply, a verdict or its reason, the name of a service.
        #[arg(long, value_name = "WORDS", default_value = "")]
        search: String,
        /// One JSON object a line; README.md explains the fields.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: ControlArguments,
    },
    /// Hash a password for [[admin.user]], who may log in at the status page.
    ///
    /// Asks for it twice on a terminal, which does not show it; otherwise it is the first line of the standard input. Prints
    /// the line `password = "..."` of the configuration.
    Password,
    /// Write the man pages into a folder.
    #[command(hide = true)]
    Man { folder: PathBuf },
    /// Write completions for a shell into a folder.
    #[command(hide = true)]
    Completions { shell: Shell, folder: PathBuf },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print a configuration as a file with every default in it.
    ///
    /// Settings of services are those that were given, and relative paths in them start where the
    /// configuration lies. All other paths are whole. Users of the status page are left out.
    Dump {
        /// Not what would be used, but what a running server uses: it is asked at its control socket.
        #[arg(long)]
        running: bool,
        #[command(flatten)]
        server: ControlArguments,
    },
}

#[derive(Args)]
struct ServeArguments {
    /// Where to listen: HOST:PORT, tls:HOST:PORT or unix:PATH. May be repeated; replaces what the
    /// configuration says. Without both: 127.0.0.1:4037.
    #[arg(long, value_name = "ADDR")]
    listen: Vec<Address>,
    /// A unix socket at which the server can be asked, and told what to do, by its user and root.
    /// Replaces [admin] control of the configuration.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// A configuration file (TOML). Without one the embedded defaults hold, which need no network
    /// and no other service. deploy/callout-server.toml is a commented example.
    #[arg(long, value_name = "FILE", env = "CALLOUT_SERVER_CONFIG")]
    config: Option<PathBuf>,
}

/// Which running server is asked, over its control socket: `[admin] control`.
#[derive(Args)]
struct ControlArguments {
    /// The control socket of the server.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// The server's configuration file, which says where its control socket is.
    #[arg(long, value_name = "FILE", env = "CALLOUT_SERVER_CONFIG")]
    config: Option<PathBuf>,
}

impl ControlArguments {
    fn find(self) -> miette::Result<Control> {
        commands::control(self.control, self.config)
    }
}

/// Does what the command line says, with these kinds of services; the exit code. `deploy/plugin-template` is a program
/// made of this.
pub fn main(registry: &Registry) -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(ServeArguments { listen, control, config }) => {
            commands::serve(registry, Source { file: config, listen, control })
        }
        Command::Reload(server) => server.find().and_then(|control| commands::reload(&control)),
        Command::Config(ConfigCommand::Dump { running: true, server }) => {
            server.find().and_then(|control| commands::dump(registry, Some(&control), None))
        }
        Command::Config(ConfigCommand::Dump { running: false, server }) => {
            commands::dump(registry, None, server.config)
        }
        Command::Check { file } => commands::check(registry, file),
        Command::Services { config } => commands::services(registry, config),
        Command::Demo => commands::demo(registry),
        Command::Healthy { server } => commands::healthy(server),
        Command::Metrics(server) => server.find().and_then(|control| commands::metrics(&control)),
        Command::History { last, search, json, server } => {
            let asked = Asked { last, search };
            server.find().and_then(|control| commands::history(&control, &asked, json))
        }
        Command::Password => commands::password(),
        Command::Man { folder } => commands::man(Cli::command(), &folder),
        Command::Completions { shell, folder } => {
            commands::completions(Cli::command(), shell, &folder)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match error.downcast_ref::<ControlError>() {
                // The server's words are for people already.
                Some(ControlError::Refused(words)) => eprintln!("{words}"),
                _ => eprintln!("{error:?}"),
            }
            ExitCode::FAILURE
        }
    }
}
