//! Each rule has a mutant without it, and the test that is named for the rule catches it.
//!
//! `cargo test -p lease-tests --test mutants -- --ignored` runs them all, some seconds each, in a
//! copy of the sources; `MUTANTS=n` only n of them, `MUTANT=words` only those whose
//! suite or name has these words.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Suites that run the tools as a user does.
const WITH_TOOLS: [&str; 15] = [
    "ask",
    "bad_input",
    "dump",
    "events",
    "faults",
    "gate",
    "guard",
    "init",
    "late",
    "loss",
    "registry",
    "restart",
    "story",
    "value",
    "wrapper",
];

struct Mutant {
    name: String,
    file: String,
    code: String,
    becomes: String,
    suite: String,
    test: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn mutants() -> Vec<Mutant> {
    let text = std::fs::read_to_string(root().join("tests/mutants/rules.txt")).unwrap();
    text.split("\n== ").skip(1).map(parse).collect()
}

fn parse(block: &str) -> Mutant {
    let mut lines = block.lines();
    let name = lines.next().unwrap().to_owned();
    let rest: Vec<_> = lines.collect();
    let of = |mark: &str| {
        let found = rest.iter().filter_map(|line| line.strip_prefix(mark));
        found
            .map(|code| code.strip_prefix(' ').unwrap_or(code))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let test = of("test");
    let (suite, test) = test.split_once(' ').unwrap();
    Mutant {
        name,
        file: of("file"),
        code: of("<"),
        becomes: of(">"),
        suite: suite.to_owned(),
        test: test.to_owned(),
    }
}

#[test]
fn every_mutant_changes_one_place_and_names_a_test() {
    for mutant in mutants() {
        let source = std::fs::read_to_string(root().join(&mutant.file)).unwrap();
        assert_eq!(source.matches(&mutant.code).count(), 1, "{}", mutant.name);
        assert_ne!(mutant.code, mutant.becomes, "{}", mutant.name);
        let test = mutant.test.rsplit("::").next().unwrap();
        let named = format!("fn {test}(");
        let of_the_file = Path::new(&mutant.file).with_extension("").join("tests.rs");
        let places = match mutant.suite.as_str() {
            tool if tool.starts_with("lease-") => vec![mutant.file.clone().into(), of_the_file],
            suite => vec![match mutant.test.split_once("::") {
                Some((module, _)) => format!("tests/{suite}/{module}.rs").into(),
                None => format!("tests/{suite}.rs").into(),
            }],
        };
        let there = |place: &PathBuf| {
            let text = std::fs::read_to_string(root().join(place)).unwrap_or_default();
            text.contains(&named)
        };
        assert!(places.iter().any(there), "{}: no test {test}", mutant.name);
    }
}

/// What `tests/mutants/run` leaves out speaks of code that is there, and says why.
#[test]
fn every_mutant_that_no_test_catches_is_explained_and_has_its_line() {
    for list in ["equivalent.txt", "endless.txt"] {
        let text = std::fs::read_to_string(root().join("tests/mutants").join(list)).unwrap();
        text.split("\n== ").skip(1).for_each(explains);
    }
}

fn explains(block: &str) {
    let mut lines = block.lines();
    let (file, what) = lines.next().unwrap().split_once(": ").unwrap();
    let line = lines.next().unwrap().strip_prefix("< ").unwrap();
    let reason = lines.next().unwrap_or_default();
    assert!(reason.ends_with('.'), "{what}: no reason");
    let source = std::fs::read_to_string(root().join(file)).unwrap();
    let stands = source.lines().any(|other| other.trim() == line);
    assert!(stands, "{file}: there is no line {line:?}");
    // "CHANGE in FUNCTION", or "replace FUNCTION -> TYPE with VALUE".
    let place = what.rsplit(" in ").next().unwrap().split(" -> ").next();
    let function = place.unwrap().rsplit([':', ' ']).next();
    let named = function.is_some_and(|name| source.contains(&format!("fn {name}")));
    assert!(named, "{file}: there is no function for {what:?}");
}

#[test]
#[ignore = "builds the workspace once for each mutant"]
fn every_mutant_is_caught_by_the_test_that_is_named_for_it() {
    let most = std::env::var("MUTANTS").map_or(usize::MAX, |n| n.parse().unwrap());
    let words = std::env::var("MUTANT").unwrap_or_default();
    let copy = tempfile::tempdir().unwrap();
    copy_sources(copy.path());
    // A test that fails in any case catches nothing.
    let mut sound = BTreeSet::new();
    let is_sound = |mutant: &Mutant| {
        let Mutant { suite, test, .. } = mutant;
        let first = sound.insert((suite.clone(), test.clone()));
        let passes = !first || (build(copy.path(), mutant) && run(copy.path(), mutant));
        assert!(passes, "{suite} {test}: it fails without a mutant");
    };
    let mut chosen = mutants();
    chosen.retain(|mutant| format!("{} {}", mutant.suite, mutant.name).contains(&words));
    chosen.truncate(most);
    assert!(!chosen.is_empty(), "no mutant is called {words:?}");
    let escaped: Vec<_> = chosen
        .into_iter()
        .inspect(is_sound)
        .filter(|mutant| !is_caught(copy.path(), mutant))
        .map(|mutant| mutant.name)
        .collect();
    assert!(escaped.is_empty(), "not caught: {escaped:#?}");
}

fn copy_sources(to: &Path) {
    let archive = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    for file in archive
        .stdout
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let file = std::str::from_utf8(file).unwrap();
        let target = to.join(file);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(root().join(file), target).unwrap();
    }
}

fn is_caught(copy: &Path, mutant: &Mutant) -> bool {
    let file = copy.join(&mutant.file);
    let source = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, source.replacen(&mutant.code, &mutant.becomes, 1)).unwrap();
    assert!(build(copy, mutant), "{}: it does not compile", mutant.name);
    let caught = !run(copy, mutant);
    std::fs::write(&file, source).unwrap();
    let said = if caught { "caught" } else { "not caught" };
    println!("{said}: {}", mutant.name);
    caught
}

fn build(copy: &Path, mutant: &Mutant) -> bool {
    let tools = WITH_TOOLS.contains(&mutant.suite.as_str());
    (!tools || cargo(copy, &["build", "-q"], &["--workspace", "--bins"]))
        && cargo_test(copy, mutant, &["--no-run"])
}

fn run(copy: &Path, mutant: &Mutant) -> bool {
    cargo_test(copy, mutant, &["--", "--exact", &mutant.test])
}

fn cargo_test(copy: &Path, mutant: &Mutant, more: &[&str]) -> bool {
    let which: &[&str] = match mutant.suite.as_str() {
        tool if tool.starts_with("lease-") => &["-p", tool, "--all-targets"],
        suite => &["-p", "lease-tests", "--test", suite],
    };
    cargo(copy, &["test", "-q"], &[which, more].concat())
}

fn cargo(copy: &Path, what: &[&str], more: &[&str]) -> bool {
    let status = Command::new(env!("CARGO"))
        .args(what)
        // Built often, run once; and what is played by hand needs no speed.
        .args(["--config", "profile.dev.debug=0"])
        .args(["--config", "profile.dev.incremental=true"])
        .args(["--config", "profile.dev.package.lease-core.opt-level=0"])
        .args([
            "--config",
            "profile.dev.package.lease-test-support.opt-level=0",
        ])
        .args(more)
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", root().join("target/mutants"))
        .env("RUSTFLAGS", "--cap-lints=warn")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.unwrap().success()
}
