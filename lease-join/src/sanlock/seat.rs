//! The socket that clients connect to: taken for this process alone, with the owner and mode that
//! the daemon's has.

use super::files::Files;
use super::options::Options;
use lease_core::tool::{Failure, Status, show};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Group, Uid, User, chown};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Who may connect.
const MODE: u32 = 0o660;
/// sanlock's user and group.
const OWNER: &str = "sanlock";
/// Beside the socket: held by whoever serves it.
const LOCK: &str = "lease-join.lock";

/// What is held as long as clients are served.
pub(super) struct Seat {
    /// Where clients come in.
    pub(super) listener: UnixListener,
    /// What outlives this process.
    pub(super) files: Files,
    _lock: Flock<File>,
    _served: File,
}

/// Takes the socket's place, unless somebody serves there.
pub(super) fn take(options: &Options) -> Result<Seat, Failure> {
    let socket = &options.socket;
    let failed = |status, why: &str| {
        let shown = show(socket.as_os_str());
        Failure::new(
            status,
            format!("cannot serve sanlock's clients at {shown}: {why}"),
        )
    };
    let system = |error: &io::Error| {
        let status = match error.kind() {
            io::ErrorKind::PermissionDenied => Status::Permission,
            _ => Status::CannotCreate,
        };
        failed(status, &error.to_string())
    };
    let (uid, gid) = owner();
    let directory = match socket.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    make_directory(directory, uid, gid).map_err(|error| system(&error))?;
    let lock = lock(&directory.join(LOCK)).map_err(|error| system(&error))?;
    let Some(lock) = lock else {
        let why = "another lease-join serves there; stop that one first";
        return Err(failed(Status::Busy, why));
    };
    let shown_dir = show(options.run_dir.as_os_str());
    let in_run_dir = |error: io::Error| {
        let why = format!("run directory {shown_dir}: {error}");
        failed(Status::CannotCreate, &why)
    };
    let files = Files::open(&options.run_dir).map_err(in_run_dir)?;
    let Some(served) = files.lock().map_err(in_run_dir)? else {
        let why = format!("another lease-join serves them with run directory {shown_dir}");
        return Err(failed(Status::Busy, &why));
    };
    match UnixStream::connect(socket) {
        Ok(_) => {
            let why = "the sanlock daemon serves there; stop it first (systemctl stop sanlock)";
            return Err(failed(Status::Busy, why));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => remove(socket),
    }
    let listener = listen(socket, uid, gid).map_err(|error| system(&error))?;
    Ok(Seat {
        listener,
        files,
        _lock: lock,
        _served: served,
    })
}

/// Removes the socket, if it is one.
pub(super) fn remove(socket: &Path) {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(socket).is_ok_and(|it| it.file_type().is_socket());
    if is_socket {
        let _ = std::fs::remove_file(socket);
    }
}

/// Bound where nobody can connect before its mode is right.
fn listen(socket: &Path, uid: Option<Uid>, gid: Option<Gid>) -> io::Result<UnixListener> {
    let mut new = socket.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    remove(new);
    let listener = UnixListener::bind(new)?;
    std::fs::set_permissions(new, Permissions::from_mode(MODE))?;
    own(new, uid, gid)?;
    std::fs::rename(new, socket)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn make_directory(directory: &Path, uid: Option<Uid>, gid: Option<Gid>) -> io::Result<()> {
    if directory.exists() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)?;
    own(directory, uid, gid)
}

fn lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.custom_flags(nix::libc::O_NOFOLLOW).open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// sanlock's user and group, where there are such and we may give files away.
fn owner() -> (Option<Uid>, Option<Gid>) {
    if !nix::unistd::geteuid().is_root() {
        return (None, None);
    }
    let user = User::from_name(OWNER).ok().flatten();
    let group = Group::from_name(OWNER).ok().flatten();
    (user.map(|user| user.uid), group.map(|group| group.gid))
}

fn own(path: &Path, uid: Option<Uid>, gid: Option<Gid>) -> io::Result<()> {
    Ok(chown(path, uid, gid)?)
}
