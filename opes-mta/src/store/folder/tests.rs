use std::fs;

use super::*;
use crate::spool::{Entry, Recipient, State};
use ocp_proto::smtp::Address;

fn folder() -> (tempfile::TempDir, Folder<Entry>) {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::make(root.path()).unwrap();
    (root, folder)
}

fn entry(id: &Id, octets: u64) -> Entry {
    let text = format!(
        r#"{{"format": "opes-mta-spool/1", "id": "{id}", "arrived": "2026-11-26T10:00:00.000Z",
        "octets": {octets}, "sender": {{"path": "<>"}}, "recipients": [
        {{"address": {{"path": "<a@b>"}}, "state": {{"is": "queued"}}}}]}}"#
    );
    parse(text.as_bytes()).unwrap()
}

/// An entry with this message.
fn put(folder: &Folder<Entry>, message: &[u8]) -> Id {
    let mut draft = folder.draft(Moment::EPOCH).unwrap();
    draft.write(message).unwrap();
    let id = draft.id().clone();
    draft.commit(folder, &entry(&id, message.len() as u64)).unwrap();
    id
}

fn names(root: &tempfile::TempDir) -> Vec<String> {
    let entries = fs::read_dir(root.path().join("spool")).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_not_committed_leaves_nothing_behind() {
    let (root, folder) = folder();
    let mut draft = folder.draft(Moment::EPOCH).unwrap();
    draft.write(b"half").unwrap();
    assert_eq!(names(&root), [format!("{}.eml", draft.id())]);
    assert!(matches!(folder.lock(draft.id()), Err(StoreError::Busy { .. })));
    assert_eq!(folder.clean().unwrap(), 0, "somebody writes it");
    drop(draft);
    assert!(names(&root).is_empty());
}

#[test]
fn what_a_dead_writer_left_is_removed_and_nothing_else() {
    let (root, folder) = folder();
    let id = put(&folder, b"whole");
    let path = |name: &str| root.path().join("spool").join(name);
    fs::write(path("0-1.eml"), "half").unwrap();
    fs::write(path("0-2.json.part"), "{").unwrap();
    fs::write(path(&format!("{id}.json.part")), "{").unwrap();
    fs::write(path("notes.txt"), "of an operator").unwrap();
    assert_eq!(folder.clean().unwrap(), 3);
    assert_eq!(names(&root), [format!("{id}.eml"), format!("{id}.json"), "notes.txt".to_owned()]);
    assert_eq!(folder.read(&id).unwrap().octets, 5);
}

#[test]
fn a_record_is_not_cleaned_away_while_somebody_writes_it() {
    let (root, folder) = folder();
    let id = put(&folder, b"x");
    let locked = folder.lock(&id).unwrap();
    let part = root.path().join("spool").join(format!("{id}.json.part"));
    fs::write(&part, "{").unwrap();
    assert_eq!(folder.clean().unwrap(), 0);
    drop(locked);
    assert_eq!(folder.clean().unwrap(), 1);
}

#[test]
fn one_at_a_time_works_on_an_entry() {
    let (_root, folder) = folder();
    let id = put(&folder, b"x");
    let locked = folder.lock(&id).unwrap();
    // Whoever still reads the message does not keep the lock.
    let reader = locked.message().unwrap();
    assert!(matches!(folder.lock(&id), Err(StoreError::Busy { .. })));
    drop(locked);
    folder.lock(&id).unwrap().remove(&folder).unwrap();
    assert!(matches!(folder.lock(&id), Err(StoreError::Unknown { .. })));
    assert_eq!(std::io::read_to_string(reader).unwrap(), "x");
}

#[test]
fn a_name_that_was_waited_for_may_be_another_entry_by_then() {
    let (_root, folder) = folder();
    let id = put(&folder, b"first");
    let calls = std::cell::Cell::new(0);
    let taken = folder.take(&id, |file| {
        calls.set(calls.get() + 1);
        if calls.get() == 1 {
            folder.lock(&id).unwrap().remove(&folder).unwrap();
            let mut draft = folder.draft_as(id.clone()).unwrap();
            draft.write(b"the second").unwrap();
            draft.commit(&folder, &entry(&id, 10)).unwrap();
        }
        file.lock().map(|()| true)
    });
    let taken = taken.unwrap();
    assert_eq!((calls.get(), taken.record().octets), (2, 10));
    assert!(matches!(folder.lock(&id), Err(StoreError::Busy { .. })));
}

#[test]
fn a_broken_entry_is_named_and_others_are_there() {
    let (root, folder) = folder();
    let sound = put(&folder, b"sound");
    let recipient = r#"{"address": {"path": "<a@b>"}, "state": {"is": "queued"}}"#;
    let record = |head: &str, recipients: &str| {
        format!(
            r#"{{{head} "arrived": "2026-11-26T10:00:00.000Z", "octets": 1,
            "sender": {{"path": "<>"}}, "recipients": [{recipients}]}}"#
        )
    };
    let right = r#""format": "opes-mta-spool/1", "id": "bad","#;
    let cases = [
        (String::new(), "EOF while parsing a value at line 1 column 0"),
        ("\0\0\0".to_owned(), "expected value at line 1 column 1"),
        ("[]".to_owned(), "it does not say that its format is \"opes-mta-spool/1\""),
        ("[".repeat(200), "recursion limit exceeded at line 1 column 128"),
        (
            record(r#""format": "opes-mta-spool/2", "#, recipient),
            "its format is \"opes-mta-spool/2\", not \"opes-mta-spool/1\"",
        ),
        (record(right, ""), "it has no recipients"),
        (record(right, &recipient.replace("<a@b>", "<>")), "a recipient has no address"),
        (record(right, &recipient.replace("<a@b>", "a@b")), "an address stands in angle brackets"),
        (
            record(right, &recipient.replace("<a@b>", "<a\\r\\n@b>")),
            "octet 0x0d is not allowed in an address",
        ),
        (record(right, &recipient.replace("queued", "lost")), "unknown variant `lost`"),
        (record(&right.replace("bad", "other"), recipient), "it is about other"),
        (record(&right.replace("bad", "../x"), recipient), "\"../x\" names no entry"),
        (record(right, recipient), "it has 2 octets, not 1"),
    ];
    for (text, reason) in cases {
        fs::write(root.path().join("spool/bad.json"), &text).unwrap();
        fs::write(root.path().join("spool/bad.eml"), "xy").unwrap();
        let (entries, broken) = folder.entries().unwrap();
        assert_eq!(entries.iter().map(|entry| &entry.id).collect::<Vec<_>>(), [&sound]);
        let [broken] = &broken[..] else { panic!("{broken:?} for {text}") };
        let words = broken.to_string();
        assert!(words.starts_with(&format!("{}/spool/bad.", root.path().display())), "{words}");
        assert!(broken.reason.contains(reason), "{words}: not {reason}");
        // Nobody throws away what people may want to look at.
        folder.clean().unwrap();
        assert_eq!(names(&root).len(), 4);
    }
    fs::remove_file(root.path().join("spool/bad.eml")).unwrap();
    let (_, broken) = folder.entries().unwrap();
    assert!(broken[0].to_string().contains("bad.eml can't be used: No such file"), "{broken:?}");
    fs::File::create(root.path().join("spool/bad.json")).unwrap().set_len(1 << 40).unwrap();
    let (_, broken) = folder.entries().unwrap();
    assert_eq!(broken[0].reason, "it has more than 16777216 octets");
}

#[test]
fn what_was_noted_is_read_once_and_whole_lines_only() {
    let (root, folder) = folder();
    let id = |text: &str| text.parse::<Id>().unwrap();
    let mut place = 0;
    assert!(folder.noted(&mut place).unwrap().is_empty());
    folder.note(&id("1-a")).unwrap();
    folder.note(&id("2-b")).unwrap();
    assert_eq!(folder.noted(&mut place).unwrap(), [id("1-a"), id("2-b")]);
    assert!(folder.noted(&mut place).unwrap().is_empty());
    let changes = root.path().join("changes");
    fs::write(&changes, "1-a\n2-b\n../x\n3-").unwrap();
    assert!(folder.noted(&mut place).unwrap().is_empty());
    fs::write(&changes, "1-a\n2-b\n../x\n3-c\n").unwrap();
    assert_eq!(folder.noted(&mut place).unwrap(), [id("3-c")]);
}

#[test]
fn octets_that_are_no_text_survive() {
    let (_root, folder) = folder();
    let mut draft = folder.draft(Moment::EPOCH).unwrap();
    draft.write(b"x").unwrap();
    let address = |path: &[u8]| Address::new(path.to_vec()).unwrap();
    let latin = address(b"<j\xf6rg@b>").with_parameters(vec!["X=\u{e4}".into()]).unwrap();
    let recipient = Recipient {
        address: latin.clone(),
        next_hop: None,
        state: State::Queued,
        delay_reported: false,
    };
    let id = draft.id().clone();
    let entry = Entry { sender: latin, recipients: vec![recipient], ..entry(&id, 1) };
    draft.commit(&folder, &entry).unwrap();
    assert_eq!(folder.read(&id).unwrap(), entry);
}

#[test]
fn what_the_superuser_does_beside_the_owner_is_the_owners() {
    let (root, folder) = folder();
    let entries = root.path().join("spool");
    let someone = Some(65_534);
    let given =
        [root.path(), &entries].map(|path| std::os::unix::fs::chown(path, someone, someone));
    if given.iter().any(Result::is_err) {
        return ::tests::not_run(
            "files of the superuser in a store of somebody else",
            "it takes root",
        );
    }
    let id = put(&folder, b"x");
    let mut locked = folder.lock(&id).unwrap();
    let record = locked.record().clone();
    locked.replace(&folder, record).unwrap();
    folder.note(&id).unwrap();
    for path in [folder.message_path(&id), folder.record_path(&id), folder.changes_path()] {
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid()), (65_534, 65_534), "{}", path.display());
        assert_eq!(found.mode() & 0o777, 0o600);
    }
}
