use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::event::Body;
use crate::front::milter::message::Collector;

/// An MTA: its own Received field is on top, and milters don't see it.
#[derive(Debug)]
struct Mta {
    fields: Vec<MtaField>,
    body: Vec<u8>,
    /// As sendmail does: fields that are gone keep their place in the count.
    counts_deleted: bool,
}

#[derive(Debug, Default)]
struct MtaField {
    name: Vec<u8>,
    value: Vec<u8>,
    is_hidden: bool,
    is_deleted: bool,
}

impl Mta {
    fn new(original: &Original, counts_deleted: bool) -> Self {
        let header = &original.message.header;
        let own = MtaField { name: b"Received".to_vec(), is_hidden: true, ..MtaField::default() };
        let theirs = original.fields.iter().map(|field| {
            let value = String::from_utf8(field.value(header).to_vec()).unwrap();
            MtaField {
                name: field.name(header).to_vec(),
                value: value.replace("\r\n", "\n").into_bytes(),
                ..MtaField::default()
            }
        });
        let fields = [own].into_iter().chain(theirs).collect();
        Self { fields, body: body(original).to_vec(), counts_deleted }
    }

    fn apply(&mut self, edits: &[Modification]) {
        let mut replaces = false;
        for edit in edits {
            let field = |name: &Bytes, value: &Bytes| MtaField {
                name: name.to_vec(),
                value: value.to_vec(),
                ..MtaField::default()
            };
            assert!(!replaces || matches!(edit, Modification::ReplaceBody(_)), "{edits:?}");
            match edit {
                Modification::AddField { name, value } => self.fields.push(field(name, value)),
                Modification::InsertField { index, name, value } => {
                    let at = self.fields.len().min(*index as usize);
                    self.fields.insert(at, field(name, value));
                }
                Modification::ChangeField { index, name, value } => {
                    let mut named = self
                        .fields
                        .iter_mut()
                        .filter(|field| !field.is_hidden && field.name.eq_ignore_ascii_case(name));
                    let found = named.nth(*index as usize - 1).unwrap();
                    assert_eq!(found.name, name.to_vec(), "sendmail keeps the old name");
                    found.is_deleted = value.is_empty();
                    found.value = value.to_vec();
                    if !self.counts_deleted {
                        self.fields.retain(|field| !field.is_deleted);
                    }
                }
                Modification::ReplaceBody(octets) => {
                    assert!(octets.len() <= LONGEST_CHUNK);
                    if !replaces {
                        self.body.clear();
                    }
                    replaces = true;
                    self.body.extend_from_slice(octets);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The message without the field of the MTA.
    fn message(&self) -> Vec<u8> {
        assert!(self.fields[0].is_hidden, "the MTA's Received field is the first");
        let mut octets = Vec::new();
        for field in self.fields[1..].iter().filter(|field| !field.is_deleted) {
            assert!(!field.value.contains(&b'\r'));
            let value = String::from_utf8(field.value.clone()).unwrap().replace('\n', "\r\n");
            octets.extend([&field.name, &b":"[..], value.as_bytes(), b"\r\n"].concat());
        }
        [&octets[..], b"\r\n", &self.body].concat()
    }
}

fn original(header: &str, body: &'static str) -> Original {
    let mut collector = Collector::new(1_000_000);
    let (octets, fields) = read(format!("{header}\n").as_bytes()).unwrap();
    for field in fields {
        collector.field(field.name(&octets), field.value(&octets)).unwrap();
    }
    collector.body(&Bytes::from_static(body.as_bytes())).unwrap();
    collector.finish(false)
}

/// The octets of the body.
fn body(original: &Original) -> Bytes {
    let pieces = original.message.body.pieces().iter().map(|piece| piece.read().unwrap());
    pieces.collect::<Vec<_>>().concat().into()
}

fn adapted(header: &str, body: &'static str) -> Adapted {
    Adapted { header: vec![format!("{header}\r\n").into()], body: body.into() }
}

fn header_edits(old: &str, new: &str) -> Vec<Modification> {
    let old = original(old, "body\r\n");
    let edits = edits(&old, &adapted(new, "body\r\n")).unwrap();
    for counts_deleted in [false, true] {
        let mut mta = Mta::new(&old, counts_deleted);
        mta.apply(&edits);
        let octets = String::from_utf8(mta.message()).unwrap().replace("\r\n", "\n");
        assert_eq!(octets, format!("{}\nbody\n", new.replace("\r\n", "\n")));
    }
    edits
}

fn add(name: &'static str, value: &'static str) -> Modification {
    Modification::AddField { name: name.into(), value: value.into() }
}

fn insert(index: u32, name: &'static str, value: &'static str) -> Modification {
    Modification::InsertField { index, name: name.into(), value: value.into() }
}

fn change(index: u32, name: &'static str, value: &'static str) -> Modification {
    Modification::ChangeField { index, name: name.into(), value: value.into() }
}

#[test]
fn one_change_is_one_edit() {
    let old = "A: 1\nB: 2\na: 3\nA: 4\n";
    for (new, edit) in [
        ("X: y\nA: 1\nB: 2\na: 3\nA: 4\n", insert(1, "X", " y")),
        ("A: 1\nB: 2\nX: y\na: 3\nA: 4\n", insert(3, "X", " y")),
        ("A: 1\nB: 2\na: 3\nA: 4\nX:  y\n z\n", add("X", "  y\n z")),
        ("A: 1\nB: 2\na: 3\nA: 1\n", change(3, "A", " 1")),
        ("A: 1\nB:2\na: 3\nA: 4\n", change(1, "B", "2")),
        ("A: 1\r\nB: 2\r\n\tx\r\na: 3\r\nA: 4\r\n", change(1, "B", " 2\n\tx")),
        ("A: 1\nB: 2\nA: 4\n", change(2, "a", "")),
        ("B: 2\na: 3\nA: 4\n", change(1, "A", "")),
        ("A: 1\r\nB: 2\r\na: 3\r\nA: 4\r\nX:\r\n", add("X", "")),
    ] {
        assert_eq!(header_edits(old, new), [edit], "{new:?}");
    }
    assert_eq!(header_edits("", "X: y\nZ: z\n"), [add("X", " y"), add("Z", " z")]);
    assert_eq!(header_edits(old, old), []);
}

#[test]
fn every_index_is_one_of_the_original() {
    assert_eq!(
        header_edits("A: 1\nA: 2\nB: 3\nA: 4\n", "X: 1\nX: 2\nA: 2\nC: 3\nA: 5\nD: 6\nE: 7\n"),
        [
            add("D", " 6"),
            add("E", " 7"),
            change(3, "A", " 5"),
            insert(4, "C", " 3"),
            change(1, "B", ""),
            insert(2, "X", " 2"),
            insert(2, "X", " 1"),
            change(1, "A", ""),
        ]
    );
}

#[test]
fn what_a_change_would_not_say_is_inserted() {
    assert_eq!(
        header_edits("A: 1\nB: 2\n", "A:\nB: 2\n"),
        [insert(2, "A", ""), change(1, "A", "")]
    );
    assert_eq!(
        header_edits("A: 1\nB: 2\n", "a: 1\nB: 2\n"),
        [insert(2, "a", " 1"), change(1, "A", "")]
    );
}

#[test]
fn what_is_no_field_is_unfit() {
    let unfit = |new: &str| {
        let octets = adapted(new, "body\r\n");
        edits(&original("A: 1\nB: 2\n", "body\r\n"), &octets).unwrap_err()
    };
    for line in
        ["From a@b Mon Jan  1 10:00:00 2026", "no field", ": x", "A b: c", "\u{e9}: x", " x"]
    {
        let expected = Unfit::NoField(line.to_owned());
        assert_eq!(unfit(&format!("{line}\r\nA: 1\r\nB: 2\r\n")), expected, "{line}");
    }
    for (value, octet) in [(" x\0y", 0), (" x\ry", b'\r'), (" x\r\r\n y", b'\r'), (" x\r", b'\r')] {
        let expected = Unfit::Octet { field: "A".to_owned(), octet };
        assert_eq!(unfit(&format!("A:{value}\r\nB: 2\r\n")), expected, "{value:?}");
    }
    assert_eq!(
        unfit(&format!("A:{}\r\nB: 2\r\n", "x".repeat(65_534))),
        Unfit::Length { field: "A".to_owned(), octets: 65_536, most: 65_535 }
    );
    let octets =
        |header: &'static str| Adapted { header: vec![header.into()], body: Body::default() };
    for header in ["A: 1\r\nB: 3\r\n", "A: 1", "", "\r\nA: 1\r\n\r\n"] {
        let found = edits(&original("A: 1\nB: 2\n", ""), &octets(header));
        assert_eq!(found, Err(Unfit::HeaderEnd), "{header:?}");
    }
}

#[test]
fn what_came_in_stays_even_if_nobody_may_make_it() {
    let mut collector = Collector::new(1_000);
    for (name, value) in [("\u{e9}", " x"), ("A", " b\rc"), ("B", " d")] {
        collector.field(name.as_bytes(), value.as_bytes()).unwrap();
    }
    let old = collector.finish(false);
    let new = Adapted {
        header: vec![old.message.header.slice(..old.fields[1].range().end), "\r\n".into()],
        body: Body::default(),
    };
    assert_eq!(edits(&old, &new).unwrap(), [change(1, "B", "")]);
}

#[test]
fn a_body_is_replaced_only_if_it_changed() {
    let old = original("A: 1\n", "one\r\ntwo\r\n");
    let with = |body: Vec<Octets>| {
        edits(&old, &Adapted { header: vec![old.message.header.clone()], body: body.into() })
            .unwrap()
    };
    let slice = |range: Range<usize>| old.message.body.pieces()[0].slice(range);
    assert_eq!(with(vec![slice(0..3), slice(3..10)]), []);
    assert_eq!(with(vec!["one\r\n".into(), slice(5..10)]), []);
    let replaced = |body: &'static str| vec![Modification::ReplaceBody(body.into())];
    assert_eq!(with(vec![slice(0..5), "2\r\n".into()]), replaced("one\r\n2\r\n"));
    assert_eq!(with(vec![slice(5..10), slice(0..5)]), replaced("two\r\none\r\n"));
    assert_eq!(with(Vec::new()), replaced(""));

    let large = Bytes::from(vec![b'x'; 150_000]);
    let chunks: Vec<_> = with(vec![large.clone().into(), slice(0..5)])
        .into_iter()
        .map(|edit| match edit {
            Modification::ReplaceBody(octets) => octets,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(chunks.iter().map(Bytes::len).collect::<Vec<_>>(), [65_535, 65_535, 18_935]);
    assert_eq!(chunks[1].as_ptr(), large[65_535..].as_ptr(), "large pieces are not copied");
    assert_eq!(chunks.concat(), [&large[..], b"one\r\n"].concat());
}

#[test]
fn thousands_of_fields_take_no_longer() {
    let fields = |step: usize| -> String {
        (0..20_000).map(|at| format!("X-{}: {}\n", at % 3, at * step % 1_000)).collect()
    };
    let found = edits(&original(&fields(1), ""), &adapted(&fields(7), "")).unwrap();
    assert!(found.len() < 40_000);
}

fn fields() -> impl Strategy<Value = Vec<String>> {
    let field = ("[ABab]|Received", "( ?[xy]?(\n [xy])?)")
        .prop_map(|(name, value)| format!("{name}:{value}\n"));
    proptest::collection::vec(field, 0..8)
}

proptest! {
    #[test]
    fn the_mta_ends_with_the_adapted_message(
        old in fields(),
        cuts in proptest::collection::vec((any::<bool>(), any::<Index>(), fields()), 0..4),
        body in proptest::option::of("[ab\r\n]{0,6}"),
    ) {
        let old_fields = old.concat();
        let old = original(&old_fields, "one\r\ntwo\r\n");
        let mut new: Vec<String> = old_fields.split_inclusive('\n').map(str::to_owned).collect();
        for (deletes, at, mut fresh) in cuts {
            let at = at.index(new.len() + 1);
            let end = if deletes { new.len().min(at + 1) } else { at };
            new.splice(at..end, fresh.drain(..).take(2));
        }
        // A continuation line that lost its field.
        prop_assume!(new.first().is_none_or(|line| !line.starts_with(' ')));
        let new = new.concat();
        let changed = body.is_some();
        let body: Bytes = body.map_or_else(|| self::body(&old), Bytes::from);
        let adapted = Adapted { header: vec![format!("{new}\n").into()], body: body.clone().into() };
        let edits = edits(&old, &adapted).unwrap();
        let expected = [format!("{new}\n").replace('\n', "\r\n").as_bytes(), &body].concat();
        for counts_deleted in [false, true] {
            let mut mta = Mta::new(&old, counts_deleted);
            mta.apply(&edits);
            prop_assert_eq!(&mta.message(), &expected);
        }
        if new == old_fields && !changed {
            prop_assert_eq!(edits, []);
        }
    }

    #[test]
    fn nothing_changed_is_no_edit(fields in fields(), cut in any::<Index>()) {
        let old = original(&fields.concat(), "one\r\ntwo\r\n");
        let Original { message, .. } = &old;
        let at = cut.index(message.header.len());
        let adapted = Adapted {
            header: vec![message.header.slice(..at), Bytes::copy_from_slice(&message.header[at..])],
            body: body(&old).into(),
        };
        prop_assert_eq!(edits(&old, &adapted).unwrap(), []);
    }
}
