//! What `deploy/` has for operators holds together, and fits the programs.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::{not_run, program};

const PROGRAMS: [&str; 2] = ["callout-server", "opes-mta"];

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = project().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What `check` says of a configuration that it takes.
fn check(name: &str, file: &str) -> String {
    let output = program(name).arg("check").arg(project().join(file)).output();
    let output = output.expect("it can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The mebibytes that peers can make a program hold.
fn worst_case(name: &str, file: &str) -> u64 {
    let said = check(name, file);
    let line = said.lines().find_map(|line| line.strip_prefix("memory: ")).expect("it says so");
    line.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

/// The lines `KEY=VALUE` of a unit, each key with its values; what goes on in the next line is one.
fn unit(name: &str) -> BTreeMap<String, Vec<String>> {
    let text = read(format!("deploy/systemd/{name}.service")).replace("\\\n", " ");
    let mut keys = BTreeMap::<String, Vec<String>>::new();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    for (key, value) in lines.filter_map(|line| line.split_once('=')) {
        keys.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    keys
}

const UNITS: [(&str, &str); 3] = [
    ("callout-server", "callout-server"),
    ("opes-mta-milter", "opes-mta"),
    ("opes-mta-smtp", "opes-mta"),
];

/// The configurations of the gateway in containers, and the examples, of which the packages make conffiles.
#[test]
fn limits_on_memory_leave_room_for_what_peers_can_use_up() {
    let compose = read("deploy/compose.yaml");
    for (name, service) in
        [("callout-server", "\n  callout-server:\n"), ("opes-mta", "\n  opes-mta:\n")]
    {
        let (_, service) = compose.split_once(service).expect("the service is there");
        let (_, limit) = service.split_once("mem_limit: ").expect("it has a limit");
        let gibibytes: u64 = limit[..1].parse().expect("a number");
        assert!(limit[1..].starts_with("g\n"), "{limit}");
        let worst = worst_case(name, &format!("deploy/compose/{name}.toml"));
        assert!(worst < gibibytes * 1024, "{name}: {worst} MiB and {gibibytes} GiB");
    }
    for (unit_name, name) in UNITS {
        let limit = unit(unit_name)["MemoryMax"][0].clone();
        let gibibytes: u64 = limit.trim_end_matches('G').parse().expect("a number");
        let worst = worst_case(name, &format!("deploy/{name}.toml"));
        assert!(worst < gibibytes * 1024, "{unit_name}: {worst} MiB and {gibibytes} GiB");
    }
}

#[test]
fn services_have_the_time_to_stop() {
    let seconds = |name| unit(name)["TimeoutStopSec"][0].parse::<u64>().expect("a number");
    let config = read("deploy/callout-server.toml");
    let drain = config.lines().find_map(|line| line.strip_prefix("drain = ")).expect("it is there");
    assert!(seconds("callout-server") > drain.parse().expect("a number"));
    // What `opes-mta` gives mail that is under way.
    assert!(seconds("opes-mta-milter") > 300 && seconds("opes-mta-smtp") > 300);
}

/// As systemd sees them, with the programs where they are here.
#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return not_run("units before systemd", "there is no systemd-analyze");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut verify = Command::new("systemd-analyze");
    verify.args(["--man=no", "verify"]);
    for (unit, name) in UNITS {
        let text = read(format!("deploy/systemd/{unit}.service"));
        let here = program(name).get_program().to_string_lossy().into_owned();
        let text = text.replace(&format!("/usr/bin/{name}"), &here);
        let file = folder.path().join(format!("{unit}.service"));
        fs::write(&file, text).expect("written");
        verify.arg(file);
    }
    let output = verify.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // It looks at the units that ours name too, and at those of this system.
    let ours: Vec<_> =
        said.lines().filter(|line| UNITS.iter().any(|(unit, _)| line.contains(unit))).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
}

#[test]
fn units_can_be_watched_and_are_told_the_same_as_the_file_beside_them() {
    for (name, program) in UNITS {
        let keys = unit(name);
        assert_eq!(keys["Type"], ["notify"], "{name}");
        assert!(keys.contains_key("WatchdogSec"), "{name}");
        assert!(keys["ExecStart"][0].starts_with(&format!("/usr/bin/{program} ")), "{name}");
    }
    let set = read("deploy/systemd/opes-mta-smtp.default");
    let set = set.lines().find(|line| line.starts_with("OPTIONS=")).expect("it is set");
    let built_in = unit("opes-mta-smtp")["Environment"][0].clone();
    assert_eq!(built_in.trim_matches('"'), set.replace('"', ""));
}

/// Commands that operators are shown, and those that units and containers begin with: a wrong command line ends with
/// 2. A configuration that is not there ends all others with 1, before they do anything.
#[test]
fn command_lines_are_those_of_the_programs() {
    let readme = read("deploy/README.md").replace("\\\n", " ");
    let mut commands: Vec<String> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| PROGRAMS.iter().any(|name| line.starts_with(&format!("{name} "))))
        .map(str::to_owned)
        .collect();
    assert_eq!(commands.len(), 6, "one for each placement: {commands:?}");
    let options = unit("opes-mta-smtp")["Environment"][0].clone();
    let options = options.trim_matches('"').trim_start_matches("OPTIONS=").to_owned();
    for (name, _) in UNITS {
        let command = unit(name)["ExecStart"][0].replace("/usr/bin/", "").replace("%S", "/var/lib");
        commands.push(command.replace("$OPTIONS", &options));
    }
    let compose = read("deploy/compose.yaml");
    for line in compose.lines().filter_map(|line| line.strip_prefix("    command: ")) {
        let words: Vec<String> = serde_json::from_str(line).expect("a list");
        commands.push(words.join(" "));
    }
    assert_eq!(commands.len(), 6 + UNITS.len() + PROGRAMS.len());
    for command in commands {
        assert!(command.contains(" --config /etc/"), "{command}");
        let mut words = command.split_whitespace();
        let mut run = program(words.next().expect("a name"));
        let output = run.args(words.map(|word| word.replace("/etc/", "/etc/not-there/"))).output();
        let output = output.expect("it can be started");
        assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
    }
}

/// Every file that a package is made of is there, or made by the program; and every unit is in a package.
#[test]
fn packages_are_made_of_files_that_exist() {
    let mut installed = Vec::new();
    for name in PROGRAMS {
        let documents = tempfile::tempdir().expect("a folder");
        let made = |arguments: &[&str], folder: &Path| {
            let status = program(name).args(arguments).arg(folder).status();
            assert!(status.expect("it can be started").success(), "{arguments:?}");
        };
        made(&["man"], &documents.path().join("man"));
        for shell in ["bash", "zsh", "fish"] {
            made(&["completions", shell], documents.path());
        }

        let manifest = read(format!("{name}/Cargo.toml")).parse::<toml::Table>().expect("TOML");
        let package = &manifest["package"]["metadata"]["deb"];
        let assets = package["assets"].as_array().expect("a list");
        let mut targets = Vec::new();
        for asset in assets {
            let text = |index: usize| asset[index].as_str().expect("text");
            let (source, target) = (text(0), text(1));
            let produced = source.strip_prefix(&format!("target/release/documents/{name}/"));
            let is_there = match (produced, source.strip_prefix("target/release/")) {
                (Some("man/*.1"), _) => documents.path().join(format!("man/{name}.1")).exists(),
                (Some(document), _) => documents.path().join(document).exists(),
                (None, Some(binary)) => binary == name,
                (None, None) => project().join(name).join(source).is_file(),
            };
            assert!(is_there, "{name}: {source}");
            let file = source.rsplit('/').next().expect("a name");
            let ends_in_folder = target.ends_with('/');
            targets.push(if ends_in_folder { format!("{target}{file}") } else { target.into() });
        }
        for file in package["conf-files"].as_array().expect("a list") {
            let file = file.as_str().and_then(|file| file.strip_prefix('/')).expect("a path");
            assert!(targets.iter().any(|target| target == file), "{name}: {file}");
        }
        let licence = package["license-file"][0].as_str().expect("a path");
        assert!(project().join(name).join(licence).is_file(), "{licence}");
        installed.extend(targets);
    }
    for (unit, _) in UNITS {
        let path = format!("usr/lib/systemd/system/{unit}.service");
        assert!(installed.contains(&path), "{path} is in no package");
    }
    assert_eq!(tests::files(&project().join("deploy/systemd")).len(), UNITS.len() + 2);
}
