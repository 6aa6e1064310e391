//! A plugin in Rust: puts a word before the subject of mail whose client has not authenticated.
//!
//! `plugin-example [WORD]`; without a word it only looks. It listens where `OPES_PLUGIN_ADDRESS` says, on a unix
//! socket, and ends when its standard input does. It needs `fields = ["Subject"]`, and no body.

use std::error::Error;

use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use self::opes::handle_request::Piece;
use self::opes::outcome::Change;
use self::opes::plugin_server::{Plugin, PluginServer};
use self::opes::{DescribeRequest, Description, Edit, Edits, Event, HandleRequest, Outcome};

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod opes {
    tonic::include_proto!("opes.plugin.v1");
}

struct Tag {
    word: Option<String>,
}

#[tonic::async_trait]
impl Plugin for Tag {
    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<Description>, Status> {
        Ok(Response::new(Description {
            name: "tag 1".to_owned(),
            events: vec!["MESSAGE".to_owned()],
            body_octets: Some(0),
            effects: Vec::new(),
        }))
    }

    async fn handle(
        &self,
        request: Request<Streaming<HandleRequest>>,
    ) -> Result<Response<Outcome>, Status> {
        let first = request.into_inner().message().await?;
        let Some(HandleRequest { piece: Some(Piece::Event(event)) }) = first else {
            return Err(Status::invalid_argument("the first message has the event"));
        };
        Ok(Response::new(self.tagged(&event)))
    }
}

impl Tag {
    fn tagged(&self, event: &Event) -> Outcome {
        let is_ours = event.dialog.as_ref().is_some_and(|dialog| !dialog.user.is_empty());
        let Some(word) = self.word.as_ref().filter(|_| !is_ours) else {
            return Outcome { verdict: "seen".to_owned(), ..Outcome::default() };
        };
        let Some(at) = subject(event.header()) else {
            return Outcome { verdict: "no-subject".to_owned(), ..Outcome::default() };
        };
        let edit = Edit { start: at as u64, end: at as u64, octets: format!(" {word}").into() };
        Outcome {
            verdict: "tagged".to_owned(),
            change: Some(Change::Edits(Edits { edits: vec![edit] })),
            ..Outcome::default()
        }
    }
}

/// Where the value of the first subject begins.
fn subject(header: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"subject:";
    let mut at = 0;
    for line in header.split_inclusive(|octet| *octet == b'\n') {
        if line.get(..NAME.len()).is_some_and(|start| start.eq_ignore_ascii_case(NAME)) {
            return Some(at + NAME.len());
        }
        at += line.len();
    }
    None
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::var("OPES_PLUGIN_ADDRESS")?;
    let path = address.strip_prefix("unix:").ok_or("OPES_PLUGIN_ADDRESS is no unix:PATH")?;
    // One that was killed has left it behind.
    let _ = std::fs::remove_file(path);
    let socket = UnixListenerStream::new(UnixListener::bind(path)?);
    println!("ready");
    let ended = async {
        let mut rest = Vec::new();
        let _ = tokio::io::stdin().read_to_end(&mut rest).await;
    };
    let plugin = PluginServer::new(Tag { word: std::env::args().nth(1) });
    Server::builder().add_service(plugin).serve_with_incoming_shutdown(socket, ended).await?;
    Ok(())
}
