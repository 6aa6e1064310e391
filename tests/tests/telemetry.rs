//! Traces of mails at a collector: both programs with their feature `opentelemetry`.

#![allow(missing_docs, clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tests::smtp::{Client, NextHop};
use tests::{CalloutServer, Milter, PATIENCE, not_run, program};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

const MAIL: &str = "From: a@a.example\r\nSubject: a secret\r\n\r\ntext\r\n";
/// What the log says once while there is no collector.
const LOST: &str = "traces can't be exported: they are lost until they can";

/// A collector: each span comes with the name of its service.
struct Collector(Sender<(String, Span)>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for program in request.into_inner().resource_spans {
            let resource = program.resource.unwrap().attributes;
            let service = attribute(&resource, "service.name").unwrap();
            for span in program.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                // Whoever has heard enough may have gone.
                let _ = self.0.send((service.clone(), span));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Begins to collect, until the process ends.
fn collect(listener: TcpListener) -> Receiver<(String, Span)> {
    let (sender, spans) = channel();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let incoming =
                TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
            let collector = TraceServiceServer::new(Collector(sender));
            Server::builder().add_service(collector).serve_with_incoming(incoming).await
        })
    });
    spans
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?;
    Some(match value {
        AnyValue { value: Some(Value::StringValue(text)) } => text.clone(),
        AnyValue { value: Some(Value::IntValue(number)) } => number.to_string(),
        other => format!("{other:?}"),
    })
}

/// Spans of a program by their name and attributes.
struct Spans(Vec<(String, Span)>);

impl Spans {
    fn all(&self, service: &str, name: &str) -> Vec<&Span> {
        let is_meant = |(of, span): &&(String, Span)| of == service && span.name == name;
        self.0.iter().filter(is_meant).map(|(_, span)| span).collect()
    }

    /// The only one with this attribute.
    fn only(&self, service: &str, name: &str, key: &str, value: &str) -> &Span {
        let is_meant = |span: &&Span| attribute(&span.attributes, key).as_deref() == Some(value);
        let meant: Vec<_> = self.all(service, name).into_iter().filter(is_meant).collect();
        assert_eq!(meant.len(), 1, "{name} with {key}={value}: {meant:#?}");
        meant.first().unwrap()
    }
}

fn is_child(child: &Span, parent: &Span) {
    assert_eq!(
        (&child.trace_id, &child.parent_span_id),
        (&parent.trace_id, &parent.span_id),
        "{child:#?} of {parent:#?}"
    );
}

/// Whether the programs were built with it; they say so if they were not.
fn is_built_in(folder: &Path, story: &str) -> bool {
    let file = folder.join("probe.toml");
    std::fs::write(&file, "[telemetry]\n").unwrap();
    let checked = program("callout-server").arg("check").arg(&file).output().unwrap();
    if checked.status.success() {
        return true;
    }
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(said.contains("built without OpenTelemetry"), "{said}");
    not_run(story, "the programs were built without their feature opentelemetry");
    false
}

fn processor(server: &str, telemetry: &str) -> String {
    format!(
        "[[group]]\nname = \"content\"\nservers = [\"{server}\"]\nservices = [\"spam-score\", \"log\"]\n\
         on-failure = \"tempfail\"\n{telemetry}"
    )
}

fn submit(port: u16) -> String {
    let mut client = Client::greeted(port);
    let reply = client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes());
    client.say("QUIT");
    reply
}

#[test]
fn the_spans_of_a_mail() {
    let folder = tempfile::tempdir().unwrap();
    if !is_built_in(folder.path(), "the spans of a mail") {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let telemetry =
        format!("[telemetry]\nendpoint = \"http://{}\"\n", listener.local_addr().unwrap());
    let collected = collect(listener);
    let named = format!("{telemetry}service-name = \"mx1\"\n");
    let server = CalloutServer::start(folder.path(), &named, &[]);
    let address = server.address().to_owned();
    let hop = NextHop::start();
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let config = processor(&address, &telemetry);
    let proxy = Milter::start_proxy("127.0.0.1:0", &next_hop, folder.path(), &config);
    let reply = submit(proxy.port());
    assert!(reply.starts_with("250"), "{reply}");
    // What waits goes out at the end.
    proxy.terminate();
    assert_eq!(proxy.ended().0, Some(0));
    server.terminate();
    assert_eq!(server.ended().0, Some(0));
    let spans = Spans(collected.try_iter().collect());

    let dialog = spans.only("opes-mta", "dialog", "activation", "proxy");
    assert!(dialog.parent_span_id.is_empty(), "{dialog:#?}");
    let event = spans.only("opes-mta", "event", "event", "MESSAGE");
    is_child(event, dialog);
    assert_eq!(attribute(&event.attributes, "answer").unwrap(), "unchanged");
    let consultation = spans.only("opes-mta", "consultation", "event", "MESSAGE");
    is_child(consultation, event);
    let attempts = spans.all("opes-mta", "attempt");
    let attempt = attempts.into_iter().find(|span| span.parent_span_id == consultation.span_id);
    let attempt = attempt.unwrap();
    is_child(attempt, consultation);
    assert_eq!(attribute(&attempt.attributes, "server").unwrap(), address);

    // On the other side it is the event with the same number.
    let xid = attribute(&attempt.attributes, "xid").unwrap();
    let transaction = spans.only("mx1", "transaction", "xid", &xid);
    assert!(transaction.parent_span_id.is_empty(), "{transaction:#?}");
    let of = |span: &Span, key: &str| attribute(&span.attributes, key);
    assert_eq!(of(transaction, "command").unwrap(), "MESSAGE");
    assert_eq!(of(transaction, "decision").unwrap(), "unchanged");
    assert_eq!(of(transaction, "dialog"), of(attempt, "dialog"));
    let [link] = &transaction.links[..] else { panic!("{transaction:#?}") };
    let connections = spans.all("mx1", "connection");
    assert!(connections.iter().any(|connection| connection.span_id == link.span_id));
    for name in ["spam-score", "log"] {
        let mut services = spans.all("mx1", "service").into_iter();
        let asked = services.find(|span| {
            span.parent_span_id == transaction.span_id && of(span, "service").unwrap() == name
        });
        let asked = asked.unwrap();
        is_child(asked, transaction);
        assert_eq!(of(asked, "result").unwrap(), "unchanged", "{asked:#?}");
        assert!(of(asked, "verdict").is_some(), "{asked:#?}");
    }

    let all = format!("{:?}", spans.0);
    for private in ["a.example", "b.example", "secret", "client.example"] {
        assert!(!all.contains(private), "{private} in {:#?}", spans.0);
    }
}

/// The server is not there: what fails says so, and where.
#[test]
fn a_failure_has_its_stage() {
    let folder = tempfile::tempdir().unwrap();
    if !is_built_in(folder.path(), "the spans of a failure") {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let telemetry =
        format!("[telemetry]\nendpoint = \"http://{}\"\n", listener.local_addr().unwrap());
    let collected = collect(listener);
    let broken =
        "[services.virus-scan.settings]\nclamd = \"unix:/nowhere/clamd.sock\"\nclamd-retry = 0\n";
    let server = CalloutServer::start(folder.path(), &format!("{telemetry}{broken}"), &[]);
    let file = folder.path().join("mail.eml");
    std::fs::write(&file, MAIL).unwrap();
    server.adapt([Path::new("--services"), Path::new("virus-scan"), &file]);
    server.terminate();
    server.ended();
    let spans = Spans(collected.try_iter().collect());
    let asked = spans.only("callout-server", "service", "service", "virus-scan");
    let status = asked.status.as_ref().unwrap();
    assert_eq!((status.code(), status.message.as_str()), (StatusCode::Error, "clamd"));
}

/// Mail does not notice, and the log has one line of it and one of its end.
#[test]
fn a_collector_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    if !is_built_in(folder.path(), "a collector that is not there") {
        return;
    }
    let server = CalloutServer::start(folder.path(), "", &[]);
    let hop = NextHop::start();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let telemetry = format!("[telemetry]\nendpoint = \"http://127.0.0.1:{port}\"\n");
    let file = folder.path().join("opes-mta.toml");
    std::fs::write(&file, processor(server.address(), &telemetry)).unwrap();
    let mut command = program("opes-mta");
    command.args(["smtp", "--listen", "127.0.0.1:0", "--next-hop"]);
    command.arg(format!("127.0.0.1:{}", hop.port)).arg("--config").arg(&file);
    // Each span is exported on its own, at once.
    command.env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1");
    let mut proxy = Milter::run(command);
    for _ in 0..3 {
        let reply = submit(proxy.port());
        assert!(reply.starts_with("250"), "{reply}");
    }
    proxy.wait_for(LOST);
    let collected = collect(TcpListener::bind(("127.0.0.1", port)).unwrap());
    while !proxy.lines.iter().any(|line| line["message"] == "traces are exported again") {
        let reply = submit(proxy.port());
        assert!(reply.starts_with("250"), "{reply}");
        // What the log has said by then.
        proxy.wait_for("message");
    }
    assert!(collected.recv_timeout(PATIENCE).is_ok());
    proxy.terminate();
    let (code, lines) = proxy.ended();
    assert_eq!(code, Some(0));
    let said = lines.iter().filter(|line| line["message"] == LOST).count();
    assert_eq!(said, 1, "{lines:#?}");
}
