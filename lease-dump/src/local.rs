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
    let all = names.is_empty();
    let names = if all {
        Place::all(run_dir).unwrap_or_default()
    } else {
        parse(names)?
    };
    let mut out = Output::new();
    let mut printed = 0;
    for name in &names {
        match ask(run_dir, name) {
            Ok(description) => {
                out.print(&description)?;
                printed += 1;
            }
            // A directory may be left of a lease-join that is gone.
            Err(why) if all && !is_forbidden(&why) => {}
            Err(why) => return Err(failure(run_dir, name, &why).into()),
        }
    }
    if printed == 0 {
        let shown = show(run_dir.as_os_str());
        let text = format!("no live lease-join in {shown}; start lease-join first");
        return Err(Failure::new(Status::NotJoined, text).into());
    }
    Ok(out.finish()?)
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

fn is_forbidden(why: &io::Error) -> bool {
    why.kind() == io::ErrorKind::PermissionDenied
}

fn failure(run_dir: &Path, name: &Name, why: &io::Error) -> Failure {
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
