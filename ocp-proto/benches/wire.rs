//! Octets to frames and back, against what the machine takes for the octets alone.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use bytes::{BufMut, BytesMut};
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use ocp_proto::WireLimits;
use ocp_proto::wire::{Decoder, Encoder, Frame, PAYLOAD_TAIL};

fn main() {
    divan::main();
}

/// The heads of a MAIL transaction, both ways.
const HEADS: &[u8] = b"TS 1 1;\r\n\
AMS 1\r\nDialog: 1\r\nCommand: MAIL\r\n;\r\n\
DUM 1 0\r\nKept: {0 29}\r\nAM-Part: command\r\n\r\n29:MAIL FROM:<steve@example.org>\r\n;\r\n\
AME 1;\r\n\
AMS 1;\r\n\
DUY 1 0 29;\r\n\
AME 1\r\nVerdicts: ({\"17:ocp://service/log\" logged\r\nMilliseconds: 0\r\n})\r\n;\r\n\
TE 1;\r\n";

fn frames(decoder: &mut Decoder, input: &mut BytesMut) -> usize {
    let mut octets = 0;
    while let Some(frame) = decoder.decode(input).unwrap() {
        match frame {
            Frame::Chunk(chunk) => octets += chunk.len(),
            frame => {
                black_box(frame);
            }
        }
    }
    octets
}

#[divan::bench]
fn decode_heads(bencher: Bencher<'_, '_>) {
    bencher
        .counter(ItemsCount::new(8_u32))
        .with_inputs(|| (Decoder::new(WireLimits::default()), BytesMut::from(HEADS)))
        .bench_values(|(mut decoder, mut input)| frames(&mut decoder, &mut input));
}

#[divan::bench]
fn encode_heads(bencher: Bencher<'_, '_>) {
    let mut out = BytesMut::with_capacity(4_096);
    bencher.counter(ItemsCount::new(4_u32)).bench_local(|| {
        out.clear();
        let mut message = Encoder::new(&mut out, "AMS");
        message.number(1).named_number("Dialog", 1).named_atom("Command", b"MAIL");
        message.finish();
        let mut message = Encoder::new(&mut out, "DUM");
        message.number(1).number(0).named_atom("AM-Part", b"command");
        message.payload(29);
        out.extend_from_slice(b"MAIL FROM:<steve@example.org>");
        out.extend_from_slice(PAYLOAD_TAIL);
        let mut message = Encoder::new(&mut out, "DUY");
        message.number(1).number(0).number(29);
        message.finish();
        let mut message = Encoder::new(&mut out, "TE");
        message.number(1);
        message.finish();
        black_box(out.len())
    });
}

const READ: usize = 64 * 1024;
const PAYLOAD: usize = 256 * 1024;
const DUMS: usize = 64;

/// So many DUMs as they stand on the wire.
fn stream() -> Vec<u8> {
    let mut out = BytesMut::new();
    for number in 0..DUMS {
        let mut message = Encoder::new(&mut out, "DUM");
        message.number(1).number(u32::try_from(number * PAYLOAD).unwrap());
        message.named_atom("AM-Part", b"message-body");
        message.payload(u32::try_from(PAYLOAD).unwrap());
        out.put_bytes(b'x', PAYLOAD);
        out.extend_from_slice(PAYLOAD_TAIL);
    }
    out.to_vec()
}

/// A socket from which the octets come again and again.
fn endless(octets: Vec<u8>) -> TcpStream {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let reader = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut writer, _) = listener.accept().unwrap();
    std::thread::spawn(move || while writer.write_all(&octets).is_ok() {});
    reader
}

/// Reads once, as the drivers do: behind what is there, into a buffer that is reused.
fn read(socket: &mut TcpStream, input: &mut BytesMut) -> usize {
    let start = input.len();
    input.resize(start + READ, 0);
    let count = socket.read(&mut input[start..]).unwrap();
    input.truncate(start + count);
    count
}

#[divan::bench]
fn read_loop_bare(bencher: Bencher<'_, '_>) {
    let octets = stream();
    let size = octets.len();
    let mut socket = endless(octets);
    let mut input = BytesMut::new();
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        let mut taken = 0;
        while taken < size {
            taken += read(&mut socket, &mut input);
            black_box(&input);
            input.clear();
        }
    });
}

#[divan::bench]
fn read_loop_decoded(bencher: Bencher<'_, '_>) {
    let octets = stream();
    let size = octets.len();
    let mut socket = endless(octets);
    let mut decoder = Decoder::new(WireLimits::default());
    let mut input = BytesMut::new();
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        let mut taken = 0;
        while taken < size {
            taken += read(&mut socket, &mut input);
            black_box(frames(&mut decoder, &mut input));
        }
    });
}
