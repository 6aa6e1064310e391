//! Who the client is, for a next hop that is to know (XCLIENT and XFORWARD of Postfix).

use std::sync::Arc;

use ocp_proto::smtp::Reply;

use crate::relay::{Connection, Origin, RelayError};

/// How the next hop learns who the client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Introduce {
    /// It does not: we are its client.
    #[default]
    Never,
    /// By XFORWARD before each message, if it offers that: it logs the client, and decides as if we were it.
    Xforward,
    /// By XCLIENT: it does all as if the client had connected to it. One that does not offer that would take every
    /// client for us, and let it do what we may: it gets nothing.
    Xclient,
}

/// What the next hop knows of the client.
#[derive(Debug)]
pub(super) struct Introduction {
    how: Introduce,
    /// By XCLIENT.
    told: Option<Origin>,
    /// Whether this connection has heard XCLIENT: Postfix takes it from the client that it was told of no more.
    is_spent: bool,
}

impl Introduction {
    pub(super) fn new(how: Introduce) -> Self {
        Self { how, told: None, is_spent: false }
    }

    /// Whether the next hop learns anything.
    pub(super) fn is_wanted(&self) -> bool {
        self.how != Introduce::Never
    }

    /// The client says its name: EHLO at the next hop, which knows who that is.
    pub(super) async fn hello(
        &mut self,
        hop: &mut Connection,
        client: &Origin,
        name: &str,
    ) -> Result<Reply, RelayError> {
        if self.how == Introduce::Xclient {
            self.tell(hop, client).await?;
        }
        hop.hello(name).await
    }

    /// MAIL comes next. Somebody may speak for another client than at EHLO.
    pub(super) async fn message(
        &mut self,
        hop: &mut Connection,
        client: &Origin,
    ) -> Result<(), RelayError> {
        match self.how {
            Introduce::Never => Ok(()),
            Introduce::Xforward => match hop.xforward(client).await {
                Err(error) if error.reply().is_some() => {
                    // It is for its log alone.
                    tracing::warn!(cause = %error, "the next hop does not hear who the client is");
                    Ok(())
                }
                told => told.map(drop),
            },
            Introduce::Xclient => {
                if self.tell(hop, client).await? {
                    let own = hop.next_hop().name.clone();
                    hop.hello(client.helo.as_deref().unwrap_or(&own)).await?;
                }
                Ok(())
            }
        }
    }

    /// Says who it is unless that was said; EHLO has to follow then. Another client than the first has a
    /// connection of its own.
    async fn tell(&mut self, hop: &mut Connection, client: &Origin) -> Result<bool, RelayError> {
        // EHLO says the name, and the rest changes with each message.
        let client = Origin { helo: None, protocol: None, identifier: None, ..client.clone() };
        if self.told.as_ref() == Some(&client) {
            return Ok(false);
        }
        self.told = None;
        if std::mem::replace(&mut self.is_spent, true) {
            let next_hop = Arc::clone(hop.next_hop());
            let before = std::mem::replace(hop, Connection::open(&next_hop).await?);
            before.quit().await;
        }
        hop.xclient(&client).await?;
        self.told = Some(client);
        Ok(true)
    }
}
