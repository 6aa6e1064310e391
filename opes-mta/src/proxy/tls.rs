//! How both sides of the proxy are secured.

use std::path::PathBuf;

use clap::ValueEnum;
use opes_mta::front::smtp::Tls;
use opes_mta::relay::{NextHopAddress, TlsPolicy};

use crate::serve;

/// How both sides are secured.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "TLS")]
pub(super) struct TlsArguments {
    /// Our certificate (PEM), and those that lead to a root: clients are offered STARTTLS. SIGHUP reads it
    /// and its key again
    #[arg(long = "tls-certificate", value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// The private key of our certificate (PEM)
    #[arg(long = "tls-key", value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Whether the next hop gets mail by STARTTLS: never (none), if it offers it, whatever its certificate
    /// is (may), or else not at all, and with a certificate that --next-hop-tls-ca vouches for (require)
    #[arg(long, value_name = "WHEN", default_value = "none", hide_possible_values = true)]
    next_hop_tls: NextHopTls,
    /// Certificates (PEM) of the authorities that sign the next hop's
    #[arg(long, value_name = "FILE")]
    next_hop_tls_ca: Option<PathBuf>,
    /// The name in the next hop's certificate, if it is not the host of --next-hop
    #[arg(long, value_name = "NAME", requires = "next_hop_tls_ca")]
    next_hop_tls_name: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum NextHopTls {
    None,
    May,
    Require,
}

impl TlsArguments {
    /// What clients are offered STARTTLS with, if they are.
    pub(super) fn for_clients(&self) -> anyhow::Result<Option<Tls>> {
        let files = self.certificate.clone().zip(self.key.clone());
        Ok(files.map(|(certificate, key)| Tls::load(certificate, key)).transpose()?)
    }

    /// When TLS is used with the next hop.
    pub(super) fn policy(&self, next_hop: &NextHopAddress) -> anyhow::Result<TlsPolicy> {
        let name = self.next_hop_tls_name.as_deref();
        match (self.next_hop_tls, &self.next_hop_tls_ca) {
            (NextHopTls::Require, Some(ca)) => {
                anyhow::ensure!(
                    name.is_some() || matches!(next_hop, NextHopAddress::Tcp { .. }),
                    "a unix socket does not say whose certificate is right: --next-hop-tls-name does"
                );
                Ok(TlsPolicy::require(ca, None, name)?)
            }
            (NextHopTls::Require, None) => anyhow::bail!(
                "--next-hop-tls require needs --next-hop-tls-ca FILE: the authorities that sign the next hop's certificate"
            ),
            (_, Some(_)) => anyhow::bail!(
                "certificates are looked at with --next-hop-tls require alone: --next-hop-tls-ca needs that"
            ),
            (NextHopTls::May, None) => Ok(TlsPolicy::may()?),
            (NextHopTls::None, None) => Ok(TlsPolicy::none()),
        }
    }
}

/// What SIGHUP does: it reads the certificate again, if there is one.
pub(super) fn reload(tls: Option<&Tls>) {
    match tls.map(Tls::reload) {
        None => serve::nothing_to_read_again(),
        Some(Ok(())) => tracing::info!("certificates read again"),
        Some(Err(error)) => tracing::error!(%error, "certificates stay as they were"),
    }
}
