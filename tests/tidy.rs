//! The house rules that a grep can check.
//!
//! A source file is looked at as its shipped part: what stands above its test module, without
//! comments. Each rule collects all that breaks it before it fails.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of lease-core from the ground up. A module may use those above it only.
const FLOORS: [&str; 33] = [
    "id",
    "layout",
    "spec",
    "record",
    "disk",
    "clock",
    "storage",
    "failure",
    "timing",
    "deadline",
    "delta",
    "quorum",
    "paxos",
    "liveness",
    "resource",
    "format",
    "survey",
    "index",
    "sanlock",
    "priority",
    "crew",
    "device",
    "process",
    "cgroup",
    "contain",
    "surroundings",
    "registry",
    "opened",
    "host",
    "holder",
    "voice",
    "tool",
    "machine",
];

/// Modules that see the world through `Disk`, `Clock` and `Surroundings` alone.
const PROTOCOL: [&str; 21] = [
    "id",
    "layout",
    "spec",
    "record",
    "disk",
    "storage",
    "failure",
    "timing",
    "deadline",
    "delta",
    "quorum",
    "paxos",
    "liveness",
    "resource",
    "format",
    "survey",
    "index",
    "surroundings",
    "opened",
    "host",
    "holder",
];

/// What a protocol module never names.
const WORLDLY: [&str; 9] = [
    "std::fs",
    "std::io",
    "std::net",
    "Instant",
    "SystemTime",
    "thread",
    "print",
    "println",
    "eprintln",
];

/// The only files with unsafe code.
const UNSAFE: [&str; 2] = ["lease-hold/src/fork.rs", "lease-join/src/watchdog.rs"];

/// What may stand at the top.
const TOP: [&str; 17] = [
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "clippy.toml",
    "lease-core",
    "lease-dump",
    "lease-hold",
    "lease-init",
    "lease-join",
    "man",
    "rustfmt.toml",
    "tests",
    "target",
];

/// Most lines of a source file, and the files that may have more.
const LINES_MAX: usize = 700;
const LONGER: [(&str, usize); 5] = [
    ("lease-core/src/survey.rs", 900),
    ("tests/rules.rs", 1100),
    ("tests/sim/hold.rs", 950),
    ("tests/sim/stage.rs", 860),
    ("tests/sim/world.rs", 950),
];
/// Most characters of a line.
const WIDTH_MAX: usize = 100;
/// Most lines of a `main`.
const MAIN_MAX: usize = 40;

/// A file of the workspace, by its path from the top.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Each line above the test module without its comment, with its number.
    fn shipped(&self) -> Vec<(usize, &str)> {
        let lines: Vec<_> = self.text.lines().collect();
        let tests = lines
            .windows(2)
            .position(|w| w[0].trim() == "#[cfg(test)]" && w[1].starts_with("mod tests"));
        let shipped = &lines[..tests.unwrap_or(lines.len())];
        let code = shipped.iter().map(|line| without_comment(line));
        (1..).zip(code).collect()
    }

    /// Of a file of lease-core, the module that it belongs to.
    fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("lease-core/src/")?;
        let first = inside.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first)).filter(|module| *module != "lib")
    }

    /// Whether users get it, as a program or a library.
    fn is_shipped(&self) -> bool {
        let tests = self.path.ends_with("/tests.rs");
        self.path.starts_with("lease-") && self.path.contains("/src/") && !tests
    }

    fn at(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

fn without_comment(line: &str) -> &str {
    let quotes_before = |at: usize| line[..at].matches('"').count();
    let comment = line
        .match_indices("//")
        .find(|(at, _)| quotes_before(*at) % 2 == 0);
    comment.map_or(line, |(at, _)| &line[..at])
}

/// Whether `word` stands in `code` as a whole word.
fn names(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(is_part) && !code[at + word.len()..].starts_with(is_part)
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// What cargo-fuzz leaves in its directory; git does not look at it either.
const MADE_BY_FUZZING: [&str; 3] = [
    "tests/fuzz/target",
    "tests/fuzz/corpus",
    "tests/fuzz/artifacts",
];

/// Every text file of the workspace; what holds a NUL is data.
fn all_files() -> Vec<Source> {
    let mut found = Vec::new();
    for name in TOP.iter().filter(|name| **name != "target") {
        collect(&root().join(name), &mut found);
    }
    assert!(found.len() > 20, "the workspace is not at {:?}", root());
    found
}

fn collect(path: &Path, found: &mut Vec<Source>) {
    if MADE_BY_FUZZING.iter().any(|name| path.ends_with(name)) {
        return;
    }
    if path.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        entries.sort();
        entries.iter().for_each(|entry| collect(entry, found));
    } else if let Ok(text) = fs::read_to_string(path)
        && !text.contains('\0')
    {
        let path = path.strip_prefix(root()).unwrap().display().to_string();
        found.push(Source { path, text });
    }
}

fn sources() -> Vec<Source> {
    all_files()
        .into_iter()
        .filter(|file| file.path.ends_with(".rs"))
        .collect()
}

/// The shipped lines of all shipped sources that `breaks` has something to say about.
fn violations(breaks: impl Fn(&Source, &str) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.is_shipped()) {
        for (number, code) in source.shipped() {
            found.extend(breaks(source, code).map(|what| source.at(number, &what)));
        }
    }
    found
}

fn assert_none(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

#[test]
fn a_protocol_module_sees_the_world_through_its_traits_alone() {
    let found = violations(|source, code| {
        let word = WORLDLY.iter().find(|word| names(code, word))?;
        let protocol = source.module().is_some_and(|m| PROTOCOL.contains(&m));
        protocol.then(|| format!("names {word}"))
    });
    assert_none(&found, "no files, threads, other clocks, printing");
}

#[test]
fn imports_go_up_only() {
    let floor = |module: &str| FLOORS.iter().position(|m| *m == module);
    let found = violations(|source, code| {
        let own = source.module()?;
        let used = code.split("crate::").skip(1).map(|rest| {
            rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .unwrap_or_default()
        });
        let wrong = |used: &&str| match (floor(used), floor(own)) {
            (Some(used), Some(own)) => used > own,
            _ => true,
        };
        used.into_iter()
            .find(wrong)
            .map(|used| format!("{own} uses {used}"))
    });
    assert_none(&found, "a module uses those above it in FLOORS only");
}

/// The module that a file of a crate is: `["host", "peers"]`; the root is `[]`.
fn module_of(path: &str) -> Vec<String> {
    let inside = path.split_once("/src/").map_or(path, |(_, inside)| inside);
    let mut parts: Vec<_> = inside.split('/').map(str::to_owned).collect();
    let last = parts.pop().unwrap_or_default();
    match last.trim_end_matches(".rs") {
        "main" | "lib" | "mod" => {}
        name => parts.push(name.to_owned()),
    }
    parts
}

/// Each path of what stands in braces after `before`: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn spread(before: &str, tree: &str, paths: &mut Vec<String>) {
    let (mut depth, mut start) = (0, 0);
    let mut parts = Vec::new();
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[start..]);
    for part in parts
        .into_iter()
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        match part.split_once('{') {
            Some((path, rest)) => {
                let inside = rest.strip_suffix('}').unwrap_or(rest);
                spread(&format!("{before}{path}"), inside, paths);
            }
            None => paths.push(format!("{before}{part}")),
        }
    }
}

/// Every path that starts in the crate itself and that a file names, as it stands there.
fn paths_in(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let starts = |code: &str| {
        let found = ["crate::", "super::"]
            .iter()
            .filter_map(|word| code.find(word));
        found.min()
    };
    let mut rest = code;
    while let Some(at) = starts(rest) {
        let is_path = |c: char| c.is_alphanumeric() || "_:".contains(c);
        let end = rest[at..]
            .find(|c| !is_path(c))
            .map_or(rest.len(), |end| at + end);
        match rest[end..].strip_prefix('{') {
            Some(tree) => {
                let tree = &tree[..tree.find(';').unwrap_or(tree.len())];
                let tree = &tree[..tree.rfind('}').unwrap_or(tree.len())];
                spread(&rest[at..end], tree, &mut paths);
            }
            None => paths.push(rest[at..end].to_owned()),
        }
        rest = &rest[end..];
    }
    paths
}

/// The module that a path in `own` leads to or into: the innermost that is a file.
fn leads_to(own: &[String], path: &str, modules: &[Vec<String>]) -> Option<Vec<String>> {
    let mut words = path.split("::").map(str::trim).peekable();
    let mut to = own.to_vec();
    if words.next_if_eq(&"crate").is_some() {
        to.clear();
    }
    while words.next_if_eq(&"super").is_some() {
        to.pop();
    }
    let all: Vec<_> = to.into_iter().chain(words.map(str::to_owned)).collect();
    let inside = modules.iter().filter(|module| all.starts_with(module));
    inside.max_by_key(|module| module.len()).cloned()
}

/// The files of a crate that each of its files imports. A file that has children imports those that
/// it names items of; that it declares them is no import.
fn imports(files: &[&Source]) -> Vec<(usize, usize)> {
    let modules: Vec<_> = files.iter().map(|file| module_of(&file.path)).collect();
    let mut found = Vec::new();
    for (from, file) in files.iter().enumerate() {
        let code: Vec<_> = file.shipped().into_iter().map(|(_, code)| code).collect();
        let code = code.join("\n");
        let own = &modules[from];
        let children = modules
            .iter()
            .filter(|m| m.len() == own.len() + 1 && m.starts_with(own));
        let of_children = children.filter_map(|child| {
            let name = child.last()?;
            let named =
                code.contains(&format!("use {name}::")) || code.contains(&format!(" {name}::"));
            named.then(|| child.clone())
        });
        let paths = paths_in(&code);
        let named = paths
            .iter()
            .filter_map(|path| leads_to(own, path, &modules));
        for module in named.chain(of_children).filter(|module| module != own) {
            let to = modules.iter().position(|other| *other == module);
            found.extend(to.map(|to| (from, to)));
        }
    }
    found
}

/// The circles: for each file in one, those that it leads to and that lead back to it.
fn circles(count: usize, imports: &[(usize, usize)]) -> Vec<Vec<usize>> {
    let mut leads = vec![vec![false; count]; count];
    imports
        .iter()
        .for_each(|(from, to)| leads[*from][*to] = true);
    for by in 0..count {
        for from in 0..count {
            for to in 0..count {
                leads[from][to] |= leads[from][by] && leads[by][to];
            }
        }
    }
    let leads = &leads;
    let circle =
        |one: usize| (0..count).filter(move |other| leads[one][*other] && leads[*other][one]);
    let mut all: Vec<Vec<usize>> = (0..count).map(|one| circle(one).collect()).collect();
    all.retain(|circle| !circle.is_empty());
    all.dedup();
    all
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = sources();
    let shipped: Vec<_> = sources
        .iter()
        .filter(|source| source.is_shipped())
        .collect();
    let crate_of = |source: &Source| source.path.split('/').next().unwrap().to_owned();
    let names: BTreeSet<_> = shipped.iter().map(|source| crate_of(source)).collect();
    let mut found = Vec::new();
    for name in &names {
        let files = shipped.iter().filter(|source| crate_of(source) == *name);
        let files: Vec<&Source> = files.copied().collect();
        for circle in circles(files.len(), &imports(&files)) {
            let paths: Vec<_> = circle
                .iter()
                .map(|file| files[*file].path.as_str())
                .collect();
            found.push(paths.join(" "));
        }
    }
    found.sort();
    found.dedup();
    assert_none(&found, "files that import each other");
}

#[test]
fn every_module_of_the_library_has_a_floor() {
    for source in sources() {
        let known = source.module().is_none_or(|m| FLOORS.contains(&m));
        assert!(known, "{} is not in FLOORS", source.path);
    }
}

#[test]
fn shipped_code_does_not_panic_on_purpose() {
    let found = violations(|_, code| {
        let words = [".unwrap()", ".expect(", "panic!(", "unreachable!("];
        let word = words.iter().find(|word| code.contains(**word))?;
        Some(format!("has {word}"))
    });
    assert_none(&found, "no unwrap, expect, panic");
}

#[test]
fn unsafe_code_is_in_its_files_and_says_why_it_is_sound() {
    let mut found = Vec::new();
    for source in sources() {
        let lines: Vec<_> = source.text.lines().collect();
        for (number, code) in source.shipped() {
            if !names(code, "unsafe") || source.path == "tests/tidy.rs" {
                continue;
            }
            if source.is_shipped() && !UNSAFE.contains(&source.path.as_str()) {
                found.push(source.at(number, "unsafe"));
            }
            let above = lines[..number - 1].iter().rev();
            let mut comments = above.take_while(|line| line.trim().starts_with("//"));
            if !comments.any(|line| line.contains("SAFETY:") || line.contains("# Safety")) {
                found.push(source.at(number, "no SAFETY comment right above"));
            }
        }
    }
    assert_none(
        &found,
        "unsafe code is in UNSAFE only, each with its reason",
    );
}

#[test]
fn a_main_tells_the_story_in_few_lines() {
    for source in sources().iter().filter(|s| s.path.ends_with("main.rs")) {
        let lines = source.text.lines();
        let main = lines.skip_while(|line| !line.starts_with("fn main("));
        let length = main.take_while(|line| !line.starts_with('}')).count() + 1;
        assert!(
            length < MAIN_MAX,
            "{}: main has {length} lines",
            source.path
        );
    }
}

#[test]
fn no_file_is_too_long_and_no_line_too_wide() {
    let mut found = Vec::new();
    for source in sources() {
        let longer = LONGER.iter().find(|(path, _)| *path == source.path);
        let most = longer.map_or(LINES_MAX, |(_, most)| *most);
        let length = source.text.lines().count();
        if length > most {
            found.push(format!("{}: {length} lines", source.path));
        }
    }
    for file in all_files().iter().filter(|f| is_written_by_hand(f)) {
        for (number, line) in (1..).zip(file.text.lines()) {
            if line.chars().count() > WIDTH_MAX && !is_message(line) {
                found.push(file.at(number, "too wide"));
            }
            if line.ends_with([' ', '\t']) {
                found.push(file.at(number, "ends in a space"));
            }
        }
    }
    assert_none(&found, "lines of a file, characters of a line");
}

/// A message is one line, in the source as on the terminal.
fn is_message(line: &str) -> bool {
    let start = line.trim_start();
    start.starts_with(['"', '#'])
}

/// Not a lock file, a table of dependencies, data, or prose that is wrapped where it is shown.
fn is_written_by_hand(file: &Source) -> bool {
    let other = [".lock", ".toml", ".md", ".json", ".hex", ".txt", ".img"];
    !other.iter().any(|end| file.path.ends_with(end))
}

/// A text that is broken without a backslash has the indentation of the next line in its middle.
fn has_a_gap(code: &str) -> bool {
    let text = code.split_once('"').map_or("", |(_, text)| text);
    let text = text.rsplit_once('"').map_or(text, |(text, _)| text);
    let text = text.trim_end_matches('\\').replace("\\n", "\n");
    text.lines().any(|line| line.trim().contains("   "))
}

#[test]
fn a_message_has_no_gap() {
    let found = violations(|_, code| has_a_gap(code).then(|| "a gap in a text".to_owned()));
    assert_none(&found, "shipped code, three spaces in a text");
}

#[test]
fn nothing_is_left_for_later() {
    let marks = ["TO", "FIX", "XX", "TB"].map(|half| match half {
        "TO" => "TODO".to_owned(),
        "FIX" => "FIXME".to_owned(),
        "XX" => "XXX".to_owned(),
        other => format!("{other}D"),
    });
    let mut found = Vec::new();
    for file in all_files().iter().filter(|f| f.path != "tests/tidy.rs") {
        for (number, line) in (1..).zip(file.text.lines()) {
            let mark = marks.iter().find(|mark| names(line, mark));
            found.extend(mark.map(|mark| file.at(number, mark)));
        }
    }
    assert_none(&found, "what is not done is not in the text");
}

#[test]
fn no_file_speaks_of_the_machine_that_it_was_written_on() {
    let places = ["/work/", "/tmp/wt", "/root/"];
    let mut found = Vec::new();
    for file in all_files().iter().filter(|f| f.path != "tests/tidy.rs") {
        for (number, line) in (1..).zip(file.text.lines()) {
            let place = places.iter().find(|place| line.contains(**place));
            found.extend(place.map(|place| file.at(number, place)));
        }
    }
    assert_none(&found, "paths of one machine");
}

#[test]
fn the_top_holds_what_it_is_meant_to() {
    let entries = fs::read_dir(root()).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let extra: Vec<_> = names
        .filter(|name| name != ".git" && !TOP.contains(&name.as_str()))
        .collect();
    assert_none(&extra, "nothing else at the top");
}

#[test]
fn the_checks_see_what_they_look_for() {
    assert_eq!(without_comment("let x = 1; // unsafe"), "let x = 1; ");
    assert_eq!(
        without_comment("let url = \"a//b\";"),
        "let url = \"a//b\";"
    );
    assert!(names("std::thread::spawn", "thread"));
    assert!(!names("a_thread", "thread") && !names("unsafe_code", "unsafe"));
    let source = Source {
        path: "lease-core/src/record/leader.rs".to_owned(),
        text: "code\n#[cfg(test)]\nmod tests {\n}\n".to_owned(),
    };
    assert_eq!(source.module(), Some("record"));
    assert_eq!(source.shipped(), [(1, "code")]);
    let file = |path: &str, text: &str| Source {
        path: format!("lease-core/src/{path}"),
        text: text.to_owned(),
    };
    let files = [
        file("lib.rs", "mod a;\nmod b;\nuse a::{X, c::Y};"),
        file("a.rs", "mod c;\nuse crate::b::{self, Z};"),
        file("b.rs", "fn f() -> super::a::c::Y {}"),
        file("a/c.rs", "use super::{X,\n d::W};"),
    ];
    let files: Vec<&Source> = files.iter().collect();
    let found: BTreeSet<_> = imports(&files).into_iter().collect();
    assert_eq!(found, [(0, 1), (1, 2), (2, 3), (3, 1)].into());
    assert_eq!(circles(4, &imports(&files)), [[1, 2, 3]]);
}
