//! The options that secure the connection to the callout server.

use std::path::PathBuf;

use clap::ValueEnum;
use opes_mta::ocp::{ServerAddress, Tls, TlsNegotiation, TlsSettings};

/// How the connection to the callout server is secured.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct TlsArguments {
    /// Whether TLS is negotiated with a server that is not named as tls:HOST:PORT. Without this
    /// option: required if there is --tls-ca, else off. With `offer` a server that has none is used in
    /// plain text
    #[arg(long = "tls", value_name = "WHEN")]
    negotiation: Option<Negotiation>,
    /// Certificates (PEM) of the authorities that sign the server's
    #[arg(long = "tls-ca", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Our certificate (PEM), for servers that want to know who we are
    #[arg(long = "tls-certificate", value_name = "FILE", requires_all = ["key", "ca"])]
    certificate: Option<PathBuf>,
    /// The private key of our certificate (PEM)
    #[arg(long = "tls-key", value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// The name in the server's certificate, if it is not the host of --server
    #[arg(long = "tls-name", value_name = "NAME", requires = "ca")]
    name: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Negotiation {
    Required,
    Offer,
    Off,
}

impl TlsArguments {
    /// What a connection to this server needs, if anything.
    pub(crate) fn tls(self, server: &ServerAddress) -> anyhow::Result<Option<Tls>> {
        let implicit = matches!(server, ServerAddress::Tls(_));
        let negotiation = match self.negotiation {
            Some(Negotiation::Off) => TlsNegotiation::Off,
            Some(Negotiation::Offer) => TlsNegotiation::Offer,
            Some(Negotiation::Required) | None => TlsNegotiation::Required,
        };
        let Some(ca) = self.ca else {
            let wanted = self.negotiation.is_some_and(|when| when != Negotiation::Off);
            anyhow::ensure!(
                !wanted && !implicit,
                "TLS needs --tls-ca FILE: the certificates of the authorities that sign the server's"
            );
            return Ok(None);
        };
        let identity = self.certificate.zip(self.key);
        let settings = TlsSettings { negotiation, ca, identity, name: self.name };
        Ok(Some(Tls::new(&settings)?))
    }
}
