//! The table: what was measured, and whether it is what is aimed at.

use crate::watch::{median, milliseconds, run};
use std::fs;
use std::process::Command;

/// What a number is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Aim {
    /// No more than this.
    Most(f64),
    /// No less than this.
    Least(f64),
    /// Whatever it is.
    Any,
}

impl Aim {
    fn verdict(self, number: f64) -> String {
        let (sign, aim, met) = match self {
            Self::Most(most) => ("<=", most, number <= most),
            Self::Least(least) => (">=", least, number >= least),
            Self::Any => return String::new(),
        };
        let word = if met { "met" } else { "missed" };
        format!("{sign} {aim}  {word}")
    }
}

/// The heads of the columns.
pub(crate) fn head() {
    println!("{:46}{:>10}{:>10}{:>8}  aim", "", "ours", "beside", "ratio");
}

/// Ours beside something else; the aim is one for the ratio.
pub(crate) fn beside(what: &str, [ours, other]: [f64; 2], aim: Aim) {
    let ratio = ours / other;
    let verdict = aim.verdict(ratio);
    println!("{what:46}{ours:>10.2}{other:>10.2}{ratio:>8.2}  {verdict}");
}

/// Ours alone; the aim is one for the number itself.
pub(crate) fn alone(what: &str, ours: f64, aim: Aim) {
    let verdict = aim.verdict(ours);
    println!("{what:46}{ours:>10.2}{:>10}{:>8}  {verdict}", "", "");
}

/// What the machine was like.
pub(crate) fn foot(rounds: usize) {
    let alone = median(rounds, || run(&mut Command::new("/bin/true")));
    println!(
        "\n/bin/true alone: {:.1} ms. Times are medians of {rounds} rounds, load {}.",
        milliseconds(alone),
        load()
    );
    println!(
        "sanlock's times are without its release, which comes after the command's end; ours are \
         with it.\nBoth have their real-time priority; our run directory is in memory, as /run is."
    );
}

/// What the machine had to do in the last minute: the first number of /proc/loadavg.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").expect("the load");
    text.split(' ').next().expect("a number").to_owned()
}
