//! What shows that the requirements around OCP are met: `COMPLIANCE.md` has a row for each of the
//! catalogue's, and says the truth about tests.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Where tests may name a requirement in their documentation.
const FOLDERS: &[&str] = &[
    "ocp-proto/src/smtp",
    "services/src",
    "callout-server/src",
    "callout-server/tests",
    "opes-mta/src",
    "opes-mta/tests",
    "tests/tests",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// ID and level.
fn catalogue() -> BTreeMap<String, String> {
    let rows = include_str!("data/opes-requirements.tsv").lines();
    rows.map(|row| {
        let mut fields = row.split('\t');
        (fields.next().unwrap().to_owned(), fields.next().unwrap().to_owned())
    })
    .collect()
}

/// ID, level and state.
fn table() -> Vec<(String, String, String)> {
    let rows = include_str!("../COMPLIANCE.md").lines().filter(|line| line.starts_with("| OPES-"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{row}");
        (cells[0].to_owned(), cells[1].to_owned(), cells[2].to_owned())
    })
    .collect()
}

/// The tests that a state names: words in backquotes behind `tested`.
fn named(state: &str) -> Option<Vec<String>> {
    let names = state.strip_prefix("tested: ")?;
    Some(names.split('`').skip(1).step_by(2).map(str::to_owned).collect())
}

/// All tests of a file, and the IDs in their documentation.
fn tests_in(path: &Path, found: &mut BTreeMap<String, BTreeSet<String>>) {
    let (mut ids, mut is_test) = (Vec::new(), false);
    for line in fs::read_to_string(path).unwrap().lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("/// ") {
            let words = comment.split([',', ' ', ':']);
            ids.extend(words.filter(|word| word.starts_with("OPES-")).map(str::to_owned));
        } else if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, rest)) = line.split_once("fn ") {
            let name = rest.split('(').next().unwrap().to_owned();
            if is_test {
                found.entry(name).or_default().extend(ids.iter().filter(|id| is_id(id)).cloned());
            }
            (ids, is_test) = (Vec::new(), false);
        } else if !line.starts_with("//") && !line.starts_with("#[") {
            ids.clear();
        }
    }
}

/// `OPES-System` and the like are no IDs.
fn is_id(word: &str) -> bool {
    word.ends_with(|c: char| c.is_ascii_digit())
}

fn tests() -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    let mut folders: Vec<PathBuf> = FOLDERS.iter().map(|folder| root().join(folder)).collect();
    folders.push(root().join("ocp-proto/tests"));
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                tests_in(&path, &mut found);
            }
        }
    }
    found
}

#[test]
fn every_row_has_a_state_and_no_must_is_left_open() {
    let rows: Vec<(String, String)> =
        table().iter().map(|(id, level, _)| (id.clone(), level.clone())).collect();
    let distinct: BTreeMap<String, String> = rows.iter().cloned().collect();
    assert_eq!(distinct.len(), rows.len(), "a row stands there twice");
    assert_eq!(distinct, catalogue());
    let reasons = ["core: ", "later: ", "not here: "];
    for (id, level, state) in table() {
        let begins = |words: &[&str]| words.iter().any(|word| state.starts_with(word));
        assert!(
            begins(&["tested: "])
                || begins(&reasons)
                || (!level.starts_with("MUST") && begins(&["done: ", "not done: "])),
            "{id} {level}: {state}"
        );
    }
}

#[test]
fn the_tests_are_there() {
    let tests = tests();
    for (id, _, state) in table() {
        let Some(names) = named(&state) else { continue };
        assert!(!names.is_empty(), "{id} names no test");
        for name in names {
            assert!(tests.contains_key(&name), "{id}: there is no test {name}");
        }
    }
}

#[test]
fn what_tests_name_stands_in_the_table() {
    let table: BTreeMap<String, String> =
        table().into_iter().map(|(id, _, state)| (id, state)).collect();
    for (test, ids) in tests() {
        for id in ids {
            let state = table.get(&id).unwrap_or_else(|| panic!("{test}: there is no row {id}"));
            let named = named(state).unwrap_or_default();
            assert!(named.contains(&test), "{id} is shown by {test} too: {state}");
        }
    }
}

#[test]
fn the_list_of_requirements_is_current() {
    let path = root().join("../shared/spec/opes-requirements.md");
    let Ok(text) = fs::read_to_string(&path) else {
        println!("not run: comparison with the catalogue: {} is not there", path.display());
        return;
    };
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let id = cells.get(1).filter(|id| id.starts_with("OPES-") && cells.len() > 5)?;
        is_id(id).then(|| ((*id).to_owned(), cells[3].to_owned()))
    });
    assert_eq!(rows.collect::<BTreeMap<_, _>>(), catalogue());
}
