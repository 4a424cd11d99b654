//! `--signal`: an event for another host, by way of the lease-join that holds our host id.

use lease_core::delta::EventFlags;
use lease_core::id::Name;
use lease_core::registry::message::{Ask, EventRefused, SetEvent, Tell};
use lease_core::registry::place::Place;
use lease_core::registry::wire::Wire;
use lease_core::tool::{Failure, Status, show};
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::Duration;

/// How long a lease-join may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// An event for all hosts still names one.
const ANY_HOST: u64 = 1;

/// HOST:NUMBER or HOST:NUMBER:DATA, numbers all of them; or `all` for HOST.
pub(crate) fn parse(text: &OsStr) -> Result<SetEvent, &'static str> {
    let shape = "it is HOST:NUMBER or HOST:NUMBER:DATA, HOST a host id or all";
    let mut parts = text.to_str().ok_or(shape)?.split(':');
    let number = |part: Option<&str>| match part {
        Some(part) if part.bytes().all(|byte| byte.is_ascii_digit()) => {
            part.parse::<u64>().map_err(|_| shape)
        }
        _ => Err(shape),
    };
    let host = parts.next();
    let (host_id, flags) = match host {
        Some("all") => (ANY_HOST, EventFlags::ALL_HOSTS),
        host => (number(host)?, EventFlags::CURRENT_GENERATION),
    };
    let event = number(parts.next())?;
    let data = parts.next().map_or(Ok(0), |part| number(Some(part)))?;
    match (event, parts.next()) {
        (0, _) => Err("event 0 is none"),
        (_, Some(_)) => Err(shape),
        _ => Ok(SetEvent {
            host_id,
            generation: 0,
            event,
            data,
            flags,
        }),
    }
}

/// Has the lease-join of a lockspace signal it from its next renewal on.
pub(crate) fn send(run_dir: &Path, name: &Name, event: SetEvent) -> Result<(), Failure> {
    let refused = match ask(run_dir, name, event) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(refused)) => refused,
        Err(why) => return Err(absent(run_dir, name, &why)),
    };
    let (status, why) = match refused {
        EventRefused::NoHost => (Status::Usage, "there is no such host id in it"),
        EventRefused::Busy => (
            Status::Busy,
            "another event is being signalled; try again in 6t seconds",
        ),
        EventRefused::Leaving => (Status::NotJoined, "its lease-join is leaving"),
    };
    let host = event.host_id;
    let text = format!("cannot signal to host {host} in lockspace {name}: {why}");
    Err(Failure::new(status, text))
}

fn ask(run_dir: &Path, name: &Name, event: SetEvent) -> io::Result<Result<(), EventRefused>> {
    let place = Place::open(run_dir, name)?;
    let stream = place.connect()?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let mut wire = Wire::new(stream);
    wire.send(&Ask::SetEvent(event))?;
    match wire.receive()? {
        Tell::EventSet(result) => Ok(result),
        _ => Err(io::Error::other("it does not speak as expected")),
    }
}

fn absent(run_dir: &Path, name: &Name, why: &io::Error) -> Failure {
    let shown = show(run_dir.as_os_str());
    let (status, what_next) = match why.kind() {
        io::ErrorKind::PermissionDenied => (Status::Permission, "ask as its user, or as root"),
        _ => (Status::NotJoined, "start lease-join first"),
    };
    let text = format!("no live lease-join for lockspace {name} in {shown}: {why}; {what_next}");
    Failure::new(status, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_a_host_an_event_and_perhaps_data() {
        let of =
            |text: &str| parse(OsStr::new(text)).map(|e| (e.host_id, e.event, e.data, e.flags));
        assert_eq!(of("2:5:77"), Ok((2, 5, 77, 1)));
        assert_eq!(of("2000:18446744073709551615"), Ok((2000, u64::MAX, 0, 1)));
        assert_eq!(of("all:5"), Ok((1, 5, 0, 16)));
        for text in [
            "", "2", "2:", ":5", "2:0", "2:5:", "2:5:7:9", "a:5", "2:+5", "2:5:-1",
        ] {
            assert!(of(text).is_err(), "{text}");
        }
    }
}
