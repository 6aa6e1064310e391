//! The beginning of a connection: greeting, EHLO, TLS; and its end.

use std::sync::Arc;

use ocp_proto::smtp::Reply;
use tokio::time::{Instant, timeout};

use super::address::NextHopAddress;
use super::connection::{Connection, error};
use super::error::{Cause, RelayError};
use super::stage::{Stage, Timeouts};
use super::tls::TlsPolicy;
use super::transport::connect;
use super::wire::Wire;
use crate::metrics::NextHopMetrics;
use crate::smtp::Protocol;
use crate::smtp::extensions::{Extensions, STARTTLS};

/// Where mail goes, and how.
#[derive(Clone, Debug)]
pub struct NextHop {
    /// Where it listens.
    pub address: NextHopAddress,
    /// What it speaks.
    pub protocol: Protocol,
    /// Our name in EHLO or LHLO.
    pub name: String,
    /// When TLS is used.
    pub tls: TlsPolicy,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// What is counted of it; clones count together.
    pub metrics: Arc<NextHopMetrics>,
}

impl NextHop {
    /// A next hop that speaks SMTP in plain text, with the times of RFC 5321.
    pub fn new(address: NextHopAddress, name: impl Into<String>) -> Self {
        Self {
            address,
            protocol: Protocol::Smtp,
            name: name.into(),
            tls: TlsPolicy::none(),
            timeouts: Timeouts::default(),
            metrics: Arc::default(),
        }
    }
}

impl Connection {
    /// A connection that is ready for MAIL: greeting, EHLO, and TLS by the policy of the next hop.
    ///
    /// # Errors
    /// What the next hop did, or refused. Where TLS may be used and fails, plain text is tried.
    pub async fn open(next_hop: &Arc<NextHop>) -> Result<Self, RelayError> {
        let mut connection = Self::connect(next_hop).await?;
        let name = next_hop.name.as_str();
        connection.hello(name).await?;
        if !next_hop.tls.is_wanted() {
            return Ok(connection);
        }
        let is_required = next_hop.tls.is_required();
        if !connection.extensions.offers(STARTTLS) {
            if is_required {
                let error = connection.error(Stage::StartTls, Instant::now(), Cause::NoTls);
                connection.quit().await;
                return Err(error);
            }
            return Ok(connection);
        }
        match connection.start_tls().await {
            Ok(()) => {
                connection.hello(name).await?;
                Ok(connection)
            }
            Err(error) if is_required => {
                connection.quit().await;
                Err(error)
            }
            Err(error) => {
                let next_hop_address = &next_hop.address;
                tracing::warn!(%next_hop_address, cause = %error, "no TLS: going on in plain text");
                if !connection.is_usable() {
                    connection = Self::connect(next_hop).await?;
                    connection.hello(name).await?;
                }
                Ok(connection)
            }
        }
    }

    /// A connection whose greeting has come, and was 220; nothing was said yet.
    ///
    /// # Errors
    /// If there is none.
    pub async fn connect(next_hop: &Arc<NextHop>) -> Result<Self, RelayError> {
        let connected = Self::greeted(next_hop).await;
        next_hop.metrics.connected(connected.is_ok());
        connected
    }

    async fn greeted(next_hop: &Arc<NextHop>) -> Result<Self, RelayError> {
        let since = Instant::now();
        let deadline = since + next_hop.timeouts.of(Stage::Connect);
        let transport = connect(&next_hop.address, deadline)
            .await
            .map_err(|cause| error(next_hop, Stage::Connect, since.elapsed(), cause))?;
        let mut connection = Self::new(Arc::clone(next_hop), Wire::new(transport));
        connection.expect(Stage::Greeting);
        let greeting = connection.reply().await?;
        if greeting.code() != 220 {
            let error = connection.refusal(Stage::Greeting, since, greeting);
            // RFC 5321 section 3.1: who refuses so waits for QUIT.
            connection.quit().await;
            return Err(error);
        }
        connection.greeting = Some(greeting);
        Ok(connection)
    }

    /// Says EHLO, or HELO to who does not know it (RFC 5321 section 3.2), or LHLO, with this name. What
    /// the next hop offers is known then.
    ///
    /// # Errors
    /// If it refuses, or does not answer.
    pub async fn hello(&mut self, name: &str) -> Result<Reply, RelayError> {
        let since = Instant::now();
        let protocol = self.next_hop.protocol;
        let verb = if protocol == Protocol::Lmtp { "LHLO" } else { "EHLO" };
        let line = self.line(format!("{verb} {name}"))?;
        let mut reply = self.command(&line).await?;
        self.extensions = Extensions::of(&reply);
        if reply.is_permanent() && protocol == Protocol::Smtp {
            let line = self.line(format!("HELO {name}"))?;
            reply = self.command(&line).await?;
            self.extensions = Extensions::default();
        }
        if reply.code() != 250 {
            self.extensions = Extensions::default();
            return Err(self.refusal(Stage::Hello, since, reply));
        }
        self.hello = Some(reply.clone());
        Ok(reply)
    }

    /// Says STARTTLS and does the handshake. EHLO comes again then: what the next hop said before counts
    /// no more (RFC 3207 section 4.2).
    ///
    /// # Errors
    /// If it refuses, after which the connection goes on in plain text; or if the handshake fails, which
    /// ends it.
    pub async fn start_tls(&mut self) -> Result<(), RelayError> {
        let since = Instant::now();
        if !self.next_hop.tls.is_wanted() {
            let cause = Cause::Handshake("TLS is not to be used".to_owned());
            return Err(self.error(Stage::StartTls, since, cause));
        }
        let line = self.line("STARTTLS")?;
        let reply = self.command(&line).await?;
        if reply.code() != 220 {
            return Err(self.refusal(Stage::StartTls, since, reply));
        }
        // RFC 3207 section 6: nothing that came in plain text counts. A server waits for us now.
        if self.wire.has_input() {
            return Err(self.fail(Stage::StartTls, since, Cause::PlainText));
        }
        let closed = Wire::new(Box::new(tokio::io::empty()));
        let stream = std::mem::replace(&mut self.wire, closed).into_stream();
        let next_hop = Arc::clone(&self.next_hop);
        let limit = next_hop.timeouts.of(Stage::Handshake);
        let handshake = next_hop.tls.handshake(stream, &next_hop.address);
        let cause = match timeout(limit, handshake).await {
            Ok(Ok(stream)) => {
                self.wire = Wire::new(Box::new(stream));
                (self.extensions, self.hello, self.is_secured) =
                    (Extensions::default(), None, true);
                return Ok(());
            }
            Ok(Err(error)) => Cause::Handshake(error.to_string()),
            Err(_) => Cause::Silence(limit),
        };
        Err(self.fail(Stage::Handshake, since, cause))
    }

    /// Ends the message that has begun, if any.
    ///
    /// # Errors
    /// If the next hop refuses, or does not answer. The connection is of no use then.
    pub async fn reset(&mut self) -> Result<(), RelayError> {
        let since = Instant::now();
        let line = self.line("RSET")?;
        let reply = self.command(&line).await?;
        if reply.code() != 250 {
            return Err(self.fail(Stage::Rset, since, Cause::Refused(reply)));
        }
        Ok(())
    }

    /// Says QUIT, if that is of use. Nothing depends on the answer.
    pub async fn quit(mut self) {
        if self.is_usable()
            && let Ok(line) = self.line("QUIT")
        {
            let _ = self.command(&line).await;
        }
    }
}
