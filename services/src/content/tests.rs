use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::fixtures::{base64, cabinet, gzip, mail, spooled, tar, uuencode, with_attachment, zip};
use crate::mail::{Mail, Octets};

/// Small bounds, so that a walk that ignores them shows.
fn room() -> Room {
    let limits =
        Limits { depth: 6, members: 50, unpacked: 3_000_000, memory: 1_000_000, ratio: 100 };
    Room { limits, ..Room::default() }
}

/// The same with next to nothing in memory.
fn little() -> Room {
    Room { limits: Limits { memory: 10, ..room().limits }, ..room() }
}

/// Every object of a walk: where it is, and what. That does not depend on where the mail is.
fn objects(octets: Vec<u8>) -> (BTreeMap<String, Vec<u8>>, Remarks) {
    let mail = mail(octets);
    let found = objects_of(&mail, &room());
    assert_eq!(objects_of(&spooled(&mail), &little()), found);
    found
}

fn objects_of(mail: &Mail, room: &Room) -> (BTreeMap<String, Vec<u8>>, Remarks) {
    let mut objects = BTreeMap::new();
    let remarks = walk(mail, room, &mut |object| {
        if *object.origin != Origin::RawPart {
            let octets = object.octets.read(0..object.octets.len())?;
            objects.insert(object.location(), octets.to_vec());
        }
        Ok(Next::Descend)
    });
    (objects, remarks.unwrap())
}

/// Octets that can't be compressed.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_le_bytes()[7]
    });
    noise.take(count).collect()
}

#[test]
fn everything_is_shown() {
    let cab = cabinet(&[("1", b"one"), ("2", b"two")]);
    let octets = zip(&[("d/", b""), ("t.tar", &tar(&[("c.cab", &cab), ("g", &gzip(b"three"))]))]);
    let (objects, remarks) = objects(with_attachment("z", &octets));
    assert_eq!(remarks, Remarks::default());
    let place = |rest: &str| format!("part 1.2 (z){rest}");
    let shown: Vec<_> = objects.keys().cloned().collect();
    assert_eq!(
        shown,
        [
            "part 1.1".to_owned(),
            place(""),
            place(" / d/"),
            place(" / t.tar"),
            place(" / t.tar / c.cab"),
            place(" / t.tar / c.cab / 1"),
            place(" / t.tar / c.cab / 2"),
            place(" / t.tar / g"),
            place(" / t.tar / g / unnamed"),
        ]
    );
    assert_eq!(objects[&place(" / t.tar / c.cab / 2")], b"two");
    assert_eq!(objects[&place(" / t.tar / g / unnamed")], b"three");
}

#[test]
fn a_walk_can_be_left() {
    let octets = with_attachment("z", &zip(&[("1", b"x"), ("2", b"x")]));
    let count = |next: Next| {
        let mut seen = Vec::new();
        walk(&mail(octets.clone()), &room(), &mut |object| {
            seen.push(object.place.len());
            Ok(if seen.len() == 1 { Next::Descend } else { next })
        })
        .unwrap();
        seen
    };
    // The text; the archive, its members, its body as it stands.
    assert_eq!(count(Next::Descend), [1, 1, 2, 2, 1]);
    assert_eq!(count(Next::Skip), [1, 1, 1]);
    assert_eq!(count(Next::SkipPart), [1, 1]);
    assert_eq!(count(Next::Stop), [1, 1]);
}

/// Unpacked octets are let go before the next member is unpacked, and what does not fit into memory
/// goes into files.
#[test]
fn memory_is_for_what_is_held_at_a_time() {
    let half = noise(600_000);
    let in_memory = |octets: &[u8]| {
        let mut in_memory = Vec::new();
        let remarks = walk(&mail(with_attachment("z", octets)), &room(), &mut |object| {
            if *object.origin == Origin::Member {
                assert_eq!(object.octets.read(0..9).unwrap().len(), 9);
                in_memory.push(object.octets.in_memory().is_some());
            }
            Ok(Next::Descend)
        });
        assert_eq!(remarks.unwrap(), Remarks::default());
        in_memory
    };
    let one_by_one = zip(&[("1", &half), ("2", &half), ("3", &half)]);
    assert_eq!(in_memory(&one_by_one), [true, true, true]);
    let inside_each_other = gzip(&gzip(&gzip(&half)));
    assert_eq!(in_memory(&inside_each_other), [true, false, false]);
}

/// Whether content is broken or its file can't be read looks the same to the readers of archives.
#[test]
fn a_file_that_can_not_be_read_is_no_broken_archive() {
    let octets = with_attachment("z", &zip(&[("1", &[7; 200_000]), ("2", b"x")]));
    let identity = String::from_utf8(octets).unwrap().replace("base64", "7bit").into_bytes();
    let noise = noise(100_000);
    let archive = [&b"Content-Type: x/y\n\n"[..], &gzip(&noise)].concat();
    let archives = [&b"Content-Type: x/y\n\n"[..], &zip(&[("1", &noise), ("2", b"x")])].concat();
    let text = [&b"A: b\n\n"[..], &[b'x'; 200_000]].concat();
    for octets in [with_attachment("z", &[7; 200_000]), identity, archive, archives, text] {
        let mail = mail(octets);
        let body = spooled(&mail).body().clone();
        let file = |length: usize| {
            let file = tempfile::tempfile().unwrap();
            let mut written = std::io::BufWriter::new(&file);
            std::io::copy(&mut body.slice(0..length).reader(), &mut written).unwrap();
            drop(written);
            file
        };
        let cut = Octets::from_file(Arc::new(file(body.len() - 1)), body.len());
        let cut = Mail::new(mail.header().clone(), cut);
        let error = walk(&cut, &room(), &mut |_| Ok(Next::Descend)).unwrap_err();
        let expected = "a spool file of the message can't be read: it is shorter than it was";
        assert_eq!(error.to_string(), expected);
    }
}

/// Many end records, each of which makes the reader go through the directory again.
#[test]
fn looking_for_directories_is_bounded() {
    use super::archive::cost;
    use super::sniff::Archive;

    let cost = |archive, octets: &[u8]| cost(archive, &octets.to_vec().into()).unwrap();
    let honest = zip(&[("1", b"x"), ("2", b"x")]);
    assert_eq!(cost(Archive::Zip, &honest), 1_600 + honest.len() as u64);
    let end = memchr::memmem::find(&honest, b"PK\x05\x06").unwrap();
    let hostile = [&honest[..], &honest[end..].repeat(50_000)].concat();
    assert!(cost(Archive::Zip, &hostile) > 50_000_000_000);
    let (objects, remarks) = objects(with_attachment("z", &hostile));
    assert!(objects.contains_key("part 1.2 (z) / 2"), "{:?}", objects.keys());
    let unreadable = remarks.unreadable.unwrap();
    assert!(unreadable.contains("directory of the zip archive"), "{unreadable}");
}

#[test]
fn a_place_is_short_and_printable() {
    let name = "\u{1b}[2J".to_owned() + &"x".repeat(500);
    let (objects, _) = objects(with_attachment("z", &tar(&[(&name[..90], b"x")])));
    let place = objects.keys().last().unwrap();
    assert_eq!(place.chars().count(), "part 1.2 (z) / ".len() + 80);
    assert!(place.contains(" / ?[2Jxxx"), "{place}");
}

/// Archives and messages in each other.
fn wrapped() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..100),
        Just(vec![0; 300_000]),
        Just(b"From: x\r\nSubject: y\r\n\r\nz".to_vec()),
    ];
    leaf.prop_recursive(5, 12, 3, |inner| {
        (0..8u8, proptest::collection::vec(inner, 1..3)).prop_map(|(kind, inner)| {
            let files: Vec<(String, &[u8])> =
                inner.iter().enumerate().map(|(n, o)| (n.to_string(), &o[..])).collect();
            let files: Vec<(&str, &[u8])> = files.iter().map(|(n, o)| (&n[..], *o)).collect();
            match kind {
                0 | 1 => zip(&files),
                2 => gzip(&inner[0]),
                3 => tar(&files),
                4 => cabinet(&files),
                5 => with_attachment("x", &inner[0]),
                6 => format!("begin 644 x\n{}`\nend\n", uuencode(&inner[0])).into(),
                _ => format!("<a href=\"data:x/y;base64,{}\">", base64(&inner[0])).into(),
            }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Damaged in any way, archives neither bring the walk down nor past its bounds.
    #[test]
    fn damaged_archives_stay_within_bounds(
        mut octets in wrapped(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        for (place, octet) in damage {
            if !octets.is_empty() {
                let place = place.index(octets.len());
                octets[place] = octet;
            }
        }
        if let Some(cut) = cut {
            octets.truncate(cut.index(octets.len() + 1));
        }
        let room = room();
        let limits = &room.limits;
        let (mut members, mut unpacked) = (0, 0);
        let mail = mail(with_attachment("z", &octets));
        let remarks = walk(&mail, &room, &mut |object| {
            if object.place.len() > 1 {
                members += 1;
                unpacked += object.octets.len();
                let in_memory = object.octets.in_memory().map_or(0, |octets| octets.len());
                assert!(in_memory <= limits.memory);
                assert!(object.place.len() <= limits.depth + 1);
            }
            Ok(Next::Descend)
        })
        .unwrap();
        // Parts of nested messages are shown as they stand, too.
        prop_assert!(members <= 2 * limits.members, "{members} {remarks:?}");
        prop_assert!(unpacked <= 3 * limits.unpacked, "{unpacked} {remarks:?}");
        let in_memory = objects_of(&mail, &room);
        prop_assert_eq!(objects_of(&spooled(&mail), &little()), in_memory);
    }

    #[test]
    fn any_octets_with_any_magic_number(
        magic in prop::sample::select(vec![
            &b"PK\x03\x04"[..], b"PK\x05\x06", b"\x1f\x8b\x08", b"MSCF\0\0\0\0",
            b"begin 644 x\n", b"data:,", b"From: x\n\n", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        ]),
        octets: Vec<u8>,
    ) {
        objects(with_attachment("z", &[magic, &octets].concat()));
    }
}
