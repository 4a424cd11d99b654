//! Holds the manual against the tools, and the tools against the manual.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use lease_core::tool::Status;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::hosts::STAY;
use support::process::Process;

const TOOLS: [&str; 4] = ["lease-init", "lease-join", "lease-hold", "lease-dump"];
const PAGES: [&str; 7] = [
    "lease-init.8",
    "lease-join.8",
    "lease-hold.8",
    "lease-dump.8",
    "lease-disk.5",
    "lease.7",
    "lease-libvirt.7",
];

/// Every exit code by its name in the sources.
const STATUSES: [(&str, Status); 15] = [
    ("Done", Status::Done),
    ("Usage", Status::Usage),
    ("Invalid", Status::Invalid),
    ("NoPath", Status::NoPath),
    ("NotJoined", Status::NotJoined),
    ("Internal", Status::Internal),
    ("System", Status::System),
    ("CannotCreate", Status::CannotCreate),
    ("Io", Status::Io),
    ("Busy", Status::Busy),
    ("Permission", Status::Permission),
    ("Refused", Status::Refused),
    ("Lost", Status::Lost),
    ("CannotExecute", Status::CannotExecute),
    ("NoCommand", Status::NoCommand),
];
/// Those that lease-core gives on behalf of every tool: it parses command lines, opens paths, and
/// ends a tool that fails for no known reason.
const SHARED: [Status; 7] = [
    Status::Done,
    Status::Usage,
    Status::NoPath,
    Status::Internal,
    Status::System,
    Status::Io,
    Status::Permission,
];

/// An option: its names, with their dashes, and its value's name, if it has one.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flag {
    names: Vec<String>,
    value: Option<String>,
}

// ---- a page

fn manual() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../man")
}

fn page(name: &str) -> String {
    let path = manual().join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The lines of one section.
fn section<'a>(page: &'a str, title: &str) -> Vec<&'a str> {
    let heading = format!(".Sh {title}");
    page.lines()
        .skip_while(|line| *line != heading)
        .skip(1)
        .take_while(|line| !line.starts_with(".Sh "))
        .collect()
}

/// Every option that a line of mdoc names: `Fl s , -lockspace` is `-s` and `--lockspace`.
fn flags_of_line(line: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut in_flag = false;
    for word in line.split_whitespace() {
        match word {
            "Fl" | ".Fl" => in_flag = true,
            "," | "|" => {}
            _ if in_flag && is_flag_word(word) => names.push(format!("-{word}")),
            _ => in_flag = false,
        }
    }
    names.retain(|name| name != "--");
    names
}

fn is_flag_word(word: &str) -> bool {
    word.starts_with('-') || word.len() == 1 && word.chars().all(char::is_alphanumeric)
}

/// The options that OPTIONS explains.
fn explained(page: &str) -> Vec<Flag> {
    let items = section(page, "OPTIONS").into_iter();
    let mut flags: Vec<_> = items
        .filter(|line| line.starts_with(".It Fl "))
        .map(|line| Flag {
            names: flags_of_line(line),
            value: line.split_once(" Ar ").map(|(_, value)| value.to_owned()),
        })
        .collect();
    flags.sort();
    flags
}

/// The options that follow a tool's name in commands shown as text: the tool, the option. A line
/// that refers to a page shows no command.
fn options_shown(text: &str) -> Vec<(&'static str, String)> {
    let text = text.replace("\\e\n", " ").replace("\\-", "-");
    let mut shown = Vec::new();
    for line in text.lines().filter(|line| !line.contains("Xr ")) {
        let mut running = None;
        for word in line.split_whitespace() {
            let bare = word.trim_matches('`');
            if let Some(tool) = TOOLS.iter().find(|tool| **tool == bare) {
                running = Some(*tool);
            } else if matches!(bare, "--" | "|" | "&" | "#") {
                running = None;
            } else if let Some(tool) = running.filter(|_| bare.starts_with('-')) {
                shown.push((tool, bare.to_owned()));
            }
            running = running.filter(|_| !word.ends_with('`'));
        }
    }
    shown
}

/// The numbers that EXIT STATUS explains.
fn codes_explained(page: &str) -> BTreeSet<u8> {
    let items = section(page, "EXIT STATUS").into_iter();
    items
        .filter_map(|line| line.strip_prefix(".It ")?.parse().ok())
        .collect()
}

/// The commands that EXAMPLES shows, each as a shell takes it.
fn examples(page: &str) -> Vec<String> {
    let plain = |text: &str| text.replace("\\e", "\\").replace("\\-", "-");
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    for line in section(page, "EXAMPLES") {
        match (&mut block, line) {
            (None, _) if line.starts_with(".Bd ") => block = Some(String::new()),
            (Some(text), ".Ed") => {
                found.push(plain(text));
                block = None;
            }
            (Some(text), _) => text.extend([line, "\n"]),
            (None, _) => found.extend(line.strip_prefix(".Dl ").map(plain)),
        }
    }
    found
}

// ---- a tool

fn tools() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().to_owned()
}

fn tool(name: &str) -> Command {
    let path = tools().join(name);
    assert!(path.exists(), "build first: cargo build --workspace");
    Command::new(path)
}

/// The numbers that a tool's sources can end it with.
fn codes_given(name: &str) -> BTreeSet<u8> {
    let decides = match name {
        "lease-hold" => "holder",
        "lease-join" => "host",
        other => other,
    };
    let decides = Path::new("../lease-core/src").join(decides);
    let parts = [Path::new("..").join(name).join("src"), decides].into_iter();
    let mut parts: Vec<_> = parts.map(|part| manual().join(part)).collect();
    let mut codes: BTreeSet<_> = SHARED.iter().map(|status| status.code()).collect();
    while let Some(part) = parts.pop() {
        if let Ok(inner) = fs::read_dir(&part) {
            parts.extend(inner.map(|entry| entry.unwrap().path()));
            continue;
        }
        // A tool that is named like none of lease-core's folders has no such folder.
        let Ok(text) = fs::read_to_string(part) else {
            continue;
        };
        for rest in text.split("Status::").skip(1) {
            let variant = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap();
            let known = STATUSES.iter().find(|(name, _)| *name == variant);
            codes.extend(known.map(|(_, status)| status.code()));
        }
    }
    codes
}

fn help(name: &str) -> String {
    let output = tool(name).arg("--help").output().unwrap();
    assert!(output.status.success(), "{name} --help");
    String::from_utf8(output.stdout).unwrap()
}

/// The options that `--help` lists.
fn offered(name: &str) -> Vec<Flag> {
    let mut flags: Vec<_> = help(name)
        .lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with('-'))
        .map(|line| flag_of_help(line.split("  ").next().unwrap()))
        .collect();
    flags.sort();
    flags
}

/// The words that `--help` lists as possible values of some option.
fn words_offered(name: &str) -> BTreeSet<String> {
    let help = help(name);
    let lists = help.lines().filter_map(|line| {
        let (_, list) = line.split_once("[possible values: ")?;
        list.strip_suffix(']')
    });
    lists
        .flat_map(|list| list.split(", ").map(str::to_owned))
        .collect()
}

/// The words that OPTIONS explains as such.
fn words_explained(page: &str) -> BTreeSet<String> {
    let lines = section(page, "OPTIONS").into_iter();
    lines
        .filter_map(|line| line.strip_prefix(".Cm ")?.split(' ').next())
        .map(str::to_owned)
        .collect()
}

/// `-s, --lockspace <LOCKSPACE>`, or `--socket[=<PATH>]`.
fn flag_of_help(text: &str) -> Flag {
    let text = text.replace("[=", "=");
    let words = text.split([' ', ',', '=']).filter(|word| !word.is_empty());
    let (names, values): (Vec<_>, Vec<_>) = words.partition(|word| word.starts_with('-'));
    Flag {
        names: names.into_iter().map(str::to_owned).collect(),
        value: values
            .first()
            .map(|v| v.trim_matches(['<', '>', '[', ']']).to_owned()),
    }
}

fn names(flags: &[Flag]) -> BTreeSet<&str> {
    flags
        .iter()
        .flat_map(|flag| flag.names.iter().map(String::as_str))
        .collect()
}

// ---- the tests

#[test]
fn a_page_explains_every_option_of_its_tool_and_no_other() {
    for name in TOOLS {
        let page = page(&format!("{name}.8"));
        assert_eq!(
            explained(&page),
            offered(name),
            "{name}.8 and {name} --help"
        );
    }
}

#[test]
fn help_is_one_screen_of_a_terminal() {
    for name in TOOLS {
        let lines = help(name).lines().count();
        assert!(lines <= 40, "{name} --help: {lines} lines");
    }
}

#[test]
fn a_page_explains_every_word_that_an_option_takes_and_no_other() {
    for name in TOOLS {
        let page = page(&format!("{name}.8"));
        let explained = words_explained(&page);
        assert_eq!(explained, words_offered(name), "{name}.8 and {name} --help");
    }
    assert!(words_offered("lease-hold").contains("auto"));
}

#[test]
fn a_page_explains_every_exit_code_of_its_tool_and_no_other() {
    for name in TOOLS {
        let page = page(&format!("{name}.8"));
        let explained = codes_explained(&page);
        assert_eq!(explained, codes_given(name), "{name}.8 and {name}/src");
    }
}

#[test]
fn a_synopsis_shows_every_option() {
    for name in TOOLS {
        let page = page(&format!("{name}.8"));
        let synopsis = section(&page, "SYNOPSIS");
        let shown: BTreeSet<_> = synopsis.into_iter().flat_map(flags_of_line).collect();
        for flag in explained(&page) {
            let is_shown = flag.names.iter().any(|name| shown.contains(name));
            let usual = flag.names.iter().any(|n| n == "--help" || n == "--version");
            assert!(is_shown || usual, "{name}.8: SYNOPSIS lacks {flag:?}");
        }
    }
}

#[test]
fn an_option_named_anywhere_is_one_that_the_tool_has() {
    for file in PAGES {
        let own = TOOLS.iter().find(|tool| file == format!("{tool}.8"));
        for line in page(file).lines().filter(|line| line.starts_with('.')) {
            let other = TOOLS
                .iter()
                .find(|tool| line.contains(&format!("of Xr {tool} 8")));
            let speaker: Vec<_> = other.or(own).map_or(TOOLS.to_vec(), |tool| vec![*tool]);
            let known: Vec<_> = speaker.iter().flat_map(|tool| offered(tool)).collect();
            for flag in flags_of_line(line) {
                assert!(names(&known).contains(&flag.as_str()), "{file}: {line}");
            }
        }
    }
}

#[test]
fn commands_in_the_text_use_options_that_exist() {
    let readme = fs::read_to_string(manual().join("../README.md")).unwrap();
    let texts = PAGES.map(page).into_iter().chain([readme]);
    let shown: Vec<_> = texts.flat_map(|text| options_shown(&text)).collect();
    assert!(shown.len() > 20, "{shown:?}");
    for (tool, option) in shown {
        assert!(
            names(&offered(tool)).contains(&option.as_str()),
            "{tool} {option}"
        );
    }
}

#[test]
fn every_example_of_a_dump_works_as_it_stands() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let init = tool("lease-init")
        .args(["--create", "-o", "1"])
        .args(["-s", &format!("LS:0:{}:0", at("LS"))])
        .args(["-r", &format!("LS:vm1:{}:0", at("vm1"))])
        .args(["-s", &format!("LS2:0:{}:0", at("leases"))])
        .args(["-r", &format!("LS2:vm1:{}:1048576", at("leases"))])
        .output()
        .unwrap();
    assert!(init.status.success(), "{init:?}");
    let run_dir = at("run");
    let here = |name: &str| {
        let mut command = tool(name);
        command.env("LEASE_RUN_DIR", &run_dir);
        command
    };
    let join = Process::start(here("lease-join").arg(format!("LS:1:{}:0", at("LS"))));
    join.wait_for_stdout("joined");
    let resource = format!("LS:vm1:{}:0", at("vm1"));
    let hold = Process::start(here("lease-hold").args([&resource, "--"]).args(STAY));
    hold.wait_for_stdout("held");
    let path = format!("{}:{}", tools().display(), std::env::var("PATH").unwrap());
    let all = PAGES.map(|name| examples(&page(name))).concat();
    let dumps: Vec<_> = all.iter().filter(|e| e.starts_with("lease-dump")).collect();
    assert!(dumps.len() > 5, "{all:?}");
    for example in dumps {
        let here = example
            .replace("/mnt/nfs/", &format!("{}/", directory.path().display()))
            .replace("/dev/vg/leases", &at("leases"));
        let ran = Command::new("sh")
            .args(["-c", &here])
            .env("PATH", &path)
            .env("LEASE_RUN_DIR", &run_dir)
            .output()
            .unwrap();
        assert!(
            ran.status.success() && ran.stderr.is_empty(),
            "{example}: {ran:?}"
        );
    }
    join.signal(Signal::SIGTERM);
    assert_eq!(join.finish().code, 0);
}

#[test]
fn every_page_that_is_referred_to_exists() {
    for file in PAGES {
        let text = page(file);
        let words: Vec<_> = text.split_whitespace().collect();
        for reference in words.windows(3).filter(|w| w[0].ends_with("Xr")) {
            let name = format!("{}.{}", reference[1], reference[2]);
            if name.starts_with("lease") {
                assert!(PAGES.contains(&name.as_str()), "{file}: {name}");
            }
        }
    }
}

#[test]
fn the_manual_is_clean_mdoc() {
    let lint = Command::new("mandoc")
        .args(["-T", "lint", "-W", "style"])
        .args(PAGES.map(|name| manual().join(name)))
        .output()
        .expect("mandoc is needed: apt-get install mandoc");
    let report = String::from_utf8_lossy(&lint.stdout);
    // Whether the pages that ours refer to are installed says nothing about ours.
    let found: Vec<_> = report
        .lines()
        .filter(|line| !line.contains("referenced manual not found"))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}
