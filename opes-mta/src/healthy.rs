//! `opes-mta healthy`: whether a running `opes-mta milter` or `opes-mta smtp` answers.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::BytesMut;
use opes_mta::config::MilterAddress;
use opes_mta::milter::options::VERSION;
use opes_mta::milter::{Actions, Command, Decoder, Offer, Steps, packet};
use opes_mta::relay::{Connection, NextHop, NextHopAddress};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// Ask a running milter or SMTP proxy whether it answers.
///
/// Says nothing and exits with 0 if it does; within 5 seconds, exits with 1 and says what is wrong if it doesn't.
/// For health checks of containers, which need no shell then. A milter is asked for its options, an SMTP proxy for
/// its greeting.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Arguments {
    /// Where `opes-mta milter` listens: inet:HOST:PORT or unix:/PATH
    #[arg(long, value_name = "ADDR")]
    milter: Option<MilterAddress>,
    /// Where `opes-mta smtp` listens: HOST:PORT or unix:/PATH
    #[arg(long, value_name = "ADDR")]
    smtp: Option<NextHopAddress>,
}

/// How long a healthy one may take for all of it.
const HEALTHY: Duration = Duration::from_secs(5);

/// Runs the command.
pub(crate) fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let answered = timeout(HEALTHY, ask(arguments)).await;
        answered.with_context(|| format!("it did not answer within {HEALTHY:?}"))?
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(arguments: Arguments) -> anyhow::Result<()> {
    if let Some(proxy) = arguments.smtp {
        let next_hop = NextHop::new(proxy, "localhost");
        Connection::connect(&Arc::new(next_hop)).await?.quit().await;
    }
    if let Some(milter) = arguments.milter {
        negotiate(&milter).await.with_context(|| format!("the milter at {milter}"))?;
    }
    Ok(())
}

async fn negotiate(milter: &MilterAddress) -> anyhow::Result<()> {
    match milter {
        MilterAddress::Inet(address) => options(TcpStream::connect(address).await?).await,
        MilterAddress::Unix(path) => options(UnixStream::connect(path).await?).await,
    }
}

/// Offers everything, as a mail server would, and leaves once there is an answer.
async fn options(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> anyhow::Result<()> {
    let (actions, steps) = (Actions::from_bits(u32::MAX), Steps::from_bits(u32::MAX));
    let mut octets = BytesMut::new();
    Command::Negotiate(Offer { version: VERSION, actions, steps }).encode(&mut octets);
    stream.write_all(&octets).await?;
    octets.clear();
    let mut decoder = Decoder::new(packet::MAXIMUM_PACKET);
    let answer = loop {
        if let Some(packet) = decoder.decode(&mut octets)? {
            break packet;
        }
        if stream.read_buf(&mut octets).await? == 0 {
            bail!("it hung up");
        }
    };
    if answer.letter != b'O' {
        bail!("it does not answer a negotiation of options");
    }
    octets.clear();
    Command::Quit.encode(&mut octets);
    stream.write_all(&octets).await?;
    Ok(())
}
