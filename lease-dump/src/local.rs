//! `--local`: what the lease-joins of this host know.

use crate::output::Output;
use lease_core::id::Name;
use lease_core::registry::asking;
use lease_core::registry::message::Description;
use lease_core::registry::place::Place;
use lease_core::tool::{Failure, Status, show};
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::Duration;

/// How long a lease-join may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Prints what the lease-join of each named lockspace knows; of all, if none is named.
pub(crate) fn dump(run_dir: &Path, names: &[OsString]) -> anyhow::Result<()> {
    let mut out = Output::new();
    let mut printed = 0;
    for (name, may_be_gone) in names_of(run_dir, names)? {
        match ask(run_dir, &name) {
            Ok(description) => {
                out.print(&description)?;
                printed += 1;
            }
            Err(why) if may_be_gone && !is_forbidden(&why) => {}
            Err(why) => return Err(failure(run_dir, &name, &why).into()),
        }
    }
    if printed == 0 {
        return Err(nobody(run_dir).into());
    }
    Ok(out.finish()?)
}

/// The lockspaces that are named; all, if none is: of these a directory may be left of a lease-join
/// that is gone.
pub(crate) fn names_of(run_dir: &Path, names: &[OsString]) -> Result<Vec<(Name, bool)>, Failure> {
    let all = names.is_empty();
    let names = match all {
        true => Place::all(run_dir).unwrap_or_default(),
        false => parse(names)?,
    };
    Ok(names.into_iter().map(|name| (name, all)).collect())
}

/// There is none at all.
pub(crate) fn nobody(run_dir: &Path) -> Failure {
    let shown = show(run_dir.as_os_str());
    let text = format!("no live lease-join in {shown}; start lease-join first");
    Failure::new(Status::NotJoined, text)
}

fn parse(names: &[OsString]) -> Result<Vec<Name>, Failure> {
    let parse = |text: &OsString| {
        Name::new(text.as_encoded_bytes()).map_err(|why| {
            let text = format!("cannot ask for lockspace {}: {why}", show(text));
            Failure::new(Status::Usage, text)
        })
    };
    names.iter().map(parse).collect()
}

/// Whether it is not allowed.
pub(crate) fn is_forbidden(why: &io::Error) -> bool {
    why.kind() == io::ErrorKind::PermissionDenied
}

/// It cannot be asked: why.
pub(crate) fn failure(run_dir: &Path, name: &Name, why: &io::Error) -> Failure {
    if is_forbidden(why) {
        let text = format!(
            "cannot ask lease-join of lockspace {name}: permission denied; ask as its user, or as root"
        );
        return Failure::new(Status::Permission, text);
    }
    let shown = show(run_dir.as_os_str());
    Failure::new(
        Status::NotJoined,
        format!(
            "no live lease-join for lockspace {name} in {shown}: {why}; start lease-join first"
        ),
    )
}

fn ask(run_dir: &Path, name: &Name) -> io::Result<Description> {
    let place = Place::open(run_dir, name)?;
    let (description, _) = asking::describe(&place, ANSWER_WITHIN)?;
    Ok(description)
}
