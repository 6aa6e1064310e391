//! Which requirements have a test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Requirements that only a whole program shows: the ID, the file with the test, and its name.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("OCP-7-03", "opes-mta/tests/adapt.rs", "large_mail_is_kept_whatever_its_size"),
    ("OCP-11.3-03", "callout-server/tests/ocp.rs", "connections_beyond_the_limit_hear_why"),
    (
        "OCP-11.5-02",
        "callout-server/tests/ocp.rs",
        "content_beyond_the_budget_may_go_to_another_server",
    ),
    (
        "OCP-10.14-01",
        "callout-server/src/chain/tests.rs",
        "each_service_sees_what_the_ones_before_it_made",
    ),
    (
        "OCP-11.5-04",
        "callout-server/src/chain/tests.rs",
        "each_service_sees_what_the_ones_before_it_made",
    ),
    ("OCP-11.9-07", "opes-mta/tests/adapt.rs", "large_mail_is_kept_whatever_its_size"),
    (
        "OCP-11.9-13",
        "callout-server/tests/ocp.rs",
        "kept_octets_stay_at_home_and_others_come_back_as_they_are",
    ),
    ("OCP-11.1-05", "callout-server/tests/ocp.rs", "connections_beyond_the_limit_hear_why"),
    ("OCP-13-03", "callout-server/tests/ocp.rs", "connections_beyond_the_limit_hear_why"),
    (
        "OCP-2.7-03",
        "callout-server/src/driver/tests.rs",
        "the_peer_hears_that_a_slow_service_is_still_at_work",
    ),
    (
        "OCP-11.24-02",
        "callout-server/src/driver/tests.rs",
        "the_peer_hears_that_a_slow_service_is_still_at_work",
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// ID and level.
fn catalogue() -> BTreeMap<String, String> {
    let rows = include_str!("../data/requirements.tsv").lines();
    rows.map(|row| {
        let mut fields = row.split('\t');
        (fields.next().unwrap().to_owned(), fields.next().unwrap().to_owned())
    })
    .collect()
}

fn is_id(word: &str) -> bool {
    word.strip_prefix("OCP-").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The IDs in the documentation of tests in one file.
fn tested_in(path: &Path, found: &mut BTreeSet<String>) {
    let text = fs::read_to_string(path).unwrap();
    let mut named = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("/// OCP-") {
            let words = comment.split([',', ' ']).filter(|word| !word.is_empty());
            let ids = words.map(|word| match word.starts_with("OCP-") {
                true => word.to_owned(),
                false => format!("OCP-{word}"),
            });
            named.extend(ids.filter(|id| is_id(id)));
        } else if line == "#[test]" {
            found.extend(named.drain(..));
        } else if !line.starts_with("//") && !line.starts_with("#[") {
            named.clear();
        }
    }
}

fn tested() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root().join("ocp-proto/tests"), root().join("ocp-proto/src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                tested_in(&path, &mut found);
            }
        }
    }
    found
}

fn elsewhere() -> BTreeSet<String> {
    ELSEWHERE.iter().map(|(id, ..)| (*id).to_owned()).collect()
}

#[test]
fn every_must_has_a_test() {
    let shown: BTreeSet<String> = tested().union(&elsewhere()).cloned().collect();
    let missing: Vec<String> = catalogue()
        .into_iter()
        .filter(|(id, level)| level.starts_with("MUST") && !shown.contains(id))
        .map(|(id, level)| format!("{id} {level}"))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn what_is_shown_elsewhere_is_there() {
    for (id, file, test) in ELSEWHERE {
        let path = root().join(file);
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{id}: {file}: {error}"));
        assert!(text.contains(&format!("fn {test}(")), "{id}: {file} has no test {test}");
    }
}

#[test]
fn what_has_no_test_has_a_reason() {
    let reasons = include_str!("../../COMPLIANCE.md");
    let explained: BTreeSet<String> = reasons
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .filter_map(|row| row.split(' ').next())
        .filter(|word| is_id(word))
        .map(str::to_owned)
        .collect();
    let shown: BTreeSet<String> = tested().union(&elsewhere()).cloned().collect();
    let known: BTreeSet<String> = catalogue().into_keys().collect();
    let nowhere: Vec<&String> =
        known.difference(&shown).filter(|id| !explained.contains(*id)).collect();
    assert!(nowhere.is_empty(), "neither a test nor a row in COMPLIANCE.md: {nowhere:#?}");
    let unknown: Vec<&String> = shown.union(&explained).filter(|id| !known.contains(*id)).collect();
    assert!(unknown.is_empty(), "no such requirement: {unknown:#?}");
    let twice: Vec<&String> = explained.intersection(&shown).collect();
    assert!(twice.is_empty(), "tested after all: {twice:#?}");
}

#[test]
fn the_list_of_requirements_is_current() {
    let path = root().join("../shared/spec/ocp-core-requirements.md");
    let Ok(text) = fs::read_to_string(&path) else {
        println!("not run: comparison with the catalogue: {} is not there", path.display());
        return;
    };
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let id = cells.get(1).filter(|id| is_id(id) && cells.len() > 5)?;
        Some(((*id).to_owned(), cells[3].to_owned()))
    });
    assert_eq!(rows.collect::<BTreeMap<_, _>>(), catalogue());
}
