//! Mail servers come and go: `opes-mta milter` keeps nothing of them.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tests::{CalloutServer, Milter};

/// Connections before the first look at the memory, after which buffers are as large as they get.
const FIRST: usize = 500;
/// Mail servers at a time.
const AT_A_TIME: usize = 4;
const PATIENCE: Duration = Duration::from_secs(20);

/// Connections that have to leave nothing.
fn count() -> usize {
    if std::env::var_os("OPES_TESTS_FULL").is_some() { 5_000 } else { 1_500 }
}

fn packet(letter: u8, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len() + 1).expect("it is short").to_be_bytes();
    [&length[..], &[letter], data].concat()
}

/// A client on a connection of its own: some bring a message, the others are lost behind MAIL.
fn connection(address: &str, number: usize) {
    let mut stream = TcpStream::connect(address).expect("the milter listens");
    stream.set_nodelay(true).expect("a socket has no delay");
    let mut say = |packets: &[Vec<u8>]| {
        stream.write_all(&packets.concat()).expect("the milter reads");
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).expect("the milter answers");
        let mut answer = vec![0; u32::from_be_bytes(answer) as usize];
        stream.read_exact(&mut answer).expect("a whole answer");
        answer
    };
    let offer = [&[0, 0, 0, 6][..], &[0, 0, 1, 0xff], &[0, 0x1f, 0xff, 0xff]].concat();
    assert_eq!(say(&[packet(b'O', &offer)])[0], b'O');
    let sender = format!("<{number}@a.example>\0");
    let macros = format!("Mi\0{number}\0");
    // What nobody waits for, CONNECT and HELO, goes before MAIL.
    let before = [packet(b'C', b"a.example\x004\0\x19192.0.2.1\0"), packet(b'H', b"a.example\0")];
    let mail = [packet(b'D', macros.as_bytes()), packet(b'M', sender.as_bytes())];
    assert_eq!(say(&[&before[..], &mail].concat()), b"c");
    if !number.is_multiple_of(5) {
        return;
    }
    let content = [
        packet(b'R', b"<b@b.example>\0"),
        packet(b'L', b"Subject\0 x\0"),
        packet(b'N', b""),
        packet(b'B', &[b'x'; 1_000]),
        packet(b'E', b""),
    ];
    assert_eq!(say(&content), b"c");
    stream.write_all(&packet(b'Q', b"")).expect("the milter reads");
}

fn connections(address: &str, count: usize) {
    std::thread::scope(|scope| {
        for first in 0..AT_A_TIME {
            scope.spawn(move || {
                (first..count).step_by(AT_A_TIME).for_each(|number| connection(address, number));
            });
        }
    });
}

#[test]
fn connections_leave_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let quiet = "[log]\nlevel = \"info,opes::log=off,callout_server::session=off\"\n";
    let server = CalloutServer::start(folder.path(), quiet, &[]);
    let config = format!(
        "[[group]]\nname = \"mail\"\nservers = [\"{0}\"]\nservices = [\"mail-from\", \"spam-score\"]\n\
         [[group]]\nname = \"next\"\nservers = [\"{0}\"]\nservices = [\"spam-score\"]\nshadow = true\n",
        server.address()
    );
    let milter = Milter::start(folder.path(), &config);
    let address = milter.address.strip_prefix("inet:").expect("a TCP address");
    connections(address, FIRST);
    let before = milter.memory();
    connections(address, count());
    // A tenth, and what the last ones may still hold.
    let bound = before + before / 10 + 1024 * 1024;
    let begin = Instant::now();
    let mut now = milter.memory();
    while now > bound && begin.elapsed() < PATIENCE {
        connections(address, AT_A_TIME);
        now = milter.memory();
    }
    println!("{} connections: {} KiB before, {} KiB after", count(), before / 1024, now / 1024);
    assert!(now <= bound, "{before} octets became {now}");
}
