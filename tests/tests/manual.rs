//! What the programs say of themselves to others: man pages and shell completions.

#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use tests::{files, not_run, program};

fn run(name: &str, arguments: &[&str], folder: &Path) {
    let output = program(name).args(arguments).arg(folder).output().expect("it can be started");
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}

fn names(folder: &Path) -> BTreeSet<String> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    files(folder).iter().filter_map(|path| name(path)).collect()
}

/// The subcommands that `--help` names.
fn subcommands(name: &str) -> Vec<String> {
    let output = program(name).arg("--help").output().expect("it can be started");
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, commands) = help.split_once("Commands:\n").expect("it has subcommands");
    let commands = commands.lines().take_while(|line| !line.is_empty());
    // What continues a line stands further to the right.
    let commands = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let words = commands.filter_map(|line| line.split_whitespace().next());
    words.map(str::to_owned).filter(|word| word != "help").collect()
}

#[test]
fn each_subcommand_has_a_man_page() {
    for name in ["callout-server", "opes-mta"] {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("man");
        run(name, &["man"], &folder);
        let pages = names(&folder);
        assert!(pages.contains(&format!("{name}.1")), "{pages:?}");
        let subcommands = subcommands(name);
        assert!(subcommands.len() > 4, "{subcommands:?}");
        for subcommand in subcommands {
            assert!(pages.contains(&format!("{name}-{subcommand}.1")), "{subcommand}: {pages:?}");
        }
        // Who builds a package knows them.
        let hidden = [format!("{name}-man.1"), format!("{name}-completions.1")];
        assert!(hidden.iter().all(|page| !pages.contains(page)), "{pages:?}");
        let main = fs::read_to_string(folder.join(format!("{name}.1"))).expect("it is text");
        assert!(main.contains(env!("CARGO_PKG_VERSION")), "{main}");
    }
}

/// In the shell that they are for: TAB behind a word shows what may stand there.
#[test]
fn completions_are_those_of_the_command_line() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["callout-server", "opes-mta"] {
        for shell in ["bash", "zsh", "fish"] {
            run(name, &["completions", shell], folder.path());
        }
    }
    let written: Vec<_> = names(folder.path()).into_iter().collect();
    let expected = [
        "_callout-server",
        "_opes-mta",
        "callout-server.bash",
        "callout-server.fish",
        "opes-mta.bash",
        "opes-mta.fish",
    ];
    assert_eq!(written, expected);
    if Command::new("bash").arg("-c").arg("true").status().is_err() {
        return not_run("completions in bash", "there is no bash");
    }
    let script = "source \"$0\"; COMP_WORDS=(opes-mta spool ''); COMP_CWORD=2; \
                  $(complete -p opes-mta | sed 's/.* -F \\([^ ]*\\) .*/\\1/') opes-mta '' spool; \
                  echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    let output = bash.arg("-c").arg(script).arg(folder.path().join("opes-mta.bash")).output();
    let output = output.expect("bash runs");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    for word in ["list", "show", "flush", "hold", "release", "delete"] {
        assert!(shown.split_whitespace().any(|shown| shown == word), "{word}: {output:?}");
    }
}
