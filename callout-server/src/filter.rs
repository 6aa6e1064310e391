//! `filter`: a command that reads a message from its standard input, and writes it to its standard output.
//!
//! Such commands exist for every mail server; this runs them as they are. What comes back is compared with what went
//! in, and the difference becomes edits: what the command left alone keeps its octets and does not travel.
//!
//! | exit code | what it means |
//! | --- | --- |
//! | 0 | the output is the message; none at all: it stays as it is |
//! | 69 (`EX_UNAVAILABLE`) | the message is refused, with `reject-reply` |
//! | anything else | the command has failed: the failure policy decides |
//!
//! These are the codes of `sysexits.h` that filters for Postfix have always used. The command runs in the folder of the
//! configuration, without a shell, and finds in its environment `OPES_SENDER`, `OPES_RECIPIENTS` (a line each),
//! `OPES_CLIENT_ADDRESS`, `OPES_CLIENT_NAME`, `OPES_HELO`, `OPES_USER` and `OPES_QUEUE_ID`; whatever a stranger on the
//! network likes is in there. When the deadline of the service passes it is killed.
//!
//! ```toml
//! # The program, and its arguments.
//! command = ["/usr/local/bin/add-disclaimer", "--text", "disclaimer.txt"]
//! # What ends a line that the command reads and writes: "lf" (default) or "crlf". The mail's lines end with CR LF.
//! line-ends = "lf"
//! # Commands that run at a time; others wait.
//! open = 4
//! # The most that one may write, in octets.
//! output-octets = 67108864
//! reject-reply = "554 5.7.1 Message refused"
//! ```

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use ocp_proto::smtp::{Command as Event, Reply};
use serde::Deserialize;
use services::mail::{Edits, Mail, Octets, header_length};
use services::setting::refusal;
use services::{
    Change, Declaration, Finding, Kind, Outcome, Request, Service, ServiceError, Settings,
    SettingsError, compute,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Semaphore;
use toml::Spanned;

use crate::pieces::Pieces;

/// The kind `filter`.
pub const KIND: Kind = Kind {
    name: "filter",
    summary: "a command that reads a message and writes it",
    needs_settings: true,
    build: |settings| Ok(Arc::new(Filter::new(settings)?)),
};

/// The exit code of a command that refuses a message (`EX_UNAVAILABLE` of sysexits.h).
const REFUSED: i32 = 69;
/// What is logged of a command's standard error, in octets.
const LONGEST_COMPLAINT: usize = 512;

/// The settings, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Config {
    command: Option<Spanned<Vec<String>>>,
    line_ends: LineEnds,
    open: Option<Spanned<usize>>,
    output_octets: Option<usize>,
    reject_reply: Option<Spanned<String>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LineEnds {
    #[default]
    Lf,
    Crlf,
}

/// The service.
#[derive(Debug)]
pub struct Filter {
    program: String,
    arguments: Vec<String>,
    directory: PathBuf,
    line_ends: LineEnds,
    open: usize,
    places: Semaphore,
    output_octets: usize,
    refusal: Reply,
}

/// What a command has left behind.
struct Ended {
    code: Option<i32>,
    output: Vec<u8>,
    complaint: String,
}

impl Filter {
    /// The service with these settings.
    ///
    /// # Errors
    /// What is wrong with them, and where.
    pub fn new(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let directory = settings.directory().to_owned();
        let config: Config = settings.read()?;
        let missing = "command is missing: the program and its arguments";
        let command = config.command.ok_or_else(|| SettingsError::new(missing))?;
        let span = command.span();
        let mut words = command.into_inner().into_iter();
        let program =
            words.next().ok_or_else(|| SettingsError::at(span, "command has no program"))?;
        let open = match config.open {
            Some(open) if !(1..=1_024).contains(open.get_ref()) => {
                return Err(SettingsError::at(open.span(), "1 to 1024 commands run at a time"));
            }
            open => open.map_or(4, Spanned::into_inner),
        };
        let text = "554 5.7.1 Message refused".to_owned();
        let refusal = refusal(&config.reject_reply.unwrap_or(Spanned::new(0..0, text)))?;
        Ok(Self {
            program,
            arguments: words.collect(),
            directory,
            line_ends: config.line_ends,
            open,
            places: Semaphore::new(open),
            output_octets: config.output_octets.unwrap_or(64 * 1024 * 1024),
            refusal,
        })
    }

    async fn filter(&self, request: &Request) -> Result<Outcome, ServiceError> {
        let Some(mail) = request.mail() else {
            return Ok(Outcome::unchanged(Finding::new("unchanged")));
        };
        let place = self.places.acquire().await;
        let _place = place.map_err(|error| ServiceError::new("filter", error))?;
        let mut child = self
            .command(request)
            .spawn()
            .map_err(|error| ServiceError::new("start", format!("{}: {error}", self.program)))?;
        let fed = feed(child.stdin.take(), mail, self.line_ends);
        // One that has read enough hangs up: its exit code says whether that was right.
        let (ended, _) = tokio::join!(self.read(&mut child), fed);
        let Ended { code, output, complaint } =
            ended.map_err(|error| ServiceError::new("run", error))?;
        match code {
            Some(0) if output.is_empty() => Ok(Outcome::unchanged(Finding::new("unchanged"))),
            Some(0) => {
                let (mail, line_ends) = (Arc::clone(mail), self.line_ends);
                let edited = compute(mail.len().max(output.len()), move || {
                    let output = match line_ends {
                        LineEnds::Lf => with_carriage_returns(&output),
                        LineEnds::Crlf => output,
                    };
                    difference(&mail, output.into())
                });
                let edits = edited.await?.map_err(|error| ServiceError::new("compare", error))?;
                Ok(match edits.is_empty() {
                    true => Outcome::unchanged(Finding::new("unchanged")),
                    false => Outcome::changed(Change::Content(edits), "changed"),
                })
            }
            Some(REFUSED) => {
                let outcome = Outcome::changed(Change::Reply(self.refusal.clone()), "refused");
                Ok(match complaint.is_empty() {
                    true => outcome,
                    false => outcome.with_finding(Finding::new("refused").with_reason(complaint)),
                })
            }
            code => {
                let how = code
                    .map_or("killed by a signal".to_owned(), |code| format!("exit code {code}"));
                let said =
                    if complaint.is_empty() { String::new() } else { format!(": {complaint}") };
                Err(ServiceError::new("run", format!("{}: {how}{said}", self.program)))
            }
        }
    }

    fn command(&self, request: &Request) -> Command {
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).replace(char::is_control, " ");
        let known = |fact: &Option<ocp_proto::wire::Atom>| {
            fact.as_ref().map_or(String::new(), |fact| text(fact))
        };
        let (dialog, envelope) = (&request.dialog, &request.envelope);
        let recipients: Vec<_> =
            envelope.recipients.iter().map(|recipient| text(recipient.path())).collect();
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env(
                "OPES_SENDER",
                envelope.sender.as_ref().map_or(String::new(), |sender| text(sender.path())),
            )
            .env("OPES_RECIPIENTS", recipients.join("\n"))
            .env("OPES_CLIENT_ADDRESS", known(&dialog.client_address))
            .env("OPES_CLIENT_NAME", known(&dialog.client_name))
            .env("OPES_HELO", known(&dialog.helo))
            .env(
                "OPES_USER",
                dialog.auth.as_ref().map_or(String::new(), |auth| text(&auth.identity)),
            )
            .env("OPES_QUEUE_ID", known(&dialog.queue_id))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if !self.directory.as_os_str().is_empty() {
            command.current_dir(&self.directory);
        }
        command
    }

    /// All that it writes, until it ends.
    async fn read(&self, child: &mut Child) -> io::Result<Ended> {
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (mut output, mut complaint) = (Vec::new(), Vec::new());
        let read = async {
            let Some(stdout) = stdout else { return Ok(()) };
            stdout.take(self.output_octets as u64 + 1).read_to_end(&mut output).await?;
            match output.len() > self.output_octets {
                true => Err(io::Error::other(format!(
                    "more than {} octets of output",
                    self.output_octets
                ))),
                false => Ok(()),
            }
        };
        let complaints = async {
            let Some(mut stderr) = stderr else { return };
            let mut front = (&mut stderr).take(LONGEST_COMPLAINT as u64);
            // What is behind the front is read as well, or the command would wait.
            if front.read_to_end(&mut complaint).await.is_ok() {
                let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
            }
        };
        let (read, ()) = tokio::join!(read, complaints);
        if let Err(error) = read {
            child.start_kill()?;
            return Err(error);
        }
        let code = child.wait().await?.code();
        let complaint =
            String::from_utf8_lossy(complaint.trim_ascii()).replace(char::is_control, " ");
        Ok(Ended { code, output, complaint })
    }
}

impl Service for Filter {
    fn declaration(&self) -> Declaration {
        Declaration::on([Event::Message])
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        self.filter(request).boxed()
    }

    /// What they write, as it comes and with other line ends.
    fn worst_case_memory(&self) -> usize {
        self.open.saturating_mul(self.output_octets).saturating_mul(2)
    }
}

/// Writes a message to a command. Octets of its body that can't be read end it early, which the chain sees.
async fn feed(input: Option<ChildStdin>, mail: &Mail, line_ends: LineEnds) -> io::Result<()> {
    let Some(mut input) = input else { return Ok(()) };
    let mut after_carriage_return = false;
    let mut body = Pieces::of(mail.body().clone());
    let mut next = Some(mail.header().clone());
    while let Some(octets) = next {
        match line_ends {
            LineEnds::Crlf => input.write_all(&octets).await?,
            LineEnds::Lf => {
                input
                    .write_all(&without_carriage_returns(&octets, &mut after_carriage_return))
                    .await?;
            }
        }
        next = body.next().await;
    }
    if after_carriage_return {
        input.write_all(b"\r").await?;
    }
    input.shutdown().await
}

/// LF for CR LF; whether the octets before them, and these, end with a CR that has not been passed on.
fn without_carriage_returns(octets: &[u8], pending: &mut bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len() + 1);
    let mut rest = octets;
    if !rest.is_empty() && std::mem::take(pending) && !rest.starts_with(b"\n") {
        out.push(b'\r');
    }
    while let Some(at) = memchr::memchr(b'\r', rest) {
        let (line, behind) = rest.split_at(at);
        out.extend_from_slice(line);
        rest = behind.get(1..).unwrap_or_default();
        match rest.first() {
            None => *pending = true,
            Some(b'\n') => {}
            Some(_) => out.push(b'\r'),
        }
    }
    out.extend_from_slice(rest);
    out
}

/// CR LF for LF, where there is no CR before it.
fn with_carriage_returns(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len() + octets.len() / 32);
    for line in octets.split_inclusive(|octet| *octet == b'\n') {
        match line.strip_suffix(b"\n").filter(|line| !line.ends_with(b"\r")) {
            Some(line) => {
                out.extend_from_slice(line);
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(line),
        }
    }
    out
}

/// The edits that make one message of the other: one of the header section, one of the body.
fn difference(mail: &Mail, output: Bytes) -> io::Result<Edits> {
    let header = header_length(&output);
    if !output
        .get(..header)
        .is_some_and(|header| header.ends_with(b"\r\n\r\n") || header == b"\r\n")
    {
        return Err(io::Error::other("what came back has no empty line behind its header section"));
    }
    let (header, body) = (output.slice(..header), output.slice(header..));
    let mut edits = Edits::new();
    let end = mail.header().len();
    for (start, before, after) in
        [(0, Octets::from(mail.header().clone()), header), (end, mail.body().clone(), body)]
    {
        let front = common_front(&before, &after)?;
        let most = before.len().min(after.len()) - front;
        let back = common_back(&before, &after, most)?;
        let range = start + front..start + before.len() - back;
        let octets = after.slice(front..after.len() - back);
        match range.is_empty() {
            true if octets.is_empty() => {}
            true => edits.insert(range.start, octets),
            false => edits.replace(range, octets),
        }
    }
    Ok(edits)
}

/// How many octets at the beginning are the same.
fn common_front(before: &Octets, after: &[u8]) -> io::Result<usize> {
    let mut same = 0;
    for chunk in before.chunks() {
        let chunk = chunk?;
        let rest = after.get(same..).unwrap_or_default();
        let equal = chunk.iter().zip(rest).take_while(|(one, other)| one == other).count();
        same += equal;
        if equal < chunk.len() {
            break;
        }
    }
    Ok(same)
}

/// How many octets at the end are the same, of `most` at the most.
fn common_back(before: &Octets, after: &[u8], most: usize) -> io::Result<usize> {
    const STEP: usize = 64 * 1024;
    let mut same = 0;
    while same < most {
        let step = STEP.min(most - same);
        let end = before.len() - same;
        let chunk = before.read(end - step..end)?;
        let rest = after.get(..after.len() - same).unwrap_or_default();
        let pairs = chunk.iter().rev().zip(rest.iter().rev());
        let equal = pairs.take_while(|(one, other)| one == other).count();
        same += equal;
        if equal < step {
            break;
        }
    }
    Ok(same)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use services::setting::documented;

    use super::*;

    #[test]
    fn the_example_is_valid_and_what_is_wrong_has_a_place() {
        let read = |text: &str| Filter::new(Settings::parse(text, Path::new(""))?);
        let filter = read(&documented(include_str!("filter.rs"))).unwrap();
        assert_eq!((filter.program.as_str(), filter.open), ("/usr/local/bin/add-disclaimer", 4));
        for (text, span, message) in [
            ("", None, "command is missing"),
            ("command = []", Some(10..12), "command has no program"),
            ("command = ['x']\nopen = 0", Some(23..24), "1 to 1024 commands"),
            ("command = ['x']\nreject-reply = '250 ok'", Some(31..39), "a refusal starts with"),
            ("command = ['x']\nline-ends = 'cr'", Some(28..32), "unknown variant"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.span, span, "{text}: {error}");
            assert!(error.message.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn an_output_without_a_header_section_is_none() {
        let mail = Mail::new("A: 1\r\n\r\n".into(), "b");
        let error = difference(&mail, "A: 1\r\nb".into()).unwrap_err();
        assert!(error.to_string().contains("no empty line"), "{error}");
    }

    proptest! {
        /// Whatever came back: the edits make it of what went in, and touch nothing that is the same at both ends.
        #[test]
        fn the_difference_makes_one_of_the_other(
            before in ("([a-c]{1,3}: [a-c]{0,3}\r\n){0,4}\r\n", "[ab\r\n]{0,12}"),
            after in ("([a-c]{1,3}: [a-c]{0,3}\r\n){0,4}\r\n", "[ab\r\n]{0,12}"),
        ) {
            let mail = Mail::new(before.0.clone().into(), before.1.clone().into_bytes());
            let output = format!("{}{}", after.0, after.1);
            let edits = difference(&mail, output.clone().into()).unwrap();
            prop_assert!(edits.iter().count() <= 2);
            prop_assert_eq!(edits.is_empty(), before == after);
            let edited = mail.edited(&edits).unwrap();
            let body = edited.body().read(0..edited.body().len()).unwrap();
            prop_assert_eq!([&edited.header()[..], &body[..]].concat(), output.into_bytes());
        }

        /// Lines with CR LF come back as they were, however they are cut.
        #[test]
        fn line_ends_come_back(text in "([ab]{0,3}(\r\n|\r\r)?){0,6}", cut in 0_usize..20) {
            let octets = text.as_bytes();
            let (one, other) = octets.split_at(cut.min(octets.len()));
            let mut pending = false;
            let mut lines = without_carriage_returns(one, &mut pending);
            lines.extend(without_carriage_returns(other, &mut pending));
            if pending {
                lines.push(b'\r');
            }
            prop_assert!(!lines.windows(2).any(|two| two == b"\r\n") || text.contains("\r\r\n"));
            if !text.contains("\r\r\n") {
                prop_assert_eq!(with_carriage_returns(&lines), octets);
            }
        }
    }
}
