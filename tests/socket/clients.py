"""Every function of python3-sanlock, in one order; what each says, a line each.

usage: clients.py DIRECTORY, with SANLOCK_RUN_DIR in the environment
"""
import errno
import os
import subprocess
import sys
import time

import sanlock

DIR = sys.argv[1]
LS, RES = DIR + "/ls", DIR + "/res"
MIB = 1 << 20
TIMES = ("timestamp", "last_check")


def mask(value):
    if isinstance(value, dict):
        return {key: "TIME" if key in TIMES else mask(item) for key, item in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [mask(item) for item in value]
    if isinstance(value, (str, bytes)):
        text = value.decode() if isinstance(value, bytes) else value
        return text.replace(DIR, "DIR")
    return value


def call(what, function, *args, **kwargs):
    try:
        said = mask(function(*args, **kwargs))
    except sanlock.SanlockException as error:
        said = "%s %s" % (error.errno, mask(str(error)))
    except (ValueError, TypeError) as error:
        said = "%s %s" % (type(error).__name__, mask(str(error)))
    print("%s: %s" % (what, said), flush=True)
    return said


def until(what, function, done):
    """The first result that is done; the daemon has to look at its hosts twice."""
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        try:
            said = function()
        except sanlock.SanlockException as error:
            if error.errno != errno.EAGAIN:
                raise
            said = None
        if said is not None and done(said):
            break
        time.sleep(0.05)
    print("%s: %s" % (what, mask(said)), flush=True)


def make(name, size):
    with open(name, "wb") as file:
        file.truncate(size)


def formatting():
    make(LS, MIB)
    make(RES, 8 * MIB)
    call("write_lockspace", sanlock.write_lockspace, b"LS", LS, iotimeout=1)
    call("write_lockspace, no file", sanlock.write_lockspace, b"LS", DIR + "/missing")
    call("read_lockspace", sanlock.read_lockspace, LS)
    call("read_lockspace, no file", sanlock.read_lockspace, DIR + "/missing")
    for n in range(4):
        disks = [(RES, n * MIB)]
        call("write_resource %d" % n, sanlock.write_resource, b"LS", b"R%d" % n, disks)
    call("write_resource, 16 hosts", sanlock.write_resource, b"LS", b"R4", [(RES, 4 * MIB)],
         num_hosts=16)
    call("write_resource, cleared", sanlock.write_resource, b"LS", b"R5", [(RES, 5 * MIB)],
         clear=True)
    call("write_resource, no file", sanlock.write_resource, b"LS", b"R5", [(DIR + "/missing", 0)])
    call("read_resource", sanlock.read_resource, RES)
    call("read_resource, cleared", sanlock.read_resource, RES, 5 * MIB)
    call("read_resource, nothing", sanlock.read_resource, RES, 6 * MIB)
    call("read_resource_owners", sanlock.read_resource_owners, b"LS", b"R1", [(RES, MIB)])
    call("get_alignment", sanlock.get_alignment, LS)


def joining():
    call("inq_lockspace, not there", sanlock.inq_lockspace, b"LS", 1, LS)
    call("add_lockspace", sanlock.add_lockspace, b"LS", 1, LS, iotimeout=1)
    call("add_lockspace, again", sanlock.add_lockspace, b"LS", 1, LS, iotimeout=1)
    call("add_lockspace, other id", sanlock.add_lockspace, b"LS", 2, LS, iotimeout=1)
    call("add_lockspace, no file", sanlock.add_lockspace, b"L2", 1, DIR + "/missing")
    call("inq_lockspace", sanlock.inq_lockspace, b"LS", 1, LS)
    call("inq_lockspace, wait", sanlock.inq_lockspace, b"LS", 1, LS, wait=True)
    call("get_lockspaces", sanlock.get_lockspaces)
    live = lambda hosts: any(host["flags"] == sanlock.HOST_LIVE for host in hosts)
    until("get_hosts", lambda: sanlock.get_hosts(b"LS"), live)
    until("get_hosts, one", lambda: sanlock.get_hosts(b"LS", 1), live)
    call("get_hosts, never joined", sanlock.get_hosts, b"LS", 7)
    call("get_hosts, no lockspace", sanlock.get_hosts, b"XX")


def holding():
    first, second = [(RES, 0)], [(RES, MIB)]
    call("acquire, not registered", sanlock.acquire, b"LS", b"R0", first, pid=os.getpid())
    call("inquire, not registered", sanlock.inquire, pid=os.getpid())
    fd = sanlock.register()
    call("inquire, nothing", sanlock.inquire, slkfd=fd)
    call("killpath", sanlock.killpath, "/bin/true", ["one", "two words"], slkfd=fd)
    call("acquire", sanlock.acquire, b"LS", b"R0", first, slkfd=fd)
    call("acquire, again", sanlock.acquire, b"LS", b"R0", first, slkfd=fd)
    call("acquire, by pid", sanlock.acquire, b"LS", b"R1", second, pid=os.getpid(), shared=True)
    call("acquire, other version", sanlock.acquire, b"LS", b"R2", [(RES, 2 * MIB)], slkfd=fd,
         version=7)
    call("acquire, right version", sanlock.acquire, b"LS", b"R2", [(RES, 2 * MIB)], slkfd=fd,
         version=0)
    call("acquire, other name", sanlock.acquire, b"LS", b"R7", [(RES, 3 * MIB)], slkfd=fd)
    call("acquire, cleared", sanlock.acquire, b"LS", b"R5", [(RES, 5 * MIB)], slkfd=fd)
    call("acquire, other lockspace", sanlock.acquire, b"XX", b"R3", [(RES, 3 * MIB)], slkfd=fd)
    call("inquire", sanlock.inquire, slkfd=fd)
    call("inquire, by pid", sanlock.inquire, pid=os.getpid())
    call("read_resource_owners", sanlock.read_resource_owners, b"LS", b"R0", first)
    call("read_resource_owners, shared", sanlock.read_resource_owners, b"LS", b"R1", second)
    call("rem_lockspace, used", sanlock.rem_lockspace, b"LS", 1, LS, unused=True)
    call("release", sanlock.release, b"LS", b"R0", first, slkfd=fd)
    call("release, again", sanlock.release, b"LS", b"R0", first, slkfd=fd)
    call("release, shared", sanlock.release, b"LS", b"R1", second, pid=os.getpid())
    call("release, the third", sanlock.release, b"LS", b"R2", [(RES, 2 * MIB)], slkfd=fd)
    call("inquire, nothing", sanlock.inquire, slkfd=fd)
    call("read_resource_owners, free", sanlock.read_resource_owners, b"LS", b"R0", first)
    # Value blocks.
    call("acquire, value", sanlock.acquire, b"LS", b"R3", [(RES, 3 * MIB)], slkfd=fd, lvb=True)
    call("set_lvb", sanlock.set_lvb, b"LS", b"R3", [(RES, 3 * MIB)], b"{value}")
    call("set_lvb, too long", sanlock.set_lvb, b"LS", b"R3", [(RES, 3 * MIB)], b"x" * 513)
    call("get_lvb", sanlock.get_lvb, b"LS", b"R3", [(RES, 3 * MIB)], 7)
    call("set_lvb, not held", sanlock.set_lvb, b"LS", b"R0", first, b"{value}")
    call("get_lvb, not held", sanlock.get_lvb, b"LS", b"R0", first, 7)
    call("release, value", sanlock.release, b"LS", b"R3", [(RES, 3 * MIB)], slkfd=fd)
    call("acquire, value", sanlock.acquire, b"LS", b"R3", [(RES, 3 * MIB)], slkfd=fd, lvb=True)
    call("get_lvb", sanlock.get_lvb, b"LS", b"R3", [(RES, 3 * MIB)], 7)
    call("release, value", sanlock.release, b"LS", b"R3", [(RES, 3 * MIB)], slkfd=fd)
    call("acquire, no value", sanlock.acquire, b"LS", b"R3", [(RES, 3 * MIB)], slkfd=fd)
    call("set_lvb, not asked for", sanlock.set_lvb, b"LS", b"R3", [(RES, 3 * MIB)], b"{value}")
    call("release, no value", sanlock.release, b"LS", b"R3", [(RES, 3 * MIB)], slkfd=fd)
    os.close(fd)


def signalling():
    call("reg_event, no lockspace", sanlock.reg_event, b"XX")
    call("set_event, no lockspace", sanlock.set_event, b"XX", 2, 1, 3)
    call("set_event, host 0", sanlock.set_event, b"LS", 0, 1, 3)
    call("set_event, host 2001", sanlock.set_event, b"LS", 2001, 1, 3)
    fd = sanlock.reg_event(b"LS")
    call("get_event, none", sanlock.get_event, fd)
    call("set_event", sanlock.set_event, b"LS", 2, 1, 3, data=4)
    call("set_event, another", sanlock.set_event, b"LS", 3, 1, 5)
    call("set_event, replaced", sanlock.set_event, b"LS", 3, 1, 5,
         flags=sanlock.SETEV_REPLACE_EVENT)
    call("end_event", sanlock.end_event, fd, b"LS")


def leaving():
    call("rem_lockspace, other id", sanlock.rem_lockspace, b"LS", 2, LS)
    call("rem_lockspace", sanlock.rem_lockspace, b"LS", 1, LS, unused=True)
    call("rem_lockspace, again", sanlock.rem_lockspace, b"LS", 1, LS)
    call("get_lockspaces", sanlock.get_lockspaces)


formatting()
joining()
holding()
signalling()
leaving()
