//! The bodies of the fuzz targets `smtp_command`, `smtp_content` and `smtp_session`; unit tests run them
//! over the corpora.

mod session;

use bytes::{Bytes, BytesMut};
use memchr::memmem;

use super::bdat::Chunk;
use super::command::{Command, Path, Request};
use super::content::{Decoder, Encoder, LineEnds, Piece};
use super::line::{self, InvalidLine, LONGEST_AUTH_LINE, LONGEST_LINE};

pub use session::smtp_session;

/// Octets as a client may send them: however they are cut, the same lines come out; nothing but CRLF ends
/// one; and what was taken for a command is what its octets say.
///
/// # Panics
/// If that is not so.
pub fn smtp_command(octets: &[u8]) {
    let (all, rest) = lines(octets, octets.len().max(1));
    let piece = 1 + octets.len() % 7;
    assert_eq!(lines(octets, piece), (all.clone(), rest.clone()), "fragmentation matters");
    let valid: Vec<_> = all.iter().flatten().collect();
    if valid.len() == all.len() {
        let again = valid.iter().flat_map(|line| [&line[..], b"\r\n"]).chain([&rest[..]]);
        assert_eq!(again.collect::<Vec<_>>().concat(), octets, "an octet is lost");
    }
    for line in valid {
        assert!(!line.iter().any(|octet| b"\r\n\0".contains(octet)));
        if let Ok(request) = Request::parse(line.clone()) {
            check_request(&request);
        }
    }
}

fn lines(octets: &[u8], piece: usize) -> (Vec<Result<Bytes, InvalidLine>>, Vec<u8>) {
    let mut decoder = line::Decoder::new(LONGEST_LINE);
    let (mut input, mut lines) = (BytesMut::new(), Vec::new());
    for piece in octets.chunks(piece) {
        input.extend_from_slice(piece);
        while let Some(line) = decoder.decode(&mut input) {
            lines.push(line);
        }
        assert!(input.len() <= LONGEST_AUTH_LINE + 1, "the input is bounded");
    }
    (lines, input.to_vec())
}

fn check_request(request: &Request) {
    let shown = format!("{request:?}");
    match &request.command {
        Command::Auth { has_initial_response, .. } => {
            let mut words = request.octets().split(|octet| *octet == b' ').skip(1);
            let mut words = words.by_ref().filter(|word| !word.is_empty()).skip(1);
            assert_eq!(words.next().is_some(), *has_initial_response);
            let line = request.line().expect("a mechanism is short");
            assert_eq!(line.as_bytes().split(|octet| *octet == b' ').count(), 2, "no secret");
            assert!(shown.len() < 100, "{shown}");
        }
        Command::Mail(path) | Command::Rcpt(path) => check_path(request, path),
        Command::Bdat(chunk) => {
            let line = Bytes::from(chunk.to_string());
            let again = Request::parse(line).expect("it is a command");
            assert_eq!(again.command, Command::Bdat(Chunk { ..*chunk }));
        }
        Command::Xclient(attributes) | Command::Xforward(attributes) => {
            let is_control = |octet: &u8| octet.is_ascii_control();
            assert!(!attributes.is_empty());
            assert!(!attributes.iter().any(|attribute| attribute.value.iter().any(is_control)));
        }
        _ => {
            let line = request.line().expect("it is no longer than lines may be");
            assert_eq!(line.as_bytes(), request.octets());
        }
    }
}

/// A path that is written anew is read as the same.
fn check_path(request: &Request, path: &Path) {
    let is_sender = matches!(request.command, Command::Mail(_));
    let verb = if is_sender { &b"MAIL FROM:<"[..] } else { b"RCPT TO:<" };
    let colon: &[u8] = if path.route.is_empty() { b"" } else { b":" };
    let mut line = [verb, &path.route, colon, path.address.mailbox(), b">"].concat();
    for (keyword, value) in path.parameters() {
        line.extend([b" ", keyword].concat());
        line.extend(value.map(|value| [b"=", value].concat()).unwrap_or_default());
    }
    if line.len() <= LONGEST_LINE {
        let again = Request::parse(line.into()).expect("it is a command");
        assert_eq!(again.command, request.command);
    }
}

/// Octets as content: however they are cut, it is what RFC 5321 section 4.5.2 says of its lines; nothing
/// but CRLF.CRLF ends it; what is sent on is read as the same; and a bare CR or LF is found.
///
/// # Panics
/// If that is not so.
pub fn smtp_content(octets: &[u8]) {
    let (content, ended, behind) = by_lines(octets);
    for piece in [octets.len().max(1), 1 + octets.len() % 7] {
        let (decoded, decoded_end, rest) = decode(octets, piece);
        assert_eq!(decoded_end, ended, "another end");
        if ended {
            assert_eq!((&decoded, &rest), (&content, &behind), "read otherwise");
        } else {
            // What may become an end is kept back.
            let kept = content.strip_prefix(&decoded[..]).expect("read otherwise");
            assert!(kept.len() <= 2 && rest.len() <= 2);
        }
    }
    let piece = 1 + octets.len() % 5;
    let (mut encoder, mut sent) = (Encoder::default(), BytesMut::new());
    let mut pieces = octets.chunks(piece);
    let encoded = pieces.try_for_each(|piece| encoder.encode(piece, &mut sent));
    let encoded = encoded.and_then(|()| encoder.finish(&mut sent));
    let mut line_ends = LineEnds::default();
    line_ends.look(octets);
    line_ends.end();
    assert_eq!(encoded.is_err(), line_ends.bare().is_some(), "a bare CR or LF goes out");
    if encoded.is_ok() {
        let is_whole = octets.is_empty() || octets.ends_with(b"\r\n");
        let line_end = if is_whole { &b""[..] } else { b"\r\n" };
        let expected = ([octets, line_end].concat(), true, Vec::new());
        assert_eq!(decode(&sent, piece), expected, "written and read otherwise");
    }
    check_line_ends(octets, piece);
}

fn decode(octets: &[u8], piece: usize) -> (Vec<u8>, bool, Vec<u8>) {
    let (mut decoder, mut input, mut content) = (Decoder::new(), BytesMut::new(), Vec::new());
    let mut pieces = octets.chunks(piece);
    while let Some(piece) = pieces.next() {
        input.extend_from_slice(piece);
        while let Some(piece) = decoder.decode(&mut input) {
            match piece {
                Piece::Octets(octets) => content.extend_from_slice(&octets),
                Piece::End => {
                    let behind = input.iter().chain(pieces.flatten()).copied().collect();
                    return (content, true, behind);
                }
            }
        }
    }
    (content, false, input.to_vec())
}

fn by_lines(octets: &[u8]) -> (Vec<u8>, bool, Vec<u8>) {
    let (mut rest, mut content) = (octets, Vec::new());
    while let Some(end) = memmem::find(rest, b"\r\n") {
        let (line, behind) = rest.split_at(end + 2);
        if line == b".\r\n" {
            return (content, true, behind.to_vec());
        }
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        rest = behind;
    }
    content.extend_from_slice(rest.strip_prefix(b".").unwrap_or(rest));
    (content, false, Vec::new())
}

fn check_line_ends(octets: &[u8], piece: usize) {
    let mut line_ends = LineEnds::default();
    octets.chunks(piece).for_each(|piece| line_ends.look(piece));
    line_ends.end();
    let without_line_ends: Vec<_> = memmem::find_iter(octets, b"\r\n").collect();
    let is_part = |at: &usize| {
        without_line_ends.binary_search(at).is_ok()
            || at.checked_sub(1).is_some_and(|cr| without_line_ends.binary_search(&cr).is_ok())
    };
    let first = memchr::memchr2_iter(b'\r', b'\n', octets).find(|at| !is_part(at));
    let found = line_ends.bare().map(|bare| usize::try_from(bare.at).unwrap_or(usize::MAX));
    assert_eq!(found, first);
}

#[cfg(test)]
mod tests;
